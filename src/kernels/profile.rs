//! Where the time of a pass goes.
//!
//! Everything that takes time runs on a [`Pool`], so the pool keeps the account: [`Pool::part`] books the time of some
//! work under a [`Part`], without what the parts inside it took. The account is kept only inside [`Pool::profile`];
//! otherwise a part costs one load and one branch that is never taken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::pool::Pool;

/// What a pass spends its time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Products with the weights of linear layers.
    Linear,
    /// Forms of the inputs that kernels take (8-bit codes with their sums, bfloat16, padded rows), where they are not made
    /// together with the values.
    Inputs,
    /// Attention with what belongs to it: rotation, storing keys and values.
    Attention,
    /// Product with the weights of the output head.
    Head,
    /// Everything else: norms, activation functions, residuals, lookups.
    Rest,
}

/// Seconds of each part, as the calling thread saw them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Profile {
    /// [`Part::Linear`].
    pub linear: f64,
    /// [`Part::Inputs`].
    pub inputs: f64,
    /// [`Part::Attention`].
    pub attention: f64,
    /// [`Part::Head`].
    pub head: f64,
    /// [`Part::Rest`].
    pub rest: f64,
}

impl Profile {
    /// All parts together.
    pub fn total(&self) -> f64 {
        self.linear + self.inputs + self.attention + self.head + self.rest
    }

    /// Every part divided by all together.
    pub fn shares(&self) -> Profile {
        let share = |seconds: f64| seconds / self.total();
        Profile {
            linear: share(self.linear),
            inputs: share(self.inputs),
            attention: share(self.attention),
            head: share(self.head),
            rest: share(self.rest),
        }
    }

    fn of(&mut self, part: Part) -> &mut f64 {
        match part {
            Part::Linear => &mut self.linear,
            Part::Inputs => &mut self.inputs,
            Part::Attention => &mut self.attention,
            Part::Head => &mut self.head,
            Part::Rest => &mut self.rest,
        }
    }
}

/// The account of a pool.
#[derive(Debug, Default)]
pub(super) struct Account {
    open: AtomicBool,
    entries: Mutex<Option<Entries>>,
}

/// What is booked so far, and the part that runs now.
#[derive(Debug)]
struct Entries {
    /// The thread whose time is booked.
    thread: ThreadId,
    profile: Profile,
    part: Part,
    since: Instant,
}

impl Account {
    /// Books the time since the last call and goes on with `part`; returns the part that ran.
    fn switch(&self, part: Part) -> Part {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entries) = entries.as_mut().filter(|entries| entries.thread == thread::current().id()) else {
            return part;
        };
        let now = Instant::now();
        *entries.profile.of(entries.part) += (now - entries.since).as_secs_f64();
        entries.since = now;
        std::mem::replace(&mut entries.part, part)
    }
}

impl Pool {
    /// Does `work`, whose time belongs to `part`.
    pub fn part<R>(&self, part: Part, work: impl FnOnce() -> R) -> R {
        if !self.account.open.load(Ordering::Relaxed) {
            return work();
        }
        let outer = self.account.switch(part);
        let result = work();
        self.account.switch(outer);
        result
    }

    /// Does `work` and says what the calling thread spent its time on. Where threads work apart from each other, waiting
    /// for the others at the end is [`Part::Rest`].
    pub fn profile<R>(&self, work: impl FnOnce() -> R) -> (R, Profile) {
        let entries = || self.account.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = thread::current().id();
        *entries() = Some(Entries { thread, profile: Profile::default(), part: Part::Rest, since: Instant::now() });
        self.account.open.store(true, Ordering::Relaxed);
        let result = work();
        self.account.open.store(false, Ordering::Relaxed);
        self.account.switch(Part::Rest);
        let profile = entries().take().map_or_else(Profile::default, |entries| entries.profile);
        (result, profile)
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_is_booked_under_the_innermost_part() {
        let pool = Pool::new(2);
        let nap = || sleep(Duration::from_millis(20));
        let start = Instant::now();
        let (answer, profile) = pool.profile(|| {
            pool.part(Part::Linear, || {
                pool.part(Part::Inputs, nap);
                nap();
                nap();
            });
            nap();
            42
        });
        let wall = start.elapsed().as_secs_f64();
        assert_eq!(answer, 42);
        assert!(profile.linear >= 0.04 && profile.inputs >= 0.02 && profile.rest >= 0.02, "{profile:?}");
        assert_eq!((profile.attention, profile.head), (0.0, 0.0));
        // Nothing is booked twice or lost.
        assert!(profile.total() <= wall && profile.total() > 0.9 * wall, "{profile:?} of {wall}");
        assert!((profile.shares().total() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_is_booked_outside_a_profile_and_each_starts_anew() {
        let pool = Pool::new(1);
        let work = || pool.part(Part::Head, || sleep(Duration::from_millis(2)));
        work();
        let ((), first) = pool.profile(work);
        work();
        let ((), second) = pool.profile(|| ());
        assert!(first.head >= 0.002);
        assert_eq!(second.head, 0.0);
    }
}
