//! Whole HTTP/2 frames and calls of the caller's, in any order, against a model that counts as RFC 9113 says: windows both
//! ways, which streams are open, and what each frame must lead to.

use slim_proto::http2::{ConnectionError, ErrorCode, Event, ServerConnection, Settings, StreamId};

use crate::draw::Draw;
use crate::wire::{
    self, ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE, RESET,
    SETTINGS, WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX, WINDOW_UPDATE, block, frame, read_frames,
};

const STEPS_MAX: usize = 300;
/// No flood has a smaller allowance.
const FRAMES_WITHOUT_FLOOD: usize = 20;

/// Input: `window: u8 | streams: u8 | steps`, where a step is one byte for what, and what it needs.
pub fn connection(input: &[u8]) {
    let mut draw = Draw::new(input);
    let mut world = World::new(draw.byte(), draw.byte());
    for _ in 0..STEPS_MAX {
        if draw.is_empty() || world.step(&mut draw).is_none() {
            return;
        }
        world.check();
    }
}

/// A stream as both sides know it, until it is over.
struct Stream {
    id: u32,
    is_accepted: bool,
    is_answered: bool,
    /// It was answered as THE stream: from then on it gets its credit back.
    is_link: bool,
    has_ended: bool,
    content_left: Option<u64>,
    /// What the client may send on it, as it counts.
    room: i64,
    /// What we may send on it.
    send: i64,
}

struct World {
    server: ServerConnection,
    window: i64,
    streams_max: usize,
    streams: Vec<Stream>,
    /// As [`Stream::room`] and [`Stream::send`], of the connection.
    room: i64,
    send: i64,
    /// What new streams start with, by the client's SETTINGS.
    client_window: i64,
    is_acked: bool,
    is_going_away: bool,
    last: u32,
    /// Frames on streams up to here may have crossed our RST_STREAM.
    closed_by_us: u32,
    /// DATA that the caller has and has not released.
    held: u32,
    pings: Vec<[u8; 8]>,
    frames: usize,
}

/// What a frame must lead to.
enum Expected {
    /// Answers at most.
    Nothing,
    Event(Check),
    Error(Refusal),
}

type Check = Box<dyn Fn(&Event) -> bool>;
type Refusal = fn(&ConnectionError) -> bool;

impl World {
    fn new(window: u8, streams: u8) -> Self {
        let window = [
            1_048_576,
            65_535,
            65_536,
            20_000,
            100,
            2,
            1,
            i64::from(u32::MAX),
        ][usize::from(window) % 8];
        let streams_max = 1 + u32::from(streams % 4);
        let mut out = Vec::new();
        let server = ServerConnection::new(
            Settings {
                initial_window_bytes: window as u32,
                max_frame_bytes: 16_384,
                max_header_list_bytes: 4_096,
                max_concurrent_streams: streams_max,
            },
            &mut out,
        );
        let mut world = World {
            server,
            window: window.min(WINDOW_BYTES_MAX),
            streams_max: streams_max as usize,
            streams: Vec::new(),
            room: WINDOW_BYTES_DEFAULT,
            send: WINDOW_BYTES_DEFAULT,
            client_window: WINDOW_BYTES_DEFAULT,
            is_acked: false,
            is_going_away: false,
            last: 0,
            closed_by_us: 0,
            held: 0,
            pings: Vec::new(),
            frames: 0,
        };
        world.hear(&out);
        let opened = world.exchange(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat(), 7);
        assert!(opened.is_ok_and(|happened| happened.is_empty()));
        world
    }

