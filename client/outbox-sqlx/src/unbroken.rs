//! Work that goes on although whoever waits for it is dropped.
//!
//! A `BEGIN` or `COMMIT` of sqlx that is dropped halfway can leave its pooled connection in a
//! transaction that nobody ends.

use crate::error::Error;

/// Does the work in a task of its own.
pub(crate) async fn unbroken<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Error> {
    #[expect(clippy::disallowed_methods, reason = "it ends by itself, with the database's answer")]
    let task = tokio::spawn(work);
    match task.await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(Error::Interrupted),
        },
    }
}
