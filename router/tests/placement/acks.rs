//! An ack means that every publisher sees the change.

use slim_proto::name::Name;

use crate::common::*;
use crate::nothing_lost_but;

const VISIBLE_ROUNDS: usize = 10_000;

#[derive(Clone, Copy)]
enum To {
    /// The exact name, with id.
    Id,
    /// One of all ids.
    Any,
    /// All ids.
    All,
}

#[test]
fn an_acked_subscription_to_an_id_is_seen_by_every_publisher_at_once() {
    acked_means_visible(To::Id);
}

#[test]
fn an_acked_subscription_is_seen_by_every_anycast_publisher_at_once() {
    acked_means_visible(To::Any);
}

#[test]
fn an_acked_subscription_is_seen_by_every_fan_out_publisher_at_once() {
    acked_means_visible(To::All);
}

/// More at a time than `limits::SUBSCRIPTIONS_UNSETTLED_MAX`, and more bytes than a window: the router makes it wait, and
/// lets it go on.
#[test]
fn who_joins_and_leaves_without_waiting_gets_every_ack() {
    const CHANGES: u64 = 20_000;
    const AT_A_TIME: usize = 2_500;
    for shards in [1, 2, 8] {
        let router = TestRouter::start(shards);
        let mut publishers: Vec<_> = (0..shards).map(|_| router.connect()).collect();
        // Each shard has a copy, which every change must reach.
        for publisher in &mut publishers {
            publisher.publish(&name("app"), b"to nobody");
        }
        router.await_count("dropped_no_route", u64::from(shards));
        let mut client = router.connect();
        let ids: Vec<u64> = (0..CHANGES).collect();
        for ids in ids.chunks(AT_A_TIME) {
            let messages: Vec<_> = ids
                .iter()
                .map(|id| {
                    let subscription_id = id / 2 + 1;
                    let name = id_name("app", 1);
                    let message = match id % 2 {
                        0 => subscribe(&name, subscription_id),
                        _ => unsubscribe(&name, subscription_id),
                    };
                    sign(client.mac(), &message)
                })
                .collect();
            client.http2.send_messages(&messages);
        }
        for _ in 0..CHANGES {
            assert!(client.next_ack().success);
        }
        nothing_lost_but(&router, &[("dropped_no_route", u64::from(shards))]);
    }
}

/// In each round a publisher on another shard, which knows that nobody has the name, publishes the instant the ack is there.
/// Even rounds use a new name each, odd ones a few names again and again.
fn acked_means_visible(to: To) {
    for shards in [2, 4, 8] {
        let rounds = VISIBLE_ROUNDS / 3 + 1;
        let router = TestRouter::start(shards);
        let mut subscriber = router.connect();
        let mut publishers: Vec<_> = (1..shards).map(|_| router.connect()).collect();
        let count = publishers.len();
        let names = |round: usize| {
            let name_number = match round % 2 {
                0 => 1_000 + round,
                _ => round / 2 % 16,
            };
            let (service, id) = (format!("app-{name_number}"), name_number as u128 + 1);
            let with_id = round.is_multiple_of(3);
            match to {
                To::Id => (id_name("app", id), id_name("app", id)),
                _ if with_id => (id_name(&service, id), name(&service)),
                _ => (name(&service), name(&service)),
            }
        };
        for round in 0..rounds {
            let publisher = &mut publishers[round % count];
            let publish = |publisher: &mut Client, name: &Name, blob: &[u8]| match to {
                To::Id | To::Any => publisher.publish(name, blob),
                To::All => publisher.publish_to_all(name, blob),
            };
            // Nobody has the name of this publisher's next but one round. It knows that when this round's message has
            // arrived, for the link keeps their order.
            publish(publisher, &names(round + 2 * count).1, b"to nobody");
            let (subscribed, published) = names(round);
            let id = subscriber.subscribe(&subscribed);
            let blob = format!("round {round}");
            publish(publisher, &published, blob.as_bytes());
            subscriber.expect_blob(blob.as_bytes());
            subscriber.unsubscribe(&subscribed, id);
        }
        assert_eq!(router.count("messages_delivered"), rounds as u64);
        nothing_lost_but(&router, &[("dropped_no_route", rounds as u64)]);
    }
}
