//! The messages that are sent: like those of real clients, made once, patched for each sending.
//!
//! A publish has both forms of both names, an identity token of the usual length that differs from message to message,
//! version, ttl, `incoming_conn`, the link's tag and a session header (dataplane 2.2, T30). What differs from message to
//! message has the same length in all of them, so a [`Template`] is a copy and five small writes. The tag does not cover
//! the payload (dataplane 5.5), so the tags are made ahead too, one for each token.

use std::ops::Range;

use slim_proto::grpc::PREFIX_BYTES;
use slim_proto::link::{LinkMac, Preimage, TagState};
use slim_proto::message::TTL_INITIAL;
use slim_proto::message::wire::{self, Wire as _};
use slim_proto::name::Name;
use slim_proto::route_header::{self, Parsed, TAG_BYTES};

/// What every message says of the program that made it.
pub const VERSION: &str = "3.4.6";
/// Bytes of one identity token: what a client with a shared secret sends (dataplane 2.2).
pub const TOKEN_BYTES: usize = 230;
/// Tokens of one run. Each sender goes round them from a place of its own.
pub const TOKENS: usize = 64;

/// Message ids start here and end below [`MESSAGE_ID_END`], so that their varint always has four bytes.
const MESSAGE_ID_FIRST: u32 = 1 << 21;
const MESSAGE_ID_END: u32 = 1 << 28;

/// The first bytes of every payload: `magic: u32 | sender: u32 | sequence: u64 | time_ns: u64`, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which of the run's clients sent it.
    pub sender: u32,
    /// Counts the sender's messages from 0.
    pub sequence: u64,
    /// When a request was made, since the start of the run. An echo carries its request's time.
    pub time_ns: u64,
}

/// Bytes of a [`Stamp`], and so of the smallest payload.
pub const STAMP_BYTES: usize = 24;
const MAGIC: u32 = 0x6d69_6c73;

impl Stamp {
    fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.sender.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes
    }

    /// Reads the stamp of a received message. Its payload is the last field of the last field of ... the message, so it
    /// is found from the end, without reading what comes before. `None`: not a message of ours, or a damaged one.
    pub fn of_message(message: &[u8], payload_bytes: usize) -> Option<Self> {
        let start = message.len().checked_sub(payload_bytes)?;
        let bytes: &[u8; STAMP_BYTES] = message.get(start..)?.first_chunk()?;
        let (magic, bytes) = bytes.split_first_chunk::<4>()?;
        let (sender, bytes) = bytes.split_first_chunk::<4>()?;
        let (sequence, bytes) = bytes.split_first_chunk::<8>()?;
        let time_ns = bytes.first_chunk::<8>()?;
        (u32::from_le_bytes(*magic) == MAGIC).then_some(Self {
            sender: u32::from_le_bytes(*sender),
            sequence: u64::from_le_bytes(*sequence),
            time_ns: u64::from_le_bytes(*time_ns),
        })
    }
}

/// The identity tokens of a run: [`TOKENS`] different texts of [`TOKEN_BYTES`] letters and digits.
pub fn tokens() -> Result<Vec<String>, getrandom::Error> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = [0; TOKENS * TOKEN_BYTES];
    getrandom::fill(&mut random)?;
    let token = |bytes: &[u8]| {
        let letters = bytes
            .iter()
            .map(|byte| char::from(LETTERS[usize::from(byte & 63)]));
        letters.collect()
    };
    Ok(random.chunks(TOKEN_BYTES).map(token).collect())
}

/// Who sends what to whom.
#[derive(Clone, Debug)]
pub struct Flow {
    pub sender: u32,
    pub source: Name,
    pub destination: Name,
    /// 1 for one receiver; clients say 256 for all (dataplane 4.4).
    pub fanout: u32,
    pub payload_bytes: usize,
}

