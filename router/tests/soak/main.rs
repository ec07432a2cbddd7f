//! Clients that connect, subscribe and vanish, 1,000 a second, under load: afterwards there is no descriptor, no name and no
//! memory left of them, and those that stayed have lost nothing.
//!
//! `cargo test` runs it for seconds; `scripts/soak.sh` for minutes, in release, and files the samples. The environment says:
//!
//! | variable | is |
//! |---|---|
//! | `SOAK_SECONDS` | how long clients come and go, after the warm-up; 12 unless given |
//! | `SOAK_CSV` | where a sample a second is written |

#[path = "../common/mod.rs"]
mod common;

use std::collections::VecDeque;
use std::env;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;

const SECONDS_DEFAULT: u64 = 12;
/// Until pools have what is needed and tables have grown: a quarter of the run, and no more than this. What is resident after
/// it is the start.
const WARM_UP_MAX: Duration = Duration::from_secs(60);
const CONNECTS_A_SECOND: u32 = 1_000;
const THREADS: u32 = 4;
/// Clients of one thread that are there at a time.
const STAYING: usize = 16;
/// One in so many clients agrees on a key: that is most of the work of connecting.
const KEYED: u64 = 8;
/// What the others are sent meanwhile, and those that come and go with them.
const MESSAGES_A_SECOND: u32 = 2_000;
const RECEIVERS: usize = 4;
/// What may be left of resident memory when all have gone, against the start, in percent. A short run has touched fewer of
/// the shards' receive buffers (16 MiB of two shards) at its start.
const GROWTH_PERCENT: u64 = 5;
const SHORT_RUN: Duration = Duration::from_secs(60);
const SHORT_RUN_SLACK_BYTES: u64 = 8 << 20;
const SHARDS: u16 = 2;
/// Publishes at the end to names that the vanished had.
const PROBES: u64 = 100;

fn main() {
    let seconds = env::var("SOAK_SECONDS").map_or(SECONDS_DEFAULT, |text| {
        text.parse().expect("SOAK_SECONDS is a number")
    });
    let length = Duration::from_secs(seconds);
    let mut csv = env::var_os("SOAK_CSV").map(|path| File::create(path).expect("SOAK_CSV"));
    let router = RouterProcess::start_with(SHARDS, Mac::Off, None);
    let mut load = Load::new(&router);
    let descriptors = router.descriptors();

    let warm_up = (length / 4).min(WARM_UP_MAX);
    churn(&router, &mut load, warm_up, &mut None);
    router.await_descriptors(descriptors);
    let start = router.memory_bytes();
    let began = Instant::now();
    let connects = churn(&router, &mut load, length, &mut csv);
    let rate = f64::from(u32::try_from(connects).unwrap()) / began.elapsed().as_secs_f64();
    router.await_descriptors(descriptors);
    let end = router.memory_bytes();

    load.probe();
    let counters = router.stop();
    let count = |name: &str| {
        counters
            .iter()
            .find(|(n, _)| n == name)
            .map_or(0, |(_, v)| *v)
    };
    println!(
        "soak: {connects} clients came and went in {} s, {rate:.0} a second; {} messages to each of {RECEIVERS}; resident \
         {start} bytes at the start, {end} at the end ({:+.1} %); {descriptors} descriptors before and after",
        began.elapsed().as_secs(),
        load.messages,
        (end as f64 / start as f64 - 1.0) * 100.0,
    );
    let most = match length < SHORT_RUN {
        true => start + SHORT_RUN_SLACK_BYTES,
        false => start + start * GROWTH_PERCENT / 100,
    };
    assert!(end <= most, "{end} bytes are resident, {most} may be");
    assert_eq!(
        count("dropped_no_route"),
        PROBES,
        "names are left: {counters:?}"
    );
    for kept in [
        "cut_",
        "ended_",
        "dropped_slow",
        "dropped_egress",
        "dropped_parked",
    ] {
        let broken = counters.iter().find(|(name, _)| name.starts_with(kept));
        assert_eq!(broken, None);
    }
}

