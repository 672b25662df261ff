//! A map from ids that are given out in turn.
//!
//! What thousands of topics cost is the way to their state: in an ordered tree of 10,000 the keys of
//! four nodes are compared before the value is reached, and a message is looked up a dozen times.
//! Here an id is the place: one look into a short list of pages, which stays in the cache, and one
//! into the page. A page table, as processors have it; Linux keeps such a one as "`XArray`".

use std::fmt;
use std::marker::PhantomData;
use std::ops::Index;

/// Values in a page. An id that outlives its neighbours keeps their room, so it is few.
const PAGE_LEN: u32 = 16;

/// An id that is counted up from zero, and rarely leaves a gap.
pub trait Id: Copy + Ord {
    /// Its number.
    fn number(self) -> u32;

    /// The id with this number.
    fn from_number(number: u32) -> Self;
}

/// A map from ids to values, in the order of the ids.
///
/// Every access takes the same few steps, however many there are. Memory: for each value up to 16
/// times its size if all its neighbours are gone, and half a byte for each id below the highest that
/// was ever in it.
#[derive(Clone)]
pub struct IdMap<K, V> {
    pages: Pages<V>,
    len: usize,
    ids: PhantomData<K>,
}

type Pages<V> = Vec<Option<Box<Page<V>>>>;

#[derive(Clone)]
struct Page<V> {
    slots: [Option<V>; PAGE_LEN as usize],
    len: u32,
}

impl<V> Page<V> {
    fn empty() -> Box<Self> {
        Box::new(Self { slots: [const { None }; PAGE_LEN as usize], len: 0 })
    }
}

/// The page and the slot in it.
fn place(id: impl Id) -> (usize, usize) {
    let number = id.number();
    ((number / PAGE_LEN) as usize, (number % PAGE_LEN) as usize)
}

/// The slot of `id` in its page, and how many of that are taken.
#[expect(
    clippy::indexing_slicing,
    reason = "the page is there by then, and no slot is as high as a page is long"
)]
fn slot_for<V>(pages: &mut Pages<V>, id: impl Id) -> (&mut Option<V>, &mut u32) {
    let (page, slot) = place(id);
    if page >= pages.len() {
        pages.resize_with(page + 1, || None);
    }
    let page = pages[page].get_or_insert_with(Page::empty);
    (&mut page.slots[slot], &mut page.len)
}

impl<K: Id, V> IdMap<K, V> {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self { pages: Vec::new(), len: 0, ids: PhantomData }
    }

    /// How many values there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is a value for `id`.
    #[must_use]
    pub fn contains_key(&self, id: &K) -> bool {
        self.get(id).is_some()
    }

    /// The value of `id`.
    #[must_use]
    pub fn get(&self, id: &K) -> Option<&V> {
        let (page, slot) = place(*id);
        self.pages.get(page)?.as_ref()?.slots.get(slot)?.as_ref()
    }

    /// The value of `id`, to be changed.
    #[must_use]
    pub fn get_mut(&mut self, id: &K) -> Option<&mut V> {
        let (page, slot) = place(*id);
        self.pages.get_mut(page)?.as_mut()?.slots.get_mut(slot)?.as_mut()
    }

    /// Sets the value of `id`; gives the one before.
    pub fn insert(&mut self, id: K, value: V) -> Option<V> {
        let (slot, taken) = slot_for(&mut self.pages, id);
        let before = slot.replace(value);
        if before.is_none() {
            *taken += 1;
            self.len += 1;
        }
        before
    }

    /// The value of `id`, made by `value` if there is none.
    pub fn get_or_insert_with(&mut self, id: K, value: impl FnOnce() -> V) -> &mut V {
        let (slot, taken) = slot_for(&mut self.pages, id);
        slot.get_or_insert_with(|| {
            let value = value();
            *taken += 1;
            self.len += 1;
            value
        })
    }

    /// Takes the value of `id` out.
    pub fn remove(&mut self, id: &K) -> Option<V> {
        let (number, slot) = place(*id);
        let page = self.pages.get_mut(number)?;
        let held = page.as_mut()?;
        let value = held.slots.get_mut(slot)?.take()?;
        held.len -= 1;
        if held.len == 0 {
            *page = None;
        }
        self.len -= 1;
        Some(value)
    }

    /// Ids and values, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.pages.iter().zip(0_u32..).flat_map(|(page, number)| {
            let slots = page.iter().flat_map(|page| page.slots.iter());
            numbered(number, slots).filter_map(|(id, slot)| Some((id, slot.as_ref()?)))
        })
    }

    /// Ids and values from `first` on, ascending; the values can be changed.
    pub fn iter_mut_from(&mut self, first: K) -> impl Iterator<Item = (K, &mut V)> {
        // Not `skip`, which would look at each page before: there are many where ids were left out.
        let (start, _) = place(first);
        let pages = self.pages.get_mut(start..).unwrap_or_default();
        let all = pages.iter_mut().zip(first.number() / PAGE_LEN..).flat_map(|(page, number)| {
            let slots = page.iter_mut().flat_map(|page| page.slots.iter_mut());
            numbered(number, slots).filter_map(|(id, slot)| Some((id, slot.as_mut()?)))
        });
        all.skip_while(move |(id, _)| *id < first)
    }

    /// The ids, ascending.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.iter().map(|(id, _)| id)
    }

    /// The values in the order of their ids.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> {
        Counted { all: self.iter().map(|(_, value)| value), left: self.len }
    }

    /// The values in the order of their ids, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut_from(K::from_number(0)).map(|(_, value)| value)
    }
}

