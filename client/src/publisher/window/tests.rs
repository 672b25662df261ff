//! The window against every kind of answer, and against a model broker under random faults.

use super::*;
use std::collections::BTreeMap;

const TOPIC: TopicId = TopicId(1);

#[test]
fn each_batch_names_the_one_before() {
    let (mut window, now) = window(3);

    assert_eq!(send_all(&mut window, now), [(1, 0), (2, 1), (3, 2)]);
    assert_eq!(window.on_receipt(Sequence(1)), Some(1));
    assert_eq!(window.on_receipt(Sequence(2)), Some(2));
    window.push(4, later(now));
    assert_eq!(send_all(&mut window, now), [(4, 3)]);
}

#[test]
fn lost_connection_resends_the_same_sequences() {
    let (mut window, now) = window(3);
    send_all(&mut window, now);
    window.on_receipt(Sequence(1));

    window.on_disconnect();

    assert_eq!(send_all(&mut window, now), [(2, 1), (3, 2)]);
}

#[test]
fn definite_refusal_fails_one_batch_and_the_rest_is_chained_past_it() {
    let (mut window, now) = window(4);
    send_all(&mut window, now);
    window.on_receipt(Sequence(1));

    assert!(failed(window.on_refusal(Sequence(2), refusal(ErrorCode::TooLarge), now), 2));
    assert_eq!(send_all(&mut window, now), [], "two answers are still to come");
    out_of_sequence(&mut window, 3, now);
    assert_eq!(send_all(&mut window, now), []);
    out_of_sequence(&mut window, 4, now);

    assert_eq!(send_all(&mut window, now), [(3, 1), (4, 3)]);
}

#[test]
fn refusal_of_the_last_batch_is_not_the_link_of_the_next() {
    let (mut window, now) = window(2);
    send_all(&mut window, now);
    window.on_receipt(Sequence(1));
    window.on_refusal(Sequence(2), refusal(ErrorCode::TooLarge), now);

    window.push(3, later(now));

    assert_eq!(send_all(&mut window, now), [(3, 1)]);
}

#[test]
fn refusal_that_passes_is_tried_again_after_its_time() {
    let (mut window, now) = window(2);
    send_all(&mut window, now);

    let refused = window.on_refusal(Sequence(1), refusal(ErrorCode::StorageFull), now);
    out_of_sequence(&mut window, 2, now);

    assert!(matches!(refused, Refused::Resent));
    assert_eq!(send_all(&mut window, now), []);
    let at = window.next_deadline().unwrap();
    assert_eq!(at, now + RETRY_PAUSE);
    assert_eq!(send_all(&mut window, at), [(1, 0), (2, 1)]);
}

#[test]
fn forgotten_producer_fails_what_may_be_stored_and_sends_the_rest_under_the_next() {
    let (mut window, now) = window(2);
    send_all(&mut window, now);
    window.on_disconnect();
    window.push(3, later(now));
    send_all(&mut window, now);
    let unknown = || refusal(ErrorCode::UnknownProducer);
    for sequence in 1..=3 {
        assert!(!window.needs_producer());
        window.on_refusal(Sequence(sequence), unknown(), now);
    }

    assert!(window.needs_producer());
    let unknown = vec![(1, Outcome::Unknown), (2, Outcome::Unknown)];
    assert_eq!(reopened(&mut window, 8, 10), (vec![], unknown));
    assert_eq!(send_all(&mut window, now), [(11, 10)]);
}

#[test]
fn broker_that_lost_accepted_publishes_gets_a_new_producer_and_the_rest() {
    let (mut window, now) = window(3);
    send_all(&mut window, now);
    window.on_receipt(Sequence(1));
    window.on_disconnect();
    window.on_connect(StartEpoch(2));
    send_all(&mut window, now);

    out_of_sequence(&mut window, 2, now);
    out_of_sequence(&mut window, 3, now);

    assert!(window.needs_producer());
    assert_eq!(reopened(&mut window, 8, 0), (vec![], vec![]));
    assert_eq!(send_all(&mut window, now), [(1, 0), (2, 1)]);
}

#[test]
fn sending_lost_in_the_same_start_of_the_broker_may_still_come_and_stays_unknown() {
    let (mut window, now) = window(2);
    send_all(&mut window, now);
    window.on_receipt(Sequence(1));
    window.on_disconnect();
    window.push(3, later(now));
    send_all(&mut window, now);

    out_of_sequence(&mut window, 2, now);
    out_of_sequence(&mut window, 3, now);

    assert!(window.needs_producer());
    assert_eq!(reopened(&mut window, 8, 0), (vec![], vec![(2, Outcome::Unknown)]));
    assert_eq!(send_all(&mut window, now), [(1, 0)], "the one that was never lost");
}

