//! One core: it owns its ring, its connections, its part of the name table, and shares nothing.
//!
//! ```text
//!            ┌───────────────────────────── one turn ─────────────────────────────┐
//!  io_uring ─► accept ─► connection ─► ingress ─► routes ─► forward ─► egress ──► io_uring
//!                                                             │  ▲
//!                                                 other shards ◄─┘──┘ mesh
//! ```
//!
//! The loop is synchronous: submit all that the last turn produced, wait, then deal with everything that came. Nothing
//! awaits on the data path; glommio only hosts the loop on its core.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slim_proto::grpc::Deframer;
use slim_proto::http2::{ErrorCode, Settings};
use slim_proto::link::{Acceptor, MacPolicy, Preimage};
use slim_ring::{Event, ListenerId, ReceiveEnd, Ring, RingError, SocketId};
use tracing::{debug, info, warn};

use crate::accept;
use crate::config::Config;
use crate::connection::{Connection, End, Farewell, Peer, Phase};
use crate::control::Orders;
use crate::egress::Pool;
use crate::limits;
use crate::mesh::{Control, Mesh, Web};
use crate::metrics::Counters;
use crate::routes::{Delivery, Notice, Routes, Settled, ShardId, Slot};

/// A shard and its ring.
pub struct Shard {
    ring: Ring,
    core: Core,
    listeners: Vec<Listening>,
    orders: Arc<Orders>,
    sweep_at: Instant,
    sweep_part: u32,
    drain: Drain,
}

struct Listening {
    id: ListenerId,
    /// Position in the configuration.
    listener: u16,
    resume_at: Option<Instant>,
}

#[derive(PartialEq, Eq)]
enum Drain {
    No,
    /// This shard's listeners are closing, and what they accepted last is on its way to the shards that serve it.
    Listeners,
    /// That is done here; no link may end before it is done on all shards (T2).
    Others,
    Links,
}

/// Everything of a shard but the ring, so that received bytes can be borrowed from the ring meanwhile.
pub struct Core {
    pub shard: ShardId,
    pub config: Arc<Config>,
    pub acceptors: Vec<Acceptor>,
    pub connections: Connections,
    pub routes: Routes,
    /// Closed connections whose publishes still wait for what holds them. Each hold ends, so each of them goes.
    left: HashMap<Slot, Box<Connection>, ahash::RandomState>,
    pub mesh: Mesh,
    pub web: Arc<Web>,
    pub counters: Arc<Counters>,
    pub pool: Pool,
    /// Read once a turn.
    pub now: Instant,
    pub draining: bool,
    pub log_gate: LogGate,
    /// Scratch, reused from message to message.
    pub preimage: Preimage,
    pub delivery: Delivery,
    /// Connections that have something to send at the end of the turn.
    pub dirty: Vec<Slot>,
    /// Receivers above the soft mark, and some that were; each once.
    pub pressed: Vec<Slot>,
    /// Publishers one of whose holds has ended.
    pub released: Vec<Slot>,
    /// Publishers none of whose holds is left.
    pub resumable: Vec<Slot>,
    pub parked_bytes: usize,
    /// Bytes of messages that have not come whole yet.
    pub unfinished_bytes: usize,
    /// `messages_delivered` as this stage of the turn began.
    delivered_before: u64,
    /// Publishers that nothing holds and that go on next turn, for this one has done enough.
    pub postponed: Vec<Slot>,
    /// Receivers of bytes whose acknowledgement is due, oldest first; entries of connections that were sent to are stale.
    unacknowledged: VecDeque<(Instant, Slot)>,
    /// Sockets to close, and to half-close, at the end of the turn.
    closing: Vec<SocketId>,
    half_closing: Vec<SocketId>,
}

/// Connections by slot.
#[derive(Default)]
pub struct Connections {
    slots: Vec<Option<Box<Connection>>>,
}

impl Connections {
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(slot.index as usize)?.as_deref_mut()?;
        (connection.slot == slot).then_some(connection)
    }

    /// Takes a connection out, so that it and the others can be changed together. Put it back with [`Connections::put`].
    fn take(&mut self, slot: Slot) -> Option<Box<Connection>> {
        self.slots
            .get_mut(slot.index as usize)?
            .take_if(|connection| connection.slot == slot)
    }

    fn put(&mut self, connection: Box<Connection>) {
        let index = connection.slot.index as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(connection);
    }

    fn slots_of_part(&self, part: u32) -> impl Iterator<Item = usize> + use<> {
        (part as usize..self.slots.len()).step_by(limits::SWEEP_PARTS as usize)
    }

    fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

