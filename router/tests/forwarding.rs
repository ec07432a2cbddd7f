//! Who gets a publish, and in which bytes (dataplane 4.4, 6.2, 11.4).

mod common;

use common::*;
use slim_proto::link::sign_message;
use slim_proto::message::wire::{self, Wire as _};
use slim_proto::name::{InstanceId, Name};

/// Sender and receivers on one shard, and spread over several.
const SHARDS: [u16; 3] = [1, 2, 4];

/// dataplane 11.4: from org/ns/app to agntcy/default/alice.
const PUBLISH: &str = "
    1af8010ad4010a4a0a3808bbacaab7b780969f870110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e58601221508dfee
    aae580ccf6d8481082a9fca5b3fc939fa701120e0a036f726712026e731a0361707012520a3608c2d7f58beb85aace16
    10e8acfec9fcf8c0c9211882e3daadfa91afc87b221608ffffffffffffffffff0110ffffffffffffffffff0112180a06
    61676e746379120764656661756c741a05616c6963651a03746f6b20012a05332e342e36300848015a20da2fdce29be3
    7c1def101236270faa1cddbad604a620c8960d5172986ad4e558120808011001180720091a150a130a0a746578742f70
    6c61696e120568656c6c6f22060a016b120176";
/// dataplane 11.2: org/ns/app subscribes to its own id.
const SUBSCRIBE: &str = "
    0ad9010acc010a4a0a3808bbacaab7b780969f870110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e58601221508dfee
    aae580ccf6d8481082a9fca5b3fc939fa701120e0a036f726712026e731a03617070124a0a3808bbacaab7b780969f87
    0110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e58601221508dfeeaae580ccf6d8481082a9fca5b3fc939fa701120e
    0a036f726712026e731a036170701a03746f6b20012a05332e342e36300848015a20d4bb59d8222a777c5c7afccc43a0
    953245399dcbe2451aa91540d5522f2115fb10ef9bafcdf8acd19101";
/// Where 11.4 differs from hop to hop.
const TTL_AT: usize = 181;
const INCOMING_CONN_AT: usize = 183;
const TAG_AT: std::ops::Range<usize> = 186..218;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn the_published_publish_is_forwarded_with_another_ttl_and_tag_and_no_other_change() {
    for shards in SHARDS {
        let router = TestRouter::start(shards);
        let mut sender = router.connect();
        let mut receivers = Vec::new();
        // To the only one; then to both, for which 2 is as good a number as any and as long as 1.
        for fanout in [1, 2] {
            let mut receiver = router.connect();
            receiver.subscribe(&Name::new("agntcy", "default", "alice"));
            receivers.push(receiver);
            let mut message = wire::Message::decode(&hex(PUBLISH)[..]).unwrap();
            header_mut(&mut message).fanout = fanout;
            let sent = sign_message(&mut sender.mac().clone(), &message.encode_to_vec()).unwrap();
            assert_eq!((sent.len(), sent[TTL_AT]), (259, 8));
            sender.send_bytes(&sent);
            for receiver in &mut receivers {
                let got = receiver.next_publication().bytes;
                assert_eq!(got[TTL_AT], 7);
                assert_eq!(got[INCOMING_CONN_AT], 1);
                assert_ne!(got[TAG_AT], sent[TAG_AT]);
                let mut expected = sent.clone();
                expected[TTL_AT] = 7;
                expected[TAG_AT].copy_from_slice(&got[TAG_AT]);
                assert_eq!(got, expected);
            }
        }
    }
}

#[test]
fn the_published_subscribe_is_acknowledged_in_the_published_bytes() {
    let router = TestRouter::start(1);
    let mut client = router.connect();
    let subscribe = sign_message(&mut client.mac().clone(), &hex(SUBSCRIBE)).unwrap();
    client.send_bytes(&subscribe);
    let ack = Event::Message(hex("320c08ef9bafcdf8acd191011001"));
    assert_eq!(client.http2.next_event(), ack);
    client.subscribe(&name("app"));
    client.send(&unsubscribe(&name("app"), 99));
    let Event::Message(error) = client.http2.next_event() else {
        panic!("an ack");
    };
    assert_eq!(
        error,
        hex("322108631a1d737562736372697074696f6e206964206e6f7420666f756e643a203939")
    );
}

