//! Explicit scales of inputs (`pre_quant_scale`) in encoders, and what is refused of them.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod scaled_model;

use std::path::{Path, PathBuf};

use quantbench::checkpoint::Checkpoint;
use quantbench::kernels::Pool;
use quantbench::network::{Architecture, Decoder, Encoder, LoadOptions, Passage, Site, Workspace, load_block};
use quantbench::tensor::DenseFormat;
use scaled_model::{Values, factor, write};

/// By site the linear layers that read it.
const SITES: [&[&str]; 4] = [
    &["attention.self.query", "attention.self.key", "attention.self.value"],
    &["attention.output.dense"],
    &["intermediate.dense"],
    &["0.output.dense", "1.output.dense"],
];

type Damage<'a> = Box<dyn Fn(&mut Values) + 'a>;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn vectors(folder: &Path, format: DenseFormat, threads: usize) -> Vec<f32> {
    let options = LoadOptions { dense: Some(format), kv_cache: None };
    let encoder = Encoder::load(&Checkpoint::open(folder).unwrap(), options).unwrap();
    let sequences: Vec<Vec<u32>> =
        (1..20).map(|length| (0..length).map(|at| (at * 7 + length) % 48).collect()).collect();
    encoder.forward(&Pool::new(threads), &sequences, &mut encoder.memory()).unwrap().to_vec()
}

#[test]
fn scaled_inputs_of_every_site_give_the_same_vectors() {
    let (original, root) = (model("tiny_encoders/bert"), tempfile::tempdir().unwrap());
    let all = SITES.concat();
    for (at, linears) in SITES.into_iter().chain([all.as_slice()]).enumerate() {
        let folder = root.path().join(at.to_string());
        write(&original, &folder, linears, |_| {});
        for format in [DenseFormat::F32, DenseFormat::Bf16] {
            let expected = vectors(&original, format, 1);
            for threads in [1, 3] {
                assert_eq!(vectors(&folder, format, threads), expected, "{linears:?} as {format:?}, {threads} threads");
            }
        }
        let unscaled = root.path().join(format!("{at} without"));
        write(&original, &unscaled, linears, |values| values.retain(|name, _| !name.ends_with("pre_quant_scale")));
        assert_ne!(vectors(&unscaled, DenseFormat::F32, 1), vectors(&original, DenseFormat::F32, 1), "{linears:?}");
    }
}

#[test]
fn observers_see_what_the_layers_read() {
    let (original, root) = (model("tiny_encoders/bert"), tempfile::tempdir().unwrap());
    write(&original, root.path(), &SITES.concat(), |_| {});
    let options = LoadOptions { dense: Some(DenseFormat::F32), kv_cache: None };
    let hidden: Vec<f32> = (0..7 * 24).map(|at| (at * 37 % 50) as f32 / 25.0 - 1.0).collect();
    let inputs = |folder: &Path| {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let block = load_block(&checkpoint, &Architecture::of(&checkpoint).unwrap(), 1, options).unwrap();
        let mut passage = Passage { hidden: hidden.clone(), inputs: Vec::new(), ends: vec![3, 7] };
        Site::ALL.map(|site| {
            block.reach(site, &Pool::new(1), &mut passage, &mut Workspace::default());
            (site, passage.inputs.clone())
        })
    };
    let mut expected = inputs(&original);
    for (_, inputs) in &mut expected {
        let width = inputs.len() / 7;
        inputs.iter_mut().enumerate().for_each(|(at, x)| *x *= factor(at % width));
    }
    assert_eq!(inputs(root.path()), expected);
}

#[test]
fn damaged_scales_are_refused_by_name() {
    let (original, root) = (model("tiny_encoders/bert"), tempfile::tempdir().unwrap());
    let scale = |linear: &str| format!("encoder.layer.1.{linear}.pre_quant_scale");
    let set = |linear: &str, at: usize, value: f32| {
        let name = scale(linear);
        move |values: &mut Values| values.get_mut(&name).unwrap()[at] = value
    };
    let (key, up, down) = (scale("attention.self.key"), scale("intermediate.dense"), scale("output.dense"));
    let cases: [(&str, Damage, &str); 8] = [
        (&up, Box::new(set("intermediate.dense", 3, 0.0)), "factor 3 is 0; expected a finite number above 0"),
        (&up, Box::new(set("intermediate.dense", 0, -1.0)), "factor 0 is -1"),
        (&down, Box::new(set("output.dense", 39, f32::NAN)), "(39) is NaN; the file is damaged"),
        (&down, Box::new(set("output.dense", 1, f32::INFINITY)), "(1) is inf; the file is damaged"),
        (&down, Box::new(|values| _ = values.get_mut(&scale("output.dense")).unwrap().pop()), "expected shape [40]"),
        (&key, Box::new(set("attention.self.key", 2, 3.0)), "though both layers read the same input"),
        (&key, Box::new(|values| _ = values.remove(&scale("attention.self.key"))), "is missing"),
        ("pooler.dense.pre_quant_scale", Box::new(pooler), "in the blocks of encoders only"),
    ];
    for (at, (name, damage, problem)) in cases.into_iter().enumerate() {
        let folder = root.path().join(at.to_string());
        write(&original, &folder, &SITES.concat(), damage);
        let refused = Encoder::load(&Checkpoint::open(&folder).unwrap(), LoadOptions::default());
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(&format!("tensor \"{name}\"")) && message.contains(problem), "{message}");
    }

    let folder = root.path().join("decoder");
    write(&model("tiny_models/llama"), &folder, &["up_proj"], |_| {});
    let refused = Decoder::load(&Checkpoint::open(&folder).unwrap(), LoadOptions::default());
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("mlp.up_proj.pre_quant_scale") && message.contains("encoders only"), "{message}");
}

fn pooler(values: &mut Values) {
    values.insert("pooler.dense.pre_quant_scale".into(), vec![1.0; 24]);
}
