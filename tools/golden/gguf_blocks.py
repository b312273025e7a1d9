"""Makes tests/fixtures/gguf_blocks.gguf and .f32: a model whose matrices are blocks of every supported format, and what
the `gguf` package makes of them. Run: pip install gguf==0.19.0 numpy==2.4.6 && python tools/golden/gguf_blocks.py

The file is a llama of two layers whose tensors carry the formats; query and key rows are in GGUF's order, and the
expected values of those are put back into the published order, as `transformers` does when it reads GGUF. The .f32
file holds the expected values of all tensors, one after the other, little endian.

The first two rows of a matrix of blocks hold every byte value equally often, in random order; the third all ones (the
largest codes, 6-bit scales and minimums); the fourth all zeros. The f16 factors are random and of either sign in the
first row, and run through the edges in the others.
"""

from itertools import cycle
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"
HEADS, KV_HEADS, HIDDEN, SHORT, FFN = 2, 1, 256, 128, 32
RANDOM = np.random.default_rng(20261121)

# Tensor, shape (rows, cols), format.
TENSORS = [
    ("token_embd.weight", (4, HIDDEN), Type.Q6_K),
    ("output.weight", (4, HIDDEN), Type.Q2_K),
    ("blk.0.attn_norm.weight", (HIDDEN,), Type.F32),
    ("blk.0.attn_q.weight", (HEADS * 4, HIDDEN), Type.Q4_K),
    ("blk.0.attn_q.bias", (HEADS * 4,), Type.F32),
    ("blk.0.attn_k.weight", (KV_HEADS * 4, SHORT), Type.Q4_1),
    ("blk.0.attn_v.weight", (4, SHORT), Type.Q4_0),
    ("blk.0.attn_output.weight", (4, SHORT), Type.Q8_0),
    ("blk.0.ffn_gate.weight", (4, 6), Type.F16),
    ("blk.0.ffn_up.weight", (4, 6), Type.BF16),
    ("blk.1.attn_q.weight", (HEADS * 4, HIDDEN), Type.Q3_K),
    ("blk.1.attn_k.weight", (KV_HEADS * 4, HIDDEN), Type.Q5_K),
    ("blk.1.attn_v.weight", (4, SHORT), Type.Q5_0),
    ("blk.1.attn_output.weight", (4, SHORT), Type.Q5_1),
    ("blk.1.ffn_gate.weight", (4, SHORT), Type.IQ4_NL),
    ("blk.1.ffn_up.weight", (4, HIDDEN), Type.IQ4_XS),
]
# Byte places of the f16 factors in a block.
FACTORS = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.IQ4_NL: [0],
    Type.IQ4_XS: [0],
}
# The largest and smallest numbers, signed zeros, and some with all bits of the mantissa.
EDGES = np.array([-65504, 2.0**-24, -0.3333, 65504, 0.0, -(2.0**-24), -0.0, 0.0999], dtype=np.float16)


def blocks(shape, kind):
    """Bytes of a tensor, as the module's text says."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.zeros((shape[0], shape[1] // elements, size), dtype=np.uint8)
    places = [at + byte for at in FACTORS[kind] for byte in (0, 1)]
    payload = [at for at in range(size) if at not in places]
    count = 2 * raw.shape[1] * len(payload)
    raw[:2, :, payload] = RANDOM.permutation(np.arange(count) % 256).reshape(2, raw.shape[1], -1)
    raw[2, :, payload] = 255
    edges = cycle(EDGES)
    for row in range(shape[0]):
        for block in range(raw.shape[1]):
            for at in FACTORS[kind]:
                factor = np.float16(RANDOM.normal(0, 0.1)) if row == 0 else next(edges)
                raw[row, block, at : at + 2] = np.array([factor]).view(np.uint8)
    return raw.reshape(shape[0], -1)


def published(values, heads):
    """Rows of queries and keys from GGUF's order (rotary partners side by side) to the published one."""
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def main():
    writer = gguf.GGUFWriter(FIXTURES / "gguf_blocks.gguf", "llama")
    writer.add_block_count(2)
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
            raw = gguf.quantize(RANDOM.normal(0, 1, shape).astype(np.float32), kind)
        else:
            raw = blocks(shape, kind)
        values = gguf.dequantize(raw, kind).astype(np.float32)
        if "attn_q." in name:
            values = published(values, HEADS)
        if "attn_k." in name:
            values = published(values, KV_HEADS)
        assert np.isfinite(values).all(), name
        expected.append(values.reshape(-1))
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.concatenate(expected).astype("<f4").tofile(FIXTURES / "gguf_blocks.f32")


main()
