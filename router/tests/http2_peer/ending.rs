//! How links and the router end (dataplane 1.7).

use std::time::Duration;

use slim_proto::name::Name;
use tokio::net::{TcpStream, UnixStream};

use crate::client::{Client, End, Http2, usual};
use crate::peer;
use crate::process::Process;
use crate::raw::{self, Raw};
use crate::world::{Bystanders, DEADLINE, World, within};

fn name() -> Name {
    Name::new("org", "ns", "ending")
}

#[tokio::test]
async fn a_client_that_half_closes_gets_trailers_with_status_0_and_its_subscriptions_are_gone() {
    let world = World::new();
    let mut subscriber = Client::connect(&world).await;
    subscriber.subscribe(&name(), 1).await;
    subscriber.speaker.half_close();
    let trailers = subscriber.trailers().await;
    assert_eq!(trailers["grpc-status"], "0");
    nobody_hears(&world).await;
}

#[tokio::test]
async fn what_was_sent_before_half_closing_is_delivered() {
    let world = World::new();
    let mut subscriber = Client::connect(&world).await;
    subscriber.subscribe(&name(), 1).await;
    let (mut publisher, mac) = Raw::link(&world).await;
    let message = peer::publish(&mac, &name(), b"last words");
    publisher
        .write(&raw::frame(raw::DATA, raw::END_STREAM, raw::LINK, &message))
        .await;
    assert_eq!(subscriber.payload().await, b"last words");
    let trailers = publisher
        .expect(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM)
        .await;
    assert!(trailers.says("grpc-status", "0"));
    let ending = publisher.ending().await;
    assert_eq!(ending.count(raw::RST_STREAM, 0), 0, "both halves had ended");
}

#[tokio::test]
async fn a_client_that_resets_its_stream_is_gone_at_once() {
    let world = World::new();
    let mut subscriber = Client::connect(&world).await;
    subscriber.subscribe(&name(), 1).await;
    subscriber.speaker.reset();
    let Http2 { driver, .. } = subscriber.http2;
    // The router has nothing more to say on this connection.
    within("the end of the connection", driver)
        .await
        .unwrap()
        .unwrap();
    nobody_hears(&world).await;
}

#[tokio::test]
async fn a_client_that_half_closes_stream_and_socket_at_once_still_gets_its_trailers() {
    let world = World::new();
    let (mut raw, _mac) = Raw::link(&world).await;
    raw.write(&raw::frame(raw::DATA, raw::END_STREAM, raw::LINK, &[]))
        .await;
    raw.finish().await;
    let trailers = raw
        .expect(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM)
        .await;
    assert!(trailers.says("grpc-status", "0"));
}

#[tokio::test]
async fn a_channel_that_its_client_opens_and_ends_in_one_frame_gets_headers_and_trailers() {
    let world = World::new();
    let mut raw = Raw::connect(&world).await;
    raw.greet(&[]).await;
    raw.write(&raw::headers(
        raw::LINK,
        raw::END_STREAM,
        &raw::open_channel_block(),
    ))
    .await;
    let head = raw.expect(raw::HEADERS, raw::END_HEADERS).await;
    assert_eq!(head.payload.first(), Some(&0x88), ":status 200");
    let trailers = raw
        .expect(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM)
        .await;
    assert!(trailers.says("grpc-status", "0"));
}

#[tokio::test]
async fn a_client_that_ends_with_trailers_gets_trailers() {
    let world = World::new();
    let (mut raw, _mac) = Raw::link(&world).await;
    raw.write(&raw::headers(raw::LINK, raw::END_STREAM, b"\x00\x01a\x01b"))
        .await;
    let trailers = raw
        .expect(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM)
        .await;
    assert!(trailers.says("grpc-status", "0"));
}

/// A publish to `name` finds no receiver.
async fn nobody_hears(world: &World) {
    let mut publisher = Client::connect(world).await;
    publisher.publish(&name(), b"anyone?").await;
    publisher.settled().await;
    let counters = world.counters();
    assert_eq!(counters.dropped_no_route, 1);
    assert_eq!(counters.messages_delivered, 0);
}

#[tokio::test]
async fn a_link_goes_on_after_a_goaway_of_its_client() {
    let world = World::new();
    let (mut raw, mac) = Raw::link(&world).await;
    raw.write(&raw::goaway(raw::NO_ERROR)).await;
    raw.subscribe(&mac, &name(), 1).await;
    let mut publisher = Client::connect(&world).await;
    publisher.publish(&name(), b"to one that goes").await;
    assert_eq!(peer::payload(&raw.message().await), b"to one that goes");
}

