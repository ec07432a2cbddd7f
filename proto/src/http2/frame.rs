//! Frame headers, stream identifiers and error codes: RFC 9113 §4, §5.1.1, §6 and §7.

use std::fmt;

/// Every frame begins with this many bytes (RFC 9113 §4.1).
pub const FRAME_HEADER_BYTES: usize = 9;

/// Payload of the largest DATA frame we send: what every peer accepts unasked (RFC 9113 §4.2).
pub const DATA_FRAME_BYTES_MAX: usize = 16_384;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY_FLAG: u8 = 0x20;

/// The identifier of a stream: 31 bits; zero names the connection (RFC 9113 §5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId(u32);

impl StreamId {
    pub(super) const CONNECTION: StreamId = StreamId(0);

    /// The identifier in the low 31 bits of `value`; the reserved bit is dropped (RFC 9113 §4.1).
    pub const fn new(value: u32) -> Self {
        StreamId(value & 0x7fff_ffff)
    }

    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({})", self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An error code of RST_STREAM and GOAWAY. Codes that RFC 9113 §7 does not know are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    pub const NO_ERROR: ErrorCode = ErrorCode(0x0);
    pub const PROTOCOL_ERROR: ErrorCode = ErrorCode(0x1);
    pub const INTERNAL_ERROR: ErrorCode = ErrorCode(0x2);
    pub const FLOW_CONTROL_ERROR: ErrorCode = ErrorCode(0x3);
    pub const SETTINGS_TIMEOUT: ErrorCode = ErrorCode(0x4);
    pub const STREAM_CLOSED: ErrorCode = ErrorCode(0x5);
    pub const FRAME_SIZE_ERROR: ErrorCode = ErrorCode(0x6);
    pub const REFUSED_STREAM: ErrorCode = ErrorCode(0x7);
    pub const CANCEL: ErrorCode = ErrorCode(0x8);
    pub const COMPRESSION_ERROR: ErrorCode = ErrorCode(0x9);
    pub const CONNECT_ERROR: ErrorCode = ErrorCode(0xa);
    pub const ENHANCE_YOUR_CALM: ErrorCode = ErrorCode(0xb);
    pub const INADEQUATE_SECURITY: ErrorCode = ErrorCode(0xc);
    pub const HTTP_1_1_REQUIRED: ErrorCode = ErrorCode(0xd);
}

/// The names of RFC 9113 §7, by code.
const ERROR_NAMES: [&str; 14] = [
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

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ERROR_NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a frame is (RFC 9113 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    Data,
    Headers,
    Priority,
    ResetStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    Unknown(u8),
}

impl FrameKind {
    pub(super) fn from_wire(kind: u8) -> Self {
        match kind {
            0x0 => FrameKind::Data,
            0x1 => FrameKind::Headers,
            0x2 => FrameKind::Priority,
            0x3 => FrameKind::ResetStream,
            0x4 => FrameKind::Settings,
            0x5 => FrameKind::PushPromise,
            0x6 => FrameKind::Ping,
            0x7 => FrameKind::GoAway,
            0x8 => FrameKind::WindowUpdate,
            0x9 => FrameKind::Continuation,
            other => FrameKind::Unknown(other),
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            FrameKind::Data => 0x0,
            FrameKind::Headers => 0x1,
            FrameKind::Priority => 0x2,
            FrameKind::ResetStream => 0x3,
            FrameKind::Settings => 0x4,
            FrameKind::PushPromise => 0x5,
            FrameKind::Ping => 0x6,
            FrameKind::GoAway => 0x7,
            FrameKind::WindowUpdate => 0x8,
            FrameKind::Continuation => 0x9,
            FrameKind::Unknown(other) => other,
        }
    }

    /// The name that RFC 9113 gives it, for messages to people.
    pub(super) fn name(self) -> &'static str {
        match self {
            FrameKind::Data => "DATA",
            FrameKind::Headers => "HEADERS",
            FrameKind::Priority => "PRIORITY",
            FrameKind::ResetStream => "RST_STREAM",
            FrameKind::Settings => "SETTINGS",
            FrameKind::PushPromise => "PUSH_PROMISE",
            FrameKind::Ping => "PING",
            FrameKind::GoAway => "GOAWAY",
            FrameKind::WindowUpdate => "WINDOW_UPDATE",
            FrameKind::Continuation => "CONTINUATION",
            FrameKind::Unknown(_) => "unknown",
        }
    }
}

/// `length: u24 | type: u8 | flags: u8 | R: 1 bit, stream: 31 bits`, all big-endian (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) length: u32,
    pub(super) kind: FrameKind,
    pub(super) flags: u8,
    pub(super) stream: StreamId,
}

impl FrameHeader {
    pub(super) fn from_wire(bytes: &[u8; FRAME_HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        FrameHeader {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind: FrameKind::from_wire(kind),
            flags,
            stream: StreamId::new(u32::from_be_bytes([s0, s1, s2, s3])),
        }
    }

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The header of a DATA frame (RFC 9113 §6.1).
///
/// - `payload_bytes`: at most [`DATA_FRAME_BYTES_MAX`]; above it the frame would be one that peers refuse.
pub fn data_frame_header(
    payload_bytes: usize,
    stream: StreamId,
    end_stream: bool,
) -> [u8; FRAME_HEADER_BYTES] {
    debug_assert!(
        payload_bytes <= DATA_FRAME_BYTES_MAX,
        "a DATA frame of {payload_bytes} bytes"
    );
    frame_header(
        payload_bytes,
        FrameKind::Data,
        if end_stream { END_STREAM } else { 0 },
        stream,
    )
}

fn frame_header(
    payload_bytes: usize,
    kind: FrameKind,
    flags: u8,
    stream: StreamId,
) -> [u8; FRAME_HEADER_BYTES] {
    let [_, l0, l1, l2] = (payload_bytes as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.get().to_be_bytes();
    [l0, l1, l2, kind.to_wire(), flags, s0, s1, s2, s3]
}

/// Appends a whole frame. `payload` is ours, hence short.
pub(super) fn append(
    out: &mut Vec<u8>,
    kind: FrameKind,
    flags: u8,
    stream: StreamId,
    payload: &[u8],
) {
    out.extend_from_slice(&frame_header(payload.len(), kind, flags, stream));
    out.extend_from_slice(payload);
}

pub(super) fn append_window_update(out: &mut Vec<u8>, stream: StreamId, increment: u32) {
    append(
        out,
        FrameKind::WindowUpdate,
        0,
        stream,
        &increment.to_be_bytes(),
    );
}

pub(super) fn append_reset(out: &mut Vec<u8>, stream: StreamId, code: ErrorCode) {
    append(
        out,
        FrameKind::ResetStream,
        0,
        stream,
        &code.0.to_be_bytes(),
    );
}
