//! What waits for one receiver, and who waits for it.
//!
//! A publisher that finds more than [`OUTBOX_BYTES`] waiting is *held*: it is not read and gets no credit until less than
//! [`OUTBOX_LOW_BYTES`] wait. Each hold is matched by exactly one release.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use slim_proto::grpc::prefix;
use slim_proto::link::{LinkMac, Preimage};
use slim_proto::route_header::RouteHeader;

/// Bytes that may wait for one receiver before its publishers are held: the router's mark. What one publisher had already
/// been given credit for, [`crate::own_server::ANNOUNCED`]'s window, may come on top.
pub const OUTBOX_BYTES: usize = 1_048_576;

/// Bytes below which they go on.
pub const OUTBOX_LOW_BYTES: usize = OUTBOX_BYTES / 2;

/// Bytes handed to `h2` at once: all messages that wait, up to this.
pub const SEND_BYTES_MAX: usize = 32_768;

/// An open link, as the other connections see it.
pub struct Peer {
    /// Of its task.
    waker: Waker,
    mac: Option<RefCell<LinkMac>>,
    outbox: RefCell<Outbox>,
    /// Receivers that this publisher waits for.
    holds: Cell<u32>,
}

#[derive(Default)]
struct Outbox {
    /// gRPC-framed messages.
    waiting: BytesMut,
    held: Vec<Rc<Peer>>,
}

impl Peer {
    pub fn new(waker: Waker, mac: Option<LinkMac>) -> Peer {
        Peer {
            waker,
            mac: mac.map(RefCell::new),
            outbox: RefCell::default(),
            holds: Cell::new(0),
        }
    }

    pub fn mac(&self) -> Option<&RefCell<LinkMac>> {
        self.mac.as_ref()
    }

    pub fn is_held(&self) -> bool {
        self.holds.get() > 0
    }

    /// Queues a message of the relay's own.
    pub fn push_own(&self, message: &[u8]) {
        self.push(message, |_| {});
    }

    /// Queues this receiver's copy of a publish: one hop less, and the tag of its link. May hold the publisher.
    ///
    /// - `preimage`: built from `message` and `header`, which is patchable.
    pub fn push_publish(
        &self,
        message: &[u8],
        header: &RouteHeader,
        preimage: &mut Preimage,
        publisher: &Rc<Peer>,
    ) {
        self.push(message, |copy| match &self.mac {
            Some(mac) => header.patch(
                copy,
                &mac.borrow_mut().tag(preimage, header.ttl_forwarded()),
            ),
            None => header.patch_ttl(copy),
        });
        let outbox = &mut *self.outbox.borrow_mut();
        if outbox.waiting.len() > OUTBOX_BYTES
            && !outbox.held.iter().any(|peer| Rc::ptr_eq(peer, publisher))
        {
            outbox.held.push(publisher.clone());
            publisher.holds.set(publisher.holds.get() + 1);
        }
    }

    fn push(&self, message: &[u8], patch: impl FnOnce(&mut [u8])) {
        let waiting = &mut self.outbox.borrow_mut().waiting;
        // If something waited before, its task knows already, or waits for the receiver's window.
        if waiting.is_empty() {
            self.waker.wake_by_ref();
        }
        waiting.extend_from_slice(&prefix(message.len()));
        let start = waiting.len();
        waiting.extend_from_slice(message);
        patch(&mut waiting[start..]);
    }

    pub fn waiting_bytes(&self) -> usize {
        self.outbox.borrow().waiting.len()
    }

    /// Takes what goes into one send: what waits, up to `limit_bytes` and [`SEND_BYTES_MAX`].
    pub fn take(&self, limit_bytes: usize) -> Bytes {
        let outbox = &mut *self.outbox.borrow_mut();
        let bytes = outbox.waiting.len().min(limit_bytes).min(SEND_BYTES_MAX);
        let taken = outbox.waiting.split_to(bytes).freeze();
        if outbox.waiting.len() < OUTBOX_LOW_BYTES {
            outbox.release();
        }
        taken
    }

    /// It receives no more: nobody waits for it.
    pub fn close(&self) {
        let outbox = &mut *self.outbox.borrow_mut();
        outbox.waiting = BytesMut::new();
        outbox.release();
    }
}

impl Outbox {
    fn release(&mut self) {
        for publisher in self.held.drain(..) {
            publisher.holds.set(publisher.holds.get() - 1);
            if !publisher.is_held() {
                publisher.waker.wake_by_ref();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use slim_proto::route_header::{Parsed, parse};

    use super::*;
    use crate::publishes;

    fn peer() -> Rc<Peer> {
        Rc::new(Peer::new(Waker::noop().clone(), None))
    }

    /// Publishes 64 KiB at a time until more than the bound waits.
    fn fill(receiver: &Peer, publisher: &Rc<Peer>) {
        let message = publishes::signed_of(65_536);
        let Ok(Parsed::Routed(header)) = parse(&message) else {
            panic!("not routed");
        };
        while receiver.waiting_bytes() <= OUTBOX_BYTES {
            receiver.push_publish(&message, &header, &mut Preimage::new(), publisher);
        }
    }

    fn drain_to(receiver: &Peer, bytes: usize) {
        while receiver.waiting_bytes() > bytes {
            receiver.take(receiver.waiting_bytes() - bytes);
        }
    }

    #[test]
    fn a_publisher_is_held_above_the_bound_and_goes_on_below_the_low_mark() {
        let (receiver, publisher) = (peer(), peer());
        fill(&receiver, &publisher);
        assert!(publisher.is_held());
        drain_to(&receiver, OUTBOX_LOW_BYTES);
        assert!(publisher.is_held());
        drain_to(&receiver, OUTBOX_LOW_BYTES - 1);
        assert!(!publisher.is_held());
    }

    #[test]
    fn a_publisher_held_by_two_receivers_waits_for_both() {
        let (one, other, publisher) = (peer(), peer(), peer());
        fill(&one, &publisher);
        fill(&other, &publisher);
        drain_to(&one, 0);
        assert!(publisher.is_held());
        drain_to(&other, 0);
        assert!(!publisher.is_held());
    }

    #[test]
    fn a_receiver_that_leaves_holds_nobody() {
        let (receiver, publisher) = (peer(), peer());
        fill(&receiver, &publisher);
        assert!(publisher.is_held());
        receiver.close();
        assert!(!publisher.is_held());
    }

    #[test]
    fn one_send_takes_whatever_waits_up_to_its_bound() {
        let receiver = peer();
        receiver.push_own(&[1; 10]);
        receiver.push_own(&[2; 20]);
        assert_eq!(receiver.take(usize::MAX).len(), 5 + 10 + 5 + 20);
        receiver.push_own(&[3; 2 * SEND_BYTES_MAX]);
        assert_eq!(receiver.take(usize::MAX).len(), SEND_BYTES_MAX);
        assert_eq!(receiver.take(7).len(), 7);
    }
}
