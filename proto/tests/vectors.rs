//! The published byte vectors of dataplane section 11.

use slim_proto::link::{
    Acceptor, ConnectionType, LinkKey, LinkMac, LinkReply, LinkRequest, MacPolicy, Preimage,
    sign_message,
};
use slim_proto::message::wire::{self, Wire as _};
use slim_proto::message::{self, subscription_ack};
use slim_proto::name::{InstanceId, Name, component_hash};
use slim_proto::route_header::{Fanout, Kind, Parsed, RouteHeader, parse};

const APP_ID: u128 = 0x48b1da600caab75fa73e4fe334bf1482;
const LINK_1: &str = "00000000-0000-4000-8000-000000000001";
const LINK_2: &str = "00000000-0000-4000-8000-000000000002";

const SUBSCRIBE: &str = "
    0ad9010acc010a4a0a3808bbacaab7b780969f870110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e58601221508dfee
    aae580ccf6d8481082a9fca5b3fc939fa701120e0a036f726712026e731a03617070124a0a3808bbacaab7b780969f87
    0110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e58601221508dfeeaae580ccf6d8481082a9fca5b3fc939fa701120e
    0a036f726712026e731a036170701a03746f6b20012a05332e342e36300848015a20d4bb59d8222a777c5c7afccc43a0
    953245399dcbe2451aa91540d5522f2115fb10ef9bafcdf8acd19101";
const PUBLISH: &str = "
    1af8010ad4010a4a0a3808bbacaab7b780969f870110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e58601221508dfee
    aae580ccf6d8481082a9fca5b3fc939fa701120e0a036f726712026e731a0361707012520a3608c2d7f58beb85aace16
    10e8acfec9fcf8c0c9211882e3daadfa91afc87b221608ffffffffffffffffff0110ffffffffffffffffff0112180a06
    61676e746379120764656661756c741a05616c6963651a03746f6b20012a05332e342e36300848015a20da2fdce29be3
    7c1def101236270faa1cddbad604a620c8960d5172986ad4e558120808011001180720091a150a130a0a746578742f70
    6c61696e120568656c6c6f22060a016b120176";
const LINK_REQUEST: &str = "
    2a5b0a590a2430303030303030302d303030302d343030302d383030302d3030303030303030303030311205332e342e
    36222007a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c280232066e6f64652d61";
const LINK_REPLY: &str = "
    2a5d0a5b0a2430303030303030302d303030302d343030302d383030302d3030303030303030303030311205332e342e
    361801222064b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466280232066e6f64652d72";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn counting_key(first: u8) -> LinkKey {
    LinkKey::from_bytes(std::array::from_fn(|i| first + i as u8))
}

fn routed(message: &[u8]) -> RouteHeader {
    match parse(message) {
        Ok(Parsed::Routed(header)) => header,
        other => panic!("not routed: {other:?}"),
    }
}

fn preimage_of(message: &[u8]) -> Preimage {
    let mut preimage = Preimage::new();
    preimage.build(message, &routed(message));
    preimage
}

fn app() -> Name {
    Name::new("org", "ns", "app").with_id(InstanceId::new(APP_ID))
}

fn header(destination: Name) -> wire::SlimHeader {
    wire::SlimHeader {
        source: Some(app().to_wire()),
        destination: Some(destination.to_wire()),
        identity: "tok".to_owned(),
        fanout: 1,
        version: "3.4.6".to_owned(),
        ttl: 8,
        incoming_conn: Some(1),
        header_mac: Some(vec![0; 32]),
        ..Default::default()
    }
}

#[test]
fn component_hashes_are_the_published_ones() {
    for (part, hash) in [
        ("org", 0x873e580376ea963b_u64),
        ("ns", 0xeef9769a4c6990d1),
        ("app", 0x86cb542776a5f6d5),
        ("agntcy", 0x169ca82eb17d6bc2),
        ("default", 0x219303c7c93f9668),
        ("alice", 0x7b90bc8fa5b6b182),
        ("Org", 0x83070743fdac18b4),
        ("Default", 0x1b2714f41681175b),
        ("App", 0x35475d1c648e04df),
        ("", 0x95634172a60b7544),
        ("x", 0xcd01b01a74097893),
        ("café", 0x08b51298162ae6cd),
    ] {
        assert_eq!(component_hash(part), hash, "{part}");
    }
}

