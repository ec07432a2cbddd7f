use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use slim_router::config::{Config, ListenAddress, ListenerConfig};
use slim_router::limits;

use crate::common::*;
use crate::{OK, RESOURCE_EXHAUSTED, expect_delivery};

const SHARDS: [u16; 2] = [1, 2];

fn two_connections(config: &mut Config) {
    config.limits.connections = Some(2);
}

/// Existing clients give up for ever when a link message stays unanswered for so long (dataplane 1.7).
const CLIENTS_WAIT: Duration = Duration::from_secs(5);

#[test]
fn a_client_above_the_limit_is_answered_before_it_gives_up_and_then_sent_away_to_come_back() {
    for shards in SHARDS {
        let router = TestRouter::start_with(shards, two_connections);
        let mut inside = [router.connect(), router.connect()];
        let to = name("inside");
        inside[0].subscribe(&to);
        // It comes back at once, as clients do, and as long as there is no room each time costs it a while.
        for times in 1..=2 {
            let before = Instant::now();
            let mut above = router.connect();
            let waited = before.elapsed();
            assert!(waited >= limits::WAITING_ROOM_STAY, "{waited:?}");
            assert!(waited < CLIENTS_WAIT, "{waited:?}");
            let text = above.expect_status(RESOURCE_EXHAUSTED);
            assert!(text.contains("2 connections"), "{text}");
            above.http2.events_to_end();
            router.await_count("refused_connections", times);
        }
        let [first, second] = &mut inside;
        expect_delivery(second, first, &to, b"undisturbed");
        assert_eq!(router.count("refused_unheard"), 0);
    }
}

#[test]
fn a_client_above_the_limit_is_served_when_another_leaves_while_it_waits() {
    for shards in SHARDS {
        let router = TestRouter::start_with(shards, two_connections);
        let mut first = router.connect();
        let to = name("inside");
        first.subscribe(&to);
        let second = router.connect();
        let above = thread::scope(|scope| {
            let above = scope.spawn(|| router.connect());
            router.await_count("connections_open", 3);
            drop(second);
            above.join().unwrap()
        });
        let mut above = above;
        expect_delivery(&mut above, &mut first, &to, b"let in");
        assert_eq!(router.count("refused_connections"), 0);
    }
}

#[test]
fn a_client_that_waits_for_room_when_the_router_drains_is_answered_so_that_it_comes_back() {
    let router = TestRouter::start_with(1, two_connections);
    let _inside = [router.connect(), router.connect()];
    thread::scope(|scope| {
        let above = scope.spawn(|| {
            let mut above = router.connect_raw();
            above.open();
            above
        });
        let mut above = above.join().unwrap();
        let (dialing, request) = dialer().dial().unwrap();
        above.send_message(&request);
        router.router().drain();
        let Event::Message(reply) = above.next_event() else {
            panic!("no link reply");
        };
        dialing.complete(&reply).expect("a link reply");
        let Event::Headers { fields, .. } = above.next_event() else {
            panic!("no trailers");
        };
        assert!(
            fields.contains(&("grpc-status".to_owned(), OK.to_string())),
            "{fields:?}"
        );
    });
}

#[test]
fn one_address_above_its_limit_waits_and_others_do_not() {
    let router = TestRouter::start_with(2, |config| {
        config.limits.connections_per_address = Some(1);
    });
    let to = name("first");
    let mut first = router.connect();
    first.subscribe(&to);
    let other = Http2::connect_from(Ipv4Addr::new(127, 0, 0, 2), router.address());
    let before = Instant::now();
    let mut other = Client::negotiate(other, dialer());
    assert!(before.elapsed() < limits::WAITING_ROOM_STAY);
    let mut second = router.connect();
    let text = second.expect_status(RESOURCE_EXHAUSTED);
    assert!(text.contains("from this address"), "{text}");
    router.await_count("refused_address", 1);
    expect_delivery(&mut other, &mut first, &to, b"other address");
}

#[test]
fn clients_on_a_unix_socket_have_no_address_and_are_not_limited_by_it() {
    let path = std::env::temp_dir().join(format!("slim-limits-{}.sock", std::process::id()));
    let router = TestRouter::start_with(1, |config| {
        config.limits.connections_per_address = Some(1);
        let unix = ListenAddress::Unix(path);
        config.listeners.push(ListenerConfig::new(unix));
    });
    let connect = || Client::negotiate(Http2::connect_unix(&router.unix_path()), dialer());
    let to = name("unix");
    let (mut first, mut second) = (connect(), connect());
    first.subscribe(&to);
    expect_delivery(&mut second, &mut first, &to, b"same address");
}

#[test]
fn above_what_may_wait_a_connection_is_closed_without_a_word() {
    let router = TestRouter::start_with(1, |config| {
        config.limits.connections_per_address = Some(1);
    });
    let _inside = router.connect();
    let waiting: Vec<_> = (0..limits::WAITING_ROOM_PER_ADDRESS_LEAST)
        .map(|_| router.connect_raw())
        .collect();
    let mut one_too_many = std::net::TcpStream::connect(router.address()).unwrap();
    one_too_many.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut nothing = Vec::new();
    // Closed or reset, whichever the kernel makes of it.
    let _ = std::io::Read::read_to_end(&mut one_too_many, &mut nothing);
    assert_eq!(nothing, b"");
    router.await_count("refused_unheard", 1);
    router.await_count("refused_address", 1);
    // Those who leave make room for others to wait.
    drop(waiting);
    router.await_fall("connections_open", 1);
    router.connect().expect_status(RESOURCE_EXHAUSTED);
}
