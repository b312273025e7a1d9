//! The mixture of formats that loses least under a budget.
//!
//! Units are tried alone ([`Survey`]); their losses are taken to add up, which makes the choice a multiple-choice knapsack,
//! solved exactly. Losses do not quite add up, so whole mixtures are made as any artefact is and compared with the
//! unquantized model on further windows:
//!
//! - under bytes or a speedup, the knapsack's mixture and the best uniform recipe that keeps to the budget too; the better one
//!   is taken, so a search never loses to what could be written by hand;
//! - under a divergence, the knapsack is solved again for what the measured divergence leaves of the limit, and when no
//!   mixture has kept to it, the most harmful units are reverted to a better format until one does.
//!
//! The decision is kept in the cache. What is hashed into an artefact's key is the recipe that was decided on, never a time
//! that was measured on the way.

use std::path::{Path, PathBuf};

use super::super::key::key_of;
use super::super::{CalibrationTokens, Order, build};
use super::knapsack::{Choice, solve};
use super::options::{UnitOption, UnitOptions, bytes_outside, nats, options, recipe, time, whole};
use super::survey::Survey;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{Isa, Pool, vector};
use crate::machine;
use crate::network::{self, Decoder, Head, LoadOptions};
use crate::results::{Lock, Mixture, TriedMixture, create_folder, read_checked, write_checked};
use crate::stats::mean_interval;
use crate::suite::{Budget, Recipe, Search};
use crate::units;

/// Mixtures that are made at most under a divergence.
const MOST_TRIES: usize = 8;
/// Largest file of a decision.
const MOST_BYTES: u64 = 64 << 20;
/// Share of the limit that a second knapsack aims at, as what it loses is not known to the last digit.
const AIM: f64 = 0.95;

/// Finds the mixture of `order`, whose recipe is `search`, or the one that was found before. `held_out` are windows of text apart
/// from those of calibration. `progress(done, total)` is told steps, first of the survey, then of every mixture made.
///
/// # Errors
/// As [`Survey::run`] and [`build()`]; too few windows; a budget that not even the smallest mixture keeps to.
pub fn search(
    order: &Order<'_>,
    search: &Search,
    held_out: &CalibrationTokens,
    cache: &Path,
    progress: &mut dyn FnMut(usize, usize),
    waiting: &mut dyn FnMut(&str),
) -> Result<Mixture> {
    let needed = search.probe_windows + search.check_windows;
    let Some((probe, check)) =
        held_out.windows[..].split_at_checked(search.probe_windows).filter(|(_, c)| !c.is_empty())
    else {
        let there = held_out.windows.len();
        return Err(Error::Usage(format!("a search compares on {needed} windows of text, but there are {there}")));
    };
    let file = decision_file(order, held_out, cache);
    let known = || serde_json::from_slice::<Mixture>(&read_checked(&file, MOST_BYTES)?).ok();
    if let Some(known) = known() {
        return Ok(known);
    }
    // Held to the end: another process that wants the same waits, and finds it.
    let _lock = Lock::take(&file.with_extension("lock"), "a search for the same mixture", waiting)?;
    if let Some(known) = known() {
        return Ok(known);
    }
    let found = Survey {
        model: order.model,
        model_sha256: order.model_sha256,
        method: &search.quantizer,
        formats: &search.formats,
        dense: search.dense,
        windows: &CalibrationTokens { windows: probe.to_vec() },
        calibration: order.calibration,
        threads: order.threads,
        cache,
    }
    .run(progress, waiting)?;
    let checkpoint = Checkpoint::open(order.model)?;
    let mut units = options(&found, search);
    if matches!(search.budget, Budget::Speedup(_)) {
        time(&mut units, &checkpoint, search.dense, order.threads)?;
    }
    let outside = bytes_outside(&checkpoint, &units, search.dense)?;
    let judge = Judge::new(order, search, &checkpoint, check, cache)?;
    let decision = Decision { search, units, outside, judge, tried: Vec::new(), choices: Vec::new() }.make(progress)?;
    if let Some(folder) = file.parent() {
        create_folder(folder)?;
    }
    let json = serde_json::to_vec_pretty(&decision).map_err(|e| Error::input(file.display(), e.to_string()))?;
    write_checked(&file, &json)?;
    Ok(decision)
}

