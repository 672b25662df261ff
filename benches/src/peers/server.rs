//! One broker that runs for a comparison: in a folder of its own, on loopback ports, or given.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use posthouse_protocol::settings;

use super::install::{self, Program};
use super::link::{Link, Wire};
use super::{
    Durability, Duty, Kind, amqp, beanstalkd, iggy, kafka, nats, posthouse, redis, stream,
};
use crate::clock;
use crate::running::{Child, cpu_of, guarded, is_running};

/// Longest wait for a server to answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of a log that are shown when a server does not start.
const LOG_TAIL: usize = 300;
const PAUSE: Duration = Duration::from_millis(2);
/// The name of a process that is an Iggy server.
const IGGY: &str = "iggy-server";

/// A broker and its process.
pub(crate) struct Service {
    pub(crate) kind: Kind,
    pub(crate) durability: Durability,
    version: String,
    dir: PathBuf,
    pub(crate) address: SocketAddr,
    /// Further ports: `RabbitMQ` wants one between nodes, one of its name service, one of the protocol
    /// that is not used.
    ports: [u16; 3],
    child: Option<Child>,
    /// The name service of Erlang.
    helper: Option<Child>,
    /// The process of one that was not started here, if it is on this machine.
    found: Option<u32>,
}

impl Service {
    /// Starts it and waits until it serves.
    pub(crate) fn start(kind: Kind, durability: Durability, dir: &Path) -> io::Result<Self> {
        let mut service = Self::launch(kind, durability, dir)?;
        service.ready()?;
        Ok(service)
    }

