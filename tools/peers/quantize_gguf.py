"""Quantizes a GGUF file with llama.cpp's own quantizer: `quantize_gguf.py FROM TO q8_0`."""

import ctypes
import sys

import llama_cpp

source, target, kind = sys.argv[1:]
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
status = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
assert status == 0, f"llama_model_quantize gave {status}"
