//! GGUF files: any bytes, edits of a small whole model, and its vocabulary.

use quantbench::checkpoint::{Checkpoint, StoredTensor};
use quantbench::kernels::Matrix;
use quantbench::network::{Architecture, Tokenizer};

use crate::edits::{Input, NUMBERS};
use crate::scratch;
use crate::tensors::{Tensor, edit_tensor};

/// Any bytes.
pub fn raw(data: &[u8]) {
    read(data, true);
}

fn read(file: &[u8], tensors: bool) {
    let Ok(checkpoint) = Checkpoint::open(&scratch::file("x.gguf", file)) else { return };
    let _ = Architecture::of(&checkpoint);
    if let Ok(tokenizer) = Tokenizer::from_checkpoint(&checkpoint)
        && let Ok(ids) = tokenizer.encode("a b  c's 12345 \u{e9}\u{4e2d} <s>")
    {
        let _ = tokenizer.decode(&ids);
    }
    for name in checkpoint.names().iter().filter(|_| tensors) {
        if let Ok(StoredTensor::Quantized(tensor, activations)) = checkpoint.tensor(name) {
            let _ = Matrix::from_quantized(&tensor, activations);
        }
        checkpoint.release(name);
    }
}

/// A value of the metadata.
#[derive(Clone)]
enum Item {
    /// Type and bytes.
    Scalar(u32, Vec<u8>),
    Text(Vec<u8>),
    Texts(Vec<Vec<u8>>),
    /// Type of the elements, their number as the file says, and their bytes.
    Array(u32, u64, Vec<u8>),
}

const U32: u32 = 4;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;

/// Types of tensors that exist, and bytes and values of a block.
const TYPES: [(u32, u64, u64); 16] = [
    (0, 4, 1),
    (1, 2, 1),
    (30, 2, 1),
    (2, 18, 32),
    (3, 20, 32),
    (6, 22, 32),
    (7, 24, 32),
    (8, 34, 32),
    (10, 84, 256),
    (11, 110, 256),
    (12, 144, 256),
    (13, 176, 256),
    (14, 210, 256),
    (20, 18, 32),
    (23, 136, 256),
    (24, 1, 1),
];

/// Keys that are put in place of others.
const KEYS: &[&str] = &[
    "general.architecture",
    "general.alignment",
    "llama.context_length",
    "llama.embedding_length",
    "llama.block_count",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.attention.sliding_window",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.rope.scale_linear",
    "llama.rope.scaling.original_context_length",
    "llama.vocab_size",
    "llama.expert_count",
    "split.count",
    "split.no",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.chat_template",
];

/// Texts that mean something.
const WORDS: &[&str] = &[
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "bert",
    "gpt2",
    "gpt-2",
    "smollm",
    "llama-bpe",
    "default",
    "linear",
    "none",
    "yarn",
    "longrope",
    "a",
    "b",
    "ab",
    "a b",
    "b a",
    "ab c",
    "<s>",
    "</s>",
    "\u{120}",
    "\u{120}a",
    "",
    " ",
    "  ",
    "token_embd.weight",
    "output.weight",
    "output_norm.weight",
    "rope_freqs.weight",
    "blk.0.attn_q.bias",
    "blk.0.attn_q_norm.weight",
    "blk.0.ffn_gate.bias",
    "blk.1.attn_q.weight",
    "blk.4294967296.attn_q.weight",
];

