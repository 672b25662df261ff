//! What an inbox asks.

use super::Dialect;
use super::Sql;
use crate::clock::millis;
use posthouse_protocol::{Fence, MessageId, Offset, Timestamp};
use std::fmt;
use std::time::Duration;

/// Sender's clocks may be wrong by this much.
const CLOCKS_DIFFER: Duration = Duration::from_secs(24 * 3600);

/// A delivery as the inbox sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The inbox' name for its consumers.
    pub consumer: String,
    /// Topic and subscription.
    pub source: String,
    /// The message.
    pub message_id: MessageId,
    /// Where it is in the source.
    pub place: Offset,
    /// Which hand-out it is.
    pub fence: Fence,
    /// When the message was made.
    pub created_at: Timestamp,
}

/// Everything below `place` was settled when `fence` was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The floor.
    pub place: Offset,
    /// The hand-out that told it.
    pub fence: Fence,
}

impl Sql {
    /// The first statement of a handler's transaction: changes one row if the message is new here
    /// and the delivery is not one that the inbox has forgotten on purpose.
    ///
    /// It waits for another transaction that is about to do the same; on PostgreSQL for five seconds
    /// at most, by itself.
    #[must_use]
    pub fn inbox_insert(&self, arrival: &Arrival) -> String {
        let Arrival { consumer, source, message_id, place, fence, created_at } = arrival;
        let created = created_at.0.saturating_sub(millis(CLOCKS_DIFFER)).min(i64::MAX as u64);
        let values = [
            self.text(consumer),
            self.id(message_id.0),
            self.text(source),
            place.0.to_string(),
            fence.epoch.0.to_string(),
            fence.counter.to_string(),
            created.to_string(),
        ];
        match self.dialect {
            Dialect::Postgres => {
                format!("SELECT 1 WHERE {}({})", self.table("inbox_admit"), values.join(", "))
            }
            Dialect::Mysql | Dialect::Sqlite => self.inbox_insert_of(&values),
        }
    }

    /// The insert that [`Self::inbox_insert`] comes to: consumer, message id, source, place, fence
    /// epoch, fence counter, and when the message was made at the earliest.
    pub(super) fn inbox_insert_of(&self, values: &[impl fmt::Display; 7]) -> String {
        let [consumer, message_id, source, place, epoch, counter, created] = values;
        let [insert, ignore] = match self.dialect {
            Dialect::Mysql => ["INSERT IGNORE", ""],
            Dialect::Postgres | Dialect::Sqlite => ["INSERT", " ON CONFLICT DO NOTHING"],
        };
        let dual = match self.dialect {
            Dialect::Mysql => " FROM DUAL",
            Dialect::Postgres | Dialect::Sqlite => "",
        };
        format!(
            "{insert} INTO {} (consumer, message_id, source, place, fence_epoch, fence_counter, \
             received_at) SELECT {consumer}, {message_id}, {source}, {place}, {epoch}, {counter}, \
             {}{dual} \
             WHERE NOT EXISTS (SELECT 1 FROM {} f WHERE f.consumer = {consumer} \
             AND f.source = {source} AND f.floor_place > {place} AND f.older_than > {created} \
             AND (f.fence_epoch > {epoch} OR (f.fence_epoch = {epoch} \
             AND f.fence_counter > {counter}))){ignore}",
            self.table("inbox"),
            self.now(),
            self.table("inbox_floor"),
        )
    }

    /// Gives source, place, fence epoch and fence counter of the row that was in the way of
    /// [`Self::inbox_insert`]; none if the floor was.
    #[must_use]
    pub fn inbox_row(&self, consumer: &str, message: MessageId) -> String {
        format!(
            "SELECT source, place, fence_epoch, fence_counter FROM {} WHERE consumer = {} \
             AND message_id = {}",
            self.table("inbox"),
            self.text(consumer),
            self.id(message.0)
        )
    }

    /// Gives the floor that is kept: place, until when its rows were received, and its age in
    /// milliseconds.
    #[must_use]
    pub fn inbox_floor(&self, consumer: &str, source: &str) -> String {
        format!(
            "SELECT floor_place, older_than, {} FROM {} WHERE {}",
            self.integer(&format!("{} - raised_at", self.now())),
            self.table("inbox_floor"),
            self.of(consumer, source)
        )
    }

