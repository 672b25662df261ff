//! Futures that are dropped after any number of polls, on real databases, with a real broker.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "shared with tests that need the rest of it")]
mod support;

use posthouse_client::outbox::RowId;
use posthouse_client::{Client, Message, Outgoing, Position, Record};
use posthouse_outbox_sqlx::{Error, postgres};
use std::time::Duration;
use support::{SECONDS, broker, polled, quick};

/// Short, long, and longer than what a socket takes at once.
const SIZES: [usize; 3] = [1, 20_000, 600_000];

on_each! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn dropped_anywhere_an_enqueue_leaves_a_transaction_that_can_be_ended_either_way() {
        let (pool, _kept) = place::pool().await;
        let outbox = installed(&pool).await;
        let (mut kept, mut dropped) = (0, 0);
        for size in SIZES {
            for times in 0.. {
                let mut finished = 0;
                for ends_by in [End::Drop, End::RollBack, End::Commit] {
                    // A connection that has prepared nothing yet, and no other one.
                    let options = pool.options().clone().max_connections(1);
                    let options = options.connect_with((*pool.connect_options()).clone());
                    let single = options.await.unwrap();
                    let trying = async {
                        let mut tx = single.begin().await.unwrap();
                        add(&mut tx).await.unwrap();
                        let done = polled(outbox.enqueue(&mut tx, order(size)), times).await;
                        let many = [order(1), order(size)];
                        let also = polled(outbox.enqueue_many(&mut tx, many), times).await;
                        let keyed = Message::new("x").key("lamp").to("orders");
                        let last = polled(outbox.enqueue_ordered(&mut tx, keyed), times).await;
                        match ends_by {
                            End::Drop => drop(tx),
                            End::RollBack => tx.rollback().await.unwrap(),
                            End::Commit => {
                                add(&mut tx).await.unwrap();
                                tx.commit().await.unwrap();
                            }
                        }
                        [done, also, last].map(|done| done.map(Result::unwrap).is_some())
                    };
                    let tried = tokio::time::timeout(SECONDS, trying).await;
                    let done = tried.expect("an end of the transaction");
                    finished += u32::from(done == [true; 3]);
                    dropped += u32::from(done == [false; 3]);
                    kept += if matches!(ends_by, End::Commit) { 2 } else { 0 };
                    assert_eq!(count(&single).await, kept, "{ends_by:?} after {times} polls");
                    single.close().await;
                }
                if finished == 3 {
                    break;
                }
            }
        }
        assert!(dropped > 0, "none was dropped");
        place::idle(&pool).await;
        for row in rows(&pool).await {
            assert!(SIZES.contains(&usize::try_from(row).unwrap()), "{row} bytes are in a row");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn dropped_anywhere_a_parked_row_is_in_one_place() {
        const ROWS: u64 = 40;
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let outbox = installed(&pool).await;
        let sent = outbox.transaction(async |_tx, out| {
            (0..ROWS).for_each(|_| out.send(Message::new("x").to("nowhere")));
            Ok::<_, Error>(())
        });
        sent.await.unwrap();
        let relay = outbox.relay(&client).spawn();
        while outbox.lag().await.unwrap().parked < ROWS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        relay.shutdown().await.unwrap();

        let mut discarded = 0;
        for times in 0.. {
            let parked = outbox.parked(RowId(0), 2).await.unwrap();
            let [first, second] = [parked[0].id, parked[1].id];
            let redriven = polled(outbox.redrive(&[first]), times).await;
            let gone = polled(outbox.discard(&[second]), times).await;
            let listed = polled(outbox.parked(RowId(0), 2), times).await;
            let looked = polled(outbox.lag(), times).await;
            place::idle(&pool).await;
            let lag = outbox.lag().await.unwrap();
            let left = outbox.parked(RowId(0), 100).await.unwrap();
            discarded += u64::from(gone.is_some() || !left.iter().any(|row| row.id == second));
            assert_eq!(lag.rows + lag.parked + discarded, ROWS, "after {times} polls");
            if let (Some(redriven), Some(gone), Some(listed), Some(looked)) =
                (redriven, gone, listed, looked)
            {
                assert_eq!((redriven.unwrap(), gone.unwrap()), (1, 1));
                drop((listed.unwrap(), looked.unwrap()));
                break;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn dropped_anywhere_a_run_has_handled_a_message_once_or_not() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        quick(&client).await;
        installed(&pool).await;
        let inbox = on::Inbox::new(pool.clone(), "billing");
        let orders = client.publisher("orders").await.unwrap();
        let (mut dropped, mut published) = (0, 0);
        for times in 1.. {
            for _ in 0..3 {
                orders.publish("x").await.unwrap();
                published += 1;
            }
            let consumer = client.consumer("orders", "quick").await.unwrap();
            let run = inbox.run(consumer, 2, async |tx, delivery| {
                effect(tx, &delivery.id().to_string()).await
            });
            let done = polled(run.until(settled(&client)), times).await;
            place::idle(&pool).await;
            if let Some(done) = done {
                done.unwrap();
                break;
            }
            dropped += 1;
        }
        assert!(dropped > 0, "none was dropped");
        assert_eq!(effects(&pool).await, (published, published));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn dropped_anywhere_a_stream_goes_on_at_once_where_the_database_is() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        installed(&pool).await;
        let inbox = on::Inbox::new(pool.clone(), "view");
        let orders = client.publisher("orders").await.unwrap();
        let handler = async |tx: &mut sqlx::Transaction<'_, Db>, records: &[Record]| {
            for record in records {
                effect(tx, &record.id().to_string()).await?;
            }
            Ok::<_, Error>(())
        };
        let (mut dropped, mut published) = (0, 0);
        for times in 0.. {
            orders.publish("x").await.unwrap();
            published += 1;
            let read = async || client.reader("orders", Position::Earliest).await.unwrap();
            let (first, second) = (read().await, read().await);
            let done = polled(inbox.run_stream(first, handler), times).await;
            // What was dropped may still be at work.
            inbox.run_stream(second, handler).await.unwrap();
            assert_eq!(effects(&pool).await, (published, published), "after {times} polls");
            if let Some(done) = done {
                done.unwrap();
                break;
            }
            dropped += 1;
        }
        assert!(dropped > 0, "none was dropped");
        place::idle(&pool).await;
    }

    async fn installed(pool: &sqlx::Pool<Db>) -> on::Outbox {
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        sqlx::raw_sql("CREATE TABLE work (text TEXT)").execute(pool).await.unwrap();
        sqlx::raw_sql("CREATE TABLE effects (id VARCHAR(32))").execute(pool).await.unwrap();
        outbox
    }

    async fn add(tx: &mut sqlx::Transaction<'_, Db>) -> sqlx::Result<()> {
        sqlx::raw_sql("INSERT INTO work VALUES ('x')").execute(&mut **tx).await.map(|_| ())
    }

    async fn effect(tx: &mut sqlx::Transaction<'_, Db>, id: &str) -> sqlx::Result<()> {
        let statement = format!("INSERT INTO effects VALUES ('{id}')");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut **tx).await.map(|_| ())
    }

    async fn count(pool: &sqlx::Pool<Db>) -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM work").fetch_one(pool).await.unwrap()
    }

    /// How long the bodies of the outbox are.
    async fn rows(pool: &sqlx::Pool<Db>) -> Vec<i32> {
        let lengths = "SELECT LENGTH(body) FROM posthouse_outbox";
        sqlx::query_scalar(lengths).fetch_all(pool).await.unwrap()
    }

    /// How many effects, and how many different ones.
    async fn effects(pool: &sqlx::Pool<Db>) -> (i64, i64) {
        sqlx::query_as("SELECT COUNT(*), COUNT(DISTINCT id) FROM effects")
            .fetch_one(pool)
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_of_a_stream_that_was_dropped_is_waited_for() {
    let (pool, ()) = support::postgres::pool().await;
    let (_broker, client) = broker().await;
    let inbox = postgres::Inbox::new(pool.clone(), "view");
    inbox.install().await.unwrap();
    // Each commit of an effect takes long.
    sqlx::raw_sql(
        "CREATE TABLE effects (place BIGINT); \
         CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_sleep(0.2); RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    .execute(&pool)
    .await
    .unwrap();
    let handler = async |tx: &mut sqlx::Transaction<'_, sqlx::Postgres>, records: &[Record]| {
        for record in records {
            let effect = sqlx::query("INSERT INTO effects VALUES ($1)");
            effect.bind(record.offset().0.cast_signed()).execute(&mut **tx).await?;
        }
        Ok::<_, Error>(())
    };
    let orders = client.publisher("orders").await.unwrap();
    let read = async || client.reader("orders", Position::Earliest).await.unwrap();
    for times in 0.. {
        orders.publish("x").await.unwrap();
        let (first, second) = (read().await, read().await);
        let done = polled(inbox.run_stream(first, handler), times).await;
        inbox.clone().run_stream(second, handler).await.unwrap();
        if let Some(done) = done {
            done.unwrap();
            break;
        }
    }
}

/// How the transaction ends in which something was dropped.
#[derive(Clone, Copy, Debug)]
enum End {
    Drop,
    RollBack,
    Commit,
}

fn order(bytes: usize) -> Outgoing {
    Message::new(vec![b'x'; bytes]).to("orders")
}

/// Waits until everything in that subscription is settled.
async fn settled(client: &Client) {
    let backlog =
        async || client.admin().describe_subscription("orders", "quick").await.unwrap().backlog;
    while backlog().await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
