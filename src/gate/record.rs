//! The deterministic results of a run in the form that a baseline keeps: small enough to be committed, whole enough to be
//! compared to the last bit and to be tested on paired items.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::results::{Built, Evidence, KernelUse, Score, VariantEvidence};

/// Clusters that a single document is cut into, so that its windows can be tested.
const CLUSTERS_OF_ONE_DOCUMENT: usize = 30;

/// Results of one run on one class of machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Class of machines on which its numbers repeat ([`super::number_class`]).
    pub class: String,
    /// Sample of items ([`super::Tier::sample`]).
    pub sample: String,
    /// By name; those that failed are not here.
    pub variants: BTreeMap<String, VariantRecord>,
}

/// Results of one variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantRecord {
    /// SHA-256 over names and contents of the artefact's files.
    pub artefact_sha256: String,
    /// Bytes of the artefact's files.
    pub file_bytes: u64,
    /// Kernels that scored it, each phase's with the number and packed bytes of its matrices.
    pub kernels: BTreeSet<KernelUse>,
    /// Scores by task.
    pub tasks: BTreeMap<String, TaskRecord>,
}

/// A task's score, summed by document; a task over one document by [`CLUSTERS_OF_ONE_DOCUMENT`] parts of it. All lists
/// are of one length, but `right`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Predicted tokens, items or sentences.
    pub counts: Vec<usize>,
    /// Sum of: log-likelihood of the tokens; of an item's right continuation; of cosines to the reference. Nats.
    pub sums: Vec<f64>,
    /// Tokens or items that were right.
    pub correct: Vec<usize>,
    /// Sum of the divergence from the reference over tokens, nats; empty where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub divergence: Vec<f64>,
    /// Quantiles of the divergence: p50, p90, p99, p999, max.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence_quantiles: Option<[f64; 5]>,
    /// For a choice: one digit an item, document after document, 1 where the right continuation was picked, 2 where it
    /// has the largest log-likelihood per token, 3 for both.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub right: String,
}

impl Record {
    /// The deterministic results of a run whose artefacts have the hashes `sha256` by variant.
    pub fn of(evidence: &Evidence, class: String, sample: &str, sha256: &BTreeMap<String, String>) -> Record {
        let of = |(name, found): (&String, &VariantEvidence)| {
            let (Built::Ready(artefact), Some(sha256)) = (&found.built, sha256.get(name)) else { return None };
            let record = VariantRecord {
                artefact_sha256: sha256.clone(),
                file_bytes: artefact.file_bytes,
                kernels: found.scores.values().flat_map(|score| score.kernels.iter().cloned()).collect(),
                tasks: found.scores.iter().map(|(task, score)| (task.clone(), TaskRecord::of(score))).collect(),
            };
            found.failures.is_empty().then(|| (name.clone(), record))
        };
        Record { class, sample: sample.into(), variants: evidence.variants.iter().filter_map(of).collect() }
    }
}

/// One window, item or sentence.
struct Unit {
    document: usize,
    count: usize,
    sum: f64,
    correct: usize,
    divergence: Option<f64>,
    /// Digit of [`TaskRecord::right`].
    right: Option<char>,
}

impl TaskRecord {
    /// A score, summed by document.
    pub fn of(score: &Score) -> TaskRecord {
        let units = units(score);
        let documents: BTreeSet<usize> = units.iter().map(|unit| unit.document).collect();
        let parts = CLUSTERS_OF_ONE_DOCUMENT.min(units.len());
        let cluster = |at: usize| if documents.len() > 1 { units[at].document } else { at * parts / units.len() };
        let mut clusters: BTreeMap<usize, Vec<&Unit>> = BTreeMap::new();
        for (at, unit) in units.iter().enumerate() {
            clusters.entry(cluster(at)).or_default().push(unit);
        }
        let mut record = TaskRecord { divergence_quantiles: score.kl_quantiles, ..TaskRecord::default() };
        for units in clusters.values() {
            record.counts.push(units.iter().map(|u| u.count).sum());
            record.sums.push(units.iter().map(|u| u.sum).sum());
            record.correct.push(units.iter().map(|u| u.correct).sum());
            record.divergence.extend(units.iter().map(|u| u.divergence).sum::<Option<f64>>());
            record.right.extend(units.iter().filter_map(|u| u.right));
        }
        record
    }

