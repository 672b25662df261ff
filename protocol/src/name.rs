//! Names of topics, subscriptions and producers, checked once at the edge.

use crate::limits::NAME_BYTES_MAX;
use std::fmt;
use std::sync::Arc;

/// A name: 1 to 200 of `A-Z a-z 0-9 . _ -`, not starting with a dot, not `..`. Never part of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The text is not a valid [`Name`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName {
    /// The text, cut to 64 characters and escaped.
    pub text: String,
}

impl Name {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// [`InvalidName`].
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let valid = !text.is_empty()
            && text.len() <= NAME_BYTES_MAX
            && !text.starts_with('.')
            && text.bytes().all(allowed);
        if valid {
            return Ok(Self(text.into()));
        }
        let shown: String = text.chars().take(64).flat_map(char::escape_default).collect();
        Err(InvalidName { text: shown })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid name \"{}\": 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ - and no dot in front",
            self.text
        )
    }
}

impl std::error::Error for InvalidName {}
