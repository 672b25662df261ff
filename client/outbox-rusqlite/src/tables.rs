//! The tables, through one connection: every method is one statement or one transaction.

mod decode;

use crate::database::Database;
use crate::error::Error;
use decode::number;
use posthouse_client::Offset;
use posthouse_client::outbox::sql::{Arrival, Dialect, Floor, Sql, same_sqlite, sqlite_identity};
use posthouse_client::outbox::{
    Claim, Description, Lag, NewRow, OutboxId, Park, Parked, Row, RowId, RowRange, Standing, Step,
};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::path::Path;
use std::time::Duration;

/// Inbox rows that are deleted in one transaction.
const FORGET_ROWS: u32 = 500;
/// Between two roundings-up of one floor at least: what stands below the stored one can have been on
/// its way into the table for less long than this.
const ROUND_PAUSE: Duration = Duration::from_secs(60);

/// The statements for tables with one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    sql: Sql,
}

/// Whether a message is to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes: its row is there now, and nobody else's was.
    New,
    /// No: that has been done.
    Duplicate,
    /// No: this delivery is out of date; the message was handled under a later one.
    Stale,
}

impl Default for Tables {
    fn default() -> Self {
        Self { sql: Sql::standard(Dialect::Sqlite) }
    }
}

// What an application asks.
impl Tables {
    pub(crate) fn new(prefix: &str) -> Result<Self, Error> {
        let sql = Sql::new(Dialect::Sqlite, prefix);
        Ok(Self { sql: sql.map_err(|error| Error::invalid("name the tables", error))? })
    }

    pub(crate) fn upgrade(&self, from: u32) -> String {
        self.sql.upgrade(from).into_iter().map(|statement| statement + ";\n").collect()
    }

    pub(crate) fn install(&self, database: &Database) -> Result<(), Error> {
        let mut connection = database.open_or_create()?;
        let failed = |error| Error::database("make the outbox tables", error);
        let identity = sqlite_identity(Path::new(connection.path().unwrap_or_default()));
        let tx = immediate(&mut connection)?;
        let version = self.installed(&tx).map_err(failed)?;
        tx.execute_batch(&self.upgrade(version)).map_err(failed)?;
        tx.execute(&self.sql.belongs(&identity), []).map_err(failed)?;
        tx.commit().map_err(Error::commit)
    }

    /// The version of the tables, zero if there are none.
    fn installed(&self, tx: &Transaction<'_>) -> rusqlite::Result<u32> {
        if tx.query_row(&self.sql.is_installed(), [], |_row| Ok(())).optional()?.is_none() {
            return Ok(0);
        }
        let version = tx.query_row(&self.sql.installed(), [], |row| row.get(0)).optional()?;
        Ok(version.unwrap_or_default())
    }

    pub(crate) fn enqueue(&self, tx: &Transaction<'_>, row: &NewRow) -> Result<(), Error> {
        let failed = |error| Error::database("enqueue", error);
        let mut insert = tx.prepare_cached(&self.sql.enqueue(1)).map_err(failed)?;
        let columns = params![
            row.message_id.0,
            row.topic,
            row.key.as_deref(),
            row.headers,
            &row.body[..],
            row.due_at.0.cast_signed(),
            row.created_at.0.cast_signed(),
        ];
        insert.execute(columns).map(|_| ()).map_err(failed)
    }
}

