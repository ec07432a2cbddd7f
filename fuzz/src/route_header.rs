//! One message as a router reads it, against prost: `reference` has the comparison, which the tests of `slim-proto` share. And
//! what a router makes of the message: for a link with a MAC and for one without.

use slim_proto::message::wire::{self, Wire as _, message::MessageType};
use slim_proto::route_header::{LastNames, Parsed, RouteHeader, merge, parse, parse_next};

use crate::reference;

/// Input: one message, without framing.
pub fn route_header(message: &[u8]) {
    reference::check(message);
    check_after_another(message);
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

/// What a sender's last message was changes nothing: neither the same one, nor one that differs in a byte or has more of it.
fn check_after_another(message: &[u8]) {
    let mut last = LastNames::default();
    let parsed = parse(message);
    for _ in 0..2 {
        assert_eq!(parse_next(message, &mut last), parsed);
    }
    let mut other = message.to_vec();
    // Places and changes drawn from the message itself, so that an input that fails fails again.
    let mut state = message.iter().fold(7, |sum: usize, byte| {
        sum.wrapping_mul(31).wrapping_add(usize::from(*byte))
    });
    for _ in 0..6 {
        let Some(byte) = other.get_mut(state % message.len().max(1)) else {
            return;
        };
        *byte ^= 1 << (state >> 8 & 7);
        state = state.wrapping_mul(0x5851_f42d).wrapping_add(1) >> 1;
        assert_eq!(parse_next(&other, &mut last), parse(&other));
        assert_eq!(parse_next(message, &mut last), parsed);
        other.copy_from_slice(message);
    }
    for cut in [message.len() / 2, message.len().saturating_sub(1)] {
        let shorter = message.get(..cut).unwrap_or_default();
        assert_eq!(parse_next(shorter, &mut last), parse(shorter));
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
