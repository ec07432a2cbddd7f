//! The same server on the `h2` crate, without a socket, a runtime or a task switch: the least that crate can cost.
//!
//! The connection is polled by hand, exactly as often as it has something to do. A real server has a task for the
//! connection and one for the stream, and wakes the one from the other.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::server::Connection;
use h2::{RecvStream, SendStream};
use slim_proto::grpc::{Deframer, prefix};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::own_server::ANNOUNCED;
use crate::wire;

pub struct H2Server {
    wire: Wire,
    connection: Connection<Wire, Bytes>,
    received: RecvStream,
    sender: SendStream<Bytes>,
    deframer: Deframer,
}

impl H2Server {
    /// A connection whose one stream is open.
    pub fn open() -> H2Server {
        let wire = Wire::default();
        wire.0.borrow_mut().arrives(&wire::opening());
        let mut context = Context::from_waker(Waker::noop());
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(ANNOUNCED.initial_window_bytes)
            .initial_connection_window_size(ANNOUNCED.initial_window_bytes)
            .max_frame_size(ANNOUNCED.max_frame_bytes)
            .max_header_list_size(ANNOUNCED.max_header_list_bytes)
            .max_concurrent_streams(ANNOUNCED.max_concurrent_streams);
        let mut handshake = Box::pin(builder.handshake::<_, Bytes>(wire.clone()));
        let Poll::Ready(Ok(mut connection)) = handshake.as_mut().poll(&mut context) else {
            panic!("the whole opening has arrived");
        };
        let Poll::Ready(Some(Ok((request, mut respond)))) = connection.poll_accept(&mut context)
        else {
            panic!("the whole opening has arrived");
        };
        let response = http::Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .expect("a valid response");
        let sender = respond
            .send_response(response, false)
            .expect("the stream is open");
        H2Server {
            wire,
            connection,
            received: request.into_body(),
            sender,
            deframer: Deframer::new(),
        }
    }

    /// As [`crate::own_server::OwnServer::receive`].
    pub fn receive(&mut self, read: &[u8], mut on_message: impl FnMut(&[u8])) {
        self.wire.0.borrow_mut().arrives(read);
        self.advance();
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(data)) = self.received.poll_data(&mut context) {
            let data = data.expect("our own client is sound");
            let mut bytes = &data[..];
            while let Some(message) = self
                .deframer
                .next_message(&mut bytes)
                .expect("our own client is sound")
            {
                on_message(message.as_ref());
            }
            self.received
                .flow_control()
                .release_capacity(data.len())
                .expect("it was just received");
        }
    }

    /// As [`crate::own_server::OwnServer::echo`].
    pub fn echo(&mut self, read: &[u8]) -> usize {
        let mut reply = BytesMut::with_capacity(read.len());
        self.receive(read, |message| {
            reply.extend_from_slice(&prefix(message.len()));
            reply.extend_from_slice(message);
        });
        self.sender
            .send_data(reply.freeze(), false)
            .expect("the stream is open");
        self.advance();
        self.wire.0.borrow().written.len()
    }

    /// Reads all that has arrived, writes all that is due.
    fn advance(&mut self) {
        let polled = self
            .connection
            .poll_accept(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "one stream, and nobody closes");
    }
}

/// Both directions of a connection that is never slow.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<InFlight>>);

#[derive(Default)]
struct InFlight {
    arrived: Vec<u8>,
    read_bytes: usize,
    written: Vec<u8>,
}

impl InFlight {
    fn arrives(&mut self, bytes: &[u8]) {
        assert_eq!(self.read_bytes, self.arrived.len(), "all was read before");
        self.arrived.clear();
        self.arrived.extend_from_slice(bytes);
        self.read_bytes = 0;
        self.written.clear();
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        let wire = &mut *wire;
        let left = &wire.arrived[wire.read_bytes..];
        if left.is_empty() {
            return Poll::Pending;
        }
        let part = &left[..left.len().min(buffer.remaining())];
        buffer.put_slice(part);
        wire.read_bytes += part.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = &mut self.0.borrow_mut().written;
        let before_bytes = written.len();
        for slice in slices {
            written.extend_from_slice(slice);
        }
        Poll::Ready(Ok(written.len() - before_bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_server::OwnServer;
    use crate::publishes;

    /// One frame of `messages` messages, and every 16th time window updates for what came back meanwhile.
    fn reads(messages: usize) -> impl Iterator<Item = Vec<u8>> {
        let message = publishes::signed_of(700);
        let frame = wire::data_frame(std::iter::repeat_n(&message[..], messages));
        let reply_bytes = u32::try_from(messages * (message.len() + 5)).unwrap();
        (1..200).map(move |nth| {
            if nth % 16 == 0 {
                [frame.clone(), wire::window_updates(16 * reply_bytes)].concat()
            } else {
                frame.clone()
            }
        })
    }

    #[test]
    fn both_servers_find_the_same_messages() {
        let (mut own, mut h2) = (OwnServer::open(), H2Server::open());
        for read in reads(32) {
            let (mut by_own, mut by_h2) = (Vec::new(), Vec::new());
            own.receive(&read, |message| by_own.push(message.to_vec()));
            h2.receive(&read, |message| by_h2.push(message.to_vec()));
            assert_eq!(by_own.len(), 32);
            assert!(by_own == by_h2);
        }
    }

    #[test]
    fn both_servers_send_every_message_back() {
        let (mut own, mut h2) = (OwnServer::open(), H2Server::open());
        let (mut by_own, mut by_h2) = (0, 0);
        for read in reads(32) {
            by_own += own.echo(&read);
            by_h2 += h2.echo(&read);
        }
        let messages_bytes = 199 * 32 * 705;
        for sent_bytes in [by_own, by_h2] {
            assert!(sent_bytes >= messages_bytes, "{sent_bytes} bytes");
            assert!(
                sent_bytes < messages_bytes * 101 / 100,
                "{sent_bytes} bytes"
            );
        }
    }
}