/// Where a decision is kept: under all that it may depend on. Times depend on the machine and the threads.
fn decision_file(order: &Order<'_>, held_out: &CalibrationTokens, cache: &Path) -> PathBuf {
    let machine = match order.recipe {
        Recipe::Search(Search { budget: Budget::Speedup(_), .. }) => {
            format!("{} {}", machine::describe().cpu, order.threads)
        }
        _ => String::new(),
    };
    let key = order.key();
    let mut parts: Vec<&[u8]> = vec![key.as_bytes(), machine.as_bytes(), Isa::active().name().as_bytes()];
    parts.extend(held_out.windows.iter().map(|window| bytemuck::cast_slice::<u32, u8>(window)));
    cache.join("searches").join(format!("{}.json", key_of(&parts)))
}

/// A decision in the making.
struct Decision<'a> {
    search: &'a Search,
    units: Vec<UnitOptions>,
    /// Bytes of what no unit holds.
    outside: u64,
    judge: Judge<'a>,
    tried: Vec<TriedMixture>,
    /// The choices of those.
    choices: Vec<Vec<usize>>,
}

impl Decision<'_> {
    fn make(mut self, progress: &mut dyn FnMut(usize, usize)) -> Result<Mixture> {
        match self.search.budget {
            Budget::Bytes(most) => {
                let room = most.checked_sub(self.outside);
                let solved = room.and_then(|room| self.solve(room, |option| option.bytes, |option| option.loss));
                let solved = solved.ok_or_else(|| {
                    let least = units::bytes(self.outside + self.smallest(|option| option.bytes));
                    let most = units::bytes(most);
                    Error::Usage(format!(
                        "search: the smallest mixture takes {least}, more than the budget of {most}; raise it"
                    ))
                })?;
                let uniform = self.best_uniform(|choice| self.bytes(choice) <= most);
                self.attempt_both(solved, uniform, progress)?;
            }
            Budget::Speedup(least) => {
                let dense = self.sum(&vec![0; self.units.len()], |option| option.nanoseconds);
                let room = (dense as f64 / least) as u64;
                let solved = self.solve(room, |option| option.nanoseconds, |option| option.loss);
                let solved = solved.ok_or_else(|| {
                    let most = dense as f64 / self.smallest(|option| option.nanoseconds) as f64;
                    let problem =
                        format!("the fastest mixture speeds products up by {most:.2}, the budget asks for {least}");
                    Error::Usage(format!("search: {problem}; lower it"))
                })?;
                let uniform = self.best_uniform(|choice| self.sum(choice, |option| option.nanoseconds) <= room);
                self.attempt_both(solved, uniform, progress)?;
            }
            Budget::Divergence(limit) => self.within_divergence(limit, progress)?,
        }
        self.finish()
    }

    /// The uniform mixture of least predicted loss, of those that fit.
    fn best_uniform(&self, fits: impl Fn(&[usize]) -> bool) -> Option<(String, Vec<usize>)> {
        let fitting = self.uniform().into_iter().filter(|(_, choice)| fits(choice));
        fitting.min_by_key(|(_, choice)| self.sum(choice, |option| option.loss))
    }

    /// Makes the knapsack's mixture, and the best uniform one where it is another.
    fn attempt_both(
        &mut self,
        solved: Vec<usize>,
        uniform: Option<(String, Vec<usize>)>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        let uniform = uniform.filter(|(_, choice)| *choice != solved);
        self.attempt("knapsack".into(), solved, progress)?;
        if let Some((name, choice)) = uniform {
            self.attempt(name, choice, progress)?;
        }
        Ok(())
    }

    /// Makes mixtures until one is near the limit and within it.
    fn within_divergence(&mut self, limit: f64, progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        let smallest_within = |this: &Self, limit: u64| this.solve(limit, |option| option.loss, |option| option.bytes);
        let Some(mut choice) = smallest_within(self, whole(limit)) else {
            return Err(Error::Usage("search: the model has units that no format fits".into()));
        };
        let mut kl = self.attempt("knapsack".into(), choice.clone(), progress)?;
        if kl > 0.0 {
            let predicted = nats(self.sum(&choice, |option| option.loss));
            let again = smallest_within(self, whole(predicted * AIM * limit / kl)).filter(|again| *again != choice);
            if let Some(again) = again {
                kl = self.attempt("knapsack for the measured loss".into(), again.clone(), progress)?;
                choice = again;
            }
        }
        while self.tried.iter().all(|tried| tried.kl > limit) && self.tried.len() < MOST_TRIES {
            let aim = self.sum(&choice, |option| option.loss) as f64 * AIM * limit / kl;
            let reverted = self.revert(&mut choice, aim as u64);
            if reverted == 0 {
                break;
            }
            kl = self.attempt(format!("{reverted} units reverted"), choice.clone(), progress)?;
        }
        Ok(())
    }

    /// Reverts the most harmful units, each to its next better option, until the predicted loss is at most `aim`; returns
    /// how many times.
    fn revert(&self, choice: &mut [usize], aim: u64) -> usize {
        let mut reverted = 0;
        while self.sum(choice, |option| option.loss) > aim {
            let saved = |at: usize| {
                let unit = &self.units[at];
                let now = unit.options[choice[at]].loss;
                let better = (0..unit.options.len()).filter(|&option| unit.options[option].loss < now);
                let next = better.max_by_key(|&option| unit.options[option].loss)?;
                Some((now - unit.options[next].loss, std::cmp::Reverse(at), next))
            };
            let Some((_, std::cmp::Reverse(at), next)) = (0..choice.len()).filter_map(saved).max() else { break };
            choice[at] = next;
            reverted += 1;
        }
        reverted
    }

    /// Every block in one format with the head in one: what could be written by hand.
    fn uniform(&self) -> Vec<(String, Vec<usize>)> {
        let heads: Vec<Option<String>> = std::iter::once(None).chain(self.formats().map(Some)).collect();
        let place = |unit: &UnitOptions, format: Option<&str>| {
            unit.options.iter().position(|option| option.format.map(|f| f.name()).as_deref() == format)
        };
        let mut found = Vec::new();
        for format in self.formats() {
            for head in &heads {
                let of = |unit: &UnitOptions| {
                    place(unit, if unit.layer.is_some() { Some(&format) } else { head.as_deref() })
                };
                if let Some(choice) = self.units.iter().map(of).collect::<Option<Vec<usize>>>() {
                    let head = head.as_deref().unwrap_or(self.search.dense.name());
                    found.push((format!("all {format}, head {head}"), choice));
                }
            }
        }
        found
    }

    fn formats(&self) -> impl Iterator<Item = String> {
        self.search.formats.iter().map(|format| format.name())
    }

    fn solve(&self, budget: u64, cost: fn(&UnitOption) -> u64, loss: fn(&UnitOption) -> u64) -> Option<Vec<usize>> {
        let choice = |option: &UnitOption| Choice { cost: cost(option), loss: loss(option) };
        let classes: Vec<Vec<Choice>> =
            self.units.iter().map(|unit| unit.options.iter().map(choice).collect()).collect();
        solve(&classes, budget)
    }

    fn sum(&self, choice: &[usize], value: fn(&UnitOption) -> u64) -> u64 {
        self.units.iter().zip(choice).map(|(unit, &at)| value(&unit.options[at])).sum()
    }

    fn smallest(&self, value: fn(&UnitOption) -> u64) -> u64 {
        self.units.iter().filter_map(|unit| unit.options.iter().map(value).min()).sum()
    }

    fn bytes(&self, choice: &[usize]) -> u64 {
        self.outside + self.sum(choice, |option| option.bytes)
    }

    /// Makes a mixture, compares it and returns its divergence.
    fn attempt(&mut self, found_by: String, choice: Vec<usize>, progress: &mut dyn FnMut(usize, usize)) -> Result<f64> {
        let made = recipe(&self.units, &choice, self.search).ok_or_else(no_formats)?;
        let (divergences, bytes) = self.judge.compare(&Recipe::Quantize(made), progress)?;
        let interval = mean_interval(&divergences, 0.95)
            .ok_or_else(|| Error::Measurement("a mixture's divergence is no number; its weights are damaged".into()))?;
        let timed = matches!(self.search.budget, Budget::Speedup(_));
        self.tried.push(TriedMixture {
            found_by,
            predicted_kl: nats(self.sum(&choice, |option| option.loss)),
            kl: interval.value,
            kl_interval: interval.bounds,
            bytes,
            products_s: timed.then(|| self.sum(&choice, |option| option.nanoseconds) as f64 * 1e-9),
        });
        self.choices.push(choice);
        Ok(interval.value)
    }

    /// The best of what was tried: of those within the budget the one of least divergence, or under a divergence the
    /// smallest; where none is, the one of least divergence.
    fn finish(self) -> Result<Mixture> {
        let within = |tried: &TriedMixture| match self.search.budget {
            Budget::Bytes(most) => tried.bytes <= most,
            Budget::Speedup(_) => true,
            Budget::Divergence(limit) => tried.kl <= limit,
        };
        let value = |tried: &TriedMixture| match self.search.budget {
            Budget::Divergence(_) if within(tried) => tried.bytes as f64,
            _ => tried.kl,
        };
        let order = |a: &TriedMixture, b: &TriedMixture| within(b).cmp(&within(a)).then(value(a).total_cmp(&value(b)));
        let best = self.tried.iter().enumerate().min_by(|a, b| order(a.1, b.1));
        let (chosen, tried) = best.ok_or_else(|| Error::Usage("search: no mixture was tried".into()))?;
        let choice = &self.choices[chosen];
        let mut units: Vec<(String, usize)> = Vec::new();
        for (unit, &at) in self.units.iter().zip(choice) {
            let name = unit.options[at].format.map_or_else(|| self.search.dense.name().into(), |format| format.name());
            match units.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => units.push((name, 1)),
            }
        }
        units.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let recipe = recipe(&self.units, choice, self.search).ok_or_else(no_formats)?;
        let within_budget = within(tried);
        Ok(Mixture { recipe, units, tried: self.tried, chosen, within_budget })
    }
}

