"""A slot of ONNX Runtime: an encoder's batch."""

import numpy
import onnxruntime

import slot

job = slot.job()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = job["threads"]
session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])


def once(tokens):
    ids = numpy.array(tokens, dtype=numpy.int64).reshape(job["batch"], job["tokens"])
    session.run(None, {"input_ids": ids})


slot.run(job, job["vocabulary"], once, lambda: f"ONNX Runtime {onnxruntime.__version__}")
