//! One thread with one ring and its share of the connections: dials them, makes them talk, checks what arrives.
//!
//! One loop, as the router's: what arrived is handled, what came of it is written in one send a connection, then one
//! system call. Nothing is allocated for a message. What is spoken on a connection is its [`Link`]'s affair.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use slim_proto::name::InstanceId;
use slim_ring::{Event, ReceiveEnd, Ring, RingConfig, RingError, SendBuffers, SocketId};

use crate::http2::DATA_FRAME_BYTES_MAX;
use crate::ledger::{Faults, Ledger};
use crate::link::{Arrived, Input, Link, LinkError, Material};
use crate::message::Stamp;
use crate::plan::{Client, Plan, Role, Windows, Workload};
use crate::schedule::Schedule;
use crate::slim::NEGOTIATING;
use crate::slow::SlowReport;
use crate::spread::Spread;
use crate::target::Resolved;

/// Connections of one worker that are between connect and acknowledged subscription. A listener's backlog is finite.
const OPENING_MAX: usize = 64;
/// How long no connection may make it to its ack, before the run is given up. Clients allow a negotiation 5 s.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Sockets of one worker beyond its clients: those being closed while their successors open.
const CLOSING_MAX: usize = 1_024;
/// The longest wait for something to happen, and so for a change of phase to be seen.
const TURN_WAIT: Duration = Duration::from_millis(20);
/// An open loop does not sleep when less than this is left: the kernel wakes sleepers some tens of microseconds late.
const SPIN: Duration = Duration::from_micros(200);
/// Messages of an open loop that one turn makes, late ones included, before it looks at what arrived.
const DUE_PER_TURN_MAX: usize = 4_096;
/// Late messages that are still made when the measured time is over. Those beyond are missing in the rate that was reached.
const CATCH_UP_MESSAGES_MAX: usize = 65_536;
/// Bytes that may wait on one publisher's connection at a fixed rate. What is due above that is not made, and counted.
const BACKLOG_BYTES_MAX: usize = 8 * 1_048_576;
/// Bytes that may wait on a publisher's connection beside a slow receiver, before what is due is made later.
const POSTPONED_AT_BYTES: usize = 262_144;
/// Of so many messages on a connection, one is parsed whole and its tag verified. A power of two.
const SAMPLE_MESSAGES: u64 = 256;
/// Longest latency that is told from longer ones, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
const LATENCY_DIGITS: u8 = 3;

/// What the run is doing, set by the coordinator alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    SetUp,
    WarmUp,
    Measure,
    /// Nothing new is sent; what is on the way arrives.
    Drain,
    Stop,
}

/// What coordinator and workers tell each other.
pub struct Shared {
    phase: AtomicU8,
    /// Connections that are subscribed.
    pub ready: AtomicUsize,
    pub failed: AtomicBool,
    pub progress: Vec<Progress>,
    pub started: Instant,
    pub target: Resolved,
    pub material: Material,
}

/// A worker's sums so far, on a cache line of their own.
#[repr(align(128))]
#[derive(Default)]
pub struct Progress {
    pub published: AtomicU64,
    pub delivered: AtomicU64,
    /// Of those delivered, each once.
    pub arrived: AtomicU64,
    /// The worker publishes no more, and what it has published is told.
    pub is_draining: AtomicBool,
    /// Set to have `snapshot` filled.
    pub snapshot_wanted: AtomicBool,
    /// Latencies of the measured phase so far.
    pub snapshot: Mutex<Option<Histogram<u64>>>,
}

impl Shared {
    pub fn new(target: Resolved, material: Material, workers: usize) -> Self {
        Self {
            phase: AtomicU8::new(Phase::SetUp as u8),
            ready: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            progress: (0..workers).map(|_| Progress::default()).collect(),
            started: Instant::now(),
            target,
            material,
        }
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::SetUp,
            1 => Phase::WarmUp,
            2 => Phase::Measure,
            3 => Phase::Drain,
            _ => Phase::Stop,
        }
    }
}

