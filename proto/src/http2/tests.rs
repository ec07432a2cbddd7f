//! The connection as a peer sees it. `conformance` is RFC 9113 row by row, `hostile` is what attackers send, `flow` the
//! windows, `interop` an independent client.

mod conformance;
mod flow;
mod hostile;
mod interop;
mod splits;

use super::*;

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const PRIORITY: u8 = 0x2;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PUSH_PROMISE: u8 = 0x5;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const ANNOUNCED: Settings = Settings {
    initial_window_bytes: 1 << 20,
    max_frame_bytes: 32_768,
    max_header_list_bytes: 16_384,
    max_concurrent_streams: 4,
};

/// Any frame, as a peer may write it.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
    [
        &[l0, l1, l2, kind, flags][..],
        &stream.to_be_bytes(),
        payload,
    ]
    .concat()
}

pub(super) fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, payload)
}

pub(super) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(super) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(super) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub(super) fn settings_ack() -> Vec<u8> {
    frame(SETTINGS, ACK, 0, &[])
}

/// Literal fields without indexing.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one length byte");
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

pub(super) const PATH: &str = "/dataplane.proto.v1.DataPlaneService/OpenChannel";
pub(super) const REQUEST_FIELDS: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "localhost"),
    (":path", PATH),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "tonic/0.14.6"),
];

pub(super) fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

pub(super) fn request(stream: u32) -> Vec<u8> {
    headers(0, stream, REQUEST_FIELDS)
}

/// [`REQUEST_FIELDS`] and then some.
pub(super) fn request_with(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    headers(0, stream, &[REQUEST_FIELDS, more].concat())
}

/// An event that owns its bytes; DATA chunks are joined, since their boundaries mean nothing.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) enum Seen {
    Request(Box<RequestHead>),
    Data {
        stream: u32,
        bytes: Vec<u8>,
        end_stream: bool,
    },
    Trailers(u32),
    Reset(u32, ErrorCode),
    WindowOpened,
    GoAway(ErrorCode, u32),
    PingAck([u8; 8]),
}

/// A server that accepts the first request at once and leaves others unanswered.
pub(super) struct Server {
    pub(super) connection: ServerConnection,
    /// Everything it said.
    pub(super) out: Vec<u8>,
    pub(super) seen: Vec<Seen>,
    pub(super) flow_bytes: u32,
    has_accepted: bool,
}

impl Server {
    /// Before the peer has said anything; its own greeting is not kept.
    pub(super) fn new(announced: Settings) -> Self {
        let mut out = Vec::new();
        let connection = ServerConnection::new(announced, &mut out);
        out.clear();
        Server {
            connection,
            out,
            seen: Vec::new(),
            flow_bytes: 0,
            has_accepted: false,
        }
    }

    /// After the handshake.
    pub(super) fn greeted() -> Self {
        Server::greeted_with(ANNOUNCED)
    }

    pub(super) fn greeted_with(announced: Settings) -> Self {
        let mut server = Server::new(announced);
        server.takes(&[PREFACE, &settings(&[]), &settings_ack()].concat());
        assert!(server.connection.is_established());
        server.out.clear();
        server
    }

    /// After the handshake and with stream 1 accepted and answered.
    pub(super) fn linked() -> Self {
        Server::linked_with(ANNOUNCED)
    }

    pub(super) fn linked_with(announced: Settings) -> Self {
        let mut server = Server::greeted_with(announced);
        server.takes(&request(1));
        server.out.clear();
        server.seen.clear();
        server
    }

    pub(super) fn try_take(&mut self, input: &[u8]) -> Result<(), ConnectionError> {
        let mut input = input;
        while let Some(event) = self.connection.next_event(&mut input, &mut self.out)? {
            let seen = match event {
                Event::Request(head) => {
                    if !std::mem::replace(&mut self.has_accepted, true) {
                        assert!(self.connection.accept(head.stream));
                        self.connection.respond_headers(head.stream, &mut self.out);
                    }
                    Seen::Request(head)
                }
                Event::Data {
                    stream,
                    bytes,
                    flow_bytes,
                    end_stream,
                } => {
                    self.flow_bytes += flow_bytes;
                    match self.seen.last_mut() {
                        Some(Seen::Data {
                            stream: last,
                            bytes: joined,
                            end_stream: is_ended,
                        }) if *last == stream.get() && !*is_ended => {
                            joined.extend_from_slice(bytes);
                            *is_ended = end_stream;
                            continue;
                        }
                        _ => Seen::Data {
                            stream: stream.get(),
                            bytes: bytes.to_vec(),
                            end_stream,
                        },
                    }
                }
                Event::Trailers { stream } => Seen::Trailers(stream.get()),
                Event::Reset { stream, code } => Seen::Reset(stream.get(), code),
                Event::WindowOpened => Seen::WindowOpened,
                Event::GoAway { code, last_stream } => Seen::GoAway(code, last_stream.get()),
                Event::PingAck(opaque) => Seen::PingAck(opaque),
            };
            self.seen.push(seen);
        }
        assert!(
            input.is_empty(),
            "next_event returned None before the input was used up"
        );
        Ok(())
    }

