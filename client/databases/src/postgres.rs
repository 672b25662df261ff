//! PostgreSQL.

use crate::error::Error;
use crate::process::{Recipe, Server};
use crate::site::{Account, Backup, Site};
use crate::{Database, Stop};
use rustix::process::Signal;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Part of the socket's name.
pub(crate) const PORT: &str = "5432";

/// What a user's server has.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "max_connections=200",
    "shared_buffers=128MB",
    "timezone=UTC",
];

/// A PostgreSQL server of its own. User `postgres`, no password.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    databases: AtomicU32,
}

impl Postgres {
    /// Makes an empty server and starts it.
    ///
    /// # Errors
    ///
    /// If it cannot be installed or does not start; the text has the end of its log.
    pub fn start() -> Result<Self, Error> {
        let postgres = Self::stopped()?;
        let data = postgres.data();
        let data = data.to_str().ok_or_else(|| Error::new("the temporary path is not UTF-8"))?;
        let account = postgres.server.account();
        // Its files need not survive a power cut before the first start.
        let options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
        account.run("initdb", &[&["-D", data], &options[..]].concat())?;
        postgres.restart()?;
        Ok(postgres)
    }

    /// Makes a server from a copy of another one's files and starts it.
    ///
    /// # Errors
    ///
    /// As for [`Self::start`].
    pub fn start_from(backup: &Backup) -> Result<Self, Error> {
        let postgres = Self::stopped()?;
        backup.write(&postgres.data())?;
        postgres.restart()?;
        Ok(postgres)
    }

    /// The server that all tests of this process share; it ends with the process.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start().unwrap_or_else(|error| panic!("PostgreSQL: {error}")))
    }

    fn stopped() -> Result<Self, Error> {
        crate::ensure_installed()?;
        let account = Account::of("postgres")?;
        let site = Site::new("QUIT")?;
        site.folder("run", &account)?;
        let mut arguments = vec!["-D".to_owned(), site.path("data").to_string_lossy().into_owned()];
        arguments.extend(["-k".to_owned(), site.path("run").to_string_lossy().into_owned()]);
        arguments.extend(["-p".to_owned(), PORT.to_owned()]);
        arguments.extend(SETTINGS.iter().flat_map(|set| ["-c".to_owned(), (*set).to_owned()]));
        site.folder("data", &account)?;
        let recipe = Recipe {
            name: "postgres",
            account,
            arguments,
            fast: Signal::INT,
            immediate: Signal::QUIT,
        };
        Ok(Self { server: Server::new(site, recipe), databases: AtomicU32::new(0) })
    }

    fn data(&self) -> PathBuf {
        self.server.path("data")
    }

    /// The folder of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.server.path("run")
    }

    /// Where a client connects to for the database that is always there.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.socket().display())
    }

    /// Makes an empty database.
    ///
    /// # Errors
    ///
    /// If the server does not run or refuses.
    pub fn create_database(&self) -> Result<Database, Error> {
        let name = format!("test_{}", self.next_number());
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(Database { url: self.url_of(&name), name })
    }

    /// Makes a copy of a database beside it. Ends all sessions in the original.
    ///
    /// # Errors
    ///
    /// If the server does not run or refuses.
    pub fn copy_database(&self, original: &Database) -> Result<Database, Error> {
        let (from, name) = (original.name(), format!("copy_{}", self.next_number()));
        let ended = format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{from}'"
        );
        self.sql("postgres", &ended)?;
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {from}"))?;
        Ok(Database { url: self.url_of(&name), name })
    }

    fn next_number(&self) -> u32 {
        self.databases.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs SQL in a database and gives what it returned: a line for each row, fields separated by
    /// `|`.
    ///
    /// # Errors
    ///
    /// If the server does not run or refuses.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String, Error> {
        psql(self.server.account(), &self.socket().to_string_lossy(), PORT, database, sql)
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`]; its addresses stay the same. Does
    /// nothing if it runs.
    ///
    /// # Errors
    ///
    /// If it does not start; the text has the end of its log.
    pub fn restart(&self) -> Result<(), Error> {
        self.server.start(|| self.sql("postgres", "SELECT 1").is_ok())
    }

    /// Stops it and waits until it is gone.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn stop(&self, stop: Stop) -> Result<(), Error> {
        self.server.stop(stop)
    }

    /// Kills the server process with SIGKILL.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn kill(&self) -> Result<(), Error> {
        self.server.kill()
    }

    /// Copies the files of a stopped server.
    ///
    /// # Errors
    ///
    /// If it runs, or the copy fails.
    pub fn backup(&self) -> Result<Backup, Error> {
        self.must_be_stopped()?;
        Backup::of(&self.data())
    }

    /// Puts a copy in the place of a stopped server's files.
    ///
    /// # Errors
    ///
    /// If it runs, or the copy fails.
    pub fn restore(&self, backup: &Backup) -> Result<(), Error> {
        self.must_be_stopped()?;
        backup.write(&self.data())
    }

    fn must_be_stopped(&self) -> Result<(), Error> {
        if self.server.is_running() {
            return Err(Error::new("the server runs: stop it first"));
        }
        Ok(())
    }
}

/// Runs SQL with the command that comes with the server.
pub(crate) fn psql(
    account: &Account,
    host: &str,
    port: &str,
    database: &str,
    sql: &str,
) -> Result<String, Error> {
    let place = ["-h", host, "-p", port, "-U", "postgres", "-d", database];
    let options = ["--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql];
    account.run("psql", &[&place[..], &options[..]].concat())
}
