mod receive;

use super::ConnectionError;
use super::flood::FloodBudget;
use super::frame::{
    ACK, DATA_FRAME_BYTES_MAX, END_HEADERS, END_STREAM, ErrorCode, FRAME_HEADER_BYTES, FrameHeader,
    FrameKind, StreamId, append, append_reset, append_window_update,
};
use super::hpack::Decoder;
use super::request::RequestHead;
use super::respond::HeaderBlock;
use receive::{PartialHeaderBlock, Reading};

/// What may be appended to `control` between two ticks, in bytes: RFC 9113 §10.5 "asks for a response and refuses to
/// read it". Far above what bandwidth probes cause, far below what would hurt.
pub const CONTROL_BYTES_PER_TICK_MAX: u32 = 1 << 20;

const SETTING_BYTES: u32 = 6;
/// Debug text of a GOAWAY.
const GOAWAY_DEBUG_BYTES_MAX: usize = 256;

const WINDOW_BYTES_MAX: i64 = (1 << 31) - 1;
/// RFC 9113 §6.9.2: every window, before anything was announced.
const DEFAULT_WINDOW_BYTES: i64 = 65_535;
/// RFC 9113 §4.2.
const FRAME_BYTES_MIN: u32 = 16_384;
const FRAME_BYTES_MAX: u32 = (1 << 24) - 1;

const SETTINGS_HEADER_TABLE_SIZE: u16 = 0x1;
const SETTINGS_MAX_CONCURRENT_STREAMS: u16 = 0x3;
pub(super) const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 0x4;
const SETTINGS_MAX_FRAME_SIZE: u16 = 0x5;
const SETTINGS_MAX_HEADER_LIST_SIZE: u16 = 0x6;

/// What we announce (RFC 9113 §6.5.2). Values outside what the RFC allows are moved to its nearest bound.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of each stream and, by WINDOW_UPDATE, of the connection: bytes that may be in flight or held by the caller.
    pub initial_window_bytes: u32,
    /// 16,384 to 16,777,215.
    pub max_frame_bytes: u32,
    /// Of a header list (32 bytes a field included), and of a header block on the wire.
    pub max_header_list_bytes: u32,
    /// Streams that are reported and not yet ended, the accepted one included.
    pub max_concurrent_streams: u32,
}

/// What the peer did.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A complete request head. The stream is open until it is answered, reset or accepted and ended.
    Request(Box<RequestHead>),
    /// A piece of a DATA frame, as it arrived.
    Data {
        stream: StreamId,
        bytes: &'a [u8],
        /// What to [`release`](ServerConnection::release) once `bytes` is dealt with; padding is released unasked. Zero
        /// before the stream is accepted: until then the stream gets one window and no more.
        flow_bytes: u32,
        /// The peer has ended its half. The chunk may be empty.
        end_stream: bool,
    },
    /// A header list that ended the peer's half of the stream.
    Trailers { stream: StreamId },
    /// The peer ended the stream at once; it is gone.
    Reset { stream: StreamId, code: ErrorCode },
    /// [`ServerConnection::send_window`] has grown.
    WindowOpened,
    /// The peer opens no more streams; the accepted one goes on.
    GoAway {
        code: ErrorCode,
        last_stream: StreamId,
    },
    /// The answer to [`ServerConnection::ping`].
    PingAck([u8; 8]),
}

/// The server's side of one HTTP/2 connection that carries, in the main, one long-lived stream.
///
/// Sans-I/O: bytes go through [`next_event`](Self::next_event); what we say is appended to buffers of the caller's, which
/// writes them in the order of the calls. The caller bounds what waits there, by not reading on while its peer does not.
pub struct ServerConnection {
    settings: Settings,
    decoder: Decoder,
    header_block: Option<Box<PartialHeaderBlock>>,
    /// THE stream.
    accepted: Option<Stream>,
    /// Reported and not yet accepted, answered or reset. No heap while empty.
    pending: Vec<Stream>,

    /// Send windows (RFC 9113 §6.9): of the connection, and what each new stream starts with.
    send_bytes: i64,
    peer_initial_window_bytes: i64,
    /// What the peer may still send on the connection.
    credit_bytes: i64,
    /// What it sent, or announced in a frame header, and nobody has released.
    held_bytes: u32,

    last_stream: StreamId,
    /// Streams up to here may have been ended by us, so frames on them may have crossed our RST_STREAM.
    closed_by_us: StreamId,

    floods: FloodBudget,
    control_bytes: u32,
    refused_streams: u32,

