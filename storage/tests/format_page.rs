//! `docs/STORAGE_FORMAT.md` says what the codecs do: fields, lengths, magic words, kinds, events.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

use posthouse_storage::names::{FileId, FileKind, FileName, LOCK, MANIFEST, ORPHANS};
use posthouse_storage::run::format;
use posthouse_storage::{checkpoint, frame, manifest, segment};

const PAGE: &str = include_str!("../../docs/STORAGE_FORMAT.md");
const FRAME: &str = include_str!("../src/frame.rs");
const SEGMENT: &str = include_str!("../src/segment.rs");
const MANIFEST_SOURCE: &str = include_str!("../src/manifest.rs");
const CHECKPOINT: &str = include_str!("../src/checkpoint.rs");
const RUN: &str = include_str!("../src/run/format.rs");
const EVENT: &str = include_str!("../../broker/engine/src/event.rs");
const EVENT_CODEC: &str = include_str!("../../broker/engine/src/event/codec.rs");
const STATE_CODEC: &str = include_str!("../../broker/engine/src/state/codec.rs");

#[test]
fn page_names_the_codecs_that_it_describes() {
    let codecs = [
        ("journal", [FRAME, SEGMENT, MANIFEST_SOURCE, CHECKPOINT, RUN].as_slice()),
        ("events", [EVENT, EVENT_CODEC].as_slice()),
        ("state", [STATE_CODEC].as_slice()),
    ];
    let without_tests = |source: &&str| {
        let (code, _) = source.split_once("\n#[cfg(test)]").unwrap_or((source, ""));
        code.to_owned()
    };
    let hash = |sources: &[&str]| {
        crc32fast::hash(sources.iter().map(without_tests).collect::<String>().as_bytes())
    };
    let wrong: Vec<String> = codecs
        .iter()
        .map(|(name, sources)| (name, hash(sources)))
        .filter(|(name, hash)| !PAGE.contains(&format!("- codec `{name}`: `{hash:08x}` (")))
        .map(|(name, hash)| format!("- codec `{name}`: `{hash:08x}`"))
        .collect();
    let hint = "the source has changed; read the page, correct it, then put this hash";
    assert!(wrong.is_empty(), "{hint}:\n{}", wrong.join("\n"));
}

#[test]
fn every_structure_has_its_fields_in_a_table() {
    let header = "impl Header {";
    check_fields("Segment header", between(SEGMENT, header, "fn header_checksum"), 4096);
    check_fields("Frame header", between(FRAME, "fn parse(", "let table ="), frame::HEADER_LEN);
    let read = between(FRAME, "fn read(&mut self)", "impl Iterator");
    check_fields("Batch table entry", read, frame::TABLE_ENTRY_LEN);
    check_fields("Run header", between(RUN, header, "impl Entry {"), len(format::HEADER_LEN));
    let entry = between(RUN, "impl Entry {\n    /// Appends", "impl Partition {");
    check_fields("Run index entry", entry, len(format::ENTRY_LEN));
    let partition = between(RUN, "impl Partition {", "impl Footer {");
    check_fields("Run directory entry", partition, len(format::PARTITION_LEN));
    let footer = between(RUN, "impl Footer {", "pub const fn padded");
    check_fields("Run footer", footer, len(format::FOOTER_LEN));
    let source = between(CHECKPOINT, header, "impl Checkpoint {");
    check_fields("Checkpoint header", source, checkpoint::HEADER_LEN);
    let section = between(CHECKPOINT, "fn read_section", "fn section_checksum");
    check_fields("Checkpoint section", section, constant(CHECKPOINT, "SECTION_LEN"));
    // The decoder passes over checksum and length, of which another function took care, as one.
    let slot = between(MANIFEST_SOURCE, "let slot = checked_slot(bytes)?", "fn decode_lists")
        .replace("u64(\"manifest.crc\")", "u32(\"manifest.crc\")?; source.u32(\"manifest.len\")");
    check_fields("Manifest slot", &slot, 80);
    let at = |field: &str| {
        let rows = table("### Manifest slot");
        rows.iter().find(|row| row[2] == field).unwrap()[0].parse::<usize>().unwrap()
    };
    assert_eq!(at("crc"), constant(MANIFEST_SOURCE, "CRC_AT"));
    assert_eq!(at("len"), constant(MANIFEST_SOURCE, "LEN_AT"));
}

