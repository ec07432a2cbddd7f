//! One client connection: Handshaking → Negotiating → Open → Ending.
//!
//! A connection owns its HTTP/2 state, its egress and, while open, the link: key, class and subscriptions. It knows no
//! other connection; what it shares with them goes through [`crate::shard::Core`].

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ahash::RandomState;
use indexmap::IndexSet;
use slim_proto::grpc::{Deframer, FrameError};
use slim_proto::http2::{ConnectionError, ErrorCode, ServerConnection, StreamId};
use slim_proto::link::{LinkMac, NegotiationError};
use slim_proto::name::RouteName;
use slim_proto::route_header::{DecodeError, LastNames};
use slim_ring::SocketId;

use crate::acknowledge::Acknowledgement;
use crate::admission::{self, Refusal};
use crate::egress::Egress;
use crate::limits;
use crate::parked::Parked;
use crate::rate::Ingress;
use crate::routes::{Class, Slot, growth_bytes};

pub struct Connection {
    pub socket: SocketId,
    pub slot: Slot,
    /// Position of its listener in the configuration.
    pub listener: u16,
    pub peer: Peer,
    /// Its line in the book of connections.
    pub entry: admission::Entry,
    /// Its link message, while it waits for room.
    pub waiting_link: Option<Vec<u8>>,
    /// How fast it may send, if that is limited.
    pub ingress: Option<Box<Ingress>>,
    pub http2: ServerConnection,
    pub egress: Egress,
    pub deframer: Deframer,
    pub phase: Phase,
    /// Publishes that wait, in order, for what holds this publisher back.
    pub parked: Parked,
    /// Receivers, lanes and directory answers that this publisher waits for.
    pub holds: u32,
    /// Subscribes and unsubscribes that not every shard has seen yet.
    pub unsettled: u32,
    /// Flow-controlled bytes received for which no credit has been given back yet.
    pub withheld_bytes: u32,
    /// It is among those to which the shard owes credit for the time when memory was tight.
    pub starved: bool,
    pub heard_at: Instant,
    pub pinged_at: Option<Instant>,
    pub acknowledgement: Acknowledgement,
    /// Since when the kernel took nothing of what waits, and what it had taken by then.
    stalled: Option<(Instant, u64)>,
    /// Has something to send at the end of this turn.
    pub dirty: bool,
    /// Its socket is closed at the end of this turn.
    pub closing: bool,
}

/// What a connection is made with, beside its socket.
pub struct Admitted {
    pub listener: u16,
    pub peer: Peer,
    pub entry: admission::Entry,
    pub ingress: Option<Box<Ingress>>,
    pub message_bytes_max: usize,
}

/// Where a connection comes from, for the log and for who is counted together.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix socket"),
        }
    }
}

pub enum Phase {
    /// Waits for an OpenChannel request.
    Handshaking {
        deadline: Instant,
    },
    /// Has answered the request; waits for the link message.
    Negotiating {
        stream: StreamId,
        deadline: Instant,
    },
    Open(Box<Link>),
    /// Sends its last bytes and waits for the peer to close.
    Ending {
        deadline: Instant,
        half_closed: bool,
        /// It sends no more, but it may read.
        peer_closed: bool,
    },
}

/// A negotiated link.
pub struct Link {
    pub stream: StreamId,
    /// `None` only on a listener that is lax, for a dialer that offered no key.
    pub mac: Option<LinkMac>,
    pub class: Class,
    pub subscriptions: Subscriptions,
    /// Of the last message that came.
    pub last_names: LastNames,
}

