//! The stick itself is measured: against a server that knows what it lost, how long it waited and what it counted.
//!
//! A machine that is busy with something else delays both sides, and such a delay is a true one: it belongs into the result.
//! So results are compared with what the server saw of each message, which has the machine's part in it: not before it was
//! written, and not after a PING behind it was answered. Where that leaves a percent of room, there is one percent.

mod stub;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use slim_loadgen::args::Args;
use slim_loadgen::ledger::Faults;
use slim_loadgen::message::STAMP_BYTES;
use slim_loadgen::plan::Plan;
use slim_loadgen::report::{Report, Traffic};
use slim_loadgen::run::run;
use slim_loadgen::worker::blank_histogram;
use stub::{Act, Books, Copied, Credit, Node, Orders, Stub};

const MS: u64 = 1_000_000;
const ONE_PERCENT: f64 = 0.01;

fn plan(target: &str, command: &str) -> Plan {
    let words = ["slim-loadgen"].into_iter().chain(command.split(' '));
    let args = Args::parse_from(words.chain(["--target", target]));
    Plan::new(&args.command, command.to_owned()).unwrap()
}

/// A run to its end, and what the server has in its books then.
fn measure(orders: Orders, command: &str) -> (Report, Books) {
    let stub = Stub::start(orders);
    let plan = plan(&stub.target(), command);
    let report = run(&plan, &AtomicBool::new(false)).unwrap();
    assert_eq!(report.cut_short, None, "{command}");
    let books = stub.finish();
    assert_eq!(books.refused, 0, "{command}");
    (report, books)
}

/// A run that is ended once the server `has_enough`, and what the server has in its books then.
fn measure_until(
    orders: Orders,
    command: &str,
    has_enough: impl FnMut(&Node) -> bool,
) -> (Report, Books) {
    let stub = Stub::start(orders);
    let command = format!("{command} --duration 60s --warm-up 0s");
    let plan = plan(&stub.target(), &command);
    let interrupted = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        let report = scope.spawn(|| run(&plan, &interrupted));
        stub.wait_until("enough", has_enough);
        interrupted.store(true, Ordering::Relaxed);
        report.join().unwrap().unwrap()
    });
    let books = stub.finish();
    assert_eq!(books.refused, 0, "{command}");
    (report, books)
}

fn traffic(report: &Report) -> &Traffic {
    report.traffic.as_ref().unwrap()
}

fn faults_by(act: impl FnMut(&stub::Copy) -> Act + Send + 'static) -> (Faults, Books) {
    let orders = Orders {
        act: Box::new(act),
        ..Orders::default()
    };
    let (report, books) = measure(orders, SOME_MESSAGES);
    (report.faults, books)
}

/// Four flows, warm-up and measured time.
const SOME_MESSAGES: &str = "rate --rate 2000 --pairs 4 --duration 600ms --warm-up 200ms";

#[test]
fn what_is_lost_is_found_exactly() {
    let (faults, books) = faults_by(|copy| match copy.number % 7 {
        3 => Act::Drop,
        _ => Act::Forward,
    });
    assert!(books.dropped > 0);
    let lost = Faults {
        lost: books.dropped,
        ..Faults::default()
    };
    assert_eq!(faults, lost);
}

#[test]
fn what_is_lost_beside_slow_receivers_is_found_wherever_it_was_to_go() {
    let orders = Orders {
        act: Box::new(|copy| match copy.number % 7 {
            3 => Act::Drop,
            _ => Act::Forward,
        }),
        ..Orders::default()
    };
    let command = "slow --half-speed --receivers 3 --stopped 1 --rate 500 --payload 64 \
                   --before 200ms --during 200ms --after 200ms --warm-up 100ms";
    let command = command.split_whitespace().collect::<Vec<_>>().join(" ");
    let (report, books) = measure(orders, &command);
    assert!(books.dropped > 0);
    assert_eq!(report.faults.lost, books.dropped);
    let slow = report.slow.as_ref().unwrap();
    assert!(slow.slow_lost > 0 && slow.slow_lost < books.dropped);
}

#[test]
fn what_is_duplicated_is_found_exactly() {
    let (faults, books) = faults_by(|copy| match copy.number % 5 {
        2 => Act::Duplicate,
        _ => Act::Forward,
    });
    assert!(books.duplicated > 0);
    let duplicated = Faults {
        duplicated: books.duplicated,
        ..Faults::default()
    };
    assert_eq!(faults, duplicated);
}

#[test]
fn what_is_reordered_is_found_exactly() {
    let (faults, books) = faults_by(|copy| match copy.number % 11 {
        4 => Act::Swap,
        _ => Act::Forward,
    });
    assert!(books.swapped > 0);
    let reordered = Faults {
        reordered: books.swapped,
        ..Faults::default()
    };
    assert_eq!(faults, reordered);
}

