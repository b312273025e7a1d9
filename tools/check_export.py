#!/usr/bin/env python3
"""Load a model that quantbench wrote with the software of its format, and compare perplexities on the same tokens.

    bench quantize MODEL --recipe @int4.toml -o int4                           # or: --format gguf -o int4.gguf
    bench eval int4 --text bundled:scribe-7m/heldout --per-token scores.csv
    python tools/check_export.py int4 scores.csv                               # or: int4.gguf

A folder is loaded by transformers with compressed-tensors (f32), a GGUF file by llama.cpp through llama-cpp-python. The
tokens are those of `scores.csv` (window, position, token, nll; the first of a window has no nll). Ends with exit code 1 where the means of the log-likelihoods differ by more than
--tolerance (nats a token). llama.cpp rounds the inputs of quantized layers to 8 bits, which quantbench's weight-only
kernels do not: expect some thousandths there, and some millionths from transformers.

Needs torch, transformers and compressed-tensors, or llama-cpp-python; used with 2.15, 5.23, 0.20 and 0.3.36.
"""

import argparse
import sys
from pathlib import Path

import numpy

from token_scores import read_scores


def negative_log_likelihoods(logits, targets):
    """NLL of `targets` under the rows of `logits`, in f64."""
    logits = logits.astype(numpy.float64)
    largest = logits.max(axis=1, keepdims=True)
    sums = numpy.log(numpy.exp(logits - largest).sum(axis=1)) + largest[:, 0]
    return sums - logits[numpy.arange(len(targets)), targets]


def transformers_logits(folder):
    """Logits behind every token of a window but the last, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    @torch.inference_mode()
    def logits(ids):
        return model(torch.tensor([ids[:-1]])).logits[0].float().numpy()

    return logits


def llama_cpp_logits(file, length):
    """The same by llama.cpp."""
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=length, n_batch=length, n_ubatch=length, logits_all=True, verbose=False)

    def logits(ids):
        model.reset()
        model.eval(ids[:-1])
        return numpy.array(model.scores[: len(ids) - 1])

    return logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--windows", type=int, default=100, help="compare at most this many, spread evenly")
    parser.add_argument("--tolerance", type=float, default=0.005)
    arguments = parser.parse_args()

    windows = list(read_scores(arguments.scores).values())
    windows = windows[:: -(-len(windows) // arguments.windows)]
    longest = max(len(ids) for ids, _ in windows)
    of = transformers_logits(arguments.model) if arguments.model.is_dir() else llama_cpp_logits(arguments.model, longest)
    theirs = numpy.concatenate([negative_log_likelihoods(of(ids), ids[1:]) for ids, _ in windows])
    ours = numpy.concatenate([nll for _, nll in windows])
    difference = ours.mean() - theirs.mean()
    print(f"{len(ours)} tokens in {len(windows)} windows")
    print(f"perplexity: quantbench {numpy.exp(ours.mean()):.4f}, the other {numpy.exp(theirs.mean()):.4f}")
    print(f"mean log-likelihood differs by {difference:.2e} nats, a token's by at most {abs(ours - theirs).max():.2e}")
    sys.exit(int(abs(difference) > arguments.tolerance))


if __name__ == "__main__":
    main()
