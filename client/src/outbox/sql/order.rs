//! The lock of a key: whoever takes it waits until the transaction that has it has ended.

use super::{Dialect, Sql, base16};

/// Locks of an outbox on MariaDB and MySQL. Each is a row that stays; two keys that share one wait
/// for each other, as they would for one key.
const SLOTS: u32 = 1 << 16;

impl Sql {
    /// Takes the lock of this key for the transaction at hand; `None` where whoever writes is alone.
    #[must_use]
    pub fn order_key(&self, key: &[u8]) -> Option<String> {
        let hex = base16(key);
        match self.dialect {
            Dialect::Postgres => {
                Some(format!("SELECT {}", self.advisory_lock(&format!("'{hex}'"))))
            }
            Dialect::Mysql => Some(self.slot_lock(&format!("X'{hex}'"))),
            Dialect::Sqlite => None,
        }
    }

    /// `key` is an expression of type text.
    pub(super) fn advisory_lock(&self, key: &str) -> String {
        format!("pg_advisory_xact_lock(hashtextextended('{}' || {key}, 0))", self.prefix)
    }

    /// `key` is an expression of type bytes. An insert that meets its own row locks that.
    pub(super) fn slot_lock(&self, key: &str) -> String {
        format!(
            "INSERT INTO {} (slot) VALUES (CRC32({key}) % {SLOTS}) \
             ON DUPLICATE KEY UPDATE slot = slot",
            self.table("outbox_order")
        )
    }
}
