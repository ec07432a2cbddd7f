//! What a bad client sees, what is counted and logged, and that nobody else notices.

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use common::*;
use slim_proto::grpc::MESSAGE_BYTES_MAX;
use slim_proto::link::Dialer;
use slim_proto::message::wire::{self, Wire as _, message::MessageType};
use slim_router::config::Config;
use slim_router::limits::{ACKS_WAITING_MAX, UNFINISHED_BYTES_PER_SHARD_MAX};

/// The bad client on the shard of the bystanders, and on another.
const SHARDS: [u16; 2] = [1, 2];

/// gRPC status codes and HTTP/2 error codes that the bad clients see.
const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const PROTOCOL_ERROR: u32 = 1;

/// A router with a pair of clients whose traffic must not be disturbed.
struct World {
    router: TestRouter,
    pair: [Client; 2],
    sent: u32,
}

impl World {
    fn new(shards: u16) -> World {
        World::with(shards, |_| {})
    }

    fn with(shards: u16, change: impl FnOnce(&mut Config)) -> World {
        log();
        let router = TestRouter::start_with(shards, change);
        let mut pair = [router.connect(), router.connect()];
        for (client, service) in pair.iter_mut().zip(["bystander 0", "bystander 1"]) {
            client.subscribe(&name(service));
        }
        let mut world = World {
            router,
            pair,
            sent: 0,
        };
        world.bystanders_talk();
        world
    }

    fn bystanders_talk(&mut self) {
        for _ in 0..10 {
            for (from, to) in [(0, 1), (1, 0)] {
                self.sent += 1;
                let blob = self.sent.to_be_bytes();
                self.pair[from].publish(&name(&format!("bystander {to}")), &blob);
                assert_eq!(self.pair[to].next_publication().blob(), blob);
            }
        }
    }

    /// These counts, no other of something bad, and bystanders that noticed nothing.
    #[track_caller]
    fn expect_counts(&mut self, expected: &[(&str, u64)]) {
        for (counter, value) in expected {
            self.router.await_count(counter, *value);
        }
        for (counter, value) in self.router.counters().entries() {
            let is_bad = [
                "dropped_",
                "ended_",
                "cut_",
                "requests_",
                "connections_refused",
            ]
            .iter()
            .any(|prefix| counter.starts_with(prefix));
            if is_bad && !expected.iter().any(|(name, _)| *name == counter) {
                assert_eq!(value, 0, "{counter}");
            }
        }
        self.bystanders_talk();
    }
}

/// Everything that this process has logged.
fn log() -> &'static Mutex<Vec<u8>> {
    struct Log;
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            log().lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Log)
            .init();
    });
    LOG.get_or_init(Mutex::default)
}

/// A line names the peer and this reason. Ports come again, so there may be other lines about the same address.
#[track_caller]
fn assert_logged(peer: SocketAddr, reason: &str) {
    let log = String::from_utf8(log().lock().unwrap().clone()).unwrap();
    let peer = format!("peer={peer} ");
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&peer)).collect();
    assert!(
        lines.iter().any(|line| line.contains(reason)),
        "no line has {peer} and `{reason}`: {lines:?}"
    );
}

/// The client's link must end with this status, and its connection after it.
#[track_caller]
fn assert_ended(mut client: Client, status: u32, reason: &str) {
    let peer = client.http2.local_address();
    let message = client.expect_status(status);
    assert!(message.contains(reason), "{message}");
    client.http2.events_to_end();
    assert_logged(peer, reason);
}

