"""Converts a model for OpenVINO or ONNX Runtime: `convert.py NAME TO FROM`, names as in `models.py`."""

import sys
from pathlib import Path

import numpy

name, target, source = sys.argv[1], Path(sys.argv[2]), sys.argv[3]


def random_ids(batch, tokens):
    """Random tokens: they decide neither the graph nor its speed."""
    return numpy.random.default_rng(1).integers(1000, 30000, (batch, tokens))


def encoder():
    """The encoder as a function of its tokens, with an example of them."""
    import torch
    import transformers
    from transformers.models.bert import modeling_bert

    # Whole sequences need no mask, and transformers 5.5 cannot trace the making of one.
    modeling_bert.create_bidirectional_mask = lambda *_, **__: None
    model = transformers.AutoModel.from_pretrained(source, dtype=torch.float32).eval()

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids):
            return self.model(input_ids=input_ids).last_hidden_state

    return Encoder(), torch.tensor(random_ids(2, 16))


def decoder(bits=None, **scheme):
    """A stateful decoder with weights in `bits` bits, by optimum-intel."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    quantization = {"quantization_config": OVWeightQuantizationConfig(bits=bits, **scheme)} if bits else {"load_in_8bit": False}
    OVModelForCausalLM.from_pretrained(source, export=True, compile=False, **quantization).save_pretrained(target)


def halved():
    import openvino

    model = openvino.Core().read_model(source)
    openvino.save_model(model, target / "openvino_model.xml", compress_to_fp16=True)


def openvino_encoder(quantize):
    import nncf
    import openvino

    model, ids = encoder()
    converted = openvino.convert_model(model, example_input=ids, input=[("input_ids", [-1, -1], numpy.int64)])
    if quantize:
        samples = nncf.Dataset([random_ids(1, 128) for _ in range(8)])
        converted = nncf.quantize(converted, samples, model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(converted, target / "openvino_model.xml", compress_to_fp16=False)


def onnx_encoder():
    import torch

    model, ids = encoder()
    axes = {"input_ids": {0: "batch", 1: "tokens"}}
    torch.onnx.export(model, (ids,), target, input_names=["input_ids"], dynamic_axes=axes, dynamo=False, opset_version=17)


def onnx_int8():
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)


{
    "ov-f32": decoder,
    "ov-f16": halved,
    "ov-int8": lambda: decoder(8, sym=True),
    "ov-int4": lambda: decoder(4, sym=True, group_size=64, ratio=1.0),
    "minilm.onnx": onnx_encoder,
    "minilm-int8.onnx": onnx_int8,
    "ov-minilm": lambda: openvino_encoder(False),
    "ov-minilm-int8": lambda: openvino_encoder(True),
}[name]()
