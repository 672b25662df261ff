//! Error codes: stable numbers that say whether the outcome is definite and whether to try again.

use std::fmt;

/// Whether a refused request can still take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This try of it did nothing and never will; see [`ErrorCode::covers_earlier_tries`] for others.
    Definite,
    /// It may have happened; ask again with the same id.
    Unknown,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $outcome:ident, retriable: $retriable:literal;)*) => {
        /// Why a request was refused. Numbers are stable; a retired number stays listed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// The code with this number, if it is known to this version.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The name in upper case, as documents and logs show it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether a request refused with this code can still take effect.
            #[must_use]
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$name => Outcome::$outcome,)* }
            }

            /// Whether the same request may succeed later without anything being changed.
            #[must_use]
            pub const fn is_retriable(self) -> bool {
                match self { $(Self::$name => $retriable,)* }
            }
        }
    };
}

codes! {
    /// The frame or a field of it cannot be decoded; the connection is closed.
    Malformed = 1, "MALFORMED", Definite, retriable: false;
    /// No protocol version in common.
    UnsupportedVersion = 2, "UNSUPPORTED_VERSION", Definite, retriable: false;
    /// The frame is not allowed in this state of the connection; the connection is closed.
    OutOfState = 3, "OUT_OF_STATE", Definite, retriable: false;
    /// Asked for something that this broker does not do (yet).
    Unsupported = 4, "UNSUPPORTED", Definite, retriable: false;
    /// A limit is exceeded; the text names it.
    TooLarge = 5, "TOO_LARGE", Definite, retriable: false;
    /// No such topic, subscription or producer; the text says which command creates it.
    NotFound = 6, "NOT_FOUND", Definite, retriable: false;
    /// The name is taken, with other settings.
    AlreadyExists = 7, "ALREADY_EXISTS", Definite, retriable: false;
    /// A field's value is not allowed; the text says what is.
    Invalid = 8, "INVALID", Definite, retriable: false;
    /// A message's checksum does not match its bytes: damaged on the way.
    Corrupt = 9, "CORRUPT", Definite, retriable: true;
    /// The topic or the broker has no room; messages in it must be consumed or its limit raised.
    StorageFull = 10, "STORAGE_FULL", Definite, retriable: true;
    /// Too much at once; try again after the time given.
    Overloaded = 11, "OVERLOADED", Definite, retriable: true;
    /// The broker is stopping; connect again.
    ShuttingDown = 12, "SHUTTING_DOWN", Definite, retriable: true;
    /// The producer is not known (any more): its results are forgotten.
    UnknownProducer = 13, "UNKNOWN_PRODUCER", Unknown, retriable: false;
    /// A newer epoch of this producer has been opened.
    Fenced = 14, "FENCED", Definite, retriable: false;
    /// `prev` is not the last accepted sequence: an earlier publish of this producer was refused.
    OutOfSequence = 15, "OUT_OF_SEQUENCE", Definite, retriable: true;
    /// The sequence was used before with other content.
    SequenceReused = 16, "SEQUENCE_REUSED", Definite, retriable: false;
    /// The message has been handed out again since, or is settled: this delivery no longer counts.
    StaleFence = 17, "STALE_FENCE", Definite, retriable: false;
    /// The lease has ended; the message may be with another consumer.
    LeaseEnded = 18, "LEASE_ENDED", Definite, retriable: false;
    /// What is stored cannot be read; the text names the file. Damaged messages are no error of a fetch:
    /// [`Fetched`](crate::message::Fetched) names them.
    Damaged = 19, "DAMAGED", Definite, retriable: false;
    /// Another broker leads this shard; the frame carries its address. Not sent by a single node.
    NotLeader = 20, "NOT_LEADER", Definite, retriable: true;
    /// The broker could not find out what became of the request.
    OutcomeUnknown = 21, "OUTCOME_UNKNOWN", Unknown, retriable: true;
    /// The credentials do not allow this.
    Forbidden = 22, "FORBIDDEN", Definite, retriable: false;
}

impl ErrorCode {
    /// Whether this refusal of a publish or commit also says that no earlier try of the same one was
    /// accepted.
    ///
    /// The broker finds repeats of what it accepted before it checks what these codes stand for.
    /// The other codes speak of one try only: whoever gets one for a publish of which an earlier try
    /// stayed without an answer still does not know its outcome.
    #[must_use]
    pub const fn covers_earlier_tries(self) -> bool {
        match self {
            Self::Unsupported
            | Self::TooLarge
            | Self::NotFound
            | Self::Invalid
            | Self::StorageFull
            | Self::OutOfSequence
            | Self::SequenceReused
            | Self::StaleFence => true,
            Self::Malformed
            | Self::UnsupportedVersion
            | Self::OutOfState
            | Self::AlreadyExists
            | Self::Corrupt
            | Self::Overloaded
            | Self::ShuttingDown
            | Self::UnknownProducer
            | Self::Fenced
            | Self::LeaseEnded
            | Self::Damaged
            | Self::NotLeader
            | Self::OutcomeUnknown
            | Self::Forbidden => false,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