    /// `None`: the connection is over.
    fn step(&mut self, draw: &mut Draw) -> Option<()> {
        let mut out = Vec::new();
        match draw.byte() % 20 {
            0 | 1 => return self.send_data(draw),
            2 => return self.send_request(draw),
            3 => return self.send_trailers(draw),
            4 => return self.send_window_update(draw),
            5 => return self.send_settings(draw),
            6 => {
                let expected = if self.is_acked {
                    Expected::Error(|why| matches!(why, ConnectionError::UnexpectedSettingsAck))
                } else {
                    Expected::Nothing
                };
                if !self.is_acked {
                    for stream in &mut self.streams {
                        stream.room += self.window - WINDOW_BYTES_DEFAULT;
                    }
                }
                self.is_acked = true;
                return self.deliver(draw, &frame(SETTINGS, ACK, 0, &[]), expected);
            }
            7 => {
                let opaque = [draw.byte(); 8];
                return self.deliver(draw, &frame(PING, 0, 0, &opaque), Expected::Nothing);
            }
            8 => return self.send_reset(draw),
            9 => {
                let payload = [&7u32.to_be_bytes()[..], &[0; 4], draw.short()].concat();
                let expected = Expected::Event(Box::new(
                    |event| matches!(event, Event::GoAway { code: ErrorCode::NO_ERROR, last_stream } if last_stream.get() == 7),
                ));
                return self.deliver(draw, &frame(GOAWAY, 0, 0, &payload), expected);
            }
            10 => {
                let Some(opaque) = self.pings.pop() else {
                    return Some(());
                };
                let expected = Expected::Event(Box::new(
                    move |event| matches!(event, Event::PingAck(back) if *back == opaque),
                ));
                return self.deliver(draw, &frame(PING, ACK, 0, &opaque), expected);
            }
            // A frame of a type that nobody knows.
            11 => {
                let (kind, flags, id) =
                    (10 + draw.byte() % 246, draw.byte(), u32::from(draw.byte()));
                let unknown = frame(kind, flags, id, draw.short());
                return self.deliver(draw, &unknown, Expected::Nothing);
            }

            12 => {
                let id = self.any_id(draw);
                let has_one = self.streams.iter().any(|stream| stream.is_accepted);
                let position = self.streams.iter().position(|stream| stream.id == id);
                let accepts = !has_one && position.is_some();
                assert_eq!(self.server.accept(StreamId::new(id)), accepts);
                if let Some(at) = position.filter(|_| accepts) {
                    self.streams[at].is_accepted = true;
                }
            }
            13 => {
                let id = self.any_id(draw);
                self.server.respond_headers(StreamId::new(id), &mut out);
                let stream = self.streams.iter_mut().find(|stream| stream.id == id);
                let is_first = stream.is_some_and(|stream| {
                    stream.is_link |= stream.is_accepted;
                    !std::mem::replace(&mut stream.is_answered, true)
                });
                assert_eq!(said(&out, HEADERS), usize::from(is_first));
            }
            14 => {
                let bytes = u32::from(draw.u16()).min(self.held);
                self.held -= bytes;
                self.server.release(bytes, &mut out);
            }
            15 => {
                let window = self.server.send_window();
                let bytes = usize::from(draw.u16()).min(window);
                self.server.consume_send_window(bytes);
                if let Some(stream) = self.streams.iter_mut().find(|stream| stream.is_accepted) {
                    stream.send -= bytes as i64;
                    self.send -= bytes as i64;
                }
            }
            16 => self.server.tick(),
            17 => {
                let id = self.any_id(draw);
                let stream = StreamId::new(id);
                match draw.byte() % 3 {
                    0 => self
                        .server
                        .trailers(stream, draw.u32(), &draw.text(), &mut out),
                    1 => self.server.respond_trailers_only(
                        stream,
                        draw.u32(),
                        &draw.text(),
                        &mut out,
                    ),
                    _ => self.server.respond_status(stream, draw.u16(), &mut out),
                }
                let closed = self.close(id);
                assert_eq!(said(&out, HEADERS), usize::from(closed.is_some()));
                let is_cut = closed.is_some_and(|stream| !stream.has_ended);
                assert_eq!(said(&out, RESET), usize::from(is_cut));
                if is_cut {
                    self.closed_by_us = self.closed_by_us.max(id);
                }
            }
            18 => {
                let id = self.any_id(draw);
                self.server
                    .reset(StreamId::new(id), ErrorCode::CANCEL, &mut out);
                let is_open = self.close(id).is_some();
                assert_eq!(said(&out, RESET), usize::from(is_open));
                if is_open {
                    self.closed_by_us = self.closed_by_us.max(id);
                }
            }
            _ => match draw.byte() % 4 {
                0 => {
                    self.server
                        .goaway(ErrorCode::NO_ERROR, &draw.text(), &mut out);
                    self.is_going_away = true;
                }
                _ if self.pings.len() < 200 => {
                    let opaque = [draw.byte(); 8];
                    self.pings.push(opaque);
                    self.server.ping(opaque, &mut out);
                }
                _ => {}
            },
        }
        self.hear(&out);
        Some(())
    }

