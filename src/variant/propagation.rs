//! The calibration sequences on their way through the network: hidden states before the block at hand.
//!
//! One block's weights are in memory at a time, and the hidden states of all sequences. Every thread runs batches of
//! sequences of its own.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rayon::ThreadPool;
use rayon::prelude::*;

use super::CalibrationTokens;
use crate::error::{Error, Result};
use crate::kernels::Pool;
use crate::network::{Config, EncoderEmbeddings, ObservedBlock, Site, Workspace};
use crate::quantize::{InputRange, InputStatistics, StatisticsAccumulator};
use crate::tensor::ActivationScheme;

/// Tokens that run through a block at once.
const BATCH_TOKENS: usize = 512;

/// By site what every feature of its input is divided by; none where it stays as it is.
pub(super) type Factors = BTreeMap<Site, Vec<f32>>;

/// The states of sequences before the first block, one after the other.
type Embed<'e> = dyn Fn(&[Vec<u32>]) -> Result<Vec<f32>> + 'e;

/// Sees a site, a batch of its inputs, `(tokens, features)` row-major, and where their sequences end.
type Watch<'w> = dyn FnMut(Site, &[f32], &[usize]) + Send + 'w;

/// Means over all calibration tokens of every feature of an input.
#[derive(Default, Clone)]
pub(super) struct Means {
    /// As the input is.
    pub exact: Vec<f64>,
    /// As the kernels take it.
    pub rounded: Vec<f64>,
}

/// Hidden states of all calibration sequences.
pub(super) struct Propagation<'a> {
    workers: &'a ThreadPool,
    batches: Vec<Batch>,
    /// One for each thread.
    lanes: Vec<Lane>,
}

/// Sequences that run through a block together.
struct Batch {
    /// `(tokens, hidden_size)`.
    hidden: Vec<f32>,
    /// Row after the last of every sequence.
    ends: Vec<usize>,
}

/// What a thread needs to run a batch.
struct Lane {
    pool: Pool,
    work: Workspace,
    /// Inputs of the batch by their site.
    inputs: BTreeMap<Site, Vec<f32>>,
}

impl<'a> Propagation<'a> {
    /// Begins before the blocks of a decoder, with the embeddings of `tokens`, rows of `table`
    /// `(vocab_size, hidden_size)`.
    ///
    /// # Errors
    /// No windows, windows of different lengths or longer than the model allows, or tokens that it does not have.
    pub(super) fn of_decoder(
        config: &Config,
        tokens: &CalibrationTokens,
        table: &[f32],
        workers: &'a ThreadPool,
    ) -> Result<Self> {
        let length = tokens.windows.first().map_or(0, Vec::len);
        if length == 0 || tokens.windows.iter().any(|window| window.len() != length) {
            return Err(Error::Usage("calibration needs at least one window, all of one length above 0".into()));
        }
        if length > config.max_positions {
            return Err(Error::Usage(format!(
                "calibration windows of {length} tokens exceed the model's {} positions; use shorter ones",
                config.max_positions
            )));
        }
        let embed = |windows: &[Vec<u32>]| {
            let mut hidden = Vec::with_capacity(windows.len() * length * config.hidden_size);
            for &token in windows.iter().flatten() {
                let embedding = table
                    .chunks_exact(config.hidden_size)
                    .nth(token as usize)
                    .ok_or_else(|| Error::Usage(format!("calibration token {token} is outside the vocabulary")))?;
                hidden.extend_from_slice(embedding);
            }
            Ok(hidden)
        };
        Propagation::new(tokens, &embed, workers)
    }

    /// Begins before the blocks of an encoder.
    ///
    /// # Errors
    /// No sequences, sequences longer than the model allows, or tokens that it does not have.
    pub(super) fn of_encoder(
        embeddings: &EncoderEmbeddings,
        tokens: &CalibrationTokens,
        workers: &'a ThreadPool,
    ) -> Result<Self> {
        if tokens.windows.is_empty() {
            return Err(Error::Usage("calibration needs at least one sentence".into()));
        }
        let pool = Pool::new(1);
        Propagation::new(tokens, &|sequences| embeddings.states(&pool, sequences), workers)
    }

    fn new(tokens: &CalibrationTokens, embed: &Embed<'_>, workers: &'a ThreadPool) -> Result<Self> {
        let mut batches = Vec::new();
        let mut left = tokens.windows.as_slice();
        while !left.is_empty() {
            let mut ends = vec![left[0].len()];
            for window in &left[1..] {
                match ends[ends.len() - 1] + window.len() {
                    end if end <= BATCH_TOKENS => ends.push(end),
                    _ => break,
                }
            }
            let (together, rest) = left.split_at(ends.len());
            batches.push(Batch { hidden: embed(together)?, ends });
            left = rest;
        }
        let lane = || Lane { pool: Pool::new(1), work: Workspace::default(), inputs: BTreeMap::new() };
        let lanes = std::iter::repeat_with(lane).take(workers.current_num_threads()).collect();
        Ok(Propagation { workers, batches, lanes })
    }

