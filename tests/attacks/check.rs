//! Runs the program on hostile inputs and looks at what it answers.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::tiny_model::Place;

/// Memory of the program, address space included, in KiB: a reader that believes a size of the input meets it.
const MEMORY_KIB: u64 = 6 << 20;

/// Far above what any answer takes, so that only a hang meets it.
const LIMIT: Duration = Duration::from_secs(40);

/// Bytes of an answer: one line for each of a few faults.
const LONGEST: usize = 4000;

/// One input, ready in a place of its own.
pub struct Attack {
    pub name: String,
    pub place: Place,
    pub arguments: Vec<String>,
    pub expected: Expected,
}

/// What the program owes.
pub struct Expected {
    codes: Vec<i32>,
    phrases: Vec<String>,
}

impl Expected {
    /// First line: exit codes; each further line: a phrase of the answer.
    pub fn parse(text: &str) -> Expected {
        let mut lines = text.lines().filter(|line| !line.is_empty());
        let codes = lines.next().unwrap_or_default().split_whitespace().map(|code| code.parse().unwrap()).collect();
        Expected { codes, phrases: lines.map(str::to_owned).collect() }
    }
}

impl Expected {
    /// What is wrong with the answer of a reader that was called: exit code and message, or success (code 0).
    pub fn refused(&self, answer: &Result<(), (i32, String)>) -> Option<String> {
        let (code, message) = answer.as_ref().map_or_else(|(code, text)| (*code, text.as_str()), |()| (0, ""));
        if !self.codes.contains(&code) {
            return Some(format!("exit {code}, expected {:?}: {message}", self.codes));
        }
        let missing = self.phrases.iter().find(|phrase| !message.contains(phrase.as_str()));
        if let Some(missing) = missing {
            return Some(format!("does not say {missing:?}: {message}"));
        }
        (message.contains('\n') || message.len() > LONGEST).then(|| format!("more than one line: {message}"))
    }
}

/// Runs all attacks and fails with every wrong answer.
pub fn assert_all(attacks: impl IntoIterator<Item = Attack>) {
    let wanted = std::env::var("ATTACK").unwrap_or_default();
    let mut wrong = Vec::new();
    for attack in attacks {
        if attack.name.contains(&wanted) {
            wrong.extend(answer(&attack).err());
        }
    }
    assert!(wrong.is_empty(), "{} wrong answers\n{}", wrong.len(), wrong.join("\n"));
}

fn answer(attack: &Attack) -> Result<(), String> {
    let (code, out, error) = run(attack);
    if std::env::var_os("ATTACK").is_some() {
        println!("{}: exit {code:?}\n{}", attack.name, error.trim_end());
    }
    let expected = &attack.expected;
    let mut faults = Vec::new();
    match code {
        Some(code) if expected.codes.contains(&code) => {}
        code => faults.push(format!("exit {code:?}, expected {:?}", expected.codes)),
    }
    for phrase in
        expected.phrases.iter().filter(|phrase| !error.contains(phrase.as_str()) && !out.contains(phrase.as_str()))
    {
        faults.push(format!("does not say {phrase:?}"));
    }
    if code == Some(2) && !error.starts_with("error: ") {
        faults.push("does not begin with \"error: \"".into());
    }
    if ["panicked", "internal fault", "RUST_BACKTRACE"].iter().any(|text| error.contains(text)) {
        faults.push("panicked".into());
    }
    if error.len() > LONGEST {
        faults.push(format!("{} bytes of errors", error.len()));
    }
    // A suite's faults are one a line; everything else is one line.
    let lines = error.lines().filter(|line| line.starts_with("error: ")).count();
    if code == Some(2) && lines != 1 {
        faults.push(format!("{lines} lines begin with \"error: \""));
    }
    if let Some(hidden) = (out + &error).chars().find(|c| is_hidden(*c)) {
        faults.push(format!("writes {}", hidden.escape_unicode()));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}: {}\n    {}",
        attack.name,
        faults.join("; "),
        error.chars().take(600).collect::<String>().trim_end()
    ))
}

/// Characters that a terminal obeys instead of showing them, or that nobody sees.
fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(c, '\u{e0000}'..='\u{e007f}' | '\u{ad}')
}

/// Exit code (none after a signal or a hang), standard output and standard error.
fn run(attack: &Attack) -> (Option<i32>, String, String) {
    let program = attack.place.bench(&[]);
    let (out, error) = (attack.place.path("stdout"), attack.place.path("stderr"));
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"")])
        .arg(program.get_program())
        .args(&attack.arguments)
        .current_dir(attack.place.root.path())
        .env("BENCH_CACHE", attack.place.path("cache"))
        .stdin(Stdio::null())
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&error).unwrap())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begin.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let mut said = read(&error);
    match status {
        None => said.push_str("\n(hangs)"),
        Some(status) => said.extend(status.signal().map(|signal| format!("\n(signal {signal})"))),
    }
    (status.and_then(|status| status.code()), read(&out), said)
}
