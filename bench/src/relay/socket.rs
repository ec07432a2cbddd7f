//! A glommio socket with tokio's traits, which are those that `h2` asks for.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use tokio::io::ReadBuf;

/// Bytes of one read.
const READ_BYTES: usize = 32_768;

/// Bytes that are gathered for one write. glommio has no vectored writes: without this, each HTTP/2 frame would be two
/// system calls, one for its header and one for its payload.
const WRITE_BYTES_MAX: usize = 65_536;

thread_local! {
    /// Read into first, so that only what was read is copied: a [`ReadBuf`] would have to be zeroed whole before.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

pub struct Socket {
    stream: TcpStream,
    unwritten: Vec<u8>,
    /// Of `unwritten`, what the kernel has.
    written_bytes: usize,
}

impl Socket {
    pub fn new(stream: TcpStream) -> Socket {
        Socket {
            stream,
            unwritten: Vec::new(),
            written_bytes: 0,
        }
    }

    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written_bytes < self.unwritten.len() {
            let rest = &self.unwritten[self.written_bytes..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.written_bytes += bytes,
            }
        }
        self.unwritten.clear();
        self.written_bytes = 0;
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|read| {
            let bytes = buffer.remaining().min(read.len());
            let read = &mut read[..bytes];
            let bytes = ready!(Pin::new(&mut self.stream).poll_read(context, read))?;
            buffer.put_slice(&read[..bytes]);
            Poll::Ready(Ok(()))
        })
    }
}

impl tokio::io::AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.unwritten.len() >= WRITE_BYTES_MAX {
            ready!(self.poll_write_out(context))?;
        }
        let taken = &bytes[..bytes.len().min(WRITE_BYTES_MAX - self.unwritten.len())];
        self.unwritten.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut taken_bytes = 0;
        for slice in slices {
            match self.as_mut().poll_write(context, slice) {
                Poll::Ready(Ok(bytes)) => {
                    taken_bytes += bytes;
                    if bytes < slice.len() {
                        break;
                    }
                }
                // What was taken before counts; the rest is offered again, and fails then.
                _ if taken_bytes > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(taken_bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_out(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(context))?;
        Pin::new(&mut self.stream).poll_close(context)
    }
}
