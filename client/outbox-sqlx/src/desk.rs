//! The inbox' part of a handler's transaction, for any kind of database.

use crate::core::{commit_if, roll_back};
use crate::driver::Driver;
use crate::error::Error;
use crate::sends::Bell;
use crate::unbroken::unbroken;
use posthouse_client::failpoint::{amid, failpoint};
use posthouse_client::outbox::sql::{Arrival, Dialect, Floor, Sql};
use posthouse_client::outbox::{Floors, StoreError, StoreErrorKind};
use posthouse_client::{Delivery, Failure, Fence, Offset, Retry};
use sqlx::{Pool, Transaction};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep, timeout};

/// Characters of a consumer's name in MariaDB's tables.
const CONSUMER_MAX: usize = 200;
/// How long the next run of a stream waits for the commit of an earlier one.
const COMMIT_MAX: Duration = Duration::from_secs(5);
/// How long a message's row is kept at least, unless set.
const WINDOW: Duration = Duration::from_secs(7 * 86_400);
/// Between two collections of rows that are not needed any more.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);
/// A floor stands for so long before rows are deleted that only it refuses again: longer than an
/// insert can wait that was begun before.
const FLOOR_STANDS: Duration = Duration::from_secs(60);
/// Rows deleted in one transaction.
const ROWS_AT_ONCE: u32 = 1000;
/// The wait before a message is given back that our own database kept us from handling.
const PAUSE: Duration = Duration::from_secs(1);
/// A connection stays with a worker for so long while messages wait: whoever else needs one of the pool
/// waits no longer for it than for a slow handler.
const KEPT_MAX: Duration = Duration::from_millis(100);
/// The mark of a batch' transaction.
const BATCH: &str = "posthouse_batch";

/// Where the messages of one consumer name are handled.
pub(crate) struct Desk<D: Driver> {
    pub(crate) pool: Pool<D::Db>,
    pub(crate) sql: Arc<Sql>,
    pub(crate) consumer: String,
    pub(crate) window: Duration,
    pub(crate) floors: Arc<Floors>,
    pub(crate) wakes: Option<Bell>,
    /// Read by batches whose commit is under way, also if nobody waits for it any more.
    pub(crate) commits: Arc<RwLock<()>>,
}

/// Where one worker handles messages: the transaction that was begun behind the last one's commit, for
/// the next one if that is there already.
pub(crate) struct Seat<D: Driver> {
    begun: Option<Transaction<'static, D::Db>>,
    /// Since when the connection is not the pool's.
    since: Instant,
}

impl<D: Driver> Seat<D> {
    pub(crate) fn new() -> Self {
        Self { begun: None, since: Instant::now() }
    }

    /// The transaction for the next message, if one is begun.
    pub(crate) fn take(&mut self) -> Option<Transaction<'static, D::Db>> {
        let begun = self.begun.take();
        if begun.is_none() {
            self.since = Instant::now();
        }
        begun
    }

    /// Keeps a transaction, unless others may have waited for its connection for too long.
    pub(crate) fn keep(&mut self, begun: Transaction<'static, D::Db>) {
        if self.since.elapsed() < KEPT_MAX {
            self.begun = Some(begun);
        }
    }

    /// Waits for `next`, without a transaction if it is not there.
    pub(crate) async fn wait<T>(&mut self, next: impl Future<Output = T>) -> T {
        let mut next = pin!(next);
        if let Poll::Ready(next) = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
            return next;
        }
        self.begun = None;
        next.await
    }
}

/// What a delivery is to the inbox.
#[derive(Debug)]
pub(crate) enum Admitted<T> {
    /// Handle it, in this transaction.
    New(T),
    /// Its message was handled.
    Duplicate,
    /// Its message was handled under a later hand-out, or so long ago that it is forgotten.
    Stale,
}

impl<D: Driver> Clone for Desk<D> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            sql: Arc::clone(&self.sql),
            consumer: self.consumer.clone(),
            window: self.window,
            floors: Arc::clone(&self.floors),
            wakes: self.wakes.clone(),
            commits: Arc::clone(&self.commits),
        }
    }
}

impl<D: Driver> fmt::Debug for Desk<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

