//! The outbox tables as a relay sees them, over a connection of the relay's own.

use crate::driver::{Driver, transaction};
use crate::rows::{self, Bulk, odd, positive};
use posthouse_client::outbox::sql::{Dialect, Sql, parse_ids, same_sqlite, sqlite_identity};
use posthouse_client::outbox::{
    Claim, Description, Lag, OutboxId, Park, Parked, Row, RowId, RowRange, Standing, Step, Store,
    StoreError, StoreErrorKind,
};
use sqlx::Connection as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Rows that are worth more than one round trip, if they are cheaper then.
const MANY: u32 = 500;

/// No answer of the database for so long, and the connection is given up.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// The same for looks: meanwhile the lease is prolonged over another connection, so that no other
/// relay would hand anything over.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// The outbox tables of one database over one connection, made when it is needed.
///
/// A call that fails or is dropped takes the connection with it, so that nothing half done is left.
#[derive(Debug)]
pub(crate) struct Tables<D: Driver> {
    options: D::Options,
    sql: Arc<Sql>,
    connection: Option<Kept<D>>,
}

struct Kept<D: Driver>(D::Connection);

impl<D: Driver> std::fmt::Debug for Kept<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl<D: Driver> Tables<D> {
    pub(crate) const fn new(options: D::Options, sql: Arc<Sql>) -> Self {
        Self { options, sql, connection: None }
    }

    async fn connection(&mut self) -> sqlx::Result<D::Connection> {
        match self.connection.take() {
            Some(Kept(connection)) => Ok(connection),
            None => D::connect(&self.options).await,
        }
    }

    async fn query(&mut self, sql: String) -> Result<Vec<D::Row>, StoreError> {
        self.query_within(ANSWER_MAX, sql).await
    }

    async fn query_within(
        &mut self,
        longest: Duration,
        sql: String,
    ) -> Result<Vec<D::Row>, StoreError> {
        let done = timeout(longest, async {
            let mut connection = self.connection().await?;
            let rows = D::query(&mut connection, sql).await?;
            self.connection = Some(Kept(connection));
            Ok(rows)
        });
        answered::<D, _>(done.await)
    }

    /// Runs statements in one transaction and counts the rows that each has changed.
    async fn write(&mut self, statements: &[String]) -> Result<Vec<u64>, StoreError> {
        let done = timeout(ANSWER_MAX, async {
            let mut connection = self.connection().await?;
            let mut changed = D::run(&mut connection, transaction::<D>(statements)).await?;
            self.connection = Some(Kept(connection));
            changed.drain(..D::BEGIN.len().min(changed.len()));
            Ok(changed)
        });
        answered::<D, _>(done.await)
    }

    /// Whether the first statement of a transaction has changed the one row that it is about.
    async fn write_if_held(&mut self, statements: &[String]) -> Result<bool, StoreError> {
        Ok(self.write(statements).await?.first() == Some(&1))
    }

    async fn read_rows(&mut self, longest: Duration, sql: String) -> Result<Vec<Row>, StoreError> {
        let rows = self.query_within(longest, D::bulk(sql)).await?;
        let rows = rows.iter().map(|row| rows::row(&Bulk::<D>(row)));
        rows.collect::<sqlx::Result<_>>().map_err(|error| failed::<D>(error))
    }

    /// The same, in a way that is best for many rows.
    async fn read_many(&mut self, sql: String) -> Result<Vec<Row>, StoreError> {
        let done = timeout(LOOK_MAX, async {
            let mut connection = self.connection().await?;
            let rows = D::read_many(&mut connection, sql).await?;
            self.connection = Some(Kept(connection));
            Ok(rows)
        });
        answered::<D, _>(done.await)
    }
}

fn answered<D: Driver, T>(
    done: Result<sqlx::Result<T>, tokio::time::error::Elapsed>,
) -> Result<T, StoreError> {
    match done {
        Ok(done) => done.map_err(|error| failed::<D>(error)),
        Err(_elapsed) => Err(StoreError::new(
            StoreErrorKind::Transient,
            "no answer of the database for too long",
        )),
    }
}