impl From<SocketId> for Slot {
    fn from(socket: SocketId) -> Slot {
        Slot {
            index: socket.index(),
            generation: socket.generation(),
        }
    }
}

/// Bounds the log lines about connections: a flood of bad ones must not become a flood of lines.
pub struct LogGate {
    second: Instant,
    lines: u32,
}

impl LogGate {
    fn new(now: Instant) -> LogGate {
        LogGate {
            second: now,
            lines: 0,
        }
    }

    pub fn admit(&mut self, now: Instant, counters: &Counters) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            *self = LogGate::new(now);
        }
        self.lines += 1;
        let admitted = self.lines <= limits::LOG_LINES_PER_SECOND;
        if !admitted {
            counters.log_lines_suppressed.add(1);
        }
        admitted
    }
}

/// What a shard is built from, on its own thread.
pub struct Plan {
    pub shard: ShardId,
    pub shards: u16,
    pub config: Arc<Config>,
    pub web: Arc<Web>,
    pub counters: Arc<Counters>,
    pub orders: Arc<Orders>,
    pub owners: ahash::RandomState,
}

impl Shard {
    pub fn new(plan: Plan) -> Result<Shard, RingError> {
        let Plan {
            shard,
            shards,
            config,
            web,
            counters,
            orders,
            owners,
        } = plan;
        let ring = Ring::new(slim_ring::RingConfig {
            submission_entries: limits::RING_SUBMISSION_ENTRIES,
            completion_entries: limits::RING_COMPLETION_ENTRIES,
            receive_buffers: limits::RECEIVE_BUFFERS,
            receive_buffer_bytes: limits::RECEIVE_BUFFER_BYTES,
            sockets_max: limits::SOCKETS_PER_SHARD_MAX,
        })?;
        let mesh = Mesh::join(shard, web.clone(), &ring);
        orders.join(shard, ring.waker());
        let acceptors = config
            .listeners
            .iter()
            .map(|listener| Acceptor {
                node_id: config.node_id.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                deployment_name: config.domain_name.clone().unwrap_or_default(),
                policy: if listener.require_header_mac {
                    MacPolicy::Strict
                } else {
                    MacPolicy::Lax
                },
                enforce_pqc: false,
            })
            .collect();
        let now = Instant::now();
        let core = Core {
            shard,
            acceptors,
            config,
            connections: Connections::default(),
            left: HashMap::default(),
            routes: Routes::new(shard, shards, owners),
            mesh,
            web,
            counters,
            pool: Pool::default(),
            now,
            draining: false,
            log_gate: LogGate::new(now),
            preimage: Preimage::default(),
            delivery: Delivery::default(),
            dirty: Vec::new(),
            pressed: Vec::new(),
            released: Vec::new(),
            resumable: Vec::new(),
            parked_bytes: 0,
            unfinished_bytes: 0,
            delivered_before: 0,
            postponed: Vec::new(),
            unacknowledged: VecDeque::new(),
            closing: Vec::new(),
            half_closing: Vec::new(),
        };
        Ok(Shard {
            ring,
            core,
            listeners: Vec::new(),
            orders,
            sweep_at: now,
            sweep_part: 0,
            drain: Drain::No,
        })
    }

    /// Begins to accept: `listeners` listen already, each with its position in the configuration.
    pub fn listen(&mut self, listeners: Vec<(OwnedFd, u16)>) -> Result<(), RingError> {
        for (socket, listener) in listeners {
            let id = self.ring.listen(socket)?;
            self.listeners.push(Listening {
                id,
                listener,
                resume_at: None,
            });
        }
        Ok(())
    }

