#!/usr/bin/env python3
"""Compare sentence embeddings with Hugging Face transformers.

    bench embed path/to/encoder --text sentences.txt --as fp32 > vectors.jsonl
    python tools/compare_encoder.py path/to/encoder vectors.jsonl --text sentences.txt

Embeds each line of the text alone with transformers in float32, with the mean of the states scaled to length 1 (or with
--cls the first state), and prints the smallest cosine and the largest difference of a number. Ends with exit code 1 when
a cosine is below --least. Needs torch and transformers.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the model's folder")
    parser.add_argument("vectors", type=Path, help="what bench embed printed")
    parser.add_argument("--text", type=Path, required=True, help="the text that was embedded")
    parser.add_argument("--cls", action="store_true", help="the first state instead of the mean")
    parser.add_argument("--least", type=float, default=0.999999, help="smallest cosine that passes")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model, dtype=torch.float32).eval()
    sentences = [line for line in args.text.read_text().splitlines() if line.strip()]
    found = [json.loads(line) for line in args.vectors.read_text().splitlines()]
    if len(found) != len(sentences):
        sys.exit(f"{len(found)} vectors of {len(sentences)} sentences")
    cosines, largest = [], 0.0
    for sentence, line in zip(sentences, found):
        inputs = tokenizer(sentence, return_tensors="pt", truncation=True, max_length=512)
        if inputs.input_ids.shape[1] != line["tokens"]:
            sys.exit(f"{line['tokens']} tokens, transformers has {inputs.input_ids.shape[1]}: {sentence!r}")
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state[0]
        expected = states[0] if args.cls else states.mean(0)
        expected = torch.nn.functional.normalize(expected, dim=0).double()
        got = torch.nn.functional.normalize(torch.tensor(line["vector"], dtype=torch.float64), dim=0)
        cosines.append(float(expected @ got))
        largest = max(largest, float((expected - got).abs().max()))
    mean = sum(cosines) / len(cosines)
    print(f"{len(cosines)} sentences: smallest cosine {min(cosines):.9f}, mean {mean:.9f}, largest difference {largest:.2e}")
    sys.exit(min(cosines) < args.least)


if __name__ == "__main__":
    main()
