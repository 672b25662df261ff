//! The databases that are measured: real servers with their syncs on, or a file.

use std::path::{Path, PathBuf};

use posthouse_databases::{MariaDb, Postgres};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::{Database, Failed};

/// Connections at most, of each pool.
const CONNECTIONS: u32 = 24;

/// One database, started.
pub(super) enum Servers {
    Sqlite(PathBuf),
    Postgres(Postgres),
    Mariadb(MariaDb),
}

impl Servers {
    pub(super) fn start(database: Database, dir: &Path) -> Result<Self, Failed> {
        Ok(match database {
            Database::Sqlite => Self::Sqlite(dir.to_path_buf()),
            Database::Postgres => Self::Postgres(Postgres::start()?),
            Database::Mariadb => Self::Mariadb(MariaDb::start()?),
        })
    }

    pub(super) async fn sqlite(&self) -> Result<sqlx::SqlitePool, Failed> {
        let Self::Sqlite(dir) = self else { return Err("this is no SQLite database".into()) };
        let options = SqliteConnectOptions::new()
            .filename(dir.join(format!("{}.db", posthouse_client::MessageId::default())))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(std::time::Duration::from_secs(30));
        Ok(SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await?)
    }

    pub(super) async fn postgres(&self) -> Result<sqlx::PgPool, Failed> {
        let Self::Postgres(server) = self else { return Err("this is no PostgreSQL".into()) };
        let url = server.create_database()?;
        Ok(PgPoolOptions::new().max_connections(CONNECTIONS).connect(url.url()).await?)
    }

    pub(super) async fn mariadb(&self) -> Result<sqlx::MySqlPool, Failed> {
        let Self::Mariadb(server) = self else { return Err("this is no MariaDB".into()) };
        let url = server.create_database()?;
        Ok(MySqlPoolOptions::new().max_connections(CONNECTIONS).connect(url.url()).await?)
    }
}
