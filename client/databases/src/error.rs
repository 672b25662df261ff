//! Why a server could not be installed, started or asked.

use std::fmt;

/// A sentence that says what went wrong and what the server said about it.
#[derive(Debug)]
pub struct Error(String);

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Says what was being done when the system refused.
pub(crate) fn during<T>(what: &str, result: std::io::Result<T>) -> Result<T, Error> {
    result.map_err(|error| Error::new(format!("cannot {what}: {error}")))
}
