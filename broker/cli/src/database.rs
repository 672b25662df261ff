//! The database that an outbox is in, by its URL.

use crate::exit::{Code, Failure};
use clap::Args;
use posthouse_client::Client;
use posthouse_client::outbox::{
    Description, Lag, Parked, Relay, RelayHandle, RowId, Store, StoreError, StoreErrorKind,
};
use posthouse_outbox_rusqlite as lite;
use posthouse_outbox_sqlx::{mysql, postgres};
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use std::fmt;
use std::str::FromStr;

/// Which outbox.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// The database, by its URL: sqlite:PATH, or of PostgreSQL, MariaDB or MySQL, see the examples
    #[arg(long, env = "POSTHOUSE_DATABASE", value_name = "URL", hide_env_values = true)]
    database: String,

    /// What the names of the outbox' tables start with
    #[arg(long, value_name = "PREFIX", default_value = "posthouse_")]
    prefix: String,
}

/// An outbox in one of the kinds of databases.
#[derive(Debug)]
pub(crate) enum Outbox {
    Sqlite(lite::Outbox),
    Postgres(postgres::Outbox),
    Mysql(mysql::Outbox),
}

/// What an operator decides about a relay.
#[derive(Clone, Copy, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Decisions {
    /// Make a copied database an outbox of its own; everything in it is sent
    #[arg(long = "adopt")]
    adopts: bool,

    /// Go on with a broker that was restored from an older copy or replaced; what it lost stays lost
    #[arg(long = "continue")]
    accepts_restored_broker: bool,

    /// Go on although rows were changed or deleted that were about to be sent: what is there now is
    #[arg(long = "accept-changed-rows")]
    accepts_changed_rows: bool,
}

impl Chosen {
    /// Opens nothing yet.
    pub(crate) fn outbox(&self) -> Result<Outbox, Failure> {
        let prefix = &self.prefix;
        let (scheme, rest) = self.database.split_once(':').unwrap_or(("", &self.database));
        match scheme {
            "sqlite" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                let path = path.split_once('?').map_or(path, |(path, _)| path);
                let outbox = lite::Outbox::new(path).prefix(prefix);
                outbox.map(Outbox::Sqlite).map_err(Failure::usage)
            }
            "postgres" | "postgresql" => {
                let options = PgConnectOptions::from_str(&self.database);
                // A proxy that pools transactions may stand between: nothing stays prepared.
                let options =
                    options.map_err(|error| wrong_url(&error))?.statement_cache_capacity(0);
                let pool = sqlx::PgPool::connect_lazy_with(options);
                let outbox = postgres::Outbox::new(pool).prefix(prefix);
                outbox.map(Outbox::Postgres).map_err(Failure::usage)
            }
            "mysql" | "mariadb" => {
                let url = format!("mysql:{rest}");
                let options = MySqlConnectOptions::from_str(&url);
                let options =
                    options.map_err(|error| wrong_url(&error))?.statement_cache_capacity(0);
                let pool = sqlx::MySqlPool::connect_lazy_with(options);
                let outbox = mysql::Outbox::new(pool).prefix(prefix);
                outbox.map(Outbox::Mysql).map_err(Failure::usage)
            }
            _ => Err(Failure::usage(
                "--database is sqlite:PATH, postgres://USER:PASSWORD@HOST/NAME or \
                 mysql://USER:PASSWORD@HOST/NAME (mariadb: is the same)",
            )),
        }
    }

    /// The URL without what must not be shown.
    pub(crate) fn shown(&self) -> String {
        let Some((scheme, rest)) = self.database.split_once("://") else {
            return self.database.clone();
        };
        // A password may hold this sign, too, if its owner has not encoded it.
        let host = rest.find('/').map_or(rest, |end| rest.split_at(end).0);
        let rest = rest.split_at(host.rfind('@').map_or(0, |at| at + 1)).1;
        format!("{scheme}://{}", rest.split_once('?').map_or(rest, |(rest, _)| rest))
    }
}

fn wrong_url(error: &sqlx::Error) -> Failure {
    Failure::usage(format_args!("--database: {error}"))
}

impl Outbox {
    pub(crate) async fn install(&self) -> Result<(), Failure> {
        match self {
            Self::Sqlite(outbox) => outbox.install().map_err(refused),
            Self::Postgres(outbox) => outbox.install().await.map_err(refused),
            Self::Mysql(outbox) => outbox.install().await.map_err(refused),
        }
    }

    /// See `posthouse_client::outbox::sql::Sql::upgrade`.
    pub(crate) fn upgrade(&self, from: u32) -> String {
        match self {
            Self::Sqlite(outbox) => outbox.upgrade(from),
            Self::Postgres(outbox) => outbox.upgrade(from),
            Self::Mysql(outbox) => outbox.upgrade(from),
        }
    }

