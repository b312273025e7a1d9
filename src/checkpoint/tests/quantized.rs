//! GPTQ, AWQ and activation order against golden files, and their damaged files.

use serde_json::{Value, json};

use super::*;

/// Folders of a format with the values of all of them.
pub(super) fn goldens(format: &str) -> (Vec<String>, Checkpoint) {
    let root = fixture(format);
    let entries = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap());
    let names = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap());
    (names.collect(), Checkpoint::open(&root.join("expected.safetensors")).unwrap())
}

#[test]
fn gptq_and_awq_are_read_as_their_own_packages_read_them() {
    for (format, count) in [("gptq", 6), ("awq", 4)] {
        let (folders, expected) = goldens(format);
        assert_eq!(folders.len(), count);
        for name in folders {
            let checkpoint = Checkpoint::open(&fixture(format).join(&name)).unwrap();
            assert_reads(&checkpoint, &expected, &format!("{name}/"));
        }
    }
}

fn quantized(folder: &str, name: &str) -> QuantizedTensor {
    match Checkpoint::open(&fixture(folder)).unwrap().tensor(name).unwrap() {
        StoredTensor::Quantized(tensor, ActivationScheme::None) => tensor,
        other => panic!("{other:?}"),
    }
}

#[test]
fn integers_keep_their_convention_and_order() {
    for (folder, bits, group_size, symmetric, ordered) in [
        ("gptq/w4_v1", 4, 32, true, false),
        ("gptq/w4_v1_asym_desc_act", 4, 16, false, true),
        ("gptq/w8_v1_desc_act", 8, 32, false, true),
        ("gptq/w2_channel", 2, 64, false, false),
    ] {
        let tensor = quantized(folder, "model.layers.0.self_attn.q_proj.weight");
        assert_eq!((tensor.rows, tensor.cols, tensor.bits, tensor.group_size), (32, 64, bits, group_size));
        assert_eq!(tensor.zero == Zero::Symmetric, symmetric, "{folder}");
        assert_eq!(tensor.input_order.is_some(), ordered, "{folder}");
    }
}

#[test]
fn activation_order_is_read_as_compressed_tensors_reads_it() {
    let folder = fixture("compressed_tensors_actorder");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let values = fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = self::folder(&[("expected.safetensors", &values)]);
    let expected = Checkpoint::open(&expected.path().join("expected.safetensors")).unwrap();
    assert_reads(&checkpoint, &expected, "");
    for (name, ordered) in [("w4", true), ("w4_asym", true), ("w4_unset", false), ("w4_static", false)] {
        let tensor = quantized("compressed_tensors_actorder", &format!("{name}.weight"));
        assert_eq!(tensor.input_order.is_some(), ordered, "{name}");
    }
}

pub(super) type Parts = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// A copy of a golden folder with another configuration and other parts.
fn changed(golden: &str, config: &dyn Fn(&mut Value), parts: &dyn Fn(&mut Parts)) -> TempDir {
    let source = fixture(golden);
    let mut json: Value = serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
    config(&mut json["quantization_config"]);
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let file = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Parts =
        file.iter().map(|(name, t)| (name.into(), t.dtype(), t.shape().to_vec(), t.data().to_vec())).collect();
    parts(&mut tensors);
    let folder = folder(&[("config.json", json.to_string().as_bytes())]);
    let borrowed: Vec<(&str, Dtype, &[usize], Vec<u8>)> =
        tensors.iter().map(|(name, dtype, shape, data)| (name.as_str(), *dtype, &shape[..], data.clone())).collect();
    safetensors_file(&folder.path().join("model.safetensors"), &borrowed);
    folder
}

