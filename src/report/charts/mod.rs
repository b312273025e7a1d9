//! Charts as SVG text: the same run and evidence give the same bytes.
//!
//! All charts lie on white paper, so that they read the same in a light page, a dark page and on paper. Outcomes differ
//! by shape and by colour.

mod labels;
mod rows;
mod scatter;
mod slots;

use plotters::prelude::*;

use super::view;
use crate::decide::{Point, accuracy_question, judged_metric, memory_bytes, metric_name};
use crate::error::{Error, Result};
use crate::results::{Estimate, Evidence, Outcome, PhaseProfile, Run, VariantResult};
use crate::suite::{AccuracyMetric, MemoryMetric};
use crate::text;
use rows::Reached;
use scatter::{Axis, Limit, Mark, Scatter};

/// A drawing in SVG text; its backend cannot fail but says so in its types.
type Canvas<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

const INK: RGBColor = RGBColor(28, 36, 48);
const SOFT: RGBColor = RGBColor(91, 102, 117);
const GRID: RGBColor = RGBColor(231, 234, 239);
const FONT: &str = "system-ui, 'DejaVu Sans', sans-serif";
/// Size for plotters, which writes `size / 1.24` pixels.
const TEXT: i32 = 17;
/// Widest plausible advance of a character at [`TEXT`], pixels.
const CHARACTER: i32 = 8;

/// Largest number that an axis takes; beyond lies no measurement.
const LARGEST: f64 = 1e12;

/// A chart of the report.
#[derive(serde::Serialize)]
pub(super) struct Chart {
    /// File name.
    pub file: &'static str,
    /// For readers who do not see it.
    pub title: String,
    /// What it shows and how to read it.
    pub caption: String,
    /// The page's own chart shows the same where scripts run.
    pub interactive: bool,
    /// The drawing.
    pub svg: String,
}

/// What a variant's mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Accept,
    Reject,
    Inconclusive,
    Reference,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Accept, Kind::Reject, Kind::Inconclusive, Kind::Reference];

    fn of(variant: &VariantResult) -> Kind {
        match variant.verdict.as_ref().map(|v| v.outcome) {
            Some(Outcome::Accept) => Kind::Accept,
            Some(Outcome::Reject) => Kind::Reject,
            Some(Outcome::Inconclusive) => Kind::Inconclusive,
            None => Kind::Reference,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Accept => "accept",
            Kind::Reject => "reject",
            Kind::Inconclusive => "inconclusive",
            Kind::Reference => "reference",
        }
    }

    fn colour(self) -> RGBColor {
        match self {
            Kind::Accept => RGBColor(22, 128, 60),
            Kind::Reject => RGBColor(190, 40, 36),
            Kind::Inconclusive => RGBColor(176, 116, 0),
            Kind::Reference => RGBColor(31, 95, 174),
        }
    }

    /// Draws the mark at a pixel.
    fn draw(self, canvas: &Canvas<'_>, (x, y): (i32, i32)) -> Drawn {
        let fill = self.colour().filled();
        match self {
            Kind::Accept => canvas.draw(&Circle::new((x, y), 6, fill))?,
            Kind::Reject => {
                let line = self.colour().stroke_width(3);
                canvas.draw(&PathElement::new([(x - 5, y - 5), (x + 5, y + 5)], line))?;
                canvas.draw(&PathElement::new([(x - 5, y + 5), (x + 5, y - 5)], line))?;
            }
            Kind::Inconclusive => canvas.draw(&TriangleMarker::new((x, y), 8, fill))?,
            Kind::Reference => canvas.draw(&Rectangle::new([(x - 5, y - 5), (x + 5, y + 5)], fill))?,
        }
        Ok(())
    }
}

/// All charts of a run.
///
/// # Errors
/// When a drawing fails, which a string in memory does not.
pub(super) fn draw(run: &Run, evidence: &Evidence) -> Result<Vec<Chart>> {
    Ok(vec![frontier(run)?, memory(run)?, accuracies(run)?, latency(run, evidence)?, roofline(run)?])
}

/// Draws on white paper of a size in pixels.
fn paper(file: &str, size: (u32, u32), draw: impl FnOnce(&Canvas<'_>) -> Drawn) -> Result<String> {
    let mut svg = String::new();
    let drawn = {
        let canvas = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        canvas.fill(&WHITE).map_err(Into::into).and_then(|()| draw(&canvas)).and_then(|()| Ok(canvas.present()?))
    };
    drawn.map_err(|e| Error::input(format!("report/{file}"), e.to_string()))?;
    Ok(svg)
}

fn style(colour: RGBColor) -> TextStyle<'static> {
    (FONT, TEXT).into_font().color(&colour)
}

