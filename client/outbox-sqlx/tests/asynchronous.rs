//! Commits that the sender's session does not wait for: a relay hands over only what is on disk.

#![expect(clippy::unwrap_used, reason = "a test may panic, and its tasks end with it")]

#[expect(dead_code, reason = "shared with tests that need the rest of it")]
mod support;

use posthouse_client::Message;
use posthouse_databases::{Postgres, Stop};
use posthouse_outbox_sqlx::postgres::Outbox;
use sqlx::PgPool;
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
