//! Prompt TCP acknowledgements, asked for by who knows that no answer is on its way.

use super::Ring;
use crate::event::SocketId;
use crate::sockets::SocketState;

impl Ring {
    /// Has the kernel acknowledge now what this TCP socket received, instead of up to 40 ms later (tcp(7), TCP_QUICKACK).
    ///
    /// One system call: for sockets that have been quiet, not for every receive. Nothing happens if the socket is not
    /// open or not TCP.
    pub fn acknowledge(&mut self, id: SocketId) {
        let Some(socket) = self
            .sockets
            .get_mut(id)
            .filter(|socket| socket.state == SocketState::Open)
        else {
            return;
        };
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open while its slot is; the option's value is an int that outlives the call.
        let _not_tcp = unsafe {
            libc::setsockopt(
                socket.raw(),
                libc::IPPROTO_TCP,
                libc::TCP_QUICKACK,
                std::ptr::from_ref(&on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        self.counters.acknowledgements += 1;
    }
}
