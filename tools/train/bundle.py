"""What the repository carries: model, tokenizer, token files, training curve and the numbers of the model card.

    python bundle.py --work WORK --suites ../../suites
"""

import argparse
import csv
import hashlib
import json
from pathlib import Path

import matplotlib
import numpy
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from tokenizers import Tokenizer

import choice
import texts
from data import Tokens, loss_by_genre
from model import Config, Scribe, loss
from prepare import END_OF_TEXT

SEED = 7
CALIBRATION = {"address": 40, "novel": 30, "scripture": 30}  # training documents, spread evenly
CALIBRATION_TOKENS = 1024  # of each, at most


def tokenizer_files(work: Path, folder: Path) -> str:
    """Write tokenizer.json and its configuration; return the hash by which token files name their tokenizer."""
    data = (work / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(data)
    names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    settings = names | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": Config().max_position_embeddings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return hashlib.sha256(data).hexdigest()


def token_file(file: Path, arrays: dict, kind: str, tokenizer: str, names: list[str]) -> None:
    metadata = {"kind": kind, "tokenizer": tokenizer, "genres": json.dumps(texts.GENRES), "names": json.dumps(names)}
    save_file(arrays, str(file), metadata)


def calibration(train: Tokens) -> tuple[dict, list[str]]:
    """The beginnings of training documents, some of every genre."""
    chosen = []
    for genre, name in enumerate(texts.GENRES):
        own = numpy.flatnonzero(train.genres == genre)
        chosen += list(own[numpy.linspace(0, len(own) - 1, CALIBRATION[name]).round().astype(int)])
    ids = train.ids.numpy().astype(numpy.uint16)
    parts = [ids[train.starts[d] : min(train.starts[d + 1], train.starts[d] + CALIBRATION_TOKENS)] for d in chosen]
    arrays = {
        "ids": numpy.concatenate(parts),
        "starts": numpy.concatenate([[0], numpy.cumsum([len(p) for p in parts])]).astype(numpy.uint32),
        "genres": train.genres[chosen],
    }
    return arrays, [train.names[d] for d in chosen]


def draw_curve(curve: list[dict], file: Path) -> None:
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "scribe"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    tokens = [float(row["tokens"]) / 1e6 for row in curve]
    axes.plot(tokens, [float(row["train"]) for row in curve], color="0.6", label="training text")
    for name in texts.GENRES:
        axes.plot(tokens, [float(row[name]) for row in curve], marker=".", label=f"validation: {name}")
    axes.set(xlabel="tokens read (millions)", ylabel="loss (nats a token)", title="scribe-7m: training")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None})


@torch.no_grad()
def write_expected(model, work: Path, suites: Path, name: str) -> None:
    """Losses of some held-out windows under PyTorch's own arithmetic, which a test of this repository compares with."""
    held_out = Tokens(work / "held-out.npz")
    windows = [window for genre in range(len(texts.GENRES)) for window in held_out.windows_of_genre(genre, 128, 4)]
    cases = [{"ids": window.tolist(), "loss": loss(model, window[None]).item()} for window in windows]
    folder = suites.parent / "tests" / "fixtures" / "scribe"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(cases) + "\n")


def bundle(work: Path, suites: Path) -> None:
    model_folder, data_folder = suites / "models" / "scribe-7m", suites / "data" / "scribe-7m"
    for folder in (model_folder, data_folder):
        folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_files(work, model_folder)

    model = Scribe(Config())
    model.load_state_dict(torch.load(work / "checkpoint.pt")["model"])
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_tensors(tensors, str(model_folder / "model.safetensors"), {"format": "pt"})
    config = Config().huggingface("float16")
    (model_folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    model.load_state_dict({name: value.float() for name, value in tensors.items()})

    write_expected(model, work, suites, "scribe-7m")

    held_out, train = Tokens(work / "held-out.npz"), Tokens(work / "train.npz")
    arrays = {
        "ids": held_out.ids.numpy().astype(numpy.uint16),
        "starts": held_out.starts.astype(numpy.uint32),
        "genres": held_out.genres,
    }
    token_file(data_folder / "heldout.safetensors", arrays, "tokens", tokenizer, held_out.names)
    arrays, names = calibration(train)
    token_file(data_folder / "calibration.safetensors", arrays, "tokens", tokenizer, names)

    vocabulary = Tokenizer.from_file(str(work / "tokenizer.json")).get_vocab()
    begins_word = numpy.zeros(len(vocabulary), dtype=bool)
    begins_word[[i for token, i in vocabulary.items() if token.startswith("\u0120") and len(token) > 1]] = True
    task = choice.items(dict(numpy.load(work / "held-out.npz")), texts.GENRES, begins_word, SEED)
    token_file(data_folder / "choice.safetensors", task, "choice", tokenizer, held_out.names)

    with open(work / "curve.csv", newline="") as file:
        draw_curve(list(csv.DictReader(file)), model_folder / "training.svg")

    losses = loss_by_genre(model, held_out, texts.GENRES, length=256, at_most=None)
    correct = choice.accuracy(model, task)
    print("| genre | held-out loss (windows of 256) | perplexity | choice accuracy |\n|---|---|---|---|")
    for genre, name in enumerate(texts.GENRES):
        own = correct[task["genres"] == genre]
        print(f"| {name} | {losses[name]:.4f} | {numpy.exp(losses[name]):.2f} | {own.mean():.1%} of {len(own)} |")
    print(f"| all | | | {correct.mean():.1%} of {len(correct)} |")
    for folder in (model_folder, data_folder):
        for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
            print(f"| {file.name} | {file.stat().st_size} | {hashlib.sha256(file.read_bytes()).hexdigest()} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--suites", type=Path, default=Path(__file__).parents[2] / "suites")
    arguments = parser.parse_args()
    bundle(arguments.work, arguments.suites)
