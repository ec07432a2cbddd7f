//! What a client hears: the router's bytes, parsed as they are taken, acted on as they are read.

use std::collections::VecDeque;

use slim_proto::link::{Dialing, LinkMac, Preimage};
use slim_proto::route_header::{self, Kind, Parsed};

use super::ledger::Ledger;

/// Frame types and flags (RFC 9113 §6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
}
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const FRAME_BYTES_MAX: usize = 16_384;

/// `filler.. | STAMP: u32 | publish: u32 | payload bytes: u32`, the filler's bytes being the publish's lowest.
pub const STAMP_BYTES: usize = 12;
const STAMP: [u8; 4] = *b"SLIM";

pub fn payload(publish: usize, bytes: usize) -> Vec<u8> {
    let bytes = bytes.max(STAMP_BYTES);
    let mut payload = vec![publish as u8; bytes - STAMP_BYTES];
    payload.extend_from_slice(&STAMP);
    payload.extend_from_slice(&(publish as u32).to_be_bytes());
    payload.extend_from_slice(&(bytes as u32).to_be_bytes());
    payload
}

/// The publish whose payload ends `message`.
fn publish_of(message: &[u8]) -> Option<usize> {
    let (rest, stamp) = message.split_last_chunk::<STAMP_BYTES>()?;
    let [a, b, c, d, p0, p1, p2, p3, l0, l1, l2, l3] = *stamp;
    let publish = u32::from_be_bytes([p0, p1, p2, p3]) as usize;
    let filler = (u32::from_be_bytes([l0, l1, l2, l3]) as usize).checked_sub(STAMP_BYTES)?;
    let filler = rest.get(rest.len().checked_sub(filler)?..)?;
    let whole = [a, b, c, d] == STAMP && filler.iter().all(|byte| *byte == publish as u8);
    whole.then_some(publish)
}

/// What a client acts on when it reads it.
pub enum Heard {
    /// SETTINGS, with the stream window if it names one.
    Settings(Option<u32>),
    Ping(Vec<u8>),
    Credit {
        of_stream: bool,
        bytes: u32,
    },
    Data {
        bytes: u32,
    },
    /// Response headers: the link may begin.
    Response,
    /// The link reply.
    Linked(Option<Box<LinkMac>>),
    /// Trailers, RST_STREAM or GOAWAY.
    Ended,
}

pub enum Dials {
    WithKey(Box<Dialing>),
    WithoutKey,
}

pub struct Ears {
    /// A frame that has not come whole.
    partial: Vec<u8>,
    grpc: Vec<u8>,
    heard_bytes: u64,
    read_bytes: u64,
    heard: VecDeque<(u64, Heard)>,
    dials: Option<Dials>,
    mac: Option<Box<LinkMac>>,
    has_response: bool,
    /// What the router may still send.
    stream_window: i64,
    connection_window: i64,
    /// Publishes taken whole.
    pub messages: u64,
    preimage: Preimage,
}

impl Ears {
    pub fn new(dials: Dials, stream_window: u32, connection_window: u32) -> Ears {
        Ears {
            partial: Vec::new(),
            grpc: Vec::new(),
            heard_bytes: 0,
            read_bytes: 0,
            heard: VecDeque::new(),
            dials: Some(dials),
            mac: None,
            has_response: false,
            stream_window: i64::from(stream_window),
            connection_window: i64::from(connection_window),
            messages: 0,
            preimage: Preimage::default(),
        }
    }

    /// The client gives credit for `bytes`.
    pub fn grant(&mut self, bytes: u32) {
        self.stream_window += i64::from(bytes);
        self.connection_window += i64::from(bytes);
    }

    /// The client reads `bytes`.
    pub fn read(&mut self, bytes: usize) -> Vec<Heard> {
        self.read_bytes += bytes as u64;
        let read_bytes = self.read_bytes;
        let whole = self
            .heard
            .iter()
            .take_while(|(at, _)| *at <= read_bytes)
            .count();
        self.heard.drain(..whole).map(|(_, heard)| heard).collect()
    }

    /// The client's kernel takes `bytes`.
    pub fn hear(&mut self, wire: usize, bytes: &[u8], ledger: &mut Ledger) {
        if self.partial.is_empty() {
            let used = self.frames(wire, bytes, ledger);
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            let mut partial = std::mem::take(&mut self.partial);
            partial.extend_from_slice(bytes);
            let used = self.frames(wire, &partial, ledger);
            partial.drain(..used);
            self.partial = partial;
        }
    }

