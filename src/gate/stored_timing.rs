//! Times against stored sessions of the same class of machines.
//!
//! What is compared is `y = ln T - (ln C + ln M) / 2`: the time less that of frozen work of the same session, which
//! computes (C) or reads memory (M), so that a machine that is slower today is not mistaken for a slower program. A session
//! is one value, for machines differ more between sessions than slots do within one. With K sessions of mean ȳ and
//! standard deviation s the next lies below `ȳ + t s √(1 + 1/K)` with probability 1 - α/m (prediction interval, Student's t
//! with K - 1 degrees of freedom, m times in all). Beyond it *and* slower by more than a tolerance fails. With fewer than
//! eight sessions nothing is gated. Times of another class are never rescaled: there is nothing to compare with.

use serde::{Deserialize, Serialize};

use super::baseline::TimingClass;
use super::observed::{Observed, Session};
use super::verdict::{Check, Level, State};
use crate::stats::{mean, t_quantile};

/// Sessions below which the spread between sessions is not known.
const LEAST_SESSIONS: usize = 8;

/// Slower than the mean of the sessions by less than this is no matter, percent.
const TOLERANCE_PERCENT: f64 = 10.0;

/// What is done with times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimingMode {
    /// A slower variant fails; another class of machines is not comparable.
    Gate,
    /// Said, but never counted.
    Advisory,
    /// Nothing is timed.
    Skip,
}

/// Holds a session against stored ones of the baseline or its anchor; `since` names which.
pub fn stored_timing(observed: &Observed, timings: &[TimingClass], since: &str, mode: TimingMode) -> Vec<Check> {
    let Some(session) = observed.session.as_ref().filter(|_| mode != TimingMode::Skip) else { return Vec::new() };
    let gated = |state| if mode == TimingMode::Gate { state } else { State::Advisory };
    let whole = |state, message| vec![Check::new(Level::Timing, "", format!("sessions of {since}"), state, message)];
    if timings.is_empty() {
        return whole(State::Advisory, "no session is stored; `bench baseline update` stores this one".into());
    }
    let of_class = timings.iter().find(|timing| timing.class == observed.machine_class);
    let Some(class) = of_class else {
        let others: Vec<&str> = timings.iter().map(|t| t.class.as_str()).collect();
        return whole(
            gated(State::NotComparable),
            format!(
                "times are not comparable: this machine is {}, sessions are stored for {}; measure on such a machine, or \
                 leave times out with --timing=skip",
                observed.machine_class,
                others.join("; ")
            ),
        );
    };
    let sessions: Vec<&Session> = class.sessions.iter().filter(|s| s.pace.version == session.pace.version).collect();
    let series: Vec<(&String, &String)> =
        session.log_seconds.iter().flat_map(|(variant, times)| times.keys().map(move |name| (variant, name))).collect();
    let rate = (1.0 - observed.suite.accept.confidence) / series.len().max(1) as f64;
    let check = |(variant, name): (&String, &String)| {
        let stored: Vec<f64> = sessions.iter().filter_map(|s| paced(s, variant, name)).collect();
        let now = paced(session, variant, name)?;
        let (state, message) = judge(&stored, now, rate);
        Some(Check::new(Level::Timing, variant, format!("{name} since {since}"), gated(state), message))
    };
    series.into_iter().filter_map(check).collect()
}

/// `ln` of the time less that of the frozen work.
fn paced(session: &Session, variant: &str, name: &str) -> Option<f64> {
    let work = &session.pace;
    let y = session.log_seconds.get(variant)?.get(name)? - f64::midpoint(work.compute_s.ln(), work.memory_s.ln());
    y.is_finite().then_some(y)
}

