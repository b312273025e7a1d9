#!/usr/bin/env python3
"""Quantizes a model with a Python toolkit, for `tools/compare_quantizers.py --also NAME=FOLDER`.

    python3 tools/peers/toolkits.py windows MODEL 'calibration/*.txt' -o windows.safetensors [--count 32] [--length 512]
    python3 tools/peers/toolkits.py TOOLKIT METHOD MODEL windows.safetensors -o FOLDER [--group-size 32]

The first command draws the calibration windows as a token file, which `bench quantize --calibration` reads too, so that
everyone learns from the same tokens. The second runs in an environment that has the toolkit (`pip install llmcompressor`,
`gptqmodel`, `auto-round`, `neural-compressor`): 4-bit symmetric groups, the head left alone, the toolkit's defaults for
the rest. It prints seconds and the peak memory of quantizing alone, without imports, loading and saving.

The text may be a token file, too. MODEL is a folder of transformers with `tokenizer.json` (`tools/peers/convert.py` makes
one of a GGUF file).
"""

import argparse
import glob
import hashlib
import json
import os
import pathlib
import random
import resource
import time


def draw(args):
    """Writes `count` windows of `length` tokens that do not overlap, drawn from all documents with a fixed seed."""
    import numpy
    import tokenizers
    from safetensors.numpy import save_file

    file = pathlib.Path(args.model) / "tokenizer.json"
    if args.text.endswith(".safetensors"):
        documents = read_windows(args.text)
    else:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
        texts = [pathlib.Path(path).read_text() for path in sorted(glob.glob(args.text))]
        documents = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    all_windows = [ids[at:at + args.length] for ids in documents for at in range(0, len(ids) - args.length + 1, args.length)]
    windows = random.Random(1).sample(all_windows, args.count)
    arrays = {
        "ids": numpy.array(windows, dtype=numpy.uint32).reshape(-1),
        "starts": numpy.arange(0, (args.count + 1) * args.length, args.length, dtype=numpy.uint32),
        "genres": numpy.zeros(args.count, dtype=numpy.uint8),
    }
    metadata = {"kind": "tokens", "genres": json.dumps(["text"]),
                "names": json.dumps([f"window {n}" for n in range(args.count)]),
                "tokenizer": hashlib.sha256(file.read_bytes()).hexdigest()}
    save_file(arrays, args.out, metadata)


def read_windows(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        ids, starts = file.get_tensor("ids"), file.get_tensor("starts")
    return [ids[begin:end].astype("int64").tolist() for begin, end in zip(starts, starts[1:])]


def load(model):
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def llm_compressor(args, windows):
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": args.group_size}
    scheme = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}
    if args.method == "gptq":
        recipe = [GPTQModifier(**scheme)]
    else:
        from llmcompressor.modifiers.transform.awq import AWQModifier
        from llmcompressor.pipelines.cache import IntermediatesCache
        # It pins memory for copies to a GPU, which fails without one.
        IntermediatesCache.pin_memory = lambda *_, **__: None
        recipe = [AWQModifier(), QuantizationModifier(**scheme)]
    model = load(args.model)
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * len(window) for window in windows]})
    quantize = lambda: oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=len(windows[0]),
                               num_calibration_samples=len(windows))
    return quantize, lambda: model.save_pretrained(args.out, save_compressed=True)


def gptqmodel(args, windows):
    # On two processors it would make one worker and then fail to find two.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    from gptqmodel import GPTQModel, QuantizeConfig

    how = {"method": "awq", "format": "gemm"} if args.method == "awq" else {}
    config = QuantizeConfig(bits=4, group_size=args.group_size, sym=True, device="cpu", **how)
    model = GPTQModel.load(args.model, config)
    data = [{"input_ids": window, "attention_mask": [1] * len(window)} for window in windows]
    return lambda: model.quantize(data, batch_size=4), lambda: model.save(args.out)


def auto_round(args, windows):
    import torch
    import transformers
    from auto_round import AutoRound

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(pathlib.Path(args.model) / "tokenizer.json"))
    data = [{"input_ids": torch.tensor([window]), "attention_mask": torch.ones(1, len(window), dtype=torch.long)}
            for window in windows]
    rounding = AutoRound(load(args.model), tokenizer, bits=4, group_size=args.group_size, sym=True, dataset=data,
                         seqlen=len(windows[0]), nsamples=len(windows), iters=args.iterations, batch_size=4,
                         device_map="cpu")
    return rounding.quantize, lambda: rounding.save_quantized(args.out, format="auto_gptq")


def neural_compressor(args, windows):
    import torch
    from neural_compressor.torch.quantization import AWQConfig, GPTQConfig, convert, prepare

    os.environ["INC_TARGET_DEVICE"] = "cpu"
    model = load(args.model)
    scheme = {"bits": 4, "group_size": args.group_size, "use_sym": True, "dtype": "int"}
    config = (AWQConfig if args.method == "awq" else GPTQConfig)(**scheme)
    config.set_local("lm_head", type(config)(dtype="fp32"))

    def quantize():
        nonlocal model
        prepared = prepare(model, config, example_inputs=torch.tensor([windows[0]]))
        with torch.no_grad():
            for window in windows:
                try:
                    prepared(torch.tensor([window]))
                except ValueError:  # how it stops the pass behind the first block
                    pass
        model = convert(prepared)

    return quantize, lambda: model.save(args.out, format="huggingface")


TOOLKITS = {"llm-compressor": llm_compressor, "gptqmodel": gptqmodel, "auto-round": auto_round,
            "neural-compressor": neural_compressor}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    windows = commands.add_parser("windows")
    windows.add_argument("model")
    windows.add_argument("text")
    windows.add_argument("--count", type=int, default=32)
    windows.add_argument("--length", type=int, default=512)
    for name in TOOLKITS:
        toolkit = commands.add_parser(name)
        toolkit.add_argument("method", choices=["gptq", "awq", "round"])
        toolkit.add_argument("model")
        toolkit.add_argument("windows")
        toolkit.add_argument("--group-size", type=int, default=32)
        toolkit.add_argument("--iterations", type=int, default=200, help="of auto-round")
    for command in commands.choices.values():
        command.add_argument("-o", "--out", required=True)
    args = parser.parse_args()
    if args.command == "windows":
        return draw(args)

    quantize, save = TOOLKITS[args.command](args, read_windows(args.windows))
    begin = time.monotonic()
    quantize()
    seconds, peak = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    save()
    (pathlib.Path(args.out) / "tokenizer.json").write_bytes((pathlib.Path(args.model) / "tokenizer.json").read_bytes())
    print(f"{args.command} {args.method}, groups of {args.group_size}: {seconds:.1f} s, {peak:.0f} MiB")


if __name__ == "__main__":
    main()
