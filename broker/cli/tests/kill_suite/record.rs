//! The history: what clients saw and what was done to the broker.

use posthouse_checker::history::{
    Deliver, Durability, Event, Fence, MessageId, Outcome, Publish, PublishOutcome, Settle, Time,
    Verdict,
};
use posthouse_checker::lines;
use posthouse_client::{Delivery, PublishError, Receipt, SettleError};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// Shared by everything that takes part in a run.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    origin: Instant,
    events: Arc<Mutex<Vec<Event>>>,
    consumers: Arc<AtomicU64>,
}

impl Record {
    pub(crate) fn new() -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        Self { origin: Instant::now(), events, consumers: Arc::new(AtomicU64::new(1)) }
    }

    pub(crate) fn now(&self) -> Time {
        Time(u64::try_from(self.origin.elapsed().as_nanos()).unwrap())
    }

    pub(crate) fn add(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    /// A number for a consumer that nobody had before.
    pub(crate) fn next_consumer(&self) -> u64 {
        self.consumers.fetch_add(1, Ordering::Relaxed)
    }

    /// Everything so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// Writes the history to a file, for `posthouse-checker`.
    pub(crate) fn save(&self) -> PathBuf {
        let name = format!("kill_suite-{}.jsonl", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
        for event in self.events() {
            lines::write_event(&mut file, &event).unwrap();
        }
        path
    }
}

/// A publish that began at `t0`.
pub(crate) fn publish(
    (t0, t1): (Time, Time),
    topic: &str,
    (id, crc): (posthouse_client::MessageId, u32),
    result: Result<Receipt, PublishError>,
) -> Event {
    let outcome = match result {
        Ok(receipt) => PublishOutcome::Ok {
            offset: receipt.offset.map(|offset| offset.0),
            durability: match receipt.durability {
                posthouse_client::Durability::Synced => Durability::Synced,
                posthouse_client::Durability::Written => Durability::Written,
            },
            duplicate: receipt.duplicate,
        },
        Err(error) => match error.outcome() {
            posthouse_client::Outcome::Definite => PublishOutcome::Failed(error.to_string()),
            posthouse_client::Outcome::Unknown => PublishOutcome::Unknown,
        },
    };
    let id = MessageId::from(id.0);
    let (topic, due_ms) = (topic.to_owned(), None);
    Event::Publish(Publish { t0, t1, topic, id, crc, sender: None, due_ms, outcome })
}

/// A delivery that was taken just now.
pub(crate) fn deliver(
    t: Time,
    (topic, subscription, consumer): (&str, &str, u64),
    delivery: &Delivery,
) -> Event {
    Event::Deliver(Deliver {
        t,
        after: None,
        topic: topic.to_owned(),
        subscription: subscription.to_owned(),
        consumer,
        offset: delivery.offset().0,
        id: MessageId::from(delivery.id().0),
        crc: crc32fast::hash(delivery.body()),
        attempt: delivery.attempt().0,
        fence: fence(delivery),
        lease_ms: 30_000,
    })
}

/// A settlement that begins now; its outcome is not known yet.
pub(crate) fn settle(
    t0: Time,
    (topic, subscription): (&str, &str),
    delivery: &Delivery,
    verdict: Verdict,
) -> Settle {
    Settle {
        t0,
        t1: Time::MAX,
        topic: topic.to_owned(),
        subscription: subscription.to_owned(),
        offset: delivery.offset().0,
        fence: fence(delivery),
        verdict,
        outcome: Outcome::Unknown,
    }
}

/// The settlement with its outcome.
pub(crate) fn settled(settle: Settle, t1: Time, result: Result<(), SettleError>) -> Event {
    let outcome = match result {
        Ok(()) => Outcome::Ok,
        Err(error) => match error.outcome() {
            posthouse_client::Outcome::Definite => Outcome::Refused(error.to_string()),
            posthouse_client::Outcome::Unknown => Outcome::Unknown,
        },
    };
    Event::Settle(Settle { t1, outcome, ..settle })
}

fn fence(delivery: &Delivery) -> Fence {
    let fence = delivery.fence();
    Fence { epoch: fence.epoch.0, counter: fence.counter }
}
