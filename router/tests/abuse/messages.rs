//! Attacks on SLIM itself: by links that have negotiated as everybody does.

use std::time::Duration;

use slim_proto::message::subscription_ack;
use slim_proto::message::wire::{self, Wire as _, message::MessageType};

use crate::common::{
    Client, Event, Http2, Inbound, dialer, header_mut, id_name, name, publish, sign, subscribe,
    unsubscribe,
};
use crate::process::Process;
use crate::scene::{Bounds, MEGABYTE, Scene};
use crate::wire::frame;

#[test]
fn messages_that_go_nowhere_are_dropped_at_the_price_of_reading_them() {
    const OF_EACH_KIND: usize = 1_000;
    let scene = Scene::new();
    let mut bad = scene.link();
    let changed = |change: &dyn Fn(&mut wire::SlimHeader)| {
        let mut message = publish(&name("bad"), &name("nobody"), b"x");
        change(header_mut(&mut message));
        message
    };
    let unsigned = changed(&|_| {});
    let forged = changed(&|header| header.header_mac = Some(vec![7; 32]));
    let spent = changed(&|header| header.ttl = 0);
    let headless = wire::Message {
        message_type: Some(MessageType::Publish(wire::Publish::default())),
        metadata: Default::default(),
    };
    let kinds: [(&str, u64, Vec<u8>); 10] = [
        ("dropped_unknown_type", 2, Vec::new()),
        ("dropped_unknown_type", 2, vec![0xfa, 0x7f, 0x03, 1, 2, 3]),
        ("dropped_second_link", 1, dialer().dial().unwrap().1),
        ("dropped_stray_ack", 1, subscription_ack(5, Ok(()))),
        ("dropped_mac_missing", 1, unsigned.encode_to_vec()),
        ("dropped_mac_wrong", 1, forged.encode_to_vec()),
        ("dropped_incomplete", 1, headless.encode_to_vec()),
        ("dropped_ttl", 1, sign(bad.mac(), &spent)),
        ("dropped_no_route", 1, sign(bad.mac(), &unsigned)),
        // Without an id nothing is answered.
        (
            "subscriptions_refused",
            1,
            sign(bad.mac(), &unsubscribe(&name("bystander 0"), 0)),
        ),
    ];
    let bounds = Bounds {
        memory_bytes: 4 * MEGABYTE,
        processor_time: MESSAGE_TIME_MAX * (kinds.len() * OF_EACH_KIND) as u32,
    };
    scene.survives(bounds, || {
        for (.., message) in &kinds {
            for _ in 0..OF_EACH_KIND / 100 {
                bad.http2.send_messages(&vec![message; 100]);
            }
        }
        bad.subscribe(&name("behind them"));
    });
    let mut expected: Vec<_> = kinds
        .iter()
        .map(|(counter, kinds, _)| (*counter, kinds * OF_EACH_KIND as u64))
        .collect();
    expected.dedup();
    scene.ends_with(&expected);
}

/// Processor time that an unoptimised router may spend on one small message, several times what it does.
const MESSAGE_TIME_MAX: Duration = Duration::from_micros(500);

/// A field of bytes (protobuf wire type 2).
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

