//! Formats against golden files, and hostile files.

mod fake_quantize;
mod gguf_metadata;
mod hostile;
mod quantized;
mod torchao;

use std::fs;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{TensorView, serialize_to_file};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::kernels::{Activations, Isa, Matrix, Pool};
use crate::tensor::Zero;

const GGUF: &[u8] = include_bytes!("../../tests/fixtures/gguf_blocks.gguf");

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A folder with files in it.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// The error of opening, as one line.
fn refusal(path: &Path) -> String {
    let message = Checkpoint::open(path).expect_err("must be refused").to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

/// Holds every tensor of `checkpoint` against the one of `expected` that is called `prefix` and its name, bit for bit.
fn assert_reads(checkpoint: &Checkpoint, expected: &Checkpoint, prefix: &str) {
    let mut names = checkpoint.names();
    names.sort();
    let mut expected_names: Vec<String> =
        expected.names().iter().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect();
    expected_names.sort();
    assert_eq!(names, expected_names);
    for name in names {
        let (shape, values) = checkpoint.tensor_f32(&name).unwrap();
        let (expected_shape, expected) = expected.tensor_f32(&format!("{prefix}{name}")).unwrap();
        assert_eq!((shape, bits(&values)), (expected_shape, bits(&expected)), "{prefix}{name}");
        checkpoint.release(&name);
    }
}

/// Opens and reads every tensor; only panics matter.
fn read_all(path: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    for name in checkpoint.names() {
        checkpoint.tensor_f32(&name)?;
        checkpoint.release(&name);
    }
    Ok(())
}

#[test]
fn gguf_blocks_are_read_bit_for_bit() {
    let expected = fs::read(fixture("gguf_blocks.f32")).unwrap();
    let mut expected = expected.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word));
    let checkpoint = Checkpoint::open(&fixture("gguf_blocks.gguf")).unwrap();
    for name in checkpoint.names() {
        let (shape, values) = checkpoint.tensor_f32(&name).unwrap();
        assert_eq!(checkpoint.shape(&name), Some(shape));
        let wanted: Vec<f32> = expected.by_ref().take(values.len()).collect();
        assert_eq!(bits(&values), bits(&wanted), "{name}");
        if let Some(rows) = checkpoint.dense_rows(&name) {
            let mut row = vec![0.0; rows.shape().1];
            for (at, wanted) in wanted.chunks_exact(rows.shape().1).enumerate() {
                rows.read(at, &mut row);
                assert_eq!(bits(&row), bits(wanted), "{name} row {at}");
            }
        }
        checkpoint.release(&name);
        assert_eq!(bits(&checkpoint.tensor_f32(&name).unwrap().1), bits(&values), "{name} after release");
    }
    assert_eq!(expected.next(), None);
}

#[test]
fn every_block_format_runs_on_a_kernel_as_it_is_stored() {
    let checkpoint = Checkpoint::open(&fixture("gguf_blocks.gguf")).unwrap();
    let mut formats = 0;
    for name in checkpoint.names() {
        let StoredTensor::Quantized(tensor, activations) = checkpoint.tensor(&name).unwrap() else { continue };
        let matrix = crate::kernels::Matrix::from_quantized(&tensor, activations).unwrap();
        let mut row = vec![0.0; tensor.cols];
        for (at, wanted) in tensor.to_f32().chunks_exact(tensor.cols).enumerate() {
            matrix.row_to_f32(at, &mut row);
            assert_eq!(bits(&row), bits(wanted), "{name} row {at}");
        }
        formats += 1;
    }
    assert_eq!(formats, gguf_blocks::FORMATS.len());
}

