//! How alike two networks embed the same sentences: cosines, and the order of the similarities of pairs.

use crate::stats::rank_correlation;

/// Most sentences of which all pairs are compared, evenly spaced over all.
const MOST_PAIRED: usize = 512;

/// Embeddings of sentences scaled to length 1, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings(Vec<Vec<f64>>);

impl Embeddings {
    /// Of `values`, `(sentences, width)` row-major.
    ///
    /// # Errors
    /// A vector that has no length; the message names its sentence, counted from 0.
    pub fn new(values: &[f32], width: usize) -> Result<Self, String> {
        let vectors: Vec<Vec<f64>> = values.chunks_exact(width).map(unit).collect();
        match vectors.iter().position(|vector| vector.iter().any(|v| !v.is_finite())) {
            Some(bad) => Err(format!(
                "sentence {bad}: the embedding is zero or holds an infinity or NaN, though all weights are finite"
            )),
            None => Ok(Embeddings(vectors)),
        }
    }

    /// Cosine of the embedding of a sentence to that of another network.
    ///
    /// # Panics
    /// When one of them has no such sentence.
    pub fn cosine(&self, other: &Embeddings, sentence: usize) -> f64 {
        dot(&self.0[sentence], &other.0[sentence])
    }

    /// Spearman's correlation of the similarities of pairs of sentences with those of another network; `None` where there
    /// are too few.
    pub fn rank_correlation(&self, other: &Embeddings) -> Option<f64> {
        rank_correlation(&self.similarities(), &other.similarities())
    }

    /// Cosines of all pairs of up to [`MOST_PAIRED`] sentences.
    fn similarities(&self) -> Vec<f64> {
        let count = self.0.len().min(MOST_PAIRED);
        let chosen: Vec<&Vec<f64>> = (0..count).map(|i| &self.0[i * self.0.len() / count]).collect();
        let pairs = chosen.iter().enumerate().flat_map(|(at, a)| chosen[at + 1..].iter().map(move |b| dot(a, b)));
        pairs.collect()
    }
}

/// The vector scaled to length 1.
fn unit(vector: &[f32]) -> Vec<f64> {
    let length = vector.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    vector.iter().map(|&v| f64::from(v) / length).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_do_not_count_and_order_does() {
        let reference = Embeddings::new(&[1.0, 0.0, 1.0, 1.0, 0.0, 2.0], 2).unwrap();
        let longer = Embeddings::new(&[3.0, 0.0, 5.0, 5.0, 0.0, 1.0], 2).unwrap();
        assert!((0..3).all(|at| (reference.cosine(&longer, at) - 1.0).abs() < 1e-15));
        let turned = Embeddings::new(&[0.0, 1.0, 1.0, 1.0, 0.1, 1.0], 2).unwrap();
        assert_eq!(reference.cosine(&turned, 0), 0.0);
        assert!(reference.rank_correlation(&turned).unwrap() < 0.5);
        assert!(Embeddings::new(&[1.0, 0.0, 0.0, 0.0], 2).unwrap_err().starts_with("sentence 1"));
    }
}
