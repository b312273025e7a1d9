//! What to try next when nothing passes: the nearest recipe of the suite with one thing changed, as an entry that can be
//! pasted into the suite file.

use super::Case;
use crate::results::{Answer, Answers, Attempt, VariantResult};
use crate::suite::{InputScheme, Method, Override, Recipe, WeightScheme, recipe_from_text};
use crate::tensor::Granularity;

/// Most layers that an attempt keeps at 8 bits.
const KEPT_LAYERS: usize = 4;

/// The attempts that follow from the answers: at most one quantizer's for each thing that stands in the way, and training.
pub(super) fn attempts(case: &Case<'_>, judged: &[(&VariantResult, &Answers)], nearest: &Nearest<'_>) -> Vec<Attempt> {
    let method = |variant: Option<&VariantResult>| -> Option<(String, Method)> {
        let variant = variant?;
        let known = case.evidence.suite.variants.iter().find(|v| v.name == variant.name)?;
        match &known.recipe {
            Recipe::Quantize(method) => Some((variant.name.clone(), method.clone())),
            Recipe::Cast { .. } | Recipe::Search(_) | Recipe::Import { .. } => None,
        }
    };
    let met = |of: fn(&Answers) -> Option<Answer>| judged.iter().any(|(_, a)| of(a) == Some(Answer::Yes));
    let mut found = Vec::new();
    if !met(|a| Some(a.accuracy)) {
        found.extend(method(nearest.accuracy).and_then(|(name, m)| more_accurate(case, &name, m)));
    }
    if case.accept.speed.is_some() && !met(|a| a.speed) {
        found.extend(method(nearest.speed).and_then(|(name, m)| faster(&name, m)));
    }
    if case.accept.memory.is_some() && !met(|a| a.memory) {
        found.extend(method(nearest.memory).and_then(|(name, m)| smaller(&name, m)));
    }
    if found.is_empty() {
        let small = nearest.memory.or(nearest.speed);
        found.extend(small.and_then(|v| method(Some(v)).and_then(|(name, m)| mixed(v, &name, m))));
    }
    let attempts = found.into_iter().filter_map(|(name, why, method)| attempt(unused(case, name), why, method));
    let trained = nearest.accuracy.filter(|_| !met(|a| Some(a.accuracy))).and_then(|v| trained(case, &v.name));
    attempts.chain(trained).collect()
}

/// Where no quantizer reaches the accuracy: a checkpoint that was trained with its quantization simulated.
fn trained(case: &Case<'_>, nearest: &str) -> Option<Attempt> {
    let name = unused(case, format!("{nearest}-qat"));
    let keys = format!("import = {}\n", toml::Value::String("path:trained-checkpoint".into()));
    let why = "training with the quantization simulated (QAT) wins back most of what rounding loses; give the folder of \
               such a checkpoint, as torchao, compressed-tensors or torch FakeQuantize save it";
    let read = recipe_from_text("entry", &keys).ok()?;
    matches!(read, Recipe::Import { .. }).then(|| Attempt { why: why.into(), entry: entry(&name, &keys) })
}

/// The attempt, if its entry says all of the recipe.
fn attempt(name: String, why: String, method: Method) -> Option<Attempt> {
    let keys = method.keys();
    let read = recipe_from_text("entry", &keys).ok()?;
    (read == Recipe::Quantize(method)).then(|| Attempt { why, entry: entry(&name, &keys) })
}

/// The suite entry of a recipe's keys. Names come from a suite, where they were checked.
fn entry(name: &str, keys: &str) -> String {
    format!("[[variant]]\nname = {}\n{keys}", toml::Value::String(name.into()))
}

/// The variant that comes nearest to each threshold.
pub(super) struct Nearest<'v> {
    pub accuracy: Option<&'v VariantResult>,
    pub speed: Option<&'v VariantResult>,
    pub memory: Option<&'v VariantResult>,
}

/// Name, reason and recipe of an attempt.
type Tried = (String, String, Method);