#[test]
fn next_epoch_of_a_named_producer_tells_what_was_stored_and_the_rest_is_sent() {
    let (mut window, now) = window(4);
    send_all(&mut window, now);
    window.on_receipt(Sequence(1));
    window.on_disconnect();
    send_all(&mut window, now);
    for sequence in 2..=4 {
        window.on_refusal(Sequence(sequence), refusal(ErrorCode::UnknownProducer), now);
    }

    assert!(window.needs_producer());
    assert_eq!(reopened(&mut window, 7, 2), (vec![2], vec![]));
    assert_eq!(send_all(&mut window, now), [(3, 2), (4, 3)]);
}

#[test]
fn newer_epoch_ends_the_window() {
    let (mut window, now) = window(2);
    send_all(&mut window, now);

    let refused = window.on_refusal(Sequence(1), refusal(ErrorCode::Fenced), now);

    assert!(matches!(refused, Refused::Fenced(_)));
    let failed = window.fail_all(|outcome| PublishError::Closed { outcome });
    let outcomes: Vec<_> = failed.iter().map(|(_, error)| error.outcome()).collect();
    assert_eq!(outcomes, [Outcome::Definite, Outcome::Unknown]);
}

#[test]
fn timeout_is_definite_for_what_was_refused_and_unknown_for_what_is_under_way() {
    let (mut window, now) = window(2);
    window.send_next(TOPIC, now);
    window.send_next(TOPIC, now);
    window.on_refusal(Sequence(1), refusal(ErrorCode::StorageFull), now);

    let failed = window.expire(later(now));

    let outcomes: Vec<_> = failed.iter().map(|(_, error)| error.outcome()).collect();
    assert_eq!(outcomes, [Outcome::Definite, Outcome::Unknown]);
    let code = failed.first().unwrap().1.code();
    assert_eq!(code, Some(ErrorCode::StorageFull));
}

#[test]
fn batch_given_up_while_offline_may_be_the_broker_s_last_link() {
    let (mut window, now) = window(2);
    send_all(&mut window, now);
    window.on_disconnect();
    assert_eq!(window.expire(later(now)).len(), 2);
    window.push(3, later(later(now)));

    assert_eq!(send_all(&mut window, now), [(3, 2)], "both were stored");
    out_of_sequence(&mut window, 3, now);
    assert_eq!(send_all(&mut window, now), [(3, 1)], "only the first was");
    out_of_sequence(&mut window, 3, now);
    assert_eq!(send_all(&mut window, now), [(3, 0)], "neither was");
    assert_eq!(window.on_receipt(Sequence(3)), Some(3));
}

/// A broker as the engine is: repeats, then the chain, then what else it may say.
#[derive(Default)]
struct Model {
    last: u64,
    /// Batch by sequence.
    stored: BTreeMap<u64, u32>,
}

impl Model {
    fn publish(&mut self, publish: &Publish, batch: u32, mood: u64) -> Result<(), ErrorCode> {
        if publish.sequence.0 <= self.last {
            assert_eq!(self.stored.get(&publish.sequence.0), Some(&batch), "repeat of another");
            return Ok(());
        }
        if publish.prev.0 != self.last {
            return Err(ErrorCode::OutOfSequence);
        }
        match mood % 10 {
            0 => Err(ErrorCode::StorageFull),
            1 => Err(ErrorCode::TooLarge),
            _ => {
                self.last = publish.sequence.0;
                self.stored.insert(self.last, batch);
                Ok(())
            }
        }
    }
}

#[test]
fn random_faults_neither_lose_nor_double_nor_reorder() {
    let mut hits = [0_u32; 4];
    for seed in 1..=500 {
        random_history(seed, &mut hits);
    }
    assert!(hits.iter().all(|count| *count > 100), "faults hit nothing: {hits:?}");
}