#[test]
fn a_stamp_that_is_damaged_in_any_byte_is_found_exactly() {
    let (faults, books) = faults_by(|copy| match copy.number % 10 {
        9 => Act::Damage {
            byte: copy.number as usize / 10 % STAMP_BYTES,
        },
        _ => Act::Forward,
    });
    assert!(books.damaged_stamps >= STAMP_BYTES as u64);
    // Which message it was is not known any more, so that one is missed as well.
    let damaged = Faults {
        lost: books.damaged_stamps,
        damaged: books.damaged_stamps,
        ..Faults::default()
    };
    assert_eq!(faults, damaged);
}

#[test]
fn a_header_that_is_damaged_is_found_in_every_message_that_is_looked_at() {
    let orders = Orders {
        damages_headers: true,
        ..Orders::default()
    };
    let (report, books) = measure(orders, SOME_MESSAGES);
    assert!(books.damaged_headers >= 4, "one on each connection");
    let damaged = Faults {
        damaged: books.damaged_headers,
        ..Faults::default()
    };
    assert_eq!(report.faults, damaged);
}

#[test]
fn all_faults_together_are_told_apart() {
    let orders = Orders {
        act: Box::new(|copy| match copy.number % 97 {
            5 | 6 | 50 => Act::Drop,
            4 | 20 => Act::Swap,
            21 | 60 => Act::Duplicate,
            8 | 70 => Act::Damage {
                byte: copy.number as usize % STAMP_BYTES,
            },
            _ => Act::Forward,
        }),
        damages_headers: true,
        ..Orders::default()
    };
    let (report, books) = measure(orders, SOME_MESSAGES);
    let all = [
        books.dropped,
        books.duplicated,
        books.swapped,
        books.damaged_stamps,
        books.damaged_headers,
    ];
    assert!(all.iter().all(|count| *count > 0), "{all:?}");
    let faults = Faults {
        lost: books.dropped + books.damaged_stamps,
        duplicated: books.duplicated,
        reordered: books.swapped,
        damaged: books.damaged_stamps + books.damaged_headers,
    };
    assert_eq!(report.faults, faults);
}

#[test]
fn one_receiver_of_a_fan_out_that_misses_messages_is_found_exactly() {
    let orders = Orders {
        act: Box::new(|copy| match (copy.receiver, copy.number % 13) {
            (1, 5) => Act::Drop,
            (2, 6) => Act::Duplicate,
            _ => Act::Forward,
        }),
        ..Orders::default()
    };
    let command = "fanout --publishers 2 --subscribers 3";
    let (report, books) = measure_until(orders, command, |node| node.received() >= 200);
    assert!(books.dropped > 0 && books.duplicated > 0);
    let faults = Faults {
        lost: books.dropped,
        duplicated: books.duplicated,
        ..Faults::default()
    };
    assert_eq!(report.faults, faults);
}

/// Forwards so many messages and loses the rest.
fn first(messages: u64) -> Orders {
    Orders {
        act: Box::new(move |copy| {
            if copy.number < messages {
                Act::Forward
            } else {
                Act::Drop
            }
        }),
        ..Orders::default()
    }
}

#[test]
fn both_ends_count_the_same() {
    for (command, receivers) in [
        ("ping --pairs 3 --in-flight 2", 1),
        ("rate --rate 5000 --pairs 2", 1),
        ("stream --pairs 2", 1),
        ("fanout --publishers 2 --subscribers 5", 5),
    ] {
        let (report, books) = measure_until(first(1_000), command, |node| {
            node.received() >= 1_000 && node.is_quiet()
        });
        let traffic = traffic(&report);
        assert_eq!(traffic.published, books.received, "{command}");
        assert_eq!(books.forwarded, 1_000 * receivers, "{command}");
        assert_eq!(traffic.delivered, books.forwarded, "{command}");
        assert_eq!(
            traffic.delivered_payload_bytes,
            256 * books.forwarded,
            "{command}"
        );
        let lost = Faults {
            lost: books.dropped,
            ..Faults::default()
        };
        assert_eq!(report.faults, lost, "{command}");
        assert_eq!(
            books.dropped,
            (books.received - 1_000) * receivers,
            "{command}"
        );
    }
}

#[test]
fn nothing_is_missed_where_nothing_is_lost() {
    for command in [
        "ping --pairs 3 --in-flight 2",
        "rate --rate 5000 --pairs 2",
        "stream --pairs 2",
        "fanout --publishers 2 --subscribers 5",
    ] {
        let command = format!("{command} --duration 300ms --warm-up 100ms");
        let (report, books) = measure(Orders::default(), &command);
        assert_eq!(report.faults, Faults::default(), "{command}");
        assert!(books.received > 0 && traffic(&report).published <= books.received);
    }
    // An open loop's messages all count, those on their way at the end too.
    let command = "rate --rate 5000 --pairs 2 --duration 300ms --warm-up 0s";
    let (report, books) = measure(Orders::default(), command);
    assert_eq!(traffic(&report).published, books.received);
    assert_eq!(traffic(&report).latency.samples, books.forwarded);
}

