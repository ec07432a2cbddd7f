//! The ring itself: operations in, events out, one system call a turn.

mod accepting;
mod acknowledge;
mod completions;
mod release;
mod submissions;
#[cfg(test)]
mod tests;

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd};
use io_uring::{IoUring, opcode, squeue};

use crate::error::RingError;
use crate::event::{Event, SocketId};
use crate::listeners::Listeners;
use crate::operation::{Operation, Tag};
use crate::receive::BufferRing;
use crate::send::SendInFlight;
use crate::send_buffers::SendBuffers;
use crate::setup::{self, Features, RingConfig, TIERS, Tier};
use crate::sockets::{SocketState, Sockets};
use crate::wake::{Doorbell, RingAddress, Waker};

/// Finished sends whose bookkeeping is kept for the next ones, so that a send allocates nothing.
const SPARE_SENDS_MAX: usize = 256;

/// What the ring did since it was made. Plain sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// Calls of `turn`.
    pub turns: u64,
    /// System calls `io_uring_enter`.
    pub enters: u64,
    /// Operations queued.
    pub submissions: u64,
    /// Completions seen.
    pub completions: u64,
    /// Receives that ended because all receive buffers were taken; each is armed again when there are some.
    pub buffers_exhausted: u64,
    /// Multishot receives armed again after they ended without an error.
    pub receives_rearmed: u64,
    /// TCP acknowledgements asked for through the ring.
    pub acknowledgements: u64,
    /// Those asked for by a system call each, because the kernel takes no socket options through the ring.
    pub acknowledgement_calls: u64,
    /// System calls `accept4`: one a connection, and one more each time to learn that no further one waits.
    pub accepts: u64,
    /// System calls `epoll_wait`: one each time the poll of the listeners completed.
    pub listener_looks: u64,
    /// Polls of the listeners armed again.
    pub listener_polls_rearmed: u64,
    /// Sends that the kernel ended early and the ring continued.
    pub sends_continued: u64,
    /// Sends on a socket that was gone; their buffers were let go.
    pub sends_discarded: u64,
    /// Operations that found the submission queue full.
    pub submission_queue_full: u64,
    /// Turns that found completions kept aside by the kernel because the completion queue was full.
    pub completion_queue_full: u64,
    /// Wakes of other rings by message, and those that had to go by eventfd.
    pub wakes_by_message: u64,
    pub wakes_by_eventfd: u64,
}

/// One thread's sockets. Not `Send`: it is made, used and dropped on one thread.
///
/// ```compile_fail
/// fn to_another_thread(ring: slim_ring::Ring) {
///     std::thread::spawn(move || drop(ring));
/// }
/// ```
pub struct Ring {
    // The ring is closed first, the memory it may refer to after it; see `Drop`.
    uring: IoUring,
    buffers: BufferRing,
    sockets: Sockets,
    listeners: Listeners,
    /// The kernel has the poll of the listeners.
    listeners_polled: bool,
    #[expect(
        clippy::vec_box,
        reason = "the box is what is kept: its address is the kernel's while it is in use"
    )]
    spare_sends: Vec<Box<SendInFlight>>,
    /// Where the kernel puts the eventfd's counter. Never read: that it completed says all.
    eventfd_value: Box<UnsafeCell<u64>>,
    doorbell: Arc<Doorbell>,
    peers: Vec<Peer>,
    /// Events that did not come straight out of a completion, delivered before the next completion is looked at.
    ready: VecDeque<Event>,
    /// Operations that found no place in the submission queue. At most a few per socket.
    backlog: VecDeque<squeue::Entry>,
    /// Sockets whose receive ended for want of buffers, longest waiting first.
    starved: VecDeque<SocketId>,
    /// Operations with the kernel, or queued for it, that will complete and may refer to our memory.
    in_flight: usize,
    features: Features,
    counters: RingCounters,
}

/// Another ring that this one has woken.
struct Peer {
    address: RingAddress,
    /// A message to it is queued and not yet submitted: a further one would tell it nothing new.
    queued: bool,
}

impl Ring {
    /// Opens a ring for the calling thread, which must stay its only user.
    ///
    /// Maps `receive_buffers * receive_buffer_bytes` bytes, resident only once they are used.
    /// Errors: [`RingError`]; all but `Configuration` and `Setup` name what the operator can change.
    pub fn new(config: RingConfig) -> Result<Ring, RingError> {
        Ring::with_tiers(config, &TIERS)
    }

