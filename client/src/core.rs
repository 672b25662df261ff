//! What all handles of one client share. When the last one is gone, the driver is told.

use crate::call::{Answer, Call, Repeat, expect_reply};
use crate::error::RequestError;
use crate::limits::BrokerLimits;
use crate::lock::lock;
use crate::mailbox::{CloseReport, Mail, Mailbox};
use crate::options::Options;
use crate::{commit, publisher};
use bytes::Bytes;
#[cfg(feature = "outbox")]
use posthouse_protocol::message::{Commit, ProducerDescribe, ProducerInfo};
use posthouse_protocol::message::{ProducerOpen, ProducerOpened};
use posthouse_protocol::{ConsumerId, Name, Outcome, ProducerEpoch, Request};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Most calls waiting for an answer at a time.
const CALLS_MAX: usize = 1024;

/// Shared by the client and all handles made from it.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) options: Options,
    pub(crate) limits: Arc<BrokerLimits>,
    calls: Semaphore,
    /// Bytes of commits that may wait or be in flight; a permit each.
    pub(crate) commit_room: Arc<Semaphore>,
    publishers_made: AtomicU64,
    lanes_made: AtomicU64,
    consumers_made: AtomicU32,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl Core {
    /// Bytes of commits that may wait or be in flight.
    pub(crate) const COMMIT_BYTES: usize = 16 << 20;

    pub(crate) fn new(
        mailbox: Arc<Mailbox>,
        options: Options,
        limits: Arc<BrokerLimits>,
        driver: JoinHandle<()>,
    ) -> Self {
        Self {
            mailbox,
            options,
            limits,
            calls: Semaphore::new(CALLS_MAX),
            commit_room: Arc::new(Semaphore::new(Self::COMMIT_BYTES)),
            publishers_made: AtomicU64::new(0),
            lanes_made: AtomicU64::new(0),
            consumers_made: AtomicU32::new(0),
            driver: Mutex::new(Some(driver)),
        }
    }

    pub(crate) fn next_publisher(&self) -> publisher::Key {
        publisher::Key(self.publishers_made.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn next_lane(&self) -> commit::Key {
        commit::Key::Named(self.lanes_made.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn next_consumer(&self) -> ConsumerId {
        ConsumerId(self.consumers_made.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks the broker and waits for its answer.
    pub(crate) async fn call(
        &self,
        request: impl Into<Request>,
        repeat: Repeat,
    ) -> Result<Answer, RequestError> {
        // Never closed, so acquiring cannot fail.
        let _counted = self.calls.acquire().await;
        let answer = self.start_call(request, repeat, self.options.operation_timeout);
        answer.await.unwrap_or(Err(RequestError::Closed { outcome: Outcome::Unknown }))
    }

    /// Asks the broker; the caller bounds how many such calls it makes.
    pub(crate) fn start_call(
        &self,
        request: impl Into<Request>,
        repeat: Repeat,
        timeout: Duration,
    ) -> oneshot::Receiver<Result<Answer, RequestError>> {
        let (answer, receiver) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        self.post_call(Call {
            request: request.into(),
            tail: Bytes::new(),
            repeat,
            deadline,
            answer,
        });
        receiver
    }

    fn post_call(&self, call: Call) {
        if let Err(Mail::Call(call)) = self.mailbox.post(Mail::Call(Box::new(call))) {
            let closed = RequestError::Closed { outcome: Outcome::Definite };
            let _ = call.answer.send(Err(closed));
        }
    }

    /// Opens a producer: a new unnamed one, or an epoch of a named one (`None` for the next).
    pub(crate) async fn open_producer(
        &self,
        name: Option<Name>,
        epoch: Option<ProducerEpoch>,
    ) -> Result<ProducerOpened, RequestError> {
        let open = ProducerOpen { name, epoch };
        expect_reply!(self.call(open, Repeat::Safe).await?, ProducerOpened)
    }

    /// Where a named producer stands; changes nothing.
    #[cfg(feature = "outbox")]
    pub(crate) async fn describe_producer(&self, name: Name) -> Result<ProducerInfo, RequestError> {
        let describe = ProducerDescribe { name };
        expect_reply!(self.call(describe, Repeat::Safe).await?, ProducerInfo)
    }

    /// Sends a commit until it is answered; the caller bounds how many such calls it makes.
    #[cfg(feature = "outbox")]
    pub(crate) fn start_commit(
        &self,
        commit: Commit,
        tail: Bytes,
        timeout: Duration,
    ) -> oneshot::Receiver<Result<Answer, RequestError>> {
        let (answer, receiver) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        let request = Request::Commit(commit);
        self.post_call(Call { request, tail, repeat: Repeat::Safe, deadline, answer });
        receiver
    }

    pub(crate) async fn close(&self, within: Duration) -> CloseReport {
        let (report, receiver) = oneshot::channel();
        let deadline = Instant::now() + within;
        // A driver that has ended already has left nothing behind that this call could report.
        let _ = self.mailbox.post(Mail::Close { deadline, report });
        let report = receiver.await.unwrap_or_default();
        let driver = lock(&self.driver).take();
        if let Some(driver) = driver {
            // It ends right after its report; an error here is a panic that the runtime has shown.
            let _ = driver.await;
        }
        report
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let _ = self.mailbox.post(Mail::Abandoned);
    }
}
