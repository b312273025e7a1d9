#!/usr/bin/env python3
"""Quantizes a model with llama.cpp and its importance matrix, for `tools/compare_quantizers.py --also NAME=FILE`.

    python3 tools/peers/llama_imatrix.py learn MODEL windows.safetensors -o imatrix.safetensors
    python3 tools/peers/llama_imatrix.py quantize model-f16.gguf -o q4_0.gguf [--type Q4_0] [--imatrix imatrix.safetensors]

`learn` takes the mean square of every linear layer's inputs over calibration windows (`toolkits.py windows` draws them),
which is what llama.cpp's own tool gathers; it runs in an environment with torch and transformers. MODEL is a folder of
transformers. `quantize` runs where `llama-cpp-python` is installed; embedding and head stay in 16 bits.
"""

import argparse
import ctypes

import numpy
from safetensors.numpy import load_file, save_file

import toolkits

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def learn(args):
    import torch

    windows, model = toolkits.read_windows(args.windows), toolkits.load(args.model)
    sums = {}

    def watch(name):
        def hook(_, inputs):
            squares = inputs[0].double().pow(2).sum(dim=(0, 1)).numpy()
            sums[name] = sums.get(name, 0) + squares
        return hook

    for layer, block in enumerate(model.model.layers):
        for module, name in NAMES.items():
            block.get_submodule(module).register_forward_pre_hook(watch(f"blk.{layer}.{name}.weight"))
    with torch.no_grad():
        for window in windows:
            model.model(torch.tensor([window]))
    tokens = sum(map(len, windows))
    save_file({name: (squares / tokens).astype("float32") for name, squares in sums.items()}, args.out)


def quantize(args):
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{args.type}")
    params.pure = True
    params.token_embedding_type = params.output_tensor_type = llama_cpp.GGML_TYPE_F16
    if args.imatrix:
        matrix = {name: numpy.ascontiguousarray(values) for name, values in load_file(args.imatrix).items()}
        entries = (llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()  # the last, empty one ends the list
        for entry, (name, values) in zip(entries, matrix.items()):
            entry.name, entry.size = name.encode(), len(values)
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    if llama_cpp.llama_model_quantize(args.model.encode(), args.out.encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp could not quantize {args.model}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    of_learn, of_quantize = commands.add_parser("learn"), commands.add_parser("quantize")
    for command in (of_learn, of_quantize):
        command.add_argument("model")
        command.add_argument("-o", "--out", required=True)
    of_learn.add_argument("windows")
    of_quantize.add_argument("--type", default="Q4_0")
    of_quantize.add_argument("--imatrix")
    args = parser.parse_args()
    {"learn": learn, "quantize": quantize}[args.command](args)


if __name__ == "__main__":
    main()