// What a relay asks.
impl Tables {
    pub(crate) fn describe(&self, connection: &Connection) -> Result<Description, Error> {
        let failed = |error| Error::database("look at the outbox", error);
        let row = connection.query_row(&self.sql.describe(), [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(4)?))
        });
        let found = row.optional().map_err(failed)?;
        let Some((id, schema_version, belongs_to, owner)) = found else {
            return Err(Error::not_installed("the outbox has no state".to_owned()));
        };
        let belongs_to: String = belongs_to;
        let found_in = sqlite_identity(Path::new(connection.path().unwrap_or_default()));
        let is_same = same_sqlite(&belongs_to, &found_in);
        let found_in = if is_same { belongs_to.clone() } else { found_in };
        Ok(Description {
            outbox: OutboxId(id),
            schema_version,
            belongs_to,
            found_in,
            owner,
            durability_warning: durability_warning(connection)?,
        })
    }

    pub(crate) fn acquire(
        &self,
        connection: &mut Connection,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<Standing>, Error> {
        let failed = |error| Error::database("take the outbox' lease", error);
        let [update, query] = self.sql.acquire(owner, lease);
        let tx = immediate(connection)?;
        if tx.execute(&update, []).map_err(failed)? == 0 {
            return Ok(None);
        }
        // Tables that the text of ddl() made do not know yet in which file they are.
        let identity = sqlite_identity(Path::new(tx.path().unwrap_or_default()));
        tx.execute(&self.sql.belongs(&identity), []).map_err(failed)?;
        let standing = tx.query_row(&query, [], |row| {
            let [epoch, claimed, acked] = [number(row, 0)?, number(row, 1)?, number(row, 2)?];
            Ok(Standing { epoch, claimed, acked })
        });
        let standing = standing.map_err(failed)?;
        tx.commit().map_err(Error::commit)?;
        Ok(Some(standing))
    }

    pub(crate) fn raise_epoch(
        &self,
        connection: &mut Connection,
        from: u64,
        to: u64,
    ) -> Result<bool, Error> {
        self.fenced(connection, "raise the epoch", &[self.sql.raise_epoch(from, to)])
    }

    pub(crate) fn adopt(&self, connection: &mut Connection, epoch: u64) -> Result<bool, Error> {
        let identity = sqlite_identity(Path::new(connection.path().unwrap_or_default()));
        let id = connection.query_row("SELECT randomblob(16)", [], |row| row.get(0));
        let id = OutboxId(id.map_err(|error| Error::database("adopt the outbox", error))?);
        let statements = self.sql.adopt(epoch, id, &identity);
        self.fenced(connection, "adopt the outbox", &statements)
    }

    pub(crate) fn claims(&self, connection: &Connection) -> Result<Vec<Claim>, Error> {
        decode::all(connection, &self.sql.claims(), "read claims", decode::claim)
    }

    pub(crate) fn rows(&self, connection: &Connection, ids: &[RowId]) -> Result<Vec<Row>, Error> {
        decode::all(connection, &self.sql.rows(ids), "read rows", decode::row)
    }

    pub(crate) fn scan(
        &self,
        connection: &Connection,
        gaps: &[RowRange],
        after: RowId,
        [rows_max, bytes_max]: [u64; 2],
    ) -> Result<Vec<Row>, Error> {
        let rows_max = u32::try_from(rows_max).unwrap_or(u32::MAX);
        let scan = self.sql.scan(gaps, after, rows_max, bytes_max);
        decode::all(connection, &scan, "look for rows", decode::row)
    }

    pub(crate) fn sweep(
        &self,
        connection: &Connection,
        from: RowId,
        through: RowId,
        limit: u32,
    ) -> Result<Vec<RowId>, Error> {
        let sweep = self.sql.sweep(from, through, limit);
        decode::all(connection, &sweep, "look for rows", |row| number(row, 0).map(RowId))
    }

    pub(crate) fn step(&self, connection: &mut Connection, step: &Step) -> Result<bool, Error> {
        self.fenced(connection, "record a claim", &self.sql.step(step))
    }

    pub(crate) fn park(&self, connection: &mut Connection, park: &Park) -> Result<bool, Error> {
        self.fenced(connection, "park rows", &self.sql.park(park))
    }

    pub(crate) fn release(&self, connection: &Connection, epoch: u64) -> Result<(), Error> {
        let released = connection.execute(&self.sql.release(epoch), []);
        released.map(|_| ()).map_err(|error| Error::database("give the lease back", error))
    }

    pub(crate) fn lag(&self, connection: &Connection) -> Result<Lag, Error> {
        let lag = connection.query_row(&self.sql.lag(), [], |row| {
            let age: Option<i64> = row.get(1)?;
            let age = age.map(|age| Duration::from_millis(u64::try_from(age).unwrap_or(0)));
            Ok(Lag { rows: number(row, 0)?, oldest: age, parked: number(row, 2)? })
        });
        lag.map_err(|error| Error::database("look at the outbox", error))
    }

    pub(crate) fn parked(
        &self,
        connection: &Connection,
        after: RowId,
        limit: u32,
    ) -> Result<Vec<Parked>, Error> {
        decode::all(connection, &self.sql.parked(after, limit), "read rows", decode::parked)
    }

    pub(crate) fn redrive(&self, connection: &mut Connection, ids: &[RowId]) -> Result<u64, Error> {
        let failed = |error| Error::database("give rows back", error);
        let [insert, delete] = self.sql.redrive(ids);
        let tx = immediate(connection)?;
        tx.execute(&insert, []).map_err(failed)?;
        let count = tx.execute(&delete, []).map_err(failed)?;
        tx.commit().map_err(Error::commit)?;
        Ok(count as u64)
    }

    pub(crate) fn discard(&self, connection: &Connection, ids: &[RowId]) -> Result<u64, Error> {
        let deleted = connection.execute(&self.sql.discard(ids), []);
        let count = deleted.map_err(|error| Error::database("delete rows", error))?;
        Ok(count as u64)
    }

    /// Carries out statements in one transaction, unless the first changes nothing.
    fn fenced(
        &self,
        connection: &mut Connection,
        doing: &'static str,
        statements: &[String],
    ) -> Result<bool, Error> {
        let tx = immediate(connection)?;
        for (number, statement) in statements.iter().enumerate() {
            let changed = tx.execute(statement, []);
            let changed = changed.map_err(|error| Error::database(doing, error))?;
            if number == 0 && changed == 0 {
                return Ok(false);
            }
        }
        tx.commit().map_err(Error::commit)?;
        Ok(true)
    }
}

