//! MariaDB.

use crate::error::{Error, during};
use crate::process::{Recipe, Server};
use crate::site::{Account, Backup, Site};
use crate::{Database, Stop};
use rustix::process::Signal;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a user's server has, in sizes for a test.
const SETTINGS: &[&str] = &[
    "--skip-networking",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-doublewrite=1",
    "--innodb-buffer-pool-size=128M",
    "--innodb-log-file-size=32M",
    "--max-connections=200",
    "--default-time-zone=+00:00",
    "--character-set-server=utf8mb4",
];

/// A MariaDB server of its own. User `root`, no password.
#[derive(Debug)]
pub struct MariaDb {
    server: Server,
    databases: AtomicU32,
}

impl MariaDb {
    /// Makes an empty server and starts it.
    ///
    /// # Errors
    ///
    /// If it cannot be installed or does not start; the text has the end of its log.
    pub fn start() -> Result<Self, Error> {
        let mariadb = Self::stopped()?;
        let data = format!("--datadir={}", mariadb.data().display());
        let temporary = format!("--tmpdir={}", mariadb.server.path("run").display());
        let options = [
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            &data,
            &temporary,
        ];
        mariadb.server.account().run("mariadb-install-db", &options)?;
        mariadb.restart()?;
        Ok(mariadb)
    }

    /// Makes a server from a copy of another one's files and starts it.
    ///
    /// # Errors
    ///
    /// As for [`Self::start`].
    pub fn start_from(backup: &Backup) -> Result<Self, Error> {
        let mariadb = Self::stopped()?;
        backup.write(&mariadb.data())?;
        mariadb.restart()?;
        Ok(mariadb)
    }

    /// The server that all tests of this process share; it ends with the process.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(|| Self::start().unwrap_or_else(|error| panic!("MariaDB: {error}")))
    }

    fn stopped() -> Result<Self, Error> {
        crate::ensure_installed()?;
        let account = Account::of("mysql")?;
        let site = Site::new("KILL")?;
        let run = site.folder("run", &account)?;
        let data = site.folder("data", &account)?;
        let mut arguments = vec![
            "--no-defaults".to_owned(),
            format!("--datadir={}", data.display()),
            format!("--tmpdir={}", run.display()),
            format!("--socket={}", run.join("mariadb.sock").display()),
            format!("--pid-file={}", run.join("mariadb.pid").display()),
        ];
        arguments.extend(SETTINGS.iter().map(|set| (*set).to_owned()));
        let recipe = Recipe {
            name: "mariadbd",
            account,
            arguments,
            fast: Signal::TERM,
            // It knows no other way to end without writing everything.
            immediate: Signal::KILL,
        };
        Ok(Self { server: Server::new(site, recipe), databases: AtomicU32::new(0) })
    }

    fn data(&self) -> PathBuf {
        self.server.path("data")
    }

    fn socket(&self) -> PathBuf {
        self.server.path("run").join("mariadb.sock")
    }

    /// Where a client connects to for the database that is always there.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("mysql")
    }

    fn url_of(&self, database: &str) -> String {
        format!("mysql://root@localhost/{database}?socket={}", self.socket().display())
    }

    /// Makes an empty database.
    ///
    /// # Errors
    ///
    /// If the server does not run or refuses.
    pub fn create_database(&self) -> Result<Database, Error> {
        let name = format!("test_{}", self.next_number());
        self.sql("mysql", &format!("CREATE DATABASE {name}"))?;
        Ok(Database { url: self.url_of(&name), name })
    }

    /// Makes a copy of a database beside it, by way of a dump.
    ///
    /// # Errors
    ///
    /// If the server does not run or refuses.
    pub fn copy_database(&self, original: &Database) -> Result<Database, Error> {
        let name = format!("copy_{}", self.next_number());
        let socket = format!("--socket={}", self.socket().display());
        let options = ["--no-defaults", &socket, "-u", "root", "--routines", "--triggers"];
        let arguments = [&options[..], &["--single-transaction", original.name()]].concat();
        let dump = self.server.account().run("mariadb-dump", &arguments)?;
        let path = self.server.path("dump.sql");
        during("write a dump", std::fs::write(&path, dump))?;
        self.sql("mysql", &format!("CREATE DATABASE {name}"))?;
        self.sql(&name, &format!("source {}", path.display()))?;
        Ok(Database { url: self.url_of(&name), name })
    }

    fn next_number(&self) -> u32 {
        self.databases.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs SQL in a database and gives what it returned: a line for each row, fields separated by
    /// tabs.
    ///
    /// # Errors
    ///
    /// If the server does not run or refuses.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String, Error> {
        let socket = format!("--socket={}", self.socket().display());
        let options = ["--no-defaults", &socket, "-u", "root", "-BN", "-e", sql, database];
        self.server.account().run("mariadb", &options)
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`]; its addresses stay the same. Does
    /// nothing if it runs.
    ///
    /// # Errors
    ///
    /// If it does not start; the text has the end of its log.
    pub fn restart(&self) -> Result<(), Error> {
        self.server.start(|| self.sql("mysql", "SELECT 1").is_ok())
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
