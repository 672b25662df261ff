//! Reading a topic without consuming it.

mod open;

pub use open::{OpenReader, Position};

use crate::call::{Answer, Repeat, expect_reply};
use crate::commit::Cursor;
use crate::consumer::cut;
use crate::core::Core;
use crate::error::{ReadError, RequestError};
use crate::record::Record;
use bytes::Bytes;
use futures_core::Stream;
use posthouse_protocol::message::{CursorSave, Fetch, Slice};
use posthouse_protocol::settings::Position as From;
use posthouse_protocol::{Name, Offset, Outcome, SubscriptionId, TopicId};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::coop::cooperative;

/// Bytes asked for at a time.
const FETCH_BYTES: u32 = 1 << 20;
/// Messages asked for at a time.
const FETCH_MESSAGES: u32 = 10_000;
/// Messages between two looks whether the next part has come, so that the one behind it is asked for
/// while there is still something to take.
const LOOK_EVERY: u32 = 64;
/// How long the broker waits for a message before it says that there is none.
const FOLLOW_WAIT: Duration = Duration::from_secs(20);

/// Reads a topic from a place on, in order, without consuming; also a [`Stream`] of records.
///
/// Two parts of up to 1 MiB are read ahead while the application works on the one before them. Lost connections are
/// ridden out, up to the operation timeout for each part.
#[derive(Debug)]
pub struct Reader {
    core: Arc<Core>,
    topic: (TopicId, Name),
    subscription: Option<(SubscriptionId, String)>,
    follows: Follow,
    state: State,
    /// The part behind the one at hand, or why it did not come.
    ahead: Option<Result<Arrived, ReadError>>,
    slices: VecDeque<Part>,
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
    Fetching(From, Fetching),
}

/// A part that has come.
#[derive(Debug)]
struct Arrived {
    slices: VecDeque<Part>,
    /// Whether it is empty and yet no end: what lay there is gone, and there is more behind it.
    is_behind: bool,
}

/// What is left of a slice.
#[derive(Debug)]
struct Part {
    index: Bytes,
    bodies: Bytes,
    next: Offset,
    left: u32,
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

    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Record>, ReadError>> {
        loop {
            if let Some(part) = self.slices.front_mut() {
                let taken = part.take();
                let left = part.left;
                if left == 0 {
                    self.slices.pop_front();
                }
                if left.is_multiple_of(LOOK_EVERY) && self.ahead.is_none() {
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

    /// Takes up the next part; `false` if there is none.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ReadError>> {
        loop {
            if let Some(arrived) = self.ahead.take() {
                let Arrived { slices, is_behind } = arrived?;
                self.slices = slices;
                return Poll::Ready(Ok(!self.slices.is_empty() || is_behind));
            }
            if let State::At(from) = self.state {
                self.fetch(from);
            }
            ready!(self.poll_ahead(cx));
        }
    }

    /// Gets the part that was asked for, and asks for the one behind it. Ready if nothing was.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Fetching(from, fetching) = &mut self.state else {
            return Poll::Ready(());
        };
        let (from, answer) = (*from, ready!(Pin::new(fetching).poll(cx)));
        self.state = State::At(from);
        let answer = answer.unwrap_or(Err(RequestError::Closed { outcome: Outcome::Definite }));
        let arrived =
            answer.map_err(ReadError::Request).and_then(|answer| self.arrive(from, answer));
        self.ahead = Some(arrived);
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
        let slices = fetched.slices.iter().map(|slice| Part::cut(slice, &mut tail));
        let slices: VecDeque<Part> =
            slices.collect::<Result<_, _>>().map_err(RequestError::Protocol)?;
        let next = From::Offset(fetched.next);
        self.state = State::At(next);
        let is_behind = fetched.next < fetched.end;
        if !slices.is_empty() && (self.follows == Follow::Yes || is_behind) {
            self.fetch(next);
        }
        Ok(Arrived { slices, is_behind })
    }

    fn fetch(&mut self, from: From) {
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
        self.state = State::Fetching(from, fetching);
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

impl Stream for Reader {
    type Item = Result<Record, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        pin!(self.next()).poll(cx).map(Result::transpose)
    }
}

impl Part {
    fn cut(slice: &Slice, tail: &mut Bytes) -> Result<Self, posthouse_protocol::DecodeError> {
        let index = cut(tail, slice.index_len)?;
        let bodies = cut(tail, slice.bodies_len)?;
        Ok(Self { index, bodies, next: slice.first, left: slice.count })
    }

    fn take(&mut self) -> Result<Record, ReadError> {
        let offset = self.next;
        self.next = offset.next();
        self.left = self.left.saturating_sub(1);
        let cut = Record::cut_verified(offset, &mut self.index, &mut self.bodies);
        if cut.is_err() {
            self.left = 0;
        }
        cut.flatten().map_err(|error| ReadError::Damaged { offset, error })
    }
}
