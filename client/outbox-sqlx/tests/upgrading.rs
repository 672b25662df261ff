//! Tables of other versions than this program's, and what the present one brought.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and its tasks end with it"
)]

#[expect(dead_code, reason = "each test uses a part of it")]
mod support;

use posthouse_client::outbox::{Claim, EnqueueError, Park, RelayErrorKind, RowId, Standing, Step};
use posthouse_client::outbox::{SCHEMA_VERSIONS, Store};
use posthouse_client::{Message, Outgoing};
use posthouse_outbox_sqlx::{Error, mysql, postgres};
use std::time::Duration;
use support::{SECONDS, bodies, broker};

on_each! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tables_of_the_version_before_are_worked_and_brought_up_to_date_with_what_is_in_them() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let mut billing = client.consumer("orders", "billing").await.unwrap();
        let outbox = on::Outbox::new(pool.clone());
        let second = outbox.upgrade(1);
        let first = outbox.ddl().strip_suffix(&second).unwrap().to_owned();
        sqlx::raw_sql(sqlx::AssertSqlSafe(first)).execute(&pool).await.unwrap();
        for number in 1..=4 {
            enqueue(&outbox, &pool, number).await;
        }
        // One of each: parked, claimed, cursor.
        let mut store = outbox.store();
        let before = store.describe().await.unwrap();
        assert_eq!((before.schema_version, *SCHEMA_VERSIONS.start()), (1, 1));
        store.acquire("old", Duration::ZERO).await.unwrap();
        let mut from = Standing { epoch: 1, claimed: 0, acked: 0 };
        let claim = Claim { sequence: 1, rows: vec![RowId(2), RowId(3)], digest: 7 };
        let (lease, claim) = (Duration::ZERO, Some(claim));
        assert!(store.step(&Step { from, lease, acked: 0, done: vec![], claim }).await.unwrap());
        from.claimed = 1;
        let park = Park { from, rows: vec![(RowId(1), "no".to_owned())], claims: vec![] };
        assert!(store.park(&park).await.unwrap());
        let cursor = "INSERT INTO posthouse_stream_cursor VALUES ('me', 'orders', 5, 6)";
        sqlx::raw_sql(cursor).execute(&pool).await.unwrap();
        let kept = async || {
            let mut store = outbox.store();
            let rows = store.scan(&[], RowId(0), 10, 1 << 20).await.unwrap();
            let parked = store.parked(RowId(0), 10).await.unwrap();
            let cursors = "SELECT next_place FROM posthouse_stream_cursor";
            let cursor: i64 = sqlx::query_scalar(cursors).fetch_one(&pool).await.unwrap();
            (rows, parked, store.claims().await.unwrap(), cursor)
        };
        let then = kept().await;
        assert_eq!((then.0.len(), then.1.len(), then.2.len(), then.3), (3, 1, 1, 5));

        outbox.install().await.unwrap();

        assert_eq!(kept().await, then);
        let mut after = store.describe().await.unwrap();
        assert_eq!(after.schema_version, *SCHEMA_VERSIONS.end());
        after.schema_version = 1;
        after.belongs_to.clone_from(&before.belongs_to);
        after.found_in.clone_from(&before.found_in);
        assert_eq!(after, before);

        // Its number was for the rows as another program encoded them; here they go under it anew.
        sqlx::raw_sql("UPDATE posthouse_outbox_state SET schema_version = 1").execute(&pool).await.unwrap();
        let relay = outbox.relay(&client).accept_changed_rows().spawn();
        assert_eq!(bodies(&mut billing, 3).await, ["2", "3", "4"]);
        outbox.install().await.unwrap();
        enqueue(&outbox, &pool, 5).await;
        assert_eq!(bodies(&mut billing, 1).await, ["5"]);
        relay.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn newer_tables_stay_as_they_are_and_no_relay_of_this_program_works_them() {
        let (pool, _kept) = place::pool().await;
        let (_broker, client) = broker().await;
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        let newer = "UPDATE posthouse_outbox_state SET schema_version = 3; \
             DROP TABLE posthouse_inbox_floor";
        sqlx::raw_sql(newer).execute(&pool).await.unwrap();

        outbox.install().await.unwrap();

        assert_eq!(outbox.store().describe().await.unwrap().schema_version, 3);
        let gone = sqlx::raw_sql("SELECT * FROM posthouse_inbox_floor").execute(&pool).await;
        assert!(gone.is_err(), "it was made again");
        let error = outbox.relay(&client).spawn().ended().await.unwrap_err();
        assert_eq!(error.kind(), RelayErrorKind::NotInstalled);
        assert!(error.to_string().contains("version 3"), "{error}");
        assert!(error.to_string().contains("newer program"), "{error}");
        // What an application enqueues waits for a relay that is as new.
        enqueue(&outbox, &pool, 1).await;
        assert_eq!(outbox.lag().await.unwrap().rows, 1);
    }

    async fn enqueue(outbox: &on::Outbox, pool: &sqlx::Pool<Db>, number: i64) {
        let mut tx: sqlx::Transaction<'_, Db> = pool.begin().await.unwrap();
        let bell = outbox.enqueue_ordered(&mut tx, order(number, "lamp")).await;
        let bell = match bell {
            Ok(bell) => bell,
            // Version 1 has no locks for keys on some databases, and says so.
            Err(Error::Database(_)) if outbox.store().describe().await.unwrap().schema_version == 1 => {
                tx.rollback().await.unwrap();
                tx = pool.begin().await.unwrap();
                outbox.enqueue(&mut tx, order(number, "lamp")).await.unwrap()
            }
            Err(error) => panic!("{error}"),
        };
        tx.commit().await.unwrap();
        bell.ring();
    }

    #[tokio::test]
    async fn message_without_a_key_has_no_order_to_keep() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        let mut tx: sqlx::Transaction<'_, Db> = pool.begin().await.unwrap();

        let refused = outbox.enqueue_ordered(&mut tx, Message::new("x").to("orders")).await;

        assert!(matches!(refused, Err(Error::Enqueue(EnqueueError::NoKey))), "{refused:?}");
        tx.commit().await.unwrap();
        assert_eq!(outbox.lag().await.unwrap().rows, 0);
    }
}

