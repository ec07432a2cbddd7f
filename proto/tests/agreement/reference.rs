//! What a message means, by prost and by the letter of dataplane 5.5; held against what we make of it. Included by the fuzz
//! targets too, so that there is one reference.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use slim_proto::link::{LinkKey, LinkMac, Preimage};
use slim_proto::message::wire::{self, Wire as _, message::MessageType};
use slim_proto::name::{InstanceId, RouteName};
use slim_proto::route_header::{Fanout, Fault, Kind, Missing, Parsed, RouteHeader, merge, parse};

const KEY: [u8; 32] = [0x5A; 32];
const LINK_ID: &str = "a link";

/// Holds everything `parse` says about `bytes` against prost.
pub fn check(bytes: &[u8]) {
    let decoded = wire::Message::decode(bytes);
    let parsed = match parse(bytes) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Two places where prost is lax and we are not, and no conforming encoder ever is.
            let stricter = error.fault == Fault::Nesting
                || error.fault == Fault::WireType && error.path == "Message.metadata";
            assert!(
                decoded.is_err() || stricter,
                "only we refuse: {error}\n{bytes:02x?}"
            );
            assert!(error.offset <= bytes.len());
            return;
        }
    };
    let decoded =
        decoded.unwrap_or_else(|error| panic!("only prost refuses: {error}\n{bytes:02x?}"));
    match parsed {
        Parsed::Unknown => assert_eq!(decoded.message_type, None),
        Parsed::Link(span) => {
            let link = wire::Link::decode(span.of(bytes)).unwrap();
            assert_eq!(decoded.message_type, Some(MessageType::Link(link)));
        }
        Parsed::SubscriptionAck(ack) => {
            let error = String::from_utf8(ack.error.of(bytes).to_vec()).unwrap();
            let ack = wire::SubscriptionAck {
                subscription_id: ack.subscription_id,
                success: ack.success,
                error,
            };
            assert_eq!(
                decoded.message_type,
                Some(MessageType::SubscriptionAck(ack))
            );
        }
        Parsed::Incomplete { missing } => assert_eq!(reference(&decoded), Err(missing)),
        Parsed::Routed(header) => check_routed(bytes, &header, &decoded),
        Parsed::NeedsMerge => {
            let merged = merge(bytes).unwrap();
            assert_eq!(
                wire::Message::decode(&merged[..]).unwrap(),
                decoded,
                "{bytes:02x?}"
            );
            assert_ne!(parse(&merged), Ok(Parsed::NeedsMerge), "{bytes:02x?}");
            assert_eq!(merge(&merged).as_ref(), Ok(&merged));
            check(&merged);
        }
    }
}

/// The header of a decoded message, by the presence rules of dataplane 2.1.
fn reference(message: &wire::Message) -> Result<(Kind, &wire::SlimHeader, u64), Missing> {
    let (kind, header, subscription_id, session) = match message.message_type.as_ref() {
        Some(MessageType::Subscribe(m)) => (Kind::Subscribe, &m.header, m.subscription_id, true),
        Some(MessageType::Unsubscribe(m)) => {
            (Kind::Unsubscribe, &m.header, m.subscription_id, true)
        }
        Some(MessageType::Publish(m)) => (Kind::Publish, &m.header, 0, m.session.is_some()),
        other => panic!("not routed: {other:?}"),
    };
    let header = header.as_ref().ok_or(Missing::Header)?;
    header
        .source
        .as_ref()
        .ok_or(Missing::Source)?
        .name
        .as_ref()
        .ok_or(Missing::SourceName)?;
    header
        .destination
        .as_ref()
        .ok_or(Missing::Destination)?
        .name
        .as_ref()
        .ok_or(Missing::DestinationName)?;
    if session {
        Ok((kind, header, subscription_id))
    } else {
        Err(Missing::Session)
    }
}

fn route_name(name: &wire::Name) -> RouteName {
    let encoded = name.name.as_ref().unwrap();
    let id = encoded.name_id.map_or(InstanceId::NULL, |id| {
        InstanceId::from_halves(id.id_0, id.id_1)
    });
    RouteName {
        prefix: [
            encoded.component_0,
            encoded.component_1,
            encoded.component_2,
        ],
        id,
    }
}

