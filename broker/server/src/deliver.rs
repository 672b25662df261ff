//! Turning a delivery into frames: reading the messages, cutting slices, pairing them with fences.

use crate::outbox::Connection;
use crate::read;
use crate::slices::{Budget, Cut};
use posthouse_engine::effect::{Deliver, DeliverRun};
use posthouse_protocol::message::DeliverySlice;
use posthouse_protocol::{CorrelationId, Reply, message};
use posthouse_storage::reader::Reader;

/// Bytes of one frame's tail beyond which the next messages go into a frame of their own.
const TAIL_BYTES: usize = 512 << 10;

/// Reads and sends. What cannot be read is left out: its lease ends, and the next look at the
/// stored bytes reports the damage.
pub(crate) fn send(reader: &Reader, connection: &Connection, deliver: &Deliver) {
    let mut frame = Frame::new(connection, deliver);
    for run in &deliver.runs {
        let range = run.first..run.first.plus(u64::from(run.count));
        let budget = Budget { bytes: usize::MAX, messages: u64::MAX };
        match read::slices(reader, deliver.partition, std::slice::from_ref(&range), budget) {
            Ok(found) => found.cuts.into_iter().for_each(|cut| frame.add(run, cut)),
            Err(error) => {
                let subscription = deliver.subscription;
                tracing::error!(%subscription, %error, "messages cannot be delivered");
            }
        }
    }
    frame.send();
}

struct Frame<'a> {
    connection: &'a Connection,
    deliver: &'a Deliver,
    slices: Vec<DeliverySlice>,
    tail: Vec<Cut>,
    tail_len: usize,
}

impl<'a> Frame<'a> {
    const fn new(connection: &'a Connection, deliver: &'a Deliver) -> Self {
        Self { connection, deliver, slices: Vec::new(), tail: Vec::new(), tail_len: 0 }
    }

    fn add(&mut self, run: &DeliverRun, cut: Cut) {
        if self.tail_len > 0 && self.tail_len + cut.len() > TAIL_BYTES {
            self.send();
        }
        let ahead = cut.slice.first.distance_from(run.first);
        self.tail_len += cut.len();
        self.slices.push(DeliverySlice {
            slice: cut.slice.clone(),
            fence_counter: run.fence_counter + ahead,
            attempt: run.attempt,
        });
        self.tail.push(cut);
    }

    fn send(&mut self) {
        if self.slices.is_empty() {
            return;
        }
        let head = message::Deliver {
            consumer: self.deliver.consumer,
            ack_floor: self.deliver.ack_floor,
            fence_epoch: self.deliver.fence_epoch,
            slices: std::mem::take(&mut self.slices),
        };
        let tail = std::mem::take(&mut self.tail);
        let len = std::mem::take(&mut self.tail_len);
        let parts = tail.into_iter().flat_map(|cut| [cut.index, cut.bodies]);
        self.connection.send_with_tail(CorrelationId::ZERO, &Reply::Deliver(head), parts, len);
    }
}