    reading: Reading,
    frame: FrameHeader,
    /// Payload of `frame` yet to come in the current part of it, padding excluded.
    left_bytes: u32,
    padding_bytes: u8,
    scratch: [u8; FRAME_HEADER_BYTES],
    scratch_bytes: u8,

    pings_unanswered: u8,
    has_peer_settings: bool,
    is_settings_acked: bool,
    has_window_opened: bool,
    has_table_shrunk: bool,
    is_going_away: bool,
}

struct Stream {
    id: StreamId,
    send_bytes: i64,
    credit_bytes: i64,
    /// What content-length still promises.
    content_left_bytes: Option<u64>,
    is_remote_ended: bool,
    is_answered: bool,
}

impl ServerConnection {
    /// Appends our preface, SETTINGS and WINDOW_UPDATE, to `out`.
    pub fn new(settings: Settings, out: &mut Vec<u8>) -> Self {
        let settings = Settings {
            initial_window_bytes: settings
                .initial_window_bytes
                .clamp(1, WINDOW_BYTES_MAX as u32),
            max_frame_bytes: settings
                .max_frame_bytes
                .clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX),
            ..settings
        };
        let mut payload = Vec::with_capacity(5 * SETTING_BYTES as usize);
        for (id, value) in [
            (SETTINGS_HEADER_TABLE_SIZE, 0),
            (
                SETTINGS_MAX_CONCURRENT_STREAMS,
                settings.max_concurrent_streams,
            ),
            (SETTINGS_INITIAL_WINDOW_SIZE, settings.initial_window_bytes),
            (SETTINGS_MAX_FRAME_SIZE, settings.max_frame_bytes),
            (
                SETTINGS_MAX_HEADER_LIST_SIZE,
                settings.max_header_list_bytes,
            ),
        ] {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        append(out, FrameKind::Settings, 0, StreamId::CONNECTION, &payload);
        let window_bytes = i64::from(settings.initial_window_bytes);
        // The connection's window cannot be announced smaller, only refilled less (RFC 9113 §6.9.2).
        let credit_bytes = window_bytes.max(DEFAULT_WINDOW_BYTES);
        if credit_bytes > DEFAULT_WINDOW_BYTES {
            append_window_update(
                out,
                StreamId::CONNECTION,
                (credit_bytes - DEFAULT_WINDOW_BYTES) as u32,
            );
        }
        ServerConnection {
            settings,
            decoder: Decoder::new(),
            header_block: None,
            accepted: None,
            pending: Vec::new(),
            send_bytes: DEFAULT_WINDOW_BYTES,
            peer_initial_window_bytes: DEFAULT_WINDOW_BYTES,
            credit_bytes,
            held_bytes: 0,
            last_stream: StreamId::CONNECTION,
            closed_by_us: StreamId::CONNECTION,
            floods: FloodBudget::default(),
            control_bytes: 0,
            refused_streams: 0,
            reading: Reading::Preface,
            frame: FrameHeader {
                length: 0,
                kind: FrameKind::Settings,
                flags: 0,
                stream: StreamId::CONNECTION,
            },
            left_bytes: 0,
            padding_bytes: 0,
            scratch: [0; FRAME_HEADER_BYTES],
            scratch_bytes: 0,
            pings_unanswered: 0,
            has_peer_settings: false,
            is_settings_acked: false,
            has_window_opened: false,
            has_table_shrunk: false,
            is_going_away: false,
        }
    }

