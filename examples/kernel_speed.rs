use quantbench::kernels::{Activations, Isa, Matrix, Pool};
use quantbench::tensor::{ActivationScheme, DenseFormat, QuantizedTensor, Zero};
use std::time::Instant;
fn quantized((rows, cols): (usize, usize), bits: u8, g: usize, a: ActivationScheme, zero: u8) -> Matrix {
    let groups = rows * (cols / g);
    let l = 1usize << bits;
    let w = QuantizedTensor {
        rows,
        cols,
        bits,
        group_size: g,
        codes: (0..rows * cols)
            .map(|i| if zero == 2 { ((i * 7919) % l) as i8 } else { (((i * 7919) % l) as i32 - (l / 2) as i32) as i8 })
            .collect(),
        scales: vec![0.0078125; groups],
        zero: match zero {
            0 => Zero::Symmetric,
            1 => Zero::Points(vec![1; groups]),
            _ => Zero::Offsets(vec![0.5; groups]),
        },
    };
    Matrix::from_quantized(&w, a).unwrap()
}
#[target_feature(enable = "avx512f")]
unsafe fn peak() -> f64 {
    use std::arch::x86_64::*;
    let mut best: f64 = 0.0;
    for _ in 0..60 {
        let t = Instant::now();
        let mut a = [_mm512_set1_ps(1.0); 16];
        let b = std::hint::black_box(_mm512_set1_ps(0.999));
        for _ in 0..40000 {
            for v in a.iter_mut() {
                *v = _mm512_fmadd_ps(*v, b, b);
            }
        }
        std::hint::black_box(&a);
        best = best.max(40000.0 * 16.0 * 32.0 / t.elapsed().as_secs_f64() / 1e9);
    }
    best
}
fn main() {
    use ActivationScheme::*;
    let args: Vec<String> = std::env::args().collect();
    let threads: usize = args.get(1).map_or(1, |t| t.parse().unwrap());
    let filter = args.get(2).cloned().unwrap_or_default();
    let isa = if args.get(3).is_some_and(|s| s == "avx2") { Isa::Avx2 } else { Isa::Avx512Vnni };
    let pool = Pool::new(threads);
    println!("f32 peak {:.0} GFLOPS", unsafe { peak() });
    for s in [(576, 576), (1536, 576), (576, 1536), (49152, 576)] {
        let d = |f| {
            Matrix::from_rows(f, s.0, s.1, &|r, o: &mut [f32]| {
                o.iter_mut().enumerate().for_each(|(k, v)| *v = ((r * 31 + k * 17) % 101) as f32 / 101.0 - 0.5)
            })
        };
        let list: Vec<(&str, Box<dyn Fn() -> Matrix>)> = vec![
            ("f32", Box::new(|| d(DenseFormat::F32))),
            ("f16", Box::new(|| d(DenseFormat::F16))),
            ("bf16", Box::new(|| d(DenseFormat::Bf16))),
            ("w8a8", Box::new(|| quantized(s, 8, s.1, DynamicToken, 0))),
            ("w8a8-g64", Box::new(|| quantized(s, 8, 64, DynamicToken, 0))),
            ("w8a8-g64z", Box::new(|| quantized(s, 8, 64, DynamicToken, 1))),
            ("w8a16", Box::new(|| quantized(s, 8, s.1, None, 0))),
            ("w8a16-g32", Box::new(|| quantized(s, 8, 32, None, 0))),
            ("w4a8", Box::new(|| quantized(s, 4, s.1, DynamicToken, 0))),
            ("w4a8-g64", Box::new(|| quantized(s, 4, 64, DynamicToken, 0))),
            ("w4a8-g32o", Box::new(|| quantized(s, 4, 32, DynamicToken, 2))),
            ("w4a16-g64", Box::new(|| quantized(s, 4, 64, None, 0))),
            ("w4a16-g32o", Box::new(|| quantized(s, 4, 32, None, 2))),
            ("w4a16-g64z", Box::new(|| quantized(s, 4, 64, None, 1))),
        ];
        for (name, make) in list {
            if !name.contains(&filter) {
                continue;
            }
            // several copies for a cold working set in decode
            let bytes = make().bytes();
            let copies = (96_000_000 / bytes).clamp(1, 400);
            let ms: Vec<Matrix> = (0..copies).map(|_| make()).collect();
            let mut line = format!("s{}x{} {name:<11}", s.0, s.1);
            for tokens in [1usize, 4, 128] {
                let mut x = Activations::default();
                let mut y = vec![0.0; tokens * s.0];
                let prods = tokens * s.0 * s.1;
                let (reps, inner) = if tokens == 128 { (if s.0 > 9999 { 4 } else { 30 }, 1) } else { (8, copies) };
                let mut best = f64::MAX;
                let mut hot = f64::MAX;
                for r in 0..reps {
                    x.write(tokens, s.1).iter_mut().enumerate().for_each(|(i, v)| *v = ((i + r) % 13) as f32 - 6.0);
                    let t = Instant::now();
                    for m in &ms[..inner] {
                        m.multiply_on(isa, &pool, &mut x, &mut y);
                    }
                    best = best.min(t.elapsed().as_secs_f64() / inner as f64);
                }
                if tokens == 1 {
                    for _ in 0..50 {
                        let t = Instant::now();
                        ms[0].multiply_on(isa, &pool, &mut x, &mut y);
                        hot = hot.min(t.elapsed().as_secs_f64());
                    }
                }
                if tokens == 1 {
                    line += &format!(
                        " | t1 cold {:6.1} GB/s hot {:6.1}",
                        bytes as f64 / best / 1e9,
                        bytes as f64 / hot / 1e9
                    );
                } else if tokens == 4 {
                    line += &format!(" | t4 {:6.1} GB/s", bytes as f64 / best / 1e9);
                } else {
                    line += &format!(" | t128 {:7.1} GOPS {:.2} ms", 2.0 * prods as f64 / best / 1e9, best * 1e3);
                }
            }
            println!("{line}");
        }
    }
}
