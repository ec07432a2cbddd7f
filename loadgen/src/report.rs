//! The result of a run: one record, for people and as JSON. `SCHEMA.md` beside this crate documents the JSON.

use std::fmt;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::curve::LatencyRecord;
use crate::ledger::Faults;
use crate::machine::Machine;
use crate::plan::Workload;
use crate::plot::{PlotError, Series, latency_by_percentile, latency_by_throughput};
use crate::slow::{Slow, Slowness};
use crate::sweep::{Step, Sweep};

/// Of the layout of the records.
pub const SCHEMA: u32 = 2;
/// A worker that uses this much of its core has no time left to send more.
const SATURATED: f64 = 0.95;
/// A rate counts as reached from this part of it on.
const RATE_REACHED: f64 = 0.99;

/// Rates and counts are of the measured phase; `faults` are of the whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub schema: u32,
    /// UTC.
    pub started_at: String,
    pub machine: Machine,
    /// That this load generator was built from.
    pub commit: &'static str,
    pub command: String,
    pub workload: String,
    pub target: String,
    pub target_protocol: &'static str,
    pub link_mac: bool,
    /// Sizes, as `--payload` takes them.
    pub payload: Option<String>,
    /// If all are of one size.
    pub payload_bytes: Option<usize>,
    pub measured_s: f64,
    /// Why the run ended early. The numbers are then of a part of it.
    pub cut_short: Option<String>,
    pub set_up: SetUp,
    pub traffic: Option<Traffic>,
    pub churn: Option<Churn>,
    /// Of a run beside slow receivers.
    pub slow: Option<Slow>,
    pub faults: Faults,
    pub loadgen: Loadgen,
    pub server: Option<Server>,
    /// Processor time per second of everything else on this machine, and of what its host took from it.
    pub others_cores_used: Option<f64>,
    /// Which side was at its limit, in words.
    pub limit: Option<String>,
    /// Of a sweep, whose knee the rest of the record is of.
    pub sweep: Option<Sweep>,
    /// What `traffic.latency`, or else `churn.latency`, is of; in nanoseconds.
    #[serde(skip)]
    pub histogram: Histogram<u64>,
}

/// From the first connect to the last acknowledged subscription.
#[derive(Debug, Clone, Serialize)]
pub struct SetUp {
    pub connections: usize,
    pub subscriptions: usize,
    pub seconds: f64,
    pub connections_per_s: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Traffic {
    pub published: u64,
    /// Messages that receivers got. A request and its echo are two.
    pub delivered: u64,
    pub published_per_s: f64,
    pub delivered_per_s: f64,
    pub delivered_payload_bytes: u64,
    pub delivered_payload_mb_per_s: f64,
    pub round_trips_per_s: Option<f64>,
    /// Of round trips (ping), else from publisher to subscriber; at a fixed rate from when the message was due.
    pub latency: LatencyRecord,
    pub rate: Option<Rate>,
    /// Fan-out: from the first receiver of a message to its last.
    pub spread: Option<LatencyRecord>,
}

/// How a fixed rate was kept.
#[derive(Debug, Clone, Serialize)]
pub struct Rate {
    pub asked_per_s: u64,
    pub sent_per_s: f64,
    /// Due and never made, because megabytes were waiting on their connection.
    pub unsent: u64,
    /// How late the load generator itself made them. Part of the latency.
    pub slip: LatencyRecord,
}

impl Rate {
    pub fn is_reached(&self) -> bool {
        self.unsent == 0 && self.sent_per_s >= RATE_REACHED * self.asked_per_s as f64
    }
}

/// Connections closed and opened anew.
#[derive(Debug, Clone, Serialize)]
pub struct Churn {
    pub asked_per_s: u64,
    pub done_per_s: f64,
    pub done: u64,
    /// From when the replacement was due to its acknowledged subscription.
    pub latency: LatencyRecord,
}

impl Churn {
    pub fn is_reached(&self) -> bool {
        self.done_per_s >= RATE_REACHED * self.asked_per_s as f64
    }
}

/// This process, all threads.
#[derive(Debug, Clone, Serialize)]
pub struct Loadgen {
    pub workers: usize,
    pub cpu_us_per_delivered: Option<f64>,
    pub cores_used: f64,
}

/// The measured process, all threads.
#[derive(Debug, Clone, Serialize)]
pub struct Server {
    pub cpu_us_per_delivered: Option<f64>,
    pub cpu_us_per_published: Option<f64>,
    /// Of the set-up, connections included.
    pub cpu_us_per_subscription: Option<f64>,
    pub cores_used: Option<f64>,
    pub resident_bytes_before: Option<u64>,
    pub resident_bytes_ready: Option<u64>,
    pub resident_bytes_end: Option<u64>,
    pub resident_bytes_per_connection: Option<f64>,
}

impl Report {
    /// Draws the latency as SVG: by percentile, or of a sweep by throughput.
    pub fn plot(&self, out: &Path) -> Result<(), PlotError> {
        let title = format!("{} on {}", self.workload, self.target);
        if let Some(sweep) = &self.sweep {
            let series = |label: &str, latency_us: fn(&Step) -> f64| Series {
                label: label.to_owned(),
                points: sweep
                    .steps
                    .iter()
                    .map(|step| (step.delivered_per_s, latency_us(step)))
                    .collect(),
            };
            let series = [
                series("p50", |step| step.p50_us),
                series("p99", |step| step.p99_us),
            ];
            return latency_by_throughput(&title, &series, out);
        }
        let latency = match (&self.traffic, &self.churn) {
            (Some(traffic), _) => &traffic.latency,
            (None, Some(churn)) => &churn.latency,
            // Idle connections have none; what that comes to is said there.
            (None, None) => &LatencyRecord::default(),
        };
        let series = Series {
            label: self.target.clone(),
            points: latency.percentiles.clone(),
        };
        latency_by_percentile(&title, &[series], out)
    }

