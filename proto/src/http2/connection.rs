use super::ConnectionError;
use super::flood::{Flood, FloodBudget, TINY_DATA_BYTES};
use super::frame::{
    ACK, DATA_FRAME_BYTES_MAX, END_HEADERS, END_STREAM, ErrorCode, FRAME_HEADER_BYTES, FrameHeader,
    FrameKind, PADDED, PRIORITY_FLAG, StreamId, append, append_reset, append_window_update,
};
use super::hpack::Decoder;
use super::request::{ListLimit, RequestHead, read_request, read_trailers};
use super::respond::HeaderBlock;

/// What may be appended to `control` between two ticks, in bytes: RFC 9113 §10.5 "asks for a response and refuses to
/// read it". Far above what bandwidth probes cause, far below what would hurt.
pub const CONTROL_BYTES_PER_TICK_MAX: u32 = 1 << 20;

/// CONTINUATION frames of one header block (VU#421644).
const CONTINUATION_FRAMES_MAX: u8 = 8;
/// Payload of one SETTINGS frame: 32 settings, of which RFC 9113 knows six.
const SETTINGS_FRAME_BYTES_MAX: u32 = 32 * SETTING_BYTES;
const SETTING_BYTES: u32 = 6;
/// Debug text of a GOAWAY.
const GOAWAY_DEBUG_BYTES_MAX: usize = 256;
/// Letters of an HTTP/1 method before a stranger counts as noise.
const HTTP1_METHOD_BYTES_MAX: u8 = 16;

const WINDOW_BYTES_MAX: i64 = (1 << 31) - 1;
/// RFC 9113 §6.9.2: every window, before anything was announced.
const DEFAULT_WINDOW_BYTES: i64 = 65_535;
/// RFC 9113 §4.2.
const FRAME_BYTES_MIN: u32 = 16_384;
const FRAME_BYTES_MAX: u32 = (1 << 24) - 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const SETTINGS_HEADER_TABLE_SIZE: u16 = 0x1;
const SETTINGS_ENABLE_PUSH: u16 = 0x2;
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

/// What the next byte of input is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Preface,
    /// Not the preface; to be told from noise: an HTTP/1 method, a TLS record.
    Http1Method,
    TlsVersion,
    FrameHeader,
    PadLength,
    PriorityFields,
    Data,
    Fragment,
    /// The padding of any frame; the end of DATA, HEADERS and CONTINUATION frames.
    Padding,
    Settings,
    /// RST_STREAM, PING, WINDOW_UPDATE, and the fixed part of GOAWAY.
    Fixed,
    Skip,
    /// After an error: nothing is looked at any more.
    Failed,
}

