//! Enqueueing in the application's own transaction, with real files and no runtime.

mod support;

use posthouse_client::{Message, Timestamp};
use posthouse_outbox_rusqlite::{Error, ErrorKind, Outbox};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::sync::{Arc, Barrier};
use std::time::Duration;
use support::Shop;

#[test]
fn message_and_data_are_committed_together_or_not_at_all() {
    let shop = Shop::new();
    let mut db = shop.connect();
    for (number, is_kept) in [(1, true), (2, false), (3, true)] {
        let tx = db.transaction().unwrap();
        tx.execute("INSERT INTO orders (number) VALUES (?1)", [number]).unwrap();
        let message = Message::new(number.to_string()).key("k").header("a", "b");
        let bell = shop.outbox.enqueue(&tx, message.to("orders")).unwrap();
        if is_kept {
            tx.commit().unwrap();
            bell.ring();
        } else {
            tx.rollback().unwrap();
        }
    }

    assert_eq!(shop.orders(), [1, 3]);
    assert_eq!(shop.waiting(), ["1", "3"]);
    assert_eq!(shop.outbox.lag().unwrap().rows, 2);
}

#[test]
fn closure_decides_about_both() {
    let shop = Shop::new();
    let mut db = shop.connect();

    let order = shop.outbox.transaction(&mut db, |tx, out| {
        tx.execute("INSERT INTO orders (number) VALUES (7)", [])?;
        let order = tx.last_insert_rowid();
        out.send(Message::new(format!("first {order}")).to("orders"));
        out.send(Message::new("second").to("audit"));
        Ok::<_, rusqlite::Error>(order)
    });
    assert_eq!(order.unwrap(), 1);

    let failed =
        shop.outbox.transaction(&mut db, |tx, out| -> Result<(), Box<dyn std::error::Error>> {
            tx.execute("INSERT INTO orders (number) VALUES (8)", [])?;
            out.send(Message::new("never").to("orders"));
            Err("out of stock".into())
        });
    assert_eq!(failed.unwrap_err().to_string(), "out of stock");

    let message = Message::new("third").to("orders");
    shop.outbox
        .send_with_transaction(&mut db, message, |tx| {
            tx.execute("INSERT INTO orders (number) VALUES (9)", []).map(|_| ())
        })
        .unwrap();
    assert_eq!(shop.orders(), [7, 9]);
    assert_eq!(shop.waiting(), ["first 1", "second", "third"]);
}

#[test]
fn panic_of_the_closure_rolls_back() {
    let shop = Shop::new();
    let mut db = shop.connect();
    let work = |tx: &Transaction<'_>| -> Result<(), rusqlite::Error> {
        tx.execute("INSERT INTO orders (number) VALUES (1)", [])?;
        panic!("on purpose");
    };
    let outbox = &shop.outbox;
    let sending = std::panic::AssertUnwindSafe(|| {
        outbox.send_with_transaction(&mut db, Message::new("x").to("orders"), work)
    });
    assert!(std::panic::catch_unwind(sending).is_err());

    assert!(shop.orders().is_empty());
    assert!(shop.waiting().is_empty());
}

#[test]
fn transaction_that_sqlite_ended_inside_is_noticed_and_nothing_is_sent() {
    let shop = Shop::new();
    let mut db = shop.connect();
    db.execute_batch("CREATE UNIQUE INDEX once ON orders (number)").unwrap();
    let ends = |tx: &Transaction<'_>| {
        for _ in 0..2 {
            // The second one fails, and takes the transaction with it.
            let _ = tx.execute("INSERT OR ROLLBACK INTO orders (number) VALUES (1)", []);
        }
        Ok::<_, Error>(())
    };

    let sent = shop.outbox.transaction(&mut db, |tx, out| {
        out.send(Message::new("x").to("orders"));
        ends(tx)
    });
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::Ended);
    let silent = shop.outbox.transaction(&mut db, |tx, _out| ends(tx));
    assert_eq!(silent.unwrap_err().kind(), ErrorKind::Ended);
    let tx = db.transaction().unwrap();
    ends(&tx).unwrap();
    let enqueued = shop.outbox.enqueue(&tx, Message::new("x").to("orders"));
    assert_eq!(enqueued.unwrap_err().kind(), ErrorKind::Ended);
    drop(tx);

    assert!(shop.waiting().is_empty(), "{:?}", shop.waiting());
    assert!(shop.orders().is_empty());
}