impl Connection {
    pub fn new(
        socket: SocketId,
        newcomer: Admitted,
        mut control: Vec<u8>,
        settings: slim_proto::http2::Settings,
        now: Instant,
    ) -> Connection {
        let http2 = ServerConnection::new(settings, &mut control);
        let mut egress = Egress::default();
        egress.control = control;
        Connection {
            socket,
            slot: Slot {
                index: socket.index(),
                generation: socket.generation(),
            },
            listener: newcomer.listener,
            peer: newcomer.peer,
            entry: newcomer.entry,
            waiting_link: None,
            ingress: newcomer.ingress,
            http2,
            egress,
            deframer: Deframer::with_limit(newcomer.message_bytes_max),
            phase: Phase::Handshaking {
                deadline: now + limits::HANDSHAKE_TIMEOUT,
            },
            parked: Parked::default(),
            holds: 0,
            unsettled: 0,
            withheld_bytes: 0,
            starved: false,
            heard_at: now,
            pinged_at: None,
            acknowledgement: Acknowledgement::default(),
            stalled: None,
            dirty: true,
            closing: false,
        }
    }

    pub fn stream(&self) -> Option<StreamId> {
        match &self.phase {
            Phase::Negotiating { stream, .. } => Some(*stream),
            Phase::Open(link) => Some(link.stream),
            Phase::Handshaking { .. } | Phase::Ending { .. } => None,
        }
    }

    /// What it means that the peer has ended its half of the link's stream.
    pub fn half_closed(&self) -> End {
        if self.deframer.is_mid_message() {
            End::Truncated {
                bytes: self.deframer.buffered_bytes(),
            }
        } else {
            End::LinkEnded
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    pub fn is_held(&self) -> bool {
        self.holds > 0 || !self.parked.is_empty()
    }

    /// Gives credit back for what was read, unless this client must wait: for what its publishes wait for, or for the
    /// other shards to see what it subscribed to.
    pub fn release_credit(&mut self) {
        if self.is_held() || self.unsettled >= limits::SUBSCRIPTIONS_UNSETTLED_MAX {
            return;
        }
        let bytes = std::mem::take(&mut self.withheld_bytes);
        self.http2.release(bytes, &mut self.egress.control);
    }

    /// For how long nothing of what waits has been taken, be it ever so little; to be asked once a second.
    pub fn stalled_for(&mut self, now: Instant) -> Duration {
        let taken_bytes = self.egress.taken_bytes();
        match self.stalled {
            _ if self.egress.bytes() == 0 => self.stalled = None,
            Some((since, taken)) if taken == taken_bytes => return now.duration_since(since),
            _ => self.stalled = Some((now, taken_bytes)),
        }
        Duration::ZERO
    }

    /// Moves waiting messages on after a window has opened or a send is done.
    pub fn pump(&mut self) {
        if let Some(stream) = self.stream() {
            self.egress.pump(&mut self.http2, stream);
        }
    }
}

/// What a connection subscribed to: one record for each (name, subscription id), kept apart by whether the name came with
/// an id at all (T19).
pub struct Subscriptions {
    records_max: usize,
    /// In an order that depends on what the client did and on nothing else: they are announced in it when it goes.
    records: IndexSet<Record, RandomState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub name: RouteName,
    pub id_present: bool,
    pub subscription_id: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Recorded {
    New,
    Repeated,
    /// The connection has as many as it may.
    Full,
}

impl Subscriptions {
    pub fn with_limit(records_max: usize) -> Subscriptions {
        Subscriptions {
            records_max,
            records: IndexSet::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes that these records take when there is room for more of them to be made, if that is near.
    pub fn growth_bytes(&self) -> usize {
        growth_bytes(
            self.records.len(),
            self.records.capacity(),
            size_of::<Record>(),
        )
    }

    pub fn add(&mut self, record: Record) -> Recorded {
        if self.records.contains(&record) {
            Recorded::Repeated
        } else if self.records.len() >= self.records_max {
            Recorded::Full
        } else {
            self.records.insert(record);
            Recorded::New
        }
    }

    /// Removes the record; or, if there is none, the one that a replay after reconnecting left with id 0 (T10).
    pub fn remove(&mut self, record: Record) -> bool {
        self.records.swap_remove(&record)
            || self.records.swap_remove(&Record {
                subscription_id: 0,
                ..record
            })
    }

    pub fn names(&self) -> impl Iterator<Item = RouteName> {
        self.records.iter().map(|record| record.name)
    }
}

/// Why a connection ends. Each is logged, counted and answered in its own way (see [`End::farewell`]).
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer ended the link")]
    LinkEnded,
    #[error("the connection failed: {0}")]
    Failed(std::io::Error),
    #[error("{0}")]
    Http2(#[from] ConnectionError),
    #[error("gRPC framing: {0}")]
    Framing(#[from] FrameError),
    #[error("gRPC framing: the link ended {bytes} bytes into a message")]
    Truncated { bytes: usize },
    #[error("undecodable message: {0}")]
    Undecodable(#[from] DecodeError),
    #[error("link negotiation: {0}")]
    Negotiation(#[from] NegotiationError),
    // As existing nodes word it: it goes out as grpc-message (dataplane 5.3).
    #[error("{0}")]
    Refused(&'static str),
    #[error("no OpenChannel request within {} s", limits::HANDSHAKE_TIMEOUT.as_secs())]
    NoRequest,
    #[error("no link message within {seconds} s of the request")]
    NoLink { seconds: u64 },
    #[error("no answer to a keepalive ping within {seconds} s")]
    Silent { seconds: u64 },
    #[error(
        "more than {} bytes of HTTP/2 answers asked for and not read",
        limits::CONTROL_BYTES_MAX
    )]
    ControlUnread,
    #[error(
        "more than {} acknowledgements asked for and not read",
        limits::ACKS_WAITING_MAX
    )]
    AcksUnread,
    #[error(
        "slow receiver: {bytes} bytes waited for longer than {} s",
        limits::EGRESS_GRACE.as_secs()
    )]
    Slow { bytes: usize },
    #[error("{bytes} bytes waited and none was read for {} s", limits::STALL_TIMEOUT.as_secs())]
    Stalled { bytes: usize },
    #[error(
        "its unfinished message made {bytes} bytes of such on this shard, {limit} are the limit"
    )]
    Unfinished { bytes: usize, limit: usize },
    #[error("{0}; come back later")]
    TurnedAway(Refusal),
    #[error(
        "{bytes} bytes waited for it, the most of all, and more for all receivers than a shard may have"
    )]
    Crowding { bytes: usize },
    #[error("the router is shutting down")]
    Drained,
}

