//! `bench init` of an encoder: a starter suite that compares embeddings.

/// What the suite is fitted to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shapes {
    /// Weights in all.
    pub parameters: u64,
    /// Tokens of the longest sentence worth asking for.
    pub length: usize,
    /// The largest group that divides the inputs of every layer.
    pub group_size: Option<usize>,
    /// Threads of this machine.
    pub threads: usize,
}

/// The suite as text; `model` is its source, quoted.
pub(super) fn starter(model: &toml::Value, shapes: &Shapes) -> String {
    let Shapes { parameters, length, group_size, threads } = shapes;
    let fp32_mib = (parameters * 4).div_ceil(1 << 20);
    let max_mib = fp32_mib.div_ceil(2).max(1);
    let mut text = format!(
        r#"# Which quantized form of this encoder should ship on this CPU?
#   bench plan FILE    what a run would do, and how long it would take
#   bench run FILE     measure, judge, report

title = "my encoder: which variant to ship"
model = {model}

# Everything is compared with this variant.
reference = "fp32"

# EDIT: text that smoothing and gptq learn from, cut into sentences; `windows` of them are drawn. It must not be the text
# of the task below.
[data]
calibration = {{ source = "path:calibration/*.txt", windows = 512, length = {length} }}

# EDIT: held-out text, the kind that your users embed. It is cut into sentences; each embedding is compared with the
# reference's, and so is the order of the similarities of pairs. Documents are the independent units of the interval.
[[task]]
kind = "similarity"
data = "path:heldout/*.txt"
length = {length}
sentences = 600

# The work that is timed: batches of sequences of so many tokens.
[workload]
length = {length}
batch = [1, 32]
threads = [{threads}]
# Rounds of fresh processes; six is the least for a 95 % interval, more make it narrower.
blocks = 8

# What you accept. A variant ships if its embeddings stay close enough and it is fast enough or small enough.
[accept]
rule = "accuracy and (speed or memory)"
# The mean cosine to the reference's embeddings may be this much below 1.
accuracy = {{ task = "similarity", metric = "similarity", max_drop = 0.01 }}
# A batch must be answered this many times as fast.
speed = {{ metric = "latency", min_speedup = 1.5 }}
# Or all weights must fit this; in fp32 they take about {fp32_mib} MiB.
memory = {{ metric = "weights", max = "{max_mib} MiB" }}
confidence = 0.95

# The reference.
[[variant]]
name = "fp32"
method = "cast"
dtype = "f32"

# Half the memory.
[[variant]]
name = "bf16"
method = "cast"
dtype = "bf16"

# 8-bit weights and inputs: products are integers. The inputs' outliers are moved into the weights first (SmoothQuant).
[[variant]]
name = "int8-ptq"
method = "rtn"
weights = {{ bits = 8, granularity = "channel" }}
activations = {{ bits = 8, granularity = "token", mode = "dynamic" }}
smooth = "search"
"#
    );
    match group_size {
        Some(group) => text.push_str(&format!(
            r#"
# 4 bits with the rounding errors made up for by later columns; {group} divides the inputs of every layer.
[[variant]]
name = "int4-gptq"
method = "gptq"
weights = {{ bits = 4, granularity = "group", group_size = {group}, observer = "imatrix_mse" }}
"#
        )),
        None => text.push_str("\n# No 4-bit variant: no group of 32 or more divides the inputs of every layer.\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite;

    #[test]
    fn starters_are_suites_without_faults() {
        for (group_size, names) in
            [(Some(32), &["fp32", "bf16", "int8-ptq", "int4-gptq"][..]), (None, &["fp32", "bf16", "int8-ptq"])]
        {
            let shapes = Shapes { parameters: 22_700_000, length: 128, group_size, threads: 1 };
            let text = starter(&toml::Value::String("path:/an \"odd\" place".into()), &shapes);
            let suite = suite::from_text("suite.toml", "suite", &text, Some(1)).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(suite.model, "path:/an \"odd\" place");
            assert!(suite.workload.encodes());
            assert_eq!(suite.variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), names);
        }
    }
}
