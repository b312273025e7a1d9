//! The baseline: what was accepted, in one JSON file for a suite that is committed beside it.
//!
//! The file is untrusted. Its schema is looked at before anything else, and a checksum over all the rest tells damage and
//! edits by hand; both are errors, never a pass. Who edits a threshold here instead of giving a reason is found out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::observed::{Observed, Session};
use super::record::{Record, VariantRecord};
use super::thresholds::thresholds;
use super::verdict::State;
use crate::error::{Error, Result};
use crate::files;
use crate::results::{create_folder, write_whole};
use crate::suite::Suite;

/// Version of the file.
pub const BASELINE_SCHEMA: u32 = 1;

/// Sessions of a class of machines that are kept, the latest.
const MOST_SESSIONS: usize = 20;

/// Largest file, in bytes; anything larger is none.
const LARGEST_FILE: u64 = 256 << 20;

/// What was accepted for a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// [`BASELINE_SCHEMA`].
    pub schema_version: u32,
    /// The suite as accepted: variants, tasks, thresholds.
    pub suite: Suite,
    /// SHA-256 of the model's files.
    pub model_sha256: String,
    /// Deterministic results, one for each class of machines and sample of items.
    pub records: Vec<Record>,
    /// Timed sessions by class of machines.
    pub timings: Vec<TimingClass>,
    /// What slow drift is measured from.
    pub anchor: Option<Anchor>,
    /// Every change, the latest first.
    pub history: Vec<Change>,
    /// SHA-256 over all other fields; empty until written.
    #[serde(default)]
    pub sha256: String,
}

/// Sessions of one class of machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimingClass {
    /// [`super::machine_class`].
    pub class: String,
    /// The earliest first.
    pub sessions: Vec<Session>,
}

/// A state of the baseline that later ones are held against too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// Its name, such as a release.
    pub name: String,
    /// When it was made, seconds since 1970-01-01 UTC.
    pub unix_s: f64,
    /// Its deterministic results.
    pub records: Vec<Record>,
    /// Its sessions.
    pub timings: Vec<TimingClass>,
}

/// What happened to a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The first one.
    Created,
    /// After a gate that passed.
    Updated,
    /// For a reason.
    Accepted,
}

impl Event {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Event::Created => "created",
            Event::Updated => "updated",
            Event::Accepted => "accepted",
        }
    }
}

/// One change of a baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When, seconds since 1970-01-01 UTC.
    pub unix_s: f64,
    /// What happened.
    pub event: Event,
    /// Why; always there for an accepted change.
    pub reason: Option<String>,
    /// Version of the program that measured.
    pub tool_version: String,
    /// What became different.
    pub what: Vec<String>,
}

/// How measured results become the baseline.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Update {
    /// Why an intended change is accepted; `None` after a pass.
    pub reason: Option<String>,
    /// Makes the result the anchor under this name.
    pub anchor: Option<String>,
}

impl Baseline {
    /// Where a suite's baseline lies unless told otherwise.
    pub fn usual_path(suite: &str) -> PathBuf {
        Path::new("results/baselines").join(format!("{suite}.json"))
    }

    /// Reads a baseline.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or was edited by hand; [`Error::NotComparable`] for another schema.
    pub fn read(path: &Path) -> Result<Baseline> {
        let damaged = |problem: &str| {
            let remedy =
                "restore it from version control, or measure anew with `bench gate` and `bench baseline accept`";
            Error::input(path.display(), format!("the baseline is damaged: {problem}; {remedy}"))
        };
        let bytes = files::read(path, LARGEST_FILE)?;
        let mut value: Value = serde_json::from_slice(&bytes).map_err(|e| damaged(&e.to_string()))?;
        match value.get("schema_version").and_then(Value::as_u64) {
            Some(version) if version == u64::from(BASELINE_SCHEMA) => {}
            Some(version) => {
                return Err(Error::NotComparable(format!(
                    "{}: the baseline has schema {version}, this program reads {BASELINE_SCHEMA}; make it anew with `bench \
                     gate` and `bench baseline accept --reason`",
                    path.display()
                )));
            }
            None => return Err(damaged("it has no schema_version")),
        }
        let stored = value.as_object_mut().and_then(|all| all.remove("sha256"));
        let stored = stored.as_ref().and_then(Value::as_str).unwrap_or_default().to_string();
        if stored != checksum(&value) {
            return Err(damaged("its checksum is not that of its contents"));
        }
        let baseline: Baseline = serde_json::from_value(value).map_err(|e| damaged(&e.to_string()))?;
        let anchored = baseline.anchor.iter().flat_map(|anchor| &anchor.records);
        for record in baseline.records.iter().chain(anchored) {
            for (name, task) in record.variants.iter().flat_map(|(name, v)| v.tasks.values().map(move |t| (name, t))) {
                if let Some(problem) = task.damage() {
                    return Err(damaged(&format!("variant \"{name}\": {problem}")));
                }
            }
        }
        Ok(Baseline { sha256: stored, ..baseline })
    }

