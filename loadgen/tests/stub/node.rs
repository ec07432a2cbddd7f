//! What the stub is told to do with each message, does, and writes down.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use slim_loadgen::message::{Stamp, with_prefix};
use slim_proto::grpc::{Deframer, PREFIX_BYTES};
use slim_proto::http2::{
    DATA_FRAME_BYTES_MAX, Event, ServerConnection, Settings, StreamId, data_frame_header,
};
use slim_proto::link::{Acceptor, LinkMac, MacPolicy, Preimage, TagState};
use slim_proto::message::subscription_ack;
use slim_proto::name::RouteName;
use slim_proto::route_header::{self, Kind, Parsed, RouteHeader};

/// How long a message that waits for its successor waits. Far below what the load generator waits for a late one.
const SWAP_TIMEOUT: Duration = Duration::from_millis(500);
/// Copies that are written before others may read.
const FORWARDED_AT_ONCE: usize = 4;
/// Of so many messages on a connection, the load generator looks at one's header.
const SAMPLE_MESSAGES: u64 = 256;

/// A message on its way to one receiver, before anything was done with it.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    pub stamp: Stamp,
    /// Messages read before this one, on all connections.
    pub number: u64,
    /// Of those that get the message, in the order in which they subscribed.
    pub receiver: usize,
    pub receivers: usize,
}

/// What is done with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Forward,
    Drop,
    Duplicate,
    /// Goes behind the next one of its flow.
    Swap,
    /// Another value in this byte of its stamp.
    Damage {
        byte: usize,
    },
}

/// When credit for a message is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    WhenRead,
    /// When the copy for the last receiver was written: so much is on its way, and no more.
    WhenForwarded,
}

type Decide<T> = Box<dyn FnMut(&Copy) -> T + Send>;

/// What goes wrong, decided by counting.
pub struct Orders {
    pub act: Decide<Act>,
    pub delay: Decide<Duration>,
    /// `Some`: from when this copy was read, nothing is forwarded for so long.
    pub stall: Decide<Option<Duration>>,
    /// Breaks the header of every second message that is looked at whole.
    pub damages_headers: bool,
    pub credit: Credit,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            act: Box::new(|_| Act::Forward),
            delay: Box::new(|_| Duration::ZERO),
            stall: Box::new(|_| None),
            damages_headers: false,
            credit: Credit::WhenRead,
        }
    }
}

/// What became of a copy that was written.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    pub stamp: Stamp,
    pub receiver: usize,
    pub read_at: Instant,
    /// Just before it was written.
    pub written_at: Instant,
    /// When the answer to a PING behind it was read, or the end of the connection: later it was not taken in.
    pub taken_by: Option<Instant>,
}

/// Exact counts. Messages, or copies of them for one receiver each.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Messages.
    pub received: u64,
    /// Copies that were written, whatever was done to them.
    pub forwarded: u64,
    pub dropped: u64,
    pub duplicated: u64,
    /// Pairs.
    pub swapped: u64,
    pub damaged_stamps: u64,
    pub damaged_headers: u64,
    /// Messages whose tag did not verify, or whose name nobody has.
    pub refused: u64,
    pub copies: Vec<Copied>,
}

struct Connection {
    socket: TcpStream,
    is_open: bool,
    http2: ServerConnection,
    ticked_at: Instant,
    deframer: Deframer,
    control: Vec<u8>,
    stream: Option<StreamId>,
    is_negotiated: bool,
    mac: Option<LinkMac>,
    /// For which the window was too small so far.
    waiting: VecDeque<Waiting>,
    written: u64,
    /// Indices into the books' copies.
    untaken: VecDeque<usize>,
    /// So many of `untaken` lie before the PING that is out.
    pinged: Option<usize>,
}

struct Waiting {
    /// With its gRPC prefix.
    bytes: Vec<u8>,
    copy: Option<Job>,
}

/// A copy that is to be written.
#[derive(Clone)]
struct Job {
    copy: Copy,
    connection: usize,
    message: Vec<u8>,
    read_at: Instant,
    is_damaged: bool,
    /// Publisher's connection and bytes.
    credit: Option<(usize, u32)>,
}

enum Due {
    Write(Job),
    /// Nothing came behind this one: it need not wait any longer.
    Unhold {
        key: (usize, u32),
        sequence: u64,
    },
}

