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

mod connections;
mod deadlines;
mod ending;
#[cfg(test)]
mod inspection;
mod lending;
mod pressure;
mod waiting_room;

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slim_proto::http2::Settings;
use slim_proto::link::{Acceptor, MacPolicy, Preimage};
use slim_ring::{Event, ListenerId, ReceiveEnd, RingError, SocketId};
use tracing::warn;

use connections::{Connections, LogGate};
use lending::Spares;

use crate::admission::Admission;
use crate::config::Config;
use crate::connection::{Admitted, Connection, End, Phase};
use crate::control::Orders;
use crate::egress::Pool;
use crate::limits;
use crate::memory::{Memory, Shares};
use crate::mesh::{Control, Mesh, Newcomer, Web};
use crate::metrics::Counters;
use crate::network::Network;
use crate::rate::Rates;
use crate::routes::{Delivery, Notice, Routes, Settled, ShardId, Slot};

/// A shard and its network.
pub struct Shard<N: Network> {
    network: N,
    core: Core,
    listeners: Vec<Listening>,
    orders: Arc<Orders>,
    /// Events that the last turn had no time for: of reads one for each of [`limits::RECEIVE_BUFFERS`] at most, and for each
    /// socket its arrival, its end and its close.
    postponed_events: VecDeque<Event<N::Buffer>>,
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

/// Whether a shard goes on after a turn.
pub enum Turn {
    More,
    /// All is over: it has drained, or was stopped.
    Last,
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

/// Everything of a shard but its network.
pub struct Core {
    pub shard: ShardId,
    pub config: Arc<Config>,
    pub acceptors: Vec<Acceptor>,
    pub connections: Connections,
    pub routes: Routes,
    /// Closed connections whose publishes still wait for what holds them. Each hold ends, so each of them goes.
    left: HashMap<Slot, Box<Connection>, ahash::RandomState>,
    pub mesh: Mesh,
    pub admission: Arc<Admission>,
    pub memory: Arc<Memory>,
    rates: Rates,
    pub counters: Arc<Counters>,
    pub pool: Pool,
    spares: Spares,
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
    /// Bytes that wait for all receivers, those shared among them apart.
    pub egress_bytes: usize,
    /// Above it, messages are dropped.
    pub egress_bytes_max: usize,
    /// Above it, the turn has taken in enough.
    egress_pause_bytes: usize,
    /// Above it, a receiver is pressed. Set once a turn.
    pub egress_soft_bytes: usize,
    /// Subscriptions of all connections.
    pub subscriptions: usize,
    /// What this shard may hold; changes with `tight`.
    pub shares: Shares,
    /// No memory for anything new, as of the last look.
    pub tight: bool,
    /// Tight, and too much waits: no publisher gets credit.
    pub starving: bool,
    /// Whose credit is owed to them.
    starved: Vec<Slot>,
    /// [`Core::account_bytes`] when memory was last looked at.
    account_looked_at: usize,
    /// Publishers above their rate.
    throttled: BinaryHeap<pressure::Throttled>,
    /// `messages_delivered` as this stage of the turn began.
    delivered_before: u64,
    /// Bytes read from sockets in this stage.
    stage_received_bytes: usize,
    /// [`limits::STAGE_DELIVERIES`], but where less is simulated.
    stage_deliveries: u64,
    /// Publishers that nothing holds and that go on next turn, for this one has done enough.
    pub postponed: Vec<Slot>,
    /// By [`Delay`](crate::acknowledge::Delay): when something came that TCP should acknowledge, and where; oldest first.
    /// Entries of connections that were sent to meanwhile are stale, and dropped as they come to the front: one for each
    /// answer to a client within [`limits::TCP_ACK_DELAY_LONG`] at most.
    unacknowledged: [VecDeque<(Instant, Slot)>; 2],
    /// Sockets to close, and to half-close, at the end of the turn.
    closing: Vec<SocketId>,
    half_closing: Vec<SocketId>,
}

/// What a shard is built from, on its own thread.
pub struct Plan {
    pub shard: ShardId,
    pub shards: u16,
    pub config: Arc<Config>,
    pub web: Arc<Web>,
    pub admission: Arc<Admission>,
    pub memory: Arc<Memory>,
    pub counters: Arc<Counters>,
    pub orders: Arc<Orders>,
    pub owners: ahash::RandomState,
}

impl<N: Network> Shard<N> {
    pub fn new(plan: Plan, network: N) -> Shard<N> {
        let Plan {
            shard,
            shards,
            config,
            web,
            admission,
            memory,
            counters,
            orders,
            owners,
        } = plan;
        let mesh = Mesh::join(shard, web);
        orders.join(shard, network.waker());
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
        let now = network.now();
        let mut routes = Routes::new(shard, shards, owners);
        routes.limit_names(config.limits.names.div_ceil(usize::from(shards)));
        let rates = Rates {
            messages: config.limits.ingress_messages_per_second,
            bytes: config.limits.ingress_bytes_per_second,
        };
        let shares = memory.shares();
        let egress_soft_bytes = config.limits.egress_bytes_per_connection;
        let core = Core {
            shard,
            acceptors,
            config,
            connections: Connections::default(),
            left: HashMap::default(),
            routes,
            mesh,
            admission,
            memory,
            rates,
            counters,
            pool: Pool::default(),
            spares: Spares::default(),
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
            egress_bytes: 0,
            egress_bytes_max: shares.egress_bytes,
            egress_pause_bytes: shares.step_bytes,
            egress_soft_bytes,
            subscriptions: 0,
            shares,
            tight: false,
            starving: false,
            starved: Vec::new(),
            account_looked_at: 0,
            throttled: BinaryHeap::new(),
            delivered_before: 0,
            stage_received_bytes: 0,
            stage_deliveries: limits::STAGE_DELIVERIES,
            postponed: Vec::new(),
            unacknowledged: Default::default(),
            closing: Vec::new(),
            half_closing: Vec::new(),
        };
        Shard {
            network,
            core,
            listeners: Vec::new(),
            orders,
            postponed_events: VecDeque::new(),
            sweep_at: now,
            sweep_part: 0,
            drain: Drain::No,
        }
    }

