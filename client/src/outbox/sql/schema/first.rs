//! Version 1: the tables of outbox and inbox.

use super::super::{Dialect, Sql};

impl Sql {
    pub(super) fn first_version(&self) -> Vec<String> {
        match self.dialect {
            Dialect::Postgres => self.postgres(),
            Dialect::Mysql => self.mysql(),
            Dialect::Sqlite => self.sqlite(),
        }
    }

    /// The tables, without their options.
    fn tables(&self) -> [(&'static str, String); 7] {
        let types = Types::of(self.dialect);
        let [row, parked] = [
            (types.numbered.to_owned(), types.checked_id),
            (format!("{} PRIMARY KEY", types.integer), types.id),
        ]
        .map(|(number, id)| {
            let Types { integer, text, name, bytes, fresh_id, .. } = types;
            format!(
                "id {number}, message_id {id} NOT NULL DEFAULT {fresh_id}, \
                     topic {name} NOT NULL, message_key {bytes}, \
                     headers {text} NOT NULL DEFAULT (''), body {bytes} NOT NULL, \
                     due_at {integer} NOT NULL DEFAULT 0, \
                     created_at {integer} NOT NULL DEFAULT ({})",
                self.now()
            )
        });
        let Types { integer, text, id, .. } = types;
        let parked = format!("{parked}, reason {text} NOT NULL, parked_at {integer} NOT NULL");
        let state = format!(
            "one {integer} PRIMARY KEY CHECK (one = 1), outbox_id {id} NOT NULL, \
             schema_version {integer} NOT NULL, belongs_to {text} NOT NULL, owner {text}, \
             epoch {integer} NOT NULL, lease_until {integer} NOT NULL, \
             claimed {integer} NOT NULL, acked {integer} NOT NULL"
        );
        let claim = format!(
            "sequence {integer} PRIMARY KEY, row_ids {text} NOT NULL, \
             digest {integer} NOT NULL, claimed_at {integer} NOT NULL"
        );
        let [inbox, floor, cursor] = inbox_tables(types);
        [
            ("outbox", row),
            ("outbox_parked", parked),
            ("outbox_state", state),
            ("outbox_claim", claim),
            ("inbox", inbox),
            ("inbox_floor", floor),
            ("stream_cursor", cursor),
        ]
    }

    /// The only row of the state, with an id made by the database.
    fn first_state(&self, fresh_id: &str, belongs_to: &str) -> String {
        let state = self.table("outbox_state");
        format!(
            "INSERT INTO {state} (one, outbox_id, schema_version, belongs_to, epoch, lease_until, \
             claimed, acked) SELECT 1, {fresh_id}, 1, {belongs_to}, 0, 0, 0, 0"
        )
    }

    fn sqlite(&self) -> Vec<String> {
        let mut statements: Vec<_> = self
            .tables()
            .iter()
            .map(|(name, columns)| {
                format!("CREATE TABLE IF NOT EXISTS {} ({columns}) STRICT", self.table(name))
            })
            .collect();
        statements.push(format!(
            "CREATE INDEX IF NOT EXISTS {0}_by_place ON {0} (consumer, source, place)",
            self.table("inbox")
        ));
        let state = self.first_state("randomblob(16)", "''");
        statements.push(format!("{state} WHERE true ON CONFLICT DO NOTHING"));
        statements
    }

    fn postgres(&self) -> Vec<String> {
        // Rows live for milliseconds: the tables are vacuumed often and with little to do.
        let options = "WITH (fillfactor = 100, autovacuum_vacuum_scale_factor = 0, \
                       autovacuum_vacuum_threshold = 5000, \
                       autovacuum_vacuum_insert_scale_factor = 0.2, \
                       autovacuum_vacuum_cost_delay = 0)";
        let mut statements = Vec::new();
        for (name, columns) in self.tables() {
            let table = self.table(name);
            let options = match name {
                "outbox" | "outbox_claim" => options,
                "outbox_state" => "WITH (fillfactor = 10)",
                _ => "",
            };
            statements.push(format!("CREATE TABLE IF NOT EXISTS {table} ({columns}) {options}"));
        }
        // Bodies are read once: compressing them costs more than it saves.
        for name in ["outbox", "outbox_parked"] {
            let table = self.table(name);
            statements.push(format!("ALTER TABLE {table} ALTER COLUMN body SET STORAGE EXTERNAL"));
        }
        let (prefix, inbox) = (&self.prefix, self.table("inbox"));
        statements.push(format!(
            "CREATE INDEX IF NOT EXISTS {inbox}_by_place ON {inbox} (consumer, source, place)"
        ));
        statements.push(format!(
            "CREATE OR REPLACE FUNCTION {prefix}enqueue(topic text, body bytea, \
             message_key bytea DEFAULT NULL, headers text DEFAULT '', due_at bigint DEFAULT 0, \
             message_id uuid DEFAULT gen_random_uuid()) RETURNS uuid LANGUAGE sql AS $body$ \
             INSERT INTO {prefix}outbox (topic, body, message_key, headers, due_at, message_id) \
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING message_id $body$"
        ));
        // A function keeps its plan in the session, whatever session it is called in: making one takes
        // longer than the insert.
        let insert = self.inbox_insert_of(&["$1", "$2", "$3", "$4", "$5", "$6", "$7"]);
        statements.push(format!(
            "CREATE OR REPLACE FUNCTION {prefix}inbox_admit(text, uuid, text, bigint, bigint, \
             bigint, bigint) RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '5s' AS $body$ \
             BEGIN {insert}; RETURN FOUND; END $body$"
        ));
        let state = self.first_state("gen_random_uuid()", &self.found_in());
        statements.push(format!("{state} ON CONFLICT DO NOTHING"));
        statements
    }

    fn mysql(&self) -> Vec<String> {
        let mut statements: Vec<_> = self
            .tables()
            .iter()
            .map(|(name, columns)| {
                // Text in an expression of a default is of the session's character set.
                let index = match *name {
                    "inbox" => ", INDEX by_place (consumer, source, place)",
                    _ => "",
                };
                let table = self.table(name);
                let options = "ENGINE = InnoDB ROW_FORMAT = DYNAMIC";
                format!("CREATE TABLE IF NOT EXISTS {table} ({columns}{index}) {options}")
            })
            .collect();
        let prefix = &self.prefix;
        let text = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
        statements.push(format!(
            "CREATE PROCEDURE IF NOT EXISTS {prefix}enqueue(topic VARCHAR(200) {text}, \
             body LONGBLOB, message_key LONGBLOB, headers LONGTEXT {text}, due_at BIGINT) \
             INSERT INTO {prefix}outbox (topic, body, message_key, headers, due_at) \
             VALUES (topic, body, message_key, COALESCE(headers, ''), COALESCE(due_at, 0))"
        ));
        let state = self.first_state("UNHEX(REPLACE(UUID(), '-', ''))", &self.found_in());
        statements.push(state.replacen("INSERT", "INSERT IGNORE", 1));
        statements
    }

    /// An expression that tells one database from its copies, and not from itself after a restore
    /// or on the replica that took over; empty where SQL cannot tell.
    pub(in crate::outbox::sql) fn found_in(&self) -> String {
        match self.dialect {
            Dialect::Postgres => format!(
                "(SELECT system_identifier FROM pg_control_system()) || '/' || current_database() \
                 || '/' || (SELECT relnamespace::regnamespace::text FROM pg_class \
                 WHERE oid = '{}'::regclass)",
                self.table("outbox_state")
            ),
            // A server's own id changes with every failover.
            Dialect::Mysql => "DATABASE()".to_owned(),
            Dialect::Sqlite => "''".to_owned(),
        }
    }
}

/// What a dialect calls the types.
#[derive(Clone, Copy)]
struct Types {
    integer: &'static str,
    text: &'static str,
    /// Of a topic, a subscription or a consumer.
    name: &'static str,
    /// Of a topic and its subscription.
    source: &'static str,
    bytes: &'static str,
    id: &'static str,
    /// An id that has its length, whoever inserts it.
    checked_id: &'static str,
    fresh_id: &'static str,
    numbered: &'static str,
}

impl Types {
    const fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Postgres => Self {
                integer: "bigint",
                text: "text",
                name: "text",
                source: "text",
                bytes: "bytea",
                id: "uuid",
                checked_id: "uuid",
                fresh_id: "gen_random_uuid()",
                numbered: "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
            },
            Dialect::Mysql => Self {
                integer: "BIGINT",
                text: "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                name: "VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                source: "VARCHAR(401) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                bytes: "LONGBLOB",
                id: "BINARY(16)",
                checked_id: "BINARY(16)",
                fresh_id: "(UNHEX(REPLACE(UUID(), '-', '')))",
                numbered: "BIGINT AUTO_INCREMENT PRIMARY KEY",
            },
            // Text is welcome where bytes are expected, so that plain SQL is easy to write.
            Dialect::Sqlite => Self {
                integer: "INTEGER",
                text: "TEXT",
                name: "TEXT",
                source: "TEXT",
                bytes: "ANY",
                id: "BLOB",
                checked_id: "BLOB CHECK (length(message_id) = 16)",
                fresh_id: "(randomblob(16))",
                numbered: "INTEGER PRIMARY KEY AUTOINCREMENT",
            },
        }
    }
}

fn inbox_tables(types: Types) -> [String; 3] {
    let Types { integer, name, source, id, .. } = types;
    [
        format!(
            "consumer {name} NOT NULL, message_id {id} NOT NULL, source {source} NOT NULL, \
             place {integer} NOT NULL, fence_epoch {integer} NOT NULL, \
             fence_counter {integer} NOT NULL, received_at {integer} NOT NULL, \
             PRIMARY KEY (consumer, message_id)"
        ),
        format!(
            "consumer {name} NOT NULL, source {source} NOT NULL, floor_place {integer} NOT NULL, \
             fence_epoch {integer} NOT NULL, fence_counter {integer} NOT NULL, \
             older_than {integer} NOT NULL, raised_at {integer} NOT NULL, \
             PRIMARY KEY (consumer, source)"
        ),
        format!(
            "consumer {name} NOT NULL, source {source} NOT NULL, next_place {integer} NOT NULL, \
             saved_at {integer} NOT NULL, PRIMARY KEY (consumer, source)"
        ),
    ]
}
