//! Numbers that repeat to the last bit on one class of machines: any difference is a change of the program, the model or
//! the data, however small.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::baseline::Baseline;
use super::record::{Record, TaskRecord, VariantRecord};
use super::verdict::{Check, Level, State};
use super::{Observed, accuracy};
use crate::results::KernelUse;
use crate::units;

/// Where exact numbers must not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exactness {
    /// Everywhere: on a class of machines without a record nothing can be said.
    Always,
    /// On classes with a record; on others accuracy is tested on paired items, and sizes are compared.
    SameClass,
    /// Nowhere: whatever differs is tested.
    Never,
}

/// Holds a run's record against the baseline's: exactly, and by tests what differs.
pub fn against_baseline(observed: &Observed, baseline: &Baseline, exactness: Exactness) -> Vec<Check> {
    let (new, suite) = (&observed.record, &observed.suite);
    let of_sample = |record: &&Record| record.sample == new.sample;
    let same_class = baseline.records.iter().filter(of_sample).find(|record| record.class == new.class);
    if let Some(old) = same_class {
        let mut checks = compare(old, new, exactness != Exactness::Never);
        checks.extend(accuracy::against(old, new, suite));
        return checks;
    }
    let stored: Vec<&str> = baseline.records.iter().map(|record| record.class.as_str()).collect();
    let whole = |state, message: String| Check::new(Level::Exact, "", "record of this class", state, message);
    let Some(other) = baseline.records.iter().find(of_sample).filter(|_| exactness != Exactness::Always) else {
        let message = format!(
            "the baseline has no record of the {} sample for {}, but {} for {}; on this machine, `bench baseline update` \
             adds one",
            new.sample,
            new.class,
            baseline
                .records
                .iter()
                .map(|r| r.sample.as_str())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join(", "),
            stored.join("; ")
        );
        return vec![whole(State::NotComparable, message)];
    };
    let mut checks = vec![whole(
        State::Advisory,
        format!(
            "exact numbers are not comparable: this machine is {}, the baseline's {}; sizes are compared and accuracy is \
             tested on paired items",
            new.class,
            stored.join("; ")
        ),
    )];
    let both = other.variants.iter().filter_map(|(name, old)| Some((name, old, new.variants.get(name)?)));
    checks.extend(both.map(|(name, old, new)| size(name, old, new)));
    checks.extend(accuracy::against(other, new, suite));
    checks
}

/// Compares all variants that both records have; a difference fails where `strict`, else it is only said.
pub fn compare(old: &Record, new: &Record, strict: bool) -> Vec<Check> {
    let changed = if strict { State::Fail } else { State::Advisory };
    let mut checks = Vec::new();
    for (name, old) in &old.variants {
        let Some(new) = new.variants.get(name) else { continue };
        let mut check = |what: String, problem: Option<String>, same: String| {
            let (state, message) = problem.map_or((State::Pass, same), |problem| (changed, problem));
            checks.push(Check::new(Level::Exact, name, what, state, message));
        };
        let sha256 = &new.artefact_sha256[..new.artefact_sha256.len().min(12)];
        let same = format!("{} bytes, SHA-256 {sha256}..", new.file_bytes);
        check("artefact".into(), artefact_change(old, new), same);
        for (task, old) in &old.tasks {
            let Some(new) = new.tasks.get(task) else {
                check(task.clone(), Some("the task is missing; it was scored for the baseline".into()), String::new());
                continue;
            };
            if old.counts != new.counts {
                let problem =
                    "the task asks other questions than the baseline's; `bench baseline accept` takes them over";
                check(task.clone(), Some(problem.into()), String::new());
                continue;
            }
            if !old.right.is_empty() {
                check(
                    format!("items of {task}"),
                    item_changes(old, new),
                    format!("{} items as before", new.right.len()),
                );
            }
            let documents = format!("{} documents as before", new.counts.len());
            check(format!("sums of {task}"), sum_changes(&old.sums, &new.sums), documents.clone());
            if !old.divergence.is_empty() {
                check(format!("divergence of {task}"), sum_changes(&old.divergence, &new.divergence), documents);
            }
        }
        check("kernels".into(), kernel_changes(&old.kernels, &new.kernels), format!("{} as before", new.kernels.len()));
    }
    // What is only said must not hide a bigger artefact.
    if !strict {
        let both = old.variants.iter().filter_map(|(name, old)| Some((name, old, new.variants.get(name)?)));
        checks.extend(both.map(|(name, old, new)| size(name, old, new)));
    }
    checks
}

fn artefact_change(old: &VariantRecord, new: &VariantRecord) -> Option<String> {
    let (before, after) = (old.file_bytes, new.file_bytes);
    let size = match after.cmp(&before) {
        std::cmp::Ordering::Greater => format!("grew by {} bytes, from {before} to {after}", after - before),
        std::cmp::Ordering::Less => format!("shrank by {} bytes, from {before} to {after}", before - after),
        std::cmp::Ordering::Equal => format!("has other contents in the same {after} bytes"),
    };
    (old.artefact_sha256 != new.artefact_sha256).then(|| format!("the artefact {size}"))
}

/// Bytes of files, which do not depend on the machine.
fn size(name: &str, old: &VariantRecord, new: &VariantRecord) -> Check {
    let (before, after) = (old.file_bytes, new.file_bytes);
    let (state, message) = match after.cmp(&before) {
        std::cmp::Ordering::Greater => {
            (State::Fail, format!("grew from {} to {}", units::bytes(before), units::bytes(after)))
        }
        std::cmp::Ordering::Less => (
            State::Notice,
            format!("shrank from {} to {}; update the baseline", units::bytes(before), units::bytes(after)),
        ),
        std::cmp::Ordering::Equal => (State::Pass, format!("{after} bytes as before")),
    };
    Check::new(Level::Exact, name, "size of the artefact", state, message)
}

