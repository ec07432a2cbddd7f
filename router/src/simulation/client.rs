//! A simulated client: it follows its script as far as windows and the router let it, and reads at its own speed.

use std::collections::VecDeque;

use slim_proto::grpc;
use slim_proto::link::{ConnectionType, Dialer, LinkMac, LinkRequest, MacPolicy, sign_message};
use slim_proto::message::wire::{self, Wire as _, message::MessageType};

use super::ears::{
    ACK, Dials, END_HEADERS, END_STREAM, Ears, FRAME_BYTES_MAX, Heard, kind, payload,
};
use super::kernel::{ClientEnd, Happening, Kernel, Line, RouterEnd, Time};
use super::ledger::{Mark, Publish, Subscription, Target};

pub const TTL: u32 = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const OPEN_CHANNEL: &str = "/dataplane.proto.v1.DataPlaneService/OpenChannel";
/// Before anything is agreed on (RFC 9113 §6.9.2).
const WINDOW_INITIAL: u32 = 65_535;
const STREAM: u32 = 1;
const FRAME_HEADER_BYTES: usize = 9;

/// One thing that a client does.
#[derive(Clone, Debug)]
pub enum Action {
    Connect,
    Subscribe(Target),
    /// Of what it subscribed to and has not left, the one at this position, modulo.
    Unsubscribe(usize),
    /// From what it never subscribed to.
    UnsubscribeWrongly(Target),
    Publish {
        to: Target,
        to_all: bool,
        bytes: usize,
        doomed: bool,
    },
    Read(Reading),
    Leave(Leave),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All that is there, whenever it looks.
    Fast,
    /// So many bytes each time.
    Slow { bytes: usize, every: Time },
    /// Nothing, and it gives no credit.
    Not,
}

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// With END_STREAM, and then it closes.
    Politely,
    Finish,
    Reset,
    /// In the middle of a frame.
    Cut,
    ResetStream,
    /// What is no HTTP/2.
    Garbage,
    /// What is no protobuf.
    Nonsense,
}

pub struct Client {
    pub index: usize,
    pub listener: u16,
    pub with_key: bool,
    pub connection_type: ConnectionType,
    pub line: Line,
    pub stream_window: u32,
    pub script: VecDeque<(Time, Action)>,
    pub reading: Reading,
    /// It stays as it reads when the others make up for what they missed.
    pub is_hopeless: bool,
    reads_next: Time,
    /// When it will look of its own accord, if that is to come.
    alarm: Time,
    link: Option<Link>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    AwaitsResponse,
    AwaitsReply,
    Open,
    /// It says no more.
    Over,
}

struct Link {
    wire: usize,
    phase: Phase,
    mac: Option<LinkMac>,
    connection_window: i64,
    stream_window: i64,
    router_initial: i64,
    out: VecDeque<Outgoing>,
    owed_bytes: u32,
    subscriptions: Vec<usize>,
    /// Frames that are no DATA.
    control: Vec<u8>,
}

struct Outgoing {
    bytes: Vec<u8>,
    at: usize,
    mark: Option<Mark>,
}

impl Client {
    pub fn new(index: usize, line: Line) -> Client {
        Client {
            index,
            listener: 0,
            with_key: false,
            connection_type: ConnectionType::Edge,
            line,
            stream_window: WINDOW_INITIAL,
            script: VecDeque::new(),
            reading: Reading::Fast,
            is_hopeless: false,
            reads_next: 0,
            alarm: 0,
            link: None,
        }
    }

    /// The wire it uses, unless it is done with it.
    pub fn wire(&self) -> Option<usize> {
        let link = self.link.as_ref()?;
        (link.phase != Phase::Over).then_some(link.wire)
    }

    /// Whether it has nothing to do and nothing to say, or will never hear that it may.
    pub fn rests(&self) -> bool {
        let is_silent = self.link.as_ref().is_none_or(|link| {
            link.phase == Phase::Over || link.out.is_empty() && link.control.is_empty()
        });
        self.script.is_empty() && (is_silent || self.reading == Reading::Not)
    }

