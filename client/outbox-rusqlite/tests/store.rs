//! What a relay asks of the tables, call by call.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use posthouse_client::Message;
use posthouse_client::outbox::{
    Claim, Park, RowId, RowRange, SCHEMA_VERSIONS, Standing, Step, Store as _, StoreErrorKind,
};
use posthouse_outbox_rusqlite::{Error, Outbox, SqliteStore};
use rusqlite::TransactionBehavior;
use std::time::Duration;
use support::Shop;

const LEASE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn lease_has_one_owner_and_a_rising_epoch() {
    let shop = Shop::new();
    let (mut first, mut second) = (shop.outbox.store(), shop.outbox.store());
    let standing = |epoch| Some(Standing { epoch, claimed: 0, acked: 0 });

    assert_eq!(first.acquire("a", LEASE).await.unwrap(), standing(1));
    assert_eq!(second.acquire("b", LEASE).await.unwrap(), None);
    assert_eq!(second.describe().await.unwrap().owner.as_deref(), Some("a"));
    assert_eq!(first.acquire("a", LEASE).await.unwrap(), standing(2), "its own again");
    first.release(2).await.unwrap();
    assert_eq!(second.describe().await.unwrap().owner, None);
    assert_eq!(second.acquire("b", Duration::ZERO).await.unwrap(), standing(3));
    assert_eq!(first.acquire("a", LEASE).await.unwrap(), standing(4), "that lease was over");
    assert!(first.raise_epoch(4, 9).await.unwrap());
    assert!(!second.raise_epoch(3, 10).await.unwrap());
    assert_eq!(first.acquire("a", LEASE).await.unwrap(), standing(10));
}

#[tokio::test]
async fn step_is_all_or_nothing_and_fenced_by_the_epoch() {
    let shop = filled(5);
    let mut store = shop.outbox.store();
    let from = store.acquire("a", LEASE).await.unwrap().unwrap();
    let claim = Claim { sequence: 1, rows: ids([1, 2, 4]), digest: u32::MAX };
    let step = Step { from, lease: LEASE, acked: 0, done: vec![], claim: Some(claim.clone()) };
    assert!(store.step(&step).await.unwrap());
    assert_eq!(store.claims().await.unwrap(), std::slice::from_ref(&claim));
    assert_eq!(found(&mut store, 0).await, [1, 2, 3, 4, 5], "claimed rows stay");

    let mut zombie = shop.outbox.store();
    let newer = store.acquire("a", LEASE).await.unwrap().unwrap();
    assert_eq!((newer.epoch, newer.claimed, newer.acked), (from.epoch + 1, 1, 0));
    let late = Step { from, lease: LEASE, acked: 1, done: claim.rows.clone(), claim: None };
    for from in [Standing { claimed: 1, ..from }, Standing { claimed: 2, ..newer }] {
        assert!(!zombie.step(&Step { from, ..late.clone() }).await.unwrap());
    }
    assert_eq!(found(&mut store, 0).await.len(), 5);

    assert!(store.step(&Step { from: newer, ..late }).await.unwrap());
    assert_eq!(found(&mut store, 0).await, [3, 5]);
    assert!(store.claims().await.unwrap().is_empty());
    assert_eq!(store.acquire("a", LEASE).await.unwrap().unwrap().acked, 1);
}

#[tokio::test]
async fn scan_gives_gaps_and_what_is_above_within_its_limits() {
    let shop = filled(10);
    let mut store = shop.outbox.store();
    let range = |first, last| RowRange { first: RowId(first), last: RowId(last) };

    let gaps = [range(2, 3), range(5, 5)];
    let rows = store.scan(&gaps, RowId(7), 100, 1 << 20).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [2, 3, 5, 8, 9, 10]);
    let rows = store.scan(&gaps, RowId(7), 4, 1 << 20).await.unwrap();
    assert_eq!(rows.last().unwrap().id, RowId(8));
    let rows = store.scan(&[], RowId(0), 100, 1).await.unwrap();
    assert_eq!(rows.len(), 1, "one at least");
    assert_eq!(store.sweep(RowId(3), RowId(8), 4).await.unwrap(), ids([3, 4, 5, 6]));
    assert_eq!(store.rows(&ids([9, 99, 1])).await.unwrap().len(), 2);
    assert_eq!(store.scan(&[], RowId(10), 100, 1).await.unwrap(), []);
}

