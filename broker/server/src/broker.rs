//! Starting a broker, reaching it from the same process, and stopping it.

use crate::checkpoint::CheckpointThread;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Endpoint};
use crate::connection::Greeting;
use crate::core::{Connections, Core, Parts};
use crate::exit::Exit;
use crate::fold::Folded;
use crate::inbox::Inbox;
use crate::listener::{Host, Listener, accept_all, accept_inner};
use crate::outbox::Memory;
use crate::shell::Room;
use crate::spin::Spin;
use posthouse_client::{Connecting, Pipe};
use posthouse_engine::Engine;
use posthouse_protocol::message::Goodbye;
use posthouse_protocol::{CorrelationId, ErrorCode, Reply, limits};
use posthouse_storage::Store;
use posthouse_storage::fs::real::RealFs;
use std::cell::Cell;
use std::fmt;
use std::num::NonZero;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{JoinHandle, available_parallelism};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes of the pipe to an in-process client.
const PIPE_BYTES: usize = 256 << 10;
/// Connections from the same process that wait to be accepted.
const PIPES_WAITING: usize = 64;

/// Looks at the sockets before a round.
const LOOKS_MAX: usize = 8;
/// Bytes of inputs with which a round begins at once.
const LOOKS_BYTES_MAX: usize = 64 << 10;

/// A running broker.
///
/// Dropping it stops it as [`Broker::shutdown`] does, without waiting for the end. A broker of
/// [`Config::temporary`] stops at once instead, as if it were killed, and the drop returns when it
/// has: unless somebody keeps a clone of the configuration, nothing of it is left, not even if the
/// process ends now. The drop waits for the step that the checkpointer is in, such as making a segment
/// of 32 MiB ready; if the broker was stopping already, for its checkpoint.
#[derive(Debug)]
pub struct Broker {
    addresses: Vec<String>,
    connector: Connector,
    temporary: bool,
    stop: watch::Sender<Stop>,
    stopped: watch::Receiver<Option<Exit>>,
    thread: Option<JoinHandle<()>>,
}

/// What the broker was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// To go on.
    No,
    /// To end as [`Broker::stop`] says.
    Drain,
    /// To end now: what it has goes with it.
    AtOnce,
}

/// Reaches a broker of the same process over in-memory pipes.
#[derive(Clone, Debug)]
pub struct Connector {
    pipes: mpsc::Sender<DuplexStream>,
}

impl Connector {
    /// Opens a pipe that carries the same frames as a socket.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if the broker has stopped.
    pub async fn connect(&self) -> std::io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let refused = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        self.pipes.send(theirs).await.map_err(refused)?;
        Ok(ours)
    }
}

impl posthouse_client::Connector for Connector {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async { Ok(Box::new(Self::connect(self).await?) as Box<dyn Pipe>) })
    }

    fn server(&self) -> String {
        "the broker in this process".to_owned()
    }
}

/// A broker could not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration does not fit together or is not safe.
    Config(ConfigError),
    /// The data directory cannot be used: in use, damaged, or not ours.
    Store(String),
    /// The system's, with what was attempted.
    Io {
        /// What.
        doing: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The start was begun and failed.
    Exit(Exit),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(f, "{error}"),
            Self::Store(text) => f.write_str(text),
            Self::Io { doing, source } => write!(f, "cannot {doing}: {source}"),
            Self::Exit(exit) => write!(f, "{exit}"),
        }
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// The process's exit code: 74 if the disk failed, else 1.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Exit(exit) => exit.code(),
            Self::Config(_) | Self::Store(_) | Self::Io { .. } => 1,
        }
    }
}

