//! One HTTP/2 connection, client side, by hand (RFC 9113): frames out, frames in.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::PATIENCE;

pub const OPEN_CHANNEL: &str = "/dataplane.proto.v1.DataPlaneService/OpenChannel";

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of existing clients (dataplane 1.3).
const STREAM_WINDOW_BYTES: u32 = 2_097_152;
const CONNECTION_WINDOW_BYTES: u32 = 5_242_880;
const FRAME_BYTES_MAX: usize = 16_384;
/// The one stream of a link.
const STREAM: u32 = 1;

/// Frame types (RFC 9113 §6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// What the router said, settings, pings and credit apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Response headers or trailers.
    Headers {
        fields: Vec<(String, String)>,
        end_stream: bool,
    },
    /// One gRPC message, without its prefix.
    Message(Vec<u8>),
    /// RST_STREAM with this code.
    Reset(u32),
    GoAway {
        code: u32,
        debug: String,
    },
    /// The connection has ended: the other side closed it, or reset it.
    Closed,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.set_read_timeout(Some(timeout)),
            Socket::Unix(socket) => socket.set_read_timeout(Some(timeout)),
        }
    }

    fn io(&mut self) -> &mut dyn ReadWrite {
        match self {
            Socket::Tcp(socket) => socket,
            Socket::Unix(socket) => socket,
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A connection. It acknowledges SETTINGS and PING by itself and keeps both sides' windows.
pub struct Http2 {
    socket: Socket,
    input: Vec<u8>,
    /// gRPC bytes that are no whole message yet.
    grpc: Vec<u8>,
    events: VecDeque<Event>,
    /// Give credit back for what was read. Off: the router may send one window and then waits.
    pub returns_credit: bool,
    /// SETTINGS_INITIAL_WINDOW_SIZE of [`Http2::send_preface`].
    pub stream_window_bytes: u32,
    /// Every byte is a segment, and a read of the router's, of its own.
    pub dribbles: bool,
    /// Read and not given back.
    owed_bytes: u32,
    /// What we may still send, as the router allows it.
    connection_window: i64,
    stream_window: i64,
    router_initial_window: i64,
    /// Every frame so far: kind, flags, stream, payload bytes.
    pub seen: Vec<(u8, u8, u32, usize)>,
}

impl Http2 {
    /// Connects, and reads the router's SETTINGS: then it has accepted and placed the connection.
    pub fn connect(address: SocketAddr) -> Http2 {
        Http2::try_connect(address).expect("the router's SETTINGS")
    }

    /// `None` if it is closed before the router has said anything.
    pub fn try_connect(address: SocketAddr) -> Option<Http2> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE).expect("the router listens");
        socket.set_nodelay(true).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Http2::try_greet(Socket::Tcp(socket))
    }

    /// From this address of this machine.
    pub fn connect_from(local: Ipv4Addr, address: SocketAddr) -> Http2 {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((local, 0)).into()).unwrap();
        socket.connect(&address.into()).expect("the router listens");
        socket.set_tcp_nodelay(true).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Http2::greet(Socket::Tcp(socket.into()))
    }

    pub fn connect_unix(path: &Path) -> Http2 {
        let socket = UnixStream::connect(path).expect("the router listens");
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Http2::greet(Socket::Unix(socket))
    }

    fn greet(socket: Socket) -> Http2 {
        Http2::try_greet(socket).expect("the router's SETTINGS")
    }

    fn try_greet(socket: Socket) -> Option<Http2> {
        let mut http2 = Http2 {
            socket,
            input: Vec::new(),
            grpc: Vec::new(),
            events: VecDeque::new(),
            returns_credit: true,
            stream_window_bytes: STREAM_WINDOW_BYTES,
            dribbles: false,
            owed_bytes: 0,
            connection_window: 65_535,
            stream_window: 65_535,
            router_initial_window: 65_535,
            seen: Vec::new(),
        };
        let settings = http2.next_frame()?;
        assert_eq!(settings.kind, kind::SETTINGS);
        http2.take_settings(&settings);
        Some(http2)
    }

    /// This side's address, as the router's log names the peer. TCP only.
    pub fn local_address(&self) -> SocketAddr {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().unwrap(),
            Socket::Unix(_) => panic!("a Unix socket has no port"),
        }
    }

    /// The preface, SETTINGS and connection window of an existing client, and what answers the router's SETTINGS.
    pub fn send_preface(&mut self) {
        let mut settings = Vec::new();
        for (id, value) in [
            (2u16, 0u32),
            (4, self.stream_window_bytes),
            (5, FRAME_BYTES_MAX as u32),
            (6, 16_384),
        ] {
            settings.extend_from_slice(&id.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        let mut out = PREFACE.to_vec();
        put_frame(&mut out, kind::SETTINGS, 0, 0, &settings);
        let more = (CONNECTION_WINDOW_BYTES - 65_535).to_be_bytes();
        put_frame(&mut out, kind::WINDOW_UPDATE, 0, 0, &more);
        put_frame(&mut out, kind::SETTINGS, flag::ACK, 0, &[]);
        self.send_raw(&out);
    }

    /// The request that opens a link (dataplane 1.3).
    pub fn send_request(&mut self, path: &str) {
        self.send_request_with(path, &[]);
    }

    pub fn send_request_with(&mut self, path: &str, more: &[(&str, &str)]) {
        let mut fields = vec![
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", path),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "slim-test"),
        ];
        fields.extend_from_slice(more);
        self.send_headers(&fields, false);
    }

    pub fn send_headers(&mut self, fields: &[(&str, &str)], end_stream: bool) {
        let mut block = Vec::new();
        for (name, value) in fields {
            // Literal without indexing, new name (RFC 7541 §6.2.2); no string here reaches 127 bytes.
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                assert!(text.len() < 127);
                block.extend_from_slice(text.as_bytes());
            }
        }
        let end_stream = if end_stream { flag::END_STREAM } else { 0 };
        self.send_frame(
            kind::HEADERS,
            flag::END_HEADERS | end_stream,
            STREAM,
            &block,
        );
    }

    /// Preface, request and the router's response headers.
    pub fn open(&mut self) {
        self.send_preface();
        self.send_request(OPEN_CHANNEL);
        self.expect_response();
    }

    pub fn expect_response(&mut self) {
        let ok = [(":status", "200"), ("content-type", "application/grpc")];
        assert_eq!(
            self.next_event(),
            Event::Headers {
                fields: ok.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
                end_stream: false
            }
        );
    }

    /// Bytes, as they are. A router that has closed already is no error here: what it said before is still to be read.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let pieces = if self.dribbles { 1 } else { bytes.len().max(1) };
        let written = bytes
            .chunks(pieces)
            .try_for_each(|piece| self.socket.io().write_all(piece));
        match written {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => panic!("cannot send: {error}"),
        }
    }

    pub fn send_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut out = Vec::new();
        put_frame(&mut out, kind, flags, stream, payload);
        self.send_raw(&out);
    }

    /// One gRPC message, in as many DATA frames as it needs.
    pub fn send_message(&mut self, message: &[u8]) {
        self.send_messages(std::slice::from_ref(&message));
    }

    /// Several messages, sharing frames.
    pub fn send_messages(&mut self, messages: &[impl AsRef<[u8]>]) {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend_from_slice(&slim_proto::grpc::prefix(message.as_ref().len()));
            bytes.extend_from_slice(message.as_ref());
        }
        self.send_data(&bytes);
    }

    /// DATA, as far as windows allow; reads (and keeps what it reads) while they do not.
    pub fn send_data(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let window = self.send_window();
            if window == 0 {
                match self.read_frame(Instant::now() + PATIENCE) {
                    Some(frame) => self.take_frame(frame),
                    // It has ended the connection: that is for the reading side to see.
                    None => return,
                }
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(FRAME_BYTES_MAX).min(window));
            self.connection_window -= now.len() as i64;
            self.stream_window -= now.len() as i64;
            self.send_frame(kind::DATA, 0, STREAM, now);
            bytes = later;
        }
    }

    /// Bytes of DATA that may be sent now.
    pub fn send_window(&self) -> usize {
        self.connection_window.min(self.stream_window).max(0) as usize
    }

    /// No more from this side; what the router says can still be read.
    pub fn shut_down_writing(&mut self) {
        match &self.socket {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Write),
        }
        .unwrap();
    }

    /// Disappears: the router is sent RST, and what it had under way to this side is lost. TCP only.
    pub fn reset(self) {
        if let Socket::Tcp(socket) = self.socket {
            let at_once = Some(Duration::ZERO);
            socket2::SockRef::from(&socket).set_linger(at_once).unwrap();
        }
    }

    /// The next frame, whatever it is; `None` when the router has closed.
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.read_frame(Instant::now() + PATIENCE)
    }

    /// The next of what matters. Waits for at most [`PATIENCE`].
    pub fn next_event(&mut self) -> Event {
        self.next_event_by(Instant::now() + PATIENCE)
    }

    pub fn next_event_by(&mut self, deadline: Instant) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match self.read_frame(deadline) {
                Some(frame) => self.take_frame(frame),
                None => return Event::Closed,
            }
        }
    }

    /// The next of what matters, if it comes within `patience`. Also what paces a client that is slow on purpose.
    pub fn poll_event(&mut self, patience: Duration) -> Option<Event> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if let Some(frame) = self.buffered_frame() {
                self.take_frame(frame);
            } else if !self.read_some(deadline)? {
                return Some(Event::Closed);
            }
        }
    }

    /// Takes in what has arrived, without waiting. What it means is kept for [`Http2::next_event`].
    pub fn take_in(&mut self) {
        while let Some(frame) = self.buffered_frame() {
            self.take_frame(frame);
        }
    }

    /// Everything up to the end of the connection.
    pub fn events_to_end(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            match self.next_event() {
                Event::Closed => return events,
                event => events.push(event),
            }
        }
    }

    /// Gives back the credit for all that was read, whether or not [`Http2::returns_credit`].
    pub fn return_credit(&mut self) {
        let bytes = std::mem::take(&mut self.owed_bytes);
        if bytes > 0 {
            let mut out = Vec::new();
            for stream in [0, STREAM] {
                put_frame(
                    &mut out,
                    kind::WINDOW_UPDATE,
                    0,
                    stream,
                    &bytes.to_be_bytes(),
                );
            }
            self.send_raw(&out);
        }
    }

    fn read_frame(&mut self, deadline: Instant) -> Option<Frame> {
        loop {
            if let Some(frame) = self.buffered_frame() {
                return Some(frame);
            }
            match self.read_some(deadline) {
                Some(true) => {}
                Some(false) => return None,
                None => panic!(
                    "the router was silent for too long; so far: {:?}",
                    self.seen
                ),
            }
        }
    }

    /// False at the end of the connection, `None` at the deadline.
    fn read_some(&mut self, deadline: Instant) -> Option<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(left).unwrap();
            let mut chunk = [0u8; 65_536];
            match self.socket.io().read(&mut chunk) {
                Ok(0) => return Some(false),
                Ok(read) => {
                    self.input.extend_from_slice(&chunk[..read]);
                    return Some(true);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                        return Some(false);
                    }
                    // The deadline is looked at above.
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    _ => panic!("cannot read: {error}"),
                },
            }
        }
    }

    fn buffered_frame(&mut self) -> Option<Frame> {
        let (head, rest) = self.input.split_first_chunk::<9>()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let payload = rest.get(..length)?.to_vec();
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        self.input.drain(..9 + length);
        self.seen.push((kind, flags, stream, length));
        Some(Frame {
            kind,
            flags,
            stream,
            payload,
        })
    }

    fn take_frame(&mut self, frame: Frame) {
        match frame.kind {
            kind::SETTINGS if frame.flags & flag::ACK == 0 => {
                self.take_settings(&frame);
                self.send_frame(kind::SETTINGS, flag::ACK, 0, &[]);
            }
            kind::PING if frame.flags & flag::ACK == 0 => {
                self.send_frame(kind::PING, flag::ACK, 0, &frame.payload);
            }
            kind::WINDOW_UPDATE => {
                let bytes = i64::from(be32(&frame.payload));
                match frame.stream {
                    0 => self.connection_window += bytes,
                    _ => self.stream_window += bytes,
                }
            }
            kind::DATA => self.take_data(&frame),
            kind::HEADERS => {
                assert_ne!(frame.flags & flag::END_HEADERS, 0, "the router's are short");
                self.events.push_back(Event::Headers {
                    fields: fields(&frame.payload),
                    end_stream: frame.flags & flag::END_STREAM != 0,
                });
            }
            kind::RST_STREAM => self.events.push_back(Event::Reset(be32(&frame.payload))),
            kind::GOAWAY => self.events.push_back(Event::GoAway {
                code: be32(&frame.payload[4..]),
                debug: String::from_utf8_lossy(&frame.payload[8..]).into_owned(),
            }),
            _ => {}
        }
    }

    fn take_settings(&mut self, frame: &Frame) {
        for entry in frame.payload.chunks_exact(6) {
            if entry[..2] == 4u16.to_be_bytes() {
                let window = i64::from(be32(&entry[2..]));
                self.stream_window += window - self.router_initial_window;
                self.router_initial_window = window;
            }
        }
    }

    fn take_data(&mut self, frame: &Frame) {
        // dataplane 1.3 and 1.4: larger frames break existing clients, empty ones are counted against us.
        assert!(frame.payload.len() <= FRAME_BYTES_MAX);
        assert!(!frame.payload.is_empty() || frame.flags & flag::END_STREAM != 0);
        self.owed_bytes += frame.payload.len() as u32;
        if self.returns_credit && self.owed_bytes >= (self.stream_window_bytes / 16).max(1) {
            self.return_credit();
        }
        self.grpc.extend_from_slice(&frame.payload);
        let mut at = 0;
        while let Some((prefix, rest)) = self.grpc[at..].split_first_chunk::<5>() {
            assert_eq!(prefix[0], 0, "compression flag");
            let Some(message) = rest.get(..be32(&prefix[1..]) as usize) else {
                break;
            };
            at += 5 + message.len();
            self.events.push_back(Event::Message(message.to_vec()));
        }
        self.grpc.drain(..at);
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// The header blocks that the router writes: `:status 200` from the static table, the rest literal and plain.
fn fields(mut block: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while let Some((first, rest)) = block.split_first() {
        block = rest;
        let name = match first {
            0x20 => continue,
            0x88 => {
                fields.push((":status".to_owned(), "200".to_owned()));
                continue;
            }
            0x08 => ":status".to_owned(),
            0x0f => {
                assert_eq!(block[0], 31 - 15);
                block = &block[1..];
                "content-type".to_owned()
            }
            0x00 => string(&mut block),
            other => panic!("header field {other:#04x}"),
        };
        let value = string(&mut block);
        fields.push((name, value));
    }
    fields
}

fn string(block: &mut &[u8]) -> String {
    let mut length = usize::from(block[0]);
    let mut at = 1;
    if length == 0x7f {
        let mut shift = 0;
        loop {
            let byte = block[at];
            at += 1;
            length += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    let (text, rest) = block[at..].split_at(length);
    *block = rest;
    String::from_utf8(text.to_vec()).unwrap()
}