fn judge(stored: &[f64], now: f64, rate: f64) -> (State, String) {
    let count = stored.len();
    let Some(centre) = mean(stored) else { return (State::Advisory, "no stored session has this time".into()) };
    let percent = |log: f64| 100.0 * log.exp_m1();
    let change = now - centre;
    let said =
        format!("{:+.1} % against the mean of {count} sessions, the pace of the machine taken out", percent(change));
    let spread =
        (stored.iter().map(|y| (y - centre).powi(2)).sum::<f64>() / count.saturating_sub(1).max(1) as f64).sqrt();
    let quantile = t_quantile(1.0 - rate, count.saturating_sub(1)).filter(|_| count >= LEAST_SESSIONS);
    let Some(quantile) = quantile else {
        return (State::Advisory, format!("{said}; gated from {LEAST_SESSIONS} sessions on"));
    };
    let half = quantile * spread * (1.0 + 1.0 / count as f64).sqrt();
    let tolerance = (TOLERANCE_PERCENT / 100.0).ln_1p();
    let said = format!("{said}; the next was foreseen within {:.1} % and {:.1} %", percent(-half), percent(half));
    if change > half && change > tolerance {
        (State::Fail, format!("slower: {said}, tolerance {TOLERANCE_PERCENT} %"))
    } else if change < -half && change < -tolerance {
        (State::Notice, format!("faster: {said}; `bench baseline update` keeps it"))
    } else {
        (State::Pass, said)
    }
}

#[cfg(test)]
mod tests {
    use super::super::baseline::tests::observed;
    use super::*;
    use crate::machine::Pace;
    use std::collections::BTreeMap;

    /// A session in which the machine is slower by `machine` and the program by `program`, both as logarithms.
    fn session(machine: f64, program: f64) -> Session {
        let of = |seconds: f64| seconds * machine.exp();
        Session {
            unix_s: 0.0,
            pace: Pace { version: 1, compute_s: of(0.01), memory_s: of(0.02), fork_join_s: 1e-4 },
            log_seconds: BTreeMap::from([("v".into(), BTreeMap::from([("decode b1t1".into(), machine + program)]))]),
        }
    }

    fn check(sessions: usize, now: Session, mode: TimingMode) -> Check {
        // Sessions differ by 2 % and more from each other, as machine and as program.
        let stored = (0..sessions).map(|at| session(0.1 * (at % 3) as f64, 0.02 * (at % 4) as f64)).collect();
        let class = TimingClass { class: "m".into(), sessions: stored };
        let observed = Observed { session: Some(now), ..observed() };
        stored_timing(&observed, &[class], "the baseline", mode).remove(0)
    }

    #[test]
    fn a_slower_program_fails_and_a_slower_machine_does_not() {
        let state = |sessions, machine, program| check(sessions, session(machine, program), TimingMode::Gate).state;
        assert_eq!(state(12, 0.0, 0.3), State::Fail);
        assert_eq!(state(12, 0.5, 0.03), State::Pass);
        assert_eq!(state(12, 0.0, 0.08), State::Pass, "within the tolerance");
        assert_eq!(state(12, 0.0, -0.3), State::Notice);
        assert_eq!(state(7, 0.0, 0.3), State::Advisory, "seven sessions");
        assert_eq!(check(12, session(0.0, 0.3), TimingMode::Advisory).state, State::Advisory);
    }

    #[test]
    fn another_class_is_not_comparable_and_never_rescaled() {
        let class = TimingClass { class: "another machine".into(), sessions: vec![session(0.0, 0.0); 9] };
        let now = Observed { session: Some(session(0.0, 5.0)), ..observed() };
        let states = |mode| {
            stored_timing(&now, std::slice::from_ref(&class), "it", mode).iter().map(|c| c.state).collect::<Vec<_>>()
        };
        assert_eq!(states(TimingMode::Gate), [State::NotComparable]);
        assert_eq!(states(TimingMode::Advisory), [State::Advisory]);
        assert_eq!(states(TimingMode::Skip), []);
    }

    #[test]
    fn frozen_work_of_another_version_is_not_mixed() {
        let mut now = session(0.0, 0.3);
        now.pace.version = 2;
        assert_eq!(check(12, now, TimingMode::Gate).state, State::Advisory);
    }
}