/// Judged speedup and the rule's accuracy of every variant that has both.
fn speed_and_accuracy(run: &Run) -> Vec<Mark> {
    let accept = &run.suite.accept;
    let point = Point::judged(&run.suite.workload, accept);
    let metric = metric_name(judged_metric(&run.suite.workload, accept));
    let mark = |variant: &VariantResult| {
        let (y, y_bounds) = accuracy(run, variant)?;
        let (x, x_bounds) = if variant.reference {
            (1.0, None)
        } else {
            point.of(variant)?.speedup.get(metric).map(value_and_bounds)?
        };
        Some(Mark { name: text::name(&variant.name), kind: Kind::of(variant), x, x_bounds, y, y_bounds })
    };
    run.variants.iter().filter_map(mark).collect()
}

/// Name, speedup and accuracy difference of the variants in a plot.
pub(super) fn places(run: &Run) -> Vec<super::plot::Place> {
    let marks = speed_and_accuracy(run).into_iter().filter(Mark::is_plottable);
    marks.map(|m| (m.name, m.x, m.y)).collect()
}

fn frontier(run: &Run) -> Result<Chart> {
    let accept = &run.suite.accept;
    let metric = metric_name(judged_metric(&run.suite.workload, accept));
    let limit = accept.speed.as_ref().map(|s| Limit { at: s.min_speedup, text: format!("S_min {}x", s.min_speedup) });
    let scatter = Scatter {
        x: Axis {
            title: format!("{metric} speedup over {}", text::name(&run.suite.reference)),
            limit,
            higher: true,
            negated: false,
        },
        y: accuracy_axis(run),
        marks: speed_and_accuracy(run),
        from_zero: false,
    };
    let file = "frontier.svg";
    Ok(Chart {
        file,
        title: format!("Accuracy against {metric} speedup"),
        caption: format!(
            "Better is up and to the right. Bars are intervals at {} % confidence; dashed lines are the thresholds, the \
             tinted area meets both. The line joins the Pareto frontier of these two axes.{}",
            100.0 * accept.confidence,
            missing(run, &scatter)
        ),
        interactive: true,
        svg: paper(file, scatter::SIZE, |canvas| scatter.draw(canvas))?,
    })
}

fn memory(run: &Run) -> Result<Chart> {
    const MIB: f64 = (1u64 << 20) as f64;
    let accept = &run.suite.accept;
    let metric = accept.memory.as_ref().map_or(MemoryMetric::Weights, |m| m.metric);
    let mark = |variant: &VariantResult| {
        let (y, y_bounds) = accuracy(run, variant)?;
        let x = memory_bytes(variant, metric).1? as f64 / MIB;
        Some(Mark { name: text::name(&variant.name), kind: Kind::of(variant), x, x_bounds: None, y, y_bounds })
    };
    let limit = accept.memory.as_ref().map(|m| {
        let at = m.max_bytes as f64 / MIB;
        Limit { at, text: format!("M_max {}", crate::units::bytes(m.max_bytes)) }
    });
    let scatter = Scatter {
        x: Axis { title: format!("{}, MiB", view::memory_name(run)), limit, higher: false, negated: false },
        y: accuracy_axis(run),
        marks: run.variants.iter().filter_map(mark).collect(),
        from_zero: true,
    };
    let file = "memory.svg";
    Ok(Chart {
        file,
        title: format!("Accuracy against {}", view::memory_name(run)),
        caption: format!(
            "Better is up and to the left. Memory is exact; bars are intervals of accuracy.{}",
            missing(run, &scatter)
        ),
        interactive: true,
        svg: paper(file, scatter::SIZE, |canvas| scatter.draw(canvas))?,
    })
}

fn latency(run: &Run, evidence: &Evidence) -> Result<Chart> {
    let point = Point::judged(&run.suite.workload, &run.suite.accept);
    let rows = slots::rows(run, evidence, point);
    let panels = slots::panels(&run.suite.workload);
    let file = "latency.svg";
    Ok(Chart {
        file,
        title: "Times of every slot".into(),
        caption: format!(
            "Each dot is one process (the median of its iterations) at batch {}, {} threads; the upright line is the \
             median over processes. Further left is faster.",
            point.batch, point.threads
        ),
        interactive: false,
        svg: paper(file, slots::size(&rows, panels), |canvas| slots::draw(canvas, &rows, panels))?,
    })
}

