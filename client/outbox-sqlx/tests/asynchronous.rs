//! Commits that are answered before they are on disk: a relay hands over only what is, or warns.

#![expect(clippy::unwrap_used, reason = "a test may panic, and its tasks end with it")]

#[expect(dead_code, reason = "shared with tests that need the rest of it")]
mod support;

use posthouse_client::Message;
use posthouse_client::outbox::Store as _;
use posthouse_databases::{MariaDb, Postgres, Stop};
use posthouse_outbox_sqlx::mysql;
use posthouse_outbox_sqlx::postgres::Outbox;
use sqlx::{MySqlPool, PgPool};
use support::{bodies, broker};

/// With `synchronous_commit` off PostgreSQL answers a commit before it is on disk, and a crash takes it
/// back. The relay's own transactions are not so, whatever the database's setting, and what they put
/// on disk includes all that they have seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_handed_over_that_a_crash_of_the_database_takes_back() {
    let (_broker, client) = broker().await;
    let mut billing = client.consumer("orders", "billing").await.unwrap();
    let server = Postgres::start().unwrap();
    let database = server.create_database().unwrap();
    let name = database.name();
    server.sql("postgres", "ALTER SYSTEM SET wal_writer_delay = '10s'").unwrap();
    server.sql(name, &format!("ALTER DATABASE {name} SET synchronous_commit = off")).unwrap();
    server.sql(name, "SELECT pg_reload_conf()").unwrap();
    let pool = PgPool::connect(database.url()).await.unwrap();
    let outbox = Outbox::new(pool.clone());
    outbox.install().await.unwrap();
    for statement in ["CREATE TABLE sales (article TEXT)", "CHECKPOINT"] {
        sqlx::raw_sql(statement).execute(&pool).await.unwrap();
    }
    let setting: String =
        sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&pool).await.unwrap();
    assert_eq!(setting, "off");
    let relay = outbox.relay(&client).spawn();

    let mut tx = pool.begin().await.unwrap();
    sqlx::query("INSERT INTO sales VALUES ('a lamp')").execute(&mut *tx).await.unwrap();
    let bell = outbox.enqueue(&mut tx, Message::new("a lamp").to("orders")).await.unwrap();
    tx.commit().await.unwrap();
    bell.ring();
    assert_eq!(bodies(&mut billing, 1).await, ["a lamp"]);
    server.stop(Stop::Immediate).unwrap();
    drop(relay);
    server.restart().unwrap();

    assert_eq!(server.sql(name, "SELECT article FROM sales").unwrap().trim(), "a lamp");
}

/// There a session cannot choose for itself, so a relay can only say what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_that_answers_commits_before_they_are_on_disk_is_reported() {
    let (_broker, client) = broker().await;
    let server = MariaDb::start().unwrap();
    let database = server.create_database().unwrap();
    let pool = MySqlPool::connect(database.url()).await.unwrap();
    let outbox = mysql::Outbox::new(pool);
    outbox.install().await.unwrap();
    assert_eq!(outbox.store().describe().await.unwrap().durability_warning, None);

    server.sql(database.name(), "SET GLOBAL innodb_flush_log_at_trx_commit = 2").unwrap();

    let relay = outbox.relay(&client).spawn();
    let warning = async {
        loop {
            match relay.stats().durability_warning {
                Some(warning) => return warning,
                None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    };
    let warning = tokio::time::timeout(support::SECONDS, warning).await.unwrap();
    assert!(warning.contains("innodb_flush_log_at_trx_commit is not 1"), "{warning}");
    relay.shutdown().await.unwrap();
}