impl<D: Driver> Desk<D> {
    pub(crate) fn new(pool: Pool<D::Db>, consumer: String) -> Self {
        let sql = Arc::new(Sql::standard(D::DIALECT));
        Self {
            pool,
            sql,
            consumer,
            window: WINDOW,
            floors: Arc::default(),
            wakes: None,
            commits: Arc::default(),
        }
    }

    fn arrival(&self, delivery: &Delivery) -> Arrival {
        Arrival {
            consumer: self.consumer.clone(),
            source: source(delivery),
            message_id: delivery.id(),
            place: delivery.offset(),
            fence: delivery.fence(),
            created_at: delivery.created_at(),
        }
    }

    /// Begins the transaction of a delivery's handler, if there is none: the note that it is handled
    /// comes first.
    pub(crate) async fn admit(
        &self,
        delivery: &Delivery,
        begun: Option<Transaction<'static, D::Db>>,
    ) -> Result<Admitted<Transaction<'static, D::Db>>, Error> {
        let arrival = self.arrival(delivery);
        let floor = Floor { place: delivery.ack_floor(), fence: delivery.fence() };
        self.floors.note(&arrival.source, floor.place, floor.fence);
        let (pool, sql) = (self.pool.clone(), Arc::clone(&self.sql));
        let admit = async move {
            failpoint("inbox.before-insert");
            let mut tx = match begun {
                Some(tx) => tx,
                None => D::begin(&pool).await?,
            };
            let admitted = match admit::<D>(&mut tx, &sql, &arrival).await {
                Ok(true) => return Ok(Admitted::New(tx)),
                Ok(false) => look::<D, _>(&mut tx, &sql, &arrival).await,
                Err(error) => Err(error),
            };
            roll_back::<D>(tx).await;
            Ok(admitted?)
        };
        let admitted = unbroken(admit).await?;
        if let Ok(Admitted::Duplicate | Admitted::Stale) = &admitted {
            let (id, offset, source) = (delivery.id(), delivery.offset(), source(delivery));
            match admitted {
                Ok(Admitted::Stale) => tracing::info!(
                    %id, %offset, source,
                    "stale delivery refused: the message was handled under a later one"
                ),
                _ => tracing::debug!(%id, %offset, source, "message was handled before"),
            }
        }
        admitted
    }

    /// Commits the transaction of [`Self::admit`] and acks the delivery; gives the transaction that is
    /// begun behind it.
    pub(crate) async fn conclude(
        &self,
        tx: Transaction<'static, D::Db>,
        delivery: Delivery,
    ) -> Result<Transaction<'static, D::Db>, Error> {
        let wakes = self.wakes.clone();
        let conclude = async move {
            failpoint("inbox.before-commit");
            let check = D::is_marked(&mark(delivery.fence()));
            let concluded = amid(Some("inbox.in-commit"), commit_if::<D>(tx, check, None)).await;
            match &concluded {
                Ok(_) => {
                    failpoint("inbox.after-commit");
                    // It is sent again until it counts.
                    drop(delivery.ack());
                    wakes.into_iter().for_each(Bell::ring);
                }
                Err(error) if is_the_messages::<D>(error) => {
                    drop(delivery.nack_because(Retry::Backoff, &error.to_string()));
                }
                Err(_) => drop(delivery.release()),
            }
            concluded
        };
        unbroken(conclude).await?
    }

    /// Refuses a consumer's name that a table would cut off: then it would not find its own rows.
    pub(crate) fn check_name(&self) -> Result<(), Error> {
        let length = self.consumer.chars().count();
        if D::DIALECT != Dialect::Mysql || length <= CONSUMER_MAX {
            return Ok(());
        }
        let text = format!(
            "the name of the inbox' consumer has {length} characters, and at most {CONSUMER_MAX} are \
             kept: shorten it"
        );
        Err(Error::Tables(StoreError::new(StoreErrorKind::Permanent, text)))
    }

    /// The place at which a stream goes on, once what an earlier run of this inbox commits is
    /// committed or has taken too long: read too soon, the cursor costs a run, not its order.
    pub(crate) async fn cursor(&self, source: &str) -> Result<Option<Offset>, Error> {
        self.check_name()?;
        drop(timeout(COMMIT_MAX, self.commits.write()).await);
        let (pool, text) = (self.pool.clone(), self.sql.cursor(&self.consumer, source));
        let cursor = async move {
            let mut connection = pool.acquire().await?;
            Ok(place_of::<D>(&D::query(&mut connection, text).await?)?)
        };
        unbroken(cursor).await?
    }

    /// Begins the transaction of a batch: the cursor moves first.
    pub(crate) async fn advance(
        &self,
        source: &str,
        from: Option<Offset>,
        to: Offset,
    ) -> Result<Transaction<'static, D::Db>, Error> {
        let text = self.sql.cursor_advance(&self.consumer, source, from, to);
        let pool = self.pool.clone();
        let advance = async move {
            let mut tx = D::begin(&pool).await?;
            match first::<D>(&mut tx, text, BATCH, D::bounded_wait()).await {
                Ok(true) => Ok(tx),
                Ok(false) => Err(Error::Overtaken),
                Err(error) => Err(Error::Database(error)),
            }
        };
        unbroken(advance).await?
    }

    /// Commits the transaction of [`Self::advance`].
    pub(crate) async fn arrive(&self, tx: Transaction<'static, D::Db>) -> Result<(), Error> {
        let wakes = self.wakes.clone();
        let under_way = Arc::clone(&self.commits).read_owned().await;
        let arrive = async move {
            failpoint("stream.before-commit");
            let commit = commit_if::<D>(tx, D::is_marked(BATCH), None);
            drop(amid(Some("stream.in-commit"), commit).await?);
            failpoint("stream.after-commit");
            wakes.into_iter().for_each(Bell::ring);
            drop(under_way);
            Ok(())
        };
        unbroken(arrive).await?
    }

    /// Goes on after an error of [`Self::conclude`], which has settled the delivery; an error if the
    /// database will not let us handle the next one either.
    pub(crate) async fn go_on(&self, error: Error) -> Result<(), Error> {
        if is_the_messages::<D>(&error) {
            tracing::warn!(%error, consumer = self.consumer, "message not handled");
            return Ok(());
        }
        self.give_back(None, error).await
    }

    /// Gives a delivery back that the database did not let us handle; an error if it will not
    /// let us handle the next one either.
    pub(crate) async fn give_back(
        &self,
        delivery: Option<Delivery>,
        error: Error,
    ) -> Result<(), Error> {
        let is_passing = if let Error::Database(error) = &error {
            D::kind(error) == StoreErrorKind::Transient
        } else {
            matches!(error, Error::CommitUnknown(_))
        };
        if is_passing {
            tracing::warn!(%error, consumer = self.consumer, "message given back");
            sleep(PAUSE).await;
        }
        drop(delivery.map(Delivery::release));
        if is_passing { Ok(()) } else { Err(error) }
    }

    /// What a handler has said, or that it panicked.
    pub(crate) async fn refuse(
        &self,
        tx: Transaction<'static, D::Db>,
        delivery: Delivery,
        failure: Failure,
    ) {
        roll_back::<D>(tx).await;
        drop(delivery.fail(failure));
    }

    /// Deletes what is not needed any more, if that was not done within an hour.
    pub(crate) async fn collect_if_due(&self, seat: &mut Seat<D>) {
        if !self.floors.is_due(Instant::now(), COLLECT_EVERY) {
            return;
        }
        // Collecting takes a connection of its own, and may take long; the one of the transaction
        // that was begun may be the pool's only one.
        drop(seat.take());
        if let Err(error) = self.collect().await {
            tracing::warn!(%error, "inbox rows not deleted; tried again in an hour");
        }
    }

    /// Deletes what is not needed any more.
    pub(crate) async fn collect(&self) -> Result<u64, Error> {
        let mut count = 0;
        for (source, floor) in self.floors.seen() {
            let this = self.clone();
            let collect = async move {
                let mut connection = this.pool.acquire().await?;
                this.collect_one(&mut connection, &source, floor).await
            };
            count += unbroken(collect).await??;
        }
        Ok(count)
    }

    /// A row may go once its floor has stood for a while: then whoever brings its message again, even
    /// in a statement that was begun long ago, is refused by one of the two.
    async fn collect_one(
        &self,
        connection: &mut D::Connection,
        source: &str,
        floor: Floor,
    ) -> sqlx::Result<u64> {
        let (sql, consumer) = (&self.sql, self.consumer.as_str());
        let [raise, insert] = sql.inbox_raise(consumer, source, floor, [self.window, FLOOR_STANDS]);
        let kept = D::query(connection, sql.inbox_floor(consumer, source)).await?;
        let Some(kept) = kept.first() else {
            D::run(connection, insert).await?;
            return Ok(0);
        };
        let stands = D::number(kept, 2)?.and_then(|age| u64::try_from(age).ok());
        if stands.is_none_or(|age| Duration::from_millis(age) < FLOOR_STANDS) {
            return Ok(0);
        }
        let mut count = 0;
        loop {
            let text = sql.inbox_forget(consumer, source, ROWS_AT_ONCE);
            let deleted = D::run(connection, text).await?.first().copied().unwrap_or_default();
            count += deleted;
            if deleted < u64::from(ROWS_AT_ONCE) {
                break;
            }
        }
        D::run(connection, raise).await?;
        Ok(count)
    }
}

