//! Networks: configuration, tokenizer, decoder, attention, KV cache, scoring.

mod block;
mod config;
mod continuations;
mod decoder;
mod gguf_vocabulary;
mod head;
mod kv_cache;
mod linear;
mod rotary;
mod score;
mod tokenizer;

pub use block::{Block, Site};
pub use config::{Config, RopeScaling};
pub use continuations::{Continuations, score_continuations};
pub use decoder::Decoder;
pub use head::Head;
pub use kv_cache::KvCache;
pub use linear::LoadOptions;
pub use rotary::frequency_factors;
pub use score::{Chunk, TokenScore, score, score_token};
pub use tokenizer::Tokenizer;