/// Pipelined sends, answers in order, connections lost at any moment, batches given up.
fn random_history(seed: u64, hits: &mut [u32; 4]) {
    let mut random = Random(seed);
    let mut now = Instant::now();
    let mut window = Window::<u32>::new(&opened(7, 0));
    let mut model = Model::default();
    let mut answers: VecDeque<(Sequence, Result<(), ErrorCode>)> = VecDeque::new();
    let mut accepted = Vec::new();
    let mut definite = Vec::new();
    let mut unknown = Vec::new();
    let mut note = |failed: Vec<Failed<u32>>| {
        for (batch, error) in failed {
            match error.outcome() {
                Outcome::Definite => definite.push(batch),
                Outcome::Unknown => unknown.push(batch),
            }
        }
    };
    let mut made = 0;
    let mut steps = 0;
    while made < 40 || window.len() > 0 {
        steps += 1;
        assert!(steps < 100_000, "no progress with seed {seed}");
        now += Duration::from_millis(20);
        match random.below(12) {
            0 | 1 if made < 40 => {
                made += 1;
                window.push(made, now + Duration::from_millis(400 + random.below(2000)));
            }
            2 => {
                // The broker has seen everything sent; its answers are lost.
                hits[0] += u32::from(!answers.is_empty());
                answers.clear();
                window.on_disconnect();
            }
            3 => {
                let failed = window.expire(now);
                hits[1] += u32::from(!failed.is_empty());
                note(failed);
            }
            4..=7 => {
                if let Some((publish, batch)) = window.send_next(TOPIC, now) {
                    let batch = *batch;
                    // Lost on the way: nothing behind it on this connection arrives either.
                    if random.below(20) == 0 {
                        hits[2] += 1;
                        answers.clear();
                        window.on_disconnect();
                    } else {
                        let mood = random.below(100);
                        let answer = model.publish(&publish, batch, mood);
                        answers.push_back((publish.sequence, answer));
                    }
                }
            }
            _ => match answers.pop_front() {
                Some((sequence, Ok(()))) => accepted.extend(window.on_receipt(sequence)),
                Some((sequence, Err(code))) => {
                    hits[3] += u32::from(code == ErrorCode::OutOfSequence);
                    if let Refused::Failed(failed) = window.on_refusal(sequence, refusal(code), now)
                    {
                        note(vec![failed]);
                    }
                    assert!(!window.needs_producer(), "the chain was never broken");
                }
                None => {}
            },
        }
    }
    let stored: Vec<u32> = model.stored.values().copied().collect();
    assert!(stored.is_sorted_by(|a, b| a < b), "seed {seed}: order or doubles: {stored:?}");
    assert!(accepted.iter().all(|batch| stored.contains(batch)), "seed {seed}: acked, not stored");
    assert!(!definite.iter().any(|batch| stored.contains(batch)), "seed {seed}: refused, stored");
    assert_eq!(accepted.len() + definite.len() + unknown.len(), 40, "seed {seed}: no result");
}

struct Random(u64);

impl Random {
    const fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

fn window(batches: u32) -> (Window<u32>, Instant) {
    let now = Instant::now();
    let mut window = Window::new(&opened(7, 0));
    (1..=batches).for_each(|batch| window.push(batch, later(now)));
    (window, now)
}

/// Opens a producer anew; what is stored, and what failed with which outcome.
fn reopened(window: &mut Window<u32>, producer: u64, last: u64) -> (Vec<u32>, Vec<(u32, Outcome)>) {
    let Reopened { stored, failed } = window.on_reopened(&opened(producer, last));
    (stored, failed.iter().map(|(batch, error)| (*batch, error.outcome())).collect())
}

fn later(now: Instant) -> Instant {
    now + Duration::from_secs(30)
}

fn opened(producer: u64, last: u64) -> ProducerOpened {
    ProducerOpened { producer: ProducerId(producer), epoch: ProducerEpoch(1), last: Sequence(last) }
}

fn send_all(window: &mut Window<u32>, now: Instant) -> Vec<(u64, u64)> {
    let sent = std::iter::from_fn(|| {
        window.send_next(TOPIC, now).map(|(publish, _)| (publish.sequence.0, publish.prev.0))
    });
    sent.collect()
}

fn out_of_sequence(window: &mut Window<u32>, sequence: u64, now: Instant) {
    let refused = window.on_refusal(Sequence(sequence), refusal(ErrorCode::OutOfSequence), now);
    assert!(matches!(refused, Refused::Resent));
}

fn failed(refused: Refused<u32>, batch: u32) -> bool {
    matches!(refused, Refused::Failed((found, error))
        if found == batch && error.outcome() == Outcome::Definite)
}

fn refusal(code: ErrorCode) -> Refusal {
    Refusal::new(code.number(), "")
}
