//! HTTP/2 as a client writes and reads it: RFC 9113 §4.1, §6.

use slim_proto::http2::{ConnectionError, ErrorCode};

pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const RESET: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const WINDOW_BYTES_DEFAULT: i64 = 65_535;
pub const WINDOW_BYTES_MAX: i64 = (1 << 31) - 1;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![l0, l1, l2, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header block of literals: it leaves no state behind (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short texts"));
            assert!(text.len() < 0x7f, "a length of one byte");
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A frame of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// Reads what we said, and holds each frame against what a client may receive.
pub fn read_frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (header, rest) = bytes
            .split_first_chunk::<9>()
            .expect("a whole frame header");
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *header;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        assert!(length <= 16_384, "longer than every client accepts");
        let (payload, rest) = rest.split_at_checked(length).expect("a whole frame");
        bytes = rest;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        assert!(stream < 1 << 31, "the reserved bit");
        match kind {
            HEADERS => assert!(stream % 2 == 1 && flags & END_HEADERS != 0 && length > 0),
            RESET => assert!(stream % 2 == 1 && length == 4 && flags == 0),
            SETTINGS => {
                assert!(stream == 0 && length.is_multiple_of(6) && (flags == 0 || length == 0))
            }
            PING => assert!(stream == 0 && length == 8),
            GOAWAY => assert!(stream == 0 && (8..=8 + 256).contains(&length)),
            WINDOW_UPDATE => {
                assert!(length == 4 && stream % 2 == u32::from(stream != 0));
                let increment = u32_of(payload);
                assert!(
                    increment > 0 && increment < 1 << 31,
                    "an increment of {increment}"
                );
            }
            other => panic!("a frame of type {other}"),
        }
        frames.push(Frame {
            kind,
            flags,
            stream,
            payload: payload.to_vec(),
        });
    }
    frames
}

pub fn u32_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(*payload.first_chunk().expect("four bytes"))
}

/// Every error has a text for the log and a code that RFC 9113 §7 knows and that says something is wrong.
pub fn check_error(error: &ConnectionError) {
    assert!(!error.to_string().is_empty());
    assert!((0x1..=0xd).contains(&error.code().0));
    assert_ne!(error.code(), ErrorCode::INTERNAL_ERROR);
}
