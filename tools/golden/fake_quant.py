"""Makes tests/fixtures/fake_quantize/: linear layers trained with torch's FakeQuantize modules, and what torch makes of them.

    pip install torch==2.15.0 safetensors
    python tools/golden/fake_quant.py

Each folder is one range of codes; expected.safetensors holds the fake-quantized weight, inputs and the layer's outputs.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.ao.nn.qat import Linear
from torch.ao.quantization import FakeQuantize, QConfig
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

FOLDER = Path(__file__).parents[2] / "tests" / "fixtures" / "fake_quantize"
ROWS, COLS, TOKENS = 10, 32, 4
CHANNEL = dict(observer=PerChannelMinMaxObserver, dtype=torch.qint8, ch_axis=0)

# Folder, fake quantizer of weights, fake quantizer of inputs (None: symmetric per token).
FOLDERS = [
    ("channel_symmetric", dict(CHANNEL, qscheme=torch.per_channel_symmetric, quant_min=-127, quant_max=127), None),
    ("channel_affine", dict(CHANNEL, qscheme=torch.per_channel_affine, quant_min=-128, quant_max=127),
     dict(observer=MinMaxObserver, dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, quant_min=-128, quant_max=127)),
    ("tensor_affine", dict(observer=MinMaxObserver, dtype=torch.quint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=255),
     dict(observer=MinMaxObserver, dtype=torch.quint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=255, reduce_range=True)),
    ("four_bits", dict(CHANNEL, qscheme=torch.per_channel_symmetric, quant_min=-8, quant_max=7),
     dict(observer=MinMaxObserver, dtype=torch.quint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=255)),
]


def per_token(x):
    """Symmetric 8 bits per token: rows are the channels of torch's own operator."""
    scale = x.abs().amax(1) / 127
    return torch.fake_quantize_per_channel_affine(x, scale, torch.zeros(len(x), dtype=torch.int32), 0, -127, 127)


def main():
    torch.manual_seed(20261121)
    for name, weights, inputs in FOLDERS:
        activation = FakeQuantize.with_args(**inputs) if inputs else torch.nn.Identity
        layer = Linear(COLS, ROWS, bias=False, qconfig=QConfig(activation, FakeQuantize.with_args(**weights)))
        with torch.no_grad():
            # Ties: a scale that is a power of two, and weights half a step from it.
            half = (weights["quant_max"] - weights["quant_min"]) / 2
            layer.weight[0] = (torch.arange(COLS) - COLS / 2 + 0.5) / 64
            layer.weight[0, 0], layer.weight[0, 1] = half / 64, -half / 64
        if inputs:
            layer.input_fake_quant = activation()
            layer.input_fake_quant(torch.randn(64, COLS) + 0.5)
            layer.input_fake_quant.apply(torch.ao.quantization.disable_observer)
        layer.weight_fake_quant(layer.weight)
        layer.weight_fake_quant.apply(torch.ao.quantization.disable_observer)
        with torch.no_grad():
            x = 1.3 * torch.randn(TOKENS, COLS) + 0.3
            x[0, :3] = torch.tensor([50.0, -50.0, 0.0])
            weight = layer.weight_fake_quant(layer.weight)
            y = (layer.input_fake_quant(x) if inputs else per_token(x)) @ weight.T
        fake = layer.weight_fake_quant
        config = {"quant_method": "torch-fake-quantize", "weights": {"quant_min": fake.activation_post_process.quant_min, "quant_max": fake.activation_post_process.quant_max}}
        if inputs:
            observer = layer.input_fake_quant.activation_post_process
            config["activations"] = {"mode": "static", "quant_min": observer.quant_min, "quant_max": observer.quant_max}
        else:
            config["activations"] = {"mode": "dynamic-token"}
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}, indent=1) + "\n")
        save_file({f"m.{key}": value.contiguous() for key, value in layer.state_dict().items()}, folder / "model.safetensors")
        expected = {"weight": weight, "x": x, "y": y}
        save_file({key: value.detach().contiguous() for key, value in expected.items()}, folder / "expected.safetensors")


main()
