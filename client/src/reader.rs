//! Reading a topic without consuming it.

mod open;
mod part;

pub use open::{OpenReader, Position};

use crate::call::{Answer, Repeat, expect_reply};
use crate::commit::Cursor;
use crate::core::Core;
use crate::error::{ReadError, RequestError};
use crate::record::Record;
use crate::records::Records;
use futures_core::Stream;
use part::Part;
use posthouse_protocol::message::{CursorSave, Fetch};
use posthouse_protocol::settings::Position as From;
use posthouse_protocol::{Name, Offset, Outcome, SubscriptionId, TopicId};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::coop::{cooperative, has_budget_remaining, poll_proceed};

/// Bytes asked for at a time.
const FETCH_BYTES: u32 = 1 << 20;
/// Messages asked for at a time.
const FETCH_MESSAGES: u32 = 10_000;
/// Messages between two looks whether the next part has come, so that the one behind it is asked for
/// while there is still something to take.
const LOOK_EVERY: u32 = 64;
/// Records taken together for each unit of the effort after which a task lets others run; one taken
/// alone is a unit, and the whole is 128.
const RECORDS_PER_EFFORT: usize = 16;
/// How long the broker waits for a message before it says that there is none.
const FOLLOW_WAIT: Duration = Duration::from_secs(20);

/// Reads a topic from a place on, in order, without consuming; also a [`Stream`] of records.
///
/// Two parts of about 1 MiB, or of one larger message, are read ahead while the application works on
/// the one before them. Lost connections are ridden out, up to the operation timeout for each part; a
/// part that failed before it was waited for is asked for again.
#[derive(Debug)]
pub struct Reader {
    core: Arc<Core>,
    topic: (TopicId, Name),
    subscription: Option<(SubscriptionId, String)>,
    follows: Follow,
    state: State,
    /// The part behind the one at hand, or why there can be none.
    ahead: Option<Result<Arrived, ReadError>>,
    slices: VecDeque<Part>,
    /// The place behind the last message that was found damaged.
    damaged: Option<Offset>,
}

/// What a reader does at the end of the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follow {
    /// It says so.
    No,
    /// It waits for more.
    Yes,
}

type Fetching = oneshot::Receiver<Result<Answer, RequestError>>;

/// The part behind all that have come.
#[derive(Debug)]
enum State {
    /// Not asked for.
    At(From),
    /// On its way.
    Fetching(From, Fetching, Wanted),
}

/// Who waits for a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// The application, for it has all that is before it.
    Now,
    /// Nobody yet.
    Later,
}

/// A part that has come.
#[derive(Debug)]
struct Arrived {
    slices: VecDeque<Part>,
    /// Whether it is empty and yet no end: what lay there is gone, and there is more behind it.
    is_behind: bool,
}

impl Reader {
    /// The next message. `Ok(None)` at the end of what was visible when it was asked for; a later call
    /// looks again. A reader that [follows](OpenReader::follow) waits instead.
    ///
    /// # Cancellation
    ///
    /// Safe: dropped before it returns, nothing is passed over.
    ///
    /// # Errors
    ///
    /// [`ReadError`]. The next call goes on: behind a damaged message, and otherwise with another try,
    /// at once: whoever goes on in a loop should pause.
    pub async fn next(&mut self) -> Result<Option<Record>, ReadError> {
        // A loop of records that are all there lets others run.
        cooperative(poll_fn(|cx| self.poll_record(cx))).await
    }

    /// The next messages in a row, at least one and up to 1,000: those that were published together, as
    /// far as they have come. `Ok(None)` as in [`Self::next`], with which it may take turns.
    ///
    /// The fast way to read very many messages: they are lent from where they were received and, unlike
    /// a [`Record`] each, take no counting of references. They have all been checked.
    ///
    /// ```no_run
    /// # async fn read(mut reader: posthouse_client::Reader) -> Result<(), posthouse_client::ReadError> {
    /// let mut bytes = 0;
    /// while let Some(records) = reader.next_records().await? {
    ///     bytes += records.iter().map(|record| record.body().len()).sum::<usize>();
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancellation
    ///
    /// Safe: dropped before it returns, nothing is passed over.
    ///
    /// # Errors
    ///
    /// As [`Self::next`]. What is sound before a damaged message is given first.
    pub async fn next_records(&mut self) -> Result<Option<Records>, ReadError> {
        cooperative(poll_fn(|cx| self.poll_records(cx))).await
    }

    fn poll_records(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Records>, ReadError>> {
        let taken = ready!(self.poll_taken(cx, Part::take_many));
        if let Ok(Some(records)) = &taken {
            // What asks for the next part and receives it has to run meanwhile.
            spend_effort(cx, records.len() / RECORDS_PER_EFFORT);
        }
        Poll::Ready(taken)
    }

    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Record>, ReadError>> {
        self.poll_taken(cx, Part::take)
    }

    fn poll_taken<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl Fn(&mut Part) -> Result<T, ReadError>,
    ) -> Poll<Result<Option<T>, ReadError>> {
        loop {
            if let Some(part) = self.slices.front_mut() {
                let before = part.left();
                let taken = take(part);
                if let Err(ReadError::Damaged { offset, .. }) = taken {
                    self.pass_damaged(offset);
                    return Poll::Ready(taken.map(Some));
                }
                let left = part.left();
                if left == 0 {
                    self.slices.pop_front();
                }
                let is_due = left / LOOK_EVERY < before / LOOK_EVERY || left == 0;
                if is_due && self.ahead.is_none() {
                    // What has not come yet is waited for when it is needed.
                    let _: Poll<()> = self.poll_ahead(cx);
                }
                return Poll::Ready(taken.map(Some));
            }
            let found = ready!(self.poll_part(cx))?;
            if !found && self.follows == Follow::No {
                return Poll::Ready(Ok(None));
            }
        }
    }

