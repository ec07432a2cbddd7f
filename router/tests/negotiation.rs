//! How links open and how they do not (dataplane 5.1 to 5.4), and how they end (1.7).

mod common;

use common::*;
use slim_proto::link::{
    ConnectionType, Dialer, LINK_ID_BYTES_MAX, LinkReply, LinkRequest, MacPolicy,
    NEGOTIATION_BYTES_MAX,
};
use slim_proto::message::subscription_ack;
use slim_proto::message::wire::{self, Wire as _, message::MessageType};

const PERMISSION_DENIED: u32 = 7;

/// A request that is accepted, to be spoiled.
fn request() -> LinkRequest {
    let (_, request) = dialer().dial().unwrap();
    LinkRequest::decode(&request).unwrap()
}

/// The stream must end without a reply, with INVALID_ARGUMENT and this text: an existing node says no more than
/// `grpc-status 0`, and its clients treat both alike (dataplane 1.7).
#[track_caller]
fn assert_refused(router: &TestRouter, first_message: &[u8], reason: &str) {
    let mut http2 = router.connect_raw();
    http2.open();
    http2.send_message(first_message);
    let events = http2.events_to_end();
    let Event::Headers { fields, end_stream } = &events[0] else {
        panic!("{events:?}");
    };
    assert!(end_stream);
    assert_eq!(fields[0], ("grpc-status".to_owned(), "3".to_owned()));
    let (name, text) = &fields[1];
    assert!(name == "grpc-message" && text.contains(reason), "{text}");
}

#[test]
fn whoever_does_not_negotiate_first_gets_no_link() {
    let router = TestRouter::start(2);
    let name = name("app");
    let first_messages = [
        Vec::new(),
        vec![0x7a, 0x00],
        // A Link without a type, which an open link ignores.
        vec![0x2a, 0x00],
        subscribe(&name, 1).encode_to_vec(),
        unsubscribe(&name, 1).encode_to_vec(),
        publish(&name, &name, b"x").encode_to_vec(),
        subscription_ack(1, Ok(())),
    ];
    for message in &first_messages {
        assert_refused(
            &router,
            message,
            "the first message is not a link negotiation",
        );
    }
    router.await_count("ended_negotiation", first_messages.len() as u64);
    router.await_count("links_opened", 0);
}

#[test]
fn each_check_of_a_request_refuses_it() {
    let router = TestRouter::start(2);
    let reply = LinkReply {
        link_id: request().link_id,
        version: "3.4.6".to_owned(),
        public_key: request().public_key,
        connection_type: ConnectionType::Edge,
        node_id: "node".to_owned(),
        deployment_name: String::new(),
        kem_payload: None,
    };
    assert_refused(
        &router,
        &reply.encode(),
        "a reply where a request was expected",
    );
    let long_id = "x".repeat(LINK_ID_BYTES_MAX + 1);
    let mut low_order = vec![0; 32];
    low_order[0] = 1;
    type Spoil<'a> = &'a dyn Fn(&mut LinkRequest);
    let cases: [(&str, Spoil); 12] = [
        ("not a semantic version", &|r| r.version.clear()),
        ("not a semantic version", &|r| r.version = "3.4".into()),
        ("not a semantic version", &|r| r.version = "v3.4.6".into()),
        ("public key has 0 bytes, not 32", &|r| r.public_key.clear()),
        ("public key has 31 bytes, not 32", &|r| {
            r.public_key.truncate(31)
        }),
        ("public key has 33 bytes, not 32", &|r| r.public_key.push(1)),
        ("empty link id", &|r| r.link_id.clear()),
        ("exceeds the limit of 1024 bytes", &|r| {
            r.link_id = long_id.clone()
        }),
        ("low order", &|r| r.public_key = vec![0; 32]),
        ("low order", &|r| r.public_key = low_order.clone()),
        ("not canonical", &|r| {
            r.kem_payload = Some(vec![0xff; 1_184])
        }),
        ("exceeds the limit of 16384 bytes", &|r| {
            r.node_id = "x".repeat(NEGOTIATION_BYTES_MAX)
        }),
    ];
    for (reason, spoil) in &cases {
        let mut request = request();
        spoil(&mut request);
        assert_refused(&router, &request.encode(), reason);
    }
    router.await_count("ended_negotiation", cases.len() as u64 + 1);
    router.await_count("links_opened", 0);
}

