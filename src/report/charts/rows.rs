//! Charts with a row for each variant: the rule's accuracy with its interval, and how near each phase came to the least
//! time that the machine could take.

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::scatter::{Axis, Mark, padded, ticks};
use super::{Canvas, Drawn, GRID, INK, LARGEST, SOFT, style};

const WIDTH: i32 = 900;
/// Room for names at the left, and at the right edge.
const LEFT: i32 = 230;
const RIGHT: i32 = 40;
const ROW: i32 = 28;
/// Room above the first row and below the last.
const ABOVE: i32 = 34;
const BELOW: i32 = 62;

/// Name of the resource of a phase that is bound by reading.
const READING: &str = "reading";

/// Size of the paper for a number of rows.
pub(super) fn size(rows: usize) -> (u32, u32) {
    (WIDTH as u32, (ABOVE + BELOW + ROW * rows.max(1) as i32) as u32)
}

/// Draws accuracy differences with their intervals, better to the right, and the threshold.
pub(super) fn draw_accuracy(canvas: &Canvas<'_>, axis: &Axis, marks: &[Mark]) -> Drawn {
    let ends = |m: &Mark| [m.y, m.y_bounds.map_or(m.y, |b| b.0), m.y_bounds.map_or(m.y, |b| b.1)];
    let limit = axis.limit.as_ref().map(|limit| limit.at);
    let far = limit.map_or(f64::INFINITY, |at| 8.0 * at.abs());
    let near = marks.iter().filter(|m| m.y.abs() <= far).flat_map(ends).chain(limit).chain([0.0]);
    let range = padded(near.filter(|v| v.abs() < LARGEST), 0.08);
    let bottom = ABOVE + ROW * marks.len() as i32;
    let x = |value: f64| {
        let share = ((value - range.0) / (range.1 - range.0)).clamp(0.0, 1.0);
        LEFT + (f64::from(WIDTH - LEFT - RIGHT) * share).round() as i32
    };
    let shown = if axis.negated { (-range.1, -range.0) } else { range };
    for (value, text) in ticks(shown) {
        grid_line(canvas, x(if axis.negated { -value } else { value }), bottom, text)?;
    }
    if let Some(limit) = &axis.limit {
        let ends = [(x(limit.at), ABOVE), (x(limit.at), bottom)];
        canvas.draw(&DashedPathElement::new(ends, 6, 5, SOFT.stroke_width(1)))?;
        let above = style(SOFT).pos(Pos::new(HPos::Center, VPos::Bottom));
        canvas.draw(&Text::new(limit.text.clone(), (x(limit.at), ABOVE - 6), above))?;
    }
    for (mark, y) in marks.iter().zip((ABOVE + ROW / 2..).step_by(ROW as usize)) {
        row_name(canvas, &mark.name, y)?;
        if let Some((low, high)) = mark.y_bounds {
            canvas.draw(&PathElement::new([(x(low), y), (x(high), y)], mark.kind.colour().stroke_width(2)))?;
        }
        mark.kind.draw(canvas, (x(mark.y), y))?;
    }
    title(canvas, &axis.title, bottom)
}

/// A phase of a variant: its share of the least time, and what bounds it.
pub(super) struct Reached {
    pub name: String,
    pub share: f64,
    /// Name of the resource.
    pub by: &'static str,
}

/// Draws how near phases came to their limit.
pub(super) fn draw_reached(canvas: &Canvas<'_>, phases: &[Reached]) -> Drawn {
    let bottom = ABOVE + ROW * phases.len() as i32;
    let x = |share: f64| LEFT + (f64::from(WIDTH - LEFT - RIGHT) * share.clamp(0.0, 1.0)).round() as i32;
    for percent in (0..=100).step_by(20) {
        grid_line(canvas, x(f64::from(percent) / 100.0), bottom, format!("{percent} %"))?;
    }
    for (phase, y) in phases.iter().zip((ABOVE + ROW / 2..).step_by(ROW as usize)) {
        row_name(canvas, &phase.name, y)?;
        let colour = if phase.by == READING { RGBColor(31, 95, 174) } else { RGBColor(176, 116, 0) };
        canvas.draw(&Rectangle::new([(LEFT, y - 8), (x(phase.share), y + 8)], colour.mix(0.75).filled()))?;
        let percent = format!("{:.0} %, bound by {}", 100.0 * phase.share, phase.by);
        let beside = style(INK).pos(Pos::new(HPos::Left, VPos::Center));
        let at = if phase.share > 0.6 { LEFT + 8 } else { x(phase.share) + 8 };
        canvas.draw(&Text::new(percent, (at, y), beside))?;
    }
    title(canvas, "least time of this machine over the time taken", bottom)
}

fn grid_line(canvas: &Canvas<'_>, x: i32, bottom: i32, text: String) -> Drawn {
    canvas.draw(&PathElement::new([(x, ABOVE), (x, bottom)], GRID.stroke_width(1)))?;
    let below = style(SOFT).pos(Pos::new(HPos::Center, VPos::Top));
    canvas.draw(&Text::new(text, (x, bottom + 7), below))?;
    Ok(())
}

fn row_name(canvas: &Canvas<'_>, name: &str, y: i32) -> Drawn {
    let beside = style(INK).pos(Pos::new(HPos::Right, VPos::Center));
    canvas.draw(&Text::new(crate::text::shorten(name, 26), (LEFT - 14, y), beside))?;
    Ok(())
}

fn title(canvas: &Canvas<'_>, text: &str, bottom: i32) -> Drawn {
    let middle = (LEFT + WIDTH - RIGHT) / 2;
    let below = style(INK).pos(Pos::new(HPos::Center, VPos::Top));
    canvas.draw(&Text::new(text.to_string(), (middle, bottom + 34), below))?;
    Ok(())
}
