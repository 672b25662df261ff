//! Rows of a query as what they stand for.

use crate::error::Error;
use bytes::Bytes;
use posthouse_client::outbox::sql::parse_ids;
use posthouse_client::outbox::{Claim, Parked, Row, RowId};
use posthouse_client::{MessageId, Timestamp};
use rusqlite::Connection;
use rusqlite::types::{FromSqlError, Type};

/// Everything that a query gives.
pub(super) fn all<T>(
    connection: &Connection,
    query: &str,
    doing: &'static str,
    decode: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Error> {
    let read = || -> rusqlite::Result<Vec<T>> {
        connection.prepare(query)?.query_map([], decode)?.collect()
    };
    read().map_err(|error| Error::database(doing, error))
}

pub(super) fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let key: Option<Vec<u8>> = row.get(3)?;
    let body: Vec<u8> = row.get(5)?;
    Ok(Row {
        id: RowId(number(row, 0)?),
        message_id: message_id(row, 1)?,
        topic: row.get(2)?,
        key: key.map(Bytes::from),
        headers: row.get(4)?,
        body: body.into(),
        due_at: time(row, 6)?,
        created_at: time(row, 7)?,
    })
}

/// A message's id, if it has the length of one.
fn message_id(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<MessageId>> {
    let id: Vec<u8> = row.get(column)?;
    Ok(id.try_into().ok().map(MessageId))
}

pub(super) fn parked(row: &rusqlite::Row<'_>) -> rusqlite::Result<Parked> {
    Ok(Parked {
        id: RowId(number(row, 0)?),
        message_id: message_id(row, 1)?,
        topic: row.get(2)?,
        body_bytes: number(row, 3)?,
        created_at: time(row, 4)?,
        reason: row.get(5)?,
        parked_at: time(row, 6)?.0,
    })
}

pub(super) fn claim(row: &rusqlite::Row<'_>) -> rusqlite::Result<Claim> {
    let ids: String = row.get(1)?;
    let rows = parse_ids(&ids).ok_or_else(|| {
        let source = FromSqlError::Other(format!("row ids of a claim: {ids:?}").into());
        rusqlite::Error::FromSqlConversionFailure(1, Type::Text, source.into())
    })?;
    Ok(Claim { sequence: number(row, 0)?, rows, digest: row.get(2)? })
}

/// A time before 1970, which somebody's SQL made, is as if there were none.
fn time(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    let millis: i64 = row.get(column)?;
    Ok(Timestamp(u64::try_from(millis).unwrap_or(0)))
}

/// A number that our own statements wrote, and that is never negative.
pub(super) fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}
