//! Packages: wheels (zip) and those of npm (gzipped tar), made of hostile entries or any bytes; records of the cache.

use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use flate2::{Compression, Crc, write::GzEncoder};
use quantbench::assets::{self, Source};
use serde_json::{Value, json};

use crate::edits::{self, Input};
use crate::scratch;

/// Names that leave a folder, or nearly.
const NAMES: &[&str] = &[
    "package/a",
    "package/b/c",
    "m/a",
    "m/b",
    "../a",
    "/a",
    "m/../../a",
    "m//a",
    "m/./a",
    "m\\a",
    "C:\\a",
    "m/a/b",
    "m",
    "m/",
    "",
    ".",
    "..",
    "package/a/b",
    "package/a\0b",
    "m/\u{202e}a",
    "m/con",
    "package/../../../tmp/a",
];

fn name(input: &mut Input) -> Vec<u8> {
    match input.byte() % 4 {
        0 => {
            let length = usize::from(input.byte());
            input.take(length).to_vec()
        }
        _ => NAMES[input.below(NAMES.len())].as_bytes().to_vec(),
    }
}

/// Unpacks into an empty folder inside another, then looks for what was written outside.
fn unpack(archive: &Path, unpack: fn(&Path, &Path) -> quantbench::error::Result<()>) {
    let outside = scratch::folder().join("outside");
    let into = outside.join("into");
    std::fs::create_dir_all(&into).expect("a folder can be made");
    let _ = unpack(archive, &into);
    let beside = std::fs::read_dir(&outside).expect("the folder is there").count();
    assert_eq!(beside, 1, "an entry left the folder");
    std::fs::remove_dir_all(&outside).expect("the folder can be removed");
}

/// A wheel of stored entries, or any bytes.
pub fn wheel(data: &[u8]) {
    let mut input = Input::new(data);
    let file = match input.byte() % 4 {
        0 => input.rest().to_vec(),
        _ => zip(&mut input),
    };
    unpack(&scratch::file("x.whl", &file), assets::unpack_wheel);
}

fn zip(input: &mut Input) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    let count = 1 + input.byte() % 4;
    for _ in 0..count {
        let (name, kind) = (name(input), input.byte());
        let length = usize::from(input.byte());
        let content = input.take(length);
        let mut crc = Crc::new();
        crc.update(content);
        let (mut sum, mut size, mut method) = (crc.sum(), content.len() as u32, 0u16);
        match kind % 16 {
            1 => sum ^= 1,
            2 => size = u32::MAX,
            3 => size = size.wrapping_add(1),
            4 => method = 8,
            5 => method = u16::from(input.byte()),
            _ => {}
        }
        // Kind of the file in the upper half, as Unix writes it: link, folder, pipe, file.
        let mode: u32 = [0o100644, 0o120777, 0o040755, 0o010644][input.below(4)] << 16;
        let offset = file.len() as u32;
        let common = |out: &mut Vec<u8>| {
            out.extend([20u16, u16::from(kind == 255), method, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
            out.extend([sum, size, size].iter().flat_map(|word| word.to_le_bytes()));
            out.extend([name.len() as u16, 0].iter().flat_map(|word| word.to_le_bytes()));
        };
        file.extend(b"PK\x03\x04");
        common(&mut file);
        file.extend(&name);
        file.extend(content);
        directory.extend(b"PK\x01\x02\x14\x03");
        common(&mut directory);
        directory.extend([0u16; 3].iter().flat_map(|word| word.to_le_bytes()));
        directory.extend([mode, offset].iter().flat_map(|word| word.to_le_bytes()));
        directory.extend(&name);
    }
    let start = file.len() as u32;
    let size = directory.len() as u32;
    file.append(&mut directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([u16::from(count); 2].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([size, start].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([0, 0]);
    file
}

/// A package of npm: a tar of made entries or any bytes, compressed; or any bytes as they are.
pub fn tarball(data: &[u8]) {
    let mut input = Input::new(data);
    let file = match input.byte() % 8 {
        0 => input.rest().to_vec(),
        1 => compressed(input.rest()),
        _ => {
            let archive = tar(&mut input);
            compressed(&archive)
        }
    };
    unpack(&scratch::file("x.tgz", &file), assets::unpack_tarball);
}

fn compressed(archive: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(archive).and_then(|()| encoder.finish()).expect("memory takes all bytes")
}

fn tar(input: &mut Input) -> Vec<u8> {
    let mut archive = Vec::new();
    for _ in 0..1 + input.byte() % 4 {
        let (name, kind) = (
            name(input),
            [b'0', b'0', b'0', 0, b'1', b'2', b'3', b'5', b'6', b'L', b'K', b'x', b'g', b'S'][input.below(14)],
        );
        let length = usize::from(input.byte());
        let content = input.take(length);
        let mut header = [0u8; 512];
        header[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header[100..107].copy_from_slice(b"0000644");
        let stated = match input.byte() {
            0 => 0o77777777777,
            1 => content.len() + 1,
            _ => content.len(),
        };
        header[124..135].copy_from_slice(format!("{stated:011o}").as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = kind;
        header[157..162].copy_from_slice(b"../up");
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(header);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.extend([0; 1024]);
    archive
}

/// The cache's own record of a package.
pub fn record(data: &[u8]) {
    static BASE: LazyLock<(Value, Vec<String>)> = LazyLock::new(|| {
        let file = json!({ "name": "m/a", "bytes": 2, "sha256": "00" });
        let base = json!({ "source": "pypi:x==1#m", "archive_sha256": "00", "files": [file] });
        let words = [edits::words([&base].into_iter()), NAMES.iter().map(|name| (*name).to_owned()).collect()].concat();
        (base, words)
    });
    // First half of the SHA-256 of `m`, the selection inside the package.
    static PLACE: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
        let place = assets::cache_dir().expect("the cache is a folder of this user").join("pypi/x-1/62c66a7a5dd70c31");
        std::fs::create_dir_all(place.join("files/m")).expect("a folder can be made");
        std::fs::write(place.join("files/m/a"), "ab").expect("a file can be written");
        place
    });
    let record = match data.first() {
        Some(first) if *first > 31 => data.to_vec(),
        _ => {
            let (mut document, mut input) = (BASE.0.clone(), Input::new(data));
            for _ in 0..input.byte() {
                edits::edit(&mut document, &mut input, &BASE.1);
            }
            document.to_string().into_bytes()
        }
    };
    std::fs::write(PLACE.join("record.json"), record).expect("a file can be written");
    let _ = Source::parse("pypi:x==1#m").expect("a source").is_local(Path::new("."));
}
