//! A database connection on a thread of its own, so that its waits never hold up a runtime.

use crate::database::Database;
use crate::error::Error;
use rusqlite::Connection;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; whoever has one more waits for room.
const WAITING_MAX: usize = 64;

type Job = Box<dyn FnOnce(&mut Slot) + Send>;

/// A thread with a connection, which is opened by the first job that needs it. Both end with this.
pub(crate) struct Worker {
    jobs: Result<mpsc::Sender<Job>, String>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

/// The thread's connection.
struct Slot {
    database: Database,
    connection: Option<Connection>,
}

impl Worker {
    /// A thread for this database.
    pub(crate) fn start(name: &str, database: Database) -> Self {
        let (jobs, mut waiting) = mpsc::channel::<Job>(WAITING_MAX);
        let thread = std::thread::Builder::new().name(name.to_owned());
        let started = thread.spawn(move || {
            let mut slot = Slot { database, connection: None };
            while let Some(job) = waiting.blocking_recv() {
                job(&mut slot);
            }
        });
        match started {
            Ok(thread) => Self { jobs: Ok(jobs), thread: Some(thread) },
            Err(error) => Self { jobs: Err(format!("no thread: {error}")), thread: None },
        }
    }

    /// Takes no more jobs, and waits until those that were taken are done and the connection is
    /// closed: then nobody of us has the file open.
    pub(crate) fn end(&mut self) {
        self.jobs = Err("it has ended".to_owned());
        if let Some(thread) = self.thread.take() {
            // Jobs catch their panics.
            drop(thread.join());
        }
    }

    /// Closes the connection, after what was asked for before; the next job opens another one.
    pub(crate) async fn close(&self) {
        let Ok(jobs) = &self.jobs else { return };
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |slot| {
            slot.connection = None;
            // Nobody waits any more: it is closed all the same.
            let _ = answer.send(());
        });
        if jobs.send(job).await.is_ok() {
            // An error says that the thread has ended, and closed it.
            let _ = answered.await;
        }
    }

    /// Runs `work` on the thread, after what was asked for before.
    ///
    /// A panic of `work` goes on in the caller; a transaction that it held is rolled back.
    ///
    /// # Cancellation
    ///
    /// Dropped while it waits for room, nothing happens; later, `work` is carried out to its end.
    ///
    /// # Errors
    ///
    /// What `work` returns, and if the database cannot be opened.
    pub(crate) async fn call<T, E>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let jobs = self.jobs.as_ref().map_err(|text| Error::thread(text))?;
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |slot| {
            let done = catch_unwind(AssertUnwindSafe(|| work(slot.open()?)));
            // Nobody waits any more: what was done is done.
            drop(answer.send(done));
        });
        jobs.send(job).await.map_err(|_| Error::thread("it has ended"))?;
        match answered.await {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(Error::thread("it has ended").into()),
        }
    }
}

impl Slot {
    fn open(&mut self) -> Result<&mut Connection, Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.database.open()?,
        };
        Ok(self.connection.insert(connection))
    }
}
