//! The end of a ring: nothing that the kernel may still write is freed.

use std::cell::UnsafeCell;
use std::time::{Duration, Instant};

use io_uring::types::CancelBuilder;
use io_uring::{cqueue, opcode};

use super::{Ring, shutdown};
use crate::operation::{Operation, Tag};
use crate::receive::BUFFER_GROUP;
use crate::sockets::SocketState;

/// How long dropping a ring waits for the kernel to let go of the memory, before it leaks it.
const DROP_WAIT: Duration = Duration::from_secs(5);
/// One wait within [`DROP_WAIT`]; after it, what is still in flight is cancelled again.
const DROP_WAIT_STEP: Duration = Duration::from_millis(20);

impl Drop for Ring {
    fn drop(&mut self) {
        if self.let_go() {
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
    /// Ends all operations and waits for them. Returns whether the kernel refers to none of our memory any more.
    pub(super) fn let_go(&mut self) -> bool {
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
                return false;
            }
            loop {
                let completion = self.uring.completion().next();
                let Some(completion) = completion else { break };
                self.settle(&completion);
            }
        }
        self.in_flight == 0
            && self
                .uring
                .submitter()
                .unregister_buf_ring(BUFFER_GROUP)
                .is_ok()
    }

    /// Books a completion while the ring is being dropped: nothing is armed again, nobody is told.
    fn settle(&mut self, completion: &cqueue::Entry) {
        let Some(tag) = Tag::from_u64(completion.user_data()) else {
            return;
        };
        if tag.operation.always_completes() && !cqueue::more(completion.flags()) {
            self.in_flight -= 1;
        }
        if tag.operation == Operation::MessagePeer {
            self.message_failed(tag);
        }
    }
}
