//! Names of what the ring holds, and what it reports about them.

use std::io;
use std::os::fd::OwnedFd;

use crate::receive::ReceivedBuffer;
use crate::send_buffers::SendBuffers;

/// One adopted socket. `index` is dense and reused; `generation` tells the users of one index apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    index: u32,
    generation: u32,
}

impl SocketId {
    pub(crate) const fn new(index: u32, generation: u32) -> SocketId {
        SocketId { index, generation }
    }

    /// The slot, below `RingConfig::sockets_max`: good as an index into a table of the caller's own.
    pub const fn index(self) -> u32 {
        self.index
    }

    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// `generation: u32 | index: u32`, most significant first.
    pub const fn to_u64(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    pub const fn from_u64(packed: u64) -> SocketId {
        SocketId {
            index: packed as u32,
            generation: (packed >> 32) as u32,
        }
    }
}

/// One listening socket of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl ListenerId {
    /// `generation: u32 | index: u32`, most significant first.
    pub(crate) const fn to_u64(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    pub const fn from_u64(packed: u64) -> ListenerId {
        ListenerId {
            index: packed as u32,
            generation: (packed >> 32) as u32,
        }
    }
}

/// What a turn brought. For a socket, nothing comes after `Closed`.
///
/// - `Buffer`: what received bytes come in; a ring's own, unless somebody plays the ring.
#[derive(Debug)]
pub enum Event<Buffer = ReceivedBuffer> {
    /// A connection. Whoever gets the descriptor owns it; [`crate::Ring::adopt`] it here or hand it to another ring.
    Accepted {
        listener: ListenerId,
        socket: OwnedFd,
    },
    /// Accepting has stopped, for want of descriptors or memory (EMFILE, ENFILE, ENOMEM, ENOBUFS) or for good.
    /// It goes on after [`crate::Ring::resume_accept`].
    AcceptFailed {
        listener: ListenerId,
        error: io::Error,
    },
    /// After [`crate::Ring::unlisten`]: the listening socket is closed, its backlog was delivered before this.
    ListenerClosed { listener: ListenerId },
    /// Bytes, at least one, in order.
    Received { socket: SocketId, buffer: Buffer },
    /// No more bytes will come from this socket. Sending may still work after [`ReceiveEnd::Eof`].
    ReceiveEnded { socket: SocketId, cause: ReceiveEnd },
    /// The send is over and its buffers are the caller's again. `Ok` holds the bytes the kernel took: all of them,
    /// unless the socket is being closed.
    Sent {
        socket: SocketId,
        result: io::Result<usize>,
        buffers: SendBuffers,
    },
    /// After [`crate::Ring::close`]: the descriptor is closed and the id means nothing any more.
    Closed { socket: SocketId },
    /// A [`crate::Waker`] or another ring rang. Several wakes may arrive as one, and one as several.
    Woken,
}

/// Why receiving ended.
#[derive(Debug)]
pub enum ReceiveEnd {
    /// The peer finished its direction.
    Eof,
    Failed(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_id_survives_packing() {
        for id in [
            SocketId::new(0, 0),
            SocketId::new(7, u32::MAX),
            SocketId::new(u32::MAX, 1),
        ] {
            assert_eq!(SocketId::from_u64(id.to_u64()), id);
        }
    }
}