fn more_accurate(case: &Case<'_>, name: &str, mut method: Method) -> Option<Tried> {
    if method.method == "rtn" && case.evidence.suite.calibration.is_some() {
        method.method = "gptq".into();
        return Some((format!("{name}-gptq"), "GPTQ loses less than rounding at the same size".into(), method));
    }
    match (method.weights.bits, method.weights.group_size) {
        (_, Some(size)) if size > 32 => {
            method.weights.group_size = Some(size / 2);
            Some((format!("{name}-g{}", size / 2), "smaller groups follow the weights more closely".into(), method))
        }
        (bits, _) if bits < 8 => {
            method.weights.bits = 8;
            Some((format!("{name}-8bit"), "8 bits lose next to nothing".into(), method))
        }
        (_, _) if method.activations != InputScheme::None => {
            method.activations = InputScheme::None;
            Some((format!("{name}-float-inputs"), "inputs in floating point cost no accuracy".into(), method))
        }
        _ => None,
    }
}

fn faster(name: &str, mut method: Method) -> Option<Tried> {
    if method.activations == InputScheme::None {
        method.activations = InputScheme::DynamicToken;
        return Some((format!("{name}-a8"), "8-bit inputs make products of integers".into(), method));
    }
    (method.weights.bits > 4)
        .then(|| (format!("{name}-4bit"), "4 bits halve what decoding reads".into(), four_bits(method)))
}

fn smaller(name: &str, mut method: Method) -> Option<Tried> {
    if method.weights.bits > 4 {
        return Some((format!("{name}-4bit"), "4 bits halve the weights".into(), four_bits(method)));
    }
    if method.overrides.iter().any(|rule| rule.tensors == "lm_head") {
        return None;
    }
    let channel = WeightScheme { bits: 8, granularity: Granularity::Channel, group_size: None, ..method.weights };
    method.overrides.push(Override { tensors: "lm_head".into(), weights: Some(channel), activations: None });
    Some((format!("{name}-head8"), "the head in 8 bits halves the largest matrix".into(), method))
}

fn four_bits(mut method: Method) -> Method {
    method.weights = WeightScheme { bits: 4, granularity: Granularity::Group, group_size: Some(64), ..method.weights };
    method
}

/// The layers with the largest error at 8 bits.
fn mixed(variant: &VariantResult, name: &str, mut method: Method) -> Option<Tried> {
    let errors = &variant.artefact.as_ref()?.layer_errors;
    let mut worst: Vec<(&String, f64)> = errors.iter().map(|(tensor, error)| (tensor, *error)).collect();
    worst.sort_by(|a, b| b.1.total_cmp(&a.1));
    if method.weights.bits >= 8 || worst.is_empty() {
        return None;
    }
    for (tensor, _) in worst.into_iter().take(KEPT_LAYERS) {
        let tensors = tensor.strip_suffix(".weight").unwrap_or(tensor).to_string();
        let weights = Some(WeightScheme { bits: 8, ..method.weights });
        method.overrides.push(Override { tensors, weights, activations: None });
    }
    Some((format!("{name}-mixed"), "the layers with the largest error get 8 bits".into(), method))
}

/// `name`, with a number where the suite has it already.
fn unused(case: &Case<'_>, name: String) -> String {
    let taken = |name: &str| case.evidence.suite.variants.iter().any(|v| v.name == name);
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    std::iter::once(name.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int4(method: &str) -> Method {
        let text = format!("method = \"{method}\"\nweights = {{ bits = 4, granularity = \"group\", group_size = 64 }}");
        match recipe_from_text("test", &text).unwrap() {
            Recipe::Quantize(method) => method,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_entry_is_read_back_as_the_recipe() {
        let tried = [faster("v", int4("rtn")), smaller("v", int4("gptq"))].into_iter().flatten();
        for (name, _, method) in tried {
            let text = entry(&name, &method.keys());
            let found = attempt(name, "why".into(), method).unwrap();
            assert_eq!(found.entry, text);
        }
    }

    #[test]
    fn each_attempt_changes_one_thing() {
        let (name, _, method) = faster("int4", int4("rtn")).unwrap();
        assert_eq!((name.as_str(), method.activations), ("int4-a8", InputScheme::DynamicToken));
        assert!(faster("int4-a8", method).is_none());
        let (name, _, method) = smaller("int4", int4("rtn")).unwrap();
        assert_eq!((name.as_str(), method.overrides.len()), ("int4-head8", 1));
        assert!(smaller("int4-head8", method).is_none());
    }
}
