//! Places in a block where linear layers read their input: what calibration observes and rescaling changes.

use crate::network::Architecture;
use crate::network::encoder_block::EncoderBlock;

/// Places in a block where linear layers read their input; all layers of a site share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Of the projections to queries, keys and values.
    AttentionInput,
    /// Of the projection of attention's result.
    AttentionOutput,
    /// Of the first layers of the feed-forward part.
    MlpInput,
    /// Of its last layer.
    MlpDown,
}

/// Whoever puts out the input of a site, so that dividing a channel of the one divides that of the other and changes
/// nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// Name inside the block; channels are its rows, or a norm's values.
    pub name: &'static str,
    /// For every feature of the input the channel that it is proportional to.
    pub channels: Vec<usize>,
}

impl Site {
    /// All sites in the order of execution.
    pub const ALL: [Site; 4] = [Site::AttentionInput, Site::AttentionOutput, Site::MlpInput, Site::MlpDown];
}

impl Architecture {
    /// The linear layers that read the input of a site, by their name inside the block.
    pub fn linears_at(&self, site: Site) -> &'static [&'static str] {
        match self {
            Architecture::Decoder(_) => match site {
                Site::AttentionInput => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                Site::AttentionOutput => &["self_attn.o_proj"],
                Site::MlpInput => &["mlp.gate_proj", "mlp.up_proj"],
                Site::MlpDown => &["mlp.down_proj"],
            },
            Architecture::Encoder { .. } => EncoderBlock::linears_at(site),
        }
    }

    /// Whoever puts out the input of a site. In a decoder that is a norm, or the layer whose output is weighed and summed
    /// (by attention) or multiplied (by the gate); heads that share keys and values mix the same channels. In an encoder
    /// only values are: its norms are read by the residual stream too, and GELU lets no factor through, so the block
    /// divides these inputs itself ([`crate::network::PRE_QUANT_SCALE`]).
    pub fn producer(&self, site: Site) -> Option<Producer> {
        let (name, channels) = match self {
            Architecture::Decoder(config) => match site {
                Site::AttentionInput => ("input_layernorm", (0..config.hidden_size).collect()),
                Site::MlpInput => ("post_attention_layernorm", (0..config.hidden_size).collect()),
                Site::MlpDown => ("mlp.up_proj", (0..config.intermediate_size).collect()),
                Site::AttentionOutput => {
                    let (head_dim, sharing) = (config.head_dim, config.heads / config.kv_heads);
                    let channel = |k: usize| k / head_dim / sharing * head_dim + k % head_dim;
                    ("self_attn.v_proj", (0..config.query_width()).map(channel).collect())
                }
            },
            Architecture::Encoder { config, .. } => match site {
                Site::AttentionOutput => (EncoderBlock::LINEARS[2], (0..config.hidden_size).collect()),
                Site::AttentionInput | Site::MlpInput | Site::MlpDown => return None,
            },
        };
        Some(Producer { name, channels })
    }
}