#[test]
fn what_is_unusual_and_allowed_gets_a_link_that_works() {
    let router = TestRouter::start(2);
    let mut receiver = router.connect();
    receiver.subscribe(&name("app"));
    let same_id = dialer();
    let dialers = [
        Dialer {
            version: "0.0.1".to_owned(),
            ..dialer()
        },
        Dialer {
            version: "99.1.0-rc.1+build".to_owned(),
            ..dialer()
        },
        // Two node ids, as static peers have; a link id as long as may be; one with more than ASCII.
        Dialer {
            link_id: "node-a:node-b".to_owned(),
            ..dialer()
        },
        Dialer {
            link_id: "x".repeat(LINK_ID_BYTES_MAX),
            ..dialer()
        },
        Dialer {
            link_id: "café".to_owned(),
            ..dialer()
        },
        // Two links with one id, at once: a client whose old link the router has not missed yet.
        same_id.clone(),
        same_id,
        // No node id, as old dialers.
        Dialer {
            node_id: String::new(),
            ..dialer()
        },
        // The hybrid key agreement.
        Dialer {
            enforce_pqc: true,
            ..dialer()
        },
    ];
    let mut clients: Vec<_> = dialers
        .into_iter()
        .map(|dialer| Client::negotiate(router.connect_raw(), dialer))
        .collect();
    for (i, client) in (0u8..).zip(&mut clients) {
        let own = id_name("client", u128::from(i));
        client.subscribe(&own);
        client.publish(&name("app"), &[i]);
        receiver.expect_blob(&[i]);
        receiver.publish(&own, &[i]);
        client.expect_blob(&[i]);
    }
}

#[test]
fn a_kem_payload_of_another_length_is_ignored() {
    let router = TestRouter::start(1);
    for payload in [vec![], vec![1; 1_183], vec![1; 1_185]] {
        let mut request = request();
        request.kem_payload = Some(payload);
        let reply = LinkReply::decode(&first_reply(&router, &request.encode())).unwrap();
        assert_eq!(reply.kem_payload, None);
        assert_eq!(reply.public_key.len(), 32);
    }
}

/// What the router answers to this first message.
#[track_caller]
fn first_reply(router: &TestRouter, first_message: &[u8]) -> Vec<u8> {
    let mut http2 = router.connect_raw();
    http2.open();
    http2.send_message(first_message);
    match http2.next_event() {
        Event::Message(reply) => reply,
        other => panic!("a reply was expected, not {other:?}"),
    }
}

#[test]
fn the_reply_echoes_the_type_and_an_unknown_one_as_remote() {
    let router = TestRouter::start_with(1, |config| {
        config.node_id = "router".to_owned();
        config.domain_name = Some("blue".to_owned());
    });
    for (asked, echoed) in [(0, 0), (1, 1), (2, 2), (3, 0), (-1, 0), (i32::MAX, 0)] {
        let request = request();
        let payload = wire::LinkNegotiationPayload {
            link_id: request.link_id.clone(),
            slim_version: request.version,
            link_ecdh_public_key: request.public_key,
            connection_type: asked,
            deployment_name: "blue".to_owned(),
            ..Default::default()
        };
        let message = wire::Message {
            message_type: Some(MessageType::Link(wire::Link {
                link_type: Some(wire::link::LinkType::LinkNegotiation(payload)),
            })),
            ..Default::default()
        };
        let reply = first_reply(&router, &message.encode_to_vec());
        let reply = wire::Message::decode(&reply[..]).unwrap();
        let Some(MessageType::Link(wire::Link {
            link_type: Some(wire::link::LinkType::LinkNegotiation(reply)),
        })) = reply.message_type
        else {
            panic!("{reply:?}");
        };
        assert_eq!(reply.connection_type, echoed);
        assert!(reply.is_reply);
        assert_eq!(reply.link_id, request.link_id);
        assert_eq!(reply.node_id, "router");
        assert_eq!(reply.deployment_name, "blue");
        assert_eq!(reply.link_ecdh_public_key.len(), 32);
    }
}