/// One sender's publish, framed for gRPC, with the places that are written anew for each message.
pub struct Template {
    framed: Vec<u8>,
    tag: Range<usize>,
    identity: Range<usize>,
    message_id: Range<usize>,
    stamp: Range<usize>,
    tags: Vec<[u8; TAG_BYTES]>,
    turn: usize,
    sender: u32,
    sequence: u64,
}

impl Template {
    /// - `mac`: of the sender's link; `None` if the link has none.
    /// - `tokens`: all of [`TOKEN_BYTES`] bytes.
    pub fn new(flow: &Flow, mac: Option<&LinkMac>, tokens: &[String]) -> Self {
        let token = tokens.first().map_or("", String::as_str);
        let parts = Parts {
            identity: token,
            message_id: MESSAGE_ID_FIRST,
            tag_byte: 0,
            has_tag: mac.is_some(),
        };
        let framed = parts.framed(flow);
        // Where a part is, is where two messages differ that differ in nothing else.
        let differing = |other: Parts<'_>| difference(&framed, &other.framed(flow));
        let other_token: String = token
            .bytes()
            .map(|byte| if byte == b'~' { '!' } else { '~' })
            .collect();
        let identity = differing(Parts {
            identity: &other_token,
            ..parts
        });
        let message_id = differing(Parts {
            message_id: MESSAGE_ID_END - 1,
            ..parts
        });
        let tag = differing(Parts {
            tag_byte: 0xff,
            ..parts
        });
        let stamp_at = framed.len() - flow.payload_bytes;
        let mut template = Self {
            framed,
            tag,
            identity,
            message_id,
            stamp: stamp_at..stamp_at + STAMP_BYTES,
            tags: Vec::new(),
            turn: flow.sender as usize % tokens.len().max(1),
            sender: flow.sender,
            sequence: 0,
        };
        template.tags = match mac {
            Some(mac) => tokens
                .iter()
                .map(|token| template.sign(mac, token))
                .collect(),
            None => Vec::new(),
        };
        template
    }

    /// Bytes of one framed message.
    pub fn framed_bytes(&self) -> usize {
        self.framed.len()
    }

    /// Messages written so far, hence the next sequence number.
    pub fn written(&self) -> u64 {
        self.sequence
    }

    /// Appends the next message, with its gRPC prefix.
    pub fn write(&mut self, tokens: &[String], time_ns: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.framed);
        let copy = &mut out[start..];
        if let Some(token) = tokens.get(self.turn) {
            copy[self.identity.clone()].copy_from_slice(token.as_bytes());
        }
        if let Some(tag) = self.tags.get(self.turn) {
            copy[self.tag.clone()].copy_from_slice(tag);
        }
        self.turn = if self.turn + 1 < tokens.len() {
            self.turn + 1
        } else {
            0
        };
        copy[self.message_id.clone()].copy_from_slice(&message_id(self.sequence));
        let stamp = Stamp {
            sender: self.sender,
            sequence: self.sequence,
            time_ns,
        };
        copy[self.stamp.clone()].copy_from_slice(&stamp.to_bytes());
        self.sequence += 1;
    }

    /// The tag of this message with another token.
    fn sign(&self, mac: &LinkMac, token: &str) -> [u8; TAG_BYTES] {
        let mut message = self.framed[PREFIX_BYTES..].to_vec();
        let identity = self.identity.start - PREFIX_BYTES..self.identity.end - PREFIX_BYTES;
        message[identity].copy_from_slice(token.as_bytes());
        tag_of(mac, &message)
    }
}

/// The four bytes of a message's id as a varint.
fn message_id(sequence: u64) -> [u8; 4] {
    let ids = u64::from(MESSAGE_ID_END - MESSAGE_ID_FIRST);
    let id = MESSAGE_ID_FIRST + (sequence % ids) as u32;
    [
        id as u8 | 0x80,
        (id >> 7) as u8 | 0x80,
        (id >> 14) as u8 | 0x80,
        (id >> 21) as u8 & 0x7f,
    ]
}

