//! The command line, as typed. [`crate::plan::Plan`] decides what it means.

use std::path::PathBuf;
use std::time::Duration;

use crate::choice::{Popularity, Sizes};
use crate::target::Target;

/// Measures a message router from outside, over the real wire: SLIM nodes, and NATS as the yardstick.
///
/// Its connections look like those of real clients: negotiated links, a MAC on every message, both forms of every name,
/// another identity token in every message. It verifies as it measures: lost, duplicated, reordered or damaged messages
/// are counted and make the exit status non-zero. With --server-pid it reports what each message cost the server, by the
/// scheduler's own account, beside what it cost the load generator.
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
    /// Publishers and subscribers in pairs, at a fixed rate; latency from the time a message was to be sent
    Rate(Rate),
    /// Connections that are subscribed and idle; what they cost the server, and what replacing them takes
    Connect(Connect),
    /// A receiver that stops reading, or reads at half the speed, beside others; what that costs the others
    Slow(Slow),
    /// One workload against several targets in turn, round by round, with ratios
    Compare(Compare),
    /// Draws records of earlier runs (--json) into one SVG
    Plot(Plot),
}

impl Command {
    /// What every workload has; `None` for commands that run none, or several.
    pub fn common_mut(&mut self) -> Option<&mut Common> {
        match self {
            Self::Ping(ping) => Some(&mut ping.common),
            Self::Stream(stream) => Some(&mut stream.common),
            Self::Fanout(fanout) => Some(&mut fanout.common),
            Self::Rate(rate) => Some(&mut rate.common),
            Self::Connect(connect) => Some(&mut connect.common),
            Self::Slow(slow) => Some(&mut slow.common),
            Self::Compare(_) | Self::Plot(_) => None,
        }
    }
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
    /// Messages that a publisher puts into one write, which it waits for; 1 as a client that sends one at a time
    /// [default: whole frames of 32 KiB]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
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
pub struct Rate {
    /// Messages per second, of all publishers together; with --sweep, the first rate
    #[arg(long, value_name = "PER_SECOND", default_value_t = 20_000)]
    pub rate: u64,
    /// Publisher and subscriber pairs, each side on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub pairs: usize,
    /// Climb until latency or delivery breaks, and say where: each step is a run of --duration
    #[arg(long)]
    pub sweep: bool,
    /// A step of the sweep holds up to this 99th percentile
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = duration)]
    pub sweep_p99: Duration,
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
    /// How long they are held
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub hold: Duration,
    /// Connections that are closed and opened anew each second meanwhile, oldest first
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0)]
    pub churn: u64,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Slow {
    /// Receivers, the slow ones among them
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub receivers: usize,
    /// Receivers that are slow
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub stopped: usize,
    /// They read half of what comes instead of nothing, and must lose nothing
    #[arg(long)]
    pub half_speed: bool,
    /// One publisher sends to each receiver by its own name, in random order, instead of each message to all
    #[arg(long)]
    pub unicast: bool,
    /// Messages per second of the one publisher [default: 500 to all, or 12,000 to one each]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<u64>,
    /// Bytes of payloads, as of the other workloads
    #[arg(long, value_name = "BYTES", default_value = "4096")]
    pub payload: Sizes,
    /// How long all read: what the others' latency is compared to
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub before: Duration,
    /// How long the slow are slow and the others are looked at for it: what the server lets wait, and its time of grace
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = duration)]
    pub during: Duration,
    /// How long the others are looked at after that
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub after: Duration,
    /// Traffic before all that, not measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub warm_up: Duration,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Compare {
    /// A target: NAME=ADDR, then of its own ,pid=PID and ,mac=off; the first is what the others are compared to
    #[arg(long, value_name = "NAME=ADDR[,..]", required = true)]
    pub against: Vec<Against>,
    /// Rounds; in each, every target gets the workload once, another one first each time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: usize,
    /// Also write all records as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The workload with its options, after `--`: ping --pairs 64 --cores 1
    #[arg(last = true, required = true, value_name = "WORKLOAD")]
    pub workload: Vec<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Plot {
    /// Where to write the SVG
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Above the plot
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// Records as --json writes them: all of sweeps (latency by throughput), or none (latency by percentile)
    #[arg(required = true, value_name = "RECORD")]
    pub records: Vec<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Traffic {
    /// Bytes of payloads: 256, 100-2000 (all alike), or 64:70,1024:25,65536:5 (each with its weight)
    #[arg(long, value_name = "BYTES", default_value = "256")]
    pub payload: Sizes,
    /// Names that are published to, in all; each has a subscriber [default: one a pair, or one channel]
    #[arg(long, value_name = "N")]
    pub names: Option<usize>,
    /// How often each name is published to: uniform or zipf:EXPONENT
    #[arg(long, value_name = "HOW", default_value = "uniform")]
    pub names_by: Popularity,
    /// All names are ids under one prefix, as the members of a large channel are, instead of each under its own
    #[arg(long)]
    pub one_prefix: bool,
    /// How long to measure
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub duration: Duration,
    /// Traffic before that, not measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub warm_up: Duration,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// The server: slim://HOST:PORT, HOST:PORT, unix:///PATH, nats://HOST:PORT, or tcp://HOST:PORT for the tcp-relay
    #[arg(long, value_name = "ADDR", default_value = "slim://127.0.0.1:46357")]
    pub target: Target,
    /// Whether SLIM links agree on a key and sign, as default clients do; a node must be told to accept `off`
    #[arg(long, value_name = "ON|OFF", default_value = "on")]
    pub mac: Mac,
    /// The server's process, if it runs here: its processor time and memory are then reported too
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Run one worker on each of these cores, as 1 or 2,3 [default: one worker, anywhere]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cores: Vec<usize>,
    /// Also write the result as JSON; loadgen/SCHEMA.md says what is in it
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also write the latency as HdrHistogram percentiles, which its plotters read
    #[arg(long, value_name = "FILE")]
    pub percentiles: Option<PathBuf>,
    /// Also draw the latency as SVG: by percentile, or of a sweep by throughput
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Exit with 0 even if messages were lost, duplicated, reordered or damaged
    #[arg(long)]
    pub allow_faults: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mac {
    On,
    Off,
}

/// One target of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Against {
    pub name: String,
    pub target: Target,
    pub server_pid: Option<u32>,
    pub mac: Mac,
}

impl std::str::FromStr for Against {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let (name, target) = parts
            .next()
            .and_then(|part| part.split_once('='))
            .filter(|(name, _)| !name.is_empty())
            .ok_or("NAME=ADDR is expected, as in ours=slim://127.0.0.1:46357,pid=1234")?;
        let mut against = Self {
            name: name.to_owned(),
            target: target.parse().map_err(|error| format!("{name}: {error}"))?,
            server_pid: None,
            mac: Mac::On,
        };
        for part in parts {
            match part.split_once('=') {
                Some(("pid", pid)) => {
                    let pid = pid.parse().map_err(|_| format!("{pid} is no process id"))?;
                    against.server_pid = Some(pid);
                }
                Some(("mac", "on")) => against.mac = Mac::On,
                Some(("mac", "off")) => against.mac = Mac::Off,
                _ => return Err(format!("`{part}`: pid=PID, mac=on or mac=off is expected")),
            }
        }
        Ok(against)
    }
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
Examples:
  slim-loadgen ping --pairs 64 --server-pid $(pidof slim-router) --cores 1
  slim-loadgen rate --rate 20000 --json run.json --percentiles run.hgrm --plot run.svg
  slim-loadgen rate --rate 10000 --sweep --duration 2s
  slim-loadgen stream --payload 64:70,1024:25,65536:5 --names 10000 --names-by zipf:1.1
  slim-loadgen connect --connections 2000 --churn 200
  slim-loadgen slow --receivers 64 --stopped 1 --unicast
  slim-loadgen compare --against ours=127.0.0.1:46357,pid=71 --against nats=nats://127.0.0.1:4222,pid=72 \\
               -- stream --pairs 4 --cores 1

Exit status:
  0  measured, and every message arrived once and in order
  1  could not start, or cut short: the result, if any, is marked as partial
  2  the arguments are wrong
  3  messages were lost, duplicated, reordered or damaged (unless --allow-faults); of `slow` those of a receiver that
     stopped do not count
  4  the rate that was asked for was not reached";

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

    #[test]
    fn a_comparison_names_its_targets() {
        let ours: Against = "ours=unix:///run/slim.sock,pid=7,mac=off".parse().unwrap();
        assert_eq!(
            (ours.name.as_str(), ours.server_pid, ours.mac),
            ("ours", Some(7), Mac::Off)
        );
        let plain: Against = "n=nats://127.0.0.1:4222".parse().unwrap();
        assert_eq!((plain.server_pid, plain.mac), (None, Mac::On));
        for bad in [
            "",
            "127.0.0.1:1",
            "=a:1",
            "a=b",
            "a=b:1,pid=x",
            "a=b:1,mac=maybe",
            "a=b:1,x",
        ] {
            assert!(bad.parse::<Against>().is_err(), "{bad}");
        }
    }
}
