//! Accepting: every connection, in bounded portions, and nothing done while there is none.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use slim_ring::{Event, ListenerId, Ring, RingConfig};
use socket2::{Domain, SockAddr, Socket, Type};

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the ring takes of one listener in one turn.
const ACCEPTS_PER_TURN: usize = 256;

fn ring() -> Ring {
    Ring::new(RingConfig {
        submission_entries: 64,
        completion_entries: 512,
        receive_buffers: 16,
        receive_buffer_bytes: 4_096,
        sockets_max: 1_024,
    })
    .unwrap()
}

/// A socket's path, gone with this.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(name: &str) -> SocketPath {
        SocketPath(std::env::temp_dir().join(format!("slim-ring-{}-{name}", std::process::id())))
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A listener with room for `backlog` connections that nobody accepts, and where to connect to.
fn listener(domain: Domain, address: SockAddr, backlog: i32) -> (OwnedFd, SockAddr) {
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.bind(&address).unwrap();
    socket.listen(backlog).unwrap();
    let address = socket.local_addr().unwrap();
    (socket.into(), address)
}

fn tcp(backlog: i32) -> (OwnedFd, SockAddr) {
    let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    listener(Domain::IPV4, any_port.into(), backlog)
}

fn unix(path: &SocketPath, backlog: i32) -> (OwnedFd, SockAddr) {
    listener(Domain::UNIX, SockAddr::unix(&path.0).unwrap(), backlog)
}

fn connect(domain: Domain, address: &SockAddr) -> Socket {
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.connect(address).unwrap();
    socket
}

