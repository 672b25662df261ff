//! The machine, step by step: what it asks for, and what it makes of the answers and of time.

use super::*;
use crate::outbox::RowRange;

const MINUTE: u64 = 60_000;

/// A machine whose questions the test answers.
struct Rig {
    machine: Machine,
    now: Now,
    notes: Vec<Note>,
}

impl Rig {
    fn new(settings: Settings) -> Self {
        Self { machine: Machine::new(settings), now: Now::default(), notes: Vec::new() }
    }

    /// One that has the lease under epoch 1 and has nothing to do.
    fn working() -> Self {
        Self::working_with(Settings::default())
    }

    fn working_with(settings: Settings) -> Self {
        let mut rig = Self::new(settings);
        rig.acquires(standing(1, 0, 0));
        rig.compares(Producer::Unknown);
        rig.opens(1, 0);
        rig.answers(Answer::Claims(Vec::new()));
        rig.scans(&[]);
        rig.looks(Answer::Lag);
        rig
    }

    fn wish(&mut self) -> Option<Action> {
        loop {
            match self.machine.poll(self.now) {
                Some(Action::Note(note)) => self.notes.push(note),
                wish => return wish,
            }
        }
    }

    fn query(&mut self) -> Query {
        match self.wish() {
            Some(Action::Query(query)) => query,
            other => panic!("no query but {other:?} at {:?}", self.now),
        }
    }

    fn answers(&mut self, answer: Answer) -> Query {
        let query = self.query();
        self.machine.handle(self.now, Input::Database(Ok(answer)));
        query
    }

    fn look(&mut self) -> Query {
        match self.wish() {
            Some(Action::Look(look)) => look,
            other => panic!("no look but {other:?} at {:?}", self.now),
        }
    }

    fn looks(&mut self, answer: Answer) -> Query {
        let look = self.look();
        self.machine.handle(self.now, Input::Looked(Ok(answer)));
        look
    }

    /// Answers the look under way with rows of these ids.
    fn finds(&mut self, ids: &[u64]) {
        self.machine.handle(self.now, Input::Looked(Ok(scanned(ids))));
    }

    fn acquires(&mut self, standing: Standing) {
        self.answers(Answer::Described { schema_version: 1, is_copied: false });
        self.answers(Answer::Acquired(Some(standing)));
    }

    fn calls(&mut self, expected: Call, answer: Result<Producer, BrokerFault>) {
        assert_eq!(self.wish(), Some(Action::Call(expected)));
        self.machine.handle(self.now, Input::Broker(expected, answer));
    }

    fn compares(&mut self, producer: Producer) {
        let epoch = self.machine.epoch.unwrap();
        self.calls(Call::Describe { epoch }, Ok(producer));
    }

    fn opens(&mut self, epoch: u64, last: u64) {
        self.calls(Call::Open { epoch }, Ok(Producer::Known { epoch, last }));
    }

    /// Answers a look at the table; returns the gaps and the highest id of the question.
    fn scans(&mut self, ids: &[u64]) -> (Vec<RowRange>, RowId) {
        let look = self.looks(scanned(ids));
        let Query::Scan { gaps, after, .. } = look else { panic!("no scan but {look:?}") };
        (gaps, after)
    }

    fn steps(&mut self) -> (u64, Vec<RowId>, Option<Draft>) {
        let query = self.answers(Answer::Done(true));
        let Query::Step { acked, done, claim, .. } = query else { panic!("no step but {query:?}") };
        (acked, done, claim)
    }

    fn sends(&mut self) -> (u64, u64, u64) {
        match self.wish() {
            Some(Action::Send { epoch, sending }) => (epoch, sending.sequence, sending.prev),
            other => panic!("nothing sent but {other:?}"),
        }
    }

    fn is_told(&mut self, sequence: u64, outcome: Sent) {
        let epoch = self.machine.epoch.unwrap();
        self.machine.handle(self.now, Input::Sent { epoch, sequence, outcome });
    }