    #[track_caller]
    pub(super) fn takes(&mut self, input: &[u8]) {
        self.try_take(input).expect("a valid input");
    }

    #[track_caller]
    pub(super) fn refuses(&mut self, input: &[u8]) -> ConnectionError {
        self.try_take(input).expect_err("an invalid input")
    }

    /// Takes `input` again and again until it is refused.
    #[track_caller]
    pub(super) fn refuses_flood_of(
        &mut self,
        input: &[u8],
        times_max: usize,
    ) -> (usize, ConnectionError) {
        for times in 0..times_max {
            if let Err(error) = self.try_take(input) {
                return (times, error);
            }
            self.out.clear();
        }
        panic!("{times_max} times went through");
    }

    /// What it said since the last call, as frames: kind, flags, stream, payload.
    pub(super) fn said(&mut self) -> Vec<(u8, u8, u32, Vec<u8>)> {
        frames(&std::mem::take(&mut self.out))
    }
}

pub(super) fn frames(bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut rest = bytes;
    let mut frames = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        let (payload, after) = after.split_at(length);
        frames.push((header[3], header[4], stream, payload.to_vec()));
        rest = after;
    }
    assert!(rest.is_empty(), "half a frame was written");
    frames
}

pub(super) fn id(stream: u32) -> StreamId {
    StreamId::new(stream)
}

#[test]
fn an_idle_connection_is_small_and_owns_no_heap() {
    let size = size_of::<ServerConnection>();
    assert!(size <= 300, "{size} bytes");
    assert!(size_of::<Event>() <= 48);
    let mut server = Server::new(ANNOUNCED);
    // A request that fills the dynamic table, sent before the peer knows our SETTINGS, as real clients do.
    let mut indexed = block(REQUEST_FIELDS);
    indexed.extend_from_slice(b"\x40\x07x-trace\x05value");
    server.takes(
        &[
            PREFACE,
            &settings(&[]),
            &frame(HEADERS, END_HEADERS, 1, &indexed),
        ]
        .concat(),
    );
    assert!(server.connection.heap_bytes() > 0);
    server.takes(&settings_ack());
    assert_eq!(server.connection.heap_bytes(), 0);
}

#[test]
fn the_greeting_announces_the_settings_and_widens_the_connection() {
    let mut out = Vec::new();
    let _ = ServerConnection::new(ANNOUNCED, &mut out);
    let expected = [
        settings(&[(1, 0), (3, 4), (4, 1 << 20), (5, 32_768), (6, 16_384)]),
        window_update(0, (1 << 20) - 65_535),
    ]
    .concat();
    assert_eq!(out, expected);
}

#[test]
fn a_request_is_reported_with_what_the_router_must_know() {
    let mut server = Server::greeted();
    server.takes(&request_with(
        1,
        &[
            ("x-custom", "anything"),
            ("authorization", "Bearer secret"),
            ("grpc-encoding", "gzip"),
        ],
    ));
    let [Seen::Request(head)] = &server.seen[..] else {
        panic!("{:?}", server.seen)
    };
    assert_eq!(
        (head.method.as_str(), head.path.as_str(), head.stream),
        ("POST", PATH, id(1))
    );
    assert_eq!(head.scheme.as_deref(), Some("http"));
    assert_eq!(head.authority.as_deref(), Some("localhost"));
    assert_eq!(head.content_type.as_deref(), Some("application/grpc"));
    assert_eq!(head.authorization.as_deref(), Some("Bearer secret"));
    assert_eq!(head.grpc_encoding.as_deref(), Some("gzip"));
    assert_eq!(head.user_agent.as_deref(), Some("tonic/0.14.6"));
    assert!(head.te_trailers && !head.end_stream);
    assert!(!format!("{head:?}").contains("secret"));
    // :status 200, content-type: application/grpc, and no END_STREAM.
    assert_eq!(
        server.said(),
        [(
            HEADERS,
            END_HEADERS,
            1,
            b"\x88\x0f\x10\x10application/grpc".to_vec()
        )]
    );
}