    /// Serves until the drain is complete. An error is one of the ring itself, from which no shard recovers.
    pub fn run(&mut self) -> Result<(), RingError> {
        loop {
            let due = self.core.acknowledge_at().unwrap_or(self.sweep_at);
            let patience = due
                .min(self.sweep_at)
                .saturating_duration_since(self.core.now);
            let wait = if self.core.postponed.is_empty() {
                self.core.mesh.may_wait(patience)
            } else {
                Duration::ZERO
            };
            self.ring.turn(Some(wait))?;
            self.core.mesh.awake();
            self.core.now = Instant::now();
            self.core.begin_stage();
            while !self.core.has_done_enough()
                && let Some(event) = self.ring.next_event()
            {
                self.on_event(event);
            }
            self.core.begin_stage();
            self.core.receive_mesh(&mut self.ring);
            if self.core.now >= self.sweep_at {
                self.sweep();
            }
            self.core.begin_stage();
            self.core.go_on();
            self.core.settle();
            self.core.flush(&mut self.ring);
            self.follow_orders();
            if self.orders.stop_ordered() {
                return Ok(());
            }
            if self.drain == Drain::Links && self.core.connections.is_empty() {
                self.core.mesh.flush(&mut self.ring, &mut Vec::new());
                return Ok(());
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { socket, buffer } => {
                let slot = Slot::from(socket);
                if let Some(mut connection) = self.core.connections.take(slot) {
                    let received = match connection.phase {
                        Phase::Ending { .. } => Ok(()),
                        _ => self.core.receive(&mut connection, self.ring.bytes(&buffer)),
                    };
                    if let Err(end) = received {
                        self.core.end(&mut connection, &end);
                    }
                    self.core.owe_acknowledgement(&mut connection);
                    self.core.connections.put(connection);
                }
                self.ring.recycle(buffer);
            }
            Event::Sent {
                socket,
                result,
                buffers,
            } => {
                self.core.pool.reclaim(buffers);
                self.core.on_sent(socket.into(), result.err());
            }
            Event::Accepted { listener, socket } => {
                if let Some(listening) = self
                    .listeners
                    .iter()
                    .find(|listening| listening.id == listener)
                {
                    self.accept(socket, listening.listener);
                }
            }
            Event::AcceptFailed { listener, error } => {
                warn!(%error, "accepting pauses for {} ms", limits::ACCEPT_PAUSE.as_millis());
                let resume_at = self.core.now + limits::ACCEPT_PAUSE;
                for listening in self
                    .listeners
                    .iter_mut()
                    .filter(|listening| listening.id == listener)
                {
                    listening.resume_at = Some(resume_at);
                }
            }
            Event::ListenerClosed { listener } => {
                self.listeners.retain(|listening| listening.id != listener);
            }
            Event::ReceiveEnded { socket, cause } => match cause {
                ReceiveEnd::Eof => self.core.peer_closed(socket.into()),
                ReceiveEnd::Failed(error) => {
                    self.core.end_slot(socket.into(), &End::Failed(error));
                }
            },
            // The slot is free for a new socket now; the connection went when it was closed.
            Event::Closed { .. } | Event::Woken => {}
        }
    }

    /// A new connection goes to the shard with the fewest: a few busy clients must not share one core of many.
    fn accept(&mut self, socket: OwnedFd, listener: u16) {
        self.core.counters.connections_accepted.add(1);
        let shard = self.core.web.place_connection();
        if shard == self.core.shard {
            self.core.adopt(&mut self.ring, socket, listener);
        } else {
            self.core
                .mesh
                .tell(shard, Control::Adopt { socket, listener });
        }
    }

    /// Looks at deadlines, each connection once in [`limits::SWEEP_PARTS`] sweeps.
    fn sweep(&mut self) {
        let late = self.core.now.duration_since(self.sweep_at);
        self.sweep_at = self.core.now + limits::SWEEP_INTERVAL;
        self.sweep_part = (self.sweep_part + 1) % limits::SWEEP_PARTS;
        self.core.sweep_pressed(late);
        self.core.sweep_connections(self.sweep_part);
        self.core
            .counters
            .set_ring_enters(self.ring.counters().enters);
        for listening in &mut self.listeners {
            if listening.resume_at.is_some_and(|at| at <= self.core.now) {
                listening.resume_at = None;
                self.ring.resume_accept(listening.id);
            }
        }
    }

    fn follow_orders(&mut self) {
        if self.drain == Drain::No && self.orders.drain_ordered() {
            self.drain = Drain::Listeners;
            for listening in &self.listeners {
                self.ring.unlisten(listening.id);
            }
        }
        if self.drain == Drain::Listeners
            && self.listeners.is_empty()
            && self.core.mesh.has_told_all()
        {
            self.drain = Drain::Others;
            self.orders.listeners_closed();
        }
        if self.drain == Drain::Others && self.orders.all_listeners_closed() {
            self.drain = Drain::Links;
            // The last connections that others accepted for this shard are in the lanes by now.
            // Twice, for this turn may have left some of what came before.
            for _ in 0..2 {
                while !self.core.receive_mesh(&mut self.ring) {
                    self.core.begin_stage();
                }
            }
            self.core.drain_links();
            self.core.settle();
            self.core.flush(&mut self.ring);
        }
    }
}

impl Core {
    pub fn mark_dirty(&mut self, connection: &mut Connection) {
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(connection.slot);
        }
    }

