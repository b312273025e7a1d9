//! Evidence made up for tests, from a truth that is known. Nothing of it is ever written where a measured run lies.

#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;

use quantbench::kernels::Profile;
use quantbench::kernels::roofline::{Bound, Resource};
use quantbench::machine::{Covariates, MachineRecord};
use quantbench::results::{
    Artefact, BlockPlan, Built, Evidence, Genres, KernelUse, LayerProof, Memory, PhaseProfile, ProductProof, Sample,
    Score, Slot, Stage, VariantEvidence, WindowScore,
};
use quantbench::suite::{
    Accept, AccuracyLimit, AccuracyMetric, Calibration, InputScheme, MemoryLimit, MemoryMetric, Method, Observer,
    Recipe, SpeedLimit, SpeedMetric, Suite, Task, TaskKind, TextSource, Variant, WeightScheme, Workload,
};
use quantbench::tensor::{DenseFormat, Granularity};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub const MIB: u64 = 1 << 20;

/// The truth about one variant.
#[derive(Debug, Clone)]
pub struct Truth {
    pub name: &'static str,
    pub recipe: Recipe,
    /// Increase of the mean negative log-likelihood, nats per token.
    pub loss: f64,
    /// Speedups over the reference.
    pub prefill: f64,
    pub decode: f64,
    pub weight_bytes: u64,
    pub kernel: &'static str,
}

/// What surrounds the truths.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub documents: usize,
    pub windows_per_document: usize,
    pub blocks: usize,
    /// Standard deviation of a slot's log time.
    pub noise: f64,
    /// Factor on the control's times: 1 in a sound run.
    pub control: f64,
    pub seed: u64,
}

pub const SETTING: Setting =
    Setting { documents: 12, windows_per_document: 6, blocks: 9, noise: 0.02, control: 1.0, seed: 1 };

fn quantize(method: &str, bits: u8, group_size: Option<usize>, activations: InputScheme) -> Recipe {
    let granularity = if group_size.is_some() { Granularity::Group } else { Granularity::Channel };
    let weights = WeightScheme { bits, granularity, group_size, symmetric: true, observer: Observer::MinMax };
    Recipe::Quantize(Method {
        method: method.into(),
        weights,
        activations,
        smooth: None,
        bias_correction: false,
        rotation: None,
        asymmetric_calibration: false,
        overrides: Vec::new(),
        dense: DenseFormat::F16,
    })
}

/// A reference and five candidates such as a suite has.
pub fn truths() -> Vec<Truth> {
    let none = InputScheme::None;
    let dynamic = InputScheme::DynamicToken;
    let truth = |name, recipe, loss, prefill, decode, mib: u64, kernel| Truth {
        name,
        recipe,
        loss,
        prefill,
        decode,
        weight_bytes: mib * MIB,
        kernel,
    };
    let import = Recipe::Import { source: "model".into(), activations: dynamic };
    vec![
        truth("fp16", Recipe::Cast { dtype: DenseFormat::F16 }, 0.0, 1.0, 1.0, 257, "x86_64-f16-avx512vnni"),
        truth("int8", quantize("rtn", 8, None, dynamic), 0.004, 2.9, 1.82, 130, "x86_64-w8a8-avx512vnni"),
        truth("int8-weight-only", quantize("rtn", 8, None, none), 0.003, 1.1, 1.80, 130, "x86_64-w8a16-avx512vnni"),
        truth("int4-rtn", quantize("rtn", 4, Some(64), dynamic), 0.12, 2.7, 2.84, 74, "x86_64-w4a8-avx512vnni"),
        truth("int4-gptq", quantize("gptq", 4, Some(64), dynamic), 0.031, 2.7, 2.86, 74, "x86_64-w4a8-avx512vnni"),
        truth("q4_1-import", import, 0.038, 2.6, 2.60, 82, "x86_64-w4a8-avx512vnni"),
    ]
}

