//! Version 2: the lock of a key, and a procedure that takes a message's id on MariaDB and MySQL.

use super::super::{Dialect, Sql};

impl Sql {
    pub(super) fn second_version(&self) -> Vec<String> {
        let prefix = &self.prefix;
        match self.dialect {
            Dialect::Postgres => vec![format!(
                "CREATE OR REPLACE FUNCTION {prefix}order_key(message_key bytea) RETURNS void \
                 LANGUAGE sql AS $body$ SELECT {} $body$",
                self.advisory_lock("encode($1, 'hex')")
            )],
            Dialect::Mysql => self.second_of_mysql(),
            // Whoever writes there is alone.
            Dialect::Sqlite => Vec::new(),
        }
    }

    fn second_of_mysql(&self) -> Vec<String> {
        let prefix = &self.prefix;
        let text = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
        vec![
            format!(
                "CREATE TABLE IF NOT EXISTS {prefix}outbox_order (slot INT PRIMARY KEY) \
                 ENGINE = InnoDB"
            ),
            format!(
                "CREATE PROCEDURE IF NOT EXISTS {prefix}order_key(message_key LONGBLOB) {}",
                self.slot_lock("message_key")
            ),
            format!(
                "CREATE PROCEDURE IF NOT EXISTS {prefix}enqueue_as(message_id BINARY(16), \
                 topic VARCHAR(200) {text}, body LONGBLOB, message_key LONGBLOB, \
                 headers LONGTEXT {text}, due_at BIGINT) \
                 INSERT INTO {prefix}outbox (message_id, topic, body, message_key, headers, due_at) \
                 VALUES (message_id, topic, body, message_key, COALESCE(headers, ''), \
                 COALESCE(due_at, 0))"
            ),
        ]
    }
}
