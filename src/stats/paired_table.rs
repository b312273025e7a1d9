//! Two answers to each of the same questions, counted: McNemar's test and Newcombe's interval.
//!
//! Both take items as independent of each other; where items share documents, [`super::paired_difference`] judges.

use super::paired::wilson;
use super::student::normal_two_sided;

/// How many items were right both times, only the second or only the first time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PairedTable {
    /// Right both times.
    pub both: usize,
    /// Wrong before, right after.
    pub won: usize,
    /// Right before, wrong after.
    pub lost: usize,
    /// Wrong both times.
    pub neither: usize,
}

impl PairedTable {
    /// Counts pairs of (right before, right after).
    pub fn count(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut table = PairedTable::default();
        for pair in pairs {
            let cell = match pair {
                (true, true) => &mut table.both,
                (false, true) => &mut table.won,
                (true, false) => &mut table.lost,
                (false, false) => &mut table.neither,
            };
            *cell += 1;
        }
        table
    }

    /// Items.
    pub fn n(&self) -> usize {
        self.both + self.won + self.lost + self.neither
    }

    /// Two-sided mid-p value of McNemar's test that as many were lost as won: the chance, were each change a fair coin,
    /// of a smaller minority on either side, with half of the chance of the minority seen (Fagerland, Lydersen & Laake
    /// 2013, BMC Medical Research Methodology 13:91, who find the exact conditional test too conservative).
    pub fn mcnemar_mid_p(&self) -> f64 {
        let changes = self.won + self.lost;
        let least = self.won.min(self.lost);
        // ln of the binomial probability of k of n, k from 0.
        let mut log_mass = -(changes as f64) * std::f64::consts::LN_2;
        let mut below = 0.0;
        for k in 0..least {
            below += log_mass.exp();
            log_mass += ((changes - k) as f64 / (k + 1) as f64).ln();
        }
        (2.0 * below + log_mass.exp()).min(1.0)
    }

    /// Interval of `(won - lost) / n` by the square-and-add method 10 of Newcombe (1998, Statistics in Medicine 17:2635):
    /// Wilson's limits of both shares, with their correlation φ. `None` without items or for a senseless confidence.
    pub fn newcombe(&self, confidence: f64) -> Option<(f64, f64)> {
        let n = self.n() as f64;
        let critical = normal_two_sided(confidence).filter(|_| self.n() > 0)?;
        let [both, won, lost, neither] = [self.both, self.won, self.lost, self.neither].map(|count| count as f64);
        let (after, before) = ((both + won) / n, (both + lost) / n);
        let ((low_a, high_a), (low_b, high_b)) = (wilson(after, n, critical), wilson(before, n, critical));
        let margins = (both + won) * (lost + neither) * (both + lost) * (won + neither);
        let product = both * neither - won * lost;
        let corrected = if product > 0.0 { (product - n / 2.0).max(0.0) } else { product };
        let phi = if margins > 0.0 { corrected / margins.sqrt() } else { 0.0 };
        let side = |a: f64, b: f64| (a * a - 2.0 * phi * a * b + b * b).max(0.0).sqrt();
        let difference = after - before;
        let low = difference - side(after - low_a, high_b - before);
        Some((low, difference + side(high_a - after, before - low_b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published examples (Newcombe 1998; Fagerland, Lydersen & Laake 2013 and 2014); mid-p from scipy.stats.binom,
    /// `tools/golden/known_intervals.py`.
    #[test]
    fn published_tables() {
        let table = |both, won, lost, neither| PairedTable { both, won, lost, neither };
        for (table, mid_p, newcombe) in [
            (table(1, 1, 7, 12), 0.0390625, (-0.50692, -0.02556)),
            (table(1380, 18, 26, 576), 0.23269319190831086, (-0.010618, 0.002603)),
        ] {
            assert!((table.mcnemar_mid_p() - mid_p).abs() < 1e-12, "{table:?}: {}", table.mcnemar_mid_p());
            let got = table.newcombe(0.95).unwrap();
            assert!((got.0 - newcombe.0).abs() < 1e-5 && (got.1 - newcombe.1).abs() < 1e-5, "{got:?}");
        }
    }

    #[test]
    fn nothing_changed_or_nothing_asked() {
        let same = PairedTable { both: 70, neither: 30, ..PairedTable::default() };
        assert_eq!(same.mcnemar_mid_p(), 1.0);
        let (low, high) = same.newcombe(0.95).unwrap();
        assert!(low < 0.0 && high > 0.0 && (low + high).abs() < 1e-12);
        assert_eq!(PairedTable::default().newcombe(0.95), None);
        assert_eq!(same.newcombe(f64::NAN), None);
    }

    #[test]
    fn counting_and_large_tables() {
        let pairs = [(true, true), (true, false), (false, true), (true, false), (false, false)];
        assert_eq!(PairedTable::count(pairs), PairedTable { both: 1, won: 1, lost: 2, neither: 1 });
        let large = PairedTable { won: 60_000, lost: 60_000, ..PairedTable::default() };
        assert!((large.mcnemar_mid_p() - 1.0).abs() < 1e-6, "{}", large.mcnemar_mid_p());
        let apart = PairedTable { won: 50_000, lost: 60_000, ..PairedTable::default() };
        assert!(apart.mcnemar_mid_p() < 1e-100);
    }
}
