"""Makes tests/fixtures/compressed_tensors/: a small folder with every layout that is read, and what the
`compressed-tensors` package makes of it.

    pip install compressed-tensors torch safetensors
    python tools/golden/compressed_tensors_folders.py

Each module has its own scheme; expected.safetensors holds the package's own dequantized weights, in f32.
"""

import json
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file

FOLDER = Path(__file__).parents[2] / "tests" / "fixtures" / "compressed_tensors"
ROWS, COLS = 10, 32
DYNAMIC = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}

# Module, format, weights, dtype of the scales, input activations, targets.
MODULES = [
    ("w4_group", "pack-quantized", {"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 16}, torch.float16, None, ["re:.*w4_group"]),
    ("w4_group_asym", "pack-quantized", {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 16}, torch.float32, None, ["w4_group_asym"]),
    ("w4_channel_asym", "pack-quantized", {"num_bits": 4, "symmetric": False, "strategy": "channel"}, torch.bfloat16, None, ["w4_channel_asym"]),
    ("w8_packed_asym", "pack-quantized", {"num_bits": 8, "symmetric": False, "strategy": "group", "group_size": 8}, torch.float32, None, ["w8_packed_asym"]),
    ("w3_group", "pack-quantized", {"num_bits": 3, "symmetric": True, "strategy": "group", "group_size": 8}, torch.float32, None, ["w3_group"]),
    ("w8_channel", "int-quantized", {"num_bits": 8, "symmetric": True, "strategy": "channel"}, torch.float32, DYNAMIC, ["Linear"]),
    ("w8_channel_asym", "int-quantized", {"num_bits": 8, "symmetric": False, "strategy": "channel"}, torch.float32, DYNAMIC, ["w8_channel_asym"]),
    ("w8_tensor", "int-quantized", {"num_bits": 8, "symmetric": True, "strategy": "tensor"}, torch.float32, None, ["w8_tensor"]),
    ("model.embed_tokens", "int-quantized", {"num_bits": 8, "symmetric": True, "strategy": "channel"}, torch.float32, None, ["Embedding"]),
]


def qparams(weight, args, dtype):
    """Scales and zero points by rounding to nearest over the range with zero."""
    low, high = -(2 ** (args.num_bits - 1)), 2 ** (args.num_bits - 1) - 1
    width = {"group": args.group_size, "channel": COLS}.get(args.strategy)
    grouped = weight.reshape(ROWS, -1, width) if width else weight.reshape(1, 1, -1)
    if args.symmetric:
        scale = grouped.abs().amax(-1) / high
        zero = torch.zeros_like(scale)
    else:
        least, most = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scale = (most - least) / (high - low)
        zero = (low - least / scale).round().clamp(low, high)
    if width is None:
        scale, zero = scale.reshape(1), zero.reshape(1)
    return scale.to(dtype), zero.to(torch.int8)


def main():
    torch.manual_seed(20261121)
    FOLDER.mkdir(parents=True, exist_ok=True)
    tensors, expected, groups = {}, {}, {}
    for at, (module, form, weights, dtype, inputs, targets) in enumerate(MODULES):
        args = QuantizationArgs(**weights)
        weight = torch.randn(ROWS, COLS)
        scale, zero = qparams(weight, args, dtype)
        scheme = QuantizationScheme(targets=targets, weights=args)
        compressor = BaseCompressor.get_value_from_registry(form)
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
        state = compressor.compress(state, scheme)
        tensors.update({f"{module}.{part}": value.contiguous() for part, value in state.items()})
        # In f32, so that the package does not round the product to the dtype of the scales.
        wide = dict(state, weight_scale=state["weight_scale"].float())
        expected[f"{module}.weight"] = compressor.decompress(wide, scheme)["weight"].float().contiguous()
        groups[f"group_{at}"] = {"targets": targets, "format": form, "weights": weights, "input_activations": inputs, "output_activations": None}
    tensors["model.norm.weight"] = torch.randn(COLS).to(torch.bfloat16)
    expected["model.norm.weight"] = tensors["model.norm.weight"].float()
    config = {
        "model_type": "llama",
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": ["lm_head"],
            "kv_cache_scheme": None,
            "sparsity_config": {},
            "transform_config": {},
        },
    }
    (FOLDER / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(tensors, FOLDER / "model.safetensors")
    save_file(expected, FOLDER / "expected.safetensors")


main()
