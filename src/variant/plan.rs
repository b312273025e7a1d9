//! What becomes of every tensor of a model under a recipe, checked before any work starts.

use std::collections::BTreeMap;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::Matrix;
use crate::network::{Architecture, Site};
use crate::quantize::{InputRange, Quantizer, Rescaling, group_size, method};
use crate::suite::{InputScheme, Method, Observer, Recipe, WeightScheme};
use crate::tensor::{ActivationScheme, DenseFormat, QuantizedTensor, Zero};

/// Module of the embedding table.
pub(super) const EMBEDDING: &str = "model.embed_tokens";
/// Module of the output head.
pub(super) const HEAD: &str = "lm_head";

/// Every tensor of the artefact.
#[derive(Debug)]
pub(super) struct Plan {
    pub architecture: Architecture,
    /// Format of matrices that are not quantized.
    pub dense: DenseFormat,
    /// How inputs of linear layers are rescaled first.
    pub rescaling: Option<Rescaling>,
    /// Biases make up for the mean error of their layers' outputs.
    pub bias_correction: bool,
    /// Layers shall put out what they put out in the unquantized network, whose inputs are others.
    pub asymmetric_calibration: bool,
    /// In the order of the model's file.
    pub tensors: Vec<PlannedTensor>,
}

/// A tensor of the model and what becomes of it.
#[derive(Debug)]
pub(super) struct PlannedTensor {
    /// `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    pub storage: Storage,
}

/// What becomes of a tensor.
#[derive(Debug, Clone, Copy)]
pub(super) enum Storage {
    Dense(DenseFormat),
    Quantized(Quantization),
}

/// How a tensor is quantized.
#[derive(Clone, Copy)]
pub(super) struct Quantization {
    pub quantizer: &'static dyn Quantizer,
    pub scheme: WeightScheme,
    pub inputs: InputScheme,
}

impl std::fmt::Debug for Quantization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {:?}", self.quantizer.name(), self.scheme, self.inputs)
    }
}

impl Quantization {
    /// That of the embedding table: a lookup has no inputs to round.
    pub(super) fn of_lookup(&self) -> Quantization {
        Quantization { inputs: InputScheme::None, ..*self }
    }

    /// Whether a checkpoint declares both in the same words: how the codes were found is not said.
    pub(super) fn declares_as(&self, other: &Quantization) -> bool {
        let as_the_other = WeightScheme { observer: other.scheme.observer, ..self.scheme };
        let same_inputs = match (self.inputs, other.inputs) {
            (InputScheme::Static(one), InputScheme::Static(other)) => one.symmetric == other.symmetric,
            (one, other) => one == other,
        };
        as_the_other == other.scheme && same_inputs
    }

    /// What happens to the inputs, of which `range` is known.
    ///
    /// # Errors
    /// Static inputs of which nothing is known, or that no scale covers.
    pub(super) fn activations(&self, range: Option<&InputRange>) -> std::result::Result<ActivationScheme, String> {
        match self.inputs {
            InputScheme::Static(how) => {
                let range = range.ok_or("static inputs need calibration text")?;
                range.numbers(how).map(ActivationScheme::Static)
            }
            other => Ok(other.unlearned()),
        }
    }

    /// Whether its weights learn from calibration data.
    pub(super) fn learns(&self) -> bool {
        self.quantizer.needs_calibration() || self.scheme.observer == Observer::ImatrixMse
    }
}

impl PlannedTensor {
    /// The name without `.weight`.
    pub(super) fn module(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }

    /// The name by which a recipe calls it: a tied embedding is the head.
    fn name_in_recipes(&self, tied_head: bool) -> &str {
        if tied_head && self.module() == EMBEDDING { HEAD } else { self.module() }
    }
}

impl Plan {
    /// Plans a cast or a quantization.
    ///
    /// # Errors
    /// An unknown method, an override that names nothing, and all tensors that do not fit their scheme, in one message.
    pub(super) fn new(checkpoint: &Checkpoint, recipe: &Recipe) -> Result<Plan> {
        let place = checkpoint.path().display().to_string();
        let architecture = Architecture::of(checkpoint)?;
        let dense = match recipe {
            Recipe::Cast { dtype } => *dtype,
            Recipe::Quantize(method) => method.dense,
            Recipe::Import { .. } => return Err(Error::Usage("an import is not made, it is taken as it is".into())),
            Recipe::Search(_) => {
                return Err(Error::Usage("a search decides on a recipe first; use bench run or bench quantize".into()));
            }
        };
        let mut tensors = Vec::new();
        for name in architecture.kept_tensors(checkpoint)? {
            let Some(shape) = checkpoint.shape(&name) else { continue };
            // Norms and biases stay in 32 bits: they are a thousandth of the model, the kernels read them so, and
            // rounding them would mix another error into the effect of the matrices' format.
            let storage = Storage::Dense(if shape.len() < 2 { DenseFormat::F32 } else { dense });
            tensors.push(PlannedTensor { name, shape, storage });
        }
        let mut plan = Plan {
            architecture,
            dense,
            rescaling: None,
            bias_correction: false,
            asymmetric_calibration: false,
            tensors,
        };
        if let Recipe::Quantize(method) = recipe {
            plan.quantize(method).map_err(|problems| Error::input(place, problems.join("; ")))?;
        }
        Ok(plan)
    }

