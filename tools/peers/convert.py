"""Converts a model for OpenVINO or ONNX Runtime: `convert.py NAME TO FROM`, names as in `models.py`."""

import sys
from pathlib import Path

import numpy

name, target, source = sys.argv[1], Path(sys.argv[2]), sys.argv[3]


def encoder_inputs(batch, tokens):
    """Random tokens: they decide neither the graph nor its speed."""
    ids = numpy.random.default_rng(1).integers(1000, 30000, (batch, tokens))
    return {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}


def encoder():
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    model.config.return_dict = False
    return model, {key: torch.tensor(value) for key, value in encoder_inputs(2, 16).items()}


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

    model, inputs = encoder()
    converted = openvino.convert_model(model, example_input=inputs)
    if quantize:
        samples = nncf.Dataset([encoder_inputs(1, 128)] * 8)
        converted = nncf.quantize(converted, samples, model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(converted, target / "openvino_model.xml", compress_to_fp16=False)


def onnx_encoder():
    import torch

    model, inputs = encoder()
    axes = {key: {0: "batch", 1: "tokens"} for key in inputs}
    given = tuple(inputs.values())
    names = list(inputs)
    torch.onnx.export(model, given, target, input_names=names, dynamic_axes=axes, dynamo=False, opset_version=17)


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
