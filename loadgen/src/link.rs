//! One connection to a server, whatever its protocol: the only thing that a new protocol has to be.
//!
//! A link is pure: bytes in, messages and bytes out. Sockets, time and what the messages are for belong to the worker.

use std::sync::Arc;

use slim_proto::grpc::{FrameError, Piece};
use slim_proto::link::NegotiationError;
use slim_proto::name::{InstanceId, Name};
use slim_proto::route_header::DecodeError;
use slim_ring::SendBuffers;

use crate::http2::Http2Error;
use crate::message::{Flow, Stamp};
use crate::nats::NatsError;
use crate::tcp::TcpError;

/// A connection of one client, from its first byte to its last.
pub trait Link {
    /// Cuts the next event off the front of `input`, which arrives in order, cut anywhere. `None` when it is used up.
    ///
    /// Errors: [`LinkError`]; the connection is then of no further use.
    fn next_arrival<'a>(&mut self, input: &mut Input<'a>)
    -> Result<Option<Arrived<'a>>, LinkError>;

    /// Queues a message. To be called once [`Arrived::Ready`] was seen.
    ///
    /// - `flow`: an index into [`Opening::flows`].
    /// - `stamp`: the end of its payload, and how long that is.
    fn publish(&mut self, flow: usize, stamp: Stamp);

    /// Bytes of messages that wait for [`Self::take_due`].
    fn waiting_bytes(&self) -> usize;

    /// Moves what may be sent now into `list`, which is empty: what the protocol has to say, then messages.
    fn take_due(&mut self, list: &mut SendBuffers);

    /// Gets a buffer back that was sent.
    fn reuse(&mut self, buffer: Vec<u8>);

    /// Whether a received message is whole, and signed if this link signs. Costs as much as a real client's look at it.
    fn is_sound(&mut self, message: &[u8]) -> bool;

    /// Names the stage, for an error.
    fn during(&self) -> &'static str;
}

/// What a link is opened with.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Unique in the run and between runs.
    pub link_id: InstanceId,
    pub name: Name,
    /// Acknowledged before the link is ready.
    pub subscriptions: Vec<Name>,
    pub flows: Vec<Flow>,
    /// Whether to agree on a key and sign with it, where the protocol knows that.
    pub has_mac: bool,
}

/// What all messages of a run are made of.
#[derive(Clone, Debug)]
pub struct Material {
    /// See [`crate::message::tokens`].
    pub tokens: Arc<[String]>,
    /// As long as the largest payload.
    pub filler: Arc<[u8]>,
}

/// What a received piece of input came to.
pub enum Arrived<'a> {
    /// The opening went on: one more subscription is acknowledged, or the first are asked for.
    Subscribed,
    /// All of them are; messages may be sent.
    Ready,
    Message(Piece<'a>),
}

/// One receive buffer while it is read.
pub struct Input<'a> {
    /// Not yet looked at.
    pub bytes: &'a [u8],
    /// What a layer below has unwrapped and the one above not yet looked at.
    pub content: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            content: &[],
        }
    }
}

/// Send buffers that a link keeps for reuse: those of one send, and what is written meanwhile.
const SPARE_BUFFERS_MAX: usize = 3;

/// Emptied buffers that come back from sends.
#[derive(Default)]
pub struct Spares(Vec<Vec<u8>>);

impl Spares {
    pub fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    pub fn put(&mut self, mut buffer: Vec<u8>) {
        if self.0.len() < SPARE_BUFFERS_MAX {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

/// Puts `bytes` at the end of a list that a link fills.
pub fn push_chunk(list: &mut SendBuffers, bytes: Vec<u8>) {
    // Two chunks at most, control and data, and a list takes a thousand.
    let refused = list.push_owned(bytes);
    debug_assert!(refused.is_ok());
}

/// Why a link ended. There is no going on with a part of the connections: every variant ends the run.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Http2(#[from] Http2Error),
    #[error("bad gRPC framing: {0}")]
    Framing(#[from] FrameError),
    #[error("link negotiation failed: {0}")]
    Negotiation(#[from] NegotiationError),
    #[error("the server sent what no client can decode: {0}")]
    Decode(#[from] DecodeError),
    #[error("the server agreed on a key, which --mac off did not offer")]
    UnwantedKey,
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error(transparent)]
    Tcp(#[from] TcpError),
    #[error("the subscription was refused: {text}")]
    SubscriptionRefused { text: String },
    #[error("the server closed the connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(std::io::Error),
}
