//! A lane against every kind of answer, and against a model broker under random faults.

use super::*;
use std::collections::{BTreeMap, VecDeque};

#[test]
fn commits_are_numbered_one_after_the_other() {
    let (mut lane, now) = unnamed();
    assert_eq!(sent(&mut lane, now), (1, 0));
    assert_eq!(lane.on_committed(0, false), Some(("a", Sequence(1))));
    lane.begin("b", 1, None, later(now));

    assert_eq!(sent(&mut lane, now), (2, 1));
}

#[test]
fn lost_connection_sends_the_same_number_again() {
    let (mut lane, now) = unnamed();
    assert_eq!(sent(&mut lane, now), (1, 0));
    lane.on_disconnect();

    assert_eq!(sent(&mut lane, now), (1, 0));
}

#[test]
fn refused_for_good_the_number_is_used_by_the_next() {
    let (mut lane, now) = unnamed();
    sent(&mut lane, now);
    let failed = lane.on_refusal(0, refusal(ErrorCode::NotFound), now).unwrap();
    assert_eq!((failed.job, failed.outcome), ("a", Outcome::Definite));
    lane.begin("b", 1, None, later(now));

    assert_eq!(sent(&mut lane, now), (1, 0));
}

#[test]
fn refusal_leaves_a_lost_try_unknown_because_it_may_still_arrive() {
    for code in [ErrorCode::NotFound, ErrorCode::StaleFence, ErrorCode::UnknownProducer] {
        let (mut lane, now) = unnamed();
        sent(&mut lane, now);
        lane.on_disconnect();
        sent(&mut lane, now);

        let failed = lane.on_refusal(0, refusal(code), now).unwrap();
        assert_eq!(failed.outcome, Outcome::Unknown, "{code}");
        lane.begin("b", 1, None, later(now));
        assert!(matches!(lane.ask(now), Some(Ask::Open)), "its number is not used again");
    }
}

#[test]
fn after_an_unknown_outcome_a_lane_without_a_name_opens_another_producer() {
    let (mut lane, now) = unnamed();
    sent(&mut lane, now);
    let failed = lane.on_time(later(now)).unwrap();
    assert_eq!((failed.outcome, failed.reason), (Outcome::Unknown, Reason::TimedOut(None)));
    assert!(lane.on_committed(0, false).is_none(), "the answer comes too late");
    lane.begin("b", 1, None, later(later(now)));

    assert!(matches!(lane.ask(now), Some(Ask::Open)));
}

#[test]
fn forgotten_producer_is_replaced_when_no_try_was_lost() {
    let (mut lane, now) = unnamed();
    sent(&mut lane, now);
    assert!(lane.on_refusal(0, refusal(ErrorCode::UnknownProducer), now).is_none());

    assert!(matches!(lane.ask(now), Some(Ask::Open)));
    lane.on_opened(&opened(8, 0));
    assert_eq!(sent(&mut lane, now), (1, 0));
}

#[test]
fn refusal_that_passes_is_tried_again_after_its_time_until_the_deadline() {
    let (mut lane, now) = unnamed();
    sent(&mut lane, now);
    assert!(lane.on_refusal(0, refusal(ErrorCode::Overloaded), now).is_none());

    assert!(lane.ask(now).is_none());
    let at = lane.next_deadline().unwrap();
    assert_eq!(at, now + RETRY_PAUSE);
    assert_eq!(sent(&mut lane, at), (1, 0));
    lane.on_refusal(0, refusal(ErrorCode::Overloaded), at);
    let failed = lane.on_time(later(now)).unwrap();
    assert_eq!(failed.outcome, Outcome::Definite);
    assert!(matches!(failed.reason, Reason::TimedOut(Some(_))));
}

#[test]
fn named_producer_that_lost_its_last_commits_goes_on_from_where_the_broker_is() {
    let now = Instant::now();
    let mut lane = Lane::named(Name::new("importer").unwrap(), &opened(7, 5));
    lane.begin("a", 0, Some(Sequence(6)), later(now));
    assert_eq!(sent(&mut lane, now), (6, 5));
    assert!(lane.on_refusal(0, refusal(ErrorCode::OutOfSequence), now).is_none());

    let at = now + RETRY_PAUSE;
    assert!(matches!(lane.ask(at), Some(Ask::Describe(_))));
    assert!(lane.on_described(&info(7, 3)).is_none());
    assert_eq!(sent(&mut lane, at), (6, 3));
}

