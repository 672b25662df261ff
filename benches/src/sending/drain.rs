//! A relay that hands rows to a synced broker, beside a loop of bare SQL that selects and deletes as
//! many and publishes nothing: the honest limit of any outbox in that table.

use std::time::Duration;

use posthouse_client::Client;
use sqlx::AssertSqlSafe;

use super::business::{OnMariadb, OnPostgres, OnSqlite, TOPIC};
use super::servers::Servers;
use super::{Database, Failed, Options};
use crate::probe::{self, Probe};
use crate::running::InProcess;
use crate::{clock, report};

/// Rows that the bare loop takes at a time: as many as a relay does.
const BATCH: u64 = 2_000;

pub(super) async fn run(options: &Options) -> Result<(), Failed> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    let place = dir.path().to_path_buf();
    // It has a runtime of its own, which must not be made inside of this one.
    let broker = tokio::task::spawn_blocking(move || InProcess::start(&place)).await??;
    let client =
        Client::builder().server(broker.address.to_string()).name("bench").connect().await?;
    client.admin().ensure_topic(TOPIC).await?;
    let (rows, rounds) =
        if options.common.smoke { (500, 1) } else { (options.rows, options.rounds.min(3)) };
    report::line(format_args!("draining {rows} rows of 256 B, relay to a synced broker; rows/s"));
    report::line("database    bare loop    relay   ratio");
    for database in &options.databases {
        let servers = Servers::start(*database, dir.path())?;
        let figures = match database {
            Database::Sqlite => {
                let business = OnSqlite::set_up(servers.sqlite().await?).await?;
                measure(&business, &client, rows, rounds).await?
            }
            Database::Postgres => {
                let business = OnPostgres::set_up(servers.postgres().await?).await?;
                measure(&business, &client, rows, rounds).await?
            }
            Database::Mariadb => {
                let business = OnMariadb::set_up(servers.mariadb().await?).await?;
                measure(&business, &client, rows, rounds).await?
            }
        };
        let middle = |figure: fn(&(f64, f64)) -> f64| report::median(figures.iter().map(figure));
        let (bare, relay) = (middle(|pair| pair.0), middle(|pair| pair.1));
        let ratio = middle(|(bare, relay)| relay / bare);
        let name = database.to_string();
        report::line(format_args!("{name:<10}{bare:>11.0}{relay:>9.0}{ratio:>8.2}"));
        report::line(probe::typical(&[probe.read()?]));
    }
    client.close(Duration::from_secs(5)).await;
    tokio::task::spawn_blocking(move || broker.stop()).await??;
    Ok(())
}

async fn measure(
    table: &impl Table,
    client: &Client,
    rows: u64,
    rounds: usize,
) -> Result<Vec<(f64, f64)>, Failed> {
    let mut figures = Vec::new();
    for _ in 0..rounds {
        table.clear().await?;
        table.fill(rows).await?;
        let start = clock::now();
        while table.take(BATCH).await? > 0 {}
        let bare = rows as f64 / start.elapsed().as_secs_f64();
        table.clear().await?;
        table.fill(rows).await?;
        let start = clock::now();
        table.relay(client, rows).await?;
        figures.push((bare, rows as f64 / start.elapsed().as_secs_f64()));
        if table.take(1).await? > 0 {
            return Err("the relay has left rows behind".into());
        }
    }
    Ok(figures)
}

/// An outbox table that is filled and emptied.
trait Table {
    async fn fill(&self, rows: u64) -> Result<(), Failed>;

    /// Forgets what was deleted before, which databases otherwise step over until they have cleaned up.
    async fn clear(&self) -> Result<(), Failed>;

    /// Selects the oldest rows and deletes them in one transaction; returns how many.
    async fn take(&self, rows: u64) -> Result<usize, Failed>;

    /// Runs a relay until it has handed over so many rows, and deleted them.
    async fn relay(&self, client: &Client, rows: u64) -> Result<(), Failed>;
}

macro_rules! table {
    ($name:ident, $clear:literal, $fill:literal, $delete:literal) => {
        impl Table for $name {
            async fn clear(&self) -> Result<(), Failed> {
                sqlx::query($clear).execute(&self.pool).await?;
                Ok(())
            }

            async fn fill(&self, rows: u64) -> Result<(), Failed> {
                let fill = $fill.replace("ROWS", &rows.to_string()).replace("TOPIC", TOPIC);
                sqlx::query(AssertSqlSafe(fill)).execute(&self.pool).await?;
                Ok(())
            }

            async fn take(&self, rows: u64) -> Result<usize, Failed> {
                let select = format!(
                    "SELECT id, message_id, topic, message_key, headers, body, due_at, created_at \
                     FROM posthouse_outbox ORDER BY id LIMIT {rows}"
                );
                let mut tx = self.pool.begin().await?;
                let taken = sqlx::query(AssertSqlSafe(select)).fetch_all(&mut *tx).await?;
                if let (Some(first), Some(last)) = (taken.first(), taken.last()) {
                    use sqlx::Row as _;
                    let (first, last): (i64, i64) = (first.try_get(0)?, last.try_get(0)?);
                    sqlx::query($delete).bind(first).bind(last).execute(&mut *tx).await?;
                }
                tx.commit().await?;
                Ok(taken.len())
            }

            async fn relay(&self, client: &Client, rows: u64) -> Result<(), Failed> {
                let relay = self.outbox.relay(client).spawn();
                // Not by asking the database, which has enough to do.
                while relay.stats().rows < rows {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                relay.shutdown().await?;
                Ok(())
            }
        }
    };
}

table!(
    OnSqlite,
    "VACUUM",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS) \
     INSERT INTO posthouse_outbox (topic, body) SELECT 'TOPIC', randomblob(256) FROM n",
    "DELETE FROM posthouse_outbox WHERE id >= ? AND id <= ?"
);
table!(
    OnPostgres,
    "TRUNCATE posthouse_outbox",
    "INSERT INTO posthouse_outbox (topic, body) \
     SELECT 'TOPIC', decode(repeat('78', 256), 'hex') FROM generate_series(1, ROWS)",
    "DELETE FROM posthouse_outbox WHERE id >= $1 AND id <= $2"
);
table!(
    OnMariadb,
    "TRUNCATE posthouse_outbox",
    "INSERT INTO posthouse_outbox (topic, body) SELECT 'TOPIC', REPEAT('x', 256) FROM seq_1_to_ROWS",
    "DELETE FROM posthouse_outbox WHERE id >= ? AND id <= ?"
);
