//! What the shards allocate while traffic is steady: nothing for a message, and what little is stated here otherwise.
//!
//! The tests' own threads share the process and allocate as they like: only threads that are shards count. Rounds of traffic are
//! repeated until one stays within its bound. Buffers grow to what traffic needs in the first ones, and how much that is
//! depends on how reads fall; but whatever allocates for each message, or each ten, never gets there.

mod common;

use std::alloc::System;
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use slim_router::limits;
use tracking_allocator::{AllocationGroupId, AllocationRegistry, AllocationTracker, Allocator};

use common::*;

#[global_allocator]
static ALLOCATOR: Allocator<System> = Allocator::system();

/// Allocations and reallocations of shards.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Where those of this round were made, for the failure's text.
static PLACES: Mutex<Vec<Backtrace>> = Mutex::new(Vec::new());
const PLACES_MAX: usize = 300;

thread_local! {
    /// `None`: not asked yet.
    static IS_SHARD: Cell<Option<bool>> = const { Cell::new(None) };
}

struct Shards;

impl AllocationTracker for Shards {
    fn allocated(&self, _: usize, _: usize, _: usize, _: AllocationGroupId) {
        // A thread that ends has nothing to ask any more, and is none.
        if IS_SHARD.try_with(is_shard).unwrap_or(false) {
            ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
            let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
            if places.len() < PLACES_MAX {
                places.push(Backtrace::force_capture());
            }
        }
    }

    fn deallocated(
        &self,
        _: usize,
        _: usize,
        _: usize,
        _: AllocationGroupId,
        _: AllocationGroupId,
    ) {
    }
}

/// By the name that the kernel knows: to ask for the thread's handle would make one, and it may be starting just now.
fn is_shard(known: &Cell<Option<bool>>) -> bool {
    known.get().unwrap_or_else(|| {
        let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap_or_default();
        let is_shard = name.starts_with("shard-");
        known.set(Some(is_shard));
        is_shard
    })
}

/// Nobody else's shards are in this process while it lives.
struct Alone(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Alone {
    fn new() -> Alone {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        static INSTALLED: AtomicBool = AtomicBool::new(false);
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if !INSTALLED.swap(true, Ordering::SeqCst) {
            AllocationRegistry::set_global_tracker(Shards).expect("there is no other");
        }
        AllocationRegistry::enable_tracking();
        Alone(alone)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        AllocationRegistry::disable_tracking();
    }
}

/// Rounds of traffic that may allocate more before one must not.
const WARM_UP_ROUNDS: usize = 20;

/// Repeats `round` until it makes no more than `most` allocations.
#[track_caller]
fn settles_at(most: u64, mut round: impl FnMut()) {
    let mut counts = Vec::new();
    for _ in 0..=WARM_UP_ROUNDS {
        PLACES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        round();
        let count = ALLOCATIONS.load(Ordering::SeqCst) - before;
        counts.push(count);
        if count <= most {
            return;
        }
    }
    AllocationRegistry::disable_tracking();
    panic!(
        "allocations by round: {counts:?}, of which {most} are allowed; the last:\n{}",
        places()
    );
}

/// The places of this round, each once with its count: the innermost functions of ours.
fn places() -> String {
    let mut by_place = BTreeMap::<String, usize>::new();
    for backtrace in PLACES.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let text = backtrace.to_string();
        let ours: Vec<_> = text
            .lines()
            .map(|line| line.trim().trim_start_matches(|c: char| c.is_ascii_digit()))
            .filter(|line| line.starts_with(": slim_") || line.starts_with(": <slim_"))
            .take(4)
            .collect();
        *by_place.entry(ours.concat()).or_default() += 1;
    }
    by_place
        .iter()
        .map(|(place, count)| format!("{count} times{place}\n"))
        .collect()
}

fn router(shards: u16, mac: Mac) -> TestRouter {
    TestRouter::start_with(shards, |config| {
        for listener in &mut config.listeners {
            listener.require_header_mac = mac == Mac::On;
        }
    })
}

/// With a MAC and without, on one shard and across the mesh.
fn on_every_kind_of_link(run: impl Fn(u16, Mac)) {
    for shards in [1, 2] {
        for mac in [Mac::On, Mac::Off] {
            let _alone = Alone::new();
            run(shards, mac);
        }
    }
}

#[test]
fn a_request_and_its_reply_allocate_nothing() {
    const TRIPS: usize = 1_000;
    on_every_kind_of_link(|shards, mac| {
        let router = router(shards, mac);
        let [mut client, mut server] = [(); 2].map(|()| Link::connect(router.connect_raw(), mac));
        client.subscribe(&name("client"));
        server.subscribe(&name("server"));
        let request = client.prepared_publish(&name("server"), 1, 256);
        let reply = server.prepared_publish(&name("client"), 1, 256);
        settles_at(0, || {
            for _ in 0..TRIPS {
                client.http2.send_message(&request);
                server.receive(1);
                server.http2.send_message(&reply);
                client.receive(1);
            }
        });
    });
}