/// Turns until `count` connections were accepted; nothing else may happen.
fn accept(ring: &mut Ring, listener: ListenerId, count: usize) -> Vec<OwnedFd> {
    let deadline = Instant::now() + PATIENCE;
    let mut accepted = Vec::new();
    while accepted.len() < count {
        assert!(
            Instant::now() < deadline,
            "{} of {count}; {:?}",
            accepted.len(),
            ring.counters()
        );
        ring.turn(Some(PATIENCE)).unwrap();
        while let Some(event) = ring.next_event() {
            match event {
                Event::Accepted {
                    listener: from,
                    socket,
                } => {
                    assert_eq!(from, listener);
                    accepted.push(socket);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    accepted
}

fn a_burst_is_accepted(domain: Domain, (listener, address): (OwnedFd, SockAddr)) {
    const CONNECTIONS: usize = 1_000;
    let mut ring = ring();
    let listening = ring.listen(listener).unwrap();
    let peers = thread::spawn(move || {
        (0..CONNECTIONS)
            .map(|_| connect(domain, &address))
            .collect::<Vec<_>>()
    });
    let accepted = accept(&mut ring, listening, CONNECTIONS);
    assert_eq!(accepted.len(), CONNECTIONS);
    assert_eq!(peers.join().unwrap().len(), CONNECTIONS);
}

#[test]
fn a_burst_of_a_thousand_connections_is_accepted_whole() {
    a_burst_is_accepted(Domain::IPV4, tcp(64));
}

#[test]
fn a_burst_of_a_thousand_connections_by_unix_socket_is_accepted_whole() {
    let path = SocketPath::new("burst");
    a_burst_is_accepted(Domain::UNIX, unix(&path, 64));
}

/// Each peer connects only after the one before was accepted, so that each finds the ring waiting.
fn no_wake_is_lost(domain: Domain, (listener, address): (OwnedFd, SockAddr)) {
    const ROUNDS: usize = 10_000;
    let mut ring = ring();
    let listening = ring.listen(listener).unwrap();
    let (accepted, next) = std::sync::mpsc::sync_channel(0);
    let peer = thread::spawn(move || {
        for _ in 0..ROUNDS {
            let socket = connect(domain, &address);
            // A reset leaves no port behind that waits for the end of its time.
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            next.recv_timeout(PATIENCE).unwrap();
        }
    });
    for _ in 0..ROUNDS {
        assert_eq!(accept(&mut ring, listening, 1).len(), 1);
        accepted.send(()).unwrap();
    }
    peer.join().unwrap();
}

#[test]
fn no_connection_of_ten_thousand_one_after_another_is_overlooked() {
    no_wake_is_lost(Domain::IPV4, tcp(16));
}

#[test]
fn no_connection_of_ten_thousand_by_unix_socket_is_overlooked() {
    let path = SocketPath::new("sequence");
    no_wake_is_lost(Domain::UNIX, unix(&path, 16));
}

#[test]
fn a_turn_takes_a_bounded_number_of_connections_and_the_next_goes_on_without_waiting() {
    let mut ring = ring();
    let (listener, address) = tcp(1_024);
    let _peers: Vec<Socket> = (0..2 * ACCEPTS_PER_TURN + 88)
        .map(|_| connect(Domain::IPV4, &address))
        .collect();
    ring.listen(listener).unwrap();
    let started = Instant::now();
    let counts: Vec<usize> = (0..3)
        .map(|_| {
            ring.turn(Some(PATIENCE)).unwrap();
            std::iter::from_fn(|| ring.next_event()).count()
        })
        .collect();
    assert_eq!(counts, [ACCEPTS_PER_TURN, ACCEPTS_PER_TURN, 88]);
    assert!(started.elapsed() < PATIENCE / 4);
}

#[test]
fn more_listeners_than_one_look_tells_of_are_all_accepted_from() {
    const LISTENERS: usize = 200;
    let mut ring = ring();
    let mut addresses = Vec::new();
    let mut unheard = std::collections::HashSet::new();
    for _ in 0..LISTENERS {
        let (listener, address) = tcp(16);
        unheard.insert(ring.listen(listener).unwrap());
        addresses.push(address);
    }
    ring.turn(None).unwrap();
    assert!(ring.next_event().is_none());
    let _peers: Vec<Socket> = addresses
        .iter()
        .map(|address| connect(Domain::IPV4, address))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while !unheard.is_empty() {
        assert!(Instant::now() < deadline, "{:?}", ring.counters());
        ring.turn(Some(PATIENCE)).unwrap();
        while let Some(event) = ring.next_event() {
            let Event::Accepted { listener, .. } = event else {
                panic!("{event:?}")
            };
            assert!(unheard.remove(&listener));
        }
    }
}

#[test]
fn a_ring_with_an_idle_listener_makes_no_system_call() {
    let mut ring = ring();
    let (listener, address) = tcp(16);
    let listening = ring.listen(listener).unwrap();
    let first = connect(Domain::IPV4, &address);
    let accepted = accept(&mut ring, listening, 1);
    // What the poll still has to say about that connection.
    for _ in 0..3 {
        ring.turn(Some(Duration::from_millis(5))).unwrap();
        assert!(ring.next_event().is_none());
    }
    let before = ring.counters();
    for _ in 0..10 {
        ring.turn(None).unwrap();
    }
    let after = ring.counters();
    assert_eq!(
        (after.enters, after.accepts, after.listener_looks),
        (before.enters, before.accepts, before.listener_looks)
    );
    drop((first, accepted));
}

#[test]
fn an_unlistened_socket_that_another_process_shares_wakes_the_ring_no_more() {
    let mut ring = ring();
    let (listener, address) = tcp(16);
    let shared = listener.try_clone().unwrap();
    let listening = ring.listen(listener).unwrap();
    ring.turn(None).unwrap();
    ring.unlisten(listening);
    assert!(matches!(
        ring.next_event(),
        Some(Event::ListenerClosed { .. })
    ));
    let before = ring.counters();
    let _peer = connect(Domain::IPV4, &address);
    ring.turn(Some(Duration::from_millis(20))).unwrap();
    assert!(ring.next_event().is_none());
    assert_eq!(ring.counters().completions, before.completions);
    assert!(TcpListener::from(shared).accept().is_ok());
}

#[test]
fn the_slot_of_a_closed_listener_is_accepted_from_under_its_new_name() {
    let mut ring = ring();
    let path = SocketPath::new("slot");
    let (first, _) = tcp(16);
    let first = ring.listen(first).unwrap();
    ring.unlisten(first);
    let second = ring
        .listen(UnixListener::bind(&path.0).unwrap().into())
        .unwrap();
    assert_ne!(first, second);
    ring.unlisten(first);
    ring.resume_accept(first);
    assert!(matches!(
        ring.next_event(),
        Some(Event::ListenerClosed { listener }) if listener == first
    ));
    let _peer = UnixStream::connect(&path.0).unwrap();
    accept(&mut ring, second, 1);
}

#[test]
fn what_cannot_be_watched_is_refused_at_once() {
    let mut ring = ring();
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    assert!(matches!(
        ring.listen(file.into()),
        Err(slim_ring::RingError::Setup(_))
    ));
    let (listener, address) = tcp(16);
    let listening = ring.listen(listener).unwrap();
    let _peer = TcpStream::connect(address.as_socket().unwrap()).unwrap();
    accept(&mut ring, listening, 1);
}
