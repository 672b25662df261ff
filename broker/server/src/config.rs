//! What an operator may choose: every option once, with its type, default and meaning.
//!
//! Flags win over `POSTHOUSE_...` in the environment, that over the TOML file, that over the
//! defaults. A value is checked where it is read, so that an error names its place; how the
//! values fit together is checked in [`Config::check`]. An unknown key is refused.

mod error;
mod file;
mod listen;
mod option;
mod source;
mod store;
mod value;

#[cfg(test)]
mod tests;

pub use error::ConfigError;
pub use listen::{Endpoint, Listen};
pub use option::ConfigOption;
pub use source::Sources;
pub use value::{ByteSize, LogFormat, LogLevel, Period};

use listen::Listens;
use option::options;
use posthouse_protocol::limits;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Port of the default of [`Config::listen`].
pub const PORT_DEFAULT: u16 = 7400;
/// Default of [`Config::data_dir`].
pub const DATA_DIR_DEFAULT: &str = "posthouse-data";
/// Default of [`Config::segment_bytes`].
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 * MIB;
/// Default of [`Config::fold_bytes`].
pub const FOLD_BYTES_DEFAULT: u64 = 64 * MIB;
/// Default of [`Config::fold_idle`].
pub const FOLD_IDLE_DEFAULT: Duration = Duration::from_secs(1);
/// Default of [`Config::journal_keep_bytes`].
pub const JOURNAL_KEEP_BYTES_DEFAULT: u64 = GIB;
/// Default of [`Config::journal_keep_age`].
pub const JOURNAL_KEEP_AGE_DEFAULT: Duration = Duration::from_secs(3600);
/// Default of [`Config::unfolded_bytes_max`].
pub const UNFOLDED_BYTES_MAX_DEFAULT: u64 = GIB;
/// Default of [`Config::index_bytes_max`].
pub const INDEX_BYTES_MAX_DEFAULT: u64 = 64 * MIB;
/// Default of [`Config::message_bytes_max`].
pub const MESSAGE_BYTES_MAX_DEFAULT: u64 = limits::MESSAGE_BYTES_DEFAULT as u64;
/// Default of [`Config::connections_max`].
pub const CONNECTIONS_MAX_DEFAULT: u32 = 10_000;
/// Default of [`Config::connection_bytes_max`].
pub const CONNECTION_BYTES_MAX_DEFAULT: u64 = 32 * MIB;
/// Default of [`Config::buffers_bytes_max`].
pub const BUFFERS_BYTES_MAX_DEFAULT: u64 = 256 * MIB;
/// Default of [`Config::hello_timeout`].
pub const HELLO_TIMEOUT_DEFAULT: Duration = Duration::from_secs(limits::HELLO_SECONDS);
/// Default of [`Config::drain_timeout`].
pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Largest [`Config::segment_bytes`].
pub const SEGMENT_BYTES_MAX: u64 = GIB;
/// Smallest [`Config::segment_bytes`].
pub const SEGMENT_BYTES_MIN: u64 = MIB;
/// [`Config::segment_bytes`] is a multiple of this.
pub const SEGMENT_BYTES_STEP: u64 = 4096;
/// Part of the largest frame that is kept for what is not message body.
pub const FRAME_HEAD_BYTES: u64 = 64 << 10;

