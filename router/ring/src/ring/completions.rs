//! Kernel to caller: each completion is booked on its slot and becomes at most one event.

use std::io;

use io_uring::cqueue;

use super::{Ring, SPARE_SENDS_MAX, shutdown, tag_of};
use crate::event::{Event, ReceiveEnd, SocketId};
use crate::operation::{Operation, Tag};
use crate::sockets::{Receiving, SocketState};

impl Ring {
    /// Books one completion. Returns the event it makes, if it makes one for the caller.
    pub(super) fn complete(&mut self, completion: &cqueue::Entry) -> Option<Event> {
        self.counters.completions += 1;
        let Some(tag) = Tag::from_u64(completion.user_data()) else {
            debug_assert!(false, "a completion of no operation of ours");
            return None;
        };
        let more = cqueue::more(completion.flags());
        if tag.operation.always_completes() && !more {
            self.in_flight -= 1;
        }
        let result = completion.result();
        match tag.operation {
            Operation::Receive => self.received(tag, result, completion.flags()),
            Operation::Send => self.sent(tag, result),
            Operation::CancelSocket => self.socket_cancelled(tag),
            Operation::ListenerPoll => {
                self.listeners_ready(more);
                None
            }
            Operation::EventfdRead => {
                self.doorbell.quiet();
                self.arm_eventfd();
                Some(Event::Woken)
            }
            Operation::Message => Some(Event::Woken),
            Operation::MessagePeer => self.message_failed(tag),
            Operation::CancelAll => None,
            Operation::Acknowledge => {
                self.acknowledge_failed(result);
                None
            }
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
            // Not by us, for the socket is open: by a signal, or by a kernel that had no room for the completion.
            libc::EINTR | libc::ECANCELED => {
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

    pub(super) fn message_failed(&mut self, tag: Tag) -> Option<Event> {
        if let Some(peer) = self.peers.get(tag.index as usize) {
            self.counters.wakes_by_eventfd += 1;
            peer.address.wake_by_eventfd();
        }
        None
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
    pub(super) fn finish_socket(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.close_descriptor();
            self.ready.push_back(Event::Closed { socket: id });
        }
    }
}