fn item_changes(old: &TaskRecord, new: &TaskRecord) -> Option<String> {
    let picked = |c: char| c == '1' || c == '3';
    let pairs = || old.right.chars().zip(new.right.chars());
    let lost = pairs().filter(|(old, new)| picked(*old) && !picked(*new)).count();
    let won = pairs().filter(|(old, new)| !picked(*old) && picked(*new)).count();
    let differing = pairs().filter(|(old, new)| old != new).count();
    let first = pairs().position(|(old, new)| old != new)?;
    Some(format!(
        "{differing} of {} items changed sides ({lost} lost, {won} won), the first is item {first}",
        new.right.len()
    ))
}

fn sum_changes(old: &[f64], new: &[f64]) -> Option<String> {
    let differing = old.iter().zip(new).filter(|(old, new)| old.to_bits() != new.to_bits()).count();
    let (before, after): (f64, f64) = (old.iter().sum(), new.iter().sum());
    let missing = if new.len() == old.len() { String::new() } else { format!(", of {} now {}", old.len(), new.len()) };
    (differing > 0 || !missing.is_empty()).then(|| {
        format!("{differing} of {} documents{missing} differ: the sum was {before:.9}, now {after:.9}", old.len())
    })
}

fn kernel_changes(old: &BTreeSet<KernelUse>, new: &BTreeSet<KernelUse>) -> Option<String> {
    let list = |uses: Vec<&KernelUse>| {
        let words: Vec<String> =
            uses.iter().map(|k| format!("{} {} x {} ({} bytes)", k.phase, k.matrices, k.kernel, k.bytes)).collect();
        if words.is_empty() { "nothing".into() } else { words.join(", ") }
    };
    let (gone, come) = (old.difference(new).collect(), new.difference(old).collect());
    (old != new).then(|| format!("{} instead of {}", list(come), list(gone)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn record(edit: impl Fn(&mut VariantRecord)) -> Record {
        let task = TaskRecord {
            counts: vec![2, 1],
            sums: vec![-1.5, -2.5],
            correct: vec![1, 1],
            divergence: vec![0.25, 0.5],
            divergence_quantiles: None,
            right: "031".into(),
        };
        let kernel = KernelUse { phase: "decode".into(), kernel: "x86_64-w8a8-avx2".into(), matrices: 3, bytes: 100 };
        let mut variant = VariantRecord {
            artefact_sha256: "ab".repeat(32),
            file_bytes: 1000,
            kernels: [kernel].into(),
            tasks: BTreeMap::from([("t".to_string(), task)]),
        };
        edit(&mut variant);
        Record { class: "c".into(), sample: "full".into(), variants: BTreeMap::from([("v".to_string(), variant)]) }
    }

    fn failed(edit: impl Fn(&mut VariantRecord)) -> Vec<String> {
        let checks = compare(&record(|_| {}), &record(edit), true);
        checks.into_iter().filter(|c| c.state == State::Fail).map(|c| format!("{}: {}", c.name, c.message)).collect()
    }

    fn task(variant: &mut VariantRecord) -> &mut TaskRecord {
        variant.tasks.get_mut("t").unwrap()
    }

    #[test]
    fn equal_records_pass_every_check() {
        let checks = compare(&record(|_| {}), &record(|_| {}), true);
        assert_eq!(checks.len(), 5);
        assert!(checks.iter().all(|c| c.state == State::Pass), "{checks:?}");
    }

    #[test]
    fn every_change_is_found_and_named() {
        let grown = failed(|v| (v.file_bytes, v.artefact_sha256) = (1010, "x".into()));
        assert_eq!(grown, ["artefact: the artefact grew by 10 bytes, from 1000 to 1010"]);
        assert!(failed(|v| v.artefact_sha256 = "x".into())[0].contains("other contents in the same 1000 bytes"));
        let flipped = failed(|v| task(v).right = "011".into());
        assert_eq!(flipped, ["items of t: 1 of 3 items changed sides (0 lost, 0 won), the first is item 1"]);
        assert!(failed(|v| task(v).right = "030".into())[0].contains("1 lost, 0 won"));
        let last_bit = failed(|v| task(v).sums[1] = (-2.5f64).next_up());
        assert!(last_bit.len() == 1 && last_bit[0].contains("1 of 2 documents differ"), "{last_bit:?}");
        assert!(failed(|v| task(v).divergence[0] = 0.3)[0].starts_with("divergence of t"));
        assert!(failed(|v| task(v).divergence.clear())[0].contains("now 0"));
        assert!(failed(|v| v.kernels.clear())[0].contains("nothing instead of decode 3 x x86_64-w8a8-avx2"));
        assert!(failed(|v| task(v).counts = vec![1, 2])[0].contains("other questions"));
        assert!(failed(|v| v.tasks.clear())[0].contains("missing"));
    }

    #[test]
    fn where_differences_are_only_said_a_bigger_artefact_still_fails() {
        let states = |bytes| {
            let new = record(|v| (v.file_bytes, v.artefact_sha256) = (bytes, "x".into()));
            compare(&record(|_| {}), &new, false).iter().map(|c| c.state).max().unwrap()
        };
        assert_eq!((states(1001), states(999)), (State::Fail, State::Advisory));
    }
}
