//! Reads what `COPY ... TO STDOUT (FORMAT binary)` sends.
//!
//! Source: PostgreSQL's documentation, SQL command COPY, "Binary Format": a signature of 11 bytes, 4
//! bytes of flags, an extension behind its length; then tuples, each behind the number of its fields,
//! each of those behind its length or -1 for null; the number -1 ends all.

use bytes::{Buf as _, Bytes, BytesMut};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Rows are cut out of buffers of this size, not each out of one of its own.
const BUFFER_BYTES: usize = 64 << 10;

/// Tuples, cut out of pieces that may end anywhere.
#[derive(Debug)]
pub(super) struct Tuples {
    buffer: BytesMut,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Head,
    Tuples,
    Ended,
}

/// What came is not that format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The fields of one tuple.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tuple(Vec<Option<Bytes>>);

impl Tuple {
    /// The value of a column; `None` if it is null or there is no such column.
    pub(super) fn value(&self, column: usize) -> Option<&Bytes> {
        self.0.get(column)?.as_ref()
    }
}

impl Tuples {
    pub(super) fn new() -> Self {
        Self { buffer: BytesMut::with_capacity(BUFFER_BYTES), part: Part::Head }
    }

    /// Takes a piece.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// Whether the end has come, and nothing behind it.
    pub(super) fn is_complete(&self) -> bool {
        self.part == Part::Ended && self.buffer.is_empty()
    }

    /// The next tuple; `None` if it is not there yet, or all have been given.
    pub(super) fn next(&mut self) -> Result<Option<Tuple>, Malformed> {
        if self.part == Part::Head {
            let Some(len) = head_len(&self.buffer)? else { return Ok(None) };
            self.buffer.advance(len);
            self.part = Part::Tuples;
        }
        if self.part == Part::Ended {
            return Ok(None);
        }
        let Some(len) = tuple_len(&self.buffer)? else { return Ok(None) };
        let mut tuple = self.buffer.split_to(len).freeze();
        let Ok(count) = usize::try_from(tuple.get_i16()) else {
            self.part = Part::Ended;
            return Ok(None);
        };
        let mut field = || usize::try_from(tuple.get_i32()).ok().map(|len| tuple.split_to(len));
        Ok(Some(Tuple((0..count).map(|_| field()).collect())))
    }
}

/// Bytes of what stands in front of the tuples, if they are all there.
fn head_len(mut bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes.get(..known) != SIGNATURE.get(..known) {
        return Err(Malformed);
    }
    let whole = bytes.len();
    let fixed = SIGNATURE.len() + 8;
    if whole < fixed {
        return Ok(None);
    }
    bytes.advance(fixed - 4);
    let extension = usize::try_from(bytes.get_i32()).map_err(|_| Malformed)?;
    Ok(Some(fixed + extension).filter(|len| *len <= whole))
}

/// Bytes of the tuple or the end mark in front, if they are all there.
fn tuple_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut rest = bytes;
    let Ok(count) = rest.try_get_i16() else { return Ok(None) };
    if count < -1 {
        return Err(Malformed);
    }
    for _ in 0..count {
        let Ok(len) = rest.try_get_i32() else { return Ok(None) };
        if len < -1 {
            return Err(Malformed);
        }
        let Some(behind) = rest.get(usize::try_from(len).unwrap_or(0)..) else { return Ok(None) };
        rest = behind;
    }
    Ok(Some(bytes.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_are_the_same_wherever_their_pieces_end() {
        let whole = copied(&[&[Some(b"a"), None, Some(b"")], &[], &[Some(&[7; 300])]]);
        for piece in [1, 2, 3, 7, 19, 20, whole.len()] {
            let (tuples, is_complete) = read(whole.chunks(piece)).unwrap();

            let [first, second, third] = tuples.as_slice() else { panic!("{tuples:?}") };
            assert_eq!(first.0, [Some(Bytes::from_static(b"a")), None, Some(Bytes::new())]);
            assert_eq!((second.value(0), third.value(1)), (None, None));
            assert_eq!(third.value(0).unwrap(), &[7; 300][..]);
            assert!(is_complete, "{piece}");
        }
    }

    #[test]
    fn answer_that_was_cut_off_or_goes_on_behind_its_end_is_not_complete() {
        let whole = copied(&[&[Some(b"abc")], &[Some(b"def")]]);
        for len in 0..whole.len() {
            assert!(!read([&whole[..len]]).unwrap().1, "{len}");
        }
        assert!(!read([&whole[..], &b"x"[..]]).unwrap().1);
    }

    #[test]
    fn what_is_no_such_answer_is_an_error() {
        let mut head = copied(&[]);
        head.truncate(19);
        let with = |behind: &[u8]| [&head, behind].concat();
        let mut extension = head.clone();
        extension[15] = 0xff;
        for odd in
            [b"PGCOPX".to_vec(), extension, with(&[0xff, 0xfe]), with(&[0, 1, 255, 255, 255, 254])]
        {
            assert_eq!(read([&odd[..]]).unwrap_err(), Malformed, "{odd:?}");
        }
    }

    fn read(
        pieces: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<(Vec<Tuple>, bool), Malformed> {
        let mut tuples = Tuples::new();
        let mut found = Vec::new();
        for piece in pieces {
            tuples.push(piece.as_ref());
            while let Some(tuple) = tuples.next()? {
                found.push(tuple);
            }
        }
        Ok((found, tuples.is_complete()))
    }

    fn copied(tuples: &[&[Option<&[u8]>]]) -> Vec<u8> {
        let mut bytes = [&SIGNATURE[..], &[0; 8]].concat();
        for tuple in tuples {
            bytes.extend(i16::try_from(tuple.len()).unwrap().to_be_bytes());
            for field in *tuple {
                let len = field.map_or(-1, |field| i32::try_from(field.len()).unwrap());
                bytes.extend(len.to_be_bytes());
                bytes.extend(field.unwrap_or_default());
            }
        }
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }
}