#[test]
fn message_that_the_database_refuses_takes_the_work_with_it() {
    let shop = Shop::new();
    let mut db = shop.connect();
    for wrong in [
        Message::new("x").to("no such name!"),
        Message::new("x").expires_at(Timestamp(5)).to("orders"),
        Message::new(vec![0; 17 << 20]).to("orders"),
    ] {
        let sent = shop.outbox.transaction(&mut db, |tx, out| {
            tx.execute("INSERT INTO orders (number) VALUES (1)", []).map_err(boxed)?;
            out.send(wrong);
            Ok::<_, Box<dyn std::error::Error>>(())
        });
        let error = sent.unwrap_err();
        let error = error.downcast_ref::<Error>().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert!(shop.orders().is_empty());
    assert!(shop.waiting().is_empty());
}

#[test]
fn trigger_and_plain_sql_send_text_and_bytes() {
    let shop = Shop::new();
    let db = shop.connect();
    let trigger = "CREATE TRIGGER sold AFTER INSERT ON orders BEGIN \
         INSERT INTO posthouse_outbox (topic, body) VALUES ('orders', 'sold ' || new.number); END";
    db.execute_batch(trigger).unwrap();
    db.execute("INSERT INTO orders (number) VALUES (5)", []).unwrap();
    db.execute("INSERT INTO posthouse_outbox (topic, body) VALUES ('orders', x'ff00')", [])
        .unwrap();

    let rows = shop.rows();

    let bodies: Vec<_> = rows.iter().map(|row| &row.body[..]).collect();
    assert_eq!(bodies, [&b"sold 5"[..], &[0xff, 0]]);
    assert_ne!(rows[0].message_id, rows[1].message_id);
    assert!(rows[0].created_at.0 > 1_700_000_000_000, "{rows:?}");
    assert_eq!(rows[0].due_at, Timestamp::ZERO);
}

#[test]
fn second_writer_makes_a_send_wait_and_then_say_busy() {
    let shop = Shop::new();
    let (mut first, mut second) = (shop.connect(), shop.connect());
    second.busy_timeout(Duration::from_millis(50)).unwrap();
    let tx = first.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();

    let message = || Message::new("x").to("orders");
    let busy = shop.outbox.send_with_transaction(&mut second, message(), |_| Ok::<_, Error>(()));
    assert_eq!(busy.unwrap_err().kind(), ErrorKind::Busy);

    tx.rollback().unwrap();
    shop.outbox.send_with_transaction(&mut second, message(), |_| Ok::<_, Error>(())).unwrap();
    assert_eq!(shop.waiting(), ["x"]);
}

#[test]
fn tables_can_be_made_by_many_at_once_and_are_missed_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.db");
    let mut db = Connection::open(&path).unwrap();
    let outbox = Outbox::new(&path).prefix("mq_").unwrap();
    let message = || Message::new("x").to("orders");
    let missing = outbox.send_with_transaction(&mut db, message(), |_| Ok::<_, Error>(()));
    let missing = missing.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotInstalled);
    assert!(missing.to_string().contains("posthouse outbox install"), "{missing}");

    let start = Arc::new(Barrier::new(8));
    let installing = || {
        let (outbox, start) = (outbox.clone(), Arc::clone(&start));
        std::thread::spawn(move || {
            start.wait();
            outbox.install()
        })
    };
    let threads: Vec<_> = (0..8).map(|_| installing()).collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    outbox.send_with_transaction(&mut db, message(), |_| Ok::<_, Error>(())).unwrap();
    assert_eq!(outbox.lag().unwrap().rows, 1);
    assert_eq!(Outbox::new(&path).lag().unwrap_err().kind(), ErrorKind::NotInstalled);
    assert_eq!(Outbox::new(&path).prefix("a;b").unwrap_err().kind(), ErrorKind::Invalid);
}

/// A file that nobody has used before gets its log from whoever is first; SQLite lets the others wait
/// for that only mostly.
#[test]
fn many_files_can_be_made_by_many_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for file in 0..100 {
        let path = folder.path().join(format!("{file}.db"));
        let start = Arc::new(Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (outbox, start) = (Outbox::new(&path), Arc::clone(&start));
                std::thread::spawn(move || {
                    start.wait();
                    outbox.install()
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    }
}

#[test]
fn threads_send_with_their_own_connections() {
    let shop = Shop::new();
    let sender = |thread: u32| {
        let (outbox, mut db) = (shop.outbox.clone(), shop.connect());
        let counter = Arc::new(std::sync::Mutex::new(0));
        std::thread::spawn(move || {
            for number in 0..20 {
                let borrowed = format!("{thread}-{number}");
                let sent = outbox.transaction(&mut db, |_tx, out| {
                    *counter.lock().unwrap() += 1;
                    out.send(Message::new(borrowed.clone()).to("orders"));
                    Ok::<_, Error>(())
                });
                sent.unwrap();
            }
        })
    };
    let threads = [0, 1, 2, 3].map(sender);
    threads.into_iter().for_each(|thread| thread.join().unwrap());

    let waiting = shop.waiting();
    assert_eq!(waiting.len(), 80);
    for thread in 0..4 {
        let own: Vec<_> =
            waiting.iter().filter(|it| it.starts_with(&format!("{thread}-"))).collect();
        let expected: Vec<_> = (0..20).map(|number| format!("{thread}-{number}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>(), "in the order of the commits");
    }
}

#[test]
fn closures_borrow_what_they_like_inside_a_spawned_task() {
    let shop = Shop::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (outbox, mut db) = (shop.outbox.clone(), shop.connect());
    let shared = Arc::new(String::from("shared"));
    let task = runtime.spawn(async move {
        let local = String::from("local");
        let text = outbox.transaction(&mut db, |_tx, out| {
            let text = format!("{shared} {local}");
            out.send(Message::new(text.clone()).to("orders"));
            Ok::<_, Error>(text)
        })?;
        tokio::task::yield_now().await;
        let message = Message::new("plain").to("orders");
        outbox.send_with_transaction(&mut db, message, |tx| {
            tx.execute("INSERT INTO orders (text) VALUES (?1)", [&text]).unwrap();
            drop((Arc::clone(&shared), &local));
            Ok::<_, Error>(())
        })
    });
    runtime.block_on(task).unwrap().unwrap();

    assert_eq!(shop.waiting(), ["shared local", "plain"]);
}

fn boxed(error: rusqlite::Error) -> Box<dyn std::error::Error> {
    error.into()
}