    /// One that is due to sweep, and whose four gaps are all above id 10.
    fn with_gaps_all_full() -> Self {
        let settings =
            Settings { gaps_max: 4, lease: Duration::from_secs(900), ..Settings::default() };
        let mut rig = Self::working_with(settings);
        for round in 1..10 {
            rig.at(round * 1000);
            rig.machine.handle(rig.now, Input::Wake);
            rig.scans(&[10 + 2 * round]);
            rig.steps();
            rig.sends();
            rig.is_told(round, Sent::Accepted);
        }
        rig.at(10_000);
        rig.machine.handle(rig.now, Input::Wake);
        rig
    }

    /// Lets time pass until then.
    fn at(&mut self, millis: u64) {
        self.now.at = Time(millis);
        self.machine.handle(self.now, Input::Time);
    }
}

#[test]
fn row_is_claimed_then_sent_then_deleted() {
    let mut rig = Rig::working();
    rig.machine.handle(rig.now, Input::Wake);

    rig.scans(&[7]);
    let (acked, done, claim) = rig.steps();
    assert_eq!((acked, done, claim.unwrap().rows), (0, vec![], vec![RowId(7)]));
    assert_eq!(rig.sends(), (1, 1, 0));
    rig.is_told(1, Sent::Accepted);
    rig.at(20);
    rig.scans(&[]);

    assert_eq!(rig.steps(), (1, vec![RowId(7)], None));
}

#[test]
fn acknowledgement_rides_with_the_next_claim() {
    let mut rig = Rig::working();
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[1]);
    rig.steps();
    rig.sends();
    rig.is_told(1, Sent::Accepted);

    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[2]);

    let (acked, done, claim) = rig.steps();
    assert_eq!((acked, done, claim.unwrap().sequence), (1, vec![RowId(1)], 2));
}

#[test]
fn lease_is_prolonged_when_a_third_of_it_is_over_also_while_the_broker_is_away() {
    let mut rig = Rig::working();
    rig.at(4_999);
    rig.scans(&[]);
    rig.at(5_000);
    assert_eq!(rig.steps(), (0, vec![], None));

    let mut rig = Rig::new(Settings::default());
    rig.acquires(standing(1, 0, 0));
    rig.calls(Call::Describe { epoch: 1 }, Err(BrokerFault::Retry(None)));
    assert_eq!(rig.machine.deadline(), Some(Time(25)));
    rig.at(25);
    assert_eq!(rig.wish(), Some(Action::Call(Call::Describe { epoch: 1 })));
    assert_eq!(rig.machine.deadline(), Some(Time(5_000)));
    rig.at(5_000);
    assert_eq!(rig.steps(), (0, vec![], None));
}

#[test]
fn gap_is_asked_for_a_minute_and_what_comes_later_is_found_by_the_sweep() {
    let mut rig = Rig::working();
    rig.machine.settings =
        Arc::new(Settings { lease: Duration::from_secs(900), ..Settings::default() });
    rig.machine.renew = Time(u64::MAX);
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[2]);
    rig.steps();
    rig.sends();
    rig.is_told(1, Sent::Accepted);
    rig.at(20);
    let gap = RowRange { first: RowId(1), last: RowId(1) };
    assert_eq!(rig.scans(&[]), (vec![gap], RowId(2)));
    rig.steps();

    rig.at(MINUTE);
    let swept = rig.answers(Answer::Swept(Vec::new()));
    assert!(matches!(swept, Query::Sweep { from: RowId(1), through: RowId(2), .. }), "{swept:?}");
    assert_eq!(rig.scans(&[]), (vec![], RowId(2)));
    rig.looks(Answer::Lag);

    rig.at(2 * MINUTE);
    rig.answers(Answer::Swept(vec![RowId(1)]));
    assert_eq!(rig.scans(&[1]), (vec![gap], RowId(2)));
    assert_eq!(rig.steps().2.unwrap().rows, [RowId(1)]);
}

