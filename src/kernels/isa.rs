//! Instruction sets, detected at run time and lowered by `BENCH_ISA`.

use std::fmt;

/// An instruction set that kernels exist for, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: the definition.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI (and BF16 where present).
    Avx512Vnni,
}

impl Isa {
    /// Name as in kernel names and `BENCH_ISA`: `scalar`, `avx2`, `avx512vnni`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512Vnni => "avx512vnni",
        }
    }

    /// The instruction sets of this processor, weakest first; never empty.
    pub fn available() -> Vec<Isa> {
        todo!("kernels")
    }

    /// The one in use: the best available, lowered by `BENCH_ISA`. An unknown or unavailable name is reported by
    /// [`Isa::from_env`]; here it falls back to the best.
    pub fn active() -> Isa {
        todo!("kernels")
    }

    /// What `BENCH_ISA` asks for.
    ///
    /// # Errors
    /// A message with the names that are available.
    pub fn from_env() -> crate::error::Result<Option<Isa>> {
        todo!("kernels")
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
