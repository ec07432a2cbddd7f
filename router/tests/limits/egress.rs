use std::thread;

use crate::await_at_least;
use crate::common::*;

/// What a receiver of these tests lets the router send before it reads.
const WINDOW_BYTES: u32 = 65_535;

/// A link that takes one window and then nothing more.
fn connect_reluctant(router: &TestRouter) -> Client {
    let mut http2 = router.connect_raw();
    http2.stream_window_bytes = WINDOW_BYTES;
    http2.returns_credit = false;
    Client::negotiate(http2, dialer())
}

#[test]
fn above_what_may_wait_for_one_receiver_its_publisher_waits_and_nothing_is_lost() {
    const BYTES: usize = 10_000;
    const MESSAGES: usize = 300;
    const LIMIT: usize = 131_072;
    let router = TestRouter::start_with(1, |config| {
        config.limits.egress_bytes_per_connection = LIMIT;
    });
    let to = name("receiver");
    let mut receiver = connect_reluctant(&router);
    receiver.subscribe(&to);
    let mut publisher = router.connect();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..MESSAGES {
                publisher.publish(&to, &[7; BYTES]);
            }
        });
        await_at_least(&router, "publishers_held", 1);
        let waiting = router.count("messages_delivered") * BYTES as u64;
        let most = WINDOW_BYTES as usize + LIMIT + 2 * BYTES;
        assert!(waiting < most as u64, "{waiting} bytes");
        for _ in 0..MESSAGES {
            receiver.next_publication();
            receiver.http2.return_credit();
        }
    });
    assert_eq!(router.count("cut_slow_receiver"), 0);
}

/// Receivers that stopped, one that reads slowly, and a publisher to each of them.
struct Crowd {
    router: TestRouter,
    stopped: Vec<Client>,
    reader: Client,
}

const BYTES: usize = 20_000;

impl Crowd {
    fn new(stopped: usize, egress_bytes: usize) -> Crowd {
        let router = TestRouter::start_with(1, |config| {
            config.limits.egress_bytes = Some(egress_bytes);
        });
        let mut reader = connect_reluctant(&router);
        reader.subscribe(&name("slow"));
        let stopped = (0..stopped)
            .map(|i| {
                let mut receiver = connect_reluctant(&router);
                receiver.subscribe(&name(&format!("stopped-{i}")));
                receiver
            })
            .collect();
        Crowd {
            router,
            stopped,
            reader,
        }
    }

    /// Publishes to each of those who stopped what one receiver may have, and to the reader as fast as it reads.
    ///
    /// - `begun`: the reader's publisher begins when the flood has led to this count.
    fn flood(&mut self, begun: Option<&str>) {
        const TO_READER: usize = 200;
        let (router, reader) = (&self.router, &mut self.reader);
        let mut publisher = router.connect();
        let mut flooders: Vec<_> = self.stopped.iter().map(|_| router.connect()).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..40 {
                    for (i, flooder) in flooders.iter_mut().enumerate() {
                        flooder.publish(&name(&format!("stopped-{i}")), &[7; BYTES]);
                    }
                }
            });
            if let Some(counter) = begun {
                await_at_least(router, counter, 1);
            }
            scope.spawn(|| {
                for _ in 0..TO_READER {
                    publisher.publish(&name("slow"), &[7; BYTES]);
                }
            });
            for _ in 0..TO_READER {
                reader.next_publication();
                reader.http2.return_credit();
            }
        });
        publisher.publish(&name("slow"), b"after");
        reader.expect_blob(b"after");
    }
}

#[test]
fn receivers_are_pressed_earlier_as_more_waits_for_all_so_that_only_those_that_stopped_are_cut() {
    const STOPPED: usize = 40;
    let mut crowd = Crowd::new(STOPPED, 8 << 20);
    crowd.flood(None);
    // As for one receiver alone that stops: after the grace.
    let router = &crowd.router;
    router.await_count("cut_slow_receiver", STOPPED as u64);
    assert_eq!(router.count("cut_crowding"), 0);
    assert_eq!(router.count("dropped_egress_total"), 0);
}

#[test]
fn of_too_many_receivers_that_wait_some_that_stopped_are_cut_at_once_and_who_reads_goes_on() {
    let mut crowd = Crowd::new(120, 4 << 20);
    crowd.flood(Some("cut_crowding"));
    assert_eq!(crowd.router.count("dropped_egress_total"), 0);
}