/// In bursts that are several reads and several frames, so that messages are cut at all of their ends.
#[test]
fn a_stream_allocates_nothing() {
    const BURSTS: usize = 20;
    const MESSAGES: usize = 200;
    on_every_kind_of_link(|shards, mac| {
        let router = router(shards, mac);
        let [mut receiver, mut publisher] =
            [(); 2].map(|()| Link::connect(router.connect_raw(), mac));
        receiver.subscribe(&name("stream"));
        let message = publisher.prepared_publish(&name("stream"), 1, 256);
        let burst = vec![message; MESSAGES];
        settles_at(0, || {
            for _ in 0..BURSTS {
                publisher.http2.send_messages(&burst);
                receiver.receive(MESSAGES);
            }
        });
    });
}

#[test]
fn a_fan_out_to_16_allocates_nothing() {
    const BURSTS: usize = 20;
    const MESSAGES: usize = 10;
    on_every_kind_of_link(|shards, mac| {
        let router = router(shards, mac);
        let mut receivers: Vec<_> = (0..16)
            .map(|_| Link::connect(router.connect_raw(), mac))
            .collect();
        for receiver in &mut receivers {
            receiver.subscribe(&name("group"));
        }
        let mut publisher = Link::connect(router.connect_raw(), mac);
        let message = publisher.prepared_publish(&name("group"), 256, 256);
        let burst = vec![message; MESSAGES];
        settles_at(0, || {
            for _ in 0..BURSTS {
                publisher.http2.send_messages(&burst);
                for receiver in &mut receivers {
                    receiver.receive(MESSAGES);
                }
            }
        });
    });
}

/// Four publishers at full speed, and credit for one message at a time.
#[test]
fn messages_that_wait_for_a_slow_reader_allocate_chunks_for_many() {
    const PUBLISHERS: usize = 4;
    const MESSAGES: usize = 3_000;
    on_every_kind_of_link(|shards, mac| {
        let router = router(shards, mac);
        let mut receiver = Link::connect(router.connect_raw(), mac);
        receiver.subscribe(&name("slow"));
        receiver.http2.returns_credit = false;
        let mut publishers: Vec<_> = (0..PUBLISHERS)
            .map(|_| Link::connect(router.connect_raw(), mac))
            .collect();
        let messages: Vec<_> = publishers
            .iter()
            .map(|publisher| vec![publisher.prepared_publish(&name("slow"), 1, 1_024); MESSAGES])
            .collect();
        let bytes: usize = messages.iter().flatten().map(Vec::len).sum();
        // Each waits twice at most, with its publisher and for the window, and a chunk is two allocations: its bytes and
        // their count of references. Half as many again for queues and send buffers, which grow anew after each hold.
        let most = 2 * 2 * bytes / limits::WAITING_CHUNK_BYTES * 3 / 2;
        assert!(
            most < PUBLISHERS * MESSAGES / 4,
            "one for many: {most} allocations"
        );
        settles_at(most as u64, || {
            std::thread::scope(|scope| {
                for (publisher, messages) in publishers.iter_mut().zip(&messages) {
                    scope.spawn(|| publisher.http2.send_messages(messages));
                }
                let held = router.count("publishers_held");
                while router.count("publishers_held") == held {
                    std::thread::yield_now();
                }
                for _ in 0..PUBLISHERS * MESSAGES {
                    receiver.receive(1);
                    receiver.http2.return_credit();
                }
            });
        });
    });
}

#[test]
fn a_large_message_allocates_what_it_is_gathered_in_and_heads_for_each_receiver() {
    const MESSAGES: usize = 100;
    const RECEIVERS: usize = 4;
    const PAYLOAD_BYTES: usize = 65_536;
    on_every_kind_of_link(|shards, mac| {
        let router = router(shards, mac);
        let mut receivers: Vec<_> = (0..RECEIVERS)
            .map(|_| Link::connect(router.connect_raw(), mac))
            .collect();
        for receiver in &mut receivers {
            receiver.subscribe(&name("group"));
        }
        let mut publisher = Link::connect(router.connect_raw(), mac);
        let message = publisher.prepared_publish(&name("group"), 256, PAYLOAD_BYTES);
        // Memory is not taken before bytes have come, so it is gathered in steps; then shared: one count of references. Each
        // receiver has a patched head, and, for what it shares stands between them, a buffer for each frame's header.
        let gathering = 3 + 1;
        let receiver = 1 + message.len().div_ceil(limits::SEND_FRAME_BYTES_MAX) + 1;
        let most = gathering + RECEIVERS * receiver;
        settles_at((MESSAGES * most) as u64, || {
            for _ in 0..MESSAGES {
                publisher.http2.send_message(&message);
                for receiver in &mut receivers {
                    receiver.receive(1);
                }
            }
        });
    });
}
