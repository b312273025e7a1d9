//! Artefacts of a tiny model: written, read again, compared.

use std::fs;
use std::path::Path;

use ndarray::ArrayView2;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::safetensors_writer::SafetensorsWriter;
use super::{CalibrationTokens, Order, build};
use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::error::Result;
use crate::kernels::Pool;
use crate::network::{Decoder, LoadOptions};
use crate::quantize::method;
use crate::results::Artefact;
use crate::suite::{InputScheme, Method, Observer, Override, Recipe, Smooth, WeightScheme};
use crate::tensor::{ActivationScheme, DenseFormat, Granularity, QuantizedTensor};

const HIDDEN: usize = 64;
const FFN: usize = 96;
const VOCABULARY: usize = 40;
const LAYERS: usize = 2;

/// Writes a tiny Llama with random weights; `change` may alter a tensor.
pub(super) fn write_model(folder: &Path, tied: bool, change: &dyn Fn(&str, &mut Vec<f32>)) {
    fs::create_dir_all(folder).unwrap();
    let mut random = StdRng::seed_from_u64(11);
    let mut writer = SafetensorsWriter::create(&folder.join("model.safetensors"), folder).unwrap();
    let mut add = |name: &str, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let mut values: Vec<f32> = (0..count).map(|_| random.random_range(-0.3f32..0.3)).collect();
        if shape.len() == 1 {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
        change(name, &mut values);
        writer.add(name, Dtype::F32, shape, &values).unwrap();
    };
    add("model.embed_tokens.weight", &[VOCABULARY, HIDDEN]);
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", &[HIDDEN][..]),
            ("self_attn.q_proj", &[HIDDEN, HIDDEN]),
            ("self_attn.k_proj", &[HIDDEN / 2, HIDDEN]),
            ("self_attn.v_proj", &[HIDDEN / 2, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, HIDDEN]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("mlp.gate_proj", &[FFN, HIDDEN]),
            ("mlp.up_proj", &[FFN, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, FFN]),
        ] {
            add(&format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    add("model.norm.weight", &[HIDDEN]);
    if !tied {
        add("lm_head.weight", &[VOCABULARY, HIDDEN]);
    }
    writer.finish().unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": tied, "torch_dtype": "float32", "hidden_act": "silu",
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    write_tokenizer(folder);
}

/// Writes a tokenizer of words that name their ids.
pub(super) fn write_tokenizer(folder: &Path) {
    let words: serde_json::Map<String, Value> = (0..VOCABULARY).map(|id| (format!("w{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

pub(super) fn unchanged(_: &str, _: &mut Vec<f32>) {}

pub(super) fn scheme(bits: u8, granularity: Granularity, symmetric: bool) -> WeightScheme {
    let group_size = (granularity == Granularity::Group).then_some(32);
    WeightScheme { bits, granularity, group_size, symmetric, observer: Observer::MinMax }
}

pub(super) fn quantize(name: &str, weights: WeightScheme, overrides: Vec<Override>) -> Recipe {
    Recipe::Quantize(Method {
        method: name.into(),
        weights,
        activations: InputScheme::None,
        smooth: None,
        bias_correction: false,
        rotation: None,
        asymmetric_calibration: false,
        overrides,
        dense: DenseFormat::F16,
    })
}

pub(super) fn calibration() -> CalibrationTokens {
    let mut random = StdRng::seed_from_u64(5);
    let mut window = || (0..32).map(|_| random.random_range(0..VOCABULARY as u32)).collect();
    CalibrationTokens { windows: (0..8).map(|_| window()).collect() }
}

/// Builds with calibration data at hand.
pub(super) fn make(model: &Path, recipe: &Recipe, into: &Path, threads: usize) -> Result<Artefact> {
    let tokens = calibration();
    let order = Order { model, model_sha256: "00", recipe, import: None, calibration: Some(&tokens), threads };
    build(&order, into, &mut |_, _| {})
}

pub(super) fn quantized(checkpoint: &Checkpoint, name: &str) -> (QuantizedTensor, ActivationScheme) {
    match checkpoint.tensor(name).unwrap() {
        StoredTensor::Quantized(tensor, activations) => (tensor, activations),
        StoredTensor::Dense { .. } => panic!("{name} is dense"),
    }
}

/// The tensor as RTN alone makes it.
fn rounded(model: &Path, name: &str, scheme: WeightScheme) -> QuantizedTensor {
    let (shape, values) = Checkpoint::open(model).unwrap().tensor_f32(name).unwrap();
    let weight = ArrayView2::from_shape((shape[0], shape[1]), &values).unwrap();
    method("rtn").unwrap().quantize(weight, scheme, None).unwrap().tensor
}

/// Logits of all tokens of the calibration text.
pub(super) fn logits(folder: &Path) -> Vec<f32> {
    let decoder = Decoder::load(&Checkpoint::open(folder).unwrap(), LoadOptions::default()).unwrap();
    let (pool, tokens) = (Pool::new(1), calibration().windows.concat());
    let mut cache = decoder.cache(8, 32);
    let hidden = decoder.forward(&pool, &tokens, &mut cache).unwrap().to_vec();
    let mut logits = Vec::new();
    decoder.logits(&pool, &hidden, &mut logits);
    logits
}

fn config(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn a_cast_rounds_matrices_and_keeps_norms() {
    let root = tempfile::tempdir().unwrap();
    let (model, into) = (root.path().join("model"), root.path().join("cache/f16"));
    write_model(&model, false, &unchanged);
    let artefact = make(&model, &Recipe::Cast { dtype: DenseFormat::F16 }, &into, 2).unwrap();

    let (before, after) = (Checkpoint::open(&model).unwrap(), Checkpoint::open(&into).unwrap());
    let (mut names, mut expected) = (after.names(), before.names());
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    for name in names {
        let (exact, (shape, cast)) = (before.tensor_f32(&name).unwrap().1, after.tensor_f32(&name).unwrap());
        let round = |v: &f32| if shape.len() == 1 { *v } else { half::f16::from_f32(*v).to_f32() };
        assert_eq!(exact.iter().map(round).collect::<Vec<_>>(), cast, "{name}");
    }
    assert_eq!(config(&into)["torch_dtype"], "float16");
    let bytes: u64 = fs::read_dir(&into).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert_eq!((artefact.file_bytes, artefact.bits_per_weight), (bytes, None));
    assert_eq!(fs::read_dir(into.parent().unwrap()).unwrap().count(), 1, "nothing unfinished is left");
}

#[test]
fn every_scheme_comes_back_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, true, &unchanged);
    for bits in [2, 3, 4, 5, 8] {
        for granularity in [Granularity::Tensor, Granularity::Channel, Granularity::Group] {
            for symmetric in [true, false] {
                let scheme = scheme(bits, granularity, symmetric);
                let into = root.path().join(format!("{scheme}"));
                let artefact = make(&model, &quantize("rtn", scheme, vec![]), &into, 1).unwrap();
                let checkpoint = Checkpoint::open(&into).unwrap();
                for linear in ["self_attn.k_proj", "mlp.down_proj"] {
                    let name = format!("model.layers.1.{linear}.weight");
                    let (read, activations) = quantized(&checkpoint, &name);
                    assert_eq!(read, rounded(&model, &name, scheme), "{scheme} {name}");
                    assert_eq!(activations, ActivationScheme::None);
                }
                assert!(artefact.bits_per_weight.unwrap() > f64::from(bits));
                assert!(artefact.layer_errors.is_empty(), "RTN sees no inputs");
            }
        }
    }
}

#[test]
fn mixed_schemes_are_declared_module_by_module() {
    let root = tempfile::tempdir().unwrap();
    let (model, into) = (root.path().join("model"), root.path().join("mixed"));
    write_model(&model, true, &unchanged);
    let (four, eight) = (scheme(4, Granularity::Group, false), scheme(8, Granularity::Channel, true));
    let rule = |tensors: &str, weights, activations| Override { tensors: tensors.into(), weights, activations };
    let overrides = vec![
        rule("*.down_proj", Some(eight), Some(InputScheme::DynamicToken)),
        rule("model.layers.0.mlp.down_proj", None, None),
        rule("lm_head", Some(eight), None),
    ];
    make(&model, &quantize("gptq", four, overrides), &into, 2).unwrap();

    let checkpoint = Checkpoint::open(&into).unwrap();
    let (table, activations) = quantized(&checkpoint, "model.embed_tokens.weight");
    assert_eq!(table, rounded(&model, "model.embed_tokens.weight", eight), "a head is rounded, whatever the method");
    assert_eq!(activations, ActivationScheme::None);
    let (down, activations) = quantized(&checkpoint, "model.layers.1.mlp.down_proj.weight");
    assert_eq!((down.bits, activations), (8, ActivationScheme::DynamicToken));
    assert_eq!(quantized(&checkpoint, "model.layers.0.mlp.up_proj.weight").0.bits, 4);
    let skipped = checkpoint.tensor("model.layers.0.mlp.down_proj.weight").unwrap();
    assert!(matches!(skipped, StoredTensor::Dense { stored_as: "f16", .. }), "the last match wins");
    let declared = &config(&into)["quantization_config"];
    assert_eq!(declared["format"], "mixed-precision");
    assert_eq!(declared["ignore"], json!(["model.layers.0.mlp.down_proj"]));
    Decoder::load(&checkpoint, LoadOptions::default()).unwrap();
}

#[test]
fn a_tied_head_is_written_as_its_software_looks_for_it_and_read_once() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, true, &unchanged);
    for (bits, asked, activations) in
        [(8, InputScheme::DynamicToken, ActivationScheme::DynamicToken), (4, InputScheme::None, ActivationScheme::None)]
    {
        let into = root.path().join(format!("head{bits}"));
        let head = Override {
            tensors: "lm_head".into(),
            weights: Some(scheme(bits, Granularity::Channel, true)),
            activations: Some(asked),
        };
        make(&model, &quantize("rtn", scheme(4, Granularity::Group, true), vec![head]), &into, 2).unwrap();
        let file = into.join("model.safetensors");
        let bytes = fs::read(&file).unwrap();
        let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let parts: Vec<&str> = stored.names().iter().filter_map(|name| name.strip_prefix("lm_head.")).collect();
        assert_eq!(parts, ["weight_scale"], "{bits} bits");
        let scales = |module: &str| stored.tensor(&format!("{module}.weight_scale")).unwrap().data().to_vec();
        assert_eq!(scales("lm_head"), scales("model.embed_tokens"), "{bits} bits");
        assert_eq!(stored.tensor("model.embed_tokens.weight").unwrap().dtype(), safetensors::Dtype::I8);
        let groups = config(&into)["quantization_config"]["config_groups"].to_string();
        assert!(groups.contains("\"lm_head\""), "{groups}");
        let checkpoint = Checkpoint::open(&into).unwrap();
        let (table, inputs) = quantized(&checkpoint, "model.embed_tokens.weight");
        assert_eq!((table.bits, inputs), (bits, activations));
        assert!(checkpoint.names().iter().all(|name| !name.starts_with("lm_head")), "{:?}", checkpoint.names());
        Decoder::load(&checkpoint, LoadOptions::default()).unwrap();

        // A head with numbers of its own is not tied.
        let start = stored.tensor("lm_head.weight_scale").unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
        let mut other = bytes.clone();
        other[start] ^= 1;
        fs::write(&file, other).unwrap();
        let message = Checkpoint::open(&into).unwrap_err().to_string();
        assert!(message.contains("\"lm_head.weight_scale\": is not that of model.embed_tokens"), "{message}");
    }
}

#[test]
fn gptq_is_reproducible_and_brings_the_output_closer_than_rounding() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, false, &unchanged);
    let scheme = scheme(3, Granularity::Group, true);
    let build = |name: &str, threads| {
        let into = root.path().join(format!("{name}-{threads}"));
        (make(&model, &quantize(name, scheme, vec![]), &into, threads).unwrap(), into)
    };
    let ((learned, one), (_, two), (_, rounded)) = (build("gptq", 1), build("gptq", 2), build("rtn", 2));
    let bytes = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(bytes(&one) == bytes(&two), "the number of threads changes no bit");
    assert_eq!(learned.layer_errors.len(), 7 * LAYERS);
    assert!(learned.layer_errors.values().all(|error| (1e-6..0.2).contains(error)), "{:?}", learned.layer_errors);

    let exact = logits(&model);
    let distance = |folder: &Path| -> f64 {
        logits(folder).iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / exact.len() as f64
    };
    let (learned, rounded) = (distance(&one), distance(&rounded));
    assert!(learned < 0.8 * rounded, "GPTQ {learned}, RTN {rounded}");
}

#[test]
fn awq_is_reproducible_and_smoothing_saves_what_outliers_cost_8_bit_inputs() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    // Norms that blow up some channels, and rows that blow up some of the inputs of the down projection.
    write_model(&model, true, &|name, values| {
        if name.contains("layernorm") {
            values.iter_mut().step_by(9).for_each(|v| *v *= 30.0);
        }
        if name.contains("up_proj") {
            values.chunks_mut(HIDDEN).step_by(11).for_each(|row| row.iter_mut().for_each(|v| *v *= 40.0));
        }
    });
    let scheme = scheme(8, Granularity::Channel, true);
    let build = |name: &str, method: &str, smooth: Option<Smooth>, activations, threads| {
        let Recipe::Quantize(recipe) = quantize(method, scheme, vec![]) else { panic!("a recipe that quantizes") };
        let recipe = Recipe::Quantize(Method { smooth, activations, ..recipe });
        make(&model, &recipe, &root.path().join(name), threads).unwrap();
        root.path().join(name)
    };
    let bytes = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    let awq = |name: &str, threads| build(name, "awq", None, InputScheme::None, threads);
    assert!(bytes(&awq("awq1", 1)) == bytes(&awq("awq2", 2)), "the number of threads changes no bit");

    let exact = logits(&model);
    let distance = |folder: &Path| -> f64 {
        logits(folder).iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / exact.len() as f64
    };
    for method in ["rtn", "gptq"] {
        let inputs = InputScheme::DynamicToken;
        let plain = distance(&build(&format!("{method}-plain"), method, None, inputs, 2));
        let smooth = distance(&build(&format!("{method}-smooth"), method, Some(Smooth::Search), inputs, 2));
        assert!(smooth < 0.5 * plain, "{method}: smoothed {smooth}, plain {plain}");
    }
}

