#!/usr/bin/env python3
"""How often the gate finds a slowdown that is there, and one that is not: repeats `bench gate --base` on the bundled model,
with base and head the same program and a busy wait planted in head's workers.

    python3 tools/gate_repetitions.py --program target/release/bench --repetitions 20 --slowdown 0 --slowdown 0.1

Prints one line a gate and the counts of exit codes. Both variants of the suite are gated, prefill and decode each, with the
default tolerance, blocks and budget.
"""

import argparse
import collections
import os
import pathlib
import re
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

SUITE = """
title = "two variants of scribe-7m"
model = "path:{root}/suites/models/scribe-7m"
[[task]]
kind = "perplexity"
data = "path:{root}/suites/data/scribe-7m/heldout.safetensors"
length = 256
windows = 8
[workload]
prompt = 128
generate = 64
threads = [1]
iterations = 5
[accept]
accuracy = {{ metric = "perplexity", max_increase_percent = 1.0 }}
[[variant]]
name = "int8-ptq"
method = "rtn"
weights = {{ bits = 8, granularity = "channel" }}
activations = {{ bits = 8, granularity = "token", mode = "dynamic" }}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--slowdown", action="append", required=True, metavar="SHARE")
    options = parser.parse_args()
    program = options.program.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "two.toml").write_text(SUITE.format(root=ROOT))
        base = scratch / "base.sh"
        base.write_text(f'#!/bin/sh\nunset BENCH_SLOWDOWN\nexec "{program}" "$@"\n')
        base.chmod(0o755)
        for slowdown in options.slowdown:
            codes = collections.Counter()
            for number in range(options.repetitions):
                began = time.monotonic()
                command = [program, "gate", "two.toml", "--base", base, "--out", f"gate-{slowdown}-{number}", "--quiet"]
                environment = dict(os.environ, BENCH_SLOWDOWN=slowdown, COLUMNS="200")
                ended = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True)
                codes[ended.returncode] += 1
                seconds = time.monotonic() - began
                gate = (scratch / f"gate-{slowdown}-{number}" / "gate.json").read_text()
                blocks = re.findall(r"against base.*?in (\d+) blocks", gate, re.DOTALL)
                print(f"slowdown {slowdown}, {number + 1}: exit code {ended.returncode} in {seconds:.0f} s, "
                      f"blocks {', '.join(blocks)}", flush=True)
            counts = ", ".join(f"{count} with exit code {code}" for code, count in sorted(codes.items()))
            print(f"slowdown {slowdown}: of {options.repetitions} gates {counts}", flush=True)


if __name__ == "__main__":
    main()
