//! Receivers that stop reading, or read at half the speed, while all others are measured: what one bad client costs the rest.
//!
//! Each is a thread with a blocking socket of its own: what it does not read stays in the kernel, as with a client that hangs.
//! (A worker's ring would read it.) It counts what it gets by the message, and whether the server cut it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use slim_ring::SendBuffers;

use crate::curve::LatencyRecord;
use crate::ledger::Ledger;
use crate::link::{Arrived, Input, Link, LinkError};
use crate::message::Stamp;
use crate::plan::{Client, Windows};
use crate::report::Rate;
use crate::worker::{Phase, Shared, WorkerError, WorkerReport};

/// The longest wait for bytes, and so for a change of phase to be seen.
const READ_WAIT: Duration = Duration::from_millis(20);
/// Between two looks of one that does not read.
const PAUSE: Duration = Duration::from_millis(2);
const READ_BYTES: usize = 65_536;
/// Of one that reads at half the speed: a read takes this much at most, so that it reads steadily.
const SLOW_READ_BYTES: usize = 8_192;

/// What slow receivers do in the middle window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Slowness {
    /// They stop reading, and go on only when the run is over.
    Stopped,
    /// They read half of what came in a second before, and go on at full speed after it.
    HalfSpeed,
}

/// What the others saw, and what became of the slow.
#[derive(Debug, Clone, Serialize)]
pub struct Slow {
    pub slowness: Slowness,
    pub slow_receivers: usize,
    pub other_receivers: usize,
    pub before: Window,
    pub during: Window,
    pub after: Window,
    /// Of the others' 99th percentiles, to the one before.
    pub p99_ratio_during: Option<f64>,
    pub p99_ratio_after: Option<f64>,
    pub rate: Rate,
    /// Messages that slow receivers got, in the whole run.
    pub slow_received: u64,
    /// Sent to them and never seen. A fault, unless they stopped.
    pub slow_lost: u64,
    /// Slow receivers that the server cut.
    pub slow_cut: usize,
}

/// The other receivers, in a part of the measured time: messages that were due in it.
#[derive(Debug, Clone, Serialize)]
pub struct Window {
    pub seconds: f64,
    pub delivered: u64,
    /// From when a message was due.
    pub latency: LatencyRecord,
}

impl Window {
    pub fn of(histogram: &Histogram<u64>, length: Duration) -> Self {
        Self {
            seconds: length.as_secs_f64(),
            delivered: histogram.len(),
            latency: LatencyRecord::of(histogram),
        }
    }
}

/// What one slow receiver did in the whole run.
#[derive(Debug)]
pub struct SlowReport {
    /// Flow -> what it got of it.
    pub received: Vec<(u32, Ledger)>,
    pub delivered: u64,
    pub was_cut: bool,
}

pub struct SlowReader {
    /// Of its place in [`Shared::progress`].
    index: usize,
    shared: Arc<Shared>,
    client: Client,
    slowness: Slowness,
    windows: Windows,
    link: Box<dyn Link>,
    stream: TcpStream,
    ledgers: Vec<Ledger>,
    delivered: u64,
    damaged: u64,
    is_ready: bool,
    was_cut: bool,
}

/// What it may read now.
enum Appetite {
    All,
    Nothing,
    Bytes(usize),
}

impl SlowReader {
    /// Connects. To be run on a thread of its own.
    pub fn open(
        index: usize,
        shared: Arc<Shared>,
        client: Client,
        slowness: Slowness,
        windows: Windows,
    ) -> Result<Self, WorkerError> {
        let refused = |error| WorkerError::Connect {
            target: shared.target.to_string(),
            error,
            hint: "",
        };
        // A Unix socket too: what is asked of it here, both have.
        let stream = TcpStream::from(shared.target.connect().map_err(refused)?);
        stream.set_read_timeout(Some(READ_WAIT)).map_err(refused)?;
        let link = shared
            .target
            .open(client.opening.clone(), shared.material.clone());
        Ok(Self {
            index,
            ledgers: client.hears.clone().map(|_| Ledger::default()).collect(),
            shared,
            client,
            slowness,
            windows,
            link,
            stream,
            delivered: 0,
            damaged: 0,
            is_ready: false,
            was_cut: false,
        })
    }

    /// Reads, or does not, until the coordinator says stop.
    pub fn run(mut self) -> WorkerReport {
        let failure = self.serve().err().map(|error| WorkerError::Link {
            client: self.client.id,
            during: self.link.during(),
            error,
            hint: "",
        });
        // Cut while it was slow is a result; before it was ready, or by a server that has gone, it ends the run.
        if failure.is_some() {
            self.shared.failed.store(true, Ordering::Release);
        }
        while self.shared.phase() != Phase::Stop {
            self.tell_progress();
            thread::sleep(READ_WAIT);
        }
        let report = SlowReport {
            received: self.client.hears.clone().zip(self.ledgers).collect(),
            delivered: self.delivered,
            was_cut: self.was_cut,
        };
        WorkerReport {
            failure,
            damaged: self.damaged,
            slow: vec![report],
            ..WorkerReport::blank()
        }
    }

