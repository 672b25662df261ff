//! The tables and every statement on them, as text, for all drivers and databases.
//!
//! Numbers and strings that the relay and the inbox pass are written into the text: numbers as
//! digits, strings as letters and digits or in base 16, so that nothing in them can end a literal.
//! That makes every statement one round trip without a named prepared statement, behind a proxy that
//! pools transactions too. What an application enqueues is bound or written likewise, see
//! [`Sql::enqueue_literally`].

mod enqueue;
mod identity;
mod inbox;
mod order;
mod relay;
mod schema;

pub use identity::{same_sqlite, sqlite_identity};
pub use inbox::{Arrival, Floor};

use super::row::RowId;
use super::store::{OutboxId, RowRange};
use crate::ids::random;
use std::fmt::{self, Write as _};

/// The columns of a row in the order in which every statement gives them.
pub const ROW_COLUMNS: [&str; 8] =
    ["id", "message_id", "topic", "message_key", "headers", "body", "due_at", "created_at"];

/// Longest prefix of the tables' names.
const PREFIX_MAX: usize = 32;

/// A kind of SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// PostgreSQL 13 or newer.
    Postgres,
    /// MariaDB 10.6 or newer, MySQL 8.0.29 or newer.
    Mysql,
    /// SQLite 3.37 or newer.
    Sqlite,
}

/// The statements on the tables with one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql {
    dialect: Dialect,
    prefix: String,
}

impl Sql {
    /// Prefix of the tables' names where none is chosen.
    pub const PREFIX: &str = "posthouse_";

    /// Statements on the tables `<prefix>outbox`, `<prefix>inbox` and so on.
    ///
    /// # Errors
    ///
    /// [`InvalidPrefix`] unless it is at most 32 lower-case letters, digits and underscores and
    /// does not start with a digit.
    pub fn new(dialect: Dialect, prefix: &str) -> Result<Self, InvalidPrefix> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let starts_well = !prefix.starts_with(|first: char| first.is_ascii_digit());
        if prefix.len() <= PREFIX_MAX && starts_well && prefix.bytes().all(allowed) {
            Ok(Self { dialect, prefix: prefix.to_owned() })
        } else {
            Err(InvalidPrefix { prefix: prefix.to_owned() })
        }
    }

    /// The statements with the prefix [`Self::PREFIX`].
    #[must_use]
    pub fn standard(dialect: Dialect) -> Self {
        Self { dialect, prefix: Self::PREFIX.to_owned() }
    }

    /// For which kind of database.
    #[must_use]
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The prefix of the tables' names.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn table(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Milliseconds since 1970 by the database's clock, whatever the session's time zone.
    const fn now(&self) -> &'static str {
        match self.dialect {
            Dialect::Postgres => "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            Dialect::Mysql => "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000",
            Dialect::Sqlite => "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
        }
    }

    /// A literal of type text.
    fn text(&self, text: &str) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" ._:/@,-[]\"".contains(&byte);
        if text.bytes().all(plain) {
            return format!("'{text}'");
        }
        // PostgreSQL has no such character.
        let hex = base16(text.replace('\0', "\u{fffd}").as_bytes());
        match self.dialect {
            Dialect::Postgres => format!("convert_from(decode('{hex}', 'hex'), 'UTF8')"),
            Dialect::Mysql => format!("CONVERT(X'{hex}' USING utf8mb4)"),
            Dialect::Sqlite => format!("CAST(X'{hex}' AS TEXT)"),
        }
    }

    /// A literal of sixteen bytes, for a column that holds an id.
    fn id(&self, id: [u8; 16]) -> String {
        let hex = base16(&id);
        match self.dialect {
            Dialect::Postgres => format!("'{hex}'::uuid"),
            Dialect::Mysql | Dialect::Sqlite => format!("X'{hex}'"),
        }
    }

    /// An id column as sixteen bytes.
    fn id_bytes(&self, column: &str) -> String {
        match self.dialect {
            Dialect::Postgres => format!("uuid_send({column})"),
            Dialect::Mysql | Dialect::Sqlite => column.to_owned(),
        }
    }

    /// An expression that may be of another type, as a signed 64-bit number.
    fn integer(&self, expression: &str) -> String {
        match self.dialect {
            Dialect::Postgres => format!("({expression})::bigint"),
            Dialect::Mysql => format!("CAST({expression} AS SIGNED)"),
            Dialect::Sqlite => format!("CAST({expression} AS INTEGER)"),
        }
    }
}

impl OutboxId {
    /// An id that nothing else has.
    #[must_use]
    pub fn fresh() -> Self {
        Self((u128::from(random()) << 64 | u128::from(random())).to_be_bytes())
    }
}

/// A prefix that cannot be part of a table's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPrefix {
    prefix: String,
}

impl fmt::Display for InvalidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "prefix {:?} of the outbox tables: use at most {PREFIX_MAX} lower-case letters, digits \
             and underscores, and no digit first",
            self.prefix
        )
    }
}

impl std::error::Error for InvalidPrefix {}