    /// Starts it; it serves only once it is [`Self::ready`].
    pub(crate) fn launch(kind: Kind, durability: Durability, dir: &Path) -> io::Result<Self> {
        let dir = dir.join(format!("{}-{durability}", kind.name().replace(' ', "-")));
        fs::create_dir_all(&dir)?;
        let (first, others) = ports()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, first));
        let mut service = Self {
            version: install::version(kind),
            dir,
            ports: others,
            ..Self::at(kind, durability, address)
        };
        service.spawn()?;
        Ok(service)
    }

    fn at(kind: Kind, durability: Durability, address: SocketAddr) -> Self {
        Self {
            kind,
            durability,
            version: String::new(),
            dir: PathBuf::new(),
            address,
            ports: [0; 3],
            child: None,
            helper: None,
            found: None,
        }
    }

    /// One that runs already and promises this much, if it answers.
    pub(crate) fn given(
        kind: Kind,
        durability: Durability,
        address: SocketAddr,
    ) -> io::Result<Self> {
        let mut service = Self::at(kind, durability, address);
        if kind == Kind::Iggy {
            let stats = iggy::stats(address)?;
            service.version = stats.version;
            // A number from within a container is somebody else here.
            service.found = Some(stats.process).filter(|process| is_running(*process, IGGY));
        } else {
            kafka::answers(address)?;
        }
        Ok(service)
    }

    /// Which version it is; empty if that is not to be found out.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Starts it again with the data that it has, and waits until it serves.
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        self.spawn()?;
        self.ready()
    }

    fn spawn(&mut self) -> io::Result<()> {
        let mut command = match self.kind {
            Kind::Posthouse | Kind::Laden => self.posthouse()?,
            Kind::Nats => self.nats()?,
            Kind::Redis => self.redis()?,
            Kind::RabbitmqQuorum | Kind::RabbitmqStream => self.rabbitmq()?,
            Kind::Beanstalkd => self.beanstalkd()?,
            Kind::Iggy | Kind::Kafka => return Err(io::Error::other("it is not started here")),
        };
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(Child::spawn(&mut command)?);
        Ok(())
    }

    /// Waits until it serves.
    pub(crate) fn ready(&mut self) -> io::Result<()> {
        let start = clock::now();
        while !self.answers() {
            if let Some(child) = &mut self.child
                && child.has_ended()?
            {
                return Err(self.failed("ended"));
            }
            if start.elapsed() > PATIENCE {
                return Err(self.failed("does not answer"));
            }
            clock::pause(PAUSE);
        }
        Ok(())
    }

    fn failed(&self, what: &str) -> io::Error {
        let log = fs::read(self.dir.join("log")).unwrap_or_default();
        let end = log.get(log.len().saturating_sub(LOG_TAIL)..).unwrap_or_default();
        let end = String::from_utf8_lossy(end).trim().replace('\n', " | ");
        io::Error::other(format!("it {what}; its log ends: {end}"))
    }

    /// The same `RabbitMQ` node for its other protocol: it takes long to start.
    pub(crate) fn into_streams(mut self) -> Self {
        let [_, _, stream] = &mut self.ports;
        let amqp = self.address.port();
        self.address.set_port(*stream);
        *stream = amqp;
        self.kind = Kind::RabbitmqStream;
        self.durability = Durability::Written;
        self
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child = None;
        self.helper = None;
    }

    fn answers(&self) -> bool {
        match self.kind {
            Kind::Posthouse | Kind::Laden | Kind::Beanstalkd => Wire::connect(self.address).is_ok(),
            Kind::Nats => nats::serves(self.address),
            Kind::Redis => redis::answers(self.address),
            Kind::RabbitmqQuorum => amqp::answers(self.address),
            Kind::RabbitmqStream => stream::answers(self.address),
            Kind::Iggy => iggy::stats(self.address).is_ok(),
            Kind::Kafka => kafka::answers(self.address).is_ok(),
        }
    }

    /// Makes the queue, stream or topics of a turn.
    pub(crate) fn create(&self, queue: &str, topics: usize) -> io::Result<()> {
        match self.kind {
            Kind::Posthouse | Kind::Laden => {
                let durability = match self.durability {
                    Durability::Synced => settings::Durability::Synced,
                    Durability::Written => settings::Durability::Written,
                };
                posthouse::create(self.address, queue, durability, topics)
            }
            Kind::Nats => nats::create(self.address, queue),
            Kind::RabbitmqQuorum => amqp::create(self.address, queue),
            Kind::RabbitmqStream => stream::create(self.address, queue),
            Kind::Iggy => iggy::create(self.address, queue),
            Kind::Kafka => kafka::create(self.address, queue, self.durability),
            // These two make what is named.
            Kind::Redis | Kind::Beanstalkd => Ok(()),
        }
    }

    pub(crate) fn connect(&self, queue: &str, duty: Duty) -> io::Result<Link> {
        match self.kind {
            Kind::Posthouse | Kind::Laden => posthouse::connect(self.address, queue, duty),
            Kind::Nats => nats::connect(self.address, queue, duty),
            Kind::Redis => redis::connect(self.address, queue, duty),
            Kind::RabbitmqQuorum => amqp::connect(self.address, queue, duty),
            Kind::RabbitmqStream => stream::connect(self.address, queue, duty),
            Kind::Beanstalkd => beanstalkd::connect(self.address, queue, duty),
            Kind::Iggy => iggy::connect(self.address, queue, duty),
            Kind::Kafka => kafka::connect(self.address, queue, duty),
        }
    }

    /// Removes what a turn has left, so that the next one finds the broker empty.
    pub(crate) fn remove(&mut self, queue: &str, topics: usize) -> io::Result<()> {
        match self.kind {
            Kind::Posthouse | Kind::Laden => posthouse::remove(self.address, queue, topics),
            Kind::Nats => nats::remove(self.address, queue),
            Kind::Redis => redis::remove(self.address, queue),
            Kind::RabbitmqQuorum => amqp::remove(self.address, queue),
            Kind::RabbitmqStream => stream::remove(self.address, queue),
            Kind::Iggy => iggy::remove(self.address, queue),
            Kind::Kafka => kafka::remove(self.address, queue),
            Kind::Beanstalkd => {
                // It cannot forget a tube: it starts anew, empty.
                self.kill();
                fs::remove_dir_all(self.dir.join("data"))?;
                self.resume()
            }
        }
    }

    /// Whether a message that was there before can be asked for.
    pub(crate) fn serves(&self, queue: &str) -> bool {
        match self.kind {
            Kind::Nats => nats::answers(self.address, queue),
            Kind::RabbitmqStream => stream::serves(self.address, queue),
            Kind::Posthouse
            | Kind::Laden
            | Kind::Redis
            | Kind::RabbitmqQuorum
            | Kind::Beanstalkd
            | Kind::Iggy
            | Kind::Kafka => self.answers(),
        }
    }

    /// Bytes of its own memory, the page cache left out.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        self.child.as_ref().map_or(Ok(0), Child::memory)
    }

    /// Processor time that it has used, if its process is known.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        self.child.as_ref().map(Child::cpu).or_else(|| self.found.map(cpu_of))
    }

    /// Makes the folder of the data.
    fn data(&self) -> io::Result<PathBuf> {
        let data = self.dir.join("data");
        fs::create_dir_all(&data)?;
        Ok(data)
    }

    fn posthouse(&self) -> io::Result<Command> {
        let mut command = guarded(&crate::running::binary()?);
        command.args(["serve", "--listen", &self.address.to_string(), "--data-dir"]);
        command.arg(self.data()?);
        Ok(command)
    }

    fn nats(&self) -> io::Result<Command> {
        let interval = if self.durability == Durability::Synced { "always" } else { "2m" };
        let text = format!(
            "listen: \"{}\"\nwrite_deadline: \"60s\"\nmax_payload: 8MB\njetstream {{ store_dir: \"{}\", sync_interval: {interval}, max_file_store: 1TB, max_memory_store: 1GB }}\n",
            self.address,
            self.data()?.display()
        );
        let config = self.dir.join("nats.conf");
        fs::write(&config, text)?;
        let mut command = guarded(&install::path(Program::Nats)?);
        command.arg("-c").arg(config);
        Ok(command)
    }

    fn redis(&self) -> io::Result<Command> {
        let fsync = if self.durability == Durability::Synced { "always" } else { "everysec" };
        let mut command = guarded(&install::path(Program::Redis)?);
        let port = self.address.port().to_string();
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0", "--dir"]);
        command.arg(self.data()?);
        Ok(command)
    }

    fn beanstalkd(&self) -> io::Result<Command> {
        let every = if self.durability == Durability::Synced { "0" } else { "50" };
        let mut command = guarded(&install::path(Program::Beanstalkd)?);
        let port = self.address.port().to_string();
        command.args(["-l", "127.0.0.1", "-p", &port, "-f", every, "-z", "16777216"]);
        command.args(["-s", "104857600", "-b"]).arg(self.data()?);
        Ok(command)
    }

    fn rabbitmq(&mut self) -> io::Result<Command> {
        let [between, names, unused] = self.ports;
        let (amqp, stream) = match self.kind {
            Kind::RabbitmqStream => (unused, self.address.port()),
            Kind::RabbitmqQuorum
            | Kind::Posthouse
            | Kind::Laden
            | Kind::Nats
            | Kind::Redis
            | Kind::Beanstalkd
            | Kind::Iggy
            | Kind::Kafka => (self.address.port(), unused),
        };
        // Erlang's name service would otherwise stay behind as a daemon.
        let mut epmd = guarded(&install::path(Program::Epmd)?);
        epmd.args(["-port", &names.to_string(), "-address", "127.0.0.1"]);
        epmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.helper = Some(Child::spawn(&mut epmd)?);
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\nstream.listeners.tcp.1 = 127.0.0.1:{stream}\ndisk_free_limit.absolute = 50MB\nvm_memory_high_watermark.relative = 0.8\nlog.file.level = warning\n"
        );
        let path = |name: &str| self.dir.join(name);
        fs::write(path("rabbitmq.conf"), config)?;
        fs::write(path("plugins"), "[rabbitmq_stream].\n")?;
        let mut command = guarded(&install::path(Program::Rabbitmq)?);
        command.env("RABBITMQ_NODENAME", "posthouse-bench@localhost").env("HOME", &self.dir);
        command.env("RABBITMQ_MNESIA_BASE", self.data()?).env("RABBITMQ_LOG_BASE", path("logs"));
        command.env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"));
        command.env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"));
        command.env("RABBITMQ_DIST_PORT", between.to_string());
        command.env("ERL_EPMD_PORT", names.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1}",
        );
        // The script then becomes the server and does not stay before it.
        command.env("RUNNING_UNDER_SYSTEMD", "1");
        Ok(command)
    }
}

/// Four ports that were free a moment ago.
fn ports() -> io::Result<(u16, [u16; 3])> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (first, second, third, fourth) = (listen()?, listen()?, listen()?, listen()?);
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    Ok((port(&first)?, [port(&second)?, port(&third)?, port(&fourth)?]))
}