/// Bounds for a time that the load generator measured, in nanoseconds.
struct Bounds {
    low: Histogram<u64>,
    high: Histogram<u64>,
}

impl Bounds {
    /// Of the time since the stamp's, for the copies that `is_measured`.
    fn since_stamp(books: &Books, is_measured: impl Fn(&Copied) -> bool) -> Self {
        // The run's clock started no later than any message says that was read.
        let started = books
            .copies
            .iter()
            .filter_map(|copy| {
                copy.read_at
                    .checked_sub(Duration::from_nanos(copy.stamp.time_ns))
            })
            .min()
            .unwrap();
        let mut bounds = Self {
            low: blank_histogram(),
            high: blank_histogram(),
        };
        for copy in books.copies.iter().filter(|copy| is_measured(copy)) {
            let stamped = started + Duration::from_nanos(copy.stamp.time_ns);
            bounds.note(
                since(stamped, copy.written_at),
                since(stamped, copy.taken_by.unwrap()),
            );
        }
        bounds
    }

    fn note(&mut self, low_ns: u64, high_ns: u64) {
        self.low.saturating_record(low_ns.max(1));
        self.high.saturating_record(high_ns.max(1));
    }

    fn hold_within_a_percent(&self, measured: &Histogram<u64>, quantile: f64) {
        let at = |histogram: &Histogram<u64>| histogram.value_at_quantile(quantile) as f64 / 1e6;
        let (low, value, high) = (at(&self.low), at(measured), at(&self.high));
        println!("{quantile}: {low:.3} <= {value:.3} <= {high:.3} ms");
        assert!(
            value >= low * (1.0 - ONE_PERCENT) && value <= high * (1.0 + ONE_PERCENT),
            "at {quantile}: {value:.3} ms was measured, and the server saw {low:.3} to {high:.3} ms"
        );
    }
}

fn since(then: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(then).as_nanos() as u64
}

/// Half of the requests 100 ms, 45 in a hundred 200 ms, 5 in a hundred 400 ms.
fn known_delay(sequence: u64) -> Duration {
    Duration::from_millis(match sequence % 20 {
        0..10 => 100,
        10..19 => 200,
        _ => 400,
    })
}

/// Quantiles amid the three delays, and the delay.
const KNOWN: [(f64, u64); 5] = [
    (0.1, 100),
    (0.25, 100),
    (0.6, 200),
    (0.75, 200),
    (0.98, 400),
];

#[test]
fn a_histogram_of_round_trips_is_within_one_percent_of_known_delays() {
    // Requests are of the even flows, answers of the odd ones. The loop ends by itself, so that all round trips count.
    let orders = Orders {
        act: Box::new(|copy| match copy.stamp.flow % 2 {
            0 if copy.number >= 2_400 => Act::Drop,
            _ => Act::Forward,
        }),
        delay: Box::new(|copy| match copy.stamp.flow % 2 {
            0 => known_delay(copy.stamp.sequence + u64::from(copy.stamp.flow)),
            _ => Duration::ZERO,
        }),
        ..Orders::default()
    };
    let command = "ping --pairs 40 --in-flight 2";
    let (report, books) = measure_until(orders, command, |node| {
        node.dropped() == 80 && node.is_quiet()
    });
    let bounds = Bounds::since_stamp(&books, |copy| copy.stamp.flow % 2 == 1);
    assert!(report.histogram.len() >= 500, "{}", report.histogram.len());
    assert_eq!(report.histogram.len(), bounds.low.len());
    for (quantile, delay_ms) in KNOWN {
        assert!(bounds.low.value_at_quantile(quantile) >= delay_ms * MS);
        assert!(report.histogram.value_at_quantile(quantile) >= delay_ms * MS);
        bounds.hold_within_a_percent(&report.histogram, quantile);
    }
}

#[test]
fn a_histogram_of_one_way_times_is_within_one_percent_of_known_delays() {
    let orders = Orders {
        delay: Box::new(|copy| known_delay(copy.number)),
        ..Orders::default()
    };
    let command = "rate --rate 500 --pairs 1 --duration 2s --warm-up 0s";
    let (report, books) = measure(orders, command);
    assert_eq!(report.histogram.len(), books.forwarded);
    let bounds = Bounds::since_stamp(&books, |_| true);
    for (quantile, delay_ms) in KNOWN {
        assert!(report.histogram.value_at_quantile(quantile) >= delay_ms * MS);
        bounds.hold_within_a_percent(&report.histogram, quantile);
    }
}