    /// Writes the baseline with its checksum.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |e: serde_json::Error| Error::input(path.display(), format!("cannot be written as JSON: {e}"));
        let mut value = serde_json::to_value(self).map_err(failed)?;
        if let Some(all) = value.as_object_mut() {
            all.remove("sha256");
            let sha256 = checksum(&Value::Object(all.clone()));
            all.insert("sha256".into(), sha256.into());
        }
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        write_whole(path, lines(&value).as_bytes())
    }

    /// The baseline with the results of a run in it. A changed result on this class of machines makes those of other
    /// classes and samples stale: they are left out, to be added again where they can be measured. An accepted change also
    /// leaves out timed sessions, which were those of another program.
    ///
    /// # Errors
    /// A run in which a variant failed: what does not work cannot be what others are held against.
    pub fn updated(old: Option<Baseline>, observed: &Observed, update: &Update) -> Result<Baseline> {
        if let Some((name, reason)) = observed.failures.first_key_value() {
            return Err(Error::Usage(format!("variant \"{name}\" failed ({reason}); a baseline needs all variants")));
        }
        let event = match (&old, &update.reason) {
            (None, _) => Event::Created,
            (Some(_), Some(_)) => Event::Accepted,
            (Some(_), None) => Event::Updated,
        };
        let what = old.as_ref().map_or_else(Vec::new, |old| differences(old, observed));
        let mut baseline = old.unwrap_or_else(|| Baseline {
            schema_version: BASELINE_SCHEMA,
            suite: observed.suite.clone(),
            model_sha256: String::new(),
            records: Vec::new(),
            timings: Vec::new(),
            anchor: None,
            history: Vec::new(),
            sha256: String::new(),
        });
        let record = &observed.record;
        let place = |r: &Record| (r.class == record.class) && (r.sample == record.sample);
        if baseline.records.iter().find(|r| place(r)).is_some_and(|old| old != record) {
            baseline.records.clear();
        }
        baseline.records.retain(|r| !place(r));
        baseline.records.push(record.clone());
        if event == Event::Accepted {
            baseline.timings.clear();
        }
        baseline.add_session(observed);
        (baseline.suite, baseline.model_sha256) = (observed.suite.clone(), observed.model_sha256.clone());
        let (unix_s, tool_version) = (observed.unix_s, observed.tool_version.clone());
        baseline.history.insert(0, Change { unix_s, event, reason: update.reason.clone(), tool_version, what });
        if let Some(name) = &update.anchor {
            let (records, timings) = (baseline.records.clone(), baseline.timings.clone());
            baseline.anchor = Some(Anchor { name: name.clone(), unix_s, records, timings });
        }
        Ok(baseline)
    }

    fn add_session(&mut self, observed: &Observed) {
        let Some(session) = &observed.session else { return };
        let class = &observed.machine_class;
        let at = self.timings.iter().position(|t| t.class == *class).unwrap_or(self.timings.len());
        if at == self.timings.len() {
            self.timings.push(TimingClass { class: class.clone(), sessions: Vec::new() });
        }
        let sessions = &mut self.timings[at].sessions;
        sessions.push(session.clone());
        sessions.drain(..sessions.len().saturating_sub(MOST_SESSIONS));
    }
}

