//! The engine: every input to the part that it concerns.

use crate::admission::Admission;
use crate::catalog::{producers, subscriptions, topics};
use crate::commit;
use crate::context::{Client, Context, Journal};
use crate::cursor;
use crate::delay::{Delays, Found};
use crate::delivery::Deliveries;
use crate::effect::Effects;
use crate::event::{Event, Started};
use crate::fetch::Fetches;
use crate::input::{ConnectionId, Input, LoadPurpose};
use crate::producers::Producers;
use crate::publish;
use crate::refusal::Refusal;
use crate::retention::Sweeps;
use crate::state::State;
use crate::time::{Now, Time};
use crate::visibility::Visibility;
use bytes::Bytes;
use posthouse_protocol::{ErrorCode, LogIndex, PartitionId, Request};

/// The state machine of one shard.
#[derive(Debug)]
pub struct Engine {
    state: State,
    journal: Journal,
    volatile: Volatile,
}

/// What is forgotten when the engine stops.
#[derive(Debug, Default)]
pub(crate) struct Volatile {
    pub(crate) deliveries: Deliveries,
    pub(crate) fetches: Fetches,
    pub(crate) producers: Producers,
    pub(crate) sweeps: Sweeps,
    pub(crate) admission: Admission,
    pub(crate) delays: Delays,
    /// Partitions that can be seen further since the last round.
    moved: Vec<PartitionId>,
}

impl Engine {
    /// An engine that goes on from `state`, which recovery folded up to the frame `last`.
    #[must_use]
    pub fn new(state: State, last: LogIndex) -> Self {
        let journal = Journal { last, visibility: Visibility::default() };
        Self { state, journal, volatile: Volatile::default() }
    }

    /// Takes no message with a body above `limit` bytes from now on, whatever a topic allows.
    pub const fn set_message_bytes_max(&mut self, limit: u32) {
        self.volatile.admission.message_bytes_max = limit;
    }

    /// Lets so many delayed messages wait at most.
    #[cfg(test)]
    pub(crate) const fn set_delayed_max(&mut self, limit: usize) {
        self.volatile.admission.delayed_max = limit;
    }

    /// The durable state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Everything below may be seen by readers.
    #[cfg(test)]
    pub(crate) fn visible_end(&self, partition: PartitionId) -> posthouse_protocol::Offset {
        let next = self.state.partitions.get(&partition).map(|partition| partition.next);
        self.journal.visibility.end(partition, next.unwrap_or_default())
    }

    /// Takes one input. What follows from it is appended to `effects`, to be carried out in order
    /// after [`Self::flush`].
    pub fn handle(&mut self, now: Now, input: Input, effects: &mut Effects) {
        let Self { state, journal, volatile } = self;
        let context = &mut Context { now, state, journal, effects };
        match input {
            Input::Start { epoch, clean, damaged } => {
                let skips = context.state.skips_of(epoch, damaged);
                let lost = context.state.lost;
                volatile.start(context, Started { epoch, clean, skips, lost });
            }
            Input::Request { connection, correlation, request, batch } => {
                let client = Client { connection, correlation };
                volatile.request(context, client, request, &batch);
            }
            Input::Disconnected { connection } => volatile.disconnected(context, connection),
            Input::Progress { written, committed } => {
                volatile.progress(context, (written, committed));
            }
            Input::WindowLoaded { subscription, from, entries, next } => {
                volatile.deliveries.window_loaded(context, subscription, from..next, &entries);
            }
            Input::MessageLoaded { purpose, batch } => {
                volatile.message_loaded(context, purpose, batch);
            }
            Input::DueLoaded { partition, offsets, damaged, unreadable, batch } => {
                let found = Found { offsets, damaged, unreadable, batch };
                volatile.publish_due(context, partition, found);
            }
            Input::Space(space) => volatile.admission.space = space,
            Input::Deadline => volatile.on_deadline(context),
            Input::Drain => volatile.drain(),
        }
    }

    /// Ends a round of inputs: hands out what consumers have credit for, asks for windows, and
    /// answers the fetches that waited for what can be seen now.
    pub fn flush(&mut self, now: Now, effects: &mut Effects) {
        let Self { state, journal, volatile } = self;
        volatile.flush(&mut Context { now, state, journal, effects });
    }

    /// What is volatile about deliveries.
    #[cfg(test)]
    pub(crate) const fn deliveries(&self) -> &Deliveries {
        &self.volatile.deliveries
    }

