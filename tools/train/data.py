"""Windows of token ids, drawn so that step N is the same whether or not the run was interrupted before it."""

from pathlib import Path

import numpy
import torch


class Tokens:
    """The documents of one split, in a row."""

    def __init__(self, file: Path):
        arrays = numpy.load(file)
        self.ids = torch.from_numpy(arrays["ids"].astype(numpy.int64))
        self.starts = arrays["starts"].astype(numpy.int64)
        self.genres = arrays["genres"]
        self.names = [str(name) for name in arrays["names"]]

    def batch(self, seed: int, step: int, windows: int, length: int) -> torch.Tensor:
        """`windows` random windows (windows, length), places drawn from (seed, step)."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        places = torch.randint(0, len(self.ids) - length, (windows,), generator=generator)
        return torch.stack([self.ids[place : place + length] for place in places])

    def windows_of_genre(self, genre: int, length: int, at_most: int | None = None) -> torch.Tensor:
        """Whole windows (n, length) of the genre's documents, none reaching over a document's end."""
        found = []
        for document in numpy.flatnonzero(self.genres == genre):
            start, end = self.starts[document], self.starts[document + 1]
            found += [self.ids[at : at + length] for at in range(start, end - length + 1, length)]
        return torch.stack(found[:at_most])


@torch.no_grad()
def loss_by_genre(model, tokens: Tokens, genres: list[str], length: int = 256, at_most: int | None = 48) -> dict[str, float]:
    """Mean loss (nats a token) of each genre."""
    from model import loss

    result = {}
    for genre, name in enumerate(genres):
        windows = tokens.windows_of_genre(genre, length, at_most)
        sums = [loss(model, part).item() * len(part) for part in windows.split(16)]
        result[name] = sum(sums) / len(windows)
    return result
