//! Every decoder against mutations of the golden files.
//!
//! `POSTHOUSE_FUZZ_ITERATIONS` sets the mutations for each decoder, `POSTHOUSE_FUZZ_SEED` the
//! first seed. A failure prints the command that repeats it.

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a wrong index or cast fails the test, which is what a test is for"
)]

#[path = "wire/corpus.rs"]
mod corpus;

use bytes::{Bytes, BytesMut};
use posthouse_protocol::batch::{BatchBuilder, BatchView, Entries, Headers, Message, peek_len};
use posthouse_protocol::frame::{self, Frame};
use posthouse_protocol::message::{Commit, Deliver, Fetched};
use posthouse_protocol::{Name, Reply, Request, limits};

#[test]
fn stream_of_frames_in_pieces() {
    let corpus = corpus::frames();
    fuzz("stream_of_frames_in_pieces", &corpus, |bytes, random| {
        let mut received = BytesMut::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + random.below(rest.len()));
            received.extend_from_slice(piece);
            rest = after;
            loop {
                match frame::decode(&mut received, limits::FRAME_BYTES_MAX) {
                    Ok(Some(frame)) => messages(&frame),
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    });
}

#[test]
fn heads_of_every_kind() {
    let heads = corpus::frames().into_iter().filter_map(|(name, whole)| {
        let frame = frame::decode_whole(Bytes::from(whole)).ok()?;
        Some((name, [&frame.kind.to_le_bytes()[..], &frame.head].concat()))
    });
    fuzz("heads_of_every_kind", &heads.collect::<Vec<_>>(), |bytes, _| {
        let Some((kind, head)) = bytes.split_first_chunk() else { return };
        let (kind, mut again) = (u16::from_le_bytes(*kind), Vec::new());
        if let Ok(request) = Request::decode(kind, head) {
            request.encode(&mut again);
            assert_eq!(again, head, "one value, one encoding: {request:?}");
        }
        again.clear();
        if let Ok(reply) = Reply::decode(kind, head) {
            reply.encode(&mut again);
            assert_eq!(again, head, "one value, one encoding: {reply:?}");
        }
    });
}

#[test]
fn batches_damaged_and_resealed() {
    fuzz("batches_damaged_and_resealed", &corpus::batches(), |bytes, random| {
        let mut bytes = bytes.to_vec();
        if random.below(4) > 0 {
            corpus::reseal(&mut bytes);
        }
        let _ = peek_len(&bytes);
        if let Ok(view) = BatchView::parse_trusted(&bytes) {
            let verified = view.messages().filter(|message| message.verify().is_ok()).count();
            assert!(verified <= bytes.len());
            let _ = view.verify_bodies();
        }
        let Ok(view) = BatchView::parse(&bytes) else { return };
        if view.verify_bodies().is_ok() {
            let mut builder = BatchBuilder::new();
            for message in view.messages() {
                builder.push(&own(&message)).expect("what was decoded is within the limits");
            }
            assert_eq!(builder.finish(view.created_at()), bytes, "one value, one encoding");
        }
    });
}

#[test]
fn tails_of_deliveries() {
    let is_sliced = |name: &str| name == "reply-deliver" || name == "reply-fetched";
    let corpus: Vec<_> = corpus::frames().into_iter().filter(|(name, _)| is_sliced(name)).collect();
    fuzz("tails_of_deliveries", &corpus, |bytes, random| {
        // The frame's own checksum is set aside: the head is damaged too.
        let head_len = bytes.get(8..12).map_or(0, |len| usize::from(len[0]));
        let Some(rest) = bytes.get(20..) else { return };
        let cut = (head_len + random.below(3)).saturating_sub(random.below(2)).min(rest.len());
        let (head, tail) = rest.split_at(cut);
        let tail = Bytes::copy_from_slice(tail);
        if let Ok(Reply::Deliver(deliver)) = Reply::decode(169, head) {
            parts(&deliver, &tail);
        }
        if let Ok(Reply::Fetched(fetched)) = Reply::decode(176, head) {
            fetched_parts(&fetched, &tail);
        }
    });
}

#[test]
fn batches_of_commits() {
    let is_commit = |name: &str| name == "request-commit";
    let corpus: Vec<_> = corpus::frames().into_iter().filter(|(name, _)| is_commit(name)).collect();
    fuzz("batches_of_commits", &corpus, |bytes, random| {
        // The frame's own checksum is set aside: the head is damaged too.
        let head_len = bytes.get(8..12).map_or(0, |len| usize::from(len[0]));
        let Some(rest) = bytes.get(20..) else { return };
        let cut = (head_len + random.below(3)).saturating_sub(random.below(2)).min(rest.len());
        let (head, tail) = rest.split_at(cut);
        if let Ok(Request::Commit(commit)) = Request::decode(34, head) {
            batches_of(&commit, &Bytes::copy_from_slice(tail));
        }
    });
}

#[test]
fn names_headers_and_entries() {
    let corpus = corpus::load();
    fuzz("names_headers_and_entries", &corpus, |bytes, _| {
        if let Ok(headers) = Headers::new(bytes) {
            headers.for_each(drop);
        }
        let mut entries = Entries::new(bytes);
        while let Ok(entry) = entries.read() {
            let _ = entry.check();
        }
        let text = String::from_utf8_lossy(bytes);
        match Name::new(&text) {
            Ok(name) => assert_eq!(name.as_str(), text),
            Err(error) => assert!(error.to_string().is_ascii(), "{error}"),
        }
    });
}

fn messages(frame: &Frame) {
    if let Ok(Request::Commit(commit)) = Request::decode_frame(frame) {
        batches_of(&commit, &frame.tail);
    }
    match Reply::decode_frame(frame) {
        Ok(Reply::Deliver(deliver)) => parts(&deliver, &frame.tail),
        Ok(Reply::Fetched(fetched)) => fetched_parts(&fetched, &frame.tail),
        Ok(_) | Err(_) => {}
    }
}

fn batches_of(commit: &Commit, tail: &Bytes) {
    let Ok(batches) = commit.batches(tail) else { return };
    let len: usize = batches.iter().map(|(_, batch)| batch.len()).sum();
    assert_eq!(len, tail.len(), "every byte belongs to one batch");
    for (_, batch) in batches {
        let _ = BatchView::parse(&batch).map(|view| view.verify_bodies().is_ok());
    }
}

fn parts(deliver: &Deliver, tail: &Bytes) {
    let counts = deliver.slices.iter().map(|slice| slice.slice.count as usize);
    let Ok(parts) = deliver.parts(tail) else { return };
    assert!(counts.eq(parts.iter().map(|part| part.messages().count())));
}

fn fetched_parts(fetched: &Fetched, tail: &Bytes) {
    let counts = fetched.slices.iter().map(|slice| slice.count as usize);
    let Ok(parts) = fetched.parts(tail) else { return };
    assert!(counts.eq(parts.iter().map(|part| part.messages().count())));
}

fn own(message: &posthouse_protocol::batch::MessageRef<'_>) -> Message {
    let copy = Bytes::copy_from_slice;
    let headers = message.entry.headers().into_iter().flatten().flatten();
    Message {
        id: message.entry.id,
        created_at: message.entry.created_at,
        key: message.entry.key.map(copy),
        headers: headers.map(|(name, value)| (copy(name), copy(value))).collect(),
        priority: message.entry.priority,
        due_at: message.entry.due_at,
        expires_at: message.entry.expires_at,
        body: copy(message.body),
    }
}

fn fuzz(target: &str, corpus: &[(String, Vec<u8>)], run: impl Fn(&[u8], &mut Random)) {
    assert!(!corpus.is_empty(), "{target}: no corpus");
    let iterations = variable("POSTHOUSE_FUZZ_ITERATIONS").unwrap_or(20_000);
    let first = variable("POSTHOUSE_FUZZ_SEED").unwrap_or(1);
    for seed in first..first.saturating_add(iterations) {
        let mut random = Random(seed);
        let mut bytes = corpus[random.below(corpus.len())].1.clone();
        for _ in 0..random.below(6) {
            mutate(&mut bytes, corpus, &mut random);
        }
        let _told_if_it_panics = Command { target, seed };
        run(&bytes, &mut random);
    }
}

/// Shows how to repeat a run that panicked.
struct Command<'a> {
    target: &'a str,
    seed: u64,
}

