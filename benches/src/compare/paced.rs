//! From publish to delivery at a fixed rate, counted from the moment each message was due.

use std::io;
use std::time::{Duration, Instant};

use super::pool::Pool;
use super::turn::{Outcome, histogram};
use crate::clock;
use crate::peers::{Duty, Link, Seen, Service, Take};

/// How long to wait for the last deliveries.
const LAST: Duration = Duration::from_secs(10);
/// First messages, which are not measured: both ends connect, caches fill.
const WARM_UP: Duration = Duration::from_millis(200);

/// Publishes `rate` messages a second for so long, whether or not the broker keeps up.
pub(super) fn run(
    service: &Service,
    queue: &str,
    rate: u32,
    body: usize,
    measured: Duration,
) -> io::Result<Outcome> {
    let publisher = service.connect(queue, Duty::Publish { batch: 1, topics: 1 })?;
    let consumer = service.connect(queue, Duty::Consume(Take { acked: true, expected: None }))?;
    let mut pool = Pool::new(vec![publisher, consumer])?;
    pool.links.iter_mut().skip(1).try_for_each(Link::consume)?;
    let mut pace = Pace {
        start: clock::now() + Duration::from_millis(20),
        step: Duration::from_secs(1) / rate,
        sent: 0,
        body: vec![b'x'; body.max(8)],
    };
    // A moment that only shows that it works needs no more than that before.
    let warm_up = WARM_UP.min(measured);
    let until = pace.start + warm_up + measured;
    let mut seen = Seen { stamps: Some(Vec::new()), ..Seen::default() };
    let (mut latency, mut ready) = (histogram(), Vec::new());
    let mut now = clock::now();
    while now < until || (seen.deliveries < pace.sent && now < until + LAST) {
        if now < until
            && let Some(link) = pool.links.first_mut()
        {
            pace.send(link, now)?;
        }
        if now < until {
            pool.alarm(pace.due().saturating_duration_since(clock::now()))?;
        }
        pool.wait(LAST, &mut ready)?;
        for number in ready.iter().copied() {
            let Some(link) = pool.links.get_mut(number) else { continue };
            link.pump(&mut seen)?;
            now = clock::now();
            for number in seen.receipts.drain(..) {
                link.sent_at(number)?;
            }
            for stamp in seen.stamps.iter_mut().flat_map(|stamps| stamps.drain(..)) {
                let due = pace.start + Duration::from_nanos(stamp);
                if due >= pace.start + warm_up {
                    latency.saturating_record(clock::nanos(now.saturating_duration_since(due)));
                }
            }
        }
        now = clock::now();
    }
    if seen.deliveries < pace.sent {
        let (came, sent) = (seen.deliveries, pace.sent);
        return Err(io::Error::other(format!("{came} of {sent} messages came")));
    }
    Ok(Outcome { messages: latency.len(), latency, elapsed: measured, all: pace.sent })
}

struct Pace {
    start: Instant,
    step: Duration,
    sent: u64,
    body: Vec<u8>,
}

impl Pace {
    /// Nanoseconds after the start at which the next message is to go.
    fn offset(&self) -> u64 {
        clock::nanos(self.step).saturating_mul(self.sent)
    }

    fn due(&self) -> Instant {
        self.start + Duration::from_nanos(self.offset())
    }

    /// Sends all that are due.
    fn send(&mut self, link: &mut Link, now: Instant) -> io::Result<()> {
        while self.due() <= now {
            let stamp = self.offset().to_le_bytes();
            if let Some(slot) = self.body.first_chunk_mut() {
                *slot = stamp;
            }
            link.publish(1, &self.body, now)?;
            self.sent += 1;
        }
        Ok(())
    }
}
