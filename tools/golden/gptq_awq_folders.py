"""Makes tests/fixtures/gptq/ and tests/fixtures/awq/: small folders packed by the formats' own code, and what that code
makes of them.

    pip download --no-deps gptqmodel==7.7.0 autoawq==0.2.9 && tar xzf gptqmodel-*.tar.gz && tar xzf autoawq-*.tar.gz
    pip install torch transformers safetensors numpy
    python tools/golden/gptq_awq_folders.py FOLDER_OF_THE_TWO_SOURCES

The packages want a GPU or a compiler to be imported, so the functions that pack, convert and dequantize are taken out of
their sources as they stand and run by themselves. Scales are widened to f32 before the packages' dequantizing, so that
products are not rounded to f16. expected.safetensors holds every folder's weights, named FOLDER/TENSOR, as (out, in).
The committed files were made with these versions and torch 2.15.
"""

import __future__
import ast
import json
import math
import shutil
import sys
import types
from contextlib import nullcontext
from pathlib import Path
from typing import *

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.conv import _ConvNd

FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"
SOURCES = Path(sys.argv[1])
ROWS, COLS = 32, 64

# Folder, bits, group_size, desc_act, sym, checkpoint_format, whether the configuration is in quantize_config.json.
GPTQ = [
    ("w4_v1", 4, 32, False, True, "gptq", False),
    ("w4_v1_asym_desc_act", 4, 16, True, False, None, True),
    ("w4_v2_asym", 4, 32, False, False, "gptq_v2", False),
    ("w8_v1_desc_act", 8, 32, True, False, "gptq", False),
    ("w3_v1_asym", 3, 32, False, False, "gptq", False),
    ("w2_channel", 2, -1, False, False, "gptq", False),
]
# Folder, version, group_size.
AWQ = [("gemm", "gemm", 32), ("gemm_channel", "gemm", -1), ("gemv", "gemv", 32), ("gemv_64", "gemv", 64)]


def source(pattern, names, scope):
    """Runs the functions `names` of a source file by themselves in `scope`."""
    (path,) = SOURCES.glob(pattern)
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef) and n.name in names]
    for node in nodes:
        node.decorator_list = []
    module = ast.Module(body=nodes, type_ignores=[])
    flags = __future__.annotations.compiler_flag
    exec(compile(module, str(path), "exec", flags=flags, dont_inherit=True), scope)
    assert all(name in scope for name in names), names
    return scope


def gptq_code():
    qlinear = "gptqmodel-*/gptqmodel/nn_modules/qlinear/__init__.py"
    scope = {"t": torch, "torch": torch, "np": np, "nn": nn, "math": math, "_ConvNd": _ConvNd, "transformers": transformers,
             "THREADPOOLCTL": types.SimpleNamespace(threadpool_limits=lambda n: nullcontext()),
             "BaseQuantLinear": object, "PLANAR_BITS": (5, 6, 7), "log": types.SimpleNamespace(info=types.SimpleNamespace(once=lambda text: None))}
    source(qlinear, ["_torch_shift_factor", "_torch_right_shift", "_torch_left_shift", "_init_wf_unsqueeze_buffers",
                     "dequantize_weight", "_dequantize_from_codes", "pack_original"], scope)
    source("gptqmodel-*/gptqmodel/utils/model_dequant.py",
           ["_shift_gptq_qzeros", "_correct_gptq_v1_qzeros", "_revert_gptq_v1_qzeros_correction", "unpack_cols", "pack_cols",
            "_unpack_cols_3bit", "_pack_cols_3bit", "_require_int32_words_for_3bit"], scope)
    source("gptqmodel-*/gptqmodel/utils/model.py",
           ["convert_gptq_v1_to_v2_format_module", "convert_gptq_v2_to_v1_format_module"], scope)
    return scope


def grid(bits, groups, sym):
    """Scales and zero points, (ROWS, groups), for normal weights."""
    scales = (torch.rand(ROWS, groups) + 0.5) * 6 / 2**bits
    zeros = torch.full((ROWS, groups), 2.0 ** (bits - 1)) if sym else torch.randint(0, 2**bits, (ROWS, groups)).float()
    return scales.half().float(), zeros


def gptq_module(code, bits, group_size):
    """A layer with the package's functions as its methods."""
    module = nn.Module()
    module.bits, module.in_features, module.maxq, module.planar = bits, COLS, 2**bits - 1, False
    module.pack_dtype, module.pack_dtype_bits, module.pack_factor = torch.int32, 32, 32 // bits
    module.pack_np_dtype, module.pack_np_math_dtype = np.int32, np.uint32
    module.dequant_dtype, module.enable_wf_unsqueeze = torch.int16 if bits == 8 else torch.int8, True
    module._wf_device = lambda: torch.device("cpu")
    module.qzero_format = lambda format: None
    module.g_idx = torch.arange(COLS, dtype=torch.int32) // group_size
    for name in ["_init_wf_unsqueeze_buffers", "dequantize_weight", "_dequantize_from_codes", "pack_original"]:
        setattr(module, name, types.MethodType(code[name], module))
    return module


