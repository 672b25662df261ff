//! The set against a set of single offsets.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn model(set: &RangeSet) -> BTreeSet<u64> {
    set.iter().flat_map(|range| range.start.0..range.end.0).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u64),
    RemoveBelow(u64),
    Absorb(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u64..100, 0_u64..12).prop_map(|(start, len)| Step::Insert(start, start + len)),
        1 => (0_u64..100).prop_map(Step::RemoveBelow),
        1 => (0_u64..100).prop_map(Step::Absorb),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_set_of_offsets(steps in prop::collection::vec(step(), 0..60)) {
        let mut set = RangeSet::new();
        let mut expected = BTreeSet::new();
        for step in steps {
            match step {
                Step::Insert(start, end) => {
                    set.insert(Offset(start)..Offset(end));
                    expected.extend(start..end);
                }
                Step::RemoveBelow(offset) => {
                    set.remove_below(Offset(offset));
                    expected.retain(|held| *held >= offset);
                }
                Step::Absorb(floor) => {
                    let mut end = floor;
                    expected.retain(|held| *held >= floor);
                    while expected.remove(&end) {
                        end += 1;
                    }
                    prop_assert_eq!(set.absorb(Offset(floor)), Offset(end));
                }
            }
            prop_assert_eq!(model(&set), expected.clone());
            prop_assert_eq!(set.len(), expected.len() as u64);
            let touching = set.iter().zip(set.iter().skip(1)).any(|(a, b)| a.end >= b.start);
            prop_assert!(!touching);
        }
        let window = Offset(20)..Offset(70);
        let gaps: Vec<u64> = set.gaps_in(window).flat_map(|gap| gap.start.0..gap.end.0).collect();
        let expected_gaps: Vec<u64> = (20..70).filter(|at| !expected.contains(at)).collect();
        prop_assert_eq!(gaps, expected_gaps);
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        let mut source = Source::new(&bytes);
        prop_assert_eq!(RangeSet::decode(&mut source, "set"), Ok(set));
        prop_assert_eq!(source.remaining(), 0);
    }

    #[test]
    fn intersection_is_what_both_hold(
        a in prop::collection::vec((0_u64..100, 0_u64..12), 0..20),
        b in prop::collection::vec((0_u64..100, 0_u64..12), 0..20),
    ) {
        let build = |parts: Vec<(u64, u64)>| {
            let mut set = RangeSet::new();
            parts.iter().for_each(|(at, len)| set.insert(Offset(*at)..Offset(at + len)));
            set
        };
        let (a, b) = (build(a), build(b));
        let expected: BTreeSet<u64> = model(&a).intersection(&model(&b)).copied().collect();
        prop_assert_eq!(model(&a.intersection(&b)), expected);
    }

    #[test]
    fn number_round_trips(value: u64) {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        prop_assert_eq!(varint(&mut Source::new(&bytes), "number"), Ok(value));
    }

    #[test]
    fn any_bytes_decode_or_fail_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = RangeSet::decode(&mut Source::new(&bytes), "set");
    }
}

#[test]
fn touching_ranges_are_refused_because_a_set_has_one_representation() {
    let bytes = [2, 1, 1, 0, 1];
    let decoded = RangeSet::decode(&mut Source::new(&bytes), "set");
    assert_eq!(decoded, Err(DecodeError::Invalid { field: "set", found: 0 }));
}
