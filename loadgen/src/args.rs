//! The command line, as typed. [`crate::plan::Plan`] decides what it means.

use std::path::PathBuf;
use std::time::Duration;

use crate::target::Target;

/// Measures a SLIM node from outside, over the real wire.
///
/// Its connections look like those of real clients: negotiated links, a MAC on every message, both forms of every name,
/// another identity token in every message. It verifies as it measures: lost, duplicated, reordered or damaged messages
/// are counted and make the exit status non-zero.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "slim-loadgen", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Requesters and echoes in pairs; the time that round trips take
    Ping(Ping),
    /// Publishers and subscribers in pairs, as fast as flow control lets
    Stream(Stream),
    /// Publishers to all subscribers of one name, as fast as flow control lets
    Fanout(Fanout),
    /// Connections that are subscribed and idle; what they cost the server
    Connect(Connect),
}

#[derive(Debug, Clone, clap::Args)]
pub struct Ping {
    /// Requester and echo pairs, each side on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub pairs: usize,
    /// Messages that each requester keeps on their way
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub in_flight: usize,
    #[command(flatten)]
    pub traffic: Traffic,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Stream {
    /// Publisher and subscriber pairs, each side on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub pairs: usize,
    #[command(flatten)]
    pub traffic: Traffic,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Fanout {
    /// Publishers
    #[arg(long, value_name = "P", default_value_t = 1)]
    pub publishers: usize,
    /// Subscribers, each of which gets every message
    #[arg(long, value_name = "S", default_value_t = 16)]
    pub subscribers: usize,
    #[command(flatten)]
    pub traffic: Traffic,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Connect {
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub connections: usize,
    /// How long they stay idle
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub hold: Duration,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Traffic {
    /// Bytes of each payload
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub payload: usize,
    /// How long to measure
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub duration: Duration,
    /// Traffic before that, not measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub warm_up: Duration,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// The node: HOST:PORT, slim://HOST:PORT or unix:///PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:46357")]
    pub target: Target,
    /// The node's process, if it runs here: its processor time and memory are then reported too
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Run one worker on each of these cores, as 1 or 2,3 [default: one worker, anywhere]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cores: Vec<usize>,
    /// Also write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `250ms`, `5s`, `2m`; a day at most.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("a number and `ms`, `s` or `m` are expected, as in 5s".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a whole number".to_owned())?;
    match number.checked_mul(unit_ms) {
        Some(ms) if ms <= 86_400_000 => Ok(Duration::from_millis(ms)),
        _ => Err("more than a day".to_owned()),
    }
}

const AFTER_HELP: &str = "\
Exit status:
  0  measured, and every message arrived once and in order
  1  could not start, or cut short: the result, if any, is marked as partial
  2  the arguments are wrong
  3  messages were lost, duplicated, reordered or damaged";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "5h",
            "9999999999999999999s",
            "2000m",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
