//! Receivers that read slowly or not at all, on other shards than their publishers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use slim_router::limits;

use crate::common::*;
use crate::{await_at_least, expect_numbers, nothing_lost_but, number_of, numbered};

/// What may be between a publisher and a receiver that does not read, in bytes: the receiver's window, its egress, and for
/// each publisher its receive window, an outbox and a full lane.
fn under_way_bytes_max(publishers: usize, message_bytes: usize) -> usize {
    let lane = limits::MESH_LANE_PARCELS * (limits::MESH_PARCEL_BYTES + message_bytes);
    let publisher = limits::RECEIVE_WINDOW_BYTES as usize + limits::MESH_OUTBOX_BYTES + lane;
    CLIENT_WINDOW_BYTES + limits::EGRESS_SOFT_BYTES + publishers * publisher
}

/// So many messages use up the window of a receiver that gives no credit, and the last of them leaves more waiting than
/// should: from then on it is pressed. Before, it may be for moments, until the kernel has taken what it gets.
const PRESSING_MESSAGES: usize =
    (CLIENT_WINDOW_BYTES + limits::EGRESS_SOFT_BYTES) / PRESSING_BYTES + 1;
const PRESSING_BYTES: usize = 100_000;
/// Those of them that fit into the window whole. They are read, for a kernel may not keep that much for who does not read.
const WINDOW_MESSAGES: usize = CLIENT_WINDOW_BYTES / (PRESSING_BYTES + PRESSING_BYTES / 100);
// What comes to the payload, up to 1 % of it, makes no difference to the number.
const _: () = assert!(
    (PRESSING_MESSAGES - 1) * PRESSING_BYTES / 100 * 101
        < CLIENT_WINDOW_BYTES + limits::EGRESS_SOFT_BYTES
);

/// SETTINGS_INITIAL_WINDOW_SIZE of existing clients (dataplane 1.3).
const CLIENT_WINDOW_BYTES: usize = 2_097_152;

#[test]
fn a_slow_receiver_on_another_shard_holds_its_publishers_and_loses_nothing() {
    const PUBLISHERS: usize = 2;
    const BYTES: usize = 16_000;
    let bound = under_way_bytes_max(PUBLISHERS, BYTES);
    // Twice as much as may be under way: the publishers cannot have sent all before the receiver has read half.
    let messages = 2 * bound / BYTES / PUBLISHERS;
    let router = TestRouter::start(4);
    let to = name("slow");
    let mut receiver = router.connect();
    receiver.subscribe(&to);
    // It reads little by little: the router gets credit for one message at a time once the first window is used up.
    receiver.http2.returns_credit = false;
    let mut publishers: Vec<_> = (0..PUBLISHERS).map(|_| router.connect()).collect();
    let sent = AtomicU64::new(0);
    thread::scope(|scope| {
        for (i, publisher) in publishers.iter_mut().enumerate() {
            let (to, sent) = (&to, &sent);
            scope.spawn(move || {
                for number in 0..messages {
                    publisher.publish(to, &numbered(i, number, BYTES));
                    sent.fetch_add(BYTES as u64, Ordering::SeqCst);
                }
            });
        }
        await_at_least(&router, "publishers_held", 1);
        let mut next = [0; PUBLISHERS];
        let mut received = 0;
        for _ in 0..PUBLISHERS * messages {
            let publication = receiver.next_publication();
            let (publisher, number) = number_of(publication.blob());
            assert_eq!(number, next[publisher], "of publisher {publisher}");
            next[publisher] += 1;
            let under_way = sent.load(Ordering::SeqCst) as i64 - received;
            assert!(under_way <= bound as i64, "{under_way} bytes under way");
            received += BYTES as i64;
            receiver.http2.return_credit();
        }
    });
    nothing_lost_but(&router, &[]);
}

