#!/usr/bin/env python3
"""Quantizes one model by every method and prints a Markdown table: what each costs and what it loses.

    python3 tools/compare_quantizers.py MODEL --calibration 'train/*.txt' --text 'heldout/*.txt' [--also NAME=FILE ...]

Perplexities are `bench eval`'s, of the artefacts that `bench quantize` wrote, and so are their increases over fp16, paired on
the same windows, with 95 % intervals over documents; seconds and peak memory (largest resident set) are those of the
whole `bench quantize` process. `--also` scores other checkpoints, such as a GGUF file quantized by
llama.cpp. `--only` takes the recipes whose names hold one of the given words.
"""

import argparse
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

EIGHT = 'weights = { bits = 8, granularity = "channel" }, activations = { bits = 8 }'
STATIC = EIGHT.replace("= { bits = 8 }", '= { bits = 8, granularity = "tensor", mode = "static", observer = "mse" }')


def four(group, extra=""):
    return f'weights = {{ bits = 4, granularity = "group", group_size = {group}{extra} }}'


def recipes(group):
    searched, weighed = ', observer = "mse"', ', observer = "imatrix_mse"'
    return {
        "fp16": 'method = "cast", dtype = "f16"',
        "rtn": f'method = "rtn", {four(group)}',
        "rtn, mse": f'method = "rtn", {four(group, searched)}',
        "rtn, imatrix_mse": f'method = "rtn", {four(group, weighed)}',
        "hqq": f'method = "hqq", {four(group)}',
        "awq": f'method = "awq", {four(group)}',
        "gptq": f'method = "gptq", {four(group)}',
        "gptq, mse": f'method = "gptq", {four(group, searched)}',
        "gptq, imatrix_mse": f'method = "gptq", {four(group, weighed)}',
        "gptq, asymmetric calibration": f'method = "gptq", {four(group)}, asymmetric_calibration = true',
        "gptq, imatrix_mse, asymmetric calibration":
            f'method = "gptq", {four(group, weighed)}, asymmetric_calibration = true',
        "w8a8 rtn": f'method = "rtn", {EIGHT}',
        "w8a8 rtn, smooth": f'method = "rtn", {EIGHT}, smooth = "search"',
        "w8a8 gptq": f'method = "gptq", {EIGHT}',
        "w8a8 gptq, smooth": f'method = "gptq", {EIGHT}, smooth = "search"',
        "w8a8 gptq, smooth, rotated": f'method = "gptq", {EIGHT}, smooth = "search", rotation = "hadamard"',
        "w8a8 static, rtn, smooth": f'method = "rtn", {STATIC}, smooth = "search"',
        "w8a8 static but down_proj, rtn, smooth, rotated":
            f'method = "rtn", {STATIC}, smooth = "search", rotation = "hadamard", '
            f'overrides = [{{ tensors = "*.down_proj", {EIGHT} }}]',
    }


def measured(command):
    """Runs a command; its output, seconds and peak memory in MiB."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit(f"{' '.join(command)}: ended with status {status}")
        out.seek(0)
        return out.read(), time.monotonic() - start, usage.ru_maxrss / 1024


def evaluated(model, args, *more):
    command = [args.bench, "eval", str(model), "--text", args.text, "--length", str(args.length), "--json", *more]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def increase(found):
    against = found["against"]
    low, high = against["interval"] or (math.nan, math.nan)
    return f"{against['increase_percent']:+.2f} % [{low:+.2f}, {high:+.2f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True, metavar="TEXT")
    parser.add_argument("--text", required=True, metavar="TEXT", help="held-out text")
    parser.add_argument("--group-size", type=int, default=32, metavar="N")
    parser.add_argument("--windows", type=int, default=32, metavar="N", help="windows of calibration")
    parser.add_argument("--length", type=int, default=512, metavar="N", help="tokens of a window")
    parser.add_argument("--bench", default="target/release/bench", metavar="PROGRAM")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD")
    args = parser.parse_args()

    wanted = {n: r for n, r in recipes(args.group_size).items() if not args.only or any(w in n for w in args.only)}
    wanted = {"fp16": recipes(args.group_size)["fp16"]} | wanted
    print("| recipe | perplexity | increase | bits per weight | seconds | peak MiB |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        scores = f"{folder}/fp16.csv"
        for name, recipe in wanted.items():
            into = pathlib.Path(folder) / re.sub(r"\W+", "-", name)
            command = [args.bench, "quantize", args.model, "-o", str(into), "--recipe", recipe, "--calibration",
                       args.calibration, "--windows", str(args.windows), "--length", str(args.length)]
            text, seconds, peak = measured(command)
            bits = re.search(r"([\d.]+) bits per quantized weight", text)
            found = evaluated(into, args, "--per-token" if name == "fp16" else "--reference", scores)
            cells = [name, f"{found['perplexity']:.3f}", increase(found) if "against" in found else "",
                     bits.group(1) if bits else "16", f"{seconds:.1f}", f"{peak:.0f}"]
            print("| " + " | ".join(cells) + " |", flush=True)
        for name, path in (item.split("=", 1) for item in args.also):
            found = evaluated(path, args, "--reference", scores)
            print(f"| {name} | {found['perplexity']:.3f} | {increase(found)} | | | |", flush=True)
    print(f"\n{found['tokens']} predicted tokens in windows of {args.length}.")


if __name__ == "__main__":
    main()