/// The error of opening or reading.
pub(super) fn fault_of(folder: &TempDir) -> String {
    let message = read_all(folder.path()).expect_err("must be refused").to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn configurations_that_are_not_read_are_refused() {
    let set = |key: &'static str, value: Value| move |config: &mut Value| config[key] = value.clone();
    for (golden, change, expected) in [
        ("gptq/w4_v1", set("bits", json!(5)), "supported: 2, 3, 4, 8"),
        ("gptq/w4_v1", set("bits", json!("4")), "expected u8"),
        ("gptq/w4_v1", set("bits", json!(8)), "do not hold 64 inputs"),
        ("gptq/w4_v1", set("group_size", json!(0)), "group_size 0"),
        ("gptq/w4_v1", set("group_size", json!(24)), "group_size 24 does not divide"),
        ("gptq/w4_v1", set("group_size", json!(64)), "expected shape [1, 4]"),
        ("gptq/w4_v1", set("checkpoint_format", json!("marlin")), "\"marlin\" of GPTQ"),
        ("gptq/w4_v1", set("is_marlin_format", json!(true)), "marlin is not supported"),
        ("gptq/w4_v1", set("dynamic", json!({"+:.*down_proj": {"bits": 8}})), "dynamic"),
        ("gptq/w4_v1", set("quant_method", json!("fp8")), "quant_method \"fp8\" is not supported; supported:"),
        ("awq/gemm", set("bits", json!(8)), "AWQ of 8 bits"),
        ("awq/gemm", set("zero_point", json!(false)), "zero_point false"),
        ("awq/gemm", set("version", json!("gemv_fast")), "supported: gemm, gemv"),
        ("awq/gemm", set("version", json!("gemv")), "expected shape"),
        ("awq/gemm", set("group_size", json!(-2)), "group_size -2"),
    ] {
        let message = fault_of(&changed(golden, &change, &|_| {}));
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

/// Sets every zero point of 4 bits, as stored.
fn stored_zeros(nibble: u8) -> impl Fn(&mut Parts) {
    move |parts| {
        let zeros = parts.iter_mut().filter(|(name, ..)| name.ends_with("qzeros"));
        zeros.for_each(|(.., data)| data.fill(nibble << 4 | nibble));
    }
}

#[test]
fn a_symmetric_file_whose_zero_points_are_not_is_refused_with_the_format_that_would_fit() {
    let format = |name: &'static str| move |config: &mut Value| config["checkpoint_format"] = json!(name);
    for (name, stored) in [("gptq", 7), ("gptq_v2", 8)] {
        read_all(changed("gptq/w4_v1", &format(name), &stored_zeros(stored)).path()).unwrap();
    }
    for (name, stored, expected) in [
        ("gptq", 8, "there is 9; as \"gptq_v2\" all would be 8: set \"checkpoint_format\": \"gptq_v2\""),
        ("gptq_v2", 7, "there is 7; as \"gptq\" all would be 8"),
        ("gptq", 0, "there is 1; set \"sym\" to false"),
    ] {
        let message = fault_of(&changed("gptq/w4_v1", &format(name), &stored_zeros(stored)));
        assert!(message.contains("qzeros\"") && message.contains(expected), "{message}");
    }
    let asymmetric = |config: &mut Value| config["sym"] = json!(false);
    let folder = changed("gptq/w4_v1", &asymmetric, &stored_zeros(15));
    let warnings = Checkpoint::open(folder.path()).unwrap().warnings().join("\n");
    assert!(warnings.contains("zero points are stored as all ones"), "{warnings}");
    let awq = |config: &mut Value| config["sym"] = json!(true);
    assert!(fault_of(&changed("awq/gemm", &awq, &stored_zeros(7))).contains("zero points other than 8"));
    read_all(changed("awq/gemm", &awq, &stored_zeros(8)).path()).unwrap();
    read_all(changed("awq/gemv", &awq, &stored_zeros(8)).path()).unwrap();
}

#[test]
fn two_statements_of_one_setting_must_agree() {
    let set = |entries: Value| {
        move |config: &mut Value| config.as_object_mut().unwrap().extend(entries.as_object().unwrap().clone())
    };
    for (golden, entries) in [
        ("gptq/w4_v1", json!({"format": "gptq", "pack_dtype": "int32", "static_groups": true})),
        ("awq/gemm", json!({"w_bit": 4, "q_group_size": 32, "format": "GEMM"})),
    ] {
        let folder = changed(golden, &set(entries), &|_| {});
        assert!(Checkpoint::open(folder.path()).unwrap().warnings().is_empty());
    }
    for (golden, entries, expected) in [
        ("gptq/w4_v1", json!({"format": "gptq_v2"}), "checkpoint_format is \"gptq\", but format is \"gptq_v2\""),
        ("gptq/w4_v1", json!({"pack_dtype": "int16"}), "pack_dtype \"int16\""),
        ("gptq/w4_v1", json!({"rotation": "hadamard"}), "rotation \"hadamard\""),
        ("gptq/w8_v1_desc_act", json!({"desc_act": false}), "the groups are not in order"),
        ("awq/gemm", json!({"w_bit": 8}), "bits is 4, but w_bit is 8"),
        ("awq/gemm", json!({"q_group_size": 64}), "group_size is 32, but q_group_size is 64"),
        ("awq/gemm", json!({"format": "gemv"}), "version is \"gemm\", but format is \"gemv\""),
        ("awq/gemm", json!({"desc_act": true}), "desc_act true"),
    ] {
        let message = fault_of(&changed(golden, &set(entries), &|_| {}));
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let folder = changed("gptq/w4_v1", &|_| {}, &|_| {});
    let beside = folder.path().join("quantize_config.json");
    fs::write(&beside, r#"{"bits": 4, "group_size": 32, "sym": true, "damp_percent": NaN}"#).unwrap();
    read_all(folder.path()).unwrap();
    fs::write(&beside, r#"{"bits": 4, "group_size": 32, "sym": false}"#).unwrap();
    assert!(refusal(folder.path()).contains("sym is false, but quantization_config in config.json says true"));
    let folder = changed("gptq/w4_v1", &set(json!({"wobble": 1})), &|_| {});
    let warnings = Checkpoint::open(folder.path()).unwrap().warnings().join("\n");
    assert!(warnings.contains("not carried out: \"wobble\""), "{warnings}");
}

/// A packed matrix of one row in either layout, of codes 0 and 1 in turn.
fn packed(bits: u32, cols: u32, padded: bool) -> Parts {
    let per_word = 32 / bits;
    let length = if padded { cols.div_ceil(per_word) } else { (cols * bits).div_ceil(32) };
    let mut words = vec![0u64; length as usize + 1];
    for at in 0..cols {
        let code = u64::from(at % 2 + (1 << (bits - 1)));
        let bit = if padded { at / per_word * 32 + at % per_word * bits } else { at * bits };
        let shifted = code << (bit % 32);
        words[bit as usize / 32] |= shifted & 0xffff_ffff;
        words[bit as usize / 32 + 1] |= shifted >> 32;
    }
    let data = words[..length as usize].iter().flat_map(|&word| (word as u32).to_le_bytes()).collect();
    let shape = [1u64, u64::from(cols)].iter().flat_map(|n| n.to_le_bytes()).collect();
    vec![
        ("m.weight_packed".into(), Dtype::I32, vec![1, length as usize], data),
        ("m.weight_shape".into(), Dtype::I64, vec![2], shape),
        ("m.weight_scale".into(), Dtype::F32, vec![1, 1], 1.0f32.to_le_bytes().to_vec()),
    ]
}

#[test]
fn odd_bits_are_read_in_the_layout_of_the_release_that_wrote_them() {
    let config = |bits: u32, version: Value| {
        json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": null,
            "version": version, "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": bits,
            "symmetric": true, "strategy": "channel"}}}}})
    };
    let folder = |bits, cols, padded, version| {
        let folder = self::folder(&[("config.json", config(bits, version).to_string().as_bytes())]);
        let tensors = packed(bits, cols, padded);
        let views: Vec<(&str, Dtype, &[usize], Vec<u8>)> = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (name.as_str(), *dtype, &shape[..], data.clone()))
            .collect();
        safetensors_file(&folder.path().join("model.safetensors"), &views);
        folder
    };
    let read = |bits, cols, padded, version| {
        let folder = folder(bits, cols, padded, version);
        Checkpoint::open(folder.path()).unwrap().tensor_f32("m.weight").unwrap().1
    };
    let expected = |cols: u32| (0..cols).map(|at| (at % 2) as f32).collect::<Vec<_>>();
    for bits in [3, 5, 6, 7] {
        // One column more than fits into a word takes two words in both layouts; 64 columns tell them apart.
        let few = 32 / bits;
        for (cols, padded, version) in [
            (64, true, json!("0.17.1")),
            (64, true, json!("0.15.0.1")),
            (64, false, json!("0.18.0")),
            (64, false, json!("0.20.1")),
            (64, true, Value::Null),
            (64, false, Value::Null),
            (64, false, json!("0.18.1.dev3+g0123")),
            (few + 1, true, json!("0.17.1")),
            (few + 1, false, json!("0.20.1")),
        ] {
            assert_eq!(read(bits, cols, padded, version.clone()), expected(cols), "{bits} {cols} {padded} {version}");
        }
        for version in [Value::Null, json!("0.18.0a20260101"), json!("latest")] {
            let message = refusal(folder(bits, few + 1, false, version.clone()).path());
            assert!(message.contains("\"version\": \"0.20.1\""), "{version}: {message}");
        }
        assert!(refusal(folder(bits, 64, true, json!("0.20.1")).path()).contains("before 0.18 packs, it does"));
        assert!(refusal(folder(bits, 64, false, json!("0.17.1")).path()).contains("since 0.18 packs, it does"));
    }
    for bits in [2, 4, 8] {
        for version in [Value::Null, json!("0.17.1"), json!("0.20.1")] {
            assert_eq!(read(bits, 64, false, version), expected(64), "{bits}");
        }
    }
}