#[test]
fn named_producer_asks_after_an_unknown_outcome_and_does_not_use_its_number_again() {
    let now = Instant::now();
    let mut lane = Lane::named(Name::new("importer").unwrap(), &opened(7, 5));
    lane.begin("a", 0, None, later(now));
    assert_eq!(sent(&mut lane, now), (6, 5));
    lane.on_time(later(now));
    lane.begin("b", 1, None, later(later(now)));

    assert!(matches!(lane.ask(now), Some(Ask::Describe(_))));
    lane.on_described(&info(7, 5));
    assert_eq!(sent(&mut lane, now), (7, 5), "6 may still come");
}

#[test]
fn number_that_somebody_else_of_the_same_epoch_has_used_is_left_to_them() {
    let now = Instant::now();
    let mut lane = Lane::named(Name::new("importer").unwrap(), &opened(7, 5));
    lane.begin("a", 0, None, later(now));
    assert_eq!(sent(&mut lane, now), (6, 5));
    assert!(lane.on_refusal(0, refusal(ErrorCode::SequenceReused), now).is_none());

    assert!(matches!(lane.ask(now), Some(Ask::Describe(_))));
    lane.on_described(&info(7, 6));
    assert_eq!(sent(&mut lane, now), (7, 6));
    assert!(lane.on_committed(0, true).is_none(), "sent once, it cannot be a duplicate");

    assert!(matches!(lane.ask(now), Some(Ask::Describe(_))));
    lane.on_described(&info(7, 70));
    assert_eq!(sent(&mut lane, now), (71, 70));
    assert_eq!(lane.on_committed(0, false), Some(("a", Sequence(71))));
}

#[test]
fn number_that_the_application_chose_is_refused_to_it_and_the_next_one_asks() {
    let now = Instant::now();
    let mut lane = Lane::named(Name::new("importer").unwrap(), &opened(7, 5));
    lane.begin("a", 0, Some(Sequence(6)), later(now));
    sent(&mut lane, now);
    let failed = lane.on_refusal(0, refusal(ErrorCode::SequenceReused), now).unwrap();
    assert_eq!(failed.outcome, Outcome::Definite);
    lane.begin("b", 1, None, later(now));

    assert!(matches!(lane.ask(now), Some(Ask::Describe(_))));
}

#[test]
fn repeat_of_an_old_number_is_sent_with_a_link_before_it() {
    let now = Instant::now();
    let mut lane = Lane::named(Name::new("importer").unwrap(), &opened(7, 5));
    lane.begin("a", 0, Some(Sequence(3)), later(now));

    assert_eq!(sent(&mut lane, now), (3, 2));
    lane.on_committed(0, false);
    assert_eq!(lane.last(), Some(Sequence(5)));
}

#[test]
fn newer_epoch_or_retirement_ends_a_named_lane() {
    for code in [ErrorCode::Fenced, ErrorCode::UnknownProducer] {
        let now = Instant::now();
        let mut lane = Lane::named(Name::new("importer").unwrap(), &opened(7, 5));
        lane.begin("a", 0, None, later(now));
        sent(&mut lane, now);

        let failed = lane.on_refusal(0, refusal(code), now).unwrap();

        assert_eq!(failed.outcome, Outcome::Definite);
        assert_eq!(lane.closed().and_then(Refusal::code), Some(code));
    }
}

#[test]
fn producer_of_the_same_name_with_another_number_is_not_this_one() {
    let now = Instant::now();
    let mut lane = Lane::named(Name::new("importer").unwrap(), &opened(7, 5));
    lane.begin("a", 0, None, later(now));
    sent(&mut lane, now);
    lane.on_refusal(0, refusal(ErrorCode::OutOfSequence), now);
    lane.ask(now + RETRY_PAUSE);

    let failed = lane.on_described(&info(8, 0)).unwrap();

    assert_eq!(failed.outcome, Outcome::Definite);
    assert!(lane.closed().is_some());
}

/// A broker as the engine is, which may lose the end of what it has, and every older connection with
/// it.
#[derive(Default)]
struct Model {
    producers: BTreeMap<u64, Vec<(u64, u32)>>,
    opened: u64,
}

