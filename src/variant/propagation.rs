//! The calibration sequences on their way through the network, from one site of the block at hand to the next.
//!
//! One block's weights are in memory at a time. A linear layer runs once, with the weights it is left with: the inputs of
//! its site stay until then, so that everything that is learnt from them reads the same numbers. Every thread runs batches
//! of sequences of its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rayon::ThreadPool;
use rayon::prelude::*;

use super::CalibrationTokens;
use super::passages::{Passages, Spill};
use crate::error::{Error, Result};
use crate::kernels::Pool;
use crate::network::{Config, EncoderConfig, EncoderEmbeddings, ObservedBlock, Passage, Site, Workspace};
use crate::quantize::{InputRange, InputStatistics, Magnitudes, MagnitudesAccumulator, StatisticsAccumulator};
use crate::tensor::ActivationScheme;

/// Tokens that run through a block at once.
const BATCH_TOKENS: usize = 512;
/// Bytes of activations that stay in memory; more go to disk.
pub(super) const ACTIVATION_BYTES: usize = 1 << 30;

/// The states of sequences before the first block, one after the other.
type Embed<'e> = dyn Fn(&[Vec<u32>]) -> Result<Vec<f32>> + 'e;

/// Sees a site, a batch of its inputs, `(tokens, features)` row-major, and where their sequences end.
type Watch<'w> = dyn FnMut(Site, &[f32], &[usize]) + 'w;

/// Inputs of a batch by their site, and where its sequences end.
type Seen = (Vec<(Site, Vec<f32>)>, Vec<usize>);

/// Means over all calibration tokens of every feature of an input.
#[derive(Default, Clone)]
pub(super) struct Means {
    /// As the input is.
    pub exact: Vec<f64>,
    /// As the kernels take it.
    pub rounded: Vec<f64>,
}

/// All calibration sequences.
pub(super) struct Propagation<'a> {
    workers: &'a ThreadPool,
    passages: Passages,
    /// Tokens of the first sequence.
    length: usize,
    tokens: usize,
    /// One for each thread.
    lanes: Vec<Mutex<Lane>>,
}

/// What a thread needs to run a batch.
struct Lane {
    pool: Pool,
    work: Workspace,
}

impl<'a> Propagation<'a> {
    /// Begins before the blocks of a decoder, with the embeddings of `tokens`, rows of `table`
    /// `(vocab_size, hidden_size)`.
    ///
    /// # Errors
    /// No windows, windows of different lengths or longer than the model allows, or tokens that it does not have; a full
    /// disk.
    pub(super) fn of_decoder(
        config: &Config,
        tokens: &CalibrationTokens,
        table: &[f32],
        workers: &'a ThreadPool,
        spill: Spill<'_>,
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
        let widest = config.query_width().max(config.hidden_size).max(config.intermediate_size);
        Propagation::new(tokens, &embed, workers, config.hidden_size + widest, spill)
    }

    /// Begins before the blocks of an encoder.
    ///
    /// # Errors
    /// No sequences, sequences longer than the model allows, or tokens that it does not have; a full disk.
    pub(super) fn of_encoder(
        config: &EncoderConfig,
        embeddings: &EncoderEmbeddings,
        tokens: &CalibrationTokens,
        workers: &'a ThreadPool,
        spill: Spill<'_>,
    ) -> Result<Self> {
        if tokens.windows.is_empty() {
            return Err(Error::Usage("calibration needs at least one sentence".into()));
        }
        let pool = Pool::new(1);
        let widest = config.hidden_size.max(config.intermediate_size);
        let embed = |sequences: &[Vec<u32>]| embeddings.states(&pool, sequences);
        Propagation::new(tokens, &embed, workers, config.hidden_size + widest, spill)
    }

    /// `features` are those that a token has at most: of the residual stream and of an input.
    fn new(
        tokens: &CalibrationTokens,
        embed: &Embed<'_>,
        workers: &'a ThreadPool,
        features: usize,
        spill: Spill<'_>,
    ) -> Result<Self> {
        let mut left = tokens.windows.as_slice();
        let batches = std::iter::from_fn(|| {
            let mut ends = vec![left.first()?.len()];
            for window in &left[1..] {
                match ends[ends.len() - 1] + window.len() {
                    end if end <= BATCH_TOKENS => ends.push(end),
                    _ => break,
                }
            }
            let (together, rest) = left.split_at(ends.len());
            left = rest;
            Some(embed(together).map(|hidden| Passage { hidden, inputs: Vec::new(), ends }))
        });
        let count: usize = tokens.windows.iter().map(Vec::len).sum();
        let passages = Passages::new(batches, count * features * size_of::<f32>(), spill)?;
        let lane = || Mutex::new(Lane { pool: Pool::new(1), work: Workspace::default() });
        let lanes = std::iter::repeat_with(lane).take(workers.current_num_threads()).collect();
        let length = tokens.windows.first().map_or(0, Vec::len);
        Ok(Propagation { workers, passages, length, tokens: count, lanes })
    }

