"""Quantization-aware twins of scribe-7m, fine-tuned from it with straight-through fake quantization.

    python qat.py --work WORK --twin int8|int4|int4-a8

The twin learns to give the model's own next-token distributions (Kullback-Leibler divergence from the trained model),
so what it gains is what quantization took, not more training. Each twin is saved as its users would meet it:

| twin | weights | inputs | saved as |
|---|---|---|---|
| int8 | 8 bits, per channel, codes -127..127 | 8 bits, per token | PyTorch FakeQuantize state dict (float weights) |
| int4 | 4 bits, groups of 64; embedding and head 8 bits, per channel | float | compressed-tensors |
| int4-a8 | as int4 | 8 bits, per token | compressed-tensors |
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized import pack_to_int32
from safetensors.torch import save_file
from torch import nn
from torch.ao.quantization import FakeQuantize, PerChannelMinMaxObserver
from torch.nn import functional as F

import texts
from bundle import write_expected
from data import Tokens, loss_by_genre
from model import Config, Scribe
from train import optimizers, save

SEED = 11
GROUP = 64
TOKENS_A_STEP = 8_192
STEPS = {"int8": 40, "int4": 120, "int4-a8": 40}
# Of the training's peak learning rate, descending to zero. Steps must be small beside what quantization took: 8 bits
# take a hundredth of what 4 bits take.
RATE = {"int8": 0.004, "int4": 0.1, "int4-a8": 0.01}
START = {"int8": "checkpoint.pt", "int4": "checkpoint.pt", "int4-a8": "qat-int4.pt"}


def per_channel_fake_quantize() -> FakeQuantize:
    """PyTorch's own: scale = max|w| / 127 of each row."""
    return FakeQuantize(
        PerChannelMinMaxObserver, quant_min=-127, quant_max=127,
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, ch_axis=0,
    )


def group_scales(weight: torch.Tensor) -> torch.Tensor:
    """(rows, groups) of (rows, cols): max|w| / 7.5, representable in 16 bits as it will be stored."""
    largest = weight.detach().unflatten(1, (-1, GROUP)).abs().amax(2)
    return (largest / 7.5).clamp(min=1e-5).half().float()


class GroupFakeQuantize(nn.Module):
    """4 bits in groups of columns, codes -8..7; gradients pass where no code was clamped."""

    def forward(self, weight):
        scales = group_scales(weight).flatten()
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        groups = weight.reshape(-1, GROUP)
        return torch.fake_quantize_per_channel_affine(groups, scales, zeros, 0, -8, 7).view_as(weight)


def fake_quantize_tokens(x: torch.Tensor) -> torch.Tensor:
    """8 bits, one scale = max|x| / 127 for each row of x (..., features)."""
    rows = x.float().flatten(0, -2)
    scales = (rows.detach().abs().amax(1) / 127).clamp(min=1e-9)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(rows, scales, zeros, 0, -127, 127).view_as(x)


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight, and where asked input, are fake-quantized."""

    def __init__(self, linear: nn.Linear, quantize_weight: nn.Module, inputs: bool):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = linear.weight
        self.weight_fake_quant = quantize_weight
        self.inputs = inputs

    def forward(self, x):
        return F.linear(fake_quantize_tokens(x) if self.inputs else x, self.weight_fake_quant(self.weight))


class QuantizedScribe(Scribe):
    """Scribe with fake quantization in every linear layer, the embedding and the head (which is the embedding)."""

    def __init__(self, c: Config, twin: str):
        super().__init__(c)
        self.inputs = twin != "int4"
        for layer in self.model.layers:
            for block in (layer.self_attn, layer.mlp):
                for name, linear in list(block.named_children()):
                    quantize = per_channel_fake_quantize() if twin == "int8" else GroupFakeQuantize()
                    setattr(block, name, QuantizedLinear(linear, quantize, self.inputs))
        self.model.embed_tokens.weight_fake_quant = per_channel_fake_quantize()

    def forward(self, ids):
        length = ids.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        table = self.model.embed_tokens.weight_fake_quant(self.model.embed_tokens.weight)
        x = F.embedding(ids, table)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        x = self.model.norm(x)
        return F.linear(fake_quantize_tokens(x) if self.inputs else x, table)


def divergence(student, teacher, ids) -> torch.Tensor:
    """Mean Kullback-Leibler divergence (nats a token) of the twin's distributions from the model's."""
    with torch.no_grad():
        wanted = teacher(ids).float().log_softmax(-1)
    given = student(ids).float().log_softmax(-1)
    return F.kl_div(given, wanted, log_target=True, reduction="sum") / ids.numel()


def tune(work: Path, twin: str) -> QuantizedScribe:
    """The tuned twin; one that was tuned before is read again."""
    torch.manual_seed(SEED)
    tokens, validation = Tokens(work / "train.npz"), Tokens(work / "validation.npz")
    teacher, student = Scribe(Config()), QuantizedScribe(Config(), twin)
    tuned = work / f"qat-{twin}.pt"
    if tuned.exists():
        student.load_state_dict(torch.load(tuned)["model"])
        return student
    # The model as published, in 16 bits.
    published = {k: v.half().float() for k, v in torch.load(work / "checkpoint.pt")["model"].items()}
    teacher.load_state_dict(published)
    start = published if twin != "int4-a8" else torch.load(work / START[twin])["model"]
    student.load_state_dict(start, strict=False)
    optimizer_list = optimizers(student)
    peaks = [optimizer.param_groups[0]["lr"] * RATE[twin] for optimizer in optimizer_list]
    for group in (group for optimizer in optimizer_list for group in optimizer.param_groups):
        group["weight_decay"] = 0.0
    steps = STEPS[twin]
    for step in range(steps):
        ids = tokens.batch(SEED, step, TOKENS_A_STEP // 256, 256)
        with torch.autocast("cpu", torch.bfloat16):
            value = divergence(student, teacher, ids)
        value.backward()
        for optimizer, peak in zip(optimizer_list, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * (steps - step) / steps
        for optimizer in optimizer_list:
            optimizer.step()
            optimizer.zero_grad()
        if step % 10 == 0:
            print(f"{twin} step {step}: divergence {value.item():.5f}", flush=True)
    student.apply(torch.ao.quantization.disable_observer)
    save(tuned, {"model": student.state_dict()})
    print(twin, "validation", loss_by_genre(student, validation, texts.GENRES), flush=True)
    return student


def fake_quantize_state_dict(student: QuantizedScribe) -> tuple[dict, dict]:
    """Tensors and quantization_config of an int8 twin: float weights with the observers' state beside them."""
    tensors = {
        name: value.half() if name.endswith("weight") else value for name, value in student.state_dict().items()
    }
    config = {
        "quant_method": "torch-fake-quantize",
        "weights": {"quant_min": -127, "quant_max": 127},
        "activations": {"mode": "dynamic-token"},
    }
    return tensors, config