impl Model {
    fn open(&mut self) -> ProducerOpened {
        self.opened += 1;
        self.producers.insert(self.opened, Vec::new());
        opened(self.opened, 0)
    }

    /// Whether it was there before.
    fn commit(&mut self, address: Address, job: u32, mood: u64) -> Result<bool, ErrorCode> {
        let Some(stored) = self.producers.get_mut(&address.producer.0) else {
            return Err(ErrorCode::UnknownProducer);
        };
        let last = stored.last().map_or(0, |(sequence, _)| *sequence);
        if address.sequence.0 <= last {
            let found = stored.iter().find(|(sequence, _)| *sequence == address.sequence.0);
            let is_same = found.is_some_and(|(_, found)| *found == job);
            return if is_same { Ok(true) } else { Err(ErrorCode::SequenceReused) };
        }
        if address.prev.0 != last {
            return Err(ErrorCode::OutOfSequence);
        }
        match mood {
            0..=9 => Err(ErrorCode::Overloaded),
            10..=19 => Err(ErrorCode::NotFound),
            _ => {
                stored.push((address.sequence.0, job));
                Ok(false)
            }
        }
    }

    /// A crash takes what was not synced, up to a whole producer.
    fn lose(&mut self, random: &mut Random) {
        for stored in self.producers.values_mut() {
            for _ in 0..random.below(3) {
                stored.pop();
            }
        }
        if random.below(4) == 0 {
            self.producers.pop_last();
        }
    }

    fn count(&self, job: u32) -> usize {
        self.producers.values().flatten().filter(|(_, found)| *found == job).count()
    }
}

enum Wire {
    Open,
    Commit(Address, u32),
}

enum Answer {
    Opened(ProducerOpened),
    Committed(u64, bool),
    Refused(u64, ErrorCode),
}

#[test]
fn random_faults_neither_double_nor_call_definite_what_happened() {
    let mut hits = Hits::default();
    for seed in 1..=2000 {
        World::new(seed).run(&mut hits);
    }
    let Hits { cut, crashed, given_up, late, out_of_sequence } = hits;
    let hits = [cut, crashed, given_up, late, out_of_sequence];
    assert!(hits.iter().all(|count| *count > 200), "faults hit nothing: {hits:?}");
}

#[derive(Default)]
struct Hits {
    cut: u32,
    crashed: u32,
    given_up: u32,
    late: u32,
    out_of_sequence: u32,
}

