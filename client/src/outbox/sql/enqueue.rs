//! What an application enqueues, as a statement to bind values to or as one that holds them.

use super::{Dialect, ROW_COLUMNS, Sql, base16};
use crate::outbox::NewRow;

impl Sql {
    /// Inserts `rows` rows. To be bound for each: message id (16 bytes), topic, key (or null),
    /// headers, body, due at, created at.
    #[must_use]
    pub fn enqueue(&self, rows: usize) -> String {
        let row = |number: usize| {
            let slot = |column: usize| match self.dialect {
                Dialect::Postgres => format!("${}", number * 7 + column),
                Dialect::Mysql | Dialect::Sqlite => "?".to_owned(),
            };
            let id = match self.dialect {
                Dialect::Postgres => format!("encode({}, 'hex')::uuid", slot(1)),
                Dialect::Mysql | Dialect::Sqlite => slot(1),
            };
            let rest: Vec<_> = (2..=7).map(slot).collect();
            format!("({id}, {})", rest.join(", "))
        };
        self.insert_into_outbox((0..rows).map(row))
    }

    /// Inserts these rows, with everything in the text: one round trip without a prepared statement,
    /// at the price of a text twice as long as the bodies.
    #[must_use]
    pub fn enqueue_literally(&self, rows: &[NewRow]) -> String {
        let row = |row: &NewRow| {
            format!(
                "({}, {}, {}, {}, {}, {}, {})",
                self.id(row.message_id.0),
                self.text(&row.topic),
                row.key.as_ref().map_or_else(|| "NULL".to_owned(), |key| self.bytes(key)),
                self.text(&row.headers),
                self.bytes(&row.body),
                row.due_at.0.cast_signed(),
                row.created_at.0.cast_signed()
            )
        };
        self.insert_into_outbox(rows.iter().map(row))
    }

    fn insert_into_outbox(&self, rows: impl Iterator<Item = String>) -> String {
        let [_, columns @ ..] = ROW_COLUMNS;
        let rows: Vec<_> = rows.collect();
        let (table, columns, rows) = (self.table("outbox"), columns.join(", "), rows.join(", "));
        format!("INSERT INTO {table} ({columns}) VALUES {rows}")
    }

    /// A literal of type bytes.
    fn bytes(&self, bytes: &[u8]) -> String {
        let hex = base16(bytes);
        match self.dialect {
            // The backslash is doubled in this kind of literal whatever the session's settings are.
            Dialect::Postgres => format!("E'\\\\x{hex}'"),
            Dialect::Mysql | Dialect::Sqlite => format!("X'{hex}'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;
    use posthouse_protocol::{MessageId, Timestamp};

    #[test]
    fn row_stands_in_the_text_so_that_nothing_in_it_ends_a_literal() {
        let message = Message::new("'\\").key("\"'").header("a'", "\\").due_at(Timestamp(7));
        let mut row = NewRow::new(message.to("orders")).unwrap();
        (row.message_id, row.created_at) = (MessageId([0xab; 16]), Timestamp(9));
        let id = "ab".repeat(16);
        let headers = "5b5b226127222c225c5c225d5d";

        assert_eq!(
            Sql::standard(Dialect::Postgres).enqueue_literally(std::slice::from_ref(&row)),
            format!(
                "INSERT INTO posthouse_outbox (message_id, topic, message_key, headers, body, \
                 due_at, created_at) VALUES ('{id}'::uuid, 'orders', E'\\\\x2227', \
                 convert_from(decode('{headers}', 'hex'), 'UTF8'), E'\\\\x275c', 7, 9)"
            )
        );
        row.key = None;
        let twice = Sql::standard(Dialect::Sqlite).enqueue_literally(&[row.clone(), row]);
        let values =
            format!("(X'{id}', 'orders', NULL, CAST(X'{headers}' AS TEXT), X'275c', 7, 9)");
        assert!(twice.ends_with(&format!("VALUES {values}, {values}")), "{twice}");
    }
}