fn check_routed(bytes: &[u8], header: &RouteHeader, decoded: &wire::Message) {
    let (kind, expected, subscription_id) = reference(decoded).unwrap();
    let destination = expected.destination.as_ref().unwrap();
    assert_eq!(header.kind, kind);
    assert_eq!(header.destination, route_name(destination));
    assert_eq!(
        header.destination_id_present,
        destination.name.unwrap().name_id.is_some()
    );
    assert_eq!(
        header.source(),
        route_name(expected.source.as_ref().unwrap())
    );
    assert_eq!(
        header.fanout,
        if expected.fanout == 1 {
            Fanout::One
        } else {
            Fanout::All
        }
    );
    assert_eq!(header.ttl, expected.ttl);
    assert_eq!(header.subscription_id, subscription_id);
    assert_eq!(header.identity(bytes), expected.identity.as_bytes());
    assert_eq!(header.tag(bytes), expected.header_mac.as_deref());
    assert_eq!(
        &wire::Name::decode(header.destination_name(bytes)).unwrap(),
        destination
    );
    assert_eq!(
        &wire::Name::decode(header.source_name(bytes)).unwrap(),
        expected.source.as_ref().unwrap()
    );
    assert_eq!(
        tag_of(bytes, header, header.ttl),
        slow_tag(expected, expected.ttl)
    );

    let rewritten = header.rewrite_for_forwarding(bytes).unwrap();
    let Ok(Parsed::Routed(rewritten_header)) = parse(&rewritten) else {
        panic!("{bytes:02x?}")
    };
    assert!(rewritten_header.is_patchable(), "{bytes:02x?}");
    assert!(rewritten.len() <= bytes.len() + 44);
    assert_eq!(
        rewritten_header.rewrite_for_forwarding(&rewritten).as_ref(),
        Ok(&rewritten)
    );

    // Forwarded, as a receiver decodes it: one hop less, a fresh tag, nothing that must not be sent.
    let mut forwarded = expected.clone();
    forwarded.ttl = expected.ttl.saturating_sub(1);
    (forwarded.recv_from, forwarded.forward_to) = (None, None);
    forwarded.header_mac = Some(slow_tag(&forwarded, forwarded.ttl).to_vec());
    assert_eq!(
        forward(&rewritten, &rewritten_header),
        with_header(decoded.clone(), forwarded.clone())
    );
    if header.is_patchable() {
        assert_eq!(
            forward(bytes, header),
            with_header(decoded.clone(), forwarded)
        );
    }
}

/// Patches a copy of the head for one receiver, as a router does, and decodes the whole.
fn forward(message: &[u8], header: &RouteHeader) -> wire::Message {
    let tag = tag_of(message, header, header.ttl_forwarded());
    let (head, tail) = message.split_at(header.head_len());
    let mut head = head.to_vec();
    header.patch(&mut head, &tag);
    wire::Message::decode(&[&head, tail].concat()[..]).unwrap()
}

fn with_header(mut message: wire::Message, header: wire::SlimHeader) -> wire::Message {
    match message.message_type.as_mut() {
        Some(MessageType::Subscribe(m)) => m.header = Some(header),
        Some(MessageType::Unsubscribe(m)) => m.header = Some(header),
        Some(MessageType::Publish(m)) => m.header = Some(header),
        other => panic!("not routed: {other:?}"),
    }
    message
}

fn tag_of(message: &[u8], header: &RouteHeader, ttl: u32) -> [u8; 32] {
    let mut preimage = Preimage::new();
    preimage.build(message, header);
    LinkMac::new(&LinkKey::from_bytes(KEY), LINK_ID).tag(&mut preimage, ttl)
}

/// The tag by the letter of dataplane 5.5, from decoded values.
fn slow_tag(header: &wire::SlimHeader, ttl: u32) -> [u8; 32] {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.bytes());
    }
    fn flag<T>(out: &mut Vec<u8>, value: &Option<T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
        out.push(value.is_some().into());
        if let Some(value) = value {
            put(out, value);
        }
    }
    fn name(out: &mut Vec<u8>, name: &wire::Name) {
        flag(out, &name.name, |out, encoded| {
            for component in [
                encoded.component_0,
                encoded.component_1,
                encoded.component_2,
            ] {
                out.extend(component.to_le_bytes());
            }
            flag(out, &encoded.name_id, |out, id| {
                out.extend(id.id_0.to_le_bytes());
                out.extend(id.id_1.to_le_bytes());
            });
        });
        flag(out, &name.str_name, |out, strings| {
            text(out, &strings.str_component_0);
            text(out, &strings.str_component_1);
            text(out, &strings.str_component_2);
        });
    }
    let mut preimage = b"SLIM-DP-HDR-v1\0".to_vec();
    text(&mut preimage, LINK_ID);
    flag(&mut preimage, &header.source, name);
    flag(&mut preimage, &header.destination, name);
    text(&mut preimage, &header.identity);
    preimage.extend(header.fanout.to_le_bytes());
    flag(&mut preimage, &header.recv_from, |out, value| {
        out.extend(value.to_le_bytes())
    });
    flag(&mut preimage, &header.forward_to, |out, value| {
        out.extend(value.to_le_bytes())
    });
    flag(&mut preimage, &header.error, |out, value| {
        out.push((*value).into())
    });
    preimage.extend(ttl.to_le_bytes());
    let mut mac = Hmac::<Sha256>::new_from_slice(&KEY).unwrap();
    mac.update(&preimage);
    mac.finalize().into_bytes().into()
}
