//! One shard's sockets on io_uring, behind a safe API.
//!
//! ```text
//! listen -> Accepted -> adopt -> Received* -> ReceiveEnded
//!                         send -> Sent            close -> Closed
//!
//! loop { turn (one system call: submit all, wait once);  while next_event { .. queue sends, closes, adopts .. } }
//! ```
//!
//! A [`Ring`] lives on one thread. What it does per turn is one `io_uring_enter`: everything queued since the last turn
//! goes in, whatever completed comes out. Receives are multishot: armed once, re-armed by the ring. All receives share one
//! pool of buffers that the kernel picks from, so an idle socket costs a slot and no buffer.
//!
//! Accepting is no operation of the ring, because an operation keeps its socket open. When a process is killed, the
//! kernel ends its operations in a worker of its own, later: a listener under a multishot accept went on listening for
//! 7 ms after the process was reaped, at most 12 (Linux 6.18). Peers that lost their link and reconnected at once were taken
//! into that dead backlog and reset, and a successor could not bind. So the listeners are in an epoll, which keeps
//! nothing open, and the ring polls the epoll (multishot); connections are taken by accept4. The listeners now close
//! with the process, and the connections, which the receives keep open, only after them.
//!
//! It knows nothing of what the bytes mean, sets no socket options and keeps no timers. What always holds:
//! - memory that the kernel may read or write is owned by the ring (or leaked, if the kernel will not let go of it)
//!   until the completion says that it is done;
//! - a slot is reused only after every operation on it has completed and the caller has seen [`Event::Closed`];
//! - nothing is reported for a socket after its [`Event::Closed`].
//!
//! The only crate of the workspace with `unsafe`: the calls into the kernel, and the addresses that go with them.

mod epoll;
mod error;
mod event;
mod listeners;
mod operation;
mod receive;
mod ring;
mod send;
mod send_buffers;
mod setup;
mod sockets;
mod wake;

pub use error::RingError;
pub use event::{Event, ListenerId, ReceiveEnd, SocketId};
pub use receive::ReceivedBuffer;
pub use ring::{Ring, RingCounters};
pub use send_buffers::{Chunk, SEND_CHUNKS_MAX, SendBuffers};
pub use setup::{Features, RingConfig};
pub use wake::{RingAddress, Waker};
