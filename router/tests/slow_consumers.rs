//! Receivers that are slow, or have stopped: what they cost the others, and what they lose.
//!
//! A receiver that reads, however slowly, holds its publishers back and loses nothing. One that has stopped holds them for the
//! grace time, once; then it is cut and counted.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slim_proto::name::Name;
use slim_router::limits;

use common::*;

/// How long a stopped receiver holds its publishers at most: the grace, the sweep that finds it used up, and the next one, for
/// what a receiver is found to have taken in the first counts from then.
const HELD_MAX: Duration = Duration::from_millis(
    (limits::EGRESS_GRACE.as_millis() + 2 * limits::SWEEP_INTERVAL.as_millis()) as u64,
);

/// What a machine that is busy with other work may add to a time.
const BUSY_MACHINE: Duration = Duration::from_secs(1);

/// What most receivers here grant, so that they need not be sent much before it shows that they are slow.
const SMALL_WINDOW_BYTES: u32 = 65_535;

/// Times mean nothing while another test takes the same cores.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A link that returns no credit, and of whose socket nobody reads after this.
fn stopped(mut http2: Http2, to: &Name) -> Link {
    http2.stream_window_bytes = SMALL_WINDOW_BYTES;
    let mut link = Link::connect(http2, Mac::On);
    link.http2.returns_credit = false;
    link.subscribe(to);
    link
}

#[test]
fn one_stopped_reader_of_64_in_a_fan_out_costs_the_others_nothing_after_the_grace_on_1_shard() {
    one_of_64_stops(1, Traffic::FanOut);
}

#[test]
fn one_stopped_reader_of_64_in_a_fan_out_costs_the_others_nothing_after_the_grace_on_2_shards() {
    one_of_64_stops(2, Traffic::FanOut);
}

#[test]
fn one_stopped_receiver_of_a_publisher_of_64_costs_the_others_nothing_after_the_grace_on_1_shard() {
    one_of_64_stops(1, Traffic::RoundRobin);
}

#[test]
fn one_stopped_receiver_of_a_publisher_of_64_costs_the_others_nothing_after_the_grace_on_2_shards()
{
    one_of_64_stops(2, Traffic::RoundRobin);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    /// One name for all.
    FanOut,
    /// Each receiver has its name, and they are sent to in turn.
    RoundRobin,
}

const RECEIVERS: usize = 64;

/// A publisher and its receivers, one of which will stop. All messages of a round are sent at once; it is over when all others
/// have theirs.
struct Round {
    publisher: Link,
    small: Vec<Vec<u8>>,
    /// The same, but large for the receiver that stops.
    large: Vec<Vec<u8>>,
    others: Vec<Link>,
    stops: Link,
    has_stopped: bool,
}

impl Round {
    fn run(&mut self, messages: fn(&Round) -> &Vec<Vec<u8>>, latencies: &mut Vec<Duration>) {
        let messages = messages(self).clone();
        let sent = Instant::now();
        self.publisher.http2.send_messages(&messages);
        for other in &mut self.others {
            other.receive(1);
            latencies.push(sent.elapsed());
        }
        if !self.has_stopped {
            self.stops.receive(1);
            self.stops.http2.return_credit();
        }
    }

    /// The 99th percentile of all receivers, of some rounds.
    fn p99(&mut self) -> Duration {
        const ROUNDS: usize = 40;
        let mut latencies = Vec::with_capacity(ROUNDS * RECEIVERS);
        for _ in 0..ROUNDS {
            self.run(|round| &round.small, &mut latencies);
        }
        latencies.sort_unstable();
        latencies[latencies.len() * 99 / 100]
    }

    /// The median of several: one that something else on the machine disturbed does not count.
    fn usual_p99(&mut self) -> Duration {
        const PHASES: usize = 5;
        let mut phases: Vec<_> = (0..PHASES).map(|_| self.p99()).collect();
        phases.sort_unstable();
        phases[PHASES / 2]
    }
}

