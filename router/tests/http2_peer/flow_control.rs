//! Windows, both ways (RFC 9113 §5.2, §6.9).

use slim_proto::name::Name;

use crate::client::{Client, usual};
use crate::peer;
use crate::raw::{self, Raw};
use crate::world::{Bystanders, World};

fn name() -> Name {
    Name::new("org", "ns", "windows")
}

#[tokio::test]
async fn a_client_with_a_window_of_one_byte_gets_its_messages_whole() {
    let world = World::new();
    // The crate opens the window again byte by byte, as each one is read.
    let mut subscriber = Client::connect_with(&world, usual().initial_window_size(1)).await;
    subscriber.subscribe(&name(), 1).await;
    let mut publisher = Client::connect(&world).await;
    for round in 0..10u8 {
        let payload = vec![round; 100];
        publisher.publish(&name(), &payload).await;
        assert_eq!(subscriber.payload().await, payload);
    }
}

#[tokio::test]
async fn a_message_larger_than_what_is_left_of_a_window_uses_what_is_left() {
    let world = World::new();
    let mut subscriber = Client::connect(&world).await;
    subscriber.subscribe(&name(), 1).await;
    let mut publisher = Client::connect(&world).await;
    // Clients give credit back when half a window is due: 900,000 bytes are not yet half of 2,097,152, and 1,500,000 are
    // more than what is left then. With nothing else to send, nothing but this message itself can set it in motion.
    for bytes in [900_000, 1_500_000, 4_000_000, 900_000, 1_500_000] {
        publisher.publish(&name(), &vec![5; bytes]).await;
        assert_eq!(subscriber.payload().await.len(), bytes);
    }
}

/// Bytes of which no piece looks like another, so that a piece lost, repeated or moved shows.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes.div_ceil(4) as u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes())
        .take(bytes)
        .collect()
}

#[tokio::test]
async fn a_message_gets_whole_through_windows_of_any_size() {
    let world = World::new();
    let mut publisher = Client::connect(&world).await;
    // Around the size of a frame, around that from which messages are shared, and far from both.
    for (window, bytes) in [
        (1, 5_000),
        (100, 50_000),
        (16_383, 300_000),
        (16_384, 300_000),
        (16_385, 300_000),
        (32_767, 1_000_000),
        (32_768, 1_000_000),
        (40_000, 1_000_000),
        (65_535, 4_000_000),
        (1 << 20, 4_000_000),
        ((1 << 31) - 1, 4_000_000),
    ] {
        let name = Name::new("org", "ns", &format!("window-{window}"));
        let mut subscriber =
            Client::connect_with(&world, usual().initial_window_size(window)).await;
        subscriber.subscribe(&name, 1).await;
        let payload = pattern(bytes);
        publisher.publish(&name, &payload).await;
        publisher.publish(&name, b"behind it").await;
        assert!(subscriber.payload().await == payload, "window {window}");
        assert_eq!(subscriber.payload().await, b"behind it");
    }
}

#[tokio::test]
async fn one_message_gets_whole_to_receivers_with_different_windows() {
    let world = World::new();
    let mut publisher = Client::connect(&world).await;
    let mut subscribers = Vec::new();
    for window in [300, 16_384, 50_000, 2_097_152] {
        let mut subscriber =
            Client::connect_with(&world, usual().initial_window_size(window)).await;
        subscriber.subscribe(&name(), 1).await;
        subscribers.push(subscriber);
    }
    for bytes in [10, 1_000, 20_000, 40_000, 500_000] {
        let payload = pattern(bytes);
        let message = peer::publish_to_all(&publisher.mac, &name(), &payload);
        publisher.send(message).await;
        for subscriber in &mut subscribers {
            assert!(subscriber.payload().await == payload, "{bytes} bytes");
        }
    }
}

