//! Prompt TCP acknowledgements, asked for by who knows that no answer is on its way.

use std::os::fd::RawFd;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::{Ring, tag_of};
use crate::event::SocketId;
use crate::operation::Operation;
use crate::sockets::SocketState;

/// The value of TCP_QUICKACK. A static, so that it outlives every operation that refers to it.
static ON: libc::c_int = 1;

impl Ring {
    /// Has the kernel acknowledge now what this TCP socket received, instead of up to 40 ms later (tcp(7), TCP_QUICKACK).
    ///
    /// Submitted with the turn; before Linux 6.7, one system call. Nothing happens if the socket is not open or not TCP.
    pub fn acknowledge(&mut self, id: SocketId) {
        let Some(socket) = self
            .sockets
            .get_mut(id)
            .filter(|socket| socket.state == SocketState::Open)
        else {
            return;
        };
        let descriptor = socket.raw();
        if !self.features.socket_commands {
            self.counters.acknowledgement_calls += 1;
            return acknowledge_by_call(descriptor);
        }
        // A descriptor that is closed and used again before the turn only has its next owner acknowledge early.
        let entry = opcode::SetSockOpt::new(
            Fd(descriptor),
            libc::IPPROTO_TCP as u32,
            libc::TCP_QUICKACK as u32,
            std::ptr::from_ref(&ON).cast(),
            size_of_val(&ON) as u32,
        )
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(tag_of(Operation::Acknowledge, id));
        self.counters.acknowledgements += 1;
        self.push(entry);
    }

    /// The kernel does not know the command, or the socket is not TCP or gone. Only the first is worth remembering.
    pub(super) fn acknowledge_failed(&mut self, result: i32) {
        if matches!(-result, libc::EOPNOTSUPP | libc::EINVAL) {
            self.features.socket_commands = false;
        }
    }
}

fn acknowledge_by_call(descriptor: RawFd) {
    // SAFETY: the option's value is an int that outlives the call; a wrong descriptor is refused with an error. That, and
    // a socket that is not TCP, need no answer: nothing is owed there.
    let _ = unsafe {
        libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            std::ptr::from_ref(&ON).cast(),
            size_of_val(&ON) as libc::socklen_t,
        )
    };
}
