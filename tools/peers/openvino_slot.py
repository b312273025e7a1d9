"""A slot of OpenVINO: its model run as OpenVINO GenAI runs it, without choosing tokens.

A decoder keeps its keys and values itself (a stateful model); of a prompt only the last token's logits are made, which
GenAI arranges by cutting the input of the last product, too.
"""

import numpy
import openvino
from openvino import opset13

import slot

job = slot.job()


def keep_last_logits(model):
    """Cuts the input of the head to the last token."""
    head = model.output("logits").get_node().input_value(0).get_node()
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).get_node()
    last = opset13.slice(head.input_value(0), [-1], [numpy.iinfo(numpy.int64).max], [1], [1])
    head.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


def kernels(compiled):
    """How many matrix products each of the engine's implementations runs."""
    counts = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) in ("FullyConnected", "MatMul"):
            name = info["primitiveType"].astype(str)
            counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items()))


core = openvino.Core()
model = core.read_model(job["model"])
if job["work"] != "encode":
    keep_last_logits(model)
settings = {
    "INFERENCE_NUM_THREADS": job["threads"],
    "INFERENCE_PRECISION_HINT": job["precision"],
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
}
compiled = core.compile_model(model, "CPU", settings)
request = compiled.create_infer_request()


def feed(tokens, position):
    length = len(tokens)
    request.infer(
        {
            "input_ids": numpy.array([tokens], dtype=numpy.int64),
            "attention_mask": numpy.ones((1, position + length), dtype=numpy.int64),
            "position_ids": numpy.arange(position, position + length, dtype=numpy.int64)[None],
            "beam_idx": numpy.zeros(1, dtype=numpy.int32),
        },
        share_inputs=True,
    )


def prefill(tokens):
    request.reset_state()
    feed(tokens, 0)


def decode(tokens):
    request.reset_state()
    for position, token in enumerate(tokens):
        feed([token], position)


def encode(tokens):
    ids = numpy.array(tokens, dtype=numpy.int64).reshape(job["batch"], job["tokens"])
    request.infer({"input_ids": ids}, share_inputs=True)


def ran():
    return f"OpenVINO {openvino.get_version()}, {job['precision']}: {kernels(compiled)}"


slot.run(job, job["vocabulary"], {"prefill": prefill, "decode": decode, "encode": encode}[job["work"]], ran)
