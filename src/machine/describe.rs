//! The machine's fingerprint and what could disturb timing on it.
//!
//! Facts are read from `/proc` and `/sys` under a root folder, so that tests can describe a machine that is not there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sysinfo::{Cpu, CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::proc;
use super::record::MachineRecord;
use crate::kernels::{Isa, has_bf16};
use crate::units;

/// Facts by name.
type Facts = BTreeMap<String, String>;

/// Load average above which other work is likely to disturb timing, per processor.
const QUIET_LOAD: f64 = 0.1;

/// Reads what this machine tells about itself.
pub fn describe() -> MachineRecord {
    let wanted =
        RefreshKind::nothing().with_memory(MemoryRefreshKind::everything()).with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(wanted).ok();
    let memory_bytes = system.as_ref().map_or(0, System::total_memory);
    let processors = system.as_ref().map_or(&[][..], System::cpus);
    let cores = super::cores();
    let root = Path::new("/");
    let mut facts = facts(root);
    if !processors.is_empty() {
        facts.insert("processors".into(), processors.len().to_string());
    }
    if let Some(limit) = system.as_ref().and_then(System::cgroup_limits).map(|l| l.total_memory)
        && limit < memory_bytes
    {
        facts.insert("memory_limit".into(), units::bytes(limit));
    }
    let cpuinfo = read(root, "proc/cpuinfo");
    let virtual_machine = cpuinfo.as_deref().and_then(proc::hypervisor);
    let cpu = names(processors.iter().map(Cpu::brand)).or_else(|| proc::arm_part(cpuinfo.as_deref()?));
    let available = Isa::available();
    let isa = Isa::active();
    facts.insert("bfloat16_products".into(), if has_bf16(isa) { "yes" } else { "no" }.into());
    let mut disturbances = disturbances(&facts, cores, virtual_machine);
    if available.last().is_some_and(|best| *best != isa) {
        disturbances.push(format!("BENCH_ISA lowers the kernels to {isa}; unset it to measure what this CPU can do"));
    }
    if let Ok(share) = std::env::var(super::SLOWDOWN) {
        disturbances
            .push(format!("{} plants a slowdown of {share} in every slot; unset it to measure", super::SLOWDOWN));
    }
    MachineRecord {
        cpu: cpu.unwrap_or_else(|| "unknown".into()),
        arch: std::env::consts::ARCH.into(),
        instruction_sets: available.iter().map(|isa| isa.name().into()).collect(),
        isa: isa.name().into(),
        cores,
        memory_bytes,
        os: [System::long_os_version(), System::kernel_version()].into_iter().flatten().collect::<Vec<_>>().join(", "),
        host: System::host_name().unwrap_or_else(|_| "unknown".into()),
        timer: Some(super::timer::timer()),
        virtual_machine,
        disturbances,
        facts,
    }
}

/// The different names of processors, in order; several where cores are of several kinds.
fn names<'a>(brands: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for brand in brands.map(str::trim) {
        if !brand.is_empty() && !names.contains(&brand) {
            names.push(brand);
        }
    }
    (!names.is_empty()).then(|| names.join(" and "))
}

fn read(root: &Path, path: &str) -> Option<String> {
    let text = fs::read_to_string(root.join(path)).ok()?;
    Some(text.trim().to_string()).filter(|text| !text.is_empty())
}