#[test]
fn what_is_not_http2_is_told_so_in_http2_and_closed() {
    let tls_client_hello = [
        &[
            0x16, 0x03, 0x01, 0x00, 0xc8, 0x01, 0x00, 0x00, 0xc4, 0x03, 0x03,
        ][..],
        &[0x5a; 193][..],
    ]
    .concat();
    let inputs: [(&[u8], u32, &str); 6] = [
        (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            PROTOCOL_ERROR,
            "byte 0x2d at offset 3",
        ),
        (&[0; 4], PROTOCOL_ERROR, "byte 0x00 at offset 0"),
        (&[0xff; 4_096], PROTOCOL_ERROR, "byte 0xff at offset 0"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            PROTOCOL_ERROR,
            "HTTP/1",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
            PROTOCOL_ERROR,
            "HTTP/1",
        ),
        (&tls_client_hello, PROTOCOL_ERROR, "TLS"),
    ];
    for shards in SHARDS {
        let mut world = World::new(shards);
        for (i, (input, expected_code, reason)) in (1..).zip(inputs) {
            let mut bad = world.router.connect_raw();
            bad.send_raw(input);
            let events = bad.events_to_end();
            let [Event::GoAway { code, debug }] = &events[..] else {
                panic!("{events:?}");
            };
            assert_eq!(*code, expected_code);
            assert!(debug.contains(reason), "{debug}");
            assert_logged(bad.local_address(), debug);
            world.expect_counts(&[("ended_http2", i)]);
        }
    }
}

#[test]
fn a_request_for_another_method_gets_status_12_and_one_that_is_no_grpc_an_http_status() {
    let path = "/dataplane.proto.v1.DataPlaneService/CloseChannel";
    let request = |method, content_type, path, encoding| {
        vec![
            (":method", method),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", path),
            ("te", "trailers"),
            ("content-type", content_type),
            ("grpc-encoding", encoding),
        ]
    };
    let grpc = "application/grpc";
    let cases = [
        (request("POST", grpc, path, "identity"), "200", Some("12")),
        (request("POST", grpc, "/", "identity"), "200", Some("12")),
        (
            request("POST", grpc, OPEN_CHANNEL, "gzip"),
            "200",
            Some("12"),
        ),
        (request("GET", grpc, OPEN_CHANNEL, "identity"), "405", None),
        (
            request("POST", "text/html", OPEN_CHANNEL, "identity"),
            "415",
            None,
        ),
    ];
    for shards in SHARDS {
        let mut world = World::new(shards);
        for (i, (fields, http_status, grpc_status)) in (1..).zip(&cases) {
            let mut bad = world.router.connect_raw();
            bad.send_preface();
            bad.send_headers(fields, false);
            let Event::Headers { fields, end_stream } = bad.next_event() else {
                panic!("a response");
            };
            assert!(end_stream);
            let value = |name| {
                let found = fields.iter().find(|(field, _)| field == name);
                found.map(|(_, value)| value.as_str())
            };
            assert_eq!(value(":status"), Some(*http_status));
            assert_eq!(value("grpc-status"), *grpc_status);
            assert_logged(bad.local_address(), "request refused");
            world.expect_counts(&[("requests_refused", i)]);
        }
    }
}

#[test]
fn a_message_above_the_limit_or_compressed_ends_the_link_before_its_bytes_arrive() {
    let limit = "message of 4194305 bytes exceeds the limit of 4194304 bytes";
    let cases: [(&[u8], u32, &str); 4] = [
        (&[0, 0x00, 0x40, 0x00, 0x01], RESOURCE_EXHAUSTED, limit),
        (
            &[0, 0xff, 0xff, 0xff, 0xff],
            RESOURCE_EXHAUSTED,
            "message of 4294967295 bytes",
        ),
        (
            &[1, 0, 0, 0, 2, 8, 1],
            UNIMPLEMENTED,
            "compression flag 0x01",
        ),
        (&[0xff, 0], UNIMPLEMENTED, "compression flag 0xff"),
    ];
    for shards in SHARDS {
        let mut world = World::new(shards);
        for (i, (bytes, status, reason)) in (1..).zip(cases) {
            let mut bad = world.router.connect();
            bad.http2.send_data(bytes);
            assert_ended(bad, status, reason);
            world.expect_counts(&[("ended_framing", i)]);
        }
    }
}

