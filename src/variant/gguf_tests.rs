//! GGUF files of tiny models: written, read again, compared.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::tests::{quantize, quantized, scheme, unchanged, write_model};
use super::{Exported, Order, build, build_gguf};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::network::{Config, RopeScaling, Tokenizer};
use crate::suite::{InputScheme, Method, Override, Recipe};
use crate::tensor::{DenseFormat, Granularity, Zero};

/// A byte-level BPE over a few letters instead of the model's tokenizer.
pub(super) fn write_byte_level_tokenizer(model: &Path) {
    let letters = ["a", "b", "c", "Ġ", "ab", "<end>"];
    let vocabulary: serde_json::Map<_, _> = letters.iter().zip(0..).map(|(l, id)| ((*l).into(), json!(id))).collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{ "id": 5, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true }],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocabulary, "merges": [["a", "b"]] },
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

fn order<'a>(model: &'a Path, recipe: &'a Recipe) -> Order<'a> {
    Order { model, model_sha256: "00", recipe, import: None, calibration: None, threads: 1 }
}

fn export(model: &Path, recipe: &Recipe, into: &Path) -> Result<Exported> {
    build_gguf(&order(model, recipe), into, &mut |_, _| {})
}

fn as_it_is() -> Recipe {
    Recipe::Import { source: "model".into(), activations: InputScheme::None }
}

/// Compares names, shapes and weights, bit for bit.
fn assert_same(expected: &Checkpoint, got: &Checkpoint, what: &str) {
    let sorted = |checkpoint: &Checkpoint| {
        let mut names = checkpoint.names();
        names.retain(|name| name != "rope_freqs.weight");
        names.sort();
        names
    };
    assert_eq!(sorted(got), sorted(expected), "{what}");
    for name in sorted(got) {
        let bits = |checkpoint: &Checkpoint| {
            let (shape, values) = checkpoint.tensor_f32(&name).unwrap();
            (shape, values.iter().map(|value| value.to_bits()).collect::<Vec<_>>())
        };
        assert_eq!(bits(got), bits(expected), "{what}: {name}");
    }
}

#[test]
fn variants_are_the_same_weights_in_both_formats() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, true, &unchanged);
    write_byte_level_tokenizer(&model);
    let eight = scheme(8, Granularity::Channel, true);
    let head = Override { tensors: "lm_head".into(), weights: Some(eight), activations: None };
    let group = |bits, symmetric| scheme(bits, Granularity::Group, symmetric);
    let channel = |bits, symmetric| scheme(bits, Granularity::Channel, symmetric);
    for (at, (recipe, formats, bits)) in [
        (Recipe::Cast { dtype: DenseFormat::F32 }, &[("F32", 20)][..], None),
        (Recipe::Cast { dtype: DenseFormat::F16 }, &[("F16", 15), ("F32", 5)], None),
        (Recipe::Cast { dtype: DenseFormat::Bf16 }, &[("BF16", 15), ("F32", 5)], None),
        (quantize("rtn", group(4, true), vec![]), &[("F16", 1), ("F32", 5), ("Q4_0", 14)], Some(4.5)),
        (quantize("rtn", channel(3, true), vec![]), &[("F16", 1), ("F32", 5), ("Q4_0", 14)], Some(4.5)),
        (quantize("rtn", group(4, false), vec![]), &[("F16", 1), ("F32", 5), ("Q5_0", 14)], Some(5.5)),
        (quantize("rtn", group(5, true), vec![]), &[("F16", 1), ("F32", 5), ("Q5_0", 14)], Some(5.5)),
        (quantize("rtn", eight, vec![head]), &[("F32", 5), ("Q8_0", 15)], Some(8.5)),
    ]
    .into_iter()
    .enumerate()
    {
        let (folder, file) = (root.path().join(format!("{at}")), root.path().join(format!("{at}.gguf")));
        build(&order(&model, &recipe), &folder, &mut |_, _| {}).unwrap();
        let exported = export(&model, &recipe, &file).unwrap();
        assert_eq!(exported.formats.into_iter().collect::<Vec<_>>(), formats, "{recipe}");
        assert_eq!(exported.artefact.bits_per_weight, bits, "{recipe}");
        assert_eq!(exported.notes, [""; 0]);
        let (folder, file) = (Checkpoint::open(&folder).unwrap(), Checkpoint::open(&file).unwrap());
        assert_same(&folder, &file, &recipe.to_string());
        let config = |checkpoint: &Checkpoint| Config::from_json("c", checkpoint.config()).unwrap();
        assert_eq!(config(&file), config(&folder));
        let tokenizer = |checkpoint: &Checkpoint| Tokenizer::from_checkpoint(checkpoint).unwrap();
        assert_eq!(
            tokenizer(&file).encode("abc ab<end>a").unwrap(),
            tokenizer(&folder).encode("abc ab<end>a").unwrap()
        );
    }
}

