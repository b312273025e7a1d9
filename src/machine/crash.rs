//! Points at which a test ends this process by a signal: `BENCH_CRASH_AT=POINT:N:SIGNAL:TARGET:FILE`, for tests only.
//!
//! FILE counts over all processes of a run how often the point was reached, a byte each time; the N-th time SIGNAL (`KILL`
//! or `TERM`) is sent to TARGET: `self`, `parent` or `group`. As POINT, `all` only lists the points in FILE, a line each. Without
//! the variable nothing happens. `tools/kill_campaign.py` uses it to hit moments that a random kill hits once in a thousand times.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::OnceLock;

/// Name of the environment variable.
pub const CRASH_AT: &str = "BENCH_CRASH_AT";

/// What was asked for, in its parts.
struct Crash {
    point: String,
    number: u64,
    signal: String,
    target: String,
    file: String,
}

fn asked() -> Option<&'static Crash> {
    static ASKED: OnceLock<Option<Crash>> = OnceLock::new();
    let parse = || {
        let text = std::env::var(CRASH_AT).ok()?;
        let parts: Vec<&str> = text.splitn(5, ':').collect();
        let [point, number, signal, target, file] = parts[..] else { return None };
        let (point, number) = (point.to_owned(), number.parse().ok()?);
        Some(Crash { point, number, signal: signal.into(), target: target.into(), file: file.into() })
    };
    ASKED.get_or_init(parse).as_ref()
}

/// Ends the process here, if that is what the environment asks for.
pub fn crash_point(name: &str) {
    let Some(crash) = asked().filter(|crash| crash.point == name || crash.point == "all") else { return };
    let mark = if crash.point == name { ".".to_owned() } else { format!("{name}\n") };
    let reached = (|| {
        let mut file = OpenOptions::new().create(true).append(true).open(&crash.file)?;
        file.write_all(mark.as_bytes())?;
        std::io::Result::Ok(file.metadata()?.len())
    })();
    if crash.point == name && reached.is_ok_and(|times: u64| times == crash.number) {
        send(crash);
    }
}

#[cfg(unix)]
fn send(crash: &Crash) {
    let signal = if crash.signal == "TERM" { libc::SIGTERM } else { libc::SIGKILL };
    // SAFETY: the calls take and return numbers only.
    unsafe {
        let process = match crash.target.as_str() {
            "parent" => libc::getppid(),
            "group" => 0,
            _ => libc::getpid(),
        };
        libc::kill(process, signal);
    }
}

#[cfg(not(unix))]
fn send(_: &Crash) {
    std::process::exit(1);
}
