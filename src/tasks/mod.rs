//! Accuracy: which tokens are asked, and how an answer is scored.
//!
//! [`windows()`] cuts text into windows; [`score_token`] compares one predicted distribution with the true token and
//! with the reference's distribution; [`ScoreSums`] adds tokens up to windows.

mod divergence;
mod files;
mod windows;

pub use divergence::{ScoreSums, TokenScore, score_token};
pub use files::{Prompts, TokenFiles, read_tokens, write_tokens};
pub use windows::{Window, prompts, windows};
