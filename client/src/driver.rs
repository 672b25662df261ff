//! The client's one task: keeps a connection up and carries frames between it and the session.

mod backoff;
mod calls;
mod connection;
mod outgoing;
mod ready;
mod received;
mod session;
mod timers;

pub(crate) use outgoing::{Outgoing, Owner};
pub(crate) use timers::Timers;

use crate::connector::Connector;
use crate::error::ConnectError;
use crate::ids::random;
use crate::limits::BrokerLimits;
use crate::mailbox::{Mail, Mailbox};
use crate::options::Options;
use backoff::Backoff;
use connection::{Connection, Failure, Progress, malformed};
use posthouse_protocol::limits::{HEARTBEAT_SECONDS, IDLE_SECONDS_MAX};
use posthouse_protocol::message::Heartbeat;
use session::Session;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// A broker that says nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(IDLE_SECONDS_MAX);
/// After so long without a frame the client says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(HEARTBEAT_SECONDS);

/// Drives one client.
#[derive(Debug)]
pub(crate) struct Driver {
    name: String,
    connect_timeout: Duration,
    servers: Servers,
    mailbox: Arc<Mailbox>,
    limits: Arc<BrokerLimits>,
    session: Session,
    out: Outgoing,
    mail: Vec<Mail>,
    /// Whether anything came over the last connection.
    was_answered: bool,
}

/// The brokers to try, in turn.
#[derive(Debug)]
struct Servers {
    connectors: Vec<Box<dyn Connector>>,
    /// The one tried last, or to be tried first.
    turn: usize,
    backoff: Backoff,
}

impl Driver {
    pub(crate) fn new(
        options: Options,
        connectors: Vec<Box<dyn Connector>>,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        Self {
            name: options.name,
            connect_timeout: options.connect_timeout,
            servers: Servers { connectors, turn: 0, backoff: Backoff::default() },
            mailbox,
            limits: Arc::new(BrokerLimits::new()),
            session: Session::new(options.publish_timeout),
            out: Outgoing::default(),
            mail: Vec::new(),
            was_answered: false,
        }
    }

    /// What the broker at hand takes.
    pub(crate) fn limits(&self) -> Arc<BrokerLimits> {
        Arc::clone(&self.limits)
    }