    /// What makes it unfit to be compared, if anything.
    pub(super) fn damage(&self) -> Option<&'static str> {
        let documents = self.counts.len();
        let items: usize = self.counts.iter().sum();
        let divergence = self.divergence.len();
        if documents == 0 || self.sums.len() != documents || self.correct.len() != documents {
            Some("its lists differ in length")
        } else if divergence != 0 && divergence != documents {
            Some("its divergence is not that of its documents")
        } else if !self.right.is_empty() && self.right.chars().filter(|c| matches!(c, '0'..='3')).count() != items {
            Some("its items are not those of its documents")
        } else if self.sums.iter().chain(&self.divergence).any(|sum| !sum.is_finite()) {
            Some("a sum is no number")
        } else {
            None
        }
    }
}

fn units(score: &Score) -> Vec<Unit> {
    let windows = score.windows.iter().map(|w| Unit {
        document: w.document,
        count: w.tokens,
        sum: -w.nll,
        correct: w.correct,
        divergence: w.kl,
        right: None,
    });
    let items = score.items.iter().map(|item| {
        let (picked, per_token) = (item.picked == item.answer, item.picked_norm == item.answer);
        Unit {
            document: item.document,
            count: 1,
            sum: item.log_likelihoods.get(item.answer).copied().unwrap_or(f64::NAN),
            correct: usize::from(picked),
            divergence: None,
            right: char::from_digit(u32::from(picked) + 2 * u32::from(per_token), 10),
        }
    });
    let sentences = score.sentences.iter().map(|s| Unit {
        document: s.document,
        count: 1,
        sum: s.cosine.unwrap_or(f64::NAN),
        correct: 0,
        divergence: None,
        right: None,
    });
    windows.chain(items).chain(sentences).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{ItemScore, WindowScore};

    fn score() -> Score {
        Score {
            task: "t".into(),
            windows: Vec::new(),
            items: Vec::new(),
            sentences: Vec::new(),
            rank_correlation: None,
            generations: Vec::new(),
            genres: Default::default(),
            kl_quantiles: None,
            seconds: 1.0,
            kernels: Vec::new(),
            worker_peak_rss: None,
        }
    }

    fn window(document: usize, nll: f64) -> WindowScore {
        WindowScore {
            document,
            tokens: 10,
            nll,
            correct: 4,
            kl: Some(0.5),
            agree: Some(9),
            flips: Some((1, 0)),
            squared_difference: None,
        }
    }

    #[test]
    fn windows_are_summed_by_document_and_one_document_is_cut() {
        let score = Score { windows: vec![window(7, 1.0), window(2, 2.0), window(7, 4.0)], ..score() };
        let record = TaskRecord::of(&score);
        assert_eq!((record.counts.clone(), record.sums.clone()), (vec![10, 20], vec![-2.0, -5.0]));
        assert_eq!((record.correct.clone(), record.divergence.clone()), (vec![4, 8], vec![0.5, 1.0]));
        assert_eq!(record.damage(), None);
        let one = Score { windows: (0..90).map(|at| window(3, f64::from(at))).collect(), ..score };
        assert_eq!(TaskRecord::of(&one).counts, [30; 30]);
    }

    #[test]
    fn items_keep_who_was_right_in_the_order_of_documents() {
        let item = |document, picked, picked_norm| ItemScore {
            document,
            answer: 1,
            picked,
            picked_norm,
            log_likelihoods: vec![-2.0, -1.0],
        };
        let score = Score { items: vec![item(5, 1, 0), item(1, 0, 0), item(5, 1, 1), item(1, 0, 1)], ..score() };
        let record = TaskRecord::of(&score);
        assert_eq!((record.right.as_str(), record.correct.clone()), ("0213", vec![0, 2]));
        assert_eq!(record.damage(), None);
        for damaged in [
            TaskRecord { right: "021".into(), ..record.clone() },
            TaskRecord { sums: vec![1.0], ..record.clone() },
            TaskRecord { sums: vec![f64::NAN, 1.0], ..record.clone() },
            TaskRecord::default(),
        ] {
            assert!(damaged.damage().is_some(), "{damaged:?}");
        }
    }
}