#[test]
fn truncated_and_wrongly_typed_protobuf_ends_the_link_of_its_sender_alone() {
    for shards in SHARDS {
        let mut world = World::new(shards);
        let whole = {
            let client = world.router.connect();
            let destination = name("bystander 0");
            sign(client.mac(), &publish(&destination, &destination, b"x"))
        };
        let mut cases = vec![
            // The header as a number; a field number of 0; an 11-byte varint; an open group; a wire type that is none.
            vec![0x1a, 0x02, 0x08, 0x01],
            vec![0x00, 0x00],
            [&[0x78][..], &[0xff; 10], &[0x01]].concat(),
            vec![0x7b],
            vec![0x7f],
        ];
        // Every cut that leaves the end of a field missing, a few of them.
        cases.extend([1, 2, 3, 10, 50, whole.len() - 1].map(|bytes| whole[..bytes].to_vec()));
        for (i, message) in (1..).zip(cases) {
            let mut bad = world.router.connect();
            bad.send_bytes(&message);
            assert_ended(bad, INVALID_ARGUMENT, "undecodable message");
            world.expect_counts(&[("ended_undecodable", i)]);
        }
    }
}

#[test]
fn invalid_utf8_in_any_string_ends_the_link_and_reaches_no_receiver() {
    const MARK: &str = "MARK";
    let name = |part: usize| {
        let mut parts = ["org", "ns", "bystander 0"];
        parts[part] = MARK;
        slim_proto::name::Name::new(parts[0], parts[1], parts[2])
    };
    let good = common::name("bystander 0");
    let base = || publish(&good, &good, b"poison");
    let mut cases: Vec<(String, wire::Message)> = Vec::new();
    let mut case = |field: String, change: &dyn Fn(&mut wire::Message)| {
        let mut message = base();
        change(&mut message);
        cases.push((field, message));
    };
    case("identity".into(), &|m| header_mut(m).identity = MARK.into());
    case("version".into(), &|m| header_mut(m).version = MARK.into());
    for part in 0..3 {
        let strings = name(part).to_wire().str_name;
        case(format!("source string {part}"), &|m| {
            header_mut(m).source.as_mut().unwrap().str_name = strings.clone();
        });
        case(format!("destination string {part}"), &|m| {
            header_mut(m).destination.as_mut().unwrap().str_name = strings.clone();
        });
        case(format!("string {part} of a name in a command"), &|m| {
            let join = wire::JoinRequestPayload {
                channel: Some(name(part).to_wire()),
                ..Default::default()
            };
            set_content(
                m,
                wire::content::ContentType::CommandPayload(wire::CommandPayload {
                    command_payload_type: Some(
                        wire::command_payload::CommandPayloadType::JoinRequest(join),
                    ),
                }),
            );
        });
    }
    case("payload_type".into(), &|m| {
        set_content(
            m,
            wire::content::ContentType::AppPayload(wire::ApplicationPayload {
                payload_type: MARK.into(),
                blob: b"x".to_vec(),
            }),
        );
    });
    case("metadata key".into(), &|m| {
        m.metadata.insert(MARK.into(), "v".into());
    });
    case("metadata value".into(), &|m| {
        m.metadata.insert("k".into(), MARK.into());
    });
    case("identity of a subscribe".into(), &|m| {
        *m = subscribe(&common::name("bystander 0"), 5);
        header_mut(m).identity = MARK.into();
    });
    case("error of an acknowledgement".into(), &|m| {
        m.message_type = Some(MessageType::SubscriptionAck(wire::SubscriptionAck {
            subscription_id: 5,
            success: false,
            error: MARK.into(),
        }));
    });
    for shards in SHARDS {
        let mut world = World::new(shards);
        for (i, (field, message)) in (1..).zip(&cases) {
            let mut bad = world.router.connect();
            let signed = match message.message_type {
                Some(MessageType::SubscriptionAck(_)) => message.encode_to_vec(),
                _ => sign(bad.mac(), message),
            };
            bad.send_bytes(&spoiled(&signed, MARK));
            println!("{field}");
            assert_ended(bad, INVALID_ARGUMENT, "undecodable message");
            world.expect_counts(&[("ended_undecodable", i)]);
        }
    }
}

fn set_content(message: &mut wire::Message, content: wire::content::ContentType) {
    let Some(MessageType::Publish(publish)) = &mut message.message_type else {
        panic!("a publish");
    };
    publish.msg.as_mut().unwrap().content_type = Some(content);
}