/// They are released together, and what they have parked is more than goes into the outbox to the receiver's shard at
/// once: some are held again at once, and must be released again.
#[test]
fn many_publishers_that_wait_for_one_receiver_all_go_on_when_it_reads() {
    const PUBLISHERS: usize = 16;
    const MESSAGES: usize = 200;
    const BYTES: usize = 16_000;
    let router = TestRouter::start(2);
    let to = name("slow");
    let mut receiver = router.connect_on(0);
    receiver.subscribe(&to);
    receiver.http2.returns_credit = false;
    let mut publishers: Vec<_> = (0..PUBLISHERS).map(|_| router.connect_on(1)).collect();
    for number in 0..PRESSING_MESSAGES {
        publishers[0].publish(&to, &numbered(0, number, PRESSING_BYTES));
        if number < WINDOW_MESSAGES {
            expect_numbers(&mut receiver, number..number + 1);
        }
    }
    router.await_count("messages_delivered", PRESSING_MESSAGES as u64);
    let held = router.count("publishers_held");
    for (i, publisher) in publishers.iter_mut().enumerate().skip(1) {
        publisher.publish(&to, &numbered(i, 0, BYTES));
        await_at_least(&router, "publishers_held", held + i as u64);
    }
    thread::scope(|scope| {
        for (i, publisher) in publishers.iter_mut().enumerate() {
            let to = &to;
            scope.spawn(move || {
                let first = if i == 0 { PRESSING_MESSAGES } else { 1 };
                for number in first..MESSAGES {
                    publisher.publish(to, &numbered(i, number, BYTES));
                }
            });
        }
        // Everybody's first window is used up. The receiver has next to nothing of that; the rest is parked.
        let windows = (PUBLISHERS - 1) * (limits::RECEIVE_WINDOW_BYTES as usize / (BYTES + 384));
        await_at_least(&router, "messages_received", windows as u64);
        let mut next = [0; PUBLISHERS];
        next[0] = WINDOW_MESSAGES;
        receiver.http2.return_credit();
        for _ in WINDOW_MESSAGES..PUBLISHERS * MESSAGES {
            let publication = receiver.next_publication();
            let (publisher, number) = number_of(publication.blob());
            assert_eq!(number, next[publisher], "of publisher {publisher}");
            next[publisher] += 1;
            receiver.http2.return_credit();
        }
    });
    nothing_lost_but(&router, &[]);
}

/// All of them send as fast as they can, and the receiver's shard has to keep up with what seven others hand it.
#[test]
fn a_slow_receiver_loses_nothing_of_what_publishers_on_seven_other_shards_send() {
    const SHARDS: u16 = 8;
    const MESSAGES: usize = 600;
    const BYTES: usize = 64_000;
    let router = TestRouter::start(SHARDS);
    let to = name("slow");
    let mut receiver = router.connect();
    receiver.subscribe(&to);
    receiver.http2.returns_credit = false;
    let mut publishers: Vec<_> = (1..SHARDS).map(|_| router.connect()).collect();
    thread::scope(|scope| {
        for (i, publisher) in publishers.iter_mut().enumerate() {
            let to = &to;
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    publisher.publish(to, &numbered(i, number, BYTES));
                }
            });
        }
        for _ in 0..MESSAGES * usize::from(SHARDS - 1) {
            receiver.next_publication();
            receiver.http2.return_credit();
        }
    });
    nothing_lost_but(&router, &[]);
}

