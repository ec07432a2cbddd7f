//! Bounded rings between shards: messages on one lane, everything else on another, so that a full message lane never
//! holds up an acknowledgement.
//!
//! One lane pair for each direction of each pair of shards; a lane has one writer and one reader. What a shard has to
//! say gathers in its outboxes during a turn and goes out at the end of it, with one wake-up for each shard that sleeps.
//!
//! The order that [`crate::routes`] relies on: a confirmation ([`Notice::Updated`], [`Notice::Counted`]) leaves only when
//! every message that was in an outbox before it has left, and a reader takes the control lane *before* the message lanes
//! but acts on it *after* them. So when a shard learns that a change is visible everywhere, every message that was routed
//! by the old knowledge has arrived. Messages that come later are not waited for: under load there always are some.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use slim_proto::route_header::RouteHeader;

use crate::admission;
use crate::connection::Peer;
use crate::limits;
use crate::network::Network;
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
    /// A new connection for you.
    Adopt(Box<Newcomer>),
}

/// A connection that was accepted and admitted, on its way to its shard.
pub struct Newcomer {
    pub socket: OwnedFd,
    /// Position of its listener in the configuration.
    pub listener: u16,
    pub peer: Peer,
    pub entry: admission::Entry,
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
    fn new(parcels: usize) -> Lane {
        Lane {
            parcels: ArrayQueue::new(parcels),
            control: ArrayQueue::new(limits::MESH_CONTROL_BATCHES),
            empties: ArrayQueue::new(parcels),
        }
    }

    fn is_empty(&self) -> bool {
        self.parcels.is_empty() && self.control.is_empty()
    }
}

/// What the shards of one router share: lanes, who sleeps.
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
}

impl Web {
    pub fn new(shards: u16) -> Arc<Web> {
        Web::with_lanes(shards, limits::MESH_LANE_PARCELS)
    }

    /// - `parcels`: as [`limits::MESH_LANE_PARCELS`], but where less is simulated.
    pub fn with_lanes(shards: u16, parcels: usize) -> Arc<Web> {
        let pairs = usize::from(shards) * usize::from(shards);
        Arc::new(Web {
            shards,
            lanes: (0..pairs).map(|_| Lane::new(parcels)).collect(),
            nodes: (0..shards).map(|_| Node::default()).collect(),
        })
    }

    fn lane(&self, from: ShardId, to: ShardId) -> &Lane {
        &self.lanes[usize::from(from.0) * usize::from(self.shards) + usize::from(to.0)]
    }

    fn node(&self, shard: ShardId) -> &Node {
        &self.nodes[usize::from(shard.0)]
    }
}

struct Outbox {
    open: Box<Parcel>,
    closed: VecDeque<Box<Parcel>>,
    /// Message bytes in `open` and `closed`.
    weight: usize,
    /// Parcels, the first ones, that go before the confirmations that are leaving.
    ahead: usize,
    control: Vec<Control>,
}

impl Outbox {
    /// Sends a parcel of this outbox, the first one. If the lane is full, it comes back.
    fn send(&mut self, parcel: Box<Parcel>, lane: &Lane) -> Result<(), Box<Parcel>> {
        let weight = parcel.weight;
        lane.parcels.push(parcel)?;
        self.weight -= weight;
        self.ahead = self.ahead.saturating_sub(1);
        Ok(())
    }
}

/// One shard's end of the mesh.
pub struct Mesh {
    shard: ShardId,
    web: Arc<Web>,
    outboxes: Vec<Outbox>,
    /// [`limits::MESH_OUTBOX_BYTES`], but where less is simulated.
    outbox_bytes: usize,
    /// Confirmations that must not overtake messages: those that gather, and those whose messages are being sent.
    confirmations: Vec<(ShardId, Control)>,
    confirmations_leaving: Vec<(ShardId, Control)>,
    /// Control batches taken and not yet acted on.
    received: VecDeque<(ShardId, Vec<Control>)>,
    /// Parcels of each sender that are to be dealt with before those batches.
    due: Vec<usize>,
    /// Publishers that wait for the outbox to this shard to empty.
    pub lane_holds: Vec<Vec<Slot>>,
}

