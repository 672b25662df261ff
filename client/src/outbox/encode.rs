//! From rows to what goes to the broker: one batch for each topic, and one more for its rows with
//! times; the same bytes for the same rows however often they are read.

use super::headers;
use super::row::{Row, RowId};
use bytes::{Bytes, BytesMut};
use posthouse_protocol::batch::{BatchBuilder, Message, encoded_len};
use posthouse_protocol::message::{CommitPublish, Operation, RefusedAt};
use posthouse_protocol::{Name, Timestamp, limits};

/// The rows of one claim as a commit carries them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// One publish for each topic, and one for its rows with times, in the order of their first rows.
    pub(crate) operations: Vec<Operation>,
    /// The batches, one after another.
    pub(crate) tail: Bytes,
    /// CRC-32 of topics and batches.
    pub(crate) digest: u32,
    /// The rows of each operation.
    places: Vec<Vec<RowId>>,
}

impl Encoded {
    /// The rows that a refusal is about: one, or all of an operation; none if it names nothing that
    /// is here.
    pub(crate) fn rows_at(&self, at: &RefusedAt) -> Vec<RowId> {
        let operation = usize::try_from(at.operation).ok();
        let rows = operation.and_then(|operation| self.places.get(operation));
        let rows = rows.map(Vec::as_slice).unwrap_or_default();
        if at.message == RefusedAt::NO_MESSAGE {
            return rows.to_vec();
        }
        let place = usize::try_from(at.message).ok();
        place.and_then(|place| rows.get(place)).map(|row| vec![*row]).unwrap_or_default()
    }
}

/// A row that no broker takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadRow {
    /// The row.
    pub(crate) row: RowId,
    /// What is wrong with it and what to do.
    pub(crate) reason: String,
}

/// Encodes rows; those of one topic stay in the order in which they come.
///
/// # Errors
///
/// The first row that cannot be sent.
pub(crate) fn encode(rows: &[Row]) -> Result<Encoded, BadRow> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    for row in rows {
        let bad = |reason: String| BadRow { row: row.id, reason };
        let (topic, message) = message(row).map_err(bad)?;
        let at = parts.iter().position(|part| part.takes(&topic, row)).unwrap_or_else(|| {
            parts.push(Part::new(topic, row));
            parts.len() - 1
        });
        if let Some(part) = parts.get_mut(at) {
            part.batch.push(&message).map_err(|error| bad(error.to_string()))?;
            part.rows.push(row.id);
        }
    }
    Ok(join(parts))
}

struct Part<'a> {
    topic: Name,
    batch: BatchBuilder,
    first: &'a Row,
    rows: Vec<RowId>,
}

impl<'a> Part<'a> {
    fn new(topic: Name, first: &'a Row) -> Self {
        Self { topic, batch: BatchBuilder::new(), first, rows: Vec::new() }
    }

    /// The broker takes no batch in which some messages have times at which they are due and some
    /// have none.
    fn takes(&self, topic: &Name, row: &Row) -> bool {
        let is_timed = |row: &Row| row.due_at != Timestamp::ZERO;
        self.topic == *topic && is_timed(self.first) == is_timed(row)
    }
}

fn join(parts: Vec<Part<'_>>) -> Encoded {
    let mut digest = crc32fast::Hasher::new();
    let (mut operations, mut places, mut tail) = (Vec::new(), Vec::new(), BytesMut::new());
    for mut part in parts {
        let batch = part.batch.finish(part.first.created_at);
        digest.update(part.topic.as_str().as_bytes());
        // No name holds a zero, and a batch says how long it is.
        digest.update(&[0]);
        digest.update(&batch);
        let bytes = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        operations.push(Operation::Publish(CommitPublish { topic: part.topic, bytes }));
        tail.extend_from_slice(&batch);
        places.push(part.rows);
    }
    Encoded { operations, tail: tail.freeze(), digest: digest.finalize(), places }
}

/// What is wrong with a row, whatever the broker's own limits are; `None` if nothing.
pub(crate) fn fault(row: &Row) -> Option<String> {
    let (_, message) = match message(row) {
        Ok(message) => message,
        Err(reason) => return Some(reason),
    };
    let body = row.body.len();
    if body > limits::MESSAGE_BYTES_MAX as usize {
        let limit = limits::MESSAGE_BYTES_MAX;
        return Some(format!("the body has {body} bytes; no broker takes more than {limit}"));
    }
    // Everything but the body, which would be copied.
    let rest = Message { body: Bytes::new(), ..message };
    BatchBuilder::new().push(&rest).err().map(|error| error.to_string())
}

/// Bytes that a row takes in a batch, roughly.
pub(crate) fn weight(row: &Row) -> u64 {
    let fixed = encoded_len(&Message { key: row.key.clone(), ..Message::default() });
    u64::try_from(fixed + row.headers.len() + row.body.len()).unwrap_or(u64::MAX)
}