/// The tag of a message of our own making.
fn tag_of(mac: &LinkMac, message: &[u8]) -> [u8; TAG_BYTES] {
    let Ok(Parsed::Routed(header)) = route_header::parse(message) else {
        unreachable!(
            "it was built by this module from prost's types, with all that a routed message needs"
        )
    };
    let mut preimage = Preimage::new();
    preimage.build(message, &header);
    mac.tag(&preimage, TTL_INITIAL)
}

/// Where two texts of one length differ, first to last byte.
fn difference(one: &[u8], other: &[u8]) -> Range<usize> {
    assert_eq!(one.len(), other.len(), "what is patched keeps its length");
    let mut differing = one
        .iter()
        .zip(other)
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(|(at, _)| at);
    match differing.next() {
        Some(first) => first..differing.next_back().unwrap_or(first) + 1,
        None => 0..0,
    }
}

/// The parts of a publish that are patched later.
#[derive(Clone, Copy)]
struct Parts<'a> {
    identity: &'a str,
    message_id: u32,
    tag_byte: u8,
    has_tag: bool,
}

impl Parts<'_> {
    fn framed(self, flow: &Flow) -> Vec<u8> {
        let payload = wire::ApplicationPayload {
            payload_type: "msg".to_owned(),
            blob: filler(flow.payload_bytes),
        };
        let publish = wire::Publish {
            header: Some(wire::SlimHeader {
                fanout: flow.fanout,
                header_mac: self.has_tag.then(|| vec![self.tag_byte; TAG_BYTES]),
                ..header(&flow.source, &flow.destination, self.identity)
            }),
            session: Some(wire::SessionHeader {
                session_type: if flow.fanout == 1 {
                    wire::SessionType::PointToPoint.into()
                } else {
                    wire::SessionType::Multicast.into()
                },
                session_message_type: wire::SessionMessageType::Msg.into(),
                session_id: 7,
                message_id: self.message_id,
            }),
            msg: Some(wire::Content {
                content_type: Some(wire::content::ContentType::AppPayload(payload)),
            }),
        };
        framed(wire::message::MessageType::Publish(publish))
    }
}