    /// What must hold between any two steps.
    fn check(&self) {
        let accepted = self.streams.iter().find(|stream| stream.is_accepted);
        let window = accepted.map_or(0, |stream| stream.send.min(self.send).max(0));
        assert_eq!(self.server.send_window() as i64, window);
        assert!(self.room >= 0);
        // Neither window ever allows more than was announced, what the caller holds included.
        assert!(self.room + i64::from(self.held) <= self.window.max(WINDOW_BYTES_DEFAULT));
        // And none leaks: when nothing is held, less than half of it is used up.
        let half = (self.window / 2).max(1);
        if self.held == 0 {
            assert!(
                self.room > self.window - half,
                "the connection has {} bytes of credit left",
                self.room
            );
        }
        for stream in &self.streams {
            if self.is_acked {
                assert!(stream.room <= self.window);
            }
            if self.held == 0 && self.is_acked && stream.is_link && !stream.has_ended {
                assert!(
                    stream.room > self.window - half,
                    "stream {} has {} bytes of credit left",
                    stream.id,
                    stream.room
                );
            }
        }
        assert!(self.server.heap_bytes() <= 1_024);
    }

    fn send_data(&mut self, draw: &mut Draw) -> Option<()> {
        let id = self.any_id(draw);
        let ends = draw.byte().is_multiple_of(8);
        let padding = match draw.byte() {
            few @ 0..16 => Some(few),
            _ => None,
        };
        let wanted = match draw.byte() {
            exactly @ 0..64 => usize::from(exactly),
            // To the brim, and one more.
            64..96 => self.room_of(id).clamp(0, 16_000) as usize,
            96..128 => (self.room_of(id) + 1).clamp(0, 16_000) as usize,
            _ => usize::from(draw.u16()) % 16_000,
        };
        let body = vec![0xd5; wanted];
        let payload = match padding {
            Some(padding) => [&[padding], &body[..], &vec![0; usize::from(padding)]].concat(),
            None => body.clone(),
        };
        let flags = if ends { END_STREAM } else { 0 } | if padding.is_some() { PADDED } else { 0 };
        let data = frame(DATA, flags, id, &payload);
        let length = payload.len() as i64;

        let lenient = if self.is_acked {
            0
        } else {
            (self.window - WINDOW_BYTES_DEFAULT).max(0)
        };
        let is_ours = id <= self.closed_by_us;
        let (is_idle, room) = (self.is_idle(id), self.room);
        let stream = self.streams.iter_mut().find(|stream| stream.id == id);
        let expected = match stream {
            _ if id == 0 => {
                Expected::Error(|why| matches!(why, ConnectionError::WrongStream { .. }))
            }
            _ if is_idle => {
                Expected::Error(|why| matches!(why, ConnectionError::IdleStream { .. }))
            }
            _ if length > room => Expected::Error(
                |why| matches!(why, ConnectionError::WindowOverrun { stream, .. } if stream.get() == 0),
            ),
            Some(stream) if stream.has_ended => {
                Expected::Error(|why| matches!(why, ConnectionError::StreamClosed { .. }))
            }
            Some(stream) if length > 0 && length > stream.room + lenient => Expected::Error(
                |why| matches!(why, ConnectionError::WindowOverrun { stream, .. } if stream.get() != 0),
            ),
            Some(stream) => {
                stream.room -= length;
                self.room -= length;
                let too_much = stream
                    .content_left
                    .is_some_and(|left| left < body.len() as u64);
                if let Some(left) = &mut stream.content_left {
                    *left = left.saturating_sub(body.len() as u64);
                }
                let too_little = ends && stream.content_left.is_some_and(|left| left > 0);
                stream.has_ended |= ends;
                let is_accepted = stream.is_accepted;
                if too_much || too_little {
                    Expected::Error(|why| matches!(why, ConnectionError::ContentLength { .. }))
                } else if body.is_empty() && !ends {
                    Expected::Nothing
                } else {
                    if is_accepted {
                        self.held += body.len() as u32;
                    }
                    let flow = if is_accepted { body.len() } else { 0 };
                    return self.deliver_data(draw, &data, id, &body, flow, ends);
                }
            }
            None if is_ours => {
                self.room -= length;
                Expected::Nothing
            }
            None => Expected::Error(|why| matches!(why, ConnectionError::StreamClosed { .. })),
        };
        self.deliver(draw, &data, expected)
    }

