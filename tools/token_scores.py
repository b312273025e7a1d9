"""The scores that `bench eval --per-token` writes."""

import csv


def read_scores(path):
    """`{window: (ids, log-likelihoods of all but the first)}` in the order of the file."""
    windows = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            ids, nll = windows.setdefault(int(row["window"]), ([], []))
            ids.append(int(row["token"]))
            if row["nll"]:
                nll.append(float(row["nll"]))
    return windows
