//! How far a long command is, on standard error: in place on a terminal, else a line now and then.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::{text, units};

/// Time between lines where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// Time between updates on a terminal.
const UPDATE_EVERY: Duration = Duration::from_millis(100);

/// Progress of one piece of work.
#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    began: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Of work that is called `what`.
    pub(super) fn new(what: &'static str) -> Self {
        Progress { what, began: Instant::now(), shown: None, terminal: std::io::stderr().is_terminal() }
    }

    /// So much is done.
    pub(super) fn advance(&mut self, done: usize, total: usize) {
        let every = if self.terminal { UPDATE_EVERY } else { LINE_EVERY };
        let last = if self.terminal { self.shown } else { self.shown.or(Some(self.began)) };
        if done < total && last.is_some_and(|last| last.elapsed() < every) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = line(self.what, done, total, self.began.elapsed().as_secs_f64());
        match self.terminal {
            // Erases what a longer line leaves.
            // A terminal that is gone is no reason to stop.
            true => {
                let _ = write!(std::io::stderr(), "\r{line}\x1b[K{}", if done == total { "\n" } else { "" });
            }
            false => text::to_stderr(&line),
        }
    }
}

/// `surveying: 37 %, about 2 min 10 s left`.
fn line(what: &str, done: usize, total: usize, seconds: f64) -> String {
    if done >= total {
        return format!("{what}: done in {}", units::seconds(seconds));
    }
    let share = done as f64 / total as f64;
    let left =
        if done == 0 { String::new() } else { format!(", about {} left", units::seconds(seconds / share - seconds)) };
    format!("{what}: {:.0} %{left}", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_what_is_done() {
        assert_eq!(line("quantizing", 0, 8, 1.0), "quantizing: 0 %");
        assert_eq!(line("quantizing", 2, 8, 10.0), "quantizing: 25 %, about 30.00 s left");
        assert_eq!(line("quantizing", 8, 8, 40.0), "quantizing: done in 40.00 s");
    }
}