/// What a message must still be after a hop: the same, but for ttl and tag.
fn forwarded(sent: &[u8]) -> wire::Message {
    let mut message = wire::Message::decode(sent).unwrap();
    let header = header_mut(&mut message);
    header.ttl -= 1;
    header.header_mac = None;
    header.recv_from = None;
    header.forward_to = None;
    message
}

fn untagged(publication: &Publication) -> wire::Message {
    let mut message = publication.message.clone();
    header_mut(&mut message).header_mac = None;
    message
}

#[test]
fn messages_of_every_size_and_shape_arrive_unchanged_and_in_order() {
    // Around frame size, read size, the size from which bytes are shared, and more than a window.
    let sizes = [
        0, 1, 100, 15_900, 16_000, 16_100, 16_379, 16_384, 32_000, 32_768, 33_000, 70_000, 300_000,
        2_200_000,
    ];
    for shards in SHARDS {
        let router = TestRouter::start(shards);
        let mut receivers = [(); 3].map(|()| router.connect());
        for receiver in &mut receivers {
            receiver.subscribe(&name("group"));
        }
        let mut sender = router.connect();
        let mut sent = Vec::new();
        for (i, size) in (0u8..).zip(sizes) {
            let mut message = publish(&name("sender"), &name("group"), &vec![i; size]);
            message.metadata.insert("k".into(), "v".into());
            message
                .metadata
                .insert("traceparent".into(), "00-1-2-01".into());
            let header = header_mut(&mut message);
            header.fanout = 0;
            header.e2e_header_sig = Some(vec![i; 64]);
            // Patched in place, with a longer ttl, and rewritten for various reasons.
            match i % 4 {
                1 => header.ttl = 300,
                2 => header.ttl = 128,
                3 => header.forward_to = Some(3),
                _ => header.incoming_conn = None,
            }
            sent.push(sign(sender.mac(), &message));
        }
        sender.http2.send_messages(&sent);
        for receiver in &mut receivers {
            for sent in &sent {
                let got = receiver.next_publication();
                assert!(untagged(&got) == forwarded(sent), "{} bytes", sent.len());
            }
        }
    }
}

#[test]
fn a_header_in_two_parts_is_routed_signed_and_delivered_as_its_merger() {
    for shards in SHARDS {
        let router = TestRouter::start(shards);
        let mut receiver = router.connect();
        receiver.subscribe(&name("app"));
        let mut sender = router.connect();
        let message = publish(&name("sender"), &name("app"), b"whole");
        let signed = sign(sender.mac(), &message);
        // The same member twice merges, and the last scalar wins (dataplane 6.2): first a publish to another name.
        let first = publish(&name("sender"), &name("elsewhere"), b"first").encode_to_vec();
        sender.send_bytes(&[first, signed.clone()].concat());
        let got = receiver.next_publication();
        assert_eq!(untagged(&got), forwarded(&signed));
    }
}

#[test]
fn an_id_reaches_its_subscribers_only_and_null_reaches_the_union_of_all_ids() {
    for shards in SHARDS {
        let router = TestRouter::start(shards);
        let null = name("app");
        let names = [id_name("app", 1), id_name("app", 2), null.clone()];
        let mut receivers = [(); 3].map(|()| router.connect());
        for (receiver, name) in receivers.iter_mut().zip(&names) {
            receiver.subscribe(name);
        }
        let mut sender = router.connect();
        sender.publish_to_all(&names[0], b"to 1");
        receivers[0].expect_blob(b"to 1");
        sender.publish_to_all(&names[1], b"to 2");
        receivers[1].expect_blob(b"to 2");
        sender.publish(&names[1], b"one of 2");
        receivers[1].expect_blob(b"one of 2");
        // 0 is an id like any other, and nobody has it.
        sender.publish_to_all(&id_name("app", 0), b"to nobody");
        sender.publish_to_all(&null, b"to all");
        for receiver in &mut receivers {
            receiver.expect_blob(b"to all");
        }
        router.await_count("dropped_no_route", 1);
    }
}

#[test]
fn who_has_several_ids_of_a_prefix_gets_one_copy_and_one_share() {
    for shards in SHARDS {
        let router = TestRouter::start(shards);
        let mut many = router.connect();
        let mut one = router.connect();
        for id in 0..9 {
            many.subscribe(&id_name("app", id));
        }
        // The same id twice, under two subscription ids, is one more reference.
        many.send(&subscribe(&id_name("app", 0), 1_000));
        many.expect_ack(1_000);
        one.subscribe(&id_name("app", 9));
        let mut sender = router.connect();
        sender.publish_to_all(&name("app"), b"once");
        many.expect_blob(b"once");
        one.expect_blob(b"once");
        for _ in 0..10 {
            sender.publish(&name("app"), b"share");
        }
        sender.publish_to_all(&name("app"), b"end");
        assert_eq!([&mut many, &mut one].map(shares), [5, 5]);
    }
}