#[test]
fn gguf_says_what_a_published_model_says() {
    let checkpoint = Checkpoint::open(&fixture("gguf_blocks.gguf")).unwrap();
    let config = checkpoint.config();
    assert_eq!(config["model_type"], "llama");
    assert_eq!(config["hidden_size"], 256);
    assert_eq!(config["head_dim"], 128);
    assert_eq!(config["vocab_size"], 4);
    assert_eq!(config["rms_norm_eps"].as_f64().unwrap() as f32, 1e-5);
    assert_eq!(config["rope_theta"], 100_000.0);
    assert_eq!(config["tie_word_embeddings"], false);
    assert_eq!(config["attention_bias"], true);
    let of = |name: &str| checkpoint.tensor(name).unwrap();
    for (name, expected_bits, group_size, offsets) in [
        ("model.embed_tokens", 6, 16, false),
        ("lm_head", 2, 16, true),
        ("model.layers.0.self_attn.q_proj", 4, 32, true),
        ("model.layers.0.self_attn.k_proj", 4, 32, true),
        ("model.layers.0.self_attn.v_proj", 4, 32, false),
        ("model.layers.0.self_attn.o_proj", 8, 32, false),
        ("model.layers.1.self_attn.q_proj", 3, 16, false),
        ("model.layers.1.self_attn.k_proj", 5, 32, true),
        ("model.layers.1.self_attn.v_proj", 5, 32, false),
        ("model.layers.1.self_attn.o_proj", 5, 32, true),
        ("model.layers.1.mlp.gate_proj", 8, 32, false),
        ("model.layers.1.mlp.up_proj", 8, 32, false),
    ] {
        let StoredTensor::Quantized(tensor, activations) = of(&format!("{name}.weight")) else { panic!("{name}") };
        assert_eq!(activations, ActivationScheme::None, "{name}");
        assert_eq!((tensor.bits, tensor.group_size), (expected_bits, group_size), "{name}");
        assert_eq!(matches!(tensor.zero, Zero::Offsets(_)), offsets, "{name}");
    }
    assert_eq!(checkpoint.tokenizer(), TokenizerSource::Missing);
    assert!(checkpoint.tensor("model.norm.weight").unwrap_err().to_string().contains("no such tensor"));
}

#[test]
fn compressed_tensors_are_read_as_their_own_package_reads_them() {
    let folder = fixture("compressed_tensors");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    // Away from the quantized model's configuration, which does not describe the expected values.
    let values = fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = self::folder(&[("expected.safetensors", &values)]);
    let expected = Checkpoint::open(&expected.path().join("expected.safetensors")).unwrap();
    assert_reads(&checkpoint, &expected, "");
    let scheme = |name: &str| match checkpoint.tensor(name).unwrap() {
        StoredTensor::Quantized(tensor, activations) => (tensor.bits, tensor.group_size, activations),
        StoredTensor::Dense { .. } => panic!("{name} is dense"),
    };
    assert_eq!(scheme("w4_group.weight"), (4, 16, ActivationScheme::None));
    assert_eq!(scheme("w8_channel.weight"), (8, 32, ActivationScheme::DynamicToken));
    assert_eq!(scheme("model.embed_tokens.weight"), (8, 32, ActivationScheme::None));
    assert!(checkpoint.dense_rows("w4_group.weight").is_none());
}