/// What the peer is told at the end.
pub enum Farewell {
    /// Nothing: it has gone, or does not read.
    None,
    /// GOAWAY with this code: it broke HTTP/2.
    GoAway(ErrorCode),
    /// grpc-status trailers on its link.
    Trailers(u32),
}

/// gRPC status codes (gRPC over HTTP/2, "Status codes").
pub mod status {
    pub const OK: u32 = 0;
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const DEADLINE_EXCEEDED: u32 = 4;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
}

impl End {
    /// Clients reconnect at once after every status but PERMISSION_DENIED (dataplane 1.7), so the status may tell the truth.
    pub fn farewell(&self) -> Farewell {
        match self {
            End::Closed
            | End::Failed(_)
            | End::Silent { .. }
            | End::Slow { .. }
            | End::Stalled { .. }
            | End::Crowding { .. } => Farewell::None,
            End::ControlUnread | End::AcksUnread => Farewell::GoAway(ErrorCode::ENHANCE_YOUR_CALM),
            End::NoRequest => Farewell::GoAway(ErrorCode::NO_ERROR),
            End::Http2(error) => Farewell::GoAway(error.code()),
            End::LinkEnded | End::Drained => Farewell::Trailers(status::OK),
            End::Framing(FrameError::Compressed { .. }) => {
                Farewell::Trailers(status::UNIMPLEMENTED)
            }
            End::Framing(FrameError::TooLarge { .. })
            | End::Unfinished { .. }
            | End::TurnedAway(_) => Farewell::Trailers(status::RESOURCE_EXHAUSTED),
            End::Truncated { .. } => Farewell::Trailers(status::INTERNAL),
            End::Undecodable(_) | End::Negotiation(_) => {
                Farewell::Trailers(status::INVALID_ARGUMENT)
            }
            End::Refused(_) => Farewell::Trailers(status::PERMISSION_DENIED),
            End::NoLink { .. } => Farewell::Trailers(status::DEADLINE_EXCEEDED),
        }
    }
}
