//! The rooms against the plain maps that they stand for.

use super::*;
use posthouse_protocol::TopicId;
use proptest::prelude::*;
use std::collections::BTreeMap;

const ROOM: PartitionId = PartitionId(7);

/// What waits, as anybody would write it down.
#[derive(Default)]
struct Model {
    due: BTreeMap<u64, u64>,
    next: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// Messages due `from`, and each so much later than the one before, in rising or falling order.
    Add { count: usize, from: u64, apart: u64, falling: bool },
    /// Offsets that are passed over.
    Skip(u64),
    /// Everything between two thousandths of what there is.
    Remove(u64, u64),
    /// One of so many, everywhere.
    Thin(u64),
    /// What is due first.
    Publish(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let count = prop_oneof![1_usize..8, 400_usize..2_000];
    let add = (count, 1_u64..5_000, 0_u64..50, any::<bool>());
    prop_oneof![
        4 => add.prop_map(|(count, from, apart, falling)| Step::Add { count, from, apart, falling }),
        1 => prop_oneof![1_u64..3_000, Just(1 << 20), Just(1 << 32)].prop_map(Step::Skip),
        3 => (0_u64..1_000, 0_u64..60).prop_map(|(start, len)| Step::Remove(start, start + len)),
        2 => (2_u64..12).prop_map(Step::Thin),
        3 => (1_usize..900).prop_map(Step::Publish),
    ]
}

impl Model {
    fn take(&mut self, rooms: &mut WaitingRooms, step: &Step) {
        match *step {
            Step::Add { count, from, apart, falling } => {
                let place = |at: u64| if falling { count as u64 - at } else { at };
                let due: Vec<_> = (0..count as u64).map(|at| from + place(at) * apart).collect();
                self.due.extend((self.next..).zip(due.iter().copied()));
                self.next += count as u64;
                let due: Vec<_> = due.into_iter().map(Timestamp).collect();
                rooms.add(ROOM, &due);
            }
            Step::Skip(count) => {
                self.next += count;
                rooms.skip(count);
            }
            Step::Remove(start, end) => {
                let place = |thousandth: u64| self.next * thousandth / 1_000;
                self.remove(rooms, place(start)..place(end));
            }
            Step::Thin(one_of) => {
                for (_, at) in self.in_time().filter(|(_, at)| !at.is_multiple_of(one_of)) {
                    self.remove(rooms, at..at + 1);
                }
            }
            Step::Publish(count) => {
                for (_, at) in self.in_time().take(count) {
                    self.remove(rooms, at..at + 1);
                }
            }
        }
    }

    fn remove(&mut self, rooms: &mut WaitingRooms, range: Range<u64>) {
        while let Some((at, _)) = self.due.range(range.clone()).next() {
            let at = *at;
            self.due.remove(&at);
        }
        rooms.remove(ROOM, &(Offset(range.start)..Offset(range.end)));
    }

    fn in_time(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let mut order: Vec<_> = self.due.iter().map(|(at, due)| (*due, *at)).collect();
        order.sort_unstable();
        order.into_iter()
    }

    fn needed(&self, within: Range<u64>) -> Vec<Range<Offset>> {
        let mut needed: Vec<Range<Offset>> = Vec::new();
        for at in self.due.range(within).map(|(at, _)| Offset(*at)) {
            match needed.last_mut() {
                Some(last) if last.end == at => last.end = at.next(),
                Some(_) | None => needed.push(at..at.next()),
            }
        }
        needed
    }