#[tokio::test]
async fn a_window_opened_byte_by_byte_lets_exactly_these_bytes_through() {
    let world = World::new();
    let (mut subscriber, mac) = Raw::link(&world).await;
    subscriber.subscribe(&mac, &name(), 1).await;
    // What was used of the window so far makes it negative; this brings it to exactly nothing.
    let used = u32::try_from(subscriber.received_bytes()).unwrap();
    subscriber
        .write(&raw::settings(&[(raw::INITIAL_WINDOW_SIZE, 0)]))
        .await;
    subscriber.write(&raw::window_update(raw::LINK, used)).await;
    let mut publisher = Client::connect(&world).await;
    publisher.publish(&name(), &[7; 100]).await;
    publisher.settled().await;
    assert!(subscriber.data_after_pings().await.is_empty());

    let mut bytes = Vec::new();
    while bytes.len() < 5 || peer::deframe(&mut bytes.clone()).is_none() {
        subscriber.write(&raw::window_update(raw::LINK, 1)).await;
        let frame = subscriber.expect(raw::DATA, 0).await;
        assert_eq!(frame.payload.len(), 1);
        bytes.extend_from_slice(&frame.payload);
    }
    assert_eq!(peer::payload(&peer::deframe(&mut bytes).unwrap()), [7; 100]);
    assert!(bytes.is_empty());
    assert!(subscriber.data_after_pings().await.is_empty());
}

#[tokio::test]
async fn a_window_of_the_connection_holds_back_what_the_stream_would_take() {
    let world = World::new();
    // The stream's window is huge; the connection's is the default that no setting can change.
    let (mut subscriber, mac) =
        Raw::link_with(&world, &[(raw::INITIAL_WINDOW_SIZE, 1 << 30)]).await;
    subscriber.subscribe(&mac, &name(), 1).await;
    let mut publisher = Client::connect(&world).await;
    publisher.publish(&name(), &[9; 100_000]).await;
    publisher.settled().await;
    let mut bytes = subscriber.data_after_pings().await;
    while subscriber.received_bytes() < 65_535 {
        bytes.extend(subscriber.expect(raw::DATA, 0).await.payload);
    }
    assert!(subscriber.data_after_pings().await.is_empty());
    assert_eq!(subscriber.received_bytes(), 65_535);

    subscriber.write(&raw::window_update(0, 100_000)).await;
    let message = loop {
        if let Some(message) = peer::deframe(&mut bytes) {
            break message;
        }
        bytes.extend(subscriber.expect(raw::DATA, 0).await.payload);
    };
    assert_eq!(peer::payload(&message), vec![9; 100_000]);
}

#[tokio::test]
async fn a_window_below_zero_is_honoured_until_it_is_above_again() {
    let world = World::new();
    let (mut subscriber, mac) = Raw::link_with(&world, &[(raw::INITIAL_WINDOW_SIZE, 1_500)]).await;
    subscriber.subscribe(&mac, &name(), 1).await;
    let mut publisher = Client::connect(&world).await;
    for round in 0..10u8 {
        publisher.publish(&name(), &[round; 200]).await;
    }
    publisher.settled().await;
    let mut bytes = subscriber.data_after_pings().await;
    assert_eq!(subscriber.received_bytes(), 1_500, "the window is used up");

    // 1,500 less: the window is at -1,500.
    subscriber
        .write(&raw::settings(&[(raw::INITIAL_WINDOW_SIZE, 0)]))
        .await;
    assert!(subscriber.data_after_pings().await.is_empty());
    subscriber
        .write(&raw::window_update(raw::LINK, 1_499))
        .await;
    assert!(
        subscriber.data_after_pings().await.is_empty(),
        "it is at -1"
    );
    subscriber.write(&raw::window_update(raw::LINK, 1)).await;
    assert!(subscriber.data_after_pings().await.is_empty(), "it is at 0");
    subscriber.write(&raw::window_update(raw::LINK, 1)).await;
    let one = subscriber.data_after_pings().await;
    assert_eq!(one.len(), 1);
    bytes.extend(one);

    // A setting opens it as well as an update does.
    subscriber
        .write(&raw::settings(&[(raw::INITIAL_WINDOW_SIZE, 60_000)]))
        .await;
    for round in 0..10u8 {
        let message = loop {
            if let Some(message) = peer::deframe(&mut bytes) {
                break message;
            }
            bytes.extend(subscriber.expect(raw::DATA, 0).await.payload);
        };
        assert_eq!(peer::payload(&message), [round; 200]);
    }
    assert!(bytes.is_empty());
}

