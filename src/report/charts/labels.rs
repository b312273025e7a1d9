//! Places names beside marks so that no two names overlap.

use super::{CHARACTER, TEXT};

/// A rectangle in pixels, edges included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub left: i32,
    pub top: i32,
    pub right: i32,
    pub bottom: i32,
}

impl Area {
    /// A square of `2 radius` around a pixel.
    pub fn around((x, y): (i32, i32), radius: i32) -> Self {
        Area { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius }
    }

    pub fn overlaps(&self, other: &Area) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    fn inside(&self, outer: &Area) -> bool {
        self.left >= outer.left && self.right <= outer.right && self.top >= outer.top && self.bottom <= outer.bottom
    }
}

/// Directions that are tried, best first: right, left, above, below, diagonals.
const DIRECTIONS: [(i32, i32); 8] = [(1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1)];

/// Distances that are tried, pixels; from the second on a line leads from the mark to its name.
const DISTANCES: [i32; 9] = [11, 22, 34, 48, 64, 82, 104, 130, 160];

/// Areas of the names of `marks` (pixel, name), inside `frame`, clear of each other and, where there is room, of
/// `obstacles`.
pub(super) fn place(marks: &[((i32, i32), &str)], frame: Area, obstacles: &[Area]) -> Vec<Area> {
    let mut placed: Vec<Area> = Vec::with_capacity(marks.len());
    for (at, name) in marks {
        let candidates: Vec<Area> =
            DISTANCES.iter().flat_map(|d| DIRECTIONS.map(|dir| beside(*at, name, dir, *d))).collect();
        let clear = |a: &&Area| a.inside(&frame) && !placed.iter().any(|p| p.overlaps(a));
        let free = candidates.iter().filter(clear).find(|a| !obstacles.iter().any(|o| o.overlaps(a)));
        let chosen = free.or_else(|| candidates.iter().find(clear)).copied().unwrap_or(candidates[0]);
        placed.push(chosen);
    }
    placed
}

/// Area of a name in a direction from a mark.
fn beside((x, y): (i32, i32), name: &str, (dx, dy): (i32, i32), distance: i32) -> Area {
    let width = CHARACTER * i32::try_from(name.chars().count()).unwrap_or(0);
    let height = TEXT;
    let left = match dx {
        1 => x + distance,
        -1 => x - distance - width,
        _ => x - width / 2,
    };
    let top = match dy {
        1 => y + distance,
        -1 => y - distance - height,
        _ => y - height / 2,
    };
    Area { left, top, right: left + width, bottom: top + height }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: Area = Area { left: 60, top: 20, right: 840, bottom: 440 };

    proptest! {
        #[test]
        fn names_never_overlap(marks in prop::collection::vec(((70..830_i32, 30..430_i32), "[a-z0-9-]{3,16}"), 1..9)) {
            let marks: Vec<((i32, i32), &str)> = marks.iter().map(|(at, name)| (*at, name.as_str())).collect();
            let placed = place(&marks, FRAME, &[]);
            for (i, a) in placed.iter().enumerate() {
                prop_assert!(a.inside(&FRAME));
                prop_assert!(placed[i + 1..].iter().all(|b| !a.overlaps(b)), "{placed:?}");
            }
        }
    }

    #[test]
    fn marks_on_one_spot_get_different_places() {
        let marks = vec![((400, 200), "int4-gptq"); 8];
        let placed = place(&marks, FRAME, &[Area::around((400, 200), 8)]);
        assert!((0..8).all(|i| (0..i).all(|j| !placed[i].overlaps(&placed[j]))), "{placed:?}");
    }
}
