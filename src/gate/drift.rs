//! Slow drift: the run against an anchor, such as the last release.
//!
//! A baseline moves with every accepted change, so ten losses of a tenth of the margin would pass one by one. Against the
//! anchor the loss itself is compared with the margin, not a bound: the items are the same and the numbers repeat.

use super::accuracy::Margin;
use super::baseline::Anchor;
use super::observed::Observed;
use super::record::VariantRecord;
use super::verdict::{Check, Level, State};
use crate::units;

/// By how much an artefact may have grown since the anchor, percent.
const MOST_GROWTH_PERCENT: f64 = 5.0;

/// Checks of size and accuracy against the anchor, for variants that it has.
pub fn drift(observed: &Observed, anchor: &Anchor) -> Vec<Check> {
    let new = &observed.record;
    let of_sample = || anchor.records.iter().filter(|record| record.sample == new.sample);
    let Some(old) = of_sample().find(|record| record.class == new.class).or_else(|| of_sample().next()) else {
        let message = format!("the anchor {} has no record of the {} sample", anchor.name, new.sample);
        return vec![Check::new(Level::Drift, "", "record", State::Advisory, message)];
    };
    let both = old.variants.iter().filter_map(|(name, old)| Some((name, old, new.variants.get(name)?)));
    both.flat_map(|(name, old, new)| of_variant(name, old, new, observed, &anchor.name)).collect()
}

fn of_variant(name: &str, old: &VariantRecord, new: &VariantRecord, observed: &Observed, anchor: &str) -> Vec<Check> {
    let state = |fine: bool| if fine { State::Pass } else { State::Fail };
    let growth = 100.0 * (new.file_bytes as f64 / old.file_bytes as f64 - 1.0);
    let message = format!(
        "{growth:+.2} % since {anchor} ({}, now {}), limit {MOST_GROWTH_PERCENT} %",
        units::bytes(old.file_bytes),
        units::bytes(new.file_bytes)
    );
    let mut checks = vec![Check::new(Level::Drift, name, "size", state(growth <= MOST_GROWTH_PERCENT), message)];
    for task in &observed.suite.tasks {
        let (Some(before), Some(after)) = (old.tasks.get(&task.name), new.tasks.get(&task.name)) else { continue };
        let margin = Margin::of(&observed.suite, task);
        let check = match margin.difference(before, after, observed.suite.accept.confidence) {
            None => {
                let message = format!("the items are not those of {anchor}");
                Check::new(Level::Drift, name, task.name.clone(), State::Advisory, message)
            }
            Some(difference) => {
                let lost = difference.value;
                let message = format!("{} since {anchor}, margin {}", margin.show(lost), margin.show(-margin.value));
                Check::new(Level::Drift, name, task.name.clone(), state(lost >= -margin.value), message)
            }
        };
        checks.push(check);
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::baseline::tests::{baseline, observed};
    use super::*;

    fn anchor() -> Anchor {
        Anchor { name: "v1".into(), unix_s: 0.0, records: baseline().records, timings: Vec::new() }
    }

    #[test]
    fn small_steps_add_up_against_the_anchor() {
        assert!(drift(&observed(), &anchor()).iter().all(|c| c.state == State::Pass));
        let mut now = observed();
        let variant = now.record.variants.get_mut("v").unwrap();
        variant.file_bytes = 11;
        variant.tasks.get_mut("choice").unwrap().right.replace_range(..1, "0");
        let failed: Vec<String> = drift(&now, &anchor())
            .into_iter()
            .filter(|c| c.state == State::Fail)
            .map(|c| format!("{} {}", c.variant, c.message))
            .collect();
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(failed[0].starts_with("v +10.00 % since v1") && failed[1].starts_with("v -8.3333 points since v1"));
        now.record.sample = "smoke".into();
        assert_eq!(drift(&now, &anchor())[0].state, State::Advisory);
    }
}
