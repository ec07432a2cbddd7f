//! The messages that are sent: like those of real clients, made once, patched for each sending.
//!
//! A publish has both forms of both names, an identity token of the usual length that differs from message to message,
//! version, ttl, `incoming_conn`, the link's tag and a session header (dataplane 2.2, T30). What differs from message to
//! message has the same length in all of them, so a [`Template`] is two copies, four small writes and the lengths around
//! the payload. The tag does not cover the payload (dataplane 5.5), so the tags are made ahead too, one for each token.

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
/// Tokens of one run. Each flow goes round them, or round a part of them, from a place of its own.
pub const TOKENS: usize = 64;
/// Tags that are made ahead for all flows of one connection together, and the fewest that one flow gets.
const TAGS_MAX: usize = 65_536;
const FLOW_TAGS_MIN: usize = 4;

/// Message ids start here and end below [`MESSAGE_ID_END`], so that their varint always has four bytes.
const MESSAGE_ID_FIRST: u32 = 1 << 21;
const MESSAGE_ID_END: u32 = 1 << 28;

/// The last bytes of every payload: `check: u32 | flow: u32 | sequence: u64 | time_ns: u64`, little-endian. `check` is
/// a digest of what follows it with the payload's length folded in, so that no byte can change unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which of the run's flows it belongs to: who sent it, to which name.
    pub flow: u32,
    /// Counts the flow's messages from 0.
    pub sequence: u64,
    /// When it was made, or was to be made, since the start of the run. An echo carries its request's time.
    pub time_ns: u64,
    pub payload_bytes: u32,
}

/// Bytes of a [`Stamp`], and so of the smallest payload.
pub const STAMP_BYTES: usize = 24;
const MAGIC: u64 = 0x7073_676c_6d69_6c73;

impl Stamp {
    pub fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..4].copy_from_slice(
            &(self.payload_bytes ^ digest(self.flow, self.sequence, self.time_ns)).to_le_bytes(),
        );
        bytes[4..8].copy_from_slice(&self.flow.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes
    }

    /// Reads the stamp of a received message. Its payload is the last field of the last field of ... the message, so it
    /// is found at the end, without reading what comes before. `None`: not a message of ours, or a damaged one.
    pub fn of_message(message: &[u8]) -> Option<Self> {
        let bytes: &[u8; STAMP_BYTES] = message.last_chunk()?;
        let (check, bytes) = bytes.split_first_chunk::<4>()?;
        let (flow, bytes) = bytes.split_first_chunk::<4>()?;
        let (sequence, bytes) = bytes.split_first_chunk::<8>()?;
        let time_ns = bytes.first_chunk::<8>()?;
        let flow = u32::from_le_bytes(*flow);
        let sequence = u64::from_le_bytes(*sequence);
        let time_ns = u64::from_le_bytes(*time_ns);
        let payload_bytes = u32::from_le_bytes(*check) ^ digest(flow, sequence, time_ns);
        (payload_bytes as usize <= message.len()).then_some(Self {
            flow,
            sequence,
            time_ns,
            payload_bytes,
        })
    }
}

/// Not for secrets. Another value in any one byte gives another digest, far from this one.
fn digest(flow: u32, sequence: u64, time_ns: u64) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (sequence ^ MAGIC).wrapping_mul(ODD) ^ time_ns;
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(ODD) ^ u64::from(flow);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(ODD);
    (mixed >> 32) as u32
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

/// Messages of one sender to one name, counted by themselves.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its number in the run.
    pub id: u32,
    pub destination: Name,
    /// 1 for one receiver; clients say 256 for all (dataplane 4.4).
    pub fanout: u32,
}

/// The fields of a flow's publishes before the payload, with the places that are written anew for each message.
pub struct Template {
    /// `SLIMHeader header = 1; SessionHeader session = 2` of a `Publish`, encoded.
    headers: Vec<u8>,
    /// Ranges in `headers`.
    tag: Range<usize>,
    identity: Range<usize>,
    message_id: Range<usize>,
    tags: Vec<[u8; TAG_BYTES]>,
    first_token: usize,
    turn: usize,
}

