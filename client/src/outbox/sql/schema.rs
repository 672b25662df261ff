//! The tables, as a list of versions. A version only adds: programs of the one before it go on
//! working with its tables, so that a fleet of them need not be stopped for it.

mod first;
mod second;

use super::{Dialect, Sql};
use crate::outbox::store::SCHEMA_VERSIONS;

/// What makes a version of the tables from those of the version before, or from none.
type Upgrade = fn(&Sql) -> Vec<String>;

/// The upgrades in order: the first makes version 1. Its text stands in `golden/` and never changes,
/// because it is what an installed version is.
const UPGRADES: [Upgrade; 2] = [Sql::first_version, Sql::second_version];

const _: () =
    assert!(*SCHEMA_VERSIONS.end() as usize == UPGRADES.len(), "each version has its upgrade");

impl Sql {
    /// Statements that make the tables where there are none. For a schema tool: put a semicolon
    /// behind each.
    #[must_use]
    pub fn ddl(&self) -> Vec<String> {
        self.upgrade(0)
    }

    /// Statements that make tables of the present version from those of an older one, from none if
    /// that is 0; no statements if there is nothing to do.
    ///
    /// Each does nothing if its part is there already. An `install()` of a driver finds out the
    /// version and runs them, and may be run by many at once.
    #[must_use]
    pub fn upgrade(&self, from: u32) -> Vec<String> {
        let versions = (1..).zip(UPGRADES);
        let above = versions.filter(|(version, _)| *version > from);
        above.flat_map(|(version, upgrade)| self.version(version, upgrade)).collect()
    }

    fn version(&self, version: u32, upgrade: Upgrade) -> Vec<String> {
        let mut statements = upgrade(self);
        if version > 1 {
            let state = self.table("outbox_state");
            statements.push(format!(
                "UPDATE {state} SET schema_version = {version} WHERE schema_version < {version}"
            ));
        }
        statements
    }

    /// Gives one row if there is a table that knows its version, see [`Self::installed`].
    #[must_use]
    pub fn is_installed(&self) -> String {
        let state = self.table("outbox_state");
        match self.dialect {
            // Where tables are made, not where one of this name is found first.
            Dialect::Postgres => format!(
                "SELECT 1 FROM pg_tables \
                 WHERE schemaname = current_schema() AND tablename = '{state}'"
            ),
            Dialect::Mysql => format!(
                "SELECT 1 FROM information_schema.tables \
                 WHERE table_schema = DATABASE() AND table_name = '{state}'"
            ),
            Dialect::Sqlite => {
                format!("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{state}'")
            }
        }
    }

    /// Gives the version that is installed, or no row.
    #[must_use]
    pub fn installed(&self) -> String {
        let version = self.integer("schema_version");
        format!("SELECT {version} FROM {}", self.table("outbox_state"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECTS: [(Dialect, [&str; 2]); 3] = [
        (
            Dialect::Postgres,
            [
                include_str!("schema/golden/postgres_1.sql"),
                include_str!("schema/golden/postgres_2.sql"),
            ],
        ),
        (
            Dialect::Mysql,
            [include_str!("schema/golden/mysql_1.sql"), include_str!("schema/golden/mysql_2.sql")],
        ),
        (
            Dialect::Sqlite,
            [
                include_str!("schema/golden/sqlite_1.sql"),
                include_str!("schema/golden/sqlite_2.sql"),
            ],
        ),
    ];

    fn text(statements: &[String]) -> String {
        statements.iter().map(|statement| format!("{statement};\n")).collect()
    }

    #[test]
    fn each_version_is_what_it_was_when_it_was_installed_first() {
        for (dialect, golden) in DIALECTS {
            let sql = Sql::standard(dialect);
            for ((version, upgrade), golden) in (1..).zip(UPGRADES).zip(golden) {
                let text = text(&sql.version(version, upgrade));
                assert_eq!(text, golden, "{dialect:?} version {version}");
            }
        }
    }

    #[test]
    fn upgrade_starts_behind_the_version_that_is_there() {
        for (dialect, [first, second]) in DIALECTS {
            let sql = Sql::standard(dialect);

            assert_eq!(text(&sql.ddl()), format!("{first}{second}"));
            assert_eq!(text(&sql.upgrade(1)), second);
            for newest in [2, 3, u32::MAX] {
                assert_eq!(sql.upgrade(newest), Vec::<String>::new());
            }
        }
    }
}
