//! What a relay asks.

use super::{Dialect, ROW_COLUMNS, Sql, among, write_ids};
use crate::clock::millis;
use crate::outbox::row::RowId;
use crate::outbox::store::{Claim, Lag, OutboxId, Park, RowRange, Standing, Step};
use std::fmt::Write as _;
use std::time::Duration;

impl Sql {
    /// Gives one row: outbox id, schema version, belongs to, found in, owner or null, durability
    /// warning or null.
    #[must_use]
    pub fn describe(&self) -> String {
        let warning = match self.dialect {
            Dialect::Postgres => {
                "CASE current_setting('fsync') WHEN 'off' THEN 'fsync is off: a crash of the \
                 machine can lose or damage what was committed' END"
            }
            Dialect::Mysql => {
                "CASE @@innodb_flush_log_at_trx_commit WHEN 1 THEN NULL ELSE \
                 'innodb_flush_log_at_trx_commit is not 1: a crash of the machine can lose what \
                 was committed, and sent already; set it to 1' END"
            }
            Dialect::Sqlite => "NULL",
        };
        format!(
            "SELECT {}, {}, belongs_to, {}, CASE WHEN lease_until > {} THEN owner END, {warning} \
             FROM {}",
            self.id_bytes("outbox_id"),
            self.integer("schema_version"),
            self.found_in(),
            self.now(),
            self.table("outbox_state")
        )
    }

    /// Notes to which database the outbox belongs, if that is not known.
    #[must_use]
    pub fn belongs(&self, belongs_to: &str) -> String {
        let (state, text) = (self.table("outbox_state"), self.text(belongs_to));
        format!("UPDATE {state} SET belongs_to = {text} WHERE belongs_to = ''")
    }

    /// In one transaction: an update, and a query that gives epoch, claimed and acked, or no row if
    /// another relay has the lease.
    #[must_use]
    pub fn acquire(&self, owner: &str, lease: Duration) -> [String; 2] {
        let (state, owner, now) = (self.table("outbox_state"), self.text(owner), self.now());
        let lease = millis(lease);
        [
            format!(
                "UPDATE {state} SET owner = {owner}, epoch = epoch + 1, \
                 lease_until = {now} + {lease} WHERE lease_until <= {now} OR owner = {owner}"
            ),
            format!("SELECT epoch, claimed, acked FROM {state} WHERE owner = {owner}"),
        ]
    }

    /// Changes one row if the epoch is `from`.
    #[must_use]
    pub fn raise_epoch(&self, from: u64, to: u64) -> String {
        format!("UPDATE {} SET epoch = {to} WHERE epoch = {from}", self.table("outbox_state"))
    }

    /// In one transaction, of which the first changes one row if the epoch is `epoch`.
    ///
    /// `belongs_to` is for databases that cannot tell by SQL what they are.
    #[must_use]
    pub fn adopt(&self, epoch: u64, outbox: OutboxId, belongs_to: &str) -> Vec<String> {
        let belongs_to = match self.dialect {
            Dialect::Postgres | Dialect::Mysql => self.found_in(),
            Dialect::Sqlite => self.text(belongs_to),
        };
        let adopted = Standing { epoch, claimed: 0, acked: 0 };
        vec![
            format!(
                "UPDATE {} SET outbox_id = {}, belongs_to = {belongs_to}, claimed = 0, acked = 0 \
                 WHERE epoch = {epoch}",
                self.table("outbox_state"),
                self.id(outbox.0)
            ),
            format!("DELETE FROM {} WHERE {}", self.table("outbox_claim"), self.held(&adopted)),
        ]
    }

    /// Gives sequence, ids (for [`parse_ids`](super::parse_ids)) and digest of each claim.
    #[must_use]
    pub fn claims(&self) -> String {
        let claim = self.table("outbox_claim");
        format!("SELECT sequence, row_ids, digest FROM {claim} ORDER BY sequence")
    }

    /// Gives rows.
    #[must_use]
    pub fn rows(&self, ids: &[RowId]) -> String {
        let (columns, outbox) = (self.row_columns("o."), self.table("outbox"));
        if ids.is_empty() {
            return format!("SELECT {columns} FROM {outbox} o WHERE 1 = 0");
        }
        format!("SELECT {columns} FROM {outbox} o WHERE {} ORDER BY o.id", among("o.id", ids))
    }

