//! One connection to the node, from its first byte to its last: HTTP/2, negotiation, subscription, then messages.
//!
//! Pure but for the ring it is handed: it opens as a default client does (dataplane 1.3, 5.1), and writes what is due in
//! one send a turn.

use slim_proto::grpc::{Deframer, FrameError, Piece};
use slim_proto::link::{
    ConnectionType, Dialer, Dialing, LinkMac, MacPolicy, NegotiationError, Preimage,
};
use slim_proto::name::Name;
use slim_proto::route_header::{self, DecodeError, Parsed};
use slim_ring::{Ring, SendBuffers, SocketId};

use crate::http2::{ClientConnection, Event, FRAME_HEADER_BYTES, Http2Error};
use crate::message::{VERSION, is_sound, subscribe, with_prefix};

/// Send buffers that a link keeps for reuse: the data and the control bytes of one send, and what is written meanwhile.
const SPARE_BUFFERS_MAX: usize = 3;

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
    #[error("the subscription was refused: {text}")]
    SubscriptionRefused { text: String },
    #[error("the server closed the connection during {during}")]
    Closed { during: &'static str },
    #[error("the connection failed during {during}: {error}")]
    Io {
        during: &'static str,
        error: std::io::Error,
    },
}

/// How far the opening has come.
enum Stage {
    /// Until the response headers.
    Opening,
    Negotiating(Box<Dialing>),
    /// Until the ack.
    Subscribing,
    Ready,
}

/// What a received piece of input came to.
pub enum Arrived<'a> {
    /// The subscription is acknowledged; messages may be sent.
    Ready,
    Message(Piece<'a>),
}

pub struct Link {
    http2: ClientConnection,
    deframer: Deframer,
    stage: Stage,
    dialer: Dialer,
    name: Name,
    subscription: Name,
    /// For the Subscribe.
    token: String,
    mac: Option<LinkMac>,
    outgoing: Outgoing,
}

/// Bytes on their way out.
struct Outgoing {
    control: Vec<u8>,
    /// Room for one DATA frame header, then gRPC-framed messages.
    data: Vec<u8>,
    spare: Vec<Vec<u8>>,
    list: SendBuffers,
    in_flight: bool,
}

/// Of the one subscription. Not zero, so that it is acknowledged (dataplane 4.7).
const SUBSCRIPTION_ID: u64 = 1;

/// Where the messages begin in `Outgoing::data`.
const DATA_START: usize = FRAME_HEADER_BYTES;

impl Link {
    /// - `link_id`: unique among the links of the node.
    /// - `name`: who the client is; `subscription`: what it subscribes to.
    /// - `token`: the identity that it subscribes with.
    pub fn open(
        authority: &str,
        link_id: String,
        name: Name,
        subscription: Name,
        token: String,
    ) -> Self {
        let mut control = Vec::with_capacity(512);
        let http2 = ClientConnection::open(authority, &mut control);
        let node_id = format!("loadgen-{link_id}");
        Self {
            http2,
            deframer: Deframer::new(),
            stage: Stage::Opening,
            dialer: Dialer {
                link_id,
                node_id,
                version: VERSION.to_owned(),
                deployment_name: String::new(),
                connection_type: ConnectionType::Edge,
                policy: MacPolicy::Strict,
                enforce_pqc: false,
            },
            name,
            subscription,
            token,
            mac: None,
            outgoing: Outgoing {
                control,
                data: vec![0; DATA_START],
                spare: Vec::new(),
                list: SendBuffers::new(),
                in_flight: false,
            },
        }
    }