/// Why a worker stopped early, and with it the run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("cannot connect to {target}: {error}{hint}")]
    Connect {
        target: String,
        error: io::Error,
        hint: &'static str,
    },
    #[error("no answer within {} s during {during}", OPENING_TIMEOUT.as_secs())]
    NoAnswer { during: &'static str },
    #[error("connection {client}, during {during}: {error}{hint}")]
    Link {
        client: u32,
        during: &'static str,
        error: LinkError,
        hint: &'static str,
    },
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("a worker thread could not be started: {0}")]
    Thread(io::Error),
}

/// What a worker did. Counts and times are of the measured phase, unless they say otherwise.
pub struct WorkerReport {
    pub failure: Option<WorkerError>,
    /// Round trips, or one-way times of those who do not answer; in nanoseconds.
    pub latency: Histogram<u64>,
    pub published: u64,
    pub delivered: u64,
    pub delivered_payload_bytes: u64,
    pub round_trips: u64,
    pub pace: PaceReport,
    pub churn: ChurnReport,
    /// Of `slow`: the latencies before, during and after, in nanoseconds; else empty.
    pub windows: Vec<Histogram<u64>>,
    pub slow: Vec<SlowReport>,
    /// Of this worker's clock: from when it saw the phase begin to when it saw it end.
    pub measured: Duration,
    pub spread: Spread,
    /// Flow -> messages sent in the whole run.
    pub sent: Vec<(u32, u64)>,
    /// Flow -> what one receiver got of it in the whole run.
    pub received: Vec<(u32, Ledger)>,
    /// In the whole run.
    pub damaged: u64,
}

/// How an open loop kept its time.
pub struct PaceReport {
    /// From when a message was due to when it was made, in nanoseconds.
    pub slip: Histogram<u64>,
    /// Due, and not made: too much was waiting on their connection.
    pub unsent: u64,
}

/// What replacing connections took.
pub struct ChurnReport {
    /// From when a replacement was due to its last acknowledged subscription, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl WorkerReport {
    pub fn blank() -> Self {
        Self {
            failure: None,
            latency: blank_histogram(),
            published: 0,
            delivered: 0,
            delivered_payload_bytes: 0,
            round_trips: 0,
            pace: PaceReport {
                slip: blank_histogram(),
                unsent: 0,
            },
            churn: ChurnReport {
                latency: blank_histogram(),
            },
            windows: Vec::new(),
            slow: Vec::new(),
            measured: Duration::ZERO,
            spread: Spread::default(),
            sent: Vec::new(),
            received: Vec::new(),
            damaged: 0,
        }
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: WorkerReport) {
        self.failure = self.failure.take().or(other.failure);
        for (histogram, other) in [
            (&mut self.latency, other.latency),
            (&mut self.pace.slip, other.pace.slip),
            (&mut self.churn.latency, other.churn.latency),
        ] {
            histogram.add(other).expect("all have the same bounds");
        }
        if self.windows.is_empty() {
            self.windows = other.windows;
        } else {
            for (window, other) in self.windows.iter_mut().zip(&other.windows) {
                window.add(other).expect("all have the same bounds");
            }
        }
        self.slow.extend(other.slow);
        self.published += other.published;
        self.delivered += other.delivered;
        self.delivered_payload_bytes += other.delivered_payload_bytes;
        self.pace.unsent += other.pace.unsent;
        self.measured = self.measured.max(other.measured);
        self.spread.merge(other.spread);
        self.round_trips += other.round_trips;
        self.sent.extend(other.sent);
        self.received.extend(other.received);
        self.damaged += other.damaged;
    }

    /// What went wrong, once all workers' reports are merged. Of slow receivers see [`Self::slow_faults`].
    pub fn faults(&self) -> Faults {
        let mut faults = Faults {
            damaged: self.damaged,
            ..Faults::default()
        };
        faults.add(self.faults_of(&self.received));
        faults
    }

    pub fn slow_faults(&self) -> Faults {
        let mut faults = Faults::default();
        for slow in &self.slow {
            faults.add(self.faults_of(&slow.received));
        }
        faults
    }

