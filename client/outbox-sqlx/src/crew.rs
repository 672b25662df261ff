//! Several handlers at work in one task.
//!
//! A handler is an async closure over a transaction; that what it returns can be sent to another
//! thread is known where the closure is written, and cannot be asked for here. So the handlers of one
//! `run` take turns in the task that awaits it.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;
use tokio::sync::watch;

/// Works until all workers have ended, and tells them to once `shutdown` is done or one has failed.
/// Gives the first error.
pub(crate) async fn work<W, E>(
    mut workers: Vec<Pin<Box<W>>>,
    stop: watch::Sender<bool>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), E>
where
    W: Future<Output = Result<(), E>>,
{
    let mut shutdown = pin!(shutdown);
    let mut ended = Ok(());
    poll_fn(|cx| {
        if !*stop.borrow() && shutdown.as_mut().poll(cx).is_ready() {
            stop.send_replace(true);
        }
        let mut index = 0;
        while let Some(worker) = workers.get_mut(index) {
            match worker.as_mut().poll(cx) {
                Poll::Pending => index += 1,
                Poll::Ready(done) => {
                    drop(workers.swap_remove(index));
                    if done.is_err() {
                        stop.send_replace(true);
                    }
                    if ended.is_ok() {
                        ended = done;
                    }
                }
            }
        }
        if workers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    ended
}

/// The panic of a future that panicked.
pub(crate) async fn caught<T>(future: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    // Nothing of the future is looked at after a panic, and its transaction is rolled back.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
