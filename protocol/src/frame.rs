//! The wire frame: a length, a kind, a head with a checksum, and a tail.
//!
//! ```text
//! 0   length       u32   bytes after this field
//! 4   crc          u32   CRC-32 of the bytes from 8 to the end of the head
//! 8   head_len     u32   bytes of the head
//! 12  kind         u16   see `kind`
//! 14  flags        u16   zero
//! 16  correlation  u32   pairs a reply with its request; 0 for pushes and for requests without reply
//! 20  head               the message's fields
//! ..  tail               batch, or index entries and bodies; carries checksums of its own
//! ```

use crate::codec::{Sink, Source};
use crate::{CorrelationId, DecodeError, limits};
use bytes::{Buf, Bytes, BytesMut};

/// Bytes before the head.
pub const FRAME_HEADER_LEN: usize = 20;
/// Bytes before those that `length` counts.
pub const LENGTH_LEN: usize = 4;

/// A frame whose head has passed its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the head holds.
    pub kind: u16,
    /// Pairs a reply with its request.
    pub correlation: CorrelationId,
    /// The message's fields.
    pub head: Bytes,
    /// Batch or message bytes; often empty.
    pub tail: Bytes,
}

/// Appends everything of a frame but its tail to `out`; the caller sends `tail_len` bytes after it.
pub fn encode_head(
    out: &mut BytesMut,
    kind: u16,
    correlation: CorrelationId,
    tail_len: usize,
    head: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    out.put(&[0; FRAME_HEADER_LEN]);
    head(out);
    let head_len = out.len() - start - FRAME_HEADER_LEN;
    debug_assert!(
        head_len as u64 <= u64::from(limits::HEAD_BYTES_MAX),
        "a head of {head_len} bytes cannot be decoded"
    );
    let length = FRAME_HEADER_LEN - LENGTH_LEN + head_len + tail_len;
    let mut fields = [0; FRAME_HEADER_LEN - 8];
    let mut rest = fields.as_mut_slice();
    write_le(&mut rest, &as_u32(head_len).to_le_bytes());
    write_le(&mut rest, &kind.to_le_bytes());
    write_le(&mut rest, &[0; 2]);
    write_le(&mut rest, &correlation.0.to_le_bytes());
    if let Some(frame) = out.get_mut(start..) {
        patch(frame, 8, &fields);
        let crc = crc32fast::hash(frame.get(8..).unwrap_or_default());
        patch(frame, 0, &as_u32(length).to_le_bytes());
        patch(frame, 4, &crc.to_le_bytes());
    }
}

fn patch(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = frame.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

fn write_le(rest: &mut &mut [u8], bytes: &[u8]) {
    if let Some((slot, after)) = std::mem::take(rest).split_at_mut_checked(bytes.len()) {
        slot.copy_from_slice(bytes);
        *rest = after;
    }
}

fn as_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The length of the whole frame at the front of `received`, once enough bytes are there to know.
///
/// # Errors
///
/// [`DecodeError`] if the length is below a header's or above `limit`; the connection is then
/// beyond repair and must be closed.
pub fn frame_len(received: &[u8], limit: u32) -> Result<Option<usize>, DecodeError> {
    let Ok(length) = Source::new(received).u32("frame.length") else {
        return Ok(None);
    };
    if length > limit {
        let (found, limit) = (u64::from(length), u64::from(limit));
        return Err(DecodeError::TooLarge { field: "frame.length", found, limit });
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length < FRAME_HEADER_LEN - LENGTH_LEN {
        return Err(DecodeError::Invalid { field: "frame.length", found: length as u64 });
    }
    Ok(Some(length + LENGTH_LEN))
}

/// Takes one whole frame off the front of `received`; `None` if it has not all arrived.
///
/// Frames share the buffer's memory, nothing is copied.
///
/// # Errors
///
/// [`DecodeError`] if the frame is malformed; the connection is then beyond repair and must be closed.
pub fn decode(received: &mut BytesMut, limit: u32) -> Result<Option<Frame>, DecodeError> {
    let Some(len) = frame_len(received, limit)? else {
        return Ok(None);
    };
    if received.len() < len {
        return Ok(None);
    }
    decode_whole(received.split_to(len).freeze()).map(Some)
}

/// Decodes a frame of which `bytes` is exactly the whole.
///
/// # Errors
///
/// [`DecodeError`], naming the first field that is wrong.
pub fn decode_whole(mut bytes: Bytes) -> Result<Frame, DecodeError> {
    let mut source = Source::new(&bytes);
    let length = source.u32("frame.length")?;
    if u64::from(length) != source.remaining() as u64 {
        return Err(DecodeError::Invalid { field: "frame.length", found: u64::from(length) });
    }
    let stored = source.u32("frame.crc")?;
    let head_len = source.u32("frame.head_len")?;
    let kind = source.u16("frame.kind")?;
    let flags = source.u16("frame.flags")?;
    let correlation = CorrelationId(source.u32("frame.correlation")?);
    if head_len > limits::HEAD_BYTES_MAX {
        let (found, limit) = (u64::from(head_len), u64::from(limits::HEAD_BYTES_MAX));
        return Err(DecodeError::TooLarge { field: "frame.head_len", found, limit });
    }
    let head_len = usize::try_from(head_len).unwrap_or(usize::MAX);
    source.bytes(head_len, "frame.head")?;
    let covered = bytes.get(8..FRAME_HEADER_LEN + head_len).unwrap_or_default();
    let computed = crc32fast::hash(covered);
    if computed != stored {
        return Err(DecodeError::Checksum { field: "frame", stored, computed });
    }
    if flags != 0 {
        return Err(DecodeError::Invalid { field: "frame.flags", found: u64::from(flags) });
    }
    bytes.advance(FRAME_HEADER_LEN);
    let head = bytes.split_to(head_len);
    Ok(Frame { kind, correlation, head, tail: bytes })
}
