//! torchao checkpoints against golden files, and damaged ones.

use serde_json::{Value, json};

use super::quantized::{Parts, fault_of, goldens};
use super::*;

#[test]
fn weights_are_those_of_torchao() {
    let (folders, expected) = goldens("torchao");
    assert_eq!(folders.len(), 4);
    for name in folders {
        let checkpoint = Checkpoint::open(&fixture("torchao").join(&name)).unwrap();
        assert_reads(&checkpoint, &expected, &format!("{name}/"));
    }
}

#[test]
fn outputs_are_those_of_torchaos_own_layers() {
    let (_, expected) = goldens("torchao");
    let (shape, x) = expected.tensor_f32("x").unwrap();
    let mut compared = 0;
    for name in expected.names() {
        let Some(layer) = name.strip_prefix("outputs/") else { continue };
        let (folder, module) = layer.split_once('/').unwrap();
        let checkpoint = Checkpoint::open(&fixture("torchao").join(folder)).unwrap();
        let weights = expected.tensor_f32(&format!("{layer}.weight")).unwrap().1;
        let y = expected.tensor_f32(&name).unwrap().1;
        assert_outputs(layer, &checkpoint, &format!("{module}.weight"), (&x, shape[1]), &y, &weights);
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn schemes_are_those_that_are_stored() {
    let asymmetric = |min_scale| ActivationScheme::DynamicTokenAsymmetric { min_scale };
    for (folder, name, expected_bits, group_size, symmetric, inputs) in [
        ("converted", "linear", 4, 32, true, asymmetric(f32::EPSILON)),
        ("converted_bf16", "linear", 4, 32, true, asymmetric(f32::EPSILON)),
        ("converted", "embed_tokens", 4, 32, true, ActivationScheme::None),
        ("flattened", "w4_group", 4, 32, true, asymmetric(f32::MIN_POSITIVE)),
        ("flattened", "w4_asymmetric", 4, 32, false, asymmetric(f32::MIN_POSITIVE)),
        ("flattened", "w4_bf16", 4, 32, true, asymmetric(f32::MIN_POSITIVE)),
        ("flattened", "w4_f16", 4, 32, true, asymmetric(2f32.powi(-14))),
        ("flattened", "w8_axis", 8, 64, true, asymmetric(f32::MIN_POSITIVE)),
        ("flattened", "w8_group", 8, 32, true, asymmetric(f32::MIN_POSITIVE)),
        ("flattened", "w4_only", 4, 32, true, ActivationScheme::None),
    ] {
        let checkpoint = Checkpoint::open(&fixture("torchao").join(folder)).unwrap();
        let StoredTensor::Quantized(tensor, activations) = checkpoint.tensor(&format!("{name}.weight")).unwrap() else {
            panic!("{name} is dense")
        };
        assert_eq!((tensor.bits, tensor.group_size, activations), (expected_bits, group_size, inputs), "{name}");
        assert_eq!(tensor.zero == Zero::Symmetric, symmetric, "{name}");
    }
}

/// What a folder of one file holds.
struct Contents {
    config: Value,
    metadata: HashMap<String, String>,
    parts: Parts,
}

impl Contents {
    fn of(golden: &str) -> Contents {
        let read = |name: &str| fs::read(fixture("torchao").join(golden).join(name)).unwrap();
        let bytes = read("model.safetensors");
        let (tensors, metadata) = safetensors::parse("x", &bytes).unwrap();
        let parts = tensors.into_iter().map(|t| (t.name, t.dtype, t.shape, bytes[t.bytes].to_vec())).collect();
        Contents { config: serde_json::from_slice(&read("config.json")).unwrap(), metadata, parts }
    }

    fn write(&self) -> TempDir {
        let folder = folder(&[("config.json", self.config.to_string().as_bytes())]);
        let views = self
            .parts
            .iter()
            .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        serialize_to_file(views, Some(self.metadata.clone()), &folder.path().join("model.safetensors")).unwrap();
        folder
    }

    fn part(&mut self, name: &str) -> &mut (String, Dtype, Vec<usize>, Vec<u8>) {
        self.parts.iter_mut().find(|part| part.0 == name).unwrap()
    }

    /// Sets a field of what `__metadata__` says of a tensor.
    fn describe(&mut self, tensor: &str, pointer: &str, value: Value) {
        let text = self.metadata.get_mut(tensor).unwrap();
        let mut description: Value = serde_json::from_str(text).unwrap();
        *description.pointer_mut(pointer).unwrap() = value;
        *text = description.to_string();
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    type Change = dyn Fn(&mut Contents);
    let described = |pointer: &'static str, value: Value| -> Box<Change> {
        Box::new(move |contents| contents.describe("w4_group.weight", pointer, value.clone()))
    };
    let renamed = |from: &'static str, to: &'static str| -> Box<Change> {
        Box::new(move |contents| contents.part(from).0 = to.into())
    };
    let typed =
        |name: &'static str, dtype: Dtype| -> Box<Change> { Box::new(move |contents| contents.part(name).1 = dtype) };
    let shaped = |name: &'static str, shape: [usize; 2]| -> Box<Change> {
        Box::new(move |contents| contents.part(name).2 = shape.to_vec())
    };
    let written = |name: &'static str, bytes: Vec<u8>| -> Box<Change> {
        Box::new(move |contents| contents.part(name).3[..bytes.len()].copy_from_slice(&bytes))
    };
    let undescribed: Box<Change> = Box::new(|contents| drop(contents.metadata.remove("w4_group.weight")));
    let unlisted: Box<Change> = Box::new(|contents| drop(contents.metadata.remove("tensor_names")));
    let misnamed: Box<Change> = Box::new(|contents| drop(contents.metadata.insert("tensor_names".into(), "7".into())));
    let unconfigured: fn() -> Box<Change> = || Box::new(|contents| contents.config = json!({}));
    let prepared: Box<Change> = Box::new(|contents| contents.parts.retain(|part| part.0 == "norm.weight"));
    let half = 0.5f32.to_le_bytes().to_vec();
    for (golden, change, expected) in [
        (
            "flattened",
            described("/_type", json!("Int4Tensor")),
            "w4_group.weight\": __metadata__: Int4Tensor of torchao",
        ),
        ("flattened", described("/_type", json!("Float8Tensor")), "supported: IntxUnpackedToInt8Tensor"),
        ("flattened", described("/_data", json!({"block_size": [1, 32]})), "missing field"),
        ("flattened", described("/_data/target_dtype/_data", json!("int1")), "target_dtype int1"),
        ("flattened", described("/_data/target_dtype/_data", json!("uint4")), "supported: int2 to int8"),
        ("flattened", described("/_data/target_dtype/_data", json!("int3")), "is outside -4..=3 of 3 bits"),
        ("flattened", described("/_data/dtype/_data", json!("float64")), "dtype float64"),
        ("flattened", described("/_data/block_size", json!([1, 16])), "block_size [1, 16]"),
        ("flattened", described("/_data/block_size", json!([8, 32])), "expected [1, 32]"),
        ("flattened", described("/_data/activation_quantization", json!("int8_sym_per_token")), "int8_sym_per_token"),
        ("flattened", undescribed, "w4_group.weight\": __metadata__: there is no description"),
        ("flattened", unlisted, "is not described in __metadata__"),
        ("flattened", misnamed, "tensor_names: invalid type"),
        ("flattened", renamed("w4_group._weight_qdata", "other"), "w4_group._weight_qdata\": missing"),
        ("flattened", renamed("w4_group._weight_scale", "other"), "w4_group._weight_scale\": missing"),
        ("flattened", renamed("w4_group._weight_zero_point", "other"), "w4_group._weight_zero_point\": missing"),
        ("flattened", typed("w4_group._weight_qdata", Dtype::U8), "expected a matrix of I8, got U8"),
        ("flattened", typed("w4_group._weight_scale", Dtype::I32), "expected F32, F16 or BF16, got I32"),
        ("flattened", shaped("w4_group._weight_scale", [2, 8]), "expected 8 rows of a divisor of 64 scales"),
        ("flattened", shaped("w4_group._weight_zero_point", [4, 4]), "expected shape [8, 2], got [4, 4]"),
        ("flattened", written("w4_group._weight_qdata", vec![8]), "code 8 is outside -8..=7 of 4 bits"),
        ("flattened", written("w4_group._weight_scale", f32::NAN.to_le_bytes().to_vec()), "NaN or infinite"),
        ("flattened", unconfigured(), "\"quant_method\": \"torchao\""),
        ("converted", unconfigured(), "\"quant_method\": \"torchao\""),
        ("converted", prepared, "run torchao's convert step"),
        ("converted", renamed("linear.zeros", "linear.weight_fake_quantizer.scale"), "run torchao's convert step"),
        ("converted", renamed("linear.zeros", "other"), "linear.zeros\": missing"),
        ("converted", renamed("linear.weight", "other"), "linear.weight\": missing"),
        ("converted", renamed("embed_tokens.zero_point", "other"), "embed_tokens.zero_point\": missing"),
        ("converted", typed("linear.weight", Dtype::U8), "linear.weight\": expected a matrix of I8, got U8"),
        ("converted", typed("linear.zeros", Dtype::U32), "expected I8, I32, F32, F16 or BF16, got U32"),
        ("converted", written("linear.zeros", half), "zero point 0.5 is no whole number"),
        ("converted", written("embed_tokens.zero_point", 128i32.to_le_bytes().to_vec()), "zero point 128"),
    ] {
        let mut contents = Contents::of(golden);
        change(&mut contents);
        let message = fault_of(&contents.write());
        assert!(message.contains(expected), "{golden}: {expected}: {message}");
    }
}

#[test]
fn a_copy_of_a_golden_folder_is_read() {
    for golden in ["converted", "flattened"] {
        read_all(Contents::of(golden).write().path()).unwrap();
    }
}
