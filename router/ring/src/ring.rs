//! The ring itself: operations in, events out, one system call a turn.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use crate::error::RingError;
use crate::event::{Event, ListenerId, ReceiveEnd, SocketId};
use crate::listeners::{LISTENERS_MAX, Listeners, is_of_one_connection, set_nonblocking};
use crate::operation::{Operation, Tag};
use crate::receive::{BUFFER_GROUP, BufferRing, ReceivedBuffer};
use crate::send::SendInFlight;
use crate::send_buffers::SendBuffers;
use crate::setup::{self, Features, RingConfig};
use crate::sockets::{Receiving, SocketState, Sockets};
use crate::wake::{Doorbell, RingAddress, Waker};

/// Finished sends whose bookkeeping is kept for the next ones, so that a send allocates nothing.
const SPARE_SENDS_MAX: usize = 256;
/// How long dropping a ring waits for the kernel to let go of the memory, before it leaks it.
const DROP_WAIT: Duration = Duration::from_secs(5);
/// One wait within [`DROP_WAIT`]; after it, what is still in flight is cancelled again.
const DROP_WAIT_STEP: Duration = Duration::from_millis(20);

/// The longest single wait: the kernel's clock does not take all that a `Duration` can hold.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// Multishot accepts armed again.
    pub accepts_rearmed: u64,
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
pub struct Ring {
    // The ring is closed first, the memory it may refer to after it; see `Drop`.
    uring: IoUring,
    buffers: BufferRing,
    sockets: Sockets,
    listeners: Listeners,
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
        config.check()?;
        let (uring, features) = setup::open(config.submission_entries, config.completion_entries)?;
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
            listeners: Listeners::default(),
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
        let (uring, features) = setup::open(4, 8)?;
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

    /// Starts accepting from a listening socket, TCP or Unix. It is made blocking: the ring waits, nobody else does.
    ///
    /// Errors: `ListenersExhausted`, `Setup`; the descriptor is closed.
    pub fn listen(&mut self, listener: OwnedFd) -> Result<ListenerId, RingError> {
        // On a non-blocking listener the kernel would answer EAGAIN instead of waiting for a connection.
        set_nonblocking(listener.as_raw_fd(), false).map_err(RingError::Setup)?;
        let id = self
            .listeners
            .insert(listener)
            .ok_or(RingError::ListenersExhausted {
                limit: LISTENERS_MAX,
            })?;
        self.arm_accept(id);
        Ok(id)
    }

    /// Accepts again after [`Event::AcceptFailed`]. Nothing happens if the listener accepts or is gone.
    pub fn resume_accept(&mut self, id: ListenerId) {
        if self
            .listeners
            .get_mut(id)
            .is_some_and(|listener| !listener.armed && !listener.closing)
        {
            self.arm_accept(id);
        }
    }

