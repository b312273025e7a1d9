"""Slots to docs/PERFORMANCE.md: medians, paired ratios with intervals, what ran, what is not met and why."""

import json
import math
import tomllib
from collections import defaultdict
from statistics import median

from scipy import stats

OURS = "quantbench"
CONFIDENCE = 0.95

HEAD = """# Speed beside other engines

Written by `python3 tools/peers/run.py`, which installs the engines, prepares their models, measures and writes this page;
remarks come from `tools/peers/notes.toml`. How our own numbers are made: [METHODOLOGY.md](METHODOLOGY.md).

Every slot is a fresh process: it loads its model, warms up, and times {repeat} repetition(s) on random tokens, the same ones for
all engines. A prompt runs in one pass with the logits of its last token; decoding feeds one token at a time to an empty cache and
makes the logits of each, without sampling. Every engine first runs its configurations in blocks of their own, and the fastest
goes on. The ratio is ours over the fastest peer, the mean over blocks of the logarithm of the ratio of median times within a
block, with Student's t interval at 95 %: ahead is a whole interval above 1, and a target is met by a whole interval above it.
Targets were set for a processor with AMX, whose products of bytes are eight times as fast as those of AVX-512. Absolute speeds
are of this machine at that hour.
"""

TAIL = """
## Not measured

- ik_llama.cpp: no package registry has it.
- OpenVINO GenAI and ONNX Runtime GenAI as wholes: their engines run here without their sampling and scheduling.
- Other engines on AVX2 alone: they cannot be held to it like llama.cpp, whose build says what it may use.
- Accuracy: rows of one format compare like with like in bits, not in what rounding costs; `bench run` measures that here.
"""


def read(folder):
    """Slots by point, `(row, threads)`, in the order of the rows."""
    from rows import ROWS

    points = {}
    for row in ROWS:
        for file in sorted(folder.glob(f"{row.name}, *.jsonl")):
            slots = [json.loads(line) for line in file.read_text().splitlines()]
            points[(row, slots[0]["threads"])] = slots
    return points


def rate(row, seconds):
    """Speed as people of the field say it."""
    if row.work == "encode":
        return f"{1e3 * seconds:.2f} ms"
    tokens = row.tokens * row.batch / seconds
    return f"{tokens:.0f} tok/s" if tokens >= 100 else f"{tokens:.1f} tok/s"


class Comparison:
    """What the measured blocks of a point say."""

    def __init__(self, row, threads, slots, target):
        self.row, self.threads, self.slots, self.wanted = row, threads, slots, target
        self.times = defaultdict(dict)
        for slot in slots:
            if slot["stage"] == "measure" and "seconds" in slot:
                self.times[slot["engine"]][slot["block"]] = median(slot["seconds"])
        peers = [engine for engine in self.times if engine != OURS]
        self.best = min(peers, key=self.typical, default=None)

    def typical(self, engine):
        return median(self.times[engine].values())

    def label(self, engine):
        return next(slot["label"] for slot in reversed(self.slots) if slot["engine"] == engine and "seconds" in slot)

    def ratio(self):
        """Ratio of speeds, ours over the best peer's, with its interval; `None` without two common blocks."""
        if self.best is None or OURS not in self.times:
            return None
        ours, theirs = self.times[OURS], self.times[self.best]
        logs = [math.log(theirs[block] / ours[block]) for block in ours if block in theirs]
        if len(logs) < 2:
            return None
        mean = sum(logs) / len(logs)
        error = math.sqrt(sum((x - mean) ** 2 for x in logs) / (len(logs) - 1) / len(logs))
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * error
        return math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs)

    def above(self, bound):
        """Whether the ratio is above `bound`."""
        ratio = self.ratio()
        if ratio is None:
            return "not measured"
        _, low, high, _ = ratio
        return "yes" if low > bound else "no" if high < bound else "open"

    def target(self):
        """The target and whether it is met."""
        return "" if self.wanted is None else f"{self.wanted}: {self.above(self.wanted)}"

    def is_done(self):
        return self.above(self.wanted or 1) == "yes"


