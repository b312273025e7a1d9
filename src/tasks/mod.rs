//! Accuracy: perplexity and divergence from the reference; readers of their data.
