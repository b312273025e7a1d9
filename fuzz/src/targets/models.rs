//! Folders of a model: configuration, safetensors in one piece and in shards, quantized forms, modules of an encoder.

use std::sync::LazyLock;

use quantbench::checkpoint::{Checkpoint, StoredTensor};
use quantbench::kernels::{Matrix, Pool};
use quantbench::network::{Architecture, Config, Decoder, Encoder, EncoderConfig, LoadOptions, score};
use serde_json::{Value, json};

use crate::edits::{self, Input};
use crate::scratch;
use crate::tensors::Pieces;

/// Folders of fixtures in pieces, with the words that occur in them.
struct Bases {
    pieces: Vec<Pieces>,
    words: Vec<String>,
}

/// `bases!["folder", ...]`: fixtures, part of the program.
macro_rules! bases {
    ($($folder:literal),* $(,)?) => {
        LazyLock::new(|| Bases::new(vec![$(Pieces::of(
            include_str!(concat!("../../../tests/fixtures/", $folder, "/config.json")),
            include_bytes!(concat!("../../../tests/fixtures/", $folder, "/model.safetensors")),
        )),*]))
    };
}

static COMPRESSED: LazyLock<Bases> = bases!["compressed_tensors", "compressed_tensors_actorder"];
static GPTQ: LazyLock<Bases> = bases![
    "gptq/w2_channel",
    "gptq/w3_v1_asym",
    "gptq/w4_v1",
    "gptq/w4_v1_asym_desc_act",
    "gptq/w4_v2_asym",
    "gptq/w8_v1_desc_act",
];
static AWQ: LazyLock<Bases> = bases!["awq/gemm", "awq/gemm_channel", "awq/gemv", "awq/gemv_64"];
static TORCHAO: LazyLock<Bases> =
    bases!["torchao/converted", "torchao/converted_bf16", "torchao/flattened"];
static FAKE: LazyLock<Bases> = bases![
    "fake_quantize/channel_affine",
    "fake_quantize/channel_symmetric",
    "fake_quantize/four_bits",
    "fake_quantize/tensor_affine",
];
static NETWORKS: LazyLock<Bases> = bases![
    "tiny_models/llama",
    "tiny_models/mistral",
    "tiny_models/qwen2",
    "tiny_models/qwen3",
    "tiny_encoders/bert",
    "tiny_encoders/roberta",
    "tiny_encoders/bert_classifier",
    "tiny_encoders/roberta_classifier",
];

impl Bases {
    fn new(pieces: Vec<Pieces>) -> Self {
        const MORE: [&str; 30] = [
            "sym",
            "desc_act",
            "checkpoint_format",
            "gptq_v2",
            "lm_head",
            "zero_point",
            "version",
            "modules_to_not_convert",
            "re:.*",
            "Linear",
            "ignore",
            "targets",
            "strategy",
            "group",
            "channel",
            "tensor",
            "block",
            "token",
            "dynamic",
            "observer",
            "kv_cache_scheme",
            "int-quantized",
            "pack-quantized",
            "float-quantized",
            "naive-quantized",
            "rope_scaling",
            "yarn",
            "linear",
            "longrope",
            "sliding_window",
        ];
        let mut words = edits::words(pieces.iter().map(|pieces| &pieces.document));
        words.extend(MORE.map(str::to_owned));
        for tensor in pieces.iter().flat_map(|pieces| &pieces.tensors) {
            words.push(tensor.name.clone());
            words.extend(tensor.name.rsplit_once('.').map(|(_, part)| part.to_owned()));
        }
        words.sort();
        words.dedup();
        Bases { pieces, words }
    }

    /// A fixture that the first byte chooses, with the edits that follow.
    fn edited(&self, input: &mut Input) -> Pieces {
        let mut pieces = self.pieces[input.below(self.pieces.len())].clone();
        pieces.edit(input, &self.words);
        pieces
    }
}

/// `config.json`: any bytes, or edits of a fixture's.
pub fn config(data: &[u8]) {
    let config = match data.first() {
        Some(0..=31) => NETWORKS.edited(&mut Input::new(data)).document["config"].take(),
        _ => match serde_json::from_slice(data) {
            Ok(config) => config,
            Err(_) => return,
        },
    };
    let _ = Architecture::is_encoder(&config);
    let _ = Config::from_json("config.json", &config);
    let _ = EncoderConfig::from_json("config.json", &config);
}

/// Opens the folder and asks for everything in it, as quantizers and networks do.
fn read_all() {
    let Ok(checkpoint) = Checkpoint::open(scratch::folder()) else { return };
    let _ = Architecture::of(&checkpoint);
    for name in checkpoint.names() {
        if let Some(rows) = checkpoint.dense_rows(&name) {
            let mut row = vec![0.0; rows.shape().1];
            (0..rows.shape().0).for_each(|at| rows.read(at, &mut row));
        }
        if let Ok(StoredTensor::Quantized(tensor, activations)) = checkpoint.tensor(&name) {
            let _ = Matrix::from_quantized(&tensor, activations);
        }
        checkpoint.release(&name);
    }
}

fn read_pieces(pieces: &Pieces) {
    scratch::file("config.json", &pieces.config());
    scratch::file("model.safetensors", &pieces.safetensors(|_| true));
    read_all();
}

