//! pgbouncer, which hands a PostgreSQL session to a client for one transaction at a time.

use crate::Database;
use crate::error::{Error, during};
use crate::postgres::{self, Postgres, psql};
use crate::process::{Recipe, Server};
use crate::site::{Account, Site};
use rustix::process::Signal;

/// Part of the socket's name.
const PORT: &str = "6432";
/// Sessions for each database: few, so that clients are mixed.
const SESSIONS: u32 = 3;

/// A transaction-pooling proxy before a PostgreSQL server.
#[derive(Debug)]
pub struct PgBouncer {
    server: Server,
}

impl PgBouncer {
    /// Starts one before all databases of `postgres`.
    ///
    /// # Errors
    ///
    /// If it cannot be installed or does not start; the text has the end of its log.
    pub fn start(postgres: &Postgres) -> Result<Self, Error> {
        crate::ensure_installed()?;
        let account = Account::of("postgres")?;
        let site = Site::new("KILL")?;
        let run = site.folder("run", &account)?;
        let settings = site.path("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={socket} port={port} user=postgres\n\
             [pgbouncer]\nlisten_addr =\nlisten_port = {PORT}\nunix_socket_dir = {run}\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {SESSIONS}\n\
             max_client_conn = 200\nignore_startup_parameters = extra_float_digits\n",
            socket = postgres.socket().display(),
            port = postgres::PORT,
            run = run.display(),
        );
        during("write the settings of pgbouncer", std::fs::write(&settings, text))?;
        let recipe = Recipe {
            name: "pgbouncer",
            account,
            arguments: vec![settings.to_string_lossy().into_owned()],
            fast: Signal::INT,
            immediate: Signal::KILL,
        };
        let proxy = Self { server: Server::new(site, recipe) };
        proxy.restart()?;
        Ok(proxy)
    }

    /// Where a client connects to for this database by way of the proxy.
    #[must_use]
    pub fn url(&self, database: &Database) -> String {
        let socket = self.server.path("run");
        let name = database.name();
        format!("postgres://postgres@localhost:{PORT}/{name}?host={}", socket.display())
    }

    /// Starts it again after [`Self::kill`]; its address stays the same. Does nothing if it runs.
    ///
    /// # Errors
    ///
    /// If it does not start; the text has the end of its log.
    pub fn restart(&self) -> Result<(), Error> {
        let socket = self.server.path("run");
        let socket = socket.to_string_lossy();
        let account = self.server.account();
        self.server.start(|| psql(account, &socket, PORT, "postgres", "SELECT 1").is_ok())
    }

    /// Kills the proxy with SIGKILL: all connections through it are lost.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn kill(&self) -> Result<(), Error> {
        self.server.kill()
    }
}
