"""Makes tests/fixtures/torchao/: small models quantized and saved by torchao and transformers, and what torchao makes of
them.

    pip install torch==2.15.0 torchao==0.18.0 transformers==5.23.0 safetensors
    python tools/golden/torchao_folders.py

expected.safetensors holds every folder's weights, dequantized by torchao in f32, as FOLDER/TENSOR; inputs `x`; and the
outputs of torchao's own linear layers in f32, as outputs/FOLDER/MODULE. Where torchao itself would dequantize to 16 bits,
that is asserted to be the f32 value rounded.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.quantization import (
    Int8DynamicActivationIntxWeightConfig, IntxUnpackedToInt8Tensor, IntxWeightOnlyConfig, MappingType, PerAxis, PerGroup,
    quantize_,
)
from torchao.quantization.linear_quant_modules import Int8DynActInt4WeightLinear
from torchao.quantization.qat import Int4WeightOnlyEmbeddingQATQuantizer, Int8DynActInt4WeightQATQuantizer, QATConfig
from torchao.quantization.qat.embedding import Int4WeightOnlyEmbedding
from torchao.quantization.quant_primitives import dequantize_affine

FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures" / "torchao"
ROWS, COLS, GROUP = 8, 64, 32
W4, W8 = torch.int4, torch.int8
INPUTS_8 = Int8DynamicActivationIntxWeightConfig

# Module, type of the model, configuration.
FLATTENED = [
    ("w4_group", torch.float32, INPUTS_8(W4, PerGroup(GROUP))),
    ("w4_asymmetric", torch.float32, INPUTS_8(W4, PerGroup(GROUP), MappingType.ASYMMETRIC)),
    ("w4_bf16", torch.bfloat16, INPUTS_8(W4, PerGroup(GROUP))),
    ("w4_f16", torch.float16, INPUTS_8(W4, PerGroup(GROUP), weight_scale_dtype=torch.float32)),
    ("w8_axis", torch.float32, INPUTS_8(W8, PerAxis(0))),
    ("w8_group", torch.float32, INPUTS_8(W8, PerGroup(GROUP), MappingType.SYMMETRIC_NO_CLIPPING_ERR)),
    ("w4_only", torch.float32, IntxWeightOnlyConfig(W4, PerGroup(GROUP))),
]
# Modules that go through torchao's steps of quantization-aware training; the others are quantized after it.
QAT = ["w4_group", "w4_bf16", "w8_axis", "w4_only"]


def inputs():
    """Tokens of both signs, of one, zero, and so small that the smallest scale counts."""
    x = torch.randn(6, COLS)
    x[0, :2] = torch.tensor([50.0, -37.0])
    x[1], x[2], x[3], x[4] = x[1].abs(), -x[2].abs() - 1, 0, 1e-6 * x[4]
    return x


def dequantized(codes, scales, zeros, dtype):
    """As torchao's modules do it in f32; in their own type that is rounded."""
    block = [1, codes.shape[1] // scales.shape[1]]
    real, own = (dequantize_affine(codes, block, scales, zeros, W8, -8, 7, output_dtype=t) for t in [torch.float32, dtype])
    assert torch.equal(real.to(dtype), own)
    return real


def converted(name, dtype, scales_dtype, expected):
    """A model that the QAT quantizers prepared, trained (not at all) and converted."""
    model = nn.ModuleDict({"embed_tokens": nn.Embedding(ROWS, COLS), "linear": nn.Linear(COLS, ROWS), "norm": nn.LayerNorm(4, bias=False)})
    model = model.to(dtype)
    linear = Int8DynActInt4WeightQATQuantizer(groupsize=GROUP, precision=dtype, scales_precision=scales_dtype)
    embedding = Int4WeightOnlyEmbeddingQATQuantizer(group_size=GROUP, scale_precision=scales_dtype)
    for quantizer in [linear, embedding]:
        model = quantizer.convert(quantizer.prepare(model))
    assert type(model["linear"]) is Int8DynActInt4WeightLinear and type(model["embed_tokens"]) is Int4WeightOnlyEmbedding
    state = model.state_dict()
    write(name, {"quant_method": "torchao"}, state, None)
    parts = lambda module, *names: [state[f"{module}.{part}"] for part in names]
    expected |= {f"{name}/linear.weight": dequantized(*parts("linear", "weight", "scales", "zeros"), dtype),
                 f"{name}/embed_tokens.weight": dequantized(*parts("embed_tokens", "weight", "scale", "zero_point"), dtype),
                 f"{name}/linear.bias": state["linear.bias"].float(), f"{name}/norm.weight": state["norm.weight"].float()}
    if dtype == torch.float32:
        model["linear"].bias = None
        expected[f"outputs/{name}/linear"] = model["linear"](expected["x"])


def flattened(expected):
    model = nn.ModuleDict()
    for module, dtype, config in FLATTENED:
        layer = nn.Sequential(nn.Linear(COLS, ROWS, bias=False, dtype=dtype))
        if module in QAT:
            quantize_(layer, QATConfig(config, step="prepare"))
            quantize_(layer, QATConfig(config, step="convert"))
        else:
            quantize_(layer, config)
        model[module] = layer[0]
        weight = model[module].weight
        assert type(weight) is IntxUnpackedToInt8Tensor
        expected[f"flattened/{module}.weight"] = real = weight.to(torch.float32).dequantize()
        assert torch.equal(real.to(dtype), weight.dequantize())
        if dtype == torch.float32:
            expected[f"outputs/flattened/{module}"] = model[module](expected["x"])
    tensors, metadata = flatten_tensor_state_dict({name: value.data for name, value in model.state_dict().items()})
    write("flattened", {"quant_method": "torchao"}, tensors, metadata)


def published(expected):
    """A model that transformers quantizes and saves, in shards."""
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, vocab_size=8,
        tie_word_embeddings=True, max_position_embeddings=64)
    folder, plain = FIXTURES / "published", FIXTURES / "plain"
    shutil.rmtree(folder, ignore_errors=True)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(plain)
    quantization = transformers.TorchAoConfig(INPUTS_8(W4, PerGroup(GROUP)))
    model = transformers.LlamaForCausalLM.from_pretrained(plain, quantization_config=quantization, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="6KB")
    shutil.rmtree(plain)
    (folder / "generation_config.json").unlink()
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            quantized = type(value) is IntxUnpackedToInt8Tensor
            expected[f"published/{name}"] = value.to(torch.float32).dequantize() if quantized else value.float()


def write(name, config, tensors, metadata):
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}, indent=1) + "\n")
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, folder / "model.safetensors", metadata)


def main():
    torch.manual_seed(20261121)
    expected = {"x": inputs()}
    converted("converted", torch.float32, torch.float32, expected)
    converted("converted_bf16", torch.bfloat16, torch.bfloat16, expected)
    flattened(expected)
    published(expected)
    save_file({name: value.detach().contiguous() for name, value in expected.items()}, FIXTURES / "expected.safetensors")


main()