#[test]
fn a_peer_that_is_this_router_or_of_another_deployment_is_refused_after_the_reply() {
    let router = TestRouter::start_with(2, |config| {
        config.node_id = "router".to_owned();
        config.domain_name = Some("blue".to_owned());
    });
    let peer = |node_id: &str, deployment_name: &str| Dialer {
        connection_type: ConnectionType::Peer,
        node_id: node_id.to_owned(),
        deployment_name: deployment_name.to_owned(),
        ..dialer()
    };
    let refused = [
        (
            peer("router", "blue"),
            "self-connection rejected: same node_id",
        ),
        (peer("other", "green"), "deployment_name mismatch"),
        (peer("other", ""), "deployment_name mismatch"),
    ];
    for (dialer, text) in refused {
        // It takes a reply to get here.
        let mut client = Client::negotiate(router.connect_raw(), dialer);
        assert_eq!(client.expect_status(PERMISSION_DENIED), text);
    }
    router.await_count("ended_negotiation", 3);
    router.await_count("links_opened", 0);
    // Only peers are asked, and a peer of the deployment is none of these.
    let welcome = [
        peer("other", "blue"),
        Dialer {
            connection_type: ConnectionType::Edge,
            ..peer("router", "green")
        },
        Dialer {
            connection_type: ConnectionType::Remote,
            ..peer("router", "green")
        },
    ];
    for dialer in welcome {
        Client::negotiate(router.connect_raw(), dialer).subscribe(&name("app"));
    }
}

#[test]
fn a_router_without_a_deployment_takes_peers_of_any() {
    let router = TestRouter::start(1);
    let peer = Dialer {
        connection_type: ConnectionType::Peer,
        deployment_name: "green".to_owned(),
        ..dialer()
    };
    Client::negotiate(router.connect_raw(), peer).subscribe(&name("app"));
}

#[test]
fn a_lax_listener_follows_the_table_of_unsigned_messages() {
    let router = TestRouter::start_with(2, |config| {
        config.listeners[0].require_header_mac = false;
    });
    let lax = Dialer {
        policy: MacPolicy::Lax,
        ..dialer()
    };
    let mut keyed = Client::negotiate(router.connect_raw(), lax);
    assert!(keyed.established.key.is_some());
    // With a key: subscriptions may be unsigned, publishes may not, and nothing may be signed wrongly.
    keyed.send_bytes(&subscribe(&name("keyed"), 1).encode_to_vec());
    keyed.expect_ack(1);
    keyed.send_bytes(&publish(&name("keyed"), &name("keyless"), b"x").encode_to_vec());
    router.await_count("dropped_mac_missing", 1);
    let mut forged = subscribe(&name("forged"), 2);
    header_mut(&mut forged).header_mac = Some(vec![1; 32]);
    keyed.send_bytes(&forged.encode_to_vec());
    router.await_count("dropped_mac_wrong", 1);

    // Without: the reply has no key either, and only what is unsigned passes.
    let mut keyless = router.connect_raw();
    keyless.open();
    let mut request = request();
    request.public_key.clear();
    keyless.send_message(&request.encode());
    let Event::Message(reply) = keyless.next_event() else {
        panic!("a reply");
    };
    assert!(LinkReply::decode(&reply).unwrap().public_key.is_empty());
    keyless.send_message(&subscribe(&name("keyless"), 3).encode_to_vec());
    let ack = Event::Message(subscription_ack(3, Ok(())));
    assert_eq!(keyless.next_event(), ack);
    keyless.send_message(&publish(&name("keyless"), &name("keyed"), b"unsigned").encode_to_vec());
    keyed.expect_blob(b"unsigned");
    let mut forged = publish(&name("keyless"), &name("keyed"), b"signed with what?");
    header_mut(&mut forged).header_mac = Some(vec![1; 32]);
    keyless.send_message(&forged.encode_to_vec());
    router.await_count("dropped_mac_wrong", 2);
    // What it gets is whole, and has no tag: a node without a key drops what has one.
    keyed.publish(&name("keyless"), b"to the keyless");
    let Event::Message(got) = keyless.next_event() else {
        panic!("a publish");
    };
    let Some(MessageType::Publish(got)) = wire::Message::decode(&got[..]).unwrap().message_type
    else {
        panic!("a publish");
    };
    assert_eq!(blob(&got), b"to the keyless");
    let header = got.header.unwrap();
    assert_eq!((header.ttl, header.header_mac), (7, None));
}

