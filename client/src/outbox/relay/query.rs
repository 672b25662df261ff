//! The machine's queries as calls of the store.

use super::machine::{Answer, Candidate, DatabaseFault, Draft, Query};
use crate::failpoint::{amid, failpoint};
use crate::outbox::encode::{self, Encoded};
use crate::outbox::{
    Claim, Description, Lag, Park, Row, RowId, Step, Store, StoreError, StoreErrorKind,
};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

/// A claim's rows, and what they are at the broker.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    pub(super) rows: Vec<Row>,
    pub(super) encoded: Encoded,
}

/// What a claim is made from.
pub(super) enum Source {
    /// It is made.
    Commit(Commit),
    /// These rows; others may be among them.
    Rows(Vec<Row>),
}

/// A query with everything it needs.
pub(super) struct Job {
    query: Query,
    owner: String,
    lease: Duration,
    /// What the claims that it records are made from.
    sources: BTreeMap<u64, Source>,
    /// Those claims, encoded.
    claims: BTreeMap<u64, Commit>,
}

/// What came of it.
pub(super) struct Report {
    pub(super) answer: Result<Answer, DatabaseFault>,
    pub(super) error: Option<StoreError>,
    pub(super) found: Found,
    /// The claims that were recorded.
    pub(super) claims: BTreeMap<u64, Commit>,
}

/// What the machine does not need to know.
pub(super) enum Found {
    Nothing,
    Description(Description),
    Rows(Vec<Row>),
    Lag(Lag),
}

impl Commit {
    /// Whether it is the one of these rows.
    pub(super) fn is_of(&self, ids: &[RowId]) -> bool {
        self.rows.iter().map(|row| row.id).eq(ids.iter().copied())
    }
}

impl Job {
    pub(super) fn new(
        query: Query,
        (owner, lease): (String, Duration),
        sources: BTreeMap<u64, Source>,
    ) -> Self {
        Self { query, owner, lease, sources, claims: BTreeMap::new() }
    }

    /// A task's part that carries it out.
    pub(super) fn start<S: Store>(
        self,
        mut store: S,
    ) -> Pin<Box<dyn Future<Output = (S, Report)> + Send>> {
        Box::pin(async move {
            let report = self.run(&mut store).await;
            (store, report)
        })
    }

    /// Carries it out.
    async fn run<S: Store>(mut self, store: &mut S) -> Report {
        let result = match self.encode() {
            Ok(()) => self.ask(store).await,
            Err(error) => Err(error),
        };
        let claims = self.claims;
        match result {
            Ok((answer, found)) => Report { answer: Ok(answer), error: None, found, claims },
            Err(error) => {
                let fault = match error.kind() {
                    StoreErrorKind::Transient => DatabaseFault::Transient,
                    StoreErrorKind::NotInstalled => DatabaseFault::NotInstalled,
                    StoreErrorKind::Permanent => DatabaseFault::Permanent,
                };
                let found = Found::Nothing;
                Report { answer: Err(fault), error: Some(error), found, claims }
            }
        }
    }

    /// Not before it is carried out, so that a look that was asked for meanwhile is under way.
    fn encode(&mut self) -> Result<(), StoreError> {
        for draft in self.query.drafts() {
            let commit = match self.sources.remove(&draft.sequence) {
                Some(Source::Commit(commit)) => commit,
                Some(Source::Rows(rows)) => commit(&draft.rows, rows)?,
                None => continue,
            };
            self.claims.insert(draft.sequence, commit);
        }
        Ok(())
    }