impl Broker {
    /// Starts a broker: recovers the data directory, then listens. When this returns, the start
    /// epoch is durable and clients can connect.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running, and the data directory is free.
    ///
    /// # Cancellation
    ///
    /// Dropped, it goes on in the background until it has started, and stops then; the drop of one
    /// with a temporary configuration waits for that.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let (pipes, inner) = mpsc::channel(PIPES_WAITING);
        let (stop, stopping) = watch::channel(Stop::No);
        let (ended, stopped) = watch::channel(None);
        let (ready, started) = oneshot::channel();
        let temporary = config.is_temporary();
        let thread = std::thread::Builder::new()
            .name("posthouse-core".to_owned())
            .spawn(move || {
                let shard = Shard { config, inner, stopping };
                let exit = shard.run(ready);
                ended.send_replace(Some(exit));
            })
            .map_err(|source| StartError::Io { doing: "start a thread".to_owned(), source })?;
        let (addresses, connector) = (Vec::new(), Connector { pipes });
        // Dropped before it is ready, it ends like any other.
        let mut broker =
            Self { addresses, connector, temporary, stop, stopped, thread: Some(thread) };
        let started = started.await;
        if !matches!(started, Ok(Ok(_))) {
            let exit = broker.stopped().await;
            tracing::debug!(%exit, "not started");
        }
        let bug = |_| StartError::Exit(Exit::Bug("the core died while starting".to_owned()));
        broker.addresses = started.map_err(bug)??;
        Ok(broker)
    }

    /// Where it listens: `HOST:PORT` or `unix:PATH`, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Reaches it from this process.
    #[must_use]
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// Waits until it has ended by itself or was stopped. Cancel-safe.
    pub async fn stopped(&mut self) -> Exit {
        match self.stopped.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(Exit::Clean),
            Err(_) => Exit::Bug("the core panicked".to_owned()),
        }
    }

    /// Asks it to stop: refuses new work, answers what is under way, makes everything durable and
    /// writes a checkpoint. Returns at once; [`Broker::stopped`] tells the end.
    pub fn stop(&self) {
        self.stop.send_replace(Stop::Drain);
    }

    /// Stops it and waits for the end.
    pub async fn shutdown(mut self) -> Exit {
        self.stop();
        let exit = self.stopped().await;
        if let Some(thread) = self.thread.take() {
            // It has told its end; what is left of it takes no time.
            if thread.join().is_err() {
                return Exit::Bug("the core panicked".to_owned());
            }
        }
        exit
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if !self.temporary {
            return self.stop();
        }
        // Its directory goes with its thread; a process that ended first would leave it behind.
        self.stop.send_replace(Stop::AtOnce);
        if thread.join().is_err() {
            tracing::error!("the core panicked");
        }
    }
}

/// Waits until the broker was told to end at once, which it may never be.
async fn told_at_once(mut stopping: watch::Receiver<Stop>) {
    if stopping.wait_for(|stop| *stop == Stop::AtOnce).await.is_err() {
        std::future::pending::<()>().await;
    }
}

type Ready = oneshot::Sender<Result<Vec<String>, StartError>>;

/// What runs on the core's thread.
struct Shard {
    config: Config,
    inner: mpsc::Receiver<DuplexStream>,
    stopping: watch::Receiver<Stop>,
}

impl Shard {
    fn run(self, ready: Ready) -> Exit {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(source) => {
                let doing = "start the runtime".to_owned();
                return give_up(ready, StartError::Io { doing, source });
            }
        };
        // A task of its own, and not the future that the runtime blocks on, which is polled first: so
        // the core queues behind the connections that a look at the sockets has found ready.
        let served = runtime.block_on(async { tokio::task::spawn_local(self.serve(ready)).await });
        served.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    async fn serve(self, ready: Ready) -> Exit {
        let Self { config, inner, stopping } = self;
        let opened = match Opened::open(&config) {
            Ok(opened) => opened,
            Err(error) => return give_up(ready, error),
        };
        let Opened { mut core, checkpoints, inbox, connections, greeting } = opened;
        let (listeners, addresses) = match bind(&config).await {
            Ok(bound) => bound,
            Err(error) => return give_up(ready, error),
        };
        let host = Host {
            inbox: Rc::clone(&inbox),
            connections: Rc::clone(&connections),
            connections_max: usize::try_from(config.connections_max).unwrap_or(usize::MAX),
            greeting,
            memory: Rc::new(Memory::new(
                usize::try_from(config.connection_bytes_max).unwrap_or(usize::MAX),
                usize::try_from(config.buffers_bytes_max).unwrap_or(usize::MAX),
            )),
            next_id: Rc::new(Cell::new(1)),
        };
        let mut accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| tokio::task::spawn_local(accept_all(listener, host.clone())))
            .collect();
        accepting.push(tokio::task::spawn_local(accept_inner(inner, host)));
        tracing::info!(?addresses, epoch = %greeting.start_epoch, "ready");
        if ready.send(Ok(addresses)).is_err() {
            tracing::warn!("whoever started the broker has gone");
        }
        let at_once = told_at_once(stopping.clone());
        let run = Run { inbox: &inbox, stopping, checkpoints: &checkpoints };
        let work = async {
            let ended = run.until_stopped(&mut core).await;
            accepting.iter().for_each(tokio::task::JoinHandle::abort);
            ended?;
            drain(&mut core, &inbox, &connections, config.drain_timeout).await
        };
        let ended = tokio::select! {
            biased;
            () = at_once => None,
            ended = work => Some(ended),
        };
        match ended {
            Some(ended) => finish(core, checkpoints, ended),
            None => Exit::Clean,
        }
    }
}

