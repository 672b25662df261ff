//! A stage: two databases, a broker behind a proxy, and the processes of one trial.

use super::PATIENCE;
use super::base::Base;
use super::process::Process;
use super::proxy::Proxy;
use posthouse_client::{
    Client, Mode, Position, Start, SubscriptionInfo, SubscriptionSettings, TopicSettings,
};
use posthouse_trials::judge::{Entry, Evidence};
use posthouse_trials::{
    Database, Driver, Failure, Op, SUBSCRIPTION, TOPICS, WITNESS, with_database,
};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks at something.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a consumer may hold a message without a word.
pub(crate) const LEASE: Duration = Duration::from_secs(1);
/// How long a message that failed waits.
const BACKOFF: Duration = Duration::from_millis(200);
/// The failpoints' own file.
const FAILPOINTS: &str = "failpoints";

/// Everything of one trial.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) proxy: Proxy,
    pub(crate) sender: Base,
    pub(crate) receiver: Base,
    pub(crate) broker: Option<Process>,
    pub(crate) topics: Vec<&'static str>,
    runtime: tokio::runtime::Runtime,
    next_op: i64,
    pub(crate) era: i64,
    pub(crate) seed: u64,
    /// See [`Evidence`].
    pub(crate) forgotten: Vec<Op>,
    pub(crate) may_repeat: BTreeSet<[u8; 16]>,
    pub(crate) lost: BTreeSet<Op>,
    /// Whether there is a view.
    is_viewed: bool,
}

impl Stage {
    /// Two databases with their tables; no broker yet.
    pub(crate) fn new(
        driver: Driver,
        seed: u64,
        base: fn(Driver, &std::path::Path, &str) -> Base,
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("posthouse-trial-").tempdir().unwrap();
        let sender = base(driver, folder.path(), "sender.db");
        let receiver = base(driver, folder.path(), "receiver.db");
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let stage = Self {
            folder,
            proxy: Proxy::new(),
            sender,
            receiver,
            broker: None,
            topics: TOPICS.to_vec(),
            runtime,
            next_op: 1,
            era: 1,
            seed,
            forgotten: Vec::new(),
            may_repeat: BTreeSet::new(),
            lost: BTreeSet::new(),
            is_viewed: false,
        };
        let installed = stage.runtime.block_on(stage.install());
        installed.unwrap_or_else(|error| panic!("cannot install the tables: {error}"));
        stage
    }

