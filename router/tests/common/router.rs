//! A router in this process.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use slim_router::Router;
use slim_router::args::Args;
use slim_router::config::{Config, ListenAddress, ListenerConfig};
use slim_router::metrics::Snapshot;

use super::{Client, Http2, PATIENCE};

/// A running router on a free port of this machine. Dropping it stops it.
pub struct TestRouter {
    router: Router,
    shards: u16,
    /// Connections that were placed on each shard, by the router's own rule.
    placed: Mutex<Vec<u32>>,
    /// Connections that exist only so that the next one lands elsewhere.
    fillers: Mutex<Vec<Http2>>,
}

impl TestRouter {
    pub fn start(shards: u16) -> TestRouter {
        TestRouter::start_with(shards, |_| {})
    }

    /// - `change`: what is not as by default. The configuration has one TCP listener, on a free port.
    pub fn start_with(shards: u16, change: impl FnOnce(&mut Config)) -> TestRouter {
        let args = Args {
            shards: NonZeroU16::new(shards),
            ..Args::default()
        };
        let mut config = Config::load(&args, &|_| None).expect("the defaults are valid");
        let local = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.listeners = vec![ListenerConfig::new(local)];
        change(&mut config);
        TestRouter {
            router: Router::start(config).expect("the router starts"),
            shards,
            placed: Mutex::new(vec![0; usize::from(shards)]),
            fillers: Mutex::new(Vec::new()),
        }
    }

    /// Of the first TCP listener.
    pub fn address(&self) -> SocketAddr {
        self.router
            .addresses()
            .iter()
            .find_map(|address| match address {
                ListenAddress::Tcp(address) => Some(*address),
                ListenAddress::Unix(_) => None,
            })
            .expect("a TCP listener")
    }

    /// Of the first Unix listener.
    pub fn unix_path(&self) -> PathBuf {
        self.router
            .addresses()
            .iter()
            .find_map(|address| match address {
                ListenAddress::Unix(path) => Some(path.clone()),
                ListenAddress::Tcp(_) => None,
            })
            .expect("a Unix listener")
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    /// A connection without preface or request. Returns when the router has accepted and placed it.
    pub fn connect_raw(&self) -> Http2 {
        self.place();
        Http2::connect(self.address())
    }

    /// An Edge link, negotiated. `connect` calls one after the other land on shards 0, 1, .., N-1, 0, ..
    pub fn connect(&self) -> Client {
        Client::negotiate(self.connect_raw(), super::dialer())
    }

    /// An Edge link on this shard. Holds as long as no connection to this router has closed.
    pub fn connect_on(&self, shard: u16) -> Client {
        loop {
            if self.next_shard() == usize::from(shard) {
                return self.connect();
            }
            let filler = self.connect_raw();
            self.fillers.lock().unwrap().push(filler);
        }
    }

    /// Where the next connection goes: to the shard with the fewest, the first of several.
    fn next_shard(&self) -> usize {
        let placed = self.placed.lock().unwrap();
        (0..placed.len()).min_by_key(|i| placed[*i]).unwrap()
    }

    fn place(&self) {
        let shard = self.next_shard();
        self.placed.lock().unwrap()[shard] += 1;
    }

    pub fn counters(&self) -> Snapshot {
        self.router.counters()
    }

    /// The count with this name, now.
    pub fn count(&self, counter: &str) -> u64 {
        self.counters()
            .entries()
            .into_iter()
            .find_map(|(name, value)| (name == counter).then_some(value))
            .unwrap_or_else(|| panic!("there is no counter {counter}"))
    }

    /// Waits until the count is `value`; a count that has gone past it, or never gets there, fails the test.
    pub fn await_count(&self, counter: &str, value: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.count(counter) < value {
            assert!(
                Instant::now() < deadline,
                "{counter} did not reach {value}: {}",
                self.counters()
            );
            thread::yield_now();
        }
        assert_eq!(self.count(counter), value, "{counter}: {}", self.counters());
    }

    /// Waits until no more than `value` are left of a count that falls.
    pub fn await_fall(&self, counter: &str, value: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.count(counter) > value {
            assert!(
                Instant::now() < deadline,
                "{counter} did not fall to {value}: {}",
                self.counters()
            );
            thread::yield_now();
        }
    }

    pub fn shards(&self) -> u16 {
        self.shards
    }
}

/// No message and no connection was lost for any reason, but for these counters.
#[track_caller]
pub fn nothing_lost_but(router: &TestRouter, expected: &[(&str, u64)]) {
    for (counter, value) in router.counters().entries() {
        let of_loss = ["dropped_", "cut_", "ended_"];
        if of_loss.iter().any(|prefix| counter.starts_with(prefix)) {
            let expected = expected.iter().find(|(name, _)| *name == counter);
            assert_eq!(
                value,
                expected.map_or(0, |(_, value)| *value),
                "{counter}: {}",
                router.counters()
            );
        }
    }
}