/// Ids that grow in steps, as MariaDB's do with `auto_increment_increment`, leave a gap each time.
#[test]
fn late_row_is_found_although_gaps_that_never_close_keep_the_list_full() {
    let mut rig = Rig::with_gaps_all_full();

    let swept = rig.answers(Answer::Swept(vec![RowId(3)]));
    assert!(matches!(swept, Query::Sweep { from: RowId(1), .. }), "{swept:?}");
    let (gaps, _) = rig.scans(&[3]);

    assert!(gaps.contains(&RowRange { first: RowId(3), last: RowId(3) }), "{gaps:?}");
    assert_eq!(rig.steps().2.unwrap().rows, [RowId(3)]);
}

#[test]
fn sweep_that_found_more_than_may_be_asked_for_goes_on_after_a_look() {
    let mut rig = Rig::with_gaps_all_full();

    rig.answers(Answer::Swept([1, 3, 5, 7].map(RowId).to_vec()));
    assert_eq!(rig.scans(&[1, 3]).0.len(), 4, "half of them are rows");
    rig.steps();
    rig.sends();

    let swept = rig.query();
    assert!(matches!(swept, Query::Sweep { from: RowId(5), .. }), "{swept:?}");
}

#[test]
fn failing_database_is_asked_again_after_longer_and_longer_waits() {
    let mut rig = Rig::new(Settings::default());
    let mut waits = Vec::new();
    for _ in 0..4 {
        assert_eq!(rig.query(), Query::Describe);
        rig.machine.handle(rig.now, Input::Database(Err(DatabaseFault::Transient)));
        let due = rig.machine.deadline().unwrap().0;
        waits.push(due - rig.now.at.0);
        assert_eq!(rig.wish(), None, "before the wait is over");
        rig.at(due);
    }

    assert_eq!(waits, [25, 50, 100, 200]);
}

#[test]
fn claims_behind_a_poisoned_one_are_sent_again_unchanged() {
    let mut rig = Rig::working();
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[1, 2]);
    rig.steps();
    rig.sends();
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[3]);
    rig.steps();
    assert_eq!(rig.sends(), (1, 2, 1));

    rig.is_told(2, Sent::OutOfSequence);
    rig.is_told(1, Sent::Poison { rows: vec![RowId(2)], reason: "no topic".to_owned() });
    assert_eq!(rig.answers(Answer::Done(true)), Query::RaiseEpoch { from: 1, to: 2 });
    rig.opens(2, 0);
    let Query::Park { from: Standing { epoch: 2, .. }, rows, claims } =
        rig.answers(Answer::Done(true))
    else {
        panic!("not parked");
    };

    assert_eq!(rows, [(RowId(2), "no topic".to_owned())]);
    assert_eq!(claims.iter().map(|claim| &claim.rows[..]).collect::<Vec<_>>(), [[RowId(1)]]);
    assert_eq!(rig.sends(), (2, 1, 0));
    assert_eq!(rig.sends(), (2, 2, 1));
}

#[test]
fn claim_that_was_taken_before_its_refusal_is_left_as_it_is() {
    let mut rig = Rig::working();
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[1]);
    rig.steps();
    rig.sends();

    rig.is_told(1, Sent::Poison { rows: vec![RowId(1)], reason: String::new() });
    rig.answers(Answer::Done(true));
    rig.opens(2, 1);
    rig.at(20);
    rig.scans(&[]);

    assert_eq!(rig.steps(), (1, vec![RowId(1)], None));
}

