//! Measures echo round trips: one thread's ring serves, another thread's ring asks, over loopback.
//!
//! ```text
//! cargo run --release -p slim-ring --example echo -- [connections] [bytes] [seconds]
//! ```
//!
//! Prints, for the serving ring: round trips per second, processor time and system calls per round trip.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use slim_ring::{Event, Ring, RingConfig, RingCounters, SendBuffers, SocketId};

const TURN_WAIT: Duration = Duration::from_millis(50);

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse().expect("a number"));
    let connections: u32 = arguments.next().unwrap_or(64);
    let bytes = arguments.next().unwrap_or(256) as usize;
    let seconds = arguments.next().unwrap_or(3);

    println!(
        "{:?}",
        Ring::probe().unwrap_or_else(|error| panic!("{error}"))
    );
    let stop = Arc::new(AtomicBool::new(false));
    let listener = listen();
    let address = listener.local_addr().expect("bound above");
    let server = thread::spawn({
        let stop = Arc::clone(&stop);
        move || serve(listener, bytes, connections, &stop)
    });
    let client = thread::spawn({
        let stop = Arc::clone(&stop);
        move || ask(address, bytes, connections, &stop)
    });
    thread::sleep(Duration::from_secs(seconds.into()));
    stop.store(true, Ordering::Relaxed);
    client.join().expect("the client ran to its end");
    let served = server.join().expect("the server ran to its end");
    served.print();
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

struct Served {
    round_trips: u64,
    wall: Duration,
    on_processor: Duration,
    counters: RingCounters,
}

impl Served {
    fn print(&self) {
        let per_trip = |count: u64| count as f64 / self.round_trips as f64;
        println!(
            "{} round trips, {:.0}/s; serving ring: {:.2} us processor time, {:.3} io_uring_enter, {:.2} submissions, \
             {:.2} completions per round trip",
            self.round_trips,
            self.round_trips as f64 / self.wall.as_secs_f64(),
            per_trip(self.on_processor.as_nanos() as u64) / 1_000.0,
            per_trip(self.counters.enters),
            per_trip(self.counters.submissions),
            per_trip(self.counters.completions),
        );
        println!("{:?}", self.counters);
    }
}

fn open(connections: u32) -> Ring {
    Ring::new(RingConfig {
        submission_entries: 1_024,
        completion_entries: 8_192,
        receive_buffers: 1_024,
        receive_buffer_bytes: 16_384,
        sockets_max: connections,
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

fn serve(listener: TcpListener, bytes: usize, connections: u32, stop: &AtomicBool) -> Served {
    let mut ring = open(connections);
    ring.listen(listener.into()).expect("one listener");
    let mut spare = Vec::new();
    let mut received_bytes = 0;
    let (started, processor_before) = (Instant::now(), on_processor());
    while !stop.load(Ordering::Relaxed) {
        ring.turn(Some(TURN_WAIT)).expect("a sound ring");
        while let Some(event) = ring.next_event() {
            match event {
                Event::Accepted { socket, .. } => {
                    let stream = TcpStream::from(socket);
                    stream.set_nodelay(true).expect("a connected socket");
                    ring.adopt(stream.into())
                        .expect("as many slots as connections");
                }
                Event::Received { socket, buffer } => {
                    received_bytes += buffer.len();
                    answer(&mut ring, socket, &buffer, &mut spare);
                    ring.recycle(buffer);
                }
                Event::Sent { buffers, .. } => spare.push(buffers),
                _ => {}
            }
        }
    }
    Served {
        round_trips: (received_bytes / bytes) as u64,
        wall: started.elapsed(),
        on_processor: on_processor() - processor_before,
        counters: ring.counters(),
    }
}

fn ask(address: SocketAddr, bytes: usize, connections: u32, stop: &AtomicBool) {
    let mut ring = open(connections);
    let mut spare = Vec::new();
    let question = vec![7; bytes];
    let mut missing = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a connected socket");
        let socket = ring
            .adopt(stream.into())
            .expect("as many slots as connections");
        missing.push(bytes);
        answer(&mut ring, socket, &question, &mut spare);
    }
    while !stop.load(Ordering::Relaxed) {
        ring.turn(Some(TURN_WAIT)).expect("a sound ring");
        while let Some(event) = ring.next_event() {
            match event {
                Event::Received { socket, buffer } => {
                    let missing = &mut missing[socket.index() as usize];
                    *missing -= buffer.len();
                    if *missing == 0 {
                        *missing = bytes;
                        answer(&mut ring, socket, &question, &mut spare);
                    }
                }
                Event::Sent { buffers, .. } => spare.push(buffers),
                _ => {}
            }
        }
    }
}

/// Sends a copy of `bytes` in memory of an earlier send. Ping-pong: the send before this one is over.
fn answer(ring: &mut Ring, socket: SocketId, bytes: &[u8], spare: &mut Vec<SendBuffers>) {
    let mut buffers = spare.pop().unwrap_or_default();
    let mut copy = buffers.take_owned().next().unwrap_or_default();
    copy.clear();
    copy.extend_from_slice(bytes);
    buffers.push_owned(copy).expect("one chunk");
    ring.send(socket, buffers);
}

/// Time that this thread has spent on a processor, by the scheduler's own account.
fn on_processor() -> Duration {
    let account = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(
        account
            .split(' ')
            .next()
            .and_then(|field| field.parse().ok())
            .unwrap_or(0),
    )
}
