use std::time::{Duration, Instant};

use crate::common::*;
use crate::{DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, expect_delivery};

#[test]
fn a_subscription_above_the_limit_of_the_connection_gets_an_error_and_another_connection_does_not()
{
    let router = TestRouter::start_with(2, |config| {
        config.limits.subscriptions_per_connection = 2;
    });
    let mut client = router.connect();
    let id = client.subscribe(&name("one"));
    client.subscribe(&name("two"));
    client.send(&subscribe(&name("three"), 77));
    client.expect_refusal(77, "a connection may have 2 subscriptions");
    router.await_count("refused_subscriptions", 1);
    // A repeated one is none more, and one that is given back makes room.
    client.send(&subscribe(&name("two"), 2));
    client.expect_ack(2);
    client.unsubscribe(&name("one"), id);
    client.subscribe(&name("three"));
    router.connect().subscribe(&name("one"));
}

#[test]
fn a_subscription_to_one_name_too_many_gets_an_error_and_one_to_a_name_that_exists_does_not() {
    let router = TestRouter::start_with(1, |config| config.limits.names = 3);
    let mut client = router.connect();
    // A name with an id and its prefix are two.
    let id = client.subscribe(&id_name("one", 1));
    client.subscribe(&name("two"));
    let mut other = router.connect();
    other.send(&subscribe(&name("three"), 77));
    other.expect_refusal(77, "the router may have 3 names, and has its share of them");
    other.send(&subscribe(&id_name("one", 2), 78));
    other.expect_refusal(78, "the router may have 3 names, and has its share of them");
    router.await_count("refused_names", 2);
    other.subscribe(&id_name("one", 1));
    other.subscribe(&name("one"));
    // What was refused is not known, and not routed to.
    other.send(&unsubscribe(&name("three"), 77));
    other.expect_refusal(77, "subscription not found");
    // The name stays as long as anybody has it, and then makes room: by unsubscribing, and by leaving.
    client.unsubscribe(&id_name("one", 1), id);
    other.send(&subscribe(&name("three"), 79));
    other.expect_refusal(79, "the router may have 3 names, and has its share of them");
    drop(other);
    router.await_fall("connections_open", 1);
    let mut third = router.connect();
    third.subscribe(&id_name("three", 1));
    expect_delivery(&mut client, &mut third, &id_name("three", 1), b"routed");
}

#[test]
fn a_message_above_the_limit_ends_the_link_with_a_status_and_one_just_below_passes() {
    const LIMIT: usize = 20_000;
    let router = TestRouter::start_with(2, |config| config.limits.message_bytes = LIMIT);
    let to = name("receiver");
    let mut receiver = router.connect();
    receiver.subscribe(&to);
    let mut publisher = router.connect();
    let overhead = {
        let message = publish(&name("sender"), &to, &[7; 17_000]);
        sign(publisher.mac(), &message).len() - 17_000
    };
    publisher.publish(&to, &vec![7; LIMIT - overhead]);
    assert_eq!(receiver.next_publication().blob().len(), LIMIT - overhead);
    publisher.publish(&to, &vec![7; LIMIT - overhead + 1]);
    let text = publisher.expect_status(RESOURCE_EXHAUSTED);
    assert!(text.contains("limit of 20000 bytes"), "{text}");
    router.await_count("ended_framing", 1);
}

#[test]
fn a_client_that_does_not_negotiate_in_time_is_told_so() {
    let router = TestRouter::start_with(1, |config| {
        for listener in &mut config.listeners {
            listener.negotiation_timeout = Duration::from_millis(100);
        }
    });
    let mut silent = router.connect_raw();
    let before = Instant::now();
    silent.open();
    let Event::Headers { fields, .. } = silent.next_event() else {
        panic!("no trailers");
    };
    let status = ("grpc-status".to_owned(), DEADLINE_EXCEEDED.to_string());
    assert!(fields.contains(&status), "{fields:?}");
    assert!(before.elapsed() >= Duration::from_millis(100));
    router.await_count("ended_timeout", 1);
}
