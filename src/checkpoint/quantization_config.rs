//! The `quantization_config` of a compressed-tensors folder: which module has which scheme.
//!
//! Everything that would change the numbers and is not carried out here is refused, never approximated.

use std::collections::{BTreeMap, HashMap};

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;

use crate::tensor::{ActivationScheme, Granularity};

/// Scheme of a module's weight and inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scheme {
    pub(super) bits: u8,
    pub(super) symmetric: bool,
    pub(super) granularity: Granularity,
    /// Columns of a group, at least 1; only for [`Granularity::Group`].
    pub(super) group_size: usize,
    pub(super) inputs: Inputs,
}

/// What the configuration says of inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Inputs {
    /// All there is to say.
    Known(ActivationScheme),
    /// One scale and zero point for the tensor, which are stored beside the weight.
    Stored {
        /// Whether the zero point is 0.
        symmetric: bool,
    },
}

/// Smallest scale of asymmetric inputs: what the `compressed-tensors` package puts in place of 0.
const MIN_SCALE: f32 = f32::EPSILON;

/// Groups of modules with their schemes, checked.
#[derive(Debug)]
pub(super) struct QuantizationConfig {
    groups: Vec<(Vec<Target>, Scheme)>,
    /// Modules left out, whatever the groups target.
    ignore: Vec<Target>,
    /// Whether the embedding is the head too.
    tied_head: bool,
    /// How codes of 3, 5, 6 and 7 bits are packed, where the version says it.
    packing: Option<Packing>,
}

/// How codes are packed into words of 32 bits. The two differ for 3, 5, 6 and 7 bits only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// `32 / bits` codes to a word: `compressed-tensors` before 0.18.
    Padded,
    /// Without gaps: since 0.18.
    Dense,
}

impl Packing {
    /// The packing of a release; `None` for one that does not tell, such as a nightly build between the two.
    fn of_release(version: &str) -> Option<Self> {
        let mut numbers = version.split('.');
        let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
        let release = (next()?, next()?);
        let is_final = next().is_some() && numbers.all(|part| part.parse::<u32>().is_ok());
        match release {
            (0, 17 | 18) if !is_final => None,
            older if older < (0, 18) => Some(Packing::Padded),
            _ => Some(Packing::Dense),
        }
    }

    /// Words of `count` codes.
    pub(super) fn words(self, count: u64, bits: u8) -> Option<u64> {
        match self {
            Packing::Padded => Some(count.div_ceil(u64::from(32 / bits))),
            Packing::Dense => count.checked_mul(u64::from(bits)).map(|bits| bits.div_ceil(32)),
        }
    }
}

/// What a group applies to.
#[derive(Debug)]
enum Target {
    /// A module's name, or a class: `Linear`, `Embedding`.
    Name(String),
    /// `re:` and a regular expression that must match from the start of the name.
    Pattern(Regex),
}

/// Keys of the configuration.
pub(super) const KEYS: &[&str] = &[
    "config_groups",
    "format",
    "global_compression_ratio",
    "ignore",
    "kv_cache_scheme",
    "moe_sparsity_config",
    "quant_method",
    "quantization_status",
    "sparsity_config",
    "transform_config",
    "version",
];

#[derive(Deserialize)]
struct Stored {
    /// Release of the `compressed-tensors` package that the layout is of.
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    moe_sparsity_config: Value,
    #[serde(default)]
    format: Option<String>,
    #[serde(default)]
    config_groups: BTreeMap<String, Group>,
    /// Null is none.
    #[serde(default)]
    ignore: Option<Vec<String>>,
    #[serde(default)]
    kv_cache_scheme: Value,
    #[serde(default)]
    sparsity_config: Value,
    #[serde(default)]
    transform_config: Value,
}

#[derive(Deserialize)]
struct Group {
    targets: Vec<String>,
    #[serde(default)]
    format: Option<String>,
    weights: Option<Numbers>,
    #[serde(default)]
    input_activations: Option<Numbers>,
    #[serde(default)]
    output_activations: Value,
}

#[derive(Deserialize)]
struct Numbers {
    num_bits: u8,
    #[serde(rename = "type", default = "int")]
    kind: String,
    #[serde(default = "yes")]
    symmetric: bool,
    #[serde(default)]
    strategy: Option<String>,
    #[serde(default)]
    group_size: Option<i64>,
    #[serde(default)]
    dynamic: Value,
    #[serde(default)]
    actorder: Value,
}

fn int() -> String {
    "int".into()
}

fn yes() -> bool {
    true
}