#[test]
fn data_is_lent_as_it_arrives() {
    let mut server = Server::linked();
    let bytes = data(1, b"hello world");
    let (mut head, mut tail) = bytes.split_at(14);
    let mut control = Vec::new();
    let stream = id(1);
    assert_eq!(
        server.connection.next_event(&mut head, &mut control),
        Ok(Some(Event::Data {
            stream,
            bytes: b"hello",
            flow_bytes: 5,
            end_stream: false
        }))
    );
    assert_eq!(
        server.connection.next_event(&mut head, &mut control),
        Ok(None)
    );
    assert_eq!(
        server.connection.next_event(&mut tail, &mut control),
        Ok(Some(Event::Data {
            stream,
            bytes: b" world",
            flow_bytes: 6,
            end_stream: false
        }))
    );
    assert!(control.is_empty());
}

#[test]
fn answers_that_end_a_stream_ask_a_peer_that_is_not_done_to_stop() {
    let mut server = Server::linked();
    server.takes(
        &[
            request(3),
            headers(END_STREAM, 5, REQUEST_FIELDS),
            request(7),
        ]
        .concat(),
    );
    server
        .connection
        .respond_trailers_only(id(3), 12, "no such method", &mut server.out);
    server
        .connection
        .respond_trailers_only(id(5), 12, "", &mut server.out);
    server
        .connection
        .respond_status(id(7), 415, &mut server.out);
    server.connection.trailers(id(1), 0, "", &mut server.out);
    let ended = END_HEADERS | END_STREAM;
    let said: Vec<_> = server
        .said()
        .into_iter()
        .map(|(kind, flags, stream, _)| (kind, flags, stream))
        .collect();
    assert_eq!(
        said,
        [
            (HEADERS, ended, 3),
            (RST_STREAM, 0, 3),
            (HEADERS, ended, 5),
            (HEADERS, ended, 7),
            (RST_STREAM, 0, 7),
            (HEADERS, ended, 1),
            (RST_STREAM, 0, 1),
        ]
    );
}

#[test]
fn answers_to_a_stream_that_is_gone_say_nothing() {
    let mut server = Server::linked();
    server.takes(&reset(1, 8));
    let connection = &mut server.connection;
    connection.respond_headers(id(1), &mut server.out);
    connection.respond_trailers_only(id(1), 0, "", &mut server.out);
    connection.respond_status(id(1), 401, &mut server.out);
    connection.trailers(id(1), 0, "", &mut server.out);
    connection.reset(id(1), ErrorCode::CANCEL, &mut server.out);
    assert!(!connection.accept(id(1)));
    assert!(server.out.is_empty());
    assert_eq!(server.seen, [Seen::Reset(1, ErrorCode::CANCEL)]);
}

#[test]
fn trailers_before_any_answer_are_a_whole_answer() {
    let mut server = Server::linked();
    server.takes(&request(3));
    server
        .connection
        .trailers(id(3), 14, "later", &mut server.out);
    let said = server.said();
    assert!(said[0].3.starts_with(b"\x88\x0f\x10"), "{said:?}");
}

#[test]
fn a_lowered_table_size_is_acknowledged_in_the_next_header_block() {
    let mut server = Server::greeted();
    server.takes(&[settings(&[(1, 0)]), request(1)].concat());
    let said = server.said();
    assert_eq!(said[1].3[0], 0x20);
    server.takes(&settings(&[(1, 100)]));
    server.connection.trailers(id(99), 0, "", &mut server.out);
    server.out.clear();
    server.takes(&request(3));
    server
        .connection
        .respond_status(id(3), 415, &mut server.out);
    assert_eq!(server.said()[0].3[0], 0x20);
    server.connection.trailers(id(1), 0, "", &mut server.out);
    assert_eq!(server.said()[0].3[0], 0x00);
}

#[test]
fn our_ping_comes_back_as_an_event_and_a_stray_answer_does_not() {
    let mut server = Server::linked();
    server.connection.ping(*b"01234567", &mut server.out);
    assert_eq!(server.said(), [(PING, 0, 0, b"01234567".to_vec())]);
    server.takes(
        &[
            frame(PING, ACK, 0, b"01234567"),
            frame(PING, ACK, 0, b"01234567"),
        ]
        .concat(),
    );
    assert_eq!(server.seen, [Seen::PingAck(*b"01234567")]);
}

#[test]
fn after_our_goaway_new_streams_are_refused_and_the_link_goes_on() {
    let mut server = Server::linked();
    server
        .connection
        .goaway(ErrorCode::NO_ERROR, "draining", &mut server.out);
    assert_eq!(
        server.said(),
        [(GOAWAY, 0, 0, b"\0\0\0\x01\0\0\0\0draining".to_vec())]
    );
    server.takes(&[request(3), data(1, &[7; 100])].concat());
    assert_eq!(server.said(), [(RST_STREAM, 0, 3, vec![0, 0, 0, 7])]);
    assert_eq!(
        server.seen,
        [Seen::Data {
            stream: 1,
            bytes: vec![7; 100],
            end_stream: false
        }]
    );
}
