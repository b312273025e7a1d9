//! State of the machine during a slot: counters read before and after, and two short loops on both sides: one that shows
//! the clock, one that shows how far the cores are apart.
//!
//! Nothing here changes a timing or drops one; it says afterwards what may have disturbed it. A signal that the
//! machine does not give is `None`, never 0.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use super::proc::{self, CpuTicks};
use super::record::Covariates;
use crate::kernels::Pool;

/// Length of each loop.
const LOOP: Duration = Duration::from_millis(2);
/// Steps of a batch of a loop, and dependent single-cycle operations of a step.
const STEPS: u32 = 10_000;
const OPERATIONS_PER_STEP: u32 = 6;
/// Regions of a batch of the loop for the distance of cores.
const REGIONS: u32 = 100;

/// A slot being observed.
#[derive(Debug)]
pub struct Probe<'p> {
    pool: &'p Pool,
    clock: Option<f64>,
    handover_s: Option<f64>,
    start: Snapshot,
}

/// Counters at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
struct Snapshot {
    at: Option<Instant>,
    cpu: Option<CpuTicks>,
    own_ticks: Option<u64>,
    own: Option<OwnUse>,
    pressure_us: Option<u64>,
    memory_pressure_us: Option<u64>,
    swapped_pages: Option<u64>,
    throttled: Option<u64>,
    thermal_throttles: Option<u64>,
    frequency: Option<f64>,
    energy: Vec<Energy>,
}

/// The energy counter of a processor package.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Energy {
    microjoules: u64,
    /// Where the counter starts again at 0.
    range: u64,
}

/// What the kernel counts for this process, all threads together.
#[derive(Debug, Clone, Copy, PartialEq)]
struct OwnUse {
    cpu_s: f64,
    major_faults: u64,
    involuntary_switches: u64,
}

impl Probe<'_> {
    /// Runs the loops, then notes the counters. The slot's work is done by `pool`.
    pub fn start(pool: &Pool) -> Probe<'_> {
        let (clock, handover_s) = (clock(), handover_s(pool));
        Probe { pool, clock, handover_s, start: Snapshot::take(Path::new("/")) }
    }

    /// Notes the counters, runs the loops again and returns what changed.
    pub fn stop(self) -> Covariates {
        let end = Snapshot::take(Path::new("/"));
        let handover_s = self.handover_s.zip(handover_s(self.pool)).map(|(before, after)| [before, after]);
        let clock = mean(self.clock, clock());
        Covariates { clock, handover_s, ..changes(&self.start, &end, self.pool.threads()) }
    }
}

impl Snapshot {
    fn take(root: &Path) -> Snapshot {
        let read = |path: &str| fs::read_to_string(root.join(path)).ok();
        let throttled = || {
            let cgroup = read("proc/self/cgroup").unwrap_or_default();
            proc::cpu_stat_paths(&cgroup).iter().find_map(|path| proc::throttled_periods(&read(path)?))
        };
        Snapshot {
            cpu: read("proc/stat").and_then(|text| proc::cpu_ticks(&text)),
            own_ticks: read("proc/self/stat").and_then(|text| proc::own_ticks(&text)),
            pressure_us: read("proc/pressure/cpu").and_then(|text| proc::pressure_us(&text)),
            memory_pressure_us: read("proc/pressure/memory").and_then(|text| proc::pressure_us(&text)),
            swapped_pages: read("proc/vmstat").and_then(|text| proc::swapped_pages(&text)),
            throttled: throttled(),
            thermal_throttles: sum(&processors(root, "thermal_throttle/core_throttle_count")),
            frequency: frequency(&processors(root, "cpufreq/scaling_cur_freq")),
            energy: energy(root),
            own: own_use(),
            at: Some(Instant::now()),
        }
    }
}

