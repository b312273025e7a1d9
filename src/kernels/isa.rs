//! Instruction sets, detected at run time and lowered by `BENCH_ISA`.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::fmt;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// An instruction set that kernels exist for, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust: the definition.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX2 with `vpdpbusd` on 256 bits (AVX-VNNI).
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI (and BF16 where present).
    Avx512Vnni,
    /// AVX-512 with BF16, and tiles of int8 and bfloat16 (AMX).
    Amx,
    /// NEON, which every 64-bit ARM processor has.
    Neon,
    /// NEON with the dot products of bytes.
    NeonDotprod,
    /// NEON with dot products and matrix products of bytes (and of bfloat16 where present).
    NeonI8mm,
}

impl Isa {
    /// All instruction sets that kernels exist for, weakest first, whether or not this processor has them.
    pub const ALL: [Isa; 8] =
        [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni, Isa::Amx, Isa::Neon, Isa::NeonDotprod, Isa::NeonI8mm];

    /// Name as in kernel names and `BENCH_ISA`: `scalar`; `avx2`, `avxvnni`, `avx512vnni`, `amx`; `neon`, `neon-dotprod`,
    /// `neon-i8mm`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neon-dotprod",
            Isa::NeonI8mm => "neon-i8mm",
        }
    }

    /// The set whose kernels this one uses wherever it has none of its own: AVX-VNNI adds products of integers to AVX2,
    /// AMX products of integers and of bfloat16 to AVX-512, the later sets of ARM products of integers to NEON.
    pub fn base(self) -> Isa {
        match self {
            Isa::AvxVnni => Isa::Avx2,
            Isa::Amx => Isa::Avx512Vnni,
            Isa::NeonDotprod | Isa::NeonI8mm => Isa::Neon,
            base => base,
        }
    }

    /// Whether this processor (and its operating system) runs it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => {
                Isa::Avx512Vnni.is_available()
                    && is_x86_feature_detected!("avx512bf16")
                    && super::x86::amx::is_granted()
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => Isa::Neon.is_available() && is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Isa::NeonDotprod.is_available() && is_aarch64_feature_detected!("i8mm"),
            _ => false, // Of another architecture.
        }
    }

    /// Whether its kernels run here: on this processor, or, in tests, under emulation.
    pub(super) fn runs(self) -> bool {
        #[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
        if super::x86::emulate::emulates(self) {
            return true;
        }
        self.is_available()
    }

    /// The instruction sets of this processor, weakest first; never empty.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The one in use: the best available, lowered by `BENCH_ISA`. An unknown or unavailable name is reported by
    /// [`Isa::from_env`]; here it falls back to the best.
    pub fn active() -> Isa {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| match Isa::from_env() {
            Ok(Some(isa)) => isa,
            _ => Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar),
        })
    }

    /// What `BENCH_ISA` asks for.
    ///
    /// # Errors
    /// A message with the names that are available.
    pub fn from_env() -> Result<Option<Isa>> {
        match std::env::var("BENCH_ISA") {
            Ok(name) if name.is_empty() => Ok(None),
            Ok(name) => Isa::parse(&name).map(Some),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(Error::Usage("BENCH_ISA: not valid unicode".into())),
        }
    }

    fn parse(name: &str) -> Result<Isa> {
        let names = Isa::available().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
        match Isa::ALL.into_iter().find(|isa| isa.name() == name) {
            Some(isa) if isa.is_available() => Ok(isa),
            Some(_) => Err(Error::Usage(format!("BENCH_ISA: this processor lacks {name}; use one of {names}"))),
            None => Err(Error::Usage(format!("BENCH_ISA: unknown instruction set {name:?}; use one of {names}"))),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Compiles one plain-Rust body once per instruction set and picks the version for an [`Isa`] at run time, so that
/// the compiler vectorizes it with what the processor has (NEON is part of every aarch64 build). The body must be
/// `#[inline(always)]`.
///
/// ```text
/// per_isa! {
///     /// Doc of the function.
///     fn quantize_row(isa, values: &[f32], codes: &mut [i8]) -> f32 = quantize_row_body
/// }
/// quantize_row(Isa::active(), values, codes)
/// ```
///
/// Results are the same on every instruction set as long as the body does not use `mul_add`-free reassociation, which
/// Rust never does by itself.
macro_rules! per_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($isa:ident $(, $arg:ident: $type:ty)*) $(-> $ret:ty)? = $body:path) => {
        $(#[$doc])*
        $vis fn $name($isa: $crate::kernels::Isa $(, $arg: $type)*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $type),*) $(-> $ret)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
            fn avx512($($arg: $type),*) $(-> $ret)? {
                $body($($arg),*)
            }
            let base = $isa.base();
            debug_assert!(base.is_available());
            match base {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: this variant's features are present, as `Isa::is_available` checked.
                $crate::kernels::Isa::Avx512Vnni if base.is_available() => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: this variant's features are present, as `Isa::is_available` checked.
                $crate::kernels::Isa::Avx2 if base.is_available() => unsafe { avx2($($arg),*) },
                _ => $body($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_starts_with_scalar_and_rises() {
        let available = Isa::available();
        assert_eq!(available[0], Isa::Scalar);
        assert!(available.is_sorted());
        assert!(available.contains(&Isa::active()));
    }

    #[test]
    fn names_round_trip_and_unknown_names_list_the_known() {
        for isa in Isa::available() {
            assert_eq!(Isa::parse(isa.name()).expect("available"), isa);
        }
        let message = Isa::parse("sse9").expect_err("unknown").to_string();
        assert!(message.contains("sse9") && message.contains("scalar"), "{message}");
    }
}
