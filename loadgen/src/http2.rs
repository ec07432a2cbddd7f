//! The client's half of one HTTP/2 connection with one long-lived stream: RFC 9113, as much of it as a SLIM link uses.
//!
//! Sans-I/O and cheap: DATA is lent piece by piece out of the caller's input; only control frames are gathered. What it
//! announces is what the published clients announce (dataplane 1.3). Header blocks are not decoded: of the response only
//! its first field is looked at, which every known server writes as the one byte for `:status 200`.

/// Bytes before the payload of every frame (RFC 9113 §4.1).
pub const FRAME_HEADER_BYTES: usize = 9;

/// Payload of our largest DATA frame, if the server allows it: what the clients' library batches (dataplane 1.3).
pub const DATA_FRAME_BYTES_MAX: usize = 32_768;

/// Window of the stream and of the connection, in bytes, as clients announce them (dataplane 1.3).
const STREAM_WINDOW_BYTES: u32 = 2_097_152;
const CONNECTION_WINDOW_BYTES: u32 = 5_242_880;
/// Received bytes after which credit is given back. Below both windows, so that the server never has to stop.
const CREDIT_BYTES: u32 = STREAM_WINDOW_BYTES / 2;
/// RFC 9113 §6.9.2 and §4.2, before anything was announced.
const WINDOW_BYTES_DEFAULT: i64 = 65_535;
const FRAME_BYTES_DEFAULT: u32 = 16_384;
/// Longest control frame that is taken, in bytes: what we announce, hence what a sound server keeps to.
const CONTROL_FRAME_BYTES_MAX: u32 = 16_384;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// The one stream.
const STREAM: u32 = 1;

/// Why the other side is not, or no longer, a SLIM node that we can talk to. Every variant ends the connection.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Http2Error {
    #[error("the port speaks HTTP/1, not HTTP/2 without TLS")]
    Http1,
    #[error("the port speaks TLS; only clear text is supported")]
    Tls,
    #[error("the port does not speak HTTP/2: its first bytes are `{}`", first.escape_ascii())]
    NotHttp2 { first: [u8; FRAME_HEADER_BYTES] },
    #[error("frame of type {kind} with {bytes} bytes exceeds the limit of {limit} bytes")]
    FrameTooLong { kind: u8, bytes: u32, limit: u32 },
    #[error("malformed frame of type {kind}")]
    Malformed { kind: u8 },
    #[error("the server refused the stream: its answer is not `:status 200`")]
    Refused,
    #[error("the server ended the stream before it answered")]
    EndedUnanswered,
    #[error("the server ended the stream")]
    Ended,
    #[error("the server reset the stream with code {code}")]
    Reset { code: u32 },
    #[error("the server is going away, with code {code} ({text})")]
    GoAway { code: u32, text: String },
}

/// What the server did.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The response headers are here; from now on DATA may be sent (dataplane 1.3).
    Opened,
    /// Some bytes of the stream, in order.
    Data(&'a [u8]),
}

/// The connection. What it has to say on its own is appended to a `control` buffer of the caller's.
pub struct ClientConnection {
    header: [u8; FRAME_HEADER_BYTES],
    header_bytes: usize,
    frame: Option<Frame>,
    gathered: Vec<u8>,
    send_connection_bytes: i64,
    send_stream_bytes: i64,
    peer_initial_window_bytes: i64,
    peer_frame_bytes_max: u32,
    uncredited_bytes: u32,
    settings_seen: bool,
    opened: bool,
    /// The server's half is over; told after the last DATA has been.
    ended: bool,
}

/// A frame whose header has been read.
#[derive(Clone, Copy)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// Payload bytes that have not arrived, padding included.
    left_bytes: u32,
    /// Of these, padding at the end. Known after the first byte of a padded frame.
    padding_bytes: u32,
    padding_known: bool,
}

