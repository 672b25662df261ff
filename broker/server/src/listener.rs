//! Accepting connections, over TCP, a Unix socket, or from the same process.

use crate::connection::{self, Ended, Greeting};
use crate::core::Connections;
use crate::inbox::Inbox;
use crate::outbox::{Connection, Memory};
use crate::socket::{Sender, Writing};
use crate::watch::watch;
use posthouse_engine::Input;
use posthouse_engine::input::ConnectionId;
use posthouse_protocol::ErrorCode;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, DuplexStream};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;

/// Pause after the system has refused an accept, so that a lack of handles does not burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound listener.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What every connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) inbox: Rc<Inbox>,
    pub(crate) connections: Connections,
    pub(crate) connections_max: usize,
    pub(crate) greeting: Greeting,
    pub(crate) memory: Rc<Memory>,
    pub(crate) next_id: Rc<Cell<u64>>,
}

/// Accepts until the task is ended.
pub(crate) async fn accept_all(listener: Listener, host: Host) {
    loop {
        let accepted = match &listener {
            Listener::Tcp(listener) => match listener.accept().await {
                Ok((stream, peer)) => {
                    // Replies are put together already; waiting to fill packets only adds delay.
                    let ready = stream.set_nodelay(true);
                    let (read, write) = stream.into_split();
                    let write = Writing::Socket(Sender::Tcp(Rc::new(write)));
                    ready.map(|()| host.welcome(read, write, &peer.to_string()))
                }
                Err(error) => Err(error),
            },
            Listener::Unix(listener) => match listener.accept().await {
                Ok((stream, _)) => {
                    let (read, write) = stream.into_split();
                    let write = Writing::Socket(Sender::Unix(Rc::new(write)));
                    host.welcome(read, write, "unix");
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Serves connections from the same process until the broker is dropped.
pub(crate) async fn accept_inner(mut streams: mpsc::Receiver<DuplexStream>, host: Host) {
    while let Some(stream) = streams.recv().await {
        let (read, write) = tokio::io::split(stream);
        host.welcome(read, Writing::Pipe(write), "in process");
    }
    // The task is ended with the broker.
    std::future::pending::<()>().await;
}

impl Host {
    fn welcome(&self, read: impl AsyncRead + Unpin + 'static, writing: Writing, peer: &str) {
        if self.connections.borrow().len() >= self.connections_max {
            tracing::warn!(peer, limit = self.connections_max, "too many connections, closed");
            return;
        }
        let id = ConnectionId(self.next_id.get());
        self.next_id.set(id.0 + 1);
        let connection = Connection::new(id, writing.sender(), Rc::clone(&self.memory));
        let connection = Rc::new(connection);
        self.connections.borrow_mut().insert(id, Rc::clone(&connection));
        tracing::debug!(connection = id.0, peer, "connected");
        let leave = Leave { id, host: self.clone() };
        let writer = connection::write_all(writing, Rc::clone(&connection));
        let reader = connection::read_all(
            read,
            Rc::clone(&connection),
            Rc::clone(&self.inbox),
            self.greeting,
        );
        tokio::task::spawn_local(async move {
            let _leave = leave;
            run(id, reader, writer, &connection).await;
        });
    }
}

/// Runs both halves; when the reader has ended, the writer gets to send what waits.
async fn run(
    id: ConnectionId,
    reader: impl Future<Output = Ended>,
    writer: impl Future<Output = io::Result<()>>,
    connection: &Connection,
) {
    let mut writer = std::pin::pin!(writer);
    let mut has_written = false;
    let ended = tokio::select! {
        ended = reader => ended,
        ended = watch(connection) => ended,
        () = connection.closed() => Ended::Closed,
        written = &mut writer => {
            has_written = true;
            written.err().map_or(Ended::Closed, Ended::Io)
        }
    };
    // A silent peer takes nothing; one that broke the protocol is told.
    if connection.is_closing() && !has_written {
        let farewell = tokio::time::timeout(Duration::from_secs(1), writer).await;
        tracing::trace!(connection = id.0, sent = farewell.is_ok(), "farewell");
    }
    match &ended {
        Ended::Broke(ErrorCode::Malformed | ErrorCode::Corrupt | ErrorCode::TooLarge, _) => {
            tracing::warn!(connection = id.0, why = %ended, "connection closed");
        }
        Ended::Closed | Ended::Silent | Ended::Io(_) | Ended::Broke(..) => {
            tracing::debug!(connection = id.0, why = %ended, "connection closed");
        }
    }
}

/// Tells the core when a connection ends, by whatever cause, a panic of its task included.
struct Leave {
    id: ConnectionId,
    host: Host,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.host.connections.borrow_mut().remove(&self.id);
        self.host.inbox.push(Input::Disconnected { connection: self.id }, 0);
    }
}