    /// Runs on to a site of `block`, from the one before.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn reach(&mut self, block: &dyn ObservedBlock, site: Site) -> Result<()> {
        self.run(&|Lane { pool, work }, passage| block.reach(site, pool, passage, work))
    }

    /// Runs from the last site of `block` to behind it.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn finish(&mut self, block: &dyn ObservedBlock) -> Result<()> {
        self.run(&|Lane { pool, work }, passage| block.finish(pool, passage, work))
    }

    /// Runs from before `block` to behind it.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn advance(&mut self, block: &dyn ObservedBlock) -> Result<()> {
        self.run(&|Lane { pool, work }, passage| block.advance(pool, passage, work))
    }

    fn run(&self, step: &(dyn Fn(&mut Lane, &mut Passage) + Sync)) -> Result<()> {
        let run = |thread: usize, passage: &mut Passage| {
            step(&mut self.lanes[thread].lock().unwrap_or_else(PoisonError::into_inner), passage);
        };
        self.passages.change(self.workers, run)
    }

    /// Statistics of the inputs of the site that was reached; with those of the same site of the unquantized network,
    /// how far they have drifted from there.
    ///
    /// # Errors
    /// Inputs that overflow; those of the disk.
    pub(super) fn statistics(
        &self,
        unquantized: Option<&Propagation<'_>>,
    ) -> Result<std::result::Result<InputStatistics, String>> {
        let width = self.passages.with(0, |passage| features(&passage.inputs, &passage.ends))?;
        let mut accumulator = match unquantized {
            None => StatisticsAccumulator::new(width),
            Some(_) => StatisticsAccumulator::with_drift(width),
        };
        // Batches of at most as many tokens each.
        let together = (accumulator.tile_tokens() / BATCH_TOKENS.max(self.length)).max(1);
        for start in (0..self.passages.len()).step_by(together) {
            let indices = start..self.passages.len().min(start + together);
            self.passages.with_some(indices.clone(), |passages| {
                let of_quantized = inputs_of(passages);
                let mut add = |others: &[&[f32]]| {
                    self.workers.install(|| accumulator.add_tile(&of_quantized, others));
                };
                match unquantized {
                    None => add(&[]),
                    Some(other) => {
                        other.passages.with_some(indices.clone(), |passages| add(&inputs_of(passages)))?;
                    }
                }
                Ok(())
            })??;
        }
        Ok(self.workers.install(|| accumulator.finish()))
    }

    /// Range of the inputs of the site that was reached.
    ///
    /// # Errors
    /// NaN or infinite inputs; those of the disk.
    pub(super) fn range(&self) -> Result<std::result::Result<InputRange, String>> {
        let mut range = InputRange::default();
        for index in 0..self.passages.len() {
            let added = self.passages.with(index, |passage| range.add(&passage.inputs, &passage.ends))?;
            if let Err(problem) = added {
                return Ok(Err(problem));
            }
        }
        Ok(Ok(range))
    }

    /// Means of the inputs of the site that was reached, rounded by each of `schemes`.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn means(&self, schemes: &[ActivationScheme]) -> Result<Vec<Means>> {
        let mut means = vec![Means::default(); schemes.len()];
        let add = |mean: &mut Means, scheme: &ActivationScheme, passage: &Passage| {
            let width = features(&passage.inputs, &passage.ends);
            mean.exact.resize(width, 0.0);
            mean.rounded.resize(width, 0.0);
            for row in passage.inputs.chunks_exact(width) {
                mean.exact.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x) / self.tokens as f64);
                let rounded = scheme.rounded(row);
                mean.rounded.iter_mut().zip(rounded).for_each(|(mean, x)| *mean += x / self.tokens as f64);
            }
        };
        for index in 0..self.passages.len() {
            self.passages.with(index, |passage| {
                let all = means.par_iter_mut().zip(schemes);
                self.workers.install(|| all.for_each(|(mean, scheme)| add(mean, scheme, passage)));
            })?;
        }
        Ok(means)
    }

    /// Sizes of the inputs that `block` would see at `sites`; the sequences stay before the block.
    ///
    /// # Errors
    /// Inputs that overflow; those of the disk.
    pub(super) fn magnitudes(
        &self,
        block: &dyn ObservedBlock,
        sites: &[Site],
    ) -> Result<std::result::Result<BTreeMap<Site, Magnitudes>, String>> {
        let mut accumulators: BTreeMap<Site, MagnitudesAccumulator> = BTreeMap::new();
        self.visit(block, sites, &mut |site, inputs, ends| {
            let new = || MagnitudesAccumulator::new(features(inputs, ends));
            accumulators.entry(site).or_insert_with(new).add(inputs);
        })?;
        Ok(accumulators.into_iter().map(|(site, accumulator)| Ok((site, accumulator.finish()?))).collect())
    }

    /// Statistics of the inputs that `block` would see at all sites; the sequences stay before the block.
    ///
    /// # Errors
    /// Inputs that overflow; those of the disk.
    pub(super) fn observe(
        &self,
        block: &dyn ObservedBlock,
    ) -> Result<std::result::Result<BTreeMap<Site, InputStatistics>, String>> {
        let mut accumulators: BTreeMap<Site, StatisticsAccumulator> = BTreeMap::new();
        self.visit(block, &Site::ALL, &mut |site, inputs, ends| {
            let new = || StatisticsAccumulator::new(features(inputs, ends));
            self.workers.install(|| accumulators.entry(site).or_insert_with(new).add(inputs));
        })?;
        Ok(accumulators.into_iter().map(|(site, accumulator)| Ok((site, accumulator.finish()?))).collect())
    }

    /// Shows `watch` every batch of inputs that `block` would see at `sites`, `(tokens, features)` row-major, and where its
    /// sequences end; the sequences stay before the block.
    fn visit(&self, block: &dyn ObservedBlock, sites: &[Site], watch: &mut Watch<'_>) -> Result<()> {
        let seen_by = |index: usize| -> Result<Seen> {
            let mut passage = self.passages.with(index, Passage::clone)?;
            let thread = rayon::current_thread_index().unwrap_or(0);
            let mut lane = self.lanes[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let Lane { pool, work } = &mut *lane;
            let mut seen = Vec::new();
            for site in Site::ALL {
                block.reach(site, pool, &mut passage, work);
                if sites.contains(&site) {
                    seen.push((site, passage.inputs.clone()));
                }
            }
            Ok((seen, passage.ends))
        };
        let indices: Vec<usize> = (0..self.passages.len()).collect();
        for together in indices.chunks(self.lanes.len()) {
            let seen: Vec<_> =
                self.workers.install(|| together.par_iter().map(|&index| seen_by(index)).collect::<Result<_>>())?;
            for (seen, ends) in &seen {
                seen.iter().for_each(|(site, inputs)| watch(*site, inputs, ends));
            }
        }
        Ok(())
    }

    /// Shows `see` the residual stream of a few sequences at a time, `(tokens, hidden_size)` row-major, in order.
    ///
    /// # Errors
    /// Those of `see` and of the disk.
    pub(super) fn for_each_stream(&self, mut see: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        (0..self.passages.len()).try_for_each(|index| self.passages.with(index, |passage| see(&passage.hidden))?)
    }

    /// Replaces the residual stream of all sequences, as [`Propagation::for_each_stream`] has shown it.
    ///
    /// # Errors
    /// Those of `fill` and of the disk.
    pub(super) fn restore_streams(&mut self, mut fill: impl FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
        for index in 0..self.passages.len() {
            let mut passage = self.passages.take(index)?;
            fill(&mut passage.hidden)?;
            self.passages.put(index, passage)?;
        }
        Ok(())
    }

    /// Tokens of a decoder's window.
    pub(super) fn length(&self) -> usize {
        self.length
    }
}