fn one_of_64_stops(shards: u16, traffic: Traffic) {
    const PAYLOAD_BYTES: usize = 256;
    const LARGE_PAYLOAD_BYTES: usize = 16_384;
    /// The load of a machine can change between the undisturbed time and the other. Then there is nothing to compare.
    const ATTEMPTS: usize = 3;
    /// One time slice of the scheduler: on a busy machine one in a hundred waits for it anyway.
    const SLACK: Duration = Duration::from_millis(1);
    let _alone = alone();
    let mut times = Vec::new();
    for _ in 0..ATTEMPTS {
        let router = TestRouter::start(shards);
        let name_of = |i: usize| match traffic {
            Traffic::FanOut => name("group"),
            Traffic::RoundRobin => name(&format!("receiver-{i}")),
        };
        let stops = stopped(router.connect_raw(), &name_of(0));
        let mut others = Vec::new();
        for i in 1..RECEIVERS {
            let mut other = Link::connect(router.connect_raw(), Mac::On);
            other.subscribe(&name_of(i));
            others.push(other);
        }
        let publisher = Link::connect(router.connect_raw(), Mac::On);
        let messages = |bytes: usize| match traffic {
            Traffic::FanOut => vec![publisher.prepared_publish(&name_of(0), 256, bytes)],
            Traffic::RoundRobin => (0..RECEIVERS)
                .map(|i| {
                    let bytes = if i == 0 { bytes } else { PAYLOAD_BYTES };
                    publisher.prepared_publish(&name_of(i), 1, bytes)
                })
                .collect(),
        };
        let (small, large) = (messages(PAYLOAD_BYTES), messages(LARGE_PAYLOAD_BYTES));
        let mut round = Round {
            publisher,
            small,
            large,
            others,
            stops,
            has_stopped: false,
        };

        let undisturbed = round.usual_p99();
        round.has_stopped = true;
        let mut longest = Duration::ZERO;
        while router.count("cut_slow_receiver") == 0 {
            let mut latencies = Vec::new();
            round.run(|round| &round.large, &mut latencies);
            longest = longest.max(*latencies.last().unwrap());
        }
        assert!(router.count("publishers_held") > 0);
        assert!(longest < HELD_MAX + BUSY_MACHINE, "{longest:?}");

        let afterwards = round.usual_p99();
        let waited = router.count("dropped_slow_receiver");
        assert!(waited > 0);
        nothing_lost_but(
            &router,
            &[
                ("cut_slow_receiver", 1),
                ("dropped_slow_receiver", waited),
                // What came to its name after it.
                ("dropped_no_route", router.count("dropped_no_route")),
                (
                    "dropped_receiver_left",
                    router.count("dropped_receiver_left"),
                ),
            ],
        );
        if traffic == Traffic::FanOut {
            assert_eq!(router.count("dropped_no_route"), 0);
        }
        times.push((undisturbed, afterwards));
        if afterwards <= 2 * undisturbed + SLACK {
            return;
        }
    }
    panic!("p99 undisturbed and after the grace time: {times:?}");
}