#[tokio::test]
async fn a_clean_disconnect_as_existing_clients_do_it_leaves_nothing_behind() {
    let world = World::new();
    let (mut raw, mac) = Raw::link(&world).await;
    raw.subscribe(&mac, &name(), 1).await;
    raw.write(
        &[
            raw::reset(raw::LINK, raw::CANCEL),
            raw::goaway(raw::NO_ERROR),
        ]
        .concat(),
    )
    .await;
    raw.ending().await;
    world
        .until("no connection is left", |counters| {
            counters.connections_open == 0
        })
        .await;
    assert_eq!(world.counters().ended_http2, 0, "nothing was wrong");
    nobody_hears(&world).await;
}

#[tokio::test]
async fn a_client_that_closes_its_socket_is_gone_without_a_word() {
    let world = World::new();
    let (mut raw, mac) = Raw::link(&world).await;
    raw.subscribe(&mac, &name(), 1).await;
    raw.finish().await;
    assert!(
        raw.ending()
            .await
            .frames
            .iter()
            .all(|frame| frame.kind == raw::WINDOW_UPDATE)
    );
    nobody_hears(&world).await;
}

#[tokio::test]
async fn data_after_the_end_of_a_stream_ends_the_connection() {
    let world = World::new();
    let (mut raw, _mac) = Raw::link(&world).await;
    raw.write(
        &[
            raw::frame(raw::DATA, raw::END_STREAM, raw::LINK, &[]),
            raw::data(b"afterthought"),
        ]
        .concat(),
    )
    .await;
    // The link ends as asked for; what comes behind it is swallowed with the rest.
    let ending = raw.ending().await;
    assert!(matches!(
        ending.goaway(),
        Some(raw::NO_ERROR | raw::STREAM_CLOSED)
    ));
}

