//! A link that costs this side little: for load, and for many of them.

use slim_proto::link::{ConnectionType, LinkMac, LinkReply, LinkRequest};
use slim_proto::message::wire::{self, Wire as _};
use slim_proto::name::Name;

use super::http2::{Event, Http2};
use super::{Client, dialer, messages};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mac {
    On,
    /// Only on a listener that does not ask for one.
    Off,
}

/// A link whose messages are made once and sent again and again, and that looks into nothing it receives.
pub struct Link {
    pub http2: Http2,
    mac: Option<LinkMac>,
}

impl Link {
    /// Opens the stream and negotiates on a fresh connection.
    pub fn connect(mut http2: Http2, mac: Mac) -> Link {
        if mac == Mac::On {
            let client = Client::negotiate(http2, dialer());
            let mac = Some(client.mac().clone());
            return Link {
                http2: client.http2,
                mac,
            };
        }
        http2.open();
        let dialer = dialer();
        let request = LinkRequest {
            link_id: dialer.link_id,
            version: dialer.version,
            public_key: Vec::new(),
            connection_type: ConnectionType::Edge,
            node_id: dialer.node_id,
            deployment_name: String::new(),
            kem_payload: None,
        };
        http2.send_message(&request.encode());
        let Event::Message(reply) = http2.next_event() else {
            panic!("no link reply");
        };
        assert!(LinkReply::decode(&reply).unwrap().public_key.is_empty());
        Link { http2, mac: None }
    }

    /// The encoded message, signed if this link signs.
    pub fn prepared(&self, message: &wire::Message) -> Vec<u8> {
        match &self.mac {
            Some(mac) => messages::sign(mac, message),
            None => message.encode_to_vec(),
        }
    }

    /// A publish that goes to one subscriber of `to` (fanout 1), or to as many.
    pub fn prepared_publish(&self, to: &Name, fanout: u32, payload_bytes: usize) -> Vec<u8> {
        let mut message = messages::publish(&messages::name("sender"), to, &vec![7; payload_bytes]);
        messages::header_mut(&mut message).fanout = fanout;
        self.prepared(&message)
    }

    /// Subscribes and waits for the answer.
    pub fn subscribe(&mut self, to: &Name) {
        let message = self.prepared(&messages::subscribe(to, 1));
        self.http2.send_message(&message);
        self.receive(1);
    }

    /// Waits for so many messages, which must be next.
    #[track_caller]
    pub fn receive(&mut self, messages: usize) {
        for _ in 0..messages {
            match self.http2.next_event() {
                Event::Message(_) => {}
                other => panic!("{other:?}"),
            }
        }
        // What is remembered of every frame would make this side slower and slower.
        self.http2.seen.clear();
    }
}