/// Clients come and go while the load runs. Returns how many.
fn churn(router: &RouterProcess, load: &mut Load, length: Duration, csv: &mut Option<File>) -> u64 {
    let connects = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let messages = AtomicU64::new(load.messages);
    let began = Instant::now();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (connects, over) = (&connects, &over);
            scope.spawn(move || come_and_go(router, u64::from(thread), connects, over));
        }
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                load.send();
                messages.store(load.messages, Ordering::SeqCst);
            }
        });
        if let Some(csv) = csv {
            let head = "seconds,resident_bytes,descriptors,processor_ms,clients,messages";
            writeln!(csv, "{head}").expect("SOAK_CSV");
        }
        let processor_time = router.processor_time();
        for second in 1..=length.as_secs().max(1) {
            let due = began + Duration::from_secs(second);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let Some(csv) = csv else { continue };
            writeln!(
                csv,
                "{second},{},{},{},{},{}",
                router.memory_bytes(),
                router.descriptors(),
                (router.processor_time() - processor_time).as_millis(),
                connects.load(Ordering::SeqCst),
                messages.load(Ordering::SeqCst),
            )
            .expect("SOAK_CSV");
        }
        over.store(true, Ordering::SeqCst);
    });
    connects.load(Ordering::SeqCst)
}

/// One thread's clients: each joins the group that the load goes to, takes a name of its own, and vanishes after
/// [`STAYING`] others.
fn come_and_go(router: &RouterProcess, thread: u64, connects: &AtomicU64, over: &AtomicBool) {
    let interval = Duration::from_secs(1) / (CONNECTS_A_SECOND / THREADS);
    let mut staying = VecDeque::new();
    let mut due = Instant::now();
    let mut number = 0;
    while !over.load(Ordering::SeqCst) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // What is late is not made up for at once: that would be a storm.
        due = (due + interval).max(Instant::now() - interval);
        let mac = if number % KEYED == 0 {
            Mac::On
        } else {
            Mac::Off
        };
        let mut link = Link::connect(router.connect(), mac);
        let own = id_name(
            "vanishing",
            (u128::from(thread) << 64) + u128::from(number % PROBES) + 1,
        );
        for name in [own, name("group")] {
            link.http2
                .send_message(&link.prepared(&subscribe(&name, number + 1)));
        }
        if number % 2 == 0 {
            // The answers; messages to the group may come between.
            link.receive(2);
        }
        staying.push_back(link);
        if staying.len() > STAYING
            && let Some(link) = staying.pop_front()
        {
            vanish(link, number);
        }
        number += 1;
        connects.fetch_add(1, Ordering::SeqCst);
    }
}

fn vanish(mut link: Link, number: u64) {
    match number % 4 {
        0 => link.http2.reset(),
        // With bytes that it has not read: RST, mostly.
        1 => drop(link),
        2 => {
            // In the middle of a frame.
            link.http2.send_raw(&[0, 4, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
            link.http2.reset();
        }
        _ => {
            link.http2
                .send_frame(kind::RST_STREAM, 0, 1, &8u32.to_be_bytes());
            drop(link);
        }
    }
}

/// A publisher and the receivers that stay.
struct Load {
    publisher: Link,
    receivers: Vec<Link>,
    burst: Vec<Vec<u8>>,
    messages: u64,
    due: Instant,
}

impl Load {
    const BURST: u32 = 10;

    fn new(router: &RouterProcess) -> Load {
        let receivers = (0..RECEIVERS)
            .map(|_| {
                let mut receiver = Link::connect(router.connect(), Mac::On);
                receiver.subscribe(&name("group"));
                receiver
            })
            .collect();
        let publisher = Link::connect(router.connect(), Mac::On);
        let message = publisher.prepared_publish(&name("group"), 256, 256);
        Load {
            burst: vec![message; Load::BURST as usize],
            publisher,
            receivers,
            messages: 0,
            due: Instant::now(),
        }
    }

    /// One burst, which all receivers must get.
    fn send(&mut self) {
        let interval = Duration::from_secs(1) * Load::BURST / MESSAGES_A_SECOND;
        thread::sleep(self.due.saturating_duration_since(Instant::now()));
        self.due = (self.due + interval).max(Instant::now() - interval);
        self.publisher.http2.send_messages(&self.burst);
        for receiver in &mut self.receivers {
            receiver.receive(self.burst.len());
        }
        self.messages += u64::from(Load::BURST);
    }

    /// To names that only the vanished had, and then one to the group: when that has come, all have been routed.
    fn probe(&mut self) {
        for i in 0..PROBES {
            let message =
                self.publisher
                    .prepared_publish(&id_name("vanishing", u128::from(i) + 1), 1, 8);
            self.publisher.http2.send_message(&message);
        }
        self.send();
    }
}
