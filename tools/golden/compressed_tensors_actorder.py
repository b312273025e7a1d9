"""Makes tests/fixtures/compressed_tensors_actorder/: weights in activation order, as the last versions of the
`compressed-tensors` package that knew `weight_g_idx` packed and dequantized them.

    pip install compressed-tensors==0.12.2 torch safetensors
    python tools/golden/compressed_tensors_actorder.py
"""

import json
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.quantized_compressors.pack_quantized import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import save_file

FOLDER = Path(__file__).parents[2] / "tests" / "fixtures" / "compressed_tensors_actorder"
ROWS, COLS = 8, 64

# Module, format, weights, whether its g_idx was never set.
MODULES = [
    ("w4", "pack-quantized", {"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 16, "actorder": "group"}, False),
    ("w4_asym", "pack-quantized", {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32, "actorder": "group"}, False),
    ("w4_unset", "pack-quantized", {"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 16, "actorder": "group"}, True),
    ("w4_static", "pack-quantized", {"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 16, "actorder": "weight"}, None),
]


def main():
    torch.manual_seed(20261121)
    FOLDER.mkdir(parents=True, exist_ok=True)
    tensors, expected, groups = {}, {}, {}
    for at, (module, form, weights, unset) in enumerate(MODULES):
        args = QuantizationArgs(**weights)
        count = COLS // args.group_size
        scale = (torch.rand(ROWS, count) + 0.5) / 4
        zero = torch.zeros(ROWS, count, dtype=torch.int8) if args.symmetric else torch.randint(-8, 8, (ROWS, count)).to(torch.int8)
        g_idx = None if unset is None else (torch.arange(COLS, dtype=torch.int32) // args.group_size)[torch.randperm(COLS)]
        if unset:
            g_idx = torch.full((COLS,), -1, dtype=torch.int32)
        compressor = BaseCompressor.load_from_registry(form)
        parts = compressor.compress_weight(torch.randn(ROWS, COLS), scale, zero_point=None if args.symmetric else zero, g_idx=g_idx, quantization_args=args)
        parts["weight_scale"] = scale
        if g_idx is not None:
            parts["weight_g_idx"] = g_idx
        if not args.symmetric and "weight_zero_point" not in parts:
            parts["weight_zero_point"] = zero
        tensors |= {f"{module}.{part}": value.contiguous() for part, value in parts.items()}
        # This version packs zero points but does not unpack them by itself: its own functions one by one.
        codes = unpack_from_int32(parts["weight_packed"], 4, parts["weight_shape"])
        real = dequantize(x_q=codes, scale=scale, zero_point=None if args.symmetric else zero, g_idx=g_idx)
        expected[f"{module}.weight"] = real.float().contiguous()
        groups[f"group_{at}"] = {"targets": [module], "weights": weights, "input_activations": None, "output_activations": None}
    quantization = {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed", "config_groups": groups, "ignore": []}
    config = {"model_type": "llama", "quantization_config": quantization}
    (FOLDER / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(tensors, FOLDER / "model.safetensors")
    save_file(expected, FOLDER / "expected.safetensors")


main()
