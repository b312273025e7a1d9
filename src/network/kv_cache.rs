//! Keys and values of all blocks, with the memory that a forward pass needs.

use crate::kernels::KeyValues;
use crate::network::block::Workspace;
use crate::network::rotary::Rotary;

/// Keys and values of one or more sequences, all of the same length. The workspace of the forward pass lives here
/// too: once it has grown to the largest pass, passes allocate nothing.
#[derive(Debug)]
pub struct KvCache {
    pub(super) layers: Vec<KeyValues>,
    pub(super) rotary: Rotary,
    pub(super) sequences: usize,
    /// Tokens that fit in a sequence.
    pub(super) capacity: usize,
    /// Tokens held per sequence.
    pub(super) length: usize,
    /// Residual stream of the pass, `(tokens, hidden_size)`.
    pub(super) hidden: Vec<f32>,
    /// The same after the last norm.
    pub(super) normalized: Vec<f32>,
    pub(super) work: Workspace,
}

impl KvCache {
    /// Forgets all tokens; keeps the memory.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Forgets all but the first `length` tokens of every sequence.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Tokens held per sequence.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Holds no token.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of keys and values at full length.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes() as u64).sum()
    }
}
