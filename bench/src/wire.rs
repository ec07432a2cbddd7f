//! The client's bytes on one connection, made by hand so that no client's cost is measured with the server's.

use slim_proto::grpc::prefix;
use slim_proto::http2::{StreamId, data_frame_header};

/// The one stream of the connection.
pub const STREAM: u32 = 1;

/// What the client allows the server to send before it is told of more: bytes in one window update.
pub const WINDOW_BYTES: u32 = 1 << 20;

/// RFC 9113 §6.9.2.
const DEFAULT_WINDOW_BYTES: u32 = 65_535;

const SETTINGS: u8 = 0x4;
const HEADERS: u8 = 0x1;
const DATA: u8 = 0x0;
const WINDOW_UPDATE: u8 = 0x8;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const INITIAL_WINDOW_SIZE: u16 = 0x4;

/// Preface, SETTINGS, the answer to the server's SETTINGS, and an OpenChannel request that stays open.
pub fn opening() -> Vec<u8> {
    let settings = [
        &INITIAL_WINDOW_SIZE.to_be_bytes()[..],
        &WINDOW_BYTES.to_be_bytes(),
    ]
    .concat();
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &settings),
        // SETTINGS says nothing about the connection's own window (RFC 9113 §6.9.2).
        frame(
            WINDOW_UPDATE,
            0,
            0,
            &(WINDOW_BYTES - DEFAULT_WINDOW_BYTES).to_be_bytes(),
        ),
        frame(SETTINGS, ACK, 0, &[]),
        frame(HEADERS, END_HEADERS, STREAM, &request_fields()),
    ]
    .concat()
}

/// The client has read this many bytes: the connection's and the stream's window open again.
pub fn window_updates(bytes: u32) -> Vec<u8> {
    [0, STREAM]
        .map(|stream| frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes()))
        .concat()
}

/// One DATA frame with all of `messages`, each behind its gRPC prefix.
pub fn data_frame<'a>(messages: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let payload: Vec<u8> = messages
        .into_iter()
        .flat_map(|message| [&prefix(message.len())[..], message].concat())
        .collect();
    frame(DATA, 0, STREAM, &payload)
}

/// Appends `payload` as DATA frames no longer than the HTTP/2 default, as the router writes them.
pub fn append_data_frames(payload: &[u8], frame_bytes_max: usize, out: &mut Vec<u8>) {
    for part in payload.chunks(frame_bytes_max) {
        out.extend_from_slice(&data_frame_header(part.len(), StreamId::new(STREAM), false));
        out.extend_from_slice(part);
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame of our own");
    let [_, l0, l1, l2] = length.to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [&[l0, l1, l2, kind, flags, s0, s1, s2, s3][..], payload].concat()
}

/// Literal fields without indexing (RFC 7541 §6.2.2): longer than what clients send, and read once.
fn request_fields() -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/dataplane.proto.v1.DataPlaneService/OpenChannel"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("shorter than 127 bytes"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
