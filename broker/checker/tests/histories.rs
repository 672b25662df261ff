//! Every hand-made history gets the verdict that its name says: `<rule>.<good|bad>.<what>.jsonl`.
//!
//! A bad history breaks its rule and no other one; a good one breaks none.

use posthouse_checker::{Expectations, Rule, Verdict, check, lines};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_history_gets_the_verdict_that_its_name_says() {
    let mut wrong = Vec::new();
    for path in histories() {
        let (rule, good) = said_by(&path);
        let report = check(&read(&path), &Expectations::NONE);
        let broken: Vec<Rule> = report.violations.iter().map(|found| found.rule).collect();
        let right = if good {
            report.verdict() == Verdict::Valid
        } else {
            report.verdict() == Verdict::Invalid && broken.iter().all(|found| *found == rule)
        };
        if !right {
            wrong.push(format!("{}\n{report}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_rule_has_at_least_two_good_and_two_bad_histories() {
    let mut counts: BTreeMap<(Rule, bool), usize> = BTreeMap::new();
    for path in histories() {
        *counts.entry(said_by(&path)).or_default() += 1;
    }
    for rule in Rule::ALL {
        for good in [true, false] {
            let count = counts.get(&(*rule, good)).copied().unwrap_or_default();
            assert!(count >= 2, "{rule} good={good}: {count}");
        }
    }
}

#[test]
fn order_of_lines_does_not_matter() {
    for path in histories() {
        let mut events = read(&path);
        let verdict = check(&events, &Expectations::NONE).verdict();
        events.reverse();
        assert_eq!(check(&events, &Expectations::NONE).verdict(), verdict, "{}", path.display());
    }
}

#[test]
fn history_survives_being_written_and_read() {
    for path in histories() {
        let events = read(&path);
        let mut written = Vec::new();
        for event in &events {
            lines::write_event(&mut written, event).unwrap();
        }
        assert_eq!(lines::read_events(written.as_slice()).unwrap(), events, "{}", path.display());
    }
}

fn histories() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories");
    let entries = fs::read_dir(directory)
        .expect("there is a corpus")
        .map(|entry| entry.expect("it can be listed").path());
    let mut paths: Vec<PathBuf> = entries.collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Vec<posthouse_checker::history::Event> {
    let text = fs::read(path).expect("the history can be read");
    lines::read_events(text.as_slice()).unwrap_or_else(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        panic!("{}: {error}: {cause:?}", path.display())
    })
}

fn said_by(path: &Path) -> (Rule, bool) {
    let name = path.file_name().and_then(|name| name.to_str()).expect("names are ASCII");
    let mut parts = name.split('.');
    let rule = parts.next().unwrap_or_default();
    let rule = Rule::ALL.iter().find(|known| known.name() == rule);
    let good = match parts.next() {
        Some("good") => true,
        Some("bad") => false,
        other => panic!("{name}: good or bad, not {other:?}"),
    };
    (*rule.unwrap_or_else(|| panic!("{name}: no such rule")), good)
}
