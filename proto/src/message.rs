//! The messages that a node builds itself, and the generated types for those that it reads whole.
//!
//! A router builds acknowledgements and, towards its peers, subscriptions. It never decodes what it
//! forwards: that is [`crate::route_header`].

use prost::Message as _;

/// The generated types, one for each message of `schema/dataplane.proto`, with prost's
/// [`Message`](prost::Message) trait to encode and decode them.
pub mod wire {
    pub use self::generated::*;
    pub use prost::Message as Wire;

    #[allow(clippy::all, missing_docs, rustdoc::all)]
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/dataplane.proto.v1.rs"));
    }
}

/// Hops that a message may take from its origin (dataplane 4.5).
pub const TTL_INITIAL: u32 = 8;

/// Largest message, in bytes, that a gRPC receiver takes (dataplane 1.5). A longer one costs it the link.
pub const MESSAGE_BYTES_MAX: usize = 4_194_304;

/// Encodes the acknowledgement of a Subscribe or Unsubscribe (dataplane 4.7).
///
/// - `outcome`: `Err` carries the text that the sender may log; the texts of existing nodes are in dataplane 7.
pub fn subscription_ack(subscription_id: u64, outcome: Result<(), &str>) -> Vec<u8> {
    let ack = wire::SubscriptionAck {
        subscription_id,
        success: outcome.is_ok(),
        error: outcome.err().unwrap_or_default().to_owned(),
    };
    envelope(wire::message::MessageType::SubscriptionAck(ack))
}

/// Encodes the Subscribe that tells a peer about a name (dataplane 4.6 a): source and destination are
/// the name, no identity, one receiver, no MAC.
pub fn peer_subscribe(name: wire::Name, subscription_id: u64, ttl: u32) -> Vec<u8> {
    let header = Some(peer_header(name, ttl));
    envelope(wire::message::MessageType::Subscribe(wire::Subscribe {
        header,
        subscription_id,
    }))
}

fn peer_header(name: wire::Name, ttl: u32) -> wire::SlimHeader {
    wire::SlimHeader {
        source: Some(name.clone()),
        destination: Some(name),
        fanout: 1,
        ttl,
        ..Default::default()
    }
}

pub(crate) fn envelope(message_type: wire::message::MessageType) -> Vec<u8> {
    wire::Message {
        message_type: Some(message_type),
        metadata: Default::default(),
    }
    .encode_to_vec()
}