/// Ids as a claim holds them, for people to read: `3-7,9`.
#[must_use]
pub fn write_ids(ids: &[RowId]) -> String {
    let mut text = String::new();
    for RowRange { first, last } in runs(ids) {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a string does not fail.
        let _ = match first == last {
            true => write!(text, "{comma}{}", first.0),
            false => write!(text, "{comma}{}-{}", first.0, last.0),
        };
    }
    text
}

/// The ids in a claim's text; `None` if it is not one that [`write_ids`] made.
#[must_use]
pub fn parse_ids(text: &str) -> Option<Vec<RowId>> {
    /// More than a commit can hold: the text was tampered with.
    const IDS_MAX: usize = 1 << 20;
    let mut ids = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let count = usize::try_from(last.checked_sub(first)?).ok()?;
        if count >= IDS_MAX - ids.len() {
            return None;
        }
        ids.extend((first..=last).map(RowId));
    }
    Some(ids)
}

/// Ascending ids as ranges.
fn runs(ids: &[RowId]) -> Vec<RowRange> {
    let mut runs: Vec<RowRange> = Vec::new();
    for id in ids {
        match runs.last_mut() {
            Some(run) if run.last.0.checked_add(1) == Some(id.0) => run.last = *id,
            _ => runs.push(RowRange { first: *id, last: *id }),
        }
    }
    runs
}

fn base16(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(if value < 10 { b'0' + value } else { b'a' + value - 10 });
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    text
}

/// `1, 2, 3`
fn list(ids: &[RowId]) -> String {
    let ids: Vec<_> = ids.iter().map(|id| id.0.to_string()).collect();
    ids.join(", ")
}

/// Consecutive ids of at least so many are written as a range: one range is a fraction of the work of
/// its ids, for the parser as for the index, but a hundred alternatives cost more than a list.
const RANGE_MIN: u64 = 64;

/// A condition that holds for exactly these ids, of which there is at least one.
fn among(column: &str, ids: &[RowId]) -> String {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let is_long = |run: &RowRange| run.last.0 - run.first.0 + 1 >= RANGE_MIN;
    let (long, short): (Vec<_>, Vec<_>) = runs(&ids).into_iter().partition(is_long);
    let between = |run: &RowRange| format!("{column} BETWEEN {} AND {}", run.first.0, run.last.0);
    let mut parts: Vec<_> = long.iter().map(between).collect();
    let rest: Vec<_> = short.iter().flat_map(|run| run.first.0..=run.last.0).map(RowId).collect();
    if !rest.is_empty() {
        parts.push(format!("{column} IN ({})", list(&rest)));
    }
    format!("({})", parts.join(" OR "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_consecutive_ids_are_a_range_and_no_other_id_is_in_it() {
        let ids = |ids: &[u64]| ids.iter().copied().map(RowId).collect::<Vec<_>>();
        let few = ids(&[9, 3, 4]);
        assert_eq!(among("id", &few), "(id IN (3, 4, 9))");

        let mut many: Vec<_> = (100..200).chain([7, 300]).chain(400..463).map(RowId).collect();
        many.reverse();
        let rest: Vec<_> = (400..463).map(|id| id.to_string()).collect();
        let rest = rest.join(", ");
        assert_eq!(
            among("id", &many),
            format!("(id BETWEEN 100 AND 199 OR id IN (7, 300, {rest}))")
        );

        let run: Vec<_> = (1..=64).map(RowId).collect();
        assert_eq!(among("o.id", &run), "(o.id BETWEEN 1 AND 64)");
    }

    #[test]
    fn prefix_that_could_say_something_else_in_sql_is_refused() {
        for good in ["", "posthouse_", "_a1"] {
            assert!(Sql::new(Dialect::Sqlite, good).is_ok(), "{good}");
        }
        for bad in ["1a", "a b", "a;", "Ü", "A", "a.b", "a\"", &"a".repeat(33)] {
            assert!(Sql::new(Dialect::Sqlite, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_that_is_not_plain_is_written_in_base_16() {
        let text = |dialect, text| Sql::standard(dialect).text(text);

        assert_eq!(text(Dialect::Sqlite, "relay-7 @ host.example"), "'relay-7 @ host.example'");
        assert_eq!(text(Dialect::Sqlite, "'"), "CAST(X'27' AS TEXT)");
        assert_eq!(text(Dialect::Mysql, "\\"), "CONVERT(X'5c' USING utf8mb4)");
        assert_eq!(text(Dialect::Postgres, "\0"), "convert_from(decode('efbfbd', 'hex'), 'UTF8')");
    }

    #[test]
    fn ids_of_a_claim_come_back_as_they_were() {
        for ids in [vec![], vec![1], vec![1, 2, 3, 5, 7, 8], vec![9, 3, u64::MAX]] {
            let ids: Vec<_> = ids.into_iter().map(RowId).collect();
            assert_eq!(parse_ids(&write_ids(&ids)), Some(ids));
        }
        assert_eq!(write_ids(&[3, 4, 5, 9].map(RowId)), "3-5,9");
    }

    #[test]
    fn damaged_ids_of_a_claim_are_noticed() {
        for bad in ["a", "3-1", "1-99999999999", "-", "1,,x", "18446744073709551616"] {
            assert_eq!(parse_ids(bad), None, "{bad}");
        }
    }
}
