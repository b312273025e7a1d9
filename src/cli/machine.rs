//! `bench machine`: what this machine tells about itself, and the most that it reaches.

use std::fmt::Write;
use std::process::ExitCode;

use serde::Serialize;

use super::limits::{self, Limits};
use crate::error::Result;
use crate::kernels::{Isa, Pool};
use crate::machine::{self, MachineRecord, describe};
use crate::units;

/// Show this machine: processor, instruction sets, limits, and what could disturb timing.
///
/// Run it before you trust a measurement: everything under "what could disturb timing" comes with a remedy. The same
/// record is stored with every run. The limits (its roofline) are measured in a second or two: reading from each level of
/// cache and from memory, and multiplying and adding on registers with each instruction set.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench machine
  bench machine --json | jq .disturbances
  BENCH_ISA=avx2 bench machine")]
pub struct Args {
    /// The record as JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Machine {
    #[serde(flatten)]
    record: MachineRecord,
    /// With one thread, and with all.
    limits: Vec<Limits>,
}

/// Prints the record.
pub fn run(args: &Args) -> Result<ExitCode> {
    // A misspelt BENCH_ISA must not pass as "the best".
    Isa::from_env()?;
    let record = describe();
    let isas: Vec<Isa> = Isa::available().into_iter().filter(|isa| *isa <= Isa::active()).collect();
    let threads = if machine::cores() > 1 { vec![1, machine::cores()] } else { vec![1] };
    let limits: Vec<Limits> = threads.into_iter().map(|n| limits::measure(&Pool::new(n), &isas)).collect();
    if args.json {
        super::print_json(&Machine { record, limits })?
    } else {
        super::print(&text(&record))?;
        super::print(&limits::text(&limits))?
    }
    Ok(ExitCode::SUCCESS)
}

fn text(record: &MachineRecord) -> String {
    let virtual_machine = match record.virtual_machine {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    let memory = if record.memory_bytes == 0 { "unknown".into() } else { units::bytes(record.memory_bytes) };
    let mut text = String::from("machine\n");
    let mut line = |name: &str, value: &str| _ = writeln!(text, "  {name:<24}{value}");
    line("cpu", &record.cpu);
    line("architecture", &record.arch);
    line("processors to use", &record.cores.to_string());
    line("memory", &memory);
    line("instruction sets", &record.instruction_sets.join(", "));
    line("in use", &record.isa);
    line("system", &record.os);
    line("host", &record.host);
    line("virtual machine", virtual_machine);
    if let Some(timer) = record.timer {
        let (reading, step) = (units::seconds(timer.reading_s), units::seconds(timer.step_s));
        line("clock", &format!("a reading takes {reading}, its step is {step}"));
    }
    if !record.facts.is_empty() {
        text.push_str("\nfacts\n");
        for (name, value) in &record.facts {
            _ = writeln!(text, "  {:<24}{value}", name.replace('_', " "));
        }
    }
    text.push_str("\nwhat could disturb timing\n");
    for disturbance in &record.disturbances {
        _ = writeln!(text, "  - {disturbance}");
    }
    if record.disturbances.is_empty() {
        text.push_str("  nothing that this machine tells\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_called_unknown() {
        let record = MachineRecord {
            cpu: "unknown".into(),
            arch: "riscv64".into(),
            instruction_sets: vec!["scalar".into()],
            isa: "scalar".into(),
            cores: 4,
            memory_bytes: 0,
            os: String::new(),
            host: "h".into(),
            timer: None,
            virtual_machine: None,
            disturbances: Vec::new(),
            facts: Default::default(),
        };
        let text = text(&record);
        assert!(text.contains("memory                  unknown"), "{text}");
        assert!(text.contains("virtual machine         unknown"), "{text}");
        assert!(text.contains("nothing that this machine tells"), "{text}");
    }
}