// What an inbox asks.
impl Tables {
    /// The first statement of a handler's transaction.
    pub(crate) fn admit(&self, tx: &Transaction<'_>, arrival: &Arrival) -> Result<Verdict, Error> {
        let failed = |error| Error::database("note the message in the inbox", error);
        if tx.execute(&self.sql.inbox_insert(arrival), []).map_err(failed)? > 0 {
            return Ok(Verdict::New);
        }
        let look = self.sql.inbox_row(&arrival.consumer, arrival.message_id);
        let row = tx.query_row(&look, [], |row| {
            let source: String = row.get(0)?;
            let fence = (number(row, 2)?, number(row, 3)?);
            Ok((source, Offset(number(row, 1)?), fence))
        });
        let mine = (u64::from(arrival.fence.epoch.0), arrival.fence.counter);
        Ok(match row.optional().map_err(failed)? {
            // Below the floor: it was handled so long ago that its row is gone.
            None => Verdict::Stale,
            // Fences are compared for one message in one place only.
            Some((source, place, fence))
                if source == arrival.source && place == arrival.place && fence > mine =>
            {
                Verdict::Stale
            }
            Some(_) => Verdict::Duplicate,
        })
    }

    /// Sees that the transaction is still the one that noted the message: one that the handler
    /// ended, and another one that it began, does not have the row.
    pub(crate) fn still_noted(&self, tx: &Transaction<'_>, arrival: &Arrival) -> Result<(), Error> {
        still_open(tx)?;
        let look = self.sql.inbox_row(&arrival.consumer, arrival.message_id);
        let counter = tx.query_row(&look, [], |row| number(row, 3)).optional();
        let counter = counter.map_err(|error| Error::database("look at the inbox", error))?;
        if counter == Some(arrival.fence.counter) { Ok(()) } else { Err(Error::ended()) }
    }

    /// Deletes what the stored floor allows, then stores this one. Nothing within a minute of the
    /// last time: a late transaction that saw the floor before has ended by then.
    pub(crate) fn collect(
        &self,
        connection: &mut Connection,
        [consumer, source]: [&str; 2],
        floor: Floor,
        window: Duration,
    ) -> Result<u64, Error> {
        let failed = |error| Error::database("delete old inbox rows", error);
        let stored = self.sql.inbox_floor(consumer, source);
        let age = connection.query_row(&stored, [], |row| row.get::<_, i64>(2));
        let age = age.optional().map_err(failed)?;
        let pause = i64::try_from(ROUND_PAUSE.as_millis()).unwrap_or(i64::MAX);
        if age.is_some_and(|age| age < pause) {
            return Ok(0);
        }
        let forget = self.sql.inbox_forget(consumer, source, FORGET_ROWS);
        let mut count = 0;
        loop {
            let deleted = connection.execute(&forget, []).map_err(failed)?;
            count += deleted as u64;
            if deleted < FORGET_ROWS as usize {
                break;
            }
        }
        for raise in self.sql.inbox_raise(consumer, source, floor, [window, ROUND_PAUSE]) {
            connection.execute(&raise, []).map_err(failed)?;
        }
        Ok(count)
    }

    pub(crate) fn cursor(
        &self,
        connection: &Connection,
        [consumer, source]: [&str; 2],
    ) -> Result<Option<Offset>, Error> {
        let next =
            connection.query_row(&self.sql.cursor(consumer, source), [], |row| number(row, 0));
        let next = next.optional().map_err(|error| Error::database("read the cursor", error))?;
        Ok(next.map(Offset))
    }

    /// False if the cursor is not at `from`.
    pub(crate) fn move_cursor(
        &self,
        tx: &Transaction<'_>,
        [consumer, source]: [&str; 2],
        from: Option<Offset>,
        to: Offset,
    ) -> Result<bool, Error> {
        let moved = tx.execute(&self.sql.cursor_advance(consumer, source, from, to), []);
        Ok(moved.map_err(|error| Error::database("move the cursor", error))? > 0)
    }
}

/// Some errors end a transaction silently, and each statement behind them is committed by itself.
pub(crate) fn still_open(tx: &Transaction<'_>) -> Result<(), Error> {
    if tx.is_autocommit() { Err(Error::ended()) } else { Ok(()) }
}

pub(crate) fn immediate(connection: &mut Connection) -> Result<Transaction<'_>, Error> {
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    begun.map_err(|error| Error::database("begin a transaction", error))
}