    /// Stops accepting. What was accepted or already waits in the backlog is still delivered, then
    /// [`Event::ListenerClosed`]. Nothing happens if the listener is gone or going.
    pub fn unlisten(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(id) else {
            return;
        };
        if listener.closing {
            return;
        }
        listener.closing = true;
        if listener.armed {
            self.cancel_accept(id);
        } else {
            self.finish_listener(id);
        }
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
        debug_assert!(socket.sending.is_none(), "one send at a time");
        let answer = if socket.state == SocketState::Closing {
            Err(io::Error::from_raw_os_error(libc::ENOTCONN))
        } else if socket.sending.is_some() {
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

    /// The bytes of a received buffer. The buffer itself also reads as `[u8]`, without the ring.
    pub fn bytes<'a>(&'a self, buffer: &'a ReceivedBuffer) -> &'a [u8] {
        buffer
    }

    /// Gives a receive buffer back; the kernel has it with the next turn. The same as dropping it.
    pub fn recycle(&mut self, buffer: ReceivedBuffer) {
        drop(buffer);
    }

    /// Submits all that was queued and, if there is nothing to report yet, waits for a completion or for `timeout`.
    ///
    /// - `timeout`: how long to wait at most; `None` or zero: not at all.
    /// - One `io_uring_enter`, or none if nothing is queued and nothing is to be waited for.
    /// - May return without an event, early (a signal, a completion of the ring's own) or late (the timeout).
    /// - Errors: `Enter`, for what the kernel never answers to a sound ring.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<(), RingError> {
        self.counters.turns += 1;
        self.buffers.publish();
        self.rearm_starved();
        self.flush_backlog();

        let nothing_to_report = self.ready.is_empty() && self.uring.completion().is_empty();
        // Starved sockets that could be armed go next turn; waiting first might be waiting for what they would receive.
        let starved_can_go_on = !self.starved.is_empty() && self.buffers.free() > 0;
        let may_wait = nothing_to_report && !starved_can_go_on && self.backlog.is_empty();
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

    /// Books one completion. Returns the event it makes, if it makes one for the caller.
    fn complete(&mut self, completion: &cqueue::Entry) -> Option<Event> {
        self.counters.completions += 1;
        let Some(tag) = Tag::from_u64(completion.user_data()) else {
            debug_assert!(false, "a completion of no operation of ours");
            return None;
        };
        let more = cqueue::more(completion.flags());
        let counted = !matches!(tag.operation, Operation::Message | Operation::MessagePeer);
        if counted && !more {
            self.in_flight -= 1;
        }
        let result = completion.result();
        match tag.operation {
            Operation::Receive => self.received(tag, result, completion.flags()),
            Operation::Send => self.sent(tag, result),
            Operation::CancelSocket => self.socket_cancelled(tag),
            Operation::Accept => self.accepted(tag, result, more),
            Operation::CancelAccept => self.accept_cancelled(tag),
            Operation::EventfdRead => {
                self.doorbell.quiet();
                self.arm_eventfd();
                Some(Event::Woken)
            }
            Operation::Message => Some(Event::Woken),
            Operation::MessagePeer => {
                if let Some(peer) = self.peers.get(tag.index as usize) {
                    self.counters.wakes_by_eventfd += 1;
                    peer.address.wake_by_eventfd();
                }
                None
            }
            Operation::CancelAll => None,
        }
    }

    fn received(&mut self, tag: Tag, result: i32, flags: u32) -> Option<Event> {
        // Taken first, whatever else is true: a buffer that the kernel used goes back when this is dropped.
        let buffer = cqueue::buffer_select(flags)
            .map(|id| self.buffers.take(id, u32::try_from(result).unwrap_or(0)));
        let ended = !cqueue::more(flags);
        let Some((id, socket)) = self.sockets.of_tag(tag) else {
            debug_assert!(false, "a slot outlives its operations");
            return None;
        };
        if ended {
            socket.receiving = Receiving::Off;
        }
        if socket.state != SocketState::Open {
            self.finish_if_idle(id);
            return None;
        }
        match (result, buffer) {
            (1.., Some(buffer)) => {
                if ended {
                    self.counters.receives_rearmed += 1;
                    self.arm_receive(id);
                }
                return Some(Event::Received { socket: id, buffer });
            }
            // Still armed, and nothing to say.
            _ if !ended => return None,
            (0, _) => {
                return Some(Event::ReceiveEnded {
                    socket: id,
                    cause: ReceiveEnd::Eof,
                });
            }
            _ => {}
        }
        match -result {
            libc::ENOBUFS => {
                self.counters.buffers_exhausted += 1;
                socket.receiving = Receiving::Starved;
                self.starved.push_back(id);
                None
            }
            libc::EINTR => {
                self.counters.receives_rearmed += 1;
                self.arm_receive(id);
                None
            }
            error => {
                let cause = ReceiveEnd::Failed(io::Error::from_raw_os_error(error));
                Some(Event::ReceiveEnded { socket: id, cause })
            }
        }
    }

    fn sent(&mut self, tag: Tag, result: i32) -> Option<Event> {
        let Some((id, socket)) = self.sockets.of_tag(tag) else {
            debug_assert!(false, "a slot outlives its operations");
            return None;
        };
        let descriptor = socket.raw();
        let open = socket.state == SocketState::Open;
        let sending = socket.sending.as_mut()?;
        let done = sending.advance(usize::try_from(result).unwrap_or(0));
        let interrupted = result == -libc::EINTR;
        if open && !done && (result > 0 || interrupted) {
            let entry = sending
                .entry(descriptor)
                .user_data(tag_of(Operation::Send, id));
            self.counters.sends_continued += 1;
            self.start(entry);
            return None;
        }
        let mut sending = socket.sending.take()?;
        if socket.shutdown_after_send && open {
            shutdown(socket.raw(), libc::SHUT_WR);
        }
        let sent_bytes = sending.sent_bytes();
        let buffers = sending.finish();
        if self.spare_sends.len() < SPARE_SENDS_MAX {
            self.spare_sends.push(sending);
        }
        let result = match result {
            // Taking nothing of something would otherwise be tried for ever.
            0 => Err(io::Error::from(io::ErrorKind::WriteZero)),
            1.. => Ok(sent_bytes),
            error => Err(io::Error::from_raw_os_error(-error)),
        };
        self.finish_if_idle(id);
        Some(Event::Sent {
            socket: id,
            result,
            buffers,
        })
    }

    fn socket_cancelled(&mut self, tag: Tag) -> Option<Event> {
        let (id, socket) = self.sockets.of_tag(tag)?;
        socket.cancelling = false;
        self.finish_if_idle(id);
        None
    }

    fn accepted(&mut self, tag: Tag, result: i32, more: bool) -> Option<Event> {
        let socket = (result >= 0).then(|| {
            // SAFETY: a successful accept returns a new descriptor, reported once and owned by nobody yet.
            unsafe { OwnedFd::from_raw_fd(result) }
        });
        let Some((id, listener)) = self.listeners.of_tag(tag) else {
            debug_assert!(false, "a listener outlives its operations");
            return None;
        };
        listener.armed = more;
        let closing = listener.closing;
        let event = match socket {
            Some(socket) => Some(Event::Accepted {
                listener: id,
                socket,
            }),
            None if closing => None,
            None => {
                let error = io::Error::from_raw_os_error(-result);
                (!is_of_one_connection(&error)).then_some(Event::AcceptFailed {
                    listener: id,
                    error,
                })
            }
        };
        if more {
            return event;
        }
        if closing {
            // The events of the backlog come after this completion's own.
            self.finish_listener_if_idle(id);
        } else if !matches!(event, Some(Event::AcceptFailed { .. })) {
            self.counters.accepts_rearmed += 1;
            self.arm_accept(id);
        }
        event
    }

    fn accept_cancelled(&mut self, tag: Tag) -> Option<Event> {
        let (id, listener) = self.listeners.of_tag(tag)?;
        listener.cancelling = false;
        if listener.armed {
            // The cancellation found the accept between two states; it is in one of them by now.
            self.cancel_accept(id);
        } else {
            self.finish_listener_if_idle(id);
        }
        None
    }

    fn arm_receive(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        socket.receiving = Receiving::Armed;
        let entry = opcode::RecvMulti::new(Fd(socket.raw()), BUFFER_GROUP)
            .build()
            .user_data(tag_of(Operation::Receive, id));
        self.start(entry);
    }

    /// Arms as many starved sockets as there are free buffers: more would only starve again.
    fn rearm_starved(&mut self) {
        for _ in 0..self.buffers.free().min(self.starved.len()) {
            let Some(id) = self.starved.pop_front() else {
                return;
            };
            let still_starved = self.sockets.get_mut(id).is_some_and(|socket| {
                socket.state == SocketState::Open && socket.receiving == Receiving::Starved
            });
            if still_starved {
                self.counters.receives_rearmed += 1;
                self.arm_receive(id);
            }
        }
    }

    fn arm_accept(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(id) else {
            return;
        };
        listener.armed = true;
        let entry = opcode::AcceptMulti::new(Fd(listener.raw()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(Tag::new(Operation::Accept, id.index, id.generation).to_u64());
        self.start(entry);
    }

    fn cancel_accept(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(id) else {
            return;
        };
        listener.cancelling = true;
        let entry =
            opcode::AsyncCancel::new(Tag::new(Operation::Accept, id.index, id.generation).to_u64())
                .build()
                .user_data(Tag::new(Operation::CancelAccept, id.index, id.generation).to_u64());
        self.start(entry);
    }

    fn arm_eventfd(&mut self) {
        let entry = opcode::Read::new(
            Fd(self.doorbell.eventfd()),
            self.eventfd_value.get().cast(),
            size_of::<u64>() as u32,
        )
        .build()
        .user_data(Tag::single(Operation::EventfdRead).to_u64());
        self.start(entry);
    }

    fn finish_if_idle(&mut self, id: SocketId) {
        let idle = self
            .sockets
            .get_mut(id)
            .is_some_and(|socket| socket.state == SocketState::Closing && !socket.is_busy());
        if idle {
            self.finish_socket(id);
        }
    }

    /// Closes a socket that the kernel has nothing of any more.
    fn finish_socket(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.close_descriptor();
            self.ready.push_back(Event::Closed { socket: id });
        }
    }

    fn finish_listener_if_idle(&mut self, id: ListenerId) {
        if self
            .listeners
            .get_mut(id)
            .is_some_and(|listener| listener.closing && !listener.is_busy())
        {
            self.finish_listener(id);
        }
    }

    fn finish_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.remove(id) else {
            return;
        };
        let ready = &mut self.ready;
        listener.drain(|accepted| {
            ready.push_back(match accepted {
                Ok(socket) => Event::Accepted {
                    listener: id,
                    socket,
                },
                Err(error) => Event::AcceptFailed {
                    listener: id,
                    error,
                },
            });
        });
        ready.push_back(Event::ListenerClosed { listener: id });
    }

    /// Queues an operation that will complete.
    fn start(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        self.push(entry);
    }

    /// Queues an operation. What it refers to must already be owned by the ring, to stay until it completes.
    fn push(&mut self, entry: squeue::Entry) {
        self.counters.submissions += 1;
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        self.counters.submission_queue_full += 1;
        self.backlog.push_back(entry);
        self.flush_backlog();
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the memory that entries refer to is owned by the ring at a stable address until their completion:
        // a send's box and chunks in its slot, the eventfd's value in its box, the receive buffers in their mapping.
        // Descriptors stay open while their slot is busy. `Drop` waits for the completions or leaks the memory.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Moves the backlog into the submission queue, submitting without a wait while it is full.
    fn flush_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if self.try_push(&entry) {
                continue;
            }
            self.backlog.push_front(entry);
            let queued = self.uring.submission().len();
            // A refusal (EAGAIN, EBUSY) leaves the entries where they are; the next turn tries again.
            if self.enter(queued as u32, None).is_err() || self.uring.submission().is_full() {
                return;
            }
        }
    }

    /// The one system call. Completions that are due are posted by it, whether it waits or not.
    fn enter(&mut self, submit: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.counters.enters += 1;
        let mut flags = EnterFlags::GETEVENTS;
        let submitter = self.uring.submitter();
        let answer = match timeout {
            // SAFETY: without an argument there is nothing but numbers.
            None => unsafe { submitter.enter::<libc::sigset_t>(submit, 0, flags.bits(), None) },
            Some(timeout) => {
                flags |= EnterFlags::EXT_ARG;
                if self.features.no_iowait {
                    flags |= EnterFlags::NO_IOWAIT;
                }
                let timeout = Timespec::from(timeout.min(WAIT_MAX));
                let arguments = SubmitArgs::new().timespec(&timeout);
                // SAFETY: EXT_ARG says that the argument is an io_uring_getevents_arg, which SubmitArgs is; it and the
                // time it refers to live until the call returns.
                unsafe { submitter.enter(submit, 1, flags.bits(), Some(&arguments)) }
            }
        };
        // Whatever was submitted of it: a message too many is harmless, one too few is a ring asleep.
        for peer in &mut self.peers {
            peer.queued = false;
        }
        match answer {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // ETIME: the timeout. EINTR: a signal. EAGAIN, EBUSY: the kernel is short of memory or holds completions
                // that must be taken first. All leave what was queued in the queue.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
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

impl Drop for Ring {
    fn drop(&mut self) {
        for socket in self.sockets.iter_mut().filter(|socket| socket.is_busy()) {
            socket.state = SocketState::Closing;
            shutdown(socket.raw(), libc::SHUT_RDWR);
        }
        let deadline = Instant::now() + DROP_WAIT;
        while self.in_flight > 0 && Instant::now() < deadline {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any().all())
                .build()
                .user_data(Tag::single(Operation::CancelAll).to_u64());
            self.start(entry);
            self.flush_backlog();
            let queued = self.uring.submission().len();
            if self.enter(queued as u32, Some(DROP_WAIT_STEP)).is_err() {
                break;
            }
            loop {
                let completion = self.uring.completion().next();
                let Some(completion) = completion else { break };
                self.settle(&completion);
            }
        }
        if self.in_flight == 0
            && self
                .uring
                .submitter()
                .unregister_buf_ring(BUFFER_GROUP)
                .is_ok()
        {
            return;
        }
        // The kernel still has something. Its memory must outlive it, so it outlives us: leaked, never reused.
        self.buffers.leak();
        std::mem::forget(std::mem::replace(
            &mut self.eventfd_value,
            Box::new(UnsafeCell::new(0)),
        ));
        for socket in self.sockets.iter_mut() {
            std::mem::forget(socket.sending.take());
        }
    }
}

impl Ring {
    /// Books a completion while the ring is being dropped: nothing is armed again, nobody is told.
    fn settle(&mut self, completion: &cqueue::Entry) {
        let Some(tag) = Tag::from_u64(completion.user_data()) else {
            return;
        };
        let counted = !matches!(tag.operation, Operation::Message | Operation::MessagePeer);
        if counted && !cqueue::more(completion.flags()) {
            self.in_flight -= 1;
        }
        match tag.operation {
            Operation::Accept if completion.result() >= 0 => {
                // SAFETY: as in `accepted`: a new descriptor, owned by nobody yet. Nobody will: close it.
                drop(unsafe { OwnedFd::from_raw_fd(completion.result()) });
            }
            Operation::MessagePeer => {
                if let Some(peer) = self.peers.get(tag.index as usize) {
                    peer.address.wake_by_eventfd();
                }
            }
            _ => {}
        }
    }
}
