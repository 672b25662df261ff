//! Sending in the application's own transaction.

use crate::database::Database;
use crate::error::Error;
use crate::store::SqliteStore;
use crate::tables::{Tables, immediate, still_open};
use posthouse_client::failpoint::{during, failpoint};
use posthouse_client::outbox::{Lag, NewRow, Parked, Relay, RowId};
use posthouse_client::{Client, Outgoing};
use rusqlite::{Connection, Transaction};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;

/// An outbox in an SQLite database: what is sent through it is a row, committed or rolled back with
/// the application's own data, and handed to the broker exactly once by a [relay](Self::relay).
///
/// Cheap to clone; the clones share the bell that wakes a relay in this process. Nothing but
/// [`Self::relay`] needs a runtime.
///
/// The application's connection must be one to the same file, in any journal mode and with any
/// `synchronous` setting but `OFF`: a message is handed over only after it is on disk.
///
/// Messages reach the broker in the order in which their transactions committed.
#[derive(Clone, Debug)]
pub struct Outbox {
    database: Database,
    tables: Tables,
    bell: Arc<Notify>,
}

/// Wakes the relay of this process, once the transaction is committed.
#[derive(Clone, Debug)]
#[must_use = "ring it after the commit; without that the relay finds the message up to a second later"]
pub struct Bell(Arc<Notify>);

impl Bell {
    /// Tells the relay that there is something. Rung before the commit, or without one, it does no
    /// harm and no good.
    pub fn ring(self) {
        self.0.notify_one();
    }
}

/// What a transaction sends; see [`Outbox::transaction`].
#[derive(Debug, Default)]
pub struct Sends {
    outgoing: Vec<Outgoing>,
}

impl Sends {
    /// Sends this if the transaction commits, behind what was sent before.
    pub fn send(&mut self, outgoing: Outgoing) {
        self.outgoing.push(outgoing);
    }
}