/// An iterator that is known to have so many items.
struct Counted<I> {
    all: I,
    left: usize,
}

impl<I: Iterator> Iterator for Counted<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let next = self.all.next()?;
        self.left -= 1;
        Some(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<I: Iterator> ExactSizeIterator for Counted<I> {}

/// The slots of a page with their ids.
fn numbered<K: Id, S>(page: u32, slots: impl Iterator<Item = S>) -> impl Iterator<Item = (K, S)> {
    let first = page * PAGE_LEN;
    (first..).map(K::from_number).zip(slots)
}

impl<K: Id, V> Default for IdMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Id + fmt::Debug, V: fmt::Debug> fmt::Debug for IdMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Id, V: PartialEq> PartialEq for IdMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Id, V: Eq> Eq for IdMap<K, V> {}

impl<K: Id, V> FromIterator<(K, V)> for IdMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut map = Self::new();
        for (id, value) in pairs {
            map.insert(id, value);
        }
        map
    }
}

impl<K: Id, V> Index<&K> for IdMap<K, V> {
    type Output = V;

    /// # Panics
    ///
    /// If there is none.
    fn index(&self, id: &K) -> &V {
        self.get(id).expect("there is a value for the id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TopicId;
    use std::collections::BTreeMap;

    #[test]
    fn behaves_like_an_ordered_map() {
        let mut map = IdMap::new();
        let mut expected = BTreeMap::new();
        let mut random = 12_345_u32;
        for step in 0..20_000_u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let id = TopicId((random >> 16) % if step % 5 == 0 { 9_000 } else { 90 });
            match (random >> 8) % 4 {
                0 => assert_eq!(map.insert(id, step), expected.insert(id, step)),
                1 => assert_eq!(map.remove(&id), expected.remove(&id)),
                2 => {
                    let value = *map.get_or_insert_with(id, || step);
                    assert_eq!(value, *expected.entry(id).or_insert(step));
                }
                _ => {
                    let found = map.get_mut(&id).map(|value| std::mem::replace(value, step));
                    assert_eq!(found, expected.get_mut(&id).map(|v| std::mem::replace(v, step)));
                }
            }
            assert_eq!((map.get(&id), map.len()), (expected.get(&id), expected.len()));
            if step % 100 == 0 {
                assert!(map.iter().eq(expected.iter().map(|(id, value)| (*id, value))));
                let from = expected.range_mut(id..).map(|(id, value)| (*id, value));
                assert!(map.iter_mut_from(id).eq(from));
            }
        }
        assert!(expected.len() > 100);
        assert!(map.keys().eq(expected.keys().copied()));
        assert_eq!(map.values().len(), expected.len());
        assert!(map.values().eq(expected.values()));
        assert!(map.values_mut().eq(expected.values_mut()));
    }

    #[test]
    fn maps_with_the_same_values_are_equal_whatever_was_in_them() {
        let mut map: IdMap<_, _> = [(TopicId(3), 'a'), (TopicId(1), 'b')].into_iter().collect();
        let before = map.clone();
        map.insert(TopicId(1_000_000), 'c');
        assert_ne!(map, before);
        map.remove(&TopicId(1_000_000));
        assert_eq!(map, before);
        map.insert(TopicId(1), 'a');
        assert_ne!(map, before);
        map.insert(TopicId(1), 'b');
        assert_eq!(format!("{map:?}"), "{TopicId(1): 'b', TopicId(3): 'a'}");
        assert!(!map.is_empty() && IdMap::<TopicId, u8>::default().is_empty());
    }

    #[test]
    fn pages_without_values_are_given_back() {
        let mut map = IdMap::new();
        let ids = (0..1_000).map(TopicId);
        for id in ids.clone() {
            map.insert(id, id);
        }
        for id in ids {
            assert_eq!(map.remove(&id), Some(id));
        }
        assert!(map.pages.iter().all(Option::is_none));
    }

    #[test]
    fn ids_that_nobody_has_given_out_are_not_found() {
        let mut map: IdMap<TopicId, u8> = IdMap::new();
        for id in [TopicId::ZERO, TopicId(77), TopicId::MAX] {
            assert_eq!(map.get(&id), None);
            assert_eq!(map.remove(&id), None);
        }
        assert_eq!(map.iter_mut_from(TopicId::MAX).count(), 0);
        assert!(map.pages.is_empty());
    }
}
