//! Evidence about the centre of symmetric noise that may be looked at after every value.
//!
//! `X_i = ±(x_i - centre)`. Given the past, the sign of `X_i` is a fair coin if the noise is symmetric around `centre`, and
//! likelier to be negative if the true centre lies on the other side. Each bet below therefore keeps or loses its stake
//! on average, whatever the spread and drift of the noise, and by Ville's inequality the stake ever reaches `1/α` with
//! probability at most α, however often one looks (e-tests of symmetry: Vovk & Wang 2022, arXiv:2208.08925). Two families
//! of bets are averaged:
//!
//! - by size: `Π (1 + tanh(δ X_i / scale_i))` for eight δ, where `scale_i` is the spread of the values *before* i, shrunk
//!   towards [`USUAL_SPREAD`]; strong where noise is near normal;
//! - by sign alone: `(2p)^k (2(1-p))^(n-k)` for k positive of n and 24 shares p; strong where noise has spikes.
//!
//! Logarithms of the mean stake are returned. Since a value at most doubles a stake, 1/α of 40 takes at least six values.

use super::all_finite;

/// Which side of the centre the values are claimed to lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The true centre is larger.
    Above,
    /// The true centre is smaller.
    Below,
}

impl Side {
    /// `value` as seen from `centre`: positive on this side.
    pub fn distance(self, value: f64, centre: f64) -> f64 {
        match self {
            Side::Above => value - centre,
            Side::Below => centre - value,
        }
    }
}

/// Standard deviation that the first values are expected to have: 2 % for logarithms of times. Any value is valid.
const USUAL_SPREAD: f64 = 0.02;

/// Sizes of an effect, in standard deviations, that are bet on.
const EFFECTS: [f64; 8] = [0.15, 0.25, 0.4, 0.65, 1.0, 1.6, 2.5, 4.0];

/// Shares of positive signs that are bet on: the middles of 24 equal parts of (1/2, 1).
const SHARES: usize = 24;

/// `ln E` after each value for the claim that the values' centre lies on `side` of `centre`; `None` for no or non-finite
/// values.
pub fn symmetry_evidence(values: &[f64], centre: f64, side: Side) -> Option<Vec<f64>> {
    if !all_finite(values) || !centre.is_finite() {
        return None;
    }
    let mut sizes = [0.0; EFFECTS.len()];
    let mut signs = [0.0; SHARES];
    let (mut mean, mut squares) = (0.0, 0.0);
    let mut evidence = Vec::with_capacity(values.len());
    for (seen, value) in values.iter().enumerate() {
        let x = side.distance(*value, centre);
        let freedom = 2.0 + seen.saturating_sub(1) as f64;
        let scale = ((2.0 * USUAL_SPREAD * USUAL_SPREAD + squares) / freedom).sqrt();
        for (log, effect) in sizes.iter_mut().zip(EFFECTS) {
            *log += (effect * x / scale).tanh().ln_1p();
        }
        for (part, log) in signs.iter_mut().enumerate() {
            let share = 0.5 + (part as f64 + 0.5) / (2.0 * SHARES as f64);
            *log += (2.0 * if x > 0.0 { share } else { 1.0 - share }).ln();
        }
        evidence.push(log_mean(&[log_mean(&sizes), log_mean(&signs)]));
        // Welford 1962.
        let off = value - mean;
        mean += off / (seen + 1) as f64;
        squares += off * (value - mean);
    }
    Some(evidence)
}

/// `ln` of the mean of `exp(logs)`. A stake that is lost wholly has logarithm minus infinity.
fn log_mean(logs: &[f64]) -> f64 {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + (logs.iter().map(|log| (log - largest).exp()).sum::<f64>() / logs.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::super::mean::LOG_RATIOS;
    use super::*;

    fn last(centre: f64, side: Side) -> f64 {
        *symmetry_evidence(&LOG_RATIOS, centre, side).unwrap().last().unwrap()
    }

    /// The same formulas in numpy, `tools/golden/known_intervals.py`.
    #[test]
    fn known_blocks_have_the_known_evidence() {
        for (centre, side, expected) in [
            (0.0, Side::Above, 5.760389250989164),
            (0.02, Side::Above, 0.7685410993537534),
            (0.05, Side::Below, 4.530839733921115),
        ] {
            assert!((last(centre, side) - expected).abs() < 1e-10, "{centre}: {}", last(centre, side));
        }
    }

    /// With the sizes fixed and every pattern of signs equally likely, the mean of E is 1 after every value: the stakes
    /// are fair.
    #[test]
    fn stakes_are_fair_over_all_patterns_of_signs() {
        let sizes = [0.01, 0.05, 0.002, 0.03, 0.2, 0.011, 0.07, 0.024];
        let mut sums = [0.0; 8];
        for pattern in 0..256_u32 {
            let sign = |at: usize| if pattern >> at & 1 == 1 { 1.0 } else { -1.0 };
            let values: Vec<f64> = sizes.iter().enumerate().map(|(at, size)| 0.5 + sign(at) * size).collect();
            let evidence = symmetry_evidence(&values, 0.5, Side::Above).unwrap();
            sums.iter_mut().zip(evidence).for_each(|(sum, log)| *sum += log.exp() / 256.0);
        }
        assert!(sums.iter().all(|mean| (mean - 1.0).abs() < 1e-12), "{sums:?}");
    }

    #[test]
    fn evidence_falls_as_the_claim_grows_and_sides_mirror() {
        let mut before = f64::INFINITY;
        for centre in [-0.02, 0.0, 0.01, 0.02, 0.03, 0.06] {
            let now = last(centre, Side::Above);
            assert!(now < before);
            before = now;
        }
        let mirrored: Vec<f64> = LOG_RATIOS.iter().map(|x| -x).collect();
        let below = symmetry_evidence(&mirrored, -0.01, Side::Below).unwrap();
        assert!((below[9] - last(0.01, Side::Above)).abs() < 1e-12);
    }

    #[test]
    fn a_value_at_most_doubles_the_stake_and_damage_is_refused() {
        let evidence = symmetry_evidence(&[1e9; 12], 0.0, Side::Above).unwrap();
        assert!(evidence.iter().enumerate().all(|(at, log)| *log <= (at + 1) as f64 * 2f64.ln() + 1e-12));
        assert!(evidence[11] > 5.0);
        let against = symmetry_evidence(&[-1e9; 12], 0.0, Side::Above).unwrap();
        assert!(against.iter().all(|log| *log < 0.1));
        assert_eq!(symmetry_evidence(&[0.1, f64::NAN], 0.0, Side::Above), None);
        assert_eq!(symmetry_evidence(&[], 0.0, Side::Above), None);
        assert_eq!(symmetry_evidence(&[0.1], f64::NEG_INFINITY, Side::Below), None);
    }
}
