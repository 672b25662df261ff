//! A sender's or a receiver's database: where it is, and what can be done to it from outside.

use posthouse_databases::{Backup, Database as Created, MariaDb, Postgres, Stop};
use posthouse_trials::Driver;
use std::ops::Deref;
use std::path::{Path, PathBuf};

const POSTGRES_SESSIONS: &str = "SELECT pid, datname, state, wait_event, xact_start, \
     pg_blocking_pids(pid), left(query, 200) FROM pg_stat_activity WHERE datname IS NOT NULL";
const MARIADB_SESSIONS: &str = "SHOW FULL PROCESSLIST; SHOW ENGINE INNODB STATUS";

/// A server of this process, or one of its own.
#[derive(Debug)]
pub(crate) enum Server<T: 'static> {
    Shared(&'static T),
    Own(Box<T>),
}

impl<T> Deref for Server<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Shared(server) => server,
            Self::Own(server) => server,
        }
    }
}

/// A database.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) driver: Driver,
    pub(crate) url: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Postgres(Server<Postgres>, Created),
    MariaDb(Server<MariaDb>, Created),
    File(PathBuf),
}

/// A database as it was.
#[derive(Debug)]
pub(crate) enum Copy {
    Server(Backup),
    File(PathBuf),
}

impl Base {
    /// A database on a server that the tests of this process share.
    pub(crate) fn shared(driver: Driver, folder: &Path, name: &str) -> Self {
        match driver {
            Driver::Postgres => Self::on_postgres(Server::Shared(Postgres::shared())),
            Driver::Mariadb => Self::on_mariadb(Server::Shared(MariaDb::shared())),
            Driver::Sqlite | Driver::Rusqlite => Self::file(driver, folder.join(name)),
        }
    }

    /// A database on a server of its own, which can be stopped and put back.
    pub(crate) fn own(driver: Driver, folder: &Path, name: &str) -> Self {
        match driver {
            Driver::Postgres => {
                Self::on_postgres(Server::Own(Box::new(Postgres::start().unwrap())))
            }
            Driver::Mariadb => Self::on_mariadb(Server::Own(Box::new(MariaDb::start().unwrap()))),
            Driver::Sqlite | Driver::Rusqlite => Self::file(driver, folder.join(name)),
        }
    }

    fn on_postgres(server: Server<Postgres>) -> Self {
        let created = server.create_database().unwrap();
        let url = created.url().to_owned();
        Self { driver: Driver::Postgres, url, place: Place::Postgres(server, created) }
    }

    fn on_mariadb(server: Server<MariaDb>) -> Self {
        let created = server.create_database().unwrap();
        let url = created.url().to_owned();
        Self { driver: Driver::Mariadb, url, place: Place::MariaDb(server, created) }
    }

    fn file(driver: Driver, path: PathBuf) -> Self {
        let url = path.to_str().unwrap().to_owned();
        Self { driver, url, place: Place::File(path) }
    }

    /// Ends the server as a crash would, and starts it again. A file has no server.
    pub(crate) fn crash(&self) -> bool {
        match &self.place {
            Place::Postgres(server, _) => {
                server.stop(Stop::Immediate).unwrap();
                server.restart().unwrap();
            }
            Place::MariaDb(server, _) => {
                server.stop(Stop::Immediate).unwrap();
                server.restart().unwrap();
            }
            Place::File(_) => return false,
        }
        true
    }

    /// What the server's sessions do, and what they wait for, as it says itself.
    pub(crate) fn sessions(&self) -> String {
        let told = match &self.place {
            Place::Postgres(server, database) => server.sql(database.name(), POSTGRES_SESSIONS),
            Place::MariaDb(server, database) => server.sql(database.name(), MARIADB_SESSIONS),
            Place::File(_) => return String::new(),
        };
        told.unwrap_or_else(|error| error.to_string())
    }

    /// Copies the database; nobody may use it meanwhile.
    pub(crate) fn copy(&self, to: &Path) -> Copy {
        match &self.place {
            Place::Postgres(server, _) => {
                server.stop(Stop::Fast).unwrap();
                let backup = server.backup().unwrap();
                server.restart().unwrap();
                Copy::Server(backup)
            }
            Place::MariaDb(server, _) => {
                server.stop(Stop::Fast).unwrap();
                let backup = server.backup().unwrap();
                server.restart().unwrap();
                Copy::Server(backup)
            }
            Place::File(path) => {
                copy_file(path, to);
                Copy::File(to.to_owned())
            }
        }
    }

    /// Makes a copy beside it that is a database of its own, and gives its address; nobody may use
    /// the original meanwhile.
    pub(crate) fn clone_to(&self, path: &Path) -> String {
        match &self.place {
            Place::Postgres(server, database) => {
                server.copy_database(database).unwrap().url().to_owned()
            }
            Place::MariaDb(server, database) => {
                server.copy_database(database).unwrap().url().to_owned()
            }
            Place::File(original) => {
                copy_file(original, path);
                path.to_str().unwrap().to_owned()
            }
        }
    }

    /// Puts the database back to what it was; nobody may use it meanwhile.
    pub(crate) fn restore(&self, copy: &Copy) {
        match (&self.place, copy) {
            (Place::Postgres(server, _), Copy::Server(backup)) => {
                server.stop(Stop::Fast).unwrap();
                server.restore(backup).unwrap();
                server.restart().unwrap();
            }
            (Place::MariaDb(server, _), Copy::Server(backup)) => {
                server.stop(Stop::Fast).unwrap();
                server.restore(backup).unwrap();
                server.restart().unwrap();
            }
            (Place::File(path), Copy::File(from)) => copy_file(from, path),
            _ => panic!("the copy of another kind of database"),
        }
    }
}

/// A database of SQLite with what it has not moved into the file yet.
fn copy_file(from: &Path, to: &Path) {
    for ending in ["", "-wal"] {
        let [from, to] =
            [from, to].map(|path| PathBuf::from(format!("{}{ending}", path.display())));
        if from.exists() {
            std::fs::copy(from, to).unwrap();
        } else if to.exists() {
            std::fs::remove_file(to).unwrap();
        }
    }
    let index = PathBuf::from(format!("{}-shm", to.display()));
    if index.exists() {
        std::fs::remove_file(index).unwrap();
    }
}