    async fn install(&self) -> Result<(), Failure> {
        with_database!(self.sender.driver, &self.sender.url, sender => sender.install_sender().await?);
        with_database!(self.receiver.driver, &self.receiver.url, receiver => receiver.install_receiver().await?);
        Ok(())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn process(&self, name: &str, arguments: &[&str], failpoint: Option<&str>) -> Process {
        let arguments: Vec<String> =
            arguments.iter().map(|&argument| argument.to_owned()).collect();
        Process::start(name, &arguments, failpoint, self.folder.path())
    }

    /// Starts a broker and leads everybody to it.
    #[track_caller]
    pub(crate) fn start_broker(&mut self, failpoint: Option<&str>) {
        let data = self.path("broker");
        let broker =
            self.process("broker", &["broker", "--data-dir", data.to_str().unwrap()], failpoint);
        let address = broker.hear("ready ");
        self.proxy.lead_to(Some(address.parse().unwrap()));
        self.broker = Some(broker);
    }

    /// Makes the topics with their subscriptions.
    #[track_caller]
    pub(crate) fn make_topics(&mut self) {
        for topic in self.topics.clone() {
            self.make_topic(topic);
        }
    }

    #[track_caller]
    pub(crate) fn make_topic(&mut self, topic: &'static str) {
        if !self.topics.contains(&topic) {
            self.topics.push(topic);
        }
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        let queue = SubscriptionSettings {
            lease_ms: millis(LEASE),
            lease_ms_max: millis(20 * LEASE),
            attempts_max: 1_000,
            backoff_ms_first: millis(BACKOFF),
            backoff_ms_max: millis(BACKOFF),
            ..SubscriptionSettings::default()
        };
        let stream = SubscriptionSettings { mode: Mode::Stream, ..SubscriptionSettings::default() };
        self.ask(async |client| {
            let admin = client.admin();
            admin.create_topic(topic, TopicSettings::default()).await?;
            admin.create_subscription(topic, SUBSCRIPTION, queue, Start::Earliest).await?;
            admin.create_subscription(topic, WITNESS, stream, Start::Earliest).await?;
            Ok(())
        });
    }

    /// Asks the broker.
    #[track_caller]
    fn ask<T>(&self, question: impl AsyncFnOnce(&Client) -> Result<T, Failure>) -> T {
        let answer = self.runtime.block_on(async {
            let client = Client::builder().server(self.proxy.address()).name("judge");
            let client = client.connect_timeout(PATIENCE).operation_timeout(PATIENCE);
            let client = client.connect().await?;
            let answer = question(&client).await;
            client.close(Duration::from_secs(5)).await;
            answer
        });
        answer.unwrap_or_else(|error: Failure| panic!("cannot ask the broker: {error}"))
    }

    /// The queue subscriptions as the broker sees them.
    #[track_caller]
    pub(crate) fn subscriptions(&self) -> Vec<SubscriptionInfo> {
        self.ask(async |client| {
            let mut found = Vec::new();
            for topic in &self.topics {
                found.push(client.admin().describe_subscription(topic, SUBSCRIPTION).await?);
            }
            Ok(found)
        })
    }

    /// An application that will do so many operations.
    pub(crate) fn app(
        &mut self,
        operations: u32,
        more: &[&str],
        failpoint: Option<&str>,
    ) -> Process {
        let url = self.sender.url.clone();
        let mut arguments = self.app_arguments(&url, operations);
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        Process::start("app", &arguments, failpoint, self.folder.path())
    }

    /// What an application is told that will do so many operations in this database.
    pub(crate) fn app_arguments(&mut self, url: &str, operations: u32) -> Vec<String> {
        let (first, era, seed) = (self.next_op, self.era, self.seed);
        self.next_op += i64::from(operations);
        self.seed += 1;
        let driver = driver_name(self.sender.driver);
        let numbers =
            [operations.to_string(), first.to_string(), era.to_string(), seed.to_string()];
        let names = ["--operations", "--first", "--era", "--seed"];
        let fixed = ["app", "--driver", driver, "--database", url].map(str::to_owned);
        let numbers = names.into_iter().zip(numbers).flat_map(|(name, is)| [name.to_owned(), is]);
        fixed.into_iter().chain(numbers).collect()
    }

    pub(crate) fn relay(&self, name: &str, more: &[&str], failpoint: Option<&str>) -> Process {
        self.relay_on(&self.sender.url, name, more, failpoint)
    }

    pub(crate) fn relay_on(
        &self,
        url: &str,
        name: &str,
        more: &[&str],
        failpoint: Option<&str>,
    ) -> Process {
        let mut arguments = self.relay_arguments(url, name);
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        Process::start(name, &arguments, failpoint, self.folder.path())
    }

    /// What a relay of this database is told.
    pub(crate) fn relay_arguments(&self, url: &str, name: &str) -> Vec<String> {
        let broker = self.proxy.address();
        let arguments = member("relay", self.sender.driver, url, [&broker, name]);
        arguments.into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn view(&mut self, name: &str, topics: &[&str], failpoint: Option<&str>) -> Process {
        self.is_viewed = true;
        let broker = self.proxy.address();
        let driver = self.receiver.driver;
        let mut arguments = member("view", driver, &self.receiver.url, [&broker, name]);
        arguments.extend(topics.iter().flat_map(|&topic| ["--topic", topic]));
        self.process(name, &arguments, failpoint)
    }

    /// A consumer of all topics.
    pub(crate) fn consumer(&self, name: &str, more: &[&str], failpoint: Option<&str>) -> Process {
        self.consumer_of(&self.topics, name, more, failpoint)
    }

    pub(crate) fn consumer_of(
        &self,
        topics: &[&str],
        name: &str,
        more: &[&str],
        failpoint: Option<&str>,
    ) -> Process {
        let broker = self.proxy.address();
        let driver = self.receiver.driver;
        let mut arguments = member("consumer", driver, &self.receiver.url, [&broker, name]);
        arguments.extend(topics.iter().flat_map(|&topic| ["--topic", topic]));
        arguments.extend(more);
        self.process(name, &arguments, failpoint)
    }

    /// Waits until the condition holds.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        assert!(self.within(PATIENCE, holds), "waited in vain until {what}");
    }

    /// Waits until the condition holds, or for so long; whether it held.
    pub(crate) fn within(&self, patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
        let began = Instant::now();
        while !holds() {
            if began.elapsed() > patience {
                return false;
            }
            self.rest(PAUSE);
        }
        true
    }

    /// Lets the processes work for a while.
    pub(crate) fn rest(&self, time: Duration) {
        self.runtime.block_on(async { sleep(time).await });
    }

    /// Rows in the outbox, and rows parked.
    #[track_caller]
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let waiting = self.runtime.block_on(async {
            with_database!(self.sender.driver, &self.sender.url, sender => sender.waiting().await)
        });
        waiting.unwrap_or_else(|error: Failure| panic!("cannot look at the outbox: {error}"))
    }