    fn faults_of(&self, received: &[(u32, Ledger)]) -> Faults {
        let mut sent: Vec<u64> = Vec::new();
        for &(flow, count) in &self.sent {
            let index = flow as usize;
            sent.resize(sent.len().max(index + 1), 0);
            sent[index] = count;
        }
        let mut faults = Faults::default();
        for (flow, ledger) in received {
            faults.add(ledger.close(sent.get(*flow as usize).copied().unwrap_or(0)));
        }
        faults
    }
}

pub fn blank_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)
        .expect("the bounds are constants that the histogram takes")
}

/// Sums of a worker, over its whole life.
#[derive(Clone, Copy, Default)]
struct Sums {
    published: u64,
    delivered: u64,
    arrived: u64,
    delivered_payload_bytes: u64,
    round_trips: u64,
}

/// One connection.
struct Slot {
    client: Client,
    link: Box<dyn Link>,
    socket: SocketId,
    /// Empty, and here unless a send is under way.
    list: Option<SendBuffers>,
    is_ready: bool,
    is_dirty: bool,
    /// When it was to be opened, if it replaces another.
    replaces_since_ns: Option<u64>,
    /// Messages sent of each of its flows.
    sequences: Vec<u64>,
    /// For each flow in `client.hears`.
    ledgers: Vec<Ledger>,
    received: u64,
}

/// An open loop of this worker's publishers, in turn.
struct Pace {
    /// Of this worker's part of the rate.
    messages_per_s: f64,
    /// From the start of the traffic on.
    schedule: Option<Schedule>,
    next_publisher: usize,
}

/// An open loop of replacements of this worker's connections, in turn.
struct Churn {
    replacements_per_s: f64,
    schedule: Option<Schedule>,
    next_slot: usize,
}

pub struct Worker {
    index: usize,
    shared: Arc<Shared>,
    ring: Ring,
    /// Not yet dialled, last first.
    undialled: Vec<Client>,
    slots: Vec<Slot>,
    /// Socket index -> slot.
    slot_of_socket: Vec<usize>,
    publishers: Vec<usize>,
    /// Messages in one write of a publisher; `None`: whole frames.
    batch: Option<usize>,
    pace: Option<Pace>,
    /// Of a run beside slow receivers: the parts of the measured time.
    windows: Option<Windows>,
    churn: Option<Churn>,
    is_fan_out: bool,
    /// Slots with something to write.
    dirty: Vec<usize>,
    opening: usize,
    last_progress: Instant,
    phase: Phase,
    sums: Sums,
    /// As they were when measuring began.
    at_measure: Sums,
    /// When measuring began and ended.
    measured_ns: std::ops::Range<u64>,
    report: WorkerReport,
}

impl Worker {
    /// To be made and run on its own thread.
    ///
    /// - `index`: of its share of the plan's clients.
    pub fn new(
        index: usize,
        shared: Arc<Shared>,
        plan: &Plan,
        mut clients: Vec<Client>,
    ) -> Result<Self, WorkerError> {
        let sockets_max = (clients.len() + CLOSING_MAX) as u32;
        let ring = Ring::new(RingConfig {
            submission_entries: 4_096,
            completion_entries: 16_384,
            receive_buffers: 1_024,
            receive_buffer_bytes: 32_768,
            sockets_max,
        })?;
        // Its part of the run, as of the clients.
        let part = clients.len() as f64 / plan.client_count().max(1) as f64;
        let (mut batch, mut pace, mut churn) = (None, None, None);
        match plan.workload {
            Workload::Stream { batch: asked, .. } => batch = asked,
            Workload::Rate { messages_per_s, .. } => {
                pace = Some(Pace {
                    messages_per_s: messages_per_s as f64 * part,
                    schedule: None,
                    next_publisher: 0,
                });
            }
            // Of its one publisher's worker.
            Workload::Slow { messages_per_s, .. } => {
                let is_publisher = |client: &Client| client.role == Role::Publisher;
                let is_ours = clients.iter().any(is_publisher);
                pace = Some(Pace {
                    messages_per_s: if is_ours { messages_per_s as f64 } else { 0.0 },
                    schedule: None,
                    next_publisher: 0,
                });
            }
            Workload::Connect { churn_per_s, .. } if churn_per_s > 0 => {
                churn = Some(Churn {
                    replacements_per_s: churn_per_s as f64 * part,
                    schedule: None,
                    next_slot: 0,
                });
            }
            _ => {}
        }
        clients.reverse();
        let is_slow = matches!(plan.workload, Workload::Slow { .. });
        let mut report = WorkerReport::blank();
        if is_slow {
            report.windows.resize_with(3, blank_histogram);
        }
        Ok(Self {
            index,
            shared,
            ring,
            slots: Vec::with_capacity(clients.len()),
            undialled: clients,
            slot_of_socket: vec![usize::MAX; sockets_max as usize],
            publishers: Vec::new(),
            batch,
            windows: is_slow.then_some(plan.windows),
            pace: pace.filter(|pace| pace.messages_per_s > 0.0),
            churn: churn.filter(|churn| churn.replacements_per_s > 0.0),
            is_fan_out: matches!(plan.workload, Workload::Fanout { .. }),
            dirty: Vec::new(),
            opening: 0,
            last_progress: Instant::now(),
            phase: Phase::SetUp,
            sums: Sums::default(),
            at_measure: Sums::default(),
            measured_ns: 0..0,
            report,
        })
    }