#[test]
fn a_publisher_held_by_a_stopped_reader_costs_those_nothing_who_have_nothing_to_do_with_it() {
    const TRIPS: usize = 300;
    /// As above.
    const ATTEMPTS: usize = 3;
    const SLACK: Duration = Duration::from_millis(1);
    let _alone = alone();
    let mut times = Vec::new();
    for _ in 0..ATTEMPTS {
        let router = TestRouter::start(1);
        let (there, back, slow) = (name("there"), name("back"), name("slow"));
        let mut client = Link::connect(router.connect_raw(), Mac::On);
        client.subscribe(&back);
        let mut server = Link::connect(router.connect_raw(), Mac::On);
        server.subscribe(&there);
        let request = client.prepared_publish(&there, 1, 256);
        let reply = server.prepared_publish(&back, 1, 256);
        let mut p99 = || {
            let mut times: Vec<_> = (0..TRIPS)
                .map(|_| {
                    let sent = Instant::now();
                    client.http2.send_message(&request);
                    server.receive(1);
                    server.http2.send_message(&reply);
                    client.receive(1);
                    sent.elapsed()
                })
                .collect();
            times.sort_unstable();
            times[TRIPS * 99 / 100]
        };
        let undisturbed = p99();

        let _stopped = stopped(router.connect_raw(), &slow);
        let mut publisher = Link::connect(router.connect_raw(), Mac::On);
        let message = publisher.prepared_publish(&slow, 1, 16_384);
        // As much as it may send while it is held, too.
        let held_at = SMALL_WINDOW_BYTES as usize + limits::EGRESS_SOFT_BYTES;
        let bytes = held_at + limits::RECEIVE_WINDOW_BYTES as usize * 3 / 4;
        for _ in 0..bytes / message.len() {
            publisher.http2.send_message(&message);
        }
        while router.count("publishers_held") == 0 {
            thread::yield_now();
        }
        let meanwhile = p99();
        let was_cut = router.count("cut_slow_receiver") > 0;
        times.push((undisturbed, meanwhile, was_cut));
        if meanwhile <= 2 * undisturbed + SLACK && !was_cut {
            return;
        }
    }
    panic!(
        "p99 undisturbed, while a publisher is held, and whether that was over before: {times:?}"
    );
}

#[test]
fn two_hundred_stopped_readers_are_all_cut_in_time_and_cost_the_others_nothing() {
    const STOPPED: usize = 200;
    const OTHERS: usize = 8;
    const PAYLOAD_BYTES: usize = 16_384;
    let _alone = alone();
    for shards in [1, 2] {
        let router = TestRouter::start(shards);
        let group = name("group");
        let _stopped: Vec<_> = (0..STOPPED)
            .map(|_| stopped(router.connect_raw(), &group))
            .collect();
        let mut others: Vec<_> = (0..OTHERS)
            .map(|_| Link::connect(router.connect_raw(), Mac::On))
            .collect();
        for other in &mut others {
            other.subscribe(&group);
        }
        let mut publisher = Link::connect(router.connect_raw(), Mac::On);
        let message = publisher.prepared_publish(&group, 256, PAYLOAD_BYTES);
        let mut longest = Duration::ZERO;
        while router.count("cut_slow_receiver") < STOPPED as u64 {
            let sent = Instant::now();
            publisher.http2.send_message(&message);
            others.iter_mut().for_each(|other| other.receive(1));
            longest = longest.max(sent.elapsed());
        }
        // All together, not one after the other.
        assert!(longest < HELD_MAX + BUSY_MACHINE, "{longest:?}");
        let waited = router.count("dropped_slow_receiver");
        assert!(waited >= STOPPED as u64);
        nothing_lost_but(
            &router,
            &[
                ("cut_slow_receiver", STOPPED as u64),
                ("dropped_slow_receiver", waited),
                (
                    "dropped_receiver_left",
                    router.count("dropped_receiver_left"),
                ),
            ],
        );
    }
}