    /// Begins to accept: `listeners` listen already, each with its position in the configuration.
    pub fn listen(&mut self, listeners: Vec<(OwnedFd, u16)>) -> Result<(), RingError> {
        for (socket, listener) in listeners {
            let id = self.network.listen(socket)?;
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
            let wait = self.patience();
            self.network.turn(Some(wait))?;
            if let Turn::Last = self.serve() {
                return Ok(());
            }
        }
    }

    /// For how long the shard may wait for its network now, at most. Announces that it is about to.
    pub fn patience(&self) -> Duration {
        if !self.core.postponed.is_empty() || !self.postponed_events.is_empty() {
            return Duration::ZERO;
        }
        let due = [self.core.acknowledge_at(), self.core.throttled_until()];
        let patience = due
            .into_iter()
            .flatten()
            .fold(self.sweep_at, Instant::min)
            .saturating_duration_since(self.core.now);
        self.core.mesh.may_wait(patience)
    }

    /// Deals with all that the network brought, in one turn.
    pub fn serve(&mut self) -> Turn {
        self.core.mesh.awake();
        self.core.now = self.network.now();
        self.core.release_throttled();
        self.core.begin_stage();
        self.take_events();
        self.core.begin_stage();
        self.core.receive_mesh(&mut self.network);
        if self.core.now >= self.sweep_at {
            self.sweep();
        }
        self.core.begin_stage();
        self.core.go_on();
        self.core.settle();
        self.core.keep_within_limits();
        self.core.settle();
        self.core.flush(&mut self.network);
        self.follow_orders();
        if self.orders.stop_ordered() {
            return Turn::Last;
        }
        if self.drain == Drain::Links && self.core.connections.is_empty() {
            self.core.mesh.flush(&mut self.network, &mut Vec::new());
            return Turn::Last;
        }
        Turn::More
    }

