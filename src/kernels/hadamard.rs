//! Randomized Hadamard rotations of vectors: random signs, then an orthogonal Hadamard matrix, which spreads whatever is
//! large in one place evenly over all (QuaRot, Ashkboos et al. 2024, arXiv:2404.00456, section 3).
//!
//! A Hadamard matrix has entries 1 and -1 and orthogonal rows. One of order `b 2^k` is the Kronecker product of a base of
//! order b with Sylvester's matrix of order 2^k, and takes `n (b + k)` additions. The base is 1, or one that Paley (1933)
//! makes of the squares modulo a prime q: b = q + 1 for q = 3 modulo 4, b = 2 (q + 1) for q = 1 modulo 4.
//!
//! Files name a rotation by its size and seed ([`Hadamard::new`]), so neither the matrix nor the signs may ever change.

use std::ops::{Add, Mul, Sub};

use super::isa::{Isa, per_isa};
use crate::stats::split_mix;

/// Largest base: its matrix is held in full.
const MAX_BASE: usize = 256;
/// Columns of the base's product that are worked on at once.
const LANES: usize = 16;

/// An orthogonal matrix Q of random signs and a Hadamard matrix over the square root of its order; where no Hadamard matrix
/// is as large as the vectors, blocks of the largest order that divides their size.
#[derive(Debug, Clone, PartialEq)]
pub struct Hadamard {
    /// 1 or -1 by element.
    signs: Vec<f32>,
    order: usize,
    /// Order of the base matrix.
    base: usize,
    /// Entries of the base matrix, 1 or -1, row-major.
    entries: Vec<f32>,
}

/// `f32` or `f64`.
trait Real: Copy + From<f32> + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {}
impl<T: Copy + From<f32> + Add<Output = T> + Sub<Output = T> + Mul<Output = T>> Real for T {}

impl Hadamard {
    /// The rotation of vectors of `size`, above 0: element `i` is negated where the `i`-th output of SplitMix64 from `seed` has its
    /// top bit set; then every block of the largest fitting order is multiplied by the Hadamard matrix with the smallest
    /// base.
    pub fn new(size: usize, seed: u64) -> Hadamard {
        let negated = |number: u64| if number >> 63 == 1 { -1.0 } else { 1.0 };
        let fitting = (1..=size).rev().filter(|order| size.is_multiple_of(*order));
        let (order, (base, entries)) = fitting
            .filter_map(|order| base(order).map(|base| (order, base)))
            .next()
            .unwrap_or_else(|| (1, (1, vec![1.0])));
        Hadamard { signs: split_mix(seed).take(size).map(negated).collect(), order, base, entries }
    }

    /// Order of the Hadamard matrix: the vectors' size, or a divisor of it; 1 where nothing is mixed.
    pub fn order(&self) -> usize {
        self.order
    }

    /// Elements of a vector.
    pub fn size(&self) -> usize {
        self.signs.len()
    }

    /// `x = x Q` of a row vector.
    ///
    /// # Panics
    /// When `x` has another size.
    pub fn rotate(&self, isa: Isa, x: &mut [f32]) {
        rotate_f32(isa, self, x);
    }

    /// [`Hadamard::rotate`] in 64 bits.
    ///
    /// # Panics
    /// When `x` has another size.
    pub fn rotate_f64(&self, isa: Isa, x: &mut [f64]) {
        rotate_f64(isa, self, x);
    }

    /// `x = x Qᵀ`: takes [`Hadamard::rotate`] back.
    ///
    /// # Panics
    /// When `x` has another size.
    pub fn rotate_back(&self, isa: Isa, x: &mut [f32]) {
        rotate_back_f32(isa, self, x);
    }

    /// 1 over the square root of the order.
    fn scale(&self) -> f64 {
        1.0 / (self.order as f64).sqrt()
    }

    #[inline(always)]
    fn apply_signs<T: Real>(&self, x: &mut [T], scale: T) {
        x.iter_mut().zip(&self.signs).for_each(|(x, &sign)| *x = *x * (T::from(sign) * scale));
    }

    /// Multiplies every block by the Hadamard matrix, transposed or not.
    #[inline(always)]
    fn mix<T: Real, const TRANSPOSED: bool>(&self, x: &mut [T]) {
        let width = self.order / self.base;
        for block in x.chunks_exact_mut(self.order) {
            block.chunks_exact_mut(width).for_each(sylvester);
            if self.base > 1 {
                self.multiply_base::<T, TRANSPOSED>(block, width);
            }
        }
    }

