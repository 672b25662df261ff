//! The connections of one load, waited for together.

use std::io;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::clock;
use crate::peers::Link;

/// Longest silence of a broker that is asked for something.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Pause before what was refused is sent again.
const RETRY: Duration = Duration::from_millis(20);

/// What the alarm is called among the events; no link has this number.
const ALARM: u64 = u64::MAX;

pub(super) struct Pool {
    poll: OwnedFd,
    alarm: OwnedFd,
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
        let flags = TimerfdFlags::NONBLOCK.union(TimerfdFlags::CLOEXEC);
        let alarm = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let (data, once) = (epoll::EventData::new_u64(ALARM), epoll::EventFlags::ET);
        epoll::add(&poll, &alarm, data, epoll::EventFlags::IN | once)?;
        let (blocked, events) = (vec![false; links.len()], Vec::with_capacity(links.len() + 1));
        Ok(Self { poll, alarm, links, blocked, events })
    }

    /// Ends a wait after so long, exactly: what [`Self::wait`] is given counts in milliseconds only.
    pub(super) fn alarm(&self, after: Duration) -> io::Result<()> {
        // Nothing would switch it off.
        let it_value = Timespec::try_from(after.max(Duration::from_nanos(1)));
        let it_value = it_value.map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.alarm, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
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

    /// Waits until something can be read or written, at most as long, rounded up to milliseconds;
    /// the numbers of the links are put into `ready`.
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
        let numbers = self.events.iter().map(|event| event.data.u64());
        ready.clear();
        ready.extend(numbers.filter(|number| *number != ALARM).flat_map(usize::try_from));
        Ok(())
    }
}