    fn frames(&mut self, wire: usize, bytes: &[u8], ledger: &mut Ledger) -> usize {
        let mut used = 0;
        while let Some((head, rest)) = bytes[used..].split_first_chunk::<9>() {
            let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            let stream = u32::from_be_bytes([s0, s1, s2, s3]);
            let Some(payload) = rest.get(..length) else {
                break;
            };
            used += 9 + length;
            self.heard_bytes += 9 + length as u64;
            if let Err(fault) = self.frame(wire, kind, flags, stream, payload, ledger) {
                ledger.fault(format!("wire {wire}: {fault}"));
            }
        }
        used
    }

    fn push(&mut self, heard: Heard) {
        self.heard.push_back((self.heard_bytes, heard));
    }

    fn frame(
        &mut self,
        wire: usize,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        ledger: &mut Ledger,
    ) -> Result<(), String> {
        if payload.len() > FRAME_BYTES_MAX {
            return Err(format!("a frame of {} bytes", payload.len()));
        }
        match kind {
            kind::DATA => {
                if !self.has_response {
                    return Err("DATA before HEADERS".into());
                }
                if payload.is_empty() && flags & END_STREAM == 0 {
                    return Err("an empty DATA frame".into());
                }
                let bytes = payload.len() as i64;
                self.stream_window -= bytes;
                self.connection_window -= bytes;
                if self.stream_window < 0 || self.connection_window < 0 {
                    return Err("more DATA than the windows allow".into());
                }
                self.push(Heard::Data {
                    bytes: payload.len() as u32,
                });
                self.data(wire, payload, ledger)?;
            }
            kind::HEADERS => {
                let is_first = !std::mem::replace(&mut self.has_response, true);
                if flags & END_STREAM != 0 {
                    self.ended(wire, ledger);
                } else if is_first {
                    self.push(Heard::Response);
                } else {
                    return Err("response headers twice".into());
                }
            }
            kind::SETTINGS if flags & ACK == 0 => {
                let window = payload
                    .chunks_exact(6)
                    .find(|entry| entry[..2] == [0, 4])
                    .map(|entry| be32(&entry[2..]));
                self.push(Heard::Settings(window));
            }
            kind::PING if flags & ACK == 0 => self.push(Heard::Ping(payload.to_vec())),
            kind::WINDOW_UPDATE => self.push(Heard::Credit {
                of_stream: stream != 0,
                bytes: be32(payload),
            }),
            kind::RST_STREAM | kind::GOAWAY => self.ended(wire, ledger),
            kind::SETTINGS | kind::PING => {}
            other => return Err(format!("a frame of type {other}")),
        }
        Ok(())
    }

    fn ended(&mut self, wire: usize, ledger: &mut Ledger) {
        ledger.router_ended(wire);
        self.push(Heard::Ended);
    }

    fn data(&mut self, wire: usize, payload: &[u8], ledger: &mut Ledger) -> Result<(), String> {
        let mut grpc = std::mem::take(&mut self.grpc);
        grpc.extend_from_slice(payload);
        let mut used = 0;
        while let Some((prefix, rest)) = grpc[used..].split_first_chunk::<5>() {
            let Some(message) = rest.get(..be32(&prefix[1..]) as usize) else {
                break;
            };
            used += 5 + message.len();
            self.message(wire, message, ledger)?;
        }
        grpc.drain(..used);
        self.grpc = grpc;
        Ok(())
    }

    fn message(&mut self, wire: usize, message: &[u8], ledger: &mut Ledger) -> Result<(), String> {
        if let Some(dials) = self.dials.take() {
            if let Dials::WithKey(dialing) = dials {
                let established = dialing
                    .complete(message)
                    .map_err(|error| error.to_string())?;
                let key = established.key.ok_or("no key was agreed on")?;
                self.mac = Some(Box::new(LinkMac::new(&key, &established.link_id)));
            }
            self.push(Heard::Linked(self.mac.clone()));
            return Ok(());
        }
        match route_header::parse(message).map_err(|error| error.to_string())? {
            Parsed::Routed(header) if header.kind == Kind::Publish => {
                if header.ttl != super::client::TTL - 1 {
                    return Err(format!("a ttl of {}", header.ttl));
                }
                match &mut self.mac {
                    None if header.is_unsigned() => {}
                    None => return Err("a tag on a link without a key".into()),
                    Some(mac) => {
                        self.preimage.build(message, &header);
                        let tag = header.tag(message).ok_or("no tag")?;
                        if !mac.verify(&mut self.preimage, header.ttl, tag) {
                            return Err("a wrong tag".into());
                        }
                    }
                }
                let publish = publish_of(message).ok_or("a payload that nobody sent")?;
                self.messages += 1;
                ledger.delivered(wire, publish);
            }
            Parsed::SubscriptionAck(ack) => {
                ledger.acknowledged(wire, ack.subscription_id, ack.success);
            }
            other => return Err(format!("{other:?}")),
        }
        Ok(())
    }
}

fn be32(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk::<4>()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
