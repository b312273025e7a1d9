//! Pareto frontier over accuracy loss, time and weight bytes, all to be small.
//!
//! The frontier is strict: a variant leaves it only when another is at least as good everywhere and better somewhere,
//! by the points. It leaves it *beyond noise* only when the same holds for the bounds of the paired differences between
//! the two (an intersection-union test: no correction over objectives is needed). Dominance with a tolerance is not
//! transitive and can empty the frontier; it is not used.

use super::Case;
use super::timings::{metric_name, speedups};
use crate::results::{Frontier, VariantResult};

/// How one variant compares with another in one objective: difference of points, and the difference's upper bound.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Difference {
    points: f64,
    /// Infinite where unknown.
    high: f64,
}

impl Difference {
    fn exact(difference: f64) -> Self {
        Difference { points: difference, high: difference }
    }
}

/// Place of every variant, in the order given.
pub(super) fn places(case: &Case<'_>, variants: &[VariantResult]) -> Vec<Frontier> {
    let objectives: Vec<Option<[f64; 3]>> = variants.iter().map(|v| objectives(case, v)).collect();
    let compare = |a: usize, b: usize| {
        let (x, y) = (objectives[a]?, objectives[b]?);
        Some(differences(case, (&variants[a], x), (&variants[b], y)).to_vec())
    };
    let known: Vec<bool> = objectives.iter().map(Option::is_some).collect();
    let names: Vec<&str> = variants.iter().map(|v| v.name.as_str()).collect();
    place_all(&names, &known, compare)
}

/// Places from a comparison `compare(a, b)` that gives `a`'s objectives minus `b`'s.
fn place_all(
    names: &[&str],
    known: &[bool],
    compare: impl Fn(usize, usize) -> Option<Vec<Difference>>,
) -> Vec<Frontier> {
    let place = |b: usize| {
        if !known[b] {
            return Frontier::Unknown;
        }
        let others = (0..names.len()).filter(|a| *a != b);
        let compared: Vec<(usize, Vec<Difference>)> = others.filter_map(|a| Some((a, compare(a, b)?))).collect();
        let by = |test: fn(&[Difference]) -> bool| -> Vec<String> {
            compared.iter().filter(|(_, d)| test(d)).map(|(a, _)| names[*a].to_string()).collect()
        };
        let dominating = by(dominates);
        let proven = by(dominates_beyond_noise);
        match (dominating.is_empty(), proven.is_empty()) {
            (true, _) => Frontier::On,
            (false, true) => Frontier::DominatedWithinNoise { by: dominating },
            (false, false) => Frontier::Dominated { by: proven },
        }
    };
    (0..names.len()).map(place).collect()
}

fn dominates(differences: &[Difference]) -> bool {
    differences.iter().all(|d| d.points <= 0.0) && differences.iter().any(|d| d.points < 0.0)
}

fn dominates_beyond_noise(differences: &[Difference]) -> bool {
    dominates(differences) && differences.iter().all(|d| d.high <= 0.0) && differences.iter().any(|d| d.high < 0.0)
}

/// Loss of the rule's accuracy (perplexity as nats per token), log time, weight bytes, the first two against the
/// reference; `None` where one is missing or the variant failed.
fn objectives(case: &Case<'_>, variant: &VariantResult) -> Option<[f64; 3]> {
    let at = case.judged_point().of(variant)?;
    case.of(&variant.name).scores.get(&case.accept.accuracy.task)?;
    let weights = variant.memory?.weight_bytes as f64;
    let (loss, log_time) = if variant.reference {
        (0.0, 0.0)
    } else {
        let speedup = at.speedup.get(metric_name(case.speed_metric()))?;
        (-case.accuracy_difference(case.of(&variant.name), case.reference)?.value, -speedup.value.ln())
    };
    (variant.failures.is_empty() && case.reference_fault().is_none()).then_some([loss, log_time, weights])
}

/// `a`'s objectives minus `b`'s: points as given, bounds from the paired comparison of the two.
fn differences(case: &Case<'_>, a: (&VariantResult, [f64; 3]), b: (&VariantResult, [f64; 3])) -> [Difference; 3] {
    let evidence = (case.of(&a.0.name), case.of(&b.0.name));
    let loss_high = || Some(-case.accuracy_difference(evidence.0, evidence.1)?.low?);
    let time_high = || {
        let metric = case.speed_metric();
        let (t, _) = speedups(evidence.1, evidence.0, case.judged_point(), metric, case.confidence()).ok()?;
        Some(-t.low?.ln())
    };
    [
        Difference { points: a.1[0] - b.1[0], high: loss_high().unwrap_or(f64::INFINITY) },
        Difference { points: a.1[1] - b.1[1], high: time_high().unwrap_or(f64::INFINITY) },
        Difference::exact(a.1[2] - b.1[2]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(points: &[(&str, &[f64])]) -> Vec<Frontier> {
        let names: Vec<&str> = points.iter().map(|(name, _)| *name).collect();
        place_all(&names, &vec![true; names.len()], |a, b| {
            let pair = points[a].1.iter().zip(points[b].1);
            Some(pair.map(|(x, y)| Difference::exact(x - y)).collect())
        })
    }

    /// Speedup and accuracy of the example with which this project began: none dominates another.
    #[test]
    fn the_five_points_of_the_seed_are_all_on_the_strict_frontier() {
        let point = |speedup: f64, accuracy: f64| [-speedup, -accuracy];
        let points = [
            ("FP16", point(1.0, 85.0)),
            ("INT8 PTQ", point(2.5, 83.5)),
            ("INT4 GPTQ", point(4.2, 81.0)),
            ("INT8 QAT", point(2.4, 84.8)),
            ("INT4 QAT", point(4.0, 83.0)),
        ];
        let points: Vec<(&str, &[f64])> = points.iter().map(|(name, p)| (*name, p.as_slice())).collect();
        assert_eq!(exact(&points), vec![Frontier::On; 5]);
    }

    #[test]
    fn a_worse_point_is_dominated_and_an_equal_one_is_not() {
        let places = exact(&[("good", &[1.0, 1.0]), ("twin", &[1.0, 1.0]), ("worse", &[1.0, 2.0])]);
        let by = vec!["good".to_string(), "twin".to_string()];
        assert_eq!(places, [Frontier::On, Frontier::On, Frontier::Dominated { by }]);
    }

    /// With a tolerance of 1 each of these would remove the next and the frontier would be empty.
    #[test]
    fn a_cycle_of_tolerant_dominance_leaves_the_strict_frontier_whole() {
        let places = exact(&[("a", &[0.0, 0.0, 0.0]), ("b", &[1.5, -0.75, -0.75]), ("c", &[0.75, 0.75, -1.5])]);
        assert_eq!(places, vec![Frontier::On; 3]);
    }

    #[test]
    fn dominance_inside_the_interval_is_within_noise() {
        let compare = |high: f64| {
            move |a: usize, _: usize| {
                let points = if a == 0 { -1.0 } else { 1.0 };
                Some(vec![Difference { points, high: points + high }, Difference::exact(0.0)])
            }
        };
        let by = vec!["fast".to_string()];
        let names = ["fast", "slow"];
        let noisy = place_all(&names, &[true; 2], compare(2.0));
        assert_eq!(noisy[1], Frontier::DominatedWithinNoise { by: by.clone() });
        let clear = place_all(&names, &[true; 2], compare(0.5));
        assert_eq!(clear, [Frontier::On, Frontier::Dominated { by }]);
        let unknown = place_all(&names, &[true, false], |_, _| None);
        assert_eq!(unknown, [Frontier::On, Frontier::Unknown]);
    }
}
