//! Arithmetic per instruction set; the thread pool; the scalar definition of everything.
//!
//! Kernels know nothing of models: a [`Matrix`] is a packed weight, [`Activations`] is its input, and
//! [`Matrix::multiply`] picks the kernel for the instruction set in use and the number of rows. [`Attention`] reads
//! [`KeyValues`]; [`vector`] and [`rows`] hold what lies between matrices. The scalar kernels are the definition;
//! every other path is tested against them.

mod activations;
#[cfg(target_arch = "aarch64")]
mod arm;
mod attention;
mod buffer;
mod gelu;
mod hadamard;
mod isa;
mod key_values;
mod layer_norm;
mod matrix;
mod packed;
mod pool;
mod profile;
pub mod roofline;
pub mod rows;
mod scalar;
mod sequences;
pub mod synthetic;
#[cfg(test)]
mod tests;
mod tile;
pub mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use activations::{Activations, InputRows};
pub use attention::{Attention, AttentionScratch, Mask};
pub use buffer::AlignedBuffer;
pub use gelu::Gelu;
pub use hadamard::Hadamard;
pub use isa::Isa;
pub use key_values::{KeyValues, KvFormat};
pub use layer_norm::LayerNorm;
pub use matrix::{Matrix, has_bf16, multiply_all};
pub use pool::Pool;
pub use profile::{Part, Profile};
pub use sequences::Sequences;