    /// Cuts the next event off the front of `input`; `None` when it is used up.
    pub fn next_arrival<'a>(
        &mut self,
        input: &mut Arrival<'a>,
    ) -> Result<Option<Arrived<'a>>, LinkError> {
        loop {
            while let Some(message) = self.deframer.next_message(&mut input.content)? {
                if matches!(self.stage, Stage::Ready) {
                    return Ok(Some(Arrived::Message(message)));
                }
                if self.opening_message(message.as_ref())? {
                    return Ok(Some(Arrived::Ready));
                }
            }
            match self
                .http2
                .next_event(&mut input.bytes, &mut self.outgoing.control)?
            {
                Some(Event::Data(content)) => input.content = content,
                Some(Event::Opened) => {
                    let (dialing, request) = self.dialer.dial()?;
                    self.stage = Stage::Negotiating(Box::new(dialing));
                    self.push(&with_prefix(&request));
                }
                None => return Ok(None),
            }
        }
    }

    /// A message before the link is ready. Returns whether it is now.
    fn opening_message(&mut self, message: &[u8]) -> Result<bool, LinkError> {
        match std::mem::replace(&mut self.stage, Stage::Opening) {
            Stage::Negotiating(dialing) => {
                let established = dialing.complete(message)?;
                self.mac = established
                    .key
                    .map(|key| LinkMac::new(&key, &established.link_id));
                let token = std::mem::take(&mut self.token);
                let request = subscribe(
                    &self.name,
                    &self.subscription,
                    SUBSCRIPTION_ID,
                    &token,
                    self.mac.as_ref(),
                );
                self.push(&request);
                self.stage = Stage::Subscribing;
                Ok(false)
            }
            stage => {
                self.stage = stage;
                let Parsed::SubscriptionAck(ack) = route_header::parse(message)? else {
                    // Others may already send to a name that is being subscribed: a fan-out that has begun.
                    return Ok(false);
                };
                if !ack.success {
                    let text = String::from_utf8_lossy(ack.error.of(message)).into_owned();
                    return Err(LinkError::SubscriptionRefused { text });
                }
                self.stage = Stage::Ready;
                Ok(true)
            }
        }
    }

    pub fn mac(&self) -> Option<&LinkMac> {
        self.mac.as_ref()
    }

    /// Whether a received message is whole and has this link's tag.
    pub fn is_sound(&self, message: &[u8], preimage: &mut Preimage) -> bool {
        is_sound(message, self.mac.as_ref(), preimage)
    }

    /// Names the stage, for an error.
    pub fn during(&self) -> &'static str {
        match self.stage {
            Stage::Opening if !self.http2.is_http2() => "the HTTP/2 handshake",
            Stage::Opening => "the opening of the stream",
            Stage::Negotiating(_) => "the link negotiation",
            Stage::Subscribing => "the subscription",
            Stage::Ready => "the run",
        }
    }

    /// Where to append framed messages. They leave with the next [`Self::flush`], as far as the windows let.
    pub fn messages(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing.data
    }

    /// Bytes of messages that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.outgoing.data.len() - DATA_START
    }

    fn push(&mut self, framed: &[u8]) {
        self.outgoing.data.extend_from_slice(framed);
    }

    /// Hands what is due to the ring, unless a send is under way: [`Self::sent`] is then the time to ask again.
    pub fn flush(&mut self, ring: &mut Ring, socket: SocketId) {
        let out = &mut self.outgoing;
        if out.in_flight {
            return;
        }
        if !out.control.is_empty() {
            let next = out.spare.pop().unwrap_or_default();
            push_chunk(&mut out.list, std::mem::replace(&mut out.control, next));
        }
        let waiting = out.data.len() - DATA_START;
        let sendable = self.http2.sendable_bytes().min(waiting);
        if sendable == waiting && waiting > 0 && waiting <= self.http2.frame_bytes_max() {
            // The usual case: all that waits is one frame, and goes as it lies.
            let header = self.http2.begin_data(waiting);
            if let Some(slot) = out.data.first_chunk_mut() {
                *slot = header;
            }
            let mut next = out.spare.pop().unwrap_or_default();
            next.resize(DATA_START, 0);
            push_chunk(&mut out.list, std::mem::replace(&mut out.data, next));
        } else if sendable > 0 {
            let mut frames = out.spare.pop().unwrap_or_default();
            let content = out.data.get(DATA_START..DATA_START + sendable);
            let frame_bytes = self.http2.frame_bytes_max();
            for part in content.unwrap_or_default().chunks(frame_bytes) {
                frames.extend_from_slice(&self.http2.begin_data(part.len()));
                frames.extend_from_slice(part);
            }
            out.data.drain(DATA_START..DATA_START + sendable);
            push_chunk(&mut out.list, frames);
        }
        if !out.list.is_empty() {
            out.in_flight = true;
            ring.send(socket, std::mem::take(&mut out.list));
        }
    }

    /// A send is over and its buffers are back.
    pub fn sent(&mut self, mut buffers: SendBuffers) {
        let out = &mut self.outgoing;
        out.in_flight = false;
        for mut bytes in buffers.take_owned() {
            if out.spare.len() < SPARE_BUFFERS_MAX {
                bytes.clear();
                out.spare.push(bytes);
            }
        }
        out.list = buffers;
    }

    /// Whether the subscription is acknowledged.
    pub fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }
}

fn push_chunk(list: &mut SendBuffers, bytes: Vec<u8>) {
    // Two chunks at most, control and data, and a list takes a thousand.
    let refused = list.push_owned(bytes);
    debug_assert!(refused.is_ok());
}

/// One receive buffer while it is read.
pub struct Arrival<'a> {
    /// Not yet looked at.
    bytes: &'a [u8],
    /// DATA that is not yet cut into messages.
    content: &'a [u8],
}

impl<'a> Arrival<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            content: &[],
        }
    }
}