/// A small whole model of one block.
fn model() -> (Vec<(String, Item)>, Vec<Tensor>) {
    let number = |value: u32| Item::Scalar(U32, value.to_le_bytes().to_vec());
    let real = |value: f32| Item::Scalar(F32, value.to_le_bytes().to_vec());
    let text = |value: &str| Item::Text(value.as_bytes().to_vec());
    let texts = |values: &[&str]| Item::Texts(values.iter().map(|text| text.as_bytes().to_vec()).collect());
    let tokens =
        ["a", "b", "c", "1", "2", "3", "'", "s", "\u{120}", "<s>", "</s>", "ab", "bc", "\u{120}a", "12", "abc"];
    let types: Vec<u8> =
        tokens.iter().flat_map(|t| if t.len() > 2 && t.starts_with('<') { 3u32 } else { 1 }.to_le_bytes()).collect();
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.context_length", number(64)),
        ("llama.embedding_length", number(32)),
        ("llama.block_count", number(1)),
        ("llama.feed_forward_length", number(32)),
        ("llama.attention.head_count", number(4)),
        ("llama.attention.head_count_kv", number(2)),
        ("llama.attention.layer_norm_rms_epsilon", real(1e-5)),
        ("llama.rope.freq_base", real(1e4)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", texts(&tokens)),
        ("tokenizer.ggml.token_type", Item::Array(U32, tokens.len() as u64, types)),
        ("tokenizer.ggml.merges", texts(&["a b", "b c", "\u{120} a", "1 2", "ab c"])),
        ("tokenizer.ggml.bos_token_id", number(9)),
        ("tokenizer.ggml.add_bos_token", Item::Scalar(BOOL, vec![1])),
    ];
    let tensor = |name: &str, kind: u32, shape: &[u64]| {
        let mut tensor = Tensor { name: name.into(), dtype: kind.to_string(), shape: shape.to_vec(), data: Vec::new() };
        resize(&mut tensor);
        tensor
    };
    let tensors = vec![
        tensor("token_embd.weight", 1, &[32, 16]),
        tensor("output_norm.weight", 0, &[32]),
        tensor("blk.0.attn_norm.weight", 0, &[32]),
        tensor("blk.0.ffn_norm.weight", 0, &[32]),
        tensor("blk.0.attn_q.weight", 8, &[32, 32]),
        tensor("blk.0.attn_k.weight", 2, &[32, 16]),
        tensor("blk.0.attn_v.weight", 6, &[32, 16]),
        tensor("blk.0.attn_output.weight", 8, &[32, 32]),
        tensor("blk.0.ffn_gate.weight", 3, &[32, 32]),
        tensor("blk.0.ffn_up.weight", 7, &[32, 32]),
        tensor("blk.0.ffn_down.weight", 20, &[32, 32]),
    ];
    (metadata.map(|(key, item)| (key.to_owned(), item)).to_vec(), tensors)
}

/// Edits of metadata and tensors.
pub fn edited(data: &[u8]) {
    let (mut metadata, mut tensors) = model();
    let mut input = Input::new(data);
    let words: Vec<String> = WORDS.iter().map(|word| (*word).to_owned()).collect();
    for _ in 0..8 {
        match input.is_empty() {
            true => break,
            false if input.byte() % 2 == 0 => edit_item(&mut metadata, &mut input),
            false => edit_tensor(&mut tensors, &mut input, &words, &kind, &resize),
        }
    }
    let alignment = [32, 32, 32, 64, 1, 8][input.below(6)];
    read(&write(&metadata, &tensors, alignment), true);
}

/// Edits of the vocabulary: the first bytes are tokens and merges of the input's own.
pub fn vocabulary(data: &[u8]) {
    let (mut metadata, tensors) = model();
    let mut input = Input::new(data);
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        let count = usize::from(input.byte() % 8);
        if let Some((_, Item::Texts(texts))) = metadata.iter_mut().find(|(name, _)| name == key) {
            for _ in 0..count {
                let at = input.below(texts.len());
                if let Some(text) = texts.get_mut(at) {
                    *text = item_text(&mut input);
                }
            }
        }
    }
    for _ in 0..4 {
        if !input.is_empty() {
            edit_item(&mut metadata[9..], &mut input);
        }
    }
    read(&write(&metadata, &tensors[..1], 32), false);
}

fn kind(input: &mut Input) -> String {
    match input.byte() {
        byte @ 0..32 => u32::from(byte).to_string(),
        _ => TYPES[input.below(TYPES.len())].0.to_string(),
    }
}