impl Template {
    /// - `mac`: of the sender's link; `None` if the link has none.
    /// - `tokens`: all of [`TOKEN_BYTES`] bytes.
    /// - `flows`: of the sender's connection. With many, each gets fewer tags.
    pub fn new(
        source: &Name,
        flow: &Flow,
        mut mac: Option<&mut LinkMac>,
        tokens: &[String],
        flows: usize,
    ) -> Self {
        let token = tokens.first().map_or("", String::as_str);
        let parts = Parts {
            identity: token,
            message_id: MESSAGE_ID_FIRST,
            tag_byte: 0,
            has_tag: mac.is_some(),
        };
        let headers = parts.headers(source, flow);
        // Where a part is, is where two messages differ that differ in nothing else.
        let differing = |other: Parts<'_>| difference(&headers, &other.headers(source, flow));
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
        let mut template = Self {
            headers,
            tag,
            identity,
            message_id,
            tags: Vec::new(),
            first_token: flow.id as usize % tokens.len().max(1),
            turn: 0,
        };
        let most = (TAGS_MAX / flows.max(1)).max(FLOW_TAGS_MIN);
        template.tags = (0..tokens.len().min(most))
            .map(
                |turn| match (mac.as_deref_mut(), template.token(tokens, turn)) {
                    (Some(mac), Some(token)) => template.sign(mac, token),
                    _ => [0; TAG_BYTES],
                },
            )
            .collect();
        template
    }

    fn token<'a>(&self, tokens: &'a [String], turn: usize) -> Option<&'a str> {
        let at = self.first_token + turn;
        let at = if at < tokens.len() {
            at
        } else {
            at - tokens.len()
        };
        tokens.get(at).map(String::as_str)
    }

    /// Appends the next message, framed for gRPC.
    ///
    /// - `filler`: what payloads are made of; at least `stamp.payload_bytes` of it.
    pub fn write(&mut self, tokens: &[String], stamp: Stamp, filler: &[u8], out: &mut Vec<u8>) {
        // `Message { publish = 3 } > Publish { .., msg = 3 } > Content { app_payload = 1 } >
        // ApplicationPayload { payload_type = 1, blob = 2 }`: a length before each, innermost first.
        let payload_bytes = stamp.payload_bytes as usize;
        let application = PAYLOAD_TYPE_FIELD.len() + field_bytes(payload_bytes);
        let content = field_bytes(application);
        let publish = self.headers.len() + field_bytes(content);
        let message = field_bytes(publish);

        out.reserve(PREFIX_BYTES + message);
        out.push(0);
        out.extend_from_slice(&(message as u32).to_be_bytes());
        put_key(out, 3, publish);
        let start = out.len();
        out.extend_from_slice(&self.headers);
        self.patch(tokens, stamp.sequence, &mut out[start..]);
        put_key(out, 3, content);
        put_key(out, 1, application);
        out.extend_from_slice(PAYLOAD_TYPE_FIELD);
        put_key(out, 2, payload_bytes);
        out.extend_from_slice(&filler[..payload_bytes - STAMP_BYTES]);
        out.extend_from_slice(&stamp.to_bytes());
    }

    fn patch(&mut self, tokens: &[String], sequence: u64, headers: &mut [u8]) {
        if let Some(token) = self.token(tokens, self.turn) {
            headers[self.identity.clone()].copy_from_slice(token.as_bytes());
        }
        if let Some(tag) = self.tags.get(self.turn).filter(|_| !self.tag.is_empty()) {
            headers[self.tag.clone()].copy_from_slice(tag);
        }
        self.turn += 1;
        if self.turn == self.tags.len() {
            self.turn = 0;
        }
        headers[self.message_id.clone()].copy_from_slice(&message_id(sequence));
    }

    /// The tag of these headers with another token. The payload is not covered, so none is there.
    fn sign(&self, mac: &mut LinkMac, token: &str) -> [u8; TAG_BYTES] {
        let mut headers = self.headers.clone();
        headers[self.identity.clone()].copy_from_slice(token.as_bytes());
        let mut message = Vec::with_capacity(headers.len() + 8);
        // `msg = 3` with an empty application payload: a publish without content is none.
        headers.extend_from_slice(&[0x1a, 2, 0x0a, 0]);
        put_key(&mut message, 3, headers.len());
        message.extend_from_slice(&headers);
        tag_of(mac, &message)
    }
}

