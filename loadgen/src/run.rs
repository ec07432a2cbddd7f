//! One run: starts the workers, moves them from phase to phase, reads the processes' accounts, puts the result together.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::accounting::{AccountError, processor_time, resident_bytes};
use crate::message::tokens;
use crate::plan::{Plan, Workload};
use crate::report::{Latency, Loadgen, Report, Server, SetUp, Traffic};
use crate::worker::{Phase, Shared, Worker, WorkerError, WorkerReport};

/// Time between two looks at how far the workers are.
const POLL: Duration = Duration::from_millis(2);
/// How long nothing may arrive at the end of a run, before what is missing counts as lost.
const DRAIN_QUIET: Duration = Duration::from_secs(2);

/// Why there is no result at all.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot look up {target}: {error}")]
    Lookup { target: String, error: io::Error },
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
    #[error("--server-pid: {0}")]
    Server(#[from] AccountError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("interrupted before anything was measured")]
    Interrupted,
}

/// Runs a plan to its end, or to the first thing that ends it.
///
/// - `interrupted`: set from outside, by Ctrl-C, to end it early.
/// - Returns the result, marked as partial if it was cut short while measuring.
pub fn run(plan: &Plan, interrupted: &AtomicBool) -> Result<Report, RunError> {
    let target = plan.target.resolve().map_err(|error| RunError::Lookup {
        target: plan.target.to_string(),
        error,
    })?;
    let tokens = tokens().map_err(RunError::Random)?;
    let resident_before = plan.server_pid.map(resident_bytes).transpose()?;
    let workers = plan.clients.len();
    let shared = Arc::new(Shared::new(target, tokens, workers));
    let run = Run {
        plan,
        interrupted,
        shared,
    };
    let threads = run.start()?;
    let set_up_time = run.set_up();
    let measured = match set_up_time {
        Some(_) => run.measure(),
        None => Measured::default(),
    };
    run.shared.set_phase(Phase::Stop);
    let mut total = WorkerReport::blank();
    for thread in threads {
        total.merge(thread.join().expect("a worker returns its failures"));
    }
    let failure = total.failure.take();
    let set_up_time = match (set_up_time, measured.wall) {
        (Some(time), wall) if wall > Duration::ZERO => time,
        _ => return Err(failure.map_or(RunError::Interrupted, RunError::Worker)),
    };
    let cut_short = failure.map(|failure| failure.to_string());
    let cut_short = cut_short.or(measured.cut_short.map(str::to_owned));
    Ok(run.report(total, set_up_time, measured, resident_before, cut_short))
}

struct Run<'a> {
    plan: &'a Plan,
    interrupted: &'a AtomicBool,
    shared: Arc<Shared>,
}

/// The measured phase as the coordinator saw it.
#[derive(Default)]
struct Measured {
    wall: Duration,
    own: Duration,
    server: Option<Duration>,
    resident_ready: Option<u64>,
    resident_end: Option<u64>,
    cut_short: Option<&'static str>,
}

