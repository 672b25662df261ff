//! The smallest framing that a publish and its receipt need.

use std::iter;

/// Bytes of one message body.
pub(crate) const BODY: usize = 100;
const LENGTH: usize = 4;
const ID: usize = 8;
/// Bytes of one receipt on the wire.
pub(crate) const RECEIPT: usize = LENGTH + ID;

pub(crate) fn push_publish(out: &mut Vec<u8>, id: u64) {
    push_head(out, BODY, id);
    out.extend_from_slice(&[b'x'; BODY]);
}

pub(crate) fn push_receipt(out: &mut Vec<u8>, id: u64) {
    push_head(out, 0, id);
}

fn push_head(out: &mut Vec<u8>, body: usize, id: u64) {
    let length = u32::try_from(ID + body).expect("a frame of the bench is small");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
}

/// One end's unparsed input.
#[derive(Debug)]
pub(crate) struct Inbound {
    buffer: Box<[u8]>,
    filled: usize,
}

impl Inbound {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { buffer: vec![0; capacity].into_boxed_slice(), filled: 0 }
    }

    /// Where the next bytes go; tell [`Self::advance`] how many came.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.filled..).unwrap_or_default()
    }

    /// Takes `count` new bytes, and hands every whole frame to `each` as id and body.
    pub(crate) fn advance(&mut self, count: usize, mut each: impl FnMut(u64, &[u8])) {
        self.filled += count;
        let mut rest = self.buffer.get(..self.filled).unwrap_or_default();
        let frames = iter::from_fn(|| {
            let (id, body, after) = split(rest)?;
            rest = after;
            Some((id, body))
        });
        frames.for_each(|(id, body)| each(id, body));
        let kept = rest.len();
        self.buffer.copy_within(self.filled - kept..self.filled, 0);
        self.filled = kept;
    }
}

fn split(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (frame, rest) = rest.split_at_checked(length)?;
    let (id, body) = frame.split_first_chunk::<ID>()?;
    Some((u64::from_le_bytes(*id), body, rest))
}
