//! Why a configuration is refused.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A configuration that is refused. Nothing has been started or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or a value in it has the wrong type or form.
    File {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// No such option.
    Unknown {
        /// File and line, variable or flag.
        place: String,
        /// The name found.
        key: String,
        /// The option most like it.
        nearest: &'static str,
    },
    /// A variable's or flag's value has the wrong form.
    Value {
        /// Variable or flag.
        place: String,
        /// Why.
        why: String,
    },
    /// A value is out of range, or does not go with the others.
    Wrong {
        /// The option.
        key: &'static str,
        /// Why.
        why: String,
    },
    /// A host name in `listen` means nothing.
    Unresolved {
        /// The address as written.
        listen: String,
        /// The system's reason.
        source: Option<std::io::Error>,
    },
    /// An address that other machines can reach, without `insecure`.
    Exposed {
        /// The address as written.
        listen: String,
        /// What it means.
        address: SocketAddr,
    },
}

impl ConfigError {
    pub(super) fn wrong(key: &'static str, why: &str) -> Self {
        Self::Wrong { key, why: why.to_owned() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(f, "cannot read {}: {source}", path.display())
            }
            Self::File { path, line, why } => write!(f, "{}:{line}: {why}", path.display()),
            Self::Unknown { place, key, nearest } => {
                write!(f, "{place}: unknown option \"{key}\"; did you mean \"{nearest}\"?")
            }
            Self::Value { place, why } => write!(f, "{place}: {why}"),
            Self::Wrong { key, why } => write!(f, "{key}: {why}"),
            Self::Unresolved { listen, source: Some(source) } => {
                write!(f, "listen: \"{listen}\" does not resolve: {source}")
            }
            Self::Unresolved { listen, source: None } => {
                write!(f, "listen: \"{listen}\" does not resolve to any address")
            }
            Self::Exposed { listen, address } => write!(
                f,
                "refusing to listen on {listen}: other machines can reach {}, and there is no TLS \
                 and no authentication yet; listen on 127.0.0.1 or unix:PATH, or say --insecure \
                 (POSTHOUSE_INSECURE=true, insecure = true) to let everybody in",
                address.ip(),
            ),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } | Self::Unresolved { source: Some(source), .. } => {
                Some(source)
            }
            Self::Unresolved { source: None, .. }
            | Self::File { .. }
            | Self::Unknown { .. }
            | Self::Value { .. }
            | Self::Wrong { .. }
            | Self::Exposed { .. } => None,
        }
    }
}
