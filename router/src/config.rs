//! What the router is told to do: [`Config`], and the one road to it.
//!
//! Two forms. *As written*: [`Args`] and the file's tree ([`ConfigFile`]), positions kept, nothing believed.
//! *As used*: [`Config`], whose every value is valid. [`Config::load`] is the only way from the one to the other.
//!
//! The file has the layout of an existing node's (`node-config.md` 4-6), and one section of our own, [`Limits`]. What holds for every key of it:
//! - it is read, and then it has its documented effect;
//! - or it is known to have no effect on a clear-text server, here or there, and is accepted with a [`Remark`];
//! - or the file is refused, with file, line, key and reason. Nothing is ignored in silence, no typo either.
//!
//! Knows no socket and no clock. Reads files (the configuration, and what `${file:PATH}` names) and nothing else.

mod duration;
mod file;
mod limits;
mod listen;
mod section;
mod yaml;

pub use file::{CONFIG_FILE_BYTES_MAX, ConfigFile};
pub use limits::Limits;
pub use listen::{AddressError, ListenAddress};

use crate::args::Args;
pub use crate::limits::SHARDS_MAX;
use crate::logging::{LogFilter, LogFormat};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

/// Where the router listens when nothing says otherwise: the port of the existing node, this machine only.
pub const LISTEN_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 46357);
/// Bytes of a node id or a domain name. They travel in every link negotiation.
pub const NODE_ID_BYTES_MAX: usize = 255;

const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL_DEFAULT: Duration = Duration::from_secs(120);
const KEEPALIVE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);

/// A whole router, valid: what [`crate::Router::start`] takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// At most [`SHARDS_MAX`]. May exceed the number of cores.
    pub shards: NonZeroU16,
    /// Never empty; no two have the same address, but for TCP port 0.
    pub listeners: Vec<ListenerConfig>,
    /// From the first signal to the exit. Zero: no drain.
    pub drain_timeout: Duration,
    /// This router's name in link negotiation (dataplane 2.6). Not empty, no control characters, at most
    /// [`NODE_ID_BYTES_MAX`]. Unless the file gives one, it is `node-<uuid>`, new at every start.
    pub node_id: String,
    /// The deployment that a peer has to share. Checked like `node_id`.
    pub domain_name: Option<String>,
    pub limits: Limits,
    pub tracing: TracingConfig,
    /// What was accepted although it has no effect. To be shown at start.
    pub notes: Vec<Remark>,
}

/// One listener. All of them speak gRPC over HTTP/2 in clear text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    pub address: ListenAddress,
    /// Refuse links that negotiate no header MAC (dataplane 5.5).
    pub require_header_mac: bool,
    /// From the open stream to the end of link negotiation. Not zero.
    pub negotiation_timeout: Duration,
    /// From one HTTP/2 PING of ours to the next, also on an idle connection (dataplane 1.5). Not zero.
    pub keepalive_interval: Duration,
    /// How long a PING may stay unanswered before the connection is closed. Not zero.
    pub keepalive_timeout: Duration,
}

impl ListenerConfig {
    /// A listener with the defaults of the existing node (`node-config.md` 6).
    pub fn new(address: ListenAddress) -> Self {
        Self {
            address,
            require_header_mac: true,
            negotiation_timeout: crate::limits::NEGOTIATION_TIMEOUT,
            keepalive_interval: KEEPALIVE_INTERVAL_DEFAULT,
            keepalive_timeout: KEEPALIVE_TIMEOUT_DEFAULT,
        }
    }
}

/// What is logged, and how a line looks. `logging::start` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracingConfig {
    pub filter: LogFilter,
    pub format: LogFormat,
    /// Off unless asked for, unlike in the existing node: events carry their shard.
    pub thread_names: bool,
    pub thread_ids: bool,
}

/// A finding about one key of the file: a reason to refuse it, or something worth knowing.
///
/// Reads `FILE:LINE: KEY: TEXT`; without the key where the finding is about the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// The way from the top of the file, such as `services.slim/0.dataplane.servers[0].tls`; empty for the top.
    pub key: String,
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