    /// Connects for the first time and returns the task.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] when a broker refuses, or none is reached in time.
    pub(crate) async fn connect_first(
        mut self,
    ) -> Result<impl Future<Output = ()> + Send + 'static, ConnectError> {
        let mut last = None;
        let connecting = async {
            loop {
                // Of an attempt that hangs there is no error to tell.
                last = None;
                match self.servers.attempt(&self.name).await {
                    Ok(connection) => return Ok(connection),
                    Err(Failure::Refused(refusal)) if !refusal.is_retriable() => {
                        return Err(ConnectError::Refused(refusal));
                    }
                    Err(Failure::Refused(_) | Failure::TimedOut) => {}
                    Err(Failure::Io(error)) => last = Some(Arc::new(error)),
                }
                sleep(self.servers.backoff.next(random())).await;
                self.servers.turn += 1;
            }
        };
        let connected = timeout(self.connect_timeout, connecting).await;
        let unreachable = |_| {
            let server = self.servers.current();
            Err(ConnectError::Unreachable { server, last })
        };
        let connection = connected.unwrap_or_else(unreachable)?;
        Ok(self.run(connection))
    }

    async fn run(mut self, first: Connection) {
        let mut next = Some(first);
        while let Some(connection) = next {
            let since = Instant::now();
            let lost = self.serve(connection).await;
            self.out.reset();
            self.session.on_disconnect();
            let Some(error) = lost else {
                return;
            };
            tracing::warn!(server = self.servers.current(), %error, "connection lost");
            // A broker that answers, or stays, was worth coming to: lost, it is tried again soon. What
            // it has been offended by will be sent again, so then the pauses go on growing.
            let has_lived = self.was_answered || since.elapsed() >= backoff::LONGEST;
            if has_lived && !self.session.is_at_fault() {
                self.servers.backoff = Backoff::default();
            }
            next = self.reconnect().await;
        }
    }

    /// Connects again, however long it takes; `None` once the client is closed.
    async fn reconnect(&mut self) -> Option<Connection> {
        let Self { servers, session, mailbox, mail, name, .. } = self;
        let connecting = async {
            loop {
                sleep(servers.backoff.next(random())).await;
                servers.turn += 1;
                match servers.attempt(name).await {
                    Ok(connection) => return connection,
                    Err(failure) => tracing::debug!(?failure, "no connection yet"),
                }
            }
        };
        let mut connecting = pin!(connecting);
        loop {
            let now = Instant::now();
            mail.drain(..).for_each(|mail| session.on_mail(mail, now));
            session.on_time(now);
            session.watch();
            if session.is_over(now) {
                return None;
            }
            let deadline = session.next_deadline();
            tokio::select! {
                connection = &mut connecting => {
                    tracing::info!("connected again");
                    return Some(connection);
                }
                () = poll_fn(|cx| mailbox.poll_collect(cx, mail)) => {}
                () = sleep_until(deadline.unwrap_or(now)), if deadline.is_some() => {}
            }
        }
    }

    /// Carries frames until the connection is lost (then says why) or the client is closed.
    async fn serve(&mut self, mut connection: Connection) -> Option<io::Error> {
        self.was_answered = false;
        self.limits.set(&connection.welcome);
        self.out.limit(connection.welcome.batch_bytes_max);
        self.session.on_connect(connection.welcome.start_epoch);
        loop {
            let now = Instant::now();
            self.mail.drain(..).for_each(|mail| self.session.on_mail(mail, now));
            self.session.on_time(now);
            self.session.fill(now, &mut self.out);
            if self.session.is_over(now) {
                self.hang_up(connection).await;
                return None;
            }
            if let Err(error) = self.turn(&mut connection, now).await {
                connection.read_last().await;
                // What cannot be decoded costs the connection, and that is lost already.
                let _ = self.on_received(&mut connection);
                return Some(error);
            }
        }
    }

    /// Waits until something happens, and hands on what has come.
    async fn turn(&mut self, connection: &mut Connection, now: Instant) -> io::Result<()> {
        if connection.spoke + HEARTBEAT <= now {
            self.out.tell(Heartbeat {});
            connection.rest();
        }
        if !self.out.is_empty() {
            connection.spoke = now;
        }
        if connection.heard + SILENCE_MAX <= now {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the broker is silent"));
        }
        let beats = (connection.spoke + HEARTBEAT).min(connection.heard + SILENCE_MAX);
        let deadline = self.session.next_deadline().map_or(beats, |at| at.min(beats));
        let mut sleep = pin!(sleep_until(deadline));
        let progress = poll_fn(|cx| {
            let progress = connection.poll_progress(&mut self.out, cx)?;
            let has_mail = self.mailbox.poll_collect(cx, &mut self.mail).is_ready();
            let is_late = sleep.as_mut().poll(cx).is_ready();
            match progress {
                Poll::Ready(progress) => Poll::Ready(io::Result::Ok(progress)),
                Poll::Pending if has_mail || is_late => Poll::Ready(Ok(Progress::default())),
                Poll::Pending => Poll::Pending,
            }
        });
        if progress.await?.received {
            self.on_received(connection).map_err(malformed)?;
        }
        Ok(())
    }

    fn on_received(
        &mut self,
        connection: &mut Connection,
    ) -> Result<(), posthouse_protocol::DecodeError> {
        let now = Instant::now();
        connection.heard = now;
        self.was_answered = true;
        while let Some(frame) = connection.next_frame()? {
            self.session.on_frame(frame, &mut self.out, now)?;
        }
        Ok(())
    }

    /// Gives back what was not taken, and closes the connection.
    async fn hang_up(&mut self, mut connection: Connection) {
        self.session.unsubscribe(&mut self.out);
        let out = &mut self.out;
        let wait = !out.is_empty();
        let flush = poll_fn(|cx| match connection.poll_progress(out, cx) {
            Poll::Ready(Ok(progress)) if progress.received && !out.is_empty() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        });
        // Not being able to say goodbye costs the broker a moment, and nothing else. With nothing to
        // say there is nothing to wait for.
        if wait {
            let _ = timeout(Duration::from_secs(1), flush).await;
        }
        connection.shutdown().await;
    }
}

/// However the task ends, nobody waits for it any longer.
impl Drop for Driver {
    fn drop(&mut self) {
        let now = Instant::now();
        let left = std::mem::take(&mut self.mail).into_iter().chain(self.mailbox.close());
        left.for_each(|mail| self.session.on_mail(mail, now));
        self.session.abandon();
    }
}

impl Servers {
    /// Its name.
    fn current(&self) -> String {
        let connector = self.connectors.get(self.turn % self.connectors.len().max(1));
        connector.map(|connector| connector.server()).unwrap_or_default()
    }

    async fn attempt(&self, client: &str) -> Result<Connection, Failure> {
        let at = self.turn % self.connectors.len().max(1);
        match self.connectors.get(at) {
            Some(connector) => Connection::open(&**connector, client).await,
            None => Err(Failure::TimedOut),
        }
    }
}
