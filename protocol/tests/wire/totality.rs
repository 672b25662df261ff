//! Decoders answer every input: cut off, damaged, lying about lengths. They never panic and never
//! allocate for what is announced instead of what is there.

use crate::corpus;
use crate::golden::frame;
use bytes::{Bytes, BytesMut};
use posthouse_protocol::batch::BatchView;
use posthouse_protocol::frame::{self, FRAME_HEADER_LEN};
use posthouse_protocol::{DecodeError, Reply, Request, limits};

const LIMIT: u32 = limits::FRAME_BYTES_MAX;

#[test]
fn frame_cut_anywhere_waits_for_the_rest() {
    for (name, whole) in corpus::frames() {
        for len in 0..whole.len() {
            let mut received = BytesMut::from(&whole[..len]);
            assert_eq!(frame::decode(&mut received, LIMIT), Ok(None), "{name} at {len}");
            assert_eq!(received.len(), len, "{name}: nothing was taken");
            let cut = frame::decode_whole(Bytes::copy_from_slice(&whole[..len]));
            assert!(cut.is_err(), "{name} at {len}");
        }
        let mut two = BytesMut::from([whole.as_slice(), &whole].concat().as_slice());
        assert_eq!(frame::decode(&mut two, LIMIT), Ok(Some(frame(&whole))), "{name}");
        assert_eq!(two, whole, "{name}: the next frame is left");
    }
}

#[test]
fn head_cut_or_prolonged_anywhere_is_refused() {
    for (name, whole) in corpus::frames() {
        let frame = frame(&whole);
        for len in 0..frame.head.len() {
            assert!(decode(frame.kind, &frame.head[..len]).is_err(), "{name} at {len}");
        }
        let longer = [&frame.head[..], &[0]].concat();
        assert!(decode(frame.kind, &longer).is_err(), "{name}");
    }
}

#[test]
fn damaged_byte_of_a_header_or_head_is_noticed() {
    for (name, whole) in corpus::frames() {
        let head_end = whole.len() - frame(&whole).tail.len();
        for at in 4..head_end {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                let found = frame::decode_whole(Bytes::from(damaged));
                assert!(found.is_err(), "{name} at {at}: {found:?}");
            }
        }
    }
}

#[test]
fn header_fields_at_their_edges_are_answered() {
    let fields = [(0, 4), (4, 4), (8, 4), (12, 2), (14, 2), (16, 4)];
    for (name, whole) in corpus::frames() {
        for (at, len) in fields {
            for value in
                [0, 1, 2, limits::HEAD_BYTES_MAX + 1, LIMIT, LIMIT + 1, u32::MAX - 1, u32::MAX]
            {
                let mut edge = whole.clone();
                edge[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
                for repaired in [false, true] {
                    if repaired {
                        repair(&mut edge);
                    }
                    let mut received = BytesMut::from(edge.as_slice());
                    if let Ok(Some(frame)) = frame::decode(&mut received, LIMIT) {
                        let known = Request::decode_frame(&frame).is_ok()
                            || Reply::decode_frame(&frame).is_ok();
                        let same = edge == whole || at == 16 || !known;
                        // A frame without a head may become one of another kind without a head,
                        // and one of requests and replies may look like the other.
                        assert!(same || at == 12 || at == 0, "{name} at {at}: {value}");
                    }
                }
            }
        }
    }
}

#[test]
fn length_above_the_limit_is_refused_before_anything_is_buffered() {
    let mut announced = BytesMut::from(&(LIMIT + 1).to_le_bytes()[..]);
    let refused = frame::decode(&mut announced, LIMIT);
    assert!(matches!(refused, Err(DecodeError::TooLarge { field: "frame.length", .. })));
    let mut http = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
    assert!(frame::decode(&mut http, limits::HELLO_FRAME_BYTES_MAX).is_err());
    let mut short = BytesMut::from(&15_u32.to_le_bytes()[..]);
    assert!(frame::decode(&mut short, LIMIT).is_err());
}

#[test]
fn tail_where_none_belongs_is_refused() {
    for (name, whole) in corpus::frames() {
        let mut frame = frame(&whole);
        let is_fetched = matches!(Reply::decode_frame(&frame), Ok(Reply::Fetched(_)));
        if frame.tail.is_empty() && !is_fetched {
            frame.tail = Bytes::from_static(b"x");
            let found =
                (Request::decode_frame(&frame).is_ok(), Reply::decode_frame(&frame).is_ok());
            assert_eq!(found, (false, false), "{name}");
        }
    }
}

#[test]
fn every_byte_of_a_head_set_to_anything_is_refused_or_means_what_it_says() {
    for (name, whole) in corpus::frames() {
        let frame = frame(&whole);
        for at in 0..frame.head.len() {
            for value in [0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff] {
                let mut head = frame.head.to_vec();
                head[at] = value;
                if let Ok(again) = decode(frame.kind, &head) {
                    assert_eq!(again, head, "{name} at {at}");
                }
            }
        }
    }
}

#[test]
fn announced_lengths_allocate_nothing() {
    for (name, whole) in corpus::frames() {
        let frame = frame(&whole);
        for at in 0..frame.head.len().saturating_sub(3) {
            for bomb in [limits::LIST_ENTRIES_MAX, 1024, u32::MAX] {
                let mut head = frame.head.to_vec();
                head[at..at + 4].copy_from_slice(&bomb.to_le_bytes());
                let used = allocation_counter::measure(|| drop(decode(frame.kind, &head)));
                let allowed = 1024 + 32 * head.len() as u64;
                assert!(used.bytes_max <= allowed, "{name} at {at}: {used:?}");
            }
        }
    }
}

#[test]
fn batch_cut_anywhere_is_refused() {
    for (name, whole) in corpus::batches() {
        for len in 0..whole.len() {
            assert!(BatchView::parse(&whole[..len]).is_err(), "{name} at {len}");
            let _ = BatchView::parse_trusted(&whole[..len]).map(|view| view.verify_bodies());
        }
    }
}

#[test]
fn damaged_byte_of_a_batch_is_noticed_and_costs_one_message() {
    for (name, whole) in corpus::batches() {
        let sound = BatchView::parse(&whole).unwrap();
        let bodies_at = whole.len() - sound.bodies().len();
        let damaged_count = |bytes: &[u8]| {
            let view = BatchView::parse(bytes).unwrap();
            view.messages().filter(|message| message.verify().is_err()).count()
        };
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            if at < bodies_at {
                assert!(BatchView::parse(&damaged).is_err(), "{name} at {at}");
            } else {
                assert_eq!(damaged_count(&damaged), 1, "{name} at {at}");
                assert!(BatchView::parse(&damaged).unwrap().verify_bodies().is_err());
            }
        }
    }
}