    fn adopt(&mut self, ring: &mut Ring, socket: OwnedFd, listener: u16) {
        let peer = accept::prepare(&socket);
        let settings = Settings {
            initial_window_bytes: limits::RECEIVE_WINDOW_BYTES,
            max_frame_bytes: limits::RECEIVE_FRAME_BYTES_MAX,
            max_header_list_bytes: limits::HEADER_LIST_BYTES_MAX,
            max_concurrent_streams: limits::STREAMS_PER_CONNECTION_MAX,
        };
        match ring.adopt(socket) {
            Ok(socket) => {
                let control = self.pool.buffer();
                let connection =
                    Connection::new(socket, listener, peer, control, settings, self.now);
                self.dirty.push(connection.slot);
                self.connections.put(Box::new(connection));
                self.counters.connections_open.add(1);
            }
            Err((error, _socket)) => {
                self.counters.connections_refused.add(1);
                self.web.connection_gone(self.shard);
                if self.log_gate.admit(self.now, &self.counters) {
                    warn!(%peer, %error, "connection refused");
                }
            }
        }
    }

    /// Notes that TCP owes this client an acknowledgement, unless it did already.
    fn owe_acknowledgement(&mut self, connection: &mut Connection) {
        if connection.unacknowledged_since.is_none() && matches!(connection.peer, Peer::Tcp(_)) {
            connection.unacknowledged_since = Some(self.now);
            self.unacknowledged.push_back((self.now, connection.slot));
        }
    }

    /// When the next acknowledgement is due.
    fn acknowledge_at(&self) -> Option<Instant> {
        self.unacknowledged
            .front()
            .map(|(since, _)| *since + limits::TCP_ACK_DELAY)
    }

    /// Has the kernel acknowledge what was received and not answered for [`limits::TCP_ACK_DELAY`]. A busy connection
    /// is answered before, so this costs it nothing; on a quiet one it saves 40 ms and more.
    fn acknowledge_received(&mut self, ring: &mut Ring) {
        while self.acknowledge_at().is_some_and(|at| at <= self.now) {
            let Some((since, slot)) = self.unacknowledged.pop_front() else {
                return;
            };
            let Some(connection) = self.connections.get_mut(slot) else {
                continue;
            };
            // Sent to meanwhile, if it is another time or none.
            if connection.unacknowledged_since == Some(since) {
                connection.unacknowledged_since = None;
                ring.acknowledge(connection.socket);
            }
        }
    }

    fn on_sent(&mut self, slot: Slot, error: Option<std::io::Error>) {
        let Some(mut connection) = self.connections.take(slot) else {
            return;
        };
        connection.egress.sent();
        match error {
            Some(error) => self.end(&mut connection, &End::Failed(error)),
            None => {
                connection.pump();
                self.relieve(&mut connection);
                if self.is_drained(&connection) {
                    self.end(&mut connection, &End::Drained);
                }
                if let Phase::Ending {
                    half_closed: half_closed @ false,
                    peer_closed,
                    ..
                } = &mut connection.phase
                    && connection.egress.is_idle()
                {
                    *half_closed = true;
                    if *peer_closed {
                        self.close(&mut connection);
                    } else {
                        self.half_closing.push(connection.socket);
                    }
                }
                if !connection.egress.is_idle() {
                    self.mark_dirty(&mut connection);
                }
            }
        }
        self.connections.put(connection);
    }

    /// The peer sends no more. If its link has ended, its last words are still on their way to it.
    fn peer_closed(&mut self, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        match &mut connection.phase {
            Phase::Ending {
                half_closed: false,
                peer_closed,
                ..
            } => *peer_closed = true,
            _ => self.end_slot(slot, &End::Closed),
        }
    }

    pub fn end_slot(&mut self, slot: Slot, end: &End) {
        if let Some(mut connection) = self.connections.take(slot) {
            self.end(&mut connection, end);
            self.connections.put(connection);
        }
    }