/// Bytes that no compression would shorten.
fn filler(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn header(source: &Name, destination: &Name, identity: &str) -> wire::SlimHeader {
    wire::SlimHeader {
        source: Some(source.to_wire()),
        destination: Some(destination.to_wire()),
        identity: identity.to_owned(),
        fanout: 1,
        version: VERSION.to_owned(),
        ttl: TTL_INITIAL,
        incoming_conn: Some(1),
        ..Default::default()
    }
}

/// A Subscribe of `name` by `source`, signed and framed.
pub fn subscribe(
    source: &Name,
    name: &Name,
    subscription_id: u64,
    identity: &str,
    mac: Option<&LinkMac>,
) -> Vec<u8> {
    let build = |tag: Option<Vec<u8>>| {
        framed(wire::message::MessageType::Subscribe(wire::Subscribe {
            header: Some(wire::SlimHeader {
                header_mac: tag,
                ..header(source, name, identity)
            }),
            subscription_id,
        }))
    };
    let unsigned = build(None);
    match mac {
        Some(mac) => build(Some(tag_of(mac, &unsigned[PREFIX_BYTES..]).to_vec())),
        None => unsigned,
    }
}

/// Puts the gRPC prefix before an encoded message.
pub fn with_prefix(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(PREFIX_BYTES + message.len());
    framed.push(0);
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

fn framed(message_type: wire::message::MessageType) -> Vec<u8> {
    let message = wire::Message {
        message_type: Some(message_type),
        metadata: Default::default(),
    };
    with_prefix(&message.encode_to_vec())
}

/// Whether a received message is whole, and signed for the link it came on. Costs as much as a real client's look at it,
/// so it is taken of samples.
pub fn is_sound(message: &[u8], mac: Option<&LinkMac>, preimage: &mut Preimage) -> bool {
    let Ok(Parsed::Routed(header)) = route_header::parse(message) else {
        return false;
    };
    let Some(mac) = mac else {
        return true;
    };
    preimage.build(message, &header);
    mac.check(preimage, message, &header) == TagState::Valid
}

#[cfg(test)]
mod tests {
    use super::*;
    use slim_proto::link::LinkKey;
    use slim_proto::name::InstanceId;

    fn flow(payload_bytes: usize) -> Flow {
        let name = |service: &str, id| Name::new("org", "ns", service).with_id(InstanceId::new(id));
        Flow {
            sender: 3,
            source: name("requester", 42),
            destination: name("echo", 43),
            fanout: 1,
            payload_bytes,
        }
    }

    #[test]
    fn every_patched_message_parses_verifies_and_differs_in_what_it_should() {
        let mac = LinkMac::new(&LinkKey::from_bytes([7; 32]), "a link");
        let tokens = tokens().unwrap();
        for payload_bytes in [STAMP_BYTES, 256, 4_096] {
            let flow = flow(payload_bytes);
            let mut template = Template::new(&flow, Some(&mac), &tokens);
            for sequence in 0..2 * TOKENS as u64 {
                let mut out = b"before".to_vec();
                template.write(&tokens, 1_000 + sequence, &mut out);
                let message = &out[6 + PREFIX_BYTES..];
                assert_eq!(out[7..11], (message.len() as u32).to_be_bytes());
                assert!(is_sound(message, Some(&mac), &mut Preimage::new()));

                let stamp = Stamp {
                    sender: 3,
                    sequence,
                    time_ns: 1_000 + sequence,
                };
                assert_eq!(Stamp::of_message(message, payload_bytes), Some(stamp));

                let decoded = wire::Message::decode(message).unwrap();
                let Some(wire::message::MessageType::Publish(publish)) = decoded.message_type
                else {
                    panic!("a publish")
                };
                let (header, session) = (publish.header.unwrap(), publish.session.unwrap());
                assert_eq!(header.identity, tokens[(3 + sequence as usize) % TOKENS]);
                assert_eq!(header.source.unwrap(), flow.source.to_wire());
                assert_eq!(header.destination.unwrap(), flow.destination.to_wire());
                assert_eq!(
                    (header.ttl, header.incoming_conn, header.fanout),
                    (8, Some(1), 1)
                );
                assert_eq!(
                    u64::from(session.message_id),
                    u64::from(MESSAGE_ID_FIRST) + sequence
                );
            }
        }
    }

    #[test]
    fn one_bit_of_another_header_is_not_sound() {
        let mac = LinkMac::new(&LinkKey::from_bytes([7; 32]), "a link");
        let tokens = tokens().unwrap();
        let mut template = Template::new(&flow(64), Some(&mac), &tokens);
        let mut out = Vec::new();
        template.write(&tokens, 0, &mut out);
        out[template.identity.start] ^= 1;
        assert!(!is_sound(
            &out[PREFIX_BYTES..],
            Some(&mac),
            &mut Preimage::new()
        ));
    }

    #[test]
    fn a_message_id_always_has_four_bytes_and_wraps() {
        let last = u64::from(MESSAGE_ID_END - MESSAGE_ID_FIRST) - 1;
        assert_eq!(message_id(0), [0x80, 0x80, 0x80, 0x01]);
        assert_eq!(message_id(last), [0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(message_id(last + 1), message_id(0));
    }

    #[test]
    fn a_subscribe_is_signed() {
        let mac = LinkMac::new(&LinkKey::from_bytes([7; 32]), "a link");
        let name = Name::new("org", "ns", "app").with_id(InstanceId::new(42));
        let framed = subscribe(&name, &name, 9, "token", Some(&mac));
        assert!(is_sound(
            &framed[PREFIX_BYTES..],
            Some(&mac),
            &mut Preimage::new()
        ));
        let other = LinkMac::new(&LinkKey::from_bytes([8; 32]), "a link");
        assert!(!is_sound(
            &framed[PREFIX_BYTES..],
            Some(&other),
            &mut Preimage::new()
        ));
    }
}
