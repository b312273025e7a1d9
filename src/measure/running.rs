//! One worker process from its start to its answer.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use serde::de::DeserializeOwned;

use super::memory;
use crate::error::{Error, Result};
use crate::units;
use crate::worker::{Job, Message};

/// A worker that was given its job.
#[derive(Debug)]
pub(super) struct Running {
    task: String,
    child: Child,
    /// Kept open until the worker has ended: a closed standard input tells it that this process is gone.
    stdin: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// A file rather than a pipe: nobody has to read along, and nothing is lost when the worker is killed.
    log: File,
    /// Bytes that the job needs.
    need: u64,
}

impl Running {
    /// Starts `command` as a worker, unless memory does not suffice, and hands it the job.
    pub fn start(mut command: Command, task: &str, job: &Job) -> Result<Running> {
        let failed = |reason: String| Error::Worker { task: task.into(), reason };
        let need = memory::need(job);
        memory::check(need, memory::available()).map_err(failed)?;
        let mut line = serde_json::to_vec(job).map_err(|e| failed(format!("cannot write the job: {e}")))?;
        line.push(b'\n');
        let log = tempfile::tempfile().map_err(|e| {
            failed(format!("cannot create a log file in {}: {e}; set TMPDIR", std::env::temp_dir().display()))
        })?;
        let log_of_child = log.try_clone().map_err(|e| failed(format!("cannot share a log file: {e}")))?;
        let program = command.get_program().to_owned();
        let mut child = command
            .arg("__worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_of_child)
            .spawn()
            .map_err(|e| failed(format!("cannot start {}: {e}", program.display())))?;
        let Some(output) = child.stdout.take() else { return Err(failed("it has no standard output".into())) };
        let stdin = child.stdin.take();
        let mut running = Running { task: task.into(), child, stdin, output: BufReader::new(output), log, need };
        running.say(&line);
        Ok(running)
    }

    /// Writes to the worker's standard input. One that died already is explained by its status.
    pub fn say(&mut self, line: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(line).and_then(|()| stdin.flush());
        }
    }

    /// The next message; `None` at the end of the output, and for the piece of a line that a worker leaves which is killed
    /// while it writes: its status tells the rest.
    pub fn message(&mut self) -> Result<Option<Message>> {
        let mut line = Vec::new();
        let read = self.output.read_until(b'\n', &mut line);
        read.map_err(|e| self.failed(format!("its output cannot be read: {e}")))?;
        Ok(serde_json::from_slice(&line).ok())
    }

    /// The answer in the worker's last message, once it has ended.
    pub fn end<T: DeserializeOwned>(mut self, last: Option<Message>) -> Result<T> {
        // A worker that goes on writing would else wait for a reader.
        let _ = self.output.read_to_end(&mut Vec::new());
        let status = self.child.wait().map_err(|e| self.failed(format!("cannot wait for it: {e}")))?;
        match last {
            Some(Message::Result(value)) => {
                serde_json::from_value(value).map_err(|e| self.failed(format!("its answer cannot be read: {e}")))
            }
            Some(Message::Error(reason)) => Err(self.failed(reason)),
            Some(Message::Progress { .. } | Message::Ready) | None => {
                let reason = explain(status, &mut self.log, self.need);
                Err(self.failed(reason))
            }
        }
    }

    fn failed(&self, reason: String) -> Error {
        Error::Worker { task: self.task.clone(), reason }
    }
}

impl Drop for Running {
    /// A worker whose answer is no longer wanted ends with this.
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
