//! A commit that the database refuses for one message, on databases whose constraints can wait for it.

#![expect(clippy::unwrap_used, reason = "a test may panic, and its tasks end with it")]

#[expect(dead_code, reason = "shared with tests that need the rest of it")]
mod support;

use posthouse_outbox_sqlx::{postgres, sqlite};
use support::{SECONDS, broker};

/// The first message's effect breaks a deferred constraint, the first time that it is handled.
macro_rules! refused {
    ($driver:ident) => {{
        let (pool, _kept) = support::$driver::pool().await;
        let (_broker, client) = broker().await;
        let inbox = $driver::Inbox::new(pool.clone(), "billing");
        inbox.install().await.unwrap();
        let tables = "CREATE TABLE articles (number INTEGER PRIMARY KEY); CREATE TABLE sold \
             (number INTEGER REFERENCES articles (number) DEFERRABLE INITIALLY DEFERRED); \
             CREATE TABLE effects (text TEXT)";
        sqlx::raw_sql(tables).execute(&pool).await.unwrap();
        let orders = client.publisher("orders").await.unwrap();
        orders.publish("bad").await.unwrap();
        orders.publish("good").await.unwrap();
        let consumer = client.consumer("orders", "billing").await.unwrap();
        let run = inbox.run(consumer, 1, async |tx, delivery| {
            let text = String::from_utf8_lossy(delivery.body()).into_owned();
            let effect = format!("INSERT INTO effects VALUES ('{text}')");
            sqlx::raw_sql(sqlx::AssertSqlSafe(effect)).execute(&mut **tx).await?;
            if text == "bad" && delivery.attempt().0 == 0 {
                sqlx::raw_sql("INSERT INTO sold VALUES (7)").execute(&mut **tx).await?;
            }
            Ok::<_, sqlx::Error>(())
        });
        let settled = async {
            let backlog = async || {
                let admin = client.admin();
                admin.describe_subscription("orders", "billing").await.unwrap().backlog
            };
            while backlog().await > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(SECONDS, run.until(settled)).await;
        ended.expect("the refusal counts").expect("the others go on");

        let effects: Vec<String> =
            sqlx::query_scalar("SELECT text FROM effects").fetch_all(&pool).await.unwrap();
        assert_eq!(effects, ["good", "bad"]);
    }};
}

#[tokio::test]
async fn commit_that_postgres_refuses_is_the_failure_of_its_message() {
    refused!(postgres);
}

#[tokio::test]
async fn commit_that_sqlite_refuses_by_sqlx_is_the_failure_of_its_message() {
    refused!(sqlite);
}
