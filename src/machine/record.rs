//! What is kept of the machine: its description once a run, its state once a slot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The machine that measured, as far as it tells; what is missing is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// CPU model.
    pub cpu: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// Instruction sets usable by the kernels, best last.
    pub instruction_sets: Vec<String>,
    /// The one in use (`BENCH_ISA` may lower it).
    pub isa: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Operating system and kernel.
    pub os: String,
    /// Host name.
    pub host: String,
    /// The clock that everything is timed with.
    #[serde(default)]
    pub timer: Option<Timer>,
    /// Under a hypervisor.
    pub virtual_machine: Option<bool>,
    /// What could disturb timing, each a sentence.
    pub disturbances: Vec<String>,
    /// Everything else, by name: governor, SMT, transparent huge pages, load average, caches, clock source.
    pub facts: BTreeMap<String, String>,
}

/// How fine a clock is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Timer {
    /// Seconds that a reading takes.
    pub reading_s: f64,
    /// Smallest difference of two readings that was seen, seconds.
    pub step_s: f64,
}

/// State of the machine during a slot; what a machine does not tell is `null`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Covariates {
    /// Share of processor time stolen by the hypervisor.
    pub steal: Option<f64>,
    /// Share of processor time used by others.
    pub others_cpu: Option<f64>,
    /// Own processor time over wall time and threads in the timed region.
    pub own_cpu: Option<f64>,
    /// Share of time that runnable tasks waited (pressure stall information).
    pub cpu_pressure: Option<f64>,
    /// Major page faults in the timed region.
    pub major_faults: Option<u64>,
    /// Involuntary context switches in the timed region.
    pub involuntary_switches: Option<u64>,
    /// Periods throttled by a quota.
    pub throttled: Option<u64>,
    /// Share of time that tasks waited for memory (pressure stall information).
    pub memory_pressure: Option<f64>,
    /// Pages swapped in or out by anybody in the timed region.
    pub swapped_pages: Option<u64>,
    /// Times that a processor lowered its clock because it was hot.
    pub thermal_throttles: Option<u64>,
    /// Mean clock of the processors at the end of the timed region as the kernel tells it, Hz.
    pub frequency: Option<f64>,
    /// Energy of all processor packages in the timed region, joules (RAPL).
    pub energy_j: Option<f64>,
    /// Bytes a second that a plain sum read after the timed region, in slots of the A/A control.
    pub read_bandwidth: Option<f64>,
    /// Clock, from a short dependent loop before and after, in arbitrary units of speed.
    pub clock: Option<f64>,
    /// Seconds in which all threads take empty work and give it back, before and after: several times longer where they
    /// run on cores that share no cache.
    #[serde(default)]
    pub handover_s: Option<[f64; 2]>,
}

/// Handing work over takes so many times longer, or less long, between cores that are nearer or farther apart.
const FARTHER_APART: f64 = 1.6;

impl Covariates {
    /// Whether the threads ran elsewhere, before or after, than threads that hand work over in `handover_s`; `None` where
    /// the machine does not tell.
    pub fn moved_from(&self, handover_s: f64) -> Option<bool> {
        let apart = |own: f64| (own / handover_s).ln().abs() > FARTHER_APART.ln();
        self.handover_s.map(|both| both.into_iter().any(apart))
    }
}