impl ClientConnection {
    /// Writes preface, SETTINGS, WINDOW_UPDATE and the request's HEADERS, in the order in which clients send them.
    pub fn open(authority: &str, control: &mut Vec<u8>) -> Self {
        control.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut settings = Vec::with_capacity(24);
        // ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE.
        for (id, value) in [
            (0x2_u16, 0),
            (0x4, STREAM_WINDOW_BYTES),
            (0x5, FRAME_BYTES_DEFAULT),
            (0x6, 16_384_u32),
        ] {
            settings.extend_from_slice(&id.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        append(control, SETTINGS, 0, 0, &settings);
        let more = CONNECTION_WINDOW_BYTES - WINDOW_BYTES_DEFAULT as u32;
        append(control, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        append(
            control,
            HEADERS,
            END_HEADERS,
            STREAM,
            &request_block(authority),
        );
        Self {
            header: [0; FRAME_HEADER_BYTES],
            header_bytes: 0,
            frame: None,
            gathered: Vec::new(),
            send_connection_bytes: WINDOW_BYTES_DEFAULT,
            send_stream_bytes: WINDOW_BYTES_DEFAULT,
            peer_initial_window_bytes: WINDOW_BYTES_DEFAULT,
            peer_frame_bytes_max: FRAME_BYTES_DEFAULT,
            uncredited_bytes: 0,
            settings_seen: false,
            opened: false,
            ended: false,
        }
    }

    /// Cuts the next event off the front of `input`, which arrives in order, cut anywhere. `None` when it is used up.
    ///
    /// Errors: [`Http2Error`]; the connection is then of no further use.
    pub fn next_event<'a>(
        &mut self,
        input: &mut &'a [u8],
        control: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Http2Error> {
        loop {
            if self.ended {
                return Err(Http2Error::Ended);
            }
            let Some(frame) = self.frame else {
                if !self.read_header(input, control)? {
                    return Ok(None);
                }
                continue;
            };
            let event = if frame.kind == DATA {
                self.data(frame, input)?
            } else if self.gather(frame, input) {
                self.control_frame(frame, control)?
            } else {
                None
            };
            match event {
                Some(event) => return Ok(Some(event)),
                None if self.frame.is_some() && input.is_empty() => return Ok(None),
                None => {}
            }
        }
    }

    /// Bytes of DATA that may be sent now.
    pub fn sendable_bytes(&self) -> usize {
        if !self.opened {
            return 0;
        }
        usize::try_from(self.send_connection_bytes.min(self.send_stream_bytes)).unwrap_or(0)
    }

    /// Payload of the largest DATA frame to send.
    pub fn frame_bytes_max(&self) -> usize {
        (self.peer_frame_bytes_max as usize).min(DATA_FRAME_BYTES_MAX)
    }

    /// The header of a DATA frame that is about to be sent; its bytes are taken off the windows.
    ///
    /// - `payload_bytes`: at most [`Self::sendable_bytes`] and [`Self::frame_bytes_max`].
    pub fn begin_data(&mut self, payload_bytes: usize) -> [u8; FRAME_HEADER_BYTES] {
        self.send_connection_bytes -= payload_bytes as i64;
        self.send_stream_bytes -= payload_bytes as i64;
        frame_header(payload_bytes, DATA, 0, STREAM)
    }

    pub fn is_http2(&self) -> bool {
        self.settings_seen
    }

    /// Reads towards the end of a frame header. Returns whether it is whole.
    fn read_header(
        &mut self,
        input: &mut &[u8],
        control: &mut Vec<u8>,
    ) -> Result<bool, Http2Error> {
        while self.header_bytes < FRAME_HEADER_BYTES {
            let Some((&byte, rest)) = input.split_first() else {
                return Ok(false);
            };
            *input = rest;
            if let Some(slot) = self.header.get_mut(self.header_bytes) {
                *slot = byte;
            }
            self.header_bytes += 1;
        }
        self.header_bytes = 0;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.header;
        let left_bytes = u32::from_be_bytes([0, l0, l1, l2]);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        if !self.settings_seen && (kind != SETTINGS || stream != 0 || flags & ACK != 0) {
            return Err(stranger(self.header));
        }
        self.settings_seen = true;
        if kind == DATA {
            self.credit(left_bytes, control);
        } else if left_bytes > CONTROL_FRAME_BYTES_MAX {
            return Err(Http2Error::FrameTooLong {
                kind,
                bytes: left_bytes,
                limit: CONTROL_FRAME_BYTES_MAX,
            });
        }
        self.gathered.clear();
        self.frame = Some(Frame {
            kind,
            flags,
            stream,
            left_bytes,
            padding_bytes: 0,
            padding_known: kind != DATA || flags & PADDED == 0,
        });
        Ok(true)
    }

    /// Books received bytes, padding too, and gives credit for them once they are many (RFC 9113 §6.9).
    fn credit(&mut self, bytes: u32, control: &mut Vec<u8>) {
        self.uncredited_bytes = self.uncredited_bytes.saturating_add(bytes);
        if self.uncredited_bytes >= CREDIT_BYTES {
            let increment = self.uncredited_bytes.to_be_bytes();
            append(control, WINDOW_UPDATE, 0, 0, &increment);
            append(control, WINDOW_UPDATE, 0, STREAM, &increment);
            self.uncredited_bytes = 0;
        }
    }

    fn data<'a>(
        &mut self,
        mut frame: Frame,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, Http2Error> {
        let malformed = Http2Error::Malformed { kind: DATA };
        if !self.opened || frame.stream != STREAM {
            return Err(malformed);
        }
        if !frame.padding_known {
            let Some((&padding, rest)) = input.split_first() else {
                return Ok(None);
            };
            *input = rest;
            frame.padding_known = true;
            frame.padding_bytes = padding.into();
            frame.left_bytes = frame.left_bytes.checked_sub(1).ok_or(malformed)?;
            if frame.padding_bytes > frame.left_bytes {
                return Err(Http2Error::Malformed { kind: DATA });
            }
        }
        let content_bytes = (frame.left_bytes - frame.padding_bytes) as usize;
        let (content, rest) = input.split_at(content_bytes.min(input.len()));
        *input = rest;
        frame.left_bytes -= content.len() as u32;
        if frame.left_bytes == frame.padding_bytes {
            let skipped = (frame.padding_bytes as usize).min(input.len());
            *input = input.get(skipped..).unwrap_or_default();
            frame.padding_bytes -= skipped as u32;
            frame.left_bytes -= skipped as u32;
        }
        self.ended = frame.left_bytes == 0 && frame.flags & END_STREAM != 0;
        self.frame = (frame.left_bytes > 0).then_some(frame);
        Ok((!content.is_empty()).then_some(Event::Data(content)))
    }

    /// Gathers the payload of a control frame. Returns whether it is whole.
    fn gather(&mut self, mut frame: Frame, input: &mut &[u8]) -> bool {
        let (part, rest) = input.split_at((frame.left_bytes as usize).min(input.len()));
        *input = rest;
        self.gathered.extend_from_slice(part);
        frame.left_bytes -= part.len() as u32;
        self.frame = (frame.left_bytes > 0).then_some(frame);
        frame.left_bytes == 0
    }

    fn control_frame(
        &mut self,
        frame: Frame,
        control: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Http2Error> {
        let malformed = Http2Error::Malformed { kind: frame.kind };
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                self.settings()?;
                append(control, SETTINGS, ACK, 0, &[]);
            }
            PING if frame.flags & ACK == 0 => append(control, PING, ACK, 0, &self.gathered),
            WINDOW_UPDATE => {
                let increment =
                    i64::from(first_u32(&self.gathered).ok_or(malformed)? & 0x7fff_ffff);
                match frame.stream {
                    0 => self.send_connection_bytes += increment,
                    STREAM => self.send_stream_bytes += increment,
                    _ => {}
                }
            }
            HEADERS if frame.stream == STREAM => return self.headers(frame).map(Some),
            RST_STREAM if frame.stream == STREAM => {
                let code = first_u32(&self.gathered).ok_or(malformed)?;
                return Err(Http2Error::Reset { code });
            }
            GOAWAY => {
                let code = self
                    .gathered
                    .get(4..)
                    .and_then(first_u32)
                    .ok_or(malformed)?;
                // A drain, not an end: the stream that is open goes on (RFC 9113 §6.8).
                if code == 0 {
                    return Ok(None);
                }
                let text = self.gathered.get(8..).unwrap_or_default();
                let text = String::from_utf8_lossy(text).into_owned();
                return Err(Http2Error::GoAway { code, text });
            }
            // PRIORITY, PUSH_PROMISE (which we forbid), CONTINUATION of trailers, acknowledgements, unknown types.
            _ => {}
        }
        Ok(None)
    }

    fn settings(&mut self) -> Result<(), Http2Error> {
        let malformed = || Http2Error::Malformed { kind: SETTINGS };
        let (settings, []) = self.gathered.as_chunks::<6>() else {
            return Err(malformed());
        };
        for &[i0, i1, v0, v1, v2, v3] in settings {
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([i0, i1]) {
                0x4 if value < 1 << 31 => {
                    // RFC 9113 §6.9.2: the difference applies to the open stream, and may make its window negative.
                    self.send_stream_bytes += i64::from(value) - self.peer_initial_window_bytes;
                    self.peer_initial_window_bytes = value.into();
                }
                0x5 if (FRAME_BYTES_DEFAULT..1 << 24).contains(&value) => {
                    self.peer_frame_bytes_max = value;
                }
                0x4 | 0x5 => return Err(malformed()),
                _ => {}
            }
        }
        Ok(())
    }

    fn headers(&mut self, frame: Frame) -> Result<Event<'static>, Http2Error> {
        if self.opened {
            return Err(Http2Error::Ended);
        }
        // Past changes of the table size (RFC 7541 §6.3), `:status 200` is entry 8 of the static table.
        let first = self.gathered.iter().find(|byte| **byte & 0xe0 != 0x20);
        if first != Some(&0x88) {
            return Err(Http2Error::Refused);
        }
        if frame.flags & END_STREAM != 0 {
            return Err(Http2Error::EndedUnanswered);
        }
        self.opened = true;
        Ok(Event::Opened)
    }
}

/// What is on the port instead of HTTP/2, judged by its first bytes.
fn stranger(first: [u8; FRAME_HEADER_BYTES]) -> Http2Error {
    if first.starts_with(b"HTTP/1.") {
        Http2Error::Http1
    } else if first.starts_with(&[0x15, 3]) || first.starts_with(&[0x16, 3]) {
        Http2Error::Tls
    } else {
        Http2Error::NotHttp2 { first }
    }
}

fn first_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// OpenChannel's header block (dataplane 1.3): static entries and literals without indexing, RFC 7541 §6.2.2.
fn request_block(authority: &str) -> Vec<u8> {
    // `:method POST`, `:scheme http`.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (&[0x01][..], authority),
        (&[0x04], "/dataplane.proto.v1.DataPlaneService/OpenChannel"),
        (b"\x00\x02te", "trailers"),
        // content-type is entry 31, user-agent entry 58.
        (&[0x0f, 0x10], "application/grpc"),
        (&[0x0f, 0x2b], "tonic/0.14.6"),
    ] {
        block.extend_from_slice(name);
        // A length below 127 is one byte; `Target` refuses longer addresses.
        block.push(value.len().min(126) as u8);
        block.extend_from_slice(&value.as_bytes()[..value.len().min(126)]);
    }
    block
}