/// `payload_type = 1` of an ApplicationPayload.
const PAYLOAD_TYPE_FIELD: &[u8] = b"\x0a\x03msg";

/// Bytes of a length-delimited field with this many bytes in it, its number below 16.
fn field_bytes(bytes: usize) -> usize {
    1 + varint_bytes(bytes) + bytes
}

fn varint_bytes(value: usize) -> usize {
    ((value | 1).ilog2() as usize) / 7 + 1
}

/// Number, wire type and length of a length-delimited field.
fn put_key(out: &mut Vec<u8>, number: u8, mut bytes: usize) {
    out.push(number << 3 | 2);
    while bytes >= 0x80 {
        out.push(bytes as u8 | 0x80);
        bytes >>= 7;
    }
    out.push(bytes as u8);
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
fn tag_of(mac: &mut LinkMac, message: &[u8]) -> [u8; TAG_BYTES] {
    let Ok(Parsed::Routed(header)) = route_header::parse(message) else {
        unreachable!(
            "it was built by this module from prost's types, with all that a routed message needs"
        )
    };
    let mut preimage = Preimage::new();
    preimage.build(message, &header);
    mac.tag(&mut preimage, TTL_INITIAL)
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
    /// Encoded as fields of a `Publish`, which is then without its content.
    fn headers(self, source: &Name, flow: &Flow) -> Vec<u8> {
        let publish = wire::Publish {
            header: Some(wire::SlimHeader {
                fanout: flow.fanout,
                header_mac: self.has_tag.then(|| vec![self.tag_byte; TAG_BYTES]),
                ..header(source, &flow.destination, self.identity)
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
            msg: None,
        };
        publish.encode_to_vec()
    }
}

/// Bytes that no compression would shorten, for payloads.
pub fn filler(bytes: usize) -> Vec<u8> {
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
    mac: Option<&mut LinkMac>,
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
pub fn is_sound(message: &[u8], mac: Option<&mut LinkMac>, preimage: &mut Preimage) -> bool {
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

    fn name(service: &str, id: u128) -> Name {
        Name::new("org", "ns", service).with_id(InstanceId::new(id))
    }

    fn flow() -> Flow {
        Flow {
            id: 3,
            destination: name("echo", 43),
            fanout: 1,
        }
    }

    #[test]
    fn every_patched_message_parses_verifies_and_differs_in_what_it_should() {
        let mut mac = LinkMac::new(&LinkKey::from_bytes([7; 32]), "a link");
        let tokens = tokens().unwrap();
        let (source, flow) = (name("requester", 42), flow());
        let filler = filler(3_000_000);
        for flows in [1, 2_000, 1_000_000] {
            let mut template = Template::new(&source, &flow, Some(&mut mac), &tokens, flows);
            let sizes = [24, 25, 119, 127, 128, 256, 4_096, 16_383, 16_384, 3_000_000];
            for sequence in 0..2 * TOKENS as u64 {
                let payload_bytes = if sequence < 10 {
                    sizes[sequence as usize]
                } else {
                    100
                };
                let stamp = Stamp {
                    flow: 3,
                    sequence,
                    time_ns: 1_000 + sequence,
                    payload_bytes,
                };
                let mut out = b"before".to_vec();
                template.write(&tokens, stamp, &filler, &mut out);
                let message = &out[6 + PREFIX_BYTES..];
                assert_eq!(out[7..11], (message.len() as u32).to_be_bytes());
                assert!(is_sound(message, Some(&mut mac), &mut Preimage::new()));
                assert_eq!(Stamp::of_message(message), Some(stamp));

                let decoded = wire::Message::decode(message).unwrap();
                let Some(wire::message::MessageType::Publish(publish)) = decoded.message_type
                else {
                    panic!("a publish")
                };
                let Some(wire::content::ContentType::AppPayload(payload)) =
                    publish.msg.unwrap().content_type
                else {
                    panic!("a payload")
                };
                assert_eq!(payload.blob.len(), payload_bytes as usize);
                assert_eq!(payload.payload_type, "msg");
                let (header, session) = (publish.header.unwrap(), publish.session.unwrap());
                let tags = template.tags.len() as u64;
                assert_eq!(
                    header.identity,
                    tokens[(3 + (sequence % tags) as usize) % TOKENS]
                );
                assert_eq!(header.source.unwrap(), source.to_wire());
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
    fn a_link_without_a_key_sends_no_tag() {
        let tokens = tokens().unwrap();
        let mut template = Template::new(&name("requester", 42), &flow(), None, &tokens, 1);
        for sequence in 0..100 {
            let stamp = Stamp {
                flow: 3,
                sequence,
                time_ns: 0,
                payload_bytes: 64,
            };
            let mut out = Vec::new();
            template.write(&tokens, stamp, &filler(64), &mut out);
            let Ok(Parsed::Routed(header)) = route_header::parse(&out[PREFIX_BYTES..]) else {
                panic!("a routed message")
            };
            assert_eq!(
                TagState::unkeyed(&out[PREFIX_BYTES..], &header),
                TagState::Absent
            );
        }
    }

    #[test]
    fn one_bit_of_another_header_is_not_sound() {
        let mut mac = LinkMac::new(&LinkKey::from_bytes([7; 32]), "a link");
        let tokens = tokens().unwrap();
        let mut template =
            Template::new(&name("requester", 42), &flow(), Some(&mut mac), &tokens, 1);
        let stamp = Stamp {
            flow: 3,
            sequence: 0,
            time_ns: 0,
            payload_bytes: 64,
        };
        let mut out = Vec::new();
        template.write(&tokens, stamp, &filler(64), &mut out);
        // Prefix, then two bytes of length and one of key.
        out[PREFIX_BYTES + 3 + template.identity.start] ^= 1;
        assert!(!is_sound(
            &out[PREFIX_BYTES..],
            Some(&mut mac),
            &mut Preimage::new()
        ));
    }

    #[test]
    fn a_stamp_whose_length_cannot_be_is_no_stamp() {
        let stamp = Stamp {
            flow: 1,
            sequence: 2,
            time_ns: 3,
            payload_bytes: 24,
        };
        let bytes = stamp.to_bytes();
        assert_eq!(Stamp::of_message(&bytes), Some(stamp));
        let longer = Stamp {
            payload_bytes: 25,
            ..stamp
        }
        .to_bytes();
        assert_eq!(Stamp::of_message(&longer), None);
        assert_eq!(Stamp::of_message(&bytes[1..]), None);
    }

    #[test]
    fn a_stamp_with_any_other_byte_is_no_stamp_of_its_payload() {
        let stamp = Stamp {
            flow: 3,
            sequence: 70_000,
            time_ns: 1_234_567_890,
            payload_bytes: 256,
        };
        for byte in 0..STAMP_BYTES {
            for flip in 1..=255 {
                let mut message = vec![0; 400];
                message.extend_from_slice(&stamp.to_bytes());
                message[400 + byte] ^= flip;
                let read = Stamp::of_message(&message).map(|stamp| stamp.payload_bytes);
                assert_ne!(read, Some(256), "{flip} in byte {byte}");
            }
        }
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
        let mut mac = LinkMac::new(&LinkKey::from_bytes([7; 32]), "a link");
        let name = Name::new("org", "ns", "app").with_id(InstanceId::new(42));
        let framed = subscribe(&name, &name, 9, "token", Some(&mut mac));
        assert!(is_sound(
            &framed[PREFIX_BYTES..],
            Some(&mut mac),
            &mut Preimage::new()
        ));
        let mut other = LinkMac::new(&LinkKey::from_bytes([8; 32]), "a link");
        assert!(!is_sound(
            &framed[PREFIX_BYTES..],
            Some(&mut other),
            &mut Preimage::new()
        ));
    }
}
