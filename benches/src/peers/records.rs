//! Batches of records as Kafka keeps and sends them, version 2.

use super::bytes::{Reader, push_len};

/// Bytes of a batch after its length, before its checksum; and of all its numbers.
const BEFORE_CHECKSUM: usize = 5;
const HEAD: usize = 49;
const VERSION: u8 = 2;
const COMPRESSION: u16 = 7;
const CHECKSUM: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// `count` records of the same body and time (in milliseconds since 1970), of no producer.
pub(super) fn push_batch(out: &mut Vec<u8>, count: usize, body: &[u8], millis: u64) {
    // What the checksum covers: attributes, last number, two times, producer, epoch, sequence.
    let mut rest = vec![0; 2];
    push_len(&mut rest, count.saturating_sub(1));
    rest.extend_from_slice(&millis.to_be_bytes());
    rest.extend_from_slice(&millis.to_be_bytes());
    rest.extend_from_slice(&[0xFF; 14]);
    push_len(&mut rest, count);
    for number in 0..count {
        push_record(&mut rest, number, body);
    }
    out.extend_from_slice(&[0; 8]);
    push_len(out, BEFORE_CHECKSUM + 4 + rest.len());
    out.extend_from_slice(&[0, 0, 0, 0, VERSION]);
    out.extend_from_slice(&CHECKSUM.checksum(&rest).to_be_bytes());
    out.extend_from_slice(&rest);
}

/// Attributes, time, number, no key, body, no headers.
fn push_record(out: &mut Vec<u8>, number: usize, body: &[u8]) {
    let mut record = vec![0, 0];
    push_varint(&mut record, number as u64);
    record.push(1);
    push_varint(&mut record, body.len() as u64);
    record.extend_from_slice(body);
    record.push(0);
    push_varint(out, record.len() as u64);
    out.extend_from_slice(&record);
}

/// Seven bits a byte, the lowest first; the lowest of all says whether it is negative.
fn push_varint(out: &mut Vec<u8>, number: u64) {
    let mut rest = number << 1;
    while rest > 0x7F {
        out.push(u8::try_from(rest & 0x7F).unwrap_or(0) | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap_or(0));
}

/// Shows every body from the offset `next` on, and says which offset follows the last one. `None` if
/// a batch is compressed or malformed, or if not even one is whole.
pub(super) fn read(records: &[u8], next: u64, mut see: impl FnMut(&[u8])) -> Option<u64> {
    let (mut reader, mut after) = (Reader::new(records), next);
    // The last one is cut off where the server had no more room.
    while let Some((first, batch)) = whole(&mut reader) {
        let mut batch = Reader::new(batch);
        let last = read_batch(&mut batch, |number, body| {
            if first.saturating_add(number) >= next {
                see(body);
            }
        })?;
        after = first.saturating_add(last).saturating_add(1);
    }
    (records.is_empty() || after > next).then_some(after)
}

/// Offset of the first record, and the batch after its length.
fn whole<'a>(reader: &mut Reader<'a>) -> Option<(u64, &'a [u8])> {
    let first = reader.u64()?;
    let len = reader.len32()?;
    Some((first, reader.bytes(len)?))
}

/// The number of the last record, counted within the batch.
fn read_batch(batch: &mut Reader<'_>, mut see: impl FnMut(u64, &[u8])) -> Option<u64> {
    let mut head = Reader::new(batch.bytes(HEAD)?);
    head.bytes(4)?;
    let version = head.u8()?;
    head.bytes(4)?;
    let (attributes, last) = (head.u16()?, head.u32()?);
    head.bytes(30)?;
    if version != VERSION || attributes & COMPRESSION != 0 {
        return None;
    }
    for _ in 0..head.u32()? {
        // Length, attributes, time.
        varint(batch)?;
        batch.u8()?;
        varint(batch)?;
        let number = u64::try_from(varint(batch)?).ok()?;
        let (_key, body) = (sized(batch)?, sized(batch)?);
        for _ in 0..varint(batch)? {
            let _header = (sized(batch)?, sized(batch)?);
        }
        see(number, body);
    }
    Some(u64::from(last))
}