    pub(crate) async fn describe(&self) -> Result<Description, Failure> {
        self.look().await.map_err(|error| undescribed(&error))
    }

    /// The same, for who can wait for a database that is away.
    pub(crate) async fn look(&self) -> Result<Description, StoreError> {
        match self {
            Self::Sqlite(outbox) => outbox.store().describe().await,
            Self::Postgres(outbox) => outbox.store().describe().await,
            Self::Mysql(outbox) => outbox.store().describe().await,
        }
    }

    pub(crate) async fn lag(&self) -> Result<Lag, Failure> {
        match self {
            Self::Sqlite(outbox) => outbox.lag().map_err(refused),
            Self::Postgres(outbox) => outbox.lag().await.map_err(refused),
            Self::Mysql(outbox) => outbox.lag().await.map_err(refused),
        }
    }

    pub(crate) async fn parked(&self, after: RowId, limit: u32) -> Result<Vec<Parked>, Failure> {
        match self {
            Self::Sqlite(outbox) => outbox.parked(after, limit).map_err(refused),
            Self::Postgres(outbox) => outbox.parked(after, limit).await.map_err(refused),
            Self::Mysql(outbox) => outbox.parked(after, limit).await.map_err(refused),
        }
    }

    pub(crate) async fn redrive(&self, ids: &[RowId]) -> Result<u64, Failure> {
        match self {
            Self::Sqlite(outbox) => outbox.redrive(ids).map_err(refused),
            Self::Postgres(outbox) => outbox.redrive(ids).await.map_err(refused),
            Self::Mysql(outbox) => outbox.redrive(ids).await.map_err(refused),
        }
    }

    pub(crate) async fn discard(&self, ids: &[RowId]) -> Result<u64, Failure> {
        match self {
            Self::Sqlite(outbox) => outbox.discard(ids).map_err(refused),
            Self::Postgres(outbox) => outbox.discard(ids).await.map_err(refused),
            Self::Mysql(outbox) => outbox.discard(ids).await.map_err(refused),
        }
    }

    pub(crate) fn spawn_relay(&self, client: &Client, decisions: Decisions) -> RelayHandle {
        match self {
            Self::Sqlite(outbox) => spawn(outbox.relay(client), decisions),
            Self::Postgres(outbox) => spawn(outbox.relay(client), decisions),
            Self::Mysql(outbox) => spawn(outbox.relay(client), decisions),
        }
    }
}

fn spawn<S: Store>(relay: Relay<S>, decisions: Decisions) -> RelayHandle {
    let name = format!("posthouse-{}", std::process::id());
    let mut relay = relay.name(name);
    if decisions.adopts {
        relay = relay.adopt();
    }
    if decisions.accepts_restored_broker {
        relay = relay.accept_restored_broker();
    }
    if decisions.accepts_changed_rows {
        relay = relay.accept_changed_rows();
    }
    relay.spawn()
}

pub(crate) fn undescribed(error: &StoreError) -> Failure {
    match error.kind() {
        StoreErrorKind::NotInstalled => Failure::new(Code::NotFound, with_advice(error)),
        StoreErrorKind::Transient | StoreErrorKind::Permanent => Failure::refused(error),
    }
}

fn refused(error: impl fmt::Display) -> Failure {
    Failure::refused(error)
}

/// The tables are not there, or of another version: what to run.
pub(crate) fn with_advice(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    if text.contains("posthouse outbox install") {
        return text;
    }
    format!("{text}; make the tables with: posthouse outbox install --database URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_not_shown() {
        let shown = |url: &str| Chosen { database: url.to_owned(), prefix: String::new() }.shown();
        assert_eq!(shown("postgres://me:secret@db:5432/shop?ssl=no"), "postgres://db:5432/shop");
        assert_eq!(shown("postgres://me:se@cr@et@db/shop"), "postgres://db/shop");
        assert_eq!(shown("mysql://db/shop@home"), "mysql://db/shop@home");
        assert_eq!(shown("mysql://db/shop"), "mysql://db/shop");
        assert_eq!(shown("sqlite:shop.db"), "sqlite:shop.db");
    }

    #[tokio::test]
    async fn other_databases_are_wrong_usage() {
        for (url, prefix) in [("shop.db", ""), ("oracle://x/y", ""), ("sqlite:x.db", "a;")] {
            let chosen = Chosen { database: url.to_owned(), prefix: prefix.to_owned() };
            assert!(chosen.outbox().is_err(), "{url}");
        }
        let chosen = Chosen { database: "mariadb://u:p@h/n".to_owned(), prefix: String::new() };
        assert!(matches!(chosen.outbox(), Ok(Outbox::Mysql(_))));
    }
}
