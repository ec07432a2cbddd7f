//! One message as a router reads it, against prost: `reference` has the comparison, which the tests of `slim-proto` share. And
//! what a router makes of the message: for a link with a MAC and for one without.

use slim_proto::message::wire::{self, Wire as _, message::MessageType};
use slim_proto::route_header::{Parsed, RouteHeader, merge, parse};

use crate::reference;

/// Input: one message, without framing.
pub fn route_header(message: &[u8]) {
    reference::check(message);
    match parse(message) {
        Ok(Parsed::Routed(header)) => check_unsigned(message, &header),
        Ok(Parsed::NeedsMerge) => {
            let merged = merge(message).expect("it parses");
            if let Ok(Parsed::Routed(header)) = parse(&merged) {
                check_unsigned(&merged, &header);
            }
        }
        Ok(_) => {}
        Err(error) => {
            assert!(error.path.starts_with("Message"), "{error}");
            assert_eq!(merge(message), Err(error));
        }
    }
}

/// For a link without a key: the same message, less its tag and what must not be sent, with a hop taken off.
fn check_unsigned(message: &[u8], header: &RouteHeader) {
    assert!(header.head_len() <= message.len());
    let rewritten = header.rewrite_unsigned(message).expect("its own header");
    assert!(rewritten.len() <= message.len() + 10);
    let Ok(Parsed::Routed(again)) = parse(&rewritten) else {
        panic!("the rewritten message is not routed: {rewritten:02x?}");
    };
    assert!(again.is_unsigned() && again.is_ttl_patchable());
    assert_eq!(again.rewrite_unsigned(&rewritten).as_ref(), Ok(&rewritten));
    assert_eq!(route(&again), route(header));

    let mut patched = rewritten.clone();
    again.patch_ttl(&mut patched);
    let mut expected = wire::Message::decode(message).expect("it parses");
    let part = match expected.message_type.as_mut() {
        Some(MessageType::Subscribe(member)) => &mut member.header,
        Some(MessageType::Unsubscribe(member)) => &mut member.header,
        Some(MessageType::Publish(member)) => &mut member.header,
        other => panic!("routed, and yet {other:?}"),
    };
    let part = part.as_mut().expect("it is complete");
    part.ttl = part.ttl.saturating_sub(1);
    (part.recv_from, part.forward_to, part.header_mac) = (None, None, None);
    assert_eq!(wire::Message::decode(&patched[..]), Ok(expected));

    // A message that came as it may go needs no rewriting.
    if header.is_unsigned() && header.is_ttl_patchable() {
        let mut in_place = message.to_vec();
        header.patch_ttl(&mut in_place);
        assert_eq!(
            wire::Message::decode(&in_place[..]),
            wire::Message::decode(&patched[..])
        );
    }
}

/// All that decides where it goes.
fn route(header: &RouteHeader) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        header.kind,
        header.source(),
        header.destination,
        header.destination_id_present,
        header.fanout,
        header.ttl,
        header.subscription_id,
    )
}