    /// Deletes at most `limit` rows that the kept floor stands for.
    #[must_use]
    pub fn inbox_forget(&self, consumer: &str, source: &str, limit: u32) -> String {
        let (inbox, floor) = (self.table("inbox"), self.table("inbox_floor"));
        let of = self.of(consumer, source);
        let kept = |column: &str| format!("(SELECT f.{column} FROM {floor} f WHERE {of})");
        let old = format!(
            "{of} AND place < {} AND received_at < {}",
            kept("floor_place"),
            kept("older_than")
        );
        match self.dialect {
            Dialect::Mysql => format!("DELETE FROM {inbox} WHERE {old} LIMIT {limit}"),
            Dialect::Postgres | Dialect::Sqlite => format!(
                "DELETE FROM {inbox} WHERE (consumer, message_id) IN (SELECT consumer, message_id \
                 FROM {inbox} WHERE {old} LIMIT {limit})"
            ),
        }
    }

    /// Keeps a floor, for rows received longer than `window` ago. First the change of one that is
    /// there, unless somebody has changed it within `pause`; then the insert of one that is not.
    #[must_use]
    pub fn inbox_raise(
        &self,
        consumer: &str,
        source: &str,
        floor: Floor,
        [window, pause]: [Duration; 2],
    ) -> [String; 2] {
        let (table, now) = (self.table("inbox_floor"), self.now());
        let Floor { place, fence } = floor;
        let (epoch, counter) = (fence.epoch.0, fence.counter);
        let older_than = format!("{now} - {}", millis(window));
        let [insert, ignore] = match self.dialect {
            Dialect::Mysql => ["INSERT IGNORE", ""],
            Dialect::Postgres | Dialect::Sqlite => ["INSERT", " ON CONFLICT DO NOTHING"],
        };
        [
            format!(
                "UPDATE {table} SET floor_place = {}, fence_epoch = {epoch}, \
                 fence_counter = {counter}, older_than = {older_than}, raised_at = {now} \
                 WHERE {} AND raised_at <= {now} - {} AND (fence_epoch < {epoch} \
                 OR (fence_epoch = {epoch} AND fence_counter <= {counter}))",
                place.0,
                self.of(consumer, source),
                millis(pause)
            ),
            format!(
                "{insert} INTO {table} (consumer, source, floor_place, fence_epoch, fence_counter, \
                 older_than, raised_at) VALUES ({}, {}, {}, {epoch}, {counter}, {older_than}, \
                 {now}){ignore}",
                self.text(consumer),
                self.text(source),
                place.0
            ),
        ]
    }

    /// Gives the place at which a stream goes on.
    #[must_use]
    pub fn cursor(&self, consumer: &str, source: &str) -> String {
        let table = self.table("stream_cursor");
        format!("SELECT next_place FROM {table} WHERE {}", self.of(consumer, source))
    }

    /// The first statement of a stream handler's transaction: changes one row if the stream stands
    /// at `from`, or was never read if there is none.
    #[must_use]
    pub fn cursor_advance(
        &self,
        consumer: &str,
        source: &str,
        from: Option<Offset>,
        to: Offset,
    ) -> String {
        let (table, now) = (self.table("stream_cursor"), self.now());
        if let Some(from) = from {
            return format!(
                "UPDATE {table} SET next_place = {}, saved_at = {now} WHERE {} AND next_place = {}",
                to.0,
                self.of(consumer, source),
                from.0
            );
        }
        let [insert, ignore] = match self.dialect {
            Dialect::Mysql => ["INSERT IGNORE", ""],
            Dialect::Postgres | Dialect::Sqlite => ["INSERT", " ON CONFLICT DO NOTHING"],
        };
        format!(
            "{insert} INTO {table} (consumer, source, next_place, saved_at) \
             VALUES ({}, {}, {}, {now}){ignore}",
            self.text(consumer),
            self.text(source),
            to.0
        )
    }

    /// The rows of one consumer and source.
    fn of(&self, consumer: &str, source: &str) -> String {
        format!("consumer = {} AND source = {}", self.text(consumer), self.text(source))
    }
}
