"""Measures the rows of `rows.py` and writes docs/PERFORMANCE.md; `run.py` calls it.

A point is a row at a number of threads. Its configurations first run in a few blocks for choosing; the fastest of each
engine goes on. Then every block holds one slot of ours and one of each engine left, in random order, each a fresh
process (`slot.py`): drift of the machine falls on all alike and cancels in the ratio within a block.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from models import Models
from report import write_report
from rows import ROWS

HERE = Path(__file__).resolve().parent
OURS = "quantbench"
#: Rest before a slot, so that the one before it has ended for the system, too.
REST_S = 0.2


def ours(row, threads, arguments, models, seed):
    """One slot of ours."""
    count = "--generate" if row.work == "decode" else "--prompt"
    silent = {"prefill": ["--generate", "0"], "decode": ["--prompt", "0"], "encode": []}[row.work]
    command = [arguments.bench, "speed", models.path(row.ours), count, str(row.tokens), *silent, *row.options]
    command += ["--batch", str(row.batch), "--threads", str(threads), "--repeat", str(arguments.repeat)]
    found = json.loads(output([*command, "--seed", str(seed), "--json"], isa="avx2" if arguments.avx2 else ""))
    (speed,) = found["speeds"]
    kernels = {f"{kernel['matrices']} x {kernel['kernel']}" for kernel in speed["kernels"]}
    return {"seconds": speed["seconds"], "ran": ", ".join(sorted(kernels))}


def theirs(peer, row, threads, arguments, models, seed):
    """One slot of a peer."""
    job = {"work": row.work, "tokens": row.tokens, "batch": row.batch, "threads": threads, "seed": seed}
    job |= {"model": str(models.path(peer.model)), "repeat": arguments.repeat, **peer.settings}
    job["vocabulary"] = 30522 if row.work == "encode" else 49152
    python = arguments.llama_python if peer.engine == "llama.cpp" else sys.executable
    return json.loads(output([python, HERE / peer.script, json.dumps(job)]).splitlines()[-1])


def output(command, isa=""):
    """What a command prints; an error with its last words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "BENCH_ISA": isa})
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    return done.stdout


class Point:
    """A row at a number of threads: its slots, and the configurations that are left."""

    def __init__(self, row, threads, arguments, models, record):
        self.row, self.threads, self.arguments, self.models, self.record = row, threads, arguments, models, record
        # Other engines cannot be held to AVX2 alike.
        self.peers = [peer for peer in row.peers if peer.engine == "llama.cpp" or not arguments.avx2]
        self.seconds = {}

    def measure(self, order):
        for block in range(self.arguments.choose):
            self.block("choose", block, [OURS, *self.peers], order)
        left = [OURS, *self.fastest()]
        for block in range(self.arguments.blocks):
            self.block("measure", block, left, order)

    def fastest(self):
        """The fastest configuration of each engine that ran."""
        best = {}
        for peer in self.peers:
            typical = self.seconds.get(peer)
            if typical and typical < self.seconds.get(best.get(peer.engine), float("inf")):
                best[peer.engine] = peer
        return best.values()

    def block(self, stage, block, configurations, order):
        for configuration in order.sample(configurations, len(configurations)):
            mine = configuration == OURS
            label = " ".join([OURS, self.row.ours, *self.row.options]) if mine else configuration.label
            engine = OURS if mine else configuration.engine
            slot = {"row": self.row.name, "work": self.row.work, "tokens": self.row.tokens * self.row.batch}
            slot |= {"threads": self.threads, "engine": engine, "label": label, "stage": stage, "block": block}
            slot["measured"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
            seed = order.randrange(1, 2**31)
            time.sleep(REST_S)
            try:
                if mine:
                    slot |= ours(self.row, self.threads, self.arguments, self.models, seed)
                else:
                    slot |= theirs(configuration, self.row, self.threads, self.arguments, self.models, seed)
                # The best of the blocks for choosing: a disturbed slot must not cost a configuration its place.
                typical = median(slot["seconds"])
                self.seconds[configuration] = min(typical, self.seconds.get(configuration, typical))
                said = f"{slot['tokens'] / typical:.1f} tokens/s"
            except (RuntimeError, subprocess.CalledProcessError) as error:
                slot["error"] = said = str(error)
            self.record(slot)
            print(f"{self.row.name}, {self.threads} threads, {stage} {block}: {label}: {said}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--llama-python", type=Path, required=True)
    parser.add_argument("--bench", type=Path, default=Path("target/release/bench"))
    parser.add_argument("--rows", default="", help="only rows whose name holds this")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--choose", type=int, default=2, help="blocks that choose each engine's configuration")
    parser.add_argument("--blocks", type=int, default=8, help="blocks that are compared")
    parser.add_argument("--repeat", type=int, default=5, help="timed repetitions in a slot")
    parser.add_argument("--out", type=Path, default=Path("docs/PERFORMANCE.md"))
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    arguments.bench = arguments.bench.resolve()
    results = arguments.work / ("avx2" if arguments.avx2 else "native")
    results.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        machine = json.loads(output([arguments.bench, "machine", "--json"], isa="avx2" if arguments.avx2 else ""))
        machine["version"] = output([arguments.bench, "--version"]).strip()
        (results / "machine.json").write_text(json.dumps(machine, indent=1))
        models = Models(arguments.work, arguments.bench, arguments.llama_python)
        order = random.Random(1)
        rows = [row for row in ROWS if arguments.rows in row.name and not (arguments.avx2 and row.work == "encode")]
        if not rows:
            parser.error(f"no row's name holds {arguments.rows!r}")
        for row in rows:
            for threads in arguments.threads:
                file = results / f"{row.name}, {threads}.jsonl"
                file.unlink(missing_ok=True)

                def record(slot, file=file):
                    with file.open("a") as lines:
                        lines.write(json.dumps(slot) + "\n")

                Point(row, threads, arguments, models, record).measure(order)
    write_report(results, arguments.out, HERE / "notes.toml")


if __name__ == "__main__":
    main()