    /// When [`Input::Deadline`] next has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.volatile.next_deadline()
    }
}

impl Volatile {
    fn start(&mut self, context: &mut Context<'_>, started: Started) {
        context.append(vec![Event::Started(started)], Vec::new());
        self.producers.start(context);
        self.sweeps.start(context);
        self.deliveries.start(context);
    }

    fn request(
        &mut self,
        context: &mut Context<'_>,
        client: Client,
        request: Request,
        batch: &Bytes,
    ) {
        match request {
            Request::Publish(request) => publish::publish(self, context, client, &request, batch),
            Request::Settle(request) => self.deliveries.settle(context, client, &request),
            Request::Credit(request) => self.deliveries.credit(context, client, &request),
            Request::Extend(request) => self.deliveries.extend(context, client, &request),
            Request::Subscribe(request) => self.deliveries.subscribe(context, client, &request),
            Request::Unsubscribe(request) => self.deliveries.unsubscribe(context, client, &request),
            Request::DeadRedrive(request) => self.deliveries.redrive(context, client, &request),
            Request::Fetch(request) => self.fetches.fetch(context, client, &request),
            Request::CursorSave(request) => cursor::save(context, client, &request),
            Request::ProducerOpen(request) => self.producers.open(context, client, &request),
            Request::Commit(request) => commit::commit(self, context, client, &request, batch),
            Request::ProducerDescribe(request) => producers::describe(context, client, &request),
            Request::ProducerList(request) => producers::list(context, client, &request),
            Request::ProducerRetire(request) => producers::retire(context, client, &request),
            Request::Hello(_) | Request::Heartbeat(_) => {
                let text = "hello and heartbeat are answered by the connection";
                context.refuse(client, Refusal::of_request(ErrorCode::OutOfState, text));
            }
            Request::TopicCreate(request) => topics::create(context, client, &request),
            Request::TopicAlter(request) => topics::alter(self, context, client, &request),
            Request::TopicPurge(request) => topics::purge(self, context, client, &request),
            Request::TopicDelete(request) => topics::delete(self, context, client, &request),
            Request::TopicDescribe(request) => topics::describe(context, client, &request),
            Request::TopicList(request) => topics::list(context, client, &request),
            Request::SubscriptionCreate(request) => {
                subscriptions::create(self, context, client, &request);
            }
            Request::SubscriptionDelete(request) => {
                subscriptions::delete(self, context, client, &request);
            }
            Request::SubscriptionDescribe(request) => {
                subscriptions::describe(self, context, client, &request);
            }
            Request::SubscriptionList(request) => subscriptions::list(context, client, &request),
        }
    }

    fn message_loaded(
        &mut self,
        context: &mut Context<'_>,
        purpose: LoadPurpose,
        batch: Option<Bytes>,
    ) {
        match purpose {
            LoadPurpose::DeadLetter { subscription, offset } => {
                self.deliveries.bury(context, subscription, offset, batch);
            }
            LoadPurpose::Redrive { partition, offset } => {
                self.deliveries.bring_back(context, partition, offset, batch);
            }
        }
    }

    fn disconnected(&mut self, context: &mut Context<'_>, connection: ConnectionId) {
        self.fetches.disconnected(connection);
        self.producers.disconnected(context.now, connection);
        self.deliveries.disconnected(context, connection);
    }

    fn progress(&mut self, context: &mut Context<'_>, reached: (LogIndex, LogIndex)) {
        let from = self.moved.len();
        context.journal.visibility.advance(context.state, reached, &mut self.moved);
        for partition in self.moved.iter().skip(from) {
            self.deliveries.visible_moved(*partition);
        }
    }

    fn on_deadline(&mut self, context: &mut Context<'_>) {
        self.producers.on_deadline(context);
        self.sweeps.on_deadline(context, &mut self.deliveries);
        self.fetches.on_deadline(context);
        self.deliveries.on_deadline(context);
    }

    fn drain(&mut self) {
        self.admission.draining = true;
        self.deliveries.drain();
    }

    fn flush(&mut self, context: &mut Context<'_>) {
        for partition in self.moved.drain(..) {
            self.fetches.visible_moved(context, partition);
        }
        self.delays.flush(context, &self.admission);
        self.deliveries.flush(context);
    }

    fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.deliveries.next_deadline(),
            self.fetches.next_deadline(),
            self.producers.next_deadline(),
            self.sweeps.next_deadline(),
            self.delays.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }
}
