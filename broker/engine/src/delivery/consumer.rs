//! One client reading a subscription.

use super::credit::Credit;
use crate::effect::DeliverRun;
use crate::input::ConnectionId;
use posthouse_protocol::{Attempt, ConsumerId, Offset};

/// Names a consumer among those of all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConsumerKey {
    /// Its connection.
    pub(crate) connection: ConnectionId,
    /// Its number there.
    pub(crate) id: ConsumerId,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Consumer {
    pub key: ConsumerKey,
    pub credit: Credit,
    /// Handed out in this round and not yet sent.
    pub outgoing: Vec<DeliverRun>,
}

impl Consumer {
    /// Without credit.
    pub(super) fn new(key: ConsumerKey) -> Self {
        Self { key, credit: Credit::default(), outgoing: Vec::new() }
    }

    /// Adds to what this round sends, as part of the last run if it continues it.
    pub(super) fn send(&mut self, first: Offset, count: u32, fence: u64, attempt: Attempt) {
        if let Some(last) = self.outgoing.last_mut()
            && last.first.plus(u64::from(last.count)) == first
            && last.fence_counter + u64::from(last.count) == fence
            && last.attempt == attempt
            && let Some(sum) = last.count.checked_add(count)
        {
            last.count = sum;
            return;
        }
        self.outgoing.push(DeliverRun { first, count, fence_counter: fence, attempt });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_that_continues_the_last_one_is_part_of_it() {
        let key = ConsumerKey { connection: ConnectionId(1), id: ConsumerId(1) };
        let mut consumer = Consumer::new(key);
        consumer.send(Offset(0), 2, 10, Attempt(0));
        consumer.send(Offset(2), 3, 12, Attempt(0));
        consumer.send(Offset(5), 1, 15, Attempt(1));
        consumer.send(Offset(6), 1, 17, Attempt(1));
        let counts: Vec<_> = consumer.outgoing.iter().map(|run| run.count).collect();
        assert_eq!(counts, [5, 1, 1]);
    }
}
