#!/usr/bin/env python3
"""Tiny decoders with random weights, and their logits by Hugging Face transformers in float32.

    python tools/golden/tiny_models.py tests/fixtures/tiny_models

Writes one folder for each family (config.json, model.safetensors, expected.json), about 30 KB each. `expected.json`
holds `tokens` and `logits`, one row for each token. Seeds are fixed; made with transformers 5.23.0 and torch 2.15.0.
Needs torch and transformers.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SIZES = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=48,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
FAMILIES = {
    # Heads wider than hidden_size / heads; biases everywhere; stretched frequencies.
    "llama": LlamaConfig(
        **SIZES, head_dim=8, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3, tie_word_embeddings=True
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=5, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SIZES, head_dim=6, tie_word_embeddings=True),
}


def main():
    folder = Path(sys.argv[1])
    for seed, (name, config) in enumerate(FAMILIES.items()):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            for tensor, parameter in model.named_parameters():
                # Large enough that attention is far from uniform and SiLU far from linear.
                parameter.normal_(1.0 if "norm" in tensor else 0.0, 0.4)
            tokens = torch.randint(0, config.vocab_size, (1, 20))
            logits = model(tokens).logits[0]
        model.save_pretrained(folder / name)
        (folder / name / "generation_config.json").unlink(missing_ok=True)
        expected = {"tokens": tokens[0].tolist(), "logits": [[round(v, 6) for v in row] for row in logits.tolist()]}
        (folder / name / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