fn frame_header(
    payload_bytes: usize,
    kind: u8,
    flags: u8,
    stream: u32,
) -> [u8; FRAME_HEADER_BYTES] {
    let [_, l0, l1, l2] = (payload_bytes as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [l0, l1, l2, kind, flags, s0, s1, s2, s3]
}

fn append(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&frame_header(payload.len(), kind, flags, stream));
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use slim_proto::http2::{Event as ServerEvent, ServerConnection, Settings};

    fn opened() -> (ClientConnection, Vec<u8>) {
        let mut control = Vec::new();
        let mut client = ClientConnection::open("127.0.0.1:46357", &mut control);
        let (mut replies, mut events) = (Vec::new(), 0);
        let mut server = ServerConnection::new(
            Settings {
                initial_window_bytes: 1_048_576,
                max_frame_bytes: 1_048_576,
                max_header_list_bytes: 16_384,
                max_concurrent_streams: 1,
            },
            &mut replies,
        );
        let mut input = &control[..];
        let mut answers = Vec::new();
        while let Some(event) = server.next_event(&mut input, &mut answers).unwrap() {
            if let ServerEvent::Request(head) = event {
                events += 1;
                server.accept(head.stream);
                server.respond_headers(head.stream, &mut replies);
            }
        }
        assert_eq!(events, 1, "the request is one our own server takes");
        replies.extend_from_slice(&answers);
        let mut answer = Vec::new();
        let mut input = &replies[..];
        let mut seen = Vec::new();
        while let Some(event) = client.next_event(&mut input, &mut answer).unwrap() {
            seen.push(event);
        }
        assert_eq!(seen, [Event::Opened]);
        assert_eq!(client.sendable_bytes(), 1_048_576);
        assert_eq!(client.frame_bytes_max(), DATA_FRAME_BYTES_MAX);
        (client, answer)
    }

    #[test]
    fn our_own_server_and_this_client_open_a_stream() {
        let (_, answer) = opened();
        let (header, _) = answer.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
        assert_eq!(*header, [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]);
    }

    #[test]
    fn data_cut_anywhere_and_padded_arrives_whole() {
        let mut stream = Vec::new();
        append(&mut stream, DATA, 0, STREAM, b"hello ");
        append(&mut stream, DATA, PADDED, STREAM, b"\x03world\0\0\0");
        append(&mut stream, PING, 0, 0, b"12345678");
        append(&mut stream, DATA, 0, STREAM, b"!");
        for piece_bytes in 1..stream.len() {
            let (mut client, mut control) = opened();
            control.clear();
            let mut content = Vec::new();
            for mut piece in stream.chunks(piece_bytes) {
                while let Some(event) = client.next_event(&mut piece, &mut control).unwrap() {
                    let Event::Data(bytes) = event else { panic!() };
                    content.extend_from_slice(bytes);
                }
            }
            assert_eq!(content, b"hello world!", "{piece_bytes}");
            assert_eq!(&control[FRAME_HEADER_BYTES..], b"12345678");
        }
    }

    #[test]
    fn the_last_data_is_delivered_before_the_end_is_told() {
        let mut stream = Vec::new();
        append(&mut stream, DATA, END_STREAM, STREAM, b"last");
        let (mut client, mut input) = (opened().0, &stream[..]);
        let mut next = || client.next_event(&mut input, &mut Vec::new());
        assert_eq!(next(), Ok(Some(Event::Data(b"last"))));
        assert_eq!(next(), Err(Http2Error::Ended));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_frames_never_panic(
            frames in proptest::collection::vec(
                (0..11_u8, proptest::num::u8::ANY, 0..3_u32, proptest::collection::vec(proptest::num::u8::ANY, 0..40)),
                0..8,
            ),
            cut_bytes in 1_usize..64,
        ) {
            let mut stream = Vec::new();
            for (kind, flags, id, payload) in &frames {
                append(&mut stream, *kind, *flags, *id, payload);
            }
            let (mut client, mut control) = opened();
            'stream: for mut piece in stream.chunks(cut_bytes) {
                loop {
                    match client.next_event(&mut piece, &mut control) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'stream,
                    }
                }
            }
        }
    }

    #[test]
    fn credit_is_given_back_before_a_window_is_used_up() {
        let (mut client, mut control) = opened();
        control.clear();
        let mut frame = Vec::new();
        append(&mut frame, DATA, 0, STREAM, &[0; 16_384]);
        for _ in 0..64 {
            assert!(control.is_empty());
            client.next_event(&mut &frame[..], &mut control).unwrap();
        }
        assert_eq!(control.len(), 2 * (FRAME_HEADER_BYTES + 4));
    }

    #[test]
    fn another_protocol_on_the_port_is_named() {
        for (bytes, error) in [
            (&b"HTTP/1.1 400 Bad Request"[..], Http2Error::Http1),
            (&[0x15, 3, 3, 0, 2, 2, 70, 0, 0], Http2Error::Tls),
            (
                b"INFO {\"server",
                Http2Error::NotHttp2 {
                    first: *b"INFO {\"se",
                },
            ),
        ] {
            let mut client = ClientConnection::open("a", &mut Vec::new());
            assert_eq!(
                client.next_event(&mut &bytes[..], &mut Vec::new()),
                Err(error)
            );
        }
    }
}
