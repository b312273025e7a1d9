//! Tensors that do not belong to the model, and frames of safetensors files that do not hold.

use std::fs;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};

use super::{eval_words, spoilt, spoilt_model};
use crate::check::assert_all;
use crate::tiny_model::Place;

/// Tensors of a model, to be changed.
type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// Writes the weights again with a change.
fn change_weights(place: &Place, change: impl FnOnce(&mut Tensors)) {
    let path = place.path("model/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = file
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()))
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, &path).unwrap();
}

fn ones(name: &str, shape: &[usize]) -> (String, Dtype, Vec<usize>, Vec<u8>) {
    let data = std::iter::repeat_n(1f32.to_le_bytes(), shape.iter().product()).flatten().collect();
    (name.into(), Dtype::F32, shape.to_vec(), data)
}

/// Weights that the configuration does not call for, or not so: refused by whatever opens a model.
#[test]
fn tensors_that_do_not_fit() {
    const Q: &str = "model.layers.0.self_attn.q_proj";
    let add = |name: String, shape: &'static [usize]| move |tensors: &mut Tensors| tensors.push(ones(&name, shape));
    let rename = |change: fn(&str) -> String| {
        move |tensors: &mut Tensors| tensors.iter_mut().for_each(|tensor| tensor.0 = change(&tensor.0))
    };
    type Change<'a> = (&'a str, &'a str, Box<dyn Fn(&mut Tensors)>);
    let changes: Vec<Change<'_>> = vec![
        ("a bias of q that no key asks for", "q_proj.bias", Box::new(add(format!("{Q}.bias"), &[64]))),
        ("a bias of the mlp", "up_proj.bias", Box::new(add("model.layers.1.mlp.up_proj.bias".into(), &[128]))),
        ("a norm of queries", "q_norm", Box::new(add("model.layers.0.self_attn.q_norm.weight".into(), &[16]))),
        ("left-over LoRA", "lora_A", Box::new(add(format!("{Q}.lora_A.weight"), &[4, 64]))),
        ("a left-over scale", "weight_scale", Box::new(add(format!("{Q}.weight_scale"), &[64, 1]))),
        ("a left-over zero point", "weight_zero_point", Box::new(add(format!("{Q}.weight_zero_point"), &[64, 1]))),
        ("a left-over input scale", "input_scale", Box::new(add(format!("{Q}.input_scale"), &[1]))),
        ("a third block", "model.layers.2", Box::new(add("model.layers.2.input_layernorm.weight".into(), &[64]))),
        ("experts", "experts", Box::new(add("model.layers.0.mlp.experts.0.up_proj.weight".into(), &[128, 64]))),
        ("another head beside a tied one", "lm_head", Box::new(add("lm_head.weight".into(), &[256, 64]))),
        ("prefixed names", "", Box::new(rename(|name| format!("base_model.model.{name}")))),
        ("names of torch.compile", "", Box::new(rename(|name| format!("_orig_mod.{name}")))),
        ("names without model.", "", Box::new(rename(|name| name.trim_start_matches("model.").into()))),
        ("a matrix is missing", "k_proj", Box::new(|tensors| tensors.retain(|t| !t.0.contains("1.self_attn.k_proj")))),
        ("a norm is missing", "norm", Box::new(|tensors| tensors.retain(|t| t.0 != "model.norm.weight"))),
        (
            "a matrix of another shape",
            "down_proj",
            Box::new(|tensors| {
                let matrix = tensors.iter_mut().find(|t| t.0.contains("0.mlp.down_proj")).unwrap();
                matrix.2.reverse();
            }),
        ),
        (
            "integers as weights",
            "q_proj",
            Box::new(|tensors| {
                let matrix = tensors.iter_mut().find(|t| t.0.contains(Q)).unwrap();
                matrix.1 = Dtype::I32;
            }),
        ),
    ];
    let recipe = "method = \"rtn\", weights = { bits = 8, granularity = \"channel\" }";
    let commands: [(&str, &[&str]); 4] = [
        ("eval", &eval_words()),
        ("quantize", &["quantize", "model", "--recipe", recipe, "-o", "out"]),
        ("plan", &["plan", "suite.toml"]),
        ("init", &["init", "model", "-o", "new.toml"]),
    ];
    let mut attacks = Vec::new();
    for (name, phrase, change) in &changes {
        for (command, arguments) in commands {
            attacks.push(spoilt(&format!("{name}, {command}"), &format!("2\n{phrase}"), arguments, |place| {
                change_weights(place, change);
            }));
        }
    }
    assert_all(attacks);
}

/// The frame of a safetensors file.
#[test]
fn safetensors_frames() {
    let file = |header: &str, data: &[u8]| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
    let one = |dtype: &str, shape: &str, offsets: &str, data: usize| {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        file(&header, &vec![0; data])
    };
    let twice =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let files: [(&str, Vec<u8>); 16] = [
        ("three bytes", b"abc".to_vec()),
        ("a header of 2^64 bytes", vec![0xff; 64]),
        ("a header of 100 MB", [&100_000_000u64.to_le_bytes()[..], b"{}"].concat()),
        ("a header cut off", [&64u64.to_le_bytes()[..], b"{\"a\":{"].concat()),
        ("no JSON", file("not JSON at all ", b"")),
        ("a list", file("[]", b"")),
        ("nested a thousand deep", file(&"[".repeat(100_000), b"")),
        ("an unknown type", one("F7", "[1]", "[0,4]", 4)),
        ("a shape of 2^128", one("F32", "[18446744073709551615,18446744073709551615]", "[0,4]", 4)),
        ("a negative shape", one("F32", "[-1]", "[0,4]", 4)),
        ("a shape that is no number", one("F32", "[1e3]", "[0,4]", 4)),
        ("offsets backwards", one("F32", "[1]", "[4,0]", 4)),
        ("offsets beyond the end", one("F32", "[2]", "[0,8]", 4)),
        ("bytes that nobody owns", one("F32", "[1]", "[0,4]", 64)),
        ("tensors that overlap", file(twice, &[0])),
        (
            "a name of escape sequences",
            one("F32", "[1]", "[0,4]", 3).iter().map(|b| if *b == b'a' { 0x1b } else { *b }).collect(),
        ),
    ];
    assert_all(files.into_iter().map(|(name, bytes)| {
        spoilt_model(name, "2\nmodel.safetensors", |place| {
            fs::write(place.path("model/model.safetensors"), bytes).unwrap()
        })
    }));
}