    /// Gives rows, see [`Store::scan`](super::super::Store::scan).
    #[must_use]
    pub fn scan(&self, gaps: &[RowRange], after: RowId, rows_max: u32, bytes_max: u64) -> String {
        let (outbox, columns) = (self.table("outbox"), self.row_columns("o."));
        let size = format!("{} + 64 AS size", self.body_bytes());
        // Numbers and sizes go first, so that of rows which do not fit nothing is read.
        let sizes = self.found(gaps, after, rows_max, &format!("o.id, {size}"));
        let before =
            "SUM(s.size) OVER (ORDER BY s.id ROWS UNBOUNDED PRECEDING) - s.size AS before_it";
        if self.dialect == Dialect::Postgres {
            // Mostly all fit, which a sum tells at a third of the price. A join with so many ids would be
            // planned badly in a table without statistics, so it is a range of ids: of those in gaps it
            // may hold others, which do not count.
            return format!(
                "WITH s AS MATERIALIZED ({sizes}) SELECT {columns} FROM {outbox} o \
                 WHERE o.id >= (SELECT MIN(s.id) FROM s) AND o.id <= \
                 CASE WHEN (SELECT SUM(s.size) FROM s) <= {bytes_max} THEN \
                 (SELECT MAX(s.id) FROM s) ELSE (SELECT MAX(t.id) FROM (SELECT s.id, {before} FROM s) t \
                 WHERE t.before_it < {bytes_max}) END AND (o.id > {} OR o.id IN (SELECT s.id FROM s)) \
                 ORDER BY o.id LIMIT {rows_max}",
                after.0
            );
        }
        format!(
            "SELECT {columns} FROM (SELECT s.id, {before} FROM ({sizes}) s) t \
             JOIN {outbox} o ON o.id = t.id WHERE t.before_it < {bytes_max} ORDER BY o.id"
        )
    }

    /// What is asked of the first of the rows `o` in gaps and above.
    fn found(&self, gaps: &[RowRange], after: RowId, rows_max: u32, what: &str) -> String {
        let (outbox, after) = (self.table("outbox"), after.0);
        let above = format!(
            "SELECT {what} FROM {outbox} o WHERE o.id > {after} ORDER BY o.id LIMIT {rows_max}"
        );
        match self.gap_rows(gaps, what) {
            None => above,
            Some(in_gaps) => format!(
                "SELECT f.* FROM ({in_gaps} UNION ALL SELECT a.* FROM ({above}) a) f ORDER BY f.id \
                 LIMIT {rows_max}"
            ),
        }
    }

