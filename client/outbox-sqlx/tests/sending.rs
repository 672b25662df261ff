//! Sending in a transaction, on real databases, with a real broker.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and its tasks end with it"
)]

#[expect(dead_code, reason = "shared with tests that need the rest of it")]
mod support;

use posthouse_client::outbox::{RelayHandle, RowId};
use posthouse_client::{Client, Message, Outcome, Outgoing, Position, TopicSettings};
use posthouse_databases::{MariaDb, PgBouncer, Postgres};
use posthouse_outbox_sqlx::{Error, mysql, postgres, sqlite};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use support::{SECONDS, bodies, broker, polled};

on_each! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn message_is_sent_if_its_transaction_commits_and_only_then() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let outbox = installed(&pool).await;
        let mut billing = client.consumer("orders", "billing").await.unwrap();
        let relay = outbox.relay(&client).spawn();
        for number in 0..20 {
            let mut tx: sqlx::Transaction<'_, Db> = pool.begin().await.unwrap();
            sqlx::query("INSERT INTO work (text) VALUES ('x')").execute(&mut *tx).await.unwrap();
            let bell = outbox.enqueue(&mut tx, order(number)).await.unwrap();
            if number % 3 == 0 {
                tx.rollback().await.unwrap();
            } else {
                tx.commit().await.unwrap();
                bell.ring();
            }
        }

        let expected: Vec<_> = (0..20).filter(|number| number % 3 != 0).collect();
        let texts: Vec<_> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(bodies(&mut billing, expected.len()).await, texts);
        assert_eq!(count(&pool).await, i64::try_from(expected.len()).unwrap());
        relay.shutdown().await.unwrap();
        assert_eq!(topic(&client).await, texts);
        assert_eq!(outbox.lag().await.unwrap().rows, 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn closures_send_from_other_threads_and_borrow() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let outbox = Arc::new(installed(&pool).await);
        let relay = outbox.relay(&client).spawn();
        let shared = Arc::new("a lamp".to_owned());
        let task = tokio::spawn({
            let (outbox, shared) = (Arc::clone(&outbox), Arc::clone(&shared));
            async move {
                let local = String::from("local");
                let borrowed = &local;
                let length = outbox
                    .send_with_transaction(order(1), async |tx| {
                        add(tx, borrowed).await?;
                        add(tx, &shared).await?;
                        Ok::<_, Error>(shared.len())
                    })
                    .await
                    .unwrap();
                let length: usize = outbox
                    .transaction(async |tx, out| {
                        add(tx, borrowed).await?;
                        out.send(Message::new(format!("{borrowed} {length}")).to("orders"));
                        out.send(Message::new(shared.to_string()).to("orders"));
                        Ok::<_, sqlx::Error>(length)
                    })
                    .await
                    .unwrap();
                length
            }
        });

        assert_eq!(task.await.unwrap(), 6);
        let mut billing = client.consumer("orders", "billing").await.unwrap();
        assert_eq!(bodies(&mut billing, 3).await, ["1", "local 6", "a lamp"]);
        assert_eq!(count(&pool).await, 3);
        relay.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn error_of_the_closure_rolls_back_and_sends_nothing() {
        let (pool, _kept) = place::pool().await;
        let outbox = installed(&pool).await;
        let failing = outbox.send_with_transaction(order(1), async |tx| {
            add(tx, "x").await?;
            Err::<(), _>(Box::<dyn std::error::Error + Send + Sync>::from("no lamp left"))
        });
        assert_eq!(failing.await.unwrap_err().to_string(), "no lamp left");
        let failing = outbox.transaction(async |tx, out| {
            add(tx, "x").await?;
            out.send(order(1));
            sqlx::query("INSERT INTO nothing VALUES (1)").execute(&mut **tx).await?;
            Ok::<_, Error>(())
        });
        assert!(matches!(failing.await.unwrap_err(), Error::Database(_)));
        let refused = outbox.transaction(async |tx, out| {
            add(tx, "x").await?;
            out.send(Message::new("x").to("no good name!"));
            Ok::<_, Error>(())
        });
        assert!(matches!(refused.await.unwrap_err(), Error::Enqueue(_)));

        assert_eq!((count(&pool).await, outbox.lag().await.unwrap().rows), (0, 0));
        place::idle(&pool).await;
    }

    #[tokio::test]
    async fn transaction_that_ended_inside_is_noticed_and_nothing_is_sent() {
        let (pool, _kept) = place::pool().await;
        let outbox = installed(&pool).await;
        for statement in ["ROLLBACK", "COMMIT"] {
            for bytes in [1, 20_000] {
                let ended = outbox.transaction(async |tx, out| {
                    sqlx::raw_sql(statement).execute(&mut **tx).await?;
                    out.send(Message::new(vec![b'x'; bytes]).to("orders"));
                    Ok::<_, Error>(())
                });
                let error = ended.await.unwrap_err();
                assert!(matches!(error, Error::TransactionEnded), "{statement}: {error:?}");
            }
        }
        assert_eq!(outbox.lag().await.unwrap().rows, 0);
        let going_on = outbox.transaction(async |tx, out| {
            add(tx, "x").await?;
            out.send(order(1));
            Ok::<_, Error>(())
        });
        going_on.await.unwrap();
        assert_eq!((count(&pool).await, outbox.lag().await.unwrap().rows), (1, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_reach_the_broker_once_and_in_order_of_their_keys_whatever_relay_works() {
        const KEYS: u64 = 4;
        const EACH: u64 = 25;
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let outbox = installed(&pool).await;
        for key in 0..KEYS {
            add_counter(&pool, key).await;
        }
        let mut writers = tokio::task::JoinSet::new();
        for key in 0..KEYS {
            let outbox = outbox.clone();
            writers.spawn(async move {
                for number in 1..=EACH {
                    let is_good = number % 5 != 0;
                    let sent = outbox.transaction(async |tx, out| {
                        let version = count_up(tx, key).await?;
                        let message = Message::new(format!("{key}:{version}")).key(key.to_string());
                        out.send(message.to("orders"));
                        if is_good { Ok(()) } else { Err(Error::TransactionEnded) }
                    });
                    assert_eq!(sent.await.is_ok(), is_good);
                }
            });
        }
        let mut relays: Vec<RelayHandle> = Vec::new();
        for number in 0..3 {
            let relay = outbox.relay(&client).name(format!("relay {number}")).batch(7);
            relays.push(relay.spawn());
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = relays.remove(0).shutdown().await;
        }
        let relay = outbox.relay(&client).batch(7).spawn();
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        let expected = KEYS * (EACH - EACH / 5);
        let mut billing = client.consumer("orders", "billing").await.unwrap();
        bodies(&mut billing, usize::try_from(expected).unwrap()).await;
        relay.shutdown().await.unwrap();

        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let all = topic(&client).await;
        assert_eq!(all.len() as u64, expected);
        for body in all {
            let (key, version) = body.split_once(':').unwrap();
            let before = last.insert(key.to_owned(), version.parse().unwrap()).unwrap_or(0);
            assert_eq!(version.parse(), Ok(before + 1), "key {key}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn message_that_the_broker_refuses_waits_aside_until_it_is_redriven() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let outbox = installed(&pool).await;
        let relay = outbox.relay(&client).spawn();
        let sent = outbox.transaction(async |_tx, out| {
            out.send(order(1));
            out.send(Message::new("2").to("later"));
            out.send(order(3));
            Ok::<_, Error>(())
        });
        sent.await.unwrap();
        let mut billing = client.consumer("orders", "billing").await.unwrap();
        assert_eq!(bodies(&mut billing, 2).await, ["1", "3"]);
        let parked = outbox.parked(RowId(0), 10).await.unwrap();
        assert_eq!((parked.len(), parked[0].topic.as_str()), (1, "later"));
        assert!(parked[0].reason.contains("later"), "{}", parked[0].reason);

        client.admin().create_topic("later", TopicSettings::default()).await.unwrap();
        client.admin().ensure_subscription("later", "all").await.unwrap();
        assert_eq!(outbox.redrive(&[parked[0].id]).await.unwrap(), 1);
        let mut later = client.consumer("later", "all").await.unwrap();
        assert_eq!(bodies(&mut later, 1).await, ["2"]);
        relay.shutdown().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn dropped_anywhere_a_transaction_is_whole_or_not_and_no_connection_stays_in_one() {
        let (pool, _kept) = place::pool().await;
        let outbox = installed(&pool).await;
        let mut dropped = 0;
        for times in 0.. {
            let number = i64::from(times);
            let sending = outbox.transaction(async |tx, out| {
                add(tx, "x").await?;
                out.send(order(number));
                Ok::<_, Error>(())
            });
            let done = polled(sending, usize::try_from(times).unwrap()).await;
            if done.is_none() {
                dropped += 1;
            }
            let sending = outbox.send_with_transaction(order(number), async |tx| {
                add(tx, "x").await.map_err(Error::from)
            });
            let also = polled(sending, usize::try_from(times).unwrap()).await;
            let installing = polled(outbox.install(), usize::try_from(times).unwrap()).await;
            place::idle(&pool).await;
            if let (Some(done), Some(also), Some(installed)) = (done, also, installing) {
                done.unwrap();
                also.unwrap();
                installed.unwrap();
                break;
            }
        }
        assert!(dropped > 0, "none was dropped");
        // What goes on by itself is done when all connections are back.
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(pool.acquire().await.unwrap());
        }
        drop(all);
        place::idle(&pool).await;
        assert_eq!(count(&pool).await, i64::try_from(outbox.lag().await.unwrap().rows).unwrap());
    }

    async fn installed(pool: &sqlx::Pool<Db>) -> on::Outbox {
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        sqlx::raw_sql("CREATE TABLE work (text TEXT)").execute(pool).await.unwrap();
        sqlx::raw_sql("CREATE TABLE counters (k BIGINT PRIMARY KEY, v BIGINT)")
            .execute(pool)
            .await
            .unwrap();
        outbox
    }

    async fn add(tx: &mut sqlx::Transaction<'_, Db>, text: &str) -> sqlx::Result<()> {
        let statement = format!("INSERT INTO work (text) VALUES ('{text}')");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut **tx).await.map(|_| ())
    }

    async fn count(pool: &sqlx::Pool<Db>) -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM work").fetch_one(pool).await.unwrap()
    }

    async fn add_counter(pool: &sqlx::Pool<Db>, key: u64) {
        let statement = format!("INSERT INTO counters VALUES ({key}, 0)");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(pool).await.unwrap();
    }

    async fn count_up(tx: &mut sqlx::Transaction<'_, Db>, key: u64) -> sqlx::Result<i64> {
        let statement = format!("UPDATE counters SET v = v + 1 WHERE k = {key}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut **tx).await?;
        let query = sqlx::AssertSqlSafe(format!("SELECT v FROM counters WHERE k = {key}"));
        sqlx::query_scalar(query).fetch_one(&mut **tx).await
    }
}

/// Two transactions at once: the one with the lower id commits last, behind a rolled back one.
macro_rules! late_commit {
    ($pool:expr, $outbox:expr, $client:expr, $settings:literal) => {{
        let mut billing = $client.consumer("orders", "billing").await.unwrap();
        let relay = $outbox.relay(&$client).spawn();
        let begin = || async {
            let mut tx = $pool.begin().await.unwrap();
            sqlx::raw_sql($settings).execute(&mut *tx).await.unwrap();
            tx
        };
        let (mut late, mut never, mut early) = (begin().await, begin().await, begin().await);
        let bell = $outbox.enqueue(&mut late, order(1)).await.unwrap();
        let _ = $outbox.enqueue(&mut never, order(2)).await.unwrap();
        $outbox.enqueue(&mut early, order(3)).await.unwrap().ring();
        never.rollback().await.unwrap();
        early.commit().await.unwrap();
        assert_eq!(bodies(&mut billing, 1).await, ["3"]);
        late.commit().await.unwrap();
        bell.ring();
        assert_eq!(bodies(&mut billing, 1).await, ["1"]);
        for number in 4..24 {
            let mut tx = begin().await;
            let bell = $outbox.enqueue(&mut tx, order(number)).await.unwrap();
            tx.commit().await.unwrap();
            bell.ring();
        }
        bodies(&mut billing, 20).await;
        relay.shutdown().await.unwrap();
        assert_eq!(topic(&$client).await.len(), 22);
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_that_commits_late_with_a_lower_id_is_sent_postgres() {
    let (pool, ()) = support::postgres::pool().await;
    let (_broker, client) = broker().await;
    let outbox = postgres::Outbox::new(pool.clone());
    outbox.install().await.unwrap();
    late_commit!(pool, outbox, client, "SELECT 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_that_commits_late_with_a_lower_id_is_sent_mysql() {
    let (pool, ()) = support::mysql::pool().await;
    let (_broker, client) = broker().await;
    let outbox = mysql::Outbox::new(pool.clone());
    outbox.install().await.unwrap();
    // As in a cluster of several servers that write.
    late_commit!(
        pool,
        outbox,
        client,
        "SET auto_increment_increment = 10, auto_increment_offset = 3"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_and_triggers_send() {
    let (_broker, client) = broker().await;
    let mut billing = client.consumer("orders", "billing").await.unwrap();

    let (pool, ()) = support::postgres::pool().await;
    let outbox = postgres::Outbox::new(pool.clone());
    outbox.install().await.unwrap();
    sqlx::raw_sql(
        "SELECT posthouse_enqueue('orders', 'one'); \
         SELECT posthouse_enqueue('orders', 'two', message_key => 'k', headers => '[[\"a\",\"b\"]]'); \
         CREATE TABLE sales (article TEXT); \
         CREATE FUNCTION sell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM posthouse_enqueue('orders', convert_to(NEW.article, 'UTF8')); RETURN NULL; END $$; \
         CREATE TRIGGER sold AFTER INSERT ON sales FOR EACH ROW EXECUTE FUNCTION sell(); \
         INSERT INTO sales VALUES ('by trigger')",
    )
    .execute(&pool)
    .await
    .unwrap();
    let relay = outbox.relay(&client).spawn();
    assert_eq!(bodies(&mut billing, 3).await, ["one", "two", "by trigger"]);
    relay.shutdown().await.unwrap();

    let (pool, ()) = support::mysql::pool().await;
    let outbox = mysql::Outbox::new(pool.clone());
    outbox.install().await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE sales (article VARCHAR(20)); \
         CREATE TRIGGER sold AFTER INSERT ON sales FOR EACH ROW \
         CALL posthouse_enqueue('orders', NEW.article, 'k', '', 0); \
         INSERT INTO sales VALUES ('three'); \
         CALL posthouse_enqueue('orders', 'four', NULL, NULL, NULL); \
         CALL posthouse_enqueue_as(X'0102030405060708090a0b0c0d0e0f10', 'orders', 'named', NULL, \
         NULL, NULL)",
    )
    .execute(&pool)
    .await
    .unwrap();
    let relay = outbox.relay(&client).spawn();
    assert_eq!(bodies(&mut billing, 2).await, ["three", "four"]);
    let named = tokio::time::timeout(SECONDS, billing.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((&named.body()[..], named.id().0[15]), (&b"named"[..], 16));
    named.ack().await.unwrap();
    relay.shutdown().await.unwrap();

    let (pool, _kept) = support::sqlite::pool().await;
    let outbox = sqlite::Outbox::new(pool.clone());
    outbox.install().await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE sales (article TEXT); CREATE TRIGGER sold AFTER INSERT ON sales BEGIN \
         INSERT INTO posthouse_outbox (topic, body) VALUES ('orders', NEW.article); END; \
         INSERT INTO sales VALUES ('five')",
    )
    .execute(&pool)
    .await
    .unwrap();
    let relay = outbox.relay(&client).spawn();
    assert_eq!(bodies(&mut billing, 1).await, ["five"]);
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_behind_a_proxy_that_pools_transactions() {
    let server = Postgres::start().unwrap();
    let database = server.create_database().unwrap();
    let proxy = PgBouncer::start(&server).unwrap();
    let url = proxy.url(&database);
    let pool = PgPoolOptions::new().max_connections(8).connect(&url).await.unwrap();
    let (_broker, client) = broker().await;
    let outbox = postgres::Outbox::new(pool.clone());
    outbox.install().await.unwrap();
    let inbox = postgres::Inbox::new(pool.clone(), "billing");
    sqlx::raw_sql("CREATE TABLE work (text TEXT)").execute(&pool).await.unwrap();
    let relays: Vec<_> = (0..2).map(|_| outbox.relay(&client).batch(5).spawn()).collect();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let outbox = outbox.clone();
        writers.spawn(async move {
            for number in 0..25 {
                let sent = outbox.transaction(async |_tx, out| {
                    out.send(order(writer * 100 + number));
                    Ok::<_, Error>(())
                });
                sent.await.unwrap();
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let consumer = client.consumer("orders", "billing").await.unwrap();
    let handled = async || -> i64 {
        sqlx::raw_sql("SELECT 1").execute(&pool).await.unwrap();
        let all = sqlx::raw_sql("SELECT text FROM work").fetch_all(&pool).await.unwrap();
        i64::try_from(all.len()).unwrap()
    };
    let until = async {
        while handled().await < 100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // What sqlx asks of its user behind such a proxy: an empty statement cache is not enough, the
    // statements would have names all the same.
    let insert = async |tx: &mut sqlx::Transaction<'_, sqlx::Postgres>| {
        sqlx::query("INSERT INTO work VALUES ($1)")
            .bind("x")
            .persistent(false)
            .execute(&mut **tx)
            .await
    };
    let run = inbox.run(consumer, 4, async |tx, _delivery| insert(tx).await.map(|_| ()));
    tokio::time::timeout(SECONDS, run.until(until)).await.unwrap().unwrap();
    for relay in relays {
        let _ = relay.shutdown().await;
    }

    assert_eq!((handled().await, topic(&client).await.len()), (100, 100));
    assert_eq!(inbox.collect_garbage().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_gone_before_the_insert_is_a_definite_outcome_unless_the_commit_went_with_it() {
    let server = MariaDb::start().unwrap();
    let database = server.create_database().unwrap();
    let pool = MySqlPoolOptions::new().connect(database.url()).await.unwrap();
    let outbox = mysql::Outbox::new(pool);
    outbox.install().await.unwrap();
    for (bytes, expected) in [(1, Outcome::Unknown), (20_000, Outcome::Definite)] {
        let sent = outbox.transaction(async |_tx, out| {
            out.send(Message::new(vec![b'x'; bytes]).to("orders"));
            server.kill().unwrap();
            Ok::<_, Error>(())
        });
        let error = sent.await.unwrap_err();
        assert_eq!(error.outcome(), expected, "{error:?}");
        server.restart().unwrap();
    }
    assert_eq!(outbox.lag().await.unwrap().rows, 0);
}

#[tokio::test]
async fn statement_stays_prepared_only_on_connections_that_are_said_to_be_direct() {
    let (pool, _kept) = support::postgres::pool().await;
    let outbox = postgres::Outbox::new(pool.clone());
    outbox.install().await.unwrap();
    for (outbox, prepared) in [(outbox.clone(), 0), (outbox.connects_directly(), 1)] {
        let mut tx = pool.begin().await.unwrap();
        for number in 0..3 {
            let _ = outbox.enqueue(&mut tx, order(number)).await.unwrap();
        }
        let named: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_prepared_statements \
             WHERE statement LIKE 'INSERT INTO posthouse_outbox %'",
        )
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        assert_eq!(named, prepared);
        tx.commit().await.unwrap();
    }
}

fn order(number: i64) -> Outgoing {
    Message::new(number.to_string()).to("orders")
}

/// The bodies in the topic.
async fn topic(client: &Client) -> Vec<String> {
    let mut reader = client.reader("orders", Position::Earliest).await.unwrap();
    let mut bodies = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        bodies.push(String::from_utf8(record.body().to_vec()).unwrap());
    }
    bodies
}
