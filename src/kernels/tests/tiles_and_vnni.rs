//! AMX and AVX-VNNI kernels, natively where the processor has them, else instruction by instruction under emulation
//! (`x86::emulate`): each test prints which. A processor without AVX-512 emulates no AMX; the tests say so.

use super::{Convention, Inputs, SCHEMES, check_on, dense, errors, inputs, multiply, random_weights, shuffled, tensor};
use crate::kernels::{Isa, Matrix, Pool};
use crate::tensor::{ActivationScheme, DenseFormat, QuantizedTensor};

/// Whether kernels of this set run here; prints how.
fn runs(isa: Isa) -> bool {
    let how = match (isa.is_available(), isa.runs()) {
        (true, _) => "natively",
        (_, true) => "EMULATED",
        _ => "not at all: this processor lacks what it extends",
    };
    eprintln!("{isa} is tested {how}");
    isa.runs()
}

/// Every activation scheme of integers, for these numbers of tokens.
fn check_integers(isa: Isa, w: &QuantizedTensor, tokens: &[usize], kind: Inputs) {
    for scheme in SCHEMES.into_iter().filter(|&scheme| scheme != ActivationScheme::None) {
        let matrix = Matrix::from_quantized(w, scheme).expect("supported");
        for &tokens in tokens {
            let values = inputs(kind, tokens, w.cols);
            let name = matrix.kernel_name(isa, tokens);
            let what = format!("{name} {}x{} group {} {scheme:?} {tokens} {kind:?}", w.rows, w.cols, w.group_size);
            check_on(&[isa], &what, &matrix, &values, None);
        }
    }
}

const CONVENTIONS: [(u8, Convention); 6] = [
    (8, Convention::Symmetric),
    (8, Convention::Points),
    (5, Convention::Offsets),
    (4, Convention::Symmetric),
    (4, Convention::Points),
    (4, Convention::Offsets),
];

#[test]
fn amx_or_its_emulation_with_scales_per_channel() {
    if !runs(Isa::Amx) {
        return;
    }
    for (bits, convention) in CONVENTIONS {
        // The last has more than one stretch of inputs.
        for (rows, cols) in [(1, 64), (17, 100), (50, 576), (33, 1700)] {
            let w = tensor((rows, cols), bits, cols, convention, false, rows == 17);
            check_integers(Isa::Amx, &w, &[1, 4, 5, 16, 17, 32, 45, 65], Inputs::Random);
        }
    }
}

#[test]
fn amx_or_its_emulation_with_groups() {
    if !runs(Isa::Amx) {
        return;
    }
    for (bits, convention) in CONVENTIONS {
        for (rows, cols, group) in [(1, 64, 32), (17, 288, 96), (33, 640, 128), (20, 320, 64), (18, 272, 16)] {
            let w = tensor((rows, cols), bits, group, convention, false, rows == 17);
            check_integers(Isa::Amx, &w, &[4, 5, 16, 33, 50], Inputs::Random);
        }
    }
}

#[test]
fn amx_or_its_emulation_at_the_extremes() {
    if !runs(Isa::Amx) {
        return;
    }
    for (bits, convention) in [(8, Convention::Symmetric), (8, Convention::Points), (7, Convention::Offsets)] {
        for group in [64, 1536] {
            for kind in [Inputs::Extreme, Inputs::ExtremeNegative, Inputs::ZeroTokens] {
                check_integers(Isa::Amx, &tensor((34, 1536), bits, group, convention, true, true), &[9], kind);
            }
        }
    }
}

#[test]
fn amx_or_its_emulation_for_bfloat16() {
    if !runs(Isa::Amx) {
        return;
    }
    for (rows, cols) in [(1, 1), (15, 33), (17, 100), (33, 576), (70, 1000)] {
        let weights = random_weights(rows, cols);
        let matrix = dense(DenseFormat::Bf16, rows, cols, &weights);
        let magnitude: Vec<f32> = weights.iter().map(|w| w.abs() * 1.01).collect();
        for tokens in [1, 4, 5, 16, 33, 65] {
            let values = inputs(Inputs::Random, tokens, cols);
            let errors = errors(rows, cols, &values, &magnitude, None);
            check_on(&[Isa::Amx], &format!("{rows}x{cols}, {tokens} tokens"), &matrix, &values, Some(&errors));
        }
    }
}

