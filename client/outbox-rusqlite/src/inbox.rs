//! Handling messages in the consumer's own transaction, each once.

mod stream;

use crate::database::Database;
use crate::error::{Error, ErrorKind};
use crate::outbox::Outbox;
use crate::tables::{Tables, Verdict, immediate};
use crate::worker::Worker;
use posthouse_client::failpoint::{during, failpoint};
use posthouse_client::outbox::Floors;
use posthouse_client::outbox::sql::Arrival;
use posthouse_client::{Consumer, Delivery, Failure, Run};
use rusqlite::{Connection, Transaction};
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep};

/// How long a message's row is kept at least, so that a copy of it is recognised.
const WINDOW: Duration = Duration::from_secs(7 * 86_400);
/// Between two collections of rows that are not needed any more.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);
/// The wait before a message is given back that our own database kept us from handling.
const PAUSE: Duration = Duration::from_secs(1);

/// An inbox in an SQLite database: the effect of a message is committed together with a row that says
/// so, and a message whose row is there is acknowledged without being handled again.
///
/// One name for each consumer that has effects of its own in this database. Effects elsewhere (mail,
/// other systems) are not covered: send them through an [`Outbox`] in the same transaction.
#[derive(Clone, Debug)]
pub struct Inbox {
    database: Database,
    tables: Tables,
    consumer: String,
    window: Duration,
    floors: Arc<Floors>,
    wakes: Option<Outbox>,
    /// Read by batches of streams that are under way, also if nobody waits for them any more.
    at_work: Arc<RwLock<()>>,
}

impl Inbox {
    /// The inbox of `consumer` in the database in this file. Opens nothing yet.
    pub fn new(path: impl Into<PathBuf>, consumer: impl Into<String>) -> Self {
        Self {
            database: Database::new(path.into()),
            tables: Tables::default(),
            consumer: consumer.into(),
            window: WINDOW,
            floors: Arc::new(Floors::default()),
            wakes: None,
            at_work: Arc::default(),
        }
    }

    /// Lets the tables' names start with this instead of `posthouse_`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it is no plain identifier.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, Error> {
        self.tables = Tables::new(prefix)?;
        Ok(self)
    }

    /// Keeps a message's row for so long at least, 7 days unless set: a copy that a sender makes
    /// within this time, a database restored by it for example, has no second effect.
    #[must_use]
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Wakes this outbox' relay after each message, for handlers that enqueue.
    #[must_use]
    pub fn wakes(mut self, outbox: &Outbox) -> Self {
        self.wakes = Some(outbox.clone());
        self
    }

    /// Makes the tables, and the file, if they are not there.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database refuses; nothing is changed then.
    pub fn install(&self) -> Result<(), Error> {
        self.tables.install(&self.database)
    }

    /// Handles deliveries: begins a transaction (`BEGIN IMMEDIATE`), notes the message in it, calls
    /// `handler`, commits, and acknowledges. A message that was handled before is acknowledged only.
    ///
    /// Handlers run one after the other on a thread of their own with a connection of its own, as
    /// SQLite has one writer at a time; they may block. `concurrency` deliveries wait for their turn,
    /// so that the thread need not wait for the broker. An `Err` of the handler rolls back, and a
    /// panic too; what it means for the message is said in [`Failure`]. If the database is locked or
    /// fails, the message is given back uncounted. A transaction that ended inside the handler, after
    /// an error that it did not pass on, counts as the handler's failure, and so does a commit that
    /// SQLite refuses over what the handler did, a deferred constraint for example.
    ///
    /// Rows that are not needed any more are deleted about hourly, see [`Self::collect_garbage`].
    ///
    /// ```no_run
    /// # use posthouse_outbox_rusqlite::Inbox;
    /// # async fn demo(client: posthouse_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let inbox = Inbox::new("shop.db", "billing");
    /// inbox.install()?;
    /// let consumer = client.consumer("orders", "billing").await?;
    /// let handler = |tx: &rusqlite::Transaction<'_>, delivery: &posthouse_client::Delivery| {
    ///     tx.execute("INSERT INTO bills (text) VALUES (?1)", [&delivery.body()[..]]).map(|_| ())
    /// };
    /// inbox.run(consumer, 16, handler).until(async { tokio::signal::ctrl_c().await.unwrap() }).await?;
    /// # Ok(()) }
    /// ```
    pub fn run<H, E>(
        &self,
        consumer: Consumer,
        concurrency: usize,
        handler: H,
    ) -> Run<impl Fn(Arc<Delivery>) -> Handling + Send + Sync + 'static + use<H, E>>
    where
        H: Fn(&Transaction<'_>, &Delivery) -> Result<(), E> + Send + Sync + 'static,
        E: Into<Failure> + 'static,
    {
        let source = format!("{}.{}", consumer.topic(), consumer.subscription());
        let desk = Desk {
            inbox: self.clone(),
            worker: Worker::start("posthouse-inbox", self.database.clone()),
            source,
        };
        let (desk, handler) = (Arc::new(desk), Arc::new(handler));
        consumer.run(concurrency, move |delivery| -> Handling {
            Box::pin(Arc::clone(&desk).handle(Arc::clone(&handler), delivery))
        })
    }

    /// Deletes the rows of messages that can come no more: those below the ack floor that the
    /// previous round stored, and older than the window. Returns how many. Another round within a
    /// minute does nothing.
    ///
    /// The floor is that of the deliveries which this inbox, or a clone of it, has handled.
    ///
    /// # Errors
    ///
    /// [`Error`] of the database; what was deleted until then stays deleted.
    pub fn collect_garbage(&self) -> Result<u64, Error> {
        self.collect(&mut self.database.open()?)
    }

    fn collect(&self, connection: &mut Connection) -> Result<u64, Error> {
        let mut count = 0;
        for (source, floor) in self.floors.seen() {
            let names = [self.consumer.as_str(), source.as_str()];
            count += self.tables.collect(connection, names, floor, self.window)?;
        }
        Ok(count)
    }
}

