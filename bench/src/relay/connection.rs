//! One connection, one task: what others queued goes out, what it sent is routed, over and over.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use glommio::net::TcpStream;
use h2::server::{self, Connection};
use h2::{Reason, RecvStream, SendStream};
use slim_proto::grpc::{Deframer, FrameError};
use slim_proto::link::{NegotiationError, TagState, Verdict, verdict};
use slim_proto::message::subscription_ack;
use slim_proto::name::RouteName;
use slim_proto::route_header::{self, DecodeError, Kind, Parsed, RouteHeader};

use super::Shared;
use super::outbox::Peer;
use super::socket::Socket;
use crate::own_server::ANNOUNCED;

/// The one method of the data plane (dataplane 1.2).
const OPEN_CHANNEL: &str = "/dataplane.proto.v1.DataPlaneService/OpenChannel";

/// Why a connection ended other than by its client's wish.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error(transparent)]
    Socket(#[from] glommio::GlommioError<()>),
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("gRPC framing: {0}")]
    Framing(#[from] FrameError),
    #[error("link negotiation: {0}")]
    Negotiation(#[from] NegotiationError),
    #[error("undecodable message: {0}")]
    Undecodable(#[from] DecodeError),
    #[error("the request is for {path}, not {OPEN_CHANNEL}")]
    OtherMethod { path: String },
}

/// Serves a client until it leaves.
pub async fn serve(stream: TcpStream, shared: Rc<Shared>) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    // As the router announces them, so that the same client sends the same bytes to both.
    let mut connection = server::Builder::new()
        .initial_window_size(ANNOUNCED.initial_window_bytes)
        .initial_connection_window_size(ANNOUNCED.initial_window_bytes)
        .max_frame_size(ANNOUNCED.max_frame_bytes)
        .max_header_list_size(ANNOUNCED.max_header_list_bytes)
        .max_concurrent_streams(ANNOUNCED.max_concurrent_streams)
        .handshake(Socket::new(stream))
        .await?;
    let Some((request, mut respond)) = connection.accept().await.transpose()? else {
        return Ok(());
    };
    let path = request.uri().path();
    if path != OPEN_CHANNEL {
        let path = path.to_owned();
        return Err(ConnectionError::OtherMethod { path });
    }
    let mut response = http::Response::new(());
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/grpc"),
    );
    // At once: the client sends nothing before it has response headers (dataplane 1.3).
    let sender = respond.send_response(response, false)?;
    let task = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    let mut served = Served {
        shared,
        connection,
        received: request.into_body(),
        sender,
        deframer: Deframer::new(),
        bell: Arc::new(Bell::of(task)),
        phase: Phase::Negotiating,
        withheld_bytes: 0,
    };
    let outcome = poll_fn(|_| served.poll()).await;
    served.leave();
    outcome
}

struct Served {
    shared: Rc<Shared>,
    connection: Connection<Socket, Bytes>,
    received: RecvStream,
    sender: SendStream<Bytes>,
    deframer: Deframer,
    bell: Arc<Bell>,
    phase: Phase,
    /// Received, and not yet returned as credit.
    withheld_bytes: usize,
}

enum Phase {
    Negotiating,
    Open {
        peer: Rc<Peer>,
        names: Vec<RouteName>,
    },
}

/// What came of a step.
enum Step {
    Done,
    /// The client has ended its stream or its connection.
    Left,
}

impl Served {
    fn poll(&mut self) -> Poll<Result<(), ConnectionError>> {
        self.bell.answer();
        let waker = Waker::from(self.bell.clone());
        let mut context = Context::from_waker(&waker);
        loop {
            match self.advance(&mut context) {
                Ok(Step::Done) => {}
                Ok(Step::Left) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.bell.rest() {
                return Poll::Pending;
            }
        }
    }

    /// Sends what waits, writes, reads, takes in: one round.
    fn advance(&mut self, context: &mut Context<'_>) -> Result<Step, ConnectionError> {
        self.send(context)?;
        // `h2` rings to have the connection polled, which comes next.
        self.bell.unring();
        while let Poll::Ready(accepted) = self.connection.poll_accept(context) {
            match accepted.transpose()? {
                // Another stream beside the link.
                Some((_, mut respond)) => respond.send_reset(Reason::REFUSED_STREAM),
                None => return Ok(Step::Left),
            }
        }
        self.receive(context)
    }

    /// Hands over to `h2` what waits, as far as the receiver's window allows.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), ConnectionError> {
        let Phase::Open { peer, .. } = &self.phase else {
            return Ok(());
        };
        loop {
            let waiting_bytes = peer.waiting_bytes();
            if waiting_bytes == 0 {
                return Ok(());
            }
            self.sender.reserve_capacity(waiting_bytes);
            match self.sender.capacity() {
                0 => match self.sender.poll_capacity(context) {
                    Poll::Ready(Some(capacity)) => _ = capacity?,
                    // Without a stream nothing can be sent; why it has gone, reading will tell.
                    Poll::Ready(None) | Poll::Pending => return Ok(()),
                },
                capacity => self.sender.send_data(peer.take(capacity), false)?,
            }
        }
    }

