//! Arithmetic per instruction set; the thread pool; the scalar definition of everything.
//!
//! Kernels know nothing of models: a [`Matrix`] is a packed weight, [`Activations`] is its input, and
//! [`Matrix::multiply`] picks the kernel for the instruction set in use and the number of rows. The scalar kernels
//! are the definition; every other path is tested against them.

mod activations;
mod buffer;
mod isa;
mod matrix;
mod packed;
mod pool;
mod scalar;
#[cfg(test)]
mod tests;

pub use activations::Activations;
pub use buffer::AlignedBuffer;
pub use isa::Isa;
#[allow(unused_imports)] // The dispatch idiom of the vector kernels.
pub(crate) use isa::per_isa;
pub use matrix::Matrix;
pub use pool::Pool;