fn inputs_of<'p>(passages: &[&'p Passage]) -> Vec<&'p [f32]> {
    passages.iter().map(|passage| passage.inputs.as_slice()).collect()
}

/// Features of the inputs of sequences that end at `ends`.
fn features(inputs: &[f32], ends: &[usize]) -> usize {
    inputs.len() / ends.last().copied().unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{calibration, unchanged, write_model};
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::kernels::Matrix;
    use crate::network::{Architecture, Decoder, LoadOptions, load_block};
    use crate::tensor::DenseFormat;

    /// What calibration reads at every site of block 1, in memory or on disk; and the residual streams behind it.
    fn journey(threads: usize, bound: usize) -> (Vec<(InputStatistics, Vec<f64>)>, Vec<f32>) {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), true, &unchanged);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let architecture = Architecture::of(&checkpoint).unwrap();
        let Architecture::Decoder(config) = &architecture else { panic!("a decoder") };
        let workers = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let options = LoadOptions { dense: Some(DenseFormat::F32), kv_cache: None };
        let decoder = Decoder::load(&checkpoint, options).unwrap();
        let table = decoder.embed(&(0..config.vocab_size as u32).collect::<Vec<u32>>());
        // More than one batch: windows of 32 tokens, 16 to a batch.
        let windows = std::iter::repeat_n(calibration().windows, 6).flatten().collect();
        let tokens = CalibrationTokens { windows };
        let mut through =
            Propagation::of_decoder(config, &tokens, &table, &workers, Some((folder.path(), bound))).unwrap();
        assert_eq!(matches!(through.passages, Passages::Disk(_)), bound == 0);
        let block = |layer| load_block(&checkpoint, &architecture, layer, options).unwrap();
        through.advance(block(0).as_ref()).unwrap();
        let watched = through.observe(block(1).as_ref()).unwrap().unwrap();
        let mut seen = Vec::new();
        for site in Site::ALL {
            through.reach(block(1).as_ref(), site).unwrap();
            let statistics = through.statistics(None).unwrap().unwrap();
            // The two add up in batches of their own, in 32-bit floats: a bound relative to the largest entry.
            let largest = statistics.hessian.iter().fold(1.0, |largest: f64, entry| largest.max(entry.abs()));
            let apart = statistics.hessian.iter().zip(&watched[&site].hessian).map(|(a, b)| (a - b).abs());
            let apart = apart.fold(0.0, f64::max);
            assert!(apart < 1e-5 * largest, "watching and reaching show the same inputs: {apart} apart of {largest}");
            let means = through.means(&[ActivationScheme::None]).unwrap().remove(0);
            assert_eq!(means.exact, means.rounded);
            seen.push((statistics, means.exact));
        }
        through.finish(block(1).as_ref()).unwrap();
        let mut streams = Vec::new();
        through
            .for_each_stream(|stream| {
                streams.extend_from_slice(stream);
                Ok(())
            })
            .unwrap();
        let mut expected = decoder.embed(&tokens.windows.concat());
        decoder.block(0).forward(&Pool::new(1), &mut expected, tokens.windows.len(), 32, &mut Workspace::default());
        decoder.block(1).forward(&Pool::new(1), &mut expected, tokens.windows.len(), 32, &mut Workspace::default());
        assert_eq!(streams, expected, "from site to site is the same way as in one go");
        (seen, streams)
    }

    #[test]
    fn threads_and_disk_change_no_bit() {
        let expected = journey(1, usize::MAX);
        for (threads, bound) in [(3, usize::MAX), (1, 0), (2, 0)] {
            assert!(journey(threads, bound) == expected, "{threads} threads, {bound} bytes in memory");
        }
    }

    #[test]
    fn a_layer_that_is_replaced_changes_what_the_next_site_reads() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), true, &unchanged);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let architecture = Architecture::of(&checkpoint).unwrap();
        let Architecture::Decoder(config) = &architecture else { panic!("a decoder") };
        let workers = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let table: Vec<f32> = (0..config.vocab_size * config.hidden_size).map(|at| (at % 7) as f32 - 3.0).collect();
        let begin = || Propagation::of_decoder(config, &calibration(), &table, &workers, None).unwrap();
        let options = LoadOptions { dense: Some(DenseFormat::F32), kv_cache: None };
        let mut block = load_block(&checkpoint, &architecture, 0, options).unwrap();
        let (mut through, mut unquantized) = (begin(), begin());
        let mut drifts = Vec::new();
        for site in Site::ALL {
            let original = load_block(&checkpoint, &architecture, 0, options).unwrap();
            through.reach(block.as_ref(), site).unwrap();
            unquantized.reach(original.as_ref(), site).unwrap();
            drifts.push(through.statistics(Some(&unquantized)).unwrap().unwrap().drift.unwrap());
            if site == Site::AttentionOutput {
                let zero = |_: usize, out: &mut [f32]| out.fill(0.0);
                let shape = checkpoint.shape("model.layers.0.self_attn.o_proj.weight").unwrap();
                let weight = Matrix::from_rows(DenseFormat::F32, shape[0], shape[1], &zero);
                block.replace_linear("self_attn.o_proj", weight).unwrap();
            }
        }
        let moved = |drift: &ndarray::Array2<f64>| drift.iter().any(|value| *value != 0.0);
        assert_eq!(drifts.iter().map(moved).collect::<Vec<_>>(), [false, false, true, true]);
    }
}