#[test]
fn magic_words_and_versions_are_those_of_the_source() {
    let files = [
        ("Segment header", SEGMENT, Some(segment::VERSION)),
        ("Manifest slot", MANIFEST_SOURCE, Some(manifest::VERSION)),
        ("Run header", RUN, Some(format::VERSION)),
        ("Checkpoint header", CHECKPOINT, Some(checkpoint::VERSION)),
        ("Run footer", RUN, None),
    ];
    for (heading, source, version) in files {
        let rows = table(&format!("### {heading}"));
        let of = |field: &str| rows.iter().find(|row| row[2] == field).map(|row| row[3].clone());
        let magic = of("magic").unwrap();
        assert!(source.contains(&format!("*b\"{magic}\"")), "{heading} has no magic {magic}");
        assert_eq!(of("version"), version.map(|version| version.to_string()), "{heading}");
    }
}

#[test]
fn manifest_lists_have_the_entries_of_the_source() {
    let fields = fields_read(between(MANIFEST_SOURCE, "fn decode_lists", "fn list<T>"));
    let source = flat(between(MANIFEST_SOURCE, "fn decode_lists", "fn checked_slot"));
    let lists: Vec<(&str, &str)> = source
        .split("list(source, ")
        .skip(1)
        .map(|call| call.split_once(", \"manifest.").unwrap())
        .map(|(length, rest)| (rest.split('"').next().unwrap(), length))
        .collect();
    let rows = table("### Manifest lists");
    let found: Vec<(&str, &str)> = rows.iter().map(|row| (&*row[0], &*row[1])).collect();
    assert_eq!(found, lists, "the table should have these lists and entry lengths");
    let entries = ["segment", "checkpoint", "run", "spare", "retired", "fence"];
    for (row, entry) in rows.iter().zip(entries) {
        let of_entry = fields.iter().filter(|field| field.name.split('.').next() == Some(entry));
        let of_entry: Vec<(String, usize)> =
            of_entry.map(|field| (last_word(&field.name), field.len)).collect();
        let wanted: Vec<String> =
            of_entry.iter().map(|(name, len)| format!("{name} {len}")).collect();
        assert_eq!(row[2], wanted.join(", "), "entries of list {}", row[0]);
        let sum: usize = of_entry.iter().map(|(_, len)| len).sum();
        assert_eq!(row[1], sum.to_string(), "entry length of list {}", row[0]);
    }
    let kinds: Vec<String> = arms(between(MANIFEST_SOURCE, "fn kind_code", "fn kind_from_code"))
        .map(|(name, code)| format!("{code} {}", name.to_lowercase()))
        .collect();
    let retired = &rows.iter().find(|row| row[0] == "retired").unwrap()[3];
    assert!(retired.ends_with(&kinds.join(", ")), "list retired should say: {}", kinds.join(", "));
}

#[test]
fn frame_kinds_are_those_of_the_source() {
    let kinds: Vec<(String, String)> =
        arms(between(FRAME, "const fn code(self)", "const fn from_code")).collect();
    let rows = table("### Frame kinds");
    let found: Vec<(String, String)> =
        rows.iter().map(|row| (row[1].clone(), row[0].clone())).collect();
    assert_eq!(found, kinds);
}

#[test]
fn file_names_are_those_of_the_source() {
    let mut names = vec![LOCK.to_owned()];
    names.extend(MANIFEST.map(str::to_owned));
    for kind in [FileKind::Segment, FileKind::Run, FileKind::Checkpoint, FileKind::Spare] {
        let name = FileName::new(kind, FileId(0xab));
        let shown = name.to_string().replace("00000000000000ab", "<id>");
        assert_eq!(name.temporary().to_string(), format!("{name}.tmp"));
        names.push(shown);
    }
    names.push("<name>.tmp".to_owned());
    names.push(format!("{ORPHANS}/"));
    let found: Vec<String> =
        table("## The data directory").iter().map(|row| row[0].clone()).collect();
    assert_eq!(found, names);
}

