//! An outbox in memory for tests, which behaves like a database: rows get their numbers when they are
//! inserted and appear when they are committed, transactions are rolled back, connections break before
//! or after a commit, copies are restored.

use posthouse_client::outbox::{
    Claim, Description, Lag, OutboxId, Park, Parked, Row, RowId, RowRange, Standing, Step, Store,
    StoreError, StoreErrorKind,
};
use posthouse_client::{MessageId, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// What happens to a call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing bad.
    None,
    /// The connection breaks before anything is done.
    Before,
    /// The connection breaks after everything is done.
    After,
}

/// The database. Cloning gives another connection.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    tables: Arc<Mutex<Tables>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub(crate) rows: BTreeMap<RowId, Row>,
    pub(crate) claims: BTreeMap<u64, Claim>,
    pub(crate) parked: BTreeMap<RowId, (Row, String)>,
    pub(crate) standing: Standing,
    pub(crate) description: Description,
    pub(crate) faults: VecDeque<Fault>,
    /// Every call fails.
    pub(crate) is_away: bool,
    next: u64,
    lease: Option<(String, Instant)>,
}

/// A transaction that has inserted a row and is not committed.
#[derive(Debug)]
#[must_use]
pub(crate) struct Pending(Row);

impl Memory {
    pub(crate) fn new() -> Self {
        let description = Description {
            outbox: OutboxId([7; 16]),
            schema_version: 1,
            belongs_to: "here".to_owned(),
            found_in: "here".to_owned(),
            owner: None,
            durability_warning: None,
        };
        let tables = Tables {
            rows: BTreeMap::new(),
            claims: BTreeMap::new(),
            parked: BTreeMap::new(),
            standing: Standing { epoch: 0, claimed: 0, acked: 0 },
            description,
            faults: VecDeque::new(),
            is_away: false,
            next: 0,
            lease: None,
        };
        Self { tables: Arc::new(Mutex::new(tables)) }
    }

    /// Looks at or changes the tables.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Tables) -> T) -> T {
        work(&mut self.tables.lock().unwrap())
    }

    /// A database with the same contents that goes its own way.
    pub(crate) fn copy(&self) -> Self {
        Self { tables: Arc::new(Mutex::new(self.with(|tables| tables.clone()))) }
    }

    /// Inserts a row without committing it. The body says which row it is.
    pub(crate) fn insert(&self, topic: &str) -> Pending {
        self.with(|tables| {
            tables.next += 1;
            let id = tables.next;
            let mut message_id = [0; 16];
            message_id[8..].copy_from_slice(&id.to_be_bytes());
            Pending(Row {
                id: RowId(id),
                message_id: Some(MessageId(message_id)),
                topic: topic.to_owned(),
                key: None,
                headers: String::new(),
                body: id.to_string().into(),
                due_at: Timestamp::ZERO,
                created_at: Timestamp(1_700_000_000_000),
            })
        })
    }

    pub(crate) fn commit(&self, Pending(row): Pending) {
        self.with(|tables| tables.rows.insert(row.id, row));
    }

    /// Inserts and commits so many rows.
    pub(crate) fn enqueue(&self, topic: &str, count: usize) {
        for _ in 0..count {
            self.commit(self.insert(topic));
        }
    }

    fn call<T>(&self, work: impl FnOnce(&mut Tables) -> T) -> Result<T, StoreError> {
        let broken = || StoreError::new(StoreErrorKind::Transient, "connection lost");
        let mut tables = self.tables.lock().unwrap();
        if tables.is_away {
            return Err(broken());
        }
        match tables.faults.pop_front().unwrap_or(Fault::None) {
            Fault::None => Ok(work(&mut tables)),
            Fault::Before => Err(broken()),
            Fault::After => {
                work(&mut tables);
                Err(broken())
            }
        }
    }
}

impl Tables {
    fn at(&mut self, epoch: u64, work: impl FnOnce(&mut Self)) -> bool {
        let is_current = self.standing.epoch == epoch;
        if is_current {
            work(self);
        }
        is_current
    }

    fn standing(&mut self, from: Standing, work: impl FnOnce(&mut Self)) -> bool {
        let is_known = self.standing == from;
        if is_known {
            work(self);
        }
        is_known
    }

    /// The lease ends although its holder lives.
    pub(crate) fn end_lease(&mut self) {
        self.lease = None;
    }

    /// Somebody else has the lease.
    pub(crate) fn lease_to(&mut self, owner: &str) {
        self.lease = Some((owner.to_owned(), Instant::now() + Duration::from_secs(3600)));
    }

    /// Whether somebody has the lease.
    pub(crate) fn is_leased(&self) -> bool {
        self.lease.is_some()
    }

    fn acquire(&mut self, owner: &str, lease: Duration) -> Option<Standing> {
        let now = Instant::now();
        let taken = self.lease.as_ref().is_some_and(|(who, until)| who != owner && now < *until);
        if taken {
            return None;
        }
        self.lease = Some((owner.to_owned(), now + lease));
        self.standing.epoch += 1;
        Some(self.standing)
    }