#[test]
fn a_unix_socket_serves_like_tcp() {
    let directory = std::env::temp_dir().join(format!("slim-negotiation-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("dp.sock");
    let router = TestRouter::start_with(2, |config| {
        use slim_router::config::{ListenAddress, ListenerConfig};
        let listener = ListenerConfig::new(ListenAddress::Unix(path));
        config.listeners.push(listener);
    });
    let mut local = Client::negotiate(Http2::connect_unix(&router.unix_path()), dialer());
    let mut remote = router.connect();
    local.subscribe(&name("local"));
    remote.subscribe(&name("remote"));
    local.publish(&name("remote"), b"out");
    remote.expect_blob(b"out");
    remote.publish(&name("local"), &vec![7; 300_000]);
    assert_eq!(local.next_publication().blob(), vec![7; 300_000]);
    drop(router);
    assert!(!directory.join("dp.sock").exists());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_router_that_drains_leaves_its_successor_the_unix_socket() {
    use slim_router::config::{ListenAddress, ListenerConfig};
    let directory = std::env::temp_dir().join(format!("slim-successor-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("dp.sock");
    let start = || {
        TestRouter::start_with(1, |config| {
            let listener = ListenerConfig::new(ListenAddress::Unix(path.clone()));
            config.listeners = vec![listener];
        })
    };
    let router = start();
    router.router().drain();
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::os::unix::net::UnixStream::connect(&path).is_ok() {
        assert!(std::time::Instant::now() < deadline, "it still listens");
    }
    let successor = start();
    drop(router);
    let mut client = Client::negotiate(Http2::connect_unix(&path), dialer());
    client.subscribe(&name("here"));
    drop((client, successor));
    assert!(!path.exists());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_client_that_half_closes_resets_or_hangs_up_has_ended_its_link() {
    for shards in [1, 2] {
        let router = TestRouter::start(shards);
        let mut publisher = router.connect();
        let ways: [fn(&mut Http2); 4] = [
            |http2| http2.send_frame(kind::DATA, flag::END_STREAM, 1, &[]),
            // CANCEL, then GOAWAY: how existing clients leave.
            |http2| http2.send_frame(kind::RST_STREAM, 0, 1, &8u32.to_be_bytes()),
            |http2| http2.shut_down_writing(),
            |_| {},
        ];
        for (way, leave) in ways.into_iter().enumerate() {
            let mut client = router.connect();
            let own = id_name("client", way as u128);
            client.subscribe(&own);
            publisher.publish(&own, b"hello");
            client.expect_blob(b"hello");
            leave(&mut client.http2);
            if way == 0 {
                assert_eq!(client.expect_status(0), "");
            }
            drop(client);
            router.await_fall("connections_open", 1);
        }
        publisher.subscribe(&name("still here"));
    }
}
