//! What stands between the broker and its clients: one address for all brokers that come and go, and
//! connections that can be cut or held up.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// Forwards connections to the broker that is there.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    wires: Mutex<Wires>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Wires {
    target: Option<SocketAddr>,
    /// Both ends of every connection, by its number.
    open: Vec<(u64, TcpStream, TcpStream)>,
    opened: u64,
    is_stalled: bool,
    is_closed: bool,
}

impl Proxy {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let accepting = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { address, state }
    }

    /// Where clients connect to.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Says where the broker is; connections to the last one are cut.
    pub(crate) fn lead_to(&self, target: Option<SocketAddr>) {
        self.state.wires.lock().unwrap().target = target;
        self.cut();
    }

    /// Cuts all connections and says how many.
    pub(crate) fn cut(&self) -> usize {
        let mut wires = self.state.wires.lock().unwrap();
        let cut: Vec<_> = std::mem::take(&mut wires.open);
        for (_, near, far) in &cut {
            shut(near, far);
        }
        self.state.changed.notify_all();
        cut.len()
    }

    /// Holds up what is sent, in both directions, without a word to either side.
    pub(crate) fn stall(&self, stalled: bool) {
        self.state.wires.lock().unwrap().is_stalled = stalled;
        self.state.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.wires.lock().unwrap().is_closed = true;
        self.cut();
        // Wakes the acceptor, which then ends.
        drop(TcpStream::connect(self.address));
    }
}

fn shut(near: &TcpStream, far: &TcpStream) {
    // It may be gone already.
    let _ = near.shutdown(Shutdown::Both);
    let _ = far.shutdown(Shutdown::Both);
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for near in listener.incoming() {
        let Ok(near) = near else { continue };
        let wires = state.wires.lock().unwrap();
        let (target, is_closed) = (wires.target, wires.is_closed);
        drop(wires);
        if is_closed {
            return;
        }
        // Without a broker the connection ends as soon as it began.
        if let Some(far) = target.and_then(|target| TcpStream::connect(target).ok()) {
            link(near, far, state);
        }
    }
}

fn link(near: TcpStream, far: TcpStream, state: &Arc<State>) {
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let pairs = [(clone(&near), clone(&far)), (clone(&far), clone(&near))];
    let mut wires = state.wires.lock().unwrap();
    wires.opened += 1;
    let number = wires.opened;
    wires.open.push((number, near, far));
    drop(wires);
    for (from, to) in pairs {
        let state = Arc::clone(state);
        std::thread::spawn(move || forward(from, to, number, &state));
    }
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("there are file descriptors")
}

fn forward(mut from: TcpStream, mut to: TcpStream, number: u64, state: &State) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let stalled = |wires: &mut Wires| {
            wires.is_stalled && wires.open.iter().any(|(open, ..)| *open == number)
        };
        drop(state.changed.wait_while(state.wires.lock().unwrap(), stalled).unwrap());
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    shut(&from, &to);
    state.wires.lock().unwrap().open.retain(|(open, ..)| *open != number);
}