#[test]
fn patterns_are_few_and_small() {
    let config = |targets: Vec<String>| {
        json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
            {"g": {"targets": targets, "weights": {"num_bits": 4, "strategy": "channel"}}}}})
    };
    let message = |targets| {
        refusal(
            self::folder(&[
                ("config.json", config(targets).to_string().as_bytes()),
                ("model.safetensors", &fs::read(fixture("gptq/w4_v1/model.safetensors")).unwrap()),
            ])
            .path(),
        )
    };
    assert!(message((0..1000).map(|n| format!("re:layer{n}$")).collect()).contains("more than 512 different"));
    assert!(message(vec![r"re:\w{60}x0".into()]).contains("too large a regular expression"));
    assert!(message(vec!["re:(?!x)".into()]).contains("not a regular expression known here"));
}

#[test]
fn damaged_parts_are_named() {
    let index = |parts: &Parts, name: &str| parts.iter().position(|part| part.0.ends_with(name)).unwrap();
    let without = |name: &'static str| {
        move |parts: &mut Parts| {
            let at = index(parts, name);
            parts.remove(at);
        }
    };
    let shaped = |name: &'static str, shape: [usize; 2]| {
        move |parts: &mut Parts| {
            let at = index(parts, name);
            parts[at].2 = shape.to_vec();
        }
    };
    let written = |name: &'static str, bytes: Vec<u8>| {
        move |parts: &mut Parts| {
            let at = index(parts, name);
            parts[at].3[..bytes.len()].copy_from_slice(&bytes);
        }
    };
    let typed = |name: &'static str, dtype: Dtype| {
        move |parts: &mut Parts| {
            let at = index(parts, name);
            parts[at].1 = dtype;
        }
    };
    type Change = dyn Fn(&mut Parts);
    let changes: Vec<(&str, Box<Change>, &str)> = vec![
        ("gptq/w4_v1", Box::new(without(".scales")), ".scales\": missing"),
        ("gptq/w4_v1", Box::new(without(".qzeros")), ".qzeros\": missing"),
        ("gptq/w4_v1", Box::new(without(".qweight")), ".qweight\": missing"),
        ("gptq/w8_v1_desc_act", Box::new(without(".g_idx")), ".g_idx\": missing"),
        ("awq/gemm", Box::new(without(".qzeros")), ".qzeros\": missing"),
        ("awq/gemv", Box::new(without(".scales")), ".scales\": missing"),
        ("gptq/w4_v1", Box::new(shaped(".qzeros", [4, 2])), ".qzeros\": expected shape [2, 4], got [4, 2]"),
        ("gptq/w4_v1", Box::new(shaped(".qweight", [4, 64])), ".qweight\": 4 rows of words"),
        ("gptq/w4_v1", Box::new(shaped(".scales", [1, 64])), ".scales\": expected shape [2, 32]"),
        ("awq/gemm", Box::new(shaped(".scales", [32, 2])), ".scales\": expected shape [2, 32]"),
        ("gptq/w4_v1", Box::new(typed(".qweight", Dtype::F32)), ".qweight\": expected I32, got F32"),
        ("gptq/w4_v1", Box::new(typed(".g_idx", Dtype::F32)), ".g_idx\": expected I32"),
        ("awq/gemm", Box::new(typed(".scales", Dtype::I16)), ".scales\": expected F32, F16 or BF16"),
        ("gptq/w4_v1", Box::new(written(".g_idx", (-1i32).to_le_bytes().to_vec())), "names group -1"),
        ("gptq/w4_v1", Box::new(written(".g_idx", 2i32.to_le_bytes().to_vec())), "names group 2, of 2"),
        ("gptq/w4_v1", Box::new(written(".g_idx", 1i32.to_le_bytes().to_vec())), "31 columns"),
        ("compressed_tensors_actorder", Box::new(written("w4.weight_g_idx", 9i32.to_le_bytes().to_vec())), "group 9"),
        ("gptq/w4_v1", Box::new(written(".scales", vec![0, 0x7e])), "NaN or infinite"),
        ("awq/gemv", Box::new(written(".scales", vec![0, 0x7c])), "NaN or infinite"),
    ];
    for (golden, change, expected) in changes {
        let message = fault_of(&changed(golden, &|_| {}, &change));
        assert!(message.contains(expected), "{golden}: {expected}: {message}");
    }
}

