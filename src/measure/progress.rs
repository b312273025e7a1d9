//! Progress on standard error, with the time that is left.
//!
//! A bar on a terminal, a line per finished step elsewhere, nothing when quiet. Nothing ticks: the bar is drawn only
//! when a worker reports, so the parent sleeps while a slot is timed.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::worker::Told;
use crate::{text, units};

/// Where progress goes.
#[derive(Debug)]
enum Show {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

/// Progress of a run.
#[derive(Debug)]
pub struct Progress {
    show: Show,
    stages: Vec<Expectation>,
}

/// Steps of a stage, and what they have taken so far.
#[derive(Debug)]
struct Expectation {
    stage: &'static str,
    left: usize,
    done: usize,
    seconds: f64,
}

/// Stages with steps of about equal length, in order.
const STAGES: [&str; 3] = ["build", "score", "time"];

impl Progress {
    /// A bar where standard error is a terminal, else lines; nothing when `quiet`.
    pub fn new(quiet: bool) -> Self {
        let show = if quiet {
            Show::Nothing
        } else if std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{prefix:<8} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            Show::Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style))
        } else {
            Show::Lines
        };
        Progress { show, stages: Vec::new() }
    }

    /// A stage will take `steps` more steps.
    pub(super) fn expect(&mut self, stage: &'static str, steps: usize) {
        match self.stages.iter_mut().find(|s| s.stage == stage) {
            Some(known) => known.left = steps,
            None => self.stages.push(Expectation { stage, left: steps, done: 0, seconds: 0.0 }),
        }
    }

    /// A step begins.
    pub(super) fn step(&self, stage: &'static str, label: &str) -> Step<'_> {
        let step = Step { progress: self, stage, label: text::message(label), left: self.time_left() };
        step.draw("");
        step
    }

    /// A step of `stage` ended after `seconds`; `outcome` says what came out of it.
    pub(super) fn done(&mut self, stage: &'static str, label: &str, seconds: f64, outcome: &str) {
        if let Some(known) = self.stages.iter_mut().find(|s| s.stage == stage) {
            known.left = known.left.saturating_sub(1);
            known.done += 1;
            known.seconds += seconds;
        }
        let outcome = if outcome.is_empty() { String::new() } else { format!(", {outcome}") };
        let line = format!("{stage:<8} {}", text::message(&format!("{label}: {}{outcome}", units::seconds(seconds))));
        match &self.show {
            // Slots are many; on a terminal the bar tells enough of them.
            Show::Bar(bar) if stage != "time" => bar.println(line),
            Show::Lines => match self.time_left() {
                Some(left) => text::to_stderr(&format!("{line} ({left})")),
                None => text::to_stderr(&line),
            },
            Show::Bar(_) | Show::Nothing => {}
        }
    }

    /// Something to be read at once.
    pub fn note(&self, text: &str) {
        let text = text::message(text);
        match &self.show {
            Show::Bar(bar) => bar.println(text),
            Show::Lines => text::to_stderr(&text),
            Show::Nothing => {}
        }
    }

    pub(super) fn finish(&self) {
        if let Show::Bar(bar) = &self.show {
            bar.finish_and_clear();
        }
    }

    /// Time left by the mean step of every stage; stages without a finished step are named instead of guessed.
    fn time_left(&self) -> Option<String> {
        let mut seconds = 0.0;
        let mut unknown = Vec::new();
        for stage in STAGES {
            match self.stages.iter().find(|s| s.stage == stage) {
                Some(s) if s.done > 0 => seconds += s.left as f64 * s.seconds / s.done as f64,
                Some(s) if s.left == 0 => {}
                _ => unknown.push(match stage {
                    "build" => "building",
                    "score" => "scoring",
                    _ => "timing",
                }),
            }
        }
        let unknown = unknown.join(" and ");
        match (seconds > 0.0, unknown.is_empty()) {
            (true, true) => Some(format!("about {} left", units::seconds(seconds))),
            (true, false) => Some(format!("about {} left, then {unknown}", units::seconds(seconds))),
            (false, _) => None,
        }
    }
}

/// A step in progress.
pub(super) struct Step<'p> {
    progress: &'p Progress,
    stage: &'static str,
    label: String,
    left: Option<String>,
}

impl Step<'_> {
    /// The worker told how far it is, or whom it waits for.
    pub(super) fn hear(&mut self, told: Told<'_>) {
        match told {
            Told::Done(done, total) => self.draw(&format!(" {done}/{total}")),
            Told::Waiting(text) => self.progress.note(&format!("{:<8} {}: {text}", self.stage, self.label)),
        }
    }

    fn draw(&self, how_far: &str) {
        if let Show::Bar(bar) = &self.progress.show {
            let left = self.left.as_ref().map_or_else(String::new, |left| format!(" ({left})"));
            bar.set_prefix(self.stage);
            bar.set_message(format!("{}{how_far}{left}", self.label));
            bar.tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_comes_from_measured_steps_and_names_what_is_not_measured() {
        let mut progress = Progress::new(true);
        assert_eq!(progress.time_left(), None);
        progress.expect("build", 3);
        progress.done("build", "a", 10.0, "");
        assert_eq!(progress.time_left().unwrap(), "about 20.00 s left, then scoring and timing");
        progress.done("build", "b", 10.0, "");
        progress.done("build", "c", 10.0, "");
        progress.expect("score", 2);
        progress.done("score", "a", 4.0, "");
        progress.expect("time", 10);
        progress.done("time", "a", 1.0, "");
        assert_eq!(progress.time_left().unwrap(), "about 13.00 s left");
    }
}
