//! Networks: configuration, tokenizer, decoder, encoder, attention, KV cache, scoring.

mod architecture;
mod block;
mod config;
mod continuations;
mod decoder;
mod encoder;
mod encoder_block;
mod encoder_config;
mod gguf_vocabulary;
mod head;
mod keys;
mod kv_cache;
mod linear;
mod lookup_table;
mod pooling;
mod rotary;
mod score;
mod tokenizer;

pub use architecture::Architecture;
pub use block::{Block, Site, Workspace};
pub use config::{Config, RopeScaling};
pub use continuations::{Continuations, score_continuations};
pub use decoder::Decoder;
pub use encoder::{Encoder, EncoderMemory};
pub use encoder_config::EncoderConfig;
pub use head::Head;
pub use kv_cache::KvCache;
pub use linear::LoadOptions;
pub use pooling::Pooling;
pub use rotary::frequency_factors;
pub use score::{Chunk, TokenScore, score, score_token};
pub use tokenizer::Tokenizer;