impl Drop for Command<'_> {
    #[expect(clippy::print_stdout, reason = "a failing random test prints how to repeat it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "POSTHOUSE_FUZZ_SEED={} POSTHOUSE_FUZZ_ITERATIONS=1 \
                 cargo test -p posthouse-protocol --test fuzz_smoke {}",
                self.seed, self.target
            );
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[(String, Vec<u8>)], random: &mut Random) {
    let at = random.below(bytes.len() + 1).min(bytes.len());
    let interesting = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 4096, 4097, 1 << 20, u32::MAX - 1, u32::MAX];
    let value = interesting[random.below(interesting.len())];
    let len = random.below(8).min(bytes.len() - at);
    match random.below(8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..at + len)),
        2 => {
            let copy = bytes[at..at + len].to_vec();
            bytes.splice(at..at, copy);
        }
        3 => bytes.insert(at, value as u8),
        4 => {
            let other = &corpus[random.below(corpus.len())].1;
            bytes.truncate(at);
            bytes.extend(&other[at.min(other.len())..]);
        }
        5 if bytes.len() >= at + 4 => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
        6 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        _ if at < bytes.len() => bytes[at] = value as u8,
        _ => bytes.push(value as u8),
    }
}

/// A seeded stream of numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit.max(1) as u64) as usize
    }
}
