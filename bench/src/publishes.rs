//! Publishes as real clients send them: both forms of both names, an identity token, a tag.

use slim_proto::link::{LinkKey, LinkMac, sign_message};
use slim_proto::message::TTL_INITIAL;
use slim_proto::message::wire::{self, Wire as _};
use slim_proto::name::Name;

/// Characters of the identity token that the published clients send with a shared secret.
const IDENTITY_BYTES: usize = 230;

/// A publish to one receiver, signed for [`link_mac`] of link 0.
///
/// - `payload_bytes`: of the application's blob; about 450 bytes of header and wrapping come on top.
pub fn signed(payload_bytes: usize) -> Vec<u8> {
    let [message, _] = signed_pair(payload_bytes);
    message
}

/// Two publishes that differ in their identity tokens, as any two of a client do that has a fresh one for each. A link
/// that sees them in turn has no tag at hand, only the hash of what is before the token.
pub fn signed_pair(payload_bytes: usize) -> [Vec<u8>; 2] {
    ["i", "j"].map(|letter| {
        let message = unsigned(payload_bytes, letter.repeat(IDENTITY_BYTES));
        sign_message(&mut link_mac(0), &message).expect("a whole publish can be signed")
    })
}

/// A signed publish that is `message_bytes` long in all.
pub fn signed_of(message_bytes: usize) -> Vec<u8> {
    let [message, _] = signed_pair_of(message_bytes);
    message
}

/// As [`signed_pair`], for messages that are `message_bytes` long in all.
pub fn signed_pair_of(message_bytes: usize) -> [Vec<u8>; 2] {
    let overhead_bytes = signed(message_bytes).len() - message_bytes;
    let guess = signed(message_bytes.saturating_sub(overhead_bytes));
    // The shorter blob may have needed fewer bytes for its lengths.
    let missing_bytes = message_bytes - guess.len();
    let pair = signed_pair(message_bytes.saturating_sub(overhead_bytes) + missing_bytes);
    assert_eq!(pair[0].len(), message_bytes, "no publish is this short");
    pair
}

/// The MAC of one of the links in a benchmark.
pub fn link_mac(link: u16) -> LinkMac {
    let [high, low] = link.to_be_bytes();
    let mut key = [0x5A; 32];
    key[..2].copy_from_slice(&[high, low]);
    LinkMac::new(
        &LinkKey::from_bytes(key),
        &format!("0b0c57b5-9d0a-4bd2-8f0b-{link:012x}"),
    )
}

fn unsigned(payload_bytes: usize, identity: String) -> Vec<u8> {
    let header = wire::SlimHeader {
        source: Some(Name::new("agntcy", "default", "alice").to_wire()),
        destination: Some(Name::new("agntcy", "default", "bob").to_wire()),
        identity,
        fanout: 1,
        version: "3.4.6".to_owned(),
        ttl: TTL_INITIAL,
        header_mac: Some(vec![0; 32]),
        ..Default::default()
    };
    let payload = wire::ApplicationPayload {
        payload_type: "msg".to_owned(),
        blob: vec![0xA5; payload_bytes],
    };
    let publish = wire::Publish {
        header: Some(header),
        session: Some(wire::SessionHeader {
            session_id: 7,
            message_id: 9,
            ..Default::default()
        }),
        msg: Some(wire::Content {
            content_type: Some(wire::content::ContentType::AppPayload(payload)),
        }),
    };
    wire::Message {
        message_type: Some(wire::message::MessageType::Publish(publish)),
        metadata: Default::default(),
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slim_proto::link::{Preimage, TagState};
    use slim_proto::route_header::{Parsed, parse};

    #[test]
    fn a_signed_publish_is_patchable_and_its_tag_is_valid() {
        for payload_bytes in [0, 256, 4_096, 65_536] {
            let message = signed(payload_bytes);
            let Ok(Parsed::Routed(header)) = parse(&message) else {
                panic!("not routed");
            };
            let mut preimage = Preimage::new();
            preimage.build(&message, &header);
            assert_eq!(
                link_mac(0).check(&mut preimage, &message, &header),
                TagState::Valid
            );
            assert_eq!(
                link_mac(1).check(&mut preimage, &message, &header),
                TagState::Wrong
            );
            assert!(header.is_patchable());
        }
    }

    #[test]
    fn a_publish_is_exactly_as_long_as_asked() {
        for message_bytes in [700, 4_096, 65_536] {
            assert_eq!(signed_of(message_bytes).len(), message_bytes);
        }
    }
}
