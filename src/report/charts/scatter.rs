//! Two objectives against each other: marks with error bars, thresholds, the frontier of both.

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::labels::{self, Area};
use super::{Canvas, Drawn, FONT, GRID, INK, Kind, LARGEST, SOFT, TEXT, style};

/// Size of the paper, pixels.
pub(super) const SIZE: (u32, u32) = (900, 520);

/// Room around the plot for axis titles and legend: left, right, top, bottom.
const MARGIN: (i32, i32, i32, i32) = (80, 24, 44, 62);

/// Marks further out than this many times the threshold's distance are pinned to the edge.
const FAR: f64 = 6.0;

/// An axis.
pub(super) struct Axis {
    pub title: String,
    pub limit: Option<Limit>,
    /// Higher is better.
    pub higher: bool,
    /// Numbers are shown with the other sign: an increase that is bad grows downward.
    pub negated: bool,
}

/// A threshold.
pub(super) struct Limit {
    pub at: f64,
    pub text: String,
}

/// A variant.
pub(super) struct Mark {
    pub name: String,
    pub kind: Kind,
    pub x: f64,
    pub x_bounds: Option<(f64, f64)>,
    pub y: f64,
    pub y_bounds: Option<(f64, f64)>,
}

impl Mark {
    /// Both numbers fit an axis.
    pub fn is_plottable(&self) -> bool {
        self.x.abs() < LARGEST && self.y.abs() < LARGEST
    }
}

/// The chart. Of y, higher is better.
pub(super) struct Scatter {
    pub x: Axis,
    pub y: Axis,
    pub marks: Vec<Mark>,
    /// The x axis starts at 0.
    pub from_zero: bool,
}

/// Ranges of the axes and the pixels of the plot.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    area: Area,
}

impl Frame {
    fn pixel(&self, x: f64, y: f64) -> (i32, i32) {
        let share = |v: f64, (low, high): (f64, f64)| ((v - low) / (high - low)).clamp(0.0, 1.0);
        let width = f64::from(self.area.right - self.area.left);
        let height = f64::from(self.area.bottom - self.area.top);
        let left = f64::from(self.area.left) + width * share(x, self.x);
        let top = f64::from(self.area.bottom) - height * share(y, self.y);
        (left.round() as i32, top.round() as i32)
    }
}

impl Scatter {
    /// Draws everything.
    pub fn draw(&self, canvas: &Canvas<'_>) -> Drawn {
        let marks: Vec<&Mark> = self.marks.iter().filter(|m| m.is_plottable()).collect();
        if marks.is_empty() {
            canvas.draw(&Text::new("nothing was measured", (360, 250), style(SOFT)))?;
            return Ok(());
        }
        let frame = self.frame(&marks);
        self.background(canvas, &frame)?;
        self.axes(canvas, &frame)?;
        let path = self.frontier(&frame, &marks);
        canvas.draw(&PathElement::new(path.clone(), RGBColor(150, 160, 174).stroke_width(2)))?;
        for mark in &marks {
            error_bars(canvas, &frame, mark)?;
            mark.kind.draw(canvas, frame.pixel(mark.x, mark.y))?;
        }
        self.names(canvas, &frame, &marks, &path)?;
        legend(canvas, &marks)
    }

    fn frame(&self, marks: &[&Mark]) -> Frame {
        let limits = |axis: &Axis| axis.limit.as_ref().map(|l| l.at).filter(|at| at.abs() < LARGEST);
        let ends = |value: f64, bounds: Option<(f64, f64)>| {
            [value, bounds.map_or(value, |b| b.0), bounds.map_or(value, |b| b.1)]
        };
        let xs = marks.iter().flat_map(|m| ends(m.x, m.x_bounds)).chain(limits(&self.x));
        let far = limits(&self.y).map_or(f64::INFINITY, |at| FAR * at.abs()).max(f64::MIN_POSITIVE);
        let near = marks.iter().filter(|m| m.y.abs() <= far).flat_map(|m| ends(m.y, m.y_bounds));
        let ys = near.chain(limits(&self.y)).chain([0.0]);
        let mut x = padded(xs.filter(|v| v.abs() < LARGEST), 0.08);
        if self.from_zero {
            x.0 = 0.0;
        }
        let y = padded(ys.filter(|v| v.abs() < LARGEST), 0.10);
        let (left, right, top, bottom) = MARGIN;
        let area = Area { left, top, right: SIZE.0 as i32 - right, bottom: SIZE.1 as i32 - bottom };
        Frame { x, y, area }
    }

