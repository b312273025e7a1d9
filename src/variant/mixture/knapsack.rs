//! Multiple-choice knapsack, solved exactly: one choice for every class, the least loss within a budget.
//!
//! Dynamic programming over partial solutions that no other dominates (Nemhauser and Ullmann 1969), class by class. A
//! partial solution is dropped when the linear relaxation of the classes that are left (Sinha and Zoltners 1979: the
//! steps of every class's lower convex hull, the steepest first) cannot bring it to the loss of a solution that is known.
//! All numbers are whole, so nothing is rounded and equal inputs give equal solutions on every machine.

/// What one choice of a class adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub cost: u64,
    pub loss: u64,
}

/// A step down a class's hull: so much more cost for so much less loss.
#[derive(Debug, Clone, Copy)]
struct Step {
    class: usize,
    cost: u64,
    gain: u64,
}

/// A choice for each of the first classes.
#[derive(Debug, Clone, Copy)]
struct Partial {
    cost: u64,
    loss: u64,
    /// Its place among the partial solutions without its last class.
    parent: usize,
    choice: usize,
}

/// The choice of every class, as its index: of all solutions that cost at most `budget`, one of the least loss, and of those
/// one of the least cost; what is still equal is decided by the order of the choices. `None` where even the cheapest
/// choices cost more, or a class has none.
pub(super) fn solve(classes: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let cheapest = |class: &Vec<Choice>| class.iter().map(|c| (c.cost, c.loss)).min();
    let bases = classes.iter().map(cheapest).collect::<Option<Vec<(u64, u64)>>>()?;
    let room = budget.checked_sub(bases.iter().map(|(cost, _)| cost).sum())?;
    let mut steps: Vec<Step> = classes.iter().enumerate().flat_map(|(at, class)| hull(at, class)).collect();
    // Steepest first: gain / cost falling; a class's own steps keep their order.
    steps.sort_by(|a, b| (u128::from(b.gain) * u128::from(a.cost)).cmp(&(u128::from(a.gain) * u128::from(b.cost))));
    let known = bases.iter().map(|(_, loss)| loss).sum::<u64>() - greedy(&steps, room, classes.len());

    let mut levels: Vec<Vec<Partial>> = vec![vec![Partial { cost: 0, loss: 0, parent: 0, choice: 0 }]];
    for (at, class) in classes.iter().enumerate() {
        let left = Relaxation::new(&bases[at + 1..], steps.iter().filter(|step| step.class > at));
        let mut grown: Vec<Partial> = Vec::new();
        for (parent, partial) in levels[at].iter().enumerate() {
            for (choice, c) in class.iter().enumerate() {
                let (cost, loss) = (partial.cost + c.cost, partial.loss + c.loss);
                if left.least_loss(budget, cost).is_some_and(|least| loss + least <= known) {
                    grown.push(Partial { cost, loss, parent, choice });
                }
            }
        }
        grown.sort_by_key(|p| (p.cost, p.loss));
        let mut best = u64::MAX;
        grown.retain(|p| {
            p.loss < best && {
                best = p.loss;
                true
            }
        });
        levels.push(grown);
    }
    // No partial solution dominates another, so the dearest has the least loss.
    let last = levels.last()?.len().checked_sub(1)?;
    Some(choices(&levels, last))
}

/// Walks back from a solution to its choices.
fn choices(levels: &[Vec<Partial>], mut place: usize) -> Vec<usize> {
    let mut found: Vec<usize> = levels[1..]
        .iter()
        .rev()
        .map(|level| {
            let Partial { parent, choice, .. } = level[place];
            place = parent;
            choice
        })
        .collect();
    found.reverse();
    found
}

/// The steps of the lower convex hull of a class's choices, from its cheapest on, each less steep than the one before.
fn hull(class: usize, choices: &[Choice]) -> Vec<Step> {
    let mut points: Vec<(u64, u64)> = choices.iter().map(|c| (c.cost, c.loss)).collect();
    points.sort_unstable();
    let mut steps: Vec<Step> = Vec::new();
    let Some(mut end) = points.first().copied() else { return steps };
    for (cost, loss) in points {
        if loss >= end.1 {
            continue;
        }
        let mut step = Step { class, cost: cost - end.0, gain: end.1 - loss };
        while let Some(before) = steps.last() {
            let steeper =
                u128::from(before.gain) * u128::from(step.cost) > u128::from(step.gain) * u128::from(before.cost);
            if steeper {
                break;
            }
            step = Step { class, cost: step.cost + before.cost, gain: step.gain + before.gain };
            steps.pop();
        }
        steps.push(step);
        end = (cost, loss);
    }
    steps
}

/// Loss that whole steps save within `room`, each class going as far as its next step fits.
fn greedy(steps: &[Step], mut room: u64, classes: usize) -> u64 {
    let mut open = vec![true; classes];
    let mut saved = 0;
    for step in steps {
        open[step.class] &= step.cost <= room;
        if open[step.class] {
            room -= step.cost;
            saved += step.gain;
        }
    }
    saved
}

/// The linear relaxation of some classes.
struct Relaxation {
    /// Cost and loss of their cheapest choices.
    cost: u64,
    loss: u64,
    /// Before each step, the cost and gain of those before it.
    before: Vec<(u64, u64)>,
    steps: Vec<Step>,
}

