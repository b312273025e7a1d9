//! One vector of a sentence from the states of its tokens, as sentence-transformers does (Reimers and Gurevych 2019,
//! arXiv:1908.10084).

use serde_json::Value;

use crate::checkpoint::{Checkpoint, SentenceModule, SentenceModules};
use crate::error::{Error, Result};

/// How states become a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pooling {
    /// Which states.
    pub states: PooledStates,
    /// The vector is scaled to length 1.
    pub normalize: bool,
}

/// Which states a vector is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PooledStates {
    /// Mean of all tokens.
    Mean,
    /// First token.
    First,
}

impl Pooling {
    /// As `modules.json` says; where there is none, the mean as it is, as sentence-transformers does then.
    ///
    /// # Errors
    /// A kind of pooling or a step after it that is not supported.
    pub fn of(checkpoint: &Checkpoint) -> Result<Pooling> {
        let mut pooling = Pooling { states: PooledStates::Mean, normalize: false };
        let SentenceModules { modules, prompt, .. } = checkpoint.sentence_modules();
        let mut pooled = false;
        for SentenceModule { kind, config } in modules {
            match kind.as_str() {
                "Transformer" => {}
                "Normalize" => pooling.normalize = true,
                "Pooling" if pooled || pooling.normalize => {
                    let problem = "a Pooling behind another or behind Normalize is not supported";
                    return Err(fault(checkpoint, problem.to_owned()));
                }
                "Pooling" if !prompt.is_empty() && config["include_prompt"] == Value::Bool(false) => {
                    let problem = "\"include_prompt\": false with a default prompt is not supported; set \
                                   default_prompt_name to null and put the prompt into the text";
                    return Err(fault(checkpoint, problem.to_owned()));
                }
                "Pooling" => {
                    pooling.states = pooled_states(config).map_err(|problem| fault(checkpoint, problem))?;
                    pooled = true;
                }
                _ => {
                    let problem = format!("module \"{kind}\" is not supported; supported: Pooling, Normalize");
                    return Err(fault(checkpoint, problem));
                }
            }
        }
        Ok(pooling)
    }

    /// Pools the states of one sentence, `(tokens, out.len())` row-major, into `out`.
    pub fn pool(self, states: &[f32], out: &mut [f32]) {
        let width = out.len();
        out.copy_from_slice(&states[..width]);
        if self.states == PooledStates::Mean {
            for state in states[width..].chunks_exact(width) {
                out.iter_mut().zip(state).for_each(|(sum, v)| *sum += v);
            }
            let scale = 1.0 / (states.len() / width) as f32;
            out.iter_mut().for_each(|sum| *sum *= scale);
        }
        if self.normalize {
            // As torch's `normalize`: a vector of zeros stays one.
            let length = out.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
            out.iter_mut().for_each(|v| *v /= length);
        }
    }
}

fn fault(checkpoint: &Checkpoint, problem: String) -> Error {
    Error::input(format!("{}: modules.json", checkpoint.path().display()), problem)
}

/// The one mode of a `1_Pooling/config.json`.
fn pooled_states(config: &Value) -> std::result::Result<PooledStates, String> {
    let chosen: Vec<&str> = match config["pooling_mode"].as_str() {
        Some(mode) => vec![mode],
        None => {
            let flags = config.as_object().into_iter().flatten().filter(|(_, value)| **value == Value::Bool(true));
            flags.filter_map(|(key, _)| key.strip_prefix("pooling_mode_")).collect()
        }
    };
    match chosen[..] {
        ["mean" | "mean_tokens"] => Ok(PooledStates::Mean),
        ["cls" | "cls_token"] => Ok(PooledStates::First),
        _ => Err(format!("pooling by {chosen:?} is not supported; supported: mean_tokens or cls_token, one of them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn modes_in_both_spellings_and_no_others() {
        let mean = json!({"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true});
        assert_eq!(pooled_states(&mean), Ok(PooledStates::Mean));
        assert_eq!(pooled_states(&json!({"pooling_mode": "cls"})), Ok(PooledStates::First));
        for refused in [
            json!({"pooling_mode_max_tokens": true}),
            json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}),
            json!({}),
        ] {
            assert!(pooled_states(&refused).unwrap_err().contains("not supported"), "{refused}");
        }
    }

    #[test]
    fn vectors_by_their_definition() {
        let states = [1.0, 2.0, 5.0, 6.0];
        let pool = |states_of, normalize| {
            let mut out = [0.0; 2];
            Pooling { states: states_of, normalize }.pool(&states, &mut out);
            out
        };
        assert_eq!(pool(PooledStates::Mean, false), [3.0, 4.0]);
        assert_eq!(pool(PooledStates::Mean, true), [0.6, 0.8]);
        assert_eq!(pool(PooledStates::First, false), [1.0, 2.0]);
    }
}
