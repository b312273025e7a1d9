//! `bench machine`: what this machine tells about itself.

use std::fmt::Write;
use std::process::ExitCode;

use crate::error::Result;
use crate::machine::{MachineRecord, describe};
use crate::units;

/// Show this machine: processor, instruction sets, and what could disturb timing.
///
/// Run it before you trust a measurement: everything under "what could disturb timing" comes with a remedy. The same
/// record is stored with every run.
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

/// Prints the record.
pub fn run(args: &Args) -> Result<ExitCode> {
    // A misspelt BENCH_ISA must not pass as "the best".
    crate::kernels::Isa::from_env()?;
    let record = describe();
    if args.json {
        super::print_json(&record)?
    } else {
        super::print(text(&record).trim_end())?
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