    fn send_request(&mut self, draw: &mut Draw) -> Option<()> {
        let id = self.last + 2 - (self.last + 1) % 2 + 2 * u32::from(draw.byte() % 3);
        let ends = draw.byte().is_multiple_of(4);
        let content_length = match draw.byte() {
            0..8 => Some(0),
            8..16 => Some(u64::from(draw.u16())),
            _ => None,
        };
        let digits = content_length
            .map(|bytes| bytes.to_string())
            .unwrap_or_default();
        let mut fields = vec![(":method", "POST"), (":scheme", "http"), (":path", "/a/b")];
        if content_length.is_some() {
            fields.push(("content-length", &digits));
        }
        self.last = id;
        let is_malformed = ends && content_length.is_some_and(|bytes| bytes > 0);
        let is_refused = self.is_going_away || self.streams.len() >= self.streams_max;
        let expected = if is_malformed || is_refused {
            self.closed_by_us = self.closed_by_us.max(id);
            Expected::Nothing
        } else {
            self.streams.push(Stream {
                id,
                is_accepted: false,
                is_answered: false,
                is_link: false,
                has_ended: ends,
                content_left: content_length,
                room: if self.is_acked {
                    self.window
                } else {
                    WINDOW_BYTES_DEFAULT
                },
                send: self.client_window,
            });
            Expected::Event(Box::new(move |event| {
                matches!(event, Event::Request(head) if head.stream.get() == id && head.method == "POST"
                    && head.path == "/a/b" && head.content_length == content_length && head.end_stream == ends)
            }))
        };
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        self.deliver(draw, &frame(HEADERS, flags, id, &block(&fields)), expected)
    }

