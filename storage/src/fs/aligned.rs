//! Memory that the disk can write from and read into by itself.

use super::BLOCK;

/// A buffer of whole blocks that starts at a multiple of [`BLOCK`]; made once and filled again and
/// again.
#[derive(Debug)]
pub struct Aligned {
    /// Never grows, so that it stays where it is.
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
    filled: usize,
}

impl Aligned {
    /// An empty buffer with room for `blocks` blocks.
    #[must_use]
    pub fn new(blocks: usize) -> Self {
        let capacity = blocks * BLOCK;
        let memory = vec![0; capacity + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, start, capacity, filled: 0 }
    }

    /// Takes as much of `bytes` as there is room for, and says how much.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.capacity - self.filled);
        let start = self.start + self.filled;
        let room = self.memory.get_mut(start..start + len).unwrap_or_default();
        room.copy_from_slice(bytes.get(..len).unwrap_or_default());
        self.filled += len;
        len
    }

    /// What was pushed since it was empty.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.filled).unwrap_or_default()
    }

    /// All of it, to be read into.
    pub fn whole(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.capacity).unwrap_or_default()
    }

    /// Whether there is no room left.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.filled == self.capacity
    }

    /// Forgets what was pushed.
    pub const fn clear(&mut self) {
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_it_has_room_for_in_whole_aligned_blocks() {
        let mut buffer = Aligned::new(2);
        assert_eq!(buffer.push(&[1; BLOCK]), BLOCK);
        assert_eq!(buffer.push(&[2; 2 * BLOCK]), BLOCK);
        assert!(buffer.is_full());
        assert_eq!(buffer.filled(), [[1; BLOCK], [2; BLOCK]].concat());
        assert!(buffer.filled().as_ptr().addr().is_multiple_of(BLOCK));
        buffer.clear();
        assert_eq!((buffer.push(&[3]), buffer.filled()), (1, &[3_u8][..]));
        assert_eq!(buffer.whole().len(), 2 * BLOCK);
    }
}
