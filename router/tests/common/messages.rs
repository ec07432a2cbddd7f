//! Messages as existing clients build them (dataplane 2, 11), open to every distortion.

use slim_proto::link::{LinkMac, Preimage};
use slim_proto::message::wire::{self, Wire as _, message::MessageType};
use slim_proto::name::{InstanceId, Name};
use slim_proto::route_header::{self, Parsed};

/// `org/ns/<service>`, NULL id.
pub fn name(service: &str) -> Name {
    Name::new("org", "ns", service)
}

/// `org/ns/<service>` with this id.
pub fn id_name(service: &str, id: u128) -> Name {
    name(service).with_id(InstanceId::new(id))
}

fn header(source: &Name, destination: &Name) -> wire::SlimHeader {
    wire::SlimHeader {
        source: Some(source.to_wire()),
        destination: Some(destination.to_wire()),
        identity: "tok".to_owned(),
        fanout: 1,
        version: "3.4.6".to_owned(),
        ttl: 8,
        incoming_conn: Some(1),
        ..Default::default()
    }
}

fn message(message_type: MessageType) -> wire::Message {
    wire::Message {
        message_type: Some(message_type),
        metadata: Default::default(),
    }
}

/// To one receiver: fanout 1. No tag yet: see [`sign`].
pub fn publish(source: &Name, destination: &Name, blob: &[u8]) -> wire::Message {
    message(MessageType::Publish(wire::Publish {
        header: Some(header(source, destination)),
        session: Some(wire::SessionHeader {
            session_type: wire::SessionType::PointToPoint.into(),
            session_message_type: wire::SessionMessageType::Msg.into(),
            session_id: 7,
            message_id: 9,
        }),
        msg: Some(wire::Content {
            content_type: Some(wire::content::ContentType::AppPayload(
                wire::ApplicationPayload {
                    payload_type: "text/plain".to_owned(),
                    blob: blob.to_vec(),
                },
            )),
        }),
    }))
}

/// As clients do, source and destination are the name.
pub fn subscribe(name: &Name, subscription_id: u64) -> wire::Message {
    message(MessageType::Subscribe(wire::Subscribe {
        header: Some(header(name, name)),
        subscription_id,
    }))
}

pub fn unsubscribe(name: &Name, subscription_id: u64) -> wire::Message {
    message(MessageType::Unsubscribe(wire::Unsubscribe {
        header: Some(header(name, name)),
        subscription_id,
    }))
}

/// The header of a message built here.
pub fn header_mut(message: &mut wire::Message) -> &mut wire::SlimHeader {
    match message.message_type.as_mut() {
        Some(MessageType::Publish(publish)) => publish.header.as_mut(),
        Some(MessageType::Subscribe(subscribe)) => subscribe.header.as_mut(),
        Some(MessageType::Unsubscribe(unsubscribe)) => unsubscribe.header.as_mut(),
        _ => None,
    }
    .expect("a message with a header")
}

pub fn subscription_id_mut(message: &mut wire::Message) -> &mut u64 {
    match message.message_type.as_mut() {
        Some(MessageType::Subscribe(subscribe)) => &mut subscribe.subscription_id,
        Some(MessageType::Unsubscribe(unsubscribe)) => &mut unsubscribe.subscription_id,
        _ => panic!("no subscription"),
    }
}

/// The payload of a publish.
pub fn blob(publish: &wire::Publish) -> &[u8] {
    match publish
        .msg
        .as_ref()
        .and_then(|msg| msg.content_type.as_ref())
    {
        Some(wire::content::ContentType::AppPayload(payload)) => &payload.blob,
        _ => panic!("no application payload"),
    }
}

/// The encoded message with its tag, whatever else is in its header: unlike `sign_message` nothing is removed.
pub fn sign(mac: &LinkMac, message: &wire::Message) -> Vec<u8> {
    let mut message = message.clone();
    header_mut(&mut message).header_mac = Some(vec![0; 32]);
    let encoded = message.encode_to_vec();
    let Ok(Parsed::Routed(header)) = route_header::parse(&encoded) else {
        panic!("only complete messages are signed");
    };
    let mut preimage = Preimage::new();
    preimage.build(&encoded, &header);
    header_mut(&mut message).header_mac = Some(mac.clone().tag(&mut preimage, header.ttl).to_vec());
    message.encode_to_vec()
}
