//! A recipe as the keys of a `[[variant]]`, to be pasted into a suite.

use std::fmt::Write;

use super::activations::{InputObserver, InputScheme, StaticInputs};
use super::schema::{Method, Observer, Override, Rotation, Smooth, WeightScheme};
use crate::tensor::{DenseFormat, Granularity};

impl Method {
    /// The recipe's keys, each on a line of its own; `recipe_from_text` reads them back.
    pub fn keys(&self) -> String {
        let mut out = format!("method = {}\nweights = {}\n", quoted(&self.method), scheme(&self.weights));
        if self.activations != InputScheme::None {
            let _ = writeln!(out, "activations = {}", inputs(self.activations));
        }
        match self.smooth {
            Some(Smooth::Search) => out.push_str("smooth = \"search\"\n"),
            Some(Smooth::Alpha(alpha)) => _ = writeln!(out, "smooth = {alpha:?}"),
            None => {}
        }
        if self.bias_correction {
            out.push_str("bias_correction = true\n");
        }
        if let Some(Rotation::Hadamard) = self.rotation {
            out.push_str("rotation = \"hadamard\"\n");
        }
        if self.asymmetric_calibration {
            out.push_str("asymmetric_calibration = true\n");
        }
        if self.dense != DenseFormat::F16 {
            let _ = writeln!(out, "dense = \"{}\"", self.dense.name());
        }
        if !self.overrides.is_empty() {
            let rules: String = self.overrides.chunk_by(Override::is_alike).map(rule).collect();
            let _ = writeln!(out, "overrides = [\n{rules}]");
        }
        out
    }
}

/// Overrides of one scheme in a row.
fn rule(alike: &[Override]) -> String {
    let names: Vec<String> = alike.iter().map(|rule| quoted(&rule.tensors)).collect();
    let tensors = match names.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    let Some(first) = alike.first() else { return String::new() };
    let what = match &first.weights {
        Some(weights) => format!("weights = {}", scheme(weights)),
        None => "keep = \"dense\"".into(),
    };
    let inputs = first.activations.map_or_else(String::new, |scheme| format!(", activations = {}", inputs(scheme)));
    format!("  {{ tensors = {tensors}, {what}{inputs} }},\n")
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

fn inputs(inputs: InputScheme) -> String {
    match inputs {
        InputScheme::None => "\"none\"".into(),
        InputScheme::DynamicToken => "{ bits = 8, granularity = \"token\", mode = \"dynamic\" }".into(),
        InputScheme::Static(StaticInputs { observer, symmetric }) => {
            let percentile = match observer {
                InputObserver::Percentile(percent) => format!(", percentile = {percent:?}"),
                _ => String::new(),
            };
            let symmetric = if symmetric { "" } else { ", symmetric = false" };
            format!("{{ bits = 8, mode = \"static\", observer = \"{}\"{percentile}{symmetric} }}", observer.name())
        }
    }
}

fn scheme(weights: &WeightScheme) -> String {
    let granularity = match weights.granularity {
        Granularity::Tensor => "tensor",
        Granularity::Channel => "channel",
        Granularity::Group => "group",
    };
    let size = weights.group_size.map_or_else(String::new, |size| format!(", group_size = {size}"));
    let symmetric = if weights.symmetric { "" } else { ", symmetric = false" };
    let named = Observer::NAMED.into_iter().find(|(_, observer)| *observer == weights.observer);
    let named = named.filter(|(_, observer)| *observer != Observer::MinMax);
    let observer = named.map_or_else(String::new, |(name, _)| format!(", observer = \"{name}\""));
    format!("{{ bits = {}, granularity = \"{granularity}\"{size}{symmetric}{observer} }}", weights.bits)
}

#[cfg(test)]
mod tests {
    use super::super::{Recipe, recipe_from_text};

    #[test]
    fn keys_are_read_back_as_the_recipe() {
        for text in [
            "method = \"rtn\"\nweights = { bits = 8, granularity = \"tensor\", symmetric = false }\ndense = \"bf16\"\n",
            "method = \"gptq\"\nweights = { bits = 8, granularity = \"channel\" }\nactivations = { bits = 8 }\nsmooth = 0.5\n",
            "method = \"gptq\"\nweights = { bits = 3, granularity = \"channel\" }\nasymmetric_calibration = true\n",
            "method = \"rtn\"\nweights = { bits = 8, granularity = \"channel\" }\nactivations = { bits = 8 }\nsmooth = \"search\"\n",
            "method = \"rtn\"\nweights = { bits = 8, granularity = \"channel\" }\nactivations = { mode = \"static\", observer = \
             \"percentile\", percentile = 99.5, symmetric = false }\nbias_correction = true\nrotation = \"hadamard\"\n",
            "method = \"gptq\"\nweights = { bits = 4, granularity = \"group\", group_size = 32, observer = \"mse\" }\n\
             overrides = [{ tensors = [\"*.q_proj\", \"*.o_proj\"], keep = \"dense\" }, { tensors = \"lm_head\", weights = \
             { bits = 8, granularity = \"channel\" }, activations = { bits = 8 } }]\n",
        ] {
            let Recipe::Quantize(method) = recipe_from_text("test", text).unwrap() else { panic!("{text}") };
            let keys = method.keys();
            assert_eq!(recipe_from_text("keys", &keys).unwrap(), Recipe::Quantize(method), "{keys}");
        }
    }

    #[test]
    fn tensors_of_one_scheme_share_an_entry() {
        let text = "method = \"rtn\"\nweights = { bits = 8, granularity = \"channel\" }\noverrides = [\n  \
                    { tensors = [\"*.q_proj\", \"lm_head\"], keep = \"dense\" },\n]\n";
        let Recipe::Quantize(method) = recipe_from_text("test", text).unwrap() else { panic!("{text}") };
        assert_eq!((method.overrides.len(), method.keys()), (2, text.to_owned()));
    }
}
