//! A link: what a client library does on its connection, step by step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use slim_proto::link::{ConnectionType, Dialer, Established, LinkMac, MacPolicy, Preimage};
use slim_proto::message::wire::{self, Wire as _, message::MessageType};
use slim_proto::name::Name;
use slim_proto::route_header::{self, Parsed};

use super::http2::{Event, Http2};
use super::{PATIENCE, messages};

/// An Edge dialer as existing clients are: strict, with a link id of its own.
pub fn dialer() -> Dialer {
    static LINKS: AtomicU64 = AtomicU64::new(1);
    let number = LINKS.fetch_add(1, Ordering::Relaxed);
    Dialer {
        link_id: format!("00000000-0000-4000-8000-{number:012}"),
        node_id: format!("node-{number}"),
        version: "3.4.6".to_owned(),
        deployment_name: String::new(),
        connection_type: ConnectionType::Edge,
        policy: MacPolicy::Strict,
        enforce_pqc: false,
    }
}

/// A negotiated link.
pub struct Client {
    pub http2: Http2,
    pub established: Established,
    mac: LinkMac,
    next_subscription_id: u64,
    /// Publications that came while an acknowledgement was awaited.
    waiting: std::collections::VecDeque<Inbound>,
}

/// What a router sends on an open link.
#[derive(Debug)]
pub enum Inbound {
    Publication(Box<Publication>),
    Ack(wire::SubscriptionAck),
    /// Anything else, and the end.
    Other(Event),
}

/// A publish whose header MAC has been verified.
#[derive(Debug)]
pub struct Publication {
    /// As it came, without gRPC prefix.
    pub bytes: Vec<u8>,
    pub message: wire::Message,
}

impl Publication {
    pub fn publish(&self) -> &wire::Publish {
        match &self.message.message_type {
            Some(MessageType::Publish(publish)) => publish,
            other => panic!("no publish: {other:?}"),
        }
    }

    pub fn header(&self) -> &wire::SlimHeader {
        self.publish().header.as_ref().unwrap()
    }

    pub fn blob(&self) -> &[u8] {
        messages::blob(self.publish())
    }
}

impl Client {
    /// Opens the stream and negotiates on a fresh connection.
    pub fn negotiate(mut http2: Http2, dialer: Dialer) -> Client {
        http2.open();
        let (dialing, request) = dialer.dial().unwrap();
        http2.send_message(&request);
        let Event::Message(reply) = http2.next_event() else {
            panic!("no link reply");
        };
        let established = dialing.complete(&reply).expect("a link reply");
        let key = established.key.as_ref().expect("a key");
        let mac = LinkMac::new(key, &established.link_id);
        Client {
            http2,
            mac,
            established,
            next_subscription_id: 1,
            waiting: Default::default(),
        }
    }

    pub fn mac(&self) -> &LinkMac {
        &self.mac
    }

    /// Signs and sends.
    pub fn send(&mut self, message: &wire::Message) {
        let signed = messages::sign(&self.mac, message);
        self.http2.send_message(&signed);
    }

    /// Sends a message as it is: unsigned, broken, or signed already.
    pub fn send_bytes(&mut self, message: &[u8]) {
        self.http2.send_message(message);
    }

    /// Subscribes and waits for success. Returns the id, which unsubscribing needs.
    pub fn subscribe(&mut self, name: &Name) -> u64 {
        let id = self.next_subscription_id;
        self.next_subscription_id += 1;
        self.send(&messages::subscribe(name, id));
        self.expect_ack(id);
        id
    }

    /// Unsubscribes and waits for success.
    pub fn unsubscribe(&mut self, name: &Name, id: u64) {
        self.send(&messages::unsubscribe(name, id));
        self.expect_ack(id);
    }

    /// To one subscriber.
    pub fn publish(&mut self, destination: &Name, blob: &[u8]) {
        self.send(&messages::publish(
            &messages::name("sender"),
            destination,
            blob,
        ));
    }

