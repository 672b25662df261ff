//! Reading and writing the few shapes that the peers' protocols are made of.

use std::io;

/// A reader over bytes that have come. `None` means that more are needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, len: bytes.len() }
    }

    /// Bytes taken so far.
    pub(crate) const fn taken(&self) -> usize {
        self.len - self.rest.len()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn u32_le(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64_le(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length of four bytes, as a number of bytes.
    pub(crate) fn len32(&mut self) -> Option<usize> {
        usize::try_from(self.u32()?).ok()
    }

    /// The same, lowest byte first.
    pub(crate) fn len32_le(&mut self) -> Option<usize> {
        usize::try_from(self.u32_le()?).ok()
    }

    /// Everything before the next CRLF, which is taken too.
    pub(crate) fn line(&mut self) -> Option<&'a [u8]> {
        let newline = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line = self.bytes(newline + 1)?;
        let line = line.get(..newline).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// Bytes of ASCII digits as a number.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Appends a number as ASCII digits.
pub(crate) fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut rest = number;
    let mut start = digits.len();
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        start = place;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// Four bytes of length.
pub(crate) fn push_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

/// Four bytes of length, the lowest first.
pub(crate) fn push_len_le(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

/// One byte of length and the text.
pub(crate) fn push_short(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text.as_bytes());
}

/// Two bytes of length and the text.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// What a peer said, shortened, as an error.
pub(crate) fn unexpected(peer: &str, bytes: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(bytes.get(..bytes.len().min(200)).unwrap_or_default());
    io::Error::other(format!("{peer} said: {}", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::{Reader, number, push_number};

    #[test]
    fn numbers_come_back() {
        for value in [0, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, value);
            assert_eq!(number(&out), Some(value));
        }
        assert_eq!(number(b"12x"), None);
        assert_eq!(number(b""), None);
    }

    #[test]
    fn half_a_line_is_none() {
        let mut reader = Reader::new(b"+OK\r\n-ER");
        assert_eq!(reader.line(), Some(&b"+OK"[..]));
        assert_eq!(reader.line(), None);
        assert_eq!(reader.taken(), 5);
    }
}
