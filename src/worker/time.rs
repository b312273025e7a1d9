//! The job of a slot: load, warm up, time, report.
//!
//! An iteration is a prompt and greedy generation on a cleared cache. TTFT runs from the prompt to the choice of the
//! first token; the decode time from there to the choice of the last. The end-of-sequence token does not end an
//! iteration, so that every one does the same work. An iteration of an encoder is one batch. Each has a prompt of its own, so that no cache of results helps.

use std::time::{Duration, Instant};

use super::protocol::{TimeJob, Timing};
use super::slowdown::Slowdown;
use super::turns::Turns;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::roofline::{Bound, Limits, read_bandwidth};
use crate::kernels::{Isa, Pool, Profile, vector};
use crate::machine::{self, Covariates, Probe};
use crate::network::{Architecture, Decoder, Encoder, KvCache, LoadOptions};
use crate::results::{KernelUse, Memory, PhaseProfile, Sample};
use crate::tasks::{Prompts, read_tokens};

/// Fewest iterations and shortest time of a warm-up. It has the shape of the timed work: a shorter one hides one-time
/// costs.
const WARMUP_ITERATIONS: usize = 2;
const WARMUP: Duration = Duration::from_millis(300);

/// Bytes that are read to see how fast memory is: more than caches hold.
const READ_BYTES: usize = 64 << 20;

/// Loads, warms up and times.
pub(super) fn time(job: &TimeJob, turns: &Turns) -> Result<Timing> {
    job.memory_limit.map_or(Ok(()), machine::limit_memory)?;
    let prompts: Prompts = read_tokens(&job.prompts)?;
    let (warmup, timed) = (batches(&prompts.warmup, job)?, batches(&prompts.timed, job)?);
    if warmup.is_empty() || timed.is_empty() || !job.in_turns && timed.len() < job.iterations {
        return Err(Error::input(
            job.prompts.display(),
            format!("expected prompts for {} iterations of {} sequences", job.iterations, job.batch),
        ));
    }
    let work = Batches { warmup, timed, prompt: prompts.timed[0].len() };
    let checkpoint = Checkpoint::open(&job.artefact)?;
    match Architecture::of(&checkpoint)? {
        Architecture::Decoder(_) => time_decoder(job, &checkpoint, &work, turns),
        Architecture::Encoder { .. } => time_encoder(job, &checkpoint, &work, turns),
    }
}

/// The inputs of all iterations, each `(batch, prompt)` sequence-major.
struct Batches {
    warmup: Vec<Vec<u32>>,
    timed: Vec<Vec<u32>>,
    /// Tokens of a sequence.
    prompt: usize,
}

fn time_decoder(job: &TimeJob, checkpoint: &Checkpoint, work: &Batches, turns: &Turns) -> Result<Timing> {
    // Packed weights are this process's own memory and written while packing, so all their pages are present.
    let options = LoadOptions { kv_cache: job.kv_cache, dense: None };
    let (decoder, loading) = Loading::of(job, || Decoder::load(checkpoint, options))?;
    let pool = Pool::new(job.threads);
    let prompt = work.prompt;
    let cache = decoder.cache(job.batch, prompt + job.generate - 1);
    let (weight_bytes, kv_bytes) = (decoder.weight_bytes(), cache.bytes());
    let slowdown = Slowdown::planted()?;
    let mut run = Iteration { decoder: &decoder, pool: &pool, cache, job, prompt, slowdown, logits: Vec::new() };
    let timed = measure(job, &pool, work, turns, &mut |tokens| run.once(tokens))?;
    let phases = if job.profile { run.profile(&work.warmup[0])? } else { Vec::new() };
    let kernels = decoder.kernels(job.batch * prompt, job.batch);
    Ok(timed.timing(weight_bytes, kv_bytes, kernels, phases, loading))
}

