"""Train scribe-7m: `work/checkpoint.pt` (resumable) and `work/curve.csv`.

Muon for the matrices of the layers, AdamW for the embedding and the norms; a warm-up, then a constant rate, then a
linear descent to zero. The first part reads windows of 256 tokens, the last part windows of 512.
"""

import argparse
import csv
import os
import time
from pathlib import Path

import torch

import texts
from data import Tokens, loss_by_genre
from model import Config, Scribe, loss

SEED = 7
TOKENS_A_STEP = 16_384
MUON_RATE, ADAM_RATE, WEIGHT_DECAY = 4e-3, 6e-3, 0.1
WARM_UP, DESCENT = 30, 0.6  # steps; last share of the run
LONG_WINDOWS = 0.3  # last share of the run, with windows of 512


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step`."""
    return min((step + 1) / WARM_UP, 1.0, (steps - step) / (DESCENT * steps))


def optimizers(model: Scribe) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def save(file: Path, state: dict) -> None:
    torch.save(state, file.with_suffix(".part"))
    os.replace(file.with_suffix(".part"), file)


def train(work: Path, steps: int, compile_model: bool) -> None:
    torch.manual_seed(SEED)
    train_tokens, validation = Tokens(work / "train.npz"), Tokens(work / "validation.npz")
    model = Scribe(Config())
    optimizer_list = optimizers(model)
    step, curve = 0, []
    file = work / "checkpoint.pt"
    if file.exists():
        state = torch.load(file)
        if state["steps"] != steps:
            raise SystemExit(f"{file} belongs to a run of {state['steps']} steps; give --steps {state['steps']} or remove it")
        model.load_state_dict(state["model"])
        for optimizer, stored in zip(optimizer_list, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        step, curve = state["step"], state["curve"]
    run = torch.compile(model) if compile_model else model
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers(model)]

    start, first = time.time(), step
    mean = 0.0
    while step < steps:
        length = 512 if step >= (1 - LONG_WINDOWS) * steps else 256
        ids = train_tokens.batch(SEED, step, TOKENS_A_STEP // length, length)
        for part in ids.split(len(ids) // 2):
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(run, part)
            (value / 2).backward()
            mean += value.item() / 2
        for optimizer, peak in zip(optimizer_list, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(step, steps)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizer_list:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % 25 == 0 or step == steps:
            with torch.autocast("cpu", torch.bfloat16):
                held = loss_by_genre(model, validation, texts.GENRES)
            seen = step * TOKENS_A_STEP
            curve.append({"step": step, "tokens": seen, "train": mean / (step % 25 or 25), **held})
            mean = 0.0
            left = (time.time() - start) / (step - first) * (steps - step) / 60
            print({k: round(v, 4) for k, v in curve[-1].items()}, f"{left:.0f} min left", flush=True)
            save(file, {
                "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizer_list],
                "step": step, "steps": steps, "curve": curve,
            })
    with open(work / "curve.csv", "w", newline="") as out:
        writer = csv.DictWriter(out, fieldnames=list(curve[0]))
        writer.writeheader()
        writer.writerows(curve)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=640)
    parser.add_argument("--compile", action="store_true", help="faster; needs a C++ compiler")
    arguments = parser.parse_args()
    train(arguments.work, arguments.steps, arguments.compile)
