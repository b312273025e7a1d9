//! What the harness itself costs, so that nobody has to believe that it does not disturb what it times.
//!
//! `cargo bench --bench harness`. A timed iteration reads the clock three times; its passes open a region of the pool for
//! every product; protocol and journal work between slots, when nothing is timed. docs/METHODOLOGY.md has the numbers.

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use quantbench::kernels::{Part, Pool};
use quantbench::machine::Covariates;
use quantbench::results::{Event, Journal, KernelUse, Memory, Sample, Slot};
use quantbench::worker::{Message, Timing};

fn timing() -> Timing {
    let sample = Sample { ttft_s: 0.214_159, decode_s: 1.318_271, prompt_tokens: 128, generated_tokens: 64 };
    let kernel = |phase: &str, kernel: &str| KernelUse {
        phase: phase.into(),
        kernel: kernel.into(),
        matrices: 210,
        bytes: 112 << 20,
    };
    Timing {
        samples: vec![sample; 10],
        memory: Memory {
            weight_bytes: 140 << 20,
            kv_bytes: 4 << 20,
            peak_rss: Some(400 << 20),
            steady_rss: Some(300 << 20),
            ..Memory::default()
        },
        kernels: vec![
            kernel("prefill", "x86_64-w8a8-avx512vnni-gemm"),
            kernel("decode", "x86_64-w8a8-avx512vnni-gemv"),
        ],
        covariates: Covariates { steal: Some(0.002), own_cpu: Some(0.995), clock: Some(1.0), ..Covariates::default() },
        phases: vec![],
        processors: None,
        load_s: 0.61,
        warmup_iterations: 2,
    }
}

fn slot() -> Event {
    let Timing { samples, memory, kernels, covariates, phases, processors, load_s, warmup_iterations } = timing();
    Event::Slot(Slot {
        variant: "int8-ptq".into(),
        control: false,
        block: 3,
        position: 1,
        batch: 1,
        threads: 2,
        samples,
        memory,
        kernels,
        covariates,
        phases,
        processors,
        load_s,
        warmup_iterations,
        wall_s: 4.1,
    })
}

fn stop<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

fn harness(criterion: &mut Criterion) {
    criterion.bench_function("read the clock", |b| b.iter(Instant::now));

    for threads in [1, 2] {
        let pool = Pool::new(threads);
        let name = format!("open and close a region of the pool, threads: {threads}");
        criterion.bench_function(&name, |b| b.iter(|| pool.run(&|thread| _ = black_box(thread))));
    }
    let pool = Pool::new(1);
    criterion.bench_function("a part while nothing is profiled", |b| {
        b.iter(|| pool.part(Part::Linear, || black_box(1)));
    });

    let line = stop(serde_json::to_string(&Message::Result(stop(serde_json::to_value(timing())))));
    criterion.bench_function("a worker's answer, written and read", |b| {
        b.iter(|| {
            let answer = Message::Result(stop(serde_json::to_value(timing())));
            black_box(stop(serde_json::to_string(&answer)));
            let Message::Result(value) = stop(serde_json::from_str(&line)) else { panic!("an answer was written") };
            stop(serde_json::from_value::<Timing>(value))
        });
    });

    let folder = stop(tempfile::tempdir());
    let mut journal = stop(Journal::create(folder.path()));
    let event = slot();
    criterion.bench_function("append a slot to the journal, flushed", |b| b.iter(|| stop(journal.append(&event))));
}

criterion_group!(benches, harness);
criterion_main!(benches);