fn time_encoder(job: &TimeJob, checkpoint: &Checkpoint, work: &Batches, turns: &Turns) -> Result<Timing> {
    let (encoder, loading) = Loading::of(job, || Encoder::load(checkpoint, LoadOptions::default()))?;
    let pool = Pool::new(job.threads);
    let mut memory = encoder.memory();
    let slowdown = Slowdown::planted()?;
    let mut encode = |tokens: &[u32]| {
        let sequences: Vec<&[u32]> = tokens.chunks_exact(work.prompt).collect();
        let began = Instant::now();
        encoder.forward(&pool, &sequences, &mut memory)?;
        slowdown.lengthen(began);
        let ttft_s = began.elapsed().as_secs_f64();
        Ok(Sample { ttft_s, decode_s: 0.0, prompt_tokens: tokens.len(), generated_tokens: 0 })
    };
    let timed = measure(job, &pool, work, turns, &mut encode)?;
    let mut phases = Vec::new();
    if job.profile {
        let limits = Limits::measure(Isa::active(), &pool, encoder.weight_bytes() as usize);
        let (done, profile) = pool.profile(|| encode(&work.warmup[0]));
        done?;
        let bound = limits.bound(encoder.products(job.batch * work.prompt), 0.0);
        phases.push(phase("encode", &profile, bound));
    }
    Ok(timed.timing(encoder.weight_bytes(), 0, encoder.kernels(job.batch * work.prompt), phases, loading))
}

/// How a network came into memory.
struct Loading {
    seconds: f64,
    /// VmHWM when it was there.
    peak_rss: Option<u64>,
    /// By how much VmRSS had grown then.
    resident: Option<u64>,
    /// Processors that this thread, and those that it starts, are kept on from then on: loading may use all.
    processors: Option<Vec<usize>>,
}

impl Loading {
    fn of<T>(job: &TimeJob, load: impl FnOnce() -> Result<T>) -> Result<(T, Loading)> {
        let before = machine::current_rss();
        let began = Instant::now();
        let network = load()?;
        let seconds = began.elapsed().as_secs_f64();
        let resident = machine::current_rss().zip(before).map(|(after, before)| after.saturating_sub(before));
        let (peak_rss, processors) = (machine::peak_rss(), machine::pin(job.threads));
        Ok((network, Loading { seconds, peak_rss, resident, processors }))
    }
}

/// What was measured, whatever the network.
struct Timed {
    samples: Vec<Sample>,
    covariates: Covariates,
    peak_rss: Option<u64>,
    steady_rss: Option<u64>,
    warmup_iterations: usize,
}

impl Timed {
    fn timing(
        self,
        weight_bytes: u64,
        kv_bytes: u64,
        kernels: Vec<KernelUse>,
        phases: Vec<PhaseProfile>,
        loading: Loading,
    ) -> Timing {
        let Timed { samples, covariates, peak_rss, steady_rss, warmup_iterations } = self;
        let (load_peak_rss, weights_rss) = (loading.peak_rss, loading.resident);
        let memory = Memory { weight_bytes, kv_bytes, peak_rss, steady_rss, load_peak_rss, weights_rss };
        let (load_s, processors) = (loading.seconds, loading.processors);
        Timing { samples, memory, kernels, covariates, phases, processors, load_s, warmup_iterations }
    }
}

/// Warms up and times; `once` runs one iteration.
fn measure(
    job: &TimeJob,
    pool: &Pool,
    work: &Batches,
    turns: &Turns,
    once: &mut dyn FnMut(&[u32]) -> Result<Sample>,
) -> Result<Timed> {
    let began = Instant::now();
    let mut warmup_iterations = 0;
    while warmup_iterations < WARMUP_ITERATIONS || began.elapsed() < WARMUP {
        once(&work.warmup[warmup_iterations % work.warmup.len()])?;
        warmup_iterations += 1;
    }
    let steady_rss = machine::current_rss();
    let probe = Probe::start(pool);
    let mut samples = Vec::with_capacity(job.iterations);
    for tokens in work.timed.iter().cycle().take(job.iterations) {
        if job.in_turns && !turns.wait()? {
            break;
        }
        samples.push(once(tokens)?);
    }
    let covariates = probe.stop();
    // Before anything is profiled: probing the machine's limits takes memory of its own.
    let peak_rss = machine::peak_rss();
    let read_bandwidth = job.bandwidth.then(|| read_bandwidth(Isa::active(), pool, READ_BYTES));
    let covariates = Covariates { read_bandwidth, ..covariates };
    Ok(Timed { samples, covariates, peak_rss, steady_rss, warmup_iterations })
}

