//! Workers in earnest: this program again, as `bench __worker`, one process a job.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::de::DeserializeOwned;

use super::{OnProgress, Workers, memory};
use crate::error::{Error, Result};
use crate::machine;
use crate::results::Score;
use crate::units;
use crate::worker::{BuildJob, BuildOutcome, Job, Message, PrepareJob, Prepared, ScoreJob, TimeJob, Timing};

/// Rest before a slot, so that the one before it has ended in the eyes of the system too: its memory is free, its
/// threads are gone.
const REST: Duration = Duration::from_millis(100);

/// Starts worker processes.
#[derive(Debug)]
pub struct Processes {
    executable: PathBuf,
    /// Variables that workers get beside this process's own.
    environment: Vec<(&'static str, OsString)>,
    began: Instant,
}

impl Processes {
    /// Workers of this very program.
    ///
    /// # Errors
    /// When the system does not tell where the program's file is.
    pub fn new() -> Result<Self> {
        let executable = std::env::current_exe()
            .map_err(|e| Error::Measurement(format!("cannot find this program's own file to start workers: {e}")))?;
        Ok(Processes::of(executable))
    }

    /// Workers of another build of this program.
    pub fn of(executable: PathBuf) -> Self {
        Processes { executable, environment: Vec::new(), began: Instant::now() }
    }

    /// The same workers with an environment variable set.
    pub fn with(mut self, variable: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((variable, value.into()));
        self
    }

    /// Runs one job in a process of its own.
    fn run<T: DeserializeOwned>(&self, task: &str, job: &Job, progress: OnProgress<'_>) -> Result<T> {
        self.run_with(Command::new(&self.executable), task, job, progress)
    }

    /// As [`Processes::run`], the program being started by `command`.
    fn run_with<T: DeserializeOwned>(
        &self,
        mut command: Command,
        task: &str,
        job: &Job,
        progress: OnProgress<'_>,
    ) -> Result<T> {
        let failed = |reason: String| Error::Worker { task: task.into(), reason };
        let need = memory::need(job);
        memory::check(need, memory::available()).map_err(failed)?;
        let mut line = serde_json::to_vec(job).map_err(|e| failed(format!("cannot write the job: {e}")))?;
        line.push(b'\n');
        // A file rather than a pipe: nobody has to read along, and nothing is lost when the worker is killed.
        let mut log = tempfile::tempfile().map_err(|e| failed(format!("cannot create a log file: {e}")))?;
        let log_of_child = log.try_clone().map_err(|e| failed(format!("cannot share a log file: {e}")))?;
        let mut child = command
            .arg("__worker")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_of_child)
            .spawn()
            .map_err(|e| failed(format!("cannot start {}: {e}", self.executable.display())))?;
        // Kept open until the worker has ended: a closed standard input tells it that this process is gone.
        let mut stdin = child.stdin.take();
        if let Some(stdin) = &mut stdin {
            // A worker that died already is explained by its status.
            let _ = stdin.write_all(&line);
        }
        let answer = child.stdout.take().map_or(Ok(None), |out| listen(BufReader::new(out), progress));
        let status = child.wait().map_err(|e| failed(format!("cannot wait for it: {e}")))?;
        drop(stdin);
        match answer.map_err(&failed)? {
            Some(Message::Result(value)) => {
                serde_json::from_value(value).map_err(|e| failed(format!("its answer cannot be read: {e}")))
            }
            Some(Message::Error(reason)) => Err(failed(reason)),
            Some(Message::Progress { .. }) | None => Err(failed(explain(status, &mut log, need))),
        }
    }
}

/// Reads messages to the end of the output; returns the answer.
fn listen(output: impl BufRead, progress: OnProgress<'_>) -> std::result::Result<Option<Message>, String> {
    let mut answer = None;
    for line in output.split(b'\n') {
        let line = line.map_err(|e| format!("its output cannot be read: {e}"))?;
        match serde_json::from_slice(&line) {
            Ok(Message::Progress { done, total }) => progress(done, total),
            Ok(message) => answer = Some(message),
            // A worker killed while it wrote leaves a piece of a line; its status tells the rest.
            Err(_) => return Ok(None),
        }
    }
    Ok(answer)
}

/// How a worker that gave no answer ended, in words, with the last line of its log that says something.
fn explain(status: ExitStatus, log: &mut File, need: u64) -> String {
    let mut reason = match status.code() {
        Some(code) => format!("ended with exit code {code} and no answer"),
        // Only a signal leaves no code; the system's text names it: `signal: 9 (SIGKILL)`.
        None => {
            format!("killed by {status}; the system may have run out of memory: it needs about {}", units::bytes(need))
        }
    };
    let mut text = Vec::new();
    if log.seek(SeekFrom::Start(0)).and_then(|_| log.read_to_end(&mut text)).is_ok()
        && let Some(last) = String::from_utf8_lossy(&text).lines().rev().find(|line| says_something(line))
    {
        reason.push_str(&format!("; its last words: {}", last.trim()));
    }
    reason
}

/// Whether a line of a log is more than the runtime's remark about backtraces.
fn says_something(line: &str) -> bool {
    !line.trim().is_empty() && !line.starts_with("skipping backtrace") && !line.starts_with("note:")
}

impl Workers for Processes {
    fn prepare(&mut self, job: PrepareJob, progress: OnProgress<'_>) -> Result<Prepared> {
        self.run("preparing texts", &Job::Prepare(job), progress)
    }

    fn build(&mut self, job: BuildJob, progress: OnProgress<'_>) -> Result<BuildOutcome> {
        self.run("building", &Job::Build(job), progress)
    }

    fn score(&mut self, job: ScoreJob, progress: OnProgress<'_>) -> Result<Score> {
        self.run(&format!("scoring {}", job.artefact.display()), &Job::Score(job), progress)
    }

    fn time(&mut self, job: TimeJob, slowdown: f64) -> Result<Timing> {
        thread::sleep(REST);
        let mut command = Command::new(&self.executable);
        if job.memory_limit.is_some() {
            // Else glibc reserves address space for an arena of each thread.
            command.env("MALLOC_ARENA_MAX", "1");
        }
        if slowdown > 0.0 {
            command.env(machine::SLOWDOWN, slowdown.to_string());
        }
        self.run_with(command, &format!("timing {}", job.artefact.display()), &Job::Time(job), &mut |_, _| {})
    }

    fn elapsed_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn unix_s(&self) -> f64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
    }

    fn interrupted(&self) -> bool {
        machine::interrupted()
    }
}
