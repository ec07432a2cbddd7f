//! The echo server on our ring.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use slim_ring::Event;
use socket2::{Domain, Socket, Type};

use super::load::send_copy;
use super::{KernelThread, open_ring};

/// Answers `connections` clients until the last one has hung up.
///
/// - `started`: gets the address, and the thread that serves.
pub fn serve(connections: u32, started: &mpsc::Sender<(SocketAddr, KernelThread)>) {
    let mut ring = open_ring(connections);
    let listener = listen();
    let address = listener.local_addr().expect("a bound socket");
    ring.listen(listener.into()).expect("one listener");
    // Nobody waits any more if the measurement was given up.
    let _ = started.send((address, KernelThread::this()));
    let mut spare = Vec::new();
    let mut left = connections;
    while left > 0 {
        ring.turn(None).expect("a sound ring");
        while let Some(event) = ring.next_event() {
            match event {
                Event::Accepted { socket, .. } => {
                    let stream = TcpStream::from(socket);
                    stream.set_nodelay(true).expect("a connected socket");
                    ring.adopt(stream.into())
                        .expect("as many slots as connections");
                }
                Event::Received { socket, buffer } => {
                    send_copy(&mut ring, socket, &buffer, &mut spare);
                    drop(buffer);
                }
                Event::Sent { buffers, .. } => spare.push(buffers),
                Event::ReceiveEnded { .. } => left -= 1,
                _ => {}
            }
        }
    }
}

/// A listener with a backlog for all clients at once: the standard library's 128 would turn some away for a second.
fn listen() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .expect("a free port");
    socket.listen(4_096).expect("a bound socket");
    socket.into()
}
