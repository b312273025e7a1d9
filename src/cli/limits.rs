//! The most that this machine can do, as commands show it: reading by the size of what is read, multiplying and adding
//! by instruction set.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::kernels::roofline::{self, Arithmetic};
use crate::kernels::{Isa, Pool};
use crate::units;

/// Sizes that lie in the first, second and third cache level of most processors, and in memory.
const SIZES: [usize; 5] = [16 << 10, 256 << 10, 4 << 20, 32 << 20, 256 << 20];

/// Limits of a number of threads.
#[derive(Debug, Serialize)]
pub(super) struct Limits {
    threads: usize,
    reading: Vec<Reading>,
    arithmetic: Vec<Peak>,
}

#[derive(Debug, Serialize)]
struct Reading {
    /// Read by each thread again and again.
    bytes_per_thread: usize,
    bytes_per_s: f64,
}

#[derive(Debug, Serialize)]
struct Peak {
    isa: &'static str,
    numbers: Arithmetic,
    multiply_adds_per_s: f64,
}

impl Limits {
    /// Multiply-adds a second; `None` where there is no such instruction.
    pub(super) fn peak(&self, isa: Isa, arithmetic: Arithmetic) -> Option<f64> {
        let mut peaks = self.arithmetic.iter();
        peaks.find(|p| p.isa == isa.name() && p.numbers == arithmetic).map(|p| p.multiply_adds_per_s)
    }
}

/// Measures the limits of all threads of a pool: reading with the best of `isas`, arithmetic of each.
pub(super) fn measure(pool: &Pool, isas: &[Isa]) -> Limits {
    let best = isas.iter().copied().max().unwrap_or(Isa::Scalar);
    let reading = SIZES.map(|bytes| Reading {
        bytes_per_thread: bytes,
        bytes_per_s: roofline::read_bandwidth(best, pool, bytes * pool.threads()),
    });
    let peaks = isas.iter().flat_map(|&isa| Arithmetic::ALL.map(|numbers| (isa, numbers)));
    let peaks = peaks.filter_map(|(isa, numbers)| {
        let multiply_adds_per_s = roofline::multiply_add_rate(isa, pool, numbers)?;
        Some(Peak { isa: isa.name(), numbers, multiply_adds_per_s })
    });
    Limits { threads: pool.threads(), reading: reading.into(), arithmetic: peaks.collect() }
}

/// Limits side by side, one column for each number of threads.
pub(super) fn text(limits: &[Limits]) -> String {
    let Some(first) = limits.first() else { return String::new() };
    let threads = |l: &Limits| format!("{} thread{}", l.threads, if l.threads == 1 { "" } else { "s" });
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["the most that it reaches".into()].into_iter().chain(limits.iter().map(threads)));
    for (at, reading) in first.reading.iter().enumerate() {
        let name = format!("reading, {} a thread, GB/s", units::bytes(reading.bytes_per_thread as u64));
        let rates = limits.iter().map(|l| format!("{:.1}", l.reading[at].bytes_per_s / 1e9));
        table.add_row(std::iter::once(name).chain(rates));
    }
    for (at, peak) in first.arithmetic.iter().enumerate() {
        let numbers = format!("{:?}", peak.numbers).to_lowercase();
        let rates = limits.iter().map(|l| format!("{:.1}", l.arithmetic[at].multiply_adds_per_s / 1e9));
        table.add_row(std::iter::once(format!("{}, {numbers}, G multiply-adds/s", peak.isa)).chain(rates));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_stand_side_by_side() {
        let of = |threads: usize| Limits {
            threads,
            reading: vec![Reading { bytes_per_thread: 16 << 10, bytes_per_s: 5e10 * threads as f64 }],
            arithmetic: vec![Peak {
                isa: "avx2",
                numbers: Arithmetic::F32,
                multiply_adds_per_s: 4e10 * threads as f64,
            }],
        };
        let text = text(&[of(1), of(2)]);
        let lines: Vec<String> = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "the most that it reaches 1 thread 2 threads",
                "reading, 16.0 KiB a thread, GB/s 50.0 100.0",
                "avx2, f32, G multiply-adds/s 40.0 80.0"
            ]
        );
        assert_eq!(of(2).peak(Isa::Avx2, Arithmetic::F32), Some(8e10));
        assert_eq!(of(2).peak(Isa::Avx2, Arithmetic::Int8), None);
    }
}