#[test]
fn stopped_readers_take_no_more_memory_than_their_bounds() {
    const STOPPED: u64 = 50;
    const PAYLOAD_BYTES: usize = 16_384;
    /// The shard's receive buffers, 8 MiB of which each is touched once, and as much for the allocator's habits.
    const SLACK_BYTES: u64 = 16 << 20;
    /// Up to the soft mark, and one message over it; what is waited for is in chunks, the last of which is not full; and vectors
    /// that were grown have up to twice the room of what is in them.
    const STOPPED_BYTES_MAX: u64 = (limits::EGRESS_SOFT_BYTES
        + PAYLOAD_BYTES
        + 2 * limits::WAITING_CHUNK_BYTES
        + limits::EGRESS_READY_BYTES) as u64;
    let router = RouterProcess::start(2);
    let group = name("group");
    let _stopped: Vec<_> = (0..STOPPED)
        .map(|_| stopped(router.connect(), &group))
        .collect();
    let mut other = Link::connect(router.connect(), Mac::On);
    other.subscribe(&group);
    let mut publisher = Link::connect(router.connect(), Mac::On);
    let message = publisher.prepared_publish(&group, 256, PAYLOAD_BYTES);
    let before = router.peak_memory_bytes();
    // More than they grant and what waits for them at most: in between, they are cut.
    let bytes = SMALL_WINDOW_BYTES as usize + limits::EGRESS_SOFT_BYTES;
    let messages = 3 * bytes / PAYLOAD_BYTES;
    for _ in 0..messages {
        publisher.http2.send_message(&message);
        other.receive(1);
    }
    let grown = router.peak_memory_bytes() - before;
    let most = STOPPED * STOPPED_BYTES_MAX + SLACK_BYTES;
    assert!(grown < most, "{grown} bytes of {most}");
    let counters = router.stop();
    let count = |name: &str| counters.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
    assert_eq!(count("cut_slow_receiver"), Some(STOPPED), "{counters:?}");
    assert!(count("dropped_slow_receiver") >= Some(STOPPED));
    assert_eq!(count("dropped_egress_full"), None);
}

#[test]
fn a_reader_at_half_the_speed_of_its_publisher_loses_nothing_whatever_the_size_of_messages() {
    for bytes in [64, 1_000, 20_000, 100_000, 1_000_000] {
        half_speed(1, bytes, SMALL_WINDOW_BYTES);
        half_speed(2, bytes, SMALL_WINDOW_BYTES);
    }
}

#[test]
fn a_reader_at_half_the_speed_of_its_publisher_loses_nothing_whatever_window_it_grants() {
    for window_bytes in [1_000, 2_097_152, 4 << 20] {
        half_speed(1, 10_000, window_bytes);
        half_speed(2, 10_000, window_bytes);
    }
}

/// - `window_bytes`: of the reader.
fn half_speed(shards: u16, payload_bytes: usize, window_bytes: u32) {
    /// How long the publisher must have been stopped for the reader to go on. It sets the pace and is part of no proof.
    const STOPPED_FOR: Duration = Duration::from_millis(2);
    /// What is read before the next look at the publisher: a reader that takes less than 512 KB in 2 s counts as stopped.
    const STEP_BYTES: usize = 65_536;
    let router = TestRouter::start(shards);
    let to = name("slow");
    let mut http2 = router.connect_raw();
    http2.stream_window_bytes = window_bytes;
    let mut reader = Client::negotiate(http2, dialer());
    reader.subscribe(&to);
    let mut publisher = router.connect();
    // The reader has half of it when all is sent. That is more than fits between them: the publisher must wait before.
    let per_message = payload_bytes + 300;
    let under_way =
        window_bytes as usize + limits::EGRESS_SOFT_BYTES + limits::RECEIVE_WINDOW_BYTES as usize;
    let messages = (3 * under_way / per_message).max(12);
    let sent = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..messages {
                let blob = [&(number as u32).to_be_bytes()[..], &vec![7; payload_bytes]].concat();
                publisher.publish(&to, &blob);
                sent.fetch_add(1, Ordering::SeqCst);
            }
        });
        for number in 0..messages {
            let due = (2 * number + 2).min(messages);
            let (mut seen, mut since) = (0, Instant::now());
            // Nothing stops the publisher before it is held.
            while number.is_multiple_of(STEP_BYTES.div_ceil(per_message))
                && sent.load(Ordering::SeqCst) < due
                && (since.elapsed() < STOPPED_FOR || router.count("publishers_held") == 0)
            {
                if sent.load(Ordering::SeqCst) != seen {
                    (seen, since) = (sent.load(Ordering::SeqCst), Instant::now());
                }
                thread::yield_now();
            }
            let publication = reader.next_publication();
            assert_eq!(publication.blob()[..4], (number as u32).to_be_bytes());
        }
    });
    assert!(router.count("publishers_held") > 0, "it was never too fast");
    nothing_lost_but(&router, &[]);
}