fn failed<D: Driver>(error: sqlx::Error) -> StoreError {
    let kind = D::kind(&error);
    if kind == StoreErrorKind::NotInstalled {
        let help = "the outbox tables are missing, install() or the text of ddl() makes them";
        return StoreError::new(kind, format!("{error}: {help}"));
    }
    StoreError::new(kind, error)
}

fn number<D: Driver>(row: &D::Row, column: usize) -> sqlx::Result<u64> {
    positive(D::number(row, column)?)
}

fn text<D: Driver>(row: &D::Row, column: usize) -> sqlx::Result<String> {
    D::text(row, column)?.ok_or_else(|| odd("a text is null"))
}

fn id<D: Driver>(row: &D::Row, column: usize) -> sqlx::Result<[u8; 16]> {
    let id = D::bytes(row, column)?.ok_or_else(|| odd("an id is null"))?;
    id.try_into().map_err(|_| odd("an id does not have 16 bytes"))
}

fn description<D: Driver>(row: &D::Row) -> sqlx::Result<Description> {
    Ok(Description {
        outbox: OutboxId(id::<D>(row, 0)?),
        schema_version: u32::try_from(number::<D>(row, 1)?).unwrap_or(u32::MAX),
        belongs_to: text::<D>(row, 2)?,
        found_in: text::<D>(row, 3)?,
        owner: D::text(row, 4)?,
        durability_warning: D::text(row, 5)?,
    })
}

fn standing<D: Driver>(row: &D::Row) -> sqlx::Result<Standing> {
    let [epoch, claimed, acked] =
        [number::<D>(row, 0)?, number::<D>(row, 1)?, number::<D>(row, 2)?];
    Ok(Standing { epoch, claimed, acked })
}

fn claim<D: Driver>(row: &D::Row) -> sqlx::Result<Claim> {
    let rows =
        parse_ids(&text::<D>(row, 1)?).ok_or_else(|| odd("the ids of a claim are damaged"))?;
    let digest = u32::try_from(number::<D>(row, 2)?).map_err(|_| odd("a digest is too large"))?;
    Ok(Claim { sequence: number::<D>(row, 0)?, rows, digest })
}

fn lag<D: Driver>(row: &D::Row) -> sqlx::Result<Lag> {
    // A sender's clock may be ahead of the database's.
    let oldest = D::number(row, 1)?.map(|age| Duration::from_millis(age.max(0).unsigned_abs()));
    Ok(Lag { rows: number::<D>(row, 0)?, oldest, parked: number::<D>(row, 2)? })
}

/// The first row, read; an error of its own if there is none.
fn only<D: Driver, T>(
    rows: &[D::Row],
    read: impl Fn(&D::Row) -> sqlx::Result<T>,
) -> Result<T, StoreError> {
    let missing = || {
        StoreError::new(
            StoreErrorKind::NotInstalled,
            "the outbox tables are empty: install() or the text of ddl() makes their first row",
        )
    };
    read(rows.first().ok_or_else(missing)?).map_err(|error| failed::<D>(error))
}

/// What the database is, if it takes more than SQL to tell.
pub(crate) async fn place<D: Driver>(connection: &mut D::Connection) -> sqlx::Result<String> {
    if D::DIALECT != Dialect::Sqlite {
        return Ok(String::new());
    }
    let list = "SELECT file FROM pragma_database_list WHERE name = 'main'".to_owned();
    let rows = D::query(connection, list).await?;
    let path = rows.first().map(|row| D::text(row, 0)).transpose()?.flatten();
    Ok(sqlite_identity(path.unwrap_or_default().as_ref()))
}

impl<D: Driver> Tables<D> {
    async fn place(&mut self) -> Result<String, StoreError> {
        let mut connection = self.connection().await.map_err(|error| failed::<D>(error))?;
        let place = place::<D>(&mut connection).await.map_err(|error| failed::<D>(error))?;
        self.connection = Some(Kept(connection));
        Ok(place)
    }
}

impl<D: Driver> Store for Tables<D> {
    fn beside(&self) -> Self {
        Self::new(self.options.clone(), Arc::clone(&self.sql))
    }

    async fn close(&mut self) {
        if let Some(Kept(connection)) = self.connection.take() {
            // Nothing is under way; the server notices in any case.
            let _ = timeout(Duration::from_secs(1), connection.close()).await;
        }
    }