    fn step(&mut self, step: &Step) {
        if let Some((_, until)) = &mut self.lease {
            *until = Instant::now() + step.lease;
        }
        self.standing.acked = step.acked;
        self.rows.retain(|id, _| !step.done.contains(id));
        self.claims.retain(|sequence, _| *sequence > step.acked);
        if let Some(claim) = &step.claim {
            self.standing.claimed = claim.sequence;
            self.claims.insert(claim.sequence, claim.clone());
        }
    }

    fn park(&mut self, park: &Park) {
        for (id, reason) in &park.rows {
            if let Some(row) = self.rows.remove(id) {
                self.parked.insert(*id, (row, reason.clone()));
            }
        }
        for claim in &park.claims {
            self.claims.insert(claim.sequence, claim.clone());
        }
        self.claims.retain(|_, claim| !claim.rows.is_empty());
    }
}

impl Store for Memory {
    fn beside(&self) -> Self {
        self.clone()
    }

    async fn close(&mut self) {}

    async fn describe(&mut self) -> Result<Description, StoreError> {
        self.call(|tables| tables.description.clone())
    }

    async fn acquire(
        &mut self,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<Standing>, StoreError> {
        self.call(|tables| tables.acquire(owner, lease))
    }

    async fn raise_epoch(&mut self, from: u64, to: u64) -> Result<bool, StoreError> {
        self.call(|tables| tables.at(from, |tables| tables.standing.epoch = to))
    }

    async fn adopt(&mut self, epoch: u64) -> Result<bool, StoreError> {
        self.call(|tables| {
            tables.at(epoch, |tables| {
                tables.description.belongs_to = tables.description.found_in.clone();
                let OutboxId([before, ..]) = tables.description.outbox;
                tables.description.outbox = OutboxId([before + 1; 16]);
                tables.standing = Standing { epoch, claimed: 0, acked: 0 };
                tables.claims.clear();
            })
        })
    }

    async fn claims(&mut self) -> Result<Vec<Claim>, StoreError> {
        self.call(|tables| tables.claims.values().cloned().collect())
    }

    async fn rows(&mut self, ids: &[RowId]) -> Result<Vec<Row>, StoreError> {
        self.call(|tables| ids.iter().filter_map(|id| tables.rows.get(id).cloned()).collect())
    }

    async fn scan(
        &mut self,
        gaps: &[RowRange],
        after: RowId,
        rows_max: u32,
        _bytes_max: u64,
    ) -> Result<Vec<Row>, StoreError> {
        let is_asked =
            |id: RowId| id > after || gaps.iter().any(|gap| (gap.first..=gap.last).contains(&id));
        self.call(|tables| {
            let asked = tables.rows.values().filter(|row| is_asked(row.id));
            asked.take(rows_max as usize).cloned().collect()
        })
    }

    async fn sweep(
        &mut self,
        from: RowId,
        through: RowId,
        limit: u32,
    ) -> Result<Vec<RowId>, StoreError> {
        self.call(|tables| {
            let ids = tables.rows.keys().copied();
            ids.filter(|id| from <= *id && *id <= through).take(limit as usize).collect()
        })
    }

    async fn step(&mut self, step: &Step) -> Result<bool, StoreError> {
        self.call(|tables| tables.standing(step.from, |tables| tables.step(step)))
    }

    async fn park(&mut self, park: &Park) -> Result<bool, StoreError> {
        self.call(|tables| tables.standing(park.from, |tables| tables.park(park)))
    }

    async fn release(&mut self, epoch: u64) -> Result<(), StoreError> {
        self.call(|tables| {
            tables.at(epoch, |tables| tables.lease = None);
        })
    }

    async fn lag(&mut self) -> Result<Lag, StoreError> {
        self.call(|tables| Lag {
            rows: tables.rows.len() as u64,
            oldest: None,
            parked: tables.parked.len() as u64,
        })
    }

    async fn parked(&mut self, after: RowId, limit: u32) -> Result<Vec<Parked>, StoreError> {
        self.call(|tables| {
            let parked = tables.parked.iter().filter(|(id, _)| **id > after);
            let parked = parked.map(|(_, (row, reason))| Parked {
                id: row.id,
                message_id: row.message_id,
                topic: row.topic.clone(),
                body_bytes: row.body.len() as u64,
                created_at: row.created_at,
                reason: reason.clone(),
                parked_at: 0,
            });
            parked.take(limit as usize).collect()
        })
    }

    async fn redrive(&mut self, ids: &[RowId]) -> Result<u64, StoreError> {
        self.call(|tables| {
            let parked: Vec<_> = ids.iter().filter_map(|id| tables.parked.remove(id)).collect();
            for (row, _) in &parked {
                tables.next += 1;
                let id = RowId(tables.next);
                tables.rows.insert(id, Row { id, ..row.clone() });
            }
            parked.len() as u64
        })
    }

    async fn discard(&mut self, ids: &[RowId]) -> Result<u64, StoreError> {
        self.call(|tables| ids.iter().filter_map(|id| tables.parked.remove(id)).count() as u64)
    }
}
