//! The same artefacts under every instruction set of this machine, as processors have them on which they will run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Inputs, Progress, Workers};
use crate::error::{Error, Result};
use crate::results::{LayerProof, Score, create_folder};
use crate::suite::{InputScheme, Recipe};
use crate::tasks::TokenFiles;
use crate::worker::{BuildJob, PrepareJob, Reference, ScoreJob};

/// What one instruction set made of one variant; texts are workers' messages.
#[derive(Debug, Clone, PartialEq)]
pub struct IsaOutcome {
    /// Every layer against the checkpoint's own arithmetic and the scalar definition of the kernels.
    pub proof: std::result::Result<Vec<LayerProof>, String>,
    /// Scores by task, without divergence.
    pub scores: BTreeMap<String, std::result::Result<Score, String>>,
}

/// Proves and scores `artefacts` on the tasks of `inputs` under each of `isas`, whose workers `with` makes. Tokens are kept
/// in `folder`. Outcomes by variant, then by instruction set.
///
/// # Errors
/// Texts that cannot be prepared; when the user interrupts.
pub fn under_instruction_sets(
    inputs: &Inputs,
    artefacts: &BTreeMap<String, PathBuf>,
    isas: &[String],
    folder: &Path,
    with: &dyn Fn(&str) -> Result<Box<dyn Workers>>,
    progress: &Progress,
) -> Result<BTreeMap<String, BTreeMap<String, IsaOutcome>>> {
    let files = TokenFiles::new(folder.to_path_buf());
    create_folder(folder)?;
    let suite = inputs.suite.clone();
    let threads = suite.workload.threads.iter().copied().max().unwrap_or(1);
    let job = PrepareJob { suite, base: inputs.base.clone(), model: inputs.model.clone(), files: files.clone() };
    let mut outcomes: BTreeMap<String, BTreeMap<String, IsaOutcome>> = BTreeMap::new();
    for (at, isa) in isas.iter().enumerate() {
        let mut workers = with(isa)?;
        if at == 0 {
            workers.prepare(job.clone(), &mut |_| {})?;
        }
        for (variant, artefact) in artefacts {
            let _step = progress.step("score", &format!("{variant} on {isa}"));
            let proof = workers.build(
                BuildJob {
                    model: inputs.model.clone(),
                    model_sha256: inputs.model_sha256.clone(),
                    recipe: Recipe::Import { source: artefact.display().to_string(), activations: InputScheme::None },
                    import: Some(artefact.clone()),
                    calibration: None,
                    held_out: None,
                    threads,
                },
                &mut |_| {},
            );
            let mut scores = BTreeMap::new();
            for (number, task) in inputs.suite.tasks.iter().enumerate() {
                let kv_cache = inputs.suite.variants.iter().find(|v| v.name == *variant).and_then(|v| v.kv_cache);
                let job = ScoreJob {
                    artefact: artefact.clone(),
                    kv_cache,
                    task: task.name.clone(),
                    kind: task.kind,
                    windows: files.windows(number),
                    reference: Reference::Absent,
                    broken: None,
                    threads,
                };
                let score = workers.score(job, &mut |_| {}).map_err(|e| e.to_string());
                scores.insert(task.name.clone(), score);
            }
            if workers.interrupted() {
                return Err(Error::Measurement("interrupted; start the gate again".into()));
            }
            let proof = proof.map(|outcome| outcome.artefact.proof).map_err(|e| e.to_string());
            outcomes.entry(variant.clone()).or_default().insert(isa.clone(), IsaOutcome { proof, scores });
        }
    }
    Ok(outcomes)
}
