//! A server on our own framing, without a socket: what the router does with the bytes of one read.

use slim_proto::grpc::{Deframer, prefix};
use slim_proto::http2::{DATA_FRAME_BYTES_MAX, Event, ServerConnection, Settings};

use crate::wire;

/// As the router announces them.
pub const ANNOUNCED: Settings = Settings {
    initial_window_bytes: 1 << 20,
    max_frame_bytes: 1 << 20,
    max_header_list_bytes: 16_384,
    max_concurrent_streams: 1,
};

/// Reads between two ticks of the flood budget; the router has one a second.
const READS_PER_TICK: u32 = 1_024;

pub struct OwnServer {
    connection: ServerConnection,
    deframer: Deframer,
    /// Stands for the buffer that the kernel writes into, so that both servers pay for one copy.
    received: Vec<u8>,
    reply: Vec<u8>,
    out: Vec<u8>,
    reads: u32,
}

impl OwnServer {
    /// A connection whose one stream is open.
    pub fn open() -> OwnServer {
        let mut out = Vec::new();
        let mut server = OwnServer {
            connection: ServerConnection::new(ANNOUNCED, &mut out),
            deframer: Deframer::new(),
            received: Vec::new(),
            reply: Vec::new(),
            out,
            reads: 0,
        };
        server.receive(&wire::opening(), |_| {});
        assert!(server.connection.is_established());
        server
    }

    /// Takes in one read. What is owed to the client (window updates) is written and thrown away.
    pub fn receive(&mut self, read: &[u8], mut on_message: impl FnMut(&[u8])) {
        self.out.clear();
        self.received.clear();
        self.received.extend_from_slice(read);
        self.reads += 1;
        if self.reads.is_multiple_of(READS_PER_TICK) {
            self.connection.tick();
        }
        let mut input = &self.received[..];
        while let Some(event) = self
            .connection
            .next_event(&mut input, &mut self.out)
            .expect("our own client is sound")
        {
            match event {
                Event::Request(head) => {
                    assert!(self.connection.accept(head.stream));
                    self.connection.respond_headers(head.stream, &mut self.out);
                }
                Event::Data {
                    mut bytes,
                    flow_bytes,
                    ..
                } => {
                    while let Some(message) = self
                        .deframer
                        .next_message(&mut bytes)
                        .expect("our own client is sound")
                    {
                        on_message(message.as_ref());
                    }
                    self.connection.release(flow_bytes, &mut self.out);
                }
                _ => {}
            }
        }
    }

    /// Takes in one read and sends every message of it back, all in one write. Returns the bytes of that write.
    pub fn echo(&mut self, read: &[u8]) -> usize {
        let mut reply = std::mem::take(&mut self.reply);
        reply.clear();
        self.receive(read, |message| {
            reply.extend_from_slice(&prefix(message.len()));
            reply.extend_from_slice(message);
        });
        assert!(reply.len() <= self.connection.send_window());
        self.connection.consume_send_window(reply.len());
        wire::append_data_frames(&reply, DATA_FRAME_BYTES_MAX, &mut self.out);
        self.reply = reply;
        self.out.len()
    }
}