/// A number that each processor tells in a file of its folder.
fn processors(root: &Path, file: &str) -> Vec<u64> {
    let told = |processor: usize| {
        let path = root.join(format!("sys/devices/system/cpu/cpu{processor}/{file}"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    (0..).map_while(told).collect()
}

fn sum(counts: &[u64]) -> Option<u64> {
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// Mean of clocks in kHz, in Hz.
fn frequency(khz: &[u64]) -> Option<f64> {
    (!khz.is_empty()).then(|| khz.iter().sum::<u64>() as f64 / khz.len() as f64 * 1e3)
}

/// Counters of the processor packages (Linux `Documentation/power/powercap`); mostly for the administrator alone to read.
fn energy(root: &Path) -> Vec<Energy> {
    let package = |number: usize| {
        let folder = root.join(format!("sys/class/powercap/intel-rapl:{number}"));
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok();
        Some(Energy { microjoules: read("energy_uj")?, range: read("max_energy_range_uj")? })
    };
    (0..).map_while(package).collect()
}

/// Joules between two readings of the same counters, each of which started again at most once.
fn energy_between(start: &[Energy], end: &[Energy]) -> Option<f64> {
    let one = |(a, b): (&Energy, &Energy)| match b.microjoules.checked_sub(a.microjoules) {
        Some(used) => used,
        None => b.microjoules + a.range.saturating_sub(a.microjoules),
    };
    let same = !start.is_empty() && start.len() == end.len();
    same.then(|| start.iter().zip(end).map(one).sum::<u64>() as f64 / 1e6)
}

/// Differences between two snapshots as shares and counts.
fn changes(start: &Snapshot, end: &Snapshot, threads: usize) -> Covariates {
    let wall_s = start.at.zip(end.at).map(|(a, b)| b.duration_since(a).as_secs_f64()).filter(|s| *s > 0.0);
    let ticks = start.cpu.zip(end.cpu).and_then(|(a, b)| {
        let total = b.total.checked_sub(a.total).filter(|t| *t > 0)? as f64;
        Some((b.busy.checked_sub(a.busy)? as f64, b.steal.checked_sub(a.steal)? as f64, total))
    });
    let own_ticks = difference(start.own_ticks, end.own_ticks);
    let own = start.own.zip(end.own);
    let waited =
        |start, end| difference(start, end).zip(wall_s).map(|(microseconds, s)| microseconds as f64 * 1e-6 / s);
    Covariates {
        steal: ticks.map(|(_, steal, total)| steal / total),
        // Ticks are coarse: a process may seem to have used slightly more than everybody together.
        others_cpu: ticks.zip(own_ticks).map(|((busy, _, total), own)| ((busy - own as f64) / total).max(0.0)),
        own_cpu: own.zip(wall_s).map(|((a, b), wall)| (b.cpu_s - a.cpu_s) / (wall * threads.max(1) as f64)),
        cpu_pressure: waited(start.pressure_us, end.pressure_us),
        memory_pressure: waited(start.memory_pressure_us, end.memory_pressure_us),
        swapped_pages: difference(start.swapped_pages, end.swapped_pages),
        thermal_throttles: difference(start.thermal_throttles, end.thermal_throttles),
        frequency: end.frequency,
        energy_j: energy_between(&start.energy, &end.energy),
        read_bandwidth: None,
        major_faults: own.and_then(|(a, b)| b.major_faults.checked_sub(a.major_faults)),
        involuntary_switches: own.and_then(|(a, b)| b.involuntary_switches.checked_sub(a.involuntary_switches)),
        throttled: difference(start.throttled, end.throttled),
        clock: None,
        handover_s: None,
    }
}

fn difference(start: Option<u64>, end: Option<u64>) -> Option<u64> {
    end?.checked_sub(start?)
}

fn mean(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some((a? + b?) / 2.0)
}

/// Dependent single-cycle operations per second, close to the core's clock in Hz: of a xorshift chain (Marsaglia 2003),
/// whose steps no compiler can merge and no core can overlap.
fn clock() -> Option<f64> {
    let mut state = black_box(0x9E37_79B9_7F4A_7C15_u64);
    let batches = batches_s(|| {
        for _ in 0..STEPS {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        state = black_box(state);
    });
    let median = batches.get(batches.len() / 2).filter(|seconds| **seconds > 0.0)?;
    Some(f64::from(STEPS * OPERATIONS_PER_STEP) / median)
}

/// Least seconds in which `pool` hands empty work to its threads and has it back: several times longer between cores that
/// share no cache than between neighbours, and shorter within one core. A hypervisor moves the processors of a guest
/// between such places without a word. `None` for one thread.
fn handover_s(pool: &Pool) -> Option<f64> {
    let batch = || (0..REGIONS).for_each(|_| pool.run(&|_| ()));
    let batches = (pool.threads() > 1).then(|| batches_s(batch))?;
    Some(batches.first()? / f64::from(REGIONS))
}

/// Seconds of repetitions of `batch`, ascending.
fn batches_s(mut batch: impl FnMut()) -> Vec<f64> {
    let begin = Instant::now();
    let mut batches = Vec::with_capacity(512);
    while begin.elapsed() < LOOP {
        let start = Instant::now();
        batch();
        batches.push(start.elapsed().as_secs_f64());
    }
    batches.sort_by(f64::total_cmp);
    batches
}

#[cfg(unix)]
fn own_use() -> Option<OwnUse> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is to writable memory of the size of one `rusage`, which the call fills when it returns 0.
    let code = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    if code != 0 {
        return None;
    }
    // SAFETY: the call returned 0, so it wrote all fields.
    let usage = unsafe { usage.assume_init() };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    Some(OwnUse {
        cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        major_faults: u64::try_from(usage.ru_majflt).ok()?,
        involuntary_switches: u64::try_from(usage.ru_nivcsw).ok()?,
    })
}

#[cfg(not(unix))]
fn own_use() -> Option<OwnUse> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shares_of_the_slot() {
        let now = Instant::now();
        let start = Snapshot {
            at: Some(now),
            cpu: Some(CpuTicks { busy: 100, steal: 10, total: 1000 }),
            own_ticks: Some(5),
            own: Some(OwnUse { cpu_s: 1.0, major_faults: 2, involuntary_switches: 7 }),
            pressure_us: Some(1_000),
            throttled: Some(3),
            thermal_throttles: Some(1),
            energy: vec![Energy { microjoules: 900, range: 1_000 }],
            ..Snapshot::default()
        };
        let end = Snapshot {
            at: Some(now + Duration::from_secs(2)),
            cpu: Some(CpuTicks { busy: 340, steal: 14, total: 1400 }),
            own_ticks: Some(205),
            own: Some(OwnUse { cpu_s: 3.0, major_faults: 2, involuntary_switches: 9 }),
            pressure_us: Some(1_001_000),
            throttled: Some(3),
            thermal_throttles: Some(3),
            energy: vec![Energy { microjoules: 300, range: 1_000 }],
            ..Snapshot::default()
        };
        let found = changes(&start, &end, 2);
        assert_eq!(found.steal, Some(0.01));
        assert_eq!(found.others_cpu, Some(0.1));
        assert_eq!(found.own_cpu, Some(0.5));
        assert_eq!(found.cpu_pressure, Some(0.5));
        assert_eq!(found.major_faults, Some(0));
        assert_eq!(found.involuntary_switches, Some(2));
        assert_eq!(found.throttled, Some(0));
        assert_eq!(found.thermal_throttles, Some(2));
        assert_eq!(found.energy_j, Some(400e-6), "the counter started again");
        assert_eq!((found.swapped_pages, found.memory_pressure), (None, None));
    }

    #[test]
    fn what_each_processor_tells_is_put_together() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (processor, khz) in [(0, "3000000\n"), (1, "2000000\n")] {
            write(&format!("sys/devices/system/cpu/cpu{processor}/cpufreq/scaling_cur_freq"), khz);
        }
        write("sys/class/powercap/intel-rapl:0/energy_uj", "17\n");
        write("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "99\n");
        let told = Snapshot::take(root.path());
        assert_eq!((told.frequency, told.thermal_throttles), (Some(2.5e9), None));
        assert_eq!(told.energy, [Energy { microjoules: 17, range: 99 }]);
    }

    #[test]
    fn what_is_not_told_stays_unknown() {
        assert_eq!(changes(&Snapshot::default(), &Snapshot::default(), 1), Covariates::default());
        let nowhere = Snapshot::take(Path::new("/nonexistent"));
        assert_eq!((nowhere.cpu, nowhere.pressure_us, nowhere.throttled), (None, None, None));
    }

    #[test]
    fn handing_work_over_takes_time() {
        let seconds = handover_s(&Pool::new(2)).unwrap();
        assert!((1e-9..1.0).contains(&seconds), "{seconds} s");
    }

    #[test]
    fn a_busy_slot_uses_its_processor() {
        let pool = Pool::new(1);
        let probe = Probe::start(&pool);
        let end = Instant::now() + Duration::from_millis(50);
        let mut x = 1u64;
        while Instant::now() < end {
            x = black_box(x.wrapping_mul(3));
        }
        let found = probe.stop();
        let clock = found.clock.unwrap();
        assert!((1e8..2e10).contains(&clock), "clock {clock}");
        assert_eq!(found.handover_s, None, "one thread hands nothing over");
        #[cfg(unix)]
        assert!(found.own_cpu.unwrap() > 0.05, "own share {:?}", found.own_cpu);
    }
}