fn message(row: &Row) -> Result<(Name, Message), String> {
    let topic = Name::new(&row.topic).map_err(|error| format!("topic: {error}"))?;
    let headers = headers::decode(&row.headers).map_err(|error| error.to_string())?;
    let id =
        row.message_id.ok_or("message_id: it is not 16 bytes long; redrive gives it another")?;
    let message = Message {
        id,
        created_at: row.created_at,
        key: row.key.clone(),
        headers,
        due_at: row.due_at,
        body: row.body.clone(),
        ..Message::default()
    };
    Ok((topic, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthouse_protocol::MessageId;
    use posthouse_protocol::batch::BatchView;

    #[test]
    fn rows_with_times_have_a_batch_of_their_own() {
        let due = Row { due_at: Timestamp(9), ..row(2, "a") };
        let encoded = encode(&[row(1, "a"), due, row(3, "a")]).unwrap();

        assert_eq!(encoded.places, [vec![RowId(1), RowId(3)], vec![RowId(2)]]);
        assert_eq!(encoded.operations.len(), 2);
    }

    #[test]
    fn rows_become_one_batch_for_each_topic_in_the_order_of_first_rows() {
        let rows = [row(1, "b"), row(2, "a"), row(3, "b")];

        let encoded = encode(&rows).unwrap();

        let topics: Vec<_> = encoded.operations.iter().map(topic_and_bytes).collect();
        let [(first, first_bytes), (second, second_bytes)] = topics.as_slice() else {
            panic!("{topics:?}");
        };
        assert_eq!((first.as_str(), second.as_str()), ("b", "a"));
        assert_eq!(*first_bytes + *second_bytes, encoded.tail.len());
        assert_eq!(ids(&encoded.tail[..*first_bytes]), [1, 3]);
        assert_eq!(ids(&encoded.tail[*first_bytes..]), [2]);
    }

    #[test]
    fn everything_of_a_row_is_in_its_message() {
        let row = Row {
            key: Some("k".into()),
            headers: r#"[["a","1"]]"#.to_owned(),
            due_at: Timestamp(77),
            ..row(9, "orders")
        };

        let encoded = encode(std::slice::from_ref(&row)).unwrap();

        let view = BatchView::parse(&encoded.tail).unwrap();
        let message = view.messages().next().unwrap();
        assert_eq!(Some(message.entry.id), row.message_id);
        assert_eq!(message.entry.key, Some(&b"k"[..]));
        assert_eq!((message.entry.due_at, message.entry.created_at), (row.due_at, row.created_at));
        let headers: Vec<_> = message.entry.headers().unwrap().map(Result::unwrap).collect();
        assert_eq!(headers, [(&b"a"[..], &b"1"[..])]);
        assert_eq!(message.body, &row.body[..]);
    }

    /// What a claim holds is read again after a crash, perhaps by a newer version of this program:
    /// these bytes must stay.
    #[test]
    fn same_rows_have_the_same_digest_for_ever() {
        let rows = [row(1, "orders"), row(2, "audit")];

        let encoded = encode(&rows).unwrap();

        assert_eq!(encoded, encode(&rows).unwrap());
        assert_eq!(encoded.digest, 4_199_786_196);
        let swapped = encode(&[row(1, "audit"), row(2, "orders")]).unwrap();
        assert_ne!(encoded.digest, swapped.digest);
    }

    #[test]
    fn refusal_names_its_rows() {
        let encoded = encode(&[row(1, "b"), row(2, "a"), row(3, "b")]).unwrap();
        let rows = |operation, message| encoded.rows_at(&RefusedAt { operation, message });

        assert_eq!(rows(0, 1), [RowId(3)]);
        assert_eq!(rows(0, RefusedAt::NO_MESSAGE), [RowId(1), RowId(3)]);
        assert_eq!(rows(1, 0), [RowId(2)]);
        assert_eq!(rows(2, 0), []);
        assert_eq!(rows(1, 1), []);
    }

    #[test]
    fn row_that_no_broker_takes_is_found_before_it_is_claimed() {
        let faults = [
            (Row { topic: "../x".to_owned(), ..row(1, "") }, "invalid name"),
            (Row { headers: "{}".to_owned(), ..row(1, "a") }, "headers"),
            (Row { key: Some(vec![0; 2000].into()), ..row(1, "a") }, "message.key"),
            (Row { message_id: None, ..row(1, "a") }, "message_id"),
            (Row { body: vec![0; (16 << 20) + 1].into(), ..row(1, "a") }, "16777217 bytes"),
        ];
        for (row, expected) in faults {
            let found = fault(&row).unwrap();
            assert!(found.contains(expected), "{found}");
            assert!(encode(&[row]).is_err(), "{expected}");
        }
        assert_eq!(fault(&row(1, "a")), None);
    }

    fn row(id: u8, topic: &str) -> Row {
        Row {
            id: RowId(u64::from(id)),
            message_id: Some(MessageId([id; 16])),
            topic: topic.to_owned(),
            key: None,
            headers: String::new(),
            body: format!("body {id}").into(),
            due_at: Timestamp::ZERO,
            created_at: Timestamp(1_700_000_000_000 + u64::from(id)),
        }
    }

    fn topic_and_bytes(operation: &Operation) -> (String, usize) {
        let Operation::Publish(publish) = operation else { panic!("{operation:?}") };
        (publish.topic.to_string(), publish.bytes as usize)
    }

    fn ids(batch: &[u8]) -> Vec<u8> {
        let view = BatchView::parse(batch).unwrap();
        view.messages().map(|message| message.entry.id.0[0]).collect()
    }
}