/// Whether an error at the end of a message's transaction is its own fault: it would come again as
/// often as the message, and not with the next one. A deferred constraint, for example, refuses the
/// commit.
fn is_the_messages<D: Driver>(error: &Error) -> bool {
    if let Error::Database(error) = error {
        return D::kind(error) != StoreErrorKind::Transient;
    }
    matches!(error, Error::TransactionEnded)
}

/// The name under which a delivery's places are known.
fn source(delivery: &Delivery) -> String {
    format!("{}.{}", delivery.topic(), delivery.subscription())
}

/// The mark of a message's transaction: of one hand-out only, so that two transactions that are mixed up
/// are noticed.
fn mark(fence: Fence) -> String {
    format!("posthouse_{}_{}", fence.epoch.0, fence.counter)
}

/// Notes in a transaction that a message is handled; false if it was noted before.
async fn admit<D: Driver>(
    connection: &mut D::Connection,
    sql: &Sql,
    arrival: &Arrival,
) -> sqlx::Result<bool> {
    // There the statement itself has a limit.
    let bounded = if D::DIALECT == Dialect::Postgres { None } else { D::bounded_wait() };
    first::<D>(connection, sql.inbox_insert(arrival), &mark(arrival.fence), bounded).await
}

/// Runs the first statement of a transaction, which may wait for another one's, but not for long, and
/// marks the transaction; whether the statement has changed its row.
async fn first<D: Driver>(
    connection: &mut D::Connection,
    text: String,
    mark: &str,
    bounded: Option<[&'static str; 2]>,
) -> sqlx::Result<bool> {
    let mark = D::mark(mark);
    let Some([before, behind]) = bounded else {
        let changed = D::run(connection, format!("{text};\n{mark}")).await?;
        return Ok(changed.first() == Some(&1));
    };
    match D::run(connection, format!("{before};\n{text};\n{behind};\n{mark}")).await {
        Ok(changed) => Ok(changed.get(1) == Some(&1)),
        Err(error) => {
            if D::DIALECT == Dialect::Mysql {
                // The setting is the session's, and would outlive the transaction. If this fails,
                // so has the session.
                let _ = D::run(connection, behind.to_owned()).await;
            }
            Err(error)
        }
    }
}

/// What was in the way of a message's row.
async fn look<D: Driver, T>(
    connection: &mut D::Connection,
    sql: &Sql,
    arrival: &Arrival,
) -> sqlx::Result<Admitted<T>> {
    let text = sql.inbox_row(&arrival.consumer, arrival.message_id);
    let rows = D::query(connection, text).await?;
    // Below the floor, or deleted since because it is.
    let Some(row) = rows.first() else { return Ok(Admitted::Stale) };
    let is_same_copy = D::text(row, 0)?.as_deref() == Some(&arrival.source)
        && number::<D>(row, 1)? == arrival.place.0;
    let stored = (number::<D>(row, 2)?, number::<D>(row, 3)?);
    let is_later = stored > (u64::from(arrival.fence.epoch.0), arrival.fence.counter);
    Ok(if is_same_copy && is_later { Admitted::Stale } else { Admitted::Duplicate })
}

fn number<D: Driver>(row: &D::Row, column: usize) -> sqlx::Result<u64> {
    Ok(D::number(row, column)?.unwrap_or_default().unsigned_abs())
}

fn place_of<D: Driver>(rows: &[D::Row]) -> sqlx::Result<Option<Offset>> {
    rows.first().map(|row| number::<D>(row, 0).map(Offset)).transpose()
}