    /// Ends a connection: its subscriptions go at once, its last words are sent, its socket closes when the peer has read
    /// them or [`limits::LINGER`] is over.
    pub fn end(&mut self, connection: &mut Connection, end: &End) {
        if let Phase::Ending { .. } = connection.phase {
            // The peer has closed too, or it never will.
            self.close(connection);
            return;
        }
        self.count_and_log(connection, end);
        let stream = connection.stream();
        self.unfinished_bytes -= connection.deframer.buffered_bytes();
        connection.deframer = Deframer::default();
        if let Phase::Open(link) = &connection.phase {
            self.routes
                .disconnect(connection.slot, link.subscriptions.names());
        }
        if let Some(publishers) = connection.egress.release() {
            self.release_all(publishers);
        }
        // Who publishes and leaves has published: what is parked still goes, and nothing more can come.
        let leaves = matches!(end, End::Closed | End::Failed(_) | End::LinkEnded);
        if !leaves || self.draining {
            self.give_up_parked(connection);
        }
        let mut last_words = Vec::new();
        match end.farewell() {
            Farewell::None => {
                let lost = connection.egress.messages();
                let counter = match end {
                    End::Slow { .. } | End::Stalled { .. } => &self.counters.dropped_slow_receiver,
                    _ => &self.counters.dropped_receiver_left,
                };
                counter.add(lost);
                connection.phase = Phase::Ending {
                    deadline: self.now,
                    half_closed: true,
                    peer_closed: false,
                };
                self.close(connection);
                return;
            }
            Farewell::GoAway(code) => {
                connection
                    .http2
                    .goaway(code, &end.to_string(), &mut last_words)
            }
            Farewell::Trailers(status) => {
                if let Some(stream) = stream {
                    let text = if status == 0 {
                        String::new()
                    } else {
                        end.to_string()
                    };
                    connection
                        .http2
                        .trailers(stream, status, &text, &mut last_words);
                    connection
                        .http2
                        .reset(stream, ErrorCode::NO_ERROR, &mut last_words);
                }
                connection
                    .http2
                    .goaway(ErrorCode::NO_ERROR, "", &mut last_words);
            }
        }
        connection.egress.lend(&mut self.pool);
        let lost = connection.egress.finish(&last_words);
        self.counters.dropped_receiver_left.add(lost);
        connection.phase = Phase::Ending {
            deadline: self.now + limits::LINGER,
            half_closed: false,
            peer_closed: false,
        };
        self.mark_dirty(connection);
    }

    fn give_up_parked(&mut self, connection: &mut Connection) {
        let parked = std::mem::take(&mut connection.parked);
        self.parked_bytes -= parked.iter().map(bytes::Bytes::len).sum::<usize>();
        self.counters.dropped_sender_left.add(parked.len() as u64);
        connection.holds = 0;
    }

    /// A connection of this shard, also one that has closed and has publishes parked.
    pub fn publisher(&mut self, slot: Slot) -> Option<&mut Connection> {
        let left = &mut self.left;
        self.connections
            .get_mut(slot)
            .or_else(|| left.get_mut(&slot).map(Box::as_mut))
    }