/// A length and as many bytes; there are none if it is negative.
fn sized<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = varint(reader)?;
    reader.bytes(usize::try_from(len).unwrap_or(0))
}

fn varint(reader: &mut Reader<'_>) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = reader.u8()?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(i64::try_from(value >> 1).ok()? ^ -i64::try_from(value & 1).ok()?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Reader, push_batch, push_varint, read, varint};

    /// What the description of the format makes of one record `hi` at the first millisecond,
    /// computed by hand but for the checksum, which is of another program.
    const ONE: [u8; 70] = [
        0, 0, 0, 0, 0, 0, 0, 0, // base offset
        0, 0, 0, 58, // length
        0, 0, 0, 0, 2, // leader epoch, magic
        0x3D, 0x1F, 0x80, 0xEE, // checksum
        0, 0, 0, 0, 0, 0, // attributes, last offset delta
        0, 0, 0, 0, 0, 0, 0, 1, // first timestamp
        0, 0, 0, 0, 0, 0, 0, 1, // newest timestamp
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, // producer id
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, // producer epoch, base sequence
        0, 0, 0, 1, // records
        16, 0, 0, 0, 1, 4, b'h', b'i', 0, // length 8, attributes, time, number, key, value
    ];

    fn bodies(records: &[u8], next: u64) -> (Option<u64>, Vec<Vec<u8>>) {
        let mut bodies = Vec::new();
        let after = read(records, next, |body| bodies.push(body.to_vec()));
        (after, bodies)
    }

    #[test]
    fn a_batch_is_as_described() {
        let mut out = Vec::new();
        push_batch(&mut out, 1, b"hi", 1);
        assert_eq!(out, ONE);
    }

    #[test]
    fn batches_are_read_back_from_an_offset_on() {
        let mut out = Vec::new();
        push_batch(&mut out, 200, b"first", 1);
        let second = out.len();
        push_batch(&mut out, 2, b"second", 1);
        // The second one begins where the first one ends.
        out[second + 7] = 200;
        let (after, found) = bodies(&out, 199);
        assert_eq!(after, Some(202));
        assert_eq!(found, [b"first".to_vec(), b"second".to_vec(), b"second".to_vec()]);
    }

    #[test]
    fn a_batch_that_is_cut_off_is_left_for_the_next_fetch() {
        let mut out = Vec::new();
        push_batch(&mut out, 3, b"x", 1);
        let half = out.clone();
        out.extend_from_slice(&half[..half.len() - 1]);
        assert_eq!(bodies(&out, 0).0, Some(3));
        assert_eq!(bodies(&half[..half.len() - 1], 0).0, None);
        assert_eq!(bodies(&[], 7).0, Some(7));
    }

    #[test]
    fn keys_and_headers_are_passed_over_and_compressed_batches_refused() {
        let mut batch = ONE[..61].to_vec();
        // Length 12, attributes, time, number, key `k`, no value, one header `a: bc`.
        batch.extend_from_slice(&[24, 0, 0, 0, 2, b'k', 1, 2, 2, b'a', 4, b'b', b'c']);
        batch[11] = u8::try_from(batch.len() - 12).unwrap();
        assert_eq!(bodies(&batch, 0), (Some(1), vec![Vec::new()]));
        batch[22] = 1;
        assert_eq!(bodies(&batch, 0).0, None);
    }

    #[test]
    fn numbers_are_those_of_the_description() {
        for (number, bytes) in [(0, &[0][..]), (63, &[126]), (64, &[128, 1]), (300, &[216, 4])] {
            let mut out = Vec::new();
            push_varint(&mut out, number);
            assert_eq!(out, bytes);
            assert_eq!(varint(&mut Reader::new(bytes)), i64::try_from(number).ok());
        }
        assert_eq!(varint(&mut Reader::new(&[1])), Some(-1));
        assert_eq!(varint(&mut Reader::new(&[3])), Some(-2));
        assert_eq!(varint(&mut Reader::new(&[128])), None);
    }
}