/// Any bytes as weights. The first two bytes are the length of the configuration (little endian), which follows.
pub fn safetensors(data: &[u8]) {
    let Some((length, rest)) = data.split_at_checked(2) else { return };
    let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
    let Some((config, model)) = rest.split_at_checked(length) else { return };
    scratch::file("config.json", config);
    scratch::file("model.safetensors", model);
    read_all();
}

/// Two shards and their index, which is edited after the tensors.
pub fn shards(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pieces = NETWORKS.pieces[input.below(NETWORKS.pieces.len())].clone();
    let split = input.below(pieces.tensors.len());
    let shard = |at: usize| format!("{}.safetensors", u8::from(at >= split));
    let named = pieces.tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), shard(at).into()));
    let map: serde_json::Map<String, Value> = named.collect();
    let mut index = json!({ "metadata": { "total_size": 1000 }, "weight_map": map });
    for _ in 0..input.byte() % 4 {
        edits::edit(&mut index, &mut input, &NETWORKS.words);
    }
    pieces.edit(&mut input, &NETWORKS.words);
    scratch::file("config.json", &pieces.config());
    scratch::file("0.safetensors", &pieces.safetensors(|at| at < split));
    scratch::file("1.safetensors", &pieces.safetensors(|at| at >= split));
    scratch::file("model.safetensors.index.json", index.to_string().as_bytes());
    read_all();
}

/// `modules.json` and `1_Pooling/config.json` of an encoder: any bytes, or edits.
pub fn modules(data: &[u8]) {
    static WRITTEN: LazyLock<()> = LazyLock::new(|| {
        scratch::file("config.json", &NETWORKS.pieces[4].config());
        scratch::file("model.safetensors", &NETWORKS.pieces[4].safetensors(|_| true));
        std::fs::create_dir_all(scratch::folder().join("1_Pooling")).expect("a folder can be made");
    });
    static MODULES: LazyLock<(Value, Vec<String>)> = LazyLock::new(|| {
        let list: &str = include_str!("../../../tests/fixtures/tiny_encoders/bert/modules.json");
        let pooling: &str = include_str!("../../../tests/fixtures/tiny_encoders/bert/1_Pooling/config.json");
        let parse = |text| serde_json::from_str::<Value>(text).expect("a fixture");
        let both = json!({ "modules": parse(list), "pooling": parse(pooling), "more": { "max_seq_length": 16 } });
        let words = edits::words([&both].into_iter());
        (both, words)
    });
    LazyLock::force(&WRITTEN);
    if data.first().is_some_and(|first| *first > 31) {
        scratch::file("modules.json", data);
    } else {
        let (mut both, mut input) = (MODULES.0.clone(), Input::new(data));
        for _ in 0..input.byte() {
            edits::edit(&mut both, &mut input, &MODULES.1);
        }
        scratch::file("modules.json", both["modules"].to_string().as_bytes());
        scratch::file("1_Pooling/config.json", both["pooling"].to_string().as_bytes());
        scratch::file("sentence_bert_config.json", both["more"].to_string().as_bytes());
    }
    if let Ok(checkpoint) = Checkpoint::open(scratch::folder()) {
        let _ = Encoder::load(&checkpoint, LoadOptions::default());
    }
}

/// An edited model, loaded and run.
pub fn network(data: &[u8]) {
    static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new(1));
    let pieces = NETWORKS.edited(&mut Input::new(data));
    scratch::file("config.json", &pieces.config());
    scratch::file("model.safetensors", &pieces.safetensors(|_| true));
    let Ok(checkpoint) = Checkpoint::open(scratch::folder()) else { return };
    match Architecture::of(&checkpoint) {
        Ok(Architecture::Decoder(_)) => {
            let Ok(decoder) = Decoder::load(&checkpoint, LoadOptions::default()) else { return };
            let _ = score(&decoder, &POOL, &[vec![1, 2, 3, 4, 5]], &mut |chunk| {
                chunk.scores(&POOL);
                Ok(())
            });
        }
        Ok(Architecture::Encoder { .. }) => {
            let Ok(encoder) = Encoder::load(&checkpoint, LoadOptions::default()) else { return };
            let _ = encoder.forward(&POOL, &[[1u32, 2, 3]], &mut encoder.memory());
        }
        Err(_) => {}
    }
}

/// Edited folders of one quantized form.
pub fn compressed_tensors(data: &[u8]) {
    read_pieces(&COMPRESSED.edited(&mut Input::new(data)));
}

/// As above, with the configuration that older writers put beside `config.json`.
pub fn gptq(data: &[u8]) {
    static BESIDE: LazyLock<Value> = LazyLock::new(|| {
        let file = include_str!("../../../tests/fixtures/gptq/w4_v1_asym_desc_act/quantize_config.json");
        serde_json::from_str(file).expect("a fixture")
    });
    let mut input = Input::new(data);
    let mut pieces = GPTQ.pieces[input.below(GPTQ.pieces.len())].clone();
    pieces.document["beside"] = BESIDE.clone();
    pieces.edit(&mut input, &GPTQ.words);
    scratch::file("quantize_config.json", pieces.document["beside"].to_string().as_bytes());
    read_pieces(&pieces);
}

/// As above.
pub fn awq(data: &[u8]) {
    read_pieces(&AWQ.edited(&mut Input::new(data)));
}

/// As above.
pub fn torchao(data: &[u8]) {
    read_pieces(&TORCHAO.edited(&mut Input::new(data)));
}

/// As above.
pub fn fake_quantize(data: &[u8]) {
    read_pieces(&FAKE.edited(&mut Input::new(data)));
}