    async fn describe(&mut self) -> Result<Description, StoreError> {
        let rows = self.query(self.sql.describe()).await?;
        let mut description = only::<D, _>(&rows, description::<D>)?;
        if D::DIALECT == Dialect::Sqlite {
            let found = self.place().await?;
            let is_same = same_sqlite(&description.belongs_to, &found);
            description.found_in = if is_same { description.belongs_to.clone() } else { found };
        }
        Ok(description)
    }

    async fn acquire(
        &mut self,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<Standing>, StoreError> {
        let [update, select] = self.sql.acquire(owner, lease);
        let mut statements = vec![update];
        if D::DIALECT == Dialect::Sqlite {
            // Tables that the text of ddl() made do not know yet in which file they are.
            let place = self.place().await?;
            statements.push(self.sql.belongs(&place));
        }
        if !self.write_if_held(&statements).await? {
            return Ok(None);
        }
        let rows = self.query(select).await?;
        rows.first().map(standing::<D>).transpose().map_err(|error| failed::<D>(error))
    }

    async fn raise_epoch(&mut self, from: u64, to: u64) -> Result<bool, StoreError> {
        self.write_if_held(&[self.sql.raise_epoch(from, to)]).await
    }

    async fn adopt(&mut self, epoch: u64) -> Result<bool, StoreError> {
        let place = self.place().await?;
        self.write_if_held(&self.sql.adopt(epoch, OutboxId::fresh(), &place)).await
    }

    async fn claims(&mut self) -> Result<Vec<Claim>, StoreError> {
        let rows = self.query(self.sql.claims()).await?;
        rows.iter().map(claim::<D>).collect::<sqlx::Result<_>>().map_err(|error| failed::<D>(error))
    }

    async fn rows(&mut self, ids: &[RowId]) -> Result<Vec<Row>, StoreError> {
        self.read_rows(ANSWER_MAX, self.sql.rows(ids)).await
    }

    async fn scan(
        &mut self,
        gaps: &[RowRange],
        after: RowId,
        rows_max: u32,
        bytes_max: u64,
    ) -> Result<Vec<Row>, StoreError> {
        let sql = self.sql.scan(gaps, after, rows_max, bytes_max);
        match rows_max < MANY {
            true => self.read_rows(LOOK_MAX, sql).await,
            false => self.read_many(sql).await,
        }
    }

    async fn sweep(
        &mut self,
        from: RowId,
        through: RowId,
        limit: u32,
    ) -> Result<Vec<RowId>, StoreError> {
        let rows = self.query(self.sql.sweep(from, through, limit)).await?;
        let ids = rows.iter().map(|row| number::<D>(row, 0).map(RowId));
        ids.collect::<sqlx::Result<_>>().map_err(|error| failed::<D>(error))
    }

    async fn step(&mut self, step: &Step) -> Result<bool, StoreError> {
        self.write_if_held(&self.sql.step(step)).await
    }

    async fn park(&mut self, park: &Park) -> Result<bool, StoreError> {
        self.write_if_held(&self.sql.park(park)).await
    }

    async fn release(&mut self, epoch: u64) -> Result<(), StoreError> {
        self.write(&[self.sql.release(epoch)]).await?;
        self.close().await;
        Ok(())
    }

    async fn lag(&mut self) -> Result<Lag, StoreError> {
        let rows = self.query_within(LOOK_MAX, self.sql.lag()).await?;
        only::<D, _>(&rows, lag::<D>)
    }

    async fn parked(&mut self, after: RowId, limit: u32) -> Result<Vec<Parked>, StoreError> {
        let rows = self.query(D::bulk(self.sql.parked(after, limit))).await?;
        let parked = rows.iter().map(|row| rows::parked(&Bulk::<D>(row)));
        parked.collect::<sqlx::Result<_>>().map_err(|error| failed::<D>(error))
    }

    async fn redrive(&mut self, ids: &[RowId]) -> Result<u64, StoreError> {
        let changed = self.write(&self.sql.redrive(ids)).await?;
        Ok(changed.get(1).copied().unwrap_or_default())
    }

    async fn discard(&mut self, ids: &[RowId]) -> Result<u64, StoreError> {
        let changed = self.write(&[self.sql.discard(ids)]).await?;
        Ok(changed.first().copied().unwrap_or_default())
    }
}
