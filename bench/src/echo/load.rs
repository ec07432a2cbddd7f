//! The asking side, the same for every server: one question under way on each connection.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use slim_ring::{Event, Ring, SendBuffers, SocketId};

use super::{Workload, open_ring};

const TURN_WAIT: Duration = Duration::from_millis(50);

/// Asks until `stop`, and counts in `round_trips` the answers that have come back whole.
pub fn ask(address: SocketAddr, workload: Workload, round_trips: &AtomicU64, stop: &AtomicBool) {
    let mut ring = open_ring(workload.connections);
    let mut spare = Vec::new();
    let question = vec![7; workload.bytes];
    let mut missing_bytes = Vec::new();
    for _ in 0..workload.connections {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a connected socket");
        let socket = ring
            .adopt(stream.into())
            .expect("as many slots as connections");
        missing_bytes.push(workload.bytes);
        send_copy(&mut ring, socket, &question, &mut spare);
    }
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        ring.turn(Some(TURN_WAIT)).expect("a sound ring");
        while let Some(event) = ring.next_event() {
            match event {
                Event::Received { socket, buffer } => {
                    let missing_bytes = &mut missing_bytes[socket.index() as usize];
                    *missing_bytes -= buffer.len();
                    if *missing_bytes == 0 {
                        *missing_bytes = workload.bytes;
                        answered += 1;
                        send_copy(&mut ring, socket, &question, &mut spare);
                    }
                }
                Event::Sent { buffers, .. } => spare.push(buffers),
                Event::ReceiveEnded { cause, .. } => panic!("the server hung up: {cause:?}"),
                _ => {}
            }
        }
        round_trips.store(answered, Ordering::Relaxed);
    }
}

/// Sends a copy of `bytes` in memory of an earlier send. Ping-pong: the send before this one is over.
pub fn send_copy(ring: &mut Ring, socket: SocketId, bytes: &[u8], spare: &mut Vec<SendBuffers>) {
    let mut buffers = spare.pop().unwrap_or_default();
    let mut copy = buffers.take_owned().next().unwrap_or_default();
    copy.clear();
    copy.extend_from_slice(bytes);
    buffers.push_owned(copy).expect("one chunk");
    ring.send(socket, buffers);
}
