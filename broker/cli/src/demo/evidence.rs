//! The two SQLite files of the demo, and what they prove.

use crate::exit::Failure;
use posthouse_outbox_rusqlite::{Inbox, Outbox};
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one of the processes may have a file locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Every sale with this last digit is rolled back.
const ROLLED_BACK: u64 = 9;

/// Where shop and office keep their data.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) shop: PathBuf,
    pub(super) office: PathBuf,
}

impl Files {
    pub(super) fn of(folder: &Path) -> Self {
        Self { shop: folder.join("shop.db"), office: folder.join("office.db") }
    }

    /// Makes both with their tables.
    pub(super) fn make(&self) -> Result<(), Failure> {
        Outbox::new(&self.shop).install().map_err(Failure::refused)?;
        Inbox::new(&self.office, "office").install().map_err(Failure::refused)?;
        for (file, table) in [(&self.shop, "sales"), (&self.office, "bookings")] {
            // No key, so that a second effect would show.
            let make =
                format!("CREATE TABLE {table} (number INTEGER NOT NULL, text BLOB NOT NULL)");
            open(file)?.execute_batch(&make).map_err(Failure::refused)?;
        }
        Ok(())
    }

    /// Sales that are committed.
    pub(super) fn sold(&self) -> Result<u64, Failure> {
        count(&self.shop, "sales")
    }

    /// Messages that are not handed over.
    pub(super) fn waiting(&self) -> Result<u64, Failure> {
        count(&self.shop, "posthouse_outbox")
    }

    /// Messages that had their effect.
    pub(super) fn booked(&self) -> Result<u64, Failure> {
        count(&self.office, "bookings")
    }

    pub(super) fn sales(&self) -> Result<Evidence, Failure> {
        Evidence::read(&self.shop, "sales")
    }

    pub(super) fn bookings(&self) -> Result<Evidence, Failure> {
        Evidence::read(&self.office, "bookings")
    }
}

/// A connection to one of them.
pub(super) fn open(file: &Path) -> Result<Connection, Failure> {
    let flags = OpenFlags::default().difference(OpenFlags::SQLITE_OPEN_CREATE);
    let connection = Connection::open_with_flags(file, flags).map_err(Failure::refused)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(Failure::refused)?;
    Ok(connection)
}

fn count(file: &Path, table: &str) -> Result<u64, Failure> {
    let query = format!("SELECT count(*) FROM {table}");
    let count = open(file)?.query_row(&query, [], |row| row.get::<_, i64>(0));
    count.map(i64::cast_unsigned).map_err(Failure::refused)
}

/// Numbered things in their order: how many, and the hash of all.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    count: u64,
    has_rolled_back: bool,
    hash: Sha256,
}

impl Evidence {
    fn read(file: &Path, table: &str) -> Result<Self, Failure> {
        let connection = open(file)?;
        let query = format!("SELECT number, text FROM {table} ORDER BY number, text");
        let mut evidence = Self::default();
        let mut read = || -> rusqlite::Result<()> {
            let mut select = connection.prepare(&query)?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                evidence.add(row.get::<_, i64>(0)?.cast_unsigned(), &row.get::<_, Vec<u8>>(1)?);
            }
            Ok(())
        };
        read().map_err(Failure::refused)?;
        Ok(evidence)
    }

    pub(super) fn add(&mut self, number: u64, text: &[u8]) {
        self.count += 1;
        self.has_rolled_back |= is_rolled_back(number);
        // With its length, so that no two sequences look the same.
        self.hash.update(number.to_le_bytes());
        self.hash.update((text.len() as u64).to_le_bytes());
        self.hash.update(text);
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Whether there is one that must not be there.
    pub(super) const fn has_rolled_back(&self) -> bool {
        self.has_rolled_back
    }

    /// In hexadecimal.
    pub(super) fn digest(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether the shop thinks better of this sale, after its message is in the outbox.
pub(super) const fn is_rolled_back(number: u64) -> bool {
    number % 10 == ROLLED_BACK
}

/// The text of a sale: it differs from all others in content and length.
pub(super) fn text(number: u64) -> Vec<u8> {
    let seed = Sha256::digest(number.to_le_bytes());
    let len = usize::from(seed.first().copied().unwrap_or(0)) * 2;
    let mut text = format!("sale {number}: ").into_bytes();
    text.extend(seed.iter().cycle().take(len));
    text
}
