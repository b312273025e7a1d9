//! A worker's standard input after its job: turns that the parent gives, and its end, which means that the parent is gone.

use std::io::{self, BufRead};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::protocol::Message;
use super::send;
use crate::error::{Error, Result};

/// The line that ends a job's turns before their number is reached.
pub const LAST: &str = "enough";

/// Turns of a job that takes them; a line each.
pub(super) struct Turns(Receiver<String>);

impl Turns {
    /// Listens in a thread of its own, which ends the process with the input: that comes only when the parent has died.
    /// Sleeping in a read costs no processor time.
    pub fn from_the_parent() -> Turns {
        let (turn, turns) = channel();
        thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                // An error means the same as the end: nobody is there to answer to.
                let Ok(line) = line else { break };
                if turn.send(line).is_err() {
                    break;
                }
            }
            std::process::exit(1);
        });
        Turns(turns)
    }

    /// Says that this worker is ready, and sleeps until it is given a turn, or told that there were enough: then false.
    pub fn wait(&self) -> Result<bool> {
        send(&Message::Ready).map_err(|e| Error::Measurement(format!("cannot ask for a turn: {e}")))?;
        let line = self.0.recv().map_err(|_| Error::Measurement("the parent gives no more turns".into()))?;
        Ok(line.trim() != LAST)
    }
}