#[test]
fn trusted_batch_with_a_damaged_index_does_not_verify() {
    let (_, whole) = corpus::batches().remove(0);
    let index_at = 64;
    let index_len = BatchView::parse(&whole).unwrap().index().len();
    for at in index_at..index_at + index_len {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        let view = BatchView::parse_trusted(&damaged).unwrap();
        assert!(view.verify_bodies().is_err(), "at {at}");
    }
}

#[test]
fn second_encoding_of_a_batch_is_refused() {
    let (name, whole) = corpus::batches().remove(0);
    assert_eq!(name, "batch-every-feature");
    // The first entry begins at 64, its flags are 32 bytes on, its times 40 and 48 bytes on.
    let changes: [(usize, &[u8], &str); 3] = [
        (64 + 32, &[6], "entry.key_len"),
        (64 + 40, &[0; 8], "entry.due_at"),
        (64 + 48, &[0; 8], "entry.expires_at"),
    ];
    for (at, bytes, field) in changes {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        corpus::reseal(&mut changed);
        // Sealing stops at the entry that is refused, so only the header is sure to be right.
        let found = BatchView::parse(&changed).map(|_| ());
        assert!(
            matches!(found, Err(DecodeError::Invalid { field: at, .. }) if at == field),
            "{found:?}"
        );
    }
}

#[test]
fn delivery_whose_slices_do_not_fit_its_tail_is_refused() {
    let (_, whole) =
        corpus::frames().into_iter().find(|(name, _)| name == "reply-deliver").unwrap();
    let frame = frame(&whole);
    let Ok(Reply::Deliver(deliver)) = Reply::decode_frame(&frame) else { panic!("a delivery") };
    for len in 0..frame.tail.len() {
        assert!(deliver.parts(&frame.tail.slice(..len)).is_err(), "cut at {len}");
    }
    let longer = Bytes::from([&frame.tail[..], &[0]].concat());
    assert!(deliver.parts(&longer).is_err());
    let mut fewer = deliver.clone();
    fewer.slices[0].slice.count -= 1;
    assert!(fewer.parts(&frame.tail).is_err());
    let mut shorter = deliver.clone();
    shorter.slices[0].slice.bodies_len -= 1;
    assert!(shorter.parts(&frame.tail.slice(..frame.tail.len() - 1)).is_err());
    let mut shifted = deliver;
    shifted.slices[0].slice.index_len -= 1;
    shifted.slices[0].slice.bodies_len += 1;
    assert!(shifted.parts(&frame.tail).is_err());
}

#[test]
fn settlement_of_too_many_or_no_deliveries_is_refused() {
    let (_, whole) =
        corpus::frames().into_iter().find(|(name, _)| name == "request-extend").unwrap();
    let head = frame(&whole).head;
    // The first run's count is the last field of its 24 bytes, which follow 16 bytes.
    let with_count = |count: u32| {
        let mut head = head.to_vec();
        head[36..40].copy_from_slice(&count.to_le_bytes());
        Request::decode(44, &head)
    };
    assert!(with_count(limits::SETTLE_DELIVERIES_MAX - 1).is_ok());
    let refused = with_count(limits::SETTLE_DELIVERIES_MAX);
    assert!(matches!(refused, Err(DecodeError::TooLarge { field: "Extend.deliveries", .. })));
    assert!(matches!(with_count(0), Err(DecodeError::Invalid { field: "DeliveryRun.count", .. })));
}

/// The head encoded again after it was decoded.
fn decode(kind: u16, head: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut again = Vec::new();
    if kind < 128 {
        Request::decode(kind, head)?.encode(&mut again);
    } else {
        Reply::decode(kind, head)?.encode(&mut again);
    }
    Ok(again)
}

/// Makes the checksum right.
fn repair(frame: &mut [u8]) {
    let head_len = u32::from_le_bytes(frame[8..12].try_into().unwrap()) as usize;
    if let Some(covered) = frame.get(8..FRAME_HEADER_LEN.saturating_add(head_len)) {
        let crc = crc32fast::hash(covered).to_le_bytes();
        frame[4..8].copy_from_slice(&crc);
    }
}
