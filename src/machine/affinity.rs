//! Keeps a process on a fixed set of processors, one of each core, so that no slot is timed on the two threads of one
//! core while another is timed on two cores.

use std::fs;
use std::path::Path;

/// Restricts this process, and the threads that it starts from now on, to as many processors as it has `threads`, on
/// different cores as far as there are any; returns their numbers. `None` where the system offers nothing of the kind
/// or the process may use too few.
pub fn pin(threads: usize) -> Option<Vec<usize>> {
    let chosen = choose(&allowed()?, threads, |processor| siblings(Path::new("/"), processor))?;
    restrict(&chosen).then_some(chosen)
}

/// The last processors first, as the first serves most interrupts; a core's second processor only when all cores have
/// one.
fn choose(allowed: &[usize], threads: usize, core: impl Fn(usize) -> String) -> Option<Vec<usize>> {
    let mut cores: Vec<String> = Vec::new();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for processor in allowed.iter().rev().copied() {
        let core = core(processor);
        if cores.contains(&core) {
            second.push(processor);
        } else {
            cores.push(core);
            first.push(processor);
        }
    }
    let mut chosen: Vec<usize> = first.into_iter().chain(second).take(threads).collect();
    chosen.sort_unstable();
    (chosen.len() == threads && threads > 0).then_some(chosen)
}

/// What tells a processor's core: the list of the processors on it, or its own number where that is not told.
fn siblings(root: &Path, processor: usize) -> String {
    let path = root.join(format!("sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"));
    fs::read_to_string(path).map_or_else(|_| processor.to_string(), |text| text.trim().into())
}

#[cfg(target_os = "linux")]
fn allowed() -> Option<Vec<usize>> {
    // SAFETY: a `cpu_set_t` is an array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to writable memory of the size that is told; 0 is this process.
    let code = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    // SAFETY: every number is below the size of the set.
    let processors = (0..libc::CPU_SETSIZE as usize).filter(|&processor| unsafe { libc::CPU_ISSET(processor, &set) });
    (code == 0).then(|| processors.collect())
}

#[cfg(target_os = "linux")]
fn restrict(processors: &[usize]) -> bool {
    // SAFETY: a `cpu_set_t` is an array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &processor in processors {
        // SAFETY: the numbers come from a set of the same size.
        unsafe { libc::CPU_SET(processor, &mut set) };
    }
    // SAFETY: the pointer is to memory of the size that is told; 0 is this process.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> Option<Vec<usize>> {
    None
}

#[cfg(not(target_os = "linux"))]
fn restrict(_: &[usize]) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_of_each_core_is_taken_before_a_second_of_any() {
        // Two threads a core: 0 and 4, 1 and 5, ...
        let core = |processor: usize| (processor % 4).to_string();
        let all: Vec<usize> = (0..8).collect();
        assert_eq!(choose(&all, 2, core), Some(vec![6, 7]));
        assert_eq!(choose(&all, 4, core), Some(vec![4, 5, 6, 7]));
        assert_eq!(choose(&all, 5, core), Some(vec![3, 4, 5, 6, 7]));
        assert_eq!(choose(&[0, 4], 1, core), Some(vec![4]));
        assert_eq!(choose(&[1, 2], 3, core), None);
        assert_eq!(choose(&[1, 2], 0, core), None);
    }

    /// In a thread of its own, since only that one is restricted.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_stays_where_it_was_put() {
        let stays = std::thread::spawn(|| {
            let chosen = pin(1).unwrap();
            (allowed().unwrap(), chosen)
        });
        let (allowed, chosen) = stays.join().unwrap();
        assert_eq!(allowed, chosen);
    }
}
