//! The shape of the real server: a task per connection, one core task, one runtime thread.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;
use tokio::task;

use super::journal::{Group, Ring};
use super::shape::{Core, Served, Shape, Sync};
use super::syncer::Syncer;
use super::wire::Inbound;
use crate::clock;

const INBOUND: usize = 64 * 1024;

/// Serves `connections` connections until the last one is closed.
pub(crate) fn serve(
    listener: TcpListener,
    connections: usize,
    shape: Shape,
    ring: Ring,
) -> io::Result<Served> {
    let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?;
    listener.set_nonblocking(true)?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let inbox = Rc::new(Inbox::new(connections));
        let mut writers = Vec::with_capacity(connections);
        for number in 0..connections {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            stream.writable().await?;
            let (reader, writer) = stream.into_split();
            writers.push(writer);
            task::spawn_local(read_all(number, reader, Rc::clone(&inbox)));
        }
        let syncer = match shape.sync {
            Sync::Never | Sync::Inline => None,
            Sync::HandOver | Sync::Adaptive(_) => {
                let signal = Arc::clone(&inbox.changed);
                Some(Syncer::start(ring.file(), Box::new(move || signal.notify_one())))
            }
        };
        let core = Core::new(shape.sync, ring, syncer, connections);
        // A task of its own queues behind the readers that are ready, and so gathers from them all.
        task::spawn_local(run_core(core, inbox, writers, shape.spin)).await?
    })
}

/// What the connection tasks have read and the core has not yet taken.
struct Inbox {
    changed: Arc<Notify>,
    content: RefCell<Content>,
}

struct Content {
    group: Group,
    open: usize,
}

impl Inbox {
    fn new(open: usize) -> Self {
        let content = RefCell::new(Content { group: Group::new(), open });
        Self { changed: Arc::new(Notify::new()), content }
    }

    fn is_empty(&self) -> bool {
        self.content.borrow().group.is_empty()
    }

    /// Swaps the gathered group against an empty one; false when nobody is left to send.
    fn take(&self, group: &mut Group) -> bool {
        let mut content = self.content.borrow_mut();
        mem::swap(group, &mut content.group);
        content.open > 0
    }
}

async fn read_all(number: usize, mut reader: OwnedReadHalf, inbox: Rc<Inbox>) -> io::Result<()> {
    let mut inbound = Inbound::new(INBOUND);
    loop {
        let count = reader.read(inbound.space()).await?;
        let mut content = inbox.content.borrow_mut();
        inbound.advance(count, |id, body| content.group.push(number, id, body));
        if count == 0 {
            content.open -= 1;
        }
        drop(content);
        inbox.changed.notify_one();
        if count == 0 {
            return Ok(());
        }
    }
}

async fn run_core(
    mut core: Core,
    inbox: Rc<Inbox>,
    writers: Vec<OwnedWriteHalf>,
    spin: Duration,
) -> io::Result<Served> {
    let mut group = Group::new();
    while inbox.take(&mut group) || !group.is_empty() {
        core.write(&mut group)?;
        let mut something_waits = false;
        if core.wants_to_know_what_waits() {
            // Lets the runtime poll the sockets once, and every task that is ready run.
            task::yield_now().await;
            something_waits = !inbox.is_empty();
        }
        core.settle(something_waits)?;
        core.reply(|to, bytes| {
            let sent = writers.get(to).map(|writer| writer.try_write(bytes));
            assert!(
                matches!(sent, Some(Ok(count)) if count == bytes.len()),
                "a window of receipts fits the socket"
            );
        });
        wait(&inbox, spin).await;
    }
    Ok(core.finish(clock::thread_cpu()))
}

async fn wait(inbox: &Inbox, spin: Duration) {
    if !spin.is_zero() {
        let start = clock::now();
        while start.elapsed() < spin {
            if !inbox.is_empty() {
                return;
            }
            task::yield_now().await;
        }
    }
    inbox.changed.notified().await;
}