impl QuantizationConfig {
    /// Reads and checks the configuration.
    pub(super) fn read(stored: &Value, tied_head: bool) -> std::result::Result<Self, String> {
        Self::check(Stored::deserialize(stored).map_err(|error| error.to_string())?, tied_head)
    }

    fn check(stored: Stored, tied_head: bool) -> std::result::Result<Self, String> {
        for (key, value) in [
            ("kv_cache_scheme", &stored.kv_cache_scheme),
            ("sparsity_config", &stored.sparsity_config),
            ("transform_config", &stored.transform_config),
            ("moe_sparsity_config", &stored.moe_sparsity_config),
        ] {
            let dense = value.get("format").is_some_and(|format| format == "dense");
            let empty = value.as_object().is_some_and(|map| map.values().all(is_empty));
            if !(value.is_null() || dense || empty) {
                return Err(format!("{key} is not supported; expected null"));
            }
        }
        let mut patterns = Patterns::default();
        let mut groups = Vec::new();
        for (name, group) in stored.config_groups {
            let format = group.format.as_deref().or(stored.format.as_deref()).unwrap_or("missing");
            let at = |problem: String| format!("{name}: {problem}");
            if !matches!(format, "pack-quantized" | "int-quantized") {
                let supported = "supported: pack-quantized, int-quantized";
                return Err(at(format!("format \"{format}\" is not supported; {supported}")));
            }
            if !group.output_activations.is_null() {
                return Err(at("output_activations are not supported; expected null".into()));
            }
            let targets = group
                .targets
                .iter()
                .map(|target| Target::parse(target, &mut patterns))
                .collect::<std::result::Result<_, _>>();
            let weights = group.weights.ok_or_else(|| at("weights: expected a scheme, got null".into()))?;
            let mut scheme = weights.scheme().map_err(|problem| at(format!("weights: {problem}")))?;
            if let Some(inputs) = group.input_activations {
                scheme.inputs = inputs.inputs().map_err(|p| at(format!("input_activations: {p}")))?;
            }
            groups.push((targets.map_err(at)?, scheme));
        }
        let ignore = stored.ignore.iter().flatten();
        let ignore = ignore.map(|target| Target::parse(target, &mut patterns)).collect::<std::result::Result<_, _>>();
        let ignore = ignore.map_err(|problem| format!("ignore: {problem}"))?;
        let packing = stored.version.as_deref().and_then(Packing::of_release);
        Ok(QuantizationConfig { groups, ignore, tied_head, packing })
    }

    /// How codes are packed, where the version says it.
    pub(super) fn packing(&self) -> Option<Packing> {
        self.packing
    }

    /// Whether the weight of `module` must be quantized.
    pub(super) fn claims(&self, module: &str) -> bool {
        !self.ignores(module) && self.group_of(module).is_some()
    }

    /// The scheme of a quantized module. A lookup has no inputs to round; where the embedding is the head too, they are
    /// the head's.
    pub(super) fn scheme_of(&self, module: &str) -> std::result::Result<Scheme, String> {
        if self.ignores(module) {
            return Err("is quantized, though quantization_config ignores its module; one of the two is wrong".into());
        }
        let scheme = self.group_of(module).ok_or(
            "is quantized, but no group of quantization_config targets its module; the configuration is not complete",
        )?;
        if class_of(module) == "Linear" {
            return Ok(scheme);
        }
        let head = self.group_of("lm_head").filter(|_| self.tied_head && !self.ignores("lm_head"));
        let inputs = head.map_or(Inputs::Known(ActivationScheme::None), |head| head.inputs);
        Ok(Scheme { inputs, ..scheme })
    }

    /// By the module's name, else by a pattern, else by its class.
    fn group_of(&self, module: &str) -> Option<Scheme> {
        let class = class_of(module);
        let find = |wanted: &dyn Fn(&Target) -> bool| {
            self.groups.iter().find(|(targets, _)| targets.iter().any(wanted)).map(|(_, scheme)| *scheme)
        };
        let named = find(&|target| target.is_name(module));
        named.or_else(|| find(&|target| target.matches(module))).or_else(|| find(&|target| target.is_name(class)))
    }

    fn ignores(&self, module: &str) -> bool {
        self.ignore.iter().any(|t| t.is_name(module) || t.is_name(class_of(module)) || t.matches(module))
    }
}

/// The regular expressions of a configuration, compiled: few enough, and each small enough, that no file can take the
/// memory of the machine.
#[derive(Debug, Default)]
pub(super) struct Patterns(HashMap<String, Regex>);

/// Most regular expressions of a configuration.
const MAX_PATTERNS: usize = 512;
/// Largest compiled regular expression, and largest table of its automaton, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 18;

