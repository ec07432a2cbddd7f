//! A client that sends the frames it is told to, also those that no library would.

use std::collections::VecDeque;
use std::net::SocketAddr;

use slim_proto::link::LinkMac;
use slim_proto::name::Name;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};

use crate::peer;
use crate::world::{World, within};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 §6).
pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const PRIORITY: u8 = 0x2;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;
pub const CONTINUATION: u8 = 0x9;

/// Flags.
pub const ACK: u8 = 0x1;
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const PRIORITY_FLAG: u8 = 0x20;

/// Settings (RFC 9113 §6.5.2).
pub const HEADER_TABLE_SIZE: u16 = 0x1;
pub const MAX_CONCURRENT_STREAMS: u16 = 0x3;
pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
pub const MAX_FRAME_SIZE: u16 = 0x5;
pub const MAX_HEADER_LIST_SIZE: u16 = 0x6;

/// Error codes (RFC 9113 §7).
pub const NO_ERROR: u32 = 0x0;
pub const PROTOCOL_ERROR: u32 = 0x1;
pub const FLOW_CONTROL_ERROR: u32 = 0x3;
pub const STREAM_CLOSED: u32 = 0x5;
pub const REFUSED_STREAM: u32 = 0x7;
pub const CANCEL: u32 = 0x8;
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

/// The stream of the link.
pub const LINK: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The four bytes at `at`.
    pub fn number(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).expect("a payload that long");
        u32::from_be_bytes(bytes.try_into().expect("four bytes"))
    }

    /// Whether a header block says this field: ours are literal, so the bytes are there as they are.
    pub fn says(&self, name: &str, value: &str) -> bool {
        let mut field = Vec::new();
        literal(&mut field, name, value);
        self.payload
            .windows(field.len())
            .any(|window| window == field)
    }
}

/// RFC 9113 §4.1.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short payload")
        .to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn data(payload: &[u8]) -> Vec<u8> {
    frame(DATA, 0, LINK, payload)
}

/// DATA with padding of `padding` bytes.
pub fn padded_data(payload: &[u8], padding: u8) -> Vec<u8> {
    let padded = [&[padding][..], payload, &vec![0; usize::from(padding)]].concat();
    frame(DATA, PADDED, LINK, &padded)
}

pub fn ping(opaque: u64) -> Vec<u8> {
    frame(PING, 0, 0, &opaque.to_be_bytes())
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn goaway(code: u32) -> Vec<u8> {
    frame(
        GOAWAY,
        0,
        0,
        &[0u32.to_be_bytes(), code.to_be_bytes()].concat(),
    )
}

/// The header block of a request, literal throughout (RFC 7541 §6.2.2).
pub fn request_block(path: &str, content_type: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "router"),
        (":path", path),
        ("te", "trailers"),
        ("content-type", content_type),
    ] {
        literal(&mut block, name, value);
    }
    block
}

pub fn open_channel_block() -> Vec<u8> {
    request_block(peer::OPEN_CHANNEL, "application/grpc")
}

fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
        block.push(length.expect("texts of tests fit the seven bits of RFC 7541 §5.1"));
        block.extend_from_slice(text.as_bytes());
    }
}

/// A whole request that opens stream `stream`.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, block)
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// One connection and what came over it.
pub struct Raw {
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    bytes: Vec<u8>,
    /// Frames that were passed over while another was awaited.
    passed: VecDeque<Frame>,
    /// DATA bytes not yet made into messages.
    received: Vec<u8>,
    received_bytes: u64,
    pings: u64,
}

/// How a connection ended.
#[derive(Debug)]
pub struct Ending {
    /// Everything that came before the end.
    pub frames: Vec<Frame>,
}

impl Ending {
    /// The code of the GOAWAY that announced it.
    pub fn goaway(&self) -> Option<u32> {
        self.frames
            .iter()
            .find(|frame| frame.kind == GOAWAY)
            .map(|frame| frame.number(4))
    }

    /// How many frames of a kind there were.
    pub fn count(&self, kind: u8, flags: u8) -> usize {
        self.frames
            .iter()
            .filter(|frame| frame.kind == kind && frame.flags == flags)
            .count()
    }
}

impl Raw {
    /// Connects, and says nothing yet.
    pub async fn connect(world: &World) -> Raw {
        Raw::connect_to(world.address()).await
    }

    pub async fn connect_to(router: SocketAddr) -> Raw {
        let socket = TcpStream::connect(router)
            .await
            .expect("the router listens");
        socket.set_nodelay(true).expect("it is TCP");
        Raw::over(Box::new(socket))
    }

    /// Over the Unix socket: its buffers do not grow, so what is not read blocks the router's writes soon.
    pub async fn connect_unix(world: &World) -> Raw {
        let socket = UnixStream::connect(world.socket_path())
            .await
            .expect("the router listens");
        Raw::over(Box::new(socket))
    }

    fn over(socket: Box<dyn Socket>) -> Raw {
        let (reader, writer) = tokio::io::split(socket);
        Raw {
            reader,
            writer,
            bytes: Vec::new(),
            passed: VecDeque::new(),
            received: Vec::new(),
            received_bytes: 0,
            pings: 0,
        }
    }

    /// Preface, these settings, the acknowledgement of the router's.
    pub async fn greet(&mut self, ours: &[(u16, u32)]) {
        self.write(&[PREFACE, &settings(ours), &frame(SETTINGS, ACK, 0, &[])].concat())
            .await;
        self.expect(SETTINGS, 0).await;
        self.expect(SETTINGS, ACK).await;
    }

    /// Opens the channel, once greeted.
    pub async fn open(&mut self) {
        self.write(&headers(LINK, 0, &open_channel_block())).await;
        let response = self.expect(HEADERS, END_HEADERS).await;
        assert_eq!(response.payload.first(), Some(&0x88), ":status 200");
    }