enum Progress<'a> {
    /// The state moved on.
    Done,
    /// The input is used up.
    Starved,
    Event(Event<'a>),
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

struct PartialHeaderBlock {
    role: BlockRole,
    stream: StreamId,
    end_stream: bool,
    continuations: u8,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum BlockRole {
    Request,
    Trailers,
    /// The stream is over; the block still counts for the compression state.
    Ignored,
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
        let block_bytes = self.header_block.as_ref().map_or(0, |block| {
            size_of_val(block.as_ref()) + block.bytes.capacity()
        });
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
        let block = self
            .header_block()
            .grpc_response()
            .grpc_status(grpc_status, message);
        self.end(stream, &block, out);
    }

    /// A bare HTTP status, without gRPC. Ends the stream; nothing if it is gone.
    pub fn respond_status(&mut self, stream: StreamId, http_status: u16, out: &mut Vec<u8>) {
        self.respond_status_with(stream, http_status, &[], out);
    }

    /// As [`respond_status`](Self::respond_status), with further fields: `("www-authenticate", "Basic")`. Names are lower
    /// case; names and values are the caller's own words, not the peer's.
    pub fn respond_status_with(
        &mut self,
        stream: StreamId,
        http_status: u16,
        fields: &[(&str, &str)],
        out: &mut Vec<u8>,
    ) {
        let block = self.header_block().status(http_status);
        let block = fields
            .iter()
            .fold(block, |block, (name, value)| block.with(name, value));
        self.end(stream, &block, out);
    }

    /// Ends a stream with its status: after the response head as trailers, else as a whole answer. Nothing if it is gone.
    pub fn trailers(
        &mut self,
        stream: StreamId,
        grpc_status: u32,
        message: &str,
        out: &mut Vec<u8>,
    ) {
        let is_answered = self
            .open_stream(stream)
            .is_some_and(|open| open.is_answered);
        let block = self.header_block();
        let block = if is_answered {
            block
        } else {
            block.grpc_response()
        };
        self.end(stream, &block.grpc_status(grpc_status, message), out);
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

    fn advance<'a>(
        &mut self,
        input: &mut &'a [u8],
        control: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        loop {
            let progress = match self.reading {
                Reading::Preface | Reading::Http1Method | Reading::TlsVersion => {
                    self.read_preface(input)?
                }
                Reading::FrameHeader => match self.take::<FRAME_HEADER_BYTES>(input) {
                    None => Progress::Starved,
                    Some(bytes) => {
                        self.begin_frame(FrameHeader::from_wire(&bytes))?;
                        Progress::Done
                    }
                },
                Reading::PadLength => self.read_pad_length(input, control)?,
                Reading::PriorityFields => match self.take::<5>(input) {
                    None => Progress::Starved,
                    Some(_) => {
                        self.left_bytes = self.left_bytes.saturating_sub(5);
                        self.begin_fragment()?;
                        Progress::Done
                    }
                },
                Reading::Data => self.read_data(input, control)?,
                Reading::Fragment => self.read_fragment(input),
                Reading::Padding => self.read_padding(input, control)?,
                Reading::Settings => self.read_settings(input, control)?,
                Reading::Fixed => self.read_fixed(input, control)?,
                Reading::Skip => self.skip(input),
                Reading::Failed => {
                    *input = &[];
                    Progress::Starved
                }
            };
            match progress {
                Progress::Done => {}
                Progress::Starved => return Ok(None),
                Progress::Event(event) => return Ok(Some(event)),
            }
        }
    }

    /// The next `N` bytes, gathered over calls. `N` is at most [`FRAME_HEADER_BYTES`].
    fn take<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        if self.scratch_bytes == 0
            && let Some((whole, rest)) = input.split_first_chunk::<N>()
        {
            *input = rest;
            return Some(*whole);
        }
        let gathered = usize::from(self.scratch_bytes);
        let missing = N.saturating_sub(gathered).min(input.len());
        let (bytes, rest) = input.split_at(missing);
        for (slot, byte) in self.scratch.iter_mut().skip(gathered).zip(bytes) {
            *slot = *byte;
        }
        *input = rest;
        self.scratch_bytes += missing as u8;
        if usize::from(self.scratch_bytes) < N {
            return None;
        }
        self.scratch_bytes = 0;
        self.scratch.first_chunk::<N>().copied()
    }

    /// RFC 9113 §3.4. `scratch_bytes` counts what was seen.
    fn read_preface<'a>(&mut self, input: &mut &[u8]) -> Result<Progress<'a>, ConnectionError> {
        let Some((&byte, rest)) = input.split_first() else {
            return Ok(Progress::Starved);
        };
        *input = rest;
        let seen = self.scratch_bytes;
        let offset = usize::from(seen);
        let bad = ConnectionError::BadPreface { byte, offset };
        self.scratch_bytes += 1;
        match self.reading {
            Reading::TlsVersion if byte == 0x03 => return Err(ConnectionError::TlsOnClearText),
            Reading::Http1Method if byte == b' ' => return Err(ConnectionError::Http1),
            Reading::Http1Method if byte.is_ascii_uppercase() && seen < HTTP1_METHOD_BYTES_MAX => {}
            Reading::Preface if PREFACE.get(offset) == Some(&byte) => {
                if offset + 1 == PREFACE.len() {
                    self.scratch_bytes = 0;
                    self.reading = Reading::FrameHeader;
                }
            }
            // A TLS record of type handshake, then its version (RFC 8446 §5.1).
            Reading::Preface if offset == 0 && byte == 0x16 => self.reading = Reading::TlsVersion,
            // Three letters of the preface could begin another method; its space could not.
            Reading::Preface if offset <= 3 && byte.is_ascii_uppercase() => {
                self.reading = Reading::Http1Method
            }
            _ => return Err(bad),
        }
        Ok(Progress::Done)
    }

    /// Everything about a frame that its header alone can get wrong.
    fn begin_frame(&mut self, frame: FrameHeader) -> Result<(), ConnectionError> {
        let FrameHeader {
            length: bytes,
            stream,
            ..
        } = frame;
        let kind = frame.kind.name();
        if bytes > self.settings.max_frame_bytes {
            return Err(ConnectionError::FrameTooLarge {
                kind,
                bytes,
                limit: self.settings.max_frame_bytes,
            });
        }
        if !self.has_peer_settings && (frame.kind != FrameKind::Settings || frame.has(ACK)) {
            return Err(ConnectionError::SettingsMissing { kind });
        }
        if let Some(open) = self.header_block.as_ref().map(|block| block.stream)
            && (frame.kind != FrameKind::Continuation || stream != open)
        {
            return Err(ConnectionError::HeaderBlockInterrupted { kind, stream, open });
        }
        self.frame = frame;
        self.left_bytes = bytes;
        self.padding_bytes = 0;

        let on_connection = stream == StreamId::CONNECTION;
        let wrong_stream = ConnectionError::WrongStream { kind, stream };
        let wrong_length = ConnectionError::FrameLength { kind, bytes };
        self.reading = match frame.kind {
            FrameKind::Data | FrameKind::Headers | FrameKind::Priority | FrameKind::ResetStream
                if on_connection =>
            {
                return Err(wrong_stream);
            }
            FrameKind::Settings | FrameKind::Ping | FrameKind::GoAway if !on_connection => {
                return Err(wrong_stream);
            }

            FrameKind::Data => return self.begin_data(),
            FrameKind::Headers => return self.begin_headers(),
            FrameKind::Continuation if self.header_block.is_none() => {
                return Err(ConnectionError::ContinuationWithoutHeaders { stream });
            }
            FrameKind::Continuation => return self.begin_fragment(),
            FrameKind::PushPromise => return Err(ConnectionError::Push),

            FrameKind::Priority if bytes != 5 => return Err(wrong_length),
            FrameKind::Priority => {
                self.floods.spend(Flood::Priorities)?;
                Reading::Skip
            }
            FrameKind::Settings if frame.has(ACK) && bytes != 0 => return Err(wrong_length),
            FrameKind::Settings if bytes % SETTING_BYTES != 0 => return Err(wrong_length),
            FrameKind::Settings if bytes > SETTINGS_FRAME_BYTES_MAX => {
                return Err(ConnectionError::TooManySettings {
                    bytes,
                    limit: SETTINGS_FRAME_BYTES_MAX,
                });
            }
            FrameKind::Settings => Reading::Settings,
            FrameKind::ResetStream | FrameKind::WindowUpdate if bytes != 4 => {
                return Err(wrong_length);
            }
            FrameKind::ResetStream | FrameKind::WindowUpdate if self.is_idle(stream) => {
                return Err(ConnectionError::IdleStream { kind, stream });
            }
            FrameKind::Ping if bytes != 8 => return Err(wrong_length),
            FrameKind::GoAway if bytes < 8 => return Err(wrong_length),
            FrameKind::ResetStream
            | FrameKind::WindowUpdate
            | FrameKind::Ping
            | FrameKind::GoAway => Reading::Fixed,
            FrameKind::Unknown(_) => {
                self.floods.spend(Flood::Ignored)?;
                Reading::Skip
            }
        };
        Ok(())
    }

    /// Charges a DATA frame to the windows, whole and before any of it is here (RFC 9113 §6.9.1).
    fn begin_data(&mut self) -> Result<(), ConnectionError> {
        let FrameHeader {
            length: bytes,
            stream,
            ..
        } = self.frame;
        let kind = self.frame.kind.name();
        if self.is_idle(stream) {
            return Err(ConnectionError::IdleStream { kind, stream });
        }
        if i64::from(bytes) > self.credit_bytes {
            return Err(ConnectionError::WindowOverrun {
                stream: StreamId::CONNECTION,
                bytes,
                window: self.credit_bytes,
            });
        }
        // Until the peer has read our SETTINGS it counts from the default, which may be more than we announced.
        let overdraft_bytes = match self.is_settings_acked {
            true => 0,
            false => (DEFAULT_WINDOW_BYTES - i64::from(self.settings.initial_window_bytes)).max(0),
        };
        let is_ours = stream <= self.closed_by_us;
        match self.open_stream(stream) {
            Some(open) if open.is_remote_ended => {
                return Err(ConnectionError::StreamClosed { kind, stream });
            }
            Some(open) => {
                let window = open.credit_bytes + overdraft_bytes;
                if bytes > 0 && i64::from(bytes) > window {
                    return Err(ConnectionError::WindowOverrun {
                        stream,
                        bytes,
                        window,
                    });
                }
                open.credit_bytes -= i64::from(bytes);
            }
            None if is_ours => {}
            None => return Err(ConnectionError::StreamClosed { kind, stream }),
        }
        self.credit_bytes -= i64::from(bytes);
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        if self.frame.has(PADDED) {
            self.expect_padding()
        } else {
            self.begin_payload()
        }
    }

    fn begin_headers(&mut self) -> Result<(), ConnectionError> {
        let FrameHeader {
            length: bytes,
            stream,
            ..
        } = self.frame;
        let kind = self.frame.kind.name();
        if !is_clients(stream) {
            return Err(ConnectionError::WrongStream { kind, stream });
        }
        let last = self.last_stream;
        let is_ours = stream <= self.closed_by_us;
        let role = match self.open_stream(stream) {
            Some(open) if open.is_remote_ended => {
                return Err(ConnectionError::StreamClosed { kind, stream });
            }
            Some(_) => BlockRole::Trailers,
            None if stream > last => {
                self.floods.spend(Flood::Requests)?;
                self.last_stream = stream;
                BlockRole::Request
            }
            None if is_ours => {
                self.floods.spend(Flood::Ignored)?;
                BlockRole::Ignored
            }
            None if stream == last => return Err(ConnectionError::StreamClosed { kind, stream }),
            None => return Err(ConnectionError::StreamOrder { stream, last }),
        };
        self.header_block = Some(Box::new(PartialHeaderBlock {
            role,
            stream,
            end_stream: self.frame.has(END_STREAM),
            continuations: 0,
            bytes: Vec::new(),
        }));
        if self.frame.has(PADDED) {
            self.expect_padding()
        } else if self.frame.has(PRIORITY_FLAG) {
            if bytes < 5 {
                return Err(ConnectionError::FrameLength { kind, bytes });
            }
            self.reading = Reading::PriorityFields;
            Ok(())
        } else {
            self.begin_fragment()
        }
    }

    fn expect_padding(&mut self) -> Result<(), ConnectionError> {
        if self.frame.length == 0 {
            return Err(ConnectionError::FrameLength {
                kind: self.frame.kind.name(),
                bytes: 0,
            });
        }
        self.reading = Reading::PadLength;
        Ok(())
    }

    fn read_pad_length<'a>(
        &mut self,
        input: &mut &[u8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        let Some([padding]) = self.take::<1>(input) else {
            return Ok(Progress::Starved);
        };
        let is_data = self.frame.kind == FrameKind::Data;
        let priority_bytes = if !is_data && self.frame.has(PRIORITY_FLAG) {
            5
        } else {
            0
        };
        let bytes = self.frame.length;
        // RFC 9113 §6.1, §6.2: padding that does not fit what is left of the frame.
        self.left_bytes = (bytes - 1)
            .checked_sub(u32::from(padding))
            .filter(|left_bytes| *left_bytes >= priority_bytes)
            .ok_or(ConnectionError::Padding {
                kind: self.frame.kind.name(),
                padding,
                bytes,
            })?;
        self.padding_bytes = padding;
        if is_data {
            self.discard(1, control);
            self.begin_payload()?;
        } else if priority_bytes > 0 {
            self.reading = Reading::PriorityFields;
        } else {
            self.begin_fragment()?;
        }
        Ok(Progress::Done)
    }

    /// `left_bytes` of DATA are to come. Judges what a frame of this size is good for.
    fn begin_payload(&mut self) -> Result<(), ConnectionError> {
        self.reading = Reading::Data;
        match self.left_bytes {
            _ if self.frame.has(END_STREAM) => {}
            0 => self.floods.spend(Flood::EmptyData)?,
            1..TINY_DATA_BYTES => self.floods.spend(Flood::TinyData)?,
            _ if self.is_accepted(self.frame.stream) => self.floods.useful_frame_received(),
            _ => {}
        }
        Ok(())
    }

    fn read_data<'a>(
        &mut self,
        input: &mut &'a [u8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        let stream = self.frame.stream;
        let left_before = self.left_bytes;
        if left_before > 0 && input.is_empty() {
            return Ok(Progress::Starved);
        }
        let chunk_bytes = (left_before as usize).min(input.len());
        let (bytes, rest) = input.split_at(chunk_bytes);
        *input = rest;
        let flow_bytes = chunk_bytes as u32;
        self.left_bytes = left_before - flow_bytes;
        let is_last = self.left_bytes == 0;
        if is_last {
            self.reading = Reading::Padding;
        }
        let end_stream = is_last && self.frame.has(END_STREAM);
        let is_accepted = self.is_accepted(stream);
        let Some(open) = self.open_stream(stream) else {
            self.discard(flow_bytes, control);
            return Ok(Progress::Done);
        };
        if let Some(content_left_bytes) = &mut open.content_left_bytes {
            *content_left_bytes = content_left_bytes
                .checked_sub(chunk_bytes as u64)
                .ok_or(ConnectionError::ContentLength { stream })?;
            if end_stream && *content_left_bytes > 0 {
                return Err(ConnectionError::ContentLength { stream });
            }
        }
        open.is_remote_ended |= end_stream;
        if bytes.is_empty() && !end_stream {
            return Ok(Progress::Done);
        }
        if is_accepted {
            return Ok(Progress::Event(Event::Data {
                stream,
                bytes,
                flow_bytes,
                end_stream,
            }));
        }
        self.discard(flow_bytes, control);
        Ok(Progress::Event(Event::Data {
            stream,
            bytes,
            flow_bytes: 0,
            end_stream,
        }))
    }

    /// A piece of a header block of `left_bytes` is to come. Refused here, before it is stored.
    fn begin_fragment(&mut self) -> Result<(), ConnectionError> {
        let limit = self.settings.max_header_list_bytes;
        let Some(block) = &mut self.header_block else {
            return Err(ConnectionError::ContinuationWithoutHeaders {
                stream: self.frame.stream,
            });
        };
        if self.frame.kind == FrameKind::Continuation {
            block.continuations += 1;
            if block.continuations > CONTINUATION_FRAMES_MAX {
                return Err(ConnectionError::TooManyContinuations {
                    limit: CONTINUATION_FRAMES_MAX,
                });
            }
        }
        // A field takes fewer bytes on the wire than it counts in the list, so a longer block is a longer list.
        if block.bytes.len() as u64 + u64::from(self.left_bytes) > u64::from(limit) {
            return Err(ConnectionError::HeaderBlockTooLarge { limit });
        }
        self.reading = Reading::Fragment;
        Ok(())
    }

    fn read_fragment<'a>(&mut self, input: &mut &[u8]) -> Progress<'a> {
        let (fragment, rest) = input.split_at((self.left_bytes as usize).min(input.len()));
        *input = rest;
        self.left_bytes -= fragment.len() as u32;
        if let Some(block) = &mut self.header_block {
            block.bytes.extend_from_slice(fragment);
        }
        if self.left_bytes > 0 {
            return Progress::Starved;
        }
        self.reading = Reading::Padding;
        Progress::Done
    }

    fn read_padding<'a>(
        &mut self,
        input: &mut &[u8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        if self.padding_bytes > 0 {
            let skipped = usize::from(self.padding_bytes).min(input.len());
            *input = input.split_at(skipped).1;
            self.padding_bytes -= skipped as u8;
            if self.frame.kind == FrameKind::Data {
                self.discard(skipped as u32, control);
            }
            if self.padding_bytes > 0 {
                return Ok(Progress::Starved);
            }
        }
        self.reading = Reading::FrameHeader;
        if self.frame.kind != FrameKind::Data
            && self.frame.has(END_HEADERS)
            && let Some(block) = self.header_block.take()
        {
            return self.finish_header_block(&block, control);
        }
        Ok(Progress::Done)
    }

    fn finish_header_block<'a>(
        &mut self,
        block: &PartialHeaderBlock,
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        let PartialHeaderBlock {
            stream, end_stream, ..
        } = *block;
        let limit = ListLimit {
            bytes: self.settings.max_header_list_bytes,
        };
        match block.role {
            BlockRole::Ignored => {
                // Its fields concern nobody, well-formed or not.
                let _ = read_trailers(&mut self.decoder, &block.bytes, limit)?;
                Ok(Progress::Done)
            }
            BlockRole::Trailers => {
                read_trailers(&mut self.decoder, &block.bytes, limit)?
                    .map_err(|malformed| ConnectionError::Malformed { stream, malformed })?;
                if !end_stream {
                    let malformed = super::Malformed::TrailersWithoutEnd;
                    return Err(ConnectionError::Malformed { stream, malformed });
                }
                // The stream can be gone only by a call between two pieces of the block.
                let Some(open) = self.open_stream(stream) else {
                    return Ok(Progress::Done);
                };
                if open.content_left_bytes.is_some_and(|bytes| bytes > 0) {
                    return Err(ConnectionError::ContentLength { stream });
                }
                open.is_remote_ended = true;
                Ok(Progress::Event(Event::Trailers { stream }))
            }
            BlockRole::Request => {
                let head =
                    read_request(&mut self.decoder, &block.bytes, limit, stream, end_stream)?;
                let refusal = match &head {
                    Err(_) => Some(ErrorCode::PROTOCOL_ERROR),
                    Ok(_)
                        if self.is_going_away
                            || self.open_streams()
                                >= self.settings.max_concurrent_streams as usize =>
                    {
                        Some(ErrorCode::REFUSED_STREAM)
                    }
                    Ok(_) => None,
                };
                match (refusal, head) {
                    (None, Ok(head)) => {
                        self.pending.push(Stream {
                            id: stream,
                            send_bytes: self.peer_initial_window_bytes,
                            credit_bytes: i64::from(self.settings.initial_window_bytes),
                            content_left_bytes: head.content_length,
                            is_remote_ended: end_stream,
                            is_answered: false,
                        });
                        Ok(Progress::Event(Event::Request(head)))
                    }
                    (refusal, _) => {
                        self.floods.spend(Flood::ResetsByUs)?;
                        self.refused_streams = self.refused_streams.saturating_add(1);
                        self.closed_by_us = self.closed_by_us.max(stream);
                        append_reset(
                            control,
                            stream,
                            refusal.unwrap_or(ErrorCode::REFUSED_STREAM),
                        );
                        Ok(Progress::Done)
                    }
                }
            }
        }
    }

    fn read_settings<'a>(
        &mut self,
        input: &mut &[u8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        if self.frame.has(ACK) {
            if std::mem::replace(&mut self.is_settings_acked, true) {
                return Err(ConnectionError::UnexpectedSettingsAck);
            }
            self.decoder.forbid_table();
            self.reading = Reading::FrameHeader;
            return Ok(Progress::Done);
        }
        while self.left_bytes > 0 {
            let Some([i0, i1, v0, v1, v2, v3]) = self.take::<{ SETTING_BYTES as usize }>(input)
            else {
                return Ok(Progress::Starved);
            };
            self.left_bytes = self.left_bytes.saturating_sub(SETTING_BYTES);
            self.apply_setting(
                u16::from_be_bytes([i0, i1]),
                u32::from_be_bytes([v0, v1, v2, v3]),
            )?;
        }
        self.floods.spend(Flood::Settings)?;
        append(control, FrameKind::Settings, ACK, StreamId::CONNECTION, &[]);
        self.has_peer_settings = true;
        self.reading = Reading::FrameHeader;
        Ok(match std::mem::take(&mut self.has_window_opened) {
            true => Progress::Event(Event::WindowOpened),
            false => Progress::Done,
        })
    }

    /// RFC 9113 §6.5.2. Unknown settings, and those that concern only what we never do, are ignored.
    fn apply_setting(&mut self, id: u16, value: u32) -> Result<(), ConnectionError> {
        match id {
            SETTINGS_HEADER_TABLE_SIZE => self.has_table_shrunk = true,
            SETTINGS_ENABLE_PUSH if value > 1 => {
                return Err(ConnectionError::SettingValue { id, value });
            }
            SETTINGS_MAX_FRAME_SIZE if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&value) => {
                return Err(ConnectionError::SettingValue { id, value });
            }
            SETTINGS_INITIAL_WINDOW_SIZE => {
                let window_bytes = i64::from(value);
                if window_bytes > WINDOW_BYTES_MAX {
                    return Err(ConnectionError::SettingValue { id, value });
                }
                let before = self.send_window();
                let change = window_bytes - self.peer_initial_window_bytes;
                self.peer_initial_window_bytes = window_bytes;
                for open in self.accepted.iter_mut().chain(&mut self.pending) {
                    open.send_bytes = widened(open.id, open.send_bytes, change)?;
                }
                self.has_window_opened |= self.send_window() > before;
            }
            _ => {}
        }
        Ok(())
    }

    fn read_fixed<'a>(
        &mut self,
        input: &mut &[u8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        match self.frame.kind {
            FrameKind::Ping | FrameKind::GoAway => {
                let Some(bytes) = self.take::<8>(input) else {
                    return Ok(Progress::Starved);
                };
                self.left_bytes = self.left_bytes.saturating_sub(8);
                self.reading = Reading::Skip;
                if self.frame.kind == FrameKind::Ping {
                    self.ping_received(bytes, control)
                } else {
                    self.goaway_received(bytes)
                }
            }
            kind => {
                let Some(bytes) = self.take::<4>(input) else {
                    return Ok(Progress::Starved);
                };
                let value = u32::from_be_bytes(bytes);
                self.reading = Reading::FrameHeader;
                if kind == FrameKind::ResetStream {
                    self.reset_received(ErrorCode(value))
                } else {
                    self.window_update_received(value)
                }
            }
        }
    }

    fn ping_received<'a>(
        &mut self,
        opaque: [u8; 8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        if !self.frame.has(ACK) {
            self.floods.spend(Flood::Pings)?;
            append(control, FrameKind::Ping, ACK, StreamId::CONNECTION, &opaque);
            return Ok(Progress::Done);
        }
        let Some(unanswered) = self.pings_unanswered.checked_sub(1) else {
            self.floods.spend(Flood::Ignored)?;
            return Ok(Progress::Done);
        };
        self.pings_unanswered = unanswered;
        Ok(Progress::Event(Event::PingAck(opaque)))
    }

    fn goaway_received<'a>(&mut self, bytes: [u8; 8]) -> Result<Progress<'a>, ConnectionError> {
        self.floods.spend(Flood::Ignored)?;
        let [s0, s1, s2, s3, c0, c1, c2, c3] = bytes;
        let last_stream = StreamId::new(u32::from_be_bytes([s0, s1, s2, s3]));
        Ok(Progress::Event(Event::GoAway {
            code: ErrorCode(u32::from_be_bytes([c0, c1, c2, c3])),
            last_stream,
        }))
    }

    fn reset_received<'a>(&mut self, code: ErrorCode) -> Result<Progress<'a>, ConnectionError> {
        let stream = self.frame.stream;
        if self.close(stream).is_none() {
            self.floods.spend(Flood::Ignored)?;
            return Ok(Progress::Done);
        }
        self.floods.spend(Flood::ResetsByPeer)?;
        Ok(Progress::Event(Event::Reset { stream, code }))
    }

    fn window_update_received<'a>(&mut self, value: u32) -> Result<Progress<'a>, ConnectionError> {
        let stream = self.frame.stream;
        let increment = i64::from(value & 0x7fff_ffff);
        self.floods.spend(Flood::WindowUpdates)?;
        let before = self.send_window();
        if stream == StreamId::CONNECTION {
            self.send_bytes = widened(stream, self.send_bytes, positive(stream, increment)?)?;
        } else if let Some(open) = self.open_stream(stream) {
            open.send_bytes = widened(stream, open.send_bytes, positive(stream, increment)?)?;
        }
        Ok(if self.send_window() > before {
            Progress::Event(Event::WindowOpened)
        } else {
            Progress::Done
        })
    }

    fn skip<'a>(&mut self, input: &mut &[u8]) -> Progress<'a> {
        let skipped = (self.left_bytes as usize).min(input.len());
        *input = input.split_at(skipped).1;
        self.left_bytes -= skipped as u32;
        if self.left_bytes > 0 {
            return Progress::Starved;
        }
        self.reading = Reading::FrameHeader;
        Progress::Done
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

    /// Our last word on a stream. If the peer has not had its own, RST_STREAM(NO_ERROR) asks it not to (RFC 9113 §8.1).
    fn end(&mut self, stream: StreamId, block: &HeaderBlock, out: &mut Vec<u8>) {
        let Some(closed) = self.close(stream) else {
            return;
        };
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

/// RFC 9113 §6.9: an increment of zero is an error.
fn positive(stream: StreamId, increment: i64) -> Result<i64, ConnectionError> {
    if increment == 0 {
        Err(ConnectionError::ZeroIncrement { stream })
    } else {
        Ok(increment)
    }
}

/// RFC 9113 §6.9.1: a window never exceeds 2^31 - 1. It may well be below zero (§6.9.2).
fn widened(stream: StreamId, window_bytes: i64, change: i64) -> Result<i64, ConnectionError> {
    let bytes = window_bytes.saturating_add(change);
    if bytes > WINDOW_BYTES_MAX {
        Err(ConnectionError::WindowOverflow { stream, bytes })
    } else {
        Ok(bytes)
    }
}