    /// Works until the coordinator says stop, or until something fails; then the others are told.
    pub fn run(mut self) -> WorkerReport {
        self.report.failure = self.serve().err();
        self.change_phase(Phase::Stop);
        if self.report.failure.is_some() {
            self.shared.failed.store(true, Ordering::Release);
            // A thread that ends takes its processor time out of the process's account, which is still to be read.
            while self.shared.phase() != Phase::Stop {
                thread::sleep(TURN_WAIT);
            }
        }
        let mut report = self.report;
        for slot in self.slots {
            let flows = slot.client.opening.flows.iter().map(|flow| flow.id);
            report.sent.extend(flows.zip(slot.sequences));
            report.received.extend(slot.client.hears.zip(slot.ledgers));
        }
        report
    }

    fn serve(&mut self) -> Result<(), WorkerError> {
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Stop {
                return Ok(());
            }
            if phase != self.phase {
                self.change_phase(phase);
            }
            self.dial()?;
            self.replace_due()?;
            self.publish_due(self.now_ns(), DUE_PER_TURN_MAX);
            self.publish_streams();
            self.flush();
            self.ring.turn(Some(self.wait()))?;
            while let Some(event) = self.ring.next_event() {
                self.handle(event)?;
            }
            self.tell_progress();
        }
    }

    fn tell_progress(&self) {
        let progress = &self.shared.progress[self.index];
        progress
            .published
            .store(self.sums.published, Ordering::Relaxed);
        progress
            .delivered
            .store(self.sums.delivered, Ordering::Relaxed);
        progress.arrived.store(self.sums.arrived, Ordering::Relaxed);
        if self.phase >= Phase::Drain {
            progress.is_draining.store(true, Ordering::Release);
        }
        if progress.snapshot_wanted.swap(false, Ordering::Relaxed) {
            let snapshot = Some(self.report.latency.clone());
            *progress
                .snapshot
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = snapshot;
        }
    }

    /// How long the next turn may wait.
    fn wait(&self) -> Duration {
        let pace = self.pace.as_ref().and_then(|pace| pace.schedule.as_ref());
        let churn = self
            .churn
            .as_ref()
            .and_then(|churn| churn.schedule.as_ref());
        let due_ns = pace
            .into_iter()
            .chain(churn)
            .map(Schedule::next_due_ns)
            .min();
        let Some(due_ns) = due_ns.filter(|_| self.is_publishing()) else {
            return TURN_WAIT;
        };
        let left = Duration::from_nanos(due_ns.saturating_sub(self.now_ns()));
        if left < SPIN {
            Duration::ZERO
        } else {
            (left - SPIN / 2).min(TURN_WAIT)
        }
    }

    fn change_phase(&mut self, phase: Phase) {
        let now_ns = self.now_ns();
        let before = self.phase;
        // What fell due up to now belongs to the phase that ends.
        self.publish_due(now_ns, CATCH_UP_MESSAGES_MAX);
        self.phase = phase;
        if phase == Phase::Measure {
            self.at_measure = self.sums;
            self.measured_ns = now_ns + 1..u64::MAX;
            if let Some(churn) = &mut self.churn {
                churn.schedule = Some(Schedule::new(churn.replacements_per_s, now_ns));
            }
        }
        if before == Phase::Measure {
            if let (Some(_), Some(pace)) = (self.windows, &mut self.pace)
                && let Some(schedule) = &mut pace.schedule
            {
                // Still postponed: they have no latency, so they are told.
                while schedule.take_due(now_ns).is_some() {
                    self.report.pace.unsent += 1;
                }
            }
            self.measured_ns.end = now_ns + 1;
            self.report.measured = Duration::from_nanos(now_ns - self.measured_ns.start);
            let sums = self.sums;
            self.report.published = sums.published - self.at_measure.published;
            self.report.delivered = sums.delivered - self.at_measure.delivered;
            self.report.round_trips = sums.round_trips - self.at_measure.round_trips;
            self.report.delivered_payload_bytes =
                sums.delivered_payload_bytes - self.at_measure.delivered_payload_bytes;
        }
        // Last, so that its first messages are of the phase that they begin.
        if before == Phase::SetUp && matches!(phase, Phase::WarmUp | Phase::Measure) {
            self.start_traffic(now_ns);
        }
    }

    fn is_publishing(&self) -> bool {
        matches!(self.phase, Phase::WarmUp | Phase::Measure)
    }

    fn now_ns(&self) -> u64 {
        self.shared.started.elapsed().as_nanos() as u64
    }

    fn dial(&mut self) -> Result<(), WorkerError> {
        while self.opening < OPENING_MAX
            && let Some(client) = self.undialled.pop()
        {
            let index = self.slots.len();
            let (link, socket) = self.open(&client, index)?;
            self.slots.push(Slot {
                sequences: vec![0; client.opening.flows.len()],
                ledgers: client.hears.clone().map(|_| Ledger::default()).collect(),
                client,
                link,
                socket,
                list: Some(SendBuffers::new()),
                is_ready: false,
                is_dirty: false,
                replaces_since_ns: None,
                received: 0,
            });
            self.mark(index);
        }
        if self.opening > 0 && self.last_progress.elapsed() > OPENING_TIMEOUT {
            let stuck = self.slots.iter().find(|slot| !slot.is_ready);
            let during = stuck.map_or("the set-up", |slot| slot.link.during());
            return Err(WorkerError::NoAnswer { during });
        }
        Ok(())
    }

    /// Connects a client's socket and begins its link.
    fn open(
        &mut self,
        client: &Client,
        index: usize,
    ) -> Result<(Box<dyn Link>, SocketId), WorkerError> {
        let shared = &self.shared;
        let socket = shared
            .target
            .connect()
            .map_err(|error| cannot_connect(&shared.target, error))?;
        let socket = self.ring.adopt(socket).map_err(|(error, _)| error)?;
        if let Some(slot) = self.slot_of_socket.get_mut(socket.index() as usize) {
            *slot = index;
        }
        if self.opening == 0 {
            self.last_progress = Instant::now();
        }
        self.opening += 1;
        let link = shared
            .target
            .open(client.opening.clone(), shared.material.clone());
        Ok((link, socket))
    }

    /// Closes and opens anew the connections whose time has come.
    fn replace_due(&mut self) -> Result<(), WorkerError> {
        if self.phase != Phase::Measure || self.churn.is_none() {
            return Ok(());
        }
        let now_ns = self.now_ns();
        while self.opening < OPENING_MAX {
            let Some(churn) = &mut self.churn else {
                return Ok(());
            };
            let index = churn.next_slot;
            // Its predecessor is still being opened: all of them are.
            if !self.slots[index].is_ready {
                return Ok(());
            }
            let due_ns = churn
                .schedule
                .as_mut()
                .and_then(|schedule| schedule.take_due(now_ns));
            let Some(due_ns) = due_ns else {
                return Ok(());
            };
            churn.next_slot = if index + 1 < self.slots.len() {
                index + 1
            } else {
                0
            };
            self.ring.close(self.slots[index].socket);
            let mut client = self.slots[index].client.clone();
            // Another link of the same client: the lower half counts clients, of which there are fewer.
            let link_id = client.opening.link_id.value().wrapping_add(1 << 32);
            client.opening.link_id = InstanceId::new(link_id);
            let (link, socket) = self.open(&client, index)?;
            let slot = &mut self.slots[index];
            slot.client = client;
            slot.link = link;
            slot.socket = socket;
            slot.list = Some(SendBuffers::new());
            slot.is_ready = false;
            slot.replaces_since_ns = Some(due_ns);
            self.mark(index);
        }
        Ok(())
    }

    fn mark(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.is_dirty {
            slot.is_dirty = true;
            self.dirty.push(index);
        }
    }

    /// Hands what is due to the ring. Where a send is under way, its end is the time to ask again.
    fn flush(&mut self) {
        for index in self.dirty.drain(..) {
            let slot = &mut self.slots[index];
            slot.is_dirty = false;
            let Some(list) = &mut slot.list else {
                continue;
            };
            slot.link.take_due(list);
            if !list.is_empty()
                && let Some(list) = slot.list.take()
            {
                self.ring.send(slot.socket, list);
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), WorkerError> {
        match event {
            Event::Received { socket, buffer } => {
                let Some(index) = self.slot_of(socket) else {
                    return Ok(());
                };
                self.received(index, &buffer)
                    .map_err(|error| failed(&self.slots[index], error))
            }
            Event::Sent {
                socket,
                result,
                mut buffers,
            } => {
                let Some(index) = self.slot_of(socket) else {
                    return Ok(());
                };
                let slot = &mut self.slots[index];
                for bytes in buffers.take_owned() {
                    slot.link.reuse(bytes);
                }
                slot.list = Some(buffers);
                if let Err(error) = result {
                    return Err(ended(slot, Some(error)));
                }
                self.mark(index);
                Ok(())
            }
            Event::ReceiveEnded { socket, cause } => {
                let Some(index) = self.slot_of(socket) else {
                    return Ok(());
                };
                let error = match cause {
                    ReceiveEnd::Eof => None,
                    ReceiveEnd::Failed(error) => Some(error),
                };
                Err(ended(&self.slots[index], error))
            }
            // No listener, no wake of ours; and a socket that was closed has a successor already.
            _ => Ok(()),
        }
    }

    /// The slot that a socket belongs to; `None` for one that was replaced.
    fn slot_of(&self, socket: SocketId) -> Option<usize> {
        let index = *self.slot_of_socket.get(socket.index() as usize)?;
        let slot = self.slots.get(index)?;
        (slot.socket == socket).then_some(index)
    }

    fn received(&mut self, index: usize, bytes: &[u8]) -> Result<(), LinkError> {
        let now_ns = self.now_ns();
        let mut input = Input::new(bytes);
        while let Some(arrived) = self.slots[index].link.next_arrival(&mut input)? {
            match arrived {
                Arrived::Message(message) => self.message(index, message.as_ref(), now_ns),
                Arrived::Subscribed => self.last_progress = Instant::now(),
                Arrived::Ready => self.ready(index, now_ns),
            }
        }
        // Answers to SETTINGS and PING, credit, messages, and a window that may have opened.
        self.mark(index);
        Ok(())
    }

    fn ready(&mut self, index: usize, now_ns: u64) {
        let slot = &mut self.slots[index];
        slot.is_ready = true;
        self.opening -= 1;
        self.last_progress = Instant::now();
        if let Some(since_ns) = slot.replaces_since_ns {
            if self.measured_ns.contains(&since_ns) {
                let histogram = &mut self.report.churn.latency;
                histogram.saturating_record(now_ns.saturating_sub(since_ns).max(1));
            }
            return;
        }
        if slot.client.role == Role::Publisher {
            self.publishers.push(index);
        }
        self.shared.ready.fetch_add(1, Ordering::AcqRel);
    }

    fn start_traffic(&mut self, now_ns: u64) {
        if let Some(pace) = &mut self.pace {
            // After the moment at which a measured phase may begin.
            pace.schedule = Some(Schedule::new(pace.messages_per_s, now_ns + 1));
        }
        for index in 0..self.slots.len() {
            if let Role::Requester { in_flight } = self.slots[index].client.role {
                for _ in 0..in_flight {
                    let now_ns = self.now_ns();
                    self.publish(index, now_ns);
                }
            }
        }
    }

    /// At a fixed rate: makes every message that is due by `until_ns`, late or not, and counts how late.
    ///
    /// - `messages_max`: at a rate that is beyond this machine there are more due after each one that is made.
    fn publish_due(&mut self, until_ns: u64, messages_max: usize) {
        if !self.is_publishing() || self.publishers.is_empty() {
            return;
        }
        let is_measured = self.phase == Phase::Measure;
        for _ in 0..messages_max {
            let Some(pace) = &mut self.pace else {
                return;
            };
            // Beside a slow receiver it is the publishers who wait: what is due stays due, and is made, late, when it can go.
            if self.windows.is_some() {
                let index = self.publishers[pace.next_publisher];
                if self.slots[index].link.waiting_bytes() > POSTPONED_AT_BYTES {
                    return;
                }
            }
            let schedule = pace.schedule.as_mut();
            let Some(due_ns) = schedule.and_then(|schedule| schedule.take_due(until_ns)) else {
                return;
            };
            let index = self.publishers[pace.next_publisher];
            pace.next_publisher = if pace.next_publisher + 1 < self.publishers.len() {
                pace.next_publisher + 1
            } else {
                0
            };
            if self.slots[index].link.waiting_bytes() > BACKLOG_BYTES_MAX {
                self.report.pace.unsent += u64::from(is_measured);
                continue;
            }
            if is_measured {
                let slip_ns = self.now_ns().saturating_sub(due_ns).max(1);
                self.report.pace.slip.saturating_record(slip_ns);
            }
            self.publish(index, due_ns);
        }
    }

    /// Fills every publisher's next frame. What the windows do not let go waits, and then nothing more is made.
    fn publish_streams(&mut self) {
        if !self.is_publishing() || self.pace.is_some() {
            return;
        }
        for at in 0..self.publishers.len() {
            let index = self.publishers[at];
            if let Some(messages) = self.batch {
                let slot = &self.slots[index];
                if slot.list.is_some() && slot.link.waiting_bytes() == 0 {
                    for _ in 0..messages {
                        let now_ns = self.now_ns();
                        self.publish(index, now_ns);
                    }
                }
                continue;
            }
            loop {
                let before = self.slots[index].link.waiting_bytes();
                if before >= DATA_FRAME_BYTES_MAX {
                    break;
                }
                let now_ns = self.now_ns();
                self.publish(index, now_ns);
                let waiting = self.slots[index].link.waiting_bytes();
                // One more as long as this one would go beyond a frame.
                if waiting + (waiting - before) > DATA_FRAME_BYTES_MAX {
                    break;
                }
            }
        }
    }

    fn publish(&mut self, index: usize, time_ns: u64) {
        let slot = &mut self.slots[index];
        let flow = slot.client.names.draw();
        let (Some(sequence), Some(id)) = (
            slot.sequences.get_mut(flow),
            slot.client.opening.flows.get(flow).map(|flow| flow.id),
        ) else {
            return;
        };
        let stamp = Stamp {
            flow: id,
            sequence: *sequence,
            time_ns,
            payload_bytes: slot.client.sizes.draw() as u32,
        };
        *sequence += 1;
        slot.link.publish(flow, stamp);
        self.sums.published += 1;
        self.mark(index);
    }

    fn message(&mut self, index: usize, message: &[u8], now_ns: u64) {
        let slot = &mut self.slots[index];
        let sampled = slot.received & (SAMPLE_MESSAGES - 1) == 0;
        slot.received += 1;
        let stamp = Stamp::of_message(message)
            .filter(|stamp| slot.client.hears.contains(&stamp.flow))
            .filter(|stamp| slot.client.sizes.includes(stamp.payload_bytes as usize));
        let Some(stamp) = stamp else {
            self.report.damaged += 1;
            return;
        };
        if sampled && !slot.link.is_sound(message) {
            self.report.damaged += 1;
        }
        let ledger = (stamp.flow - slot.client.hears.start) as usize;
        if let Some(ledger) = slot.ledgers.get_mut(ledger) {
            self.sums.arrived += u64::from(ledger.note(stamp.sequence));
        }
        self.sums.delivered += 1;
        self.sums.delivered_payload_bytes += u64::from(stamp.payload_bytes);
        match slot.client.role {
            Role::Echo => self.publish(index, stamp.time_ns),
            Role::Requester { .. } => {
                self.sums.round_trips += 1;
                self.record(now_ns, stamp.time_ns);
                if self.is_publishing() {
                    let now_ns = self.now_ns();
                    self.publish(index, now_ns);
                }
            }
            _ => {
                self.record(now_ns, stamp.time_ns);
                if self.is_fan_out && self.phase == Phase::Measure {
                    self.report.spread.note(stamp.flow, stamp.sequence, now_ns);
                }
            }
        }
    }

    fn record(&mut self, now_ns: u64, then_ns: u64) {
        // An open loop's messages count by when they were due, however late they come: a stall at the end is one too.
        let is_measured = match (&self.pace, self.windows) {
            (None, None) => self.phase == Phase::Measure,
            _ => self.measured_ns.contains(&then_ns),
        };
        if !is_measured {
            return;
        }
        let latency_ns = now_ns.saturating_sub(then_ns).max(1);
        self.report.latency.saturating_record(latency_ns);
        if let Some(windows) = self.windows {
            let since = Duration::from_nanos(then_ns - self.measured_ns.start);
            if let Some(window) = self.report.windows.get_mut(windows.at(since)) {
                window.saturating_record(latency_ns);
            }
        }
    }
}

fn cannot_connect(target: &Resolved, error: io::Error) -> WorkerError {
    // EMFILE.
    let hint = match error.raw_os_error() {
        Some(24) => "; allow more with `ulimit -n`",
        _ if error.kind() == io::ErrorKind::ConnectionRefused => "; is a node running there?",
        _ if error.kind() == io::ErrorKind::AddrNotAvailable => {
            "; this address has no free port left (net.ipv4.ip_local_port_range)"
        }
        _ => "",
    };
    WorkerError::Connect {
        target: target.to_string(),
        error,
        hint,
    }
}

fn ended(slot: &Slot, error: Option<io::Error>) -> WorkerError {
    failed(slot, error.map_or(LinkError::Closed, LinkError::Io))
}

fn failed(slot: &Slot, error: LinkError) -> WorkerError {
    let during = slot.link.during();
    WorkerError::Link {
        client: slot.client.id,
        during,
        error,
        hint: if during == NEGOTIATING && !slot.client.opening.has_mac {
            "; a node takes links without a MAC only if it is told to (require_header_mac: false)"
        } else {
            ""
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sent: &[(u32, u64)], seen: &[(u32, &[u64])]) -> WorkerReport {
        let ledger = |sequences: &[u64]| {
            let mut ledger = Ledger::default();
            for sequence in sequences {
                ledger.note(*sequence);
            }
            ledger
        };
        WorkerReport {
            sent: sent.to_vec(),
            received: seen
                .iter()
                .map(|(sender, sequences)| (*sender, ledger(sequences)))
                .collect(),
            ..WorkerReport::blank()
        }
    }

    #[test]
    fn faults_are_found_across_workers() {
        // The senders 0 and 1 are on one worker, their receivers on another; one never hears of 1.
        let mut total = report(&[(0, 3), (1, 2)], &[]);
        total.merge(report(&[], &[(0, &[0, 2, 2]), (1, &[1, 0]), (1, &[])]));
        let faults = Faults {
            lost: 1 + 2,
            duplicated: 1,
            reordered: 1,
            damaged: 0,
        };
        assert_eq!(total.faults(), faults);
    }
}
