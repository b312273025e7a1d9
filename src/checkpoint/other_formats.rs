//! Files and folders that hold a model in a form that is not read here: each named for what it is, with the next step.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The next step for forms that were exported from a model.
const ORIGINAL: &str = "give the model that it was exported from (config.json with safetensors, or GGUF)";
const PICKLED: &str = "pickled weights, which can run code when read: convert the model to safetensors";

/// Forms by the ends of their files' names, in the order in which they are looked for.
const FORMS: [(&[&str], &str); 7] = [
    (&["onnx"], "an ONNX graph"),
    (&["bin", "pt", "pth", "ckpt", "pkl", "pickle"], PICKLED),
    (&["h5", "keras", "pb", "tflite"], "a TensorFlow model"),
    (&["msgpack"], "a Flax model"),
    (&["npz", "npy"], "NumPy arrays"),
    (&["zip", "tar", "gz", "tgz", "xz", "zst", "7z"], "an archive: unpack it, and give the model inside"),
    (&["mlmodel", "mlpackage"], "a Core ML model"),
];

/// Whether a path has one of these extensions.
pub(super) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    extension.is_some_and(|extension| extensions.contains(&extension.as_str()))
}

/// What files are, where they hold a model in another form.
pub(super) fn describe(files: &[PathBuf]) -> Option<String> {
    let names = |name: &str| files.iter().any(|file| file.file_name().is_some_and(|other| other == name));
    if names("adapter_config.json") {
        return Some(
            "a LoRA adapter without its model: merge it into the model first (merge_and_unload of peft)".into(),
        );
    }
    if files.iter().any(|file| is_consolidated(file)) || names("params.json") {
        return Some(
            "weights in Mistral's or Meta's own layout (consolidated): give the same model in the layout of Hugging Face \
             (model.safetensors), or convert it"
                .into(),
        );
    }
    if files.iter().any(|file| is_openvino(file)) {
        return Some(format!("an OpenVINO model (.xml with .bin): {ORIGINAL}"));
    }
    let (_, what) = FORMS.iter().find(|(extensions, _)| files.iter().any(|file| has_extension(file, extensions)))?;
    Some(if what.contains(": ") { (*what).to_owned() } else { format!("{what}: {ORIGINAL}") })
}

/// Mistral's own file: `consolidated.safetensors`, `consolidated.00.pth`.
pub(super) fn is_consolidated(file: &Path) -> bool {
    file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("consolidated."))
}

/// A graph with its weights beside it.
fn is_openvino(file: &Path) -> bool {
    has_extension(file, &["xml"]) && file.with_extension("bin").exists()
        || has_extension(file, &["bin"]) && file.with_extension("xml").exists()
}

/// Whether a config and names of tensors are those of a model that MLX quantized.
pub(super) fn is_mlx<'a>(config: &Value, mut names: impl Iterator<Item = &'a str>) -> bool {
    let declared = ["quantization", "quantization_config"].iter().filter_map(|key| config.get(key));
    let by_mlx = |keys: &Value| {
        keys.get("group_size").is_some() && keys.get("bits").is_some() && keys.get("quant_method").is_none()
    };
    declared.into_iter().any(by_mlx) && names.any(|name| name.ends_with(".biases"))
}

/// What to do about such a model.
pub(super) const MLX: &str = "is a model that MLX quantized, whose groups of biases are not read here; give the model that it \
                              was made of, or dequantize it (mlx_lm.convert --dequantize)";