/// A matrix of a block that is in floating point must be left out by name, in the words of the format.
#[test]
fn blocks_that_silently_stayed_in_floating_point_are_refused() {
    let name = "model.layers.3.self_attn.q_proj.weight";
    let added = |parts: &mut Parts| parts.push((name.into(), Dtype::F32, vec![1, 2], vec![0; 8]));
    let set = |key: &'static str, value: Value| move |config: &mut Value| config[key] = value.clone();
    for (golden, key, left, other) in [
        ("gptq/w4_v1", "dynamic", json!({r"-:.*\.q_proj": {}}), json!({r"-:.*\.k_proj": {}})),
        ("gptq/w4_v1", "modules_in_block_to_quantize", json!([["mlp.up_proj"]]), json!([["self_attn.q_proj"]])),
        ("awq/gemm", "modules_to_not_convert", json!(["self_attn"]), json!(["mlp"])),
        ("torchao/converted", "modules_to_not_convert", json!(["q_proj"]), json!(null)),
        ("fake_quantize/channel_symmetric", "modules_to_not_convert", json!(["q_proj"]), json!([])),
    ] {
        read_all(changed(golden, &set(key, left), &added).path()).unwrap();
        let message = fault_of(&changed(golden, &set(key, other), &added));
        assert!(message.contains(&format!("\"{name}\": holds floating-point weights")), "{golden}: {message}");
    }
}

