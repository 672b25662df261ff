//! The front: a directory in, the parts of an open store out.

use crate::checkpointer::{self, Checkpointer};
use crate::fold::Fold;
use crate::fs::Fs;
use crate::journal::Journal;
use crate::options::Options;
use crate::reader::Reader;
use crate::recover::{Base, OpenError, Recovered, RecoveryReport, recover};
use crate::run::{Runs, SetError};
use crate::shared::{Shared, View};
use std::sync::Arc;

/// An open store. Its parts are used by different threads and know each other only through
/// [`Shared`].
#[derive(Debug)]
pub struct Store<F> {
    /// What the journal folds into.
    pub state: F,
    /// What recovery found and did.
    pub report: RecoveryReport,
    /// For the core thread.
    pub journal: Journal,
    /// For everyone.
    pub reader: Reader,
    /// For a thread in the background.
    pub checkpointer: Checkpointer<F>,
    /// What the parts have in common.
    pub shared: Arc<Shared>,
}

impl<F: Fold> Store<F> {
    /// Recovers the store in `fs`, or makes a new one. When it returns, everything it found is
    /// durable, and so is the new start epoch.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; damage alone is none, see [`RecoveryReport`].
    pub fn open(fs: Arc<dyn Fs>, options: Options) -> Result<Self, OpenError> {
        let recovered = recover::<F>(&fs, &options)?;
        let Recovered {
            state,
            base,
            mut report,
            slots,
            used,
            ready,
            unfolded,
            written_bytes,
            from,
        } = recovered;
        let manifest = slots.current();
        let (runs, mut damaged) = Runs::open(&*fs, manifest.store, &manifest.runs, &used);
        if let Some(refused) = damaged.iter().position(SetError::may_pass) {
            return Err(OpenError::Run(damaged.swap_remove(refused)));
        }
        report.runs_damaged = damaged.iter().map(ToString::to_string).collect();
        let shared = Shared::new(fs, options, slots, Arc::new(runs.clone()));
        shared.advance_written(report.last, written_bytes);
        shared.advance_durable(report.last);
        for segment in ready {
            shared.push_ready(Arc::new(segment));
        }
        {
            let mut view = shared.change_view();
            let View { segments, unfolded: index, .. } = &mut *view;
            *index = unfolded;
            segments.extend(used.into_iter().map(|segment| (segment.id, Arc::new(segment))));
        }
        let shared = Arc::new(shared);
        let journal = Journal::start(Arc::clone(&shared), &from).map_err(OpenError::Journal)?;
        let reader = Reader::new(Arc::clone(&shared));
        let Base { state: folded, index, term, time } = base;
        let start = checkpointer::Start { state: folded, index, term, time, runs };
        let checkpointer = Checkpointer::new(Arc::clone(&shared), start);
        Ok(Self { state, report, journal, reader, checkpointer, shared })
    }
}
