//! Asking a future once.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// The result of `future` if it is there at once; else the future is dropped.
pub(crate) async fn if_ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