pub struct Node {
    pub is_ending: bool,
    orders: Orders,
    acceptor: Acceptor,
    connections: Vec<Connection>,
    subscribers: HashMap<RouteName, Vec<usize>>,
    /// By time, then in the order of arrival.
    schedule: BTreeMap<(Instant, u64), Due>,
    scheduled: u64,
    stalled_until: Option<Instant>,
    /// Connection and flow -> what goes behind its successor.
    held: HashMap<(usize, u32), Job>,
    books: Books,
}

impl Node {
    pub fn new(orders: Orders) -> Self {
        Self {
            is_ending: false,
            orders,
            acceptor: Acceptor {
                node_id: "stub".to_owned(),
                version: "3.4.6".to_owned(),
                deployment_name: String::new(),
                policy: MacPolicy::Strict,
                enforce_pqc: false,
            },
            connections: Vec::new(),
            subscribers: HashMap::new(),
            schedule: BTreeMap::new(),
            scheduled: 0,
            stalled_until: None,
            held: HashMap::new(),
            books: Books::default(),
        }
    }

    pub fn received(&self) -> u64 {
        self.books.received
    }

    pub fn dropped(&self) -> u64 {
        self.books.dropped
    }

    /// All that is to be forwarded was, and is known to be taken in on the other side.
    pub fn is_quiet(&self) -> bool {
        let mut connections = self.connections.iter();
        self.schedule.is_empty()
            && connections.all(|one| one.untaken.is_empty() && one.waiting.is_empty())
    }

    pub fn open(&self) -> usize {
        let open = self.connections.iter().filter(|c| c.is_open);
        open.count()
    }

    pub fn books(&self) -> Books {
        self.books.clone()
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.schedule.keys().next().map(|(due, _)| *due)
    }

    pub fn connected(&mut self, socket: TcpStream) -> usize {
        let mut control = Vec::new();
        let window_bytes = match self.orders.credit {
            Credit::WhenRead => 1 << 20,
            Credit::WhenForwarded => 65_535,
        };
        let settings = Settings {
            initial_window_bytes: window_bytes,
            max_frame_bytes: DATA_FRAME_BYTES_MAX as u32,
            max_header_list_bytes: 16_384,
            max_concurrent_streams: 1,
        };
        self.connections.push(Connection {
            socket,
            is_open: true,
            http2: ServerConnection::new(settings, &mut control),
            ticked_at: Instant::now(),
            deframer: Deframer::new(),
            control,
            stream: None,
            is_negotiated: false,
            mac: None,
            waiting: VecDeque::new(),
            written: 0,
            untaken: VecDeque::new(),
            pinged: None,
        });
        let index = self.connections.len() - 1;
        self.pump(index);
        index
    }

    pub fn disconnected(&mut self, index: usize, now: Instant) {
        let connection = &mut self.connections[index];
        connection.is_open = false;
        for copy in connection.untaken.drain(..) {
            self.books.copies[copy].taken_by = Some(now);
        }
    }

