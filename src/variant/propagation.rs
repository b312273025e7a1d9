//! The calibration windows on their way through the network: hidden states before the block at hand.
//!
//! One block's weights are in memory at a time, and the hidden states of all windows. Every thread runs batches of
//! windows of its own.

use std::collections::BTreeMap;

use rayon::ThreadPool;
use rayon::prelude::*;

use super::CalibrationTokens;
use crate::error::{Error, Result};
use crate::kernels::Pool;
use crate::network::{Block, Config, Site, Workspace};
use crate::quantize::{InputStatistics, StatisticsAccumulator};

/// Tokens that run through a block at once.
const BATCH_TOKENS: usize = 512;

/// Hidden states of all calibration windows.
pub(super) struct Propagation<'a> {
    config: &'a Config,
    workers: &'a ThreadPool,
    /// Tokens of a window.
    length: usize,
    /// `(windows of the batch * length, hidden_size)` each.
    batches: Vec<Vec<f32>>,
    /// One for each thread.
    lanes: Vec<Lane>,
}

/// What a thread needs to run a batch.
struct Lane {
    pool: Pool,
    work: Workspace,
    /// Inputs of the batch by their site.
    inputs: BTreeMap<Site, Vec<f32>>,
}

impl<'a> Propagation<'a> {
    /// Begins with the embeddings of `tokens`, rows of `table` `(vocab_size, hidden_size)`.
    ///
    /// # Errors
    /// No windows, windows of different lengths or longer than the model allows, or tokens that it does not have.
    pub(super) fn new(
        config: &'a Config,
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
        let mut batches = Vec::new();
        for windows in tokens.windows.chunks((BATCH_TOKENS / length).max(1)) {
            let mut hidden = vec![0.0; windows.len() * length * config.hidden_size];
            for (&token, out) in windows.iter().flatten().zip(hidden.chunks_exact_mut(config.hidden_size)) {
                let embedding = table
                    .chunks_exact(config.hidden_size)
                    .nth(token as usize)
                    .ok_or_else(|| Error::Usage(format!("calibration token {token} is outside the vocabulary")))?;
                out.copy_from_slice(embedding);
            }
            batches.push(hidden);
        }
        let lane = || Lane { pool: Pool::new(1), work: Workspace::default(), inputs: BTreeMap::new() };
        let lanes = std::iter::repeat_with(lane).take(workers.current_num_threads()).collect();
        Ok(Propagation { config, workers, length, batches, lanes })
    }

    /// Statistics of the inputs that `block` would see at `sites`; the hidden states stay before the block.
    ///
    /// # Errors
    /// Inputs that overflow.
    pub(super) fn observe(
        &mut self,
        block: &Block,
        sites: &[Site],
    ) -> std::result::Result<BTreeMap<Site, InputStatistics>, String> {
        let mut accumulators: BTreeMap<Site, StatisticsAccumulator> = BTreeMap::new();
        let Propagation { config, workers, length, batches, lanes } = self;
        for batches in batches.chunks(lanes.len()) {
            let observe = |(batch, lane): (&Vec<f32>, &mut Lane)| {
                let Lane { pool, work, inputs: kept } = lane;
                let sequences = batch.len() / config.hidden_size / *length;
                block.observe(pool, batch, sequences, *length, work, &mut |site, inputs| {
                    if sites.contains(&site) {
                        let kept = kept.entry(site).or_default();
                        kept.clear();
                        kept.extend_from_slice(inputs);
                    }
                });
            };
            workers.install(|| batches.par_iter().zip(&mut *lanes).for_each(observe));
            for (batch, lane) in batches.iter().zip(&*lanes) {
                let tokens = batch.len() / config.hidden_size;
                for (site, inputs) in lane.inputs.iter().filter(|(site, _)| sites.contains(site)) {
                    let new = || StatisticsAccumulator::new(inputs.len() / tokens);
                    let accumulator = accumulators.entry(*site).or_insert_with(new);
                    workers.install(|| accumulator.add(inputs));
                }
            }
        }
        accumulators.into_iter().map(|(site, accumulator)| Ok((site, accumulator.finish()?))).collect()
    }

    /// Hidden states of a few windows at a time, `(windows * length, hidden_size)` each.
    pub(super) fn batches(&self) -> impl Iterator<Item = &[f32]> {
        self.batches.iter().map(Vec::as_slice)
    }

    /// Tokens of a window.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Moves the hidden states behind `block`.
    pub(super) fn advance(&mut self, block: &Block) {
        let Propagation { config, workers, length, batches, lanes } = self;
        for batches in batches.chunks_mut(lanes.len()) {
            let forward = |(hidden, lane): (&mut Vec<f32>, &mut Lane)| {
                let sequences = hidden.len() / config.hidden_size / *length;
                block.forward(&lane.pool, hidden, sequences, *length, &mut lane.work);
            };
            workers.install(|| batches.par_iter_mut().zip(&mut *lanes).for_each(forward));
        }
    }
}