impl Outbox {
    /// The outbox of the database in this file. Opens nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let (database, tables) = (Database::new(path.into()), Tables::default());
        Self { database, tables, bell: Arc::new(Notify::new()) }
    }

    /// Lets the tables' names start with this instead of `posthouse_`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it is no plain identifier.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, Error> {
        self.tables = Tables::new(prefix)?;
        Ok(self)
    }

    /// Makes the tables, and the file, if they are not there, and brings tables of an older version
    /// up to date, with what is in them; programs of the version before go on sending and receiving,
    /// but their relays end. Any number of processes may do it at the same time. Newer tables stay as
    /// they are.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database refuses; nothing is changed then.
    pub fn install(&self) -> Result<(), Error> {
        self.tables.install(&self.database)
    }

    /// What [`Self::install`] runs where there are no tables, for those who keep their schema
    /// elsewhere.
    #[must_use]
    pub fn ddl(&self) -> String {
        self.upgrade(0)
    }

    /// What [`Self::install`] runs on tables of this version; nothing if they are up to date.
    #[must_use]
    pub fn upgrade(&self, from: u32) -> String {
        self.tables.upgrade(from)
    }

    /// Puts a message into the outbox, as part of the caller's open transaction: it is sent if that
    /// commits.
    ///
    /// One insert. It never retries, commits or sets savepoints. Lock what the message's key stands
    /// for before, as a `BEGIN IMMEDIATE` does for everything, and messages of one key are sent in
    /// the order of their transactions.
    ///
    /// ```no_run
    /// # use posthouse_client::Message; use posthouse_outbox_rusqlite::Outbox;
    /// # fn demo(outbox: Outbox, mut db: rusqlite::Connection) -> Result<(), Box<dyn std::error::Error>> {
    /// let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    /// tx.execute("UPDATE stock SET left = left - 1 WHERE article = ?1", ["lamp"])?;
    /// let bell = outbox.enqueue(&tx, Message::new("sold: lamp").key("lamp").to("sales"))?;
    /// tx.commit()?;
    /// bell.ring();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error`]: nothing was inserted. Of a message that could never be handed over (a topic's name
    /// that is none, a length beyond every limit, an expiry or a priority, which an outbox does not
    /// carry) it is [`ErrorKind::Invalid`](crate::ErrorKind::Invalid); if SQLite has ended the
    /// transaction, [`ErrorKind::Ended`](crate::ErrorKind::Ended).
    pub fn enqueue(&self, tx: &Transaction<'_>, outgoing: Outgoing) -> Result<Bell, Error> {
        let row = NewRow::new(outgoing).map_err(|error| Error::invalid("enqueue", error))?;
        still_open(tx)?;
        self.tables.enqueue(tx, &row)?;
        Ok(Bell(Arc::clone(&self.bell)))
    }

    /// Does `work` in a transaction (`BEGIN IMMEDIATE`) together with what it sends, commits, and
    /// wakes the relay.
    ///
    /// The message can be made from what the work found out, ids for example:
    ///
    /// ```no_run
    /// # use posthouse_client::Message; use posthouse_outbox_rusqlite::{Error, Outbox};
    /// # fn demo(outbox: Outbox, mut db: rusqlite::Connection) -> rusqlite::Result<()> {
    /// let order = outbox.transaction(&mut db, |tx, out| {
    ///     tx.execute("INSERT INTO orders (article) VALUES (?1)", ["lamp"])?;
    ///     let order = tx.last_insert_rowid();
    ///     out.send(Message::new(format!("order {order}")).to("orders"));
    ///     Ok::<_, rusqlite::Error>(order)
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// What `work` returns, or an [`Error`] made into one: everything is rolled back and nothing is
    /// sent. Only after [`ErrorKind::Unknown`](crate::ErrorKind::Unknown), a disk that failed in the
    /// commit, both may be there, or neither. After [`ErrorKind::Ended`](crate::ErrorKind::Ended)
    /// nothing is sent either, but what `work` did behind the end stays. A panic of `work` rolls
    /// back, too.
    pub fn transaction<T, E: From<Error>>(
        &self,
        connection: &mut Connection,
        work: impl FnOnce(&Transaction<'_>, &mut Sends) -> Result<T, E>,
    ) -> Result<T, E> {
        let tx = immediate(connection)?;
        let mut sends = Sends::default();
        let done = work(&tx, &mut sends)?;
        still_open(&tx)?;
        failpoint("outbox.before-insert");
        let mut bell = None;
        for outgoing in sends.outgoing {
            bell = Some(self.enqueue(&tx, outgoing)?);
        }
        failpoint("outbox.before-commit");
        during("outbox.in-commit", || tx.commit()).map_err(Error::commit)?;
        failpoint("outbox.after-commit");
        if let Some(bell) = bell {
            bell.ring();
        }
        Ok(done)
    }

    /// Like [`Self::transaction`] for one message that is known before.
    ///
    /// # Errors
    ///
    /// As [`Self::transaction`].
    pub fn send_with_transaction<T, E: From<Error>>(
        &self,
        connection: &mut Connection,
        outgoing: Outgoing,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transaction(connection, |tx, sends| {
            let done = work(tx)?;
            sends.send(outgoing);
            Ok(done)
        })
    }

    /// A relay for this outbox, to be configured and spawned. It has two connections, each with a thread of
    /// its own, and this outbox' bell wakes it; what others insert it finds by looking.
    pub fn relay(&self, client: &Client) -> Relay<SqliteStore> {
        Relay::new(self.store(), client.clone()).bell(Arc::clone(&self.bell))
    }

    /// The tables as a relay sees them.
    #[must_use]
    pub fn store(&self) -> SqliteStore {
        SqliteStore::new(self.database.clone(), self.tables.clone())
    }

    /// How much waits, and how much is parked.
    ///
    /// # Errors
    ///
    /// [`Error`] of the database.
    pub fn lag(&self) -> Result<Lag, Error> {
        self.tables.lag(&self.database.open()?)
    }

    /// Parked rows above the id `after`, oldest first, at most `limit`, without their bodies: messages
    /// that the broker refused for good, with what it said.
    ///
    /// # Errors
    ///
    /// [`Error`] of the database.
    pub fn parked(&self, after: RowId, limit: u32) -> Result<Vec<Parked>, Error> {
        self.tables.parked(&self.database.open()?, after, limit)
    }

    /// Puts parked rows back at the end of the outbox and wakes the relay; returns how many. They
    /// keep their message ids, unless those are not 16 bytes long.
    ///
    /// # Errors
    ///
    /// [`Error`] of the database.
    pub fn redrive(&self, ids: &[RowId]) -> Result<u64, Error> {
        let count = self.tables.redrive(&mut self.database.open()?, ids)?;
        self.bell.notify_one();
        Ok(count)
    }

    /// Deletes parked rows; returns how many.
    ///
    /// # Errors
    ///
    /// [`Error`] of the database.
    pub fn discard(&self, ids: &[RowId]) -> Result<u64, Error> {
        self.tables.discard(&self.database.open()?, ids)
    }

    pub(crate) fn bell(&self) -> Bell {
        Bell(Arc::clone(&self.bell))
    }
}