    /// Takes in what has been read, unless the client is held.
    fn receive(&mut self, context: &mut Context<'_>) -> Result<Step, ConnectionError> {
        while !self.is_held() {
            let bytes = std::mem::take(&mut self.withheld_bytes);
            if bytes > 0 {
                self.received.flow_control().release_capacity(bytes)?;
            }
            let data = match self.received.poll_data(context) {
                Poll::Ready(Some(data)) => data?,
                Poll::Ready(None) => return Ok(Step::Left),
                Poll::Pending => break,
            };
            self.withheld_bytes = data.len();
            let mut rest = &data[..];
            while let Some(message) = self.deframer.next_message(&mut rest)? {
                self.phase
                    .on_message(message.as_ref(), &self.shared, &self.bell)?;
            }
        }
        Ok(Step::Done)
    }

    fn is_held(&self) -> bool {
        match &self.phase {
            Phase::Negotiating => false,
            Phase::Open { peer, .. } => peer.is_held(),
        }
    }

    fn leave(self) {
        if let Phase::Open { peer, names } = self.phase {
            let mut table = self.shared.table.borrow_mut();
            for name in &names {
                table.unsubscribe(name, &peer);
            }
            peer.close();
        }
    }
}

impl Phase {
    fn on_message(
        &mut self,
        message: &[u8],
        shared: &Shared,
        bell: &Arc<Bell>,
    ) -> Result<(), ConnectionError> {
        match self {
            Phase::Negotiating => {
                let (mac, reply) = shared.negotiator.accept(message)?;
                let peer = Rc::new(Peer::new(Waker::from(bell.clone()), mac));
                peer.push_own(&reply);
                let names = Vec::new();
                *self = Phase::Open { peer, names };
            }
            Phase::Open { peer, names } => {
                // What else there is, no client of the load generator sends.
                if let Parsed::Routed(header) = route_header::parse(message)? {
                    on_routed(message, &header, shared, peer, names);
                }
            }
        }
        Ok(())
    }
}

/// A message that no receiver can be sent (no hop left, no valid tag, a header that no client writes) is dropped.
fn on_routed(
    message: &[u8],
    header: &RouteHeader,
    shared: &Shared,
    peer: &Rc<Peer>,
    names: &mut Vec<RouteName>,
) {
    let preimage = &mut *shared.preimage.borrow_mut();
    let (state, is_patchable) = match peer.mac() {
        Some(mac) => {
            preimage.build(message, header);
            let state = mac.borrow_mut().check(preimage, message, header);
            (state, header.is_patchable())
        }
        None => {
            let state = TagState::unkeyed(message, header);
            (state, header.is_ttl_patchable())
        }
    };
    let has_key = peer.mac().is_some();
    let policy = shared.negotiator.policy();
    if verdict(header.kind, has_key, state, policy) == Verdict::Drop || header.ttl <= 1 {
        return;
    }
    let name = header.destination;
    match header.kind {
        Kind::Publish if is_patchable => {
            let table = shared.table.borrow();
            for receiver in table.receivers(&name, header.fanout, peer) {
                receiver.push_publish(message, header, preimage, peer);
            }
        }
        Kind::Publish => {}
        Kind::Subscribe => {
            shared.table.borrow_mut().subscribe(name, peer);
            names.push(name);
            acknowledge(peer, header);
        }
        Kind::Unsubscribe => {
            shared.table.borrow_mut().unsubscribe(&name, peer);
            names.retain(|subscribed| *subscribed != name);
            acknowledge(peer, header);
        }
    }
}

/// Where it is asked for (dataplane 4.7).
fn acknowledge(peer: &Peer, header: &RouteHeader) {
    if header.subscription_id != 0 {
        peer.push_own(&subscription_ack(header.subscription_id, Ok(())));
    }
}

/// Wakes a connection's task, and spares it waking itself while it runs: `h2` wakes it for all that it does itself.
///
/// The relay has one thread, so there is nothing to order.
struct Bell {
    task: Waker,
    is_answered: AtomicBool,
    rang: AtomicBool,
}

impl Bell {
    fn of(task: Waker) -> Bell {
        Bell {
            task,
            is_answered: AtomicBool::new(false),
            rang: AtomicBool::new(false),
        }
    }

