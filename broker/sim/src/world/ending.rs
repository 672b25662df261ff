//! The end of a run: heal, restart, let everybody finish, look at everything once more, judge.

use super::lives::Death;
use super::{Trouble, World};
use crate::chance::Chance;
use crate::client::consumer::Consumer;
use crate::client::reader::Reader;
use crate::client::{Client, Phase};
use crate::plan::Plan;
use posthouse_checker::history::{self, Event};
use posthouse_checker::{Expectations, Report, check};
use posthouse_protocol::settings::Mode;
use posthouse_storage::fs::sim::Fate;

impl World {
    pub(super) fn end(&mut self) -> Result<Report, String> {
        self.heal();
        let produce = |world: &Self| world.clients.iter().all(|client| client.has_sent());
        self.quietly(produce)?;
        self.let_all_come()?;
        self.phase = Phase::Finish;
        self.quietly(|world| {
            world.clients.iter().all(|client| client.is_done()) && world.admin.is_done()
        })?;
        self.read_everything()?;
        self.drain_everything()?;
        let expectations = Expectations { unknown_percent_max: 90, ..Expectations::SUITE };
        Ok(check(&self.history, &expectations))
    }

    /// Lets time pass until the operator is told that no delayed message waits any more.
    fn let_all_come(&mut self) -> Result<(), String> {
        let names = || Plan::topics().into_iter().map(|wanted| wanted.topic.to_owned());
        for _ in 0..1_000 {
            self.admin.describe(names());
            self.quietly(|world| world.admin.is_done())?;
            if names().all(|topic| self.admin.topics.get(&topic).is_none_or(|at| at.waiting == 0)) {
                return Ok(());
            }
            self.now += self.dice.between(0, 50_000_000);
            for _ in 0..100 {
                self.step()?;
            }
        }
        Err(format!("a delayed message never comes: {:#?}", self.admin.topics))
    }

    fn heal(&mut self) {
        self.phase = Phase::Flush;
        self.die(Death::Kill);
        self.trouble = Trouble::default();
        // What is in the page cache gets to the disk, and no sync fails any more.
        let disk =
            self.tap.disk().crash_with(&mut |_, versions| Fate::Kept { version: versions - 1 });
        disk.set_capacity(u64::MAX);
        self.tap = self.tap.onto(disk);
    }

    fn read_everything(&mut self) -> Result<(), String> {
        let mut names = Vec::new();
        for wanted in Plan::topics() {
            names.push(wanted.topic.to_owned());
            let queues = wanted.subscriptions.iter();
            let queues = queues.filter(|(_, settings)| settings.mode == Mode::Queue);
            names.extend(queues.map(|(queue, _)| format!("{}.{queue}.dead", wanted.topic)));
        }
        self.admin.describe(names.clone());
        self.quietly(|world| world.admin.is_done())?;
        for topic in names {
            let Some(id) = self.admin.topics.get(&topic).map(|info| info.id) else { continue };
            self.last_look(&topic, None);
            self.join(|client| Box::new(Reader::last(client, (id, topic))));
        }
        self.quietly(|world| world.clients.iter().all(|client| client.is_done()))
    }

    fn drain_everything(&mut self) -> Result<(), String> {
        let queues: Vec<(&str, &str)> = Plan::topics()
            .into_iter()
            .flat_map(|wanted| {
                let queues = wanted.subscriptions.into_iter();
                let queues = queues.filter(|(_, settings)| settings.mode == Mode::Queue);
                queues.map(move |(queue, _)| (wanted.topic, queue))
            })
            .collect();
        for (topic, queue) in &queues {
            self.last_look(topic, Some(queue));
            self.join(|client| {
                Box::new(Consumer::new(client, (*topic).to_owned(), (*queue).to_owned(), true))
            });
        }
        for _ in 0..400 {
            for _ in 0..100 {
                self.step()?;
            }
            queues.iter().for_each(|(topic, queue)| self.admin.look_at(topic, queue));
            self.quietly(|world| world.admin.is_done())?;
            let is_empty = |(topic, queue): &(&str, &str)| {
                let key = ((*topic).to_owned(), (*queue).to_owned());
                self.admin.subscriptions.get(&key).is_some_and(|info| info.backlog == 0)
            };
            if queues.iter().all(is_empty) {
                return self.quietly(|world| world.clients.iter().all(|client| client.is_done()));
            }
        }
        let full = self.admin.subscriptions.values().filter(|info| info.backlog > 0);
        let full: Vec<String> =
            full.map(|info| format!("{info:?}").chars().take(900).collect()).collect();
        let clients: Vec<_> = self
            .clients
            .iter()
            .filter(|client| !client.is_done())
            .map(|client| format!("{client:?}").chars().take(1500).collect::<String>())
            .collect();
        Err(format!("a queue is never empty: {full:#?} {clients:#?}"))
    }

    fn last_look(&mut self, topic: &str, subscription: Option<&str>) {
        self.history.push(Event::Final(history::Final {
            t: history::Time(self.now),
            topic: topic.to_owned(),
            subscription: subscription.map(str::to_owned),
        }));
    }
}