fn give_up(ready: Ready, error: StartError) -> Exit {
    let exit = match &error {
        StartError::Exit(exit) => exit.clone(),
        StartError::Config(_) | StartError::Store(_) | StartError::Io { .. } => {
            Exit::Refused(error.to_string())
        }
    };
    if ready.send(Err(error)).is_err() {
        tracing::error!(%exit, "the broker could not start");
    }
    exit
}

/// Closes the journal, if it can still be trusted, and lets the checkpointer end.
fn finish(mut core: Core, checkpoints: CheckpointThread, ended: Result<(), Exit>) -> Exit {
    if let Err(exit) = ended {
        tracing::error!(%exit, "stopping at once");
        return exit;
    }
    let finished = core.finish_segment();
    let closed = finished.and_then(|()| checkpoints.finish()).and_then(|()| core.close());
    match closed {
        Ok(()) => Exit::Clean,
        Err(exit) => exit,
    }
}

/// The store opened, and everything on top of it made.
struct Opened {
    core: Core,
    checkpoints: CheckpointThread,
    inbox: Rc<Inbox>,
    connections: Connections,
    greeting: Greeting,
}

impl Opened {
    fn open(config: &Config) -> Result<Self, StartError> {
        let store = |error: &dyn fmt::Display| StartError::Store(error.to_string());
        let io = |doing: &str, source| StartError::Io { doing: doing.to_owned(), source };
        let fs = RealFs::open(&config.data_dir).map_err(|error| store(&error))?;
        let options = config.store_options().map_err(|source| io("get random bytes", source))?;
        let opened = Store::<Folded>::open(Arc::new(fs), options).map_err(|error| store(&error))?;
        let report = opened.report;
        tracing::info!(?report, "recovered");
        let clock = Clock::start();
        let inbox = Rc::new(Inbox::default());
        let connections = Connections::default();
        let room =
            Room { shared: Arc::clone(&opened.shared), progress: opened.checkpointer.progress() };
        let checkpoints =
            CheckpointThread::start(opened.checkpointer, clock, inbox.arrived.clone())
                .map_err(|source| io("start the checkpointer", source))?;
        let message_bytes_max = u32::try_from(config.message_bytes_max).unwrap_or(u32::MAX);
        let mut engine = Engine::new(opened.state.0, opened.journal.written());
        engine.set_message_bytes_max(message_bytes_max);
        let parts = Parts {
            engine,
            journal: opened.journal,
            reader: opened.reader,
            room,
            clock,
            inbox: Rc::clone(&inbox),
            connections: Rc::clone(&connections),
        };
        let mut core = Core::new(parts).map_err(|source| io("start the core", source))?;
        core.start(&report).map_err(StartError::Exit)?;
        let greeting = Greeting {
            start_epoch: report.start_epoch,
            message_bytes_max,
            batch_bytes_max: config.batch_bytes_max(),
            frame_bytes_max: config.batch_bytes_max().saturating_add(limits::HEAD_BYTES_MAX),
            hello_within: config.hello_timeout,
        };
        Ok(Self { core, checkpoints, inbox, connections, greeting })
    }
}

struct Run<'a> {
    inbox: &'a Inbox,
    stopping: watch::Receiver<Stop>,
    checkpoints: &'a CheckpointThread,
}

