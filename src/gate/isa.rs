//! The same variant under every instruction set: integers must be equal, and accuracy must not depend on the processor.

use std::collections::BTreeMap;

use super::accuracy::Margin;
use super::record::TaskRecord;
use super::verdict::{Check, Level, State};
use crate::suite::Suite;

/// What one instruction set made of one variant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UnderIsa {
    /// Whether every layer's packed integers and kernels agree with the scalar definition: largest relative mismatch of a
    /// kernel, or which layer does not.
    pub proof: Option<Result<f64, String>>,
    /// Scores by task, or why there is none.
    pub tasks: BTreeMap<String, Result<TaskRecord, String>>,
}

/// Checks every variant under every instruction set against the one in use, `active`. Results by variant, then by
/// instruction set.
pub fn across_instruction_sets(
    suite: &Suite,
    active: &str,
    results: &BTreeMap<String, BTreeMap<String, UnderIsa>>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for (variant, by_isa) in results {
        for (isa, under) in by_isa {
            checks.extend(integers(variant, isa, under));
            let Some(usual) = by_isa.get(active).filter(|_| isa != active) else { continue };
            for task in &suite.tasks {
                let name = format!("{} on {isa}", task.name);
                let (state, message) = match (usual.tasks.get(&task.name), under.tasks.get(&task.name)) {
                    (Some(Ok(usual)), Some(Ok(other))) => {
                        compare(Margin::of(suite, task), usual, other, suite.accept.confidence)
                    }
                    (_, Some(Err(reason))) => (State::Fail, format!("failed: {reason}")),
                    _ => (State::Fail, format!("was not scored on {isa} and {active}")),
                };
                checks.push(Check::new(Level::InstructionSets, variant, name, state, message));
            }
        }
    }
    checks
}

fn integers(variant: &str, isa: &str, under: &UnderIsa) -> Option<Check> {
    let (state, message) = match under.proof.as_ref()? {
        Ok(mismatch) => {
            (State::Pass, format!("all layers are the scalar definition's, within {mismatch:.1e} of rounding"))
        }
        Err(problem) => (State::Fail, problem.clone()),
    };
    Some(Check::new(Level::InstructionSets, variant, format!("integers on {isa}"), state, message))
}

/// The difference may not lie beyond the margin in either direction: a processor on which a variant is better is a
/// processor on which it is another variant.
fn compare(margin: Margin, usual: &TaskRecord, other: &TaskRecord, confidence: f64) -> (State, String) {
    let flips = usual.right.chars().zip(other.right.chars()).filter(|(a, b)| a != b).count();
    let flips = if usual.right.is_empty() {
        String::new()
    } else {
        format!(", {flips} of {} items flipped", usual.right.len())
    };
    let Some(difference) = margin.difference(usual, other, confidence) else {
        return (State::Fail, "was scored on other items".into());
    };
    let said = format!("{}{flips}, margin {}", margin.show(difference.value), margin.show(-margin.value));
    if difference.value.abs() > margin.value {
        (State::Fail, format!("accuracy changed: {said}"))
    } else {
        (State::Pass, said)
    }
}

#[cfg(test)]
mod tests {
    use super::super::baseline::tests::observed;
    use super::*;

    #[test]
    fn mismatching_integers_and_changed_accuracy_fail() {
        let suite = observed().suite;
        let task = observed().record.variants["v"].tasks["choice"].clone();
        let under = |proof: Result<f64, String>, right: &str| UnderIsa {
            proof: Some(proof),
            tasks: BTreeMap::from([("choice".to_string(), Ok(TaskRecord { right: right.into(), ..task.clone() }))]),
        };
        let states = |other: UnderIsa| -> Vec<State> {
            let by_isa =
                BTreeMap::from([("avx2".to_string(), under(Ok(1e-7), "313131313131")), ("scalar".into(), other)]);
            let checks = across_instruction_sets(&suite, "avx2", &BTreeMap::from([("v".to_string(), by_isa)]));
            checks.into_iter().map(|check| check.state).collect()
        };
        assert_eq!(states(under(Ok(1e-7), "313131313131")), [State::Pass; 3]);
        assert_eq!(states(under(Err("layer 3".into()), "313131313131"))[1], State::Fail);
        assert_eq!(states(under(Ok(1e-7), "013131313131"))[2], State::Fail);
        let failed =
            UnderIsa { tasks: BTreeMap::from([("choice".into(), Err("crashed".into()))]), ..UnderIsa::default() };
        assert_eq!(states(failed), [State::Pass, State::Fail]);
    }
}
