//! The simulated kernel: sockets, one ring a shard, and the network between them and the clients.
//!
//! Bytes of a client are cut into segments that arrive later, each link at its own pace, in order. A shard reads what has
//! arrived in pieces of one receive buffer. What a shard sends is taken as far as the socket's buffer has room, which the
//! client makes by reading; so a client that does not read stops the router's send in the middle of a frame. What was
//! taken is parsed at once ([`Ears`]), for that is what the router has delivered; the client acts on it when it reads it.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use slim_ring::{Event, ListenerId, ReceiveEnd, RingError, SendBuffers, SocketId};

use super::ears::{Ears, Heard};
use super::ledger::{Ledger, Mark};
use super::random::Random;
use crate::connection::Peer;
use crate::limits;
use crate::network::Network;
use crate::routes::ShardId;

/// Nanoseconds since the simulation began.
pub type Time = u64;
pub const MICROSECOND: Time = 1_000;
pub const MILLISECOND: Time = 1_000_000;
pub const SECOND: Time = 1_000_000_000;

/// What comes to pass at a time, shards' turns apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happening {
    /// A connection reaches the router.
    Connect { wire: usize },
    /// The next segment of a client, or its end, reaches the router.
    Segment { wire: usize },
    /// A client looks at what it has to do.
    Act { client: usize },
}

/// One TCP connection.
pub struct Wire {
    pub client: usize,
    pub listener: u16,
    /// Where it was adopted.
    pub socket: Option<(u16, SocketId)>,
    pub accepted: bool,
    /// Segments on their way, and how the client ended.
    up: VecDeque<Segment>,
    up_arrives: Time,
    up_written: u64,
    inbox: Vec<u8>,
    inbox_read: u64,
    marks: VecDeque<(u64, Mark)>,
    /// Has arrived, and is to be reported when the inbox has been read.
    up_end: Option<ClientEnd>,
    up_end_reported: bool,
    readable: bool,
    sending: Option<Sending>,
    /// From a send to its completion's delivery.
    pub send_outstanding: bool,
    /// The router has seen a send fail.
    send_failed: bool,
    /// Messages taken whole before the last send began.
    messages_before: u64,
    capacity_bytes: usize,
    unread_bytes: usize,
    /// The client is going to look.
    pub notified: bool,
    pub ears: Ears,
    /// The router's end of it: after what was taken, or at once.
    pub down_end: Option<RouterEnd>,
    shut_after_send: bool,
    closing: bool,
    latency: (Time, Time),
    segment_bytes: u64,
}

