//! Threads that spin briefly, then yield, then park.

/// A pool of `threads - 1` workers; the caller is the last thread.
#[derive(Debug)]
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool of exactly `threads` threads.
    ///
    /// # Panics
    /// When `threads` is 0.
    pub fn new(threads: usize) -> Self {
        assert!(threads > 0, "a pool needs a thread");
        Pool { threads }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(thread)` for every thread of `0..threads` and returns when all are done. A panic in any of them
    /// is raised again here.
    pub fn run(&self, task: &(dyn Fn(usize) + Sync)) {
        let _ = task;
        todo!("kernels")
    }

    /// The share of `0..items` of thread `thread`: contiguous, differing by at most one `unit`; starts are multiples
    /// of `unit`.
    pub fn share(&self, thread: usize, items: usize, unit: usize) -> std::ops::Range<usize> {
        let units = items.div_ceil(unit);
        let start = units * thread / self.threads;
        let end = units * (thread + 1) / self.threads;
        (start * unit).min(items)..(end * unit).min(items)
    }
}