#[test]
fn the_observer_may_differ_by_tensor_and_is_not_declared() {
    let root = tempfile::tempdir().unwrap();
    let (model, into) = (root.path().join("model"), root.path().join("searched"));
    write_model(&model, false, &unchanged);
    let observed = |observer| WeightScheme { observer, ..scheme(4, Granularity::Group, true) };
    let rule = |tensors: &str, observer| Override {
        tensors: tensors.into(),
        weights: Some(observed(observer)),
        activations: None,
    };
    let overrides = vec![rule("*.up_proj", Observer::MinMax), rule("*.down_proj", Observer::ImatrixMse)];
    let artefact = make(&model, &quantize("rtn", observed(Observer::Mse), overrides), &into, 2).unwrap();
    let checkpoint = Checkpoint::open(&into).unwrap();
    let name = |linear: &str| format!("model.layers.1.mlp.{linear}.weight");
    for (linear, observer) in [("gate_proj", Observer::Mse), ("up_proj", Observer::MinMax)] {
        assert_eq!(quantized(&checkpoint, &name(linear)).0, rounded(&model, &name(linear), observed(observer)));
    }
    let down = quantized(&checkpoint, &name("down_proj")).0;
    assert_ne!(down, rounded(&model, &name("down_proj"), observed(Observer::Mse)), "inputs were weighed");
    let learned: Vec<&str> = artefact.layer_errors.keys().map(String::as_str).collect();
    assert_eq!(learned, ["model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"]);
    let groups = &config(&into)["quantization_config"]["config_groups"];
    assert_eq!(groups.as_object().unwrap().len(), 1, "{groups}");

    let head = rule("lm_head", Observer::ImatrixMse);
    let text = make(&model, &quantize("rtn", observed(Observer::Mse), vec![head]), &root.path().join("x"), 1);
    let text = text.unwrap_err().to_string();
    assert!(text.contains("which a head does not; use \"mse\" (for lm_head)"), "{text}");
}

