//! Small checkpoints in pieces: tensors that are edited and written again as a well-formed file.

use serde_json::{Map, Value, json};

use crate::edits::{self, Input, NUMBERS};

/// Bytes of a tensor that an edit may ask for.
const LARGEST: usize = 1 << 15;

/// A tensor of a file.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    /// Name in a safetensors file, number of the type in a GGUF file.
    pub dtype: String,
    pub shape: Vec<u64>,
    pub data: Vec<u8>,
}

/// A checkpoint in pieces.
#[derive(Debug, Clone)]
pub struct Pieces {
    /// `config` and `metadata`; a text of the metadata that is JSON is kept as JSON, so that edits reach into it.
    pub document: Value,
    pub tensors: Vec<Tensor>,
}

/// Types of safetensors and their bits.
const DTYPES: [(&str, u64); 16] = [
    ("F32", 32),
    ("F16", 16),
    ("BF16", 16),
    ("I32", 32),
    ("I64", 64),
    ("I8", 8),
    ("U8", 8),
    ("F64", 64),
    ("I16", 16),
    ("U16", 16),
    ("U32", 32),
    ("U64", 64),
    ("BOOL", 8),
    ("F8_E4M3", 8),
    ("F8_E5M2", 8),
    ("F8_E8M0", 8),
];

impl Pieces {
    /// A folder's `config.json` and `model.safetensors`.
    pub fn of(config: &str, file: &[u8]) -> Pieces {
        let length = usize::from_le_bytes(file[..8].try_into().expect("eight bytes"));
        let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).expect("a fixture's header");
        let mut metadata = Map::new();
        let mut tensors = Vec::new();
        for (name, info) in header {
            if name == "__metadata__" {
                for (key, text) in info.as_object().into_iter().flatten() {
                    let parsed = text.as_str().and_then(|text| serde_json::from_str(text).ok());
                    metadata.insert(key.clone(), parsed.unwrap_or_else(|| text.clone()));
                }
                continue;
            }
            let at = |end: usize| 8 + length + info["data_offsets"][end].as_u64().expect("an offset") as usize;
            let shape = info["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            let dtype = info["dtype"].as_str().unwrap_or_default().to_owned();
            tensors.push(Tensor { name, dtype, shape, data: file[at(0)..at(1)].to_vec() });
        }
        let config: Value = serde_json::from_str(config).expect("a fixture's configuration");
        Pieces { document: json!({ "config": config, "metadata": metadata }), tensors }
    }

    /// Carries out the edits that the input holds.
    pub fn edit(&mut self, input: &mut Input, words: &[String]) {
        for _ in 0..8 {
            if input.is_empty() {
                return;
            }
            match input.byte() % 3 {
                0 => edits::edit(&mut self.document, input, words),
                _ => edit_tensor(
                    &mut self.tensors,
                    input,
                    words,
                    &|input| DTYPES[input.below(DTYPES.len())].0.into(),
                    &resize,
                ),
            }
        }
    }

    /// `config.json`.
    pub fn config(&self) -> Vec<u8> {
        self.document["config"].to_string().into_bytes()
    }

    /// A safetensors file of some of the tensors.
    pub fn safetensors(&self, wanted: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut header = Map::new();
        if let Some(metadata) = self.document["metadata"].as_object().filter(|metadata| !metadata.is_empty()) {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let texts: Map<String, Value> = metadata.iter().map(|(key, v)| (key.clone(), text(v).into())).collect();
            header.insert("__metadata__".into(), texts.into());
        }
        let mut data: Vec<u8> = Vec::new();
        for (_, tensor) in self.tensors.iter().enumerate().filter(|(at, _)| wanted(*at)) {
            if header.contains_key(&tensor.name) {
                continue;
            }
            let offsets = [data.len(), data.len() + tensor.data.len()];
            data.extend_from_slice(&tensor.data);
            let info = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets });
            header.insert(tensor.name.clone(), info);
        }
        let header = Value::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.append(&mut data);
        file
    }
}

/// Makes the data as long as type and shape say, where that is little.
fn resize(tensor: &mut Tensor) {
    let bits = DTYPES.iter().find(|(name, _)| *name == tensor.dtype).map_or(8, |(_, bits)| *bits);
    let count = tensor.shape.iter().try_fold(bits, |product, &length| product.checked_mul(length));
    if let Some(bits) = count.filter(|bits| *bits <= 8 * LARGEST as u64) {
        tensor.data.resize(bits.div_ceil(8) as usize, 0x11);
    }
}

/// One edit of one tensor.
pub fn edit_tensor(
    tensors: &mut Vec<Tensor>,
    input: &mut Input,
    words: &[String],
    dtype: &dyn Fn(&mut Input) -> String,
    resize: &dyn Fn(&mut Tensor),
) {
    let at = input.below(tensors.len());
    if tensors.is_empty() {
        return;
    }
    let kind = input.byte() % 12;
    let other = input.below(tensors.len());
    match kind {
        0 => drop(tensors.remove(at)),
        1 => {
            let mut twin = tensors[at].clone();
            twin.name = name(&twin.name, input, words);
            tensors.push(twin);
        }
        2 => {
            let name = tensors[other].name.clone();
            tensors[other].name = std::mem::replace(&mut tensors[at].name, name);
        }
        3 => tensors[at].data = tensors[other].data.clone(),
        _ => {
            let tensor = &mut tensors[at];
            match kind {
                4 => {
                    tensor.dtype = dtype(input);
                    resize(tensor);
                }
                5 | 6 => {
                    let length = match input.byte() {
                        byte @ 0..128 => u64::from(byte),
                        _ => NUMBERS[input.below(NUMBERS.len())] as u64,
                    };
                    let axis = input.below(tensor.shape.len());
                    if let Some(found) = tensor.shape.get_mut(axis) {
                        *found = length;
                    }
                    resize(tensor);
                }
                7 => {
                    match input.byte() % 4 {
                        0 => tensor.shape.push(u64::from(input.byte() % 4)),
                        1 => drop(tensor.shape.pop()),
                        2 => tensor.shape.reverse(),
                        _ => tensor.shape.insert(0, 1),
                    }
                    resize(tensor);
                }
                8 => tensor.name = name(&tensor.name, input, words),
                9 => {
                    // Not a number, infinite, largest and smallest integers, zero.
                    let pattern: &[u8] = [
                        &[0, 0, 0xc0, 0x7f][..],
                        &[0, 0, 0x80, 0x7f],
                        &[0, 0x7c],
                        &[0xff],
                        &[0x7f],
                        &[0x80],
                        &[0],
                        &[0x01],
                    ][input.below(8)];
                    tensor.data = pattern.iter().copied().cycle().take(tensor.data.len()).collect();
                }
                _ => {
                    let place = input.below(tensor.data.len());
                    let length = usize::from(input.byte() % 16);
                    let bytes = input.take(length);
                    tensor.data.iter_mut().skip(place).zip(bytes).for_each(|(old, new)| *old = *new);
                }
            }
        }
    }
}

/// Another name: another last part, another text inside, or any.
fn name(old: &str, input: &mut Input, words: &[String]) -> String {
    match input.byte() % 4 {
        0 => input.text(),
        1 => format!("{old}.{}", edits::word(input, words)),
        2 => edits::word(input, words),
        _ => match (old.rsplit_once('.'), edits::word(input, words)) {
            (Some((module, _)), word) => format!("{module}.{word}"),
            (None, word) => word,
        },
    }
}