fn no_formats() -> Error {
    Error::Usage("search: no formats to choose from".into())
}

/// Makes mixtures and compares them with the unquantized model.
struct Judge<'a> {
    order: &'a Order<'a>,
    windows: &'a [Vec<u32>],
    /// Where mixtures are made.
    cache: &'a Path,
    pool: Pool,
    head: Head,
    /// Final hidden states of the unquantized model, a row for each predicted token.
    reference: Vec<f32>,
}

impl<'a> Judge<'a> {
    fn new(
        order: &'a Order<'a>,
        search: &Search,
        checkpoint: &Checkpoint,
        windows: &'a [Vec<u32>],
        cache: &'a Path,
    ) -> Result<Self> {
        let options = LoadOptions { dense: Some(search.dense), kv_cache: None };
        let (decoder, pool) = (Decoder::load(checkpoint, options)?, Pool::new(order.threads));
        let mut reference = Vec::new();
        network::score(&decoder, &pool, windows, &mut |chunk| {
            reference.extend_from_slice(chunk.hidden);
            Ok(())
        })?;
        Ok(Judge { order, windows, cache, head: Head::load(checkpoint, options)?, pool, reference })
    }

    /// Mean KL divergence of every window's predictions, and the bytes of all weights.
    fn compare(&self, recipe: &Recipe, progress: &mut dyn FnMut(usize, usize)) -> Result<(Vec<f64>, u64)> {
        let folder = tempfile::tempdir_in(self.cache).map_err(|e| Error::io(self.cache, "create a folder in", e))?;
        let order = Order { recipe, ..self.order.clone() };
        let artefact = build(&order, &folder.path().join("mixture"), progress)?;
        let decoder = Decoder::load(&Checkpoint::open(Path::new(&artefact.path))?, LoadOptions::default())?;
        let (mut seen, mut logits) = (0, Vec::new());
        let mut sums = vec![(0.0, 0usize); self.windows.len()];
        network::score(&decoder, &self.pool, self.windows, &mut |chunk| {
            self.head.logits(&self.pool, &self.reference[seen..seen + chunk.hidden.len()], &mut logits);
            seen += chunk.hidden.len();
            let rows =
                logits.chunks_exact(self.head.vocab_size()).zip(chunk.logits.chunks_exact(self.head.vocab_size()));
            let sum = &mut sums[chunk.window];
            for (a, b) in rows {
                // What rounding leaves below 0 is no divergence.
                *sum = (sum.0 + vector::softmax_divergence(Isa::active(), a, b).1.max(0.0), sum.1 + 1);
            }
            Ok(())
        })?;
        Ok((sums.into_iter().map(|(sum, rows)| sum / rows as f64).collect(), decoder.weight_bytes()))
    }
}
