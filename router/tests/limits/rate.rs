use std::thread;
use std::time::Instant;

use crate::common::*;

/// Sends `messages` as fast as it may, and measures until the last has arrived. All must, in order.
fn seconds_for(router: &TestRouter, messages: usize, bytes: usize) -> f64 {
    let to = name("receiver");
    let mut receiver = router.connect();
    receiver.subscribe(&to);
    let mut publisher = router.connect();
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..messages {
                let mut blob = vec![7; bytes];
                blob[..8].copy_from_slice(&(number as u64).to_be_bytes());
                publisher.publish(&to, &blob);
            }
        });
        for number in 0..messages {
            let publication = receiver.next_publication();
            assert_eq!(publication.blob()[..8], (number as u64).to_be_bytes());
        }
    });
    for (counter, value) in router.counters().entries() {
        let of_loss = ["dropped_", "cut_", "ended_"];
        if of_loss.iter().any(|prefix| counter.starts_with(prefix)) {
            assert_eq!(value, 0, "{counter}");
        }
    }
    started.elapsed().as_secs_f64()
}

#[test]
fn a_publisher_above_its_messages_a_second_is_slowed_down_to_them_and_loses_nothing() {
    for shards in [1, 2] {
        let router = TestRouter::start_with(shards, |config| {
            config.limits.ingress_messages_per_second = Some(500);
        });
        // The first 500 are a second's worth and pass at once.
        let seconds = seconds_for(&router, 1_500, 100);
        assert!((1.9..10.0).contains(&seconds), "{seconds}");
        assert!(router.count("publishers_throttled") > 0);
    }
}

#[test]
fn a_publisher_above_its_bytes_a_second_is_slowed_down_to_them_and_loses_nothing() {
    let router = TestRouter::start_with(1, |config| {
        config.limits.ingress_bytes_per_second = Some(4_000_000);
    });
    // Far more than the receive window: what waits at the client waits there.
    let seconds = seconds_for(&router, 120, 100_000);
    assert!((1.9..10.0).contains(&seconds), "{seconds}");
    assert!(router.count("publishers_throttled") > 0);
}

#[test]
fn a_throttled_publisher_s_subscriptions_are_answered_and_others_are_not_slowed_down() {
    let router = TestRouter::start_with(1, |config| {
        config.limits.ingress_messages_per_second = Some(10);
    });
    let to = name("receiver");
    let mut receiver = router.connect();
    receiver.subscribe(&to);
    let mut throttled = router.connect();
    for _ in 0..60 {
        throttled.publish(&to, b"many");
    }
    let started = Instant::now();
    throttled.subscribe(&name("answered"));
    let mut other = router.connect();
    other.publish(&name("answered"), b"at once");
    throttled.expect_blob(b"at once");
    assert!(started.elapsed().as_secs_f64() < 2.0);
    // It leaves, and what it has sent still arrives.
    throttled.http2.shut_down_writing();
    for _ in 0..60 {
        receiver.expect_blob(b"many");
    }
    assert!(started.elapsed().as_secs_f64() > 3.0);
}
