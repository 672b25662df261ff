//! The load: threads that publish and consume, each with a client of its own.

use crate::chance::Chance;
use crate::consuming::{self, Style};
use crate::progress::Progress;
use crate::publishing;
use crate::record::Record;
use crate::{COPY, JOBS, LOG, NOTES, READ, WORK};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, watch};

/// Messages of a topic that publishers may be ahead of its consumers.
const AHEAD: usize = 1000;

/// What every thread of the load needs.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) address: String,
    pub(crate) record: Record,
    pub(crate) progress: Arc<Progress>,
    /// How far publishers may run ahead.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) chance: Chance,
}

impl Part {
    /// Returns once the load is to stop.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        stopping.wait_for(|stop| *stop).await.expect("the load outlives its parts");
    }
}

/// All threads.
#[derive(Debug)]
pub(crate) struct Load {
    progress: Arc<Progress>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(address: &str, record: &Record, chance: &mut Chance) -> Self {
        let (stop, stopping) = watch::channel(false);
        let progress = Arc::new(Progress::default());
        let rooms = [AHEAD; 3].map(|ahead| Arc::new(Semaphore::new(ahead)));
        let [jobs, notes, log] = &rooms;
        let mut part = |room: &Arc<Semaphore>| Part {
            address: address.to_owned(),
            record: record.clone(),
            progress: Arc::clone(&progress),
            room: Arc::clone(room),
            stopping: stopping.clone(),
            chance: chance.fork(),
        };
        let publish = |part: Part, topic, window| {
            std::thread::spawn(move || publishing::run(part, topic, window))
        };
        let consume = |part: Part, topic, subscription, style| {
            std::thread::spawn(move || consuming::run(part, topic, subscription, style))
        };
        let threads = vec![
            publish(part(jobs), JOBS, 24),
            publish(part(jobs), JOBS, 8),
            publish(part(jobs), JOBS, 1),
            publish(part(notes), NOTES, 8),
            publish(part(log), LOG, 1),
            consume(part(jobs), JOBS, WORK, Style::Moody),
            consume(part(jobs), JOBS, WORK, Style::Moody),
            consume(part(jobs), JOBS, WORK, Style::Crashing),
            consume(part(jobs), JOBS, COPY, Style::Leaving),
            consume(part(jobs), JOBS, COPY, Style::Diligent),
            consume(part(notes), NOTES, READ, Style::Diligent),
        ];
        Self { progress, stop, threads }
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Lets everything come to its end, every receipt and confirmation included.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        for thread in self.threads {
            thread.join().expect("the load does not panic");
        }
    }
}
