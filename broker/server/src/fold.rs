//! The engine's state as the storage folds it: the one function behind recovery, checkpoint and
//! live running.

use posthouse_engine::{State, event};
use posthouse_protocol::{LogIndex, Offset, PartitionId, StartEpoch, Timestamp};
use posthouse_storage::Fold;
use std::fmt;
use std::ops::Range;

/// The state, as the storage sees it.
#[derive(Clone, Debug, Default)]
pub struct Folded(pub State);

/// The journal holds what the engine does not understand.
#[derive(Debug)]
pub struct FoldError {
    text: String,
}

impl fmt::Display for FoldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for FoldError {}

impl Fold for Folded {
    type Error = FoldError;

    fn empty() -> Self {
        Self::default()
    }

    fn apply(
        &mut self,
        index: LogIndex,
        _term: StartEpoch,
        time: Timestamp,
        events: &[u8],
    ) -> Result<(), FoldError> {
        let failed = |text: String| FoldError { text: format!("frame {index}: {text}") };
        for event in event::decode_all(events).map_err(|error| failed(error.to_string()))? {
            self.0.apply(index, time, &event).map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    fn lost(&mut self, first: LogIndex, last: LogIndex) {
        self.0.lost(first, last);
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(bytes: &[u8]) -> Result<Self, FoldError> {
        State::decode(bytes).map(Self).map_err(|error| FoldError { text: error.to_string() })
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.0.partitions().collect()
    }

    fn needed(&self, partition: PartitionId, within: Range<Offset>) -> Vec<Range<Offset>> {
        self.0.needed_in(partition, within)
    }
}
