//! Reading a topic into a database whose own cursor says how far it has come.

use super::Inbox;
use crate::error::Error;
use crate::tables::{immediate, still_open};
use crate::worker::Worker;
use posthouse_client::failpoint::{during, failpoint};
use posthouse_client::outbox::batches::{next_batch, save_at_broker};
use posthouse_client::{Offset, Reader, Record};
use rusqlite::{Connection, Transaction};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long the next run of a stream waits for the batch of an earlier one.
const AT_WORK_MAX: Duration = Duration::from_secs(5);

impl Inbox {
    /// Reads a topic in batches, each handled in one transaction that also moves the cursor which
    /// this database keeps for it. So every record takes effect once, whatever crashes.
    ///
    /// Reading starts at the database's cursor; if there is none yet, where the reader stands. The
    /// broker's own cursor, of a reader opened at [`Position::Saved`](posthouse_client::Position), is
    /// saved after the commit, for the sake of the topic's retention only. A reader that
    /// [follows](posthouse_client::OpenReader::follow) makes this run for ever; else it returns at the
    /// end of the topic. A lost broker is waited for. A record that arrives damaged is logged as an
    /// error and passed over.
    ///
    /// ```no_run
    /// # use posthouse_client::{Position, Record}; use posthouse_outbox_rusqlite::{Error, Inbox};
    /// # async fn demo(client: posthouse_client::Client, inbox: Inbox) -> Result<(), Box<dyn std::error::Error>> {
    /// let reader = client.reader("events", Position::Earliest).follow().await?;
    /// let handler = |tx: &rusqlite::Transaction<'_>, records: &[Record]| {
    ///     for record in records {
    ///         tx.execute("INSERT INTO events (body) VALUES (?1)", [&record.body()[..]])?;
    ///     }
    ///     Ok::<_, rusqlite::Error>(())
    /// };
    /// inbox.run_stream(reader, handler).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancellation
    ///
    /// Dropped, the batch at work is carried out to its end or not at all; run again, on this inbox or
    /// a clone of it, it waits for that, up to 5 s, and goes on where the database's cursor is.
    ///
    /// # Errors
    ///
    /// What `handler` returns, or an [`Error`] made into one; that batch is rolled back. Among them
    /// are [`ErrorKind::Overtaken`](crate::ErrorKind::Overtaken), as two readers with one consumer
    /// name stop each other rather than handle anything twice, and
    /// [`ErrorKind::BeyondEnd`](crate::ErrorKind::BeyondEnd) if the broker has less than this database
    /// has read: it was restored from an older copy.
    pub async fn run_stream<H, E>(&self, mut reader: Reader, handler: H) -> Result<(), E>
    where
        H: Fn(&Transaction<'_>, &[Record]) -> Result<(), E> + Send + Sync + 'static,
        E: From<Error> + Send + 'static,
    {
        let worker = Worker::start("posthouse-inbox", self.database.clone());
        let handler = Arc::new(handler);
        let mut cursor = self.cursor(&worker, reader.topic()).await?;
        if let Some(next) = cursor {
            reader.seek(next);
        }
        let mut saves = true;
        while let Some(batch) = next_batch(&mut reader).await.map_err(Error::reading)? {
            let next = batch.next;
            let moved = Move { topic: reader.topic().to_owned(), from: cursor, to: next };
            let (inbox, handler) = (self.clone(), Arc::clone(&handler));
            let at_work = Arc::clone(&self.at_work).read_owned().await;
            let work = move |connection: &mut Connection| {
                let _until_the_end = at_work;
                inbox.take_batch(connection, &moved, |tx| handler(tx, &batch.records))
            };
            worker.call::<_, E>(work).await?;
            cursor = Some(next);
            saves = saves && save_at_broker(&reader, next).await;
        }
        Ok(())
    }

    async fn cursor(&self, worker: &Worker, topic: &str) -> Result<Option<Offset>, Error> {
        // Read too soon, the cursor costs a run, not its order.
        drop(timeout(AT_WORK_MAX, self.at_work.write()).await);
        let (inbox, topic) = (self.clone(), topic.to_owned());
        let look = move |connection: &mut Connection| {
            inbox.tables.cursor(connection, [&inbox.consumer, &topic])
        };
        worker.call(look).await
    }

    fn take_batch<E: From<Error>>(
        &self,
        connection: &mut Connection,
        moved: &Move,
        handler: impl FnOnce(&Transaction<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let tx = immediate(connection)?;
        let names = [self.consumer.as_str(), moved.topic.as_str()];
        if !self.tables.move_cursor(&tx, names, moved.from, moved.to)? {
            return Err(Error::moved(&self.consumer, &moved.topic).into());
        }
        handler(&tx)?;
        still_open(&tx)?;
        if self.tables.cursor(&tx, names)? != Some(moved.to) {
            return Err(Error::ended().into());
        }
        failpoint("stream.before-commit");
        during("stream.in-commit", || tx.commit()).map_err(Error::commit)?;
        failpoint("stream.after-commit");
        if let Some(outbox) = &self.wakes {
            outbox.bell().ring();
        }
        Ok(())
    }
}

/// A cursor's way.
struct Move {
    topic: String,
    from: Option<Offset>,
    to: Offset,
}
