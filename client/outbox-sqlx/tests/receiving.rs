//! Handling messages in a transaction, on real databases, with a real broker.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and its tasks end with it"
)]

mod support;

use posthouse_client::{Client, Delivery, Message, MessageId, Position, ReadError, Start};
use posthouse_client::{Mode, SubscriptionSettings};
use posthouse_outbox_sqlx::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use support::{SECONDS, broker, polled, quick};

on_each! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn message_has_one_effect_however_often_it_comes() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let inbox = installed(&pool).await;
        let orders = client.publisher("orders").await.unwrap();
        for number in 0..60_u8 {
            orders.publish(Message::new("x").id(MessageId([number % 20 + 1; 16]))).await.unwrap();
        }
        let calls = Arc::new(AtomicU32::new(0));
        // In a task, with something shared and something borrowed: that has to compile.
        let task = tokio::spawn({
            let (inbox, calls, client) = (inbox.clone(), Arc::clone(&calls), client.clone());
            async move {
                let text = String::from("x");
                let (borrowed, counted) = (&text, &calls);
                let consumer = client.consumer("orders", "billing").await.unwrap();
                let run = inbox.run(consumer, 4, async |tx, delivery| {
                    // Every third fails or panics the first time.
                    match (counted.fetch_add(1, Ordering::Relaxed), delivery.attempt().0) {
                        (call, 0) if call % 6 == 2 => return Err(Error::TransactionEnded),
                        (call, 0) if call % 6 == 5 => panic!("on purpose"),
                        _ => add(tx, borrowed, delivery).await?,
                    }
                    Ok(())
                });
                run.until(settled(&client)).await
            }
        });
        tokio::time::timeout(SECONDS * 3, task).await.unwrap().unwrap().unwrap();

        assert_eq!(effects(&pool).await, (20, 20));
        assert!(calls.load(Ordering::Relaxed) >= 20);
        place::idle(&pool).await;
    }

    #[tokio::test]
    async fn error_that_was_swallowed_acks_nothing() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let inbox = installed(&pool).await;
        client.publisher("orders").await.unwrap().publish("x").await.unwrap();
        let consumer = client.consumer("orders", "billing").await.unwrap();
        let run = inbox.run(consumer, 1, async |tx, delivery| {
            add(tx, "x", delivery).await?;
            if delivery.attempt().0 == 0 {
                // What a deadlock does to the transaction.
                sqlx::raw_sql("ROLLBACK").execute(&mut **tx).await?;
            }
            Ok::<_, sqlx::Error>(())
        });
        tokio::time::timeout(SECONDS, run.until(settled(&client))).await.unwrap().unwrap();

        assert_eq!(effects(&pool).await, (1, 1));
    }

    #[tokio::test]
    async fn handler_that_ends_its_transaction_and_begins_another_has_failed() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let inbox = installed(&pool).await;
        client.publisher("orders").await.unwrap().publish("x").await.unwrap();
        let consumer = client.consumer("orders", "billing").await.unwrap();
        let run = inbox.run(consumer, 1, async |tx, delivery| {
            if delivery.attempt().0 == 0 {
                sqlx::raw_sql("ROLLBACK; BEGIN").execute(&mut **tx).await?;
            }
            add(tx, "x", delivery).await
        });
        tokio::time::timeout(SECONDS, run.until(settled(&client))).await.unwrap().unwrap();

        assert_eq!((effects(&pool).await, noted(&pool).await), ((1, 1), 1));
    }

    #[tokio::test]
    async fn transaction_of_another_message_is_noticed() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let inbox = installed(&pool).await;
        let orders = client.publisher("orders").await.unwrap();
        orders.publish("a").await.unwrap();
        orders.publish("b").await.unwrap();
        let mut consumer = client.consumer("orders", "billing").await.unwrap();
        let [a, b] = [consumer.next().await.unwrap(), consumer.next().await.unwrap()];
        let on::Begun::New(tx) = inbox.begin(&a.unwrap()).await.unwrap() else { panic!("new") };

        let error = inbox.commit(tx, b.unwrap()).await.unwrap_err();

        assert!(matches!(error, Error::TransactionEnded), "{error:?}");
        assert_eq!(noted(&pool).await, 0);
        place::idle(&pool).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_connection_stays_in_a_transaction_while_a_run_waits_for_messages() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let inbox = installed(&pool).await;
        let orders = client.publisher("orders").await.unwrap();
        for _ in 0..50 {
            orders.publish("x").await.unwrap();
        }
        let consumer = client.consumer("orders", "billing").await.unwrap();
        let run = inbox.run(consumer, 2, async |tx, delivery| add(tx, "x", delivery).await);
        let waits = async {
            settled(&client).await;
            place::idle(&pool).await;
        };
        tokio::time::timeout(SECONDS, run.until(waits)).await.unwrap().unwrap();
        assert_eq!(effects(&pool).await, (50, 50));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_connection_is_enough_for_handling_and_collecting() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        installed(&pool).await;
        let options = pool.options().clone().max_connections(1).acquire_timeout(SECONDS * 9);
        let single = options.connect_with((*pool.connect_options()).clone()).await.unwrap();
        let inbox = on::Inbox::new(single, "billing");
        let orders = client.publisher("orders").await.unwrap();
        for _ in 0..20 {
            orders.publish("x").await.unwrap();
        }
        let consumer = client.consumer("orders", "billing").await.unwrap();
        let run = inbox.run(consumer, 1, async |tx, delivery| add(tx, "x", delivery).await);
        tokio::time::timeout(SECONDS, run.until(settled(&client))).await.unwrap().unwrap();
        assert_eq!(effects(&pool).await, (20, 20));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn by_hand_a_duplicate_and_a_stale_delivery_are_told_apart() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let inbox = installed(&pool).await;
        let (early, late) = handed_out_twice(&client).await;

        let on::Begun::New(mut tx) = inbox.begin(&late).await.unwrap() else { panic!("new") };
        add(&mut tx, "x", &late).await.unwrap();
        drop(tx);
        let on::Begun::New(mut tx) = inbox.begin(&late).await.unwrap() else { panic!("new") };
        add(&mut tx, "x", &late).await.unwrap();
        // Somebody is at work on it: the wait is bounded, and passes.
        let error = inbox.begin(&late).await.unwrap_err();
        assert!(matches!(error, Error::Database(_)), "{error}");
        let kept = late.fence();
        inbox.commit(tx, late).await.unwrap();

        assert!(matches!(inbox.begin(&early).await.unwrap(), on::Begun::Stale));
        assert!(early.fence() < kept);
        settled(&client).await;
        assert_eq!(effects(&pool).await, (1, 1));
        let (early, late) = handed_out_twice(&client).await;
        let on::Begun::New(tx) = inbox.begin(&early).await.unwrap() else { panic!("new") };
        inbox.commit(tx, early).await.unwrap();
        assert!(matches!(inbox.begin(&late).await.unwrap(), on::Begun::Duplicate));
        late.ack().await.unwrap();
        place::idle(&pool).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_younger_than_the_window_is_kept_below_the_floor() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let inbox = installed(&pool).await.window(Duration::from_hours(1));
        let orders = client.publisher("orders").await.unwrap();
        let mut consumer = client.consumer("orders", "billing").await.unwrap();
        // The floor that the third brings lies above the two before.
        for number in 0..3 {
            orders.publish(number.to_string()).await.unwrap();
            let delivery = consumer.next().await.unwrap().unwrap();
            let on::Begun::New(tx) = inbox.begin(&delivery).await.unwrap() else { panic!("new") };
            inbox.commit(tx, delivery).await.unwrap();
            settled(&client).await;
        }
        let collected = async |aged: &'static str| {
            sqlx::raw_sql(aged).execute(&pool).await.unwrap();
            let floor = "UPDATE posthouse_inbox_floor SET raised_at = raised_at - 61000";
            sqlx::raw_sql(floor).execute(&pool).await.unwrap();
            inbox.collect_garbage().await.unwrap()
        };
        assert_eq!(inbox.collect_garbage().await.unwrap(), 0, "the floor is stored first");
        assert_eq!(collected("SELECT 1").await, 0, "none is an hour old");

        let first = "UPDATE posthouse_inbox SET received_at = received_at - 3601000 WHERE place = 0";
        assert_eq!(collected(first).await, 1, "the one that is");
        assert_eq!(noted(&pool).await, 2);
        place::idle(&pool).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_forgotten_is_refused_all_the_same() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let inbox = installed(&pool).await.window(Duration::ZERO);
        let (zombie, late) = handed_out_twice(&client).await;
        let on::Begun::New(mut tx) = inbox.begin(&late).await.unwrap() else { panic!("new") };
        add(&mut tx, "x", &late).await.unwrap();
        inbox.commit(tx, late).await.unwrap();
        settled(&client).await;
        // A delivery that brings the floor above it.
        client.publisher("orders").await.unwrap().publish("y").await.unwrap();
        let mut consumer = client.consumer("orders", "billing").await.unwrap();
        let next = consumer.next().await.unwrap().unwrap();
        assert!(next.ack_floor() > zombie.offset());
        let on::Begun::New(tx) = inbox.begin(&next).await.unwrap() else { panic!("new") };
        inbox.commit(tx, next).await.unwrap();

        assert_eq!(inbox.collect_garbage().await.unwrap(), 0, "the floor is stored first");
        assert_eq!(inbox.collect_garbage().await.unwrap(), 0, "and has to stand for a minute");
        assert_eq!(noted(&pool).await, 2);
        sqlx::raw_sql("UPDATE posthouse_inbox_floor SET raised_at = raised_at - 61000")
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(inbox.collect_garbage().await.unwrap(), 1);
        assert_eq!(noted(&pool).await, 1);
        assert!(matches!(inbox.begin(&zombie).await.unwrap(), on::Begun::Stale));
        assert_eq!(effects(&pool).await, (1, 1));
        drop(zombie.ack());

        // A new message is none of that, wherever it is handed out.
        client.publisher("orders").await.unwrap().publish("z").await.unwrap();
        let new = consumer.next().await.unwrap().unwrap();
        assert!(matches!(inbox.begin(&new).await.unwrap(), on::Begun::New(_)));
        new.ack().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stream_goes_on_where_the_database_is_and_a_second_reader_stops() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let inbox = installed(&pool).await;
        let stream = SubscriptionSettings { mode: Mode::Stream, ..SubscriptionSettings::default() };
        let admin = client.admin();
        admin.create_subscription("orders", "view", stream, Start::Earliest).await.unwrap();
        let orders = client.publisher("orders").await.unwrap();
        let read = async |position| {
            let reader = client.reader("orders", position).await.unwrap();
            let handler = async |tx: &mut sqlx::Transaction<'_, Db>, records: &[_]| {
                for record in records {
                    add_record(tx, record).await?;
                }
                Ok::<_, Error>(())
            };
            inbox.run_stream(reader, handler).await
        };
        for round in 1..=3_u8 {
            for _ in 0..10 {
                orders.publish("x").await.unwrap();
            }
            read(Position::saved("view")).await.unwrap();
            read(Position::Earliest).await.unwrap();
            assert_eq!(effects(&pool).await, (i64::from(round) * 10, i64::from(round) * 10));
        }
        let info = admin.describe_subscription("orders", "view").await.unwrap();
        assert_eq!(info.ack_floor.0, 30);

        orders.publish("x").await.unwrap();
        let following = client.reader("orders", Position::Earliest).follow().await.unwrap();
        let (moved, publisher) = (pool.clone(), orders.clone());
        let task = tokio::spawn({
            let inbox = inbox.clone();
            async move {
                let (shared, local) = (Arc::new(1), String::from("local"));
                inbox
                    .run_stream(following, async |tx, records| {
                        for record in records {
                            add_record(tx, record).await?;
                        }
                        drop((Arc::clone(&shared), local.as_str()));
                        Ok::<_, Error>(())
                    })
                    .await
            }
        });
        while effects(&pool).await.0 < 31 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sqlx::raw_sql("UPDATE posthouse_stream_cursor SET next_place = 32")
            .execute(&moved)
            .await
            .unwrap();
        publisher.publish("x").await.unwrap();
        let ended = tokio::time::timeout(SECONDS, task).await.unwrap().unwrap();
        assert!(matches!(ended, Err(Error::Overtaken)), "{ended:?}");
        assert_eq!(effects(&pool).await, (31, 31));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn name_of_a_consumer_that_a_table_would_cut_off_is_refused() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        installed(&pool).await;
        client.publisher("orders").await.unwrap().publish("x").await.unwrap();
        let inbox = |length| on::Inbox::new(pool.clone(), "é".repeat(length));
        let take = async || client.consumer("orders", "billing").await.unwrap();
        let handler = async |_: &mut sqlx::Transaction<'_, Db>, _: &Delivery| Ok::<_, Error>(());

        let delivery = take().await.next().await.unwrap().unwrap();
        let begun = inbox(201).begin(&delivery).await;
        if !std::any::type_name::<Db>().contains("MySql") {
            return assert!(matches!(begun, Ok(on::Begun::New(_))), "{begun:?}");
        }
        assert!(matches!(begun, Err(Error::Tables(_))), "{begun:?}");
        let run = inbox(201).run(take().await, 1, handler).until(std::future::pending());
        let refused = tokio::time::timeout(SECONDS, run).await.unwrap();
        assert!(matches!(refused, Err(Error::Tables(_))), "{refused:?}");
        let reader = client.reader("orders", Position::Earliest).await.unwrap();
        let read = async |_: &mut sqlx::Transaction<'_, Db>, _: &[_]| Ok::<_, Error>(());
        let refused = inbox(201).run_stream(reader, read).await;
        assert!(matches!(refused, Err(Error::Tables(_))), "{refused:?}");

        let begun = inbox(200).begin(&delivery).await.unwrap();
        assert!(matches!(begun, on::Begun::New(_)), "{begun:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stream_stops_before_a_broker_that_has_less_than_was_read() {
        let (pool, _kept) = place::pool().await;
        let inbox = installed(&pool).await;
        for messages in [3, 1] {
            let (_broker, client) = broker().await;
            let orders = client.publisher("orders").await.unwrap();
            let read = async || {
                let reader = client.reader("orders", Position::Earliest).await.unwrap();
                let handler = async |tx: &mut sqlx::Transaction<'_, Db>, records: &[_]| {
                    for record in records {
                        add_record(tx, record).await?;
                    }
                    Ok::<_, Error>(())
                };
                inbox.run_stream(reader, handler).await
            };
            for _ in 0..messages {
                orders.publish("x").await.unwrap();
            }
            match read().await {
                Ok(()) => assert_eq!(messages, 3),
                Err(Error::Reader(ReadError::BeyondEnd { offset, end })) => {
                    assert_eq!((messages, offset.0, end.0), (1, 3, 1));
                }
                Err(error) => panic!("{error}"),
            }
            assert_eq!(effects(&pool).await, (3, 3));
            let cursor = sqlx::query_scalar("SELECT next_place FROM posthouse_stream_cursor");
            let cursor: i64 = cursor.fetch_one(&pool).await.unwrap();
            assert_eq!(cursor, 3);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn handler_enqueues_in_the_same_transaction() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        client.admin().create_topic("bills", Default::default()).await.unwrap();
        client.admin().ensure_subscription("bills", "all").await.unwrap();
        let outbox = on::Outbox::new(pool.clone());
        let inbox = installed(&pool).await.wakes(&outbox);
        let relay = outbox.relay(&client).spawn();
        client.publisher("orders").await.unwrap().publish("a lamp").await.unwrap();
        let consumer = client.consumer("orders", "billing").await.unwrap();
        let run = inbox.run(consumer, 2, async |tx, delivery| {
            let bill = Message::new(delivery.body().clone()).to("bills");
            let _ = outbox.enqueue(tx, bill).await?;
            if delivery.attempt().0 == 0 { Err(Error::TransactionEnded) } else { Ok(()) }
        });
        run.until(settled(&client)).await.unwrap();

        let mut bills = client.consumer("bills", "all").await.unwrap();
        assert_eq!(support::bodies(&mut bills, 1).await, ["a lamp"]);
        relay.shutdown().await.unwrap();
        let info = client.admin().describe_subscription("bills", "all").await.unwrap();
        assert_eq!(info.backlog, 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn dropped_anywhere_a_message_is_handled_once_and_no_connection_stays_in_a_transaction() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        quick(&client).await;
        let inbox = installed(&pool).await;
        let orders = client.publisher("orders").await.unwrap();
        let mut consumer = client.consumer("orders", "quick").await.unwrap();
        let mut dropped = 0;
        for times in 1..200 {
            let _ = orders.publish("x").await.unwrap();
            let delivery = consumer.next().await.unwrap().unwrap();
            let handling = async {
                match inbox.begin(&delivery).await? {
                    on::Begun::New(mut tx) => {
                        add(&mut tx, "x", &delivery).await?;
                        inbox.commit(tx, delivery).await
                    }
                    on::Begun::Duplicate | on::Begun::Stale => {
                        drop(delivery.ack());
                        Ok(())
                    }
                }
            };
            let done = polled(handling, times).await;
            dropped += u32::from(done.is_none());
            place::idle(&pool).await;
            if done.is_some() && polled(inbox.collect_garbage(), times).await.is_some() {
                break;
            }
        }
        assert!(dropped > 0, "none was dropped");
        drop(consumer);
        let consumer = client.consumer("orders", "quick").await.unwrap();
        let run = inbox.run(consumer, 4, async |tx, delivery| add(tx, "x", delivery).await);
        let until = async {
            while backlog(&client, "quick").await > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SECONDS, run.until(until)).await.unwrap().unwrap();
        place::idle(&pool).await;
        let (all, different) = effects(&pool).await;
        assert_eq!(all, different);
        assert!(all >= i64::from(dropped), "{all}");
    }

    async fn installed(pool: &sqlx::Pool<Db>) -> on::Inbox {
        let inbox = on::Inbox::new(pool.clone(), "billing");
        inbox.install().await.unwrap();
        sqlx::raw_sql("CREATE TABLE effects (id VARCHAR(32), text TEXT)").execute(pool).await.unwrap();
        inbox
    }

    async fn add(
        tx: &mut sqlx::Transaction<'_, Db>,
        text: &str,
        delivery: &Delivery,
    ) -> sqlx::Result<()> {
        let statement = format!("INSERT INTO effects VALUES ('{}', '{text}')", delivery.id());
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut **tx).await.map(|_| ())
    }

    async fn add_record(
        tx: &mut sqlx::Transaction<'_, Db>,
        record: &posthouse_client::Record,
    ) -> sqlx::Result<()> {
        let statement = format!("INSERT INTO effects VALUES ('{}', '')", record.id());
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut **tx).await.map(|_| ())
    }

    /// How many effects, and how many different ones.
    async fn effects(pool: &sqlx::Pool<Db>) -> (i64, i64) {
        sqlx::query_as("SELECT COUNT(*), COUNT(DISTINCT id) FROM effects")
            .fetch_one(pool)
            .await
            .unwrap()
    }

    async fn noted(pool: &sqlx::Pool<Db>) -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM posthouse_inbox").fetch_one(pool).await.unwrap()
    }
}

/// Waits until everything in the subscription is settled.
async fn settled(client: &Client) {
    while backlog(client, "billing").await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn backlog(client: &Client, subscription: &str) -> u64 {
    client.admin().describe_subscription("orders", subscription).await.unwrap().backlog
}

/// Two deliveries of one message: of a consumer that is gone, and of the one after it.
async fn handed_out_twice(client: &Client) -> (Delivery, Delivery) {
    let orders = client.publisher("orders").await.unwrap();
    let receipt = orders.publish("x").await.unwrap();
    let mut consumer = client.consumer("orders", "billing").await.unwrap();
    let early = consumer.next().await.unwrap().unwrap();
    assert_eq!(early.id(), receipt.id);
    drop(consumer);
    let mut consumer = client.consumer("orders", "billing").await.unwrap();
    let late = tokio::time::timeout(SECONDS, consumer.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(late.id(), receipt.id);
    (early, late)
}
