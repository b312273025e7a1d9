#!/usr/bin/env python3
"""Compare quantbench with other engines on this machine: install them, prepare models, measure, write docs/PERFORMANCE.md.

    cargo build --release
    python3 tools/peers/run.py                        # everything, an hour or two; nothing else may run meanwhile
    python3 tools/peers/run.py --rows decode --blocks 4
    python3 tools/peers/run.py --report               # write the document again from what was measured
    python3 tools/peers/run.py --avx2                 # the rows of AVX2 alone, against llama.cpp built for AVX2

Peers come from PyPI into virtual environments under --work (llama.cpp through llama-cpp-python, compiled here for this
processor: it needs a C++ compiler and some minutes). `measure.py` says how it is measured, `rows.py` what.
"""

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent

PACKAGES = [
    "onnx==1.23.2",
    "onnxruntime==1.31.1",
    "openvino==2026.4.1",
    "nncf==3.4.0",
    "optimum-intel==2.2.0",
    "torch==2.15.0",
    "scipy==1.17.1",
]
LLAMA_CPP = "llama-cpp-python==0.3.36"
LLAMA_CPP_BUILDS = {
    "native": "-DGGML_NATIVE=ON -DGGML_OPENMP=ON",
    "avx2": "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_OPENMP=ON",
}


def install(folder, packages, **environment):
    """A virtual environment with `packages`, unless it is there; its Python."""
    python, complete = folder / "bin/python", folder / "complete"
    if not complete.exists():
        print(f"installing {', '.join(packages)} into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        # No cache: it would hand out llama.cpp as it was built for other instruction sets.
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-binary", "llama-cpp-python", *packages],
            check=True,
            env={**os.environ, **environment},
        )
        complete.touch()
    return python


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("target/peers"), help="environments, models and raw results")
    parser.add_argument("--venv", type=Path, help="an environment that has the peers already, llama.cpp excepted")
    parser.add_argument("--llama-venv", type=Path, help="an environment that has llama-cpp-python already")
    parser.add_argument("--avx2", action="store_true", help="AVX2 alone, here and in llama.cpp")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments, rest = parser.parse_known_args()
    work = arguments.work.resolve()
    build = "avx2" if arguments.avx2 else "native"
    python = (arguments.venv and arguments.venv / "bin/python") or install(work / "venv", PACKAGES)
    llama = arguments.llama_venv and arguments.llama_venv / "bin/python"
    if not arguments.report:
        llama = llama or install(work / f"llama-{build}", [LLAMA_CPP], CMAKE_ARGS=LLAMA_CPP_BUILDS[build])
    command = [python, HERE / "measure.py", "--work", work, "--llama-python", llama or python, *rest]
    command += ["--avx2"] * arguments.avx2 + ["--report"] * arguments.report
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
