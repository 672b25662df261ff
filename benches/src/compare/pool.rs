//! The connections of one load, waited for together.

use std::io;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use crate::clock;
use crate::peers::Link;

/// Longest silence of a broker that is asked for something.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Pause before what was refused is sent again.
const RETRY: Duration = Duration::from_millis(20);

pub(super) struct Pool {
    poll: OwnedFd,
    pub(super) links: Vec<Link>,
    blocked: Vec<bool>,
    events: Vec<epoll::Event>,
}

impl Pool {
    pub(super) fn new(links: Vec<Link>) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, link) in links.iter().enumerate() {
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&poll, &link.stream, data, epoll::EventFlags::IN)?;
        }
        let (blocked, events) = (vec![false; links.len()], Vec::with_capacity(links.len()));
        Ok(Self { poll, links, blocked, events })
    }

    /// Sends again what a broker without room has refused, after a while.
    pub(super) fn retry(&mut self, body: &[u8]) -> io::Result<()> {
        if self.links.iter().any(Link::wants_retry) {
            clock::pause(RETRY);
        }
        self.links
            .iter_mut()
            .filter(|link| link.wants_retry())
            .try_for_each(|link| link.retry(body))
    }

    /// Waits until something can be read or written, at most as long; the numbers of the links
    /// are put into `ready`.
    pub(super) fn wait(&mut self, longest: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        for (number, (link, blocked)) in self.links.iter().zip(&mut self.blocked).enumerate() {
            if link.is_blocked() != *blocked {
                *blocked = link.is_blocked();
                let data = epoll::EventData::new_u64(number as u64);
                let out =
                    if *blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
                epoll::modify(&self.poll, &link.stream, data, epoll::EventFlags::IN | out)?;
            }
        }
        self.events.clear();
        let longest = Timespec::try_from(longest).map_err(io::Error::other)?;
        epoll::wait(&self.poll, spare_capacity(&mut self.events), Some(&longest))?;
        let number = |event: &epoll::Event| usize::try_from(event.data.u64()).ok();
        ready.clear();
        ready.extend(self.events.iter().filter_map(number));
        Ok(())
    }
}