const GOLDENS: [&str; 17] = [
    "compressed_tensors",
    "compressed_tensors_actorder",
    "gptq/w4_v1",
    "gptq/w4_v1_asym_desc_act",
    "gptq/w4_v2_asym",
    "gptq/w8_v1_desc_act",
    "gptq/w3_v1_asym",
    "gptq/w2_channel",
    "awq/gemm",
    "awq/gemm_channel",
    "awq/gemv",
    "awq/gemv_64",
    "torchao/converted",
    "torchao/converted_bf16",
    "torchao/flattened",
    "fake_quantize/channel_symmetric",
    "fake_quantize/tensor_affine",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damage gives an error or finite weights of no more values than the file's bits allow; never a panic.
    #[test]
    fn damaged_folders_give_an_error_or_finite_tensors(
        golden in prop::sample::select(&GOLDENS[..]),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        in_config in any::<bool>(),
    ) {
        let read = |name: &str| fs::read(fixture(golden).join(name)).unwrap();
        let (mut config, mut model) = (read("config.json"), read("model.safetensors"));
        for (at, byte) in flips {
            let bytes = if in_config { &mut config } else { &mut model };
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let folder = folder(&[("config.json", &config), ("model.safetensors", &model)]);
        if let Ok(checkpoint) = Checkpoint::open(folder.path()) {
            for name in checkpoint.names() {
                if let Ok(StoredTensor::Quantized(tensor, _)) = checkpoint.tensor(&name) {
                    prop_assert!(tensor.codes.len() <= 4 * model.len());
                    prop_assert!(tensor.to_f32().iter().all(|value| value.is_finite()));
                }
            }
        }
    }
}