    /// What is left of its script is forgotten; it makes up for what it did not read.
    pub fn recover(&mut self) {
        self.script.clear();
        if !self.is_hopeless {
            self.reading = Reading::Fast;
        }
    }

    pub fn leave_at_last(&mut self, kernel: &mut Kernel, leave: Leave) {
        self.reading = Reading::Fast;
        self.leave(kernel, leave);
    }

    /// Does all that is due.
    pub fn act(&mut self, kernel: &mut Kernel) {
        self.listen(kernel);
        while let Some((at, action)) = self.script.front() {
            let waits = self.link.as_ref().is_some_and(|link| {
                matches!(link.phase, Phase::AwaitsResponse | Phase::AwaitsReply)
            });
            let is_about_link = !matches!(action, Action::Read(_) | Action::Leave(_));
            if *at > kernel.time || waits && is_about_link {
                break;
            }
            if let Some((_, action)) = self.script.pop_front() {
                self.follow(kernel, action);
            }
        }
        self.speak(kernel);
        let mut next = self.script.front().map(|(at, _)| *at);
        if let Some(link) = &self.link
            && let Reading::Slow { .. } = self.reading
            && kernel.unread_bytes(link.wire) > 0
        {
            next = Some(next.map_or(self.reads_next, |at| at.min(self.reads_next)));
        }
        if let Some(at) = next
            && at > kernel.time
            && at != self.alarm
        {
            self.alarm = at;
            kernel.schedule(at, Happening::Act { client: self.index });
        }
    }

    fn listen(&mut self, kernel: &mut Kernel) {
        let Some(link) = &mut self.link else { return };
        let wire = link.wire;
        kernel.wires[wire].notified = false;
        let bytes = match self.reading {
            Reading::Fast => usize::MAX,
            Reading::Slow { bytes, every } if self.reads_next <= kernel.time => {
                self.reads_next = kernel.time + every;
                bytes
            }
            Reading::Slow { .. } | Reading::Not => 0,
        };
        // Reading makes room, and what was waiting for it can be read at once.
        let mut left = bytes;
        while left > 0 {
            let now = kernel.unread_bytes(wire).min(left);
            if now == 0 {
                break;
            }
            left -= now;
            for heard in kernel.read(wire, now) {
                link.hear(kernel, heard, self.stream_window);
            }
        }
        match kernel.wires[wire].down_end {
            Some(RouterEnd::Reset) => link.phase = Phase::Over,
            Some(RouterEnd::Finished) if kernel.unread_bytes(wire) == 0 => {
                if link.phase != Phase::Over {
                    kernel.finish(wire, ClientEnd::Finished);
                }
                link.phase = Phase::Over;
            }
            _ => {}
        }
    }

    fn follow(&mut self, kernel: &mut Kernel, action: Action) {
        match action {
            Action::Connect => self.connect(kernel),
            Action::Read(reading) => {
                self.reading = reading;
                if reading != Reading::Fast
                    && let Some(link) = &self.link
                {
                    kernel.ledger.blemish(link.wire, "it reads slowly");
                }
                self.listen(kernel);
            }
            Action::Leave(leave) => self.leave(kernel, leave),
            other => {
                if let Some(link) = &mut self.link
                    && link.phase == Phase::Open
                {
                    link.ask(kernel, other);
                }
            }
        }
    }