/// Publishes until the one that says "end".
fn shares(client: &mut Client) -> u32 {
    let mut shares = 0;
    while client.next_publication().blob() != b"end" {
        shares += 1;
    }
    shares
}

#[test]
fn anycast_turns_evenly_through_all_members_on_all_shards() {
    for shards in SHARDS {
        for members in [1, 2, 3, 5] {
            let router = TestRouter::start(shards);
            let mut receivers: Vec<_> = (0..members).map(|_| router.connect()).collect();
            for receiver in &mut receivers {
                receiver.subscribe(&name("app"));
            }
            let mut sender = router.connect();
            for _ in 0..members * 20 {
                sender.publish(&name("app"), b"share");
            }
            sender.publish_to_all(&name("app"), b"end");
            for receiver in &mut receivers {
                assert_eq!(shares(receiver), 20, "{shards} shards, {members} members");
            }
        }
    }
}

#[test]
fn every_fanout_but_1_means_all() {
    for shards in SHARDS {
        let router = TestRouter::start(shards);
        let mut receivers = [(); 5].map(|()| router.connect());
        for receiver in &mut receivers {
            receiver.subscribe(&name("group"));
        }
        let mut sender = router.connect();
        for fanout in [0, 2, 3, 256, u32::MAX] {
            let blob = fanout.to_be_bytes();
            let mut message = publish(&name("sender"), &name("group"), &blob);
            header_mut(&mut message).fanout = fanout;
            sender.send(&message);
            for receiver in &mut receivers {
                let got = receiver.next_publication();
                assert_eq!((got.blob(), got.header().fanout), (&blob[..], fanout));
            }
        }
    }
}

#[test]
fn a_sender_never_gets_its_own_message() {
    for shards in SHARDS {
        let router = TestRouter::start(shards);
        let mut members = [(); 3].map(|()| router.connect());
        // Alone, it is nobody.
        members[0].subscribe(&name("group"));
        members[0].publish(&name("group"), b"to nobody");
        members[0].publish_to_all(&name("group"), b"to nobody");
        router.await_count("dropped_no_route", 2);
        for member in &mut members[1..] {
            member.subscribe(&name("group"));
        }
        for sender in 0..members.len() {
            members[sender].publish_to_all(&name("group"), &[sender as u8]);
            for (i, member) in members.iter_mut().enumerate() {
                if i != sender {
                    member.expect_blob(&[sender as u8]);
                }
            }
            for _ in 0..10 {
                members[sender].publish(&name("group"), b"share");
            }
            // Behind its shares; the sender's own "end" comes from the next one.
            members[sender].publish_to_all(&name("group"), b"end");
            let total: u32 = (0..members.len())
                .filter(|i| *i != sender)
                .map(|i| shares(&mut members[i]))
                .sum();
            assert_eq!(total, 10);
            let next = (sender + 1) % members.len();
            let marker = id_name("marker", sender as u128);
            members[sender].subscribe(&marker);
            members[next].publish(&marker, b"nothing before");
            members[sender].expect_blob(b"nothing before");
        }
    }
}

#[test]
fn names_are_told_apart_by_every_part_and_every_bit_of_the_id() {
    let router = TestRouter::start(2);
    let base = Name::new("org", "ns", "app").with_id(InstanceId::from_halves(1, 1));
    let others = [
        Name::new("Org", "ns", "app").with_id(base.id()),
        Name::new("org", "Ns", "app").with_id(base.id()),
        Name::new("org", "ns", "App").with_id(base.id()),
        Name::new("", "ns", "app").with_id(base.id()),
        base.clone().with_id(InstanceId::from_halves(1, 2)),
        base.clone().with_id(InstanceId::from_halves(2, 1)),
    ];
    let mut receiver = router.connect();
    let mut other = router.connect();
    receiver.subscribe(&base);
    for name in &others {
        other.subscribe(name);
    }
    let mut sender = router.connect();
    for name in &others {
        sender.publish_to_all(name, b"other");
        other.expect_blob(b"other");
    }
    sender.publish_to_all(&base, b"base");
    receiver.expect_blob(b"base");
}
