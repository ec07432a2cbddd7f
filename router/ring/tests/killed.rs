//! A process that is killed stops listening before anyone learns of its end.
//!
//! The process is this test again, told by the environment to serve.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use slim_ring::{Event, Ring, RingConfig, SendBuffers};

const ROUNDS: usize = 50;
const CONNECTIONS: usize = 20;
/// Where the child listens: an address of TCP, or a path.
const LISTEN_AT: &str = "SLIM_RING_TEST_LISTEN_AT";
const READY: &str = "listens at ";

/// Serves until it is killed, where the environment asks for it: says where, then greets each connection with a byte.
#[test]
fn child() {
    let Ok(listen_at) = std::env::var(LISTEN_AT) else {
        return;
    };
    let mut ring = Ring::new(RingConfig {
        submission_entries: 64,
        completion_entries: 512,
        receive_buffers: 16,
        receive_buffer_bytes: 4_096,
        sockets_max: 1_024,
    })
    .unwrap();
    let listener = if listen_at.starts_with('/') {
        let listener = UnixListener::bind(&listen_at).unwrap();
        println!("\n{READY}{listen_at}");
        listener.into()
    } else {
        let listener = TcpListener::bind(listen_at).unwrap();
        println!("\n{READY}{}", listener.local_addr().unwrap());
        listener.into()
    };
    ring.listen(listener).unwrap();
    loop {
        ring.turn(Some(Duration::from_secs(60))).unwrap();
        while let Some(event) = ring.next_event() {
            if let Event::Accepted { socket, .. } = event {
                let socket = ring.adopt(socket).unwrap();
                let mut greeting = SendBuffers::new();
                greeting.push_owned(vec![1]).unwrap();
                ring.send(socket, greeting);
            }
        }
    }
}

/// The serving process. It ends with this, whatever the test finds.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it was killed and reaped before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a process that serves. Returns it and where it listens.
fn start(listen_at: &str) -> (Server, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(LISTEN_AT, listen_at)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let address = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix(READY).map(str::to_owned))
        .unwrap();
    (Server(child), address)
}

fn kill_and_reap(mut server: Server) {
    server.0.kill().unwrap();
    server.0.wait().unwrap();
}

/// Connections that the child has adopted: it has greeted each.
fn greeted<S: Read>(connect: impl Fn() -> S) -> Vec<S> {
    (0..CONNECTIONS)
        .map(|_| {
            let mut stream = connect();
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect()
}

/// Waits for the end of a connection, an end of stream or a reset.
fn wait_for_end(mut stream: impl Read) {
    while stream.read(&mut [0]).is_ok_and(|bytes| bytes > 0) {}
}

#[test]
fn right_after_a_killed_process_is_reaped_its_port_refuses_and_is_free() {
    for round in 0..ROUNDS {
        let (server, address) = start("127.0.0.1:0");
        let streams = greeted(|| TcpStream::connect(&address).unwrap());
        kill_and_reap(server);
        let refused = TcpStream::connect(&address);
        assert!(refused.is_err(), "round {round}: connected to the dead");
        let successor = TcpListener::bind(&address);
        assert!(successor.is_ok(), "round {round}: {successor:?}");
        TcpStream::connect(&address).unwrap();
        drop(streams);
    }
}

#[test]
fn right_after_a_killed_process_is_reaped_its_unix_socket_refuses() {
    let path = std::env::temp_dir().join(format!("slim-ring-{}-killed", std::process::id()));
    let path = path.to_str().unwrap();
    for round in 0..ROUNDS {
        let (server, _) = start(path);
        let streams = greeted(|| UnixStream::connect(path).unwrap());
        kill_and_reap(server);
        let refused = UnixStream::connect(path);
        assert!(refused.is_err(), "round {round}: connected to the dead");
        std::fs::remove_file(path).unwrap();
        assert!(UnixListener::bind(path).is_ok());
        std::fs::remove_file(path).unwrap();
        drop(streams);
    }
}

#[test]
fn whoever_loses_its_connection_to_a_killed_process_is_refused_when_it_connects_again_at_once() {
    for round in 0..ROUNDS {
        let (mut server, address) = start("127.0.0.1:0");
        let peers: Vec<_> = greeted(|| TcpStream::connect(&address).unwrap())
            .into_iter()
            .map(|stream| {
                let address = address.clone();
                thread::spawn(move || {
                    wait_for_end(stream);
                    TcpStream::connect(&address).is_err()
                })
            })
            .collect();
        server.0.kill().unwrap();
        for peer in peers {
            assert!(peer.join().unwrap(), "round {round}: connected to the dead");
        }
    }
}
