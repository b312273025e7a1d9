//! Explicit scales of inputs: each feature of a site's input is multiplied by a factor before the site's linear layers
//! read it, where nothing that puts the input out can be rescaled once and for all, since the residual stream reads it
//! too or GELU stands between (the scaled activations of AWQ, Lin et al. 2023, arXiv:2306.00978, section 3).
//!
//! A checkpoint holds them as `{module}.pre_quant_scale`, `(in_features)`, the name that NVIDIA's ModelOpt gave them; layers
//! that share an input share them.

use std::collections::BTreeMap;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{Activations, Matrix, Pool, rows};
use crate::network::Site;
use crate::network::linear::{fault, load_vector};

/// Last part of the name of an explicit scale: what a linear layer's inputs are multiplied by, feature by feature.
pub const PRE_QUANT_SCALE: &str = ".pre_quant_scale";

/// The scales of a block, by the site of their inputs; most blocks have none.
#[derive(Debug, Default)]
pub(super) struct PreQuantScales {
    by_site: BTreeMap<Site, Vec<f32>>,
}

impl PreQuantScales {
    /// Loads the scale of `site`, whose inputs have `features` and are read by `modules`, if there is one.
    ///
    /// # Errors
    /// A factor that is not above 0 and finite, or layers that do not share the scale.
    pub fn load(&mut self, checkpoint: &Checkpoint, site: Site, modules: &[String], features: usize) -> Result<()> {
        let names: Vec<String> = modules.iter().map(|module| format!("{module}{PRE_QUANT_SCALE}")).collect();
        if !names.iter().any(|name| checkpoint.contains(name)) {
            return Ok(());
        }
        for name in &names {
            let scale = load_vector(checkpoint, name, features)?;
            if let Some((at, factor)) = scale.iter().enumerate().find(|(_, f)| !(f.is_finite() && **f > 0.0)) {
                let problem =
                    format!("factor {at} is {factor}; expected a finite number above 0; fetch the model again");
                return Err(fault(checkpoint, name, problem));
            }
            match self.by_site.get(&site) {
                Some(first) if *first != scale => {
                    let problem = format!("differs from \"{}\", though both layers read the same input", names[0]);
                    return Err(fault(checkpoint, name, problem));
                }
                _ => self.by_site.insert(site, scale),
            };
        }
        Ok(())
    }

    /// Sets the scale of a site whose inputs have `features`; `name` says of what.
    ///
    /// # Errors
    /// Another length.
    pub fn set(&mut self, name: &str, site: Site, features: usize, scale: Vec<f32>) -> Result<()> {
        if scale.len() != features {
            return Err(Error::input(name, format!("expected {features} factors, got {}", scale.len())));
        }
        self.by_site.insert(site, scale);
        Ok(())
    }

    /// The scale of a site's inputs.
    pub fn of(&self, site: Site) -> Option<&[f32]> {
        self.by_site.get(&site).map(Vec::as_slice)
    }

    /// Bytes of all scales.
    pub fn bytes(&self) -> usize {
        self.by_site.values().map(|scale| size_of_val(scale.as_slice())).sum()
    }

    /// `reader`, if it reads the inputs of `site` as they are.
    pub fn direct<'m>(&self, site: Site, reader: &'m Matrix) -> Option<&'m Matrix> {
        (!self.by_site.contains_key(&site)).then_some(reader)
    }

    /// The inputs of `site` as its layers, `reader` the first, read them: `inputs` themselves, or their products in `scaled`.
    pub fn apply<'x>(
        &self,
        pool: &Pool,
        site: Site,
        inputs: &'x mut Activations,
        scaled: &'x mut Activations,
        reader: &Matrix,
    ) -> &'x mut Activations {
        let Some(scale) = self.of(site) else { return inputs };
        rows::scale(pool, inputs.values(), scale, scaled.write_for(inputs.tokens(), reader));
        scaled
    }
}