/// The message with a byte that no UTF-8 has in the place of the mark's second.
fn spoiled(message: &[u8], mark: &str) -> Vec<u8> {
    let at = message
        .windows(mark.len())
        .position(|window| window == mark.as_bytes())
        .expect("the mark is in the message");
    let mut message = message.to_vec();
    message[at + 1] = 0xff;
    message
}

#[test]
fn invalid_utf8_in_a_link_request_ends_the_stream_without_a_reply() {
    for shards in SHARDS {
        let mut world = World::new(shards);
        for i in 0..4 {
            let mut dialer = dialer();
            let fields: [&mut String; 3] = [
                &mut dialer.link_id,
                &mut dialer.node_id,
                &mut dialer.deployment_name,
            ];
            let mark = match fields.into_iter().nth(i) {
                Some(field) => {
                    *field = "MARK".to_owned();
                    "MARK"
                }
                None => "3.4.6",
            };
            let (_, request) = dialer.dial().unwrap();
            assert_no_link(&world.router, &spoiled(&request, mark), INVALID_ARGUMENT);
            world.expect_counts(&[("ended_negotiation", i as u64 + 1)]);
        }
    }
}

/// Sends `message` first: the stream must end with this status and no reply.
#[track_caller]
fn assert_no_link(router: &TestRouter, message: &[u8], status: u32) {
    let mut bad = router.connect_raw();
    bad.open();
    bad.send_message(message);
    let events = bad.events_to_end();
    let Event::Headers { fields, end_stream } = &events[0] else {
        panic!("{events:?}");
    };
    assert!(end_stream);
    assert_eq!(fields[0], ("grpc-status".to_owned(), status.to_string()));
    assert_logged(bad.local_address(), "link negotiation");
}

#[test]
fn a_client_that_answers_no_keepalive_ping_is_cut_and_its_name_goes() {
    for shards in SHARDS {
        let mut world = World::with(shards, |config| {
            config.listeners[0].keepalive_interval = Duration::from_millis(200);
            config.listeners[0].keepalive_timeout = Duration::from_millis(500);
        });
        let mut silent = world.router.connect();
        silent.subscribe(&name("silent"));
        let gives_up_at = Instant::now() + PATIENCE;
        while world.router.count("ended_keepalive") == 0 {
            assert!(Instant::now() < gives_up_at);
            world.bystanders_talk();
        }
        world.pair[0].publish(&name("silent"), b"nobody");
        world.expect_counts(&[("ended_keepalive", 1), ("dropped_no_route", 1)]);
    }
}

#[test]
fn an_empty_and_an_unknown_message_are_dropped_and_the_link_works_on() {
    for shards in SHARDS {
        let mut world = World::new(shards);
        let mut bad = world.router.connect();
        bad.subscribe(&name("bad"));
        bad.send_bytes(&[]);
        // Fields 7 and 2047: number, bytes, and a group with one field.
        bad.send_bytes(&[0x38, 0x01]);
        bad.send_bytes(&[0xfa, 0x7f, 0x03, 1, 2, 3]);
        bad.send_bytes(&[0x3b, 0x08, 0x01, 0x3c]);
        // Metadata alone.
        bad.send_bytes(&[0x22, 0x06, 0x0a, 0x01, b'k', 0x12, 0x01, b'v']);
        world.expect_counts(&[("dropped_unknown_type", 5)]);
        world.pair[0].publish(&name("bad"), b"hello");
        bad.expect_blob(b"hello");
    }
}