#[test]
fn faults_are_named_before_work_starts_and_leave_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let (model, into) = (root.path().join("model"), root.path().join("cache/x"));
    write_model(&model, true, &unchanged);
    let message = |recipe: &Recipe| make(&model, recipe, &into, 1).unwrap_err().to_string();

    let mut sixty_four = scheme(4, Granularity::Group, true);
    sixty_four.group_size = Some(64);
    let rule = Override { tensors: "model.layers.7.*".into(), weights: None, activations: None };
    let text = message(&quantize("rtn", sixty_four, vec![rule]));
    assert!(
        text.contains("group_size 64 does not divide in_features 96; use 32 or 96 (for model.layers.*.mlp.down_proj)"),
        "{text}"
    );
    assert!(text.contains("override \"model.layers.7.*\" names no linear layer"), "{text}");

    let mut eight = scheme(4, Granularity::Group, true);
    eight.group_size = Some(8);
    assert!(message(&quantize("rtn", eight, vec![])).contains("no kernel"));
    assert!(message(&quantize("guess", sixty_four, vec![])).contains("use one of rtn"));

    let recipe = quantize("gptq", scheme(4, Granularity::Channel, true), vec![]);
    let order =
        Order { model: &model, model_sha256: "00", recipe: &recipe, import: None, calibration: None, threads: 1 };
    let text = build(&order, &into, &mut |_, _| {}).unwrap_err().to_string();
    assert!(text.contains("calibration"), "{text}");

    for (value, dtype, expected) in [(f32::NAN, DenseFormat::F32, "NaN"), (7e4, DenseFormat::F16, "65504")] {
        let damaged = root.path().join(expected);
        write_model(&damaged, true, &|name, values| {
            if name.contains("o_proj") {
                values[3] = value;
            }
        });
        let text = make(&damaged, &Recipe::Cast { dtype }, &into, 1).unwrap_err().to_string();
        assert!(text.contains("o_proj") && text.contains(expected), "{text}");
    }
    assert_eq!(fs::read_dir(into.parent().unwrap()).map_or(0, Iterator::count), 0, "nothing is left behind");
}

