"""Makes tests/fixtures/gguf_blocks.gguf and .f32: a model whose matrices are random blocks of every supported format,
and what the `gguf` package makes of them.

    pip install gguf numpy
    python tools/golden/gguf_blocks.py

The file is a llama of one layer whose tensors carry the formats; query and key rows are in GGUF's order, and the
expected values of those two are put back into the published order, as `transformers` does when it reads GGUF. The .f32
file holds the expected values of all tensors, one after the other, little endian.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"
HEADS, KV_HEADS, HIDDEN, FFN, VOCAB = 4, 2, 256, 32, 4
RANDOM = np.random.default_rng(20261121)

# Tensor, shape (rows, cols), format.
TENSORS = [
    ("token_embd.weight", (VOCAB, HIDDEN), Type.Q6_K),
    ("blk.0.attn_norm.weight", (HIDDEN,), Type.F32),
    ("blk.0.attn_q.weight", (HEADS * 4, HIDDEN), Type.Q4_K),
    ("blk.0.attn_q.bias", (HEADS * 4,), Type.F32),
    ("blk.0.attn_k.weight", (KV_HEADS * 4, HIDDEN), Type.Q4_1),
    ("blk.0.attn_v.weight", (KV_HEADS * 4, HIDDEN), Type.Q4_0),
    ("blk.0.attn_output.weight", (4, HIDDEN), Type.Q8_0),
    ("blk.0.ffn_gate.weight", (4, 6), Type.F16),
    ("blk.0.ffn_up.weight", (4, 6), Type.BF16),
]
# Byte places of the f16 factors in a block; random bytes there could be NaN.
FACTORS = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q4_K: [0, 2], Type.Q6_K: [208]}


def random_blocks(shape, kind):
    """Bytes of a tensor: every byte random but for the factors, which are random finite f16 of either sign."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = RANDOM.integers(0, 256, (shape[0], shape[-1] // block, size), dtype=np.uint8)
    for at in FACTORS[kind]:
        factors = RANDOM.normal(0, 0.1, raw.shape[:2]).astype(np.float16)
        raw[:, :, at : at + 2] = factors[..., None].view(np.uint8)
    return raw.reshape(shape[0], -1)


def published(values, heads):
    """Rows of queries and keys from GGUF's order (rotary partners side by side) to the published one."""
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def main():
    writer = gguf.GGUFWriter(FIXTURES / "gguf_blocks.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    expected = []
    for name, shape, kind in TENSORS:
        if kind in (Type.F32, Type.F16, Type.BF16):
            values = RANDOM.normal(0, 1, shape).astype(np.float32)
            raw = gguf.quantize(values, kind)
        else:
            raw = random_blocks(shape, kind)
        values = gguf.dequantize(raw, kind).astype(np.float32)
        if "attn_q." in name:
            values = published(values, HEADS)
        if "attn_k." in name:
            values = published(values, KV_HEADS)
        expected.append(values.reshape(-1))
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.concatenate(expected).astype("<f4").tofile(FIXTURES / "gguf_blocks.f32")


main()
