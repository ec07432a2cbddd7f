//! The command line, as typed. [`crate::config::Config::load`] decides what it means.

use crate::config::{ListenAddress, SHARDS_MAX};
use crate::logging::{LogFormat, LogLevel};
use std::num::NonZeroU16;
use std::path::PathBuf;

/// Routes SLIM messages between the applications that connect to it.
///
/// Without arguments it serves 127.0.0.1:46357 in clear text, with one shard for each core that it may run on.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(name = "slim-router", version, max_term_width = 100, after_long_help = AFTER_HELP, after_help = AFTER_SHORT_HELP)]
pub struct Args {
    /// Listen on IP:port or unix:///path (may be repeated) [default: 127.0.0.1:46357]
    ///
    /// Clear text. Port 0 takes any free port; the log says which. Not together with --config: listeners in a file
    /// have options that an address does not say.
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<ListenAddress>,

    /// Run N shards [default: one for each available core]
    ///
    /// A shard is one thread with its own sockets, connections and part of the name table; shards share nothing and
    /// pass messages over bounded rings. One for each core is the fastest. More than cores work, and are for tests.
    /// Wins over `runtime.n_cores` of a file.
    #[arg(long, value_name = "N", value_parser = shards)]
    pub shards: Option<NonZeroU16>,

    /// Read an existing node's YAML file
    ///
    /// The layout is `tracing`, `runtime`, `services.slim/NAME.dataplane.servers[]`, and `limits` of our own: connections,
    /// connections_per_address, subscriptions_per_connection, names, message_bytes, negotiation_timeout,
    /// egress_bytes_per_connection, egress_bytes, ingress_messages_per_second, ingress_bytes_per_second, memory. What this router does not
    /// support is refused with file, line, key and reason, and so is any unknown key; nothing is ignored in silence.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check the arguments and the file, print what would be served, and exit
    ///
    /// Opens no port, so it can run beside a router that serves.
    #[arg(long)]
    pub check: bool,

    /// How log lines look
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// The least severe level to log [default: info]
    ///
    /// Wins over `tracing.log_level` of a file. The variable RUST_LOG wins over both, and can set single modules:
    /// RUST_LOG=info,slim_router::connection=debug
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
}

fn shards(text: &str) -> Result<NonZeroU16, String> {
    match text.parse::<NonZeroU16>() {
        Ok(shards) if shards.get() <= SHARDS_MAX => Ok(shards),
        _ => Err(format!("1 to {SHARDS_MAX} is accepted")),
    }
}

const AFTER_SHORT_HELP: &str = "--help says more: examples, signals, exit status.";

const AFTER_HELP: &str = "\
Examples:
  slim-router                                    this machine only, all cores
  slim-router --listen 0.0.0.0:46357             the whole network
  slim-router --listen 127.0.0.1:46357 --listen unix:///run/slim/dp.sock
  slim-router --config node.yaml --check         would this file start?
  slim-router --config node.yaml --log-format json

Signals:
  SIGTERM, SIGINT   drain: stop listening, end the streams in good order, exit. It takes no longer
                    than `runtime.drain_timeout` of a file (10s). A second signal exits at once.

Exit status:
  0  ended by a signal and drained, or --check found nothing wrong
  1  could not start or go on: a port in use, io_uring not permitted
  2  the arguments or the file are wrong; what is wrong is on standard error

Log lines go to standard error, the outcome of --check to standard output.";