    fn with_tiers(config: RingConfig, tiers: &[Tier]) -> Result<Ring, RingError> {
        config.check()?;
        let (uring, features) =
            setup::open(tiers, config.submission_entries, config.completion_entries)?;
        let buffers = BufferRing::register(
            &uring.submitter(),
            config.receive_buffers,
            config.receive_buffer_bytes,
        )
        .map_err(RingError::from_setup)?;
        // SAFETY: `uring` keeps this descriptor open for the length of the borrow.
        let descriptor = unsafe { BorrowedFd::borrow_raw(uring.as_raw_fd()) };
        let doorbell = Arc::new(Doorbell::new(descriptor).map_err(RingError::Setup)?);
        let mut ring = Ring {
            uring,
            buffers,
            sockets: Sockets::new(config.sockets_max),
            listeners: Listeners::new().map_err(RingError::Setup)?,
            listeners_polled: false,
            spare_sends: Vec::new(),
            eventfd_value: Box::new(UnsafeCell::new(0)),
            doorbell,
            peers: Vec::new(),
            ready: VecDeque::new(),
            backlog: VecDeque::new(),
            starved: VecDeque::new(),
            in_flight: 0,
            features,
            counters: RingCounters::default(),
        };
        ring.arm_eventfd();
        Ok(ring)
    }

    /// Opens and closes a small ring: says at start, at little cost, whether and how well this host can run one.
    pub fn probe() -> Result<Features, RingError> {
        let (uring, features) = setup::open(&TIERS, 4, 8)?;
        BufferRing::register(&uring.submitter(), 1, 4_096).map_err(RingError::from_setup)?;
        Ok(features)
    }

    pub fn features(&self) -> Features {
        self.features
    }

    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    /// A handle that wakes this ring from any thread.
    pub fn waker(&self) -> Waker {
        self.doorbell.waker()
    }

    /// Where other rings reach this one.
    pub fn address(&self) -> RingAddress {
        self.doorbell.address()
    }

    /// Wakes another ring: a message, submitted with this turn, at most one per ring and turn. No system call of its own.
    pub fn wake(&mut self, other: &RingAddress) {
        if other.id() == self.doorbell.id() {
            self.ready.push_back(Event::Woken);
            return;
        }
        if !self.features.ring_messages {
            self.counters.wakes_by_eventfd += 1;
            other.wake_by_eventfd();
            return;
        }
        let known = self
            .peers
            .iter()
            .position(|peer| peer.address.id() == other.id());
        let index = known.unwrap_or_else(|| {
            self.peers.push(Peer {
                address: other.clone(),
                queued: false,
            });
            self.peers.len() - 1
        });
        let peer = &mut self.peers[index];
        if peer.queued {
            return;
        }
        peer.queued = true;
        let message = Tag::single(Operation::Message).to_u64();
        let entry = opcode::MsgRingData::new(Fd(peer.address.ring_descriptor()), 0, message, None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Tag::new(Operation::MessagePeer, index as u32, 0).to_u64());
        self.counters.wakes_by_message += 1;
        self.push(entry);
    }

    /// Takes over a connected stream socket and starts receiving from it.
    ///
    /// Errors: `SocketsExhausted`; the descriptor comes back.
    pub fn adopt(&mut self, socket: OwnedFd) -> Result<SocketId, (RingError, OwnedFd)> {
        let id = self.sockets.insert(socket).map_err(|socket| {
            (
                RingError::SocketsExhausted {
                    limit: self.sockets.limit(),
                },
                socket,
            )
        })?;
        self.arm_receive(id);
        Ok(id)
    }

    /// Sends all bytes, in order. The buffers come back with [`Event::Sent`].
    ///
    /// At most one send per socket may be in flight, which is the caller's duty; a second one is refused with an error
    /// event (EBUSY). On a socket being closed it is refused with ENOTCONN; if the socket is gone, the buffers are
    /// let go without an event, because the id may not be reported any more.
    pub fn send(&mut self, id: SocketId, buffers: SendBuffers) {
        let Some(socket) = self
            .sockets
            .get_mut(id)
            .filter(|socket| socket.state != SocketState::Closed)
        else {
            self.counters.sends_discarded += 1;
            return;
        };
        let answer = if socket.state == SocketState::Closing {
            Err(io::Error::from_raw_os_error(libc::ENOTCONN))
        } else if socket.sending.is_some() {
            debug_assert!(false, "one send at a time");
            Err(io::Error::from_raw_os_error(libc::EBUSY))
        } else if buffers.is_empty() {
            Ok(0)
        } else {
            let mut sending = self
                .spare_sends
                .pop()
                .unwrap_or_else(|| Box::new(SendInFlight::new()));
            sending.begin(buffers);
            let entry = sending
                .entry(socket.raw())
                .user_data(tag_of(Operation::Send, id));
            socket.sending = Some(sending);
            return self.start(entry);
        };
        self.ready.push_back(Event::Sent {
            socket: id,
            result: answer,
            buffers,
        });
    }