pub fn accept() -> Accept {
    Accept {
        rule: "accuracy and (speed or memory)".into(),
        accuracy: AccuracyLimit {
            task: "perplexity".into(),
            metric: AccuracyMetric::Perplexity { max_increase_percent: 5.0 },
            relative: None,
        },
        speed: Some(SpeedLimit { metric: SpeedMetric::Decode, min_speedup: 1.5, threads: 2 }),
        memory: Some(MemoryLimit { metric: MemoryMetric::Weights, max_bytes: 100 * MIB }),
        confidence: 0.95,
    }
}

fn suite(truths: &[Truth], setting: Setting) -> Suite {
    let text = |first, last| TextSource {
        source: "npm:texts@1.0.0#data/chapter_*.json".into(),
        documents: Some((first, last)),
        field: Some("text".into()),
    };
    Suite {
        title: "Synthetic: every method on a made-up model".into(),
        name: "synthetic".into(),
        model: "path:made-up".into(),
        reference: "fp16".into(),
        calibration: Some(Calibration {
            text: text(100, 110),
            windows: 64,
            length: 256,
            seed: 1,
            seeds: 1,
            allow_leak: false,
        }),
        tasks: vec![Task {
            name: "perplexity".into(),
            kind: TaskKind::Perplexity { length: 256, windows: None },
            text: text(0, setting.documents),
        }],
        workload: Workload {
            prompt: 128,
            generate: 64,
            batch: vec![1],
            threads: vec![1, 2],
            iterations: 3,
            pilot: false,
            blocks: (setting.blocks, setting.blocks),
        },
        accept: accept(),
        gate: Default::default(),
        variants: truths
            .iter()
            .map(|t| Variant { name: t.name.into(), recipe: t.recipe.clone(), kv_cache: None })
            .collect(),
        seed: setting.seed,
    }
}

