//! What happens to each message allocates nothing.

use slim_proto::link::{LinkKey, LinkMac, Preimage};
use slim_proto::message::TTL_INITIAL;
use slim_proto::message::wire::{self, Wire as _};
use slim_proto::name::Name;
use slim_proto::route_header::{LastNames, Parsed, parse_next};

/// A publish of about 500 bytes with all that clients put into one.
fn publish() -> Vec<u8> {
    let header = wire::SlimHeader {
        source: Some(Name::new("agntcy", "default", "alice").to_wire()),
        destination: Some(Name::new("agntcy", "default", "bob").to_wire()),
        identity: "i".repeat(230),
        fanout: 256,
        version: "3.4.6".to_owned(),
        ttl: TTL_INITIAL,
        incoming_conn: Some(1),
        header_mac: Some(vec![0; 32]),
        ..Default::default()
    };
    let payload = wire::ApplicationPayload {
        payload_type: "msg".to_owned(),
        blob: vec![0x5A; 64],
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
    let message_type = Some(wire::message::MessageType::Publish(publish));
    let metadata = [("traceparent".to_owned(), "0".repeat(55))].into();
    wire::Message {
        message_type,
        metadata,
    }
    .encode_to_vec()
}

#[test]
fn reading_verifying_and_patching_a_publish_allocates_nothing() {
    let message = publish();
    let mut links = [1, 2, 3].map(|byte| LinkMac::new(&LinkKey::from_bytes([byte; 32]), "a link"));
    let mut preimage = Preimage::new();
    let mut copy = message.clone();
    let mut last = LastNames::default();
    let mut turn = || {
        let Ok(Parsed::Routed(header)) = parse_next(&message, &mut last) else {
            return false;
        };
        preimage.build(&message, &header);
        let _ = links[0].check(&mut preimage, &message, &header);
        for link in &mut links {
            let tag = link.tag(&mut preimage, header.ttl_forwarded());
            copy.copy_from_slice(&message);
            header.patch(&mut copy, &tag);
        }
        header.is_patchable()
    };
    // The first message makes the buffers: the preimage's, and those in which links keep the last header.
    assert!(turn());
    let allocations = allocation_counter::measure(|| assert!(turn()));
    assert_eq!(allocations.count_total, 0);
}
