//! The fields of every message, read from the source text of `message.rs`, its parts and
//! `settings.rs`.
//!
//! A second opinion on the encoding: written from the rules in `docs/WIRE_PROTOCOL.md`, it shares
//! no code with the codec.

use std::collections::BTreeMap;

/// Structs and enums as their source declares them.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) structs: BTreeMap<String, Vec<(String, String)>>,
    pub(crate) enums: BTreeMap<String, Vec<(u8, String)>>,
    /// Each variant's number, name and struct.
    pub(crate) unions: BTreeMap<String, Vec<(u8, String, String)>>,
}

pub(crate) fn read() -> Schema {
    let mut schema =
        Schema { structs: BTreeMap::new(), enums: BTreeMap::new(), unions: BTreeMap::new() };
    schema.add(include_str!("../../src/message.rs"));
    schema.add(include_str!("../../src/message/commit.rs"));
    schema.add(include_str!("../../src/message/producer.rs"));
    schema.add(include_str!("../../src/settings.rs"));
    schema
}

impl Schema {
    fn add(&mut self, source: &str) {
        let (mut within, mut current) = ("", String::new());
        for line in source.lines() {
            let declares = ["wire_struct! {", "wire_choice! {", "wire_union! {"];
            if declares.iter().any(|start| line.starts_with(start)) {
                within = line[5..].split('!').next().unwrap_or_default();
            } else if line == "}" {
                within = "";
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match (within, words.as_slice()) {
                ("struct", ["pub", "struct", name, ..]) => {
                    current = (*name).to_owned();
                    self.structs.insert(current.clone(), Vec::new());
                }
                ("struct", ["pub", field, ..]) => {
                    let declared = line.trim().trim_start_matches("pub ").trim_end_matches(',');
                    let (_, kind) = declared.split_once(": ").expect("a field has a type");
                    let fields = self.structs.get_mut(&current).expect("fields are in a struct");
                    fields.push((field.trim_end_matches(':').to_owned(), kind.to_owned()));
                }
                ("choice", ["pub", "enum", name, ..]) => {
                    current = (*name).to_owned();
                    self.enums.insert(current.clone(), Vec::new());
                }
                ("choice", [name, "=", number]) => {
                    let number = number.trim_end_matches(',').parse().expect("a number");
                    let variants = self.enums.get_mut(&current).expect("variants are in an enum");
                    variants.push((number, (*name).to_owned()));
                }
                ("union", ["pub", "enum", name, ..]) => {
                    current = (*name).to_owned();
                    self.unions.insert(current.clone(), Vec::new());
                }
                ("union", [variant, "=", number]) => {
                    let number = number.trim_end_matches(',').parse().expect("a number");
                    let (name, kind) = variant.split_once('(').expect("a variant has a struct");
                    let kind = kind.trim_end_matches(')').to_owned();
                    let variants = self.unions.get_mut(&current).expect("variants are in an enum");
                    variants.push((number, name.to_owned(), kind));
                }
                _ => {}
            }
        }
    }

    /// Splits encoded bytes into their parts, each with the name of the field that it is.
    pub(crate) fn annotate(&self, kind: &str, bytes: &[u8]) -> Vec<(Vec<u8>, String)> {
        let mut parts = Vec::new();
        let mut rest = bytes;
        self.walk(kind, "", &mut rest, &mut parts);
        assert!(rest.is_empty(), "{kind}: {} bytes too many", rest.len());
        parts
    }

    fn walk(&self, kind: &str, path: &str, rest: &mut &[u8], parts: &mut Vec<(Vec<u8>, String)>) {
        let mut take = |rest: &mut &[u8], len: usize, label: String| {
            let (taken, after) = rest.split_at(len);
            *rest = after;
            parts.push((taken.to_vec(), label));
            taken.iter().rev().fold(0_usize, |value, byte| (value << 8) | usize::from(*byte))
        };
        if let Some(fields) = self.structs.get(kind) {
            for (field, kind) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                self.walk(kind, &format!("{path}{dot}{field}"), rest, parts);
            }
        } else if let Some(variants) = self.unions.get(kind) {
            let found = usize::from(rest[0]);
            let (_, name, inner) = variants
                .iter()
                .find(|(number, ..)| usize::from(*number) == found)
                .expect("a known variant");
            take(rest, 1, format!("{path}: {name}"));
            self.walk(inner, path, rest, parts);
        } else if let Some(item) = kind.strip_prefix("Vec<").and_then(|kind| kind.strip_suffix('>'))
        {
            let count = take(rest, 4, format!("{path}: count"));
            for place in 0..count {
                self.walk(item, &format!("{path}[{place}]"), rest, parts);
            }
        } else if let Some(value) =
            kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>'))
        {
            if take(rest, 1, format!("{path}: present")) == 1 {
                self.walk(value, path, rest, parts);
            }
        } else if matches!(kind, "String" | "Name") {
            let len = take(rest, 4, format!("{path}: length"));
            if len > 0 {
                let text = String::from_utf8_lossy(&rest[..len]).into_owned();
                take(rest, len, format!("{path}: \"{text}\""));
            }
        } else if kind == "Fence" {
            take(rest, 4, format!("{path}.epoch: StartEpoch"));
            take(rest, 8, format!("{path}.counter: u64"));
        } else if kind == "Position" {
            take(rest, 1, format!("{path}: which Position"));
            take(rest, 8, format!("{path}: offset or time"));
        } else {
            take(rest, self.len(kind), format!("{path}: {kind}"));
        }
    }

