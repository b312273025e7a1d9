//! One predicted distribution against the true token and the reference's distribution; sums over windows.
//!
//! With logits `a` (reference) and `b` (variant), `p = softmax(a)`, `q = softmax(b)`:
//! `NLL = lse(b) - b[target]` and `KL(p || q) = sum over i of p_i (a_i - b_i) - lse(a) + lse(b)`, over the whole
//! vocabulary, everything after the f32 logits in f64. KL is 0 or more; what rounding leaves below is clamped, and
//! less than [`KL_ROUNDING`] below is a defect, not rounding.

use crate::kernels::{Isa, vector};
use crate::results::WindowScore;

/// Below minus this, a KL divergence cannot be rounding.
const KL_ROUNDING: f64 = 1e-6;

/// One predicted token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Negative log-likelihood of the true token, nats.
    pub nll: f64,
    /// The most likely token is the true one.
    pub correct: bool,
    /// Comparison with the reference.
    pub against: Option<Against>,
}

/// One predicted token against the reference's prediction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Against {
    /// KL(reference || variant), nats.
    pub kl: f64,
    /// Both have the same most likely token.
    pub agree: bool,
    /// The reference's most likely token is the true one.
    pub reference_correct: bool,
    /// Probability of the true token less the reference's.
    pub probability_difference: f64,
}

/// Scores `logits` (one per vocabulary entry) against the true token `target` and, where given, the `reference`'s
/// logits.
///
/// # Errors
/// When a logit is NaN or infinite where it counts, or KL is negative beyond rounding; the message names no place.
///
/// # Panics
/// When `target` is outside the vocabulary or the sizes differ.
pub fn score_token(logits: &[f32], target: u32, reference: Option<&[f32]>) -> Result<TokenScore, String> {
    let isa = Isa::active();
    let best = vector::argmax(isa, logits);
    let probability = |logits: &[f32], log_sum: f64| (f64::from(logits[target as usize]) - log_sum).exp();
    let (log_sum, against) = match reference {
        None => (vector::softmax_divergence(isa, logits, logits).0, None),
        Some(reference) => {
            assert_eq!(reference.len(), logits.len(), "vocabularies differ");
            let reference_best = vector::argmax(isa, reference);
            let (log_sum, kl) = vector::softmax_divergence(isa, reference, logits);
            // Written so that NaN is caught too.
            if !(kl >= -KL_ROUNDING && kl.is_finite()) {
                return Err(format!("KL divergence {kl} is no number of at least 0"));
            }
            let (agree, reference_correct) = (best == reference_best, reference_best == target as usize);
            let of_reference = probability(reference, vector::log_sum_exp(isa, reference));
            let probability_difference = probability(logits, log_sum) - of_reference;
            (log_sum, Some(Against { kl: kl.max(0.0), agree, reference_correct, probability_difference }))
        }
    };
    let nll = log_sum - f64::from(logits[target as usize]);
    if !nll.is_finite() {
        return Err(format!("the log-likelihood of token {target} is {}", -nll));
    }
    Ok(TokenScore { nll, correct: best == target as usize, against })
}

/// Sums over a window's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ScoreSums {
    tokens: usize,
    nll: f64,
    correct: usize,
    compared: usize,
    kl: f64,
    agree: usize,
    lost: usize,
    won: usize,
    squared_difference: f64,
}

impl ScoreSums {
    /// Adds one token.
    pub fn add(&mut self, token: &TokenScore) {
        self.tokens += 1;
        self.nll += token.nll;
        self.correct += usize::from(token.correct);
        if let Some(against) = token.against {
            self.compared += 1;
            self.kl += against.kl;
            self.agree += usize::from(against.agree);
            self.lost += usize::from(against.reference_correct && !token.correct);
            self.squared_difference += against.probability_difference.powi(2);
            self.won += usize::from(token.correct && !against.reference_correct);
        }
    }

    /// The window's score; comparisons are `None` unless every token was compared.
    pub fn window(&self, document: usize) -> WindowScore {
        let compared = self.compared == self.tokens;
        WindowScore {
            document,
            tokens: self.tokens,
            nll: self.nll,
            correct: self.correct,
            kl: compared.then_some(self.kl),
            agree: compared.then_some(self.agree),
            flips: compared.then_some((self.lost, self.won)),
            squared_difference: compared.then_some(self.squared_difference),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_example_by_hand() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = 1/2 ln 2 - 1/4 ln 2.
        let ln = |p: f64| p.ln() as f32;
        let reference = [ln(0.5), ln(0.25), ln(0.25)];
        // A shift of all logits changes nothing.
        let variant = [ln(0.25) + 3.0, ln(0.5) + 3.0, ln(0.25) + 3.0];
        let token = score_token(&variant, 0, Some(&reference)).unwrap();
        assert!((token.nll - 4f64.ln()).abs() < 1e-6, "{token:?}");
        let against = token.against.unwrap();
        assert!((against.kl - 0.25 * 2f64.ln()).abs() < 1e-6, "{token:?}");
        assert!(!token.correct && !against.agree && against.reference_correct);
        assert!((against.probability_difference + 0.25).abs() < 1e-6, "{token:?}");
        let alone = score_token(&variant, 0, None).unwrap();
        assert_eq!((alone.nll, alone.against), (token.nll, None));
    }

    #[test]
    fn equal_logits_diverge_by_nothing_and_tiny_differences_by_tiny_amounts() {
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 37 % 101) as f32).sqrt() * 3.0 - 20.0).collect();
        assert!(score_token(&logits, 7, Some(&logits)).unwrap().against.unwrap().kl < 1e-13);
        let mut other = logits.clone();
        other.iter_mut().step_by(2).for_each(|v| *v += 1e-3);
        let kl = score_token(&other, 7, Some(&logits)).unwrap().against.unwrap().kl;
        // Half of the mass shifted by d: KL is near d^2 w(1-w)/2 = 1.25e-7 at w = 1/2.
        assert!((1.0e-7..1.4e-7).contains(&kl), "{kl}");
    }

    #[test]
    fn extreme_logits_stay_finite_and_damaged_ones_are_refused() {
        let token = score_token(&[1000.0, -1000.0], 1, Some(&[-1000.0, 1000.0])).unwrap();
        assert_eq!((token.nll, token.against.unwrap().kl), (2000.0, 2000.0));
        assert!(score_token(&[f32::NAN, 0.0], 1, None).is_err());
        assert!(score_token(&[f32::INFINITY, 0.0], 0, None).is_err());
        assert!(score_token(&[0.0, 0.0], 0, Some(&[f32::NAN, 0.0])).is_err());
    }

    #[test]
    fn sums_count_what_was_lost_and_won() {
        let token = |correct, reference_correct, agree| TokenScore {
            nll: 1.0,
            correct,
            against: Some(Against { kl: 0.5, agree, reference_correct, probability_difference: -0.5 }),
        };
        let mut sums = ScoreSums::default();
        for t in
            [token(true, true, true), token(true, false, false), token(false, true, false), token(false, true, false)]
        {
            sums.add(&t);
        }
        let window = sums.window(3);
        assert_eq!((window.document, window.tokens, window.correct), (3, 4, 2));
        assert_eq!((window.kl, window.agree, window.flips), (Some(2.0), Some(1), Some((2, 1))));
        assert_eq!(window.squared_difference, Some(1.0));
        sums.add(&TokenScore { nll: 1.0, correct: true, against: None });
        assert_eq!(sums.window(3).kl, None);
    }
}
