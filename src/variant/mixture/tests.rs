//! Units of a tiny model, tried alone.

use std::path::Path;

use super::super::tests::{calibration, quantize, unchanged, write_model};
use super::super::{CalibrationTokens, Order, build};
use super::survey::Survey;
use crate::checkpoint::Checkpoint;
use crate::kernels::{Isa, Pool, vector};
use crate::network::{Decoder, LoadOptions};
use crate::results::Sensitivity;
use crate::suite::{Format, Observer, Override, Recipe};
use crate::tensor::DenseFormat;

fn formats(names: &[&str]) -> Vec<Format> {
    names.iter().map(|name| Format::parse(name, Observer::MinMax).unwrap()).collect()
}

/// Half of the windows to learn from, half to compare on.
fn halves() -> [CalibrationTokens; 2] {
    let windows = calibration().windows;
    [windows[..4].to_vec(), windows[4..].to_vec()].map(|windows| CalibrationTokens { windows })
}

fn survey(model: &Path, cache: &Path, method: &str, names: &[&str], threads: usize) -> (Sensitivity, usize) {
    let (formats, [learned, windows]) = (formats(names), halves());
    let survey = Survey {
        model,
        model_sha256: "00",
        method,
        formats: &formats,
        dense: DenseFormat::F16,
        windows: &windows,
        calibration: (method == "gptq").then_some(&learned),
        threads,
        cache,
    };
    let mut calls = 0;
    let found = survey.run(&mut |_, _| calls += 1).unwrap();
    (found, calls)
}

/// Mean KL of a recipe's artefact from the model in 16 bits, over the compared windows.
fn divergence(model: &Path, recipe: &Recipe) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let logits = |recipe: &Recipe, name: &str| {
        let into = folder.path().join(name);
        let order = Order { model, model_sha256: "00", recipe, import: None, calibration: None, threads: 1 };
        build(&order, &into, &mut |_, _| {}).unwrap();
        let decoder = Decoder::load(&Checkpoint::open(&into).unwrap(), LoadOptions::default()).unwrap();
        let (pool, [_, windows]) = (Pool::new(1), halves());
        let mut cache = decoder.cache(4, 32);
        let hidden = decoder.forward(&pool, &windows.windows.concat(), &mut cache).unwrap().to_vec();
        let mut logits = Vec::new();
        decoder.logits(&pool, &hidden, &mut logits);
        (logits, decoder.config().vocab_size)
    };
    let (reference, vocabulary) = logits(&Recipe::Cast { dtype: DenseFormat::F16 }, "f16");
    let (quantized, _) = logits(recipe, "quantized");
    let rows = reference.chunks(vocabulary).zip(quantized.chunks(vocabulary));
    let kl: Vec<f64> = rows.map(|(a, b)| vector::softmax_divergence(Isa::active(), a, b).1).collect();
    kl.iter().sum::<f64>() / kl.len() as f64
}

#[test]
fn a_unit_alone_diverges_as_an_artefact_does_in_which_only_it_is_quantized() {
    let root = tempfile::tempdir().unwrap();
    for tied in [true, false] {
        let model = root.path().join(format!("tied-{tied}"));
        write_model(&model, tied, &unchanged);
        let (found, _) = survey(&model, &root.path().join(format!("cache-{tied}")), "rtn", &["4g32", "8a8"], 2);
        assert_eq!(found.units.len(), 2 * 4 + 1);
        for unit in &found.units {
            for (effect, format) in unit.effects.iter().zip(formats(&["4g32", "8a8"])) {
                let keep = Override { tensors: "*".into(), weights: None, activations: None };
                let only = unit.modules.iter().map(|module| Override {
                    tensors: module.clone(),
                    weights: Some(format.weights),
                    activations: Some(format.activations),
                });
                let recipe = quantize("rtn", format.weights, std::iter::once(keep).chain(only).collect());
                let expected = divergence(&model, &recipe);
                assert!(expected > 0.0, "{}", unit.label());
                let off = (effect.kl / expected - 1.0).abs();
                assert!(off < 1e-3, "{} {}: {} for {expected}", unit.label(), effect.format, effect.kl);
                assert!(effect.output_error > 0.0 && effect.bytes > 0 && effect.kl_interval.is_some());
            }
            assert!(unit.effects[0].output_error > unit.effects[1].output_error, "8 bits err less than 4");
        }
    }
}

#[test]
fn results_depend_on_neither_threads_nor_interruptions() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, true, &unchanged);
    let names = ["4g32", "8"];
    let (once, first) = survey(&model, &root.path().join("a"), "gptq", &names, 1);
    let (again, none) = survey(&model, &root.path().join("a"), "gptq", &names, 1);
    assert_eq!((&again, none), (&once, 0), "a finished survey is only read");
    let (threaded, _) = survey(&model, &root.path().join("b"), "gptq", &names, 3);
    assert_eq!(threaded, once);

    // As a kill after the first block leaves it.
    let file = std::fs::read_dir(root.path().join("a/sensitivities")).unwrap().next().unwrap().unwrap().path();
    let mut part = once.clone();
    part.units.truncate(4);
    std::fs::write(&file, serde_json::to_vec(&part).unwrap()).unwrap();
    let (resumed, rest) = survey(&model, &root.path().join("a"), "gptq", &names, 2);
    assert_eq!(resumed, once);
    assert!(rest < first, "{rest} of {first} steps were left");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, true, &unchanged);
    let (formats, windows) = (formats(&["4g32"]), calibration());
    for (method, problem) in [("awq", "rescales"), ("gptq", "give calibration text"), ("guess", "unknown method")] {
        let survey = Survey {
            model: &model,
            model_sha256: "00",
            method,
            formats: &formats,
            dense: DenseFormat::F16,
            windows: &windows,
            calibration: None,
            threads: 1,
            cache: root.path(),
        };
        let error = survey.run(&mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn a_format_that_does_not_fit_a_unit_is_left_out_there() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, true, &unchanged);
    // 64 divides the width of 64, not the 96 inputs of the down projection.
    let (found, _) = survey(&model, root.path(), "rtn", &["4g64", "8"], 1);
    for unit in &found.units {
        let expected: &[&str] = if unit.unit == "down" { &["8"] } else { &["4g64", "8"] };
        assert_eq!(unit.effects.iter().map(|e| e.format.as_str()).collect::<Vec<_>>(), expected, "{}", unit.label());
    }
}
