//! A send in flight: owns what the kernel reads until the completion is in, and knows how much is still to go.

use std::os::fd::RawFd;

use io_uring::{opcode, squeue, types::Fd};

use crate::send_buffers::{Chunk, SEND_CHUNKS_MAX, SendBuffers};

/// Bytes that one plain send asks for: the kernel cuts a send at 2^31 - 4096 bytes anyway, and the ring goes on after.
const PLAIN_SEND_BYTES_MAX: usize = 1 << 30;
/// Pieces whose memory a finished send keeps for the next one; a longer list is let go.
const KEPT_PIECES: usize = 64;
// MSG_WAITALL: the kernel itself goes on after a short send. MSG_NOSIGNAL: a reset peer is an error, not a SIGPIPE.
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// Boxed by its users: `header` and `pieces` must stay where they are while the kernel has the operation.
pub(crate) struct SendInFlight {
    buffers: SendBuffers,
    /// Bytes that the kernel has taken so far.
    sent_bytes: usize,
    pieces: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl SendInFlight {
    pub(crate) fn new() -> SendInFlight {
        // SAFETY: msghdr is a C struct of integers and pointers, for which all zeroes is the valid empty message.
        let header = unsafe { std::mem::zeroed() };
        SendInFlight {
            buffers: SendBuffers::new(),
            sent_bytes: 0,
            pieces: Vec::new(),
            header,
        }
    }

    /// Takes the buffers of a new send. Returns what was in its place: an empty list, from a finished send.
    pub(crate) fn begin(&mut self, buffers: SendBuffers) {
        self.buffers = buffers;
        self.sent_bytes = 0;
    }

    /// The send is over: gives its buffers back and forgets every address.
    pub(crate) fn finish(&mut self) -> SendBuffers {
        self.pieces.clear();
        self.pieces.shrink_to(KEPT_PIECES);
        self.header.msg_iov = std::ptr::null_mut();
        self.header.msg_iovlen = 0;
        std::mem::take(&mut self.buffers)
    }

    /// Counts `bytes` more as taken. Returns whether all are.
    pub(crate) fn advance(&mut self, bytes: usize) -> bool {
        self.sent_bytes += bytes;
        self.sent_bytes >= self.buffers.len_bytes()
    }

    pub(crate) fn sent_bytes(&self) -> usize {
        self.sent_bytes
    }

    /// The submission that sends the rest: SEND for one piece, SENDMSG for several.
    ///
    /// It holds addresses into `self` and into the chunks. Whoever pushes it keeps this box, unchanged, until the
    /// completion is in.
    pub(crate) fn entry(&mut self, socket: RawFd) -> squeue::Entry {
        let mut skip = self.sent_bytes;
        let rest = self
            .buffers
            .chunks()
            .iter()
            .map(Chunk::as_slice)
            .filter_map(|bytes| {
                let (skipped, rest) = bytes.split_at(skip.min(bytes.len()));
                skip -= skipped.len();
                (!rest.is_empty()).then_some(libc::iovec {
                    iov_base: rest.as_ptr().cast_mut().cast(),
                    iov_len: rest.len(),
                })
            });
        self.pieces.clear();
        self.pieces.extend(rest);
        debug_assert!(!self.pieces.is_empty() && self.pieces.len() <= SEND_CHUNKS_MAX);
        match self.pieces.as_slice() {
            [piece] => {
                let length_bytes = piece.iov_len.min(PLAIN_SEND_BYTES_MAX) as u32;
                opcode::Send::new(Fd(socket), piece.iov_base.cast(), length_bytes)
                    .flags(SEND_FLAGS)
                    .build()
            }
            _ => {
                self.header.msg_iov = self.pieces.as_mut_ptr();
                self.header.msg_iovlen = self.pieces.len() as _;
                opcode::SendMsg::new(Fd(socket), &self.header)
                    .flags(SEND_FLAGS as u32)
                    .build()
            }
        }
    }
}