    fn serve(&mut self) -> Result<(), LinkError> {
        let mut bytes = vec![0; READ_BYTES];
        let mut measured_since: Option<Instant> = None;
        let (mut read_before, mut read_during) = (0_u64, 0_u64);
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Stop {
                return Ok(());
            }
            self.tell_progress();
            self.send_due()?;
            if phase == Phase::Measure && measured_since.is_none() {
                measured_since = Some(Instant::now());
            }
            let since = measured_since.map(|since| since.elapsed());
            let since = since.filter(|_| phase == Phase::Measure);
            let most = match self.appetite(since, read_before, read_during) {
                Appetite::All => READ_BYTES,
                Appetite::Bytes(most) => most,
                Appetite::Nothing => {
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            let read = match self.stream.read(&mut bytes[..most]) {
                Ok(0) => {
                    return self.ended(LinkError::Closed);
                }
                Ok(read) => read,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => return self.ended(LinkError::Io(error)),
            };
            match since {
                Some(since) if since < self.windows.before => read_before += read as u64,
                Some(since) if since < self.windows.before + self.windows.during => {
                    read_during += read as u64;
                }
                _ => {}
            }
            self.received(&bytes[..read])?;
        }
    }

    /// - `since`: the start of the measured time; `None` outside of it.
    fn appetite(&self, since: Option<Duration>, read_before: u64, read_during: u64) -> Appetite {
        let windows = &self.windows;
        let Some(slow_for) = since.and_then(|since| since.checked_sub(windows.before)) else {
            return Appetite::All;
        };
        match self.slowness {
            Slowness::Stopped => Appetite::Nothing,
            Slowness::HalfSpeed if slow_for >= windows.during => Appetite::All,
            Slowness::HalfSpeed => {
                let bytes_per_s = read_before as f64 / windows.before.as_secs_f64() / 2.0;
                let allowed = (bytes_per_s * slow_for.as_secs_f64()) as u64;
                match allowed.saturating_sub(read_during) {
                    0 => Appetite::Nothing,
                    bytes => Appetite::Bytes((bytes as usize).min(SLOW_READ_BYTES)),
                }
            }
        }
    }

    fn send_due(&mut self) -> Result<(), LinkError> {
        let mut list = SendBuffers::new();
        self.link.take_due(&mut list);
        for chunk in list.chunks() {
            if let Err(error) = self.stream.write_all(chunk.as_slice()) {
                return self.ended(LinkError::Io(error));
            }
        }
        for buffer in list.take_owned() {
            self.link.reuse(buffer);
        }
        Ok(())
    }

    /// The connection is over. That is an answer to one that stopped, and to anyone else the end of the run.
    fn ended(&mut self, error: LinkError) -> Result<(), LinkError> {
        let may_be_cut =
            self.slowness == Slowness::Stopped && self.shared.phase() >= Phase::Measure;
        if !may_be_cut {
            return Err(error);
        }
        self.was_cut = true;
        // What came before is counted; `run` waits for the end.
        while self.shared.phase() != Phase::Stop {
            self.tell_progress();
            thread::sleep(READ_WAIT);
        }
        Ok(())
    }

    fn received(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let mut input = Input::new(bytes);
        while let Some(arrived) = self.link.next_arrival(&mut input)? {
            match arrived {
                Arrived::Subscribed => {}
                Arrived::Ready => {
                    if !std::mem::replace(&mut self.is_ready, true) {
                        self.shared.ready.fetch_add(1, Ordering::AcqRel);
                    }
                }
                Arrived::Message(message) => {
                    let hears = &self.client.hears;
                    let stamp = Stamp::of_message(message.as_ref())
                        .filter(|stamp| hears.contains(&stamp.flow));
                    let ledger = stamp.and_then(|stamp| {
                        let ledger = self.ledgers.get_mut((stamp.flow - hears.start) as usize)?;
                        Some((ledger, stamp.sequence))
                    });
                    match ledger {
                        Some((ledger, sequence)) => {
                            ledger.note(sequence);
                            self.delivered += 1;
                        }
                        None => self.damaged += 1,
                    }
                }
            }
        }
        Ok(())
    }

    fn tell_progress(&self) {
        let progress = &self.shared.progress[self.index];
        progress.delivered.store(self.delivered, Ordering::Relaxed);
        progress.arrived.store(self.delivered, Ordering::Relaxed);
        if self.shared.phase() >= Phase::Drain {
            progress.is_draining.store(true, Ordering::Release);
        }
    }
}