    fn close(&mut self, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.closing, true) {
            self.closing.push(connection.socket);
        }
    }

    fn count_and_log(&mut self, connection: &Connection, end: &End) {
        let counters = &self.counters;
        let (counter, is_news) = match end {
            End::Closed | End::Failed(_) | End::LinkEnded | End::Drained => (None, false),
            End::Http2(_) => (Some(&counters.ended_http2), true),
            End::Framing(_) => (Some(&counters.ended_framing), true),
            End::Unfinished { .. } => (Some(&counters.ended_unfinished), true),
            End::Undecodable(_) => (Some(&counters.ended_undecodable), true),
            End::Negotiation(_) | End::Refused(_) => (Some(&counters.ended_negotiation), true),
            End::NoRequest | End::NoLink { .. } => (Some(&counters.ended_timeout), true),
            End::Silent { .. } => (Some(&counters.ended_keepalive), true),
            End::ControlUnread | End::AcksUnread => (Some(&counters.ended_control_flood), true),
            End::Slow { .. } | End::Stalled { .. } => (Some(&counters.cut_slow_receiver), true),
        };
        if let Some(counter) = counter {
            counter.add(1);
        }
        if !is_news {
            debug!(peer = %connection.peer, reason = %end, "connection ends");
        } else if self.log_gate.admit(self.now, &self.counters) {
            info!(peer = %connection.peer, reason = %end, "connection ends");
        }
    }

    /// Reads, parcels and parked messages have a share of a turn each, so that none of them waits for the others for ever.
    fn begin_stage(&mut self) {
        self.delivered_before = self.counters.messages_delivered.get();
    }

    /// Whether this stage has delivered so much that it should be sent before more is taken in. One message to a large
    /// group is much work, and nobody is sent anything while a turn lasts.
    pub fn has_done_enough(&self) -> bool {
        self.counters.messages_delivered.get() - self.delivered_before >= limits::STAGE_DELIVERIES
    }

    /// Lets publishers go on that the last turn had no time for.
    fn go_on(&mut self) {
        self.resumable.append(&mut self.postponed);
    }

    /// Takes in what other shards sent. False if that is more than this turn should do: the rest comes next turn.
    fn receive_mesh(&mut self, ring: &mut Ring) -> bool {
        // Control is taken first and acted on last: see the module text of `mesh`.
        self.mesh.take_control();
        for from in self.mesh.senders() {
            while !self.has_done_enough()
                && let Some(parcel) = self.mesh.next_parcel(from)
            {
                self.on_parcel(from, &parcel);
                self.mesh.return_parcel(from, parcel);
            }
        }
        if self.mesh.is_parcel_due() {
            return false;
        }
        while let Some((from, batch)) = self.mesh.next_control() {
            for control in batch {
                match control {
                    Control::Notice(notice) => self.routes.on_notice(from, notice),
                    Control::Hold { publisher } => {
                        // If it has gone, so has what it waited for.
                        if let Some(connection) = self.publisher(publisher) {
                            connection.holds += 1;
                        }
                    }
                    Control::Release { publisher } => self.release_publisher(publisher),
                    Control::Adopt { socket, listener } => self.adopt(ring, socket, listener),
                }
            }
        }
        true
    }

    /// Brings everything that this turn caused to its end: acknowledgements, publishers that may go on.
    fn settle(&mut self) {
        loop {
            for (to, notice) in std::mem::take(&mut self.routes.outgoing) {
                self.tell(to, notice);
            }
            for Settled {
                connection,
                subscription_id,
            } in std::mem::take(&mut self.routes.settled)
            {
                self.counters.subscriptions_acknowledged.add(1);
                let Some(mut connection) = self.connections.take(connection) else {
                    continue;
                };
                connection.unsettled = connection.unsettled.saturating_sub(1);
                if connection.unsettled == limits::SUBSCRIPTIONS_UNSETTLED_MAX / 2 {
                    connection.release_credit();
                    self.mark_dirty(&mut connection);
                }
                if subscription_id != 0
                    && let Err(end) = self.acknowledge(&mut connection, subscription_id, Ok(()))
                {
                    self.end(&mut connection, &end);
                }
                self.connections.put(connection);
            }
            self.released.append(&mut self.routes.answered);
            for publisher in std::mem::take(&mut self.released) {
                self.release_publisher(publisher);
            }
            for publisher in std::mem::take(&mut self.resumable) {
                if let Some(mut connection) = self.connections.take(publisher) {
                    self.resume(&mut connection);
                    self.connections.put(connection);
                } else if let Some(mut connection) = self.left.remove(&publisher) {
                    self.resume(&mut connection);
                    if connection.is_held() {
                        self.left.insert(publisher, connection);
                    }
                }
            }
            let more = !self.routes.outgoing.is_empty()
                || !self.routes.settled.is_empty()
                || !self.routes.answered.is_empty()
                || !self.released.is_empty()
                || !self.resumable.is_empty();
            if !more {
                return;
            }
        }
    }

    fn tell(&mut self, to: ShardId, notice: Notice) {
        self.mesh.tell(to, Control::Notice(notice));
    }

    /// Sends what the turn produced, to sockets and to other shards.
    fn flush(&mut self, ring: &mut Ring) {
        loop {
            self.mesh.flush(ring, &mut self.released);
            if self.released.is_empty() {
                break;
            }
            // A lane has room again. This ends: nothing new is received meanwhile.
            self.settle();
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(slot) else {
                continue;
            };
            connection.dirty = false;
            if let Some(buffers) = connection.egress.take(&mut self.pool) {
                connection.unacknowledged_since = None;
                ring.send(connection.socket, buffers);
            }
        }
        self.dirty = dirty;
        self.acknowledge_received(ring);
        for socket in self.half_closing.drain(..) {
            ring.shutdown_write(socket);
        }
        for socket in std::mem::take(&mut self.closing) {
            if let Some(connection) = self.connections.take(socket.into()) {
                if !connection.parked.is_empty() {
                    self.left.insert(connection.slot, connection);
                }
                self.counters.connection_closed();
                self.web.connection_gone(self.shard);
                ring.close(socket);
            }
        }
    }

    /// Cuts receivers above the mark that have stopped reading.
    ///
    /// - `late`: by how much this sweep missed its time, because a turn took long: nobody was sent anything meanwhile.
    fn sweep_pressed(&mut self, late: Duration) {
        let mut pressed = std::mem::take(&mut self.pressed);
        pressed.retain(|slot| {
            let Some(connection) = self.connections.get_mut(*slot) else {
                return false;
            };
            if !connection.egress.is_pressed() {
                connection.egress.listed = false;
                return false;
            }
            if !connection.egress.has_stopped(self.now, late) {
                return true;
            }
            let end = End::Slow {
                bytes: connection.egress.bytes(),
            };
            self.end_slot(*slot, &end);
            false
        });
        pressed.append(&mut self.pressed);
        self.pressed = pressed;
    }

    fn sweep_connections(&mut self, part: u32) {
        for index in self.connections.slots_of_part(part) {
            let Some(mut connection) = self.connections.slots[index].take() else {
                continue;
            };
            self.look_at(&mut connection);
            self.connections.put(connection);
        }
    }

    /// One look at one connection's deadlines.
    fn look_at(&mut self, connection: &mut Connection) {
        connection.http2.tick();
        let listener = &self.config.listeners[usize::from(connection.listener)];
        let (interval, timeout) = (listener.keepalive_interval, listener.keepalive_timeout);
        let stalled_for = connection.stalled_for(self.now);
        let end = match &connection.phase {
            Phase::Handshaking { deadline } if *deadline <= self.now => End::NoRequest,
            Phase::Negotiating { deadline, .. } if *deadline <= self.now => End::NoLink {
                seconds: listener.negotiation_timeout.as_secs(),
            },
            Phase::Ending { deadline, .. } if *deadline <= self.now => End::Closed,
            Phase::Open(_) if stalled_for > limits::STALL_TIMEOUT => End::Stalled {
                bytes: connection.egress.bytes(),
            },
            // It had its chance to read what waited.
            Phase::Open(_) if self.draining && stalled_for > limits::LINGER => End::Drained,
            Phase::Open(_) => match connection.pinged_at {
                Some(at) if self.now.duration_since(at) > timeout => End::Silent {
                    seconds: timeout.as_secs(),
                },
                None if self.now.duration_since(connection.heard_at) > interval => {
                    connection.pinged_at = Some(self.now);
                    connection
                        .http2
                        .ping(*b"slimping", &mut connection.egress.control);
                    self.mark_dirty(connection);
                    return;
                }
                _ => return,
            },
            _ => return,
        };
        self.end(connection, &end);
    }

    /// Ends every link; one that still negotiates is ended when it has, so that its client comes back (T2), and one with
    /// messages waiting when they are sent.
    fn drain_links(&mut self) {
        self.draining = true;
        for (_, mut connection) in std::mem::take(&mut self.left) {
            self.give_up_parked(&mut connection);
        }
        for index in 0..self.connections.slots.len() {
            let Some(mut connection) = self.connections.slots[index].take() else {
                continue;
            };
            if self.is_drained(&connection) {
                self.end(&mut connection, &End::Drained);
            } else if let Phase::Handshaking { deadline } = &mut connection.phase {
                *deadline = (*deadline).min(self.now + limits::DRAIN_HANDSHAKE);
            } else if let Phase::Ending { .. } = connection.phase {
                self.give_up_parked(&mut connection);
            }
            self.connections.put(connection);
        }
    }

    /// Whether the router drains and this link has nothing left to wait for.
    pub fn is_drained(&self, connection: &Connection) -> bool {
        self.draining
            && matches!(connection.phase, Phase::Open(_))
            && !connection.egress.is_waiting()
    }
}