    /// The area that meets both thresholds, tinted; and the thresholds.
    fn background(&self, canvas: &Canvas<'_>, frame: &Frame) -> Drawn {
        let (x_limit, y_limit) = (self.x.limit.as_ref(), self.y.limit.as_ref());
        let from = frame.pixel(x_limit.map_or(frame.x.0, |l| l.at), y_limit.map_or(frame.y.0, |l| l.at));
        let best = frame.pixel(if self.x.higher { frame.x.1 } else { frame.x.0 }, frame.y.1);
        canvas.draw(&Rectangle::new([from, best], RGBColor(238, 247, 241).filled()))?;
        let dashed =
            |a: (i32, i32), b: (i32, i32)| canvas.draw(&DashedPathElement::new([a, b], 6, 5, SOFT.stroke_width(1)));
        let area = frame.area;
        if let Some(limit) = x_limit {
            dashed((from.0, area.top), (from.0, area.bottom))?;
            let pos = Pos::new(HPos::Center, VPos::Bottom);
            canvas.draw(&Text::new(limit.text.clone(), (from.0, area.top - 4), style(SOFT).pos(pos)))?;
        }
        if let Some(limit) = y_limit {
            dashed((area.left, from.1), (area.right, from.1))?;
            let (pos, x) = if self.x.higher { (HPos::Left, area.left + 6) } else { (HPos::Right, area.right - 6) };
            let pos = Pos::new(pos, VPos::Top);
            canvas.draw(&Text::new(limit.text.clone(), (x, from.1 + 5), style(SOFT).pos(pos)))?;
        }
        Ok(())
    }

    fn axes(&self, canvas: &Canvas<'_>, frame: &Frame) -> Drawn {
        let area = frame.area;
        for (value, text) in ticks(frame.x) {
            let (x, _) = frame.pixel(value, frame.y.0);
            canvas.draw(&PathElement::new([(x, area.top), (x, area.bottom)], GRID.stroke_width(1)))?;
            canvas.draw(&Text::new(text, (x, area.bottom + 8), style(SOFT).pos(Pos::new(HPos::Center, VPos::Top))))?;
        }
        let upward = if self.y.negated { (-frame.y.1, -frame.y.0) } else { frame.y };
        for (value, text) in ticks(upward) {
            let (_, y) = frame.pixel(frame.x.0, if self.y.negated { -value } else { value });
            canvas.draw(&PathElement::new([(area.left, y), (area.right, y)], GRID.stroke_width(1)))?;
            canvas.draw(&Text::new(text, (area.left - 8, y), style(SOFT).pos(Pos::new(HPos::Right, VPos::Center))))?;
        }
        let corner = [(area.left, area.top), (area.left, area.bottom), (area.right, area.bottom)];
        canvas.draw(&PathElement::new(corner, SOFT.stroke_width(1)))?;
        let middle = (i32::midpoint(area.left, area.right), i32::midpoint(area.top, area.bottom));
        let below = style(INK).pos(Pos::new(HPos::Center, VPos::Top));
        canvas.draw(&Text::new(self.x.title.clone(), (middle.0, area.bottom + 34), below))?;
        let upright = (FONT, TEXT).into_font().transform(FontTransform::Rotate270).color(&INK);
        let upright = upright.pos(Pos::new(HPos::Center, VPos::Top));
        canvas.draw(&Text::new(self.y.title.clone(), (8, middle.1), upright))?;
        Ok(())
    }

    /// Pixels of the marks that no other mark dominates in these two axes, from left to right.
    fn frontier(&self, frame: &Frame, marks: &[&Mark]) -> Vec<(i32, i32)> {
        let sign = if self.x.higher { 1.0 } else { -1.0 };
        let dominates = |a: &Mark, b: &Mark| {
            let (ax, bx) = (sign * a.x, sign * b.x);
            ax >= bx && a.y >= b.y && (ax > bx || a.y > b.y)
        };
        let mut on: Vec<&&Mark> = marks.iter().filter(|m| !marks.iter().any(|other| dominates(other, m))).collect();
        on.sort_by(|a, b| a.x.total_cmp(&b.x));
        on.iter().map(|m| frame.pixel(m.x, m.y)).collect()
    }

    /// The names beside their marks; a mark beyond the vertical axis says its value.
    fn names(&self, canvas: &Canvas<'_>, frame: &Frame, marks: &[&Mark], path: &[(i32, i32)]) -> Drawn {
        let text = |mark: &&Mark| {
            let outside = mark.y < frame.y.0 || mark.y > frame.y.1;
            let shown = if self.y.negated { -mark.y } else { mark.y };
            if outside { format!("{} ({}, beyond the edge)", mark.name, signed(shown)) } else { mark.name.clone() }
        };
        let texts: Vec<String> = marks.iter().map(text).collect();
        let spots: Vec<((i32, i32), &str)> =
            marks.iter().zip(&texts).map(|(m, t)| (frame.pixel(m.x, m.y), t.as_str())).collect();
        let mut obstacles: Vec<Area> = spots.iter().map(|(at, _)| Area::around(*at, 8)).collect();
        for (a, b) in marks.iter().flat_map(|m| bars(frame, m)) {
            obstacles.push(Area {
                left: a.0.min(b.0) - 1,
                top: a.1.min(b.1) - 1,
                right: a.0.max(b.0) + 1,
                bottom: a.1.max(b.1) + 1,
            });
        }
        obstacles.extend(path.windows(2).flat_map(|ends| along(ends[0], ends[1])));
        for ((at, text), area) in spots.iter().zip(labels::place(&spots, frame.area, &obstacles)) {
            let nearest = (at.0.clamp(area.left, area.right), at.1.clamp(area.top, area.bottom));
            if (nearest.0 - at.0).abs().max((nearest.1 - at.1).abs()) > 14 {
                canvas.draw(&PathElement::new([*at, nearest], SOFT.mix(0.6).stroke_width(1)))?;
            }
            // Text ends at the mark's side of its area, so that a wide estimate of its width leaves no gap there.
            let (h, x) = if area.right <= at.0 { (HPos::Right, area.right) } else { (HPos::Left, area.left) };
            let (h, x) = if area.left < at.0 && at.0 < area.right {
                (HPos::Center, i32::midpoint(area.left, area.right))
            } else {
                (h, x)
            };
            let y = i32::midpoint(area.top, area.bottom);
            canvas.draw(&Text::new((*text).to_string(), (x, y), style(INK).pos(Pos::new(h, VPos::Center))))?;
        }
        Ok(())
    }
}