/// A second transaction for a key waits until the first has ended, whichever way each takes the key.
macro_rules! waits {
    ($pool:expr, $outbox:expr, $by_sql:literal) => {{
        let (pool, outbox) = ($pool, $outbox);
        outbox.install().await.unwrap();
        let large = "x".repeat(20_000);
        for (round, by_sql) in [false, true].into_iter().enumerate() {
            let mut first = pool.begin().await.unwrap();
            let _ = outbox.enqueue_ordered(&mut first, order(1, "lamp")).await.unwrap();
            let second = tokio::spawn({
                let (pool, outbox, large) = (pool.clone(), outbox.clone(), large.clone());
                async move {
                    let mut tx = pool.begin().await.unwrap();
                    if by_sql {
                        sqlx::raw_sql($by_sql).execute(&mut *tx).await.unwrap();
                        let _ = outbox.enqueue(&mut tx, order(3, "lamp")).await.unwrap();
                    } else {
                        let message = Message::new(large).key("lamp").to("orders");
                        let _ = outbox.enqueue_ordered(&mut tx, message).await.unwrap();
                    }
                    tx.commit().await.unwrap();
                }
            });
            let mut other = pool.begin().await.unwrap();
            let free = outbox.enqueue_ordered(&mut other, order(9, "chair"));
            let _ = tokio::time::timeout(SECONDS, free).await.expect("another key").unwrap();
            other.rollback().await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!second.is_finished(), "round {round}: it did not wait");
            // Who has the key may have it again.
            let _ = outbox.enqueue_ordered(&mut first, order(2, "lamp")).await.unwrap();
            first.commit().await.unwrap();
            tokio::time::timeout(SECONDS, second).await.unwrap().unwrap();
        }
        let rows = outbox.store().scan(&[], RowId(0), 10, 1 << 20).await.unwrap();
        let texts: Vec<_> = rows.iter().map(|row| row.body.len()).collect();
        assert_eq!(texts, [1, 1, 20_000, 1, 1, 1]);
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_one_key_wait_for_each_other_postgres() {
    let (pool, ()) = support::postgres::pool().await;
    let outbox = postgres::Outbox::new(pool.clone());
    waits!(pool, outbox, "SELECT posthouse_order_key('lamp')");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_one_key_wait_for_each_other_mysql() {
    let (pool, ()) = support::mysql::pool().await;
    let outbox = mysql::Outbox::new(pool.clone());
    waits!(pool, outbox, "CALL posthouse_order_key('lamp')");
}

fn order(number: i64, key: &str) -> Outgoing {
    Message::new(number.to_string()).key(key.to_owned()).to("orders")
}

/// Each tenant in a schema of its own, and something in the schema that all share.
#[tokio::test]
async fn tables_are_made_where_they_belong_although_others_of_their_names_are_found() {
    let (pool, ()) = support::postgres::pool().await;
    postgres::Outbox::new(pool.clone()).install().await.unwrap();
    sqlx::raw_sql("CREATE SCHEMA tenant").execute(&pool).await.unwrap();
    let options = (*pool.connect_options()).clone().options([("search_path", "tenant, public")]);
    let own = sqlx::PgPool::connect_with(options).await.unwrap();

    postgres::Outbox::new(own.clone()).install().await.unwrap();

    let made = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'tenant'";
    let made: i64 = sqlx::query_scalar(made).fetch_one(&own).await.unwrap();
    assert_eq!(made, 7);
}
