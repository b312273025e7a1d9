//! Copies of tiny models whose inputs have explicit scales, with weights that make up for them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// Values of tensors by their names.
pub type Values = BTreeMap<String, Vec<f32>>;

/// Factor of feature `k`: a power of two, so that nothing is rounded.
pub fn factor(k: usize) -> f32 {
    [0.25, 4.0, 1.0, 0.5, 2.0][k % 5]
}

/// Copies the model in `from` to the new folder `to` with a `pre_quant_scale` for every linear layer of its blocks whose
/// name ends with one of `linears`; `change` may alter values then.
pub fn write(from: &Path, to: &Path, linears: &[&str], change: impl Fn(&mut Values)) {
    fs::create_dir_all(to.join("1_Pooling")).unwrap();
    for file in ["config.json", "modules.json", "1_Pooling/config.json"] {
        if from.join(file).exists() {
            fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let (mut values, mut shapes) = (Values::new(), BTreeMap::new());
    for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().iter().filter(|(_, t)| t.dtype() == Dtype::F32) {
        let floats = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        values.insert(name.into(), floats.collect());
        shapes.insert(name.to_owned(), tensor.shape().to_vec());
    }
    let scaled = |name: &&String| linears.iter().any(|linear| name.ends_with(&format!("{linear}.weight")));
    let weights: Vec<String> = values.keys().filter(scaled).cloned().collect();
    for name in weights {
        let width = shapes[&name][1];
        let weight = values.get_mut(&name).unwrap();
        weight.iter_mut().enumerate().for_each(|(at, w)| *w /= factor(at % width));
        values.insert(name.replace(".weight", ".pre_quant_scale"), (0..width).map(factor).collect());
    }
    change(&mut values);
    let tensors = values.iter().map(|(name, values)| {
        let shape = shapes.get(name).cloned().unwrap_or_else(|| vec![values.len()]);
        (name, TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values)).unwrap())
    });
    serialize_to_file(tensors, None, &to.join("model.safetensors")).unwrap();
}
