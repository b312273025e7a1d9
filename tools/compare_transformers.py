#!/usr/bin/env python3
"""Compare per-token negative log-likelihoods with Hugging Face transformers.

Loads the same GGUF file through transformers, dequantized to float32, scores the same windows, and compares token by
token with the file that quantbench wrote. Ends with exit code 1 when the two disagree.

    bench eval model.gguf --variant fp32 --text corpus.txt --length 512 --per-token scores.csv
    python tools/compare_transformers.py model.gguf scores.csv --text corpus.txt --length 512

`scores.csv` has a header and the columns window, position, token, nll: the token at `position` of window `window`,
predicted from the tokens before it in the window; the first has no nll. Windows are consecutive, `length` tokens of the
text each, without overlap, behind a beginning-of-sequence token where the model's tokenizer puts one. The ids are made
here by the tokenizer of the same GGUF file, so ids that differ are found, too.

Needs torch, transformers, accelerate and gguf. Takes a minute for 20,000 tokens of a 135M model on two cores.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from token_scores import read_scores


def negative_log_likelihoods(model, ids):
    """NLL of every token but the first, float32 logits, float64 softmax."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    targets = torch.tensor(ids[1:]).unsqueeze(1)
    return -torch.log_softmax(logits.double(), dim=-1).gather(1, targets).squeeze(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the GGUF file")
    parser.add_argument("scores", type=Path, help="per-token scores that quantbench wrote")
    parser.add_argument("--text", type=Path, required=True, help="the text that was scored")
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--max-token", type=float, default=1e-3, help="largest absolute difference of a token, nats")
    parser.add_argument("--max-sum", type=float, default=1e-4, help="largest relative difference of the sum")
    arguments = parser.parse_args()

    source = {"pretrained_model_name_or_path": arguments.model.parent, "gguf_file": arguments.model.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
    ids = tokenizer(arguments.text.read_text(), add_special_tokens=False)["input_ids"]

    ours_sum = theirs_sum = worst = 0.0
    tokens = 0
    for window, (scored, ours) in read_scores(arguments.scores).items():
        expected = ids[window * arguments.length : (window + 1) * arguments.length]
        if len(scored) > len(expected):
            expected = [tokenizer.bos_token_id, *expected]
        if scored != expected:
            sys.exit(f"window {window}: the tokens differ from those of the transformers tokenizer")
        ours = torch.tensor(ours, dtype=torch.float64)
        theirs = negative_log_likelihoods(model, expected)
        ours_sum += ours.sum().item()
        theirs_sum += theirs.sum().item()
        worst = max(worst, (ours - theirs).abs().max().item())
        tokens += len(ours)

    relative = abs(ours_sum - theirs_sum) / theirs_sum
    print(f"tokens {tokens}, mean nll: quantbench {ours_sum / tokens:.7f}, transformers {theirs_sum / tokens:.7f}")
    print(f"relative difference of the sum {relative:.2e} (allowed {arguments.max_sum:.0e})")
    print(f"largest difference of a token {worst:.2e} nats (allowed {arguments.max_token:.0e})")
    if not (relative <= arguments.max_sum and worst <= arguments.max_token):
        sys.exit("the two disagree")


if __name__ == "__main__":
    main()
