//! The result of a run: one record, for people and as JSON.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::ledger::Faults;
use crate::plan::Workload;

/// A worker that uses this much of its core has no time left to send more.
const SATURATED: f64 = 0.95;

/// Rates and counts are of the measured phase; `faults` are of the whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of this layout.
    pub schema: u32,
    pub command: String,
    pub workload: String,
    pub target: String,
    pub payload_bytes: Option<usize>,
    pub measured_s: f64,
    /// Why the run ended early. The numbers are then of a part of it.
    pub cut_short: Option<String>,
    pub set_up: SetUp,
    pub traffic: Option<Traffic>,
    pub faults: Faults,
    pub loadgen: Loadgen,
    pub server: Option<Server>,
}

/// From the first connect to the last acknowledged subscription.
#[derive(Debug, Serialize)]
pub struct SetUp {
    pub connections: usize,
    pub seconds: f64,
    pub connections_per_s: f64,
}

#[derive(Debug, Serialize)]
pub struct Traffic {
    pub published: u64,
    /// Messages that receivers got. A request and its echo are two.
    pub delivered: u64,
    pub published_per_s: f64,
    pub delivered_per_s: f64,
    pub delivered_payload_mb_per_s: f64,
    pub round_trips_per_s: Option<f64>,
    pub latency: Latency,
}

/// Of round trips (ping), else from publisher to subscriber.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub samples: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub max_us: f64,
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            samples: histogram.len(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p99_9_us: us(0.999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

/// This process, all threads.
#[derive(Debug, Serialize)]
pub struct Loadgen {
    pub workers: usize,
    pub cpu_us_per_delivered: Option<f64>,
    pub cores_used: f64,
}

/// The measured process, all threads.
#[derive(Debug, Serialize)]
pub struct Server {
    pub cpu_us_per_delivered: Option<f64>,
    pub cpu_us_per_published: Option<f64>,
    pub cores_used: Option<f64>,
    pub resident_bytes_before: Option<u64>,
    pub resident_bytes_ready: Option<u64>,
    pub resident_bytes_end: Option<u64>,
    pub resident_bytes_per_connection: Option<f64>,
}

impl Report {
    /// Says which side was at its limit, if that can be said.
    fn limit(&self) -> Option<&'static str> {
        let traffic = self.traffic.as_ref()?;
        if traffic.delivered == 0 {
            return None;
        }
        let is_own = self.loadgen.cores_used >= SATURATED * self.loadgen.workers as f64;
        let server = self.server.as_ref().and_then(|server| server.cores_used);
        let is_server = server.is_some_and(|cores| cores >= SATURATED);
        Some(match (is_own, is_server) {
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
        })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping { pairs, in_flight } => {
                write!(f, "ping: {pairs} pair(s), {in_flight} in flight each")
            }
            Self::Stream { pairs } => {
                write!(f, "stream: {pairs} publisher(s), one subscriber each")
            }
            Self::Fanout {
                publishers,
                subscribers,
            } => write!(
                f,
                "fanout: {publishers} publisher(s), {subscribers} subscriber(s) each"
            ),
            Self::Connect { connections } => write!(f, "connect: {connections} idle"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.workload, self.target)?;
        if let Some(bytes) = self.payload_bytes {
            write!(f, ", {bytes}-byte payloads")?;
        }
        writeln!(f, ", {:.1} s", self.measured_s)?;
        if let Some(why) = &self.cut_short {
            writeln!(f, "  PARTIAL RESULT       {why}")?;
        }
        let set_up = &self.set_up;
        writeln!(
            f,
            "  set-up               {} connections in {:.2} s, {:.0}/s",
            set_up.connections, set_up.seconds, set_up.connections_per_s
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
            let latency = &traffic.latency;
            writeln!(
                f,
                "  {:<20} p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
                if traffic.round_trips_per_s.is_some() {
                    "round-trip time"
                } else {
                    "one-way time"
                },
                latency.p50_us,
                latency.p99_us,
                latency.p99_9_us,
                latency.max_us
            )?;
        }
        let own = &self.loadgen;
        write!(f, "  loadgen CPU          ")?;
        put_cpu(f, own.cpu_us_per_delivered, Some(own.cores_used))?;
        writeln!(f, ", {} worker(s)", own.workers)?;
        if let Some(server) = &self.server {
            self.put_server(f, server)?;
        }
        let faults = &self.faults;
        if self.traffic.is_some() {
            writeln!(
                f,
                "  verified             {} lost, {} duplicated, {} reordered, {} damaged",
                faults.lost, faults.duplicated, faults.reordered, faults.damaged
            )?;
        }
        match self.limit() {
            Some(limit) => writeln!(f, "  limit                {limit}"),
            None => Ok(()),
        }
    }
}

impl Report {
    fn put_server(&self, f: &mut fmt::Formatter<'_>, server: &Server) -> fmt::Result {
        write!(f, "  server CPU           ")?;
        put_cpu(f, server.cpu_us_per_delivered, server.cores_used)?;
        if let (Some(us), None) = (server.cpu_us_per_published, self.round_trips()) {
            write!(f, ", {us:.3} us per published")?;
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
