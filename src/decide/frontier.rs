//! Pareto frontier over accuracy loss, time and weight bytes, all to be small.
//!
//! The frontier is strict: a variant leaves it only when another is at least as good everywhere and better somewhere,
//! by the points. It leaves it *beyond noise* only when the same holds for the bounds of the paired differences between
//! the two (an intersection-union test: no correction over objectives is needed). It is dominated *within noise* when
//! that is not so, but another is proven better in something and proven worse in nothing, or dominates it by the points.
//! Dominance with a tolerance is not transitive and can empty the frontier; nothing is removed by it.

use super::Case;
use super::timings::{metric_name, speedups};
use crate::results::{Frontier, VariantResult};

/// How one variant compares with another in one objective: difference of points, and the difference's bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Difference {
    points: f64,
    /// Infinite where unknown.
    low: f64,
    high: f64,
}

impl Difference {
    fn exact(difference: f64) -> Self {
        Difference { points: difference, low: difference, high: difference }
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
        let dominating = by(|d| dominates(d) || better_within_noise(d));
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

/// Proven better in something, proven worse in nothing.
fn better_within_noise(differences: &[Difference]) -> bool {
    differences.iter().all(|d| d.low <= 0.0) && differences.iter().any(|d| d.high < 0.0)
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
    let unknown = (f64::NEG_INFINITY, f64::INFINITY);
    let loss = || {
        let accuracy = case.accuracy_difference(evidence.0, evidence.1)?;
        Some((-accuracy.high?, -accuracy.low?))
    };
    let time = || {
        let metric = case.speed_metric();
        let (t, _) = speedups(evidence.1, evidence.0, case.judged_point(), metric, case.confidence()).ok()?;
        Some((-t.high?.ln(), -t.low?.ln()))
    };
    let between = |objective: usize, (low, high): (f64, f64)| {
        let points = a.1[objective] - b.1[objective];
        Difference { points, low, high }
    };
    [between(0, loss().unwrap_or(unknown)), between(1, time().unwrap_or(unknown)), Difference::exact(a.1[2] - b.1[2])]
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

        // With speeds known to 5 % only, two of them have no proven advantage left over a more accurate one.
        let names: Vec<&str> = points.iter().map(|(name, _)| *name).collect();
        let places = place_all(&names, &[true; 5], |a, b| {
            let ratio = (points[a].1[0] / points[b].1[0]).ln();
            let time = Difference { points: -ratio, low: -ratio - 0.05, high: -ratio + 0.05 };
            Some(vec![time, Difference::exact(points[a].1[1] - points[b].1[1])])
        });
        let within = |by: &str| Frontier::DominatedWithinNoise { by: vec![by.to_string()] };
        let expected = [Frontier::On, within("INT8 QAT"), within("INT4 QAT"), Frontier::On, Frontier::On];
        assert_eq!(places, expected);
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
                Some(vec![Difference { points, low: points - high, high: points + high }, Difference::exact(0.0)])
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