#[test]
fn a_client_that_never_negotiates_is_cut_after_the_timeout() {
    for shards in SHARDS {
        let mut world = World::with(shards, |config| {
            config.listeners[0].negotiation_timeout = Duration::from_millis(300);
        });
        let mut silent = world.router.connect_raw();
        silent.open();
        // One byte after another is no more than silence.
        let mut dribbling = world.router.connect_raw();
        dribbling.open();
        let (_, request) = dialer().dial().unwrap();
        let mut bytes = slim_proto::grpc::prefix(request.len()).to_vec();
        bytes.extend(request);
        let mut bytes = bytes.into_iter();
        let event = loop {
            let byte = bytes.next().expect("it is cut long before the last byte");
            dribbling.send_data(&[byte]);
            if let Some(event) = dribbling.poll_event(Duration::from_millis(100)) {
                break event;
            }
        };
        for (event, http2) in [(event, dribbling), (silent.next_event(), silent)] {
            let Event::Headers { fields, end_stream } = event else {
                panic!("{event:?}");
            };
            assert!(end_stream);
            let status = DEADLINE_EXCEEDED.to_string();
            assert_eq!(fields[0], ("grpc-status".to_owned(), status));
            assert_logged(http2.local_address(), "no link message within");
        }
        world.expect_counts(&[("ended_timeout", 2)]);
    }
}

#[test]
fn a_client_that_never_asks_for_the_channel_is_cut_after_the_handshake_timeout() {
    let mut world = World::new(2);
    let mut silent = world.router.connect_raw();
    let mut preface_only = world.router.connect_raw();
    preface_only.send_preface();
    for http2 in [&mut silent, &mut preface_only] {
        let events = http2.events_to_end();
        assert!(
            matches!(&events[..], [Event::GoAway { code: 0, .. }]),
            "{events:?}"
        );
        assert_logged(http2.local_address(), "no OpenChannel request within 10 s");
    }
    world.expect_counts(&[("ended_timeout", 2)]);
}

#[test]
fn a_second_link_message_and_a_stray_ack_are_dropped_and_the_link_keeps_its_key() {
    for shards in SHARDS {
        let mut world = World::new(shards);
        let mut bad = world.router.connect();
        bad.subscribe(&name("bad"));
        let again = Dialer {
            link_id: bad.established.link_id.clone(),
            ..dialer()
        };
        bad.send_bytes(&again.dial().unwrap().1);
        bad.send_bytes(&slim_proto::message::subscription_ack(5, Ok(())));
        world.expect_counts(&[("dropped_second_link", 1), ("dropped_stray_ack", 1)]);
        world.pair[0].publish(&name("bad"), b"hello");
        bad.expect_blob(b"hello");
    }
}

#[test]
fn a_wrong_or_missing_mac_drops_the_message_without_an_ack_and_nothing_else() {
    for shards in SHARDS {
        let mut world = World::new(shards);
        let mut bad = world.router.connect();
        bad.subscribe(&name("bad"));
        let messages = [
            publish(&name("bad"), &name("bystander 0"), b"forged"),
            subscribe(&name("bystander 0"), 100),
            unsubscribe(&name("bad"), 1),
        ];
        for message in &messages {
            let mut message = message.clone();
            for wrong in [vec![0; 32], vec![1; 31], vec![1; 33], vec![1]] {
                header_mut(&mut message).header_mac = Some(wrong);
                bad.send_bytes(&message.encode_to_vec());
            }
            // A tag of another link, and one of another ttl.
            let foreign = sign(world.pair[0].mac(), &message);
            bad.send_bytes(&foreign);
            let tag_for_8 = wire::Message::decode(&sign(bad.mac(), &message)[..]).unwrap();
            let mut message_of_9 = tag_for_8;
            header_mut(&mut message_of_9).ttl = 9;
            bad.send_bytes(&message_of_9.encode_to_vec());
            for missing in [None, Some(Vec::new())] {
                header_mut(&mut message).header_mac = missing;
                bad.send_bytes(&message.encode_to_vec());
            }
        }
        world.expect_counts(&[("dropped_mac_wrong", 18), ("dropped_mac_missing", 6)]);
        // Nothing was answered, subscribed or unsubscribed.
        world.pair[1].publish_to_all(&name("bystander 0"), b"for one");
        world.pair[0].expect_blob(b"for one");
        world.pair[1].publish(&name("bad"), b"still here");
        let Inbound::Publication(got) = bad.next() else {
            panic!("no ack");
        };
        assert_eq!(got.blob(), b"still here");
    }
}