/// A journal in memory, or none, survives nothing.
fn durability_warning(connection: &Connection) -> Result<Option<String>, Error> {
    let mode = connection.pragma_query_value(None, "journal_mode", |row| row.get(0));
    let mode: String = mode.map_err(|error| Error::database("look at the database", error))?;
    let is_lost = matches!(mode.as_str(), "memory" | "off");
    let warn = || format!("journal_mode is {mode}: a crash can damage the database; use WAL");
    Ok(is_lost.then(warn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthouse_client::{Fence, MessageId, Timestamp};
    use posthouse_protocol::StartEpoch;

    fn arrival(id: u8, place: u64, fence: (u32, u64), made_at: u64) -> Arrival {
        Arrival {
            consumer: "billing".to_owned(),
            source: "orders.billing".to_owned(),
            message_id: MessageId([id; 16]),
            place: Offset(place),
            fence: Fence { epoch: StartEpoch(fence.0), counter: fence.1 },
            created_at: Timestamp(made_at),
        }
    }

    #[test]
    fn file_whose_journal_does_not_survive_a_crash_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let (tables, connection) =
            (Tables::default(), Connection::open(folder.path().join("shop.db")).unwrap());
        connection.execute_batch(&tables.upgrade(0)).unwrap();
        for (mode, expected) in [("WAL", None), ("MEMORY", Some("memory")), ("OFF", Some("off"))] {
            connection.pragma_update(None, "journal_mode", mode).unwrap();
            let warning = tables.describe(&connection).unwrap().durability_warning;
            let told = warning.as_deref().and_then(|it| it.split("journal_mode is ").nth(1));
            assert_eq!(told.and_then(|it| it.split(':').next()), expected, "{mode}");
        }
    }

    fn database() -> (Tables, Connection) {
        let (tables, connection) = (Tables::default(), Connection::open_in_memory().unwrap());
        connection.execute_batch(&tables.upgrade(0)).unwrap();
        (tables, connection)
    }

    #[test]
    fn verdict_tells_new_from_handled_and_from_out_of_date() {
        let (tables, mut connection) = database();
        let tx = immediate(&mut connection).unwrap();
        let admit = |arrival| tables.admit(&tx, &arrival).unwrap();

        assert_eq!(admit(arrival(1, 7, (2, 50), 1)), Verdict::New);
        assert_eq!(admit(arrival(1, 7, (2, 50), 1)), Verdict::Duplicate);
        assert_eq!(admit(arrival(1, 7, (2, 51), 1)), Verdict::Duplicate, "handed out again");
        assert_eq!(admit(arrival(1, 7, (2, 49), 1)), Verdict::Stale, "handed out before");
        assert_eq!(admit(arrival(1, 7, (1, 99), 1)), Verdict::Stale, "before a restart");
        assert_eq!(admit(arrival(1, 8, (2, 49), 1)), Verdict::Duplicate, "the sender's copy");
        assert_eq!(admit(arrival(2, 8, (2, 49), 1)), Verdict::New);
    }

    #[test]
    fn what_was_forgotten_is_refused_and_what_is_new_is_not() {
        let (tables, mut connection) = database();
        let floor =
            Floor { place: Offset(100), fence: Fence { epoch: StartEpoch(2), counter: 500 } };
        let names = ["billing", "orders.billing"];
        tables.collect(&mut connection, names, floor, Duration::ZERO).unwrap();
        let tx = immediate(&mut connection).unwrap();
        let admit = |arrival| tables.admit(&tx, &arrival).unwrap();

        assert_eq!(admit(arrival(1, 99, (2, 499), 1)), Verdict::Stale);
        assert_eq!(admit(arrival(2, 100, (2, 499), 1)), Verdict::New, "not below");
        assert_eq!(admit(arrival(3, 99, (2, 501), 1)), Verdict::New, "handed out since");
        let later = 1 << 60;
        assert_eq!(admit(arrival(4, 99, (1, 1), later)), Verdict::New, "of a restored broker");
    }

    #[test]
    fn cursor_moves_only_from_where_it_is() {
        let (tables, mut connection) = database();
        let names = ["projector", "orders"];
        assert_eq!(tables.cursor(&connection, names).unwrap(), None);
        let tx = immediate(&mut connection).unwrap();
        let advance = |from: Option<u64>, to| {
            tables.move_cursor(&tx, names, from.map(Offset), Offset(to)).unwrap()
        };
        assert!(advance(None, 5));
        assert!(!advance(None, 6), "somebody has begun");
        assert!(!advance(Some(4), 6));
        assert!(advance(Some(5), 6));
        tx.commit().unwrap();
        assert_eq!(tables.cursor(&connection, names).unwrap(), Some(Offset(6)));
    }
}