#[test]
fn epoch_of_the_broker_above_the_lease_means_a_restored_database_whose_claims_are_void() {
    let mut rig = Rig::new(Settings::default());
    rig.acquires(standing(5, 3, 2));
    rig.compares(Producer::Known { epoch: 7, last: 3 });
    rig.answers(Answer::Claims(vec![Claim { sequence: 3, rows: vec![RowId(9)], digest: 0 }]));
    let dropped = rig.answers(Answer::Done(true));
    let removed = Draft { sequence: 3, rows: vec![], bytes: 0 };
    let from = standing(5, 3, 2);
    assert_eq!(dropped, Query::Park { from, rows: vec![], claims: vec![removed] });
    assert_eq!(rig.answers(Answer::Done(true)), Query::RaiseEpoch { from: 5, to: 8 });
    rig.opens(8, 3);
    rig.answers(Answer::Claims(Vec::new()));

    rig.scans(&[9]);

    assert_eq!(rig.steps().2.unwrap().sequence, 4);
    assert!(rig.notes.contains(&Note::DatabaseRestored));
}

#[test]
fn producer_that_somebody_keeps_opening_ends_the_relay() {
    let mut rig = Rig::new(Settings::default());
    for round in 0..4 {
        let epoch = 10 * round + 1;
        rig.acquires(standing(epoch, 0, 0));
        rig.compares(Producer::Known { epoch: epoch + 5, last: 0 });
        if round < 3 {
            rig.answers(Answer::Claims(Vec::new()));
            rig.answers(Answer::Done(true));
            rig.calls(Call::Open { epoch: epoch + 6 }, Err(BrokerFault::Fenced));
        }
    }

    assert!(matches!(rig.answers(Answer::Released), Query::Release { .. }));
    assert_eq!(rig.wish(), None);
    assert_eq!(rig.notes.last(), Some(&Note::Ended(End::Contested)));
}

#[test]
fn shutdown_waits_for_what_is_under_way_notes_it_and_gives_the_lease_back() {
    let mut rig = Rig::working();
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[1]);
    rig.steps();
    rig.sends();

    rig.machine.handle(rig.now, Input::Shutdown { by: Time(1000) });
    assert_eq!(rig.wish(), None);
    rig.is_told(1, Sent::Accepted);
    assert_eq!(rig.steps(), (1, vec![RowId(1)], None));
    assert!(matches!(rig.answers(Answer::Released), Query::Release { epoch: 1 }));

    assert_eq!(rig.wish(), None);
    assert_eq!(rig.notes.last(), Some(&Note::Ended(End::Shutdown)));
}

#[test]
fn shutdown_waits_no_longer_than_it_is_told() {
    let mut rig = Rig::working();
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[1]);
    rig.steps();
    rig.sends();
    rig.machine.handle(rig.now, Input::Shutdown { by: Time(1000) });

    assert_eq!(rig.machine.deadline(), Some(Time(1000)));
    rig.at(1000);

    assert!(matches!(rig.answers(Answer::Released), Query::Release { epoch: 1 }));
}

#[test]
fn lost_lease_means_standing_by_until_it_is_free() {
    let mut rig = Rig::working();
    rig.at(5_000);
    let renewal = rig.answers(Answer::Done(false));
    assert!(matches!(renewal, Query::Step { from: Standing { epoch: 1, .. }, .. }), "{renewal:?}");
    rig.answers(Answer::Described { schema_version: 1, is_copied: false });
    rig.answers(Answer::Acquired(None));

    assert_eq!(rig.wish(), None);
    assert_eq!(rig.notes.last(), Some(&Note::StandingBy));
    assert_eq!(rig.machine.deadline(), Some(Time(6_000)));
    rig.at(6_000);
    assert_eq!(rig.query(), Query::Acquire);
}