    fn connect(&mut self, kernel: &mut Kernel) {
        if self.wire().is_some() {
            return;
        }
        let number = kernel.wires.len();
        let link_id = format!("00000000-0000-4000-8000-{number:012}");
        let node_id = format!("node-{number}");
        let (dials, request) = if self.with_key {
            let dialer = Dialer {
                link_id,
                node_id,
                version: "3.4.6".to_owned(),
                deployment_name: String::new(),
                connection_type: self.connection_type,
                policy: MacPolicy::Strict,
                enforce_pqc: false,
            };
            let (dialing, request) = dialer.dial().expect("random numbers");
            (Dials::WithKey(Box::new(dialing)), request)
        } else {
            let request = LinkRequest {
                link_id,
                version: "3.4.6".to_owned(),
                public_key: Vec::new(),
                connection_type: self.connection_type,
                node_id,
                deployment_name: String::new(),
                kem_payload: None,
            };
            (Dials::WithoutKey, request.encode())
        };
        let connection_window = self.stream_window.max(WINDOW_INITIAL);
        let ears = Ears::new(dials, self.stream_window, connection_window);
        let wire = kernel.connect(self.index, self.listener, ears, &self.line);
        if self.reading != Reading::Fast {
            kernel.ledger.blemish(wire, "it reads slowly");
        }
        let mut control = PREFACE.to_vec();
        let mut settings = Vec::new();
        for (id, value) in [
            (2u16, 0u32),
            (4, self.stream_window),
            (5, FRAME_BYTES_MAX as u32),
        ] {
            settings.extend_from_slice(&id.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        put_frame(&mut control, kind::SETTINGS, 0, 0, &settings);
        if connection_window > WINDOW_INITIAL {
            let more = (connection_window - WINDOW_INITIAL).to_be_bytes();
            put_frame(&mut control, kind::WINDOW_UPDATE, 0, 0, &more);
        }
        put_frame(
            &mut control,
            kind::HEADERS,
            END_HEADERS,
            STREAM,
            &request_headers(),
        );
        let mut link = Link {
            wire,
            phase: Phase::AwaitsResponse,
            mac: None,
            connection_window: i64::from(WINDOW_INITIAL),
            stream_window: i64::from(WINDOW_INITIAL),
            router_initial: i64::from(WINDOW_INITIAL),
            out: VecDeque::new(),
            owed_bytes: 0,
            subscriptions: Vec::new(),
            control,
        };
        link.say(&request, None);
        self.link = Some(link);
    }

    fn leave(&mut self, kernel: &mut Kernel, leave: Leave) {
        let Some(link) = &mut self.link else { return };
        if link.phase == Phase::Over {
            return;
        }
        let wire = link.wire;
        let mut last = Vec::new();
        let is_in_message = link.out.front().is_some_and(|outgoing| outgoing.at > 0);
        match leave {
            // In the middle of a message it would only be more of that.
            Leave::Nonsense if is_in_message => last.extend_from_slice(&[0xff; 40]),
            Leave::Finish | Leave::Reset => {}
            Leave::Politely => put_frame(&mut last, kind::DATA, END_STREAM, STREAM, &[]),
            Leave::Cut => {
                let mut message = grpc::prefix(1_000).to_vec();
                message.resize(1_005, 0);
                put_frame(&mut last, kind::DATA, 0, STREAM, &message);
                last.truncate(150);
            }
            Leave::ResetStream => {
                put_frame(&mut last, kind::RST_STREAM, 0, STREAM, &8u32.to_be_bytes())
            }
            Leave::Garbage => last.extend_from_slice(&[0xff; 40]),
            Leave::Nonsense => {
                let mut message = grpc::prefix(20).to_vec();
                message.extend_from_slice(&[0xff; 20]);
                put_frame(&mut last, kind::DATA, 0, STREAM, &message);
            }
        }
        // What was said goes before.
        let control = std::mem::take(&mut link.control);
        kernel.write(wire, &control, &[]);
        kernel.write(wire, &last, &[]);
        kernel.ledger.ended(wire);
        link.out.clear();
        match leave {
            Leave::Reset => {
                kernel.finish(wire, ClientEnd::Reset);
                link.phase = Phase::Over;
            }
            Leave::Finish | Leave::Cut => {
                kernel.finish(wire, ClientEnd::Finished);
                link.phase = Phase::Over;
            }
            // It reads on until the router closes.
            Leave::Politely | Leave::ResetStream | Leave::Garbage | Leave::Nonsense => {}
        }
    }

    fn speak(&mut self, kernel: &mut Kernel) {
        if let Some(link) = &mut self.link
            && link.phase != Phase::Over
        {
            link.speak(kernel);
        }
    }
}

impl Link {
    fn say(&mut self, message: &[u8], mark: Option<Mark>) {
        let mut bytes = grpc::prefix(message.len()).to_vec();
        bytes.extend_from_slice(message);
        self.out.push_back(Outgoing { bytes, at: 0, mark });
    }

    fn say_signed(&mut self, kernel: &mut Kernel, message: &wire::Message, mark: Mark) {
        let encoded = message.encode_to_vec();
        match &mut self.mac {
            None => self.say(&encoded, Some(mark)),
            Some(mac) => match sign_message(mac, &encoded) {
                Ok(signed) => self.say(&signed, Some(mark)),
                Err(error) => kernel.ledger.fault(format!("cannot sign: {error}")),
            },
        }
    }

    fn ask(&mut self, kernel: &mut Kernel, action: Action) {
        let wire = self.wire;
        let ledger = &mut kernel.ledger;
        let record = |to, is_bogus| Subscription {
            wire,
            to,
            is_bogus,
            read_at: None,
            acked_at: None,
            left_at: None,
            leave_read_at: None,
            leave_acked_at: None,
        };
        match action {
            Action::Subscribe(to) => {
                ledger.subscriptions.push(record(to, false));
                let index = ledger.subscriptions.len() - 1;
                self.subscriptions.push(index);
                let message = subscribe(to, index as u64 + 1);
                self.say_signed(kernel, &message, Mark::Subscribe(index));
            }
            Action::UnsubscribeWrongly(to) => {
                ledger.subscriptions.push(record(to, true));
                let index = ledger.subscriptions.len() - 1;
                let message = unsubscribe(to, index as u64 + 1);
                self.say_signed(kernel, &message, Mark::Subscribe(index));
            }
            Action::Unsubscribe(nth) if !self.subscriptions.is_empty() => {
                let index = self
                    .subscriptions
                    .swap_remove(nth % self.subscriptions.len());
                let step = ledger.step;
                let subscription = &mut ledger.subscriptions[index];
                subscription.left_at = Some(step);
                let message = unsubscribe(subscription.to, index as u64 + 1);
                self.say_signed(kernel, &message, Mark::Unsubscribe(index));
            }
            Action::Publish {
                to,
                to_all,
                bytes,
                doomed,
            } => {
                let index = ledger.publishes.len();
                ledger.largest_bytes = ledger.largest_bytes.max(bytes);
                ledger.publishes.push(Publish {
                    wire,
                    to,
                    to_all,
                    doomed,
                    read_at: None,
                    receivers: Vec::new(),
                });
                let message = publish(to, to_all, doomed, payload(index, bytes));
                self.say_signed(kernel, &message, Mark::Publish(index));
            }
            _ => {}
        }
    }

    fn hear(&mut self, kernel: &mut Kernel, heard: Heard, window: u32) {
        match heard {
            Heard::Settings(initial) => {
                if let Some(initial) = initial {
                    self.stream_window += i64::from(initial) - self.router_initial;
                    self.router_initial = i64::from(initial);
                }
                put_frame(&mut self.control, kind::SETTINGS, ACK, 0, &[]);
            }
            Heard::Ping(payload) => put_frame(&mut self.control, kind::PING, ACK, 0, &payload),
            Heard::Credit {
                of_stream: true,
                bytes,
            } => self.stream_window += i64::from(bytes),
            Heard::Credit { bytes, .. } => self.connection_window += i64::from(bytes),
            Heard::Data { bytes } => {
                self.owed_bytes += bytes;
                if self.owed_bytes >= window / 4 {
                    let bytes = std::mem::take(&mut self.owed_bytes);
                    kernel.wires[self.wire].ears.grant(bytes);
                    for stream in [0, STREAM] {
                        let bytes = bytes.to_be_bytes();
                        put_frame(&mut self.control, kind::WINDOW_UPDATE, 0, stream, &bytes);
                    }
                }
            }
            Heard::Response if self.phase == Phase::AwaitsResponse => {
                self.phase = Phase::AwaitsReply
            }
            Heard::Linked(mac) if self.phase == Phase::AwaitsReply => {
                self.phase = Phase::Open;
                self.mac = mac.map(|mac| *mac);
            }
            Heard::Response | Heard::Linked(_) => {}
            // The router closes, and then so does the client.
            Heard::Ended => self.out.clear(),
        }
    }

    fn speak(&mut self, kernel: &mut Kernel) {
        let mut bytes = std::mem::take(&mut self.control);
        let mut marks = Vec::new();
        if self.phase == Phase::AwaitsResponse {
            return kernel.write(self.wire, &bytes, &marks);
        }
        while !self.out.is_empty() {
            let window = self.connection_window.min(self.stream_window).max(0) as usize;
            let room = window.min(FRAME_BYTES_MAX);
            if room == 0 {
                break;
            }
            // Messages share frames, as far as they fit.
            let mut frame = Vec::new();
            let mut ended = Vec::new();
            while let Some(outgoing) = self.out.front_mut() {
                let left = &outgoing.bytes[outgoing.at..];
                let now = left.len().min(room - frame.len());
                frame.extend_from_slice(&left[..now]);
                outgoing.at += now;
                if outgoing.at < outgoing.bytes.len() {
                    break;
                }
                ended.extend(outgoing.mark.map(|mark| (frame.len(), mark)));
                self.out.pop_front();
            }
            self.connection_window -= frame.len() as i64;
            self.stream_window -= frame.len() as i64;
            // A message is read with its own last byte, wherever its frame ends.
            let begins = bytes.len() + FRAME_HEADER_BYTES;
            marks.extend(ended.into_iter().map(|(at, mark)| (begins + at, mark)));
            put_frame(&mut bytes, kind::DATA, 0, STREAM, &frame);
        }
        if !bytes.is_empty() {
            kernel.write(self.wire, &bytes, &marks);
        }
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn request_headers() -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", OPEN_CHANNEL),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ] {
        // Literal without indexing, new name (RFC 7541 §6.2.2); no string here reaches 127 bytes.
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn header(destination: Target, source: Target) -> Option<wire::SlimHeader> {
    Some(wire::SlimHeader {
        source: Some(source.name().to_wire()),
        destination: Some(destination.name().to_wire()),
        identity: "tok".to_owned(),
        fanout: 1,
        version: "3.4.6".to_owned(),
        ttl: TTL,
        incoming_conn: Some(1),
        ..Default::default()
    })
}

fn message(message_type: MessageType) -> wire::Message {
    wire::Message {
        message_type: Some(message_type),
        metadata: Default::default(),
    }
}

fn subscribe(to: Target, subscription_id: u64) -> wire::Message {
    message(MessageType::Subscribe(wire::Subscribe {
        header: header(to, to),
        subscription_id,
    }))
}

fn unsubscribe(to: Target, subscription_id: u64) -> wire::Message {
    message(MessageType::Unsubscribe(wire::Unsubscribe {
        header: header(to, to),
        subscription_id,
    }))
}

fn publish(to: Target, to_all: bool, doomed: bool, blob: Vec<u8>) -> wire::Message {
    let mut header = header(to, to);
    if let Some(header) = &mut header {
        header.fanout = if to_all { 256 } else { 1 };
        header.ttl = if doomed { 1 } else { TTL };
    }
    message(MessageType::Publish(wire::Publish {
        header,
        session: Some(wire::SessionHeader {
            session_type: wire::SessionType::PointToPoint.into(),
            session_message_type: wire::SessionMessageType::Msg.into(),
            session_id: 7,
            message_id: 9,
        }),
        msg: Some(wire::Content {
            content_type: Some(wire::content::ContentType::AppPayload(
                wire::ApplicationPayload {
                    payload_type: "text/plain".to_owned(),
                    blob,
                },
            )),
        }),
    }))
}