/// What becomes of a message of hostile shape.
enum Fate {
    /// Its link ends with status INVALID_ARGUMENT.
    Undecodable,
    /// It is counted here, and its link goes on.
    Dropped(&'static str),
}

#[test]
fn messages_of_hostile_shape_cost_what_they_weigh() {
    const BYTES: usize = 1 << 20;
    let scene = Scene::new();
    let good = publish(&name("bad"), &name("nobody"), b"x").encode_to_vec();
    let member = |bytes: &[u8]| field(3, bytes);
    let whole = |change: &dyn Fn(&mut wire::Message)| {
        let mut message = publish(&name("bad"), &name("nobody"), b"x");
        change(&mut message);
        message
    };
    let many_entries = whole(&|message| {
        message.metadata = (0..20_000)
            .map(|nth| (format!("{nth:x}"), "v".repeat(30)))
            .collect();
    });
    let long_identity = whole(&|message| header_mut(message).identity = "i".repeat(BYTES));
    let long_name = whole(&|message| {
        let name = header_mut(message).destination.as_mut().unwrap();
        name.str_name.as_mut().unwrap().str_component_0 = "o".repeat(BYTES);
    });
    let nested = (0..19).fold(vec![0; BYTES >> 4], |inner, _| field(15, &inner));
    let shapes: Vec<(&str, Vec<u8>, bool, Fate)> = vec![
        ("open groups", vec![0x3b; BYTES], false, Fate::Undecodable),
        (
            "groups in groups",
            [vec![0x3b; BYTES / 2], vec![0x3c; BYTES / 2]].concat(),
            false,
            Fate::Undecodable,
        ),
        (
            "groups in a row",
            [0x3b, 0x3c].repeat(BYTES / 2),
            false,
            Fate::Dropped("dropped_unknown_type"),
        ),
        (
            "unknown fields in unknown fields",
            nested,
            false,
            Fate::Dropped("dropped_unknown_type"),
        ),
        (
            "unknown numbers",
            [0x38, 0x01].repeat(BYTES / 2),
            false,
            Fate::Dropped("dropped_unknown_type"),
        ),
        (
            "a length that goes past the end",
            [member(&[1]), vec![0x1a, 0xff, 0xff, 0xff, 0x7f]].concat(),
            false,
            Fate::Undecodable,
        ),
        (
            "a varint without end",
            [vec![0x38], vec![0xff; BYTES]].concat(),
            false,
            Fate::Undecodable,
        ),
        (
            "a member again and again",
            member(&[]).repeat(BYTES / 2),
            false,
            Fate::Dropped("dropped_incomplete"),
        ),
        (
            "a header again and again",
            member(&field(1, &[0x20, 1]).repeat(BYTES / 4)),
            false,
            Fate::Dropped("dropped_incomplete"),
        ),
        (
            "a whole message again and again",
            good.repeat(BYTES / good.len()),
            false,
            Fate::Dropped("dropped_mac_missing"),
        ),
        (
            "twenty thousand entries",
            many_entries.encode_to_vec(),
            true,
            Fate::Dropped("dropped_no_route"),
        ),
        (
            "an identity of a megabyte",
            long_identity.encode_to_vec(),
            true,
            Fate::Dropped("dropped_long_header"),
        ),
        (
            "a name of a megabyte",
            long_name.encode_to_vec(),
            true,
            Fate::Dropped("dropped_long_header"),
        ),
    ];
    // All that is held at once is the message, its growth, and its merger; nothing is kept from one to the next.
    let bounds = |bytes: usize| Bounds {
        memory_bytes: 12 * MEGABYTE,
        processor_time: Duration::from_nanos(1_500) * bytes as u32 + Duration::from_millis(100),
    };
    let mut expected = std::collections::BTreeMap::new();
    for (what, message, is_whole, fate) in shapes {
        let mut bad = scene.link();
        let message = if is_whole {
            sign(bad.mac(), &wire::Message::decode(&message[..]).unwrap())
        } else {
            message
        };
        println!("{what}, {} bytes:", message.len());
        scene.survives(bounds(message.len()), || {
            bad.send_bytes(&message);
            let counter = match fate {
                Fate::Undecodable => {
                    bad.expect_status(3);
                    "ended_undecodable"
                }
                Fate::Dropped(counter) => {
                    bad.subscribe(&name("behind it"));
                    counter
                }
            };
            *expected.entry(counter).or_insert(0) += 1;
        });
    }
    scene.ends_with(&expected.into_iter().collect::<Vec<_>>());
}

#[test]
fn forged_sources_and_connections_reach_nobody_but_the_destination() {
    let scene = Scene::new();
    let mut receiver = scene.link();
    receiver.subscribe(&name("receiver"));
    let mut bad = scene.link();
    let bounds = Bounds {
        memory_bytes: MEGABYTE,
        processor_time: Duration::from_secs(1),
    };
    scene.survives(bounds, || {
        for forged in [0, 1, 2, 3, 1 << 32, u64::MAX] {
            for source in ["bystander 0", "receiver", "bad"] {
                let mut message = publish(&name(source), &name("receiver"), source.as_bytes());
                let header = header_mut(&mut message);
                header.incoming_conn = Some(forged);
                header.recv_from = Some(forged);
                header.forward_to = Some(forged);
                bad.send(&message);
                receiver.expect_blob(source.as_bytes());
            }
        }
        // Nor can it end what others subscribed to. If a bystander heard anything of all this, it would say so.
        for id in 1..=20 {
            bad.send(&unsubscribe(&name("bystander 0"), id));
            let ack = bad.next_ack();
            assert!(!ack.success, "{ack:?}");
        }
        // It is not its own receiver, whoever it says it is.
        bad.subscribe(&name("bad"));
        bad.send(&publish(&name("bystander 0"), &name("bad"), b"to myself"));
        receiver.publish(&name("bad"), b"behind it");
        bad.expect_blob(b"behind it");
    });
    scene.ends_with(&[("dropped_no_route", 1), ("subscriptions_refused", 20)]);
}

#[test]
fn a_loop_between_two_routers_ends_with_the_ttl() {
    const HOPS: u32 = 8;
    let scene = Scene::new();
    let other = Process::start();
    let other_link = || Client::negotiate(Http2::connect(other.address), dialer());
    // Hears on one, repeats on the other, both ways; a sender never hears itself, so two links on each.
    let mut hears = [scene.link(), other_link()];
    let mut repeats = [other_link(), scene.link()];
    for ear in &mut hears {
        ear.subscribe(&name("loop"));
    }
    let bounds = Bounds {
        memory_bytes: MEGABYTE,
        processor_time: Duration::from_secs(1),
    };
    scene.survives(bounds, || {
        let mut message = publish(&name("loop"), &name("loop"), b"again");
        header_mut(&mut message).ttl = HOPS;
        repeats[1].send(&message);
        for hop in 1..HOPS {
            let at = (hop as usize + 1) % 2;
            let mut heard = hears[at].next_publication().message;
            assert_eq!(header_mut(&mut heard).ttl, HOPS - hop);
            repeats[at].send(&heard);
        }
        // Both routers have dealt with all of it, and nobody hears anything more.
        for (link, ear) in repeats.iter_mut().zip([1, 0]) {
            link.publish(&name("loop"), b"the end");
            hears[ear].expect_blob(b"the end");
        }
    });
    drop((hears, repeats));
    let counts = other.stop();
    assert_eq!(counts.get("dropped_ttl"), Some(&1));
    scene.ends_with(&[]);
}

/// Sends in lots, and takes every answer of a lot before the next.
fn ask_all(client: &mut Client, messages: Vec<wire::Message>) {
    let signed: Vec<_> = messages
        .iter()
        .map(|message| sign(client.mac(), message))
        .collect();
    for lot in signed.chunks(500) {
        client.http2.send_messages(lot);
        for _ in lot {
            assert!(client.next_ack().success);
        }
    }
}

#[test]
fn subscriptions_take_what_they_weigh_and_go_with_their_connection() {
    const SUBSCRIPTIONS: usize = 4_000;
    let scene = Scene::new();
    let sockets = scene.sockets();
    let round = |memory_bytes| {
        let mut bad = scene.link();
        let names = (1..=SUBSCRIPTIONS as u64).map(|nth| {
            subscribe(
                &id_name(&format!("service {}", nth % 100), u128::from(nth)),
                nth,
            )
        });
        let messages: Vec<_> = names.collect();
        let bounds = Bounds {
            memory_bytes,
            processor_time: MESSAGE_TIME_MAX * 2 * SUBSCRIPTIONS as u32,
        };
        scene.survives(bounds, || {
            ask_all(&mut bad, messages);
            drop(bad);
            scene.await_sockets(sockets);
        });
    };
    round(SUBSCRIPTIONS as u64 * 1_024);
    // The second finds little less room than it needs, and from then on it is the same again and again.
    round(2 * MEGABYTE);
    round(MEGABYTE / 2);
    round(MEGABYTE / 2);
    scene.ends_with(&[]);
}

#[test]
fn churn_leaves_nothing_behind() {
    const ROUNDS: u64 = 2_500;
    let scene = Scene::new();
    let mut bad = scene.link();
    let mut round = |names: std::ops::Range<u64>| {
        let messages = names.flat_map(|nth| {
            let name = name(&format!("fresh {nth}"));
            [subscribe(&name, nth), unsubscribe(&name, nth)]
        });
        ask_all(&mut bad, messages.collect());
    };
    round(1..501);
    let bounds = Bounds {
        memory_bytes: MEGABYTE,
        processor_time: MESSAGE_TIME_MAX * 2 * 2 * ROUNDS as u32,
    };
    scene.survives(bounds, || round(501..501 + ROUNDS));
    scene.ends_with(&[]);
}

#[test]
fn a_message_cut_short_by_the_end_of_its_link_is_counted_and_said() {
    let scene = Scene::new();
    let bounds = Bounds {
        memory_bytes: 2 * MEGABYTE,
        processor_time: Duration::from_secs(1),
    };
    const LINKS: usize = 5;
    let links: Vec<Client> = (0..LINKS).map(|_| scene.link()).collect();
    scene.survives(bounds, || {
        for mut bad in links {
            let truncated = [0, 0, 0, 1, 0, 0x1a, 0xff];
            bad.http2.send_raw(&frame(0, 0x1, 1, &truncated));
            let Inbound::Other(Event::Headers {
                fields,
                end_stream: true,
            }) = bad.next()
            else {
                panic!("trailers come next");
            };
            assert_eq!(fields[0], ("grpc-status".to_owned(), "13".to_owned()));
            bad.http2.events_to_end();
        }
    });
    scene.ends_with(&[("ended_framing", LINKS as u64)]);
}
