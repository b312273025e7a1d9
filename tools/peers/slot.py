"""What the slots of all engines share: the job on the command line, random tokens, warm-up, timing, the answer.

A slot is a fresh process. It warms up with at least two repetitions and half a second, then times the job's repetitions,
each with tokens of its own, and prints one line of JSON. `bench speed` does the same with the same tokens.
"""

import json
import sys
import time

MASK = 2**64 - 1


def random_tokens(count, vocabulary, seed):
    """Outputs of SplitMix64 (Steele, Lea & Flood 2014) modulo `vocabulary`."""
    tokens, state = [], seed & MASK
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        tokens.append((z ^ (z >> 31)) % vocabulary)
    return tokens


def job():
    """The job: what `measure.py` wrote as JSON."""
    return json.loads(sys.argv[1])


def run(job, vocabulary, once, ran):
    """Times `once(tokens)`; `ran()` says afterwards in words what ran, as far as the engine tells."""
    count = job["tokens"] * job["batch"]

    def repetition(seed):
        tokens = random_tokens(count, vocabulary, seed)
        began = time.perf_counter()
        once(tokens)
        return time.perf_counter() - began

    began, warmed = time.perf_counter(), 0
    while warmed < 2 or time.perf_counter() - began < 0.5:
        repetition(MASK - warmed)
        warmed += 1
    seconds = [repetition((job["seed"] << 16) + number) for number in range(job["repeat"])]
    print(json.dumps({"seconds": seconds, "ran": ran()}))