/// A value with its sign and about three digits: `+39.7`, `-0.52`, `+3.1e6`.
fn signed(value: f64) -> String {
    match value.abs() {
        size if size >= 1e5 => format!("{value:+.1e}"),
        size if size >= 10.0 => format!("{value:+.1}"),
        _ => format!("{value:+.2}"),
    }
}

fn error_bars(canvas: &Canvas<'_>, frame: &Frame, mark: &Mark) -> Drawn {
    let line = mark.kind.colour().mix(0.75).stroke_width(2);
    for (a, b) in bars(frame, mark) {
        canvas.draw(&PathElement::new([a, b], line))?;
    }
    Ok(())
}

/// Ends of a mark's error bars, pixels.
fn bars(frame: &Frame, mark: &Mark) -> Vec<((i32, i32), (i32, i32))> {
    let across = mark.x_bounds.map(|(low, high)| (frame.pixel(low, mark.y), frame.pixel(high, mark.y)));
    let upright = mark.y_bounds.map(|(low, high)| (frame.pixel(mark.x, low), frame.pixel(mark.x, high)));
    across.into_iter().chain(upright).collect()
}

/// Small areas along a line, so that names keep clear of it.
fn along(a: (i32, i32), b: (i32, i32)) -> Vec<Area> {
    let steps = ((b.0 - a.0).abs().max((b.1 - a.1).abs()) / 6).max(1);
    let at = |i: i32| (a.0 + (b.0 - a.0) * i / steps, a.1 + (b.1 - a.1) * i / steps);
    (0..=steps).map(|i| Area::around(at(i), 2)).collect()
}

/// The kinds that occur, in one line at the top right.
fn legend(canvas: &Canvas<'_>, marks: &[&Mark]) -> Drawn {
    let mut x = SIZE.0 as i32 - MARGIN.1;
    for kind in Kind::ALL.into_iter().rev().filter(|k| marks.iter().any(|m| m.kind == *k)) {
        let pos = Pos::new(HPos::Right, VPos::Center);
        canvas.draw(&Text::new(kind.name(), (x, 14), style(INK).pos(pos)))?;
        x -= 8 * kind.name().len() as i32 + 8;
        kind.draw(canvas, (x, 14))?;
        x -= 24;
    }
    Ok(())
}

/// Smallest and largest value, moved apart by a share of their distance.
pub(super) fn padded(values: impl Iterator<Item = f64>, share: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let pad = if high > low { share * (high - low) } else { high.abs().max(1.0) * share };
    (low - pad, high + pad)
}

/// Round numbers inside a range, about six, with their text.
pub(super) fn ticks((low, high): (f64, f64)) -> Vec<(f64, String)> {
    let raw = (high - low) / 6.0;
    let power = 10.0_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw).unwrap_or(10.0 * power);
    let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    let first = (low / step).ceil();
    let count = ((high / step).floor() - first).clamp(0.0, 20.0) as usize;
    let tick = |i: usize| {
        let value = (first + i as f64) * step;
        let value = if value.abs() < step / 1e6 { 0.0 } else { value };
        (value, format!("{value:.digits$}"))
    };
    if step.is_finite() && step > 0.0 { (0..=count).map(tick).collect() } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let texts = |range| ticks(range).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(texts((0.9, 3.1)), ["1.0", "1.5", "2.0", "2.5", "3.0"]);
        assert_eq!(texts((-5.5, 0.5)), ["-5", "-4", "-3", "-2", "-1", "0"]);
        assert_eq!(texts((0.0, 0.0)), Vec::<String>::new());
        assert!(texts((-1e12, 1e12)).len() < 12);
    }

    #[test]
    fn a_single_point_still_has_a_range() {
        assert_eq!(padded([1.0].into_iter(), 0.1), (0.9, 1.1));
        assert_eq!(padded([0.0, 10.0].into_iter(), 0.1), (-1.0, 11.0));
    }
}
