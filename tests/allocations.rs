//! Passes that are like an earlier one allocate nothing: no token pays for memory.
//!
//! One test only: the allocator counts for the whole process.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod scaled_model;

use std::path::Path;

use quantbench::checkpoint::Checkpoint;
use quantbench::kernels::{KvFormat, Pool};
use quantbench::network::{Decoder, Encoder, LoadOptions};
use quantbench::tensor::DenseFormat;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Fewest allocations and growths of `work` in up to 50 runs: threads that take pieces of work as they come allocate at
/// their first piece, which may come late.
fn fewest_allocations(mut work: impl FnMut()) -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..50 {
        fewest = fewest.min(allocations(&mut work));
        if fewest == 0 {
            break;
        }
    }
    fewest
}

/// Allocations and growths of `work`.
fn allocations(work: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    work();
    let change = region.change();
    change.allocations + change.reallocations
}

fn checkpoint(path: &str) -> Checkpoint {
    Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Prompts and tokens like earlier ones, by a decoder.
fn decoder(path: &str, options: LoadOptions, threads: usize) -> usize {
    let decoder = Decoder::load(&checkpoint(path), options).unwrap();
    let (pool, mut logits) = (Pool::new(threads), Vec::new());
    let mut cache = decoder.cache(2, 48);
    let prompt: Vec<u32> = (0..64).collect();
    let mut run = |tokens: usize| {
        cache.clear();
        decoder.next_logits(&pool, &prompt, &mut cache, &mut logits).unwrap();
        for token in 0..tokens as u32 {
            decoder.next_logits(&pool, &[token, token + 1], &mut cache, &mut logits).unwrap();
        }
    };
    run(1);
    fewest_allocations(|| run(16))
}

/// Batches like an earlier one, by an encoder.
fn encoder(model: &Path, sequences: usize, format: DenseFormat, threads: usize) -> usize {
    let options = LoadOptions { dense: Some(format), kv_cache: None };
    let encoder = Encoder::load(&Checkpoint::open(model).unwrap(), options).unwrap();
    let (pool, mut memory) = (Pool::new(threads), encoder.memory());
    let batch = vec![vec![6, 40, 18, 29, 4, 8, 8, 6]; sequences];
    fewest_allocations(|| _ = encoder.forward(&pool, &batch, &mut memory).unwrap())
}

#[test]
fn passes_like_an_earlier_one_allocate_nothing() {
    let counted = allocations(|| drop(std::hint::black_box(vec![1_u8; 100])));
    assert_eq!(counted, 1, "the allocator does not count");
    let plain = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_encoders/bert");
    let scaled = tempfile::tempdir().unwrap();
    scaled_model::write(
        &plain,
        scaled.path(),
        &["query", "key", "value", "intermediate.dense", "output.dense"],
        |_| {},
    );
    for threads in [1, 2] {
        for (model, dense) in [
            ("scribe-7m", Some(DenseFormat::F32)),
            ("scribe-7m", Some(DenseFormat::F16)),
            ("scribe-7m", Some(DenseFormat::Bf16)),
            ("scribe-7m-qat-int4", None),
            ("scribe-7m-qat-int4-a8", None),
            ("scribe-7m-qat-int8", None),
        ] {
            for (name, format) in KvFormat::NAMED {
                let options = LoadOptions { dense, kv_cache: Some(format) };
                let found = decoder(&format!("suites/models/{model}"), options, threads);
                assert_eq!(found, 0, "{model} as {dense:?}, {name} keys, {threads} threads");
            }
        }
        for format in [DenseFormat::F32, DenseFormat::Bf16] {
            for sequences in [1, 16, 400] {
                for model in [&plain, scaled.path()] {
                    let found = encoder(model, sequences, format, threads);
                    assert_eq!(found, 0, "{sequences} sequences as {format:?}, {threads} threads, {}", model.display());
                }
            }
        }
    }
}