def make_gptq():
    code, expected = gptq_code(), {}
    for name, bits, group_size, desc_act, sym, form, beside in GPTQ:
        size = COLS if group_size == -1 else group_size
        module, linear = gptq_module(code, bits, size), nn.Linear(COLS, ROWS)
        scales, zeros = grid(bits, COLS // size, sym)
        g_idx = module.g_idx[torch.randperm(COLS)] if desc_act else module.g_idx
        linear.weight.data = torch.randn(ROWS, COLS)
        del module.g_idx
        module.pack_original(linear, scales, zeros, g_idx)
        if form != "gptq_v2":
            code["convert_gptq_v2_to_v1_format_module"](module, types.SimpleNamespace(bits=bits, pack_dtype=torch.int32))
        layer = "model.layers.0.self_attn.q_proj"
        parts = {part: getattr(module, part).clone() for part in ["qweight", "qzeros", "scales", "g_idx", "bias"]}
        assert parts["scales"].dtype == torch.float16 and parts["qweight"].dtype == torch.int32
        tensors = {f"{layer}.{part}": value.contiguous() for part, value in parts.items()}
        tensors["lm_head.weight"] = torch.randn(4, 8).half()
        if form != "gptq_v2":
            code["convert_gptq_v1_to_v2_format_module"](module, bits, torch.int32)
        module.scales = module.scales.float()
        real = {f"{layer}.weight": module.dequantize_weight().T, f"{layer}.bias": parts["bias"],
                "lm_head.weight": tensors["lm_head.weight"]}
        expected |= {f"{name}/{tensor}": value.float().contiguous() for tensor, value in real.items()}
        numbers = {"bits": bits, "group_size": group_size, "desc_act": desc_act, "sym": sym, "quant_method": "gptq"}
        if form:
            numbers["checkpoint_format"] = form
        write("gptq", name, tensors, numbers, beside)
    save_file(expected, FIXTURES / "gptq" / "expected.safetensors")


def awq_code(form):
    scope = {"torch": torch, "get_best_device": lambda: "cpu"}
    source(f"autoawq-*/awq/modules/linear/{form}.py", ["from_linear"], scope)
    source("autoawq-*/awq/modules/linear/gemv.py", ["calculate_zeros_width", "make_divisible"], scope)
    packing = next(SOURCES.glob("autoawq-*/awq/utils/packing_utils.py"))
    exec(packing.read_text(), scope)
    return scope


def gemv_dequantized(parts, size):
    """The package dequantizes `gemv` weights on GPUs only; it packs nibbles in order."""
    shifts = torch.arange(0, 32, 4)
    unpacked = lambda words: ((words[:, :, None] >> shifts) & 15).view(words.shape[0], -1)
    groups = COLS // size
    codes, zeros = unpacked(parts["qweight"]), unpacked(parts["qzeros"])[:, :groups]
    scales = parts["scales"][:, :groups].float()
    return (codes - zeros.repeat_interleave(size, 1)) * scales.repeat_interleave(size, 1)


def make_awq():
    expected = {}
    for name, form, group_size in AWQ:
        code = awq_code(form)
        size = COLS if group_size == -1 else group_size
        scales, zeros = grid(4, COLS // size, False)
        linear = nn.Linear(COLS, ROWS)
        linear.weight.data = ((torch.randint(0, 16, (ROWS, COLS)) - zeros.repeat_interleave(size, 1)) * scales.repeat_interleave(size, 1))
        weight = linear.weight.data
        made = lambda w_bit, group, cols, rows, bias, device: types.SimpleNamespace(w_bit=w_bit, in_features=cols, out_features=rows)
        across = (lambda x: x.T.contiguous()) if form == "gemm" else (lambda x: x)
        module = code["from_linear"](made, linear, 4, size, False, across(scales), across(zeros))
        parts = {part: getattr(module, part).detach().contiguous() for part in ["qweight", "qzeros", "scales", "bias"]}
        if form == "gemm":
            real = code["dequantize_gemm"](parts["qweight"], parts["qzeros"], parts["scales"].float(), 4, size).T
        else:
            real = gemv_dequantized(parts, size)
        assert torch.equal(real, weight)
        layer = "model.layers.0.mlp.up_proj"
        tensors = {f"{layer}.{part}": value for part, value in parts.items()}
        expected |= {f"{name}/{layer}.weight": real.float().contiguous(), f"{name}/{layer}.bias": parts["bias"].float()}
        numbers = {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, "version": form}
        write("awq", name, tensors, numbers, False)
    save_file(expected, FIXTURES / "awq" / "expected.safetensors")


def write(kind, name, tensors, numbers, beside):
    folder = FIXTURES / kind / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = {"model_type": "llama"} if beside else {"model_type": "llama", "quantization_config": numbers}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if beside:
        (folder / "quantize_config.json").write_text(json.dumps(numbers, indent=1) + "\n")
    save_file(tensors, folder / "model.safetensors")


torch.manual_seed(20261121)
make_gptq()
make_awq()
