//! Futures that are dropped after any number of polls, with real files and a real broker.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and a handler of rusqlite may block"
)]

mod support;

use posthouse_client::outbox::Store as _;
use posthouse_client::{Client, Delivery, Message, Position, Record, Start, SubscriptionSettings};
use posthouse_outbox_rusqlite::{Error, Inbox, RowId};
use rusqlite::{Transaction, TransactionBehavior};
use std::future::IntoFuture as _;
use std::task::Poll;
use std::time::Duration;
use support::{Shop, broker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_anywhere_a_run_has_handled_a_message_once_or_not() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    quick(&client).await;
    let orders = client.publisher("orders").await.unwrap();
    let inbox = Inbox::new(shop.path(), "billing");
    let handler = |tx: &Transaction<'_>, delivery: &Delivery| insert(tx, delivery.body());
    let (mut dropped, mut published) = (0, 0);
    for times in 1.. {
        for _ in 0..3 {
            orders.publish(published.to_string()).await.unwrap();
            published += 1;
        }
        let consumer = client.consumer("orders", "quick").await.unwrap();
        let run = inbox.run(consumer, 2, handler).until(settled(client.clone()));
        if let Some(done) = polled(run.into_future(), times).await {
            done.unwrap();
            break;
        }
        idle(&shop);
        dropped += 1;
    }
    assert!(dropped > 0, "none was dropped");
    let mut handled = shop.orders();
    handled.sort_unstable();
    assert_eq!(handled, (0..published).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_anywhere_a_stream_goes_on_at_once_where_the_database_is() {
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let orders = client.publisher("orders").await.unwrap();
    let inbox = Inbox::new(shop.path(), "view");
    let handler = |tx: &Transaction<'_>, records: &[Record]| {
        for record in records {
            insert(tx, record.body()).unwrap();
        }
        // It is still at work when the next one begins.
        std::thread::sleep(Duration::from_millis(20));
        Ok::<_, Error>(())
    };
    let (mut dropped, mut published) = (0, 0);
    for times in 0.. {
        orders.publish(published.to_string()).await.unwrap();
        published += 1;
        let read = async || client.reader("orders", Position::Earliest).await.unwrap();
        let (first, second) = (read().await, read().await);
        let done = polled(inbox.run_stream(first, handler), times).await;
        inbox.clone().run_stream(second, handler).await.unwrap();
        assert_eq!(shop.orders(), (0..published).collect::<Vec<_>>(), "after {times} polls");
        if let Some(done) = done {
            done.unwrap();
            break;
        }
        dropped += 1;
    }
    assert!(dropped > 0, "none was dropped");
    idle(&shop);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_anywhere_a_parked_row_is_in_one_place() {
    const ROWS: u64 = 40;
    let (_broker, client) = broker().await;
    let shop = Shop::new();
    let sent = shop.outbox.transaction(&mut shop.connect(), |_tx, out| {
        (0..ROWS).for_each(|_| out.send(Message::new("x").to("nowhere")));
        Ok::<_, Error>(())
    });
    sent.unwrap();
    let relay = shop.outbox.relay(&client).spawn();
    while shop.outbox.lag().unwrap().parked < ROWS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    relay.shutdown().await.unwrap();

    let mut discarded = 0;
    for times in 0.. {
        let parked = shop.outbox.parked(RowId(0), 2).unwrap();
        let [first, second] = [parked[0].id, parked[1].id];
        // Dropped, a store has carried out what it was asked for.
        let mut store = shop.outbox.store();
        let redriven = polled(store.redrive(&[first]), times).await;
        let gone = polled(store.discard(&[second]), times).await;
        let listed = polled(store.parked(RowId(0), 2), times).await;
        drop(store);
        let lag = shop.outbox.lag().unwrap();
        let left = shop.outbox.parked(RowId(0), 100).unwrap();
        discarded += u64::from(!left.iter().any(|row| row.id == second));
        assert_eq!(lag.rows + lag.parked + discarded, ROWS, "after {times} polls");
        if let (Some(redriven), Some(gone), Some(listed)) = (redriven, gone, listed) {
            assert_eq!((redriven.unwrap(), gone.unwrap()), (1, 1));
            listed.unwrap();
            break;
        }
    }
    idle(&shop);
}

fn insert(tx: &Transaction<'_>, body: &[u8]) -> rusqlite::Result<()> {
    let number: i64 = str::from_utf8(body).unwrap().parse().unwrap();
    tx.execute("INSERT INTO orders (number) VALUES (?1)", [number]).map(|_| ())
}

/// Begins to write, which waits for one that writes.
fn idle(shop: &Shop) {
    let mut observer = shop.connect();
    drop(observer.transaction_with_behavior(TransactionBehavior::Immediate).unwrap());
}

/// A subscription that backs off for a millisecond.
async fn quick(client: &Client) {
    let settings = SubscriptionSettings {
        attempts_max: 1000,
        backoff_ms_first: 1,
        backoff_ms_max: 2,
        ..SubscriptionSettings::default()
    };
    client.admin().create_subscription("orders", "quick", settings, Start::Earliest).await.unwrap();
}

/// Waits until everything in that subscription is settled.
async fn settled(client: Client) {
    let backlog =
        async || client.admin().describe_subscription("orders", "quick").await.unwrap().backlog;
    while backlog().await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Polls a future for some time and drops it then; `None` if it was not done. An odd `times` drops it
/// where it waits, an even one when what it waited for is there.
async fn polled<T>(future: impl Future<Output = T>, times: usize) -> Option<T> {
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