    /// Half-closes: the peer sees the end after what was sent, including a send in flight.
    pub fn shutdown_write(&mut self, id: SocketId) {
        let Some(socket) = self
            .sockets
            .get_mut(id)
            .filter(|socket| socket.state == SocketState::Open)
        else {
            return;
        };
        if socket.sending.is_some() {
            socket.shutdown_after_send = true;
        } else {
            shutdown(socket.raw(), libc::SHUT_WR);
        }
    }

    /// Ends the socket: its send comes back, cut short or not, then [`Event::Closed`]. What arrives meanwhile is dropped.
    pub fn close(&mut self, id: SocketId) {
        let Some(socket) = self
            .sockets
            .get_mut(id)
            .filter(|socket| socket.state == SocketState::Open)
        else {
            return;
        };
        socket.state = SocketState::Closing;
        if !socket.is_busy() {
            return self.finish_socket(id);
        }
        // The shutdown ends by itself whatever waits for the peer; the cancellation ends what waits for anything else.
        // Each alone has a gap: a cancellation misses a send that is just being retried, and a shutdown is refused on a
        // socket that lost its connection.
        shutdown(socket.raw(), libc::SHUT_RDWR);
        socket.cancelling = true;
        let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(socket.raw())).all())
            .build()
            .user_data(tag_of(Operation::CancelSocket, id));
        self.start(entry);
    }

    /// Submits all that was queued and, if there is nothing to report yet, waits for a completion or for `timeout`.
    ///
    /// - `timeout`: how long to wait at most; `None` or zero: not at all.
    /// - One `io_uring_enter`, or none if nothing is queued and nothing is to be waited for.
    /// - Before it, if connections wait: an `epoll_wait`, an `accept4` each, and one more a listener.
    /// - May return without an event, early (a signal, a completion of the ring's own) or late (the timeout).
    /// - Errors: `Enter`, for what the kernel never answers to a sound ring.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<(), RingError> {
        self.counters.turns += 1;
        self.buffers.publish();
        self.rearm_starved();
        self.flush_backlog();

        let nothing_to_report = self.ready.is_empty() && self.uring.completion().is_empty();
        // After that question: a flood of connections alone must not keep the ring from being entered.
        self.accept_due();
        // Starved sockets that could be armed go next turn; waiting first might be waiting for what they would receive.
        let starved_can_go_on = !self.starved.is_empty() && self.buffers.free() > 0;
        let may_wait = nothing_to_report
            && self.ready.is_empty()
            && self.listeners.is_idle()
            && !starved_can_go_on
            && self.backlog.is_empty();
        let timeout = timeout.filter(|timeout| may_wait && !timeout.is_zero());

        let submissions = self.uring.submission();
        let queued = submissions.len();
        let overflown = submissions.cq_overflow();
        let work_pending = submissions.taskrun() || !self.features.cooperative_task_work;
        drop(submissions);
        if overflown {
            self.counters.completion_queue_full += 1;
        }
        if queued == 0 && timeout.is_none() && (!nothing_to_report || !(overflown || work_pending))
        {
            return Ok(());
        }
        self.enter(queued as u32, timeout).map_err(RingError::Enter)
    }

    /// The next thing that happened; `None` when another turn is due.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            while let Some(event) = self.ready.pop_front() {
                match &event {
                    // Only now may the slot be reused: no event of a former user can be left behind this one.
                    Event::Closed { socket } => self.sockets.release(*socket),
                    Event::Sent { socket, .. } if !self.sockets.contains(*socket) => {
                        self.counters.sends_discarded += 1;
                        continue;
                    }
                    _ => {}
                }
                return Some(event);
            }
            let completion = self.uring.completion().next()?;
            if let Some(event) = self.complete(&completion) {
                return Some(event);
            }
        }
    }
}

fn tag_of(operation: Operation, id: SocketId) -> u64 {
    Tag::new(operation, id.index(), id.generation()).to_u64()
}

/// Best effort: the only failure is a socket without a connection, and then there is nobody to tell.
fn shutdown(socket: std::os::fd::RawFd, how: i32) {
    // SAFETY: takes integers only.
    unsafe { libc::shutdown(socket, how) };
}
