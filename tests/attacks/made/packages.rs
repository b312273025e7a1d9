//! Packages of hostile entries, unpacked by the library's own readers.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use quantbench::assets;

use crate::check::Expected;

/// Packages whose entries leave their folder, are no files, or have no measure.
#[test]
fn archives() {
    let mut wrong = Vec::new();
    let mut check = |name: &str, expected: &str, wheel: bool, bytes: Vec<u8>| {
        let folder = tempfile::tempdir().unwrap();
        let (archive, into) = (folder.path().join("archive"), folder.path().join("a/b/into"));
        fs::create_dir_all(&into).unwrap();
        fs::write(&archive, bytes).unwrap();
        let unpack: fn(&Path, &Path) -> quantbench::error::Result<()> =
            if wheel { assets::unpack_wheel } else { assets::unpack_tarball };
        let answer = unpack(&archive, &into).map_err(|error| (i32::from(error.exit_code()), error.to_string()));
        wrong.extend(Expected::parse(expected).refused(&answer).map(|problem| format!("{name}: {problem}")));
        if fs::read_dir(folder.path().join("a")).unwrap().count()
            + fs::read_dir(folder.path().join("a/b")).unwrap().count()
            != 2
        {
            wrong.push(format!("{name}: wrote outside its folder"));
        }
    };
    for entry in ["../up", "m/../../up", "/tmp/quantbench-up", "m\\..\\up", "C:\\up", "..", "m/\0up"] {
        check(&format!("wheel: {entry:?}"), "2\nleaves the folder", true, wheel(&[(entry, b"x")]));
        if !entry.contains('\0') {
            check(&format!("npm: {entry:?}"), "2\nleaves the folder", false, package(&[(entry, b'0', b"x")]));
        }
    }
    for kind in *b"1234567" {
        let kinds = package(&[("package/a", kind, b"")]);
        check(&format!("npm: entry of kind {}", char::from(kind)), if kind == b'5' { "0" } else { "2" }, false, kinds);
    }
    check("wheel: cut off", "2", true, wheel(&[("m/a", &[7; 1000])])[..60].to_vec());
    check("wheel: no zip", "2", true, b"no zip at all".to_vec());
    check("npm: no gzip", "2", false, b"no gzip at all".to_vec());
    check("npm: cut off", "2", false, package(&[("package/a", b'0', &[7; 100_000])])[..300].to_vec());
    check("npm: a name of 3 GB", "2", false, long_name());
    let names: Vec<String> = (0..200_000).map(|at| format!("m/f{at}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    check("wheel: 200,000 entries", "2", true, wheel(&many));
    let zeros = vec![0; 64 << 20];
    let entries: Vec<(&str, &[u8])> = names.iter().take(4).map(|name| (name.as_str(), &zeros[..])).collect();
    check("wheel: 256 MiB out of 256 KiB", "2", true, wheel(&entries));
    let bomb = package(&[("package/a", b'0', &zeros), ("package/b", b'0', &zeros), ("package/c", b'0', &zeros)]);
    check("npm: 192 MiB out of 192 KiB", "2", false, bomb);
    assert!(wrong.is_empty(), "{} wrong answers\n{}", wrong.len(), wrong.join("\n"));
}

fn wheel(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, data) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// One header of a tar.
fn header(name: &str, kind: u8, size: u64) -> [u8; 512] {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..5].copy_from_slice(b"../up");
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    *header.as_bytes()
}

fn package(entries: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for (name, kind, data) in entries {
        gzip.write_all(&header(name, *kind, data.len() as u64)).unwrap();
        gzip.write_all(data).unwrap();
        gzip.write_all(&vec![0; data.len().next_multiple_of(512) - data.len()]).unwrap();
    }
    gzip.write_all(&[0; 1024]).unwrap();
    gzip.finish().unwrap()
}

/// An entry whose name, stored as the data of another, is said to take 3 GB.
fn long_name() -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&header("././@LongLink", b'L', 3 << 30)).unwrap();
    let zeros = vec![b'a'; 1 << 20];
    (0..512).for_each(|_| gzip.write_all(&zeros).unwrap());
    gzip.finish().unwrap()
}
