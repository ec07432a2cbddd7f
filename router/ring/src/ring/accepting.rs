//! New connections: taken by accept4 at the start of a turn, from the listeners that the poll of the epoll tells of.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::opcode;
use io_uring::types::Fd;

use super::Ring;
use crate::error::RingError;
use crate::event::{Event, ListenerId};
use crate::listeners::{LISTENERS_MAX, is_of_one_connection, set_nonblocking};
use crate::operation::{Operation, Tag};

/// Connections taken from one listener in one turn. More wait for the next turn, which then does not wait for anything,
/// so that a flood of connections cannot keep the others from being served.
const ACCEPTS_PER_TURN: usize = 256;
/// Connections taken from a listener as it closes: more than a backlog holds, so all that waited then are among them,
/// and an end to it even if more keep coming.
const ACCEPTS_AT_CLOSE_MAX: usize = 65_536;

impl Ring {
    /// Starts accepting from a listening socket, TCP or Unix. It is made non-blocking, and must stay so, also for others
    /// who share it.
    ///
    /// Errors: `ListenersExhausted`, `Setup`; the descriptor is closed.
    pub fn listen(&mut self, listener: OwnedFd) -> Result<ListenerId, RingError> {
        set_nonblocking(listener.as_raw_fd()).map_err(RingError::Setup)?;
        let id = self
            .listeners
            .insert(listener)
            .ok_or(RingError::ListenersExhausted {
                limit: LISTENERS_MAX,
            })?;
        if let Err(error) = self.listeners.watch(id) {
            self.listeners.remove(id);
            return Err(RingError::Setup(error));
        }
        if !self.listeners_polled {
            self.arm_listener_poll();
        }
        Ok(id)
    }

    /// Accepts again after [`Event::AcceptFailed`]. Nothing happens if the listener accepts or is gone.
    pub fn resume_accept(&mut self, id: ListenerId) {
        if let Err(error) = self.listeners.watch(id) {
            self.ready.push_back(Event::AcceptFailed {
                listener: id,
                error,
            });
        }
    }

    /// Stops accepting. What was accepted or already waits in the backlog is still delivered, then
    /// [`Event::ListenerClosed`]. Nothing happens if the listener is gone.
    pub fn unlisten(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.remove(id) else {
            return;
        };
        // A connection left in the backlog would be reset by the close.
        for _ in 0..ACCEPTS_AT_CLOSE_MAX {
            self.counters.accepts += 1;
            match listener.accept() {
                Ok(socket) => self.ready.push_back(Event::Accepted {
                    listener: id,
                    socket,
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.ready.push_back(Event::AcceptFailed {
                        listener: id,
                        error,
                    });
                    break;
                }
            }
        }
        drop(listener);
        self.ready.push_back(Event::ListenerClosed { listener: id });
    }

    /// One poll for all listeners. It holds the epoll open and no listener.
    fn arm_listener_poll(&mut self) {
        self.listeners_polled = true;
        let entry = opcode::PollAdd::new(Fd(self.listeners.raw_epoll()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(Tag::single(Operation::ListenerPoll).to_u64());
        self.start(entry);
    }

    /// The poll said that a listener is ready, or ended. One wake may stand for many connections, and some for none.
    pub(super) fn listeners_ready(&mut self, more: bool) {
        self.listeners.set_ready();
        if !more {
            self.counters.listener_polls_rearmed += 1;
            self.arm_listener_poll();
        }
    }

    /// Takes the connections that wait, a bounded number of each listener.
    ///
    /// No connection is overlooked: a listener is left only when accept4 found it empty, and each connection after that
    /// completes the poll again (an epoll wakes who polls it whenever a descriptor wakes it, listed as ready or not); or
    /// when it is at the bound or failed, and then it stays due or waits to be resumed.
    pub(super) fn accept_due(&mut self) {
        if self.listeners.find_ready() {
            self.counters.listener_looks += 1;
        }
        for _ in 0..self.listeners.due_count() {
            if let Some(id) = self.listeners.next_due() {
                self.accept_from(id);
            }
        }
    }

    fn accept_from(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get(id) else {
            return;
        };
        for _ in 0..ACCEPTS_PER_TURN {
            self.counters.accepts += 1;
            match listener.accept() {
                Ok(socket) => self.ready.push_back(Event::Accepted {
                    listener: id,
                    socket,
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.listeners.pause(id);
                    return self.ready.push_back(Event::AcceptFailed {
                        listener: id,
                        error,
                    });
                }
            }
        }
        self.listeners.make_due(id);
    }
}
