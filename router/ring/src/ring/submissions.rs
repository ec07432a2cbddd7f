//! Caller to kernel: operations are built, queued, and handed over by the one system call.

use std::io;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, opcode, squeue};

use super::{Ring, tag_of};
use crate::event::SocketId;
use crate::operation::{Operation, Tag};
use crate::receive::BUFFER_GROUP;
use crate::sockets::{Receiving, SocketState};

/// The longest single wait: the kernel's clock does not take all that a `Duration` can hold.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Ring {
    pub(super) fn arm_receive(&mut self, id: SocketId) {
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
    pub(super) fn rearm_starved(&mut self) {
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

    pub(super) fn arm_eventfd(&mut self) {
        let entry = opcode::Read::new(
            Fd(self.doorbell.eventfd()),
            self.eventfd_value.get().cast(),
            size_of::<u64>() as u32,
        )
        .build()
        .user_data(Tag::single(Operation::EventfdRead).to_u64());
        self.start(entry);
    }

    /// Queues an operation that will complete.
    pub(super) fn start(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        self.push(entry);
    }

    /// Queues an operation. What it refers to must already be owned by the ring, to stay until it completes.
    pub(super) fn push(&mut self, entry: squeue::Entry) {
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
    pub(super) fn flush_backlog(&mut self) {
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
    pub(super) fn enter(&mut self, submit: u32, timeout: Option<Duration>) -> io::Result<()> {
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