    /// `block = B block` for the transposed base B, or for B itself; `block` is `(base, width)` row-major.
    #[inline(always)]
    fn multiply_base<T: Real, const TRANSPOSED: bool>(&self, block: &mut [T], width: usize) {
        let (base, zero) = (self.base, T::from(0.0));
        let mut columns = [[zero; LANES]; MAX_BASE];
        for start in (0..width).step_by(LANES) {
            let lanes = LANES.min(width - start);
            for (columns, row) in columns.iter_mut().zip(block.chunks_exact(width)) {
                columns[..lanes].copy_from_slice(&row[start..start + lanes]);
            }
            for (to, row) in block.chunks_exact_mut(width).enumerate() {
                let mut sum = [zero; LANES];
                for (from, columns) in columns[..base].iter().enumerate() {
                    let at = if TRANSPOSED { to * base + from } else { from * base + to };
                    let entry = T::from(self.entries[at]);
                    sum.iter_mut().zip(columns).for_each(|(sum, &value)| *sum = *sum + entry * value);
                }
                row[start..start + lanes].copy_from_slice(&sum[..lanes]);
            }
        }
    }
}

/// Multiplies by Sylvester's matrix, which is symmetric: the fast Walsh-Hadamard transform.
#[inline(always)]
fn sylvester<T: Real>(x: &mut [T]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (low, high) in low.iter_mut().zip(high) {
                (*low, *high) = (*low + *high, *low - *high);
            }
        }
        half *= 2;
    }
}

per_isa! {
    fn rotate_f32(isa, rotation: &Hadamard, x: &mut [f32]) = rotate_f32_body
}

per_isa! {
    fn rotate_f64(isa, rotation: &Hadamard, x: &mut [f64]) = rotate_f64_body
}

per_isa! {
    fn rotate_back_f32(isa, rotation: &Hadamard, x: &mut [f32]) = rotate_back_f32_body
}

#[inline(always)]
fn rotate_f32_body(rotation: &Hadamard, x: &mut [f32]) {
    assert_eq!(x.len(), rotation.size());
    rotation.apply_signs(x, rotation.scale() as f32);
    rotation.mix::<f32, false>(x);
}

#[inline(always)]
fn rotate_f64_body(rotation: &Hadamard, x: &mut [f64]) {
    assert_eq!(x.len(), rotation.size());
    rotation.apply_signs(x, rotation.scale());
    rotation.mix::<f64, false>(x);
}

#[inline(always)]
fn rotate_back_f32_body(rotation: &Hadamard, x: &mut [f32]) {
    assert_eq!(x.len(), rotation.size());
    rotation.mix::<f32, true>(x);
    rotation.apply_signs(x, rotation.scale() as f32);
}

/// The smallest base of a Hadamard matrix of `order`, with its entries.
fn base(order: usize) -> Option<(usize, Vec<f32>)> {
    let odd = order >> order.trailing_zeros();
    if odd == 1 {
        return Some((1, vec![1.0]));
    }
    let sizes = std::iter::successors(Some(4 * odd), |size| Some(2 * size));
    let mut sizes = sizes.take_while(|size| *size <= MAX_BASE && order.is_multiple_of(*size));
    sizes.find_map(|size| Some((size, paley(size)?)))
}