/// Another relay may have adopted the copy while this one stood by, or since it was described.
#[test]
fn copy_is_adopted_only_as_described_under_the_lease() {
    let copy = || Answer::Described { schema_version: 1, is_copied: true };
    let mut rig = Rig::new(Settings { copied: Doubt::GoOn, ..Settings::default() });
    rig.answers(copy());
    rig.answers(Answer::Acquired(None));
    assert_eq!(rig.wish(), None);
    rig.at(1_000);
    rig.answers(Answer::Acquired(Some(standing(5, 0, 0))));
    assert_eq!(rig.answers(copy()), Query::Describe, "after standing by");
    // Somebody else had the lease in between.
    rig.answers(Answer::Acquired(Some(standing(7, 0, 0))));
    assert_eq!(rig.answers(copy()), Query::Describe, "after another's lease");
    rig.answers(Answer::Acquired(Some(standing(8, 0, 0))));

    assert_eq!(rig.query(), Query::Adopt { epoch: 8 });
}

#[test]
fn what_waits_is_counted_seldom_however_often_the_relay_starts_over() {
    let mut rig = Rig::working();

    rig.machine.start_over(Time(0), Duration::ZERO);
    rig.acquires(standing(2, 0, 0));
    rig.compares(Producer::Unknown);
    rig.opens(2, 0);
    rig.answers(Answer::Claims(Vec::new()));
    rig.scans(&[]);

    assert_eq!(rig.wish(), None);
}

#[test]
fn count_that_came_to_nothing_is_not_repeated_at_once() {
    for answer in [Ok(Answer::Lag), Err(DatabaseFault::Transient)] {
        let mut rig = Rig::new(Settings::default());
        rig.acquires(standing(1, 0, 0));
        rig.compares(Producer::Unknown);
        rig.opens(1, 0);
        rig.answers(Answer::Claims(Vec::new()));
        rig.scans(&[]);
        assert_eq!(rig.look(), Query::Lag);
        rig.machine.start_over(Time(0), Duration::ZERO);
        rig.at(3_000);
        rig.machine.handle(rig.now, Input::Looked(answer));
        rig.acquires(standing(2, 0, 0));
        rig.compares(Producer::Unknown);
        rig.opens(2, 0);
        rig.answers(Answer::Claims(Vec::new()));
        rig.scans(&[]);

        assert_eq!(rig.wish(), None);
    }
}

#[test]
fn rows_are_read_while_the_claim_before_them_is_recorded_and_no_further() {
    let mut rig = Rig::working_with(Settings { rows_max: 2, ..Settings::default() });
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[1, 2]);

    let step = rig.query();
    assert!(matches!(&step, Query::Step { claim: Some(claim), .. } if claim.sequence == 1));
    assert!(matches!(rig.look(), Query::Scan { after: RowId(2), .. }));
    assert_eq!(rig.wish(), None);
    rig.finds(&[3, 4]);
    assert_eq!((rig.wish(), rig.machine.ready()), (None, &[RowId(3), RowId(4)][..]));
    rig.machine.handle(rig.now, Input::Database(Ok(Answer::Done(true))));

    assert_eq!(rig.sends(), (1, 1, 0));
    assert_eq!(rig.steps().2.unwrap().rows, [RowId(3), RowId(4)]);
}

#[test]
fn rows_read_ahead_wait_until_a_claim_is_taken() {
    let mut rig = Rig::working_with(Settings { rows_max: 1, depth: 1, ..Settings::default() });
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[1]);
    rig.steps();
    rig.sends();
    rig.scans(&[2]);
    assert_eq!(rig.wish(), None);
    assert_eq!(rig.machine.deadline(), Some(Time(5_000)), "when the lease is prolonged");

    rig.is_told(1, Sent::Accepted);

    let (acked, done, claim) = rig.steps();
    assert_eq!((acked, done, claim.unwrap().rows), (1, vec![RowId(1)], vec![RowId(2)]));
}