impl Run<'_> {
    fn start(&self) -> Result<Vec<JoinHandle<WorkerReport>>, WorkerError> {
        let mut threads = Vec::new();
        for (index, clients) in self.plan.clients.iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            let core = self.plan.cores.get(index).copied();
            let clients = clients.clone();
            let thread = thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Some(id) = core {
                        // The core was there when the plan was checked; if it is gone, the run is merely not pinned.
                        let _ = core_affinity::set_for_current(core_affinity::CoreId { id });
                    }
                    match Worker::new(index, Arc::clone(&shared), clients) {
                        Ok(worker) => worker.run(),
                        Err(error) => {
                            shared.failed.store(true, Ordering::Release);
                            WorkerReport {
                                failure: Some(error),
                                ..WorkerReport::blank()
                            }
                        }
                    }
                })
                .map_err(WorkerError::Thread)?;
            threads.push(thread);
        }
        Ok(threads)
    }

    /// Waits until all connections are subscribed. `None` if it came to nothing.
    fn set_up(&self) -> Option<Duration> {
        let clients = self.plan.client_count();
        while self.shared.ready.load(Ordering::Acquire) < clients {
            if self.why_stop().is_some() {
                return None;
            }
            thread::sleep(POLL);
        }
        Some(self.shared.started.elapsed())
    }

    fn measure(&self) -> Measured {
        let mut measured = Measured {
            resident_ready: self.resident(),
            ..Measured::default()
        };
        if !self.plan.warm_up.is_zero() {
            self.shared.set_phase(Phase::WarmUp);
            if self.wait(self.plan.warm_up).is_some() {
                return measured;
            }
        }
        let (own_before, server_before) = (self.own(), self.server());
        let started = Instant::now();
        self.shared.set_phase(Phase::Measure);
        measured.cut_short = self.wait(self.plan.duration);
        measured.resident_end = self.resident();
        let (own, server) = (self.own(), self.server());
        self.shared.set_phase(Phase::Drain);
        measured.wall = started.elapsed();
        measured.own = own
            .unwrap_or_default()
            .saturating_sub(own_before.unwrap_or_default());
        // Of a server that has died, what is left in /proc is not its account. Memory is the first thing that goes.
        measured.server = server
            .zip(server_before)
            .filter(|_| measured.resident_end.is_some())
            .and_then(|(after, before)| after.checked_sub(before));
        self.drain();
        measured
    }

    /// Waits until all that was published has arrived, or nothing more does.
    fn drain(&self) {
        let sums = || {
            let mut sums = (0, 0);
            for worker in &self.shared.progress {
                sums.0 += worker.published.load(Ordering::Relaxed);
                sums.1 += worker.delivered.load(Ordering::Relaxed);
            }
            sums
        };
        let (mut last, mut since) = (sums(), Instant::now());
        loop {
            thread::sleep(10 * POLL);
            let now = sums();
            let (published, delivered) = now;
            if now != last {
                (last, since) = (now, Instant::now());
            } else if delivered >= published * self.plan.receivers_per_message
                || since.elapsed() > DRAIN_QUIET
            {
                return;
            }
            if self.shared.failed.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// Lets time pass. Returns early, and says why, if the run is to end.
    fn wait(&self, duration: Duration) -> Option<&'static str> {
        let until = Instant::now() + duration;
        loop {
            if let Some(why) = self.why_stop() {
                return Some(why);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            thread::sleep(left.min(10 * POLL));
        }
    }

    fn why_stop(&self) -> Option<&'static str> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Some("interrupted");
        }
        self.shared
            .failed
            .load(Ordering::Acquire)
            .then_some("a worker failed")
    }

    fn own(&self) -> Option<Duration> {
        processor_time(std::process::id()).ok()
    }

    /// `None` without a pid, and when the server has gone meanwhile: its connections then say so too.
    fn server(&self) -> Option<Duration> {
        processor_time(self.plan.server_pid?).ok()
    }

    fn resident(&self) -> Option<u64> {
        resident_bytes(self.plan.server_pid?).ok()
    }

    fn report(
        &self,
        total: WorkerReport,
        set_up_time: Duration,
        measured: Measured,
        resident_before: Option<u64>,
        cut_short: Option<String>,
    ) -> Report {
        let plan = self.plan;
        let seconds = measured.wall.as_secs_f64();
        let per_message_us = |time: Duration, messages: u64| {
            (messages > 0).then(|| time.as_secs_f64() * 1e6 / messages as f64)
        };
        let cores = |time: Duration| time.as_secs_f64() / seconds;
        let connections = plan.client_count();
        let is_idle = matches!(plan.workload, Workload::Connect { .. });
        let faults = total.faults();
        let server = plan.server_pid.map(|_| Server {
            cpu_us_per_delivered: measured
                .server
                .and_then(|time| per_message_us(time, total.delivered)),
            cpu_us_per_published: measured
                .server
                .and_then(|time| per_message_us(time, total.published)),
            cores_used: measured.server.map(cores),
            resident_bytes_before: resident_before,
            resident_bytes_ready: measured.resident_ready,
            resident_bytes_end: measured.resident_end,
            resident_bytes_per_connection: measured
                .resident_ready
                .zip(resident_before)
                .map(|(ready, before)| ready.saturating_sub(before) as f64 / connections as f64),
        });
        Report {
            schema: 1,
            command: plan.command_line.clone(),
            workload: plan.workload.to_string(),
            target: plan.target.to_string(),
            payload_bytes: (!is_idle).then_some(plan.payload_bytes),
            measured_s: seconds,
            cut_short,
            set_up: SetUp {
                connections,
                seconds: set_up_time.as_secs_f64(),
                connections_per_s: connections as f64 / set_up_time.as_secs_f64(),
            },
            traffic: (!is_idle).then(|| Traffic {
                published_per_s: total.published as f64 / seconds,
                delivered_per_s: total.delivered as f64 / seconds,
                delivered_payload_mb_per_s: total.delivered as f64 * plan.payload_bytes as f64
                    / seconds
                    / 1e6,
                round_trips_per_s: matches!(plan.workload, Workload::Ping { .. })
                    .then(|| total.round_trips as f64 / seconds),
                published: total.published,
                delivered: total.delivered,
                latency: Latency::of(&total.latency),
            }),
            faults,
            loadgen: Loadgen {
                workers: plan.clients.len(),
                cpu_us_per_delivered: per_message_us(measured.own, total.delivered),
                cores_used: cores(measured.own),
            },
            server,
        }
    }
}
