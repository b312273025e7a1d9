//! Speed of every kernel on the shapes of a small decoder: one token (decode) and 128 tokens (prefill).
//!
//! `cargo bench --bench kernels -- 'w8a8.*128'`; `BENCH_THREADS=2` sets the pool. Throughput is products (a multiply and
//! an add) per second for 128 tokens, packed weight bytes per second for one.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quantbench::kernels::{Activations, Isa, Matrix, Pool, synthetic};
use quantbench::tensor::{ActivationScheme, DenseFormat};

/// `(out_features, in_features)`: attention output, gate and up, down, head.
const SHAPES: [(usize, usize); 4] = [(576, 576), (1536, 576), (576, 1536), (49152, 576)];

fn dense(format: DenseFormat, (rows, cols): (usize, usize)) -> Matrix {
    synthetic::dense(format, rows, cols)
}

fn quantized(shape: (usize, usize), bits: u8, group_size: usize, activations: ActivationScheme) -> Matrix {
    synthetic::quantized(shape, bits, group_size, activations).unwrap_or_else(|e| panic!("{e}"))
}

fn matrices(shape: (usize, usize)) -> Vec<(&'static str, Matrix)> {
    use ActivationScheme::{DynamicToken, None};
    vec![
        ("f32", dense(DenseFormat::F32, shape)),
        ("f16", dense(DenseFormat::F16, shape)),
        ("bf16", dense(DenseFormat::Bf16, shape)),
        ("w8a8", quantized(shape, 8, shape.1, DynamicToken)),
        ("w8a8-g64", quantized(shape, 8, 64, DynamicToken)),
        ("w8a16", quantized(shape, 8, shape.1, None)),
        ("w4a8-g64", quantized(shape, 4, 64, DynamicToken)),
        ("w4a8-g32", quantized(shape, 4, 32, DynamicToken)),
        ("w4a16-g64", quantized(shape, 4, 64, None)),
    ]
}

fn multiply(criterion: &mut Criterion) {
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(1);
    let pool = Pool::new(threads);
    for shape in SHAPES {
        for tokens in [1, 128] {
            let mut group = criterion.benchmark_group(format!("{}x{}-t{tokens}", shape.0, shape.1));
            group.sample_size(20);
            for (name, matrix) in matrices(shape) {
                let products = tokens * shape.0 * shape.1;
                group.throughput(if tokens == 1 {
                    Throughput::Bytes(matrix.bytes() as u64)
                } else {
                    Throughput::Elements(products as u64)
                });
                let mut y = vec![0.0; tokens * shape.0];
                let mut x = Activations::with_capacity(tokens, shape.1);
                let inputs = synthetic::inputs(tokens, shape.1);
                for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
                    group.bench_function(BenchmarkId::new(name, isa), |b| {
                        b.iter(|| {
                            // Rewritten, so that making the integer form is part of the time.
                            x.write(tokens, shape.1).copy_from_slice(&inputs);
                            matrix.multiply_on(isa, &pool, &mut x, &mut y);
                        });
                    });
                }
            }
        }
    }
}

criterion_group!(benches, multiply);
criterion_main!(benches);
