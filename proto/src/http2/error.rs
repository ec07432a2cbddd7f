use super::flood::{Exceeded, Flood};
use super::frame::{ErrorCode, StreamId};
use super::hpack::HpackError;
use super::request::Malformed;

/// Why a connection cannot go on (RFC 9113 §5.4.1). The caller sends
/// [`goaway`](super::ServerConnection::goaway) with [`code`](ConnectionError::code) and closes; what the peer sends
/// meanwhile is swallowed.
///
/// An error on the one stream of a link is an error of the link, so stream errors of RFC 9113 on an open stream are
/// reported here too: it allows that, and nothing is left that a peer could make us reset again and again.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum ConnectionError {
    /// No HTTP/1.1 answer: our SETTINGS are on the wire before the peer says a word, so it could not be read as one. Nor
    /// HTTP_1_1_REQUIRED, which would tell the peer to do what it did. Who looks at the bytes can read the text.
    #[error("an HTTP/1 request on a port that speaks gRPC over HTTP/2 only")]
    Http1,
    #[error("a TLS handshake on a port without TLS")]
    TlsOnClearText,
    #[error("byte {byte:#04x} at offset {offset} is not the HTTP/2 preface")]
    BadPreface { byte: u8, offset: usize },
    #[error("the first frame is {kind}, not SETTINGS")]
    SettingsMissing { kind: &'static str },

    #[error("{kind} frame of {bytes} bytes, the limit is {limit}")]
    FrameTooLarge {
        kind: &'static str,
        bytes: u32,
        limit: u32,
    },
    #[error("{kind} frame of {bytes} bytes, which is not a length it can have")]
    FrameLength { kind: &'static str, bytes: u32 },
    #[error("padding of {padding} bytes in a {kind} frame of {bytes}")]
    Padding {
        kind: &'static str,
        padding: u8,
        bytes: u32,
    },

    #[error("{kind} frame on stream {stream}")]
    WrongStream {
        kind: &'static str,
        stream: StreamId,
    },
    #[error("{kind} frame on idle stream {stream}")]
    IdleStream {
        kind: &'static str,
        stream: StreamId,
    },
    #[error("{kind} frame on stream {stream}, which the peer has ended")]
    StreamClosed {
        kind: &'static str,
        stream: StreamId,
    },
    #[error("stream {stream} opened after stream {last}")]
    StreamOrder { stream: StreamId, last: StreamId },
    #[error("PUSH_PROMISE from a client")]
    Push,
    #[error("{kind} frame on stream {stream} inside the header block of stream {open}")]
    HeaderBlockInterrupted {
        kind: &'static str,
        stream: StreamId,
        open: StreamId,
    },
    #[error("CONTINUATION on stream {stream} without a header block")]
    ContinuationWithoutHeaders { stream: StreamId },
    #[error("the header block of stream {stream} is malformed: {malformed}")]
    Malformed {
        stream: StreamId,
        malformed: Malformed,
    },
    #[error("stream {stream} does not carry the DATA that its content-length declared")]
    ContentLength { stream: StreamId },

    #[error("setting {id:#x} with value {value}")]
    SettingValue { id: u16, value: u32 },
    #[error("a SETTINGS acknowledgement that nothing waits for")]
    UnexpectedSettingsAck,
    #[error("WINDOW_UPDATE by zero on stream {stream}")]
    ZeroIncrement { stream: StreamId },
    #[error("the send window of stream {stream} would become {bytes} bytes")]
    WindowOverflow { stream: StreamId, bytes: i64 },
    #[error("DATA of {bytes} bytes on stream {stream}, whose window has {window}")]
    WindowOverrun {
        stream: StreamId,
        bytes: u32,
        window: i64,
    },

    #[error(transparent)]
    Hpack(#[from] HpackError),

    #[error("{flood}: more than {limit}")]
    Flood { flood: Flood, limit: u16 },
    #[error("a header block of more than {limit} bytes")]
    HeaderBlockTooLarge { limit: u32 },
    #[error("a header list of more than {limit} bytes")]
    HeaderListTooLarge { limit: u32 },
    #[error("a header list of more than {limit} fields")]
    TooManyFields { limit: usize },
    #[error("a header block in more than {limit} frames")]
    TooManyContinuations { limit: u8 },
    #[error("a SETTINGS frame of {bytes} bytes, more than {limit}")]
    TooManySettings { bytes: u32, limit: u32 },
    #[error("answers of more than {limit} bytes within one tick")]
    TooManyAnswers { limit: u32 },
}

impl ConnectionError {
    /// The code for GOAWAY (RFC 9113 §7).
    pub fn code(&self) -> ErrorCode {
        use ConnectionError::*;
        match self {
            Http1
            | TlsOnClearText
            | BadPreface { .. }
            | SettingsMissing { .. }
            | Padding { .. }
            | WrongStream { .. }
            | IdleStream { .. }
            | StreamOrder { .. }
            | Push
            | HeaderBlockInterrupted { .. }
            | ContinuationWithoutHeaders { .. }
            | Malformed { .. }
            | ContentLength { .. }
            | UnexpectedSettingsAck
            | ZeroIncrement { .. } => ErrorCode::PROTOCOL_ERROR,
            SettingValue {
                id: super::connection::SETTINGS_INITIAL_WINDOW_SIZE,
                ..
            } => ErrorCode::FLOW_CONTROL_ERROR,
            SettingValue { .. } => ErrorCode::PROTOCOL_ERROR,
            WindowOverflow { .. } | WindowOverrun { .. } => ErrorCode::FLOW_CONTROL_ERROR,
            FrameTooLarge { .. } | FrameLength { .. } => ErrorCode::FRAME_SIZE_ERROR,
            StreamClosed { .. } => ErrorCode::STREAM_CLOSED,
            Hpack(_) => ErrorCode::COMPRESSION_ERROR,
            Flood { .. }
            | HeaderBlockTooLarge { .. }
            | HeaderListTooLarge { .. }
            | TooManyFields { .. }
            | TooManyContinuations { .. }
            | TooManySettings { .. }
            | TooManyAnswers { .. } => ErrorCode::ENHANCE_YOUR_CALM,
        }
    }
}

impl From<Exceeded> for ConnectionError {
    fn from(Exceeded { flood, burst }: Exceeded) -> Self {
        ConnectionError::Flood {
            flood,
            limit: burst,
        }
    }
}