options! {
    /// Addresses to listen on: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`. Port 0 takes a free
    /// one; the line that `serve` prints when it is ready says which.
    listen: Vec<Listen> as Listens = vec![Listen::Tcp { host: "127.0.0.1".to_owned(), port: PORT_DEFAULT }];

    /// Directory of journal, runs and checkpoints. One broker at a time.
    data_dir: PathBuf as PathBuf = PathBuf::from(DATA_DIR_DEFAULT);

    /// Allows listening on addresses that other machines can reach, although there is no TLS and
    /// no authentication yet: everybody who reaches the port may read and delete everything.
    insecure: bool as bool = false;

    /// Size of a journal segment. The largest publish is an eighth of it, less 64 KiB. Clients
    /// send batches of up to 2 MiB, so less than 32 MiB is for tests. Holds for new files.
    segment_bytes: u64 as ByteSize = SEGMENT_BYTES_DEFAULT;

    /// Journal after which the checkpointer folds, and how much of it at a time (or four times the
    /// last checkpoint, if that is more). Less means a shorter start after a crash and more writing in the background.
    fold_bytes: u64 as ByteSize = FOLD_BYTES_DEFAULT;

    /// The checkpointer folds what there is when nothing was written for so long; less than a 64th
    /// of a segment is left.
    fold_idle: Duration as Period = FOLD_IDLE_DEFAULT;

    /// Folded journal kept as history; the first to go when space is short.
    journal_keep_bytes: u64 as ByteSize = JOURNAL_KEEP_BYTES_DEFAULT;

    /// Age up to which folded journal is kept as history.
    journal_keep_age: Duration as Period = JOURNAL_KEEP_AGE_DEFAULT;

    /// Journal not folded yet at which publishes are refused with OVERLOADED. Bounds the start
    /// after a crash, and the disk that the journal takes beyond its history.
    unfolded_bytes_max: u64 as ByteSize = UNFOLDED_BYTES_MAX_DEFAULT;

    /// Memory for the index of batches not folded yet at which publishes are refused with
    /// OVERLOADED; a batch takes 32 bytes.
    index_bytes_max: u64 as ByteSize = INDEX_BYTES_MAX_DEFAULT;

    /// Largest message body, whatever a topic allows. At most 16 MiB. Above 7 MiB it needs larger
    /// segments.
    message_bytes_max: u64 as ByteSize = MESSAGE_BYTES_MAX_DEFAULT;

    /// Connections at a time; more are closed at once.
    connections_max: u32 as u32 = CONNECTIONS_MAX_DEFAULT;

    /// Memory for what one connection has sent and has not been answered, and for what waits to
    /// be sent to it. A connection at its limit is not read from until it takes something.
    connection_bytes_max: u64 as ByteSize = CONNECTION_BYTES_MAX_DEFAULT;

    /// Memory for the same of all connections together.
    buffers_bytes_max: u64 as ByteSize = BUFFERS_BYTES_MAX_DEFAULT;

    /// A connection whose first frame is not complete after so long is closed.
    hello_timeout: Duration as Period = HELLO_TIMEOUT_DEFAULT;

    /// How long a stop waits for clients to take their replies. What they hold stays theirs to
    /// settle after the next start, as long as it has not been handed out again.
    drain_timeout: Duration as Period = DRAIN_TIMEOUT_DEFAULT;

    /// What is logged: `error`, `warn`, `info`, `debug` or `trace`.
    log_level: LogLevel as LogLevel = LogLevel::Info;

    /// How it is logged, to stderr: `text`, or `json` with an object a line.
    log_format: LogFormat as LogFormat = LogFormat::Text;
}