impl Relaxation {
    /// `steps` steepest first.
    fn new<'a>(bases: &[(u64, u64)], steps: impl Iterator<Item = &'a Step>) -> Self {
        let steps: Vec<Step> = steps.copied().collect();
        let mut before = Vec::with_capacity(steps.len());
        let mut sum = (0, 0);
        for step in &steps {
            before.push(sum);
            sum = (sum.0 + step.cost, sum.1 + step.gain);
        }
        let (cost, loss) = bases.iter().fold((0, 0), |(cost, loss), base| (cost + base.0, loss + base.1));
        Relaxation { cost, loss, before, steps }
    }

    /// No choices of these classes lose less where `spent` of `budget` is gone; `None` where none fit.
    fn least_loss(&self, budget: u64, spent: u64) -> Option<u64> {
        let room = budget.checked_sub(spent)?.checked_sub(self.cost)?;
        let whole = self.before.partition_point(|(cost, _)| *cost <= room);
        let Some(at) = whole.checked_sub(1) else { return Some(self.loss) };
        let ((cost, gain), step) = (self.before[at], self.steps[at]);
        let part = u128::from(room - cost).min(u128::from(step.cost));
        // Rounded up, so that the loss stays a lower bound.
        let of_part = (u128::from(step.gain) * part).div_ceil(u128::from(step.cost)) as u64;
        Some(self.loss.saturating_sub(gain + of_part))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn classes(of: &[&[(u64, u64)]]) -> Vec<Vec<Choice>> {
        let class = |class: &&[(u64, u64)]| class.iter().map(|&(cost, loss)| Choice { cost, loss }).collect();
        of.iter().map(class).collect()
    }

    fn total(classes: &[Vec<Choice>], chosen: &[usize]) -> (u64, u64) {
        let of = classes.iter().zip(chosen).map(|(class, &at)| class[at]);
        of.fold((0, 0), |(cost, loss), c| (cost + c.cost, loss + c.loss))
    }

    /// Least loss, then least cost, of all combinations.
    fn by_trying_all(classes: &[Vec<Choice>], budget: u64) -> Option<(u64, u64)> {
        let mut sums = vec![(0, 0)];
        for class in classes {
            sums = sums.iter().flat_map(|s| class.iter().map(move |c| (s.0 + c.cost, s.1 + c.loss))).collect();
        }
        sums.into_iter().filter(|(cost, _)| *cost <= budget).min_by_key(|&(cost, loss)| (loss, cost))
    }

    #[test]
    fn a_small_example_by_hand() {
        // The best gain per cost (class 0) leaves no room for the best pair of steps (classes 1 and 2).
        let classes = classes(&[&[(0, 10), (6, 1)], &[(0, 8), (5, 2)], &[(0, 8), (5, 2)]]);
        assert_eq!(solve(&classes, 10), Some(vec![0, 1, 1]));
        assert_eq!(solve(&classes, 9), Some(vec![1, 0, 0]));
        assert_eq!(solve(&classes, 16), Some(vec![1, 1, 1]));
        assert_eq!(solve(&classes, 0), Some(vec![0, 0, 0]));
    }

    #[test]
    fn what_does_not_fit_has_no_solution() {
        assert_eq!(solve(&classes(&[&[(3, 0)], &[(4, 0)]]), 6), None);
        assert_eq!(solve(&classes(&[&[(3, 0)], &[]]), 9), None);
        assert_eq!(solve(&[], 0), Some(vec![]));
    }

    #[test]
    fn ties_go_to_the_lower_cost_then_to_the_first_choice() {
        assert_eq!(solve(&classes(&[&[(5, 1), (3, 1), (3, 1)]]), 9), Some(vec![1]));
        assert_eq!(
            solve(&classes(&[&[(0, 5), (2, 3)], &[(0, 5), (2, 3)]]), 2).map(|c| c.iter().sum::<usize>()),
            Some(1)
        );
    }

    #[test]
    fn a_model_of_many_blocks_is_solved_too() {
        // 30 blocks of four units in four formats; sizes as in a model, losses without a pattern.
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 40
        };
        let classes: Vec<Vec<Choice>> = (0..120)
            .map(|unit| {
                let (weights, loss) = ([552_960, 331_776, 1_769_472, 884_736][unit % 4], 1000 + random());
                let choice = |(bits, share): (u64, u64)| Choice { cost: weights * bits / 64, loss: loss / share };
                [(34, 1), (36, 2), (65, 200), (128, u64::MAX)].map(choice).into()
            })
            .collect();
        let (least, most) =
            (classes.iter().map(|c| c[0].cost).sum::<u64>(), classes.iter().map(|c| c[3].cost).sum::<u64>());
        let mut before = u64::MAX;
        for share in 0..=10 {
            let budget = least + (most - least) * share / 10;
            let (cost, loss) = total(&classes, &solve(&classes, budget).unwrap());
            assert!(cost <= budget && loss <= before, "more budget never loses more");
            before = loss;
        }
        assert_eq!(before, 0);
    }

    proptest! {
        #[test]
        fn no_combination_is_better(
            classes in prop::collection::vec(prop::collection::vec((0u64..40, 0u64..40), 1..5), 1..7),
            budget in 0u64..200,
        ) {
            let of: Vec<&[(u64, u64)]> = classes.iter().map(Vec::as_slice).collect();
            let classes = self::classes(&of);
            let found = solve(&classes, budget);
            let (expected, got) = (by_trying_all(&classes, budget), found.as_ref().map(|c| total(&classes, c)));
            prop_assert_eq!(got, expected);
            prop_assert_eq!(solve(&classes, budget), found);
        }
    }
}
