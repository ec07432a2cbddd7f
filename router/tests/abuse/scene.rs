//! A router, bystanders, and how an attack is judged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::{Client, Http2, PATIENCE, dialer, name};
use crate::process::Process;
use crate::talk::{Start, begin_on};

/// The longest that a bystander's message may take, at any time. A millisecond is usual, and tens of them where the machine
/// is busy; one that stood still for other reasons has been seen to take one second.
pub const LATENCY_MAX: Duration = Duration::from_secs(2);

/// Between two messages of bystanders: often enough to notice, seldom enough to cost little.
const PACE: Duration = Duration::from_millis(4);

/// Processor time that one of their messages may cost, all said and done; an unoptimised router needs some 0.3 ms.
const BYSTANDER_TIME_MAX: Duration = Duration::from_millis(1);

/// Messages of theirs that must come through after an attack.
const AFTERMATH_MESSAGES: u64 = 10;

/// Connections with which a scene begins that are shown out, each after four megabytes of noise.
const NOISES: u64 = 8;

pub const MEGABYTE: u64 = 1 << 20;

/// What an attack may cost.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// By which the router's memory may grow at most, at its peak.
    pub memory_bytes: u64,
    /// What the router may spend on it.
    pub processor_time: Duration,
}

pub struct Scene {
    process: Option<Process>,
    bystanders: Option<Bystanders>,
}

struct Bystanders {
    watched: Arc<Watched>,
    stop: Sender<()>,
    pair: JoinHandle<()>,
}

#[derive(Default)]
struct Watched {
    messages: AtomicU64,
    longest_us: AtomicU64,
}

impl Scene {
    pub fn new() -> Scene {
        let process = Process::start();
        touch_receive_buffers(process.address);
        let bystanders = Bystanders::new(process.address);
        let scene = Scene {
            process: Some(process),
            bystanders: Some(bystanders),
        };
        scene.await_messages(AFTERMATH_MESSAGES);
        scene
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("until it is taken at the end")
    }

    fn bystanders(&self) -> &Bystanders {
        self.bystanders
            .as_ref()
            .expect("until they are taken at the end")
    }

    pub fn address(&self) -> SocketAddr {
        self.process().address
    }

    /// A connection on which this much has been said.
    pub fn connect(&self, start: Start) -> Http2 {
        begin_on(Http2::connect(self.address()), start)
    }

    /// A negotiated link.
    pub fn link(&self) -> Client {
        Client::negotiate(Http2::connect(self.address()), dialer())
    }

    pub fn sockets(&self) -> usize {
        self.process().sockets()
    }

    /// Waits until the router has this many sockets again.
    pub fn await_sockets(&self, sockets: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.sockets() > sockets {
            assert!(Instant::now() < deadline, "{} sockets", self.sockets());
            thread::yield_now();
        }
    }

    /// Judges what `attack` does to the router: what it costs, and what the bystanders notice until it is over and after it.
    #[track_caller]
    pub fn survives<T>(&self, bounds: Bounds, attack: impl FnOnce() -> T) -> T {
        let (process, watched) = (self.process(), &self.bystanders().watched);
        watched.longest_us.store(0, Ordering::Relaxed);
        let messages_before = watched.messages.load(Ordering::Relaxed);
        process.reset_peak_memory();
        let memory_before = process.memory_bytes();
        let time_before = process.processor_time();
        let outcome = attack();
        self.await_messages(AFTERMATH_MESSAGES);
        let time = process.processor_time() - time_before;
        let memory = process.peak_memory_bytes().saturating_sub(memory_before);
        let messages = watched.messages.load(Ordering::Relaxed) - messages_before;
        let longest = Duration::from_micros(watched.longest_us.load(Ordering::Relaxed));
        println!(
            "{memory} bytes, {time:?}, {messages} messages beside it, the longest took {longest:?}"
        );
        assert!(
            memory <= bounds.memory_bytes,
            "{memory} bytes of memory, {} are allowed",
            bounds.memory_bytes
        );
        let allowed = bounds.processor_time + BYSTANDER_TIME_MAX * messages as u32;
        assert!(
            time <= allowed,
            "{time:?} of processor time, {allowed:?} are allowed"
        );
        assert!(
            longest <= LATENCY_MAX,
            "a bystander's message took {longest:?}"
        );
        outcome
    }