impl Config {
    /// A broker in a temporary directory and without a listener, for tests and for programs that
    /// carry their broker with them. The directory goes when the last clone of this is dropped.
    ///
    /// # Errors
    ///
    /// The system's, if the directory cannot be made.
    pub fn temporary() -> std::io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("posthouse-").tempdir()?;
        Ok(Self {
            listen: Vec::new(),
            data_dir: directory.path().to_owned(),
            segment_bytes: 32 * MIB,
            temporary: Some(Arc::new(directory)),
            ..Self::default()
        })
    }

    /// Whether this is from [`Config::temporary`], and still keeps its data there.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.temporary.as_ref().is_some_and(|directory| directory.path() == self.data_dir)
    }

    /// Reads all sources and checks the result.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming source, line and option.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        source::read(sources)?.apply(&mut config);
        if config.listen.is_empty() {
            return Err(ConfigError::wrong("listen", "names no address"));
        }
        config.check()?;
        Ok(config)
    }

    /// Whether the options fit together, and whether it is safe to listen where they say.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: a value out of range, a name that does not resolve, or an address that
    /// other machines can reach without `insecure`.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_periods()?;
        self.endpoints().map(drop)
    }

    /// The listeners with their host names resolved, and known to be safe. Bind these rather than
    /// the names, which may mean something else when they are asked for again.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: a name that does not resolve, or an address that other machines can reach
    /// without `insecure`.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, ConfigError> {
        let endpoints =
            self.listen.iter().map(Listen::resolve).collect::<Result<Vec<_>, ConfigError>>()?;
        if self.insecure {
            return Ok(endpoints);
        }
        match endpoints.iter().find_map(Endpoint::exposed) {
            Some((listen, address)) => Err(ConfigError::Exposed { listen, address }),
            None => Ok(endpoints),
        }
    }

    /// Listeners that other machines can reach; not empty only with `insecure`.
    ///
    /// # Errors
    ///
    /// As [`Config::endpoints`].
    pub fn exposed(&self) -> Result<Vec<String>, ConfigError> {
        let endpoints = self.endpoints()?;
        Ok(endpoints.iter().filter_map(Endpoint::exposed).map(|(listen, _)| listen).collect())
    }

    /// All options with their meaning, as a file that [`Config::load`] reads back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        file::print(self)
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let segment = self.segment_bytes;
        let range = |key, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let (least, most) = (ByteSize(least), ByteSize(most));
            Err(ConfigError::wrong(
                key,
                &format!("{} is not in {least} to {most}", ByteSize(value)),
            ))
        };
        range("segment_bytes", segment, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)?;
        if !segment.is_multiple_of(SEGMENT_BYTES_STEP) {
            return Err(ConfigError::wrong("segment_bytes", "is not a multiple of 4 KiB"));
        }
        range("fold_bytes", self.fold_bytes, SEGMENT_BYTES_MIN, 64 * GIB)?;
        let ring_least = (4 * segment).max(2 * self.fold_bytes);
        range("unfolded_bytes_max", self.unfolded_bytes_max, ring_least, 1024 * GIB)?;
        range("index_bytes_max", self.index_bytes_max, MIB, 64 * GIB)?;
        let message_most = u64::from(limits::MESSAGE_BYTES_MAX);
        range("message_bytes_max", self.message_bytes_max, 1, message_most)?;
        if self.message_bytes_max > segment / 8 - FRAME_HEAD_BYTES {
            return Err(ConfigError::wrong(
                "message_bytes_max",
                &format!(
                    "{} does not fit: it is at most an eighth of segment_bytes ({}) less {}",
                    ByteSize(self.message_bytes_max),
                    ByteSize(segment),
                    ByteSize(FRAME_HEAD_BYTES),
                ),
            ));
        }
        let connection_least = 2 * self.message_bytes_max.max(MIB);
        range("connection_bytes_max", self.connection_bytes_max, connection_least, GIB)?;
        range("buffers_bytes_max", self.buffers_bytes_max, self.connection_bytes_max, 1024 * GIB)?;
        if !(1..=1_000_000).contains(&self.connections_max) {
            return Err(ConfigError::wrong("connections_max", "is not in 1 to 1000000"));
        }
        Ok(())
    }

    fn check_periods(&self) -> Result<(), ConfigError> {
        let range = |key, value: Duration, least: Duration, most: Duration| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let (least, most) = (Period(least), Period(most));
            Err(ConfigError::wrong(key, &format!("{} is not in {least} to {most}", Period(value))))
        };
        let (millisecond, hour) = (Duration::from_millis(1), Duration::from_secs(3600));
        range("fold_idle", self.fold_idle, millisecond, hour)?;
        range("journal_keep_age", self.journal_keep_age, Duration::ZERO, hour * 24 * 3650)?;
        range("hello_timeout", self.hello_timeout, millisecond, hour)?;
        range("drain_timeout", self.drain_timeout, Duration::ZERO, hour)
    }

    /// Largest batch that fits into a frame of the journal.
    #[must_use]
    pub fn batch_bytes_max(&self) -> u32 {
        let frame = self.segment_bytes / 8;
        let batch = frame.saturating_sub(FRAME_HEAD_BYTES).min(u64::from(limits::BATCH_BYTES_MAX));
        u32::try_from(batch).unwrap_or(u32::MAX)
    }
}
