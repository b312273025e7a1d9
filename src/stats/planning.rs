//! What a number of items or blocks can prove, calculated before they are measured.
//!
//! Paired proportions (Connor 1987, Biometrics 43:207, for no true difference): with a share ψ of items that change sides,
//! the difference has the variance ψ/n, so a drop of Δ is excluded at the one-sided error α with power 1 - β where
//! `n = (z_α + z_β)² ψ / Δ²`. Log-likelihoods: where a model's distribution differs little from the reference's, the variance
//! of the difference of a token's log-likelihood is twice their KL divergence (both are, to second order, the variance of
//! the change of a logit under the model), so a difference of δ is excluded where `n = (z_α + z_β)² 2 KL d / δ²`, with the
//! design effect d of neighbouring tokens. Blocks come from simulating the test that judges.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::sequential::sequential_claim;
use super::student::normal_quantile;
use super::symmetry::Side;

/// Power of every plan: the chance that what is true is proven.
const POWER: f64 = 0.8;

/// The smallest drop of a share that `items` can exclude when nothing was lost, if a share `flips` of them changes sides.
pub fn smallest_provable_drop(items: f64, flips: f64, alpha: f64) -> Option<f64> {
    Some(quantiles(alpha)? * (flips / items).sqrt()).filter(|drop| drop.is_finite())
}

/// Items that exclude a `drop` of a share when nothing was lost, if a share `flips` of them changes sides.
pub fn items_needed(drop: f64, flips: f64, alpha: f64) -> Option<f64> {
    Some((quantiles(alpha)? / drop).powi(2) * flips).filter(|items| items.is_finite())
}

/// Design effect of tokens of the same document: differences to a quantized model resemble each other.
const TOKENS_RESEMBLE: f64 = 1.5;

/// The smallest loss of log-likelihood per token that `tokens` can exclude when nothing was lost, in nats, for a variant
/// whose distributions diverge from the reference's by `kl` nats a token.
pub fn smallest_provable_loss(tokens: f64, kl: f64, alpha: f64) -> Option<f64> {
    smallest_provable_drop(tokens, 2.0 * kl * TOKENS_RESEMBLE, alpha)
}

/// Tokens that exclude a `loss` of log-likelihood per token when nothing was lost, at a divergence of `kl`.
pub fn tokens_needed(loss: f64, kl: f64, alpha: f64) -> Option<f64> {
    items_needed(loss, 2.0 * kl * TOKENS_RESEMBLE, alpha)
}

fn quantiles(alpha: f64) -> Option<f64> {
    Some(normal_quantile(1.0 - alpha)? + normal_quantile(POWER)?)
}

/// The median number of values after which [`sequential_claim`] proves an effect of `effect` standard deviations of normal
/// noise, out of 201 simulated sequences of the `planned` number; `None` where it does not in most.
pub fn values_to_prove(effect: f64, alpha: f64, planned: usize) -> Option<usize> {
    const REPETITIONS: usize = 201;
    // The spread that the test expects at first, so that it need not learn it.
    const SPREAD: f64 = 0.02;
    let mut rng = StdRng::seed_from_u64(0);
    let mut draw = || normal_quantile(rng.random::<f64>()).unwrap_or(0.0);
    let mut took: Vec<usize> = (0..REPETITIONS)
        .filter_map(|_| {
            let values: Vec<f64> = (0..planned).map(|_| SPREAD * (effect + draw())).collect();
            sequential_claim(&values, 0.0, Side::Above, alpha, planned)?.proven_after
        })
        .collect();
    took.sort_unstable();
    took.get(REPETITIONS / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the formula with scipy.stats.norm.ppf.
    #[test]
    fn items_for_usual_margins() {
        for (drop, flips, items) in [(0.01, 0.05, 3092.0), (0.02, 0.05, 773.0), (0.005, 0.10, 24731.0)] {
            let got = items_needed(drop, flips, 0.05).unwrap();
            assert!((got.ceil() - items).abs() <= 1.0, "{drop}: {got}");
            assert!((smallest_provable_drop(got, flips, 0.05).unwrap() - drop).abs() < 1e-12);
        }
        assert_eq!((items_needed(0.0, 0.05, 0.05), smallest_provable_drop(0.0, 0.05, 0.05)), (None, None));
        assert_eq!(items_needed(0.01, 0.05, f64::NAN), None);
    }

    /// Half-widths of 95 % intervals, in nats a token, that a run of suites/quick.toml printed for 51,000 tokens: the standard
    /// errors behind them are within a third of those of the plan.
    #[test]
    fn divergence_foretells_the_error_of_a_log_likelihood() {
        for (kl, half_width) in [(0.00108, 0.00044), (0.03931, 0.00353), (0.02251, 0.00218), (0.01982, 0.00208)] {
            let alpha = 0.05;
            let planned = smallest_provable_loss(51_000.0, kl, alpha).unwrap() / quantiles(alpha).unwrap();
            let ratio = planned / (half_width / 1.98);
            assert!((0.75..1.33).contains(&ratio), "{kl}: {ratio}");
        }
        let tokens = tokens_needed(0.01, 0.02, 0.05).unwrap();
        assert!((smallest_provable_loss(tokens, 0.02, 0.05).unwrap() - 0.01).abs() < 1e-12);
    }

    #[test]
    fn larger_effects_take_fewer_values_and_small_ones_more_than_there_are() {
        let of = |effect| values_to_prove(effect, 0.05, 30);
        let (large, middle) = (of(3.0).unwrap(), of(1.2).unwrap());
        assert!((6..=8).contains(&large) && (8..=15).contains(&middle), "{large} {middle}");
        assert_eq!(of(0.1), None);
        assert!(values_to_prove(3.0, 0.05 / 7.0, 30).unwrap() > large, "more candidates cost blocks");
    }
}
