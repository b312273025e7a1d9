//! Units of a tiny model, tried alone.

use std::path::{Path, PathBuf};

use super::super::tests::{calibration, quantize, unchanged, write_model};
use super::super::{CalibrationTokens, Order, build};
use super::search;
use super::survey::Survey;
use crate::checkpoint::Checkpoint;
use crate::kernels::{Isa, Pool, vector};
use crate::network::{Decoder, LoadOptions};
use crate::results::{Mixture, Sensitivity};
use crate::suite::{Budget, Format, Method, Observer, Override, Recipe, Search, recipe_from_text};
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
    let found = survey.run(&mut |_, _| calls += 1, &mut |_| {}).unwrap();
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
    crate::results::write_checked(&file, &serde_json::to_vec(&part).unwrap()).unwrap();
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
        let error = survey.run(&mut |_, _| {}, &mut |_| {}).unwrap_err().to_string();
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

/// A search among 4 and 8 bits, learning from half of the windows.
fn searched(model: &Path, cache: &Path, budget: Budget, threads: usize) -> crate::error::Result<Mixture> {
    let [learned, held_out] = halves();
    let recipe = Recipe::Search(Search {
        quantizer: "gptq".into(),
        formats: formats(&["4g32", "8"]),
        budget,
        dense: DenseFormat::F16,
        probe_windows: 2,
        check_windows: 2,
    });
    let Recipe::Search(asked) = &recipe else { panic!("a search") };
    let order =
        Order { model, model_sha256: "00", recipe: &recipe, import: None, calibration: Some(&learned), threads };
    search(&order, asked, &held_out, cache, &mut |_, _| {}, &mut |_| {})
}

fn tiny_model(root: &Path) -> PathBuf {
    let model = root.join("model");
    write_model(&model, true, &unchanged);
    model
}

/// Bytes of the whole model in one form.
fn bytes_of(model: &Path, recipe: &Recipe) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("artefact");
    let order = Order { model, model_sha256: "00", recipe, import: None, calibration: None, threads: 1 };
    build(&order, &into, &mut |_, _| {}).unwrap();
    Decoder::load(&Checkpoint::open(&into).unwrap(), LoadOptions::default()).unwrap().weight_bytes()
}

#[test]
fn a_mixture_keeps_to_its_bytes_and_loses_no_more_than_a_uniform_recipe() {
    let root = tempfile::tempdir().unwrap();
    let model = tiny_model(root.path());
    let four = quantize("rtn", formats(&["4g32"])[0].weights, vec![]);
    let budget = bytes_of(&model, &four);
    let mixture = searched(&model, &root.path().join("cache"), Budget::Bytes(budget), 2).unwrap();
    let best = mixture.best().unwrap();
    assert!(best.bytes <= budget && mixture.within_budget, "{mixture:?}");
    let uniform = mixture.tried.iter().find(|tried| tried.found_by.starts_with("all ")).unwrap();
    assert!(best.kl <= uniform.kl, "{mixture:?}");
    assert_eq!(mixture.units.iter().map(|(_, count)| count).sum::<usize>(), 9);
    // What is made of the decision is what was measured, and reads back from its keys.
    assert_eq!(recipe_from_text("keys", &mixture.recipe.keys()).unwrap(), Recipe::Quantize(mixture.recipe.clone()));
    let rounded = Recipe::Quantize(Method { method: "rtn".into(), ..mixture.recipe.clone() });
    assert_eq!(bytes_of(&model, &rounded), best.bytes);

    let error = searched(&model, &root.path().join("cache"), Budget::Bytes(1000), 1).unwrap_err().to_string();
    assert!(error.contains("the smallest mixture takes") && error.contains("1000 B"), "{error}");
}

#[test]
fn a_decision_depends_on_no_threads_and_is_remembered() {
    let root = tempfile::tempdir().unwrap();
    let model = tiny_model(root.path());
    let budget = Budget::Divergence(0.001);
    let once = searched(&model, &root.path().join("a"), budget, 1).unwrap();
    assert_eq!(searched(&model, &root.path().join("b"), budget, 3).unwrap(), once);
    std::fs::remove_dir_all(root.path().join("a/sensitivities")).unwrap();
    assert_eq!(searched(&model, &root.path().join("a"), budget, 1).unwrap(), once);
    assert!(!root.path().join("a/sensitivities").exists(), "nothing was measured again");
    assert_eq!(std::fs::read_dir(root.path().join("a")).unwrap().count(), 1, "no mixture is left behind");
}

#[test]
fn a_divergence_is_kept_to_by_the_smallest_mixture_that_was_tried() {
    let root = tempfile::tempdir().unwrap();
    let model = tiny_model(root.path());
    let dense = bytes_of(&model, &Recipe::Cast { dtype: DenseFormat::F16 });
    let mut before = u64::MAX;
    for limit in [1e-7, 1e-4, 1.0] {
        let mixture = searched(&model, root.path(), Budget::Divergence(limit), 1).unwrap();
        let best = mixture.best().unwrap();
        assert!(mixture.within_budget && best.kl <= limit, "{limit}: {mixture:?}");
        let within = mixture.tried.iter().filter(|tried| tried.kl <= limit);
        assert_eq!(within.map(|tried| tried.bytes).min(), Some(best.bytes));
        if before != u64::MAX {
            assert!(best.bytes < before, "a wider limit gives a smaller mixture");
        }
        before = best.bytes;
    }
    assert!(before < dense / 3, "at the widest limit all is in 4 bits: {before} of {dense}");
}

#[test]
fn a_speedup_is_judged_by_measured_products() {
    let root = tempfile::tempdir().unwrap();
    let model = tiny_model(root.path());
    let mixture = searched(&model, root.path(), Budget::Speedup(1e-6), 1).unwrap();
    assert!(mixture.best().unwrap().products_s.unwrap() > 0.0);
    assert_eq!((mixture.best().unwrap().kl, mixture.units[0].clone()), (0.0, ("f16".into(), 9)), "{mixture:?}");
    let error = searched(&model, root.path(), Budget::Speedup(90.0), 1).unwrap_err().to_string();
    assert!(error.contains("the fastest mixture speeds products up by"), "{error}");
}
