//! Every slot's time as a dot, one row a variant: what the intervals are made of.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::scatter::ticks;
use super::{Canvas, Drawn, GRID, INK, Kind, LARGEST, SOFT, style};
use crate::decide::Point;
use crate::results::{Evidence, Run, Sample, Slot};
use crate::stats::median;
use crate::suite::Workload;

const WIDTH: i32 = 900;
/// Room for names at the left, and at the right edge.
const LEFT: i32 = 230;
const RIGHT: i32 = 24;
const ROW: i32 = 26;
/// Height of a panel's title and axis.
const PANEL: i32 = 74;

/// A variant's slots.
pub(super) struct Row {
    name: String,
    kind: Kind,
    /// Times to first token, milliseconds, one a slot.
    ttft: Vec<f64>,
    /// Times per output token, milliseconds, one a slot.
    tpot: Vec<f64>,
}

/// Rows in the suite's order; the A/A control follows the reference.
pub(super) fn rows(run: &Run, evidence: &Evidence, point: Point) -> Vec<Row> {
    let mut rows = Vec::new();
    for variant in &run.variants {
        let slots = evidence.variants.get(&variant.name).map_or(&[][..], |v| &v.slots);
        let of = |control: bool| -> Vec<&Slot> {
            let here = |s: &&Slot| s.batch == point.batch && s.threads == point.threads && s.control == control;
            slots.iter().filter(here).collect()
        };
        let name = crate::text::shorten(&crate::text::name(&variant.name), 26);
        let kind = Kind::of(variant);
        rows.push(row(name, kind, &of(false)));
        if variant.reference {
            rows.push(row("the same again (A/A)".into(), kind, &of(true)));
        }
    }
    rows
}

fn row(name: String, kind: Kind, slots: &[&Slot]) -> Row {
    let times = |of: &dyn Fn(&Slot, &Sample) -> f64| {
        let time = |slot: &&Slot| {
            let samples: Vec<f64> = slot.samples.iter().map(|s| 1e3 * of(slot, s)).collect();
            median(&samples).filter(|t| *t > 0.0 && *t < LARGEST)
        };
        slots.iter().filter_map(time).collect()
    };
    Row { name, kind, ttft: times(&|_, s| s.ttft_s), tpot: times(&|slot, s| s.tpot_s(slot.batch)) }
}

fn panel_height(rows: &[Row]) -> i32 {
    PANEL + ROW * i32::try_from(rows.len()).unwrap_or(0)
}

/// A panel: its title and the times that it shows.
type Panel = (&'static str, fn(&Row) -> &Vec<f64>);

/// Decode above prefill; one panel for an encoder.
pub(super) fn panels(workload: &Workload) -> &'static [Panel] {
    match workload.encodes() {
        true => &[("time of a batch, ms", |r| &r.ttft)],
        false => &[("time per output token (TPOT), ms", |r| &r.tpot), ("time to first token (TTFT), ms", |r| &r.ttft)],
    }
}

/// Size of the paper for `rows`.
pub(super) fn size(rows: &[Row], panels: &[Panel]) -> (u32, u32) {
    (WIDTH as u32, (panels.len() as i32 * panel_height(rows) + 8) as u32)
}

/// Draws all panels, one below the other.
pub(super) fn draw(canvas: &Canvas<'_>, rows: &[Row], panels: &[Panel]) -> Drawn {
    let tops = (0..).step_by(panel_height(rows) as usize);
    panels.iter().zip(tops).try_for_each(|((title, of), top)| panel(canvas, rows, top, title, *of))
}

fn panel(canvas: &Canvas<'_>, rows: &[Row], top: i32, title: &str, of: fn(&Row) -> &Vec<f64>) -> Drawn {
    let first = top + 36;
    let bottom = first + ROW * i32::try_from(rows.len()).unwrap_or(0);
    let heading = style(INK).pos(Pos::new(HPos::Left, VPos::Center));
    canvas.draw(&Text::new(title.to_string(), (LEFT, top + 18), heading))?;
    let most = rows.iter().flat_map(of).fold(0.0, |most: f64, t| most.max(*t));
    let range = (0.0, if most > 0.0 { 1.04 * most } else { 1.0 });
    let x = |time: f64| LEFT + (f64::from(WIDTH - LEFT - RIGHT) * time / range.1).round() as i32;
    for (value, text) in ticks(range) {
        canvas.draw(&PathElement::new([(x(value), first), (x(value), bottom)], GRID.stroke_width(1)))?;
        let below = style(SOFT).pos(Pos::new(HPos::Center, VPos::Top));
        canvas.draw(&Text::new(text, (x(value), bottom + 7), below))?;
    }
    for (row, y) in rows.iter().zip((first + ROW / 2..).step_by(ROW as usize)) {
        let beside = style(INK).pos(Pos::new(HPos::Right, VPos::Center));
        canvas.draw(&Text::new(row.name.clone(), (LEFT - 14, y), beside))?;
        for (at, time) in of(row).iter().enumerate() {
            // Spread over the row's height in a fixed pattern, so that dots of equal times stay visible.
            let spread = [0, -5, 5, -3, 3, -7, 7][at % 7];
            canvas.draw(&Circle::new((x(*time), y + spread), 3, row.kind.colour().mix(0.6).filled()))?;
        }
        if let Some(middle) = median(of(row)) {
            let line = row.kind.colour().stroke_width(2);
            canvas.draw(&PathElement::new([(x(middle), y - 11), (x(middle), y + 11)], line))?;
        }
    }
    Ok(())
}