/// More tokens than stay in the second-level cache at once.
#[test]
fn amx_or_its_emulation_with_many_tokens() {
    if !runs(Isa::Amx) {
        return;
    }
    let (rows, cols, tokens) = (33, 16384, 130);
    let w = tensor((rows, cols), 8, cols, Convention::Symmetric, false, true);
    let matrix = Matrix::from_quantized(&w, ActivationScheme::DynamicToken).expect("supported");
    let values = inputs(Inputs::Random, tokens, cols);
    check_on(&[Isa::Amx], "many tokens", &matrix, &values, None);
}

/// What AMX does not change runs on AVX-512's kernels: same bits.
#[test]
fn amx_elsewhere_is_avx512() {
    if !runs(Isa::Amx) {
        return;
    }
    let pool = Pool::new(2);
    let weights = random_weights(33, 96);
    let w = tensor((33, 96), 4, 32, Convention::Points, false, true);
    let ordered = QuantizedTensor { input_order: Some(shuffled(96, 5)), ..w.clone() };
    let float = [DenseFormat::F32, DenseFormat::F16].map(|format| dense(format, 33, 96, &weights));
    let quantized = [(w, ActivationScheme::None), (ordered, ActivationScheme::DynamicToken)]
        .map(|(w, scheme)| Matrix::from_quantized(&w, scheme).expect("supported"));
    for matrix in float.iter().chain(&quantized) {
        for tokens in [3, 40] {
            let values = inputs(Inputs::Random, tokens, 96);
            let [amx, avx512] = [Isa::Amx, Isa::Avx512Vnni].map(|isa| multiply(matrix, isa, &pool, &values));
            assert_eq!(amx, avx512, "{}", matrix.kernel_name(Isa::Amx, tokens));
        }
    }
}

#[test]
fn avx_vnni_or_its_emulation() {
    if !runs(Isa::AvxVnni) {
        return;
    }
    for (bits, convention) in CONVENTIONS {
        // Small, because every dot product of 32 codes traps where it is emulated.
        for (rows, cols, group) in [(1, 32, 32), (17, 100, 100), (33, 64, 32), (5, 192, 96)] {
            let w = tensor((rows, cols), bits, group, convention, false, group == 32);
            check_integers(Isa::AvxVnni, &w, &[1, 2, 7], Inputs::Random);
        }
        for kind in [Inputs::Extreme, Inputs::ExtremeNegative] {
            check_integers(Isa::AvxVnni, &tensor((3, 512), bits, 512, convention, true, true), &[3], kind);
        }
    }
}

#[test]
fn kernels_are_named_after_the_instructions_that_multiply() {
    let name = |isa, bits, scheme, tokens| {
        let w = tensor((16, 64), bits, 32, Convention::Symmetric, false, true);
        Matrix::from_quantized(&w, scheme).expect("supported").kernel_name(isa, tokens)
    };
    let dynamic = ActivationScheme::DynamicToken;
    assert_eq!(name(Isa::Amx, 8, dynamic, 5), "x86_64-w8a8-amx-gemm");
    assert_eq!(name(Isa::Amx, 4, dynamic, 5), "x86_64-w4a8-amx-gemm");
    assert_eq!(name(Isa::Amx, 8, dynamic, 4), "x86_64-w8a8-avx512vnni-gemv");
    assert_eq!(name(Isa::Amx, 4, ActivationScheme::None, 5), "x86_64-w4a16-avx512vnni-gemm");
    assert_eq!(name(Isa::AvxVnni, 8, dynamic, 1), "x86_64-w8a8-avxvnni-gemv");
    assert_eq!(name(Isa::AvxVnni, 8, ActivationScheme::None, 1), "x86_64-w8a16-avx2-gemv");
    let bf16 = dense(DenseFormat::Bf16, 16, 64, &random_weights(16, 64));
    assert_eq!(bf16.kernel_name(Isa::Amx, 5), "x86_64-bf16-amx-gemm");
}

/// Emulation must not make anybody believe that the processor has the instructions.
#[cfg(target_os = "linux")]
#[test]
fn sets_are_available_only_where_the_system_lists_their_instructions() {
    let listed = std::fs::read_to_string("/proc/cpuinfo").expect("Linux lists the processor's features");
    let lists = |feature: &str| listed.split_whitespace().any(|word| word == feature);
    assert!(lists("sse2"));
    for (isa, features) in [(Isa::Amx, &["amx_tile", "amx_int8", "amx_bf16"][..]), (Isa::AvxVnni, &["avx_vnni"])] {
        _ = isa.runs();
        assert!(!isa.is_available() || features.iter().all(|feature| lists(feature)), "{isa}");
        assert_eq!(Isa::available().contains(&isa), isa.is_available());
    }
}
