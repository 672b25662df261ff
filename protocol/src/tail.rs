//! Taking apart the tail of a delivery or a fetch: for each slice, index entries and then bodies.

use crate::batch::{Entries, Messages};
use crate::message::{Deliver, Fetched, Slice};
use crate::{DecodeError, codec::Source};
use bytes::Bytes;

/// The bytes of one slice, sound but for the messages' own checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index entries back to back.
    pub index: Bytes,
    /// Bodies back to back.
    pub bodies: Bytes,
}

impl Part {
    /// The messages; verify each one's checksum before use.
    #[must_use]
    pub fn messages(&self) -> Messages<'_> {
        Messages::new(&self.index, &self.bodies)
    }
}

impl Deliver {
    /// Cuts the frame's tail into one part a slice, sharing its memory.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a part does not hold as many sound entries and as many body bytes as its
    /// slice says, or if bytes are left.
    pub fn parts(&self, tail: &Bytes) -> Result<Vec<Part>, DecodeError> {
        let mut rest = tail.clone();
        let slices = self.slices.iter();
        let parts = slices.map(|slice| cut(&slice.slice, &mut rest)).collect::<Result<_, _>>()?;
        Source::new(&rest).end()?;
        Ok(parts)
    }
}

impl Fetched {
    /// Cuts the frame's tail into one part a slice, sharing its memory.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a part does not hold as many sound entries and as many body bytes as its
    /// slice says, or if bytes are left.
    pub fn parts(&self, tail: &Bytes) -> Result<Vec<Part>, DecodeError> {
        let mut rest = tail.clone();
        let slices = self.slices.iter();
        let parts = slices.map(|slice| cut(slice, &mut rest)).collect::<Result<_, _>>()?;
        Source::new(&rest).end()?;
        Ok(parts)
    }
}

fn cut(slice: &Slice, rest: &mut Bytes) -> Result<Part, DecodeError> {
    let index = take(rest, slice.index_len, "tail.index")?;
    let bodies = take(rest, slice.bodies_len, "tail.bodies")?;
    check(slice, &index)?;
    Ok(Part { index, bodies })
}

fn take(rest: &mut Bytes, len: u32, field: &'static str) -> Result<Bytes, DecodeError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > rest.len() {
        return Err(DecodeError::Truncated { field });
    }
    Ok(rest.split_to(len))
}

fn check(slice: &Slice, index: &[u8]) -> Result<(), DecodeError> {
    let mut entries = Entries::new(index);
    let mut body_bytes = 0_u64;
    for _ in 0..slice.count {
        let entry = entries.read()?;
        entry.check()?;
        body_bytes += u64::from(entry.body_len);
    }
    if entries.remaining() > 0 {
        return Err(DecodeError::Trailing { bytes: entries.remaining() });
    }
    if body_bytes != u64::from(slice.bodies_len) {
        return Err(DecodeError::Invalid { field: "Slice.bodies_len", found: body_bytes });
    }
    Ok(())
}