    /// Bystanders exchange this many messages more. Whatever they lose or get twice ends their thread, and the test.
    fn await_messages(&self, messages: u64) {
        let bystanders = self.bystanders();
        let goal = bystanders.watched.messages.load(Ordering::Relaxed) + messages;
        while bystanders.watched.messages.load(Ordering::Relaxed) < goal {
            assert!(
                !bystanders.pair.is_finished(),
                "a bystander noticed, see above"
            );
            thread::yield_now();
        }
    }

    /// Ends all of it. These are counted, and of all else that is bad nothing.
    #[track_caller]
    pub fn ends_with(self, expected: &[(&str, u64)]) {
        self.ends_with_about(expected, &[]);
    }

    /// As [`Self::ends_with`]; some counts may be anything within a range, for time plays a part in them.
    #[track_caller]
    pub fn ends_with_about(
        mut self,
        expected: &[(&str, u64)],
        about: &[(&str, RangeInclusive<u64>)],
    ) {
        if let Some(Bystanders { stop, pair, .. }) = self.bystanders.take() {
            // They may have ended by themselves, which is seen next.
            let _ = stop.send(());
            pair.join().expect("bystanders notice nothing");
        }
        let counts = self.process.take().expect("it is taken here").stop();
        let mut bad: BTreeMap<&str, u64> = counts
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .filter(|(name, _)| {
                [
                    "dropped_",
                    "ended_",
                    "cut_",
                    "requests_",
                    "subscriptions_refused",
                    "connections_refused",
                ]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            })
            .collect();
        match bad.remove("ended_http2") {
            Some(NOISES) => {}
            Some(more) => assert!(bad.insert("ended_http2", more - NOISES).is_none()),
            None => panic!("the noise before the scene was not counted"),
        }
        for (name, range) in about {
            let count = bad.remove(name).unwrap_or(0);
            assert!(
                range.contains(&count),
                "{name} is {count}, not in {range:?}"
            );
        }
        assert_eq!(bad, expected.iter().copied().collect());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }
}

impl Bystanders {
    fn new(router: SocketAddr) -> Bystanders {
        let mut pair = ["bystander 0", "bystander 1"].map(|service| {
            let mut client = Client::negotiate(Http2::connect(router), dialer());
            client.subscribe(&name(service));
            client
        });
        let watched = Arc::new(Watched::default());
        let watch = watched.clone();
        let (stop, stopped) = mpsc::channel();
        let pair = thread::spawn(move || {
            let names = [name("bystander 0"), name("bystander 1")];
            let mut sent = 0usize;
            while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                let (from, to) = (sent % 2, (sent + 1) % 2);
                let began = Instant::now();
                pair[from].publish(&names[to], &sent.to_be_bytes());
                assert_eq!(pair[to].next_publication().blob(), sent.to_be_bytes());
                let took_us = began.elapsed().as_micros() as u64;
                watch.longest_us.fetch_max(took_us, Ordering::Relaxed);
                watch.messages.fetch_add(1, Ordering::Relaxed);
                sent += 1;
            }
        });
        Bystanders {
            watched,
            stop,
            pair,
        }
    }
}

/// The kernel fills the shard's receive buffers in turn, 8 MiB of them: touched once, they do not look like growth later.
fn touch_receive_buffers(router: SocketAddr) {
    for _ in 0..NOISES {
        // No preface: it is thrown away as it comes, and its end with it.
        let mut noise = Http2::connect(router);
        noise.send_raw(&vec![0xff; 4_000_000]);
        noise.events_to_end();
    }
}
