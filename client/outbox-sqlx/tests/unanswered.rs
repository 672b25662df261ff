//! A commit that the database has made and whose answer is lost on the way, and a look without one.

#![expect(clippy::unwrap_used, reason = "a test may panic, and its tasks end with it")]

#[expect(dead_code, reason = "shared with tests that need the rest of it")]
mod support;

use posthouse_client::outbox::{RowId, Store as _, StoreErrorKind};
use posthouse_client::{Message, Outcome};
use posthouse_databases::{MariaDb, Postgres};
use posthouse_outbox_sqlx::{Error, mysql, postgres};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::SECONDS;

/// Stands before a database's socket. Armed, it passes a commit on, waits for the answer, keeps that
/// to itself, and cuts the connection.
struct Swallower {
    armed: Arc<AtomicBool>,
}

impl Swallower {
    fn before(target: PathBuf, socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let armed = Arc::new(AtomicBool::new(false));
        let is_armed = Arc::clone(&armed);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let far = UnixStream::connect(&target).unwrap();
                link(&near.unwrap(), &far, &is_armed);
            }
        });
        Self { armed }
    }
}

fn link(near: &UnixStream, far: &UnixStream, armed: &Arc<AtomicBool>) {
    let swallowing = Arc::new(AtomicBool::new(false));
    for is_answering in [false, true] {
        let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        if is_answering {
            std::mem::swap(&mut from, &mut to);
        }
        let (armed, swallowing) = (Arc::clone(armed), Arc::clone(&swallowing));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let part = buffer.get(..count).unwrap_or_default();
                if is_answering && swallowing.load(Ordering::SeqCst) {
                    break;
                }
                let is_commit = part.windows(6).any(|bytes| bytes == b"COMMIT");
                if !is_answering && is_commit && armed.load(Ordering::SeqCst) {
                    swallowing.store(true, Ordering::SeqCst);
                }
                if to.write_all(part).is_err() {
                    break;
                }
            }
            // The other end may be gone already.
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
}

/// What a send says whose commit is not answered, and the rows that are there after it.
macro_rules! unanswered {
    ($name:ident, $driver:ident, $direct:expr, $by_proxy:expr, $options:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let folder = tempfile::tempdir().unwrap();
            let (direct, target) = $direct;
            let (by_proxy, socket) = ($by_proxy)(direct.clone(), folder.path());
            let proxy = Swallower::before(target, &socket);
            let all = $driver::Outbox::new($options::new().connect_with(direct).await.unwrap());
            all.install().await.unwrap();
            let pool = $options::new().max_connections(1).connect_with(by_proxy).await.unwrap();
            let outbox = $driver::Outbox::new(pool);
            let send = async || {
                let order = Message::new("lamp").to("orders");
                let sent = outbox.send_with_transaction(order, async |_tx| Ok::<_, Error>(()));
                tokio::time::timeout(SECONDS, sent).await.expect("an outcome")
            };

            send().await.unwrap();
            proxy.armed.store(true, Ordering::SeqCst);
            let lost = send().await.unwrap_err();

            assert!(matches!(lost, Error::CommitUnknown(_)), "{lost:?}");
            assert_eq!(lost.outcome(), Outcome::Unknown);
            // It had happened, as it may have.
            assert_eq!(all.lag().await.unwrap().rows, 2);
        }
    };
}

unanswered!(
    commit_without_an_answer_is_an_unknown_outcome_on_postgres,
    postgres,
    {
        let database = Postgres::shared().create_database().unwrap();
        let options: PgConnectOptions = database.url().parse().unwrap();
        let socket = options.get_socket().unwrap().join(".s.PGSQL.5432");
        (options, socket)
    },
    |direct: PgConnectOptions, folder: &Path| {
        (direct.socket(folder), folder.join(".s.PGSQL.5432"))
    },
    PgPoolOptions
);
unanswered!(
    commit_without_an_answer_is_an_unknown_outcome_on_mariadb,
    mysql,
    {
        let database = MariaDb::shared().create_database().unwrap();
        let options: MySqlConnectOptions = database.url().parse().unwrap();
        let socket = options.get_socket().cloned().unwrap();
        (options, socket)
    },
    |direct: MySqlConnectOptions, folder: &Path| {
        let socket = folder.join("s");
        (direct.socket(&socket), socket)
    },
    MySqlPoolOptions
);

/// A relay's lease is prolonged over another connection meanwhile.
#[tokio::test]
async fn look_without_an_answer_is_given_up() {
    let (pool, ()) = support::postgres::pool().await;
    let outbox = postgres::Outbox::new(pool.clone());
    outbox.install().await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    let lock = "LOCK TABLE posthouse_outbox IN ACCESS EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *tx).await.unwrap();
    let mut store = outbox.store();
    for rows_max in [10, 1000] {
        let look = store.scan(&[], RowId(0), rows_max, 1 << 20);
        let look = tokio::time::timeout(2 * SECONDS, look).await.expect("it is given up");
        let error = look.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Transient, "{error}");
        assert!(error.to_string().contains("no answer"), "{error}");
    }
    tx.rollback().await.unwrap();

    assert_eq!(store.scan(&[], RowId(0), 10, 1 << 20).await.unwrap(), []);
}
