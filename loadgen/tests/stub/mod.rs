//! A server that keeps its own books: a SLIM node as small as can be, which loses, repeats, swaps, damages, delays and stalls
//! on order, counts what it did, and knows when each message was read, written and taken in on the other side.
//!
//! | file | what it owns |
//! |---|---|
//! | `mod` | threads, sockets, waiting for something to be so |
//! | `node` | the protocol, the orders and the books: bytes and time in, bytes out |
// Each test file uses its own part.
#![allow(dead_code)]

mod node;

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

#[allow(unused_imports)]
pub use node::{Act, Books, Copied, Copy, Credit, Node, Orders};

/// What a test may wait for something that is certain to happen, before it fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest sleep of the thread that forwards what was delayed.
const TIMER_WAIT: Duration = Duration::from_secs(1);

struct Shared {
    node: Mutex<Node>,
    /// For tests: something was read or written.
    changed: Condvar,
    /// For the thread that forwards: something is due earlier than before, or it is time to end.
    due: Condvar,
    /// Threads that have read something and wait for the node.
    readers_waiting: AtomicUsize,
}

impl Shared {
    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Stub {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Stub {
    pub fn start(orders: Orders) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            node: Mutex::new(Node::new(orders)),
            changed: Condvar::new(),
            due: Condvar::new(),
            readers_waiting: AtomicUsize::new(0),
        });
        let threads = vec![
            thread::spawn({
                let shared = Arc::clone(&shared);
                move || listen(&shared, &listener)
            }),
            thread::spawn({
                let shared = Arc::clone(&shared);
                move || forward(&shared)
            }),
        ];
        Self {
            shared,
            address,
            threads,
        }
    }

    pub fn target(&self) -> String {
        self.address.to_string()
    }

    /// Waits until `is_so`, looked at whenever something was read or written.
    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut(&Node) -> bool) {
        let given_up = Instant::now() + PATIENCE;
        let mut node = self.shared.node();
        while !is_so(&node) {
            let left = given_up.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never came: {what}");
            let waited = self.shared.changed.wait_timeout(node, left);
            node = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Breaks all connections at once, as a node that dies does.
    pub fn die(&self) {
        self.shared.node().close_all();
    }

    /// The books, once every connection has been read to its end.
    pub fn finish(mut self) -> Books {
        self.wait_until("the end of all connections", |node| node.open() == 0);
        self.stop();
        self.shared.node().books()
    }

    fn stop(&mut self) {
        {
            let mut node = self.shared.node();
            node.is_ending = true;
            node.close_all();
        }
        self.shared.due.notify_all();
        // Wakes the thread that accepts, so that it sees the end.
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            thread.join().expect("no thread of the stub panics");
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.stop();
        }
    }
}

fn listen(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut readers = Vec::new();
    for socket in listener.incoming() {
        let socket = socket.unwrap();
        let connection = {
            let mut node = shared.node();
            if node.is_ending {
                break;
            }
            socket.set_nodelay(true).unwrap();
            socket.set_write_timeout(Some(PATIENCE)).unwrap();
            node.connected(socket.try_clone().unwrap())
        };
        let shared = Arc::clone(shared);
        readers.push(thread::spawn(move || read(&shared, socket, connection)));
    }
    for reader in readers {
        reader.join().expect("no reader of the stub panics");
    }
}

fn read(shared: &Shared, mut socket: TcpStream, connection: usize) {
    let mut buffer = vec![0; 65_536];
    loop {
        let length = socket.read(&mut buffer).unwrap_or(0);
        // Before the lock is waited for: that wait is a delay too.
        let now = Instant::now();
        shared.readers_waiting.fetch_add(1, Ordering::Relaxed);
        let mut node = shared.node();
        shared.readers_waiting.fetch_sub(1, Ordering::Relaxed);
        if length == 0 {
            node.disconnected(connection, now);
            shared.changed.notify_all();
            let _ = socket.shutdown(Shutdown::Both);
            return;
        }
        let due_before = node.next_due();
        node.read(connection, &buffer[..length], now);
        if node.next_due() != due_before {
            shared.due.notify_all();
        }
        shared.changed.notify_all();
    }
}

/// Forwards what was delayed, at its time.
fn forward(shared: &Shared) {
    let mut node = shared.node();
    while !node.is_ending {
        let is_more_due = node.forward_due();
        shared.changed.notify_all();
        if is_more_due {
            drop(node);
            // A lock goes to whoever asks first, and that would be this thread every time.
            while shared.readers_waiting.load(Ordering::Relaxed) > 0 {
                thread::yield_now();
            }
            node = shared.node();
            continue;
        }
        let wait = node.next_due().map_or(TIMER_WAIT, |due| {
            due.saturating_duration_since(Instant::now())
                .min(TIMER_WAIT)
        });
        let waited = shared.due.wait_timeout(node, wait);
        node = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}
