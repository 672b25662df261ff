//! One turn of one broker: a load on its connections, and what came of it.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::pool::{PATIENCE, Pool};
use crate::clock;
use crate::peers::{Duty, Link, Seen, Service, Take};

/// Messages that a publisher of a backlog keeps on their way.
const FILL_WINDOW: usize = 2000;
/// Between two looks at the clock while nothing comes.
const TICK: Duration = Duration::from_millis(200);

/// What came of a turn.
pub(super) struct Outcome {
    /// Nanoseconds; empty where only the rate is asked for.
    pub(super) latency: Histogram<u64>,
    /// Messages of the measured time.
    pub(super) messages: u64,
    pub(super) elapsed: Duration,
    /// Messages of the whole turn, of warming up too.
    pub(super) all: u64,
}

impl Outcome {
    pub(super) fn rate(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }
}

pub(super) fn histogram() -> Histogram<u64> {
    const MINUTE: u64 = 60_000_000_000;
    Histogram::new_with_max(MINUTE, 3).expect("three digits are allowed")
}

/// How to publish.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    pub(super) connections: usize,
    /// Publishes in flight on each.
    pub(super) window: usize,
    /// Messages in each of them.
    pub(super) batch: usize,
    pub(super) topics: usize,
}

impl Crowd {
    const fn duty(self) -> Duty {
        Duty::Publish { batch: self.batch, topics: self.topics }
    }
}

/// Publishes for so long, each connection with its window.
pub(super) fn publish(
    service: &Service,
    queue: &str,
    crowd: Crowd,
    body: usize,
    measured: Duration,
) -> io::Result<Outcome> {
    let body = vec![b'x'; body];
    let connect = |_| service.connect(queue, crowd.duty());
    let links = (0..crowd.connections).map(connect).collect::<io::Result<_>>()?;
    let mut pool = Pool::new(links)?;
    let mut phase = Phase::starting(measured);
    let start = clock::now();
    for link in &mut pool.links {
        link.publish(crowd.window, &body, start)?;
    }
    let mut seen = Seen::default();
    let mut ready = Vec::new();
    let mut now = start;
    while now < phase.until || pool.links.iter().any(|link| link.in_flight() > 0) {
        pool.wait(TICK, &mut ready)?;
        for number in ready.iter().copied() {
            let Some(link) = pool.links.get_mut(number) else { continue };
            link.pump(&mut seen)?;
            now = clock::now();
            let count = phase.receipts(link, &mut seen, now)?;
            if now < phase.until {
                link.publish(count, &body, now)?;
            }
        }
        pool.retry(&body)?;
        now = clock::now();
        phase.give_up(now)?;
    }
    let batch = crowd.batch as u64;
    Ok(Outcome {
        messages: phase.count * batch,
        latency: phase.latency,
        elapsed: measured,
        all: phase.all * batch,
    })
}

/// Publishes `messages`, or as many as go in `longest`; how many that were. `shape` is how many there
/// are in a publish, and in how many topics in turn.
pub(super) fn fill(
    service: &Service,
    queue: &str,
    shape: (usize, usize),
    body: usize,
    (messages, longest): (u64, Duration),
) -> io::Result<u64> {
    let body = vec![b'x'; body];
    let (batch, topics) = shape;
    let link = service.connect(queue, Duty::Publish { batch, topics })?;
    let mut pool = Pool::new(vec![link])?;
    let window = (FILL_WINDOW / batch).clamp(2, FILL_WINDOW).min((64 << 20) / (batch * body.len()));
    let goal = messages / batch as u64;
    let start = clock::now();
    let mut phase = Phase::starting(longest);
    let mut seen = Seen::default();
    let mut ready = Vec::new();
    let (mut sent, mut done) = (0, 0);
    let mut now = start;
    let mut free = window.max(1) as u64;
    loop {
        let Some(link) = pool.links.first_mut() else { return Ok(0) };
        let count = if now < start + longest { free.min(goal - sent) } else { 0 };
        link.publish(usize::try_from(count).unwrap_or(0), &body, now)?;
        sent += count;
        if done == sent {
            return Ok(done * batch as u64);
        }
        pool.wait(TICK, &mut ready)?;
        now = clock::now();
        phase.give_up(now)?;
        free = 0;
        let Some(link) = pool.links.first_mut().filter(|_| !ready.is_empty()) else { continue };
        link.pump(&mut seen)?;
        free = phase.receipts(link, &mut seen, now)? as u64;
        done += free;
        pool.retry(&body)?;
    }
}

