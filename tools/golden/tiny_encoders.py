#!/usr/bin/env python3
"""Tiny encoders with random weights, and their vectors by Hugging Face transformers in float32.

    python tools/golden/tiny_encoders.py tests/fixtures/tiny_encoders

Writes one folder for each case (config.json, model.safetensors, expected.json; modules.json and 1_Pooling/config.json
where the case pools), about 20 KB each. `expected.json` holds `sequences` of token ids of different lengths and
`vectors`, one for each: mean of the states scaled to length 1 (bert), state of the first token (roberta), logits (the
classifiers). Each sequence is run alone. Seeds are fixed; made with transformers 5.23.0 and torch 2.15.0.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

SIZES = dict(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    vocab_size=48,
    max_position_embeddings=40,
)
ROBERTA = dict(**SIZES, pad_token_id=1, type_vocab_size=1, layer_norm_eps=1e-5)
CASES = {
    "bert": BertModel(BertConfig(**SIZES)),
    "bert_classifier": BertForSequenceClassification(BertConfig(**SIZES, hidden_act="gelu_new", num_labels=3)),
    "roberta": RobertaModel(RobertaConfig(**ROBERTA)),
    "roberta_classifier": RobertaForSequenceClassification(RobertaConfig(**ROBERTA, num_labels=2)),
}
POOLING = {"bert": "mean_tokens", "roberta": "cls_token"}
LENGTHS = [1, 7, 20, 33]


def vector(name, model, tokens):
    output = model(torch.tensor([tokens]))
    if name == "bert":
        return torch.nn.functional.normalize(output.last_hidden_state[0].mean(0), dim=0)
    return output.last_hidden_state[0, 0] if name == "roberta" else output.logits[0]


def write_modules(folder, mode):
    steps = ["Transformer", "Pooling"] + (["Normalize"] if mode == "mean_tokens" else [])
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": at, "name": str(at), "path": paths[at], "type": f"sentence_transformers.models.{step}"}
        for at, step in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    flags = {f"pooling_mode_{known}": known == mode for known in ["cls_token", "mean_tokens", "max_tokens"]}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 24, **flags}))


def main():
    for seed, (name, model) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        folder = Path(sys.argv[1]) / name
        with torch.no_grad():
            for tensor, parameter in model.eval().named_parameters():
                # Large enough that attention is far from uniform and GELU far from linear.
                parameter.normal_(1.0 if "LayerNorm.weight" in tensor else 0.0, 0.4)
            sequences = [torch.randint(2, 48, (length,)).tolist() for length in LENGTHS]
            vectors = [vector(name, model, tokens).tolist() for tokens in sequences]
        model.save_pretrained(folder)
        if name in POOLING:
            write_modules(folder, POOLING[name])
        expected = {"sequences": sequences, "vectors": [[round(v, 7) for v in row] for row in vectors]}
        (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
