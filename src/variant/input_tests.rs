//! Artefacts with static inputs and corrected biases.

use std::fs;
use std::path::Path;

use super::tests::{logits, make, quantize, quantized, scheme, unchanged, write_model, write_tokenizer};
use super::{CalibrationTokens, Order, build};
use crate::checkpoint::Checkpoint;
use crate::kernels::Pool;
use crate::network::{Encoder, LoadOptions, PRE_QUANT_SCALE};
use crate::suite::{InputObserver, InputScheme, Method, Override, Recipe, Smooth, StaticInputs};
use crate::tensor::{ActivationScheme, DenseFormat, Granularity, StaticActivations};

fn learned(observer: InputObserver, symmetric: bool) -> InputScheme {
    InputScheme::Static(StaticInputs { observer, symmetric })
}

/// Rounding to 8 bits per channel with such inputs.
fn recipe(activations: InputScheme, bias_correction: bool, bits: u8, overrides: Vec<Override>) -> Recipe {
    match quantize("rtn", scheme(bits, Granularity::Channel, true), overrides) {
        Recipe::Quantize(method) => Recipe::Quantize(Method { activations, bias_correction, ..method }),
        other => other,
    }
}

fn static_numbers(checkpoint: &Checkpoint, layer: usize, linear: &str) -> StaticActivations {
    match quantized(checkpoint, &format!("model.layers.{layer}.{linear}.weight")).1 {
        ActivationScheme::Static(numbers) => numbers,
        other => panic!("{linear} has {other:?}"),
    }
}

#[test]
fn static_inputs_are_learned_stored_and_run() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, false, &unchanged);
    let exact = logits(&model);
    let distance = |folder: &Path| -> f64 {
        logits(folder).iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / exact.len() as f64
    };
    let build = |name: &str, inputs| {
        let into = root.path().join(name);
        make(&model, &recipe(inputs, false, 8, vec![]), &into, 2).unwrap();
        into
    };
    let dynamic = distance(&build("dynamic", InputScheme::DynamicToken));
    let covering = build("minmax", learned(InputObserver::MinMax, true));
    let checkpoint = Checkpoint::open(&covering).unwrap();
    for layer in 0..2 {
        let numbers = |linear| static_numbers(&checkpoint, layer, linear);
        assert_eq!(numbers("self_attn.q_proj"), numbers("self_attn.v_proj"), "layers of a site share its range");
        assert_ne!(numbers("self_attn.q_proj"), numbers("mlp.down_proj"));
        assert_eq!((numbers("mlp.down_proj").zero_point, numbers("mlp.down_proj").low), (0, -128));
    }
    for (name, observer, symmetric) in [
        ("affine", InputObserver::MinMax, false),
        ("average", InputObserver::MovingAverage, true),
        ("percentile", InputObserver::Percentile(99.9), true),
        ("entropy", InputObserver::Entropy, true),
        ("mse", InputObserver::Mse, false),
    ] {
        let folder = build(name, learned(observer, symmetric));
        let narrower = static_numbers(&Checkpoint::open(&folder).unwrap(), 1, "mlp.down_proj").scale;
        let widest = static_numbers(&checkpoint, 1, "mlp.down_proj").scale;
        assert!(narrower <= widest, "{name}: scale {narrower}, of all that was seen {widest}");
        assert!(distance(&folder) < 30.0 * dynamic, "{name}: {}, dynamic {dynamic}", distance(&folder));
    }
    assert!(distance(&covering) < 30.0 * dynamic, "{}, dynamic {dynamic}", distance(&covering));
}

#[test]
fn a_head_keeps_one_scale_for_each_token_and_refuses_to_learn() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, false, &unchanged);
    let inputs = learned(InputObserver::Mse, true);
    let head = |activations| Override {
        tensors: "lm_head".into(),
        weights: Some(scheme(8, Granularity::Channel, true)),
        activations,
    };
    make(&model, &recipe(inputs, false, 8, vec![head(None)]), &root.path().join("head"), 1).unwrap();
    let checkpoint = Checkpoint::open(&root.path().join("head")).unwrap();
    assert_eq!(quantized(&checkpoint, "lm_head.weight").1, ActivationScheme::DynamicToken);
    let refused = make(&model, &recipe(inputs, false, 8, vec![head(Some(inputs))]), &root.path().join("x"), 1);
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("which a head does not") && message.contains("lm_head"), "{message}");
}

/// The tiny encoder of the golden tests with a tokenizer.
fn write_encoder(folder: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_encoders/bert");
    fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    for file in ["config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"] {
        fs::copy(golden.join(file), folder.join(file)).unwrap();
    }
    write_tokenizer(folder);
}