impl Run<'_> {
    /// Looks at the sockets without waiting, and again as long as that finds more: what has arrived
    /// meanwhile joins the group.
    async fn gather(&self) {
        for _ in 0..LOOKS_MAX {
            let before = self.inbox.len();
            tokio::task::yield_now().await;
            if self.inbox.len() == before || self.inbox.bytes() >= LOOKS_BYTES_MAX {
                return;
            }
        }
    }

    /// Waits until something arrives or is due: awake for a while if that has paid lately.
    async fn something(&self, core: &Core, mut timer: Pin<&mut Sleep>, spin: &mut Spin) {
        let since = core.time();
        let waited = || core.time().saturating_sub(since);
        let mut awake = true;
        let mut arrived = std::pin::pin!(self.inbox.arrived.notified());
        loop {
            awake = awake && waited() < spin.budget();
            tokio::select! {
                biased;
                () = &mut arrived => {
                    // Without a request it was the end of a load or of a sync, or rang before.
                    if self.inbox.len() > 0 {
                        spin.waited(waited());
                    } else {
                        spin.ended_otherwise(waited());
                    }
                    return;
                }
                () = timer.as_mut() => return spin.ended_otherwise(waited()),
                () = look_again(), if awake => {}
            }
        }
    }

    /// Rounds until the broker is to stop, or the disk fails.
    async fn until_stopped(self, core: &mut Core) -> Result<(), Exit> {
        let mut timer = std::pin::pin!(sleep_until(Instant::from_std(core.wake_at())));
        let mut stopping = self.stopping.clone();
        let stop = async move {
            if stopping.wait_for(|stop| *stop != Stop::No).await.is_err() {
                tracing::debug!("whoever started the broker has gone");
            }
        };
        let mut stop = std::pin::pin!(stop);
        let mut spin = Spin::new(available_parallelism().map_or(1, NonZero::get));
        loop {
            tokio::select! {
                biased;
                // First: a broker that always has something to do would never stop.
                () = &mut stop => return Ok(()),
                () = self.something(core, timer.as_mut(), &mut spin) => {}
            }
            self.gather().await;
            core.round()?;
            if let Some(exit) = self.checkpoints.failure() {
                return Err(exit);
            }
            timer.as_mut().reset(Instant::from_std(core.wake_at()));
        }
    }
}

/// Looks at the sockets without waiting; whoever wants this processor goes first.
async fn look_again() {
    std::thread::yield_now();
    tokio::task::yield_now().await;
}

/// Answers what is under way, tells everybody, and waits until all has been sent.
async fn drain(
    core: &mut Core,
    inbox: &Inbox,
    connections: &Connections,
    within: Duration,
) -> Result<(), Exit> {
    tracing::info!("draining");
    inbox.push(posthouse_engine::Input::Drain, 0);
    core.round()?;
    let goodbye = Goodbye {
        code: ErrorCode::ShuttingDown.number(),
        text: "the broker is stopping; connect again".to_owned(),
    };
    for connection in connections.borrow().values() {
        connection.send(CorrelationId::ZERO, &Reply::Goodbye(goodbye.clone()));
    }
    let all = async {
        while !core.is_drained() {
            // Progress rings, and so does whatever still arrives; the tick is for bytes sent.
            let tick = tokio::time::sleep(Duration::from_millis(5));
            tokio::select! {
                () = inbox.arrived.notified() => {}
                () = tick => {}
            }
            core.round()?;
        }
        Ok(())
    };
    match tokio::time::timeout(within, all).await {
        Ok(drained) => drained?,
        Err(_) => tracing::warn!("some replies could not be sent in time"),
    }
    connections.borrow().values().for_each(|connection| connection.close());
    // One turn of the runtime, so that the writers see it.
    tokio::task::yield_now().await;
    core.round()
}

async fn bind(config: &Config) -> Result<(Vec<Listener>, Vec<String>), StartError> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for endpoint in config.endpoints().map_err(StartError::Config)? {
        let failed = |at: &str, source| StartError::Io { doing: format!("listen on {at}"), source };
        match endpoint {
            Endpoint::Tcp { addresses: candidates, listen } => {
                let listener =
                    TcpListener::bind(&*candidates).await.map_err(|e| failed(&listen, e))?;
                let local = listener.local_addr().map_err(|e| failed(&listen, e))?;
                addresses.push(local.to_string());
                listeners.push(Listener::Tcp(listener));
            }
            Endpoint::Unix(path) => {
                let shown = format!("unix:{}", path.display());
                remove_stale(&path).map_err(|e| failed(&shown, e))?;
                let listener = UnixListener::bind(&path).map_err(|e| failed(&shown, e))?;
                addresses.push(shown);
                listeners.push(Listener::Unix(listener));
            }
        }
    }
    Ok((listeners, addresses))
}

/// Removes a socket that a killed broker left: nobody answers on it, and the data directory's lock
/// is ours.
fn remove_stale(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => Err(std::io::ErrorKind::AddrInUse.into()),
                Err(_) => std::fs::remove_file(path),
            }
        }
        Ok(_) | Err(_) => Ok(()),
    }
}