fn stall_at(number: u64, stall: Duration) -> Orders {
    Orders {
        stall: Box::new(move |copy| (copy.number == number).then_some(stall)),
        ..Orders::default()
    }
}

#[test]
fn a_stall_of_200_ms_is_in_the_open_loops_p99_9() {
    const PER_SECOND: u64 = 4_000;
    let command = format!("rate --rate {PER_SECOND} --pairs 1 --duration 1s --warm-up 0s");
    let (report, books) = measure(stall_at(1_000, Duration::from_millis(200)), &command);
    let measured = &report.histogram;
    assert_eq!(measured.len(), books.forwarded);
    assert!(measured.max() >= 200 * MS);
    let bounds = Bounds::since_stamp(&books, |_| true);
    for quantile in [0.9, 0.95, 0.99, 0.999] {
        // Each message that was due in the stall waited for the rest of it.
        let longer = (measured.len() as f64 * (1.0 - quantile)).ceil() as u64;
        let rest_ns = (200 * MS).saturating_sub(longer * 1_000 * MS / PER_SECOND);
        let value = measured.value_at_quantile(quantile);
        assert!(
            value >= rest_ns,
            "at {quantile}: {value} ns of {rest_ns} ns"
        );
        bounds.hold_within_a_percent(measured, quantile);
    }
    assert!(traffic(&report).latency.p99_9_us >= 198_000.0);
}

#[test]
fn a_closed_loop_hides_the_stall_that_an_open_one_shows() {
    let orders = stall_at(500, Duration::from_millis(200));
    let command = "ping --pairs 1 --in-flight 1";
    let (report, _) = measure_until(orders, command, |node| node.received() >= 2_000);
    let stalled = report.histogram.count_between(200 * MS, u64::MAX);
    assert!(report.histogram.max() >= 200 * MS);
    // One of a thousand round trips was under way.
    assert!(stalled <= report.histogram.len() / 100, "{stalled}");
    assert!(traffic(&report).latency.p99_us < 200_000.0);
}

#[test]
fn a_stall_beyond_the_end_of_the_measured_time_counts() {
    // From the middle of it to long after.
    let command = "rate --rate 2000 --pairs 1 --duration 500ms --warm-up 0s";
    let (report, books) = measure(stall_at(500, Duration::from_secs(1)), command);
    assert_eq!(report.faults, Faults::default());
    assert_eq!(traffic(&report).published, books.received);
    assert_eq!(report.histogram.len(), books.forwarded);
    assert!(report.histogram.max() >= 1_000 * MS);
    // All that were due behind it.
    let late = report.histogram.count_between(400 * MS, u64::MAX);
    assert!(late >= books.received - 500, "{late} of {}", books.received);
    let bounds = Bounds::since_stamp(&books, |_| true);
    for quantile in [0.6, 0.9, 0.999] {
        bounds.hold_within_a_percent(&report.histogram, quantile);
    }
}

#[test]
fn the_spread_of_a_fan_out_is_within_one_percent_of_what_the_server_did() {
    let orders = Orders {
        delay: Box::new(|copy| {
            Duration::from_millis(match copy.receiver + 1 == copy.receivers {
                true => 50,
                false => 0,
            })
        }),
        credit: Credit::WhenForwarded,
        ..first(1_000)
    };
    let command = "fanout --publishers 2 --subscribers 3 --payload 4000";
    let (report, books) = measure_until(orders, command, |node| {
        node.received() >= 1_000 && node.is_quiet()
    });
    let mut by_message = std::collections::HashMap::<_, Vec<Copied>>::new();
    // Of the messages that the load generator follows.
    for copy in books
        .copies
        .iter()
        .filter(|copy| copy.stamp.sequence % 64 == 0)
    {
        let message = (copy.stamp.flow, copy.stamp.sequence);
        by_message.entry(message).or_default().push(*copy);
    }
    let mut bounds = Bounds {
        low: blank_histogram(),
        high: blank_histogram(),
    };
    for copies in by_message.values() {
        let first_written = copies.iter().map(|copy| copy.written_at).min().unwrap();
        let first_taken = copies
            .iter()
            .filter_map(|copy| copy.taken_by)
            .min()
            .unwrap();
        let last_written = copies.iter().map(|copy| copy.written_at).max().unwrap();
        let last_taken = copies
            .iter()
            .filter_map(|copy| copy.taken_by)
            .max()
            .unwrap();
        bounds.note(
            since(first_taken, last_written),
            since(first_written, last_taken),
        );
    }
    let spread = traffic(&report).spread.as_ref().unwrap();
    assert_eq!(spread.samples, by_message.len() as u64);
    assert!(spread.samples > 0);
    let mut measured = blank_histogram();
    measured.record((spread.p50_us * 1e3) as u64).unwrap();
    bounds.hold_within_a_percent(&measured, 0.5);
}
