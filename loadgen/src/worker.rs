//! One thread with one ring and its share of the connections: dials them, makes them talk, checks what arrives.
//!
//! One loop, as the router's: what arrived is handled, what came of it is written in one send a connection, then one
//! system call. Nothing is allocated for a message.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use slim_proto::link::Preimage;
use slim_ring::{Event, ReceiveEnd, Ring, RingConfig, RingError, SocketId};

use crate::http2::DATA_FRAME_BYTES_MAX;
use crate::ledger::{Faults, Ledger};
use crate::link::{Arrival, Arrived, Link, LinkError};
use crate::message::{Stamp, Template};
use crate::plan::{Client, Role};
use crate::target::Resolved;

/// Connections of one worker that are between connect and acknowledged subscription. A listener's backlog is finite.
const OPENING_MAX: usize = 64;
/// How long no connection may make it to its ack, before the run is given up. Clients allow a negotiation 5 s.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for something to happen, and so for a change of phase to be seen.
const TURN_WAIT: Duration = Duration::from_millis(20);
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
    pub tokens: Vec<String>,
}

/// A worker's sums so far, on a cache line of their own.
#[repr(align(128))]
#[derive(Default)]
pub struct Progress {
    pub published: AtomicU64,
    pub delivered: AtomicU64,
}

impl Shared {
    pub fn new(target: Resolved, tokens: Vec<String>, workers: usize) -> Self {
        Self {
            phase: AtomicU8::new(Phase::SetUp as u8),
            ready: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            progress: (0..workers).map(|_| Progress::default()).collect(),
            started: Instant::now(),
            target,
            tokens,
        }
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    fn phase(&self) -> Phase {
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
    #[error("connection {client}: {error}")]
    Link { client: u32, error: LinkError },
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("a worker thread could not be started: {0}")]
    Thread(io::Error),
}

/// What a worker did.
pub struct WorkerReport {
    pub failure: Option<WorkerError>,
    /// Round trips, or one-way times of those who do not answer; in nanoseconds, of the measured phase.
    pub latency: Histogram<u64>,
    pub published: u64,
    pub delivered: u64,
    pub round_trips: u64,
    /// Sender -> messages sent in the whole run.
    pub sent: Vec<(u32, u64)>,
    /// Sender -> what one receiver got of it in the whole run.
    pub received: Vec<(u32, Ledger)>,
    pub damaged: u64,
}

impl WorkerReport {
    pub fn blank() -> Self {
        Self {
            failure: None,
            latency: blank_histogram(),
            published: 0,
            delivered: 0,
            round_trips: 0,
            sent: Vec::new(),
            received: Vec::new(),
            damaged: 0,
        }
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: WorkerReport) {
        self.failure = self.failure.take().or(other.failure);
        self.latency
            .add(other.latency)
            .expect("all have the same bounds");
        self.published += other.published;
        self.delivered += other.delivered;
        self.round_trips += other.round_trips;
        self.sent.extend(other.sent);
        self.received.extend(other.received);
        self.damaged += other.damaged;
    }

    /// What went wrong, once all workers' reports are merged.
    pub fn faults(&self) -> Faults {
        let mut sent: Vec<u64> = Vec::new();
        for &(sender, count) in &self.sent {
            let index = sender as usize;
            sent.resize(sent.len().max(index + 1), 0);
            sent[index] = count;
        }
        let mut faults = Faults {
            damaged: self.damaged,
            ..Faults::default()
        };
        for (sender, ledger) in &self.received {
            faults.add(ledger.close(sent.get(*sender as usize).copied().unwrap_or(0)));
        }
        faults
    }
}

fn blank_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)
        .expect("the bounds are constants that the histogram takes")
}

/// Sums of a worker, over its whole life.
#[derive(Clone, Copy, Default)]
struct Sums {
    published: u64,
    delivered: u64,
    round_trips: u64,
}

/// One connection.
struct Slot {
    client: Client,
    link: Link,
    socket: SocketId,
    template: Option<Template>,
    /// For each sender in `client.hears`.
    ledgers: Vec<Ledger>,
    received: u64,
    is_dirty: bool,
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
    /// Slots with something to write.
    dirty: Vec<usize>,
    opening: usize,
    last_ready: Instant,
    phase: Phase,
    sums: Sums,
    /// As they were when measuring began, and what they grew by until it ended.
    at_measure: Sums,
    measured: Sums,
    latency: Histogram<u64>,
    damaged: u64,
    preimage: Preimage,
}

