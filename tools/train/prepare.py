"""Texts -> tokenizer and token ids: `work/tokenizer.json`, `work/{train,validation,held-out}.npz`."""

import argparse
from pathlib import Path

import numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import texts

VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"  # id 0: opens every document


def train_tokenizer(documents: list[texts.Document]) -> Tokenizer:
    """Byte-level BPE learned on the training documents only."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((d.text for d in documents if d.split == "train"), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[texts.Document]) -> dict[str, numpy.ndarray]:
    """ids: all documents in a row, each opened by id 0; starts: where each begins, with the end as last entry."""
    encoded = [[0, *encoding.ids] for encoding in tokenizer.encode_batch([d.text for d in documents])]
    lengths = [len(ids) for ids in encoded]
    return {
        "ids": numpy.concatenate([numpy.array(ids, dtype=numpy.uint16) for ids in encoded]),
        "starts": numpy.concatenate([[0], numpy.cumsum(lengths)]).astype(numpy.uint32),
        "genres": numpy.array([texts.GENRES.index(d.genre) for d in documents], dtype=numpy.uint8),
        "names": numpy.array([d.name for d in documents]),
    }


def prepare(work: Path) -> None:
    documents = texts.read_all(work / "texts")
    tokenizer = train_tokenizer(documents)
    tokenizer.save(str(work / "tokenizer.json"))
    for split in ("train", "validation", "held-out"):
        chosen = [d for d in documents if d.split == split]
        data = encode(tokenizer, chosen)
        numpy.savez(work / f"{split}.npz", **data)
        for genre, name in enumerate(texts.GENRES):
            own = [i for i, g in enumerate(data["genres"]) if g == genre]
            tokens = sum(int(data["starts"][i + 1] - data["starts"][i]) for i in own)
            size = sum(len(chosen[i].text.encode()) for i in own)
            print(f"{split:10} {name:9} {len(own):5} documents {tokens:9} tokens {size / tokens:.2f} bytes a token")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    prepare(parser.parse_args().work)
