//! `docs/WIRE_PROTOCOL.md` says what the source does: fields, kinds, codes, limits, bytes.

use crate::{corpus, schema};
use posthouse_protocol::{ErrorCode, Outcome, Reply, Request};
use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../../docs/WIRE_PROTOCOL.md");

#[test]
fn every_struct_has_its_fields_in_a_table() {
    let schema = schema::read();
    for (name, fields) in &schema.structs {
        let table = rows(&section(&format!("### `{name}`")));
        let found: Vec<(String, String)> =
            table.iter().map(|row| (row[0].clone(), row[1].clone())).collect();
        let expected =
            expected(fields.iter().map(|(field, kind)| format!("| `{field}` | `{kind}` |")));
        assert_eq!(&found, fields, "section {name} should have:\n{expected}");
    }
}

#[test]
fn every_enum_has_its_numbers_in_a_table() {
    let schema = schema::read();
    for (name, variants) in &schema.enums {
        let table = rows(&section(&format!("### `{name}`")));
        let found: Vec<(u8, String)> =
            table.iter().map(|row| (row[0].parse().unwrap(), row[1].clone())).collect();
        let expected =
            expected(variants.iter().map(|(number, name)| format!("| {number} | `{name}` |")));
        assert_eq!(&found, variants, "section {name} should have:\n{expected}");
    }
}

#[test]
fn every_union_has_its_variants_in_a_table() {
    let schema = schema::read();
    for (name, variants) in &schema.unions {
        let table = rows(&section(&format!("### `{name}`")));
        let found: Vec<(u8, String, String)> = table
            .iter()
            .map(|row| (row[0].parse().unwrap(), row[1].clone(), row[2].clone()))
            .collect();
        let expected = expected(
            variants
                .iter()
                .map(|(number, name, kind)| format!("| {number} | `{name}` | `{kind}` |")),
        );
        assert_eq!(&found, variants, "section {name} should have:\n{expected}");
    }
}

#[test]
fn every_section_is_about_something_in_the_source() {
    let schema = schema::read();
    let known = |name: &str| {
        schema.structs.contains_key(name)
            || schema.enums.contains_key(name)
            || schema.unions.contains_key(name)
    };
    for line in PAGE.lines().filter(|line| line.starts_with("### `")) {
        let name = line.split('`').nth(1).unwrap_or_default();
        assert!(known(name), "{line}");
    }
}

#[test]
fn message_table_has_every_kind() {
    for (heading, kinds) in
        [("## Requests", Request::KINDS), ("## Replies and pushes", Reply::KINDS)]
    {
        let table = rows(&section(heading));
        let found: Vec<(u16, &str)> =
            table.iter().map(|row| (row[0].parse().unwrap(), row[1].as_str())).collect();
        let expected = expected(kinds.iter().map(|(kind, name)| format!("| {kind} | `{name}` |")));
        assert_eq!(found, kinds, "{heading} should have:\n{expected}");
    }
}

#[test]
fn error_table_is_that_of_the_source() {
    let row = |code: &ErrorCode| {
        let outcome = match code.outcome() {
            Outcome::Definite => "definite",
            Outcome::Unknown => "unknown",
        };
        let yes = |yes| if yes { "yes" } else { "no" };
        let (retriable, covers) = (code.is_retriable(), code.covers_earlier_tries());
        let fields =
            [&code.number().to_string(), code.name(), outcome, yes(retriable), yes(covers)];
        fields.map(str::to_owned).to_vec()
    };
    let wanted: Vec<Vec<String>> = ErrorCode::ALL.iter().map(row).collect();
    let found: Vec<Vec<String>> =
        rows(&section("## Errors")).iter().map(|row| row[..5].to_vec()).collect();
    let expected = expected(wanted.iter().map(|row| format!("| {} |", row.join(" | "))));
    assert_eq!(found, wanted, "the table should be:\n{expected}");
}

#[test]
fn limits_table_is_that_of_the_source() {
    let source = include_str!("../../src/limits.rs");
    let declared = source.lines().filter_map(|line| line.strip_prefix("pub const "));
    let declared: Vec<(String, String)> = declared
        .filter_map(|line| line.trim_end_matches(';').split_once(" = "))
        .map(|(name, value)| {
            (name.split(':').next().unwrap_or_default().to_owned(), value.to_owned())
        })
        .collect();
    let table = rows(&section("## Limits"));
    let found: Vec<(String, String)> =
        table.iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let expected =
        expected(declared.iter().map(|(name, value)| format!("| `{name}` | `{value}` |")));
    assert_eq!(found, declared, "the table should be:\n{expected}");
}

#[test]
fn session_consists_of_golden_files() {
    let session = section("## A session");
    let named: Vec<&str> =
        session.lines().filter_map(|line| line.strip_prefix("`golden/")).collect();
    assert!(named.len() >= 6, "{named:?}");
    for line in named {
        let name = line.split('`').next().unwrap_or_default();
        let path = corpus::directory().join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("no {name}"));
        assert!(session.contains(&text), "{name} should be shown as\n{text}");
    }
}

#[test]
fn page_names_the_codec_that_it_describes() {
    let sources = [
        include_str!("../../src/codec.rs"),
        include_str!("../../src/wire.rs"),
        include_str!("../../src/frame.rs"),
        include_str!("../../src/batch.rs"),
        include_str!("../../src/batch/build.rs"),
        include_str!("../../src/batch/view.rs"),
        include_str!("../../src/tail.rs"),
    ];
    let hash = crc32fast::hash(sources.concat().as_bytes());
    let line = format!("Codec sources: crc32 `{hash:08x}`.");
    assert!(PAGE.contains(&line), "look whether the page is still right, then write: {line}");
}

#[test]
fn fields_are_found_in_the_source() {
    let schema = schema::read();
    let sizes: BTreeSet<usize> = schema.structs.values().map(Vec::len).collect();
    assert!(schema.structs.len() > 40 && schema.enums.len() > 5 && sizes.len() > 5);
    assert_eq!(schema.unions.len(), 1);
}

/// The lines after this heading and before the next one of the same or a higher level.
fn section(heading: &str) -> String {
    let level = heading.chars().take_while(|at| *at == '#').count();
    let mut lines = PAGE.lines().skip_while(|line| {
        !line.strip_prefix(heading).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    });
    assert!(lines.next().is_some(), "no section {heading}");
    let ends = |line: &str| {
        let depth = line.chars().take_while(|at| *at == '#').count();
        (1..=level).contains(&depth) && line[depth..].starts_with(' ')
    };
    let mut fenced = false;
    let body = lines.take_while(|line| {
        fenced ^= line.starts_with("```");
        fenced || !ends(line)
    });
    body.map(|line| format!("{line}\n")).collect()
}

/// The cells of the first table, without its head and without back quotes.
fn rows(section: &str) -> Vec<Vec<String>> {
    let table = section.lines().skip_while(|line| !line.starts_with('|'));
    let table = table.take_while(|line| line.starts_with('|')).skip(2);
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    table.map(|line| line.trim_matches('|').split(" | ").map(cell).collect()).collect()
}

fn expected(lines: impl Iterator<Item = String>) -> String {
    lines.collect::<Vec<_>>().join("\n")
}
