//! Which program this is: its version, the commit it was built from, and hashes of its sources, all found by `build.rs`.

/// Version for people: `0.1.0 (abc1234, clean)`, `(abc1234, modified)`, or `(unknown commit)` where there was no git.
pub const VERSION: &str = env!("BENCH_VERSION");

/// The whole commit; empty where it is not known.
pub const COMMIT: &str = env!("BENCH_COMMIT");

/// SHA-256 of all sources, of the locked versions of libraries, and of target and profile, as hex: two programs with the same
/// one measure the same.
pub const BUILD: &str = env!("BENCH_BUILD");

/// SHA-256 of what decides about the numbers and files of an artefact, as hex: the sources that quantize and build, and the
/// locked versions of the numeric libraries.
pub const MAKER: &str = env!("BENCH_MAKER");
