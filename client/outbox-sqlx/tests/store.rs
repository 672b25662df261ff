//! The outbox tables as a relay sees them, on real databases.

#![expect(clippy::unwrap_used, reason = "a test may panic, and its tasks end with it")]

#[expect(dead_code, reason = "each test uses a part of it")]
mod support;

use posthouse_client::outbox::{
    Claim, OutboxId, Park, RowId, RowRange, SCHEMA_VERSIONS, Standing, Step, Store, StoreErrorKind,
};
use posthouse_client::{Message, MessageId, Timestamp};
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(15);

const fn standing([epoch, claimed, acked]: [u64; 3]) -> Standing {
    Standing { epoch, claimed, acked }
}

on_each! {
    #[tokio::test]
    async fn row_is_what_was_enqueued() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        let body: Vec<u8> = (0..=255).collect();
        let message = Message::new(body.clone())
            .key([0_u8, 255, b'\''].to_vec())
            .header("größe", [0_u8, 255].to_vec())
            .due_at(Timestamp(4_000_000_000_000))
            .created_at(Timestamp(5))
            .id(MessageId([7; 16]));
        let mut tx: sqlx::Transaction<'_, Db> = pool.begin().await.unwrap();
        let _ = outbox.enqueue(&mut tx, message.to("orders")).await.unwrap();
        let _ = outbox.enqueue(&mut tx, Message::new("").to("orders")).await.unwrap();
        let large = body.repeat(200);
        let _ = outbox.enqueue(&mut tx, Message::new(large.clone()).to("orders")).await.unwrap();
        tx.commit().await.unwrap();

        let rows = outbox.store().scan(&[], RowId(0), 10, 1 << 20).await.unwrap();

        assert_eq!((rows.len(), &rows[2].body[..]), (3, &large[..]));
        assert_eq!(rows[0].message_id, Some(MessageId([7; 16])));
        assert_eq!((rows[0].topic.as_str(), &rows[0].body[..]), ("orders", &body[..]));
        assert_eq!(rows[0].key.as_deref(), Some(&[0, 255, b'\''][..]));
        assert_eq!(rows[0].headers, "[[\"größe\",{\"base16\":\"00ff\"}]]");
        assert_eq!((rows[0].due_at.0, rows[0].created_at.0), (4_000_000_000_000, 5));
        assert_eq!((rows[1].body.len(), &rows[1].key, rows[1].headers.as_str()), (0, &None, ""));
        assert!(rows[1].created_at.0 > 1_700_000_000_000);
    }

    #[tokio::test]
    async fn plain_sql_makes_a_row() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        sqlx::query("INSERT INTO posthouse_outbox (topic, body) VALUES ('orders', 'a lamp')")
            .execute(&pool)
            .await
            .unwrap();

        let rows = outbox.store().scan(&[], RowId(0), 10, 1 << 20).await.unwrap();

        assert_eq!((rows[0].topic.as_str(), &rows[0].body[..]), ("orders", &b"a lamp"[..]));
        assert_ne!(rows[0].message_id, Some(MessageId([0; 16])));
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
        assert!(u128::from(rows[0].created_at.0).abs_diff(now) < 60_000, "{:?}", rows[0]);
    }

    #[tokio::test]
    async fn times_before_1970_are_as_if_there_were_none() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        let odd = "INSERT INTO posthouse_outbox (topic, body, due_at, created_at) \
             VALUES ('orders', 'a lamp', -1, -5); \
             INSERT INTO posthouse_outbox_parked (id, topic, body, created_at, reason, parked_at) \
             VALUES (7, 'orders', 'a lamp', -5, 'no such topic', -9)";
        sqlx::raw_sql(odd).execute(&pool).await.unwrap();

        let rows = outbox.store().scan(&[], RowId(0), 10, 1 << 20).await.unwrap();
        let parked = outbox.parked(RowId(0), 10).await.unwrap();

        assert_eq!((rows[0].due_at, rows[0].created_at), (Timestamp(0), Timestamp(0)));
        assert_eq!((parked[0].created_at, parked[0].parked_at), (Timestamp(0), 0));
    }

    #[tokio::test]
    async fn installing_by_many_at_once_makes_one_outbox() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let outbox = outbox.clone();
            tasks.spawn(async move { outbox.install().await });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap().unwrap();
        }
        let first = outbox.store().describe().await.unwrap();
        outbox.install().await.unwrap();

        assert_eq!(outbox.store().describe().await.unwrap(), first);
        assert_ne!(first.outbox, OutboxId([0; 16]));
        assert_eq!((first.schema_version, &first.owner), (*SCHEMA_VERSIONS.end(), &None));
        assert_eq!(first.belongs_to, first.found_in);
        assert_ne!(first.belongs_to, "");
        assert_eq!(first.durability_warning, None);
    }

    #[tokio::test]
    async fn without_tables_an_error_says_what_makes_them() {
        let (pool, _kept) = place::pool().await;
        let error = on::Outbox::new(pool).store().describe().await.unwrap_err();

        assert_eq!(error.kind(), StoreErrorKind::NotInstalled);
        assert!(error.to_string().contains("install()"), "{error}");
    }

    #[tokio::test]
    async fn two_outboxes_with_prefixes_share_a_database() {
        let (pool, _kept) = place::pool().await;
        let first = on::Outbox::new(pool.clone());
        let second = on::Outbox::new(pool.clone()).prefix("other_").unwrap();
        first.install().await.unwrap();
        second.install().await.unwrap();
        let mut tx = pool.begin().await.unwrap();
        let _ = second.enqueue(&mut tx, Message::new("x").to("orders")).await.unwrap();
        tx.commit().await.unwrap();

        assert_eq!(first.lag().await.unwrap().rows, 0);
        assert_eq!(second.lag().await.unwrap().rows, 1);
        assert!(on::Outbox::new(pool).prefix("x;").is_err());
    }

    #[tokio::test]
    async fn lease_is_taken_once_and_given_back() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool);
        outbox.install().await.unwrap();
        let [mut first, mut second] = [outbox.store(), outbox.store()];
        let (name, other) = ("it's \\ first \0", "second");
        let standing = |epoch| Some(Standing { epoch, claimed: 0, acked: 0 });

        assert_eq!(first.acquire(name, LEASE).await.unwrap(), standing(1));
        assert_eq!(second.acquire(other, LEASE).await.unwrap(), None);
        assert_eq!(first.acquire(name, LEASE).await.unwrap(), standing(2));
        let owner = second.describe().await.unwrap().owner.unwrap();
        assert_eq!(owner, name.replace('\0', "\u{fffd}").replace('\0', ""), "{owner}");
        first.release(1).await.unwrap();
        assert_eq!(second.acquire(other, LEASE).await.unwrap(), None);
        first.release(2).await.unwrap();
        assert_eq!(second.describe().await.unwrap().owner, None);
        assert_eq!(second.acquire(other, Duration::from_millis(1)).await.unwrap(), standing(3));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(first.acquire(name, LEASE).await.unwrap(), standing(4));
        assert!(!second.raise_epoch(3, 9).await.unwrap());
        assert!(first.raise_epoch(4, 9).await.unwrap());
        assert_eq!(first.acquire(name, LEASE).await.unwrap(), standing(10));
    }

    #[tokio::test]
    async fn scan_gives_gaps_and_what_is_above_within_its_limits() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        let ids = enqueue(&outbox, &pool, 40, 100).await;
        let mut store = outbox.store();
        let at = |index: usize| RowId(ids[index]);
        let range = |first, last| RowRange { first: at(first), last: at(last) };
        let found = |rows: Vec<posthouse_client::outbox::Row>| -> Vec<u64> {
            rows.iter().map(|row| row.id.0).collect()
        };

        let rows = store.scan(&[range(2, 3), range(5, 5)], at(30), 100, 1 << 20).await.unwrap();
        assert_eq!(found(rows), [&ids[2..4], &ids[5..6], &ids[31..]].concat());
        let rows = store.scan(&[range(2, 3), range(5, 5)], at(30), 5, 1 << 20).await.unwrap();
        assert_eq!(found(rows), [&ids[2..4], &ids[5..6], &ids[31..33]].concat());
        let rows = store.scan(&[], RowId(0), 100, 400).await.unwrap();
        assert_eq!(found(rows), &ids[..3]);
        let rows = store.scan(&[], RowId(0), 100, 1).await.unwrap();
        assert_eq!(found(rows), &ids[..1]);
        let many = (0..4096).map(|at| RowRange { first: RowId(2 * at), last: RowId(2 * at) });
        let rows = store.scan(&many.collect::<Vec<_>>(), at(39), 100, 1 << 20).await.unwrap();
        assert!(found(rows).iter().all(|id| id % 2 == 0));
        assert_eq!(found(store.rows(&[at(7), RowId(999), at(3)]).await.unwrap()), [ids[3], ids[7]]);
        assert!(store.rows(&[]).await.unwrap().is_empty());
        assert_eq!(store.sweep(at(1), at(9), 3).await.unwrap(), [at(1), at(2), at(3)]);
    }

    /// PostgreSQL gives many in another way than few.
    #[tokio::test]
    async fn many_rows_are_read_as_few_are() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        let plain = || Message::new(vec![7; 100]).to("orders");
        let full = Message::new(vec![0, 255]).key("k").header("h", "1").delay(LEASE).to("later");
        let some = std::iter::repeat_with(plain).take(300);
        let messages = some.clone().chain([full]).chain(some);
        let mut tx = pool.begin().await.unwrap();
        let _ = outbox.enqueue_many(&mut tx, messages).await.unwrap();
        tx.commit().await.unwrap();
        let mut store = outbox.store();

        let mut few = store.scan(&[], RowId(0), 400, 1 << 20).await.unwrap();
        let last = few.last().unwrap().id;
        few.extend(store.scan(&[], last, 400, 1 << 20).await.unwrap());

        assert_eq!(few.len(), 601);
        assert!(store.scan(&[], RowId(0), 1000, 1 << 20).await.unwrap() == few);
        let gap = RowRange { first: few[3].id, last: few[4].id };
        let behind = store.scan(&[gap], few[9].id, 1000, 1 << 20).await.unwrap();
        assert!(behind == [&few[3..5], &few[10..]].concat());
        assert_eq!(store.scan(&[], RowId(0), 1000, 400).await.unwrap(), &few[..3]);
        assert_eq!(store.scan(&[], RowId(0), 1000, 1).await.unwrap(), &few[..1]);
        assert_eq!(store.scan(&[], few[600].id, 1000, 1).await.unwrap(), []);
    }

    #[tokio::test]
    async fn step_claims_and_deletes_and_an_older_epoch_changes_nothing() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        let ids = enqueue(&outbox, &pool, 10, 10).await;
        let rows: Vec<_> = ids.iter().copied().map(RowId).collect();
        let mut store = outbox.store();
        store.acquire("me", LEASE).await.unwrap();
        let claim = |sequence, rows: &[RowId]| Claim { sequence, rows: rows.to_vec(), digest: u32::MAX };
        let step = |from: [u64; 3], acked, done: &[RowId], claim| {
            Step { from: standing(from), lease: LEASE, acked, done: done.to_vec(), claim }
        };

        let first = claim(1, &rows[..4]);
        assert!(store.step(&step([1, 0, 0], 0, &[], Some(first.clone()))).await.unwrap());
        assert_eq!(store.claims().await.unwrap(), std::slice::from_ref(&first));
        // An older lease; and a database that was set back under the lease, so that other numbers are
        // known of it.
        for from in [[0, 1, 0], [1, 2, 0], [1, 1, 1], [1, 2, 1]] {
            let late = step(from, 1, &rows, Some(claim(2, &rows[4..])));
            assert!(!store.step(&late).await.unwrap());
            assert_eq!(store.claims().await.unwrap(), std::slice::from_ref(&first));
            assert_eq!(outbox.lag().await.unwrap().rows, 10);
        }

        let second = claim(2, &rows[4..8]);
        assert!(store.step(&step([1, 1, 0], 1, &rows[..4], Some(second.clone()))).await.unwrap());
        assert_eq!(store.claims().await.unwrap(), [second]);
        assert_eq!(outbox.lag().await.unwrap().rows, 6);
        let found = store.acquire("me", LEASE).await.unwrap().unwrap();
        assert_eq!(found, standing([2, 2, 1]));
        assert!(store.step(&step([2, 2, 1], 2, &rows[4..8], None)).await.unwrap());
        let lag = outbox.lag().await.unwrap();
        assert_eq!((lag.rows, lag.parked), (2, 0));
        assert!(lag.oldest.unwrap() < Duration::from_secs(60));
        assert_eq!(store.claims().await.unwrap(), []);
    }

    #[tokio::test]
    async fn parked_row_waits_until_it_is_redriven_or_discarded() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        let ids = enqueue(&outbox, &pool, 6, 10).await;
        let rows: Vec<_> = ids.iter().copied().map(RowId).collect();
        let mut store = outbox.store();
        store.acquire("me", LEASE).await.unwrap();
        let before = store.scan(&[], RowId(0), 10, 1 << 20).await.unwrap();
        let [one, two] = [1, 2].map(|sequence| Claim { sequence, rows: rows.clone(), digest: 5 });
        for (claimed, claim) in [(0, &one), (1, &two)] {
            let (from, claim) = (standing([1, claimed, 0]), Some(claim.clone()));
            let step = Step { from, lease: LEASE, acked: 0, done: Vec::new(), claim };
            assert!(store.step(&step).await.unwrap());
        }
        let reason = "no topic \"o'rders\" \\ ; --";
        let mut park = Park {
            from: standing([0, 2, 0]),
            rows: vec![(rows[1], reason.to_owned()), (rows[4], "too large".to_owned())],
            claims: vec![
                Claim { sequence: 1, rows: vec![rows[0], rows[2]], digest: 9 },
                Claim { sequence: 2, rows: Vec::new(), digest: 0 },
            ],
        };

        for from in [[0, 2, 0], [1, 3, 0], [1, 2, 1]] {
            park.from = standing(from);
            assert!(!store.park(&park).await.unwrap());
            assert_eq!(outbox.lag().await.unwrap().parked, 0);
            assert_eq!(store.claims().await.unwrap().len(), 2);
        }
        park.from = standing([1, 2, 0]);
        assert!(store.park(&park).await.unwrap());
        assert_eq!(store.claims().await.unwrap(), &park.claims[..1]);
        let parked = outbox.parked(RowId(0), 10).await.unwrap();
        assert_eq!(parked.len(), 2);
        let row = &before[1];
        assert_eq!((parked[0].id, parked[0].message_id), (row.id, row.message_id));
        assert_eq!((&parked[0].topic, parked[0].created_at), (&row.topic, row.created_at));
        assert_eq!((parked[0].body_bytes, parked[0].reason.as_str()), (10, reason));
        assert!(parked[0].parked_at > 1_700_000_000_000);
        assert_eq!(outbox.parked(rows[1], 10).await.unwrap().len(), 1);
        let lag = outbox.lag().await.unwrap();
        assert_eq!((lag.rows, lag.parked), (4, 2));

        assert_eq!(outbox.redrive(&[rows[1], RowId(99)]).await.unwrap(), 1);
        assert_eq!(outbox.discard(&rows).await.unwrap(), 1);
        assert_eq!(outbox.discard(&[]).await.unwrap(), 0);
        let after = store.scan(&[], rows[5], 10, 1 << 20).await.unwrap();
        assert_eq!((after[0].message_id, &after[0].body), (before[1].message_id, &before[1].body));
    }

    #[tokio::test]
    async fn tables_that_the_application_made_know_their_database_once_a_relay_has_had_them() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        sqlx::raw_sql(sqlx::AssertSqlSafe(outbox.ddl())).execute(&pool).await.unwrap();
        let mut store = outbox.store();

        store.acquire("me", LEASE).await.unwrap().unwrap();

        let found = store.describe().await.unwrap();
        assert_ne!(found.belongs_to, "");
        assert_eq!(found.belongs_to, found.found_in);
    }

    #[tokio::test]
    async fn adopting_gives_a_new_name_and_starts_anew() {
        let (pool, _kept) = place::pool().await;
        let outbox = on::Outbox::new(pool.clone());
        outbox.install().await.unwrap();
        let ids = enqueue(&outbox, &pool, 2, 10).await;
        let mut store = outbox.store();
        store.acquire("me", LEASE).await.unwrap();
        let claim = Some(Claim { sequence: 1, rows: vec![RowId(ids[0])], digest: 5 });
        let from = standing([1, 0, 0]);
        let step = Step { from, lease: LEASE, acked: 0, done: Vec::new(), claim };
        assert!(store.step(&step).await.unwrap());
        sqlx::query("UPDATE posthouse_outbox_state SET belongs_to = 'inode=1 machine=x path=y'")
            .execute(&pool)
            .await
            .unwrap();
        let before = store.describe().await.unwrap();
        assert_ne!(before.belongs_to, before.found_in);

        assert!(!store.adopt(7).await.unwrap());
        assert_eq!(store.describe().await.unwrap(), before);
        assert!(store.adopt(1).await.unwrap());
        let after = store.describe().await.unwrap();
        assert_ne!(after.outbox, before.outbox);
        assert_eq!(after.belongs_to, after.found_in);
        let standing = store.acquire("me", LEASE).await.unwrap().unwrap();
        assert_eq!(standing, Standing { epoch: 2, claimed: 0, acked: 0 });
        assert_eq!(store.claims().await.unwrap(), []);
        assert_eq!(outbox.lag().await.unwrap().rows, 2);
    }

    /// Enqueues so many rows of so many bytes and gives their ids.
    async fn enqueue(
        outbox: &on::Outbox,
        pool: &sqlx::Pool<Db>,
        count: usize,
        bytes: usize,
    ) -> Vec<u64> {
        let mut tx = pool.begin().await.unwrap();
        let messages = (0..count).map(|_| Message::new(vec![7; bytes]).to("orders"));
        let _ = outbox.enqueue_many(&mut tx, messages).await.unwrap();
        tx.commit().await.unwrap();
        let rows = outbox.store().scan(&[], RowId(0), 10_000, 1 << 30).await.unwrap();
        assert_eq!(rows.len(), count);
        rows.iter().map(|row| row.id.0).collect()
    }
}