def table(header, lines):
    return "\n".join(["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]]) + "\n"


def main_table(comparisons):
    lines = []
    for c in comparisons:
        ours = rate(c.row, c.typical(OURS)) if OURS in c.times else "does not run yet"
        best = f"{c.label(c.best)}: {rate(c.row, c.typical(c.best))}" if c.best else "none ran"
        ratio = c.ratio()
        ratio = "{:.2f} [{:.2f}, {:.2f}], {} blocks".format(*ratio) if ratio else ""
        measured = c.slots[-1]["measured"].removesuffix(" UTC")
        lines.append([c.row.name, str(c.threads), ours, best, ratio, c.above(1), c.target(), measured])
    return table(["work", "threads", "ours", "fastest peer", "ratio", "ahead", "target", "measured, UTC"], lines)


def all_configurations(comparisons):
    """Median of every configuration, those that were not chosen included."""
    lines = []
    for c in comparisons:
        times, errors = defaultdict(list), {}
        for slot in c.slots:
            if "seconds" in slot:
                times[slot["label"]].append(median(slot["seconds"]))
            else:
                errors[slot["label"]] = slot["error"]
        for label, seconds in sorted(times.items(), key=lambda item: median(item[1])):
            lines.append([c.row.name, str(c.threads), label, rate(c.row, median(seconds)), str(len(seconds))])
        for label in errors.keys() - times.keys():
            lines.append([c.row.name, str(c.threads), label, f"failed: {errors[label]}".replace("|", "/"), "0"])
    return table(["work", "threads", "configuration", "median", "slots"], lines)


def what_ran(comparisons):
    said = defaultdict(set)
    for c in comparisons:
        for slot in c.slots:
            if "ran" in slot:
                said[slot["work"], slot["ran"].replace("|", "/")].add(slot["label"])
    lines = sorted([", ".join(sorted(labels)), work, ran] for (work, ran), labels in said.items())
    return table(["configurations", "work", "what ran, in its own words"], lines)


def unmet(comparisons, notes):
    """Remarks on rows that are below their target, or not ahead; one for all numbers of threads."""
    rows = defaultdict(list)
    for c in comparisons:
        if not c.is_done():
            rows[c.row.name].append(c)
    lines = []
    for name, below in rows.items():
        found = "; ".join(f"{c.threads} thread{'s' * (c.threads > 1)}: ahead {c.above(1)}, target {c.target() or 'none'}" for c in below)
        lines.append(f"- **{name}** ({found}): {notes.get(name, 'no remark yet; write one into `tools/peers/notes.toml`')}")
    return "\n".join(lines or ["Nothing."]) + "\n"


def missing(points, with_encoders):
    """Rows that have no slots, by number of threads."""
    from rows import ROWS

    measured = {(row.name, threads) for row, threads in points}
    rows = [row.name for row in ROWS if with_encoders or row.work != "encode"]
    lines = []
    for threads in (1, 2):
        names = [name for name in rows if (name, threads) not in measured]
        if names:
            lines.append(f"Not measured with {threads} thread{'s' * (threads > 1)}: {'; '.join(names)}.\n")
    return "\n".join(lines)


def section(folder, title, notes):
    """One machine state: all instruction sets, or AVX2 alone."""
    machine = json.loads((folder / "machine.json").read_text())
    points = read(folder)
    times = sorted(slot["measured"] for slots in points.values() for slot in slots)
    # Targets are for a machine's best instructions; with AVX2 alone being ahead is all.
    target = (lambda row: row.target) if folder.name == "native" else lambda _: None
    comparisons = [Comparison(row, threads, slots, target(row)) for (row, threads), slots in points.items()]
    text = [
        f"\n## {title}\n",
        f"{times[0]} to {times[-1]}, {machine['version']}, {machine['cpu']}, {machine['cores']} processors, kernels for "
        f"{machine['isa']} (of {', '.join(machine['instruction_sets'])}), {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['os']}.\n",
        notes.get("remark", ""),
        main_table(comparisons),
        missing(points, folder.name == "native"),
        f"\n### What is not met, why, and what next\n\n{unmet(comparisons, notes)}",
        f"\n### Every configuration\n\n{all_configurations(comparisons)}",
        f"\n### What ran\n\n{what_ran(comparisons)}",
    ]
    return "\n".join(text)


def write_report(folder, out, notes):
    """Writes the page from the slots beside `folder`."""
    notes = tomllib.loads(notes.read_text())
    titles = {"native": "All instruction sets", "avx2": "AVX2 alone, against llama.cpp built for AVX2"}
    folders = [(folder.parent / name, title) for name, title in titles.items()]
    folders = [(folder, title) for folder, title in folders if (folder / "machine.json").exists()]
    sections = [section(folder, title, notes.get(folder.name, {})) for folder, title in folders]
    repeats = {len(slot["seconds"]) for f, _ in folders for slots in read(f).values() for slot in slots if "seconds" in slot}
    out.write_text(HEAD.format(repeat=" or ".join(map(str, sorted(repeats)))) + "".join(sections) + TAIL)
    print(f"wrote {out}")
