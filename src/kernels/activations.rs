//! Input of a matrix product, with the forms that kernels want made once and shared.

/// `(tokens, features)` row-major inputs. Integer and bfloat16 forms are made on first use after [`Activations::set`]
/// and shared by all matrices that read the same input (q, k, v; gate, up).
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    features: usize,
    values: Vec<f32>,
}

impl Activations {
    /// Room for `max_tokens * max_features` values, so that later calls do not allocate.
    pub fn with_capacity(max_tokens: usize, max_features: usize) -> Self {
        Activations { tokens: 0, features: 0, values: Vec::with_capacity(max_tokens * max_features) }
    }

    /// Resizes to `(tokens, features)`, drops the derived forms and lends the values to be written.
    pub fn write(&mut self, tokens: usize, features: usize) -> &mut [f32] {
        self.tokens = tokens;
        self.features = features;
        self.values.resize(tokens * features, 0.0);
        &mut self.values[..tokens * features]
    }

    /// Rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns.
    pub fn features(&self) -> usize {
        self.features
    }

    /// The values, `(tokens, features)` row-major.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.tokens * self.features]
    }
}