    /// Puts parked rows back.
    #[track_caller]
    pub(crate) fn redrive(&self) -> u64 {
        let redriven = self.runtime.block_on(async {
            with_database!(self.sender.driver, &self.sender.url, sender => sender.redrive().await)
        });
        redriven.unwrap_or_else(|error: Failure| panic!("cannot redrive: {error}"))
    }

    /// What the sender's database holds.
    #[track_caller]
    pub(crate) fn committed(&self) -> Vec<Op> {
        let ops = self.runtime.block_on(async {
            with_database!(self.sender.driver, &self.sender.url, sender => sender.committed().await)
        });
        ops.unwrap_or_else(|error: Failure| panic!("cannot read the operations: {error}"))
    }

    #[track_caller]
    fn effects(&self) -> Vec<Op> {
        let ops = self.runtime.block_on(async {
            with_database!(self.receiver.driver, &self.receiver.url, receiver => receiver.effects().await)
        });
        ops.unwrap_or_else(|error: Failure| panic!("cannot read the effects: {error}"))
    }

    #[track_caller]
    fn viewed(&self) -> Option<Vec<Op>> {
        let ops = self.runtime.block_on(async {
            with_database!(self.receiver.driver, &self.receiver.url, receiver => receiver.viewed().await)
        });
        let ops = ops.unwrap_or_else(|error: Failure| panic!("cannot read the view: {error}"));
        self.is_viewed.then_some(ops)
    }

    /// Forgets the view; nobody may be at work on it.
    #[track_caller]
    pub(crate) fn forget_view(&self) {
        let done = self.runtime.block_on(async {
            with_database!(self.receiver.driver, &self.receiver.url, receiver => receiver.forget_view().await)
        });
        done.unwrap_or_else(|error: Failure| panic!("cannot forget the view: {error}"));
    }

    /// Everything that the broker's topics hold.
    #[track_caller]
    pub(crate) fn log(&self) -> Vec<Entry> {
        self.ask(async |client| {
            let mut entries = Vec::new();
            for topic in &self.topics {
                let mut reader = client.reader(*topic, Position::Earliest).await?;
                while let Some(record) = reader.next().await? {
                    let op = std::str::from_utf8(record.body())?.parse()?;
                    entries.push(Entry { message: record.id().0, op });
                }
            }
            Ok(entries)
        })
    }

    /// Waits until the outbox is empty, and everything settled and viewed.
    #[track_caller]
    pub(crate) fn settle(&self, processes: &[&Process]) {
        let quiet = || {
            self.waiting().0 == 0
                && self.subscriptions().iter().all(|found| found.backlog == 0)
                && self.viewed().is_none_or(|viewed| viewed.len() >= self.log().len())
        };
        if self.within(PATIENCE, quiet) {
            return;
        }
        let backlogs: Vec<u64> = self.subscriptions().iter().map(|found| found.backlog).collect();
        let told: Vec<String> = processes.iter().map(|process| process.told()).collect();
        panic!(
            "it does not come to rest: {:?} rows waiting and parked, backlogs {backlogs:?}\n{}",
            self.waiting(),
            told.join("\n")
        );
    }

    /// Judges everything that happened so far.
    #[track_caller]
    pub(crate) fn judge(&self, about: &str) {
        let evidence = Evidence {
            committed: self.committed(),
            forgotten: self.forgotten.clone(),
            effects: self.effects(),
            viewed: self.viewed(),
            log: self.log(),
            lost: self.lost.clone(),
            may_repeat: self.may_repeat.clone(),
        };
        let wrong: Vec<String> = evidence.judge().iter().map(ToString::to_string).collect();
        assert!(
            wrong.is_empty(),
            "{about}: {} of {} operations:\n{}",
            wrong.len(),
            evidence.committed.len(),
            wrong.join("\n")
        );
        assert!(!evidence.effects.is_empty(), "{about}: nothing was done at all");
    }

    /// The failpoints that fired.
    pub(crate) fn fired(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(FAILPOINTS)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// What every part is told that has a database and talks to the broker.
fn member<'a>(
    part: &'a str,
    driver: Driver,
    url: &'a str,
    [broker, name]: [&'a str; 2],
) -> Vec<&'a str> {
    let driver = driver_name(driver);
    vec![part, "--driver", driver, "--database", url, "--broker", broker, "--name", name]
}

const fn driver_name(driver: Driver) -> &'static str {
    match driver {
        Driver::Postgres => "postgres",
        Driver::Mariadb => "mariadb",
        Driver::Sqlite => "sqlite",
        Driver::Rusqlite => "rusqlite",
    }
}