fn sentences() -> CalibrationTokens {
    let windows = (0..60).map(|at| (0..5 + at % 20).map(|k| (at * 11 + k * 7) % 40).collect()).collect();
    CalibrationTokens { windows }
}

/// What an encoder makes of `tokens`.
fn vectors(folder: &Path, tokens: &CalibrationTokens) -> Vec<f32> {
    let encoder = Encoder::load(&Checkpoint::open(folder).unwrap(), LoadOptions::default()).unwrap();
    encoder.forward(&Pool::new(1), &tokens.windows, &mut encoder.memory()).unwrap().to_vec()
}

#[test]
fn corrected_biases_bring_the_outputs_of_an_encoder_closer() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("encoder");
    write_encoder(&model);
    let tokens = sentences();
    let vectors = |folder: &Path| vectors(folder, &tokens);
    let exact = vectors(&model);
    let distance = |bias_correction: bool, inputs| -> f64 {
        let recipe = recipe(inputs, bias_correction, 2, vec![]);
        let into = root.path().join(format!("{bias_correction}-{inputs:?}"));
        let calibration = Some(&tokens);
        let order = Order { model: &model, model_sha256: "00", recipe: &recipe, import: None, calibration, threads: 2 };
        build(&order, &into, &mut |_, _| {}).unwrap();
        vectors(&into).iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    for inputs in [InputScheme::None, InputScheme::DynamicToken, learned(InputObserver::Mse, false)] {
        let (corrected, plain) = (distance(true, inputs), distance(false, inputs));
        assert!(corrected < 0.9 * plain, "{inputs:?}: corrected {corrected}, plain {plain}");
    }

    let decoder = root.path().join("decoder");
    write_model(&decoder, false, &unchanged);
    let refused = make(&decoder, &recipe(InputScheme::None, true, 8, vec![]), &root.path().join("x"), 1);
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("no quantized layer of this model has one"), "{message}");
}

#[test]
fn an_encoder_is_rescaled_at_every_site_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("encoder");
    write_encoder(&model);
    let tokens = sentences();
    let vectors = |folder: &Path| vectors(folder, &tokens);
    let build_from = |model: &Path, name: &str, recipe: &Recipe, threads: usize| {
        let (into, calibration) = (root.path().join(format!("{name}-{threads}")), Some(&tokens));
        build(&Order { model, model_sha256: "00", recipe, import: None, calibration, threads }, &into, &mut |_, _| {})
            .unwrap();
        into
    };
    let smooth = |method: &str| match quantize(method, scheme(8, Granularity::Channel, true), vec![]) {
        Recipe::Quantize(method) => Recipe::Quantize(Method {
            smooth: Some(Smooth::Alpha(0.5)),
            activations: InputScheme::DynamicToken,
            ..method
        }),
        other => other,
    };
    let recipes = [
        ("awq", quantize("awq", scheme(8, Granularity::Channel, true), vec![])),
        ("rtn", smooth("rtn")),
        ("gptq", smooth("gptq")),
    ];
    let exact = vectors(&model);
    for (name, recipe) in &recipes {
        let (alone, folder) = (build_from(&model, name, recipe, 1), build_from(&model, name, recipe, 3));
        for file in ["model.safetensors", "config.json"] {
            assert_eq!(fs::read(alone.join(file)).unwrap(), fs::read(folder.join(file)).unwrap(), "{name}: {file}");
        }
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let scales = checkpoint.names().iter().filter(|tensor| tensor.ends_with(PRE_QUANT_SCALE)).count();
        assert_eq!(scales, 2 * 5, "{name}: all linear layers but attention's last, in both blocks");
        assert_eq!(checkpoint.config()["quantization_config"]["config_groups"]["group_0"]["pre_quant_scale"], true);
        let size = exact.iter().fold(0.0f32, |size, v| size.max(v.abs()));
        let off = vectors(&folder).iter().zip(&exact).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
        assert!(off < 0.05 * size, "{name}: off by {off} of {size}");

        // An artefact is a model again: its scales stay, or are rescaled in turn.
        let cast = Recipe::Cast { dtype: DenseFormat::F32 };
        let cast = vectors(&build_from(&folder, &format!("{name}-cast"), &cast, 1));
        let again = vectors(&build_from(&folder, &format!("{name}-again"), &recipes[0].1, 1));
        for (what, found) in [("cast", cast), ("rescaled again", again)] {
            let off = found.iter().zip(&exact).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
            assert!(off < 0.05 * size, "{name} {what}: off by {off} of {size}");
        }
    }

    let plain = build_from(&model, "plain", &recipe(InputScheme::None, false, 8, vec![]), 1);
    let config = Checkpoint::open(&plain).unwrap().config()["quantization_config"]["config_groups"]["group_0"].clone();
    assert!(config.is_object() && config.get("pre_quant_scale").is_none(), "{config}");
}
