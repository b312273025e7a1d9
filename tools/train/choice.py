"""The `choice` task: a passage of held-out text and four continuations, one true.

Passage and continuations are `PASSAGE` and `CONTINUATION` tokens. Items do not overlap. Every continuation begins with a
token that begins a word, and the false ones come from other documents of the same genre, so that neither a broken word
nor a change of genre gives the answer away.
"""

import numpy

PASSAGE, CONTINUATION, CHOICES = 48, 16, 4
ITEMS = {"address": 1300, "novel": 400, "scripture": 700}


def places(data, genre: int, begins_word: numpy.ndarray) -> list[tuple[int, int]]:
    """(document, place of its true continuation) of every item that fits, without overlaps, in order."""
    found = []
    for document in numpy.flatnonzero(data["genres"] == genre):
        at, end = int(data["starts"][document]) + 1, int(data["starts"][document + 1])
        while at + PASSAGE + CONTINUATION <= end:
            answer = at + PASSAGE
            if begins_word[data["ids"][answer]]:
                found.append((int(document), answer))
                at = answer + CONTINUATION
            else:
                at += 1
    return found


def items(data, genres: list[str], begins_word: numpy.ndarray, seed: int) -> dict[str, numpy.ndarray]:
    """`ids`, `items` (n, 6), `answers`, `genres` and `documents`, as docs/FORMATS.md describes them."""
    random = numpy.random.default_rng(seed)
    ids, bounds, answers, item_genres, documents = [], [], [], [], []
    for genre, name in enumerate(genres):
        candidates = places(data, genre, begins_word)
        if len(candidates) < ITEMS[name]:
            raise SystemExit(f"{name}: {len(candidates)} items fit, expected at least {ITEMS[name]}")
        chosen = sorted(random.choice(len(candidates), ITEMS[name], replace=False))
        for document, true in (candidates[i] for i in chosen):
            others = [at for other, at in candidates if other != document]
            wrong = [others[i] for i in random.choice(len(others), CHOICES - 1, replace=False)]
            answer = int(random.integers(CHOICES))
            starts = [*wrong[:answer], true, *wrong[answer:]]
            begin = sum(map(len, ids))
            ids.append(data["ids"][true - PASSAGE : true])
            ids += [data["ids"][at : at + CONTINUATION] for at in starts]
            bounds.append([begin, *(begin + PASSAGE + CONTINUATION * i for i in range(CHOICES + 1))])
            answers.append(answer)
            item_genres.append(genre)
            documents.append(document)
    return {
        "ids": numpy.concatenate(ids).astype(numpy.uint16),
        "items": numpy.array(bounds, dtype=numpy.uint32),
        "answers": numpy.array(answers, dtype=numpy.uint8),
        "genres": numpy.array(item_genres, dtype=numpy.uint8),
        "documents": numpy.array(documents, dtype=numpy.uint32),
    }


def accuracy(model, task: dict[str, numpy.ndarray]) -> numpy.ndarray:
    """Whether the model picks the true continuation of each item: the one whose tokens have the largest likelihood."""
    import torch

    correct = []
    ids = torch.from_numpy(task["ids"].astype(numpy.int64))
    with torch.no_grad():
        for bounds, answer in zip(task["items"].astype(int), task["answers"], strict=True):
            passage = ids[bounds[0] : bounds[1]]
            rows = torch.stack([torch.cat([passage, ids[a:b]]) for a, b in zip(bounds[1:-1], bounds[2:], strict=True)])
            losses = model(rows)[:, len(passage) - 1 : -1].log_softmax(-1)
            likelihood = losses.gather(-1, rows[:, len(passage) :, None]).sum((1, 2))
            correct.append(int(likelihood.argmax()) == int(answer))
    return numpy.array(correct)