    /// Says which side was at its limit, if that can be said.
    pub fn what_was_the_limit(&self) -> Option<String> {
        let traffic = self.traffic.as_ref()?;
        // A rate that nothing was delivered of was missed by somebody all the same.
        if let Some(rate) = &traffic.rate
            && (traffic.delivered > 0 || !rate.is_reached())
        {
            return Some(self.what_limited_the_rate(rate, traffic));
        }
        // Beside slow receivers it spins too, and who is to wait is what is measured.
        if traffic.delivered == 0 || self.slow.is_some() {
            return None;
        }
        let server = self.server.as_ref().and_then(|server| server.cores_used);
        let is_own = self.loadgen.cores_used >= SATURATED * self.loadgen.workers as f64;
        let is_server = server.is_some_and(|cores| cores >= SATURATED);
        let text = match (is_own, is_server) {
            (true, true) => {
                "both sides were busy all the time: more --cores would tell which is the limit"
            }
            (true, false) => {
                "the load generator was the limit, not the server: give it more --cores, or read nothing into the rate"
            }
            (false, true) => "the load generator had time to spare, the server had none",
            (false, false) if server.is_some() => {
                "neither side was busy all the time: waiting, or other work on their cores, was the limit"
            }
            (false, false) => "the load generator had time to spare: it was not the limit",
        };
        Some(text.to_owned())
    }

    /// An open loop spins while it waits, so that its processor time says nothing. How late it was does.
    fn what_limited_the_rate(&self, rate: &Rate, traffic: &Traffic) -> String {
        let (slip, latency) = (rate.slip.p99_us, traffic.latency.p99_us);
        if rate.unsent > 0 {
            format!(
                "the server: {} messages were not made, because too much was waiting on their connections",
                rate.unsent
            )
        } else if !rate.is_reached() {
            format!(
                "the load generator: it made {:.0} of {} messages per second; give it more --cores",
                rate.sent_per_s, rate.asked_per_s
            )
        } else if slip > latency / 2.0 {
            format!(
                "the load generator was itself late (p99 {slip:.0} us), which is more than half of the latency's p99"
            )
        } else {
            format!(
                "neither: the rate was kept, and the load generator's own lateness was {slip:.0} us at p99"
            )
        }
    }