#[test]
fn a_publish_without_a_hop_left_is_dropped_and_one_with_two_arrives_with_one() {
    for shards in SHARDS {
        let mut world = World::new(shards);
        let mut bad = world.router.connect();
        for ttl in [0, 1, 2, 128, 300, u32::MAX] {
            let mut message = publish(&name("bad"), &name("bystander 0"), &ttl.to_be_bytes());
            header_mut(&mut message).ttl = ttl;
            bad.send(&message);
        }
        for ttl in [2, 128, 300, u32::MAX] {
            let got = world.pair[0].next_publication();
            assert_eq!(got.blob(), ttl.to_be_bytes());
            assert_eq!(got.header().ttl, ttl - 1);
        }
        world.expect_counts(&[("dropped_ttl", 2)]);
    }
}

#[test]
fn a_connection_may_have_65536_subscriptions_and_each_further_one_is_refused() {
    let mut world = World::new(2);
    let mut bad = world.router.connect();
    let (limit, wanted) = (65_536u64, 100_000u64);
    let ids: Vec<_> = (1..=wanted).collect();
    let (mut granted, mut refused) = (0, 0);
    for lot in ids.chunks(1_000) {
        let messages: Vec<_> = lot
            .iter()
            .map(|id| sign(bad.mac(), &subscribe(&id_name("bad", u128::from(*id)), *id)))
            .collect();
        bad.http2.send_messages(&messages);
        for _ in lot {
            let ack = bad.next_ack();
            assert_eq!(ack.success, ack.subscription_id <= limit);
            if ack.success {
                granted += 1;
            } else {
                refused += 1;
                assert_eq!(ack.error, "a connection may have 65536 subscriptions");
            }
        }
    }
    assert_eq!((granted, refused), (limit, wanted - limit));
    world.expect_counts(&[("subscriptions_refused", wanted - limit)]);
    // What was granted works, what was refused does not, and there is room again after an unsubscribe.
    bad.unsubscribe(&id_name("bad", 1), 1);
    bad.send(&subscribe(&id_name("bad", u128::from(wanted)), wanted));
    bad.expect_ack(wanted);
    for id in [2, limit, wanted] {
        world.pair[0].publish(&id_name("bad", u128::from(id)), &id.to_be_bytes());
        assert_eq!(bad.next_publication().blob(), id.to_be_bytes());
    }
    world.pair[0].publish(&id_name("bad", u128::from(limit + 1)), b"x");
    world.expect_counts(&[
        ("dropped_no_route", 1),
        ("subscriptions_refused", wanted - limit),
    ]);
    // And all of it goes with the connection.
    drop(bad);
    world.router.await_fall("connections_open", 2);
    world.bystanders_talk();
}

#[test]
fn a_receiver_that_never_reads_is_cut_and_the_fan_out_goes_on_without_it() {
    for shards in SHARDS {
        let mut world = World::new(shards);
        let mut publisher = world.router.connect();
        let mut good = world.router.connect();
        let mut bad = world.router.connect();
        let peer = bad.http2.local_address();
        good.subscribe(&name("group"));
        bad.subscribe(&name("group"));
        // 64 MiB: no socket buffer and no window holds that.
        let (messages, blob) = (1_024u32, vec![b'x'; 65_536]);
        let reader = std::thread::spawn(move || {
            for i in 0..messages {
                let got = good.next_publication();
                assert_eq!(got.blob()[..4], i.to_be_bytes());
            }
            good
        });
        for i in 0..messages {
            let mut blob = blob.clone();
            blob[..4].copy_from_slice(&i.to_be_bytes());
            publisher.publish_to_all(&name("group"), &blob);
            if i % 64 == 0 {
                world.bystanders_talk();
            }
        }
        let mut good = reader.join().unwrap();
        assert_logged(peer, "slow receiver");
        let dropped = world.router.count("dropped_slow_receiver");
        assert!((1..u64::from(messages)).contains(&dropped), "{dropped}");
        world.expect_counts(&[("cut_slow_receiver", 1), ("dropped_slow_receiver", dropped)]);
        publisher.publish_to_all(&name("group"), b"after");
        good.expect_blob(b"after");
        // It reads what the kernel had taken, and then the end.
        while let Inbound::Publication(_) = bad.next() {}
    }
}