    /// How long a row's body is.
    const fn body_bytes(&self) -> &'static str {
        match self.dialect {
            Dialect::Postgres | Dialect::Mysql => "octet_length(o.body)",
            Dialect::Sqlite => "length(CAST(o.body AS BLOB))",
        }
    }

    fn gap_rows(&self, gaps: &[RowRange], what: &str) -> Option<String> {
        if gaps.is_empty() {
            return None;
        }
        let outbox = self.table("outbox");
        let ranges = |between: &dyn Fn(u64, u64) -> String, separator: &str| {
            let ranges: Vec<_> = gaps.iter().map(|gap| between(gap.first.0, gap.last.0)).collect();
            ranges.join(separator)
        };
        let values = ranges(&|first, last| format!("({first}, {last})"), ", ");
        let join = format!("JOIN {outbox} o ON o.id BETWEEN");
        Some(match self.dialect {
            Dialect::Postgres => format!(
                "SELECT {what} FROM (VALUES {values}) AS g (first, last) {join} g.first AND \
                 g.last"
            ),
            Dialect::Sqlite => {
                format!("SELECT {what} FROM (VALUES {values}) g {join} g.column1 AND g.column2")
            }
            Dialect::Mysql => {
                let either =
                    ranges(&|first, last| format!("o.id BETWEEN {first} AND {last}"), " OR ");
                format!("SELECT {what} FROM {outbox} o WHERE {either}")
            }
        })
    }

    /// Gives ids.
    #[must_use]
    pub fn sweep(&self, from: RowId, through: RowId, limit: u32) -> String {
        format!(
            "SELECT id FROM {} WHERE id BETWEEN {} AND {} ORDER BY id LIMIT {limit}",
            self.table("outbox"),
            from.0,
            through.0
        )
    }

    /// In one transaction, of which the first changes one row if the outbox stands where the step
    /// says; the others do nothing if it does not.
    #[must_use]
    pub fn step(&self, step: &Step) -> Vec<String> {
        let Step { from, lease, acked, done, claim } = step;
        let (state, claims) = (self.table("outbox_state"), self.table("outbox_claim"));
        let claimed = claim.as_ref().map_or(from.claimed, |claim| claim.sequence);
        let after = Standing { epoch: from.epoch, claimed, acked: *acked };
        // PostgreSQL looks for the state once: while a transaction elsewhere keeps its versions, each
        // of them is one more to step over.
        let is_one_statement = self.dialect == Dialect::Postgres;
        let (held, stood, at) = if is_one_statement {
            ("EXISTS (SELECT 1 FROM s0)".to_owned(), "s0".to_owned(), "true".to_owned())
        } else {
            (self.held(&after), state.clone(), stands(&after))
        };
        // Those up to `from.acked` went with an earlier step, and would be stepped over likewise.
        let claims_done = format!("sequence > {} AND sequence <= {acked}", from.acked);
        let mut statements = vec![
            format!(
                "UPDATE {state} SET lease_until = {} + {}, acked = {acked}, claimed = {claimed} \
                 WHERE {}",
                self.now(),
                millis(*lease),
                stands(from)
            ),
            format!("DELETE FROM {claims} WHERE {claims_done} AND {held}"),
        ];
        statements.extend(self.delete_rows(done, &held));
        statements.extend(claim.as_ref().map(|claim| self.insert_claim(claim, &stood, &at)));
        if is_one_statement { vec![one_statement(&statements)] } else { statements }
    }

    fn delete_rows(&self, ids: &[RowId], held: &str) -> Option<String> {
        let outbox = self.table("outbox");
        let among = (!ids.is_empty()).then(|| among("id", ids))?;
        Some(format!("DELETE FROM {outbox} WHERE {among} AND {held}"))
    }

    fn insert_claim(&self, claim: &Claim, stood: &str, at: &str) -> String {
        format!(
            "INSERT INTO {} (sequence, row_ids, digest, claimed_at) SELECT {}, '{}', {}, {} \
             FROM {stood} WHERE {at}",
            self.table("outbox_claim"),
            claim.sequence,
            write_ids(&claim.rows),
            claim.digest,
            self.now()
        )
    }

    /// In one transaction, of which the first changes one row if the outbox stands where `park`
    /// says; the others do nothing if it does not.
    #[must_use]
    pub fn park(&self, park: &Park) -> Vec<String> {
        let (state, claims) = (self.table("outbox_state"), self.table("outbox_claim"));
        let held = self.held(&park.from);
        let columns = ROW_COLUMNS.join(", ");
        let mut statements =
            vec![format!("UPDATE {state} SET epoch = epoch WHERE {}", stands(&park.from))];
        for (id, reason) in &park.rows {
            statements.push(format!(
                "INSERT INTO {} ({columns}, reason, parked_at) SELECT {columns}, {}, {} FROM {} \
                 WHERE id = {} AND {held}",
                self.table("outbox_parked"),
                self.text(reason),
                self.now(),
                self.table("outbox"),
                id.0
            ));
        }
        let ids: Vec<_> = park.rows.iter().map(|(id, _)| *id).collect();
        statements.extend(self.delete_rows(&ids, &held));
        for claim in &park.claims {
            let sequence = claim.sequence;
            statements.push(format!("DELETE FROM {claims} WHERE sequence = {sequence} AND {held}"));
            if !claim.rows.is_empty() {
                statements.push(self.insert_claim(claim, &state, &stands(&park.from)));
            }
        }
        statements
    }

    /// Gives the lease back.
    #[must_use]
    pub fn release(&self, epoch: u64) -> String {
        let state = self.table("outbox_state");
        format!("UPDATE {state} SET owner = NULL, lease_until = 0 WHERE epoch = {epoch}")
    }

    /// Gives one row: how many rows, age of the oldest in milliseconds or null, how many parked; each
    /// number up to [`Lag::COUNTED_MAX`].
    #[must_use]
    pub fn lag(&self) -> String {
        let (outbox, now) = (self.table("outbox"), self.now());
        let age = format!("{now} - (SELECT o.created_at FROM {outbox} o ORDER BY o.id LIMIT 1)");
        let [rows, parked] = [outbox, self.table("outbox_parked")].map(|table| {
            format!("(SELECT COUNT(*) FROM (SELECT 1 FROM {table} LIMIT {}) c)", Lag::COUNTED_MAX)
        });
        format!("SELECT {rows}, {}, {parked}", self.integer(&age))
    }

    /// Gives of parked rows number, message id, topic, bytes of the body, when they were enqueued,
    /// reason, and when they were parked.
    #[must_use]
    pub fn parked(&self, after: RowId, limit: u32) -> String {
        format!(
            "SELECT o.id, {}, o.topic, {}, o.created_at, o.reason, o.parked_at FROM {} o \
             WHERE o.id > {} ORDER BY o.id LIMIT {limit}",
            self.id_bytes("o.message_id"),
            self.integer(self.body_bytes()),
            self.table("outbox_parked"),
            after.0
        )
    }

    /// In one transaction: puts parked rows back; the second changes as many rows as there were.
    #[must_use]
    pub fn redrive(&self, ids: &[RowId]) -> [String; 2] {
        let (outbox, parked) = (self.table("outbox"), self.table("outbox_parked"));
        let [_, columns @ ..] = ROW_COLUMNS;
        let values = columns.map(|column| match (self.dialect, column) {
            (Dialect::Sqlite, "message_id") => {
                "CASE length(message_id) WHEN 16 THEN message_id ELSE randomblob(16) END"
            }
            _ => column,
        });
        let (columns, values) = (columns.join(", "), values.join(", "));
        let these = these(ids);
        // The rows are locked by the delete in front where that is possible: two redrives at once
        // must not copy a row twice.
        let lock = match self.dialect {
            Dialect::Postgres | Dialect::Mysql => " FOR UPDATE",
            Dialect::Sqlite => "",
        };
        [
            format!(
                "INSERT INTO {outbox} ({columns}) SELECT {values} FROM {parked} WHERE {these} \
                 ORDER BY id{lock}"
            ),
            format!("DELETE FROM {parked} WHERE {these}"),
        ]
    }

    /// Deletes parked rows; changes as many rows as there were.
    #[must_use]
    pub fn discard(&self, ids: &[RowId]) -> String {
        format!("DELETE FROM {} WHERE {}", self.table("outbox_parked"), these(ids))
    }

    /// Whether the outbox stands there.
    fn held(&self, at: &Standing) -> String {
        format!("EXISTS (SELECT 1 FROM {} WHERE {})", self.table("outbox_state"), stands(at))
    }

    /// The columns of a row as eight values: number, 16 bytes, text, bytes or null, text, bytes,
    /// number, number.
    fn row_columns(&self, of: &str) -> String {
        let columns = ROW_COLUMNS.map(|column| match (self.dialect, column) {
            (_, "message_id") => self.id_bytes(&format!("{of}{column}")),
            (Dialect::Sqlite, "message_key" | "body") => format!("CAST({of}{column} AS BLOB)"),
            _ => format!("{of}{column}"),
        });
        columns.join(", ")
    }
}

/// An update of one row, and what is done if there was one: it is what the others call `s0`. As one
/// statement, which gives as many rows.
fn one_statement(statements: &[String]) -> String {
    let mut text = String::from("WITH ");
    for (number, statement) in statements.iter().enumerate() {
        let (comma, returns) = if number == 0 { ("", " RETURNING 1") } else { (", ", "") };
        // Writing into a String does not fail.
        let _ = write!(text, "{comma}s{number} AS ({statement}{returns})");
    }
    text + " SELECT 1 FROM s0"
}

fn stands(at: &Standing) -> String {
    let Standing { epoch, claimed, acked } = at;
    format!("epoch = {epoch} AND claimed = {claimed} AND acked = {acked}")
}

fn these(ids: &[RowId]) -> String {
    if ids.is_empty() { "1 = 0".to_owned() } else { among("id", ids) }
}