#[tokio::test]
async fn parked_rows_are_listed_redriven_and_discarded() {
    let shop = filled(4);
    let mut store = shop.outbox.store();
    let from = store.acquire("a", LEASE).await.unwrap().unwrap();
    let claim = Claim { sequence: 1, rows: ids([1, 2, 3]), digest: 7 };
    let step = Step { from, lease: LEASE, acked: 0, done: vec![], claim: Some(claim) };
    assert!(store.step(&step).await.unwrap());
    let before = store.rows(&ids([2])).await.unwrap();

    let reason = "NOT_FOUND: topic \"it's\" \u{1f4ee}";
    let rows = vec![(RowId(2), reason.to_owned()), (RowId(3), "too large".to_owned())];
    let claims = vec![Claim { sequence: 1, rows: ids([1]), digest: 8 }];
    let from = Standing { claimed: 1, ..from };
    let park = Park { from, rows, claims };
    let other = Standing { acked: 1, ..from };
    assert!(!store.park(&Park { from: other, ..park.clone() }).await.unwrap());
    assert!(store.park(&park).await.unwrap());

    assert_eq!(store.claims().await.unwrap(), park.claims);
    assert_eq!(found(&mut store, 0).await, [1, 4]);
    let parked = shop.outbox.parked(RowId(0), 10).unwrap();
    let row = &before[0];
    assert_eq!((parked[0].id, parked[0].message_id), (row.id, row.message_id));
    assert_eq!((&parked[0].topic, parked[0].created_at), (&row.topic, row.created_at));
    assert_eq!(parked[0].body_bytes, row.body.len() as u64);
    assert_eq!(parked[0].reason, reason);
    assert_eq!(shop.outbox.parked(RowId(2), 10).unwrap().len(), 1);
    assert_eq!(shop.outbox.lag().unwrap().parked, 2);

    assert_eq!(shop.outbox.redrive(&ids([2, 77])).unwrap(), 1);
    assert_eq!(shop.outbox.discard(&ids([3])).unwrap(), 1);
    assert_eq!(found(&mut store, 0).await, [1, 4, 5], "at the end, with a number of its own");
    assert_eq!(store.rows(&ids([5])).await.unwrap()[0].message_id, before[0].message_id);
    assert_eq!(shop.outbox.lag().unwrap().parked, 0);
    assert!(
        store
            .park(&Park {
                from,
                rows: vec![],
                claims: vec![Claim { sequence: 1, rows: vec![], digest: 0 }]
            })
            .await
            .unwrap()
    );
    assert_eq!(store.claims().await.unwrap(), []);
}

#[tokio::test]
async fn tables_that_the_application_made_know_their_file_once_a_relay_has_had_them() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("shop.db");
    let outbox = Outbox::new(&file);
    rusqlite::Connection::open(&file).unwrap().execute_batch(&outbox.ddl()).unwrap();
    let mut store = outbox.store();
    assert_eq!(store.describe().await.unwrap().belongs_to, "");

    store.acquire("a", LEASE).await.unwrap().unwrap();

    let found = store.describe().await.unwrap();
    assert_ne!(found.belongs_to, "");
    assert_eq!(found.belongs_to, found.found_in);
}

