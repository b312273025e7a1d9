//! Inputs in tiles for AMX: `[token block][block][16 tokens][64 bytes]`, zero where there is no token or no input.
//!
//! A tile is one stretch of memory, so that its 16 rows lie in 16 different sets of a cache and all loads are aligned,
//! and it is full, so that kernels need one shape only. The copy is made once for all matrices that read the input.

use super::{Activations, Rows};
use crate::kernels::buffer::AlignedBuffer;
use crate::kernels::pool::Pool;
use crate::kernels::rows::SMALL;

/// Tokens of a tile.
pub(in crate::kernels) const TILE_TOKENS: usize = 16;
/// Bytes that a tile holds of each token.
const TILE_BYTES: usize = 64;

/// Tiles, for one length of groups at a time.
#[derive(Debug)]
pub(super) struct Tiles {
    data: AlignedBuffer<u8>,
}

impl Default for Tiles {
    fn default() -> Self {
        Tiles { data: AlignedBuffer::zeroed(0) }
    }
}

impl Tiles {
    /// The tiles that were made last.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Copies `tokens` rows, `stride` bytes apart, of `groups` groups of `group` bytes, each padded to whole tiles.
    fn make(&mut self, pool: &Pool, (rows, stride): (&[u8], usize), tokens: usize, (groups, group): (usize, usize)) {
        let per_group = group.div_ceil(TILE_BYTES);
        let block_bytes = groups * per_group * TILE_TOKENS * TILE_BYTES;
        let blocks = tokens.div_ceil(TILE_TOKENS);
        if self.data.len() < blocks * block_bytes {
            self.data = AlignedBuffer::zeroed(blocks * block_bytes);
        }
        let out = Rows::new(&mut self.data, block_bytes);
        pool.split(blocks, 1, tokens * groups * group >= SMALL, &|blocks| {
            for block in blocks {
                // SAFETY: each block is written by one thread only.
                let tiles = unsafe { out.row(block) };
                for (at, tile) in tiles.chunks_exact_mut(TILE_TOKENS * TILE_BYTES).enumerate() {
                    let start = at % per_group * TILE_BYTES;
                    let len = TILE_BYTES.min(group - start);
                    for (token, row) in tile.as_chunks_mut::<TILE_BYTES>().0.iter_mut().enumerate() {
                        let token = block * TILE_TOKENS + token;
                        let kept = if token < tokens { len } else { 0 };
                        let from = token.min(tokens - 1) * stride + at / per_group * group + start;
                        row[..kept].copy_from_slice(&rows[from..from + kept]);
                        row[kept..].fill(0);
                    }
                }
            }
        });
    }
}

impl Activations {
    /// Makes the tiles of the 8-bit codes, with groups of `group` columns (all columns, padded to 64, for one).
    pub(super) fn make_int8_tiles(&mut self, pool: &Pool, group: usize) {
        let rows = (bytemuck::cast_slice(&self.int8.data), self.int8.stride);
        self.int8_tiles.make(pool, rows, self.tokens, (self.features.div_ceil(group), group));
    }

    /// Makes the tiles of the values in bfloat16.
    pub(super) fn make_bf16_tiles(&mut self, pool: &Pool) {
        let rows = (bytemuck::cast_slice(&self.bf16.data), 2 * self.bf16.stride);
        let group = (2 * self.features).next_multiple_of(TILE_BYTES);
        self.bf16_tiles.make(pool, rows, self.tokens, (1, group));
    }
}