#[test]
fn a_client_that_asks_for_answers_and_reads_none_is_cut() {
    let mut world = World::new(1);
    let mut http2 = world.router.connect_raw();
    http2.returns_credit = false;
    http2.stream_window_bytes = 4_096;
    let mut bad = Client::negotiate(http2, dialer());
    let again = sign(bad.mac(), &subscribe(&name("bad"), 7));
    let lot = vec![again; 100];
    let mut asked = 0;
    // A lot is a small part of what it may send unasked, so it is never waiting for credit when it is cut.
    while world.router.count("ended_control_flood") == 0 {
        assert!(asked < 2 * ACKS_WAITING_MAX, "it is cut before");
        bad.http2.send_messages(&lot);
        asked += lot.len();
        if asked % 10_000 == 0 {
            world.bystanders_talk();
        }
    }
    assert!(asked >= ACKS_WAITING_MAX);
    assert_logged(
        bad.http2.local_address(),
        "acknowledgements asked for and not read",
    );
    world.expect_counts(&[("ended_control_flood", 1)]);
}

#[test]
fn unfinished_messages_of_many_clients_are_bounded_together() {
    const UNFINISHED_BYTES: usize = MESSAGE_BYTES_MAX - 1;
    // With little memory there may be less; here it is as if there were plenty.
    let mut world = World::with(1, |config| config.limits.memory = Some(1 << 40));
    let mut unfinished = slim_proto::grpc::prefix(MESSAGE_BYTES_MAX).to_vec();
    unfinished.resize(unfinished.len() + UNFINISHED_BYTES, 0);
    let fitting = UNFINISHED_BYTES_PER_SHARD_MAX / unfinished.len();
    let mut patient = Vec::new();
    for _ in 0..fitting {
        let mut client = world.router.connect();
        client.http2.send_data(&unfinished);
        patient.push(client);
    }
    let mut one_too_many = world.router.connect();
    one_too_many.http2.send_data(&unfinished);
    assert_ended(one_too_many, RESOURCE_EXHAUSTED, "unfinished message");
    world.expect_counts(&[("ended_unfinished", 1)]);
    // Those who leave make room, and whoever finishes is served.
    let mut finisher = patient.pop().unwrap();
    drop(patient);
    world.router.await_fall("connections_open", 3);
    finisher.http2.send_data(&[0]);
    assert_ended(finisher, INVALID_ARGUMENT, "undecodable");
    let mut latecomer = world.router.connect();
    latecomer.subscribe(&name("latecomer"));
}

#[test]
fn a_client_whose_bytes_come_one_by_one_is_served_like_any_other() {
    for shards in SHARDS {
        let mut world = World::new(shards);
        let mut slow = world.router.connect_raw();
        slow.dribbles = true;
        let mut slow = Client::negotiate(slow, dialer());
        slow.subscribe(&name("slow"));
        world.pair[0].publish(&name("slow"), b"hello");
        slow.expect_blob(b"hello");
        for i in 0..3u8 {
            slow.publish(&name("bystander 0"), &[i]);
            assert_eq!(world.pair[0].next_publication().blob(), [i]);
            world.bystanders_talk();
        }
        world.expect_counts(&[]);
    }
}

#[test]
fn clients_that_vanish_at_any_point_leave_nothing_behind() {
    for shards in SHARDS {
        let mut world = World::new(shards);
        let deadline = Instant::now() + PATIENCE;
        for step in 0..6 {
            let mut bad = world.router.connect_raw();
            if step > 0 {
                bad.send_preface();
            }
            if step > 1 {
                bad.send_request(OPEN_CHANNEL);
                bad.expect_response();
            }
            if step == 3 {
                // In the middle of a message.
                bad.send_data(&[0, 0, 0, 1, 0, 0x1a]);
            }
            if step > 3 {
                let (_, request) = dialer().dial().unwrap();
                bad.send_message(&request);
            }
            if step > 4 {
                bad.shut_down_writing();
            }
            drop(bad);
        }
        world.router.await_fall("connections_open", 2);
        assert!(Instant::now() < deadline);
        world.expect_counts(&[]);
    }
}