    fn check(&self, rooms: &WaitingRooms, at: u64) {
        let room = rooms.get(ROOM).unwrap();
        let kept: BTreeMap<_, _> = room.iter().map(|(offset, due)| (offset.0, due.0)).collect();
        assert_eq!(kept, self.due);
        assert_eq!((room.len(), rooms.messages()), (self.due.len(), self.due.len()));
        assert_eq!(
            (room.next.0, room.first().map(|at| at.0)),
            (self.next, self.due.keys().next().copied())
        );
        let earliest = self.in_time().next().map(|(due, _)| Timestamp(due));
        assert_eq!(room.next_due(), earliest);
        assert!(rooms.heads().eq(earliest.map(|due| (due, ROOM))));
        let due: Vec<_> = self.in_time().take_while(|(due, _)| *due <= at).collect();
        let all: Vec<_> = due.iter().map(|(_, at)| Offset(*at)).collect();
        assert_eq!(room.due_by(Timestamp(at), usize::MAX), all);
        let some: Vec<_> = room.due_by(Timestamp(at), 700);
        let some: Vec<_> = some.iter().map(|at| (self.due[&at.0], at.0)).collect();
        assert_eq!((some.len(), some.first()), (due.len().min(700), due.first()));
        assert!(some.is_sorted());
        let latest = some.last().map_or(0, |(due, _)| *due);
        let left = due.iter().find(|waiting| some.binary_search(waiting).is_err());
        assert!(left.is_none_or(|(due, _)| latest <= due + 1_000), "{latest} before {left:?}");
        let behind = (Timestamp(at / 3), Offset(self.next / 2));
        let exact = due.iter().map(|(due, at)| (Timestamp(*due), Offset(*at)));
        let exact = exact.filter(|waiting| *waiting >= behind);
        assert!(room.due_from(behind, Timestamp(at), 700).eq(exact.take(700)));
        let within = self.next / 3..self.next / 3 * 2 + at;
        let range = Offset(within.start)..Offset(within.end);
        assert_eq!(room.needed(range), self.needed(within));
        for near in self.due.keys().step_by(97).flat_map(|at| at.saturating_sub(1)..at + 2) {
            let due = self.due.get(&near).map(|due| (Timestamp(*due), Offset(near)));
            assert_eq!(room.at(Offset(near)), due);
        }
        let bound = 16 * room.len() + 4_096 + room.spread() * 160;
        assert!(room.memory() <= bound, "{} bytes for {}", room.memory(), room.len());
    }
}

fn rooms() -> WaitingRooms {
    let mut rooms = WaitingRooms::default();
    rooms.open(WaitingRoom::new(ROOM, TopicId(1), Offset::ZERO));
    rooms
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn waiting_room_is_a_map_from_offsets_to_times(steps in prop::collection::vec((step(), 0_u64..20_000), 0..24)) {
        let (mut model, mut rooms) = (Model::default(), rooms());
        for (step, at) in steps {
            model.take(&mut rooms, &step);
            model.check(&rooms, at);
        }
    }
}

/// Numbers that look like chance.
fn scattered(at: u64) -> u64 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 37
}

#[test]
fn message_that_waits_takes_about_ten_bytes_even_when_half_of_them_are_gone() {
    const MESSAGES: u64 = 200_000;
    let bytes_each = |rooms: &WaitingRooms| {
        let room = rooms.get(ROOM).unwrap();
        room.memory() as f64 / room.len() as f64
    };
    let mut rooms = rooms();
    for at in 0..MESSAGES {
        rooms.add(ROOM, &[Timestamp(scattered(at))]);
    }
    let full = bytes_each(&rooms);
    assert!(full < 8.5, "{full}");
    for kept_of in [2, 4, 16, 256] {
        for at in (0..MESSAGES).filter(|at| !scattered(*at).is_multiple_of(kept_of)) {
            rooms.remove(ROOM, &(Offset(at)..Offset(at + 1)));
        }
        let left = bytes_each(&rooms);
        assert!(left < 12.0, "{left} where one of {kept_of} is left");
    }
}

#[test]
fn block_is_small_after_its_room_was_emptied_from_the_front() {
    let mut rooms = rooms();
    for at in 0..100_000 {
        rooms.add(ROOM, &[Timestamp(at)]);
        if at >= 10 {
            rooms.remove(ROOM, &(Offset(at - 10)..Offset(at - 9)));
        }
    }
    assert!(rooms.get(ROOM).unwrap().memory() < 1_000);
}

#[test]
fn what_is_due_after_the_last_time_that_is_kept_is_due_then() {
    let mut rooms = rooms();
    rooms.add(ROOM, &[Timestamp(u64::MAX), Timestamp(5)]);
    let room = rooms.get(ROOM).unwrap();
    assert_eq!(
        room.iter().map(|(_, due)| due).collect::<Vec<_>>(),
        [WaitingRoom::DUE_MAX, Timestamp(5)]
    );
    assert_eq!(room.due_by(Timestamp(u64::MAX), 1), [Offset(1)]);
    rooms.remove(ROOM, &(Offset(1)..Offset(2)));
    let room = rooms.get(ROOM).unwrap();
    assert_eq!(room.due_by(Timestamp(u64::MAX), 2), [Offset(0)]);
}

#[test]
fn rooms_with_the_same_messages_are_equal_whichever_blocks_they_are_in() {
    let (mut one, mut two) = (rooms(), rooms());
    let due: Vec<_> = (0..3_000).map(|at| Timestamp(scattered(at))).collect();
    one.add(ROOM, &due);
    one.remove(ROOM, &(Offset(1)..Offset(2_900)));
    two.add(ROOM, &due[..1]);
    two.skip(2_899);
    assert_ne!(one, two);
    two.add(ROOM, &due[2_900..]);
    assert_eq!(one, two);
}