/// Facts that the kernel tells; absent where it does not.
fn facts(root: &Path) -> Facts {
    let on_off = |text: String| (if text == "1" { "on" } else { "off" }).to_string();
    let no_turbo = read(root, "sys/devices/system/cpu/intel_pstate/no_turbo");
    let turbo = no_turbo
        .map(|text| (if text == "1" { "off" } else { "on" }).to_string())
        .or_else(|| read(root, "sys/devices/system/cpu/cpufreq/boost").map(on_off));
    let pages = read(root, "sys/kernel/mm/transparent_hugepage/enabled");
    let clock_source = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    let found = [
        ("governor", read(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        ("turbo", turbo),
        ("smt", read(root, "sys/devices/system/cpu/smt/active").map(on_off)),
        ("transparent_huge_pages", pages.and_then(|text| proc::bracketed(&text).map(str::to_string))),
        ("clock_source", read(root, clock_source)),
        ("load_average", read(root, "proc/loadavg").map(|t| t.split(' ').take(3).collect::<Vec<_>>().join(" "))),
        ("power", power(root)),
    ];
    let mut facts: Facts = found.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect();
    facts.extend(caches(root));
    facts
}

/// Caches of the first processor: `cache_l2` = `1024K, processors 0`.
fn caches(root: &Path) -> Facts {
    let mut caches = Facts::new();
    for index in 0..8 {
        let folder = format!("sys/devices/system/cpu/cpu0/cache/index{index}");
        let of = |file: &str| read(root, &format!("{folder}/{file}"));
        let (Some(level), Some(kind), Some(size)) = (of("level"), of("type"), of("size")) else { break };
        let kind = match kind.as_str() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        let shared = of("shared_cpu_list").map(|list| format!(", processors {list}")).unwrap_or_default();
        caches.insert(format!("cache_l{level}{kind}"), format!("{size}{shared}"));
    }
    caches
}

/// `battery` when one is discharging, `mains` when there is one that is not.
fn power(root: &Path) -> Option<String> {
    let supplies = fs::read_dir(root.join("sys/class/power_supply")).ok()?;
    let states: Vec<String> =
        supplies.flatten().filter_map(|s| fs::read_to_string(s.path().join("status")).ok()).collect();
    if states.is_empty() {
        return None;
    }
    let discharging = states.iter().any(|s| s.trim() == "Discharging");
    Some((if discharging { "battery" } else { "mains" }).into())
}

/// What could disturb timing, each a sentence with its remedy.
fn disturbances(facts: &Facts, cores: usize, virtual_machine: Option<bool>) -> Vec<String> {
    let fact = |name: &str| facts.get(name).map(String::as_str);
    let mut found = Vec::new();
    if let Some(governor) = fact("governor").filter(|g| *g != "performance") {
        found.push(format!(
            "the clock governor is \"{governor}\", so the clock follows the load; set it to performance (`cpupower \
             frequency-set -g performance`)"
        ));
    }
    if fact("turbo") == Some("on") {
        found.push(
            "turbo is on, so the clock depends on temperature and on other cores; switch it off in the firmware or \
             under /sys/devices/system/cpu (cpufreq/boost, intel_pstate/no_turbo)"
                .into(),
        );
    }
    if fact("smt") == Some("on") {
        found.push(
            "SMT is on, so two threads may share one core; pin the run to one thread of each core (`taskset -c`)"
                .into(),
        );
    }
    if fact("power") == Some("battery") {
        found.push("the machine runs on its battery, which lowers the clock; connect it to power".into());
    }
    if let Some(source) = fact("clock_source").filter(|s| matches!(*s, "hpet" | "acpi_pm" | "jiffies" | "pit")) {
        found.push(format!("the clock source is {source}, whose reading is slow; boot with clocksource=tsc"));
    }
    let load = fact("load_average").and_then(|l| l.split(' ').next()?.parse::<f64>().ok());
    if let Some(load) = load.filter(|load| *load > QUIET_LOAD * cores as f64) {
        found.push(format!("the load average is {load} on {cores} processors; stop other work before measuring"));
    }
    let processors = fact("processors").and_then(|n| n.parse::<usize>().ok());
    if let Some(processors) = processors.filter(|n| *n > cores) {
        found.push(format!(
            "this process may use {cores} of {processors} processors (affinity or a quota); others may run on the rest"
        ));
    }
    if virtual_machine == Some(true) {
        found.push(
            "this is a virtual machine: neighbours may take processor time, cache and memory bandwidth; stolen time is \
             recorded for every slot"
                .into(),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_restless_laptop_is_described_with_remedies() {
        let root = machine(&[
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/cpu/intel_pstate/no_turbo", "0\n"),
            ("sys/devices/system/cpu/smt/active", "1\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/level", "1\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/type", "Data\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/size", "48K\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/shared_cpu_list", "0-1\n"),
            ("sys/class/power_supply/BAT0/status", "Discharging\n"),
            ("proc/loadavg", "3.50 2.00 1.00 4/500 1234\n"),
        ]);
        let facts = facts(root.path());
        assert_eq!(facts["governor"], "powersave");
        assert_eq!(facts["turbo"], "on");
        assert_eq!(facts["cache_l1d"], "48K, processors 0-1");
        assert_eq!(facts["load_average"], "3.50 2.00 1.00");
        let found = disturbances(&facts, 8, Some(false));
        for word in ["powersave", "turbo", "SMT", "battery", "3.5"] {
            assert_eq!(found.iter().filter(|d| d.contains(word)).count(), 1, "{word}: {found:?}");
        }
    }

    #[test]
    fn a_quiet_server_has_nothing_to_say() {
        let root = machine(&[
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance"),
            ("sys/devices/system/cpu/cpufreq/boost", "0"),
            ("sys/devices/system/cpu/smt/active", "0"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
            ("proc/loadavg", "0.01 0.02 0.00 1/100 77"),
        ]);
        assert_eq!(disturbances(&facts(root.path()), 8, Some(false)), Vec::<String>::new());
    }

    #[test]
    fn cores_of_several_kinds_are_all_named() {
        let names = |brands: &[&'static str]| names(brands.iter().copied());
        assert_eq!(names(&["AMD EPYC ", "AMD EPYC "]).as_deref(), Some("AMD EPYC"));
        assert_eq!(names(&["Cortex-A55", "Cortex-A55", "", "Cortex-X1"]).as_deref(), Some("Cortex-A55 and Cortex-X1"));
        assert_eq!(names(&["", ""]), None);
    }

    #[test]
    fn a_silent_machine_gives_no_facts() {
        let root = machine(&[]);
        assert!(facts(root.path()).is_empty());
        assert!(disturbances(&Facts::new(), 4, None).is_empty());
    }
}