    pub fn close_all(&mut self) {
        for connection in &self.connections {
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
    }

    pub fn read(&mut self, index: usize, mut input: &[u8], read_at: Instant) {
        let credit = self.orders.credit;
        let connection = &mut self.connections[index];
        if read_at.duration_since(connection.ticked_at) >= Duration::from_secs(1) {
            connection.ticked_at = read_at;
            connection.http2.tick();
        }
        let mut messages = Vec::new();
        while let Some(event) = connection
            .http2
            .next_event(&mut input, &mut connection.control)
            .expect("the load generator speaks HTTP/2")
        {
            match event {
                Event::Request(head) => {
                    assert!(connection.http2.accept(head.stream));
                    let control = &mut connection.control;
                    connection.http2.respond_headers(head.stream, control);
                    connection.stream = Some(head.stream);
                }
                Event::Data {
                    mut bytes,
                    flow_bytes,
                    ..
                } => {
                    while let Some(message) = connection.deframer.next_message(&mut bytes).unwrap()
                    {
                        messages.push(message.as_ref().to_vec());
                    }
                    if credit == Credit::WhenRead {
                        let control = &mut connection.control;
                        connection.http2.release(flow_bytes, control);
                    }
                }
                Event::PingAck(_) => {
                    let taken = connection.pinged.take().unwrap_or(0);
                    for copy in connection.untaken.drain(..taken) {
                        self.books.copies[copy].taken_by = Some(read_at);
                    }
                }
                _ => {}
            }
        }
        for message in messages {
            self.message(index, message, read_at);
        }
        self.pump(index);
        self.forward_due();
    }

    fn message(&mut self, index: usize, message: Vec<u8>, read_at: Instant) {
        let flow_bytes = (message.len() + PREFIX_BYTES) as u32;
        let connection = &mut self.connections[index];
        if !connection.is_negotiated {
            let accepted = self.acceptor.accept(&message).unwrap();
            connection.is_negotiated = true;
            connection.mac = accepted
                .key
                .map(|key| LinkMac::new(&key, &accepted.link_id));
            self.say(index, &accepted.reply, flow_bytes);
            return;
        }
        let Ok(Parsed::Routed(header)) = route_header::parse(&message) else {
            panic!("the load generator sent what is no message for others");
        };
        let mut preimage = Preimage::new();
        preimage.build(&message, &header);
        let mac = connection.mac.as_mut();
        if mac.is_none_or(|mac| mac.check(&mut preimage, &message, &header) != TagState::Valid) {
            self.books.refused += 1;
            return;
        }
        match header.kind {
            Kind::Publish => self.publish(index, &message, &header, read_at),
            _ => {
                let subscribers = self.subscribers.entry(header.destination).or_default();
                subscribers.push(index);
                let ack = subscription_ack(header.subscription_id, Ok(()));
                self.say(index, &ack, flow_bytes);
            }
        }
    }

    /// Answers what is no publish.
    fn say(&mut self, index: usize, message: &[u8], flow_bytes: u32) {
        let connection = &mut self.connections[index];
        if self.orders.credit == Credit::WhenForwarded {
            let control = &mut connection.control;
            connection.http2.release(flow_bytes, control);
        }
        connection.waiting.push_back(Waiting {
            bytes: with_prefix(message),
            copy: None,
        });
    }

    fn publish(&mut self, from: usize, message: &[u8], header: &RouteHeader, read_at: Instant) {
        let number = self.books.received;
        self.books.received += 1;
        let stamp = Stamp::of_message(message).expect("every payload has a stamp");
        let Some(subscribers) = self.subscribers.get(&header.destination).cloned() else {
            self.books.refused += 1;
            return;
        };
        let flow_bytes = (message.len() + PREFIX_BYTES) as u32;
        let receivers = subscribers.len();
        for (receiver, connection) in subscribers.into_iter().enumerate() {
            let copy = Copy {
                stamp,
                number,
                receiver,
                receivers,
            };
            let is_last = receiver + 1 == receivers;
            let job = Job {
                copy,
                connection,
                message: message.to_vec(),
                read_at,
                is_damaged: false,
                credit: (is_last && self.orders.credit == Credit::WhenForwarded)
                    .then_some((from, flow_bytes)),
            };
            self.decide(job);
        }
    }

    fn decide(&mut self, mut job: Job) {
        let now = job.read_at;
        let key = (job.connection, job.copy.stamp.flow);
        if let Some(stall) = (self.orders.stall)(&job.copy) {
            self.stalled_until = self.stalled_until.max(Some(now + stall));
        }
        let delay = (self.orders.delay)(&job.copy);
        let due = Some(now + delay).max(self.stalled_until).unwrap_or(now);
        match (self.orders.act)(&job.copy) {
            Act::Drop => {
                self.books.dropped += 1;
                return;
            }
            Act::Damage { byte } => {
                self.books.damaged_stamps += 1;
                // What is held waits on, for one that is recognised.
                let at = job.message.len() - slim_loadgen::message::STAMP_BYTES + byte;
                job.message[at] ^= 0x55;
                job.is_damaged = true;
                self.schedule(due, Due::Write(job));
                return;
            }
            Act::Swap if !self.held.contains_key(&key) => {
                let sequence = job.copy.stamp.sequence;
                self.schedule(due + SWAP_TIMEOUT, Due::Unhold { key, sequence });
                self.held.insert(key, job);
                return;
            }
            Act::Duplicate => {
                self.books.duplicated += 1;
                self.schedule(due, Due::Write(job.clone()));
                self.schedule(due, Due::Write(job));
            }
            Act::Forward | Act::Swap => self.schedule(due, Due::Write(job)),
        }
        if let Some(held) = self.held.remove(&key) {
            self.books.swapped += 1;
            self.schedule(due, Due::Write(held));
        }
    }

    fn schedule(&mut self, due: Instant, what: Due) {
        self.schedule.insert((due, self.scheduled), what);
        self.scheduled += 1;
    }

    /// Forwards what is due, a few copies at a time: what arrives meanwhile is to be read. Returns whether more is due.
    pub fn forward_due(&mut self) -> bool {
        for _ in 0..FORWARDED_AT_ONCE {
            let Some(entry) = self.schedule.first_entry() else {
                return false;
            };
            if entry.key().0 > Instant::now() {
                return false;
            }
            let job = match entry.remove() {
                Due::Write(job) => job,
                Due::Unhold { key, sequence } => {
                    let held = self.held.get(&key);
                    if held.is_none_or(|held| held.copy.stamp.sequence != sequence) {
                        continue;
                    }
                    let Some(held) = self.held.remove(&key) else {
                        continue;
                    };
                    held
                }
            };
            let index = job.connection;
            let Some(bytes) = self.signed(&job) else {
                continue;
            };
            let waiting = Waiting {
                bytes,
                copy: Some(job),
            };
            self.connections[index].waiting.push_back(waiting);
            self.pump(index);
        }
        true
    }

    /// The message as its receiver gets it: one hop less, and its own link's tag.
    fn signed(&mut self, job: &Job) -> Option<Vec<u8>> {
        let connection = &mut self.connections[job.connection];
        let mut message = job.message.clone();
        let Ok(Parsed::Routed(header)) = route_header::parse(&message) else {
            return None;
        };
        let mut preimage = Preimage::new();
        preimage.build(&message, &header);
        let tag = connection
            .mac
            .as_mut()?
            .tag(&mut preimage, header.ttl_forwarded());
        header.patch(&mut message, &tag);
        let nth = connection.written + connection.waiting.len() as u64;
        let is_looked_at = nth.is_multiple_of(SAMPLE_MESSAGES);
        let is_every_second = (nth / SAMPLE_MESSAGES).is_multiple_of(2);
        if self.orders.damages_headers && is_looked_at && is_every_second && !job.is_damaged {
            self.books.damaged_headers += 1;
            damage_identity(&mut message, &header);
        }
        Some(with_prefix(&message))
    }

    /// Writes what may be written.
    fn pump(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.is_open {
            return;
        }
        connection.put_control();
        let mut credits = Vec::new();
        while let Some(stream) = connection.stream
            && let Some(next) = connection.waiting.front()
            && next.bytes.len() <= connection.http2.send_window()
            && let Some(next) = connection.waiting.pop_front()
        {
            let mut frames = Vec::with_capacity(next.bytes.len() + 64);
            for part in next.bytes.chunks(DATA_FRAME_BYTES_MAX) {
                frames.extend_from_slice(&data_frame_header(part.len(), stream, false));
                frames.extend_from_slice(part);
                connection.http2.consume_send_window(part.len());
            }
            let written_at = Instant::now();
            connection.put(&frames);
            let Some(job) = next.copy else {
                continue;
            };
            connection.written += 1;
            connection.untaken.push_back(self.books.copies.len());
            self.books.forwarded += 1;
            self.books.copies.push(Copied {
                stamp: job.copy.stamp,
                receiver: job.copy.receiver,
                read_at: job.read_at,
                written_at,
                taken_by: None,
            });
            credits.extend(job.credit);
        }
        if connection.pinged.is_none() && !connection.untaken.is_empty() {
            connection.pinged = Some(connection.untaken.len());
            connection.http2.ping([0; 8], &mut connection.control);
            connection.put_control();
        }
        for (publisher, bytes) in credits {
            let publisher = &mut self.connections[publisher];
            publisher.http2.release(bytes, &mut publisher.control);
            publisher.put_control();
        }
    }
}

impl Connection {
    fn put_control(&mut self) {
        let control = std::mem::take(&mut self.control);
        self.put(&control);
    }

    fn put(&mut self, bytes: &[u8]) {
        // A peer that has gone is seen by the one who reads.
        let _ = self.socket.write_all(bytes);
    }
}

/// Another letter in the identity, which the tag covers.
fn damage_identity(message: &mut [u8], header: &RouteHeader) {
    let identity = header.identity(message).to_vec();
    let at = message
        .windows(identity.len())
        .position(|window| window == identity);
    if let Some(byte) = at.and_then(|at| message.get_mut(at)) {
        *byte ^= 1;
    }
}