    /// Marks the tensors that `recipe` quantizes; all faults at once.
    fn quantize(&mut self, recipe: &Method) -> std::result::Result<(), Vec<String>> {
        let quantizer = method(&recipe.method).map_err(|problem| vec![problem])?;
        self.rescaling = recipe.smooth.map(Rescaling::Smooth).or(quantizer.rescaling());
        self.bias_correction = recipe.bias_correction;
        self.asymmetric_calibration = recipe.asymmetric_calibration;
        let rounding = method("rtn").map_err(|problem| vec![problem])?;
        // By problem, the tensors that have it.
        let mut unfit: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut used = vec![false; recipe.overrides.len()];
        for tensor in self.tensors.iter_mut().filter(|t| t.shape.len() == 2 && t.name.ends_with(".weight")) {
            let name = tensor.name_in_recipes(self.architecture.tied_head()).to_owned();
            let linear = self.architecture.linear_of_block(&name).is_some();
            if !linear && name != HEAD {
                continue;
            }
            // The head is rounded to nearest: tied, it is also the embedding table, whose lookups see single weights,
            // and GPTQ's error feedback keeps sums of weights right at the cost of single ones.
            let quantizer = if linear { quantizer } else { rounding };
            let mut scheme = linear.then_some(recipe.weights);
            let mut own_inputs = None;
            for (rule, used) in recipe.overrides.iter().zip(&mut used) {
                if matches(&rule.tensors, &name) {
                    *used = true;
                    scheme = rule.weights;
                    own_inputs = rule.activations;
                }
            }
            let Some(scheme) = scheme else { continue };
            if !linear && scheme.observer == Observer::ImatrixMse {
                let problem =
                    "observer \"imatrix_mse\" learns from calibration text, which a head does not; use \"mse\"";
                unfit.entry(problem.into()).or_default().push(name);
                continue;
            }
            let inputs = match (own_inputs, recipe.activations) {
                (None, InputScheme::Static(_)) if !linear => InputScheme::DynamicToken,
                (Some(InputScheme::Static(_)), _) if !linear => {
                    let problem = "static activations learn from calibration text, which a head does not; leave them out for one \
                                   scale per token";
                    unfit.entry(problem.into()).or_default().push(name);
                    continue;
                }
                (own, all) => own.unwrap_or(all),
            };
            match check_kernel(scheme, tensor.shape[1]) {
                Ok(()) => tensor.storage = Storage::Quantized(Quantization { quantizer, scheme, inputs }),
                Err(problem) => unfit.entry(problem).or_default().push(name),
            }
        }
        let mut problems: Vec<String> =
            unfit.iter().map(|(problem, names)| format!("{problem} (for {})", self.list(names))).collect();
        for (rule, _) in recipe.overrides.iter().zip(used).filter(|(_, used)| !used) {
            problems.push(format!(
                "override \"{}\" names no linear layer; they are called like {}",
                rule.tensors,
                self.examples().join(", ")
            ));
        }
        if self.bias_correction && !self.quantized().any(|(tensor, _)| self.bias_of(tensor).is_some()) {
            problems.push(
                "bias_correction moves the mean error of a layer's output into its bias, but no quantized layer of this model \
                 has one; remove it"
                    .into(),
            );
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Names of a few linear layers.
    fn examples(&self) -> Vec<String> {
        let linears = self.architecture.linears_of_block();
        let ends = [linears.first(), linears.last()].into_iter().flatten();
        let modules = ends.map(|linear| self.architecture.module(0, linear));
        modules.chain(self.architecture.head().map(|_| HEAD.to_owned())).collect()
    }

    /// Names in one line; `model.layers.*.mlp.up_proj` for a layer that every block names.
    fn list(&self, names: &[String]) -> String {
        let of_any_block = |name: &str| {
            let linear = self.architecture.linear_of_block(name)?;
            Some(self.architecture.module(0, linear).replacen(".0.", ".*.", 1))
        };
        let mut listed: Vec<String> = Vec::new();
        for name in names {
            let general = of_any_block(name).filter(|general| {
                names.iter().filter(|name| of_any_block(name).as_ref() == Some(general)).count()
                    == self.architecture.layers()
            });
            let name = general.unwrap_or_else(|| name.clone());
            if !listed.contains(&name) {
                listed.push(name);
            }
        }
        listed.join(", ")
    }

    /// The quantized tensors.
    pub(super) fn quantized(&self) -> impl Iterator<Item = (&PlannedTensor, Quantization)> {
        self.tensors.iter().filter_map(|tensor| match tensor.storage {
            Storage::Quantized(quantization) => Some((tensor, quantization)),
            Storage::Dense(_) => None,
        })
    }

    /// The quantized linear layers of a block by their name inside the block, in the order of execution.
    pub(super) fn linears_of(&self, layer: usize) -> Vec<(&'static str, &PlannedTensor, Quantization)> {
        let linears = self.architecture.linears_of_block().into_iter();
        linears
            .filter_map(|linear| {
                let module = self.architecture.module(layer, linear);
                let (tensor, quantization) = self.quantized().find(|(t, _)| t.module() == module)?;
                Some((linear, tensor, quantization))
            })
            .collect()
    }

    /// Those of them that read the input of a site.
    pub(super) fn linears_at(&self, layer: usize, site: Site) -> Vec<(&'static str, &PlannedTensor, Quantization)> {
        let at_site = self.architecture.linears_at(site);
        self.linears_of(layer).into_iter().filter(|(name, ..)| at_site.contains(name)).collect()
    }

    /// What the names of the tensors of a block begin with: `model.layers.3.`.
    pub(super) fn block(&self, layer: usize) -> String {
        self.architecture.module(layer, "")
    }

    /// Whether a tensor belongs to a block.
    pub(super) fn is_in_block(&self, tensor: &PlannedTensor) -> bool {
        (0..self.architecture.layers()).any(|layer| tensor.name.starts_with(&self.block(layer)))
    }

    /// Modules of the linear layers that stay dense, the head included.
    pub(super) fn dense_linears(&self) -> Vec<String> {
        let tied = self.architecture.tied_head();
        let quantizes = |name: &str| self.quantized().any(|(t, _)| t.name_in_recipes(tied) == name);
        let head = self.architecture.head().map(|_| HEAD);
        let linears = self.tensors.iter().filter(|tensor| self.is_linear(tensor)).map(PlannedTensor::module);
        linears.chain(head).filter(|module| !quantizes(module)).map(str::to_owned).collect()
    }

    /// Whether a tensor is the weight of a linear layer other than a decoder's head.
    fn is_linear(&self, tensor: &PlannedTensor) -> bool {
        match &self.architecture {
            Architecture::Decoder(_) => self.architecture.linear_of_block(tensor.module()).is_some(),
            // Poolers and classifiers too.
            Architecture::Encoder { .. } => tensor.shape.len() == 2 && !tensor.name.contains("embeddings."),
        }
    }

    /// The bias beside a weight.
    pub(super) fn bias_of(&self, weight: &PlannedTensor) -> Option<&PlannedTensor> {
        let name = format!("{}.bias", weight.module());
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Whether dense tensors of blocks are changed while the block is quantized.
    pub(super) fn changes_blocks(&self) -> bool {
        self.rescaling.is_some() || self.bias_correction
    }

    /// Whether anything is learnt from calibration data.
    pub(super) fn needs_calibration(&self) -> bool {
        let learns = |how: Quantization| how.learns() || how.inputs.learns().is_some();
        self.changes_blocks() || self.quantized().any(|(_, how)| learns(how))
    }
}

/// Checks that a scheme fits matrices of `cols` columns and that a kernel multiplies them; inputs never decide that.
pub(super) fn check_kernel(scheme: WeightScheme, cols: usize) -> std::result::Result<(), String> {
    Matrix::from_quantized(&blank(scheme, 1, cols)?, ActivationScheme::None).map(|_| ())
}

/// A matrix of zeros.
///
/// # Errors
/// A group size that does not fit.
pub(super) fn blank(scheme: WeightScheme, rows: usize, cols: usize) -> std::result::Result<QuantizedTensor, String> {
    let group_size = group_size(scheme, cols)?;
    let groups = rows * (cols / group_size);
    Ok(QuantizedTensor {
        rows,
        cols,
        bits: scheme.bits,
        group_size,
        codes: vec![0; rows * cols],
        scales: vec![1.0; groups],
        zero: if scheme.symmetric { Zero::Symmetric } else { Zero::Points(vec![0; groups]) },
        input_order: None,
    })
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    (0..=name.len()).filter_map(|at| name.get(at..)).any(|name| matches(rest, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let name = "model.layers.12.mlp.down_proj";
        for pattern in ["*", "*.down_proj", "model.layers.12.*", "model.*.mlp.*proj", name, "*12*", "**"] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["", "down_proj", "*.down", "model.layers.1.*", "lm_head", "*x*"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
    }
}