#[test]
fn a_stopped_receiver_on_another_shard_is_cut_and_costs_the_others_nothing() {
    const MESSAGES: usize = 3 * PRESSING_MESSAGES;
    let router = TestRouter::start(4);
    let group = name("group");
    let mut stopped = router.connect();
    stopped.subscribe(&group);
    stopped.http2.returns_credit = false;
    let mut others: Vec<_> = (0..3).map(|_| router.connect()).collect();
    // One more on the shard of the stopped one.
    others.push(router.connect());
    for other in &mut others {
        other.subscribe(&group);
    }
    let mut publisher = router.connect_on(3);
    thread::scope(|scope| {
        for other in &mut others {
            scope.spawn(|| expect_numbers(other, 0..MESSAGES));
        }
        for number in 0..PRESSING_MESSAGES {
            publisher.publish_to_all(&group, &numbered(0, number, PRESSING_BYTES));
            if number < WINDOW_MESSAGES {
                expect_numbers(&mut stopped, number..number + 1);
            }
        }
        router.await_count("messages_delivered", 5 * PRESSING_MESSAGES as u64);
        assert!(router.count("publishers_held") > 0);
        // Its data waits, its answers do not.
        publisher.subscribe(&name("other"));
        assert_eq!(router.count("cut_slow_receiver"), 0, "the ack came late");
        for number in PRESSING_MESSAGES..MESSAGES {
            publisher.publish_to_all(&group, &numbered(0, number, PRESSING_BYTES));
        }
    });
    assert_eq!(router.count("cut_slow_receiver"), 1);
    let mut received = WINDOW_MESSAGES;
    loop {
        match stopped.next() {
            Inbound::Publication(publication) => {
                assert_eq!(number_of(publication.blob()).1, received);
                received += 1;
            }
            Inbound::Other(Event::Closed) => break,
            other => panic!("{other:?}"),
        }
    }
    let waited = router.count("dropped_slow_receiver");
    assert!(waited > 0 && received + waited as usize <= MESSAGES);
    // On its way between the shards when the receiver was cut.
    let left = router.count("dropped_receiver_left");
    nothing_lost_but(
        &router,
        &[
            ("cut_slow_receiver", 1),
            ("dropped_slow_receiver", waited),
            ("dropped_receiver_left", left),
        ],
    );
}

#[test]
fn an_ack_passes_the_data_that_waits_for_the_same_client() {
    let router = TestRouter::start(2);
    let to = name("slow");
    let mut receiver = router.connect();
    receiver.subscribe(&to);
    receiver.http2.returns_credit = false;
    let mut publisher = router.connect();
    for number in 0..PRESSING_MESSAGES {
        publisher.publish(&to, &numbered(0, number, PRESSING_BYTES));
        if number < WINDOW_MESSAGES {
            expect_numbers(&mut receiver, number..number + 1);
        }
    }
    router.await_count("messages_delivered", PRESSING_MESSAGES as u64);
    receiver.send(&subscribe(&name("other"), 77));
    router.await_count("subscriptions_acknowledged", 2);
    receiver.http2.return_credit();
    let mut received = WINDOW_MESSAGES;
    loop {
        match receiver.next() {
            Inbound::Publication(publication) => {
                assert_eq!(number_of(publication.blob()).1, received);
                received += 1;
            }
            Inbound::Ack(ack) => break assert_eq!((ack.subscription_id, ack.success), (77, true)),
            other => panic!("{other:?}"),
        }
        receiver.http2.return_credit();
    }
    // One was half sent when the window was used up.
    assert!(received <= WINDOW_MESSAGES + 1, "{received}");
    for number in received..PRESSING_MESSAGES {
        let publication = receiver.next_publication();
        assert_eq!(number_of(publication.blob()).1, number);
        receiver.http2.return_credit();
    }
    nothing_lost_but(&router, &[]);
}

/// What one publisher may send before it is held, small messages to a large group, is work for many seconds here. That
/// is the router's time, not the receivers'.
#[test]
fn nobody_is_cut_for_a_turn_that_takes_the_router_longer_than_the_grace() {
    const PUBLISHERS: usize = 3;
    const RECEIVERS: usize = 120;
    // Nearly a window of each publisher.
    const MESSAGES: usize = limits::RECEIVE_WINDOW_BYTES as usize / 450;
    let router = TestRouter::start(1);
    let group = name("group");
    let mut receivers: Vec<_> = (0..RECEIVERS).map(|_| router.connect()).collect();
    for receiver in &mut receivers {
        receiver.subscribe(&group);
    }
    let mut publishers: Vec<_> = (0..PUBLISHERS).map(|_| router.connect()).collect();
    let mut message = publish(&name("sender"), &group, &[0; 100]);
    header_mut(&mut message).fanout = 256;
    thread::scope(|scope| {
        for receiver in &mut receivers {
            scope.spawn(|| {
                for i in 0..PUBLISHERS * MESSAGES {
                    match receiver.http2.next_event() {
                        Event::Message(_) => {}
                        other => panic!("message {i}: {other:?}"),
                    }
                }
            });
        }
        for publisher in &mut publishers {
            let message = sign(publisher.mac(), &message);
            publisher.http2.send_messages(&vec![message; MESSAGES]);
        }
    });
    nothing_lost_but(&router, &[]);
}