    /// Cuts the next event off the front of `input`.
    ///
    /// - `input`: bytes in arrival order, cut anywhere; what was read is removed from it.
    /// - `control`: gets the answers that RFC 9113 demands. They go out before anything the caller says later.
    /// - Returns `None` when `input` is used up.
    /// - Errors: [`ConnectionError`]. Further input is then swallowed, so that a GOAWAY can still reach the peer.
    pub fn next_event<'a>(
        &mut self,
        input: &mut &'a [u8],
        control: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let control_before = control.len();
        let result = self.advance(input, control);
        let answered =
            u32::try_from(control.len().saturating_sub(control_before)).unwrap_or(u32::MAX);
        self.control_bytes = self.control_bytes.saturating_add(answered);
        let result = match result {
            Ok(_) if self.control_bytes > CONTROL_BYTES_PER_TICK_MAX => {
                Err(ConnectionError::TooManyAnswers {
                    limit: CONTROL_BYTES_PER_TICK_MAX,
                })
            }
            result => result,
        };
        if result.is_err() {
            self.reading = Reading::Failed;
            self.header_block = None;
            self.decoder.forbid_table();
        }
        result
    }

    /// A second has passed: allowances for what is useless but harmless in small doses are given back in part.
    pub fn tick(&mut self) {
        self.floods.tick();
        self.control_bytes = 0;
    }

    /// Both sides know each other's settings: the handshake is over.
    pub fn is_established(&self) -> bool {
        self.has_peer_settings && self.is_settings_acked
    }

    /// Bytes of heap behind this connection, by account rather than by allocator.
    pub fn heap_bytes(&self) -> usize {
        let block_bytes = self
            .header_block
            .as_ref()
            .map_or(0, |block| block.heap_bytes());
        block_bytes + self.decoder.table_bytes() + self.pending.capacity() * size_of::<Stream>()
    }

    /// Streams that were refused or reset since the last call, for a counter.
    pub fn take_refused_streams(&mut self) -> u32 {
        std::mem::take(&mut self.refused_streams)
    }

    /// Makes a reported stream THE stream of this connection. `false` if it is gone or another is accepted already.
    pub fn accept(&mut self, stream: StreamId) -> bool {
        if self.accepted.is_some() {
            return false;
        }
        self.accepted = self.take_pending(stream);
        self.accepted.is_some()
    }

    /// `:status 200`, `content-type: application/grpc`; the stream stays open. Nothing if the stream is gone.
    pub fn respond_headers(&mut self, stream: StreamId, out: &mut Vec<u8>) {
        let Some(open) = self.open_stream(stream) else {
            return;
        };
        if !std::mem::replace(&mut open.is_answered, true) {
            let block = self.header_block().grpc_response();
            append(out, FrameKind::Headers, END_HEADERS, stream, block.bytes());
        }
        // What arrived before the stream was accepted is not held against its window any longer.
        self.refill(out);
    }

    /// A gRPC answer that is only a status ("Trailers-Only"). Ends the stream; nothing if it is gone.
    ///
    /// - `message`: percent-encoded by us; cut at 1024 bytes of that.
    pub fn respond_trailers_only(
        &mut self,
        stream: StreamId,
        grpc_status: u32,
        message: &str,
        out: &mut Vec<u8>,
    ) {
        self.end(stream, out, |block, _| {
            block.grpc_response().grpc_status(grpc_status, message)
        });
    }

    /// A bare HTTP status, without gRPC. Ends the stream; nothing if it is gone.
    pub fn respond_status(&mut self, stream: StreamId, http_status: u16, out: &mut Vec<u8>) {
        self.end(stream, out, |block, _| block.status(http_status));
    }

    /// Ends a stream with its status: after the response head as trailers, else as a whole answer. Nothing if it is gone.
    pub fn trailers(
        &mut self,
        stream: StreamId,
        grpc_status: u32,
        message: &str,
        out: &mut Vec<u8>,
    ) {
        self.end(stream, out, |block, is_answered| {
            let block = if is_answered {
                block
            } else {
                block.grpc_response()
            };
            block.grpc_status(grpc_status, message)
        });
    }

    /// RST_STREAM. What the peer still sends on the stream is swallowed. Nothing if the stream is gone.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode, out: &mut Vec<u8>) {
        if self.close(stream).is_some() {
            self.closed_by_us = self.closed_by_us.max(stream);
            append_reset(out, stream, code);
        }
    }

    /// GOAWAY: streams that the peer opens from now on are refused, those it has go on.
    ///
    /// - `debug`: for the peer's log; cut at 256 bytes.
    pub fn goaway(&mut self, code: ErrorCode, debug: &str, out: &mut Vec<u8>) {
        self.is_going_away = true;
        let debug = debug.as_bytes();
        let debug = debug.get(..GOAWAY_DEBUG_BYTES_MAX).unwrap_or(debug);
        let payload = [
            &self.last_stream.get().to_be_bytes(),
            &code.0.to_be_bytes(),
            debug,
        ]
        .concat();
        append(out, FrameKind::GoAway, 0, StreamId::CONNECTION, &payload);
    }

    /// PING; the answer comes as [`Event::PingAck`].
    pub fn ping(&mut self, opaque: [u8; 8], out: &mut Vec<u8>) {
        self.pings_unanswered = self.pings_unanswered.saturating_add(1);
        append(out, FrameKind::Ping, 0, StreamId::CONNECTION, &opaque);
    }

    /// The caller is done with `flow_bytes` of DATA, even of a stream that has ended since. The peer is told when half a
    /// window is due, for the stream and the connection at once.
    pub fn release(&mut self, flow_bytes: u32, control: &mut Vec<u8>) {
        self.held_bytes = self.held_bytes.saturating_sub(flow_bytes);
        self.refill(control);
    }

    /// DATA bytes that may be sent on the accepted stream now; zero if there is none.
    pub fn send_window(&self) -> usize {
        let Some(accepted) = &self.accepted else {
            return 0;
        };
        usize::try_from(accepted.send_bytes.min(self.send_bytes)).unwrap_or(0)
    }

    /// The caller has sent a DATA frame of `bytes` on the accepted stream.
    pub fn consume_send_window(&mut self, bytes: usize) {
        debug_assert!(
            bytes <= self.send_window(),
            "{bytes} bytes sent into a window of {}",
            self.send_window()
        );
        let sent_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.send_bytes = self.send_bytes.saturating_sub(sent_bytes);
        if let Some(accepted) = &mut self.accepted {
            accepted.send_bytes = accepted.send_bytes.saturating_sub(sent_bytes);
        }
        self.floods.data_sent(bytes);
    }

    /// Payload of the largest frame we send. A peer can only allow more than this (RFC 9113 §6.5.2).
    pub fn peer_max_frame_bytes(&self) -> usize {
        DATA_FRAME_BYTES_MAX
    }

    /// Never used by the peer (RFC 9113 §5.1); even numbers would be ours, and we open none.
    fn is_idle(&self, stream: StreamId) -> bool {
        stream != StreamId::CONNECTION && (!is_clients(stream) || stream > self.last_stream)
    }

    fn is_accepted(&self, stream: StreamId) -> bool {
        self.accepted
            .as_ref()
            .is_some_and(|accepted| accepted.id == stream)
    }

    fn open_streams(&self) -> usize {
        self.pending.len() + usize::from(self.accepted.is_some())
    }

    fn open_stream(&mut self, stream: StreamId) -> Option<&mut Stream> {
        self.accepted
            .iter_mut()
            .chain(&mut self.pending)
            .find(|open| open.id == stream)
    }

    fn close(&mut self, stream: StreamId) -> Option<Stream> {
        if self.is_accepted(stream) {
            self.accepted.take()
        } else {
            self.take_pending(stream)
        }
    }

    fn take_pending(&mut self, stream: StreamId) -> Option<Stream> {
        let at = self
            .pending
            .iter()
            .position(|pending| pending.id == stream)?;
        let taken = self.pending.swap_remove(at);
        if self.pending.is_empty() {
            // An idle connection keeps no heap.
            self.pending = Vec::new();
        }
        Some(taken)
    }

    fn header_block(&mut self) -> HeaderBlock {
        HeaderBlock::new(std::mem::take(&mut self.has_table_shrunk))
    }

    /// Our last word on a stream, written by `write` from whether the stream has had its response head. If the peer has
    /// not had its own last word, RST_STREAM(NO_ERROR) asks it not to go on (RFC 9113 §8.1).
    fn end(
        &mut self,
        stream: StreamId,
        out: &mut Vec<u8>,
        write: impl FnOnce(HeaderBlock, bool) -> HeaderBlock,
    ) {
        let Some(closed) = self.close(stream) else {
            return;
        };
        let block = write(self.header_block(), closed.is_answered);
        append(
            out,
            FrameKind::Headers,
            END_HEADERS | END_STREAM,
            stream,
            block.bytes(),
        );
        if !closed.is_remote_ended {
            self.closed_by_us = self.closed_by_us.max(stream);
            append_reset(out, stream, ErrorCode::NO_ERROR);
        }
    }

    /// DATA that goes to nobody gives its window back at once.
    fn discard(&mut self, bytes: u32, control: &mut Vec<u8>) {
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.refill(control);
    }

    /// Tells the peer of room when half a window of it has gathered (RFC 9113 §6.9).
    fn refill(&mut self, control: &mut Vec<u8>) {
        let window_bytes = i64::from(self.settings.initial_window_bytes);
        let room_bytes = window_bytes - i64::from(self.held_bytes);
        let connection_due = room_bytes - self.credit_bytes;
        // A stream that the peer has ended needs no window any more.
        let stream = self
            .accepted
            .as_mut()
            .filter(|accepted| !accepted.is_remote_ended);
        let stream_due = stream
            .as_ref()
            .map_or(0, |accepted| room_bytes - accepted.credit_bytes);
        if connection_due.max(stream_due) < (window_bytes / 2).max(1) {
            return;
        }
        if connection_due > 0 {
            self.credit_bytes += connection_due;
            append_window_update(control, StreamId::CONNECTION, connection_due as u32);
        }
        if stream_due > 0
            && let Some(accepted) = stream
        {
            accepted.credit_bytes += stream_due;
            append_window_update(control, accepted.id, stream_due as u32);
        }
    }
}

/// Streams of clients have odd numbers (RFC 9113 §5.1.1).
fn is_clients(stream: StreamId) -> bool {
    stream.get() % 2 == 1
}