    async fn ask<S: Store>(&mut self, store: &mut S) -> Result<(Answer, Found), StoreError> {
        let answer = match &self.query {
            Query::Describe => return describe(store).await,
            Query::Scan { gaps, after, rows_max, bytes_max } => {
                let rows = store.scan(gaps, *after, *rows_max, *bytes_max).await?;
                return Ok(scanned(rows));
            }
            Query::Lag => return Ok((Answer::Lag, Found::Lag(store.lag().await?))),
            Query::Load { sequence, rows } => {
                let (sequence, rows) = (*sequence, store.rows(rows).await?);
                self.load(sequence, rows)
            }
            Query::Acquire => Answer::Acquired(store.acquire(&self.owner, self.lease).await?),
            Query::RaiseEpoch { from, to } => {
                let is_done = store.raise_epoch(*from, *to).await?;
                failpoint("relay.after-fence");
                Answer::Done(is_done)
            }
            Query::Adopt { epoch } => Answer::Done(store.adopt(*epoch).await?),
            Query::Claims => Answer::Claims(store.claims().await?),
            Query::Sweep { from, through, limit } => {
                Answer::Swept(store.sweep(*from, *through, *limit).await?)
            }
            Query::Step { from, acked, done, claim } => {
                let step = Step {
                    from: *from,
                    lease: self.lease,
                    acked: *acked,
                    done: done.clone(),
                    claim: claim.as_ref().map(|draft| self.claim(draft)),
                };
                Answer::Done(run_step(store, &step).await?)
            }
            Query::Park { from, rows, claims } => {
                let claims = claims.iter().map(|draft| self.claim(draft)).collect();
                let park = Park { from: *from, rows: rows.clone(), claims };
                if !rows.is_empty() {
                    failpoint("relay.before-park");
                }
                let is_done = store.park(&park).await?;
                if !rows.is_empty() {
                    failpoint("relay.after-park");
                }
                Answer::Done(is_done)
            }
            Query::Release { epoch } => {
                store.release(*epoch).await?;
                Answer::Released
            }
        };
        Ok((answer, Found::Nothing))
    }

    fn claim(&self, draft: &Draft) -> Claim {
        let digest = self.claims.get(&draft.sequence).map_or(0, |it| it.encoded.digest);
        Claim { sequence: draft.sequence, rows: draft.rows.clone(), digest }
    }

    fn load(&mut self, sequence: u64, rows: Vec<Row>) -> Answer {
        let Query::Load { rows: ids, .. } = &self.query else {
            return Answer::Loaded { digest: None, bytes: 0 };
        };
        let is_whole = rows.iter().map(|row| row.id).eq(ids.iter().copied());
        let encoded = if is_whole { encode::encode(&rows).ok() } else { None };
        let digest = encoded.as_ref().map(|encoded| encoded.digest);
        let bytes = rows.iter().map(encode::weight).sum();
        if let Some(encoded) = encoded {
            self.claims.insert(sequence, Commit { rows, encoded });
        }
        Answer::Loaded { digest, bytes }
    }
}

async fn describe<S: Store>(store: &mut S) -> Result<(Answer, Found), StoreError> {
    let found = store.describe().await?;
    let knows = !found.belongs_to.is_empty() && !found.found_in.is_empty();
    let is_copied = knows && found.belongs_to != found.found_in;
    let schema_version = found.schema_version;
    Ok((Answer::Described { schema_version, is_copied }, Found::Description(found)))
}

fn scanned(rows: Vec<Row>) -> (Answer, Found) {
    if !rows.is_empty() {
        failpoint("relay.after-scan");
    }
    let candidate =
        |row: &Row| Candidate { id: row.id, bytes: encode::weight(row), fault: encode::fault(row) };
    (Answer::Scanned(rows.iter().map(candidate).collect()), Found::Rows(rows))
}

async fn run_step<S: Store>(store: &mut S, step: &Step) -> Result<bool, StoreError> {
    if step.claim.is_some() {
        failpoint("relay.before-claim-commit");
    }
    if !step.done.is_empty() {
        failpoint("relay.before-delete-commit");
    }
    let claiming = step.claim.is_some().then_some("relay.in-claim-commit");
    let deleting = (!step.done.is_empty()).then_some("relay.in-delete-commit");
    let is_done = amid(claiming, amid(deleting, store.step(step))).await?;
    if step.claim.is_some() {
        failpoint("relay.after-claim-commit");
    }
    if !step.done.is_empty() {
        failpoint("relay.after-delete-commit");
    }
    Ok(is_done)
}

/// The rows of a claim, out of those that were read, which ascend.
///
/// # Errors
///
/// [`StoreError`], permanent, if one of them is not there or cannot be sent: the machine was told
/// that it can.
pub(super) fn commit(ids: &[RowId], mut rows: Vec<Row>) -> Result<Commit, StoreError> {
    let permanent = |text: String| StoreError::new(StoreErrorKind::Permanent, text);
    rows.retain(|row| ids.binary_search(&row.id).is_ok());
    if rows.len() != ids.len() {
        return Err(permanent("rows of a claim are not at hand".to_owned()));
    }
    let encoded = encode::encode(&rows)
        .map_err(|bad| permanent(format!("row {} does not encode: {}", bad.row.0, bad.reason)))?;
    Ok(Commit { rows, encoded })
}
