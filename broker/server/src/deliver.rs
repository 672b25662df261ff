//! Turning a delivery into frames: reading the messages, cutting slices, pairing them with fences.

use crate::read;
use crate::slices::{Budget, Cut, SLICES_MAX};
use bytes::Bytes;
use posthouse_engine::effect::{Deliver, DeliverRun};
use posthouse_protocol::message::DeliverySlice;
use posthouse_protocol::{Reply, message};
use posthouse_storage::reader::Reader;

/// Bytes of one frame's tail beyond which the next messages go into a frame of their own.
const TAIL_BYTES: usize = 512 << 10;

/// Reads the messages and gives each frame's head and tail to `send`. What cannot be read is left
/// out: its lease ends, and the next look at the stored bytes reports the damage.
pub fn read_delivery(reader: &Reader, deliver: &Deliver, mut send: impl FnMut(Reply, Vec<Bytes>)) {
    let mut frame = Frame::new(&mut send, deliver);
    for run in &deliver.runs {
        let range = run.first..run.first.plus(u64::from(run.count));
        let budget = Budget { bytes: usize::MAX, messages: u64::MAX, slices: usize::MAX };
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

struct Frame<'a, S> {
    out: &'a mut S,
    deliver: &'a Deliver,
    slices: Vec<DeliverySlice>,
    tail: Vec<Cut>,
    tail_len: usize,
}

impl<'a, S: FnMut(Reply, Vec<Bytes>)> Frame<'a, S> {
    const fn new(out: &'a mut S, deliver: &'a Deliver) -> Self {
        Self { out, deliver, slices: Vec::new(), tail: Vec::new(), tail_len: 0 }
    }

    fn add(&mut self, run: &DeliverRun, cut: Cut) {
        let is_full = self.tail_len > 0 && self.tail_len + cut.len() > TAIL_BYTES;
        if is_full || self.slices.len() >= SLICES_MAX {
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
        self.tail_len = 0;
        let parts = tail.into_iter().flat_map(|cut| [cut.index, cut.bodies]).collect();
        (self.out)(Reply::Deliver(head), parts);
    }
}
