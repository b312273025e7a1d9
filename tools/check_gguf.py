#!/usr/bin/env python3
"""Compare a GGUF file that quantbench wrote with the folder of the same variant, weight by weight, bit for bit.

    bench quantize MODEL -o int4 --recipe @int4.toml
    bench quantize MODEL -o int4.gguf --format gguf --recipe @int4.toml
    python tools/check_gguf.py int4.gguf int4

The file is read and dequantized by the `gguf` package, which also names the tensors; the folder by `safetensors` and
`compressed-tensors`, in f32. Query and key rows of a llama are put into GGUF's order as llama.cpp's conversion does.
Metadata that llama.cpp needs must be there, and the vocabulary must be the folder's. Ends with exit code 1 at a
difference. Needs gguf, compressed-tensors, safetensors, tokenizers and torch; used with gguf 0.19.0.
"""

import argparse
import json
import sys
from pathlib import Path

import gguf
import numpy as np
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors import safe_open

PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")


def scheme_of(config, module):
    """Format and scheme of a module's weight by `quantization_config`."""
    groups = config["quantization_config"]["config_groups"].values()
    named = [group for group in groups if module in group["targets"]]
    group = (named or [group for group in groups if "Linear" in group["targets"]])[0]
    return group["format"], QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**group["weights"]))


def published(folder):
    """Published name and f32 values of every tensor of a folder."""
    config = json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
        for name in sorted(names):
            module, _, part = name.rpartition(".")
            if f"{module}.weight_scale" not in names:
                yield name, file.get_tensor(name).float().numpy()
            elif part == "weight_scale":
                form, scheme = scheme_of(config, module)
                state = {p: file.get_tensor(f"{module}.{p}") for p in ("weight", *PARTS) if f"{module}.{p}" in names}
                # In f32, so that the package does not round the product to the dtype of the scales.
                state["weight_scale"] = state["weight_scale"].float()
                compressor = BaseCompressor.get_value_from_registry(form)
                yield f"{module}.weight", compressor.decompress(state, scheme)["weight"].float().numpy()


def permuted(values, heads):
    """Rows of queries or keys with rotary partners side by side (`LlamaModel.permute` of llama.cpp's conversion)."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def check_metadata(reader, architecture, config, folder):
    """Faults of the metadata."""
    keys = ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"]
    keys += ["attention.head_count_kv", "attention.layer_norm_rms_epsilon", "rope.freq_base", "vocab_size"]
    faults = [f"no {architecture}.{key}" for key in keys if f"{architecture}.{key}" not in reader.fields]
    path = folder / "tokenizer.json"
    if not path.exists():
        return faults
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    if len(tokens) != config["vocab_size"]:
        faults.append(f"{len(tokens)} tokens for {config['vocab_size']} rows")
    faults += [f"token {id} is {tokens[id]!r}" for token, id in tokenizer.get_vocab().items() if tokens[id] != token]
    merges = json.loads(path.read_text())["model"]["merges"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    if merges and reader.fields["tokenizer.ggml.merges"].contents() != merges:
        faults.append("merges differ")
    print(f"pre-tokenizer {reader.fields['tokenizer.ggml.pre'].contents()}, {len(tokens)} tokens, {len(merges)} merges")
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    config = json.loads((args.folder / "config.json").read_text())
    reader = gguf.GGUFReader(args.file)
    architecture = reader.fields["general.architecture"].contents()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config["num_hidden_layers"])
    stored = {tensor.name: tensor for tensor in reader.tensors}
    if len(stored) != len(reader.tensors):
        sys.exit("a tensor appears twice")
    stored.pop("rope_freqs.weight", None)
    faults = check_metadata(reader, architecture, config, args.folder)
    formats = {}
    for name, expected in published(args.folder):
        tensor = stored.pop(names.get_name(name, try_suffixes=(".weight", ".bias")), None)
        if tensor is None:
            faults.append(f"{name} is not in the file")
            continue
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            expected = permuted(expected, heads)
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        # The package keeps the shape of blocks; elements are in the order of rows.
        same = values.reshape(-1).view(np.uint32) == expected.reshape(-1).view(np.uint32)
        if list(reversed(tensor.shape.tolist())) != list(expected.shape) or not same.all():
            faults.append(f"{name}: {np.count_nonzero(~same)} of {same.size} weights differ")
        formats[tensor.tensor_type.name] = formats.get(tensor.tensor_type.name, 0) + 1
    faults += [f"{name} is in the file only" for name in stored]
    print(f"{args.file}: {architecture}, {formats}, {len(faults)} faults")
    sys.exit("\n".join(faults) or None)


main()
