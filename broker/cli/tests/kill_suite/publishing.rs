//! Publishers: each keeps some messages on their way and records every receipt.

use crate::load::Part;
use crate::progress::Deed;
use crate::{LOG, block_on, connect, record};
use posthouse_checker::history::Time;
use posthouse_client::{Message, MessageId, Pending, Publisher};
use std::collections::VecDeque;

/// Publishes to `topic` until the load stops, with `window` messages on their way.
pub(crate) fn run(mut part: Part, topic: &'static str, window: usize) {
    block_on(async {
        let client = connect(&part.address).await;
        let publisher = client.publisher(topic).await.unwrap();
        let mut waiting = VecDeque::new();
        loop {
            tokio::select! {
                biased;
                () = part.stopped() => break,
                room = part.room.acquire() => {
                    // Nobody consumes the log; it is slow enough by itself.
                    let room = room.expect("it is never closed");
                    if topic != LOG {
                        room.forget();
                    }
                }
            }
            waiting.push_back(submit(&mut part, &publisher).await);
            while waiting.len() >= window {
                finish(&part, topic, waiting.pop_front()).await;
            }
        }
        while !waiting.is_empty() {
            finish(&part, topic, waiting.pop_front()).await;
        }
        client.close(crate::support::PATIENCE).await;
    });
}

/// A message on its way.
struct Sent {
    t0: Time,
    id: MessageId,
    crc: u32,
    pending: Pending,
}

async fn submit(part: &mut Part, publisher: &Publisher) -> Sent {
    let len = match part.chance.below(20) {
        0 => 0,
        1 => part.chance.below(60_000),
        _ => part.chance.below(1_500),
    };
    let body: Vec<u8> =
        (0..len.div_ceil(8)).flat_map(|_| part.chance.below(u64::MAX).to_le_bytes()).collect();
    let crc = crc32fast::hash(&body);
    let t0 = part.record.now();
    let pending = publisher.submit(Message::new(body)).await.unwrap();
    part.progress.count(Deed::Submitted);
    Sent { t0, id: pending.id(), crc, pending }
}

async fn finish(part: &Part, topic: &str, sent: Option<Sent>) {
    let Some(Sent { t0, id, crc, pending }) = sent else { return };
    let result = pending.await;
    let span = (t0, part.record.now());
    part.record.add(record::publish(span, topic, (id, crc), result));
    part.progress.count(Deed::Accepted);
}
