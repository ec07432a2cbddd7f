//! Frames and header blocks as a peer may write them, also wrong ones.

pub use crate::common::kind::*;

pub const PRIORITY: u8 = 2;
pub const PUSH_PROMISE: u8 = 5;
/// A frame type that RFC 9113 does not know.
pub const UNKNOWN: u8 = 0xfa;

pub const ACK: u8 = 0x1;
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const WITH_PRIORITY: u8 = 0x20;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const PATH: &str = crate::common::OPEN_CHANNEL;

pub fn join(frames: &[&[u8]]) -> Vec<u8> {
    frames.concat()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(payload.len(), kind, flags, stream);
    frame.extend_from_slice(payload);
    frame
}

/// The header alone, of a frame of this length.
pub fn header(payload_bytes: usize, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let [_, l0, l1, l2] = (payload_bytes as u32).to_be_bytes();
    [&[l0, l1, l2, kind, flags][..], &stream.to_be_bytes()].concat()
}

pub fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, payload)
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn settings_ack() -> Vec<u8> {
    frame(SETTINGS, ACK, 0, &[])
}

pub fn ping(opaque: &[u8; 8]) -> Vec<u8> {
    frame(PING, 0, 0, opaque)
}

pub const REQUEST: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "localhost"),
    (":path", PATH),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
];

/// Literal fields without indexing (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one length byte");
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// A whole header block in one frame.
pub fn block_frame(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, block)
}

pub fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    block_frame(flags, stream, &block(fields))
}

pub fn request(stream: u32) -> Vec<u8> {
    headers(0, stream, REQUEST)
}

/// A request on stream 1 with these fields besides those that it needs.
pub fn with(more: &[(&str, &str)]) -> Vec<u8> {
    headers(0, 1, &[REQUEST, more].concat())
}

/// A request on stream 1 with [`REQUEST`]'s fields but for one, which has this value.
pub fn but(name: &str, value: &str) -> Vec<u8> {
    let fields: Vec<_> = REQUEST
        .iter()
        .map(|(known, usual)| (*known, if *known == name { value } else { usual }))
        .collect();
    headers(0, 1, &fields)
}

/// A complete request for another method: answered, and over on both sides.
pub fn other(stream: u32) -> Vec<u8> {
    let fields: Vec<_> = REQUEST
        .iter()
        .map(|(name, value)| (*name, if *name == ":path" { "/other" } else { value }))
        .collect();
    headers(END_STREAM, stream, &fields)
}

/// A request block on stream 1 that ends in these bytes.
pub fn ending_in(bytes: &[u8]) -> Vec<u8> {
    block_frame(0, 1, &[&block(REQUEST)[..], bytes].concat())
}
