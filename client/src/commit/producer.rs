//! A named producer: commits with numbers that outlive the process that sends them.

use super::{Commit, Key};
use crate::core::Core;
use crate::error::RequestError;
use crate::mailbox::Mail;
use posthouse_protocol::{Name, Outcome, ProducerEpoch};
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A producer with a name, kept by the broker until it is retired: its commits are numbered, and a
/// number is carried out at most once, whoever repeats it.
///
/// An application that crashed opens it again and asks [`Self::last`]: a commit up to that number is
/// done, a later one is not and never will be, because opening fences what the crashed one still had
/// under way. So the application notes, with its work, the number that the work's commit will have;
/// after a crash it compares, and repeats the commit or goes on.
///
/// Its commits are made one after the other, in the order in which they are first polled.
///
/// ```no_run
/// # async fn demo(client: posthouse_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let importer = client.producer("importer").await?;
/// for (number, line) in (1..).zip(["a", "b", "c"]).skip(importer.last() as usize) {
///     importer.commit_as(number).publish("lines", line).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Producer {
    core: Arc<Core>,
    name: Name,
    key: Key,
    epoch: ProducerEpoch,
    last: Arc<AtomicU64>,
}

impl Producer {
    /// The number of the last commit that the broker is known to have accepted; 0 for none.
    ///
    /// It is exact when the producer has just been opened and after each commit with a definite
    /// outcome.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// The producer's epoch. Whoever opens a higher one ends this one: from then on its commits are
    /// refused with `FENCED`.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch.0
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// A commit with the next number, which its result tells.
    pub fn commit(&self) -> Commit {
        Commit::new(Arc::clone(&self.core), Some(self.key), None)
    }

    /// A commit with this number, from 1 on; numbers may be left out.
    ///
    /// A number that was accepted before, with the same bytes (message ids and times of creation
    /// included, so set them), gives the first result, marked as a duplicate; the last 64 results are
    /// kept, fewer if they have more than 4,096 publishes, and an older one comes without offsets,
    /// whatever its bytes are, also if that number was left out. With other bytes a number whose
    /// result is kept is refused with `SEQUENCE_REUSED`, and so is one that was left out among them.
    pub fn commit_as(&self, sequence: u64) -> Commit {
        Commit::new(Arc::clone(&self.core), Some(self.key), Some(sequence))
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // A driver that has ended has nothing of it left.
        let _ = self.core.mailbox.post(Mail::ProducerDropped(self.key));
    }
}

/// A named producer being opened; `.await` opens it.
#[derive(Debug)]
#[must_use = "a producer is opened by awaiting this"]
pub struct OpenProducer {
    core: Arc<Core>,
    name: String,
    epoch: Option<u32>,
}

impl OpenProducer {
    pub(crate) const fn new(core: Arc<Core>, name: String) -> Self {
        Self { core, name, epoch: None }
    }

    /// Opens this epoch instead of the next: for applications that number their own incarnations.
    /// The present epoch is opened once more and fences nobody; a lower one is refused with
    /// `FENCED`.
    pub const fn epoch(mut self, epoch: u32) -> Self {
        self.epoch = Some(epoch);
        self
    }

    async fn open(self) -> Result<Producer, RequestError> {
        let Self { core, name, epoch } = self;
        let name = Name::new(&name)?;
        let opened = core.open_producer(Some(name.clone()), epoch.map(ProducerEpoch)).await?;
        let key = core.next_lane();
        let last = Arc::new(AtomicU64::new(opened.last.0));
        let epoch = opened.epoch;
        let mail =
            Mail::ProducerOpened { key, name: name.clone(), opened, last: Arc::clone(&last) };
        if core.mailbox.post(mail).is_err() {
            return Err(RequestError::Closed { outcome: Outcome::Definite });
        }
        Ok(Producer { core, name, key, epoch, last })
    }
}

impl IntoFuture for OpenProducer {
    type Output = Result<Producer, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}
