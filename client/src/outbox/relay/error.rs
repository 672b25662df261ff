//! Why a relay ended by itself.

use super::machine::End;
use crate::outbox::SCHEMA_VERSIONS;
use std::fmt;

/// Why a relay ended by itself, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayError {
    kind: RelayErrorKind,
    text: String,
}

/// Kinds of [`RelayError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayErrorKind {
    /// The outbox's tables are missing or of another version.
    NotInstalled,
    /// The database is a copy of the one that the outbox belongs to.
    DatabaseCopied,
    /// The broker has lost messages that it had acknowledged.
    BrokerRestored,
    /// Rows were changed between being claimed and being handed over.
    RowsChanged,
    /// Something else uses the outbox's producer at the broker.
    ProducerInUse,
    /// A row that the broker will never take, under [`super::OnPoison::Halt`].
    Poison,
    /// The database refuses for good.
    Database,
    /// The client was closed.
    ClientClosed,
    /// It did not end in the time that it was given, or its task was ended from outside.
    Aborted,
}

impl RelayError {
    pub(crate) fn aborted(text: impl Into<String>) -> Self {
        Self { kind: RelayErrorKind::Aborted, text: text.into() }
    }

    /// The error for an end; none if it was asked for. `said` is what the database said last.
    pub(crate) fn of(end: &End, said: Option<&str>) -> Option<Self> {
        let kind = match end {
            End::Shutdown => return None,
            End::NotInstalled { .. } => RelayErrorKind::NotInstalled,
            End::Copied => RelayErrorKind::DatabaseCopied,
            End::BrokerRestored { .. } => RelayErrorKind::BrokerRestored,
            End::RowsChanged { .. } => RelayErrorKind::RowsChanged,
            End::Reused { .. } | End::Contested | End::EpochsExhausted => {
                RelayErrorKind::ProducerInUse
            }
            End::Poison { .. } => RelayErrorKind::Poison,
            End::Database => RelayErrorKind::Database,
            End::ClientClosed => RelayErrorKind::ClientClosed,
        };
        Some(Self { kind, text: text(end, said.unwrap_or("no details")) })
    }

    /// What kind it is.
    #[must_use]
    pub const fn kind(&self) -> RelayErrorKind {
        self.kind
    }
}

fn text(end: &End, said: &str) -> String {
    match end {
        End::Shutdown => "shut down".to_owned(),
        End::NotInstalled { found: Some(found) } => format!(
            "the outbox tables have version {found}, and this program works with versions {} to \
             {}: {}",
            SCHEMA_VERSIONS.start(),
            SCHEMA_VERSIONS.end(),
            match found < SCHEMA_VERSIONS.start() {
                true => "run `install()` to bring them up to date",
                false => "a newer program made them, use one that is as new",
            }
        ),
        End::NotInstalled { found: None } => {
            format!("the outbox is not installed ({said}): run `install()`")
        }
        End::Copied => {
            "this database is a copy of the one that the outbox belongs to: if both are \
             to send, make this an outbox of its own with `adopt()`; all its rows are then sent"
                .to_owned()
        }
        End::BrokerRestored { acked, last } => format!(
            "the broker knows this outbox up to claim {last} and has acknowledged claim {acked}: \
             it was restored from an older copy, replaced, or its producer retired. What it lost \
             is not in the outbox any more; `accept_restored_broker()` goes on without it"
        ),
        End::RowsChanged { sequence } => format!(
            "rows of claim {sequence} were changed or deleted after they were claimed; the broker \
             has none of them. `accept_changed_rows()` sends what is there now"
        ),
        End::Reused { sequence } => format!(
            "the broker has another commit under the number of claim {sequence}: something else \
             publishes under this outbox's producer"
        ),
        End::Poison { row, reason } => {
            format!("row {} cannot be handed over: {reason}", row.0)
        }
        End::Contested => "something else keeps opening this outbox's producer at the broker: \
             perhaps a copy of the database with a relay of its own; give one of them a new id \
             with `adopt()`"
            .to_owned(),
        End::EpochsExhausted => {
            "the lease's epoch does not fit into 32 bits: make this an outbox with a new id"
                .to_owned()
        }
        End::Database => said.to_owned(),
        End::ClientClosed => "the client of this relay was closed".to_owned(),
    }
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("relay: ")?;
        f.write_str(&self.text)
    }
}

impl std::error::Error for RelayError {}
