//! One worker process from its start to its answer.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use serde::de::DeserializeOwned;

use super::memory;
use crate::error::{Error, FailureKind, Result};
use crate::machine::EndsWithUs;
use crate::units;
use crate::worker::{Identity, Job, Message};

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
    /// A message that was read before it was asked for.
    early: Option<Message>,
    /// Given back before the worker is waited for.
    ends_with_us: Option<EndsWithUs>,
}

impl Running {
    /// Starts `command` as a worker, unless memory does not suffice, and hands it the job. It must be the program that is
    /// `expected`; where none is, it may be any build.
    ///
    /// # Errors
    /// [`Error::Measurement`] where another program answers; how the worker failed.
    pub fn start(mut command: Command, task: &str, job: &Job, expected: Option<&Identity>) -> Result<Running> {
        let error = |kind, reason| Error::Worker { task: task.into(), reason, kind };
        let failed = |reason: String| error(FailureKind::Io, reason);
        let need = memory::need(job);
        memory::check(need, memory::available()).map_err(|reason| error(FailureKind::Memory, reason))?;
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
        let ends_with_us = Some(EndsWithUs::child(child.id()));
        let Some(output) = child.stdout.take() else { return Err(failed("it has no standard output".into())) };
        let (stdin, output) = (child.stdin.take(), BufReader::new(output));
        let (task, early) = (task.into(), None);
        let mut running = Running { task, child, stdin, output, log, need, early, ends_with_us };
        running.say(&line);
        running.meet(expected)?;
        Ok(running)
    }

    /// Reads the first message, which tells which program the worker is.
    fn meet(&mut self, expected: Option<&Identity>) -> Result<()> {
        let refused = |expected: &Identity, got: &str| {
            Err(Error::Measurement(format!(
                "the program was replaced while the run went on: this is bench {}, its worker is {got}; install or build \
                 in another place while a run goes on, and start a new run",
                expected.version
            )))
        };
        match (expected, self.message()?) {
            (None, Some(Message::Identity(_))) => Ok(()),
            (Some(expected), Some(Message::Identity(found))) if found == *expected => Ok(()),
            (Some(expected), Some(Message::Identity(found))) => {
                refused(expected, &format!("bench {} (build {:.8})", found.version, found.build))
            }
            (Some(expected), Some(_)) => refused(expected, "another program"),
            // A build before this protocol; or a worker that has ended, which its status explains.
            (_, message) => {
                self.early = message;
                Ok(())
            }
        }
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
        if let Some(early) = self.early.take() {
            return Ok(Some(early));
        }
        let mut line = Vec::new();
        let read = self.output.read_until(b'\n', &mut line);
        read.map_err(|e| self.failed(FailureKind::Io, format!("its output cannot be read: {e}")))?;
        Ok(serde_json::from_slice(&line).ok())
    }

    /// The answer in the worker's last message, once it has ended.
    pub fn end<T: DeserializeOwned>(mut self, last: Option<Message>) -> Result<T> {
        // A worker that goes on writing would else wait for a reader.
        let _ = self.output.read_to_end(&mut Vec::new());
        drop(self.ends_with_us.take());
        let status = self.child.wait().map_err(|e| self.failed(FailureKind::Io, format!("cannot wait for it: {e}")))?;
        match last {
            Some(Message::Result(value)) => serde_json::from_value(value)
                .map_err(|e| self.failed(FailureKind::Defect, format!("its answer cannot be read: {e}"))),
            Some(Message::Failed { kind, reason }) => Err(self.failed(kind, reason)),
            Some(Message::Error(reason)) => Err(self.failed(FailureKind::Other, reason)),
            Some(_) | None => {
                let (kind, reason) = explain(status, &mut self.log, self.need);
                Err(self.failed(kind, reason))
            }
        }
    }

    fn failed(&self, kind: FailureKind, reason: String) -> Error {
        Error::Worker { task: self.task.clone(), reason, kind }
    }
}

impl Drop for Running {
    /// A worker whose answer is no longer wanted ends with this.
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.ends_with_us.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a worker that gave no answer ended, in words, with the last line of its log that says something.
fn explain(status: ExitStatus, log: &mut File, need: u64) -> (FailureKind, String) {
    let (kind, mut reason) = match status.code() {
        Some(code) => (FailureKind::Defect, format!("ended with exit code {code} and no answer")),
        // Only a signal leaves no code; the system's text names it: `signal: 9 (SIGKILL)`.
        None => {
            let (kind, why) = of_signal(signal(status), need, memory::available());
            (kind, format!("killed by {status}{why}"))
        }
    };
    let mut text = Vec::new();
    if log.seek(SeekFrom::Start(0)).and_then(|_| log.read_to_end(&mut text)).is_ok()
        && let Some(last) = String::from_utf8_lossy(&text).lines().rev().find(|line| says_something(line))
    {
        reason.push_str(&format!("; its last words: {}", last.trim()));
    }
    (kind, reason)
}

/// What a signal tells of its cause; `available` are bytes of memory.
fn of_signal(signal: i32, need: u64, available: Option<u64>) -> (FailureKind, String) {
    #[cfg(unix)]
    match signal {
        libc::SIGKILL => {
            let available = available.map_or("unknown".into(), units::bytes);
            let need = units::bytes(need);
            let why = format!(
                "; somebody killed it, or the system had no memory left: it needs about {need}, available now: {available}"
            );
            return (FailureKind::Signal, why);
        }
        libc::SIGBUS => {
            let why = "; a model file was truncated or changed while it was read, or its disk failed";
            return (FailureKind::Io, why.into());
        }
        libc::SIGSEGV | libc::SIGABRT | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP | libc::SIGSYS => {
            return (FailureKind::Defect, "; a defect of this program, or of the processor or its memory".into());
        }
        _ => {}
    }
    let _ = (signal, need, available);
    (FailureKind::Signal, String::new())
}

/// The signal that ended a process; 0 for none.
fn signal(status: ExitStatus) -> i32 {
    #[cfg(unix)]
    return std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0);
    #[cfg(not(unix))]
    0
}

/// Whether a line of a log is more than the runtime's remark about backtraces.
fn says_something(line: &str) -> bool {
    !line.trim().is_empty() && !line.starts_with("skipping backtrace") && !line.starts_with("note:")
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_tells_its_likely_cause() {
        let (kind, why) = of_signal(libc::SIGKILL, 2 << 30, Some(3 << 30));
        assert_eq!(kind, FailureKind::Signal);
        assert!(why.contains("2.0 GiB") && why.contains("available now: 3.0 GiB"), "{why}");
        assert!(of_signal(libc::SIGBUS, 0, None).1.contains("truncated"));
        for signal in [libc::SIGSEGV, libc::SIGABRT, libc::SIGILL] {
            let (kind, why) = of_signal(signal, 2 << 30, Some(1));
            assert_eq!(kind, FailureKind::Defect);
            assert!(why.contains("defect") && !why.contains("memory left"), "{why}");
        }
        assert_eq!(of_signal(libc::SIGTERM, 0, None), (FailureKind::Signal, String::new()));
    }
}