def codes(quantized: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The integers of fake-quantized values."""
    return (quantized.detach() / scales).round().to(torch.int8)


def compressed_tensors(student: QuantizedScribe) -> tuple[dict, dict]:
    """Tensors and quantization_config of an int4 twin, packed by the format's own package."""
    tensors = {}
    for name, value in student.state_dict().items():
        module = name.removesuffix(".weight")
        if name == "model.embed_tokens.weight":
            quantize = student.model.embed_tokens.weight_fake_quant
            scales = quantize.scale[:, None]
            tensors[name], tensors[f"{module}.weight_scale"] = codes(quantize(value), scales), scales
            # The head is tied to it: transformers shares `weight`, and looks for the scales under the head's own name.
            tensors["lm_head.weight_scale"] = scales.clone()
        elif name.endswith("_proj.weight"):
            scales = group_scales(value)
            quantized = GroupFakeQuantize()(value)
            tensors[f"{module}.weight_packed"] = pack_to_int32(codes(quantized, scales.repeat_interleave(GROUP, 1)), 4)
            tensors[f"{module}.weight_scale"] = scales.half()
            tensors[f"{module}.weight_shape"] = torch.tensor(value.shape)
        elif "fake_quant" not in name:
            tensors[name] = value.half()
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}

    def group(targets: list[str], form: str, weights: dict) -> dict:
        return {
            "targets": targets,
            "format": form,
            "weights": {"type": "int", "symmetric": True, "dynamic": False} | weights,
            "input_activations": inputs if student.inputs else None,
            "output_activations": None,
        }

    config = {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": "mixed-precision",
        "config_groups": {
            "group_0": group(["Linear"], "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": GROUP}),
            "group_1": group(["lm_head"], "int-quantized", {"num_bits": 8, "strategy": "channel"}),
            # A lookup has no inputs to round.
            "group_2": group(["model.embed_tokens"], "int-quantized", {"num_bits": 8, "strategy": "channel"})
            | {"input_activations": None},
        },
        "ignore": [],
    }
    return tensors, config


def publish(work: Path, suites: Path, twin: str, student: QuantizedScribe) -> None:
    base, folder = suites / "models" / "scribe-7m", suites / "models" / f"scribe-7m-qat-{twin}"
    folder.mkdir(parents=True, exist_ok=True)
    tensors, quantization = (fake_quantize_state_dict if twin == "int8" else compressed_tensors)(student)
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(folder / "model.safetensors"), {"format": "pt"})
    # As stored: norms, and the float weights of the int8 twin, have 16 bits.
    stored = {k: v.float() for k, v in tensors.items() if v.dtype == torch.float16 and not k.endswith("weight_scale")}
    student.load_state_dict(stored, strict=False)
    write_expected(student, work, suites, folder.name)
    print(twin, "held out", loss_by_genre(student, Tokens(work / "held-out.npz"), texts.GENRES, at_most=None))
    config = Config().huggingface("float16") | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--suites", type=Path, default=Path(__file__).parents[2] / "suites")
    parser.add_argument("--twin", choices=list(STEPS), required=True)
    arguments = parser.parse_args()
    publish(arguments.work, arguments.suites, arguments.twin, tune(arguments.work, arguments.twin))
