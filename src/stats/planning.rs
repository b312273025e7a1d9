//! What a number of items or blocks can prove, calculated before they are measured.
//!
//! Paired proportions (Connor 1987, Biometrics 43:207, for no true difference): with a share ψ of items that change sides,
//! the difference has the variance ψ/n, so a drop of Δ is excluded at the one-sided error α with power 1 - β where
//! `n = (z_α + z_β)² ψ / Δ²`. Blocks come from simulating the test that judges.

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

    #[test]
    fn larger_effects_take_fewer_values_and_small_ones_more_than_there_are() {
        let of = |effect| values_to_prove(effect, 0.05, 30);
        let (large, middle) = (of(3.0).unwrap(), of(1.2).unwrap());
        assert!((6..=8).contains(&large) && (8..=15).contains(&middle), "{large} {middle}");
        assert_eq!(of(0.1), None);
        assert!(values_to_prove(3.0, 0.05 / 7.0, 30).unwrap() > large, "more candidates cost blocks");
    }
}
