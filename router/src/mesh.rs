//! Bounded rings between shards: messages on one lane, everything else on another, so that a full message lane never
//! holds up an acknowledgement.
//!
//! One lane pair for each direction of each pair of shards; a lane has one writer and one reader. What a shard has to
//! say gathers in its outboxes during a turn and goes out at the end of it, with one wake-up for each shard that sleeps.
//!
//! The order that [`crate::routes`] relies on: a confirmation ([`Notice::Updated`]) leaves only when no message waits in
//! any outbox, and a reader takes the control lane *before* the message lanes but acts on it *after* them. So when a
//! shard learns that a change is visible everywhere, every message that was routed by the old knowledge has arrived.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use slim_proto::route_header::RouteHeader;
use slim_ring::{Ring, RingAddress};

use crate::limits;
use crate::routes::{Notice, ShardId, Slot};

/// What one shard tells another, messages apart.
pub enum Control {
    Notice(Notice),
    /// A receiver is full: take no more from this publisher of yours. One Release follows each Hold.
    Hold {
        publisher: Slot,
    },
    Release {
        publisher: Slot,
    },
    /// A new connection for you, accepted on the listener with this position in the configuration.
    Adopt {
        socket: OwnedFd,
        listener: u16,
    },
}

/// Messages for one shard, in order.
#[derive(Default)]
pub struct Parcel {
    bytes: Vec<u8>,
    messages: Vec<Consignment>,
    /// Message bytes, shared ones included.
    weight: usize,
}

struct Consignment {
    header: RouteHeader,
    publisher: Slot,
    body: Body,
}

enum Body {
    Copied { start: usize, end: usize },
    Shared(Bytes),
}

/// A message that another shard routed here.
pub struct Arrived<'a> {
    pub header: &'a RouteHeader,
    pub publisher: Slot,
    pub message: &'a [u8],
    /// The same message, if its bytes can be shared.
    pub shared: Option<&'a Bytes>,
}

impl Parcel {
    fn push(
        &mut self,
        header: &RouteHeader,
        publisher: Slot,
        message: &[u8],
        shared: Option<&Bytes>,
    ) {
        let body = match shared {
            Some(bytes) => Body::Shared(bytes.clone()),
            None => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(message);
                Body::Copied {
                    start,
                    end: self.bytes.len(),
                }
            }
        };
        self.weight += message.len();
        self.messages.push(Consignment {
            header: *header,
            publisher,
            body,
        });
    }

    pub fn messages(&self) -> impl Iterator<Item = Arrived<'_>> {
        self.messages.iter().map(
            |Consignment {
                 header,
                 publisher,
                 body,
             }| {
                let (message, shared) = match body {
                    Body::Copied { start, end } => (&self.bytes[*start..*end], None),
                    Body::Shared(bytes) => (&bytes[..], Some(bytes)),
                };
                Arrived {
                    header,
                    publisher: *publisher,
                    message,
                    shared,
                }
            },
        )
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.messages.clear();
        self.weight = 0;
    }
}

struct Lane {
    parcels: ArrayQueue<Box<Parcel>>,
    control: ArrayQueue<Vec<Control>>,
    /// Read parcels on their way home, so that steady traffic allocates nothing.
    empties: ArrayQueue<Box<Parcel>>,
}

impl Lane {
    fn new() -> Lane {
        Lane {
            parcels: ArrayQueue::new(limits::MESH_LANE_PARCELS),
            control: ArrayQueue::new(limits::MESH_CONTROL_BATCHES),
            empties: ArrayQueue::new(limits::MESH_LANE_PARCELS),
        }
    }

    /// Sends a parcel, and takes its weight off the outbox it comes from.
    fn send(&self, parcel: Box<Parcel>, outbox_weight: &mut usize) -> Result<(), Box<Parcel>> {
        let weight = parcel.weight;
        self.parcels.push(parcel)?;
        *outbox_weight -= weight;
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.parcels.is_empty() && self.control.is_empty()
    }
}

/// What the shards of one router share: lanes, who sleeps, how to wake it, how many connections it has.
pub struct Web {
    shards: u16,
    /// `lanes[from * shards + to]`.
    lanes: Vec<Lane>,
    nodes: Vec<Node>,
}

/// Two cache lines of distance: one shard's sleep must not slow its neighbour.
#[repr(align(128))]
#[derive(Default)]
struct Node {
    asleep: AtomicBool,
    connections: AtomicU32,
    address: OnceLock<RingAddress>,
}