/// Why there is nothing to serve. The process prints it and exits with status 2; a retry cannot help.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// Everything that is wrong with the file, one line each, in the file's order.
    #[error("{}", lines(problems))]
    Refused { problems: Vec<Remark> },
    #[error(
        "--listen and --config exclude each other: the listeners of {} carry options that an address does not. \
         Change `endpoint` in the file",
        path.display()
    )]
    ListenWithFile { path: PathBuf },
    #[error("--listen {address} is given twice")]
    ListenTwice { address: ListenAddress },
    #[error(
        "RUST_LOG=`{given}`: {reason}; write a level, `module=level`, or a list of these with commas"
    )]
    RustLog { given: String, reason: String },
}

fn lines(problems: &[Remark]) -> String {
    problems
        .iter()
        .map(Remark::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// How the process environment is read: `None` for a variable that is not set or is not Unicode. A parameter, so that
/// tests do not change the environment of the whole process.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// Puts together what the command line, the file and the environment say.
    ///
    /// - Without `--config`: the listeners given by `--listen`, or [`LISTEN_DEFAULT`].
    /// - `--shards` and `--log-level` win over the file; RUST_LOG wins over both (`node-config.md` 3).
    /// - Errors: [`ConfigError`]. All problems of a file are in one error.
    pub fn load(args: &Args, environment: Environment) -> Result<Self, ConfigError> {
        let mut config = match &args.config {
            Some(path) if !args.listen.is_empty() => {
                return Err(ConfigError::ListenWithFile { path: path.clone() });
            }
            Some(path) => ConfigFile::read(path)?.check(environment)?,
            None => Self::without_file(&args.listen)?,
        };
        config.shards = args.shards.unwrap_or(config.shards);
        config.tracing.format = args.log_format;
        if let Some(level) = args.log_level {
            config.tracing.filter = LogFilter::level(level);
        }
        if let Some(given) = environment("RUST_LOG").filter(|text| !text.trim().is_empty()) {
            config.tracing.filter =
                LogFilter::parse(&given).map_err(|error| ConfigError::RustLog {
                    given,
                    reason: error.to_string(),
                })?;
        }
        Ok(config)
    }

    fn without_file(listen: &[ListenAddress]) -> Result<Self, ConfigError> {
        for (position, address) in listen.iter().enumerate() {
            if listen
                .iter()
                .take(position)
                .any(|earlier| earlier.collides_with(address))
            {
                return Err(ConfigError::ListenTwice {
                    address: address.clone(),
                });
            }
        }
        let listeners = match listen {
            [] => vec![ListenerConfig::new(ListenAddress::Tcp(LISTEN_DEFAULT))],
            given => given.iter().cloned().map(ListenerConfig::new).collect(),
        };
        Ok(Self::with_listeners(listeners))
    }

    /// The defaults of everything but the listeners.
    fn with_listeners(listeners: Vec<ListenerConfig>) -> Self {
        Self {
            shards: one_shard_per_core(),
            listeners,
            drain_timeout: DRAIN_TIMEOUT_DEFAULT,
            node_id: format!("node-{}", uuid::Uuid::new_v4()),
            domain_name: None,
            limits: Limits::default(),
            tracing: TracingConfig {
                filter: LogFilter::default(),
                format: LogFormat::Human,
                thread_names: false,
                thread_ids: false,
            },
            notes: Vec::new(),
        }
    }
}

/// One for each core that this process may run on: the affinity mask and the cgroup's CPU quota count. One, if the
/// system does not say.
fn one_shard_per_core() -> NonZeroU16 {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let shards = u16::try_from(cores).unwrap_or(SHARDS_MAX).min(SHARDS_MAX);
    NonZeroU16::new(shards).unwrap_or(NonZeroU16::MIN)
}

/// What `--check` prints: what would be served, one fact a line, then the notes.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for listener in &self.listeners {
            let mac = if listener.require_header_mac {
                "required"
            } else {
                "accepted"
            };
            writeln!(
                f,
                "listen         {} (clear text, header MAC {mac}, {:?} to negotiate, PING every {:?}, {:?} to answer)",
                listener.address,
                listener.negotiation_timeout,
                listener.keepalive_interval,
                listener.keepalive_timeout,
            )?;
        }
        writeln!(f, "shards         {}", self.shards)?;
        writeln!(f, "node id        {}", self.node_id)?;
        writeln!(
            f,
            "domain         {}",
            self.domain_name.as_deref().unwrap_or("none")
        )?;
        writeln!(f, "drain timeout  {:?}", self.drain_timeout)?;
        writeln!(f, "limits         {}", self.limits)?;
        write!(f, "log            {}", self.tracing.filter)?;
        for note in &self.notes {
            write!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}