impl Mesh {
    pub fn join(shard: ShardId, web: Arc<Web>) -> Mesh {
        let outbox = || Outbox {
            open: Box::default(),
            closed: VecDeque::new(),
            weight: 0,
            ahead: 0,
            control: Vec::new(),
        };
        let shards = web.shards;
        Mesh {
            shard,
            outboxes: (0..web.shards).map(|_| outbox()).collect(),
            outbox_bytes: limits::MESH_OUTBOX_BYTES,
            lane_holds: (0..web.shards).map(|_| Vec::new()).collect(),
            web,
            confirmations: Vec::new(),
            confirmations_leaving: Vec::new(),
            received: VecDeque::new(),
            due: vec![0; usize::from(shards)],
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
        outbox.weight < self.outbox_bytes
    }

    pub fn tell(&mut self, to: ShardId, control: Control) {
        if let Control::Notice(Notice::Updated { .. } | Notice::Counted { .. }) = control {
            self.confirmations.push((to, control));
        } else {
            self.outboxes[usize::from(to.0)].control.push(control);
        }
    }

    /// Sends what gathered, wakes who sleeps. Publishers whose lane has room again are added to `released`.
    pub fn flush(&mut self, network: &mut impl Network, released: &mut Vec<Slot>) {
        if self.web.shards == 1 {
            return;
        }
        if self.confirmations_leaving.is_empty() && !self.confirmations.is_empty() {
            std::mem::swap(&mut self.confirmations_leaving, &mut self.confirmations);
            for outbox in &mut self.outboxes {
                outbox.ahead = outbox.closed.len() + usize::from(!outbox.open.messages.is_empty());
            }
        }
        for to in self.peers() {
            let lane = self.web.lane(self.shard, to);
            let outbox = &mut self.outboxes[usize::from(to.0)];
            let mut sent = false;
            while let Some(parcel) = outbox.closed.pop_front() {
                match outbox.send(parcel, lane) {
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
                let parcel = std::mem::replace(&mut outbox.open, next);
                match outbox.send(parcel, lane) {
                    Ok(()) => sent = true,
                    Err(parcel) => outbox.closed.push_back(parcel),
                }
            }
            if sent {
                self.wake(to, network);
            }
            if self.outboxes[usize::from(to.0)].weight < self.outbox_bytes / 2 {
                released.append(&mut self.lane_holds[usize::from(to.0)]);
            }
        }
        if self.outboxes.iter().all(|outbox| outbox.ahead == 0) {
            for (to, control) in self.confirmations_leaving.drain(..) {
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
                Ok(()) => self.wake(to, network),
                // Full: the same messages, in the same order, next turn.
                Err(batch) => outbox.control = batch,
            }
        }
    }

    fn wake(&self, to: ShardId, network: &mut impl Network) {
        // Pairs with the fence in `may_wait`: either we see that the shard sleeps, or it sees what we pushed.
        fence(Ordering::SeqCst);
        let node = self.web.node(to);
        if node.asleep.load(Ordering::Relaxed) && node.asleep.swap(false, Ordering::AcqRel) {
            network.wake(to);
        }
    }

    /// Message bytes in the outboxes.
    pub fn bytes(&self) -> usize {
        self.outboxes.iter().map(|outbox| outbox.weight).sum()
    }

    /// Whether all that other shards must hear, messages and confirmations apart, is in the lanes.
    pub fn has_told_all(&self) -> bool {
        self.outboxes.iter().all(|outbox| outbox.control.is_empty())
    }

    /// Whether anything waits at this end that the next turn can move.
    fn is_backed_up(&self) -> bool {
        !self.confirmations.is_empty()
            || !self.confirmations_leaving.is_empty()
            || !self.has_told_all()
            || self.outboxes.iter().any(|outbox| outbox.weight > 0)
    }

    /// For how long this shard may wait, at most `patience`. Announces that it is about to: then others wake it. Not at
    /// all if something has come; only shortly if a full lane must be tried again, for whoever empties it says nothing.
    pub fn may_wait(&self, patience: Duration) -> Duration {
        if self.web.shards == 1 {
            return patience;
        }
        let asleep = &self.web.node(self.shard).asleep;
        asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let quiet = self
            .peers()
            .all(|from| self.web.lane(from, self.shard).is_empty());
        if !quiet {
            asleep.store(false, Ordering::Relaxed);
            Duration::ZERO
        } else if self.is_backed_up() {
            patience.min(limits::MESH_RETRY)
        } else {
            patience
        }
    }

    pub fn awake(&self) {
        if self.web.shards > 1 {
            self.web
                .node(self.shard)
                .asleep
                .store(false, Ordering::Relaxed);
        }
    }

    /// Takes what came, control first: [`Mesh::next_control`] is to be asked when no parcel is due any more. Takes nothing
    /// before.
    pub fn take_control(&mut self) {
        if self.is_parcel_due() {
            return;
        }
        for from in self.peers() {
            let lane = self.web.lane(from, self.shard);
            // Bounded by what is there now: a busy neighbour must not keep us here.
            for _ in 0..limits::MESH_CONTROL_BATCHES {
                let Some(batch) = lane.control.pop() else {
                    break;
                };
                self.received.push_back((from, batch));
            }
        }
        // After all control is taken, for one sender's may be about another's parcels.
        for from in self.peers() {
            self.due[usize::from(from.0)] = self.web.lane(from, self.shard).parcels.len();
        }
    }

    /// The next parcel from `from` that control waits for.
    pub fn next_parcel(&mut self, from: ShardId) -> Option<Box<Parcel>> {
        let due = &mut self.due[usize::from(from.0)];
        *due = due.checked_sub(1)?;
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

    /// Whether control that was taken waits for parcels.
    pub fn is_parcel_due(&self) -> bool {
        self.due.iter().any(|parcels| *parcels > 0)
    }

    pub fn next_control(&mut self) -> Option<(ShardId, Vec<Control>)> {
        self.received.pop_front()
    }

    pub fn senders(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.peers()
    }
}

/// For the simulation.
#[cfg(test)]
impl Mesh {
    /// What is not as it is when nothing is under way.
    pub fn unrest(&self) -> Option<&'static str> {
        if self.is_backed_up() {
            Some("the mesh is backed up")
        } else if self.is_parcel_due() || !self.received.is_empty() {
            Some("control or parcels were taken and not dealt with")
        } else if self.lane_holds.iter().any(|held| !held.is_empty()) {
            Some("publishers wait for a lane")
        } else {
            None
        }
    }

    /// Whether another shard has sent something that this one has not taken.
    pub fn has_mail(&self) -> bool {
        let lane = |from| self.web.lane(from, self.shard);
        self.peers().any(|from| !lane(from).is_empty())
    }

    pub fn limit_outboxes(&mut self, bytes: usize) {
        self.outbox_bytes = bytes;
    }

    /// Message bytes that wait for another shard, at most.
    pub fn outbox_bytes_max(&self) -> usize {
        let weights = self.outboxes.iter().map(|outbox| outbox.weight);
        weights.max().unwrap_or(0)
    }

    /// Messages that this shard has not sent, and that were sent to it and not taken.
    pub fn stranded(&self) -> usize {
        let own = self.outboxes.iter().flat_map(|outbox| {
            let closed = outbox.closed.iter().map(Box::as_ref);
            closed.chain([outbox.open.as_ref()])
        });
        let own: usize = own.map(|parcel| parcel.messages.len()).sum();
        let mut sent = 0;
        for from in self.peers() {
            while let Some(parcel) = self.web.lane(from, self.shard).parcels.pop() {
                sent += parcel.messages.len();
            }
        }
        own + sent
    }
}

#[cfg(test)]
mod tests {
    use slim_proto::message::{peer_subscribe, wire};
    use slim_proto::route_header::{self, Parsed};
    use slim_ring::RingConfig;

    use super::*;
    use crate::network::{Bells, RingNetwork};

    const PUBLISHER: Slot = Slot {
        index: 0,
        generation: 0,
    };

    /// One shard's end of a web of three, and the lanes.
    struct End {
        network: RingNetwork,
        mesh: Mesh,
        header: RouteHeader,
    }

    impl End {
        fn new() -> End {
            let config = RingConfig {
                submission_entries: 8,
                completion_entries: 16,
                receive_buffers: 1,
                receive_buffer_bytes: 4_096,
                sockets_max: 1,
            };
            let name = wire::Name {
                name: Some(wire::EncodedName::default()),
                ..Default::default()
            };
            let Ok(Parsed::Routed(header)) = route_header::parse(&peer_subscribe(name, 1, 8))
            else {
                panic!("a whole message");
            };
            End {
                mesh: Mesh::join(ShardId(0), Web::new(3)),
                network: RingNetwork::open(ShardId(0), Bells::new(3), config).unwrap(),
                header,
            }
        }

        /// Each of these fills a parcel.
        fn consign(&mut self, messages: usize) {
            let message = vec![0; limits::MESH_PARCEL_BYTES];
            for _ in 0..messages {
                self.mesh
                    .consign(ShardId(1), &self.header, PUBLISHER, &message, None);
            }
        }

        fn flush(&mut self) {
            self.mesh.flush(&mut self.network, &mut Vec::new());
        }

        /// Takes one parcel, as shard 1.
        fn take_parcel(&self) -> bool {
            let lane = self.mesh.web.lane(ShardId(0), ShardId(1));
            lane.parcels.pop().is_some()
        }

        fn has_told(&self, to: u16) -> bool {
            let lane = self.mesh.web.lane(ShardId(0), ShardId(to));
            !lane.control.is_empty()
        }
    }

    fn updated() -> Control {
        Control::Notice(Notice::Updated { change: 1 })
    }

    fn counted() -> Control {
        Control::Notice(Notice::Counted {
            name: slim_proto::name::RouteName {
                prefix: [0; 3],
                id: slim_proto::name::InstanceId::NULL,
            },
            ticket: 1,
        })
    }

    #[test]
    fn a_confirmation_leaves_at_once_when_no_message_waits() {
        let mut end = End::new();
        end.consign(1);
        end.mesh.tell(ShardId(2), updated());
        end.flush();
        assert!(end.has_told(2));
    }

    #[test]
    fn a_confirmation_waits_for_the_messages_before_it_and_not_for_those_that_keep_coming() {
        const WAITING: usize = 3;
        for confirmation in [updated, counted] {
            let mut end = End::new();
            end.consign(limits::MESH_LANE_PARCELS + WAITING);
            end.mesh.tell(ShardId(2), confirmation());
            end.flush();
            for _ in 0..WAITING {
                assert!(!end.has_told(2), "it overtook a message");
                assert!(end.take_parcel());
                end.consign(1);
                end.flush();
            }
            assert!(end.has_told(2), "the flood keeps it");
            let patience = end.mesh.may_wait(Duration::from_secs(1));
            assert_eq!(patience, limits::MESH_RETRY, "messages wait");
        }
    }

    #[test]
    fn a_confirmation_waits_for_the_parcel_that_is_open() {
        let mut end = End::new();
        end.consign(limits::MESH_LANE_PARCELS);
        end.mesh
            .consign(ShardId(1), &end.header, PUBLISHER, b"small", None);
        end.mesh.tell(ShardId(2), updated());
        end.flush();
        assert!(!end.has_told(2));
        assert!(end.take_parcel());
        end.flush();
        assert!(end.has_told(2));
        assert!(!end.mesh.is_backed_up());
    }
}