#[test]
fn events_have_the_kinds_and_fields_of_the_source() {
    let kinds = between(EVENT_CODEC, "\nkinds! {", "\n}");
    let kinds =
        kinds.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once(" = "));
    let wanted: Vec<String> = kinds
        .map(|(name, kind)| format!("| {kind} | `{name}` | {} |", structure(EVENT, name)))
        .collect();
    assert_eq!(lines("### Event kinds"), wanted, "should be:\n{}\n", wanted.join("\n"));
}

#[test]
fn structures_have_the_fields_of_the_source() {
    let sources = [
        ("Sender", EVENT),
        ("OffsetRun", EVENT),
        ("Placed", EVENT),
        ("LastIds", include_str!("../../broker/engine/src/state.rs")),
        ("Milestone", include_str!("../../broker/engine/src/state/milestone.rs")),
        ("Failure", include_str!("../../broker/engine/src/state/subscription.rs")),
        ("Rejection", include_str!("../../broker/engine/src/state/subscription.rs")),
        ("Accepted", include_str!("../../broker/engine/src/state/producer.rs")),
        ("AcceptedCommit", include_str!("../../broker/engine/src/state/producer.rs")),
    ];
    let wanted: Vec<String> = sources
        .iter()
        .map(|(name, source)| format!("| `{name}` | {} |", structure(source, name)))
        .collect();
    assert_eq!(lines("### Structures"), wanted, "should be:\n{}\n", wanted.join("\n"));
}

#[test]
fn state_has_the_parts_of_the_source() {
    let version = between(STATE_CODEC, "const VERSION: u8 = ", ";");
    assert!(PAGE.contains(&format!("version u8 ({version})")), "version {version} of the state");
    for row in table("## The state in a checkpoint") {
        let part = between(STATE_CODEC, &format!("\nimpl {} {{", row[0]), "fn decode");
        let wanted: Vec<&str> = part
            .split("self.")
            .skip(1)
            .map(|rest| rest.split(|at: char| !at.is_alphanumeric() && at != '_').next().unwrap())
            .collect();
        let found: Vec<&str> =
            row[1].split(", ").map(|field| field.split(' ').next().unwrap()).collect();
        assert_eq!(found, wanted, "fields of {}", row[0]);
    }
    let producer = include_str!("../../broker/engine/src/state/producer.rs");
    let recent = format!("at most {} `Kept`", constant(producer, "RECENT_MAX"));
    assert!(PAGE.contains(&recent), "a producer keeps {recent}");
    let places = format!("more than {}, but", constant(producer, "RECENT_PLACES_MAX"));
    assert!(PAGE.contains(&places), "a producer keeps results with no {places}");
    let kept = between(producer, "pub enum Kept {", "\n    }");
    let variants = kept.lines().filter_map(|line| line.trim().split_once(" = "));
    let variants: Vec<(&str, &str)> = variants.collect();
    let wanted = [("Publish(Accepted)", "1,"), ("Commit(AcceptedCommit)", "2,")];
    assert_eq!(variants, wanted, "what the page says of `Kept`");
    let parts = STATE_CODEC.matches("    fn encode(&self").count()
        + STATE_CODEC.matches("    pub fn encode(&self").count();
    assert_eq!(table("## The state in a checkpoint").len(), parts);
}

/// A field as a decoder reads it.
#[derive(Debug, PartialEq, Eq)]
struct Field {
    name: String,
    len: usize,
}

/// Holds the table under `heading` against the fields that `source` reads, and against `total`.
/// Behind what is read there may be one more row, of bytes that nobody reads.
fn check_fields(heading: &str, source: &str, total: usize) {
    let mut position = 0;
    let mut found = Vec::new();
    for row in table(&format!("### {heading}")) {
        assert_eq!(row[0], position.to_string(), "{heading}: offset of {}", row[2]);
        let len = row[1].parse().unwrap();
        position += len;
        found.push(Field { name: row[2].clone(), len });
    }
    assert_eq!(position, total, "{heading}: whole length");
    let wanted: Vec<Field> = fields_read(source)
        .into_iter()
        .map(|field| Field { name: last_word(&field.name), ..field })
        .collect();
    let unread = ["reserved", "zeros"];
    if found.len() == wanted.len() + 1
        && found.last().is_some_and(|field| unread.contains(&field.name.as_str()))
    {
        found.pop();
    }
    assert!(wanted.len() > 2, "{heading}: its fields are found in the source");
    assert_eq!(found, wanted, "{heading}: fields of the table and of the source");
}