fn phase(name: &str, profile: &Profile, bound: Option<Bound>) -> PhaseProfile {
    PhaseProfile { phase: name.into(), seconds: profile.total(), bound, shares: profile.shares() }
}

/// Prompts of one iteration after the other, each `(batch, prompt)` sequence-major.
fn batches(prompts: &[Vec<u32>], job: &TimeJob) -> Result<Vec<Vec<u32>>> {
    let length = prompts.first().map_or(0, Vec::len);
    if length == 0 || prompts.iter().any(|p| p.len() != length) {
        return Err(Error::input(job.prompts.display(), "expected prompts of one length, at least one token long"));
    }
    Ok(prompts.chunks_exact(job.batch).map(<[_]>::concat).collect())
}

/// The timed work, with its buffers kept between iterations.
struct Iteration<'a> {
    decoder: &'a Decoder,
    pool: &'a Pool,
    cache: KvCache,
    job: &'a TimeJob,
    prompt: usize,
    slowdown: Slowdown,
    /// `(batch, vocab_size)`.
    logits: Vec<f32>,
}

impl Iteration<'_> {
    /// Runs one iteration on `tokens`, `(batch, prompt)` sequence-major.
    fn once(&mut self, tokens: &[u32]) -> Result<Sample> {
        self.cache.clear();
        let mut next = Vec::with_capacity(self.job.batch);
        let began = Instant::now();
        self.step(tokens, &mut next)?;
        self.slowdown.lengthen(began);
        let first = Instant::now();
        self.generate(&mut next)?;
        self.slowdown.lengthen(first);
        let last = Instant::now();
        Ok(Sample {
            ttft_s: (first - began).as_secs_f64(),
            decode_s: (last - first).as_secs_f64(),
            prompt_tokens: self.job.batch * self.prompt,
            generated_tokens: self.job.batch * self.job.generate,
        })
    }

    /// Generates all tokens but the first, which `next` holds.
    fn generate(&mut self, next: &mut Vec<u32>) -> Result<()> {
        for _ in 1..self.job.generate {
            let tokens = std::mem::take(next);
            self.step(&tokens, next)?;
        }
        Ok(())
    }

    /// One more iteration, for where its time goes.
    fn profile(&mut self, tokens: &[u32]) -> Result<Vec<PhaseProfile>> {
        let (decoder, pool, batch) = (self.decoder, self.pool, self.job.batch);
        let limits = Limits::measure(Isa::active(), pool, decoder.weight_bytes() as usize);
        self.cache.clear();
        let mut next = Vec::with_capacity(batch);
        let (done, prefill) = pool.profile(|| self.step(tokens, &mut next));
        done?;
        let (done, decode) = pool.profile(|| self.generate(&mut next));
        done?;
        let (prompt, steps) = (self.prompt, self.job.generate - 1);
        // What the steps read of the cache on average.
        let kept = self.cache.bytes() as f64 * (prompt as f64 + steps as f64 / 2.0) / (prompt + steps) as f64;
        Ok(vec![
            phase("prefill", &prefill, decoder.bound(&limits, prompt, batch, 1, 0.0)),
            phase("decode", &decode, decoder.bound(&limits, 1, batch, steps, kept)),
        ])
    }

    /// Feeds `tokens` and puts the most likely next token of every sequence into `next`.
    fn step(&mut self, tokens: &[u32], next: &mut Vec<u32>) -> Result<()> {
        let vocabulary = self.decoder.config().vocab_size;
        self.decoder.next_logits(self.pool, tokens, &mut self.cache, &mut self.logits)?;
        next.clear();
        next.extend(self.logits.chunks_exact(vocabulary).map(|logits| vector::argmax(Isa::active(), logits) as u32));
        Ok(())
    }
}