    fn send_trailers(&mut self, draw: &mut Draw) -> Option<()> {
        let id = self.any_id(draw);
        if id == 0 || id > self.last {
            return Some(());
        }
        let (is_ours, last) = (id <= self.closed_by_us, self.last);
        let expected = match self.streams.iter_mut().find(|stream| stream.id == id) {
            _ if id.is_multiple_of(2) => {
                Expected::Error(|why| matches!(why, ConnectionError::WrongStream { .. }))
            }
            Some(stream) if stream.has_ended => {
                Expected::Error(|why| matches!(why, ConnectionError::StreamClosed { .. }))
            }
            Some(stream) if stream.content_left.is_some_and(|left| left > 0) => {
                Expected::Error(|why| matches!(why, ConnectionError::ContentLength { .. }))
            }
            Some(stream) => {
                stream.has_ended = true;
                Expected::Event(Box::new(
                    move |event| matches!(event, Event::Trailers { stream } if stream.get() == id),
                ))
            }
            None if is_ours => Expected::Nothing,
            None if id == last => {
                Expected::Error(|why| matches!(why, ConnectionError::StreamClosed { .. }))
            }
            None => Expected::Error(|why| matches!(why, ConnectionError::StreamOrder { .. })),
        };
        let trailers = frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            id,
            &block(&[("grpc-status", "0")]),
        );
        self.deliver(draw, &trailers, expected)
    }

    fn send_window_update(&mut self, draw: &mut Draw) -> Option<()> {
        let id = if draw.flag() { 0 } else { self.any_id(draw) };
        let increment = match draw.byte() {
            small @ 0..200 => u32::from(small),
            200..250 => draw.u32(),
            _ => u32::MAX,
        };
        let amount = i64::from(increment & 0x7fff_ffff);
        let before = self.server.send_window();
        let is_idle = self.is_idle(id);
        let window = if id == 0 {
            Some(&mut self.send)
        } else {
            let stream = self.streams.iter_mut().find(|stream| stream.id == id);
            stream.map(|stream| &mut stream.send)
        };
        let expected = match window {
            _ if is_idle => {
                Expected::Error(|why| matches!(why, ConnectionError::IdleStream { .. }))
            }
            Some(_) if amount == 0 => {
                Expected::Error(|why| matches!(why, ConnectionError::ZeroIncrement { .. }))
            }
            Some(window) if *window + amount > WINDOW_BYTES_MAX => {
                Expected::Error(|why| matches!(why, ConnectionError::WindowOverflow { .. }))
            }
            Some(window) => {
                *window += amount;
                self.opened(before)
            }
            None => Expected::Nothing,
        };
        self.deliver(
            draw,
            &frame(WINDOW_UPDATE, 0, id, &increment.to_be_bytes()),
            expected,
        )
    }

    /// WindowOpened, exactly if the window that the caller may use has grown.
    fn opened(&self, before: usize) -> Expected {
        let accepted = self.streams.iter().find(|stream| stream.is_accepted);
        let now = accepted.map_or(0, |stream| stream.send.min(self.send).max(0));
        if now > before as i64 {
            Expected::Event(Box::new(|event| matches!(event, Event::WindowOpened)))
        } else {
            Expected::Nothing
        }
    }

    fn send_settings(&mut self, draw: &mut Draw) -> Option<()> {
        let window = match draw.byte() {
            0..128 => u32::from(draw.u16()),
            128..192 => draw.u32(),
            192..224 => WINDOW_BYTES_MAX as u32,
            _ => 0,
        };
        let before = self.server.send_window();
        let change = i64::from(window) - self.client_window;
        let overflows = self
            .streams
            .iter()
            .any(|stream| stream.send + change > WINDOW_BYTES_MAX);
        let expected = if i64::from(window) > WINDOW_BYTES_MAX {
            Expected::Error(|why| {
                matches!(why, ConnectionError::SettingValue { .. })
                    && why.code() == ErrorCode::FLOW_CONTROL_ERROR
            })
        } else if overflows {
            Expected::Error(|why| matches!(why, ConnectionError::WindowOverflow { .. }))
        } else {
            self.client_window = i64::from(window);
            for stream in &mut self.streams {
                stream.send += change;
            }
            self.opened(before)
        };
        let payload = [&[0, 4], &window.to_be_bytes()[..]].concat();
        self.deliver(draw, &frame(SETTINGS, 0, 0, &payload), expected)
    }

    fn send_reset(&mut self, draw: &mut Draw) -> Option<()> {
        let id = self.any_id(draw);
        let expected = match self.close(id) {
            _ if id == 0 => {
                Expected::Error(|why| matches!(why, ConnectionError::WrongStream { .. }))
            }
            _ if self.is_idle(id) => {
                Expected::Error(|why| matches!(why, ConnectionError::IdleStream { .. }))
            }
            Some(_) => Expected::Event(Box::new(
                move |event| matches!(event, Event::Reset { stream, code: ErrorCode::CANCEL } if stream.get() == id),
            )),
            None => Expected::Nothing,
        };
        self.deliver(draw, &frame(RESET, 0, id, &8u32.to_be_bytes()), expected)
    }

    /// A stream to name: mostly one that is open.
    fn any_id(&self, draw: &mut Draw) -> u32 {
        let chosen = draw.byte();
        match self.streams.len() {
            open @ 1.. if chosen < 200 => self.streams[usize::from(chosen) % open].id,
            _ => u32::from(chosen % 16),
        }
    }

    fn is_idle(&self, id: u32) -> bool {
        id != 0 && (id.is_multiple_of(2) || id > self.last)
    }

    fn room_of(&self, id: u32) -> i64 {
        let stream = self.streams.iter().find(|stream| stream.id == id);
        stream.map_or(self.room, |stream| stream.room.min(self.room))
    }

    fn close(&mut self, id: u32) -> Option<Stream> {
        let at = self.streams.iter().position(|stream| stream.id == id)?;
        Some(self.streams.swap_remove(at))
    }

    /// Takes in what we said, as a client counts it.
    fn hear(&mut self, out: &[u8]) {
        for frame in read_frames(out) {
            if frame.kind != WINDOW_UPDATE {
                continue;
            }
            let increment = i64::from(wire::u32_of(&frame.payload));
            if frame.stream == 0 {
                self.room += increment;
                assert!(self.room <= WINDOW_BYTES_MAX);
            } else {
                let stream = self
                    .streams
                    .iter_mut()
                    .find(|stream| stream.id == frame.stream);
                stream.expect("credit for an open stream").room += increment;
            }
        }
    }

    /// Hands `bytes` over in two pieces; what happened, or why the connection is over.
    fn exchange(&mut self, bytes: &[u8], cut: u8) -> Result<Vec<Happened>, ConnectionError> {
        let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
        let mut happened = Vec::new();
        let mut out = Vec::new();
        let mut result = Ok(());
        'pieces: for mut piece in [first, second] {
            loop {
                match self.server.next_event(&mut piece, &mut out) {
                    Ok(None) => break,
                    Ok(Some(event)) => happened.push(Happened::from(event)),
                    Err(why) => {
                        result = Err(why);
                        break 'pieces;
                    }
                }
            }
            assert!(piece.is_empty());
        }
        if result.is_ok() {
            self.hear(&out);
        }
        result.map(|()| happened)
    }

    fn deliver(&mut self, draw: &mut Draw, bytes: &[u8], expected: Expected) -> Option<()> {
        self.frames += 1;
        let outcome = self.exchange(bytes, draw.byte());
        let is_flood = matches!(outcome, Err(ConnectionError::Flood { .. }));
        match (outcome, expected) {
            (Err(_), _) if is_flood => {
                assert!(self.frames >= FRAMES_WITHOUT_FLOOD);
                return None;
            }
            (Err(why), Expected::Error(is_right)) => {
                wire::check_error(&why);
                assert!(is_right(&why), "{why}");
                return None;
            }
            (Ok(happened), Expected::Nothing) => assert!(happened.is_empty(), "{happened:?}"),
            (Ok(happened), Expected::Event(is_right)) => {
                assert!(
                    matches!(&happened[..], [Happened::Other(event)] if is_right(event)),
                    "{happened:?}"
                );
            }
            (outcome, _) => panic!("not what was to come: {outcome:?}"),
        }
        Some(())
    }

    fn deliver_data(
        &mut self,
        draw: &mut Draw,
        bytes: &[u8],
        id: u32,
        body: &[u8],
        flow: usize,
        ends: bool,
    ) -> Option<()> {
        self.frames += 1;
        let happened = match self.exchange(bytes, draw.byte()) {
            Ok(happened) => happened,
            Err(ConnectionError::Flood { .. }) => {
                assert!(self.frames >= FRAMES_WITHOUT_FLOOD);
                return None;
            }
            Err(why) => panic!("refused: {why}"),
        };
        let (mut got, mut got_flow) = (0, 0);
        let last = happened.len().saturating_sub(1);
        for (at, event) in happened.iter().enumerate() {
            let Happened::Data(stream, bytes, flow_bytes, end) = event else {
                panic!("{event:?}");
            };
            assert_eq!(*stream, id);
            assert!(body[got..].starts_with(bytes));
            assert_eq!(*end, ends && at == last);
            got += bytes.len();
            got_flow += *flow_bytes as usize;
        }
        assert!(!happened.is_empty());
        assert_eq!((got, got_flow), (body.len(), flow));
        Some(())
    }
}

/// An event that outlives the input. DATA is copied; of anything else there is nothing to copy.
#[derive(Debug)]
enum Happened {
    Data(u32, Vec<u8>, u32, bool),
    Other(Event<'static>),
}

impl From<Event<'_>> for Happened {
    fn from(event: Event<'_>) -> Self {
        Happened::Other(match event {
            Event::Data {
                stream,
                bytes,
                flow_bytes,
                end_stream,
            } => return Happened::Data(stream.get(), bytes.to_vec(), flow_bytes, end_stream),
            Event::Request(head) => Event::Request(head),
            Event::Trailers { stream } => Event::Trailers { stream },
            Event::Reset { stream, code } => Event::Reset { stream, code },
            Event::WindowOpened => Event::WindowOpened,
            Event::GoAway { code, last_stream } => Event::GoAway { code, last_stream },
            Event::PingAck(opaque) => Event::PingAck(opaque),
        })
    }
}

/// How many frames of this kind are in `out`.
fn said(out: &[u8], kind: u8) -> usize {
    read_frames(out)
        .iter()
        .filter(|frame| frame.kind == kind)
        .count()
}
