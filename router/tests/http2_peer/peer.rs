//! What every SLIM client says, whatever carries it.

use slim_proto::link::{
    ConnectionType, Dialer, Dialing, LinkMac, MacPolicy, NegotiationError, sign_message,
};
use slim_proto::message::TTL_INITIAL;
use slim_proto::message::wire::{self, Wire, content::ContentType, message::MessageType};
use slim_proto::name::Name;

/// The path of the one method (dataplane 1.2).
pub const OPEN_CHANNEL: &str = "/dataplane.proto.v1.DataPlaneService/OpenChannel";

/// Starts a negotiation as clients do: the state to keep, and the message to send, with its prefix.
pub fn dial(link_id: &str) -> (Dialing, Vec<u8>) {
    let dialer = Dialer {
        link_id: link_id.to_owned(),
        node_id: format!("node-of-{link_id}"),
        version: "3.4.6".to_owned(),
        deployment_name: String::new(),
        connection_type: ConnectionType::Edge,
        policy: MacPolicy::Strict,
        enforce_pqc: false,
    };
    let (dialing, request) = dialer.dial().expect("the system has random numbers");
    (dialing, framed(&request))
}

/// The MAC of a link whose reply has arrived.
pub fn complete(dialing: Dialing, reply: &[u8]) -> Result<LinkMac, NegotiationError> {
    let established = dialing.complete(reply)?;
    assert_eq!(
        established.connection_type,
        ConnectionType::Edge,
        "an edge client that reads another type never reconnects"
    );
    let key = established.key.expect("the policy is strict");
    Ok(LinkMac::new(&key, &established.link_id))
}

/// `flag: u8 = 0 | length: u32 big-endian | message` (gRPC over HTTP/2, "Length-Prefixed-Message").
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// Takes the first whole message off the front of `bytes`.
pub fn deframe(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (prefix, rest) = bytes.split_first_chunk::<5>()?;
    let [flag, length @ ..] = *prefix;
    assert_eq!(flag, 0, "no message of ours is compressed");
    let message = rest.get(..u32::from_be_bytes(length) as usize)?.to_vec();
    bytes.drain(..5 + message.len());
    Some(message)
}

/// A Subscribe, signed and framed.
pub fn subscribe(mac: &LinkMac, name: &Name, subscription_id: u64) -> Vec<u8> {
    let subscribe = wire::Subscribe {
        header: Some(header(name)),
        subscription_id,
    };
    signed(mac, MessageType::Subscribe(subscribe))
}

/// A Publish to one receiver, signed and framed.
pub fn publish(mac: &LinkMac, to: &Name, payload: &[u8]) -> Vec<u8> {
    publish_to(mac, to, 1, payload)
}

/// A Publish to all receivers, signed and framed.
pub fn publish_to_all(mac: &LinkMac, to: &Name, payload: &[u8]) -> Vec<u8> {
    publish_to(mac, to, 256, payload)
}

fn publish_to(mac: &LinkMac, to: &Name, fanout: u32, payload: &[u8]) -> Vec<u8> {
    let payload = wire::ApplicationPayload {
        payload_type: String::new(),
        blob: payload.to_vec(),
    };
    let publish = wire::Publish {
        header: Some(wire::SlimHeader {
            fanout,
            ..header(to)
        }),
        session: Some(wire::SessionHeader::default()),
        msg: Some(wire::Content {
            content_type: Some(ContentType::AppPayload(payload)),
        }),
    };
    signed(mac, MessageType::Publish(publish))
}

/// The smallest Publish with real names: no text, no id, no payload. `fanout` tells one from the other; from 2 on, every
/// number means all receivers.
pub fn smallest_publish(mac: &LinkMac, to: &Name, fanout: u32) -> Vec<u8> {
    let publish = wire::Publish {
        header: Some(wire::SlimHeader {
            source: Some(shortest(&Name::new("org", "ns", "sender"))),
            destination: Some(shortest(to)),
            fanout,
            ttl: TTL_INITIAL,
            ..Default::default()
        }),
        session: Some(wire::SessionHeader::default()),
        msg: None,
    };
    signed(mac, MessageType::Publish(publish))
}

/// As no existing client writes it, but as short as a name gets without choosing its hashes.
fn shortest(name: &Name) -> wire::Name {
    let mut short = name.to_wire();
    short.str_name = None;
    if let Some(encoded) = &mut short.name {
        encoded.name_id = None;
    }
    short
}

fn header(destination: &Name) -> wire::SlimHeader {
    wire::SlimHeader {
        source: Some(Name::new("org", "ns", "sender").to_wire()),
        destination: Some(destination.to_wire()),
        fanout: 1,
        ttl: TTL_INITIAL,
        ..Default::default()
    }
}

fn signed(mac: &LinkMac, message_type: MessageType) -> Vec<u8> {
    let message = wire::Message {
        message_type: Some(message_type),
        metadata: Default::default(),
    };
    let message = sign_message(&mut mac.clone(), &message.encode_to_vec()).expect("it is complete");
    framed(&message)
}

/// The id of a SubscriptionAck, which must be one of success.
pub fn acknowledged(message: &[u8]) -> u64 {
    match decoded(message) {
        MessageType::SubscriptionAck(ack) if ack.success => ack.subscription_id,
        other => panic!("not an acknowledgement: {other:?}"),
    }
}

/// The payload of a Publish.
pub fn payload(message: &[u8]) -> Vec<u8> {
    match published(message).msg.and_then(|msg| msg.content_type) {
        Some(ContentType::AppPayload(payload)) => payload.blob,
        other => panic!("no application payload: {other:?}"),
    }
}

/// The Publish in a message.
pub fn published(message: &[u8]) -> wire::Publish {
    match decoded(message) {
        MessageType::Publish(publish) => publish,
        other => panic!("not a publish: {other:?}"),
    }
}

fn decoded(message: &[u8]) -> MessageType {
    wire::Message::decode(message)
        .expect("the router sends valid protobuf")
        .message_type
        .expect("the router sends no empty message")
}