/// One lane, frames and answers that are lost with their connection, frames of a lost connection that
/// arrive late, crashes that lose the end, commits given up.
struct World {
    seed: u64,
    random: Random,
    now: Instant,
    lane: Lane<u32>,
    model: Model,
    frames: VecDeque<Wire>,
    late: VecDeque<Wire>,
    answers: VecDeque<Answer>,
    has_crashed: bool,
    definite: Vec<u32>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: Random(seed),
            now: Instant::now(),
            lane: Lane::unnamed(),
            model: Model::default(),
            frames: VecDeque::new(),
            late: VecDeque::new(),
            answers: VecDeque::new(),
            has_crashed: false,
            definite: Vec::new(),
        }
    }

    fn run(mut self, hits: &mut Hits) {
        let (mut made, mut steps) = (0, 0);
        while made < 30 || !self.lane.is_idle() {
            steps += 1;
            assert!(steps < 100_000, "no progress with seed {}", self.seed);
            self.now += Duration::from_millis(20);
            if self.lane.is_idle() && made < 30 {
                made += 1;
                let patience = Duration::from_millis(200 + self.random.below(3000));
                self.lane.begin(made, u64::from(made), None, self.now + patience);
            }
            match self.random.below(40) {
                0..=2 => self.cut(hits),
                3 => self.crash(hits),
                4..=6 => self.give_up(hits),
                7..=9 => self.arrive_late(hits),
                10..=20 => self.send(),
                21..=29 => self.serve(),
                _ => self.answer(hits),
            }
        }
        for job in 1..=made {
            assert!(self.model.count(job) <= 1, "seed {}: {job} is there twice", self.seed);
        }
        for job in self.definite {
            assert_eq!(self.model.count(job), 0, "seed {}: {job} was called off", self.seed);
        }
    }

    fn cut(&mut self, hits: &mut Hits) {
        hits.cut += u32::from(!self.frames.is_empty() || !self.answers.is_empty());
        self.answers.clear();
        let frames = std::mem::take(&mut self.frames);
        if self.random.below(2) == 0 {
            self.late.extend(frames);
        }
        self.lane.on_disconnect();
    }

    fn crash(&mut self, hits: &mut Hits) {
        hits.crashed += 1;
        self.has_crashed = true;
        self.frames.clear();
        self.late.clear();
        self.answers.clear();
        self.model.lose(&mut self.random);
        self.lane.on_disconnect();
    }

    fn give_up(&mut self, hits: &mut Hits) {
        if let Some(failed) = self.lane.on_time(self.now) {
            hits.given_up += 1;
            self.note(&failed);
        }
    }

    fn arrive_late(&mut self, hits: &mut Hits) {
        if let Some(Wire::Commit(address, job)) = self.late.pop_front() {
            hits.late += 1;
            // Nobody hears the answer.
            let _ = self.model.commit(address, job, 50);
        }
    }

    fn send(&mut self) {
        self.frames.extend(match self.lane.ask(self.now) {
            Some(Ask::Open) => Some(Wire::Open),
            Some(Ask::Commit(address, job)) => Some(Wire::Commit(address, *job)),
            Some(Ask::Describe(_)) => panic!("it has no name"),
            None => None,
        });
        let now = self.now;
        if let Some(failed) = self.lane.on_time(now) {
            self.note(&failed);
        }
        assert!(self.lane.next_deadline().is_none_or(|at| at > now), "it would be asked for ever");
    }

    fn serve(&mut self) {
        let Some(frame) = self.frames.pop_front() else { return };
        self.answers.push_back(match frame {
            Wire::Open => Answer::Opened(self.model.open()),
            Wire::Commit(address, job) => {
                match self.model.commit(address, job, self.random.below(100)) {
                    Ok(is_repeat) => Answer::Committed(address.number, is_repeat),
                    Err(code) => Answer::Refused(address.number, code),
                }
            }
        });
    }

    fn answer(&mut self, hits: &mut Hits) {
        match self.answers.pop_front() {
            Some(Answer::Opened(opened)) => self.lane.on_opened(&opened),
            Some(Answer::Committed(number, is_repeat)) => {
                if let Some((job, _)) = self.lane.on_committed(number, is_repeat) {
                    let is_there = self.has_crashed || self.model.count(job) == 1;
                    assert!(is_there, "seed {}: {job} is not there", self.seed);
                }
            }
            Some(Answer::Refused(number, code)) => {
                hits.out_of_sequence += u32::from(code == ErrorCode::OutOfSequence);
                if let Some(failed) = self.lane.on_refusal(number, refusal(code), self.now) {
                    self.note(&failed);
                }
            }
            None => {}
        }
    }

    fn note(&mut self, failed: &Failed<u32>) {
        self.definite.extend((failed.outcome == Outcome::Definite).then_some(failed.job));
    }
}

struct Random(u64);

impl Random {
    const fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

/// A lane with its producer open and the commit "a" begun.
fn unnamed() -> (Lane<&'static str>, Instant) {
    let now = Instant::now();
    let mut lane = Lane::unnamed();
    lane.begin("a", 0, None, later(now));
    assert!(matches!(lane.ask(now), Some(Ask::Open)));
    lane.on_opened(&opened(7, 0));
    (lane, now)
}

fn sent(lane: &mut Lane<&'static str>, now: Instant) -> (u64, u64) {
    match lane.ask(now) {
        Some(Ask::Commit(address, _)) => (address.sequence.0, address.prev.0),
        other => panic!("not a commit: {other:?}"),
    }
}

fn later(now: Instant) -> Instant {
    now + Duration::from_secs(30)
}

fn opened(producer: u64, last: u64) -> ProducerOpened {
    ProducerOpened { producer: ProducerId(producer), epoch: ProducerEpoch(1), last: Sequence(last) }
}

fn info(producer: u64, last: u64) -> ProducerInfo {
    ProducerInfo {
        producer: ProducerId(producer),
        name: Name::new("importer").ok(),
        epoch: ProducerEpoch(1),
        last: Sequence(last),
        last_at: posthouse_protocol::Timestamp::ZERO,
    }
}

fn refusal(code: ErrorCode) -> Refusal {
    Refusal::new(code.number(), "")
}