#[tokio::test]
async fn a_drain_closes_the_listeners_before_any_stream_ends_and_streams_end_with_status_0() {
    let world = World::new();
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Client::connect(&world).await);
    }
    let (raw, _mac) = Raw::link(&world).await;
    world.router.drain();
    for client in &mut clients {
        let trailers = client.trailers().await;
        assert_eq!(trailers["grpc-status"], "0");
        // A client comes back the moment it reads that. It must not be accepted by a router that goes (T2).
        let refused = TcpStream::connect(world.address()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let ending = raw.ending().await;
    let trailers = ending
        .frames
        .iter()
        .find(|frame| frame.kind == raw::HEADERS)
        .expect("trailers");
    assert!(trailers.says("grpc-status", "0"));
    drop(clients);
    world.router.wait_drained(DEADLINE).unwrap();
}

#[tokio::test]
async fn a_client_that_negotiates_while_the_router_drains_is_ended_with_status_0_afterwards() {
    let world = World::new();
    let mut opened = Raw::connect(&world).await;
    opened.greet(&[]).await;
    opened.open().await;
    let mut greeted = Raw::connect(&world).await;
    greeted.greet(&[]).await;
    let mut other = Client::connect(&world).await;
    world.router.drain();
    assert_eq!(other.trailers().await["grpc-status"], "0");

    // Any error here, and it would never come back (dataplane 1.7).
    greeted.open().await;
    for raw in [&mut opened, &mut greeted] {
        raw.negotiate().await;
        let trailers = raw
            .expect(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM)
            .await;
        assert!(trailers.says("grpc-status", "0"));
    }
    drop((opened, greeted, other));
    world.router.wait_drained(DEADLINE).unwrap();
}

#[tokio::test]
async fn what_is_ready_for_a_client_is_sent_before_a_drain_ends_its_stream() {
    let world = World::new();
    let mut subscriber = Client::connect(&world).await;
    subscriber.subscribe(&name(), 1).await;
    let mut publisher = Client::connect(&world).await;
    for number in 0..100u8 {
        publisher.publish(&name(), &[number; 1_000]).await;
    }
    publisher.settled().await;
    world.router.drain();
    for number in 0..100u8 {
        assert_eq!(subscriber.payload().await, [number; 1_000]);
    }
    assert_eq!(subscriber.trailers().await["grpc-status"], "0");
}

#[tokio::test]
async fn a_drain_ends_a_stream_whose_window_is_used_up() {
    let world = World::new();
    let (mut stuck, mac) = Raw::link_with(&world, &[(raw::INITIAL_WINDOW_SIZE, 1_500)]).await;
    stuck.subscribe(&mac, &name(), 1).await;
    let mut publisher = Client::connect(&world).await;
    for _ in 0..10 {
        publisher.publish(&name(), &[0; 1_000]).await;
    }
    publisher.settled().await;
    world.router.drain();
    // Trailers need no window.
    let trailers = stuck
        .expect(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM)
        .await;
    assert!(trailers.says("grpc-status", "0"));
    assert_eq!(stuck.received_bytes(), 1_500);
    drop((stuck, publisher));
    world.router.wait_drained(DEADLINE).unwrap();
    let counters = world.counters();
    assert!(
        counters.dropped_receiver_left > 0,
        "what it never took is counted"
    );
}

#[tokio::test]
async fn sigterm_closes_the_listener_then_ends_streams_with_status_0_and_exits_with_0() {
    let process = Process::new();
    let (mut raw, _mac) = Raw::link_to(process.address).await;
    process.terminate();
    let trailers = raw
        .expect(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM)
        .await;
    assert!(trailers.says("grpc-status", "0"));
    let refused = TcpStream::connect(process.address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    raw.ending().await;
    assert_eq!(process.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_does_not_go_cannot_keep_a_drain_from_ending() {
    let world = World::new();
    let (stubborn, _mac) = Raw::link(&world).await;
    world.router.drain();
    let waited = std::time::Instant::now();
    world.router.wait_drained(DEADLINE).unwrap();
    assert!(
        waited.elapsed() < Duration::from_secs(10),
        "{:?}",
        waited.elapsed()
    );
    drop(stubborn);
}

#[tokio::test]
async fn a_unix_socket_serves_links_that_hear_those_over_tcp() {
    let world = World::with_unix_socket("serves");
    let mut local = Http2::connect_unix(&world, &usual())
        .await
        .open("over-unix")
        .await;
    local.subscribe(&name(), 1).await;
    let mut remote = Client::connect(&world).await;
    remote.publish(&name(), b"across").await;
    assert_eq!(local.payload().await, b"across");

    let (mut raw, mac) = Raw::connect_unix(&world).await.linked(&[]).await;
    raw.write(&raw::data(&peer::publish(&mac, &name(), b"raw")))
        .await;
    assert_eq!(local.payload().await, b"raw");

    let path = world.socket_path().clone();
    world.router.drain();
    assert_eq!(local.trailers().await["grpc-status"], "0");
    let refused = UnixStream::connect(&path).await.unwrap_err();
    assert!(matches!(
        refused.kind(),
        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound
    ));
    drop((local, remote, raw));
    world.router.wait_drained(DEADLINE).unwrap();
    drop(world);
    assert!(!path.exists(), "the socket file is removed");
}

#[tokio::test]
async fn a_connection_that_breaks_within_a_frame_concerns_nobody_else() {
    let world = World::new();
    let mut bystanders = Bystanders::new(&world).await;
    let frame = {
        let (_raw, mac) = Raw::link(&world).await;
        raw::data(&peer::publish(&mac, &name(), b"never whole"))
    };
    for at in [0, 1, 8, 9, 10, 14, 50, frame.len() - 1] {
        let (mut raw, _mac) = Raw::link(&world).await;
        raw.write(&frame[..at]).await;
        drop(raw);
        bystanders.hear_each_other().await;
    }
    world
        .until("only the bystanders are left", |counters| {
            counters.connections_open == 2
        })
        .await;
    assert_eq!(world.counters().messages_received, 8);
}

#[tokio::test]
async fn an_error_of_the_link_ends_its_stream_with_a_status_that_lets_its_client_come_back() {
    let world = World::new();
    let cases: [(Vec<u8>, &str); 4] = [
        // A length prefix above 4,194,304: refused before any of it has arrived.
        (vec![0, 0x00, 0x40, 0x00, 0x01], "8"),
        (vec![1, 0, 0, 0, 1, 0], "12"),
        (peer::framed(&[0xff; 8]), "3"),
        (peer::framed(&[0x0a, 0x05, 0x00]), "3"),
    ];
    for (bytes, status) in cases {
        let mut client = Client::connect(&world).await;
        client.send(bytes.clone()).await;
        match client.message().await {
            Err(End::Trailers(trailers)) => {
                assert_eq!(trailers["grpc-status"], status, "{bytes:?}")
            }
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
}