    fn len(&self, kind: &str) -> usize {
        match kind {
            "u8" | "bool" => 1,
            "u16" => 2,
            "u32" | "TopicId" | "PartitionId" | "SubscriptionId" | "ConsumerId"
            | "ProducerEpoch" | "StartEpoch" | "Attempt" => 4,
            "u64" | "Offset" | "ProducerId" | "Sequence" | "Timestamp" => 8,
            kind if self.enums.contains_key(kind) => 1,
            other => panic!("no such type: {other}"),
        }
    }

    /// Encodes a value made from `tape`.
    pub(crate) fn generate(&self, kind: &str, field: &str, tape: &mut Tape<'_>, out: &mut Vec<u8>) {
        if let Some(fields) = self.structs.get(kind) {
            fields.iter().for_each(|(field, kind)| self.generate(kind, field, tape, out));
        } else if let Some(variants) = self.enums.get(kind) {
            out.push(variants[tape.below(variants.len())].0);
        } else if let Some(variants) = self.unions.get(kind) {
            let (number, _, inner) = &variants[tape.below(variants.len())];
            out.push(*number);
            self.generate(inner, field, tape, out);
        } else if let Some(item) = kind.strip_prefix("Vec<").and_then(|kind| kind.strip_suffix('>'))
        {
            let count = tape.below(5);
            out.extend((count as u32).to_le_bytes());
            (0..count).for_each(|_| self.generate(item, field, tape, out));
        } else if let Some(value) =
            kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>'))
        {
            let present = tape.below(2);
            out.push(present as u8);
            (0..present).for_each(|_| self.generate(value, field, tape, out));
        } else if kind == "Name" {
            let len = 1 + tape.below(200);
            out.extend((len as u32).to_le_bytes());
            out.push(b'a' + tape.below(26) as u8);
            out.extend((1..len).map(|_| b"azAZ09._-"[tape.below(9)]));
        } else if kind == "String" {
            let text: String = (0..tape.below(40))
                .map(|_| ['x', '\u{e4}', '\u{20ac}', '\u{1f680}', '\0'][tape.below(5)])
                .collect();
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        } else if kind == "bool" {
            out.push(tape.below(2) as u8);
        } else if kind == "Position" {
            let which = 1 + tape.below(4) as u8;
            out.push(which);
            let value = if which < 3 { 0 } else { tape.number() };
            out.extend(value.to_le_bytes());
        } else if kind == "Fence" {
            out.extend((tape.number() as u32).to_le_bytes());
            out.extend((tape.number() >> 1).to_le_bytes());
        } else if field == "count" {
            // Runs are not empty, and all runs of a settlement together have a limit.
            out.extend((1 + tape.below(4) as u32).to_le_bytes());
        } else if matches!(field, "first" | "fence_counter") {
            // Runs do not reach beyond the last number.
            out.extend((tape.number() >> 1).to_le_bytes());
        } else {
            out.extend(&tape.number().to_le_bytes()[..self.len(kind)]);
        }
    }
}

/// Bytes from which values are made; zeros when they are used up, so that shorter tapes make
/// simpler values.
#[derive(Debug)]
pub(crate) struct Tape<'a>(pub(crate) &'a [u8]);

impl Tape<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// Often at an edge.
    fn number(&mut self) -> u64 {
        match self.byte() {
            0..40 => 0,
            40..80 => u64::MAX,
            80..120 => u64::from(self.byte()),
            _ => (0..8).fold(0, |value, _| (value << 8) | u64::from(self.byte())),
        }
    }
}