    /// The task runs.
    fn answer(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    /// The task will see to what it rang for anyway.
    fn unring(&self) {
        self.rang.store(false, Ordering::Relaxed);
    }

    /// Whether the task may rest: it has not rung since.
    fn rest(&self) -> bool {
        let may_rest = !self.rang.swap(false, Ordering::Relaxed);
        if may_rest {
            self.is_answered.store(false, Ordering::Relaxed);
        }
        may_rest
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_answered.load(Ordering::Relaxed) {
            self.rang.store(true, Ordering::Relaxed);
        } else {
            self.task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use slim_proto::link::{LinkMac, Preimage, sign_message};

    use super::*;
    use crate::publishes;
    use crate::relay::negotiation::Negotiator;
    use crate::relay::{Mac, table::Table};

    /// Two receivers of what [`publishes`] sends, and a third peer that sends it.
    struct World {
        shared: Shared,
        receivers: [Rc<Peer>; 2],
        publisher: Rc<Peer>,
    }

    impl World {
        fn new(mac: Mac) -> World {
            let peer = |link| {
                let mac = (mac == Mac::On).then(|| publishes::link_mac(link));
                Rc::new(Peer::new(Waker::noop().clone(), mac))
            };
            let mut table = Table::default();
            let receivers = [peer(1), peer(2)];
            let name = routed(&publishes::signed(1)).destination;
            for receiver in &receivers {
                table.subscribe(name, receiver);
            }
            World {
                shared: Shared {
                    negotiator: Negotiator::new(mac),
                    table: RefCell::new(table),
                    preimage: RefCell::new(Preimage::new()),
                },
                receivers,
                publisher: peer(0),
            }
        }

        fn send(&self, message: &[u8], from: &Rc<Peer>) {
            on_routed(
                message,
                &routed(message),
                &self.shared,
                from,
                &mut Vec::new(),
            );
        }

        /// What waits for each receiver, without the gRPC prefix.
        fn received(&self) -> [Option<Vec<u8>>; 2] {
            self.receivers
                .each_ref()
                .map(|peer| Some(peer.take(usize::MAX).get(5..)?.to_vec()))
        }
    }

    fn routed(message: &[u8]) -> RouteHeader {
        match route_header::parse(message) {
            Ok(Parsed::Routed(header)) => header,
            other => panic!("{other:?}"),
        }
    }

    fn is_valid(mac: &mut LinkMac, message: &[u8]) -> bool {
        let header = routed(message);
        let mut preimage = Preimage::new();
        preimage.build(message, &header);
        mac.check(&mut preimage, message, &header) == TagState::Valid
    }

    #[test]
    fn a_publish_to_one_receiver_arrives_with_the_tag_of_its_link_and_one_hop_less() {
        let world = World::new(Mac::On);
        let message = publishes::signed(100);
        world.send(&message, &world.publisher);
        let [Some(copy), None] = world.received() else {
            panic!("one has it");
        };
        assert!(is_valid(&mut publishes::link_mac(1), &copy));
        assert_eq!(routed(&copy).ttl + 1, routed(&message).ttl);
        assert_eq!(copy.len(), message.len());
    }

    #[test]
    fn a_publisher_does_not_receive_its_own_message() {
        let world = World::new(Mac::On);
        let message = sign_message(&mut publishes::link_mac(1), &publishes::signed(100)).unwrap();
        world.send(&message, &world.receivers[0]);
        assert!(matches!(world.received(), [None, Some(_)]));
    }

    #[test]
    fn a_publish_with_the_tag_of_another_link_is_dropped() {
        let world = World::new(Mac::On);
        world.send(&publishes::signed(100), &world.receivers[0]);
        assert_eq!(world.received(), [None, None]);
    }

    #[test]
    fn without_a_mac_a_publish_arrives_as_it_is_but_for_its_ttl() {
        let world = World::new(Mac::Off);
        let signed = publishes::signed(100);
        let mut message = routed(&signed).rewrite_unsigned(&signed).unwrap();
        world.send(&message, &world.publisher);
        let [Some(copy), None] = world.received() else {
            panic!("one has it");
        };
        routed(&message).patch_ttl(&mut message);
        assert_eq!(copy, message);
    }

    #[test]
    fn without_a_mac_a_publish_with_a_tag_is_dropped() {
        let world = World::new(Mac::Off);
        world.send(&publishes::signed(100), &world.publisher);
        assert_eq!(world.received(), [None, None]);
    }

    #[test]
    fn a_publish_without_a_hop_left_is_dropped() {
        let world = World::new(Mac::Off);
        let signed = publishes::signed(100);
        let mut message = routed(&signed).rewrite_unsigned(&signed).unwrap();
        while routed(&message).ttl > 1 {
            let header = routed(&message);
            header.patch_ttl(&mut message);
        }
        world.send(&message, &world.publisher);
        assert_eq!(world.received(), [None, None]);
    }
}