enum Segment {
    Bytes(Vec<u8>),
    End(ClientEnd),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEnd {
    Finished,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterEnd {
    Finished,
    Reset,
}

struct Sending {
    buffers: SendBuffers,
    chunk: usize,
    at: usize,
}

/// One shard's ring.
struct Port {
    completions: VecDeque<Event<Vec<u8>>>,
    readable: VecDeque<usize>,
    slots: Vec<Place>,
    slots_max: usize,
    listeners: Vec<Listening>,
    bell: Arc<AtomicBool>,
    alarmed: bool,
    enters: u64,
    /// Events that the last turn delivered.
    delivered: u64,
}

#[derive(Default)]
struct Place {
    generation: u32,
    wire: Option<usize>,
}

struct Listening {
    id: ListenerId,
    _socket: OwnedFd,
    backlog: VecDeque<usize>,
    paused: bool,
    closing: bool,
}

/// How a client's connection behaves.
pub struct Line {
    pub latency: (Time, Time),
    pub segment_bytes: u64,
    pub capacity_bytes: usize,
}

pub struct Kernel {
    pub time: Time,
    pub random: Random,
    pub ledger: Ledger,
    pub wires: Vec<Wire>,
    base: Instant,
    null: OwnedFd,
    /// Accepted sockets that nobody has adopted yet.
    handed_over: BTreeMap<RawFd, usize>,
    ports: Vec<Port>,
    happenings: BinaryHeap<Reverse<(Time, u64, Happening)>>,
    scheduled: u64,
    pub accept_failure_permille: u64,
}

impl Kernel {
    pub fn new(random: Random, shards: u16, sockets_max: usize) -> Kernel {
        let port = || Port {
            completions: VecDeque::new(),
            readable: VecDeque::new(),
            slots: Vec::new(),
            slots_max: sockets_max,
            listeners: Vec::new(),
            bell: Arc::default(),
            alarmed: false,
            enters: 0,
            delivered: 0,
        };
        Kernel {
            time: 0,
            random,
            ledger: Ledger::default(),
            wires: Vec::new(),
            base: Instant::now(),
            null: File::open("/dev/null").expect("/dev/null").into(),
            handed_over: BTreeMap::new(),
            ports: (0..shards).map(|_| port()).collect(),
            happenings: BinaryHeap::new(),
            scheduled: 0,
            accept_failure_permille: 0,
        }
    }

    /// A descriptor that stands for a socket: the router only passes it on.
    pub fn descriptor(&self) -> OwnedFd {
        self.null.try_clone().expect("a descriptor")
    }

    pub fn schedule(&mut self, at: Time, happening: Happening) {
        self.scheduled += 1;
        self.happenings
            .push(Reverse((at, self.scheduled, happening)));
    }

    pub fn next_at(&self) -> Option<Time> {
        self.happenings.peek().map(|Reverse((at, ..))| *at)
    }

    pub fn next_happening(&mut self) -> Option<Happening> {
        let Reverse((_, _, happening)) = self.happenings.pop()?;
        Some(happening)
    }

    /// Whether a shard was woken, or something has come for it, since this was last asked.
    pub fn take_alarm(&mut self, shard: usize) -> bool {
        let port = &mut self.ports[shard];
        let rung = port.bell.swap(false, Ordering::Relaxed);
        if rung {
            port.completions.push_back(Event::Woken);
        }
        std::mem::take(&mut port.alarmed) || rung
    }

    /// Whether the ring has something to report.
    pub fn is_due(&self, shard: usize) -> bool {
        let port = &self.ports[shard];
        !port.completions.is_empty()
            || !port.readable.is_empty()
            || port
                .listeners
                .iter()
                .any(|listening| !listening.backlog.is_empty() && !listening.paused)
    }

    pub fn take_delivered(&mut self, shard: usize) -> u64 {
        std::mem::take(&mut self.ports[shard].delivered)
    }

    /// Sockets that are open, and accepted ones that nobody adopted.
    pub fn sockets(&self) -> (usize, usize) {
        let open = self.ports.iter().flat_map(|port| &port.slots);
        let accepted = self.wires.iter().filter(|wire| wire.accepted);
        (
            open.filter(|place| place.wire.is_some()).count(),
            accepted.filter(|wire| wire.socket.is_none()).count(),
        )
    }

    // What clients do.

    pub fn connect(&mut self, client: usize, listener: u16, ears: Ears, line: &Line) -> usize {
        let wire = self.wires.len();
        self.wires.push(Wire {
            client,
            listener,
            socket: None,
            accepted: false,
            up: VecDeque::new(),
            up_arrives: 0,
            up_written: 0,
            inbox: Vec::new(),
            inbox_read: 0,
            marks: VecDeque::new(),
            up_end: None,
            up_end_reported: false,
            readable: false,
            sending: None,
            send_outstanding: false,
            send_failed: false,
            messages_before: 0,
            capacity_bytes: line.capacity_bytes,
            unread_bytes: 0,
            notified: false,
            ears,
            down_end: None,
            shut_after_send: false,
            closing: false,
            latency: line.latency,
            segment_bytes: line.segment_bytes,
        });
        self.ledger.connected(wire);
        let at = self.time + self.latency(wire);
        self.wires[wire].up_arrives = at;
        self.schedule(at, Happening::Connect { wire });
        wire
    }

    fn latency(&mut self, wire: usize) -> Time {
        let (least, most) = self.wires[wire].latency;
        self.random.between(least, most)
    }

    /// - `marks`: where in `bytes` something ends whose reading by the router is to be noted.
    pub fn write(&mut self, wire: usize, bytes: &[u8], marks: &[(usize, Mark)]) {
        // Large writes travel in large segments, or they would be most of what is simulated.
        let largest = self.wires[wire].segment_bytes.max(bytes.len() as u64 / 12);
        let state = &mut self.wires[wire];
        for (at, mark) in marks {
            state
                .marks
                .push_back((state.up_written + *at as u64, *mark));
        }
        state.up_written += bytes.len() as u64;
        let mut left = bytes;
        while !left.is_empty() {
            let size = self.random.between(1, largest);
            let (segment, rest) = left.split_at(left.len().min(size as usize));
            left = rest;
            self.travel(wire, Segment::Bytes(segment.to_vec()));
        }
    }

    fn travel(&mut self, wire: usize, segment: Segment) {
        let latency = self.latency(wire);
        let state = &mut self.wires[wire];
        state.up_arrives = state.up_arrives.max(self.time + latency);
        let at = state.up_arrives;
        state.up.push_back(segment);
        self.schedule(at, Happening::Segment { wire });
    }

    /// The client sends no more, or is gone altogether.
    pub fn finish(&mut self, wire: usize, end: ClientEnd) {
        self.ledger.ended(wire);
        if end == ClientEnd::Reset {
            // It overtakes nothing that has arrived, and what has not is lost.
            self.wires[wire].up.clear();
        }
        self.travel(wire, Segment::End(end));
    }

    /// The client reads, at most `bytes`.
    pub fn read(&mut self, wire: usize, bytes: usize) -> Vec<Heard> {
        let state = &mut self.wires[wire];
        let bytes = bytes.min(state.unread_bytes);
        state.unread_bytes -= bytes;
        let heard = state.ears.read(bytes);
        if bytes > 0 {
            self.take(wire);
        }
        heard
    }

    pub fn unread_bytes(&self, wire: usize) -> usize {
        self.wires[wire].unread_bytes
    }

    // What comes to pass.

    pub fn arrive(&mut self, wire: usize, refused: bool) {
        let listener = self.wires[wire].listener;
        let shard = self.random.below(self.ports.len() as u64) as usize;
        let port = &mut self.ports[shard];
        match port
            .listeners
            .get_mut(usize::from(listener))
            .filter(|listening| !listening.closing && !refused)
        {
            Some(listening) => {
                listening.backlog.push_back(wire);
                port.alarmed = true;
            }
            None => self.break_off(wire),
        }
    }

    /// The client finds its connection gone.
    fn break_off(&mut self, wire: usize) {
        let state = &mut self.wires[wire];
        state.closing = true;
        state.down_end = Some(RouterEnd::Reset);
        self.ledger.ended(wire);
        self.notify(wire);
    }

    pub fn segment(&mut self, wire: usize) {
        let state = &mut self.wires[wire];
        let Some(segment) = state.up.pop_front() else {
            return;
        };
        if state.closing {
            return;
        }
        match segment {
            Segment::Bytes(bytes) => state.inbox.extend_from_slice(&bytes),
            Segment::End(end) => {
                state.up_end = Some(end);
                if end == ClientEnd::Reset {
                    state.inbox.clear();
                    self.fail_send(wire, libc_error(104));
                }
            }
        }
        self.make_readable(wire);
    }

    fn make_readable(&mut self, wire: usize) {
        let state = &mut self.wires[wire];
        if let Some((shard, _)) = state.socket
            && !state.readable
        {
            state.readable = true;
            let port = &mut self.ports[usize::from(shard)];
            port.readable.push_back(wire);
            port.alarmed = true;
        }
    }

    fn fail_send(&mut self, wire: usize, error: io::Error) {
        let state = &mut self.wires[wire];
        if let Some(sending) = state.sending.take()
            && let Some((shard, socket)) = state.socket
        {
            let port = &mut self.ports[usize::from(shard)];
            port.alarmed = true;
            port.completions.push_back(Event::Sent {
                socket,
                result: Err(error),
                buffers: sending.buffers,
            });
        }
    }

    /// Moves bytes of the send under way into the socket's buffer, as many as fit.
    fn take(&mut self, wire: usize) {
        let state = &mut self.wires[wire];
        let Some(mut sending) = state.sending.take() else {
            return;
        };
        let mut moved = false;
        while let Some(chunk) = sending.buffers.chunks().get(sending.chunk) {
            let left = &chunk.as_slice()[sending.at..];
            if left.is_empty() {
                sending.chunk += 1;
                sending.at = 0;
                continue;
            }
            let room = state.capacity_bytes - state.unread_bytes;
            if room == 0 {
                break;
            }
            let bytes = left.len().min(room);
            state.ears.hear(wire, &left[..bytes], &mut self.ledger);
            state.unread_bytes += bytes;
            sending.at += bytes;
            moved = true;
        }
        let done = sending.chunk == sending.buffers.chunks().len();
        if !done {
            state.sending = Some(sending);
        } else if let Some((shard, socket)) = state.socket {
            let port = &mut self.ports[usize::from(shard)];
            port.alarmed = true;
            port.completions.push_back(Event::Sent {
                socket,
                result: Ok(sending.buffers.len_bytes()),
                buffers: sending.buffers,
            });
            if state.shut_after_send {
                state.down_end = Some(RouterEnd::Finished);
            }
        }
        if moved || done {
            self.notify(wire);
        }
    }

    /// The client hears of it after a while.
    fn notify(&mut self, wire: usize) {
        if std::mem::replace(&mut self.wires[wire].notified, true) {
            return;
        }
        let at = self.time + self.latency(wire);
        let client = self.wires[wire].client;
        self.schedule(at, Happening::Act { client });
    }

    // What a shard's ring does.

    pub fn turn(&mut self, shard: usize) {
        self.ports[shard].enters += 1;
        self.accept(shard);
        let mut received = VecDeque::new();
        let readable = std::mem::take(&mut self.ports[shard].readable);
        for wire in readable {
            self.receive(shard, wire, &mut received);
        }
        let port = &mut self.ports[shard];
        // Completions of different kinds have no order among each other; what was received before comes before.
        let is_left = |event: &Event<Vec<u8>>| matches!(event, Event::Received { .. });
        if self.random.percent(50) && !port.completions.iter().any(is_left) {
            std::mem::swap(&mut port.completions, &mut received);
        }
        port.completions.append(&mut received);
    }

    fn accept(&mut self, shard: usize) {
        let descriptor = |kernel: &Kernel| kernel.descriptor();
        for index in 0..self.ports[shard].listeners.len() {
            loop {
                let listening = &mut self.ports[shard].listeners[index];
                let (id, closing) = (listening.id, listening.closing);
                if listening.paused && !closing {
                    break;
                }
                let Some(wire) = listening.backlog.pop_front() else {
                    break;
                };
                if !closing && self.random.permille(self.accept_failure_permille) {
                    let listening = &mut self.ports[shard].listeners[index];
                    listening.backlog.push_front(wire);
                    listening.paused = true;
                    self.ports[shard]
                        .completions
                        .push_back(Event::AcceptFailed {
                            listener: id,
                            error: libc_error(24),
                        });
                    break;
                }
                let socket = descriptor(self);
                self.wires[wire].accepted = true;
                self.handed_over.insert(socket.as_raw_fd(), wire);
                self.ports[shard].completions.push_back(Event::Accepted {
                    listener: id,
                    socket,
                });
            }
            let listening = &mut self.ports[shard].listeners[index];
            if listening.closing && listening.backlog.is_empty() && !listening.paused {
                // Paused marks that its end has been reported.
                listening.paused = true;
                let listener = listening.id;
                self.ports[shard]
                    .completions
                    .push_back(Event::ListenerClosed { listener });
            }
        }
    }

    fn receive(&mut self, shard: usize, wire: usize, received: &mut VecDeque<Event<Vec<u8>>>) {
        let state = &mut self.wires[wire];
        state.readable = false;
        let Some((_, socket)) = state.socket else {
            return;
        };
        if state.closing {
            return;
        }
        let mut inbox = &state.inbox[..];
        while !inbox.is_empty() {
            if received.len() >= usize::from(limits::RECEIVE_BUFFERS) {
                // No buffer is left for it in this turn.
                state.inbox = inbox.to_vec();
                let port = &mut self.ports[shard];
                port.readable.push_back(wire);
                self.wires[wire].readable = true;
                return;
            }
            let (buffer, rest) =
                inbox.split_at(inbox.len().min(limits::RECEIVE_BUFFER_BYTES as usize));
            inbox = rest;
            received.push_back(Event::Received {
                socket,
                buffer: buffer.to_vec(),
            });
        }
        state.inbox.clear();
        if let Some(end) = state.up_end
            && !std::mem::replace(&mut state.up_end_reported, true)
        {
            let cause = match end {
                ClientEnd::Finished => ReceiveEnd::Eof,
                ClientEnd::Reset => ReceiveEnd::Failed(libc_error(104)),
            };
            received.push_back(Event::ReceiveEnded { socket, cause });
        }
    }

    /// The shard has been given so many bytes more.
    fn note_read(&mut self, wire: usize, bytes: usize) {
        let state = &mut self.wires[wire];
        state.inbox_read += bytes as u64;
        while let Some((at, mark)) = state.marks.front()
            && *at <= state.inbox_read
        {
            self.ledger.read(*mark);
            state.marks.pop_front();
        }
    }

    fn next_event(&mut self, shard: usize) -> Option<Event<Vec<u8>>> {
        loop {
            let port = &mut self.ports[shard];
            let event = port.completions.pop_front()?;
            match &event {
                Event::Closed { socket } => {
                    let place = &mut port.slots[socket.index() as usize];
                    place.wire = None;
                    place.generation += 1;
                }
                Event::Received { socket, .. } | Event::ReceiveEnded { socket, .. } => {
                    // What was received before a close is not reported after it.
                    let wire = port.slots[socket.index() as usize].wire;
                    let Some(wire) = wire.filter(|wire| !self.wires[*wire].closing) else {
                        continue;
                    };
                    if let Event::Received { buffer, .. } = &event {
                        let bytes = buffer.len();
                        self.note_read(wire, bytes);
                    }
                }
                Event::Sent { socket, result, .. } => {
                    if let Some(wire) = port.slots[socket.index() as usize].wire {
                        self.wires[wire].send_outstanding = false;
                        self.wires[wire].send_failed = result.is_err();
                    }
                }
                _ => {}
            }
            self.ports[shard].delivered += 1;
            return Some(event);
        }
    }

    fn adopt(&mut self, shard: u16, socket: OwnedFd) -> Result<SocketId, (RingError, OwnedFd)> {
        let wire = self
            .handed_over
            .remove(&socket.as_raw_fd())
            .expect("only accepted sockets are adopted");
        let port = &mut self.ports[usize::from(shard)];
        let free = port.slots.iter().position(|place| place.wire.is_none());
        let index = match free {
            Some(index) => index,
            None if port.slots.len() < port.slots_max => {
                port.slots.push(Place::default());
                port.slots.len() - 1
            }
            None => {
                let limit = port.slots_max as u32;
                self.wires[wire].accepted = false;
                self.ledger.refused(wire);
                self.break_off(wire);
                return Err((RingError::SocketsExhausted { limit }, socket));
            }
        };
        let place = &mut port.slots[index];
        place.wire = Some(wire);
        let id = SocketId::from_u64(u64::from(place.generation) << 32 | index as u64);
        let state = &mut self.wires[wire];
        state.socket = Some((shard, id));
        if !state.inbox.is_empty() || state.up_end.is_some() {
            self.make_readable(wire);
        }
        Ok(id)
    }

    fn wire_of(&self, shard: u16, socket: SocketId) -> Option<usize> {
        let place = self.ports[usize::from(shard)]
            .slots
            .get(socket.index() as usize)?;
        place
            .wire
            .filter(|wire| self.wires[*wire].socket == Some((shard, socket)))
    }

    fn send(&mut self, shard: u16, socket: SocketId, buffers: SendBuffers) {
        let Some(wire) = self.wire_of(shard, socket) else {
            return;
        };
        let state = &mut self.wires[wire];
        if state.sending.is_some() || state.send_outstanding {
            self.ledger
                .fault(format!("two sends at a time on wire {wire}"));
        }
        let state = &mut self.wires[wire];
        if buffers.is_empty() {
            self.ledger.fault(format!("an empty send on wire {wire}"));
        }
        state.send_outstanding = true;
        state.sending = Some(Sending {
            buffers,
            chunk: 0,
            at: 0,
        });
        state.messages_before = state.ears.messages;
        if state.closing || state.up_end == Some(ClientEnd::Reset) {
            return self.fail_send(wire, libc_error(32));
        }
        self.take(wire);
    }

    fn shutdown_write(&mut self, shard: u16, socket: SocketId) {
        let Some(wire) = self.wire_of(shard, socket) else {
            return;
        };
        self.ledger.router_ended(wire);
        let state = &mut self.wires[wire];
        if state.sending.is_some() {
            state.shut_after_send = true;
        } else {
            state.down_end.get_or_insert(RouterEnd::Finished);
            self.notify(wire);
        }
    }

    fn close(&mut self, shard: u16, socket: SocketId) {
        let Some(wire) = self.wire_of(shard, socket) else {
            self.ledger.fault(format!(
                "shard {shard} closes {socket:?}, which is not open"
            ));
            return;
        };
        self.ledger.router_ended(wire);
        if std::mem::replace(&mut self.wires[wire].closing, true) {
            self.ledger.fault(format!("wire {wire} is closed twice"));
            return;
        }
        // The router knows of a send's end when it has seen it, and counts all of one that it has not.
        let state = &self.wires[wire];
        if state.send_outstanding || state.send_failed {
            self.ledger.cut_send_messages += state.ears.messages - state.messages_before;
        }
        self.fail_send(wire, libc_error(125));
        let unread = !self.wires[wire].inbox.is_empty() || self.wires[wire].up_end.is_none();
        let end = if unread && self.random.percent(50) {
            RouterEnd::Reset
        } else {
            RouterEnd::Finished
        };
        let state = &mut self.wires[wire];
        state.down_end = Some(end);
        state.inbox.clear();
        let port = &mut self.ports[usize::from(shard)];
        port.alarmed = true;
        port.completions.push_back(Event::Closed { socket });
        self.notify(wire);
    }

    /// Whether a send is with the kernel, or its completion waits to be dealt with.
    pub fn is_sending(&self, shard: u16, socket: SocketId) -> bool {
        self.wire_of(shard, socket)
            .is_some_and(|wire| self.wires[wire].send_outstanding)
    }

    fn listener(&mut self, shard: u16, listener: ListenerId) -> Option<&mut Listening> {
        let port = &mut self.ports[usize::from(shard)];
        port.listeners
            .iter_mut()
            .find(|listening| listening.id == listener)
    }
}

fn libc_error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// One shard's view of the kernel.
pub struct SimulatedNetwork {
    pub shard: u16,
    pub kernel: Rc<RefCell<Kernel>>,
}

impl Network for SimulatedNetwork {
    type Buffer = Vec<u8>;

    fn now(&self) -> Instant {
        let kernel = self.kernel.borrow();
        kernel.base + Duration::from_nanos(kernel.time)
    }

    fn turn(&mut self, _: Option<Duration>) -> Result<(), RingError> {
        self.kernel.borrow_mut().turn(usize::from(self.shard));
        Ok(())
    }

    fn next_event(&mut self) -> Option<Event<Vec<u8>>> {
        self.kernel.borrow_mut().next_event(usize::from(self.shard))
    }

    fn listen(&mut self, socket: OwnedFd) -> Result<ListenerId, RingError> {
        let port = &mut self.kernel.borrow_mut().ports[usize::from(self.shard)];
        let id = ListenerId::from_u64(port.listeners.len() as u64);
        port.listeners.push(Listening {
            id,
            _socket: socket,
            backlog: VecDeque::new(),
            paused: false,
            closing: false,
        });
        Ok(id)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        let mut kernel = self.kernel.borrow_mut();
        if let Some(listening) = kernel.listener(self.shard, listener) {
            listening.closing = true;
            listening.paused = false;
        }
        kernel.ports[usize::from(self.shard)].alarmed = true;
    }

    fn resume_accept(&mut self, listener: ListenerId) {
        let mut kernel = self.kernel.borrow_mut();
        if let Some(listening) = kernel.listener(self.shard, listener)
            && !listening.closing
        {
            listening.paused = false;
        }
        kernel.ports[usize::from(self.shard)].alarmed = true;
    }

    fn prepare(&mut self, socket: &OwnedFd) -> Peer {
        let kernel = self.kernel.borrow();
        let wire = kernel.handed_over.get(&socket.as_raw_fd()).copied();
        let port = wire.unwrap_or_default() as u16;
        Peer::Tcp((std::net::Ipv4Addr::LOCALHOST, port).into())
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<SocketId, (RingError, OwnedFd)> {
        self.kernel.borrow_mut().adopt(self.shard, socket)
    }

    fn send(&mut self, socket: SocketId, buffers: SendBuffers) {
        self.kernel.borrow_mut().send(self.shard, socket, buffers);
    }

    fn acknowledge(&mut self, socket: SocketId) {
        let mut kernel = self.kernel.borrow_mut();
        if kernel.wire_of(self.shard, socket).is_none() {
            let shard = self.shard;
            kernel.ledger.fault(format!(
                "shard {shard} acknowledges on {socket:?}, which is not open"
            ));
        }
    }

    fn shutdown_write(&mut self, socket: SocketId) {
        self.kernel.borrow_mut().shutdown_write(self.shard, socket);
    }

    fn close(&mut self, socket: SocketId) {
        self.kernel.borrow_mut().close(self.shard, socket);
    }

    fn wake(&mut self, shard: ShardId) {
        let port = &mut self.kernel.borrow_mut().ports[usize::from(shard.0)];
        port.completions.push_back(Event::Woken);
        port.alarmed = true;
    }

    fn waker(&self) -> Box<dyn Fn() + Send + Sync> {
        let bell = self.kernel.borrow().ports[usize::from(self.shard)]
            .bell
            .clone();
        Box::new(move || bell.store(true, Ordering::Relaxed))
    }

    fn enters(&self) -> u64 {
        self.kernel.borrow().ports[usize::from(self.shard)].enters
    }
}