/// What a run has otherwise than the baseline, in words.
fn differences(old: &Baseline, observed: &Observed) -> Vec<String> {
    let mut what = Vec::new();
    if old.model_sha256 != observed.model_sha256 {
        what.push("the model's files".to_string());
    }
    let checks = thresholds(&old.suite, &observed.suite);
    what.extend(checks.iter().filter(|c| c.state != State::Pass).map(|c| format!("{} {}", c.name, words(&c.message))));
    let names = |suite: &Suite| suite.variants.iter().map(|v| v.name.clone()).collect::<Vec<_>>();
    let (before, after) = (names(&old.suite), names(&observed.suite));
    what.extend(after.iter().filter(|name| !before.contains(name)).map(|name| format!("{name} is new")));
    what.extend(before.iter().filter(|name| !after.contains(name)).map(|name| format!("{name} is gone")));
    let record = &observed.record;
    match old.records.iter().find(|r| r.class == record.class && r.sample == record.sample) {
        None => what.push(format!("record of the {} sample for {} added", record.sample, record.class)),
        Some(old) => what.extend(old.variants.iter().filter_map(|(name, old)| {
            let new = record.variants.get(name).filter(|new| *new != old)?;
            Some(format!("{name}: {}", moved(old, new)))
        })),
    }
    what
}

/// The numbers of a message, without its advice.
fn words(message: &str) -> &str {
    message.split(';').next().unwrap_or(message)
}

fn moved(old: &VariantRecord, new: &VariantRecord) -> String {
    let mut parts = Vec::new();
    if old.file_bytes != new.file_bytes {
        parts.push(format!("{} bytes, was {}", new.file_bytes, old.file_bytes));
    } else if old.artefact_sha256 != new.artefact_sha256 {
        parts.push("other contents".into());
    }
    let sum = |sums: &[f64]| sums.iter().sum::<f64>();
    let tasks: BTreeMap<_, _> =
        old.tasks.iter().filter_map(|(name, old)| Some((name, (old, new.tasks.get(name)?)))).collect();
    for (name, (old, new)) in tasks.into_iter().filter(|(_, (old, new))| old != new) {
        parts.push(format!("{name} {:.6}, was {:.6}", sum(&new.sums), sum(&old.sums)));
    }
    if old.kernels != new.kernels {
        parts.push("other kernels".into());
    }
    parts.join(", ")
}