#[test]
fn symmetric_codes_are_the_same_integers() {
    let root = tempfile::tempdir().unwrap();
    let (model, folder, file) = (root.path().join("model"), root.path().join("folder"), root.path().join("x.gguf"));
    write_model(&model, false, &unchanged);
    write_byte_level_tokenizer(&model);
    let recipe = quantize("rtn", scheme(4, Granularity::Channel, true), vec![]);
    build(&order(&model, &recipe), &folder, &mut |_, _| {}).unwrap();
    export(&model, &recipe, &file).unwrap();
    let (folder, file) = (Checkpoint::open(&folder).unwrap(), Checkpoint::open(&file).unwrap());
    let name = "model.layers.1.self_attn.q_proj.weight";
    let (expected, _) = quantized(&folder, name);
    let (got, _) = quantized(&file, name);
    assert_eq!((got.bits, got.group_size, &got.zero), (4, 32, &Zero::Symmetric));
    assert_eq!(got.codes, expected.codes);
    let repeated: Vec<f32> = expected.scales.iter().flat_map(|&scale| [scale; 2]).collect();
    assert_eq!(got.scales, repeated);
}

#[test]
fn published_models_of_every_family_are_written_as_they_are() {
    for family in ["llama", "mistral", "qwen2", "qwen3"] {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_models").join(family);
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("x.gguf");
        let exported = export(&model, &as_it_is(), &file).unwrap();
        assert!(exported.notes[0].contains("no vocabulary"), "{family}");
        let (model, file) = (Checkpoint::open(&model).unwrap(), Checkpoint::open(&file).unwrap());
        assert_same(&model, &file, family);
        let expected = Config::from_json("c", model.config()).unwrap();
        let mut got = Config::from_json("c", file.config()).unwrap();
        if let RopeScaling::Llama3 { .. } = expected.rope_scaling {
            // The divisors stand for the four numbers; the first pair of dimensions is kept, the last divided by 8.
            let RopeScaling::Factors(factors) = &got.rope_scaling else { panic!("{:?}", got.rope_scaling) };
            assert_eq!((factors[0], factors[3]), (1.0, 8.0));
            got.rope_scaling = expected.rope_scaling.clone();
        }
        assert_eq!(got, expected, "{family}");
    }
}

#[test]
fn inputs_in_8_bits_are_said_to_be_left_out() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, true, &unchanged);
    write_byte_level_tokenizer(&model);
    let Recipe::Quantize(method) = quantize("rtn", scheme(8, Granularity::Channel, true), vec![]) else { panic!() };
    let recipe = Recipe::Quantize(Method { activations: InputScheme::DynamicToken, ..method });
    let exported = export(&model, &recipe, &root.path().join("x.gguf")).unwrap();
    assert!(exported.notes.len() == 1 && exported.notes[0].contains("8-bit inputs"), "{:?}", exported.notes);
}

#[test]
fn what_a_file_cannot_hold_exactly_is_refused_and_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let (model, into) = (root.path().join("model"), root.path().join("out/x.gguf"));
    let refusal = |recipe: &Recipe| export(&model, recipe, &into).unwrap_err().to_string();
    write_model(&model, true, &unchanged);
    let text = refusal(&as_it_is());
    assert!(text.contains("\"WordLevel\" is not a byte-level BPE"), "{text}");

    write_byte_level_tokenizer(&model);
    let text = refusal(&quantize("rtn", scheme(8, Granularity::Channel, false), vec![]));
    assert!(text.contains("_proj.weight\"") && text.contains("more than 8 bits"), "{text}");
    // So small that its scale is no f16 number.
    write_model(&model, true, &|name, values| {
        if name.contains("layers.1.mlp.up_proj") {
            values.iter_mut().for_each(|value| *value *= 1e-7);
        }
    });
    write_byte_level_tokenizer(&model);
    let text = refusal(&quantize("rtn", scheme(4, Granularity::Group, true), vec![]));
    assert!(text.contains("layers.1.mlp.up_proj.weight") && text.contains("is not an f16 number"), "{text}");
    assert!(text.contains("keep = \"dense\"") && !text.contains('\n'), "{text}");
    assert_eq!(fs::read_dir(into.parent().unwrap()).map_or(0, Iterator::count), 0, "nothing is left behind");
}
