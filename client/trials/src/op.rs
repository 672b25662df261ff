//! One operation of the trial's business: raises the version of a key, and says so in a message.

use std::fmt;
use std::str::FromStr;

/// Topics that messages go to, by key.
pub const TOPICS: [&str; 2] = ["orders", "invoices"];
/// A topic that is not there, for messages that the broker refuses for good.
pub const NOWHERE: &str = "nowhere";
/// Keys, from zero.
pub const KEYS: u64 = 12;
/// Keys whose messages go to [`NOWHERE`], above the others.
pub const POISON_KEYS: u64 = 2;
/// The subscription that the inbox consumes.
pub const SUBSCRIPTION: &str = "billing";
/// The subscription that keeps everything in its topic for the judge; nobody reads it.
pub const WITNESS: &str = "witness";

/// What was done, as it stands in the sender's table, in the message, and in the receiver's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op {
    /// Its number; each attempt has one of its own, rolled back ones too.
    pub id: i64,
    /// The key.
    pub key: i64,
    /// The key's version after it.
    pub version: i64,
    /// Rises when the sender's database is put back to an older state, after which versions are
    /// given again.
    pub era: i64,
}

impl Op {
    /// Where its message goes.
    #[must_use]
    pub fn topic(&self) -> &'static str {
        match u64::try_from(self.key) {
            Ok(key) if key < KEYS && key.is_multiple_of(2) => TOPICS[0],
            Ok(key) if key < KEYS => TOPICS[1],
            _ => NOWHERE,
        }
    }

    /// The message's key.
    #[must_use]
    pub fn message_key(&self) -> String {
        format!("key-{}", self.key)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op {} key {} version {} era {}", self.id, self.key, self.version, self.era)
    }
}

/// A message that no operation wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAnOp(String);

impl fmt::Display for NotAnOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an operation: {:?}", self.0)
    }
}

impl std::error::Error for NotAnOp {}

impl FromStr for Op {
    type Err = NotAnOp;

    fn from_str(text: &str) -> Result<Self, NotAnOp> {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |text: &str| text.parse().map_err(|_| NotAnOp(text.to_owned()));
        match words[..] {
            ["op", id, "key", key, "version", version, "era", era] => Ok(Self {
                id: number(id)?,
                key: number(key)?,
                version: number(version)?,
                era: number(era)?,
            }),
            _ => Err(NotAnOp(text.to_owned())),
        }
    }
}

/// What an application is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The number of the operation.
    pub id: i64,
    /// Its key.
    pub key: i64,
    /// See [`Op::era`].
    pub era: i64,
    /// How the message gets into the outbox.
    pub style: Style,
    /// Whether it changes its mind.
    pub rolls_back: bool,
    /// How long the transaction stays open after its message got a row.
    pub hold: std::time::Duration,
}

/// The ways into an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `enqueue` in a transaction of one's own.
    Enqueue,
    /// A closure and a collector of messages.
    Transaction,
    /// A closure, and a message that is known before it.
    Send,
    /// SQL, as a trigger or another language would.
    Insert,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_read_back_from_its_message() {
        let op = Op { id: 7_000_001, key: 3, version: 9, era: 2 };
        assert_eq!(op.to_string().parse(), Ok(op));
        assert!("op 1 key 2 version x era 1".parse::<Op>().is_err());
        assert!("hello".parse::<Op>().is_err());
        assert_eq!(Op { key: 13, ..op }.topic(), NOWHERE);
    }
}
