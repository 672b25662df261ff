//! Producers: opening, looking at and retiring them.

use crate::name::Name;
use crate::{ProducerEpoch, ProducerId, Sequence, Timestamp, wire_struct};

wire_struct! {
    /// Opens a producer: a new unnamed one, or an epoch of a named one, which fences all lower ones.
    pub struct ProducerOpen {
        /// The name; `None` for an unnamed one.
        pub name: Option<Name>,
        /// The epoch; `None` for the next one. The present one opens it once more and fences nobody;
        /// a lower one is refused with `FENCED`. Only for a named producer.
        pub epoch: Option<ProducerEpoch>,
    }

    /// The answer to [`ProducerOpen`].
    pub struct ProducerOpened {
        /// The producer.
        pub producer: ProducerId,
        /// Its epoch.
        pub epoch: ProducerEpoch,
        /// The last sequence accepted from it.
        pub last: Sequence,
    }

    /// Asks for a named producer, and changes nothing.
    pub struct ProducerDescribe {
        /// Its name.
        pub name: Name,
    }

    /// The answer to [`ProducerDescribe`].
    pub struct ProducerInfo {
        /// The producer.
        pub producer: ProducerId,
        /// Its name.
        pub name: Option<Name>,
        /// Its epoch.
        pub epoch: ProducerEpoch,
        /// The last sequence accepted from it.
        pub last: Sequence,
        /// When that was, or when it was opened last, whichever is later.
        pub last_at: Timestamp,
    }

    /// Asks for named producers in the order of their names.
    pub struct ProducerList {
        /// Start after this name.
        pub after: Option<Name>,
        /// At most so many.
        pub limit: u32,
    }

    /// The answer to [`ProducerList`].
    pub struct ProducerInfos {
        /// Producers in the order of their names.
        pub producers: Vec<ProducerInfo>,
    }

    /// Forgets a named producer and its results. What it sends afterwards gets `UNKNOWN_PRODUCER`.
    pub struct ProducerRetire {
        /// Its name.
        pub name: Name,
    }
}
