//! The whole router on one seed: shards, mesh, tables and connections as they are, clock and network simulated.
//!
//! A seed decides everything: how many shards and clients, what the clients do and when, how their bytes are cut and
//! delayed, how fast they read, when they are gone, whose turn it is and how long it takes. After every step the
//! promises are checked that nothing may break; see `world` for a shard's and `ledger` for the messages'.
//!
//! `SLIM_SIM_SEED=n` runs one seed and says what happens in it, `SLIM_SIM_SEEDS=n` runs so many instead of 10,000.

mod client;
mod ears;
mod kernel;
mod ledger;
mod random;
mod scenario;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use world::{Summary, World};

const SEEDS: u64 = 10_000;
/// After so many it is over: they are likely to have one cause.
const FAILURES_MAX: usize = 8;

/// What ten thousand worlds must have seen, or they have become harmless.
const REACHED: [&str; 14] = [
    "connections_refused",
    "messages_meshed",
    "subscriptions_refused",
    "dropped_no_route",
    "dropped_ttl",
    "dropped_slow_receiver",
    "dropped_receiver_left",
    "dropped_sender_left",
    "cut_slow_receiver",
    "ended_http2",
    "ended_undecodable",
    "ended_timeout",
    "ended_keepalive",
    "publishers_held",
];

fn number_from(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect("a number"))
}

fn run(seed: u64, verbose: bool) -> Result<Summary, String> {
    let world = || World::new(seed, verbose).run();
    match catch_unwind(AssertUnwindSafe(world)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panic: {}", text.unwrap_or("of an unknown kind")))
        }
    }
}

#[test]
fn every_promise_is_kept_on_ten_thousand_seeds() {
    if let Some(seed) = number_from("SLIM_SIM_SEED") {
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG);
        log.without_time()
            .with_target(false)
            .with_writer(std::io::stderr)
            .init();
        if let Err(fault) = run(seed, true) {
            panic!("seed {seed}: {fault}");
        }
        return;
    }
    let seeds = number_from("SLIM_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let sum = Mutex::new(Summary::default());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while failed.lock().unwrap().len() < FAILURES_MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    match run(seed, false) {
                        Ok(summary) => sum.lock().unwrap().add(&summary),
                        Err(fault) => failed.lock().unwrap().push((seed, fault)),
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap();
    println!(
        "{} publishes in {} steps; {}",
        sum.publishes, sum.steps, sum.counters
    );
    if seeds >= SEEDS {
        let unreached: Vec<_> = sum
            .counters
            .entries()
            .into_iter()
            .filter(|(name, count)| REACHED.contains(name) && *count == 0)
            .collect();
        assert!(unreached.is_empty(), "no seed reaches {unreached:?}");
    }
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    for (seed, fault) in &failed {
        println!(
            "seed {seed}: {fault}\n  replay: SLIM_SIM_SEED={seed} cargo test -p slim-router --lib simulation -- --nocapture"
        );
    }
    assert!(
        failed.is_empty(),
        "{} seeds of {seeds} failed",
        failed.len()
    );
}

#[test]
fn a_seed_gives_the_same_world_every_time() {
    for seed in 0..40 {
        let (first, second) = (run(seed, false), run(seed, false));
        assert_eq!(
            first.map(|summary| summary.trace),
            second.map(|summary| summary.trace),
            "seed {seed}"
        );
    }
}