    /// To all subscribers.
    pub fn publish_to_all(&mut self, destination: &Name, blob: &[u8]) {
        let mut message = messages::publish(&messages::name("sender"), destination, blob);
        messages::header_mut(&mut message).fanout = 256;
        self.send(&message);
    }

    /// The next message. Waits for at most [`PATIENCE`].
    pub fn next(&mut self) -> Inbound {
        match self.waiting.pop_front() {
            Some(inbound) => inbound,
            None => self.receive(Instant::now() + PATIENCE),
        }
    }

    /// The next message, which must be a publish.
    pub fn next_publication(&mut self) -> Box<Publication> {
        match self.next() {
            Inbound::Publication(publication) => publication,
            other => panic!("a publish was expected, not {other:?}"),
        }
    }

    /// The next message must be a publish with this payload.
    #[track_caller]
    pub fn expect_blob(&mut self, blob: &[u8]) {
        let publication = self.next_publication();
        assert_eq!(
            String::from_utf8_lossy(publication.blob()),
            String::from_utf8_lossy(blob)
        );
    }

    /// Waits for the answer to a (un)subscribe. Publications that come first are kept.
    pub fn next_ack(&mut self) -> wire::SubscriptionAck {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.receive(deadline) {
                Inbound::Ack(ack) => return ack,
                Inbound::Publication(publication) => {
                    self.waiting.push_back(Inbound::Publication(publication));
                }
                Inbound::Other(other) => panic!("an ack was expected, not {other:?}"),
            }
        }
    }

    #[track_caller]
    pub fn expect_ack(&mut self, id: u64) {
        let ack = self.next_ack();
        assert_eq!(
            (ack.subscription_id, ack.success, ack.error.as_str()),
            (id, true, "")
        );
    }

    #[track_caller]
    pub fn expect_refusal(&mut self, id: u64, error: &str) {
        let ack = self.next_ack();
        assert_eq!(
            (ack.subscription_id, ack.success, ack.error.as_str()),
            (id, false, error)
        );
    }

    /// The link must end with trailers of this status; returns grpc-message. What comes before is skipped.
    #[track_caller]
    pub fn expect_status(&mut self, grpc_status: u32) -> String {
        loop {
            match self.next() {
                Inbound::Other(Event::Headers { fields, end_stream }) => {
                    assert!(end_stream, "{fields:?}");
                    let value = |name: &str| {
                        let found = fields.iter().find(|(field, _)| field == name);
                        found.map(|(_, value)| value.clone())
                    };
                    assert_eq!(
                        value("grpc-status"),
                        Some(grpc_status.to_string()),
                        "{fields:?}"
                    );
                    return value("grpc-message").unwrap_or_default();
                }
                Inbound::Other(other) => panic!("trailers were expected, not {other:?}"),
                _ => {}
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Inbound {
        let bytes = match self.http2.next_event_by(deadline) {
            Event::Message(bytes) => bytes,
            event => return Inbound::Other(event),
        };
        let message = wire::Message::decode(&bytes[..]).expect("a decodable message");
        match &message.message_type {
            Some(MessageType::SubscriptionAck(ack)) => Inbound::Ack(ack.clone()),
            Some(MessageType::Publish(_)) => {
                self.verify(&bytes);
                Inbound::Publication(Box::new(Publication { bytes, message }))
            }
            _ => Inbound::Other(Event::Message(bytes)),
        }
    }

    fn verify(&self, message: &[u8]) {
        let Ok(Parsed::Routed(header)) = route_header::parse(message) else {
            panic!("an incomplete publish arrived");
        };
        let mut preimage = Preimage::new();
        preimage.build(message, &header);
        let tag = header.tag(message).expect("a tag");
        assert!(
            self.mac.clone().verify(&mut preimage, header.ttl, tag),
            "the header MAC of what arrived is wrong"
        );
    }
}
