//! Accuracy: which tokens are asked, and how an answer is scored.
//!
//! [`Encoder`] turns data into tokens; [`windows()`] cuts them into windows; [`score_token`] compares one predicted distribution with the true token and
//! with the reference's distribution; [`ScoreSums`] adds tokens up to windows.

mod calibration;
mod choice;
mod corpus;
mod divergence;
mod files;
mod leak;
mod lengths;
mod loops;
mod sentences;
mod similarity;
mod windows;

pub use choice::{ChoiceItem, ChoiceItems};
pub use corpus::{Corpus, Encoder};
pub use divergence::{ScoreSums, TokenScore, score_token};
pub use files::{Prompts, TokenFiles, Windows, read_tokens, write_tokens};
pub use leak::Passages;
pub use lengths::{LONGEST_SENTENCE, check_lengths};
pub use loops::runs_in_circles;
pub use sentences::{sentences, spread_sentences};
pub use similarity::Embeddings;
pub use windows::{Coverage, Window, prompts, windows};