impl Worker {
    /// To be made and run on its own thread.
    pub fn new(
        index: usize,
        shared: Arc<Shared>,
        mut clients: Vec<Client>,
    ) -> Result<Self, WorkerError> {
        let sockets_max = clients.len().max(1) as u32;
        let ring = Ring::new(RingConfig {
            submission_entries: 4_096,
            completion_entries: 16_384,
            receive_buffers: 1_024,
            receive_buffer_bytes: 32_768,
            sockets_max,
        })?;
        clients.reverse();
        Ok(Self {
            index,
            shared,
            ring,
            slots: Vec::with_capacity(clients.len()),
            undialled: clients,
            slot_of_socket: vec![usize::MAX; sockets_max as usize],
            publishers: Vec::new(),
            dirty: Vec::new(),
            opening: 0,
            last_ready: Instant::now(),
            phase: Phase::SetUp,
            sums: Sums::default(),
            at_measure: Sums::default(),
            latency: blank_histogram(),
            preimage: Preimage::new(),
            damaged: 0,
            measured: Sums::default(),
        })
    }

    /// Works until the coordinator says stop, or until something fails; then the others are told.
    pub fn run(mut self) -> WorkerReport {
        let failure = self.serve().err();
        self.change_phase(Phase::Stop);
        if failure.is_some() {
            self.shared.failed.store(true, Ordering::Release);
            // A thread that ends takes its processor time out of the process's account, which is still to be read.
            while self.shared.phase() != Phase::Stop {
                thread::sleep(TURN_WAIT);
            }
        }
        WorkerReport {
            failure,
            latency: self.latency,
            published: self.measured.published,
            delivered: self.measured.delivered,
            round_trips: self.measured.round_trips,
            sent: self
                .slots
                .iter()
                .filter_map(|slot| Some((slot.client.id, slot.template.as_ref()?.written())))
                .collect(),
            received: self
                .slots
                .into_iter()
                .flat_map(|slot| slot.client.hears.zip(slot.ledgers))
                .collect(),
            damaged: self.damaged,
        }
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
            self.publish_streams();
            self.flush();
            self.ring.turn(Some(TURN_WAIT))?;
            while let Some(event) = self.ring.next_event() {
                self.handle(event)?;
            }
            let progress = &self.shared.progress[self.index];
            progress
                .published
                .store(self.sums.published, Ordering::Relaxed);
            progress
                .delivered
                .store(self.sums.delivered, Ordering::Relaxed);
        }
    }

    fn change_phase(&mut self, phase: Phase) {
        let before = std::mem::replace(&mut self.phase, phase);
        if before == Phase::SetUp && matches!(phase, Phase::WarmUp | Phase::Measure) {
            self.start_requests();
        }
        if phase == Phase::Measure {
            self.at_measure = self.sums;
        }
        if before == Phase::Measure {
            self.measured = Sums {
                published: self.sums.published - self.at_measure.published,
                delivered: self.sums.delivered - self.at_measure.delivered,
                round_trips: self.sums.round_trips - self.at_measure.round_trips,
            };
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
            let target = &self.shared.target;
            let socket = target
                .connect()
                .map_err(|error| cannot_connect(target, error))?;
            let socket = self.ring.adopt(socket).map_err(|(error, _)| error)?;
            let index = self.slots.len();
            // Written as a UUID, as clients do.
            let link_id = client.link_id.to_string();
            let link = Link::open(
                target.authority(),
                link_id,
                client.name.clone(),
                client.subscription.clone(),
                self.shared.tokens.first().cloned().unwrap_or_default(),
            );
            if let Some(slot) = self.slot_of_socket.get_mut(socket.index() as usize) {
                *slot = index;
            }
            self.slots.push(Slot {
                ledgers: client.hears.clone().map(|_| Ledger::default()).collect(),
                client,
                link,
                socket,
                template: None,
                received: 0,
                is_dirty: false,
            });
            self.mark(index);
            if self.opening == 0 {
                self.last_ready = Instant::now();
            }
            self.opening += 1;
        }
        if self.opening > 0 && self.last_ready.elapsed() > OPENING_TIMEOUT {
            let stuck = self.slots.iter().find(|slot| !slot.link.is_ready());
            let during = stuck.map_or("the set-up", |slot| slot.link.during());
            return Err(WorkerError::NoAnswer { during });
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

    fn flush(&mut self) {
        for index in self.dirty.drain(..) {
            let slot = &mut self.slots[index];
            slot.is_dirty = false;
            slot.link.flush(&mut self.ring, slot.socket);
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), WorkerError> {
        match event {
            Event::Received { socket, buffer } => {
                let Some(index) = self.slot_of(socket) else {
                    return Ok(());
                };
                self.received(index, &buffer)
                    .map_err(|error| WorkerError::Link {
                        client: self.slots[index].client.id,
                        error,
                    })
            }
            Event::Sent {
                socket,
                result,
                buffers,
            } => {
                let Some(index) = self.slot_of(socket) else {
                    return Ok(());
                };
                let slot = &mut self.slots[index];
                slot.link.sent(buffers);
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
            // No listener, no close, no wake of ours.
            _ => Ok(()),
        }
    }

    fn slot_of(&self, socket: SocketId) -> Option<usize> {
        let index = *self.slot_of_socket.get(socket.index() as usize)?;
        (index < self.slots.len()).then_some(index)
    }

    fn received(&mut self, index: usize, bytes: &[u8]) -> Result<(), LinkError> {
        let now_ns = self.now_ns();
        let mut arrival = Arrival::new(bytes);
        while let Some(arrived) = self.slots[index].link.next_arrival(&mut arrival)? {
            match arrived {
                Arrived::Ready => self.ready(index),
                Arrived::Message(message) => self.message(index, message.as_ref(), now_ns),
            }
        }
        // Answers to SETTINGS and PING, credit, messages, and a window that may have opened.
        self.mark(index);
        Ok(())
    }

    fn ready(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if let Some(flow) = slot.client.role.flow() {
            let tokens = &self.shared.tokens;
            slot.template = Some(Template::new(flow, slot.link.mac(), tokens));
        }
        if matches!(slot.client.role, Role::Publisher { .. }) {
            self.publishers.push(index);
        }
        self.opening -= 1;
        self.last_ready = Instant::now();
        self.shared.ready.fetch_add(1, Ordering::AcqRel);
    }

    fn start_requests(&mut self) {
        for index in 0..self.slots.len() {
            if let Role::Requester { in_flight, .. } = self.slots[index].client.role {
                for _ in 0..in_flight {
                    let now_ns = self.now_ns();
                    self.publish(index, now_ns);
                }
            }
        }
    }

    /// Fills every publisher's next frame. What the windows do not let go waits, and then nothing more is made.
    fn publish_streams(&mut self) {
        if !self.is_publishing() {
            return;
        }
        for at in 0..self.publishers.len() {
            let index = self.publishers[at];
            loop {
                let slot = &self.slots[index];
                let next = slot.template.as_ref().map_or(0, Template::framed_bytes);
                let waiting = slot.link.waiting_bytes();
                if waiting > 0 && waiting + next > DATA_FRAME_BYTES_MAX {
                    break;
                }
                let now_ns = self.now_ns();
                self.publish(index, now_ns);
            }
        }
    }

    fn publish(&mut self, index: usize, time_ns: u64) {
        let slot = &mut self.slots[index];
        let Some(template) = &mut slot.template else {
            return;
        };
        template.write(&self.shared.tokens, time_ns, slot.link.messages());
        self.sums.published += 1;
        self.mark(index);
    }

    fn message(&mut self, index: usize, message: &[u8], now_ns: u64) {
        let slot = &mut self.slots[index];
        let stamp = Stamp::of_message(message, slot.client.payload_bytes);
        let Some(stamp) = stamp.filter(|stamp| slot.client.hears.contains(&stamp.sender)) else {
            self.damaged += 1;
            return;
        };
        let sampled = slot.received & (SAMPLE_MESSAGES - 1) == 0;
        slot.received += 1;
        if sampled && !slot.link.is_sound(message, &mut self.preimage) {
            self.damaged += 1;
        }
        let ledger = (stamp.sender - slot.client.hears.start) as usize;
        if let Some(ledger) = slot.ledgers.get_mut(ledger) {
            ledger.note(stamp.sequence);
        }
        self.sums.delivered += 1;
        match slot.client.role {
            Role::Echo { .. } => self.publish(index, stamp.time_ns),
            Role::Requester { .. } => {
                self.sums.round_trips += 1;
                self.record(now_ns, stamp.time_ns);
                if self.is_publishing() {
                    let now_ns = self.now_ns();
                    self.publish(index, now_ns);
                }
            }
            _ => self.record(now_ns, stamp.time_ns),
        }
    }

    fn record(&mut self, now_ns: u64, then_ns: u64) {
        if self.phase == Phase::Measure {
            self.latency
                .saturating_record(now_ns.saturating_sub(then_ns).max(1));
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
    let during = slot.link.during();
    WorkerError::Link {
        client: slot.client.id,
        error: match error {
            Some(error) => LinkError::Io { during, error },
            None => LinkError::Closed { during },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sent: &[(u32, u64)], seen: &[(u32, &[u64])]) -> WorkerReport {
        let ledger = |sequences: &[u64]| {
            let mut ledger = Ledger::default();
            sequences.iter().for_each(|sequence| ledger.note(*sequence));
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
