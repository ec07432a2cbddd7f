//! One run: starts the workers, moves them from phase to phase, reads the processes' accounts, puts the result together.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::accounting::{AccountError, machine_time, processor_time, resident_bytes};
use crate::choice::Sizes;
use crate::curve::LatencyRecord;
use crate::link::Material;
use crate::machine::{Machine, commit, utc_now};
use crate::message::{filler, tokens};
use crate::plan::{Plan, PlanError, Windows, Workload};
use crate::progress::Progress;
use crate::report::{Churn, Loadgen, Rate, Report, SCHEMA, Server, SetUp, Traffic};
use crate::slow::{Slow, SlowReader, Slowness, Window};
use crate::target::Protocol;
use crate::worker::{
    Phase, Progress as WorkerProgress, Shared, Worker, WorkerError, WorkerReport, blank_histogram,
};

/// Time between two looks at how far the workers are.
const POLL: Duration = Duration::from_millis(2);
/// How long nothing may arrive at the end of a run, before what is missing counts as lost.
const DRAIN_QUIET: Duration = Duration::from_secs(2);
/// How long nothing may arrive once all has: what comes twice comes later.
const DRAIN_SETTLE: Duration = Duration::from_millis(100);
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_millis(500);

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
    #[error(transparent)]
    Plan(#[from] PlanError),
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
    let material = Material {
        tokens: tokens().map_err(RunError::Random)?.into(),
        filler: filler(plan.sizes.most()).into(),
    };
    let started_at = utc_now();
    let server_before = plan.server_pid.map(processor_time).transpose()?;
    let resident_before = plan.server_pid.map(resident_bytes).transpose()?;
    let workers = plan.clients.len() + plan.slow_clients.len();
    let shared = Arc::new(Shared::new(target, material, workers));
    let run = Run {
        plan,
        interrupted,
        shared,
        started_at,
        server_before,
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
    started_at: String,
    /// Before the first connection.
    server_before: Option<Duration>,
}

/// The measured phase as the coordinator saw it.
#[derive(Default)]
struct Measured {
    wall: Duration,
    own: Duration,
    server: Option<Duration>,
    /// From before the first connection to the last acknowledged subscription.
    server_set_up: Option<Duration>,
    /// Of the whole machine.
    machine: Option<Duration>,
    resident_ready: Option<u64>,
    resident_end: Option<u64>,
    cut_short: Option<&'static str>,
}

impl Run<'_> {
    fn start(&self) -> Result<Vec<JoinHandle<WorkerReport>>, WorkerError> {
        let mut threads = Vec::new();
        let plan = Arc::new(self.plan.clone());
        for (index, clients) in self.plan.clients.iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            let core = self.plan.cores.get(index).copied();
            let (plan, clients) = (Arc::clone(&plan), clients.clone());
            let thread = thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Some(id) = core {
                        // The core was there when the plan was checked; if it is gone, the run is merely not pinned.
                        let _ = core_affinity::set_for_current(core_affinity::CoreId { id });
                    }
                    match Worker::new(index, Arc::clone(&shared), &plan, clients) {
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
        self.start_slow(&mut threads)?;
        Ok(threads)
    }

    /// Beside the last worker: the server's core is not theirs.
    fn start_slow(&self, threads: &mut Vec<JoinHandle<WorkerReport>>) -> Result<(), WorkerError> {
        let Workload::Slow { slowness, .. } = self.plan.workload else {
            return Ok(());
        };
        for (number, client) in self.plan.slow_clients.iter().enumerate() {
            let index = self.plan.clients.len() + number;
            let shared = Arc::clone(&self.shared);
            let (client, windows) = (client.clone(), self.plan.windows);
            let core = self.plan.cores.last().copied();
            let thread = thread::Builder::new()
                .name(format!("slow-{number}"))
                .spawn(move || {
                    if let Some(id) = core {
                        // As above.
                        let _ = core_affinity::set_for_current(core_affinity::CoreId { id });
                    }
                    let shared_too = Arc::clone(&shared);
                    match SlowReader::open(index, shared, client, slowness, windows) {
                        Ok(reader) => reader.run(),
                        Err(error) => {
                            shared_too.failed.store(true, Ordering::Release);
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
        Ok(())
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
            server_set_up: self
                .server()
                .zip(self.server_before)
                .and_then(|(ready, before)| ready.checked_sub(before)),
            resident_ready: self.resident(),
            ..Measured::default()
        };
        if !self.plan.warm_up.is_zero() {
            self.shared.set_phase(Phase::WarmUp);
            if self.wait(self.plan.warm_up, None).is_some() {
                return measured;
            }
        }
        let (own_before, server_before) = (self.own(), self.server());
        let machine_before = machine_time();
        let started = Instant::now();
        self.shared.set_phase(Phase::Measure);
        let mut progress = Progress::new();
        measured.cut_short = self.wait(self.plan.duration, Some(&mut progress));
        progress.finish();
        measured.resident_end = self.resident();
        let (own, server) = (self.own(), self.server());
        measured.machine = machine_time()
            .zip(machine_before)
            .and_then(|(after, before)| after.checked_sub(before));
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
        // On a busy machine a worker sees the phase late, and until then it may publish.
        let has_stopped = |worker: &WorkerProgress| worker.is_draining.load(Ordering::Acquire);
        while !self.shared.progress.iter().all(has_stopped) {
            if self.shared.failed.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(POLL);
        }
        let (mut last, mut since) = (self.sums(), Instant::now());
        loop {
            thread::sleep(POLL);
            let now = self.sums();
            // What came twice does not stand for what has not come yet.
            let arrived: u64 = self
                .shared
                .progress
                .iter()
                .map(|worker| worker.arrived.load(Ordering::Relaxed))
                .sum();
            if now != last {
                (last, since) = (now, Instant::now());
            } else {
                let is_complete = arrived >= now.0 * self.plan.receivers_per_message;
                let quiet = if is_complete {
                    DRAIN_SETTLE
                } else {
                    DRAIN_QUIET
                };
                if since.elapsed() > quiet {
                    return;
                }
            }
            if self.shared.failed.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// Lets time pass, and shows how it goes. Returns early, and says why, if the run is to end.
    fn wait(
        &self,
        duration: Duration,
        mut progress: Option<&mut Progress>,
    ) -> Option<&'static str> {
        let started = Instant::now();
        let (mut painted, mut sums_then) = (started, self.sums());
        loop {
            if let Some(why) = self.why_stop() {
                return Some(why);
            }
            let left = duration.saturating_sub(started.elapsed());
            if left.is_zero() {
                return None;
            }
            thread::sleep(left.min(10 * POLL));
            let since = painted.elapsed();
            if let Some(progress) = progress.as_mut().filter(|progress| progress.is_shown())
                && since >= PROGRESS
            {
                let sums = self.sums();
                let per_s = |now: u64, then: u64| (now - then) as f64 / since.as_secs_f64();
                let latency = self.latency_so_far();
                let us = |quantile| {
                    (!latency.is_empty()).then(|| latency.value_at_quantile(quantile) as f64 / 1e3)
                };
                progress.update(
                    started.elapsed(),
                    duration,
                    per_s(sums.0, sums_then.0),
                    per_s(sums.1, sums_then.1),
                    us(0.5),
                    us(0.99),
                );
                (painted, sums_then) = (Instant::now(), sums);
            }
        }
    }

    /// What the workers have shown since the last time, and a request to show more.
    fn latency_so_far(&self) -> Histogram<u64> {
        let mut latency = blank_histogram();
        for worker in &self.shared.progress {
            let shown = worker.snapshot.lock();
            if let Some(shown) = &*shown.unwrap_or_else(PoisonError::into_inner) {
                latency.add(shown).expect("all have the same bounds");
            }
            worker.snapshot_wanted.store(true, Ordering::Relaxed);
        }
        latency
    }

    /// Published and delivered so far, of all workers.
    fn sums(&self) -> (u64, u64) {
        let mut sums = (0, 0);
        for worker in &self.shared.progress {
            sums.0 += worker.published.load(Ordering::Relaxed);
            sums.1 += worker.delivered.load(Ordering::Relaxed);
        }
        sums
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
        let mut faults = total.faults();
        let server = plan.server_pid.map(|_| Server {
            cpu_us_per_delivered: measured
                .server
                .and_then(|time| per_message_us(time, total.delivered)),
            cpu_us_per_published: measured
                .server
                .and_then(|time| per_message_us(time, total.published)),
            cpu_us_per_subscription: measured
                .server_set_up
                .and_then(|time| per_message_us(time, plan.subscription_count() as u64)),
            cores_used: measured.server.map(cores),
            resident_bytes_before: resident_before,
            resident_bytes_ready: measured.resident_ready,
            resident_bytes_end: measured.resident_end,
            resident_bytes_per_connection: measured
                .resident_ready
                .zip(resident_before)
                .map(|(ready, before)| ready.saturating_sub(before) as f64 / connections as f64),
        });
        let rate_of = |asked_per_s| Rate {
            asked_per_s,
            sent_per_s: total.published as f64 / total.measured.as_secs_f64().max(1e-9),
            unsent: total.pace.unsent,
            slip: LatencyRecord::of(&total.pace.slip),
        };
        let (mut rate, mut slow) = (None, None);
        match plan.workload {
            Workload::Rate { messages_per_s, .. } => rate = Some(rate_of(messages_per_s)),
            Workload::Slow {
                receivers,
                slow: slow_receivers,
                slowness,
                messages_per_s,
                ..
            } => {
                let slow_faults = total.slow_faults();
                if slowness == Slowness::HalfSpeed {
                    faults.add(slow_faults);
                }
                let Windows {
                    before,
                    during,
                    after,
                } = plan.windows;
                let window = |index: usize, length| {
                    let blank = blank_histogram();
                    Window::of(total.windows.get(index).unwrap_or(&blank), length)
                };
                let (before, during, after) =
                    (window(0, before), window(1, during), window(2, after));
                let ratio = |window: &Window| {
                    let whole = before.latency.p99_us;
                    (whole > 0.0 && window.delivered > 0).then(|| window.latency.p99_us / whole)
                };
                slow = Some(Slow {
                    slowness,
                    slow_receivers,
                    other_receivers: receivers - slow_receivers,
                    p99_ratio_during: ratio(&during),
                    p99_ratio_after: ratio(&after),
                    before,
                    during,
                    after,
                    rate: rate_of(messages_per_s),
                    slow_received: total.slow.iter().map(|slow| slow.delivered).sum(),
                    slow_lost: slow_faults.lost,
                    slow_cut: total.slow.iter().filter(|slow| slow.was_cut).count(),
                });
            }
            _ => {}
        }
        let spread = matches!(plan.workload, Workload::Fanout { .. }).then(|| {
            let mut histogram = blank_histogram();
            total
                .spread
                .record(plan.receivers_per_message, &mut histogram);
            LatencyRecord::of(&histogram)
        });
        let churn = match plan.workload {
            Workload::Connect { churn_per_s, .. } if churn_per_s > 0 => Some(Churn {
                asked_per_s: churn_per_s,
                done_per_s: total.churn.latency.len() as f64
                    / total.measured.as_secs_f64().max(1e-9),
                done: total.churn.latency.len(),
                latency: LatencyRecord::of(&total.churn.latency),
            }),
            _ => None,
        };
        let payload_bytes = match plan.sizes {
            Sizes::Fixed(bytes) if !is_idle => Some(bytes),
            _ => None,
        };
        let mut report = Report {
            schema: SCHEMA,
            started_at: self.started_at.clone(),
            machine: Machine::of_this_host(),
            commit: commit(),
            command: plan.command_line.clone(),
            workload: plan.workload.to_string(),
            target: plan.target.to_string(),
            target_protocol: plan.target.protocol().name(),
            link_mac: plan.has_mac && plan.target.protocol() == Protocol::Slim,
            payload: (!is_idle).then(|| plan.sizes.to_string()),
            payload_bytes,
            measured_s: seconds,
            cut_short,
            set_up: SetUp {
                connections,
                subscriptions: plan.subscription_count(),
                seconds: set_up_time.as_secs_f64(),
                connections_per_s: connections as f64 / set_up_time.as_secs_f64(),
            },
            traffic: (!is_idle).then(|| Traffic {
                published_per_s: total.published as f64 / seconds,
                delivered_per_s: total.delivered as f64 / seconds,
                delivered_payload_bytes: total.delivered_payload_bytes,
                delivered_payload_mb_per_s: total.delivered_payload_bytes as f64 / seconds / 1e6,
                round_trips_per_s: matches!(plan.workload, Workload::Ping { .. })
                    .then(|| total.round_trips as f64 / seconds),
                published: total.published,
                delivered: total.delivered,
                latency: LatencyRecord::of(&total.latency),
                rate,
                spread,
            }),
            churn,
            slow,
            faults,
            loadgen: Loadgen {
                workers: plan.clients.len(),
                cpu_us_per_delivered: per_message_us(measured.own, total.delivered),
                cores_used: cores(measured.own),
            },
            others_cores_used: measured
                .server
                .zip(measured.machine)
                .map(|(server, machine)| {
                    cores(machine.saturating_sub(server).saturating_sub(measured.own))
                }),
            server,
            limit: None,
            sweep: None,
            histogram: if is_idle {
                total.churn.latency
            } else {
                total.latency
            },
        };
        report.limit = report.what_was_the_limit();
        report
    }
}