fn normal(rng: &mut StdRng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

fn score(truth: &Truth, setting: Setting, reference: bool, text: &mut StdRng, own: &mut StdRng) -> Score {
    let mut windows = Vec::new();
    for document in 0..setting.documents {
        let hard = 3.1 + 0.2 * normal(text);
        let hurt = truth.loss * (1.0 + 0.3 * normal(own));
        for _ in 0..setting.windows_per_document {
            let tokens = 255;
            let base = hard + 0.1 * normal(text);
            let loss = hurt + 0.1 * truth.loss * normal(own);
            let kl = truth.loss * (0.8 + 0.2 * own.random::<f64>());
            let lost = (truth.loss * 60.0) as usize + usize::from(own.random::<f64>() < 0.3 && !reference);
            let won = lost / 2;
            windows.push(WindowScore {
                document,
                tokens,
                nll: (base + loss) * tokens as f64,
                correct: 105 - lost + won,
                kl: (!reference).then_some(kl * tokens as f64),
                agree: (!reference).then_some(tokens - 2 * lost - 1),
                flips: (!reference).then_some((lost, won)),
                squared_difference: (!reference).then_some(kl * 0.01 * tokens as f64),
            });
        }
    }
    let kl = truth.loss;
    Score {
        task: "perplexity".into(),
        windows,
        items: Vec::new(),
        genres: Genres::default(),
        sentences: Vec::new(),
        generations: Vec::new(),
        rank_correlation: None,
        kl_quantiles: (!reference).then_some([0.3 * kl, 2.0 * kl, 9.0 * kl, 30.0 * kl, 90.0 * kl]),
        seconds: 31.5,
        kernels: kernels(truth, "prefill"),
        worker_peak_rss: Some(600 * MIB),
    }
}

fn kernels(truth: &Truth, phase: &str) -> Vec<KernelUse> {
    vec![
        KernelUse {
            phase: phase.into(),
            kernel: truth.kernel.into(),
            matrices: 210,
            bytes: truth.weight_bytes - 54 * MIB,
        },
        KernelUse { phase: phase.into(), kernel: "x86_64-f16-avx512vnni".into(), matrices: 1, bytes: 54 * MIB },
    ]
}

/// Half the time of a phase is linear layers, and the machine could take 0.8 of it.
fn phases() -> Vec<PhaseProfile> {
    let shares = Profile { linear: 0.5, inputs: 0.125, attention: 0.25, head: 0.0625, rest: 0.0625 };
    let phase = |name: &str, by, seconds: f64| PhaseProfile {
        phase: name.into(),
        seconds,
        bound: Some(Bound { by, seconds: 0.8 * seconds }),
        shares,
    };
    vec![phase("prefill", Resource::Arithmetic, 0.1), phase("decode", Resource::Reading, 1.0)]
}

fn slot(truth: &Truth, at: (usize, usize, usize), control: f64, setting: Setting, rng: &mut StdRng) -> Slot {
    let (block, position, threads) = at;
    let scale = 1.8 / (0.8 + threads as f64) * (setting.noise * normal(rng)).exp();
    let sample = |rng: &mut StdRng| Sample {
        ttft_s: 0.21 * scale * control / truth.prefill * (0.005 * normal(rng)).exp(),
        decode_s: 63.0 * 0.0172 * scale * control / truth.decode * (0.005 * normal(rng)).exp(),
        prompt_tokens: 128,
        generated_tokens: 64,
    };
    Slot {
        variant: truth.name.into(),
        control: false,
        block,
        position,
        batch: 1,
        threads,
        samples: (0..3).map(|_| sample(rng)).collect(),
        memory: Memory {
            weight_bytes: truth.weight_bytes,
            kv_bytes: 9 * MIB,
            peak_rss: Some(truth.weight_bytes + 40 * MIB + rng.random_range(0..MIB)),
            steady_rss: Some(truth.weight_bytes + 30 * MIB),
            load_peak_rss: Some(truth.weight_bytes + 35 * MIB),
            weights_rss: Some(truth.weight_bytes + 2 * MIB),
        },
        kernels: [kernels(truth, "decode"), kernels(truth, "prefill")].concat(),
        covariates: Covariates {
            steal: Some(if block == 4 { 0.053 } else { 0.002 }),
            others_cpu: Some(0.01),
            own_cpu: Some(0.995),
            cpu_pressure: Some(0.004),
            major_faults: Some(0),
            involuntary_switches: Some(12),
            throttled: None,
            clock: Some(1.0 + 0.002 * normal(rng)),
            ..Covariates::default()
        },
        processors: Some(vec![0, 1]),
        load_s: 0.6,
        phases: if block == 0 { phases() } else { Vec::new() },
        warmup_iterations: 2,
        wall_s: 4.1,
    }
}

/// Evidence of a finished run in which every variant behaves as its truth says. The first truth is the reference.
/// A quantized layer and a head in floating point.
fn proof() -> Vec<LayerProof> {
    let product = |tokens: usize, kernel_name: &str| ProductProof {
        tokens,
        kernel_name: kernel_name.into(),
        integers: 1.5e-8,
        kernel: 3.0e-8,
    };
    let products = Some([product(1, "x86_64-w4a16-avx512-gemv"), product(8, "x86_64-w4a16-avx512-gemm")]);
    vec![
        LayerProof {
            tensor: "model.layers.0.mlp.down_proj.weight".into(),
            stored_as: "4 bits, groups of 32, offsets; inputs float".into(),
            products,
        },
        LayerProof { tensor: "lm_head.weight".into(), stored_as: "f16".into(), products: None },
    ]
}

pub fn evidence(truths: &[Truth], setting: Setting) -> Evidence {
    let mut rng = StdRng::seed_from_u64(setting.seed);
    let mut variants: BTreeMap<String, VariantEvidence> = BTreeMap::new();
    for (at, truth) in truths.iter().enumerate() {
        let mut text = StdRng::seed_from_u64(setting.seed + 1000);
        let score = score(truth, setting, at == 0, &mut text, &mut rng);
        let quantized = !matches!(truth.recipe, Recipe::Cast { .. });
        let layer = |l: usize| {
            let error = truth.loss * 0.05 * (1.0 + l as f64 / 10.0);
            (format!("model.layers.{l}.mlp.down_proj"), error)
        };
        let artefact = Artefact {
            path: format!("artefacts/{}", truth.name),
            key: format!("{:064x}", 77 + at),
            file_bytes: truth.weight_bytes + 2 * MIB,
            files: Vec::new(),
            seconds: if quantized { 48.0 } else { 0.0 },
            cached: !quantized,
            layer_errors: if quantized { (0..30).map(layer).collect() } else { BTreeMap::new() },
            bits_per_weight: quantized.then_some(8.0 * truth.weight_bytes as f64 / (135.0e6)),
            mixture: None,
            proof: if matches!(truth.recipe, Recipe::Import { .. }) { proof() } else { Vec::new() },
        };
        let scores = BTreeMap::from([("perplexity".to_string(), score)]);
        let built = Built::Ready(artefact);
        variants.insert(
            truth.name.into(),
            VariantEvidence {
                built,
                scores,
                redrawn: BTreeMap::new(),
                slots: Vec::new(),
                fit: None,
                failures: Vec::new(),
            },
        );
    }
    for block in 0..setting.blocks {
        let shared = 1.0 + 0.01 * (block as f64 - 4.0);
        for threads in [1, 2] {
            for (position, truth) in truths.iter().enumerate() {
                let slots = &mut variants.get_mut(truth.name).unwrap().slots;
                slots.push(slot(truth, (block, position, threads), shared, setting, &mut rng));
                if position == 0 {
                    let at = (block, truths.len(), threads);
                    let control = slot(truth, at, shared * setting.control, setting, &mut rng);
                    slots.push(Slot { control: true, ..control });
                }
            }
        }
    }
    let stage = |name: &str, seconds, rss: u64| Stage { name: name.into(), seconds, worker_peak_rss: Some(rss * MIB) };
    Evidence {
        build: String::new(),
        prepared: None,
        passing: Vec::new(),
        tool_version: "0.1.0".into(),
        started_unix_s: 1_795_000_000.0,
        finished_unix_s: Some(1_795_001_234.0),
        suite: suite(truths, setting),
        model_sha256: "5f".repeat(32),
        machine: machine(),
        variants,
        stages: vec![
            stage("fetch", 2.1, 14),
            stage("build", 331.0, 912),
            stage("score", 190.0, 640),
            stage("time", 512.0, 310),
        ],
        plan: Some(BlockPlan { first: setting.blocks, most: setting.blocks, closed: 0, racing: false }),
        iterations: None,
        left: BTreeMap::new(),
        broken: None,
        set_aside: Vec::new(),
        moved: 0,
        leak: None,
        warnings: Vec::new(),
        parent_peak_rss: Some(14 * MIB),
    }
}

fn machine() -> MachineRecord {
    let facts =
        [("governor", "performance"), ("smt", "off"), ("transparent_hugepage", "madvise"), ("load_average", "0.12")];
    MachineRecord {
        cpu: "Made-Up 9000".into(),
        arch: "x86_64".into(),
        instruction_sets: vec!["scalar".into(), "avx2".into(), "avx512vnni".into()],
        isa: "avx512vnni".into(),
        cores: 2,
        memory_bytes: 24 << 30,
        os: "Linux 6.1.0".into(),
        host: "nowhere".into(),
        timer: None,
        virtual_machine: Some(true),
        disturbances: vec!["runs under a hypervisor; neighbours may take processor time".into()],
        facts: facts.map(|(k, v)| (k.to_string(), v.to_string())).into(),
    }
}
