//! What there is not enough of, for a while.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use slim_router::limits;

use crate::common::*;
use crate::{Bystanders, alone};

#[test]
fn a_router_without_descriptors_serves_its_links_does_not_spin_and_recovers() {
    /// Of a router with one shard, room for as many connections as it keeps descriptors back. Others wait for room, and take
    /// those.
    const DESCRIPTORS: u32 =
        2 * (limits::DESCRIPTORS_RESERVED + limits::DESCRIPTORS_RESERVED_PER_SHARD);
    const WATCHED: Duration = Duration::from_secs(2);
    let _alone = alone();
    let router = RouterProcess::start_with(1, Mac::On, Some(DESCRIPTORS));
    let mut bystanders = Bystanders::new(&router, Mac::On);
    // The kernel completes all of them, whether or not anybody accepts.
    let crowd: Vec<_> = (0..2 * DESCRIPTORS)
        .map(|_| TcpStream::connect(router.address).unwrap())
        .collect();
    router.line_with("accepting pauses");
    assert!(router.descriptors() >= DESCRIPTORS as usize - 1);

    let processor_time = router.processor_time();
    let began = Instant::now();
    let mut messages = 0;
    while began.elapsed() < WATCHED {
        bystanders.hear_each_other();
        messages += 1;
        thread::sleep(Duration::from_millis(10));
    }
    let used = router.processor_time() - processor_time;
    // A loop that spins would use all of it. Each of these messages wakes the shard a few times.
    assert!(used < WATCHED / 4, "{used:?} for {messages} messages");

    drop(crowd);
    let mut late = Bystanders::new(&router, Mac::On);
    late.hear_each_other();
    bystanders.hear_each_other();
}

/// All of them have sent before the router reads, so it finds three times as much as it has buffers for.
#[test]
fn messages_of_more_senders_than_there_are_receive_buffers_all_arrive() {
    const SENDERS: usize = 400;
    const PAYLOAD_BYTES: usize = 60_000;
    const _: () = assert!(
        SENDERS * PAYLOAD_BYTES
            > 2 * limits::RECEIVE_BUFFERS as usize * limits::RECEIVE_BUFFER_BYTES as usize
    );
    let _alone = alone();
    for shards in [1, 2] {
        let router = RouterProcess::start_with(shards, Mac::Off, None);
        let to = name("all");
        let mut receiver = Link::connect(router.connect(), Mac::Off);
        receiver.subscribe(&to);
        let mut senders: Vec<_> = (0..SENDERS)
            .map(|_| Link::connect(router.connect(), Mac::Off))
            .collect();
        let message = senders[0].prepared_publish(&to, 1, PAYLOAD_BYTES);
        router.signal("STOP");
        for sender in &mut senders {
            // No more than the first window, so that nothing of the router's is waited for.
            sender.http2.send_message(&message);
        }
        router.signal("CONT");
        receiver.receive(SENDERS);
        // And every link is as good as before.
        for sender in &mut senders {
            sender.http2.send_message(&message);
        }
        receiver.receive(SENDERS);
        let counters = router.stop();
        let lost = counters.iter().find(|(name, _)| {
            ["dropped_", "cut_", "ended_"]
                .iter()
                .any(|p| name.starts_with(p))
        });
        assert_eq!(lost, None);
    }
}

#[test]
fn a_router_that_stands_still_for_100_ms_again_and_again_loses_and_reorders_nothing() {
    const STANDSTILLS: usize = 10;
    const STANDSTILL: Duration = Duration::from_millis(100);
    const PAIRS: usize = 4;
    let router = RouterProcess::start(2);
    let done = AtomicBool::new(false);
    let mut pairs: Vec<_> = (0..PAIRS)
        .map(|i| {
            let to = name(&format!("receiver-{i}"));
            let mut receiver = Client::negotiate(router.connect(), dialer());
            receiver.subscribe(&to);
            (to, Client::negotiate(router.connect(), dialer()), receiver)
        })
        .collect();
    thread::scope(|scope| {
        for (to, publisher, receiver) in &mut pairs {
            let done = &done;
            scope.spawn(move || {
                let mut number = 0u32;
                while !done.load(Ordering::SeqCst) {
                    publisher.publish(to, &number.to_be_bytes());
                    number += 1;
                }
                publisher.publish(to, b"end");
            });
            scope.spawn(move || {
                let mut number = 0u32;
                loop {
                    let publication = receiver.next_publication();
                    match publication.blob() {
                        b"end" => break,
                        blob => assert_eq!(blob, number.to_be_bytes()),
                    }
                    number += 1;
                }
                assert!(number > 0);
            });
        }
        for _ in 0..STANDSTILLS {
            router.signal("STOP");
            thread::sleep(STANDSTILL);
            router.signal("CONT");
            thread::sleep(STANDSTILL / 2);
        }
        done.store(true, Ordering::SeqCst);
    });
}