#[tokio::test]
async fn copy_elsewhere_is_told_from_a_copy_put_back() {
    let shop = filled(2);
    let copy = shop.file("copy.db");
    let into = format!("VACUUM INTO '{}'", copy.display());
    shop.connect().execute_batch(&into).unwrap();

    let mut elsewhere = Outbox::new(&copy).store();
    let found = elsewhere.describe().await.unwrap();
    assert_ne!(found.belongs_to, found.found_in);
    let epoch = elsewhere.acquire("a", LEASE).await.unwrap().unwrap().epoch;
    assert!(elsewhere.adopt(epoch).await.unwrap());
    let adopted = elsewhere.describe().await.unwrap();
    assert_eq!(adopted.belongs_to, adopted.found_in);
    assert_ne!(adopted.outbox, found.outbox, "another producer at the broker");

    let own = shop.outbox.store().describe().await.unwrap();
    assert_eq!((&own.belongs_to, own.outbox), (&own.found_in, found.outbox));
    std::fs::copy(shop.path(), shop.file("backup.db")).unwrap();
    std::fs::remove_file(shop.path()).unwrap();
    std::fs::copy(shop.file("backup.db"), shop.path()).unwrap();
    let restored = shop.outbox.store().describe().await.unwrap();
    assert_eq!(restored.belongs_to, restored.found_in, "another file in the same place");
    assert_eq!(restored.outbox, own.outbox);
}

#[tokio::test]
async fn database_that_is_locked_or_not_there_is_said_so() {
    let shop = filled(1);
    let mut writer = shop.connect();
    let mut store = shop.outbox.store();
    store.describe().await.unwrap();
    let tx = writer.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    // Readers go on beside a writer; a second writer waits, and gives up as something to try again.
    assert_eq!(found(&mut store, 0).await, [1]);
    let busy = store.acquire("a", LEASE).await.unwrap_err();
    assert_eq!(busy.kind(), StoreErrorKind::Transient, "{busy}");
    tx.rollback().unwrap();
    assert!(store.acquire("a", LEASE).await.unwrap().is_some());

    let missing = Outbox::new(shop.file("missing.db")).store().describe().await.unwrap_err();
    assert_eq!(missing.kind(), StoreErrorKind::Permanent);
    assert!(missing.to_string().contains("missing.db"), "{missing}");
}

#[tokio::test]
async fn older_tables_are_brought_up_to_date_with_what_is_in_them_and_newer_ones_stay() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("shop.db");
    let outbox = Outbox::new(&file);
    let first = outbox.ddl().strip_suffix(&outbox.upgrade(1)).unwrap().to_owned();
    let mut connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute_batch(&first).unwrap();
    let tx = connection.transaction().unwrap();
    let _ = outbox.enqueue(&tx, Message::new("a lamp").to("orders")).unwrap();
    tx.commit().unwrap();
    let mut store = outbox.store();
    let before = store.describe().await.unwrap();
    assert_eq!(before.schema_version, 1);

    outbox.install().unwrap();

    let after = store.describe().await.unwrap();
    assert_eq!((after.schema_version, after.outbox), (*SCHEMA_VERSIONS.end(), before.outbox));
    assert_eq!(found(&mut store, 0).await, [1]);
    let newer = "UPDATE posthouse_outbox_state SET schema_version = 3; DROP TABLE posthouse_inbox";
    connection.execute_batch(newer).unwrap();
    outbox.install().unwrap();
    assert_eq!(store.describe().await.unwrap().schema_version, 3);
    assert!(connection.execute_batch("SELECT * FROM posthouse_inbox").is_err(), "made again");
}

async fn found(store: &mut SqliteStore, after: u64) -> Vec<u64> {
    let rows = store.scan(&[], RowId(after), 1000, 1 << 30).await.unwrap();
    rows.iter().map(|row| row.id.0).collect()
}

fn ids<const N: usize>(ids: [u64; N]) -> Vec<RowId> {
    ids.map(RowId).to_vec()
}

/// A shop with so many messages waiting.
fn filled(messages: u64) -> Shop {
    let shop = Shop::new();
    let mut db = shop.connect();
    for number in 1..=messages {
        let message = Message::new(number.to_string()).to("orders");
        shop.outbox.send_with_transaction(&mut db, message, |_| Ok::<_, Error>(())).unwrap();
    }
    shop
}