/// Paley's Hadamard matrix of `order`, a multiple of 4, row-major.
fn paley(order: usize) -> Option<Vec<f32>> {
    let is_prime = |n: usize| n > 1 && (2..n).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
    // Entry of the conference matrix of order q + 1 with `corner` below its first row of ones.
    let conference = |q: usize, squares: &[bool], corner: f32, row: usize, col: usize| match (row, col) {
        _ if row == col => 0.0,
        (0, _) => 1.0,
        (_, 0) => corner,
        _ if squares[(row + q - col) % q] => 1.0,
        _ => -1.0,
    };
    let squares = |q: usize| {
        let mut squares = vec![false; q];
        (1..q).for_each(|x| squares[x * x % q] = true);
        squares
    };
    let places = (0..order * order).map(|at| (at / order, at % order));
    if is_prime(order - 1) {
        let q = order - 1;
        let squares = squares(q);
        let entry = |(row, col)| if row == col { 1.0 } else { conference(q, &squares, -1.0, row, col) };
        return Some(places.map(entry).collect());
    }
    let q = order / 2 - 1;
    if q % 4 != 1 || !is_prime(q) {
        return None;
    }
    let squares = squares(q);
    let entry = |(row, col): (usize, usize)| {
        let both_odd = if row % 2 == 1 && col % 2 == 1 { -1.0 } else { 1.0 };
        match conference(q, &squares, 1.0, row / 2, col / 2) {
            0.0 if row % 2 == 0 && col % 2 == 0 => 1.0,
            0.0 => -1.0,
            sign => sign * both_odd,
        }
    };
    Some(places.map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The base's Kronecker product with Sylvester's matrix, whose entry is the parity of the bits that both indices share.
    fn explicit(rotation: &Hadamard, row: usize, col: usize) -> f64 {
        let width = rotation.order / rotation.base;
        let parity = ((row % width) & (col % width)).count_ones() % 2;
        let entry = rotation.entries[row / width * rotation.base + col / width];
        f64::from(entry) * if parity == 1 { -1.0 } else { 1.0 }
    }

    fn noise(size: usize) -> Vec<f64> {
        split_mix(7).take(size).map(|number| number as f64 / u64::MAX as f64 - 0.5).collect()
    }

    #[test]
    fn base_matrices_are_hadamard_matrices() {
        let bases: Vec<usize> = (1..=MAX_BASE / 4).filter_map(|i| paley(4 * i).map(|_| 4 * i)).collect();
        assert_eq!(bases[..12], [4, 8, 12, 20, 24, 28, 32, 36, 44, 48, 60, 68]);
        for order in bases {
            let entries = paley(order).unwrap();
            assert!(entries.iter().all(|entry| entry.abs() == 1.0));
            let row = |row: usize| &entries[row * order..][..order];
            for (one, other) in (0..order).flat_map(|one| (0..order).map(move |other| (one, other))) {
                let dot: f32 = row(one).iter().zip(row(other)).map(|(a, b)| a * b).sum();
                assert_eq!(dot, if one == other { order as f32 } else { 0.0 }, "order {order}");
            }
        }
    }

    #[test]
    fn sizes_of_models_have_a_matrix_of_their_own_and_others_take_blocks() {
        for size in
            [64, 80, 96, 128, 256, 576, 640, 768, 896, 960, 1152, 1600, 1792, 2304, 2560, 3200, 4096, 5376, 6656]
        {
            assert_eq!(Hadamard::new(size, 1).order(), size);
        }
        for (size, order) in [(1, 1), (6, 2), (7, 1), (100, 20), (92, 4), (52, 4), (577, 1), (578, 2)] {
            assert_eq!(Hadamard::new(size, 1).order(), order, "{size}");
        }
    }

    #[test]
    fn the_fast_transform_is_the_product_and_every_instruction_set_gives_the_same_bits() {
        for size in [1, 6, 12, 48, 64, 100, 144, 576, 400] {
            let rotation = Hadamard::new(size, 3);
            let (x, order) = (noise(size), rotation.order);
            let expected: Vec<f64> = (0..size)
                .map(|col| {
                    let block = col / order * order;
                    let term = |row: usize| {
                        x[block + row] * f64::from(rotation.signs[block + row]) * explicit(&rotation, row, col - block)
                    };
                    (0..order).map(term).sum::<f64>() / (order as f64).sqrt()
                })
                .collect();
            let mut exact = x.clone();
            rotation.rotate_f64(Isa::active(), &mut exact);
            let start: Vec<f32> = x.iter().map(|x| *x as f32).collect();
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut single = start.clone();
                rotation.rotate(isa, &mut single);
                for ((exact, single), expected) in exact.iter().zip(&single).zip(&expected) {
                    assert!((exact - expected).abs() < 1e-13, "{size}: {exact} {expected}");
                    assert!((f64::from(*single) - expected).abs() < 1e-6, "{size}: {single} {expected}");
                }
                assert_eq!(*first.get_or_insert_with(|| single.clone()), single, "{size} {isa}");
                rotation.rotate_back(isa, &mut single);
                assert!(single.iter().zip(&start).all(|(a, b)| (a - b).abs() < 1e-6), "{size}: turned back");
            }
        }
    }

    #[test]
    fn an_outlier_is_spread_evenly() {
        let rotation = Hadamard::new(576, 1);
        let mut x = vec![0.0; 576];
        x[17] = 24.0;
        rotation.rotate(Isa::active(), &mut x);
        assert!(x.iter().all(|value| (value.abs() - 1.0).abs() < 1e-6));
    }

    #[test]
    fn rotations_that_files_name_never_change() {
        // The same definition written with numpy: the first products of 1, 2, 3, ... with signs of seed 1, times the root of the order.
        let expected: [(usize, &[f64]); 4] = [
            (4, &[-2.0, -6.0, -4.0, 8.0]),
            (12, &[18.0, 14.0, -46.0, 20.0, -8.0, 20.0, -24.0, 2.0, -32.0, 2.0, 46.0, -24.0]),
            (24, &[-32.0, -72.0, 48.0, 72.0, 88.0, 48.0, -72.0, 8.0, -124.0, 36.0, -128.0, 32.0]),
            (72, &[-206.0, 50.0, -242.0, -602.0, -6.0, -198.0, 18.0, -566.0, -342.0, 10.0, 150.0, -338.0]),
        ];
        for (size, expected) in expected {
            let mut x: Vec<f64> = (1..=size).map(|i| i as f64 * (size as f64).sqrt()).collect();
            Hadamard::new(size, 1).rotate_f64(Isa::active(), &mut x);
            assert!(x.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{size}: {x:?}");
        }
    }
}