    /// Whether the rates that were asked for came about.
    pub fn is_rate_reached(&self) -> bool {
        let rate = self
            .traffic
            .as_ref()
            .and_then(|traffic| traffic.rate.as_ref());
        rate.is_none_or(Rate::is_reached) && self.churn.as_ref().is_none_or(Churn::is_reached)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping { pairs, in_flight } => {
                write!(f, "ping: {pairs} pair(s), {in_flight} in flight each")
            }
            Self::Stream { pairs, batch } => {
                write!(f, "stream: {pairs} publisher(s), one subscriber each")?;
                match batch {
                    Some(batch) => write!(f, ", {batch} message(s) a write"),
                    None => Ok(()),
                }
            }
            Self::Rate {
                pairs,
                messages_per_s,
            } => write!(
                f,
                "rate: {messages_per_s}/s from {pairs} publisher(s), one subscriber each"
            ),
            Self::Fanout {
                publishers,
                subscribers,
            } => write!(
                f,
                "fanout: {publishers} publisher(s), {subscribers} subscriber(s) each"
            ),
            Self::Slow {
                receivers,
                slow,
                slowness,
                is_unicast,
                messages_per_s,
            } => write!(
                f,
                "slow: {messages_per_s}/s {} {receivers} receivers, of which {slow} {}",
                if *is_unicast {
                    "to one each of"
                } else {
                    "to all of"
                },
                match slowness {
                    Slowness::Stopped => "stop reading",
                    Slowness::HalfSpeed => "read at half the speed",
                }
            ),
            Self::Connect {
                connections,
                churn_per_s: 0,
            } => write!(f, "connect: {connections} idle"),
            Self::Connect {
                connections,
                churn_per_s,
            } => write!(f, "connect: {connections} idle, {churn_per_s}/s replaced"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.workload, self.target)?;
        if let Some(payload) = &self.payload {
            write!(f, ", payloads of {payload} bytes")?;
        }
        if self.target_protocol == "slim" && !self.link_mac {
            write!(f, ", MAC off")?;
        }
        writeln!(f, ", {:.1} s", self.measured_s)?;
        if let Some(why) = &self.cut_short {
            writeln!(f, "  PARTIAL RESULT       {why}")?;
        }
        let set_up = &self.set_up;
        writeln!(
            f,
            "  set-up               {} connections and {} subscriptions in {:.2} s, {:.0} connections/s",
            set_up.connections, set_up.subscriptions, set_up.seconds, set_up.connections_per_s
        )?;
        if let Some(traffic) = &self.traffic {
            if let Some(round_trips) = traffic.round_trips_per_s {
                writeln!(f, "  round trips          {round_trips:.0}/s")?;
            } else {
                writeln!(f, "  published            {:.0}/s", traffic.published_per_s)?;
            }
            writeln!(
                f,
                "  routed messages      {:.0}/s, {:.1} MB/s of payload",
                traffic.delivered_per_s, traffic.delivered_payload_mb_per_s
            )?;
            let is_paced = traffic.rate.is_some() || self.slow.is_some();
            let what = match (traffic.round_trips_per_s, is_paced) {
                (Some(_), _) => "round-trip time",
                (None, false) => "one-way time",
                (None, true) => "time since due",
            };
            put_latency(f, what, &traffic.latency)?;
            if let Some(rate) = &traffic.rate {
                put_latency(f, "of which own delay", &rate.slip)?;
            }
            if let Some(spread) = &traffic.spread {
                put_latency(f, "first to last", spread)?;
            }
        }
        if let Some(slow) = &self.slow {
            put_slow(f, slow)?;
        }
        if let Some(churn) = &self.churn {
            writeln!(
                f,
                "  replaced             {} connections, {:.1}/s of {}/s",
                churn.done, churn.done_per_s, churn.asked_per_s
            )?;
            put_latency(f, "due to subscribed", &churn.latency)?;
        }
        let own = &self.loadgen;
        write!(f, "  loadgen CPU          ")?;
        put_cpu(f, own.cpu_us_per_delivered, Some(own.cores_used))?;
        write!(f, ", {} worker(s)", own.workers)?;
        let is_open_loop = self.slow.is_some()
            || self
                .traffic
                .as_ref()
                .is_some_and(|traffic| traffic.rate.is_some());
        writeln!(
            f,
            "{}",
            if is_open_loop {
                ", spinning between messages"
            } else {
                ""
            }
        )?;
        if let Some(server) = &self.server {
            self.put_server(f, server)?;
        }
        if let Some(cores) = self.others_cores_used {
            writeln!(f, "  all else             {:.1} % of a core", cores * 100.0)?;
        }
        let faults = &self.faults;
        if self.traffic.is_some() {
            writeln!(
                f,
                "  verified             {} lost, {} duplicated, {} reordered, {} damaged",
                faults.lost, faults.duplicated, faults.reordered, faults.damaged
            )?;
        }
        if let Some(limit) = &self.limit {
            writeln!(f, "  limit                {limit}")?;
        }
        match &self.sweep {
            Some(sweep) => write!(f, "{sweep}"),
            None => Ok(()),
        }
    }
}

fn put_latency(f: &mut fmt::Formatter<'_>, what: &str, latency: &LatencyRecord) -> fmt::Result {
    writeln!(
        f,
        "  {what:<20} p50 {:.0} us, p90 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
        latency.p50_us, latency.p90_us, latency.p99_us, latency.p99_9_us, latency.max_us
    )
}

fn put_slow(f: &mut fmt::Formatter<'_>, slow: &Slow) -> fmt::Result {
    let others = slow.other_receivers;
    writeln!(f, "  the {others} others, by when a message was due:")?;
    for (what, window) in [
        ("  before", &slow.before),
        ("  during", &slow.during),
        ("  after", &slow.after),
    ] {
        put_latency(f, what, &window.latency)?;
    }
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    writeln!(
        f,
        "  p99 to before        during {}, after {}",
        ratio(slow.p99_ratio_during),
        ratio(slow.p99_ratio_after)
    )?;
    if slow.rate.unsent > 0 {
        writeln!(
            f,
            "  not made             {} messages that were due and could not go until the end",
            slow.rate.unsent
        )?;
    }
    writeln!(
        f,
        "  the {} slow           {} messages read, {} lost, {} cut by the server",
        slow.slow_receivers, slow.slow_received, slow.slow_lost, slow.slow_cut
    )
}

impl Report {
    fn put_server(&self, f: &mut fmt::Formatter<'_>, server: &Server) -> fmt::Result {
        write!(f, "  server CPU           ")?;
        put_cpu(f, server.cpu_us_per_delivered, server.cores_used)?;
        if let (Some(us), None) = (server.cpu_us_per_published, self.round_trips()) {
            write!(f, ", {us:.3} us per published")?;
        }
        if let Some(us) = server.cpu_us_per_subscription {
            write!(f, "; {us:.2} us per subscription at set-up")?;
        }
        writeln!(f)?;
        let kib = |bytes: Option<u64>| match bytes {
            Some(bytes) => format!("{} KiB", bytes / 1_024),
            None => "?".to_owned(),
        };
        write!(
            f,
            "  server memory        {} before, {} connected, {} at the end",
            kib(server.resident_bytes_before),
            kib(server.resident_bytes_ready),
            kib(server.resident_bytes_end)
        )?;
        if let Some(bytes) = server.resident_bytes_per_connection {
            write!(f, "; {:.2} KiB per connection", bytes / 1_024.0)?;
        }
        writeln!(f)
    }

    fn round_trips(&self) -> Option<f64> {
        self.traffic.as_ref()?.round_trips_per_s
    }
}

fn put_cpu(f: &mut fmt::Formatter<'_>, us: Option<f64>, cores: Option<f64>) -> fmt::Result {
    if let Some(us) = us {
        write!(f, "{us:.3} us per routed message, ")?;
    }
    match cores {
        Some(cores) => write!(f, "{:.1} % of a core", cores * 100.0),
        None => f.write_str("unknown: the process is gone"),
    }
}