#[tokio::test]
async fn a_publisher_of_twenty_megabytes_is_never_stalled_for_good() {
    let world = World::new();
    let mut subscriber = Client::connect(&world).await;
    subscriber.subscribe(&name(), 1).await;
    let mut publisher = Client::connect(&world).await;
    const MESSAGES: u32 = 200;
    let reading = tokio::spawn(async move {
        for number in 0..MESSAGES {
            let payload = subscriber.payload().await;
            assert_eq!(payload.len(), 100_000);
            assert_eq!(payload[..4], number.to_be_bytes(), "in order");
        }
    });
    let mut payload = vec![0; 100_000];
    for number in 0..MESSAGES {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        publisher.publish(&name(), &payload).await;
    }
    reading.await.unwrap();
    let counters = world.counters();
    assert_eq!(counters.messages_delivered, u64::from(MESSAGES));
    assert_eq!(counters.cut_slow_receiver, 0);
}

#[tokio::test]
async fn two_clients_that_send_each_other_twenty_megabytes_never_stall() {
    let world = World::new();
    let (one, other) = (
        Name::new("org", "ns", "one"),
        Name::new("org", "ns", "other"),
    );
    let mut clients = [Client::connect(&world).await, Client::connect(&world).await];
    for (client, name) in clients.iter_mut().zip([&one, &other]) {
        client.subscribe(name, 1).await;
    }
    let [first, second] = &mut clients;
    tokio::join!(exchange(first, other), exchange(second, one));
}

/// Sends 20 MB to `to` while receiving as much.
async fn exchange(client: &mut Client, to: Name) {
    let Client {
        mac,
        speaker,
        listener,
        ..
    } = client;
    let payload = pattern(100_000);
    let message = peer::publish(mac, &to, &payload);
    tokio::join!(
        async {
            for _ in 0..200 {
                speaker.send(message.clone()).await;
            }
        },
        async {
            for _ in 0..200 {
                assert!(listener.payload().await == payload);
            }
        }
    );
}

#[tokio::test]
async fn a_publisher_held_by_a_slow_receiver_goes_on_and_nothing_is_lost() {
    let world = World::new();
    let mut subscriber = Client::connect(&world).await;
    subscriber.subscribe(&name(), 1).await;
    let mut publisher = Client::connect(&world).await;
    let payload = pattern(100_000);
    let publishing = tokio::spawn({
        let payload = payload.clone();
        async move {
            for _ in 0..100 {
                publisher.publish(&name(), &payload).await;
            }
            publisher
        }
    });
    for _ in 0..5 {
        // It reads when its publisher is held, and only until it is held again.
        let held = world.counters().publishers_held;
        for _ in 0..20 {
            assert!(subscriber.payload().await == payload);
        }
        if !publishing.is_finished() {
            world
                .until("held again, or done", |counters| {
                    counters.publishers_held > held || publishing.is_finished()
                })
                .await;
        }
    }
    publishing.await.unwrap();
    let counters = world.counters();
    assert_eq!(counters.cut_slow_receiver, 0);
    assert!(counters.publishers_held > 0);
}

#[tokio::test]
async fn a_publisher_held_by_a_receiver_that_never_reads_goes_on_when_that_is_cut() {
    let world = World::new();
    let mut bystanders = Bystanders::new(&world).await;
    let (mut stuck, mac) = Raw::link(&world).await;
    stuck.subscribe(&mac, &name(), 1).await;
    let mut publisher = Client::connect(&world).await;
    for _ in 0..50 {
        publisher.publish(&name(), &pattern(100_000)).await;
    }
    publisher.settled().await;
    let counters = world
        .until("all are accounted for", |counters| {
            counters.messages_received == 50
                && counters.messages_delivered + counters.dropped_no_route == 50
        })
        .await;
    assert_eq!(counters.cut_slow_receiver, 1);
    assert!(counters.dropped_slow_receiver > 0);
    bystanders.hear_each_other().await;
}

#[tokio::test]
async fn a_publisher_that_nobody_hears_gets_its_credit_back_too() {
    let world = World::new();
    let mut publisher = Client::connect(&world).await;
    for _ in 0..200 {
        publisher.publish(&name(), &[0; 100_000]).await;
    }
    publisher.settled().await;
    world
        .until("all are dropped", |counters| {
            counters.dropped_no_route == 200
        })
        .await;
}