/// Takes a backlog of `messages`.
pub(super) fn drain(
    service: &Service,
    queue: &str,
    messages: u64,
    acked: bool,
) -> io::Result<Outcome> {
    let take = Take { acked, expected: Some(messages) };
    let mut pool = Pool::new(vec![service.connect(queue, Duty::Consume(take))?])?;
    let start = clock::now();
    pool.links.iter_mut().try_for_each(Link::consume)?;
    let mut seen = Seen::default();
    let mut ready = Vec::new();
    let mut heard = start;
    while seen.deliveries < messages || seen.settled < messages {
        pool.wait(TICK, &mut ready)?;
        let now = clock::now();
        if let Some(link) = pool.links.first_mut().filter(|_| !ready.is_empty()) {
            link.pump(&mut seen)?;
            heard = now;
        }
        if now > heard + PATIENCE {
            return Err(io::Error::other(format!(
                "{} of {messages} messages came, {} settled",
                seen.deliveries, seen.settled
            )));
        }
    }
    Ok(Outcome { latency: histogram(), messages, elapsed: start.elapsed(), all: messages })
}

/// Publishes with a window on one connection and consumes on another, for so long.
pub(super) fn together(
    service: &Service,
    queue: &str,
    crowd: Crowd,
    body: usize,
    measured: Duration,
) -> io::Result<Outcome> {
    let body = vec![b'x'; body];
    let publisher = service.connect(queue, crowd.duty())?;
    let consumer = service.connect(queue, Duty::Consume(Take { acked: true, expected: None }))?;
    let mut pool = Pool::new(vec![publisher, consumer])?;
    let mut phase = Phase::starting(measured);
    let start = clock::now();
    let mut seen = Seen::default();
    let mut ready = Vec::new();
    if let [publisher, consumer] = pool.links.as_mut_slice() {
        consumer.consume()?;
        publisher.publish(crowd.window, &body, start)?;
    }
    let mut now = start;
    let (mut at_start, mut all) = (None, 0);
    while now < phase.until {
        pool.wait(TICK, &mut ready)?;
        for number in ready.iter().copied() {
            let Some(link) = pool.links.get_mut(number) else { continue };
            link.pump(&mut seen)?;
            now = clock::now();
            if number == 0 {
                let count = phase.receipts(link, &mut seen, now)?;
                link.publish(count, &body, now)?;
                all += count as u64;
            }
        }
        pool.retry(&body)?;
        now = clock::now();
        if now >= phase.from && at_start.is_none() {
            at_start = Some((now, seen.settled));
        }
        phase.give_up(now)?;
    }
    let (from, before) = at_start.unwrap_or((start, 0));
    let messages = seen.settled - before;
    let all = all * crowd.batch as u64;
    Ok(Outcome { latency: phase.latency, messages, elapsed: now - from, all })
}

/// When a turn is measured, and what is found then.
struct Phase {
    from: Instant,
    until: Instant,
    heard: Instant,
    latency: Histogram<u64>,
    count: u64,
    all: u64,
}

impl Phase {
    /// The first tenth warms up.
    fn starting(measured: Duration) -> Self {
        let start = clock::now();
        let from = start + measured / 10;
        let (latency, until) = (histogram(), from + measured);
        Self { from, until, heard: start, latency, count: 0, all: 0 }
    }

    /// Notes the receipts that have come; how many.
    fn receipts(&mut self, link: &mut Link, seen: &mut Seen, now: Instant) -> io::Result<usize> {
        let count = seen.receipts.len();
        for number in seen.receipts.drain(..) {
            let sent_at = link.sent_at(number)?;
            if now >= self.from && now < self.until {
                self.latency.saturating_record(clock::nanos(now - sent_at));
                self.count += 1;
            }
        }
        self.all += count as u64;
        if count > 0 {
            self.heard = now;
        }
        Ok(count)
    }

    fn give_up(&self, now: Instant) -> io::Result<()> {
        if now < self.heard + PATIENCE {
            return Ok(());
        }
        Err(io::Error::other(format!("no receipt for {} s", PATIENCE.as_secs())))
    }
}
