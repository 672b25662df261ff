//! Databases and a broker for the tests of this package.

use posthouse_broker::{Broker, Config};
use posthouse_client::{Client, Consumer, Start, SubscriptionSettings, TopicSettings};
use posthouse_databases::{MariaDb, Postgres};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, MySqlPool, PgPool, SqlitePool};
use std::task::Poll;
use std::time::Duration;

pub(crate) const SECONDS: Duration = Duration::from_secs(20);

/// A broker with a topic and a subscription, and a client of it.
pub(crate) async fn broker() -> (Broker, Client) {
    let broker = Broker::start(Config::temporary().unwrap()).await.unwrap();
    let client = Client::builder().connector(broker.connector()).connect().await.unwrap();
    client.admin().create_topic("orders", TopicSettings::default()).await.unwrap();
    client.admin().ensure_subscription("orders", "billing").await.unwrap();
    // Settles nothing, so that everything stays to be looked at.
    client.admin().ensure_subscription("orders", "audit").await.unwrap();
    (broker, client)
}

/// A subscription that backs off for a millisecond.
pub(crate) async fn quick(client: &Client) {
    let settings = SubscriptionSettings {
        attempts_max: 1000,
        backoff_ms_first: 1,
        backoff_ms_max: 2,
        ..SubscriptionSettings::default()
    };
    client.admin().create_subscription("orders", "quick", settings, Start::Earliest).await.unwrap();
}

/// Bodies in the order in which they come, all of them acked.
pub(crate) async fn bodies(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    while bodies.len() < count {
        let next = tokio::time::timeout(SECONDS, consumer.next()).await;
        let delivery = next.expect("a message within 20 seconds").unwrap().unwrap();
        bodies.push(String::from_utf8(delivery.body().to_vec()).unwrap());
        delivery.ack().await.unwrap();
    }
    bodies
}

/// Waits until no session of the pool's database is in a transaction.
macro_rules! idle {
    ($pool:ty, $sql:literal) => {
        pub(crate) async fn idle(pool: &$pool) {
            // Not one of the pool's own connections: that could be the one in a transaction.
            let options = (*pool.connect_options()).clone();
            let mut observer = options.connect().await.unwrap();
            let deadline = tokio::time::Instant::now() + SECONDS;
            loop {
                let open: i64 = sqlx::query_scalar($sql).fetch_one(&mut observer).await.unwrap();
                if open == 0 {
                    return;
                }
                assert!(tokio::time::Instant::now() < deadline, "{open} transactions stay open");
                // MariaDB shows what it showed last to whoever asks again within 100 ms.
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        }
    };
}

pub(crate) mod postgres {
    use super::*;

    idle!(
        PgPool,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND pid <> pg_backend_pid() AND (state LIKE 'idle in transaction%' OR state = 'active')"
    );

    pub(crate) async fn pool() -> (PgPool, ()) {
        let database = Postgres::shared().create_database().unwrap();
        let options = PgPoolOptions::new().max_connections(4).acquire_timeout(SECONDS);
        (options.connect(database.url()).await.unwrap(), ())
    }
}

pub(crate) mod mysql {
    use super::*;

    idle!(
        MySqlPool,
        "SELECT COUNT(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p \
         ON p.id = t.trx_mysql_thread_id WHERE p.db = DATABASE() AND p.id <> CONNECTION_ID()"
    );

    pub(crate) async fn pool() -> (MySqlPool, ()) {
        let database = MariaDb::shared().create_database().unwrap();
        let options = MySqlPoolOptions::new().max_connections(4).acquire_timeout(SECONDS);
        (options.connect(database.url()).await.unwrap(), ())
    }
}

pub(crate) mod sqlite {
    use super::*;

    /// Begins to write, which waits five seconds at most for one that writes.
    pub(crate) async fn idle(pool: &SqlitePool) {
        let options = (*pool.connect_options()).clone();
        let mut observer = options.connect().await.unwrap();
        let tx = observer.begin_with("BEGIN IMMEDIATE").await.unwrap();
        tx.rollback().await.unwrap();
    }

    pub(crate) async fn pool() -> (SqlitePool, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("app.db"))
            .journal_mode(SqliteJournalMode::Wal)
            .create_if_missing(true);
        let pool = SqlitePoolOptions::new().max_connections(4).acquire_timeout(SECONDS);
        (pool.connect_with(options).await.unwrap(), folder)
    }
}

/// Polls a future for some time and drops it then; `None` if it was not done. An odd `times` drops it
/// where it waits, an even one when what it waited for is there.
pub(crate) async fn polled<T>(future: impl Future<Output = T>, times: usize) -> Option<T> {
    let mut future = Box::pin(future);
    let (mut left, drops_at_once) = (times.div_ceil(2), times % 2 == 1);
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() && left == 0 && drops_at_once {
            return Poll::Ready(None);
        }
        polled.map(Some)
    })
    .await
}

/// The same tests on each kind of database: in them `on` is the package's module for it, `place::pool()`
/// gives an empty database, and `Db` is sqlx' name for it.
#[macro_export]
macro_rules! on_each {
    ($($test:item)*) => {
        mod on_postgres {
            use super::*;
            use posthouse_outbox_sqlx::postgres as on;
            use sqlx::Postgres as Db;
            use $crate::support::postgres as place;
            $($test)*
        }
        mod on_mysql {
            use super::*;
            use posthouse_outbox_sqlx::mysql as on;
            use sqlx::MySql as Db;
            use $crate::support::mysql as place;
            $($test)*
        }
        mod on_sqlite {
            use super::*;
            use posthouse_outbox_sqlx::sqlite as on;
            use sqlx::Sqlite as Db;
            use $crate::support::sqlite as place;
            $($test)*
        }
    };
}
