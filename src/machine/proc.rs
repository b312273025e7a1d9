//! Parsers of the kernel's text files; pure, so that they are tested on samples (proc(5), Linux
//! `Documentation/accounting/psi.rst`).

/// Processor time of all processors since boot, in the kernel's clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuTicks {
    /// Working for processes or interrupts.
    pub(super) busy: u64,
    /// Taken by the hypervisor for others.
    pub(super) steal: u64,
    /// Busy, stolen and idle.
    pub(super) total: u64,
}

/// The `cpu` line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal (guest time is part of user).
pub(super) fn cpu_ticks(stat: &str) -> Option<CpuTicks> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let mut ticks = [0u64; 8];
    let mut fields = line.split_whitespace();
    for tick in &mut ticks {
        *tick = fields.next()?.parse().ok()?;
    }
    let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks;
    let busy = user + nice + system + irq + softirq;
    Some(CpuTicks { busy, steal, total: busy + steal + idle + iowait })
}

/// User and system ticks of `/proc/self/stat`: fields 14 and 15, counted after the name, which may hold anything
/// between its outer parentheses.
pub(super) fn own_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// `some ... total=` of a pressure file, in microseconds.
pub(super) fn pressure_us(pressure: &str) -> Option<u64> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split_whitespace().find_map(|field| field.strip_prefix("total="))?.parse().ok()
}

/// Pages swapped in and out since boot, in `/proc/vmstat`.
pub(super) fn swapped_pages(vmstat: &str) -> Option<u64> {
    let of = |name| vmstat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    of("pswpin ")?.checked_add(of("pswpout ")?)
}

/// `nr_throttled` of a control group's `cpu.stat`.
pub(super) fn throttled_periods(cpu_stat: &str) -> Option<u64> {
    cpu_stat.lines().find_map(|line| line.strip_prefix("nr_throttled "))?.trim().parse().ok()
}

/// Where a process's `cpu.stat` may be, best first, from `/proc/self/cgroup`; relative to the root of the file system.
pub(super) fn cpu_stat_paths(cgroup: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let path = path.trim_end_matches('/');
        if controllers.is_empty() {
            paths.push(format!("sys/fs/cgroup{path}/cpu.stat"));
        } else if controllers.split(',').any(|c| c == "cpu") {
            paths.push(format!("sys/fs/cgroup/{controllers}{path}/cpu.stat"));
            paths.push(format!("sys/fs/cgroup/cpu{path}/cpu.stat"));
        }
    }
    // Inside a container the group's own files are the root of the mount.
    paths.push("sys/fs/cgroup/cpu.stat".into());
    paths.push("sys/fs/cgroup/cpu/cpu.stat".into());
    paths
}

/// A size of `/proc/self/status` (`VmHWM`, `VmRSS`), in bytes.
pub(super) fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Whether the processor says that it is virtual: the `hypervisor` flag of `/proc/cpuinfo`, which x86 alone has.
pub(super) fn hypervisor(cpuinfo: &str) -> Option<bool> {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags"))?;
    Some(flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// The numbers of an ARM processor that no list of names knows: its implementer and part in `/proc/cpuinfo`.
pub(super) fn arm_part(cpuinfo: &str) -> Option<String> {
    let of = |key| cpuinfo.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
    Some(format!("ARM implementer {}, part {}", of("CPU implementer")?.trim(), of("CPU part")?.trim()))
}

/// The choice in brackets of a sysfs file: `always [madvise] never`.
pub(super) fn bracketed(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  54927 10 12480 309037 1920 7 165 115 3 0\ncpu0 25302 0 4444 159125 340 0 24 54 0 0\n";

    #[test]
    fn cpu_line_is_read_without_counting_guests_twice() {
        let ticks = cpu_ticks(STAT).unwrap();
        assert_eq!(ticks.busy, 54927 + 10 + 12480 + 7 + 165);
        assert_eq!(ticks.steal, 115);
        assert_eq!(ticks.total, ticks.busy + 115 + 309_037 + 1920);
        assert_eq!(cpu_ticks("cpu 1 2 3"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn an_arm_processor_is_told_by_its_numbers() {
        let cpuinfo = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU architecture: 8\n\
                       CPU variant\t: 0x1\nCPU part\t: 0xd40\nCPU revision\t: 1\n";
        assert_eq!(arm_part(cpuinfo).as_deref(), Some("ARM implementer 0x41, part 0xd40"));
        assert_eq!(arm_part("processor\t: 0\nmodel name\t: AMD EPYC\n"), None);
    }

    #[test]
    fn own_ticks_survive_any_process_name() {
        let fields = "R 1 1 1 0 -1 4194304 103 0 0 0 41 17 0 0 20 0 1 0 189889 2998272";
        assert_eq!(own_ticks(&format!("15729 (bench) {fields}")), Some(58));
        assert_eq!(own_ticks(&format!("15729 (a ) b (1 2 3)) {fields}")), Some(58));
        assert_eq!(own_ticks("15729 (bench) R 1"), None);
    }

    #[test]
    fn pressure_throttling_and_sizes_are_read() {
        let pressure =
            "some avg10=3.35 avg60=0.96 avg300=0.49 total=23727757\nfull avg10=0.00 avg60=0 avg300=0 total=9\n";
        assert_eq!(pressure_us(pressure), Some(23_727_757));
        assert_eq!(pressure_us("full avg10=0 total=1"), None);
        assert_eq!(throttled_periods("nr_periods 4\nnr_throttled 3\nthrottled_time 0\n"), Some(3));
        assert_eq!(throttled_periods("usage_usec 5\n"), None);
        assert_eq!(swapped_pages("nr_free_pages 7\npswpin 3\npswpout 4\n"), Some(7));
        assert_eq!(swapped_pages("pswpin 3\n"), None);
        let status = "Name:\tbench\nVmHWM:\t    1768 kB\nVmRSS:\t    1700 kB\n";
        assert_eq!(status_bytes(status, "VmHWM"), Some(1768 * 1024));
        assert_eq!(status_bytes(status, "VmRSS"), Some(1700 * 1024));
        assert_eq!(status_bytes(status, "Vm"), None);
    }

    #[test]
    fn control_groups_of_both_versions_are_found() {
        let v2 = cpu_stat_paths("0::/user.slice/a:b\n");
        assert_eq!(v2[0], "sys/fs/cgroup/user.slice/a:b/cpu.stat");
        let v1 = cpu_stat_paths("4:memory:/x\n1:cpu,cpuacct:/job\n0::/\n");
        assert_eq!(v1[0], "sys/fs/cgroup/cpu,cpuacct/job/cpu.stat");
        assert_eq!(v1[1], "sys/fs/cgroup/cpu/job/cpu.stat");
        assert!(!cpu_stat_paths("").is_empty());
    }

    #[test]
    fn flags_and_choices_are_read() {
        assert_eq!(hypervisor("processor\t: 0\nflags\t\t: fpu hypervisor sse\n"), Some(true));
        assert_eq!(hypervisor("flags\t\t: fpu sse\n"), Some(false));
        assert_eq!(hypervisor("Features\t: fp asimd\n"), None);
        assert_eq!(bracketed("always [madvise] never"), Some("madvise"));
        assert_eq!(bracketed("always"), None);
    }
}