/// SHA-256 over the canonical form: compact JSON with sorted keys, which `serde_json` keeps by itself.
fn checksum(value: &Value) -> String {
    Sha256::digest(value.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// JSON with one line for each entry of an object, so that a change of the file can be read; lists of numbers stay on one.
fn lines(value: &Value) -> String {
    fn write(value: &Value, depth: usize, out: &mut String) {
        let indent = |depth: usize, out: &mut String| {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', 2 * depth));
        };
        match value {
            Value::Object(entries) if !entries.is_empty() => {
                out.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { "," });
                    indent(depth + 1, out);
                    out.push_str(&format!("{}: ", Value::from(key.as_str())));
                    write(value, depth + 1, out);
                }
                indent(depth, out);
                out.push('}');
            }
            Value::Array(entries) if entries.iter().any(|entry| entry.is_object()) => {
                out.push('[');
                for (at, value) in entries.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { "," });
                    indent(depth + 1, out);
                    write(value, depth + 1, out);
                }
                indent(depth, out);
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut out = String::new();
    write(value, 0, &mut out);
    out.push('\n');
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::record::TaskRecord;
    use super::*;
    use crate::machine::Pace;
    use crate::suite::from_text;

    pub fn observed() -> Observed {
        let text = "model = \"path:m\"\n[[task]]\nkind = \"choice\"\ndata = \"path:a\"\n[accept]\naccuracy = { metric = \
                    \"accuracy\", max_drop_points = 1 }\n[[variant]]\nname = \"v\"\nmethod = \"cast\"\ndtype = \"f32\"\n";
        let suite = from_text("s.toml", "s", text, None).unwrap();
        let task = TaskRecord {
            counts: vec![2; 6],
            sums: vec![-1.0 / 3.0; 6],
            correct: vec![1; 6],
            right: "31".repeat(6),
            ..TaskRecord::default()
        };
        let variant = VariantRecord {
            artefact_sha256: "ab".repeat(32),
            file_bytes: 10,
            kernels: Default::default(),
            tasks: BTreeMap::from([("choice".to_string(), task)]),
        };
        let variants = ["fp16", "v"].map(|name| (name.to_string(), variant.clone())).into();
        Observed {
            unix_s: 1e9,
            tool_version: "0.1.0".into(),
            suite,
            model_sha256: "cd".into(),
            machine_class: "m".into(),
            record: Record { class: "c".into(), sample: "full".into(), variants },
            failures: BTreeMap::new(),
            session: Some(Session {
                unix_s: 1e9,
                pace: Pace { version: 1, compute_s: 0.1, memory_s: 0.2, fork_join_s: 0.01 },
                log_seconds: BTreeMap::new(),
            }),
        }
    }

    pub fn baseline() -> Baseline {
        Baseline::updated(None, &observed(), &Update::default()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/s.json");
        let baseline = baseline();
        baseline.write(&path).unwrap();
        let read = Baseline::read(&path).unwrap();
        assert_eq!(read.sha256.len(), 64);
        assert_eq!(Baseline { sha256: String::new(), ..read }, baseline);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\n            \"counts\": [2,2,2,2,2,2]") || text.contains("[2,2,2,2,2,2]"), "{text}");
    }

    #[test]
    fn damage_edits_and_other_schemas_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        baseline().write(&path).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Baseline::read(&path).unwrap_err()
        };
        for damaged in [&whole[..whole.len() / 2], "", "[]", "<<<<<<< HEAD"] {
            let error = error(damaged);
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(error.to_string().contains("the baseline is damaged"), "{error}");
        }
        assert!(error(&whole.replace("\"313131313131\"", "\"333131313131\"")).to_string().contains("checksum"));
        assert!(
            error(&whole.replace("\"max_drop_points\": 1.0", "\"max_drop_points\": 9.0"))
                .to_string()
                .contains("checksum")
        );
        let old = error(&whole.replace("\"schema_version\": 1", "\"schema_version\": 0"));
        assert_eq!(old.exit_code(), 4);
        assert!(old.to_string().contains("has schema 0, this program reads 1"), "{old}");
        assert!(Baseline::read(&folder.path().join("none.json")).is_err());
    }

    #[test]
    fn an_accepted_change_keeps_its_reason_and_drops_what_became_stale() {
        let mut other = observed();
        other.record.class = "another".into();
        let two = Baseline::updated(Some(baseline()), &other, &Update::default()).unwrap();
        assert_eq!((two.records.len(), two.timings[0].sessions.len()), (2, 2));
        let mut changed = observed();
        changed.record.variants.get_mut("v").unwrap().file_bytes = 12;
        let update = Update { reason: Some("more scales".into()), anchor: Some("v2".into()) };
        let accepted = Baseline::updated(Some(two), &changed, &update).unwrap();
        assert_eq!((accepted.records.len(), accepted.timings[0].sessions.len()), (1, 1));
        let latest = &accepted.history[0];
        assert_eq!((latest.event, latest.reason.as_deref()), (Event::Accepted, Some("more scales")));
        assert_eq!(latest.what, ["v: 12 bytes, was 10"]);
        assert_eq!(accepted.history.len(), 3);
        assert_eq!(accepted.anchor.unwrap().name, "v2");
        changed.failures.insert("v".into(), "build: it broke".into());
        assert!(Baseline::updated(None, &changed, &update).is_err());
    }

    #[test]
    fn sessions_are_kept_up_to_a_number() {
        let mut baseline = baseline();
        for at in 0..30 {
            let mut next = observed();
            next.session.as_mut().unwrap().unix_s = f64::from(at);
            baseline = Baseline::updated(Some(baseline), &next, &Update::default()).unwrap();
        }
        let sessions = &baseline.timings[0].sessions;
        assert_eq!((sessions.len(), sessions[0].unix_s, sessions[19].unix_s), (20, 10.0, 29.0));
    }
}
