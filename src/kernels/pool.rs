//! Threads that spin briefly, then yield, then park.
//!
//! A region (one [`Pool::run`]) is opened by raising an epoch that the workers watch, and closed when each worker has
//! written the epoch into a flag of its own, on a cache line of its own. A worker that finds no work spins for tens of
//! microseconds, so that regions in quick succession (the layers of a decode step) cost well below a microsecond; then
//! it yields, then it parks, so that an idle or oversubscribed machine is left alone.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::profile::Account;

/// How long a thread spins before it yields: longer than the serial work between two regions of a decode step.
const SPIN: Duration = Duration::from_micros(40);
/// Where spinning was in vain (the other thread waits for this very core), the time halves down to this.
const SHORTEST_SPIN: Duration = Duration::from_micros(1);
/// How often it then yields before it parks.
const YIELDS: usize = 64;

/// Two cache lines, because processors prefetch lines in pairs.
#[repr(align(128))]
struct Padded<T>(T);

type Task<'a> = dyn Fn(usize) + Sync + 'a;

struct Worker {
    /// The last epoch that this worker has finished.
    done: AtomicUsize,
    parked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

struct Shared {
    epoch: Padded<AtomicUsize>,
    stop: AtomicBool,
    /// The task of the open region; written by the caller before it raises the epoch, read by workers after.
    task: UnsafeCell<Option<*const Task<'static>>>,
    workers: Box<[Padded<Worker>]>,
    caller_parked: AtomicBool,
    caller: Mutex<Option<Thread>>,
    /// How long the caller spins now; used under the region lock.
    caller_spin: Cell<Duration>,
    longest_spin: Duration,
}

// SAFETY: `task` is written only by the caller that holds the region lock while no region is open, and read by workers
// only between the epoch's rise (release) and their own `done` (release); `caller_spin` is used only under that lock;
// everything else is atomic or locked.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `task` refers to a `Sync` closure that outlives the region; see `Pool::run`.
unsafe impl Send for Shared {}

/// A pool of `threads - 1` workers; the caller is the last thread.
pub struct Pool {
    threads: usize,
    shared: Arc<Shared>,
    region: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
    pub(super) account: Account,
}

thread_local! {
    /// Whether this thread is inside a region of any pool.
    static IN_REGION: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of exactly `threads` threads.
    ///
    /// # Panics
    /// When `threads` is 0, or the system refuses a thread.
    pub fn new(threads: usize) -> Self {
        assert!(threads > 0, "a pool needs a thread");
        let oversubscribed = thread::available_parallelism().is_ok_and(|cores| threads > cores.get());
        let worker =
            || Padded(Worker { done: AtomicUsize::new(0), parked: AtomicBool::new(false), panic: Mutex::new(None) });
        let shared = Arc::new(Shared {
            epoch: Padded(AtomicUsize::new(0)),
            stop: AtomicBool::new(false),
            task: UnsafeCell::new(None),
            workers: (1..threads).map(|_| worker()).collect(),
            caller_parked: AtomicBool::new(false),
            caller: Mutex::new(None),
            caller_spin: Cell::new(SPIN),
            longest_spin: if oversubscribed { SHORTEST_SPIN } else { SPIN },
        });
        let workers = (0..threads - 1)
            .map(|index| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("kernel-{index}"))
                    .spawn(move || work(&shared, index))
                    .unwrap_or_else(|e| panic!("cannot start a thread: {e}"))
            })
            .collect();
        Pool { threads, shared, region: Mutex::new(()), workers, account: Account::default() }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(thread)` for every thread of `0..threads` and returns when all are done. A panic in any of them
    /// is raised again here.
    ///
    /// Callers on several threads take turns. Inside a region of this or another pool the shares run one after the
    /// other on the calling thread: results are the same, because shares depend only on `threads`.
    pub fn run(&self, task: &(dyn Fn(usize) + Sync)) {
        if self.threads == 1 || IN_REGION.get() {
            (0..self.threads).for_each(task);
            return;
        }
        let _region = lock(&self.region);
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. Workers use the task only inside this region, and this function does
        // not return (nor unwind) before every worker has finished it.
        let erased = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: no region is open (we hold the lock), so no worker reads `task` now.
        unsafe { *shared.task.get() = Some(erased) };
        let epoch = shared.epoch.0.load(Ordering::Relaxed).wrapping_add(1);
        shared.epoch.0.store(epoch, Ordering::Release);
        self.wake_parked();

        let own = in_region(|| catch_unwind(AssertUnwindSafe(|| task(self.threads - 1))));

        for worker in &shared.workers {
            let ready = || worker.0.done.load(Ordering::Acquire) == epoch;
            if !spin_until(&shared.caller_spin, shared.longest_spin, ready) {
                park_caller_until(shared, ready);
            }
        }
        let panicked = shared.workers.iter().filter_map(|w| lock(&w.0.panic).take()).next();
        if let Some(panic) = own.err().or(panicked) {
            resume_unwind(panic);
        }
    }

    /// Splits `0..items` over the threads and runs `task` on each thread's share; in one piece on the calling thread
    /// when the work is too small to be worth a region.
    pub fn split(&self, items: usize, unit: usize, worthwhile: bool, task: &(dyn Fn(Range<usize>) + Sync)) {
        if !worthwhile || self.threads == 1 {
            task(0..items);
        } else {
            self.run(&|thread| {
                let share = self.share(thread, items, unit);
                if !share.is_empty() {
                    task(share);
                }
            });
        }
    }

    /// Runs `task(thread, item)` for every item of `0..items`, in order, each on the next thread that is free: for items
    /// that take unequal times.
    pub fn each(&self, items: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let next = AtomicUsize::new(0);
        self.run(&|thread| {
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= items {
                    break;
                }
                task(thread, item);
            }
        });
    }

    /// The share of `0..items` of thread `thread`: contiguous, differing by at most one `unit`; starts are multiples
    /// of `unit`.
    pub fn share(&self, thread: usize, items: usize, unit: usize) -> Range<usize> {
        let units = items.div_ceil(unit);
        let start = units * thread / self.threads;
        let end = units * (thread + 1) / self.threads;
        (start * unit).min(items)..(end * unit).min(items)
    }

    fn wake_parked(&self) {
        // Pairs with the fence in `work`: either the worker sees the new epoch, or we see that it is parked.
        fence(Ordering::SeqCst);
        for (state, handle) in self.shared.workers.iter().zip(&self.workers) {
            if state.0.parked.load(Ordering::Relaxed) {
                handle.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.0.fetch_add(1, Ordering::Release);
        self.wake_parked();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so it ends without one.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// A worker's life: wait for a new epoch, do its task, say so.
fn work(shared: &Shared, index: usize) {
    let worker = &shared.workers[index].0;
    let mut seen = 0;
    let spin = Cell::new(SPIN);
    loop {
        let ready = || shared.epoch.0.load(Ordering::Acquire) != seen;
        if !spin_until(&spin, shared.longest_spin, ready) {
            worker.parked.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            while !ready() {
                thread::park();
            }
            worker.parked.store(false, Ordering::Relaxed);
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        seen = shared.epoch.0.load(Ordering::Acquire);
        // SAFETY: the epoch rose, so the caller has written the task and keeps it alive until we are done.
        let task = unsafe { (*shared.task.get()).map(|task| &*task) };
        if let Some(task) = task
            && let Err(panic) = in_region(|| catch_unwind(AssertUnwindSafe(|| task(index))))
        {
            *lock(&worker.panic) = Some(panic);
        }
        worker.done.store(seen, Ordering::Release);
        // Pairs with the fence in `park_caller_until`.
        fence(Ordering::SeqCst);
        if shared.caller_parked.load(Ordering::Relaxed)
            && let Some(caller) = &*lock(&shared.caller)
        {
            caller.unpark();
        }
    }
}

/// Spins for `spin`, then yields; false when `ready` has not come true. Success doubles the next spin, up to `longest`;
/// failure halves it.
fn spin_until(spin: &Cell<Duration>, longest: Duration, ready: impl Fn() -> bool) -> bool {
    let budget = spin.get().min(longest);
    let start = Instant::now();
    loop {
        for _ in 0..16 {
            if ready() {
                spin.set((budget * 2).min(longest));
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() >= budget {
            break;
        }
    }
    spin.set((budget / 2).max(SHORTEST_SPIN));
    for _ in 0..YIELDS {
        if ready() {
            return true;
        }
        thread::yield_now();
    }
    ready()
}

fn park_caller_until(shared: &Shared, ready: impl Fn() -> bool) {
    *lock(&shared.caller) = Some(thread::current());
    shared.caller_parked.store(true, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    while !ready() {
        thread::park();
    }
    shared.caller_parked.store(false, Ordering::Relaxed);
}

/// Marks this thread as inside a region while `f` runs (`f` must not unwind).
fn in_region<R>(f: impl FnOnce() -> R) -> R {
    IN_REGION.set(true);
    let result = f();
    IN_REGION.set(false);
    result
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic is caught before it can leave a value half written, so a poisoned lock is still good.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_once_per_region() {
        for threads in [1, 2, 3, 7] {
            let pool = Pool::new(threads);
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..500 {
                pool.run(&|t| {
                    counts[t].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 500));
        }
    }

    #[test]
    fn workers_wake_after_parking() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(5));
            pool.run(&|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.into_inner(), 6);
    }

    #[test]
    fn the_caller_waits_for_a_slow_worker() {
        let pool = Pool::new(2);
        let finished = AtomicBool::new(false);
        pool.run(&|t| {
            if t == 0 {
                thread::sleep(Duration::from_millis(20));
                finished.store(true, Ordering::Relaxed);
            }
        });
        assert!(finished.into_inner());
    }

    #[test]
    fn a_panic_is_raised_again_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for thread in 0..3 {
            let caught = catch_unwind(AssertUnwindSafe(|| pool.run(&|t| assert_ne!(t, thread, "told to"))));
            assert!(caught.is_err());
        }
        let count = AtomicUsize::new(0);
        pool.run(&|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 3);
    }

    #[test]
    fn nested_and_concurrent_use_is_safe() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(&|_| {
                            pool.run(&|_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 3 * 50 * 2 * 2);
    }

    #[test]
    fn shares_cover_everything_once() {
        let pool = Pool::new(3);
        for (items, unit) in [(0, 1), (1, 4), (10, 1), (100, 16), (7, 3)] {
            let mut next = 0;
            for t in 0..3 {
                let share = pool.share(t, items, unit);
                assert_eq!(share.start, next);
                assert!(share.start.is_multiple_of(unit) || share.is_empty());
                next = share.end;
            }
            assert_eq!(next, items);
        }
    }
}