#[test]
fn an_import_is_the_published_file() {
    let root = tempfile::tempdir().unwrap();
    let (model, published) = (root.path().join("model"), root.path().join("published"));
    write_model(&model, true, &unchanged);
    make(&model, &quantize("rtn", scheme(4, Granularity::Group, true), vec![]), &published, 1).unwrap();

    let import = |activations| Recipe::Import { source: "path:published".into(), activations };
    let recipe = import(InputScheme::None);
    let order = Order {
        model: &model,
        model_sha256: "00",
        recipe: &recipe,
        import: Some(&published),
        calibration: None,
        threads: 1,
    };
    let artefact = build(&order, &root.path().join("unused"), &mut |_, _| {}).unwrap();
    assert_eq!(artefact.path, published.display().to_string());
    assert_eq!(artefact.bits_per_weight, Some(4.5));
    // Every linear layer is proven; the tied head was left in floating point, as the configuration says.
    assert_eq!(artefact.proof.len(), 7 * LAYERS + 1);
    let (head, blocks) = artefact.proof.split_last().unwrap();
    assert!(blocks.iter().all(|layer| layer.products.is_some()), "{blocks:?}");
    assert_eq!((head.stored_as.as_str(), &head.products), ("f16", &None));
    assert!(!root.path().join("unused").exists());

    let recipe = import(InputScheme::DynamicToken);
    let text = build(&Order { recipe: &recipe, ..order }, root.path(), &mut |_, _| {}).unwrap_err().to_string();
    assert!(text.contains("not supported"), "{text}");
}
