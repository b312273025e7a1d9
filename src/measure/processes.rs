//! Real workers: this program again, as `bench __worker`, one process a job.
//!
//! They are started from the very file that this process runs from, also when another was put in its place meanwhile, and
//! their first line says which program they are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::de::DeserializeOwned;

use super::running::Running;
use super::{InTurns, OnProgress, Workers};
use crate::error::{Error, Result};
use crate::machine::{self, crash_point};
use crate::results::Score;
use crate::worker::{
    BuildJob, BuildOutcome, Identity, Job, LAST, Message, PrepareJob, Prepared, ScoreJob, TimeJob, Timing, Told,
};

/// Rest before a slot, so that the one before it has ended in the eyes of the system too: its memory is free, its
/// threads are gone.
const REST: Duration = Duration::from_millis(100);

/// The file that a process runs from, on Linux: of the child between its start and its program, that is still the parent's.
const RUNNING: &str = "/proc/self/exe";

/// Starts worker processes.
#[derive(Debug)]
pub struct Processes {
    executable: PathBuf,
    /// What workers must be; `None` for another build.
    identity: Option<Identity>,
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
        let executable = if Path::new(RUNNING).exists() {
            RUNNING.into()
        } else {
            std::env::current_exe()
                .map_err(|e| Error::Measurement(format!("cannot find this program's own file to start workers: {e}")))?
        };
        Ok(Processes { identity: Some(Identity::own()), ..Processes::of(executable) })
    }

    /// Workers of another build of this program.
    pub fn of(executable: PathBuf) -> Self {
        Processes { executable, identity: None, environment: Vec::new(), began: Instant::now() }
    }

    /// The same workers with an environment variable set.
    pub fn with(mut self, variable: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((variable, value.into()));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::arg0(&mut command, "bench");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The command of a timing job.
    fn timing_command(&self, job: &TimeJob, slowdown: f64) -> Command {
        let mut command = self.command();
        if job.memory_limit.is_some() {
            // Else glibc reserves address space for an arena of each thread.
            command.env("MALLOC_ARENA_MAX", "1");
        }
        if slowdown > 0.0 {
            command.env(machine::SLOWDOWN, slowdown.to_string());
        }
        command
    }

    /// Runs one job in a process of its own.
    fn run<T: DeserializeOwned>(&self, command: Command, task: &str, job: &Job, progress: OnProgress<'_>) -> Result<T> {
        crash_point("parent-start");
        let mut running = Running::start(command, task, job, self.identity.as_ref())?;
        let answer = loop {
            match running.message()? {
                Some(Message::Progress { done, total }) => progress(Told::Done(done, total)),
                Some(Message::Waiting(text)) => progress(Told::Waiting(&text)),
                last => break running.end(last),
            }
        };
        crash_point("parent-answer");
        answer
    }
}

/// A worker that waits for its turns.
struct Waiting {
    running: Option<Running>,
    /// Its answer, once it has given it.
    timing: Option<Timing>,
}

impl Waiting {
    /// Waits until it is ready for a turn, or answers: a build that knows no turns answers at once.
    fn listen(&mut self) -> Result<()> {
        while let Some(mut running) = self.running.take() {
            match running.message()? {
                Some(Message::Progress { .. } | Message::Waiting(_)) => self.running = Some(running),
                Some(Message::Ready) => {
                    self.running = Some(running);
                    break;
                }
                last => self.timing = Some(running.end(last)?),
            }
        }
        Ok(())
    }
}

impl Waiting {
    fn answer_to(&mut self, line: &str) -> Result<Option<Timing>> {
        if let Some(running) = &mut self.running {
            running.say(line.as_bytes());
            self.listen()?;
        }
        Ok(self.timing.take())
    }
}

impl InTurns for Waiting {
    fn turn(&mut self) -> Result<Option<Timing>> {
        self.answer_to("\n")
    }

    fn end(&mut self) -> Result<Option<Timing>> {
        self.answer_to(&format!("{LAST}\n"))
    }
}

impl Workers for Processes {
    fn prepare(&mut self, job: PrepareJob, progress: OnProgress<'_>) -> Result<Prepared> {
        self.run(self.command(), "preparing texts", &Job::Prepare(job), progress)
    }

    fn build(&mut self, job: BuildJob, progress: OnProgress<'_>) -> Result<BuildOutcome> {
        self.run(self.command(), "building", &Job::Build(job), progress)
    }

    fn score(&mut self, job: ScoreJob, progress: OnProgress<'_>) -> Result<Score> {
        self.run(self.command(), &format!("scoring {}", job.artefact.display()), &Job::Score(job), progress)
    }

    fn time(&mut self, job: TimeJob, slowdown: f64) -> Result<Timing> {
        thread::sleep(REST);
        let command = self.timing_command(&job, slowdown);
        self.run(command, &format!("timing {}", job.artefact.display()), &Job::Time(job), &mut |_| {})
    }

    fn time_in_turns(&mut self, job: TimeJob) -> Result<Box<dyn InTurns>> {
        thread::sleep(REST);
        let job = TimeJob { in_turns: true, ..job };
        let (command, task) = (self.timing_command(&job, 0.0), format!("timing {}", job.artefact.display()));
        let mut waiting = Waiting {
            running: Some(Running::start(command, &task, &Job::Time(job), self.identity.as_ref())?),
            timing: None,
        };
        waiting.listen()?;
        Ok(Box::new(waiting))
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