impl Web {
    pub fn new(shards: u16) -> Arc<Web> {
        let pairs = usize::from(shards) * usize::from(shards);
        Arc::new(Web {
            shards,
            lanes: (0..pairs).map(|_| Lane::new()).collect(),
            nodes: (0..shards).map(|_| Node::default()).collect(),
        })
    }

    fn lane(&self, from: ShardId, to: ShardId) -> &Lane {
        &self.lanes[usize::from(from.0) * usize::from(self.shards) + usize::from(to.0)]
    }

    fn node(&self, shard: ShardId) -> &Node {
        &self.nodes[usize::from(shard.0)]
    }

    /// The shard with the fewest connections, the first of several; counts the new connection there.
    pub fn place_connection(&self) -> ShardId {
        let load = |shard: &u16| {
            self.nodes[usize::from(*shard)]
                .connections
                .load(Ordering::Relaxed)
        };
        let shard = ShardId((0..self.shards).min_by_key(load).unwrap_or(0));
        self.node(shard).connections.fetch_add(1, Ordering::Relaxed);
        shard
    }

    pub fn connection_gone(&self, shard: ShardId) {
        self.node(shard).connections.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Outbox {
    open: Box<Parcel>,
    closed: VecDeque<Box<Parcel>>,
    /// Message bytes in `open` and `closed`.
    weight: usize,
    control: Vec<Control>,
}

/// One shard's end of the mesh.
pub struct Mesh {
    shard: ShardId,
    web: Arc<Web>,
    outboxes: Vec<Outbox>,
    /// Confirmations that must not overtake messages.
    confirmations: Vec<(ShardId, Control)>,
    /// Control batches taken and not yet acted on.
    received: VecDeque<(ShardId, Vec<Control>)>,
    /// Publishers that wait for the outbox to this shard to empty.
    pub lane_holds: Vec<Vec<Slot>>,
}

impl Mesh {
    /// Announces `ring` as where this shard is woken.
    pub fn join(shard: ShardId, web: Arc<Web>, ring: &Ring) -> Mesh {
        let _ = web.node(shard).address.set(ring.address());
        let outbox = || Outbox {
            open: Box::default(),
            closed: VecDeque::new(),
            weight: 0,
            control: Vec::new(),
        };
        Mesh {
            shard,
            outboxes: (0..web.shards).map(|_| outbox()).collect(),
            lane_holds: (0..web.shards).map(|_| Vec::new()).collect(),
            web,
            confirmations: Vec::new(),
            received: VecDeque::new(),
        }
    }

    fn peers(&self) -> impl Iterator<Item = ShardId> + use<> {
        let own = self.shard;
        (0..self.web.shards)
            .map(ShardId)
            .filter(move |shard| *shard != own)
    }

    /// Puts a message into the outbox to `to`. False if that is over its bound now: the publisher must wait.
    pub fn consign(
        &mut self,
        to: ShardId,
        header: &RouteHeader,
        publisher: Slot,
        message: &[u8],
        shared: Option<&Bytes>,
    ) -> bool {
        let outbox = &mut self.outboxes[usize::from(to.0)];
        outbox.open.push(header, publisher, message, shared);
        outbox.weight += message.len();
        if outbox.open.weight >= limits::MESH_PARCEL_BYTES {
            let next = self
                .web
                .lane(self.shard, to)
                .empties
                .pop()
                .unwrap_or_default();
            outbox
                .closed
                .push_back(std::mem::replace(&mut outbox.open, next));
        }
        outbox.weight < limits::MESH_OUTBOX_BYTES
    }

    pub fn tell(&mut self, to: ShardId, control: Control) {
        if let Control::Notice(Notice::Updated { .. }) = control {
            self.confirmations.push((to, control));
        } else {
            self.outboxes[usize::from(to.0)].control.push(control);
        }
    }

    /// Sends what gathered, wakes who sleeps. Publishers whose lane has room again are added to `released`.
    pub fn flush(&mut self, ring: &mut Ring, released: &mut Vec<Slot>) {
        if self.web.shards == 1 {
            return;
        }
        let mut backed_up = false;
        for to in self.peers() {
            let lane = self.web.lane(self.shard, to);
            let outbox = &mut self.outboxes[usize::from(to.0)];
            let mut sent = false;
            while let Some(parcel) = outbox.closed.pop_front() {
                match lane.send(parcel, &mut outbox.weight) {
                    Ok(()) => sent = true,
                    Err(parcel) => {
                        outbox.closed.push_front(parcel);
                        break;
                    }
                }
            }
            // While the lane is full the open parcel goes on growing: one large parcel is cheaper than many small ones.
            if outbox.closed.is_empty()
                && !outbox.open.messages.is_empty()
                && !lane.parcels.is_full()
            {
                let next = lane.empties.pop().unwrap_or_default();
                match lane.send(
                    std::mem::replace(&mut outbox.open, next),
                    &mut outbox.weight,
                ) {
                    Ok(()) => sent = true,
                    Err(parcel) => outbox.closed.push_back(parcel),
                }
            }
            backed_up |= outbox.weight > 0;
            if sent {
                self.wake(to, ring);
            }
            if self.outboxes[usize::from(to.0)].weight < limits::MESH_OUTBOX_BYTES / 2 {
                released.append(&mut self.lane_holds[usize::from(to.0)]);
            }
        }
        if !backed_up {
            for (to, control) in self.confirmations.drain(..) {
                self.outboxes[usize::from(to.0)].control.push(control);
            }
        }
        for to in self.peers() {
            let outbox = &mut self.outboxes[usize::from(to.0)];
            if outbox.control.is_empty() {
                continue;
            }
            match self
                .web
                .lane(self.shard, to)
                .control
                .push(std::mem::take(&mut outbox.control))
            {
                Ok(()) => self.wake(to, ring),
                // Full: the same messages, in the same order, next turn.
                Err(batch) => outbox.control = batch,
            }
        }
    }

    fn wake(&self, to: ShardId, ring: &mut Ring) {
        // Pairs with the fence in `may_sleep`: either we see that the shard sleeps, or it sees what we pushed.
        fence(Ordering::SeqCst);
        let node = self.web.node(to);
        if node.asleep.load(Ordering::Relaxed)
            && node.asleep.swap(false, Ordering::AcqRel)
            && let Some(address) = node.address.get()
        {
            ring.wake(address);
        }
    }

    /// Whether anything waits at this end that the next turn can move.
    fn is_backed_up(&self) -> bool {
        !self.confirmations.is_empty()
            || self
                .outboxes
                .iter()
                .any(|outbox| !outbox.control.is_empty() || outbox.weight > 0)
    }

    /// Announces that this shard is about to wait. False if something has come in the meantime, or if a full lane must be
    /// tried again soon: then it must not wait for long.
    pub fn may_sleep(&self) -> bool {
        if self.web.shards == 1 {
            return true;
        }
        let asleep = &self.web.node(self.shard).asleep;
        asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let quiet = self
            .peers()
            .all(|from| self.web.lane(from, self.shard).is_empty());
        if !quiet || self.is_backed_up() {
            asleep.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub fn awake(&self) {
        if self.web.shards > 1 {
            self.web
                .node(self.shard)
                .asleep
                .store(false, Ordering::Relaxed);
        }
    }

    /// Takes what came, control first: [`Mesh::next_control`] gives it out when the parcels have been dealt with.
    pub fn take_control(&mut self) {
        for from in self.peers() {
            // Bounded by what is there now: a busy neighbour must not keep us here.
            for _ in 0..limits::MESH_CONTROL_BATCHES {
                let Some(batch) = self.web.lane(from, self.shard).control.pop() else {
                    break;
                };
                self.received.push_back((from, batch));
            }
        }
    }

    /// The next parcel from `from`; at most [`limits::MESH_LANE_PARCELS`] should be taken in a turn.
    pub fn next_parcel(&self, from: ShardId) -> Option<Box<Parcel>> {
        self.web.lane(from, self.shard).parcels.pop()
    }

    /// Sends an emptied parcel home.
    pub fn return_parcel(&self, from: ShardId, mut parcel: Box<Parcel>) {
        parcel.clear();
        if parcel.bytes.capacity() <= 2 * limits::MESH_PARCEL_BYTES {
            // Full means that the sender has all it needs.
            let _ = self.web.lane(from, self.shard).empties.push(parcel);
        }
    }

    pub fn next_control(&mut self) -> Option<(ShardId, Vec<Control>)> {
        self.received.pop_front()
    }

    pub fn senders(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.peers()
    }
}
