//! Reading a topic in batches into a database that keeps the cursor.

use crate::error::{ReadError, RequestError};
use crate::reader::Reader;
use crate::record::Record;
use posthouse_protocol::{ErrorCode, Offset};
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::sleep;

/// Records in one transaction at most.
const RECORDS_MAX: usize = 1000;
/// Bytes of bodies after which a batch is full.
const BYTES_MAX: usize = 1 << 20;
/// The wait before a broker that cannot be reached is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Records that are handled together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The records, one at least.
    pub records: Vec<Record>,
    /// Where it goes on behind them.
    pub next: Offset,
}

/// What is there, one record at least; `None` at the end.
///
/// A broker that cannot be reached is waited for; damaged records are logged and passed over.
///
/// # Cancellation
///
/// Dropped, records that were read are passed over: seek before the next call.
///
/// # Errors
///
/// [`ReadError`] that waiting does not help with. What was read before it is not handled: of a broker
/// that ends too near, it may be lost. Seek before the next call.
pub async fn next_batch(reader: &mut Reader) -> Result<Option<Batch>, ReadError> {
    let mut records: Vec<Record> = Vec::new();
    let mut bytes = 0;
    while records.len() < RECORDS_MAX && bytes < BYTES_MAX {
        let found = if records.is_empty() {
            reader.next().await
        } else {
            match if_ready(reader.next()).await {
                Some(found) => found,
                None => break,
            }
        };
        match found {
            Ok(Some(record)) => {
                bytes += record.body().len();
                records.push(record);
            }
            Ok(None) => break,
            Err(error) => pass_over(error).await?,
        }
    }
    let next = records.last().map(|record| record.offset().next());
    Ok(next.map(|next| Batch { records, next }))
}

/// Waits where waiting helps, and gives up where it does not.
async fn pass_over(error: ReadError) -> Result<(), ReadError> {
    let Some(pause) = pause_after(&error) else { return Err(error) };
    tracing::warn!(%error, "reading goes on");
    sleep(pause).await;
    Ok(())
}

/// How long to wait before going on; `None` if that does not help.
fn pause_after(error: &ReadError) -> Option<Duration> {
    match error {
        ReadError::Damaged { .. } | ReadError::Unreadable { .. } => Some(Duration::ZERO),
        ReadError::BeyondEnd { .. } | ReadError::NoSubscription => None,
        ReadError::Request(error) => match error {
            RequestError::TimedOut { .. }
            | RequestError::ConnectionLost
            | RequestError::Protocol(_) => Some(PAUSE),
            RequestError::Refused(refusal) => {
                let is_retriable = refusal.code().is_some_and(ErrorCode::is_retriable);
                is_retriable.then(|| refusal.retry_after().unwrap_or(PAUSE))
            }
            RequestError::Name(_) | RequestError::Closed { .. } => None,
        },
    }
}

/// Saves the broker's cursor, for the sake of retention; false if this reader has none.
pub async fn save_at_broker(reader: &Reader, next: Offset) -> bool {
    match reader.save(next).await {
        Ok(()) => true,
        Err(ReadError::NoSubscription) => false,
        Err(error) => {
            tracing::warn!(%error, "the broker's cursor is not saved; the next batch saves it");
            true
        }
    }
}

/// The result of a future that is there at once; else the future is dropped.
async fn if_ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