#[test]
fn every_prefix_of_a_file_is_refused() {
    let (_, tensors) = gguf::parse("x", GGUF).unwrap();
    // Only padding follows the last tensor.
    let end = tensors.iter().map(|tensor| tensor.bytes.end).max().unwrap();
    for length in 0..end {
        assert!(gguf::parse("x", &GGUF[..length]).is_err(), "{length}");
    }
    let model = fs::read(fixture("compressed_tensors/model.safetensors")).unwrap();
    for length in 0..model.len() {
        assert!(safetensors::parse("x", &model[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_truncated_file_is_said_to_be_so() {
    let folder = folder(&[("cut.gguf", &GGUF[..GGUF.len() - 500]), ("empty.gguf", b"")]);
    let message = refusal(&folder.path().join("cut.gguf"));
    assert!(message.contains("tensor \"blk.1.") && message.contains("truncated"), "{message}");
    assert!(refusal(&folder.path().join("empty.gguf")).contains("empty"));
    let mut model = fs::read(fixture("compressed_tensors/model.safetensors")).unwrap();
    model.truncate(model.len() - 1);
    fs::write(folder.path().join("cut.safetensors"), &model).unwrap();
    let message = refusal(&folder.path().join("cut.safetensors"));
    assert!(message.contains("tensor \"") && message.contains("truncated"), "{message}");
}

/// The fixture with bytes replaced, starting `offset` bytes after the end of `after`.
fn forged(after: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = GGUF.to_vec();
    let found = GGUF.windows(after.len()).position(|window| window == after).unwrap();
    let at = found + after.len() + offset;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// The fixture with a tensor renamed to a name of the same length.
fn renamed(name: &[u8], other: &[u8]) -> Vec<u8> {
    let mut file = GGUF.to_vec();
    let at = GGUF.windows(name.len()).position(|window| window == name).unwrap();
    file[at..at + name.len()].copy_from_slice(other);
    file
}

#[test]
fn forged_gguf_is_refused() {
    // A description: name, u32 dimensions, u64 each, u32 type, u64 offset.
    let matrix = b"blk.0.attn_v.weight";
    let huge = u64::MAX.to_le_bytes();
    let metadata_key = b"general.architecture";
    for (what, file, expected) in [
        ("tensor count", forged(b"GGUF", 4, &huge), "number of tensors"),
        ("metadata count", forged(b"GGUF", 12, &huge), "number of metadata entries"),
        ("key length", forged(b"GGUF", 20, &huge), "metadata key"),
        ("version", forged(b"GGUF", 0, &[9]), "version 9"),
        ("big endian", forged(b"GGUF", 0, &[0, 0, 0, 3]), "big-endian"),
        ("value length", forged(metadata_key, 4, &huge), "general.architecture"),
        ("value type", forged(metadata_key, 0, &[77]), "unknown value type"),
        ("architecture", forged(metadata_key, 12, b"gemma"), "supported: llama"),
        ("UTF-8", forged(metadata_key, 12, &[0xff]), "UTF-8"),
        ("dimensions", forged(matrix, 0, &[200]), "200 dimensions"),
        ("absurd shape", forged(matrix, 12, &huge), "absurd"),
        ("empty shape", forged(matrix, 4, &[0; 8]), "empty shape"),
        ("ragged blocks", forged(matrix, 4, &33u64.to_le_bytes()), "whole q4_0 blocks"),
        ("type", forged(matrix, 20, &[16]), "type 16 (an IQ format of 1 to 3 bits)"),
        ("columns of another format", forged(matrix, 20, &[12]), "whole q4_k blocks of 256"),
        ("odd offset", forged(matrix, 24, &[1]), "alignment"),
        ("offset past the end", forged(matrix, 24, &(1u64 << 40).to_le_bytes()), "truncated"),
        ("overlap", forged(matrix, 24, &[0; 8]), "overlap"),
        ("unknown tensor", forged(b"blk.0.ffn_", 0, b"what"), "no such tensor"),
        ("twice", renamed(b"blk.0.attn_k.weight", b"blk.0.attn_v.weight"), "appears twice"),
    ] {
        let folder = folder(&[("x.gguf", &file)]);
        let message = refusal(&folder.path().join("x.gguf"));
        assert!(message.contains(expected), "{what}: {message}");
    }
}

#[test]
fn scales_that_are_no_numbers_are_refused_when_read() {
    let honest = Checkpoint::open(&fixture("gguf_blocks.gguf")).unwrap();
    // The high byte of an f16 factor: of a NaN, of an infinity.
    for (name, at, high) in [
        ("model.layers.0.self_attn.o_proj.weight", 1, 0x7e),
        ("model.layers.0.self_attn.o_proj.weight", 1, 0x7c),
        ("model.layers.0.self_attn.k_proj.weight", 3, 0xfe),
        ("model.embed_tokens.weight", 209, 0x7e),
    ] {
        let Storage::Whole { slab, .. } = &honest.entry(name).unwrap().storage else { panic!() };
        let mut file = GGUF.to_vec();
        file[slab.bytes.start + at] = high;
        let folder = folder(&[("x.gguf", &file)]);
        let checkpoint = Checkpoint::open(&folder.path().join("x.gguf")).unwrap();
        let message = checkpoint.tensor(name).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("is NaN or infinite"), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0..GGUF.len(), any::<u8>()), 1..6), header in any::<bool>()) {
        let mut file = GGUF.to_vec();
        for (at, byte) in flips {
            // The header is where the damage can do harm; half of the cases keep to it.
            let at = if header { at % 1330 } else { at };
            file[at] = byte;
        }
        let folder = folder(&[("x.gguf", &file)]);
        let _ = read_all(&folder.path().join("x.gguf"));
    }

    #[test]
    fn flipped_bytes_of_safetensors_never_panic(at in 0..5370usize, byte in any::<u8>()) {
        let mut file = fs::read(fixture("compressed_tensors/model.safetensors")).unwrap();
        file[at] = byte;
        let config = fs::read(fixture("compressed_tensors/config.json")).unwrap();
        let folder = folder(&[("model.safetensors", &file), ("config.json", &config)]);
        let _ = read_all(folder.path());
    }
}

/// A safetensors file of the given tensors.
fn safetensors_file(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

#[test]
fn shards_are_read_together_and_stay_in_their_folder() {
    let folder = folder(&[("config.json", br#"{"model_type": "llama"}"#)]);
    let at = |name: &str| folder.path().join(name);
    let ones: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let halves: Vec<u8> = [0x3c00u16, 0xbc00].iter().flat_map(|v| v.to_le_bytes()).collect();
    safetensors_file(&at("model-1.safetensors"), &[("a", Dtype::F32, &[2], ones)]);
    safetensors_file(
        &at("model-2.safetensors"),
        &[("b", Dtype::F16, &[1, 2], halves), ("ids", Dtype::I64, &[1], vec![0; 8])],
    );
    let index = |a: &str| {
        format!(r#"{{"weight_map": {{"a": {a:?}, "b": "model-2.safetensors", "ids": "model-2.safetensors"}}}}"#)
    };
    fs::write(at("model.safetensors.index.json"), index("model-1.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tensor_f32("a").unwrap(), (vec![2], vec![1.0, 2.0]));
    assert_eq!(checkpoint.tensor_f32("b").unwrap(), (vec![1, 2], vec![1.0, -1.0]));
    assert!(checkpoint.tensor("ids").unwrap_err().to_string().contains("I64"));
    assert_eq!(checkpoint.files().len(), 4);

    for escape in ["../model-1.safetensors", "/etc/passwd", "..", "", "x/../model-1.safetensors", "a\\b"] {
        fs::write(at("model.safetensors.index.json"), index(escape)).unwrap();
        assert!(refusal(folder.path()).contains("without a path"), "{escape}");
    }
    fs::write(at("model.safetensors.index.json"), index("model-2.safetensors")).unwrap();
    assert!(refusal(folder.path()).contains("tensor \"a\""));
    fs::write(at("model.safetensors.index.json"), r#"{"weight_map": 1}"#).unwrap();
    assert!(refusal(folder.path()).contains("weight_map"));
}

#[test]
fn what_is_no_model_is_said_to_be_none() {
    let pickle = folder(&[("config.json", b"{}"), ("pytorch_model.bin", b"PK\x03\x04")]);
    assert!(refusal(pickle.path()).contains("pickled weights"));
    let empty = folder(&[]);
    assert!(refusal(empty.path()).contains("neither"));
    let two = folder(&[("a.gguf", GGUF), ("b.gguf", GGUF)]);
    assert!(refusal(two.path()).contains("2 .gguf files"));
    let bare = folder(&[("model.safetensors", b"")]);
    assert!(refusal(bare.path()).contains("without config.json"));
    let one = folder(&[("a.gguf", GGUF)]);
    assert!(Checkpoint::open(one.path()).is_ok());
    let disguised = folder(&[("a.safetensors", b"PK\x03\x04 and more"), ("b.safetensors", b"\x80\x02}q\0.........")]);
    for name in ["a.safetensors", "b.safetensors"] {
        assert!(refusal(&disguised.path().join(name)).contains("zip or pickle"));
    }
    let text = folder(&[("readme.md", b"hello"), ("x.gguf", b"hello, this is text")]);
    assert!(refusal(&text.path().join("readme.md")).contains("expected a .gguf"));
    assert!(refusal(&text.path().join("x.gguf")).contains("magic"));
    assert!(refusal(&text.path().join("absent")).contains("cannot open"));
}

#[test]
fn other_forms_of_a_model_are_named_with_the_next_step() {
    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
    let config: (&str, &[u8]) = ("config.json", b"{}");
    for (files, expected) in [
        (&[config, ("model.safetensors", POINTER)][..], "git lfs pull"),
        (&[("x.gguf", POINTER)], "git lfs pull"),
        (&[config, ("model.onnx", b"x")], "an ONNX graph"),
        (&[config, ("openvino_model.xml", b"<"), ("openvino_model.bin", b"x")], "an OpenVINO model"),
        (&[("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"x")], "merge it into its model"),
        (
            &[config, ("adapter_config.json", b"{}"), ("adapter_model.bin", b"x"), ("model.safetensors", b"x")],
            "merge it",
        ),
        (&[config, ("consolidated.safetensors", b"x")], "own layout"),
        (&[("params.json", b"{}"), ("consolidated.00.pth", b"x")], "own layout"),
        (&[config, ("model.pth", b"x")], "pickled weights"),
        (&[config, ("tf_model.h5", b"x")], "a TensorFlow model"),
        (&[config, ("flax_model.msgpack", b"x")], "a Flax model"),
        (&[("model.zip", b"x")], "an archive"),
        (&[config, ("model-1.safetensors", b"x"), ("model-2.safetensors", b"x")], "fetch the index too"),
    ] {
        let folder = folder(files);
        let message = refusal(folder.path());
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let mlx = folder(&[("config.json", br#"{"quantization": {"group_size": 64, "bits": 4}}"#)]);
    let bytes = vec![0; 8];
    safetensors_file(&mlx.path().join("model.safetensors"), &[("a.biases", Dtype::F32, &[2], bytes)]);
    assert!(refusal(mlx.path()).contains("MLX"));
    let file = folder(&[("model.onnx", b"x")]);
    assert!(refusal(&file.path().join("model.onnx")).contains("an ONNX graph"));
}

#[test]
fn a_single_file_beside_other_shards_is_refused() {
    let folder = folder(&[("config.json", b"{}")]);
    let at = |name: &str| folder.path().join(name);
    for name in ["model.safetensors", "model-1.safetensors"] {
        safetensors_file(&at(name), &[("a", Dtype::F32, &[2], vec![0; 8])]);
    }
    fs::write(at("model.safetensors.index.json"), r#"{"weight_map": {"a": "model-1.safetensors"}}"#).unwrap();
    assert!(refusal(folder.path()).contains("remove one"));
    // What is left of an index whose shards were joined says nothing.
    fs::remove_file(at("model-1.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(folder.path()).unwrap().names(), ["a"]);
    fs::remove_file(at("model.safetensors")).unwrap();
    let two = [("a", Dtype::F32, &[2][..], vec![0; 8]), ("b", Dtype::F32, &[2], vec![0; 8])];
    safetensors_file(&at("model-1.safetensors"), &two);
    assert!(refusal(folder.path()).contains("tensor \"b\": is not listed in the index"));
}

/// The fixture as one of several parts: its metadata with the keys of a part in front.
fn part(number: u16, count: u16, tensors: i32, keep: &dyn Fn(usize) -> bool) -> Vec<u8> {
    let (metadata, described) = (24, gguf::parse("x", GGUF).unwrap().1);
    let mut header = GGUF[..metadata].to_vec();
    let entries = u64::from_le_bytes(GGUF[16..24].try_into().unwrap());
    let names: Vec<&str> = described.iter().map(|tensor| tensor.name.as_str()).collect();
    let find = |name: &str| GGUF.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() - 8;
    let first = find(names[0]);
    let mut kept = 0u64;
    let (mut descriptions, mut data) = (Vec::new(), Vec::new());
    for (at, tensor) in described.iter().enumerate().filter(|(at, _)| keep(*at)) {
        let start = find(names[at]);
        let length = 8 + tensor.name.len() + 4 + 8 * tensor.shape.len() + 4;
        descriptions.extend_from_slice(&GGUF[start..start + length]);
        descriptions.extend((data.len() as u64).to_le_bytes());
        data.extend_from_slice(&GGUF[tensor.bytes.clone()]);
        data.resize(data.len().next_multiple_of(32), 0);
        kept += 1;
    }
    header[8..16].copy_from_slice(&kept.to_le_bytes());
    header[16..24].copy_from_slice(&(entries + 3).to_le_bytes());
    let mut key = |name: &str, kind: u32, value: &[u8]| {
        header.extend((name.len() as u64).to_le_bytes());
        header.extend(name.as_bytes());
        header.extend(kind.to_le_bytes());
        header.extend(value);
    };
    key("split.no", 2, &number.to_le_bytes());
    key("split.count", 2, &count.to_le_bytes());
    key("split.tensors.count", 5, &tensors.to_le_bytes());
    header.extend_from_slice(&GGUF[metadata..first]);
    header.extend(descriptions);
    header.resize(header.len().next_multiple_of(32), 0);
    header.extend(data);
    header
}

#[test]
fn a_gguf_in_parts_is_read_as_the_whole() {
    let whole = Checkpoint::open(&fixture("gguf_blocks.gguf")).unwrap();
    let count = whole.names().len();
    let half = |at: usize| at < count / 2;
    let first = part(0, 2, count as i32, &half);
    let second = part(1, 2, count as i32, &|at| !half(at));
    let names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    let parts = folder(&[(names[0], &first), (names[1], &second)]);
    for path in [parts.path().to_path_buf(), parts.path().join(names[0]), parts.path().join(names[1])] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_reads(&checkpoint, &whole, "");
        assert_eq!((checkpoint.config(), checkpoint.files().len()), (whole.config(), 2));
    }
    let fewer = part(1, 2, count as i32, &|at| at > count / 2);
    let other = part(1, 3, count as i32, &|at| !half(at));
    let again = part(1, 2, count as i32, &|_| true);
    for (second, expected) in [
        (None, "part 2 of 2"),
        (Some(&fewer), "split.tensors.count says"),
        (Some(&other), "split.count: expected 2, got 3"),
        (Some(&first), "split.no: expected 1, got 0"),
        (Some(&again), "split.tensors.count says"),
    ] {
        fs::remove_file(parts.path().join(names[1])).unwrap_or_default();
        if let Some(second) = second {
            fs::write(parts.path().join(names[1]), second).unwrap();
        }
        let message = refusal(&parts.path().join(names[0]));
        assert!(message.contains(expected) && message.contains("llama-gguf-split --merge"), "{expected}: {message}");
    }
    let renamed = folder(&[("m.gguf", &first), ("n-00001-of-00002.gguf", GGUF)]);
    for name in ["m.gguf", "n-00001-of-00002.gguf"] {
        assert!(refusal(&renamed.path().join(name)).contains("split.count says"), "{name}");
    }
}

/// The compressed-tensors fixture with another configuration.
fn with_config(change: &dyn Fn(&mut serde_json::Value)) -> TempDir {
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(fixture("compressed_tensors/config.json")).unwrap()).unwrap();
    change(&mut config["quantization_config"]);
    let model = fs::read(fixture("compressed_tensors/model.safetensors")).unwrap();
    folder(&[("config.json", config.to_string().as_bytes()), ("model.safetensors", &model)])
}

#[test]
fn schemes_that_cannot_be_carried_out_are_refused() {
    use serde_json::json;
    let set = |pointer: &'static str, value: serde_json::Value| {
        move |config: &mut serde_json::Value| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value.clone();
        }
    };
    for (change, expected) in [
        (set("/quant_method", json!("bitsandbytes")), "supported: compressed-tensors, gptq, awq"),
        (set("/config_groups/group_0/format", json!("marlin-24")), "marlin-24"),
        (set("/config_groups/group_0/weights/type", json!("float")), "float of 4 bits"),
        (set("/config_groups/group_0/weights/num_bits", json!(16)), "16 bits"),
        (set("/config_groups/group_0/weights/actorder", json!("random")), "actorder"),
        (set("/config_groups/group_0/weights/group_size", json!(5)), "group_size 5 does not divide"),
        (set("/config_groups/group_0/weights/group_size", json!(8)), "expected 40 values"),
        (set("/config_groups/group_0/weights/num_bits", json!(8)), "does not fit weight_packed"),
        (set("/config_groups/group_0/weights/symmetric", json!(false)), "missing"),
        (set("/config_groups/group_0/weights", json!(null)), "got null"),
        (set("/config_groups/group_0/targets", json!(["re:(?=x)"])), "regular expression"),
        (set("/config_groups/group_0/targets", json!([])), ""),
        (set("/config_groups/group_5/targets", json!([])), "no group"),
        (set("/config_groups/group_5/input_activations/dynamic", json!(false)), "dynamic false"),
        (
            set("/config_groups/group_5/input_activations", json!({"num_bits": 8, "strategy": "tensor"})),
            "w8_channel.input_scale\": missing",
        ),
        (set("/config_groups/group_5/input_activations/strategy", json!("tensor")), "strategy tensor"),
        (set("/config_groups/group_5/output_activations", json!({"num_bits": 8})), "output_activations"),
        (set("/kv_cache_scheme", json!({"num_bits": 8})), "kv_cache_scheme"),
        (set("/transform_config", json!({"config_groups": {"R1": {}}})), "transform_config"),
        (set("/sparsity_config", json!({"format": "sparse-24-bitmask"})), "sparsity_config"),
    ] {
        if expected.is_empty() {
            // Without its own group the module falls to the class: 8 bits, which do not fit either.
            assert!(refusal(with_config(&change).path()).contains("does not fit"));
            continue;
        }
        let message = refusal(with_config(&change).path());
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn static_inputs_of_compressed_tensors_are_read_with_their_zero_point() {
    let group = serde_json::json!({
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "strategy": "channel"},
        "input_activations": {"num_bits": 8, "symmetric": false, "strategy": "tensor", "dynamic": false},
    });
    let config = serde_json::json!({"quantization_config": {
        "quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0": group},
    }});
    let folder = folder(&[("config.json", config.to_string().as_bytes())]);
    let number = |value: f32| value.to_le_bytes().to_vec();
    let write = |scale: f32, zero_point: &[u8]| {
        let tensors: [(&str, Dtype, &[usize], Vec<u8>); 4] = [
            ("m.weight", Dtype::I8, &[1, 4], vec![1; 4]),
            ("m.weight_scale", Dtype::F32, &[1, 1], number(0.5)),
            ("m.input_scale", Dtype::F32, &[1], number(scale)),
            ("m.input_zero_point", Dtype::I8, &[zero_point.len()], zero_point.to_vec()),
        ];
        safetensors_file(&folder.path().join("model.safetensors"), &tensors);
    };
    write(0.25, &[0xf0]);
    let StoredTensor::Quantized(_, activations) = Checkpoint::open(folder.path()).unwrap().tensor("m.weight").unwrap()
    else {
        panic!()
    };
    let expected = crate::tensor::StaticActivations { scale: 0.25, zero_point: -16, low: -128, high: 127 };
    assert_eq!(activations, ActivationScheme::Static(expected));
    write(0.0, &[0]);
    assert!(refusal(folder.path()).contains("input scale 0"));
    write(1.0, &[0, 0]);
    assert!(refusal(folder.path()).contains("expected 1 values"));
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let config = fs::read(fixture("compressed_tensors/config.json")).unwrap();
    let scale: Vec<u8> = 0.5f32.to_le_bytes().to_vec();
    let codes = vec![1u8; 4];
    type Part<'a> = (&'a str, Dtype, &'a [usize], Vec<u8>);
    let parts: [(&str, Vec<Part>); 7] = [
        ("no codes", vec![("m.weight_scale", Dtype::F32, &[1], scale.clone())]),
        ("missing", vec![("m.weight", Dtype::I8, &[1, 4], codes.clone())]),
        ("holds floating-point weights", vec![("m.weight", Dtype::F32, &[1, 1], scale.clone())]),
        (
            "does not say that inputs are static",
            vec![
                ("m.weight", Dtype::I8, &[1, 4], codes.clone()),
                ("m.input_scale", Dtype::F32, &[1], scale.clone()),
                ("m.weight_scale", Dtype::F32, &[1], scale.clone()),
            ],
        ),
        (
            "expected F32, F16 or BF16",
            vec![("m.weight", Dtype::I8, &[1, 4], codes.clone()), ("m.weight_scale", Dtype::I32, &[1], scale.clone())],
        ),
        (
            "expected a matrix",
            vec![("m.weight", Dtype::I8, &[4], codes.clone()), ("m.weight_scale", Dtype::F32, &[1], scale.clone())],
        ),
        (
            "weight_shape",
            vec![
                ("m.weight_packed", Dtype::I32, &[1, 1], codes.clone()),
                ("m.weight_scale", Dtype::F32, &[1], scale.clone()),
                ("m.weight_shape", Dtype::I64, &[2], [1i64, -3].iter().flat_map(|n| n.to_le_bytes()).collect()),
            ],
        ),
    ];
    for (expected, tensors) in parts {
        let folder = folder(&[("config.json", &config)]);
        safetensors_file(&folder.path().join("model.safetensors"), &tensors);
        let message = refusal(folder.path());
        assert!(message.contains(expected), "{expected}: {message}");
    }
    // Scales are numbers, seen when they are read.
    let folder = folder(&[("config.json", &config)]);
    let nan = f32::NAN.to_le_bytes().to_vec();
    safetensors_file(
        &folder.path().join("model.safetensors"),
        &[("m.weight", Dtype::I8, &[1, 4], codes), ("m.weight_scale", Dtype::F32, &[1], nan)],
    );
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(checkpoint.tensor("m.weight").unwrap_err().to_string().contains("NaN"));
}

/// Multiplies `x`, rows of `cols`, by the stored weight on every instruction set, and compares with the outputs that the
/// format's own package computed in f32 from rounded inputs and weights. An input that is rounded to another code would
/// differ by more than is allowed.
fn assert_outputs(
    what: &str,
    checkpoint: &Checkpoint,
    weight: &str,
    (x, cols): (&[f32], usize),
    expected: &[f32],
    weights: &[f32],
) {
    let StoredTensor::Quantized(tensor, activations) = checkpoint.tensor(weight).unwrap() else { panic!("{what}") };
    let matrix = Matrix::from_quantized(&tensor, activations).unwrap();
    let rows = tensor.rows;
    let magnitude = |values: &[f32]| values.iter().map(|v| v.abs()).sum::<f32>();
    // One token (decode), and all of them.
    for (isa, tokens) in Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, x.len() / cols)]) {
        let mut inputs = Activations::default();
        inputs.write(tokens, cols).copy_from_slice(&x[..tokens * cols]);
        let mut y = vec![0.0; tokens * rows];
        matrix.multiply_on(isa, &Pool::new(1), &mut inputs, &mut y);
        for (at, (y, expected)) in y.iter().zip(expected).enumerate() {
            let (token, row) = (&x[at / rows * cols..][..cols], &weights[at % rows * cols..][..cols]);
            let largest = token.iter().fold(1e-6f32, |max, v| max.max(v.abs()));
            let allowed = 4e-6 * largest * magnitude(row);
            assert!((y - expected).abs() <= allowed, "{what} on {isa}: output {at} is {y}, expected {expected}");
        }
    }
}
