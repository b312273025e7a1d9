"""What is compared: rows of work, each with our variant and the configurations of the peers that may answer it.

A peer belongs to a row where its weights have the row's format and its arithmetic is no wider than the row says; of an
engine's configurations the fastest counts.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peer:
    """One configuration of another engine."""

    engine: str
    #: The script of its slot.
    script: str
    #: Name of its model in `models.py`.
    model: str
    #: Settings, as the script takes them.
    settings: dict = field(default_factory=dict, hash=False)

    @property
    def label(self):
        return " ".join([self.engine, self.model, *(f"{key}={value}" for key, value in self.settings.items())])


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    #: `prefill`, `decode` or `encode`.
    work: str
    tokens: int
    batch: int
    #: Our model by its name in `models.py`, and options of `bench speed`.
    ours: str
    options: tuple
    peers: tuple
    #: Ratio to the fastest peer that we want, set on a processor with AMX; `None` where being ahead is all.
    target: float | None


def llama_cpp(model):
    return tuple(Peer("llama.cpp", "llama_cpp_slot.py", model, {"flash": flash}) for flash in (False, True))


def openvino(model, *precisions):
    return tuple(Peer("OpenVINO", "openvino_slot.py", model, {"precision": precision}) for precision in precisions)


def torch(model, precision):
    return (Peer("PyTorch", "torch_slot.py", model, {"precision": precision}),)


def onnx(model):
    return (Peer("ONNX Runtime", "onnx_slot.py", model),)


#: Format, our model and options, peers; prompts are run by PyTorch, too.
DECODER_FORMATS = [
    ("8-bit", "ours-int8", (), llama_cpp("q8_0.gguf") + openvino("ov-int8", "bf16", "f32"), ()),
    ("4-bit", "ours-int4", (), llama_cpp("q4_0.gguf") + openvino("ov-int4", "bf16", "f32"), ()),
    ("FP16", "smollm2.gguf", ("--as", "fp16"), llama_cpp("f16.gguf") + openvino("ov-f16", "f32"), ()),
    ("BF16", "smollm2.gguf", ("--as", "bf16"), llama_cpp("bf16.gguf") + openvino("ov-f16", "bf16"), torch("hf-f32", "bfloat16")),
    ("FP32", "smollm2.gguf", ("--as", "fp32"), llama_cpp("f32.gguf") + openvino("ov-f32", "f32"), torch("hf-f32", "float32")),
]
ENCODER_FORMATS = [
    ("FP32", "minilm", ("--as", "fp32"), onnx("minilm.onnx") + openvino("ov-minilm", "f32") + torch("minilm", "float32")),
    ("BF16", "minilm", ("--as", "bf16"), openvino("ov-minilm", "bf16") + torch("minilm", "bfloat16")),
    ("INT8", "ours-minilm-int8", (), onnx("minilm-int8.onnx") + openvino("ov-minilm-int8", "f32", "bf16")),
]

#: By work, then by format in the order above; encoders by shape, too.
TARGETS = {
    "prefill": (3.0, 2.5, None, 2.0, 1.5),
    "decode": (1.4, 1.2, 1.25, 1.25, None),
    (1, 32): (1.25, 1.5, 2.0),
    (1, 128): (1.25, 1.5, 2.0),
    (32, 128): (1.25, 2.0, 3.0),
}

ROWS = [
    Row(f"SmolLM2-135M, prefill 512, {name}", "prefill", 512, 1, ours, options, peers + prompts, target)
    for (name, ours, options, peers, prompts), target in zip(DECODER_FORMATS, TARGETS["prefill"])
]
ROWS += [
    Row(f"SmolLM2-135M, decode 128, {name}", "decode", 128, 1, ours, options, peers, target)
    for (name, ours, options, peers, _), target in zip(DECODER_FORMATS, TARGETS["decode"])
]
ROWS += [
    Row(f"all-MiniLM-L6-v2, {batch} x {tokens}, {name}", "encode", tokens, batch, ours, options, peers, target)
    for batch, tokens in [(1, 32), (1, 128), (32, 128)]
    for (name, ours, options, peers), target in zip(ENCODER_FORMATS, TARGETS[batch, tokens])
]