    /// Deals with what came, as far as one turn should; the rest waits, in order. Sends that are done do not wait: until
    /// they are known, nothing more can be sent to their receivers. Where they may end a connection they do, behind what
    /// that connection sent.
    fn take_events(&mut self) {
        while let Some(event) = self.network.next_event() {
            let is_late = !self.postponed_events.is_empty() || self.core.has_done_enough();
            let passes = matches!(&event, Event::Sent { result: Ok(_), .. }) && !self.core.draining;
            if is_late && !passes {
                self.postponed_events.push_back(event);
            } else {
                self.on_event(event);
            }
        }
        while !self.core.has_done_enough()
            && let Some(event) = self.postponed_events.pop_front()
        {
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event<N::Buffer>) {
        match event {
            Event::Received { socket, buffer } => {
                self.core.stage_received_bytes += buffer.len();
                let slot = Slot::from(socket);
                if let Some(mut connection) = self.core.connections.take(slot) {
                    self.core.lend(&mut connection);
                    let received = match connection.phase {
                        Phase::Ending { .. } => Ok(()),
                        _ => self.core.receive(&mut connection, &buffer),
                    };
                    self.core.take_back(&mut connection);
                    if let Err(end) = received {
                        self.core.end(&mut connection, &end);
                    }
                    self.core.owe_acknowledgement(&mut connection);
                    self.core.connections.put(connection);
                }
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
        let peer = self.network.prepare(&socket);
        let memory = self.core.memory.state();
        let entry = match self.core.admission.enter(&peer, memory) {
            Ok(entry) => entry,
            Err(refusal) => return self.core.refuse_unheard(&peer, refusal),
        };
        let shard = entry.shard;
        let newcomer = Newcomer {
            socket,
            listener,
            peer,
            entry,
        };
        if shard == self.core.shard {
            self.core.adopt(&mut self.network, newcomer);
        } else {
            let newcomer = Control::Adopt(Box::new(newcomer));
            self.core.mesh.tell(shard, newcomer);
        }
    }

    /// Looks at deadlines, each connection once in [`limits::SWEEP_PARTS`] sweeps.
    fn sweep(&mut self) {
        let late = self.core.now.duration_since(self.sweep_at);
        self.sweep_at = self.core.now + limits::SWEEP_INTERVAL;
        self.sweep_part = (self.sweep_part + 1) % limits::SWEEP_PARTS;
        self.core.sweep_pressed(late);
        self.core.look_at_memory();
        self.core.sweep_connections(self.sweep_part);
        self.core.counters.set_ring_enters(self.network.enters());
        for listening in &mut self.listeners {
            if listening.resume_at.is_some_and(|at| at <= self.core.now) {
                listening.resume_at = None;
                self.network.resume_accept(listening.id);
            }
        }
    }

    fn follow_orders(&mut self) {
        if self.drain == Drain::No && self.orders.drain_ordered() {
            self.drain = Drain::Listeners;
            for listening in &self.listeners {
                self.network.unlisten(listening.id);
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
                while !self.core.receive_mesh(&mut self.network) {
                    self.core.keep_within_limits();
                    self.core.begin_stage();
                }
            }
            self.core.drain_links();
            self.core.settle();
            self.core.flush(&mut self.network);
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

    fn adopt(&mut self, network: &mut impl Network, newcomer: Newcomer) {
        let Newcomer {
            socket,
            listener,
            peer,
            entry,
        } = newcomer;
        let settings = Settings {
            initial_window_bytes: limits::RECEIVE_WINDOW_BYTES,
            max_frame_bytes: limits::RECEIVE_FRAME_BYTES_MAX,
            max_header_list_bytes: limits::HEADER_LIST_BYTES_MAX,
            max_concurrent_streams: limits::STREAMS_PER_CONNECTION_MAX,
        };
        match network.adopt(socket) {
            Ok(socket) => {
                let control = self.pool.buffer();
                let limited = self.rates.is_limited();
                let admitted = Admitted {
                    listener,
                    peer,
                    entry,
                    ingress: limited.then(|| Box::new(self.rates.bucket(self.now))),
                    message_bytes_max: self.config.limits.message_bytes,
                };
                let connection = Connection::new(socket, admitted, control, settings, self.now);
                self.dirty.push(connection.slot);
                self.connections.put(Box::new(connection));
                self.counters.connections_open.add(1);
            }
            Err((error, _socket)) => {
                self.counters.connections_refused.add(1);
                self.admission.leave(&entry);
                if self.log_gate.admit(self.now, &self.counters) {
                    warn!(%peer, %error, "connection refused");
                }
            }
        }
    }

    fn on_sent(&mut self, slot: Slot, error: Option<std::io::Error>) {
        let Some(mut connection) = self.connections.take(slot) else {
            return;
        };
        match error {
            // What was being sent is lost with the connection, and counted there.
            Some(error) => self.end(&mut connection, &End::Failed(error)),
            None => {
                connection.egress.sent();
                connection.egress.account(&mut self.egress_bytes, self.now);
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

    /// A connection of this shard, also one that has closed and has publishes parked.
    pub fn publisher(&mut self, slot: Slot) -> Option<&mut Connection> {
        let left = &mut self.left;
        self.connections
            .get_mut(slot)
            .or_else(|| left.get_mut(&slot).map(Box::as_mut))
    }

    /// Reads, parcels and parked messages have a share of a turn each, so that none of them waits for the others for ever.
    fn begin_stage(&mut self) {
        self.delivered_before = self.counters.messages_delivered.get();
        self.stage_received_bytes = 0;
    }

    /// Whether this stage has taken in or delivered so much that it should be sent before more is taken in. One message to a
    /// large group is much work, and nobody is sent anything while a turn lasts. And what was read is best sent while it
    /// is still in the cache, before receivers have more ready than one send takes.
    pub fn has_done_enough(&self) -> bool {
        self.counters.messages_delivered.get() - self.delivered_before >= self.stage_deliveries
            || self.stage_received_bytes >= limits::STAGE_RECEIVED_BYTES
            || self.egress_bytes > self.egress_pause_bytes
    }

    /// Lets publishers go on that the last turn had no time for.
    fn go_on(&mut self) {
        self.resumable.append(&mut self.postponed);
    }

    /// Takes in what other shards sent. False if that is more than this turn should do: the rest comes next turn.
    fn receive_mesh(&mut self, network: &mut impl Network) -> bool {
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
                    Control::Adopt(newcomer) => self.adopt(network, *newcomer),
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
                    self.release_credit(&mut connection);
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
            let mut released = std::mem::take(&mut self.released);
            for publisher in released.drain(..) {
                self.release_publisher(publisher);
            }
            lending::keep(&mut self.released, released);
            let mut resumable = std::mem::take(&mut self.resumable);
            for publisher in resumable.drain(..) {
                if let Some(mut connection) = self.connections.take(publisher) {
                    self.lend(&mut connection);
                    self.resume(&mut connection);
                    self.take_back(&mut connection);
                    self.connections.put(connection);
                } else if let Some(mut connection) = self.left.remove(&publisher) {
                    self.resume(&mut connection);
                    // If its last message is what it is held for, nothing waits for the release.
                    if !connection.parked.is_empty() {
                        self.left.insert(publisher, connection);
                    }
                }
            }
            lending::keep(&mut self.resumable, resumable);
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
    fn flush(&mut self, network: &mut impl Network) {
        loop {
            self.mesh.flush(network, &mut self.released);
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
                connection.acknowledgement.sent();
                network.send(connection.socket, buffers);
            }
        }
        self.dirty = dirty;
        self.acknowledge_received(network);
        for socket in self.half_closing.drain(..) {
            network.shutdown_write(socket);
        }
        for socket in std::mem::take(&mut self.closing) {
            if let Some(mut connection) = self.connections.take(socket.into()) {
                // Only now, for in this turn a send may still have ended well.
                let lost = connection.egress.give_up();
                self.counters.dropped_receiver_left.add(lost);
                connection.egress.close_account(&mut self.egress_bytes);
                self.admission.leave(&connection.entry);
                if !connection.parked.is_empty() {
                    self.left.insert(connection.slot, connection);
                }
                self.counters.connection_closed();
                network.close(socket);
            }
        }
    }
}