#[test]
fn names_encode_as_published() {
    let name = Name::new("org", "ns", "app");
    assert_eq!(
        name.to_wire().encode_to_vec(),
        hex("0a3908bbacaab7b780969f870110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e58601221608ffffffffffffffffff01
             10ffffffffffffffffff01120e0a036f726712026e731a03617070")
    );
    assert_eq!(
        name.with_id(InstanceId::new(42)).to_wire().encode_to_vec(),
        hex("0a2508bbacaab7b780969f870110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e586012202102a120e0a036f72671202
             6e731a03617070")
    );
    assert_eq!(
        Name::new("a", "b", "c")
            .with_id(InstanceId::new(0))
            .to_wire()
            .encode_to_vec(),
        hex(
            "0a200880a5a982a591c0fa3f1084d59dd78ac8e7b50918b7bf90a6e581ecbf55220012090a01611201621a0163"
        )
    );
    let id = app().to_wire().name.unwrap().name_id.unwrap();
    assert_eq!(
        id.encode_to_vec(),
        hex("08dfeeaae580ccf6d8481082a9fca5b3fc939fa701")
    );
}

#[test]
fn the_subscribe_vector_is_read_as_what_it_says() {
    let message = hex(SUBSCRIBE);
    assert_eq!(message.len(), 220);
    let header = routed(&message);
    assert_eq!(header.kind, Kind::Subscribe);
    assert_eq!(header.destination, app().route_name());
    assert_eq!(header.source(), app().route_name());
    assert!(header.destination_id_present);
    assert_eq!(header.fanout, Fanout::One);
    assert_eq!(header.ttl, 8);
    assert_eq!(header.subscription_id, 0x0123456789abcdef);
    assert_eq!(header.identity(&message), b"tok");
    assert_eq!(
        header.destination_name(&message),
        app().to_wire().encode_to_vec()
    );
    assert!(header.is_patchable());

    let mut unsubscribe = message.clone();
    unsubscribe[0] = 0x12;
    assert_eq!(routed(&unsubscribe).kind, Kind::Unsubscribe);
}

#[test]
fn the_subscribe_vector_is_built_and_signed_alike() {
    let subscribe = wire::Subscribe {
        header: Some(header(app())),
        subscription_id: 0x0123456789abcdef,
    };
    let message = wire::Message {
        message_type: Some(wire::message::MessageType::Subscribe(subscribe)),
        metadata: Default::default(),
    };
    let mut mac = LinkMac::new(&counting_key(0), LINK_1);
    assert_eq!(
        sign_message(&mut mac, &message.encode_to_vec()).unwrap(),
        hex(SUBSCRIBE)
    );
}

#[test]
fn the_header_mac_vectors_verify() {
    let message = hex(SUBSCRIBE);
    let mut preimage = preimage_of(&message);
    let mut mac = LinkMac::new(&counting_key(0), LINK_1);
    let tag = hex("d4bb59d8222a777c5c7afccc43a0953245399dcbe2451aa91540d5522f2115fb");
    assert_eq!(mac.tag(&mut preimage, 8)[..], tag);
    assert!(mac.verify(&mut preimage, 8, &tag));
    assert!(!mac.verify(&mut preimage, 7, &tag));
    assert!(!mac.verify(&mut preimage, 8, &tag[1..]));
    assert!(!LinkMac::new(&counting_key(0), LINK_2).verify(&mut preimage, 8, &tag));

    let classical = hex("4d75a6d9955cf4a8cfe7f09e79b455d1da8a8581ea99663aca407eaf7c3e2aac");
    let mut mac = LinkMac::new(&LinkKey::from_bytes(classical.try_into().unwrap()), LINK_1);
    let tag = hex("8883cb0901a650ecdc88f481bc1a65424df6b6d32e2db2f1195460ae1164ff50");
    assert_eq!(mac.tag(&mut preimage, 8)[..], tag);
}

#[test]
fn the_publish_vector_is_patched_at_the_published_offsets() {
    let received = hex(PUBLISH);
    assert_eq!(received.len(), 259);
    let header = routed(&received);
    assert_eq!(header.kind, Kind::Publish);
    assert_eq!(
        header.destination,
        Name::new("agntcy", "default", "alice").route_name()
    );
    assert!(header.is_patchable());
    let mut preimage = preimage_of(&received);
    let mut ingress = LinkMac::new(&counting_key(0), LINK_1);
    assert!(ingress.verify(&mut preimage, header.ttl, header.tag(&received).unwrap()));

    let mut egress = LinkMac::new(&counting_key(0x80), LINK_2);
    let tag = egress.tag(&mut preimage, header.ttl_forwarded());
    let mut head = received[..header.head_len()].to_vec();
    header.patch(&mut head, &tag);
    let forwarded = [&head, &received[header.head_len()..]].concat();

    let mut expected = received.clone();
    expected[181] = 7;
    expected[186..218].copy_from_slice(&hex(
        "2ba6f26febd3041c891dcf95c1390f416e1c3b5dae33464d67c17c27506595e3",
    ));
    assert_eq!(forwarded, expected);
}

#[test]
fn the_publish_vector_is_built_alike() {
    let session = wire::SessionHeader {
        session_type: wire::SessionType::PointToPoint.into(),
        session_message_type: wire::SessionMessageType::Msg.into(),
        session_id: 7,
        message_id: 9,
    };
    let payload = wire::ApplicationPayload {
        payload_type: "text/plain".to_owned(),
        blob: b"hello".to_vec(),
    };
    let publish = wire::Publish {
        header: Some(header(Name::new("agntcy", "default", "alice"))),
        session: Some(session),
        msg: Some(wire::Content {
            content_type: Some(wire::content::ContentType::AppPayload(payload)),
        }),
    };
    let message = wire::Message {
        message_type: Some(wire::message::MessageType::Publish(publish)),
        metadata: [("k".to_owned(), "v".to_owned())].into(),
    };
    let mut mac = LinkMac::new(&counting_key(0), LINK_1);
    assert_eq!(
        sign_message(&mut mac, &message.encode_to_vec()).unwrap(),
        hex(PUBLISH)
    );
}

#[test]
fn acks_encode_as_published_and_read_back() {
    let success = subscription_ack(0x0123456789abcdef, Ok(()));
    assert_eq!(success, hex("320c08ef9bafcdf8acd191011001"));
    let text = "subscription id not found: 99";
    let error = subscription_ack(99, Err(text));
    assert_eq!(
        error,
        hex("322108631a1d737562736372697074696f6e206964206e6f7420666f756e643a203939")
    );
    let Ok(Parsed::SubscriptionAck(ack)) = parse(&error) else {
        panic!("not an ack")
    };
    assert_eq!(
        (ack.subscription_id, ack.success, ack.error.of(&error)),
        (99, false, text.as_bytes())
    );
}

#[test]
fn a_subscribe_for_a_peer_has_no_identity_and_no_mac() {
    let message = message::peer_subscribe(app().to_wire(), 5, 2);
    let header = routed(&message);
    assert_eq!(
        (header.source(), header.destination),
        (app().route_name(), app().route_name())
    );
    assert_eq!(
        (header.ttl, header.subscription_id, header.fanout),
        (2, 5, Fanout::One)
    );
    assert_eq!(header.tag(&message), None);
    assert!(header.identity(&message).is_empty());
}

#[test]
fn link_messages_encode_as_published_and_read_back() {
    let request = LinkRequest {
        link_id: LINK_1.to_owned(),
        version: "3.4.6".to_owned(),
        public_key: hex("07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c"),
        connection_type: ConnectionType::Edge,
        node_id: "node-a".to_owned(),
        deployment_name: String::new(),
        kem_payload: None,
    };
    assert_eq!(request.encode(), hex(LINK_REQUEST));
    assert_eq!(LinkRequest::decode(&hex(LINK_REQUEST)), Ok(request));

    let reply = LinkReply {
        link_id: LINK_1.to_owned(),
        version: "3.4.6".to_owned(),
        public_key: hex("64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466"),
        connection_type: ConnectionType::Edge,
        node_id: "node-r".to_owned(),
        deployment_name: String::new(),
        kem_payload: None,
    };
    assert_eq!(reply.encode(), hex(LINK_REPLY));
    assert_eq!(LinkReply::decode(&hex(LINK_REPLY)), Ok(reply));
}

#[test]
fn the_published_request_is_accepted() {
    let acceptor = Acceptor {
        node_id: "node-r".to_owned(),
        version: "3.4.6".to_owned(),
        deployment_name: String::new(),
        policy: MacPolicy::Strict,
        enforce_pqc: false,
    };
    let accepted = acceptor.accept(&hex(LINK_REQUEST)).unwrap();
    assert_eq!(accepted.connection_type, ConnectionType::Edge);
    assert_eq!(
        (accepted.link_id.as_str(), accepted.peer_node_id.as_str()),
        (LINK_1, "node-a")
    );
    assert!(accepted.key.is_some());
    assert_eq!(accepted.refusal_after_reply, None);
    let reply = LinkReply::decode(&accepted.reply).unwrap();
    assert_eq!(
        (reply.public_key.len(), reply.connection_type),
        (32, ConnectionType::Edge)
    );
}
