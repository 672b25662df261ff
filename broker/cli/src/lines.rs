//! Input cut into lines, and messages put together again.
//!
//! A line ends with LF, which is not part of it; a CR before it is. Empty lines are lines, and
//! bytes need not be UTF-8. What follows the last LF is a line if it is not empty, and its message
//! carries the header [`LINE_END`], so that [`write_line`] gives back every input byte for byte.

use bytes::{Bytes, BytesMut};
use posthouse_protocol::limits;
use std::fmt;
use std::io::{self, Read, Write};

/// Header of a message that was a line without LF at the end of its input; its value is `none`.
pub(crate) const LINE_END: &[u8] = b"posthouse-line-end";
/// Value of [`LINE_END`].
pub(crate) const LINE_END_NONE: &[u8] = b"none";

/// Read at a time. What is there is handed on without waiting for more.
const CHUNK_BYTES: usize = 256 << 10;
const LINE_BYTES_MAX: usize = limits::MESSAGE_BYTES_MAX as usize;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Without its LF.
    pub(crate) body: Bytes,
    /// Whether it had one.
    pub(crate) ended: bool,
}

/// Input that cannot be cut into lines.
#[derive(Debug)]
pub(crate) enum LineError {
    /// The system's.
    Io(io::Error),
    /// A line that is longer than any message may be.
    TooLong {
        /// Which, from 1.
        line: u64,
    },
}

/// Cuts `input` into lines.
#[derive(Debug)]
pub(crate) struct LineReader<R> {
    input: R,
    /// The beginning of the line that is not complete yet.
    rest: BytesMut,
    /// Lines handed out.
    count: u64,
}

impl<R: Read> LineReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, rest: BytesMut::new(), count: 0 }
    }

    /// The lines that the next reads complete, at least one; none at the end of the input. Blocks.
    pub(crate) fn next_lines(&mut self) -> Result<Vec<Line>, LineError> {
        loop {
            let known = self.rest.len();
            self.rest.resize(known + CHUNK_BYTES, 0);
            let read = match self.input.read(self.rest.get_mut(known..).unwrap_or_default()) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.rest.truncate(known);
                    continue;
                }
                Err(error) => return Err(LineError::Io(error)),
            };
            self.rest.truncate(known + read);
            let lines = if read == 0 { self.last_line() } else { self.complete_lines(known) };
            self.count += lines.len() as u64;
            if self.rest.len() > LINE_BYTES_MAX {
                return Err(LineError::TooLong { line: self.count + 1 });
            }
            if read == 0 || !lines.is_empty() {
                return Ok(lines);
            }
        }
    }

    /// Takes all lines whose LF is there; the first `known` bytes have none.
    fn complete_lines(&mut self, known: usize) -> Vec<Line> {
        let fresh = self.rest.get(known..).unwrap_or_default();
        let Some(last) = fresh.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let mut complete = self.rest.split_to(known + last + 1).freeze();
        let mut lines = Vec::new();
        while let Some(end) = complete.iter().position(|byte| *byte == b'\n') {
            let mut body = complete.split_to(end + 1);
            body.truncate(end);
            lines.push(Line { body, ended: true });
        }
        lines
    }

    fn last_line(&mut self) -> Vec<Line> {
        if self.rest.is_empty() {
            return Vec::new();
        }
        vec![Line { body: self.rest.split().freeze(), ended: false }]
    }
}

/// Writes a body as a line. `headers` say whether it had an LF.
pub(crate) fn write_line(out: &mut impl Write, body: &[u8], ended: bool) -> io::Result<()> {
    out.write_all(body)?;
    if ended { out.write_all(b"\n") } else { Ok(()) }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read the input: {error}"),
            Self::TooLong { line } => {
                write!(f, "line {line} is longer than a message can be ({LINE_BYTES_MAX} bytes)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_put_together_again_are_the_input() {
        for input in [
            &b""[..],
            b"\n",
            b"\n\n",
            b"a",
            b"a\n",
            b"a\nb",
            b"a\r\nb\r\n",
            b"\r",
            b"\r\n\r",
            b"\n\na\n\n",
            b"\xff\xfe\n\x00\n\xc3",
        ] {
            for step in 1..=input.len().max(1) {
                let lines = cut(Trickle { input, step });
                let mut output = Vec::new();
                for line in &lines {
                    write_line(&mut output, &line.body, line.ended).unwrap();
                }
                assert_eq!(output, input, "in steps of {step}");
                assert!(lines.iter().all(|line| !line.body.contains(&b'\n')));
                let count = input.iter().filter(|byte| **byte == b'\n').count();
                let open = usize::from(!input.is_empty() && !input.ends_with(b"\n"));
                assert_eq!(lines.len(), count + open);
            }
        }
    }

    #[test]
    fn complete_lines_do_not_wait_for_the_rest() {
        let mut reader = LineReader::new(Trickle { input: b"one\ntwo\nthr", step: 9 });
        let lines = reader.next_lines().unwrap();
        assert_eq!(lines.iter().map(|line| &line.body[..]).collect::<Vec<_>>(), [b"one", b"two"]);
    }

    #[test]
    fn line_longer_than_a_message_is_named() {
        let input = Read::chain(&b"short\n"[..], io::repeat(b'x'));
        let mut reader = LineReader::new(input);
        let mut lines = reader.next_lines();
        while lines.is_ok() {
            lines = reader.next_lines();
        }
        assert!(matches!(lines, Err(LineError::TooLong { line: 2 })));
    }

    fn cut(input: impl Read) -> Vec<Line> {
        let mut reader = LineReader::new(input);
        let mut all = Vec::new();
        loop {
            let lines = reader.next_lines().unwrap();
            if lines.is_empty() {
                return all;
            }
            all.extend(lines);
        }
    }

    /// Gives at most `step` bytes at a time.
    struct Trickle<'a> {
        input: &'a [u8],
        step: usize,
    }

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.step.min(buffer.len());
            self.input.take(len as u64).read(buffer).inspect(|read| {
                self.input = &self.input[*read..];
            })
        }
    }
}