    /// Goes on behind a damaged message. It may have become that on its way here, and then what lies
    /// behind it cannot be trusted, or found, either: that is asked for again, but not behind each of
    /// many in a row, which are damaged where they are kept.
    fn pass_damaged(&mut self, offset: Offset) {
        let is_in_row = self.damaged.replace(offset.next()) == Some(offset);
        let is_more = self.slices.front().is_some_and(|part| part.left() > 0);
        if !is_in_row || !is_more {
            self.seek(offset.next());
        }
    }

    /// Takes up the next part; `false` if there is none.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ReadError>> {
        loop {
            if let Some(arrived) = self.ahead.take() {
                let Arrived { slices, is_behind } = arrived?;
                self.slices = slices;
                return Poll::Ready(Ok(!self.slices.is_empty() || is_behind));
            }
            if let State::At(from) = self.state {
                self.fetch(from, Wanted::Now);
            }
            if self.poll_ahead(cx).is_pending() {
                self.want();
                return Poll::Pending;
            }
        }
    }

    /// The part that is on its way is waited for from now on.
    fn want(&mut self) {
        if let State::Fetching(_, _, wanted) = &mut self.state {
            *wanted = Wanted::Now;
        }
    }

    /// Gets the part that was asked for, and asks for the one behind it. Ready if nothing was.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Fetching(from, fetching, wanted) = &mut self.state else {
            return Poll::Ready(());
        };
        let (from, wanted, answer) = (*from, *wanted, ready!(Pin::new(fetching).poll(cx)));
        self.state = State::At(from);
        let answer = answer.unwrap_or(Err(RequestError::Closed { outcome: Outcome::Definite }));
        let arrived =
            answer.map_err(ReadError::Request).and_then(|answer| self.arrive(from, answer));
        // What failed while nobody waited may be long over.
        let is_stale = wanted == Wanted::Later && matches!(arrived, Err(ReadError::Request(_)));
        self.ahead = (!is_stale).then_some(arrived);
        Poll::Ready(())
    }

    fn arrive(&mut self, from: From, answer: Answer) -> Result<Arrived, ReadError> {
        let mut tail = answer.tail.clone();
        let fetched = expect_reply!(answer, Fetched)?;
        if let From::Offset(offset) = from
            && offset > fetched.end
        {
            return Err(ReadError::BeyondEnd { offset, end: fetched.end });
        }
        if let Some(first) = fetched.damaged_from {
            self.state = State::At(From::Offset(fetched.next));
            return Err(ReadError::Unreadable { first, next: fetched.next });
        }
        let slices = fetched.slices.iter().map(|slice| Part::cut(slice, &mut tail));
        let slices: VecDeque<Part> =
            slices.collect::<Result<_, _>>().map_err(RequestError::Protocol)?;
        let next = From::Offset(fetched.next);
        self.state = State::At(next);
        let is_behind = fetched.next < fetched.end;
        if !slices.is_empty() && (self.follows == Follow::Yes || is_behind) {
            self.fetch(next, Wanted::Later);
        }
        Ok(Arrived { slices, is_behind })
    }

    fn fetch(&mut self, from: From, wanted: Wanted) {
        let wait = match self.follows {
            Follow::No => Duration::ZERO,
            Follow::Yes => FOLLOW_WAIT,
        };
        let request = Fetch {
            topic: self.topic.0,
            from,
            bytes_max: FETCH_BYTES,
            messages_max: FETCH_MESSAGES,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let timeout = self.core.options.operation_timeout + wait;
        let fetching = self.core.start_call(request, Repeat::Safe, timeout);
        self.state = State::Fetching(from, fetching, wanted);
    }

    /// Goes on from another place.
    pub fn seek(&mut self, to: Offset) {
        self.slices.clear();
        self.ahead = None;
        self.state = State::At(From::Offset(to));
    }

    /// Saves the subscription's cursor, for a reader opened at [`Position::Saved`]: everything below
    /// `next` is done, and a reader opened there later starts at `next`. After a record at `offset`
    /// is done, that is `offset.next()`.
    ///
    /// # Cancellation
    ///
    /// Dropped, the cursor may be saved or not.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoSubscription`], or the request's error. Saving again is safe.
    pub async fn save(&self, next: Offset) -> Result<(), ReadError> {
        let (subscription, _) = self.subscription.as_ref().ok_or(ReadError::NoSubscription)?;
        let save = CursorSave { subscription: *subscription, offset: next };
        let answer = self.core.call(save, Repeat::Safe).await?;
        expect_reply!(answer, Done).map(|_| ()).map_err(ReadError::Request)
    }

    /// The subscription's cursor at this place, to be saved in a [commit](crate::Commit), for a reader
    /// opened at [`Position::Saved`]: everything below `next` is done.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoSubscription`].
    pub fn cursor(&self, next: Offset) -> Result<Cursor, ReadError> {
        let (subscription, name) = self.subscription.clone().ok_or(ReadError::NoSubscription)?;
        Ok(Cursor { subscription, next, topic: self.topic.1.clone(), name })
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.topic.1.as_str()
    }
}

/// Takes so much of what is left of the task's effort. Only what was done counts: one that waits and
/// yet spends would keep others of its task from being looked at.
fn spend_effort(cx: &mut Context<'_>, units: usize) {
    for _ in 0..units {
        if !has_budget_remaining() {
            return;
        }
        if let Poll::Ready(unit) = poll_proceed(cx) {
            unit.made_progress();
        }
    }
}

impl Stream for Reader {
    type Item = Result<Record, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        pin!(self.next()).poll(cx).map(Result::transpose)
    }
}