    /// Negotiates, once the channel is open.
    pub async fn negotiate(&mut self) -> LinkMac {
        let (dialing, request) = peer::dial("a-raw-link");
        self.write(&data(&request)).await;
        let reply = self.message().await;
        peer::complete(dialing, &reply).expect("the router agrees on a key")
    }

    /// All of it, with default settings.
    pub async fn link(world: &World) -> (Raw, LinkMac) {
        Raw::link_with(world, &[]).await
    }

    pub async fn link_to(router: SocketAddr) -> (Raw, LinkMac) {
        Raw::connect_to(router).await.linked(&[]).await
    }

    pub async fn link_with(world: &World, ours: &[(u16, u32)]) -> (Raw, LinkMac) {
        Raw::connect(world).await.linked(ours).await
    }

    pub async fn linked(mut self, ours: &[(u16, u32)]) -> (Raw, LinkMac) {
        self.greet(ours).await;
        self.open().await;
        let mac = self.negotiate().await;
        (self, mac)
    }

    pub async fn subscribe(&mut self, mac: &LinkMac, name: &Name, subscription_id: u64) {
        self.write(&data(&peer::subscribe(mac, name, subscription_id)))
            .await;
        let ack = self.message().await;
        assert_eq!(peer::acknowledged(&ack), subscription_id);
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).await.expect("the router reads");
    }

    pub async fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("writing", self.writer.write_all(bytes)).await
    }

    /// The next frame; `None` when the connection is over.
    pub async fn frame(&mut self) -> Option<Frame> {
        if let Some(passed) = self.passed.pop_front() {
            return Some(passed);
        }
        self.new_frame().await
    }

    async fn new_frame(&mut self) -> Option<Frame> {
        let frame = within(
            "a frame or the end",
            read_frame(&mut self.reader, &mut self.bytes),
        )
        .await?;
        if frame.kind == DATA {
            self.received_bytes += frame.payload.len() as u64;
        }
        Some(frame)
    }

    /// DATA bytes that have come on the connection: what they used of its windows.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// The next frame of a kind. Others are kept for later.
    pub async fn expect(&mut self, kind: u8, flags: u8) -> Frame {
        let at = self
            .passed
            .iter()
            .position(|frame| frame.kind == kind && frame.flags == flags);
        if let Some(frame) = at.and_then(|at| self.passed.remove(at)) {
            return frame;
        }
        loop {
            let frame = self
                .new_frame()
                .await
                .unwrap_or_else(|| panic!("the connection is over, before a frame {kind:#x}"));
            if frame.kind == kind && frame.flags == flags {
                return frame;
            }
            self.passed.push_back(frame);
        }
    }

    /// The next message on the link.
    pub async fn message(&mut self) -> Vec<u8> {
        loop {
            if let Some(message) = peer::deframe(&mut self.received) {
                return message;
            }
            let frame = self.expect(DATA, 0).await;
            self.received.extend_from_slice(&frame.payload);
        }
    }

    /// DATA bytes that are here once the router has dealt with everything sent so far, and sent what that allowed.
    pub async fn data_after_pings(&mut self) -> Vec<u8> {
        // The answer to the first PING overtakes DATA of the same turn; that to the second comes behind it.
        for _ in 0..2 {
            self.ping().await;
        }
        let mut bytes = Vec::new();
        self.passed.retain(|frame| {
            if frame.kind == DATA {
                bytes.extend_from_slice(&frame.payload);
            }
            frame.kind != DATA
        });
        bytes
    }

    /// Awaits the answer to a PING.
    pub async fn ping(&mut self) {
        self.pings += 1;
        let opaque = self.pings;
        self.write(&ping(opaque)).await;
        let answer = self.expect(PING, ACK).await;
        assert_eq!(answer.payload, opaque.to_be_bytes());
    }

    /// Says that nothing more comes, as TCP says it.
    pub async fn finish(&mut self) {
        within("closing", self.writer.shutdown())
            .await
            .expect("the router is there");
    }

    /// Reads up to the end of the connection.
    pub async fn ending(mut self) -> Ending {
        let mut frames: Vec<Frame> = self.passed.drain(..).collect();
        while let Some(frame) = self.new_frame().await {
            frames.push(frame);
        }
        Ending { frames }
    }

    /// Writes all that the router takes of `bytes`, while reading up to the end of the connection.
    pub async fn flood(self, bytes: Vec<u8>) -> Ending {
        let Raw {
            mut reader,
            mut writer,
            bytes: mut read,
            passed,
            ..
        } = self;
        let writing = tokio::spawn(async move {
            // It ends early when the router has had enough.
            let _ = writer.write_all(&bytes).await;
            writer
        });
        let mut frames = Vec::from(passed);
        while let Some(frame) =
            within("a frame or the end", read_frame(&mut reader, &mut read)).await
        {
            frames.push(frame);
        }
        writing.abort();
        Ending { frames }
    }
}

async fn read_frame(reader: &mut ReadHalf<Box<dyn Socket>>, bytes: &mut Vec<u8>) -> Option<Frame> {
    loop {
        if let Some((header, rest)) = bytes.split_first_chunk::<9>() {
            let [l0, l1, l2, kind, flags, stream @ ..] = *header;
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            if let Some(payload) = rest.get(..length) {
                let frame = Frame {
                    kind,
                    flags,
                    stream: u32::from_be_bytes(stream),
                    payload: payload.to_vec(),
                };
                bytes.drain(..9 + length);
                return Some(frame);
            }
        }
        // A reset connection is over, too.
        match reader.read_buf(bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}