#[tokio::test]
async fn a_window_used_in_frames_of_any_size_comes_back_whole() {
    let world = World::new();
    let (mut publisher, mac) = Raw::link(&world).await;
    let message = peer::publish(&mac, &name(), &[3; 5_000]);
    // 12 MB, in frames of ever other sizes, without a look at what the router allows: it allows as much as it has read.
    let mut left = 12_000_000 / message.len();
    let mut sizes = (40..3_000).cycle();
    let total = left as u64;
    while left > 0 {
        let messages = message.repeat(left.min(10));
        left -= left.min(10);
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(sizes.next().unwrap().min(rest.len()));
            publisher.write(&raw::data(now)).await;
            rest = later;
        }
        publisher.ping().await;
    }
    world
        .until("all are dropped", |counters| {
            counters.dropped_no_route == total
        })
        .await;
}

#[tokio::test]
async fn a_publisher_that_is_held_and_sends_past_its_window_is_ended() {
    let world = World::new();
    let mut bystanders = Bystanders::new(&world).await;
    // It takes nothing, so its publisher is held above a megabyte and then has one window more.
    let (mut stuck, mac) = Raw::link(&world).await;
    stuck.subscribe(&mac, &name(), 1).await;
    let (publisher, mac) = Raw::link(&world).await;
    let message = peer::publish(&mac, &name(), &[1; 60_000]);
    let ending = publisher.flood(raw::data(&message).repeat(100)).await;
    assert_eq!(ending.goaway(), Some(raw::FLOW_CONTROL_ERROR));
    let counters = world.counters();
    assert_eq!(counters.ended_http2, 1);
    assert!(counters.publishers_held >= 1);
    bystanders.hear_each_other().await;
}

/// The smallest messages that real clients can send, one in each frame, up to the windows of real clients: the client's
/// own library would kill the connection over some 20,000 of them, if its window allowed that many.
#[tokio::test]
async fn twenty_thousand_small_messages_one_by_one_never_cost_a_slow_client_its_connection() {
    twenty_thousand_small_messages(1).await;
}

#[tokio::test]
async fn twenty_thousand_small_messages_at_once_never_cost_a_slow_client_its_connection() {
    twenty_thousand_small_messages(500).await;
}

#[tokio::test]
async fn twenty_thousand_acknowledgements_asked_for_at_once_never_cost_a_client_its_connection() {
    const SUBSCRIPTIONS: u64 = 20_000;
    let world = World::new();
    let mut client = Client::connect(&world).await;
    let ids = 1..=SUBSCRIPTIONS;
    let subscribes: Vec<u8> = ids
        .clone()
        .flat_map(|id| peer::subscribe(&client.mac, &name(), id))
        .collect();
    client.send(subscribes).await;
    world
        .until("all are acknowledged", |counters| {
            counters.subscriptions_acknowledged == SUBSCRIPTIONS
        })
        .await;
    // Only now does it read.
    client.http2.ping().await;
    for id in ids {
        let ack = client.message().await.expect("no GOAWAY");
        assert_eq!(peer::acknowledged(&ack), id);
    }
}

/// - `burst`: messages that are published together, before the router has dealt with the last ones.
async fn twenty_thousand_small_messages(burst: u32) {
    const MESSAGES: u32 = 20_000;
    let world = World::new();
    let mut subscriber = Client::connect(&world).await;
    subscriber.subscribe(&name(), 1).await;
    let (mut publisher, mac) = Raw::link(&world).await;
    for first in (0..MESSAGES).step_by(burst as usize) {
        let messages: Vec<u8> = (first..first + burst)
            .flat_map(|number| peer::smallest_publish(&mac, &name(), 2 + number))
            .collect();
        publisher.write(&raw::data(&messages)).await;
        publisher.ping().await;
    }
    // Only now does it read, so its library has all that its window allows.
    subscriber.http2.ping().await;
    assert!(!subscriber.http2.driver.is_finished());
    assert_eq!(world.counters().messages_delivered, u64::from(MESSAGES));
    for number in 0..MESSAGES {
        let message = subscriber.message().await.expect("no GOAWAY");
        let header = peer::published(&message).header.unwrap();
        assert_eq!(header.fanout, 2 + number, "in order");
    }
}
