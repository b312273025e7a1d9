//! Any bytes as a folder of `config.json` and `model.safetensors`: an error or tensors, never a panic.
//!
//! The first two bytes are the length of the configuration (little endian), which follows; the rest is the weights.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantbench::checkpoint::Checkpoint;

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_at_checked(2) else { return };
    let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
    let Some((config, model)) = rest.split_at_checked(length) else { return };
    let Ok(folder) = tempfile::tempdir() else { return };
    let written = std::fs::write(folder.path().join("config.json"), config)
        .and_then(|()| std::fs::write(folder.path().join("model.safetensors"), model));
    if written.is_err() {
        return;
    }
    let Ok(checkpoint) = Checkpoint::open(folder.path()) else { return };
    for name in checkpoint.names() {
        let _ = checkpoint.tensor(&name);
    }
});
