//! House rules that nobody has to remember: documents that are true, files that say what they are.

#![expect(clippy::unwrap_used, reason = "helpers of a test: a panic is how it fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FOLDERS: [&str; 5] = ["protocol", "storage", "broker", "client", "benches"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                files(&path, ending, found);
            }
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    FOLDERS.iter().for_each(|folder| files(&root().join(folder), "rs", &mut found));
    found.sort();
    assert!(found.len() > 100, "the sources are found");
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn pages() -> Vec<(PathBuf, String)> {
    let mut found = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut found);
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The functions marked as tests in a source, proptest's included.
fn tests_in(source: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
            tests.extend(rest.split('(').next().map(str::to_owned));
            marked = false;
        }
    }
    tests
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let known: BTreeSet<(String, String)> = sources()
        .iter()
        .flat_map(|(path, source)| {
            let folder = path.strip_prefix(root()).unwrap();
            let mut names = folder.iter().map(|part| part.to_string_lossy().into_owned());
            let first = names.next().unwrap();
            let krate = match (first.as_str(), names.next().unwrap_or_default().as_str()) {
                ("broker", "server") => "broker".to_owned(),
                ("broker", inner) => inner.to_owned(),
                (outer, _) => outer.to_owned(),
            };
            tests_in(source).into_iter().map(move |test| (krate.clone(), test))
        })
        .collect();
    let page = fs::read_to_string(root().join("docs/GUARANTEES.md")).unwrap();
    let promises = page.split("## You may not rely on").next().unwrap();
    let mut checked = 0;
    for line in promises.lines().filter(|line| line.starts_with("- ")) {
        let named: Vec<_> = line.split('`').filter(|word| word.contains("::")).collect();
        assert!(!named.is_empty(), "no test is named: {line}");
        for name in named {
            let (krate, test) = name.split_once("::").unwrap();
            let key = (krate.to_owned(), test.to_owned());
            assert!(known.contains(&key), "GUARANTEES.md names {name}, which is not there");
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} tests are named");
}

#[test]
fn every_source_says_first_what_it_is_for() {
    for (path, source) in sources() {
        assert!(source.starts_with("//!"), "{} starts without //!", path.display());
    }
}

#[test]
fn nothing_is_left_for_later_in_silence() {
    let banned = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "#[ig".to_owned() + "nore"];
    for (path, source) in sources() {
        for word in &banned {
            assert!(!source.contains(word.as_str()), "{} contains {word}", path.display());
        }
    }
}

#[test]
fn files_are_nouns_of_the_domain_and_short() {
    let banned = ["utils", "helpers", "common", "misc", "manager", "handler", "service", "inner"];
    for (path, source) in sources() {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            !banned.contains(&stem.as_str()),
            "{} has a name that says nothing",
            path.display()
        );
        let lines = source.lines().count();
        assert!(lines <= 800, "{} has {lines} lines: what belongs elsewhere?", path.display());
    }
}

/// An example shows one thing, on one page.
#[test]
fn examples_are_short() {
    let is_example = |path: &PathBuf| path.parent().is_some_and(|it| it.ends_with("examples"));
    let mut seen = 0;
    for (path, source) in sources().into_iter().filter(|(path, _)| is_example(path)) {
        let lines = source.lines().count();
        assert!(lines < 60, "{} has {lines} lines", path.display());
        seen += 1;
    }
    assert!(seen >= 7, "only {seen} examples found");
}

#[test]
fn unsafe_stands_in_the_mapping_and_in_the_program_that_measures_it() {
    let word = "unsafe".to_owned() + " {";
    let allowed = ["storage/src/fs/mmap.rs", "benches/src/map_vs_write.rs"];
    for (path, source) in sources() {
        let here = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        assert!(!source.contains(&word) || allowed.contains(&here.as_str()), "unsafe in {here}");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut checked = 0;
    for (path, page) in pages() {
        for target in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains("://") {
                continue;
            }
            let place = path.parent().unwrap().join(file);
            assert!(place.exists(), "{} links to {target}", path.display());
            checked += 1;
        }
        for named in page.split('`').filter(|word| word.starts_with("docs/")) {
            assert!(root().join(named).exists(), "{} names {named}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} links are found");
}

#[test]
fn no_page_names_a_machine_or_a_registry() {
    let banned = ["/wo".to_owned() + "rk/", "crates".to_owned() + ".io", "/ro".to_owned() + "ot/"];
    for (path, text) in pages().into_iter().chain(sources()) {
        for word in &banned {
            assert!(!text.contains(word.as_str()), "{} contains {word}", path.display());
        }
    }
}

#[test]
fn the_engine_and_the_protocol_are_pure() {
    let banned =
        ["std::fs", "std::net", "std::thread", "Instant::now", "SystemTime", "HashMap", "tokio::"];
    for (path, source) in sources() {
        let here = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let pure = here.starts_with("broker/engine/src") || here.starts_with("protocol/src");
        if !pure || here.contains("/tests") || here.ends_with("bugs.rs") {
            continue;
        }
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for word in banned {
            assert!(!code.contains(word), "{here} contains {word}");
        }
    }
}

/// Who only publishes and consumes must not have to build the drivers of databases.
#[test]
fn the_core_client_knows_no_database() {
    let manifest = fs::read_to_string(root().join("client/Cargo.toml")).unwrap();
    let needed = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names: Vec<_> =
        needed.lines().filter_map(|line| line.split(['.', ' ', '=']).next()).collect();
    assert!(names.contains(&"tokio"), "the dependencies are found: {names:?}");
    for driver in ["sqlx", "rusqlite", "diesel", "tokio-postgres", "mysql_async", "libsqlite3-sys"]
    {
        assert!(!names.contains(&driver), "{driver} belongs into a package of its own");
    }
}
