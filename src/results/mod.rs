//! What is at rest: the journal of a run, the evidence it holds, and the judged run.
//!
//! `journal.jsonl` is the truth: one [`Event`] a line, flushed after every slot. [`Evidence`] is the journal folded
//! into one value; `decide` turns evidence into a [`Run`], which is written as `run.json`. Everything after the run
//! folder reads only these.

mod display;
mod disturbance;
mod estimates;
mod event;
mod evidence;
mod folder;
mod hashes;
mod journal;
mod lock;
mod mixture;
mod plausible;
mod run;
mod sensitivity;
mod tables;
mod whole;

pub use disturbance::{SIGNALS, Signal, disturbance};
pub use estimates::{
    CalibrationDraws, ChoiceEstimates, Direction, Estimate, GenerationEstimates, GenreAccuracy, GenrePerplexity,
    PointEstimates, ScoreEstimates, SimilarityEstimates, Unit,
};
pub use event::{
    Artefact, BrokenScore, Event, FileHash, Fit, Generation, Genres, ItemScore, KernelUse, LayerProof, Leaving, Memory,
    PhaseProfile, ProductProof, Sample, Score, SentenceScore, Slot, Stage, WindowScore,
};
pub use evidence::{BlockPlan, Built, Evidence, Passing, Standing, VariantEvidence};
pub use folder::{RunFolder, remove_remains, utc};
pub use hashes::{hash_files, hash_folder, read_checked, sha256_of, write_checked};
pub use journal::{JOURNAL, Journal, Recorded, read_journal};
pub use lock::Lock;
pub use mixture::{Mixture, TriedMixture};
pub use run::{
    Answer, Answers, Attempt, BrokenControl, Change, Frontier, Hypervolume, OpenQuestion, Outcome, Price, Question,
    Recommendation, Run, SCHEMA_VERSION, TurningPoint, TurningPoints, VariantResult, Verdict, Why,
};
pub use sensitivity::{Effect, SENSITIVITY_SCHEMA, Sensitivity, UnitSensitivity};
pub use tables::{samples_csv, scores_csv};
pub use whole::{create_folder, folder_of, write_whole, write_whole_from};
