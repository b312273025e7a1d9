//! Any bytes as a GGUF file: an error or tensors, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantbench::checkpoint::Checkpoint;

fuzz_target!(|data: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join("x.gguf");
    if std::fs::write(&path, data).is_err() {
        return;
    }
    let Ok(checkpoint) = Checkpoint::open(&path) else { return };
    for name in checkpoint.names() {
        let _ = checkpoint.tensor(&name);
    }
});
