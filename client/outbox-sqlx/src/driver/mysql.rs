//! MariaDB and MySQL.

use super::{Driver, bytes, same_for_all};
use posthouse_client::outbox::sql::{Dialect, Sql};
use posthouse_client::outbox::{NewRow, StoreErrorKind};
use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlRow};
use sqlx::{ConnectOptions as _, MySql, MySqlConnection, MySqlPool};

/// MariaDB and MySQL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maria;

impl Maria {
    const KEEP_STATEMENTS: bool = true;

    /// sqlx does not read the rest of an answer to a prepare whose future was dropped, and so waits
    /// for ever in the rollback: the connection is lost to its pool. What has all in its text is not
    /// prepared.
    fn is_written_out(rows: &[NewRow], _is_kept: bool) -> bool {
        bytes(rows) <= WRITTEN_OUT_MAX
    }
}

/// Rows of so many bytes are written into the text of their insert, which is twice as long, and an
/// eighth of what a server takes at once unless its `max_allowed_packet` is set.
const WRITTEN_OUT_MAX: usize = 1 << 20;

/// Deadlock, lock wait timeout, refused by the cluster: nothing was committed.
const ROLLED_BACK: [u16; 3] = [1213, 1205, 3101];

/// Disk or table full, too many connections, shutting down, connection lost, limit of a user, killed,
/// read-only after a failover, statement took too long.
const PASSING: [u16; 21] = [
    1021, 1040, 1053, 1077, 1079, 1114, 1158, 1159, 1160, 1161, 1203, 1226, 1290, 1317, 1836, 1927,
    1969, 2006, 2013, 3024, 4031,
];

fn number(error: &(dyn DatabaseError + 'static)) -> u16 {
    error.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number)
}

impl Driver for Maria {
    type Options = MySqlConnectOptions;

    const DIALECT: Dialect = Dialect::Mysql;
    const BEGIN: &'static [&'static str] =
        &["SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION READ WRITE"];
    const BEGIN_OPEN: &'static str = "BEGIN";
    const OPENED: Option<&'static str> = Some("SAVEPOINT posthouse");
    /// A deadlock and a data definition end the transaction silently, and each statement after it
    /// is committed by itself.
    const IS_OPEN: &'static str = "RELEASE SAVEPOINT posthouse";
    const COMMIT_AND_BEGIN: &'static str = "COMMIT AND CHAIN";

    fn mark(name: &str) -> String {
        format!("SAVEPOINT {name}")
    }

    fn is_marked(name: &str) -> String {
        format!("RELEASE SAVEPOINT {name}")
    }

    same_for_all!(MySql, MySqlConnection, MySqlRow);

    fn own_options(pool: &MySqlPool) -> MySqlConnectOptions {
        (*pool.connect_options()).clone().disable_statement_logging()
    }

    async fn connect(options: &MySqlConnectOptions) -> sqlx::Result<MySqlConnection> {
        options.connect().await
    }

    fn bounded_wait() -> Option<[&'static str; 2]> {
        Some([
            "SET @posthouse_wait = @@innodb_lock_wait_timeout, innodb_lock_wait_timeout = 5",
            "SET innodb_lock_wait_timeout = @posthouse_wait",
        ])
    }

    fn refused_commit(error: &(dyn DatabaseError + 'static)) -> bool {
        ROLLED_BACK.contains(&number(error))
    }

    fn kind_of(error: &(dyn DatabaseError + 'static)) -> StoreErrorKind {
        match number(error) {
            // No such table.
            1146 => StoreErrorKind::NotInstalled,
            number if ROLLED_BACK.contains(&number) || PASSING.contains(&number) => {
                StoreErrorKind::Transient
            }
            _ => StoreErrorKind::Permanent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn full_disk_and_limits_are_passing_and_mistakes_are_not() {
        let database = posthouse_databases::MariaDb::shared().create_database().unwrap();
        let pool = MySqlPool::connect(database.url()).await.unwrap();
        let kind = async |number: u16| {
            let signal = format!("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}");
            Maria::kind(
                &sqlx::raw_sql(sqlx::AssertSqlSafe(signal)).execute(&pool).await.unwrap_err(),
            )
        };
        for number in [1021, 1114, 1226, 1317, 1969, 3024, 1040, 1213] {
            assert_eq!(kind(number).await, StoreErrorKind::Transient, "{number}");
        }
        // Syntax, rights.
        for number in [1064, 1142] {
            assert_eq!(kind(number).await, StoreErrorKind::Permanent, "{number}");
        }
    }
}
