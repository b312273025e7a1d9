//! Raw times as dots: every timed iteration of a variant, none left out, one row of dots a process.

use serde::Serialize;

use super::view;
use crate::decide::Point;
use crate::results::{Evidence, Run, Sample, Slot};
use crate::stats::{quantile, quantile_interval};
use crate::units;

/// Width of the drawing, pixels; times lie between its margins.
const WIDTH: f64 = 640.0;
const MARGIN: f64 = 8.0;

/// Height of a process's row of dots, and of all.
const ROW: f64 = 5.0;
const TOP: f64 = 6.0;

/// Most processes that get a row of their own; later ones start again at the first.
const ROWS: usize = 16;

/// The iterations of a variant at the judged point.
#[derive(Debug, Serialize)]
pub(super) struct Strip {
    title: &'static str,
    /// Quantiles in words.
    summary: String,
    width: f64,
    height: f64,
    /// (x, y) of every iteration, pixels.
    dots: Vec<(f64, f64)>,
    /// x of the median and of the 90th percentile.
    median: f64,
    p90: f64,
    /// Time at the right margin, and where it is.
    end: String,
}

/// A time of a sample.
type Time = fn(&Slot, &Sample) -> f64;

/// Strips of every variant, in the suite's order; those of one kind share their scale.
pub(super) fn strips(run: &Run, evidence: &Evidence) -> Vec<Vec<Strip>> {
    let kinds: &[(&str, Time)] = match run.suite.workload.encodes() {
        true => &[("time of a batch", |_, s| s.ttft_s)],
        false => &[("time per output token", |slot, s| s.tpot_s(slot.batch)), ("time to first token", |_, s| s.ttft_s)],
    };
    let point = Point::judged(&run.suite.workload, &run.suite.accept);
    let slots = |name: &str| -> Vec<&Slot> {
        let here = |s: &&Slot| s.batch == point.batch && s.threads == point.threads && !s.control;
        evidence.variants.get(name).map_or(Vec::new(), |v| v.slots.iter().filter(here).collect())
    };
    let mut all: Vec<Vec<Strip>> = run.variants.iter().map(|_| Vec::new()).collect();
    for (title, time) in kinds {
        let times: Vec<Vec<Vec<f64>>> = run.variants.iter().map(|v| by_process(&slots(&v.name), *time)).collect();
        let most = times.iter().flatten().flatten().copied().fold(0.0, f64::max);
        for (own, times) in all.iter_mut().zip(&times) {
            own.extend(strip(title, times, most));
        }
    }
    all
}

fn by_process(slots: &[&Slot], time: Time) -> Vec<Vec<f64>> {
    let sound = |t: &f64| *t > 0.0 && t.is_finite();
    slots.iter().map(|slot| slot.samples.iter().map(|s| time(slot, s)).filter(sound).collect()).collect()
}

/// The interval of a quantile at 95 % by order statistics. Iterations of one process resemble each other, so one of each
/// counts, the last.
fn interval(times: &[Vec<f64>], p: f64) -> String {
    let independent: Vec<f64> = times.iter().filter_map(|times| times.last().copied()).collect();
    let bounds = quantile_interval(&independent, p, 0.95).and_then(|interval| interval.bounds);
    bounds.map_or("(insufficient for an interval)".into(), |(low, high)| {
        format!("[{}, {}]", units::seconds(low), units::seconds(high))
    })
}

fn strip(title: &'static str, times: &[Vec<f64>], most: f64) -> Option<Strip> {
    let all: Vec<f64> = times.iter().flatten().copied().collect();
    let [median, p90] = [0.5, 0.9].map(|q| quantile(&all, q));
    let (median, p90) = (median?, p90?);
    let slowest = all.iter().copied().fold(0.0, f64::max);
    let tenth = |v: f64| (10.0 * v).round() / 10.0;
    let x = |time: f64| tenth(MARGIN + (WIDTH - 2.0 * MARGIN) * time / most);
    let y = |process: usize| TOP + ROW * (process % ROWS) as f64;
    let dots = times.iter().enumerate().flat_map(|(process, times)| times.iter().map(move |t| (x(*t), y(process))));
    Some(Strip {
        title,
        summary: format!(
            "{} iterations in {} processes: median {} {}, p90 {} {}, p99 {}, slowest {}",
            all.len(),
            times.len(),
            units::seconds(median),
            interval(times, 0.5),
            units::seconds(p90),
            interval(times, 0.9),
            interval(times, 0.99),
            units::seconds(slowest)
        ),
        width: WIDTH,
        height: 2.0 * TOP + ROW * times.len().clamp(1, ROWS) as f64,
        dots: dots.collect(),
        median: x(median),
        p90: x(p90),
        end: format!("0 {} {}", view::MISSING, units::seconds(most)),
    })
}