fn resize(tensor: &mut Tensor) {
    let (_, bytes, values) =
        TYPES.iter().find(|(kind, ..)| kind.to_string() == tensor.dtype).copied().unwrap_or((0, 4, 1));
    let count = tensor.shape.iter().try_fold(1u64, |product, &length| product.checked_mul(length));
    if let Some(count) = count.filter(|count| *count < 1 << 15) {
        tensor.data.resize((count / values * bytes) as usize, 0x11);
    }
}

fn item_text(input: &mut Input) -> Vec<u8> {
    match input.byte() % 3 {
        0 => {
            let length = usize::from(input.byte() % 64);
            input.take(length).to_vec()
        }
        1 => format!("{} {}", WORDS[input.below(WORDS.len())], WORDS[input.below(WORDS.len())]).into_bytes(),
        _ => WORDS[input.below(WORDS.len())].as_bytes().to_vec(),
    }
}

/// One edit of the metadata; the last of them may be doubled or lost.
fn edit_item(metadata: &mut [(String, Item)], input: &mut Input) {
    let at = input.below(metadata.len());
    let kind = input.byte() % 8;
    let other = metadata[input.below(metadata.len())].clone();
    let (key, item) = &mut metadata[at];
    match (kind, item) {
        (0, _) => *key = KEYS[input.below(KEYS.len())].to_owned(),
        (1, _) => *key = other.0,
        (2, item) => *item = other.1,
        (3, Item::Scalar(kind, bytes)) => {
            let number = NUMBERS[input.below(NUMBERS.len())];
            *kind = [0, 1, 2, 3, U32, 5, F32, BOOL, U64, 11, 12][input.below(11)];
            let length = [1, 1, 2, 2, 4, 4, 4, 1, 8, 8, 8, 8, 8].get(*kind as usize).copied().unwrap_or(8);
            *bytes = number.to_le_bytes()[..length].to_vec();
        }
        (4, Item::Scalar(_, bytes)) => bytes.iter_mut().for_each(|byte| *byte = input.byte()),
        (3.., Item::Text(text)) => *text = item_text(input),
        (3 | 4, Item::Texts(texts)) => {
            let at = input.below(texts.len());
            if let Some(text) = texts.get_mut(at) {
                *text = item_text(input);
            }
        }
        (5, Item::Texts(texts)) => drop(texts.pop()),
        (6, Item::Texts(texts)) => texts.push(item_text(input)),
        (3, Item::Array(kind, ..)) => *kind = u32::from(input.byte() % 14),
        (4, Item::Array(_, count, _)) => *count = NUMBERS[input.below(NUMBERS.len())] as u64,
        (_, item) => {
            *item = Item::Array(u32::from(input.byte() % 14), u64::from(input.byte()), input.take(16).to_vec())
        }
    }
}

fn write(metadata: &[(String, Item)], tensors: &[Tensor], alignment: usize) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    let mut data: Vec<u8> = Vec::new();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    let text = |file: &mut Vec<u8>, text: &[u8]| {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text);
    };
    for (key, item) in metadata {
        text(&mut file, key.as_bytes());
        match item {
            Item::Scalar(kind, bytes) => {
                file.extend(kind.to_le_bytes());
                file.extend(bytes);
            }
            Item::Text(value) => {
                file.extend(TEXT.to_le_bytes());
                text(&mut file, value);
            }
            Item::Texts(values) => {
                file.extend([ARRAY.to_le_bytes(), TEXT.to_le_bytes()].concat());
                file.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(&mut file, value));
            }
            Item::Array(kind, count, bytes) => {
                file.extend([ARRAY.to_le_bytes(), kind.to_le_bytes()].concat());
                file.extend(count.to_le_bytes());
                file.extend(bytes);
            }
        }
    }
    for tensor in tensors {
        text(&mut file, tensor.name.as_bytes());
        file.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().for_each(|length| file.extend(length.to_le_bytes()));
        file.extend(tensor.dtype.parse::<u32>().unwrap_or(0).to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        data.extend(&tensor.data);
        data.resize(data.len().next_multiple_of(alignment), 0);
    }
    file.resize(file.len().next_multiple_of(alignment), 0);
    file.append(&mut data);
    file
}