#[test]
fn rows_that_waited_for_long_are_read_again_before_they_are_claimed() {
    let mut rig = Rig::working_with(Settings { rows_max: 1, depth: 1, ..Settings::default() });
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[1]);
    rig.steps();
    rig.sends();
    rig.scans(&[2]);
    rig.at(2_000);
    assert_eq!(rig.wish(), None);

    rig.is_told(1, Sent::Accepted);

    assert_eq!(rig.scans(&[1, 3]), (vec![], RowId(0)));
    let (acked, done, claim) = rig.steps();
    assert_eq!((acked, done, claim.unwrap().rows), (1, vec![RowId(1)], vec![RowId(3)]));
}

#[test]
fn rows_read_again_while_a_sweep_is_under_way_are_asked_for_once() {
    let mut rig = Rig::working_with(Settings { depth: 1, ..Settings::default() });
    rig.machine.handle(rig.now, Input::Wake);
    rig.scans(&[1]);
    rig.steps();
    rig.sends();
    rig.at(20);
    rig.scans(&[2, 4, 6]);
    rig.machine.sweep = Sweep::default();
    assert!(matches!(rig.query(), Query::Sweep { through: RowId(6), .. }));
    rig.at(2_000);

    rig.is_told(1, Sent::Accepted);
    assert!(matches!(rig.look(), Query::Scan { after: RowId(0), .. }));
    rig.machine.handle(rig.now, Input::Database(Ok(Answer::Swept([2, 4, 6].map(RowId).into()))));
    rig.finds(&[1, 2]);

    let gap = RowRange { first: RowId(3), last: RowId(3) };
    assert_eq!(rig.machine.reading.gaps.ranges(), [], "nothing above what was read");
    assert_eq!(rig.steps().2.unwrap().rows, [RowId(2)]);
    rig.sends();
    rig.at(2_020);
    assert_eq!(rig.scans(&[4]), (vec![], RowId(2)));
    assert_eq!(rig.machine.reading.gaps.ranges(), [gap]);
}

/// By the time it is answered others may have handed over and deleted what it found.
#[test]
fn look_from_before_the_lease_was_lost_is_not_used() {
    let mut rig = Rig::working();
    rig.machine.handle(rig.now, Input::Wake);
    assert!(matches!(rig.look(), Query::Scan { .. }));
    rig.machine.start_over(Time(0), Duration::ZERO);
    rig.acquires(standing(3, 0, 0));
    rig.compares(Producer::Unknown);
    rig.opens(3, 0);
    rig.answers(Answer::Claims(Vec::new()));
    assert_eq!(rig.wish(), None, "one look at a time");

    rig.finds(&[1]);

    assert_eq!(rig.scans(&[]), (vec![], RowId(0)));
    assert_eq!(rig.wish(), None);
}

/// After a start the rows of taken claims are above what has been read.
#[test]
fn row_deleted_while_a_look_finds_it_is_not_claimed_again() {
    let mut rig = Rig::new(Settings { rows_max: 1, ..Settings::default() });
    rig.acquires(standing(2, 1, 0));
    rig.compares(Producer::Known { epoch: 1, last: 1 });
    rig.opens(2, 1);
    rig.answers(Answer::Claims(vec![Claim { sequence: 1, rows: vec![RowId(2)], digest: 0 }]));
    rig.scans(&[1]);
    let step = rig.query();
    assert!(matches!(&step, Query::Step { done, .. } if *done == [RowId(2)]), "{step:?}");
    assert!(matches!(rig.look(), Query::Scan { after: RowId(1), .. }));
    rig.machine.handle(rig.now, Input::Database(Ok(Answer::Done(true))));
    rig.sends();

    rig.finds(&[2]);

    assert_eq!(rig.machine.ready(), []);
    assert!(rig.machine.held.contains(&RowId(1)) && !rig.machine.held.contains(&RowId(2)));
}

fn scanned(ids: &[u64]) -> Answer {
    let row = |id: &u64| Candidate { id: RowId(*id), bytes: 10, fault: None };
    Answer::Scanned(ids.iter().map(row).collect())
}

const fn standing(epoch: u64, claimed: u64, acked: u64) -> Standing {
    Standing { epoch, claimed, acked }
}