    /// Statistics of the inputs that `block` would see at `sites`; the hidden states stay before the block.
    ///
    /// # Errors
    /// Inputs that overflow.
    pub(super) fn observe(
        &mut self,
        block: &dyn ObservedBlock,
        sites: &[Site],
    ) -> std::result::Result<BTreeMap<Site, InputStatistics>, String> {
        let mut accumulators: BTreeMap<Site, StatisticsAccumulator> = BTreeMap::new();
        self.visit(block, sites, &mut |site, inputs, ends| {
            let new = || StatisticsAccumulator::new(features(inputs, ends));
            accumulators.entry(site).or_insert_with(new).add(inputs);
        });
        accumulators.into_iter().map(|(site, accumulator)| Ok((site, accumulator.finish()?))).collect()
    }

    /// Ranges of the inputs that `block` would see at `sites`, divided by `factors`.
    ///
    /// # Errors
    /// NaN or infinite inputs.
    pub(super) fn ranges(
        &mut self,
        block: &dyn ObservedBlock,
        sites: &[Site],
        factors: &Factors,
    ) -> std::result::Result<BTreeMap<Site, InputRange>, String> {
        let mut ranges: BTreeMap<Site, InputRange> = BTreeMap::new();
        let mut added = Ok(());
        self.visit(block, sites, &mut |site, inputs, ends| {
            let range = ranges.entry(site).or_default();
            let of_batch = range.add(&divided(inputs, factors.get(&site)), ends);
            added = std::mem::replace(&mut added, Ok(())).and(of_batch);
        });
        added.map(|()| ranges)
    }

    /// Means of the inputs that `block` would see at the site of each of `wanted`, divided by `factors` and rounded by its
    /// scheme.
    pub(super) fn means(
        &mut self,
        block: &dyn ObservedBlock,
        wanted: &[(Site, ActivationScheme)],
        factors: &Factors,
    ) -> Vec<Means> {
        let sites: Vec<Site> = wanted.iter().map(|(site, _)| *site).collect();
        let mut means = vec![Means::default(); wanted.len()];
        let tokens: usize = self.batches.iter().filter_map(|batch| batch.ends.last()).sum();
        self.visit(block, &sites, &mut |site, inputs, ends| {
            let (inputs, width) = (divided(inputs, factors.get(&site)), features(inputs, ends));
            let of_site = means.iter_mut().zip(wanted).filter(|(_, (of, _))| *of == site);
            of_site.par_bridge().for_each(|(mean, (_, scheme))| {
                mean.exact.resize(width, 0.0);
                mean.rounded.resize(width, 0.0);
                for row in inputs.chunks_exact(width) {
                    mean.exact.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x) / tokens as f64);
                    let rounded = scheme.rounded(row);
                    mean.rounded.iter_mut().zip(rounded).for_each(|(mean, x)| *mean += x / tokens as f64);
                }
            });
        });
        means
    }

    /// Shows `watch` every batch of inputs that `block` would see at `sites`, `(tokens, features)` row-major, and where its
    /// sequences end, on the threads of the workers; the hidden states stay before the block.
    fn visit(&mut self, block: &dyn ObservedBlock, sites: &[Site], watch: &mut Watch<'_>) {
        if sites.is_empty() {
            return;
        }
        let Propagation { workers, batches, lanes } = self;
        let observe = |(batch, lane): (&Batch, &mut Lane)| {
            let Lane { pool, work, inputs: kept } = lane;
            block.watch(pool, &batch.hidden, &batch.ends, work, &mut |site, inputs| {
                if sites.contains(&site) {
                    let kept = kept.entry(site).or_default();
                    kept.clear();
                    kept.extend_from_slice(inputs);
                }
            });
        };
        workers.install(|| {
            for batches in batches.chunks(lanes.len()) {
                batches.par_iter().zip(&mut *lanes).for_each(observe);
                for (batch, lane) in batches.iter().zip(&*lanes) {
                    let kept = lane.inputs.iter().filter(|(site, _)| sites.contains(site));
                    kept.for_each(|(site, inputs)| watch(*site, inputs, &batch.ends));
                }
            }
        });
    }

    /// Hidden states of a few sequences at a time, `(tokens, hidden_size)` each.
    pub(super) fn batches(&self) -> impl Iterator<Item = &[f32]> {
        self.batches.iter().map(|batch| batch.hidden.as_slice())
    }

    /// Tokens of a decoder's window.
    pub(super) fn length(&self) -> usize {
        self.batches.first().and_then(|batch| batch.ends.first()).copied().unwrap_or(0)
    }

    /// Moves the hidden states behind `block`.
    pub(super) fn advance(&mut self, block: &dyn ObservedBlock) {
        let Propagation { workers, batches, lanes } = self;
        for batches in batches.chunks_mut(lanes.len()) {
            let forward = |(batch, lane): (&mut Batch, &mut Lane)| {
                block.advance(&lane.pool, &mut batch.hidden, &batch.ends, &mut lane.work);
            };
            workers.install(|| batches.par_iter_mut().zip(&mut *lanes).for_each(forward));
        }
    }
}

/// Features of the inputs of sequences that end at `ends`.
fn features(inputs: &[f32], ends: &[usize]) -> usize {
    inputs.len() / ends.last().copied().unwrap_or(1).max(1)
}

/// Rows of inputs with every feature divided by its factor.
fn divided<'i>(inputs: &'i [f32], factors: Option<&Vec<f32>>) -> Cow<'i, [f32]> {
    let Some(factors) = factors else { return Cow::Borrowed(inputs) };
    let mut inputs = inputs.to_vec();
    for row in inputs.chunks_exact_mut(factors.len()) {
        row.iter_mut().zip(factors).for_each(|(x, factor)| *x /= factor);
    }
    Cow::Owned(inputs)
}
