//! The one error type of the crate.
//!
//! A message says where, what, what was expected, what was found, and how to mend it, in lower case, in one line:
//! `model.gguf: tensor "blk.0.attn_q.weight" ends at byte 900 of 512; the file is truncated, fetch it again`.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Result with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong, by who has to act; [`Error::exit_code`] maps each kind to the program's exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line cannot be carried out as typed.
    #[error("{0}")]
    Usage(String),
    /// The suite file has faults; all of them are listed.
    #[error("{}", list_faults(.0))]
    Suite(Vec<Fault>),
    /// A model, data or run file is missing, damaged or not supported.
    #[error("{place}: {problem}")]
    Input {
        /// The file, and the tensor, line or byte in it.
        place: String,
        /// What was expected, what was found, and the remedy.
        problem: String,
    },
    /// The operating system refused a file operation.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: "read", "create", ...
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A worker process failed; the reason is its own message, or how it died.
    #[error("{task}: worker failed: {reason}")]
    Worker {
        /// What it was doing: `scoring "int8-ptq"`.
        task: String,
        /// Its error message or exit status.
        reason: String,
        /// What kind of failure it is.
        kind: FailureKind,
    },
    /// Two runs, or a run and a baseline, cannot be compared.
    #[error("not comparable: {0}")]
    NotComparable(String),
    /// The measurement could not be made.
    #[error("measurement failed: {0}")]
    Measurement(String),
}

/// What kind of failure ended a job. It decides who can mend it, and whether to try again is worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A signal from outside, such as SIGKILL.
    Signal,
    /// A full disk, a device that fails, a limit on open files; also SIGBUS, by which a mapped file tells that.
    Io,
    /// Not started, since memory did not suffice.
    Memory,
    /// A fault of the model, the data, the suite or the command line.
    Input,
    /// A defect of this program: a panic, or SIGSEGV, SIGILL, SIGABRT and their like.
    Defect,
    /// Anything else, such as a number that is not finite.
    #[default]
    Other,
}

impl FailureKind {
    /// Whether the cause may be gone at the next attempt.
    pub fn may_pass(self) -> bool {
        matches!(self, FailureKind::Signal | FailureKind::Io | FailureKind::Memory)
    }
}

/// One fault of a suite file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `suites/lm.toml:31`, or the file alone where no line is known.
    pub place: String,
    /// What is wrong, what was expected and the remedy.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

fn list_faults(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
    lines.join("\n")
}

impl Error {
    /// An [`Error::Input`] from a place and a problem.
    pub fn input(place: impl fmt::Display, problem: impl Into<String>) -> Self {
        Error::Input { place: place.to_string(), problem: problem.into() }
    }

    /// An [`Error::Io`] from a path, the action tried and the system's reason.
    pub fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        Error::Io { path: path.to_path_buf(), action, source }
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Error::Worker { kind, .. } => *kind,
            Error::Usage(_) | Error::Suite(_) | Error::Input { .. } => FailureKind::Input,
            Error::Io { source, .. } => match source.kind() {
                // A file that is absent or private is what the user named; the rest is the system's.
                ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::IsADirectory => FailureKind::Input,
                ErrorKind::NotADirectory | ErrorKind::UnexpectedEof | ErrorKind::InvalidData => FailureKind::Input,
                _ => FailureKind::Io,
            },
            Error::NotComparable(_) | Error::Measurement(_) => FailureKind::Other,
        }
    }

    /// Exit code of the program: 2 usage, suite or input, a file that cannot be read among it; 4 not comparable; 5 the
    /// measurement failed, or the system refused to write.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Worker { kind: FailureKind::Input, .. } => 2,
            Error::Usage(_) | Error::Suite(_) | Error::Input { .. } => 2,
            Error::Io { action: "read" | "open" | "map" | "find", .. } => 2,
            Error::NotComparable(_) => 4,
            Error::Io { .. } | Error::Worker { .. } | Error::Measurement(_) => 5,
        }
    }
}
