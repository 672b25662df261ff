//! Connections: frames under way in both directions, in order, until the connection is lost.

use crate::chance::Chance;
use bytes::Bytes;
use posthouse_engine::input::ConnectionId;
use posthouse_storage::fs::dice::Dice;
use std::collections::{BTreeMap, VecDeque};

/// Every connection.
#[derive(Debug, Default)]
pub(crate) struct Net {
    links: BTreeMap<ConnectionId, Link>,
    last: u64,
}

/// One connection.
#[derive(Debug)]
struct Link {
    client: usize,
    up: VecDeque<Bytes>,
    /// With the time at which each left the broker.
    down: VecDeque<(u64, Bytes)>,
    /// The client has gone; the broker hears of it after what is under way.
    is_cut: bool,
}

/// What arrives at a client: who it is, over which connection, and the frames, each with the time at
/// which it left the broker.
pub(crate) type Delivered = (usize, ConnectionId, Vec<(u64, Bytes)>);

/// Something that arrives at the broker.
#[derive(Debug)]
pub(crate) enum Arrival {
    Frame(ConnectionId, Bytes),
    Gone(ConnectionId),
}

impl Net {
    pub(crate) fn connect(&mut self, client: usize) -> ConnectionId {
        self.last += 1;
        let link = Link { client, up: VecDeque::new(), down: VecDeque::new(), is_cut: false };
        self.links.insert(ConnectionId(self.last), link);
        ConnectionId(self.last)
    }

    /// A frame of a client sets out.
    pub(crate) fn send_up(&mut self, connection: ConnectionId, frame: Bytes) {
        if let Some(link) = self.links.get_mut(&connection).filter(|link| !link.is_cut) {
            link.up.push_back(frame);
        }
    }

    /// A frame of the broker sets out, if there is still a connection that it knows of.
    pub(crate) fn send_down(&mut self, now: u64, connection: ConnectionId, frame: Bytes) -> bool {
        let link = self.links.get_mut(&connection);
        if let Some(link) = link.filter(|link| !link.is_cut) {
            link.down.push_back((now, frame));
            return true;
        }
        false
    }

    /// Some of what is under way arrives at the broker.
    pub(crate) fn arrive(&mut self, dice: &mut Dice) -> Vec<Arrival> {
        let mut arrived = Vec::new();
        let mut gone = Vec::new();
        for (id, link) in &mut self.links {
            if dice.percent(30) {
                continue;
            }
            let count = dice.index(link.up.len() + 1).max(link.up.len().min(1));
            arrived.extend(link.up.drain(..count).map(|frame| Arrival::Frame(*id, frame)));
            if link.is_cut && link.up.is_empty() {
                gone.push(*id);
            }
        }
        for id in gone {
            self.links.remove(&id);
            arrived.push(Arrival::Gone(id));
        }
        arrived
    }

    /// Some of what is under way to one client arrives: the client, the connection, the frames.
    pub(crate) fn deliver(&mut self, dice: &mut Dice) -> Option<Delivered> {
        let busy: Vec<_> = self.links.iter().filter(|(_, link)| !link.down.is_empty()).collect();
        let (id, _) = *busy.get(dice.index(busy.len().max(1)))?;
        let id = *id;
        let link = self.links.get_mut(&id)?;
        let count = 1 + dice.index(link.down.len());
        Some((link.client, id, link.down.drain(..count).collect()))
    }

    /// A client's end of the connection is lost: what comes down is lost, and of what goes up the
    /// front may still arrive.
    pub(crate) fn cut(&mut self, connection: ConnectionId, dice: &mut Dice) {
        if let Some(link) = self.links.get_mut(&connection) {
            link.down.clear();
            let arrives = dice.index(link.up.len() + 1);
            link.up.truncate(arrives);
            link.is_cut = true;
        }
    }

    /// The connections that clients believe to have.
    pub(crate) fn open(&self) -> Vec<(usize, ConnectionId)> {
        let open = self.links.iter().filter(|(_, link)| !link.is_cut);
        open.map(|(id, link)| (link.client, *id)).collect()
    }

    /// The broker died: of what it had sent the front may still arrive.
    pub(crate) fn fall(&mut self, dice: &mut Dice) -> Vec<Delivered> {
        let links = std::mem::take(&mut self.links).into_iter();
        let open = links.filter(|(_, link)| !link.is_cut);
        open.map(|(id, mut link)| {
            let count = dice.index(link.down.len() + 1);
            (link.client, id, link.down.drain(..count).collect())
        })
        .collect()
    }
}
