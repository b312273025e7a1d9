//! Which slots a block holds, and in which order.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use sha2::{Digest, Sha256};

use crate::suite::Suite;

/// A place in the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub variant: String,
    pub control: bool,
    pub block: usize,
    pub position: usize,
    pub batch: usize,
    pub threads: usize,
}

/// All slots of block `block`, point after point of the workload; within a point in a uniform random order drawn from
/// the suite's seed, the block and the point. The order holds every variant of the suite, also those that failed or left,
/// so that a resumed run finds the same plan.
pub(super) fn block(suite: &Suite, block: usize) -> Vec<Place> {
    let mut places = Vec::new();
    for (point, (batch, threads)) in points(suite).into_iter().enumerate() {
        let mut arms: Vec<(&str, bool)> = suite.variants.iter().map(|v| (v.name.as_str(), false)).collect();
        arms.push((&suite.reference, true));
        arms.shuffle(&mut rng(suite.seed, block, point));
        places.extend(arms.into_iter().enumerate().map(|(position, (variant, control))| Place {
            variant: variant.to_string(),
            control,
            block,
            position,
            batch,
            threads,
        }));
    }
    places
}

/// Every combination of batch and threads.
pub(super) fn points(suite: &Suite) -> Vec<(usize, usize)> {
    let workload = &suite.workload;
    workload.batch.iter().flat_map(|&b| workload.threads.iter().map(move |&t| (b, t))).collect()
}

/// A generator of its own for every block and point, seeded with the SHA-256 of the three numbers.
pub(super) fn rng(seed: u64, block: usize, point: usize) -> Xoshiro256PlusPlus {
    let digest = Sha256::digest(format!("{seed} {block} {point}"));
    Xoshiro256PlusPlus::from_seed(digest.into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::suite;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_block_holds_every_variant_and_the_control_once_at_every_point() {
        let suite = suite(3);
        for b in 0..20 {
            let places = block(&suite, b);
            for (batch, threads) in points(&suite) {
                let at: Vec<&Place> = places.iter().filter(|p| (p.batch, p.threads) == (batch, threads)).collect();
                let arms: BTreeSet<(&str, bool)> = at.iter().map(|p| (p.variant.as_str(), p.control)).collect();
                assert_eq!((at.len(), arms.len()), (5, 5));
                assert!(arms.contains(&("fp16", true)));
                assert!(at.iter().enumerate().all(|(i, p)| p.position == i && p.block == b));
            }
        }
    }

    #[test]
    fn orders_are_the_seeds_choice_and_every_position_is_as_likely() {
        let mut suite = suite(3);
        suite.workload.threads = vec![1];
        let order = |suite: &Suite, b| block(suite, b).into_iter().map(|p| (p.variant, p.control)).collect::<Vec<_>>();
        assert_eq!(order(&suite, 4), order(&suite, 4));
        let blocks = 2000;
        let mut first = 0;
        let mut orders = BTreeSet::new();
        for b in 0..blocks {
            let order = order(&suite, b);
            first += usize::from(order[0] == ("fp16".to_string(), false));
            orders.insert(order);
        }
        // 2000 draws at 1/5: 400 with a standard deviation of 18; all 120 orders appear.
        assert!((310..490).contains(&first), "{first}");
        assert_eq!(orders.len(), 120);
        let before = order(&suite, 0);
        suite.seed += 1;
        assert!((0..5).any(|b| order(&suite, b) != before));
    }
}
