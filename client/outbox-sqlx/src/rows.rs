//! From columns to what a relay or an operator reads of an outbox.

use crate::driver::Driver;
use bytes::Bytes;
use posthouse_client::outbox::{Parked, Row, RowId};
use posthouse_client::{MessageId, Timestamp};

/// The values of one row.
pub(crate) trait Columns {
    fn number(&self, column: usize) -> sqlx::Result<Option<i64>>;
    fn text(&self, column: usize) -> sqlx::Result<Option<String>>;
    fn bytes(&self, column: usize) -> sqlx::Result<Option<Bytes>>;
}

/// A row of a query that was made by [`Driver::bulk`].
#[derive(Debug)]
pub(crate) struct Bulk<'a, D: Driver>(pub(crate) &'a D::Row);

impl<D: Driver> Columns for Bulk<'_, D> {
    fn number(&self, column: usize) -> sqlx::Result<Option<i64>> {
        D::bulk_number(self.0, column)
    }

    fn text(&self, column: usize) -> sqlx::Result<Option<String>> {
        D::bulk_text(self.0, column)
    }

    fn bytes(&self, column: usize) -> sqlx::Result<Option<Bytes>> {
        D::bulk_bytes(self.0, column)
    }
}

/// Reads the columns of [`ROW_COLUMNS`](posthouse_client::outbox::sql::ROW_COLUMNS).
pub(crate) fn row(row: &impl Columns) -> sqlx::Result<Row> {
    Ok(Row {
        id: RowId(positive(row.number(0)?)?),
        message_id: message_id(row, 1)?,
        topic: row.text(2)?.ok_or_else(|| odd("a topic is null"))?,
        key: row.bytes(3)?,
        headers: row.text(4)?.ok_or_else(|| odd("headers are null"))?,
        body: row.bytes(5)?.unwrap_or_default(),
        due_at: time(row, 6)?,
        created_at: time(row, 7)?,
    })
}

/// Reads the columns of [`Sql::parked`](posthouse_client::outbox::sql::Sql::parked).
pub(crate) fn parked(row: &impl Columns) -> sqlx::Result<Parked> {
    Ok(Parked {
        id: RowId(positive(row.number(0)?)?),
        message_id: message_id(row, 1)?,
        topic: row.text(2)?.ok_or_else(|| odd("a topic is null"))?,
        body_bytes: positive(row.number(3)?)?,
        created_at: time(row, 4)?,
        reason: row.text(5)?.ok_or_else(|| odd("a reason is null"))?,
        parked_at: time(row, 6)?.0,
    })
}

/// A message's id, if it has the length of one.
fn message_id(row: &impl Columns, column: usize) -> sqlx::Result<Option<MessageId>> {
    let id = row.bytes(column)?.ok_or_else(|| odd("an id is null"))?;
    Ok(<[u8; 16]>::try_from(&id[..]).ok().map(MessageId))
}

/// A time before 1970, which somebody's SQL made, is as if there were none: it must not end a relay.
fn time(row: &impl Columns, column: usize) -> sqlx::Result<Timestamp> {
    let millis = row.number(column)?.ok_or_else(|| odd("a time is null"))?;
    Ok(Timestamp(millis.max(0).unsigned_abs()))
}

/// A number that is there and not negative.
pub(crate) fn positive(number: Option<i64>) -> sqlx::Result<u64> {
    let number = number.ok_or_else(|| odd("a number is null"))?;
    u64::try_from(number).map_err(|_| odd("a number is negative"))
}

/// A value that does not belong there.
pub(crate) fn odd(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}
