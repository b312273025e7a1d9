//! One function for each reader.

mod archives;
mod data;
mod gguf;
mod models;
mod runs;
mod suites;
mod tokenizers;

/// All targets by name. `fuzz/run` reads the names from here.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("suite", suites::suite),
    ("recipe", suites::recipe),
    ("source", suites::source),
    ("config", models::config),
    ("safetensors", models::safetensors),
    ("shards", models::shards),
    ("modules", models::modules),
    ("network", models::network),
    ("compressed-tensors", models::compressed_tensors),
    ("gptq", models::gptq),
    ("awq", models::awq),
    ("torchao", models::torchao),
    ("fake-quantize", models::fake_quantize),
    ("gguf", gguf::raw),
    ("gguf-edits", gguf::edited),
    ("gguf-vocabulary", gguf::vocabulary),
    ("tokenizer", tokenizers::tokenizer),
    ("documents", data::documents),
    ("tokens", data::tokens),
    ("choices", data::choices),
    ("choice-tokens", data::choice_tokens),
    ("wheel", archives::wheel),
    ("tarball", archives::tarball),
    ("package-record", archives::record),
    ("journal", runs::journal),
    ("evidence", runs::evidence),
    ("run-json", runs::run_json),
    ("baseline", runs::baseline),
];
