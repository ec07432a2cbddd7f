//! One connection to a router: what is said before the bytes of a row, and what comes back, as text.

use crate::common::{Frame, Http2, TestRouter};
use crate::wire::*;

/// What has been said when a row's bytes are sent.
#[derive(Clone, Copy)]
pub enum Start {
    /// Nothing.
    Fresh,
    /// Preface and SETTINGS, acknowledged both ways.
    Greeted,
    /// Stream 1 is open and answered; a message of 2 MiB has begun, so that DATA is nothing but part of it.
    Linked,
}

const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// Nobody else sends this; its answer says that the connection is alive after all before it.
const MARKER: &[u8; 8] = b"rfc 9113";

/// What the router answers, frame by frame: `1: 200; alive`. WINDOW_UPDATE is left out. The last word is `alive` if the
/// connection goes on; after `GOAWAY` it was closed, and `closed` alone means that it was without.
pub fn answer(router: &TestRouter, start: Start, sends: &[u8]) -> String {
    let mut http2 = begin(router, start);
    http2.send_raw(&[sends, &ping(MARKER)].concat());
    let mut said = Vec::new();
    loop {
        match http2.next_frame() {
            None => {
                if !said
                    .last()
                    .is_some_and(|last: &String| last.starts_with("GOAWAY"))
                {
                    said.push("closed".to_owned());
                }
                break;
            }
            Some(frame) if frame.kind == PING && frame.payload == MARKER => {
                said.push("alive".to_owned());
                break;
            }
            Some(frame) => said.extend(text_of(&frame)),
        }
    }
    said.join("; ")
}

/// A connection in this state, whose frames so far have been read.
pub fn begin(router: &TestRouter, start: Start) -> Http2 {
    begin_on(router.connect_raw(), start)
}

/// As [`begin`], on a connection that nothing has been said on.
pub fn begin_on(mut http2: Http2, start: Start) -> Http2 {
    if let Start::Fresh = start {
        return http2;
    }
    http2.send_raw(&join(&[PREFACE, &settings(&[]), &settings_ack()]));
    next(&mut http2, SETTINGS, ACK);
    if let Start::Linked = start {
        http2.send_raw(&join(&[&request(1), &data(1, &[0, 0, 0x20, 0, 0])]));
        next(&mut http2, HEADERS, END_HEADERS);
    }
    http2
}

/// The next frame of this kind. Others are passed over.
pub fn next(http2: &mut Http2, kind: u8, flags: u8) -> Frame {
    loop {
        let frame = http2
            .next_frame()
            .unwrap_or_else(|| panic!("the end before a frame {kind:#x}"));
        if frame.kind == kind && frame.flags == flags {
            return frame;
        }
    }
}

/// Everything up to the answer to a PING that is sent now.
pub fn frames_to_ping(http2: &mut Http2) -> Vec<Frame> {
    http2.send_raw(&ping(MARKER));
    let mut frames = Vec::new();
    loop {
        let frame = http2.next_frame().expect("the connection is alive");
        if frame.kind == PING && frame.payload == MARKER {
            return frames;
        }
        frames.push(frame);
    }
}

/// Everything up to the end.
pub fn frames_to_end(http2: &mut Http2) -> Vec<Frame> {
    std::iter::from_fn(|| http2.next_frame()).collect()
}

fn text_of(frame: &Frame) -> Option<String> {
    let Frame {
        kind,
        flags,
        stream,
        payload,
    } = frame;
    Some(match *kind {
        WINDOW_UPDATE => return None,
        SETTINGS if *flags == ACK => "SETTINGS ACK".to_owned(),
        PING if *flags == ACK => format!("PING ACK {}", String::from_utf8_lossy(payload)),
        HEADERS => format!("{stream}: {}", status_of(payload)),
        RST_STREAM => format!("{stream}: RST_STREAM {}", code(payload)),
        GOAWAY => format!("GOAWAY {}", code(&payload[4..])),
        _ => format!("{frame:?}"),
    })
}

fn code(payload: &[u8]) -> String {
    let code = u32::from_be_bytes(payload[..4].try_into().unwrap());
    CODES
        .get(code as usize)
        .map_or_else(|| format!("{code:#x}"), |name| (*name).to_owned())
}

/// `:status` of a response head, then grpc-status: `200 grpc-status 12`. The router's blocks are literal.
fn status_of(block: &[u8]) -> String {
    let mut block = block;
    let mut said = Vec::new();
    if let [0x20, rest @ ..] = block {
        said.push("(no table)".to_owned());
        block = rest;
    }
    match block {
        [0x88, ..] => said.push("200".to_owned()),
        [0x08, 3, a, b, c, ..] => said.push(String::from_utf8_lossy(&[*a, *b, *c]).into_owned()),
        _ => {}
    }
    let name = b"\x00\x0bgrpc-status";
    if let Some(at) = block.windows(name.len()).position(|window| window == name) {
        let value = &block[at + name.len()..];
        let text = &value[1..=usize::from(value[0])];
        said.push(format!("grpc-status {}", String::from_utf8_lossy(text)));
    }
    said.join(" ")
}