/// A bug that the trials must find: messages that were handled before are handled again.
fn forgets() -> bool {
    cfg!(feature = "planted-bugs")
        && std::env::var("POSTHOUSE_PLANTED_BUG").is_ok_and(|bug| bug == "inbox-forgets")
}

/// A message being handled.
pub type Handling = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// Where the messages of one subscription are handled.
#[derive(Debug)]
struct Desk {
    inbox: Inbox,
    worker: Worker,
    source: String,
}

/// Why a message was not handled.
enum Unhandled {
    /// The handler says so.
    Handler(Failure),
    /// Our own database does not let us.
    Database(Error),
}

impl From<Error> for Unhandled {
    fn from(error: Error) -> Self {
        // It would come again for ever, each time with what the handler did behind the end.
        if error.kind() == ErrorKind::Ended {
            return Self::Handler(error.into());
        }
        Self::Database(error)
    }
}

/// What a failed commit means: refused for good, by a deferred constraint for example, it is the
/// handler's failure. It would come again as often as the message.
fn refused(error: Error) -> Unhandled {
    if error.kind() == ErrorKind::Failed {
        return Unhandled::Handler(error.into());
    }
    Unhandled::Database(error)
}

impl Desk {
    async fn handle<H, E>(
        self: Arc<Self>,
        handler: Arc<H>,
        delivery: Arc<Delivery>,
    ) -> Result<(), Failure>
    where
        H: Fn(&Transaction<'_>, &Delivery) -> Result<(), E> + Send + Sync + 'static,
        E: Into<Failure> + 'static,
    {
        let this = Arc::clone(&self);
        let message = Arc::clone(&delivery);
        let work = move |connection: &mut Connection| {
            let handler = |tx: &Transaction<'_>| handler(tx, &message).map_err(Into::into);
            this.settle(connection, &message, handler)
        };
        let done = self.worker.call(work).await;
        self.inbox.floors.note(&self.source, delivery.ack_floor(), delivery.fence());
        match done {
            Ok(verdict) => {
                self.say(verdict, &delivery);
                self.collect_if_due().await;
                Ok(())
            }
            Err(Unhandled::Handler(failure)) => Err(failure),
            Err(Unhandled::Database(error)) => {
                tracing::warn!(%error, source = self.source, id = %delivery.id(), "message given back");
                // A locked database has made us wait already.
                if error.kind() != ErrorKind::Busy {
                    sleep(PAUSE).await;
                }
                Err(Failure::release())
            }
        }
    }

    /// The message's transaction.
    fn settle(
        &self,
        connection: &mut Connection,
        delivery: &Delivery,
        handler: impl FnOnce(&Transaction<'_>) -> Result<(), Failure>,
    ) -> Result<Verdict, Unhandled> {
        let arrival = Arrival {
            consumer: self.inbox.consumer.clone(),
            source: self.source.clone(),
            message_id: delivery.id(),
            place: delivery.offset(),
            fence: delivery.fence(),
            created_at: delivery.created_at(),
        };
        failpoint("inbox.before-insert");
        let tx = immediate(connection)?;
        let verdict = self.inbox.tables.admit(&tx, &arrival)?;
        if verdict != Verdict::New && !forgets() {
            return Ok(verdict);
        }
        handler(&tx).map_err(Unhandled::Handler)?;
        if verdict == Verdict::New {
            self.inbox.tables.still_noted(&tx, &arrival)?;
        }
        failpoint("inbox.before-commit");
        let committed = during("inbox.in-commit", || tx.commit());
        committed.map_err(|error| refused(Error::commit(error)))?;
        failpoint("inbox.after-commit");
        if let Some(outbox) = &self.inbox.wakes {
            outbox.bell().ring();
        }
        Ok(verdict)
    }

    fn say(&self, verdict: Verdict, delivery: &Delivery) {
        let (id, offset) = (delivery.id(), delivery.offset());
        let source = self.source.as_str();
        match verdict {
            Verdict::New => {}
            Verdict::Duplicate => {
                tracing::debug!(%id, %offset, source, "message was handled before");
            }
            Verdict::Stale => tracing::info!(
                %id, %offset, source,
                "stale delivery refused: the message was handled under a later one"
            ),
        }
    }

    async fn collect_if_due(self: &Arc<Self>) {
        if !self.inbox.floors.is_due(Instant::now(), COLLECT_EVERY) {
            return;
        }
        let inbox = self.inbox.clone();
        match self.worker.call(move |connection| inbox.collect(connection)).await {
            Ok(rows) => tracing::debug!(rows, consumer = self.inbox.consumer, "inbox rows deleted"),
            Err(error) => tracing::warn!(%error, "inbox rows not deleted; tried again in an hour"),
        }
    }
}

impl fmt::Debug for Unhandled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handler(failure) => failure.fmt(f),
            Self::Database(error) => error.fmt(f),
        }
    }
}