impl Patterns {
    /// A regular expression that must match from the start of a name.
    pub(super) fn matching_from_start(&mut self, pattern: &str) -> std::result::Result<Regex, String> {
        if let Some(known) = self.0.get(pattern) {
            return Ok(known.clone());
        }
        if self.0.len() == MAX_PATTERNS {
            return Err(format!("more than {MAX_PATTERNS} different regular expressions; name the modules instead"));
        }
        let regex = RegexBuilder::new(&format!("^(?:{pattern})"))
            .size_limit(MAX_PATTERN_BYTES)
            .dfa_size_limit(MAX_PATTERN_BYTES)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => format!("\"{pattern:.80}\" is too large a regular expression"),
                _ => format!("\"{pattern:.80}\" is not a regular expression known here"),
            })?;
        self.0.insert(pattern.to_owned(), regex.clone());
        Ok(regex)
    }
}

/// PyTorch's class of a module with a matrix.
fn class_of(module: &str) -> &'static str {
    if module.ends_with("embed_tokens") || module.ends_with("_embeddings") { "Embedding" } else { "Linear" }
}

/// Null, or an object or list that says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

impl Target {
    fn is_name(&self, name: &str) -> bool {
        matches!(self, Target::Name(known) if known == name)
    }

    fn matches(&self, module: &str) -> bool {
        matches!(self, Target::Pattern(pattern) if pattern.is_match(module))
    }

    fn parse(target: &str, patterns: &mut Patterns) -> std::result::Result<Self, String> {
        match target.strip_prefix("re:") {
            None => Ok(Target::Name(target.to_owned())),
            Some(pattern) => {
                patterns.matching_from_start(pattern).map(Target::Pattern).map_err(|p| format!("target {p}"))
            }
        }
    }
}

impl Numbers {
    /// Scheme of a weight, without activations.
    fn scheme(&self) -> std::result::Result<Scheme, String> {
        if self.kind != "int" || !(2..=8).contains(&self.num_bits) {
            return Err(format!("{} of {} bits is not supported; supported: int of 2 to 8", self.kind, self.num_bits));
        }
        if !matches!(self.dynamic, Value::Null | Value::Bool(false)) {
            return Err(format!("dynamic {} is not supported; expected false", self.dynamic));
        }
        // `weight` and its aliases only tell how GPTQ went about it; `group` and its aliases come with a
        // `weight_g_idx`, which is read wherever there is one.
        let known = ["group", "dynamic", "weight", "static"];
        let named = self.actorder.as_str().is_some_and(|order| known.contains(&order.to_ascii_lowercase().as_str()));
        if !(named || matches!(self.actorder, Value::Null | Value::Bool(_))) {
            return Err(format!("actorder {} is not supported; supported: null, group, weight", self.actorder));
        }
        let (granularity, group_size) = match (self.strategy.as_deref(), self.group_size) {
            (Some("tensor"), _) | (None, None) => (Granularity::Tensor, 0),
            (Some("channel"), _) | (None, Some(-1)) => (Granularity::Channel, 0),
            (Some("group") | None, Some(size)) if size > 0 => (Granularity::Group, size as usize),
            (strategy, size) => {
                let got = format!("strategy {strategy:?} with group_size {size:?}");
                return Err(format!("{got} is not supported; supported: tensor, channel, group with a group_size"));
            }
        };
        let (bits, symmetric) = (self.num_bits, self.symmetric);
        Ok(Scheme { bits, symmetric, granularity, group_size, inputs: Inputs::Known(ActivationScheme::None) })
    }

    /// Scheme of inputs.
    fn inputs(&self) -> std::result::Result<Inputs, String> {
        let strategy = self.strategy.as_deref().unwrap_or("missing");
        if self.kind == "int" && self.num_bits == 8 {
            let is_static = matches!(self.dynamic, Value::Null | Value::Bool(false));
            match (strategy, self.symmetric) {
                ("token", true) if self.dynamic == true => return Ok(Inputs::Known(ActivationScheme::DynamicToken)),
                ("token", false) if self.dynamic == true => {
                    let scheme = ActivationScheme::DynamicTokenAsymmetric { min_scale: MIN_SCALE };
                    return Ok(Inputs::Known(scheme));
                }
                ("tensor", symmetric) if is_static => return Ok(Inputs::Stored { symmetric }),
                _ => {}
            }
        }
        Err(format!(
            "{} of {} bits, strategy {strategy}, dynamic {} is not supported; supported: null, or int of 8 bits with \
             strategy token, dynamic true or strategy tensor, dynamic false",
            self.kind, self.num_bits, self.dynamic
        ))
    }
}