fn accuracies(run: &Run) -> Result<Chart> {
    let mark = |variant: &VariantResult| {
        let (y, y_bounds) = accuracy(run, variant)?;
        let mark =
            Mark { name: text::name(&variant.name), kind: Kind::of(variant), x: 0.0, x_bounds: None, y, y_bounds };
        Some(mark).filter(Mark::is_plottable)
    };
    let marks: Vec<Mark> = run.variants.iter().filter_map(mark).collect();
    let axis = accuracy_axis(run);
    let file = "accuracy.svg";
    Ok(Chart {
        file,
        title: "Accuracy against the reference".into(),
        caption: format!(
            "The rule's accuracy with intervals at {} % confidence; better is to the right, the dashed line is the threshold.",
            100.0 * run.suite.accept.confidence
        ),
        interactive: false,
        svg: paper(file, rows::size(marks.len()), |canvas| rows::draw_accuracy(canvas, &axis, &marks))?,
    })
}

fn roofline(run: &Run) -> Result<Chart> {
    let point = Point::judged(&run.suite.workload, &run.suite.accept);
    let of = |variant: &VariantResult| -> Vec<Reached> {
        let phases = point.of(variant).map(|p| p.phases.as_slice()).unwrap_or_default();
        let reached = |p: &PhaseProfile| {
            let bound = p.bound?;
            let name = format!("{}, {}", text::shorten(&text::name(&variant.name), 16), text::one_line(&p.phase));
            let share = bound.seconds / p.seconds;
            share.is_finite().then_some(Reached { name, share, by: bound.by.name() })
        };
        phases.iter().filter_map(reached).collect()
    };
    let phases: Vec<Reached> = run.variants.iter().flat_map(of).collect();
    let file = "roofline.svg";
    Ok(Chart {
        file,
        title: "How near each phase came to the machine's limit".into(),
        caption:
            "The least time that this machine could take to read the weights, or to multiply and add, whichever is \
                  longer, over the time of one profiled iteration."
                .into(),
        interactive: false,
        svg: paper(file, rows::size(phases.len()), |canvas| rows::draw_reached(canvas, &phases))?,
    })
}

/// The rule's accuracy difference, positive where better than the reference, in the rule's unit.
fn accuracy(run: &Run, variant: &VariantResult) -> Option<(f64, Option<(f64, f64)>)> {
    let limit = &run.suite.accept.accuracy;
    if variant.reference {
        let scored = variant.scores.contains_key(&limit.task)
            || variant.choices.contains_key(&limit.task)
            || variant.similarities.contains_key(&limit.task);
        if !scored {
            return None;
        }
        return Some((0.0, None));
    }
    let (value, bounds) = value_and_bounds(accuracy_question(limit, variant).estimate?);
    Some(if limit.metric.rises_with_loss() {
        (-value, bounds.map(|(low, high)| (-high, -low)))
    } else {
        (value, bounds)
    })
}

fn accuracy_axis(run: &Run) -> Axis {
    let (title, at, text) = match run.suite.accept.accuracy.metric {
        AccuracyMetric::Perplexity { max_increase_percent: max } => {
            ("increase of perplexity, %", -max, format!("dAcc_max {max} %"))
        }
        AccuracyMetric::TokenAccuracy { max_drop_points: max } => {
            ("change of token accuracy, points", -max, format!("dAcc_max {max} points"))
        }
        AccuracyMetric::Accuracy { max_drop_points: max } => {
            ("change of accuracy, points", -max, format!("dAcc_max {max} points"))
        }
        AccuracyMetric::AccuracyNorm { max_drop_points: max } => {
            ("change of accuracy per token, points", -max, format!("dAcc_max {max} points"))
        }
        AccuracyMetric::LogLikelihood { max_drop: max } => {
            ("change of log-likelihood, nats per token", -max, format!("dAcc_max {max} nats"))
        }
        AccuracyMetric::Similarity { max_drop: max } => {
            ("mean cosine to the reference, less 1", -max, format!("dAcc_max {max}"))
        }
    };
    let negated = run.suite.accept.accuracy.metric.rises_with_loss();
    Axis { title: title.into(), limit: Some(Limit { at, text }), higher: true, negated }
}

fn value_and_bounds(estimate: &Estimate) -> (f64, Option<(f64, f64)>) {
    (estimate.value, estimate.low.zip(estimate.high))
}

/// Names of variants that a chart cannot show, as a sentence.
fn missing(run: &Run, scatter: &Scatter) -> String {
    let shown = |v: &&VariantResult| !scatter.marks.iter().any(|m| m.name == text::name(&v.name) && m.is_plottable());
    let names: Vec<String> = run.variants.iter().filter(shown).map(|v| text::name(&v.name)).collect();
    if names.is_empty() { String::new() } else { format!(" Not shown for lack of numbers: {}.", names.join(", ")) }
}
