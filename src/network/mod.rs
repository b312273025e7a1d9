//! Networks: configuration, tokenizer, decoder, attention, KV cache.

mod config;
mod decoder;
mod tokenizer;

pub use config::{Config, RopeScaling};
pub use decoder::{Block, Decoder, KvCache, LoadOptions, Site};
pub use tokenizer::Tokenizer;