/// The fields of fixed length that a decoder takes from its `Source`, in order, under full names.
fn fields_read(source: &str) -> Vec<Field> {
    let source = flat(source);
    let mut fields = Vec::new();
    for (at, word) in source.match_indices("source") {
        let (before, rest) = (&source[..at], &source[at + word.len()..]);
        if before.ends_with("sealed(&mut ") {
            fields.push(Field { name: "crc".to_owned(), len: 4 });
            continue;
        }
        let call = if before.ends_with("zeros(&mut ") {
            rest.strip_prefix(", ").map(|arguments| ("bytes", arguments))
        } else {
            rest.strip_prefix('.').and_then(|call| call.split_once('('))
        };
        let Some((method, arguments)) = call else { continue };
        let arguments = arguments.split(')').next().unwrap();
        let name = arguments.split('"').nth(1);
        let len = match method {
            "u8" => 1,
            "u16" => 2,
            "u32" => 4,
            "u64" => 8,
            "bytes16" => 16,
            // Magic words are 8 bytes long; its length is cut at the bracket of `MAGIC.len()`.
            "bytes" if arguments.starts_with("MAGIC.len(") => 8,
            "bytes" => match arguments.split(',').next().unwrap().parse() {
                Ok(len) => len,
                Err(_) => continue,
            },
            _ => continue,
        };
        let name = name.map_or_else(|| "magic".to_owned(), str::to_owned);
        fields.push(Field { name, len });
    }
    fields
}

/// The fields of a `wire_struct`, as the page shows them.
fn structure(source: &str, name: &str) -> String {
    let body = between(source, &format!("pub struct {name} {{"), "\n    }");
    let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
    let fields: Vec<String> =
        fields.map(|field| format!("`{}`", field.trim_end_matches(','))).collect();
    assert!(!fields.is_empty(), "{name} has fields");
    fields.join(", ")
}

/// The arms `Something::Name => number,` of a match.
fn arms(source: &str) -> impl Iterator<Item = (String, String)> {
    source.lines().filter_map(|line| {
        let (variant, number) = line.trim().trim_end_matches(',').split_once(" => ")?;
        Some((variant.split("::").nth(1)?.to_owned(), number.to_owned()))
    })
}

/// The part of `source` behind the first `start` and before the next `end`.
fn between<'a>(source: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = source.split_once(start).unwrap_or_else(|| panic!("no {start:?} in a source"));
    rest.split_once(end).unwrap_or_else(|| panic!("no {end:?} behind {start:?} in a source")).0
}

/// The number that a private constant of `source` has.
fn constant(source: &str, name: &str) -> usize {
    between(source, &format!("const {name}: usize = "), ";").parse().unwrap()
}

/// `source` on one line.
fn flat(source: &str) -> String {
    source.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn last_word(name: &str) -> String {
    let word = name.rsplit('.').next().unwrap_or_default();
    word.to_owned()
}

fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

/// The rows of the first table under `heading`, as they stand on the page, without its head.
fn lines(heading: &str) -> Vec<&'static str> {
    let mut page = PAGE.lines().skip_while(|line| *line != heading);
    assert!(page.next().is_some(), "the page has no section {heading}");
    let section = page.take_while(|line| !line.starts_with('#'));
    let rows = section.skip_while(|line| !line.starts_with('|'));
    rows.take_while(|line| line.starts_with('|')).skip(2).collect()
}

/// The cells of these rows, code marks taken off.
fn table(heading: &str) -> Vec<Vec<String>> {
    let cells = |row: &str| {
        let row = row.trim_matches('|').replace('`', "");
        row.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows: Vec<Vec<String>> = lines(heading).into_iter().map(cells).collect();
    assert!(!rows.is_empty(), "section {heading} has no table");
    rows
}
