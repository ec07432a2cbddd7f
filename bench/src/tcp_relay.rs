//! The upper limit for large payloads: bytes from one socket to others on the router's own ring, without a look at them.
//!
//! No HTTP/2, no messages, no names but one a connection: what is left is what the kernel and one copy in user space cost.
//! (One copy, because the ring's receive buffers go back before the turn ends, as in the router.) `slim-loadgen --target
//! tcp://..` speaks to it, so that the same workloads run against it and the router.
//!
//! ```text
//! client -> relay   hello, 128 bytes: "tcp-relay 1 sends NAME" or "tcp-relay 1 hears NAME", blanks, a line end
//! relay -> client   8 bytes, little-endian: how many bytes may have been sent in all; 0 for those who hear
//! sender -> relay   bytes; relay -> sender: greater and greater numbers of that form
//! relay -> receiver the sender's bytes, from its first
//! ```
//!
//! What always holds: of a sender's bytes at most [`WINDOW_BYTES`] wait for the slowest of its receivers, because it is told of
//! no more; one that sends more is ended. A name has one sender in its life, and no new receivers once that has begun: they
//! would begin in the middle of something. A name without receivers drops what it gets.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;
use slim_ring::{
    Event, ListenerId, Ring, RingConfig, RingError, SEND_CHUNKS_MAX, SendBuffers, SocketId,
};
use socket2::SockRef;

/// Bytes of a hello.
pub const HELLO_BYTES: usize = 128;
/// Bytes of each number that the relay answers with.
pub const ANSWER_BYTES: usize = 8;
/// Bytes of one sender that may wait for its slowest receiver: what the router lets wait for a receiver.
pub const WINDOW_BYTES: u64 = 1_048_576;
/// A sender is told of so many bytes at a time, or more.
const GRANT_BYTES: u64 = WINDOW_BYTES / 4;
/// Connections at a time. More are closed as they come.
const SOCKETS_MAX: u32 = 8_192;
const RECEIVE_BUFFERS: u16 = 256;
const RECEIVE_BUFFER_BYTES: u32 = 32_768;
/// What is shorter goes to the end of what came before it; what is longer is a piece of its own.
const PIECE_BYTES: usize = 4_096;
/// Emptied buffers that are kept, each of one receive.
const SPARES_MAX: usize = 256;
/// After a want of descriptors; how often it is tried again.
const TURN_WAIT: Duration = Duration::from_millis(250);

// All that may wait for a receiver fits one send: pieces, each with shorter ones before it, and the answer.
const _: () = assert!(2 * (WINDOW_BYTES as usize / PIECE_BYTES) + 2 <= SEND_CHUNKS_MAX);

/// Why there is no relay, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum TcpRelayError {
    #[error("cannot listen on {address}: {error}")]
    Listen {
        address: SocketAddr,
        error: std::io::Error,
    },
    #[error("no thread: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("the relay's thread panicked")]
    Panicked,
}

/// A relay that serves until the process ends.
pub struct TcpRelay {
    pub address: SocketAddr,
    thread: JoinHandle<Result<(), TcpRelayError>>,
}

impl TcpRelay {
    /// Serves on a thread of its own.
    ///
    /// - `core`: where it runs; `None` leaves it to the affinity of the calling thread.
    pub fn start(listen: SocketAddr, core: Option<usize>) -> Result<Self, TcpRelayError> {
        let refused = |error| TcpRelayError::Listen {
            address: listen,
            error,
        };
        let listener = TcpListener::bind(listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let (ready_sender, ready) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("tcp-relay".to_owned())
            .spawn(move || {
                if let Some(id) = core {
                    // On a core that is not there it serves all the same, and not pinned.
                    let _ = core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                let mut server = Server::new(listener)?;
                // The caller waits for it.
                let _ = ready_sender.send(());
                drop(ready_sender);
                server.serve()
            })
            .map_err(TcpRelayError::Thread)?;
        let relay = Self { address, thread };
        match ready.recv() {
            Ok(()) => Ok(relay),
            Err(_) => Err(relay.wait().err().unwrap_or(TcpRelayError::Panicked)),
        }
    }

    /// Waits for what ends it.
    pub fn wait(self) -> Result<(), TcpRelayError> {
        self.thread.join().map_err(|_| TcpRelayError::Panicked)?
    }
}

/// A name: who sends to it, who hears it.
struct Group {
    name: Vec<u8>,
    sender: Option<SocketId>,
    has_had_sender: bool,
    receivers: Vec<SocketId>,
    /// From the sender so far.
    received_bytes: u64,
    /// That the sender was told it may send.
    granted_bytes: u64,
}

enum Role {
    /// The hello so far.
    Greeting(Vec<u8>),
    Sender {
        group: usize,
    },
    Receiver {
        group: usize,
    },
    /// Closing.
    Ended,
}

struct Member {
    socket: SocketId,
    role: Role,
    /// Waits for the send under way.
    queue: SendBuffers,
    /// Short pieces behind it.
    tail: Vec<u8>,
    /// Empty, and here unless a send is under way.
    list: Option<SendBuffers>,
    is_dirty: bool,
    /// By the kernel, the answer included.
    sent_bytes: u64,
}

impl Member {
    /// Puts `bytes` behind what waits, in one copy.
    fn push(&mut self, bytes: &[u8], spares: &mut Vec<Vec<u8>>) {
        if bytes.len() < PIECE_BYTES {
            self.tail.extend_from_slice(bytes);
            return;
        }
        self.push_tail();
        let mut piece = spares.pop().unwrap_or_default();
        piece.extend_from_slice(bytes);
        let refused = self.queue.push_owned(piece);
        debug_assert!(refused.is_ok(), "the window is less than a list takes");
    }

    fn push_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < PIECE_BYTES {
            self.tail.extend_from_slice(bytes);
            return;
        }
        self.push_tail();
        let refused = self.queue.push_shared(bytes.clone());
        debug_assert!(refused.is_ok(), "the window is less than a list takes");
    }

    fn push_tail(&mut self) {
        if !self.tail.is_empty() {
            let refused = self.queue.push_owned(std::mem::take(&mut self.tail));
            debug_assert!(refused.is_ok(), "the window is less than a list takes");
        }
    }
}

struct Server {
    ring: Ring,
    listener: ListenerId,
    /// By socket index.
    members: Vec<Option<Member>>,
    groups: Slab<Group>,
    group_of_name: HashMap<Vec<u8>, usize>,
    /// Members with something to send.
    dirty: Vec<SocketId>,
    spares: Vec<Vec<u8>>,
}

impl Server {
    fn new(listener: TcpListener) -> Result<Self, TcpRelayError> {
        let mut ring = Ring::new(RingConfig {
            submission_entries: 1_024,
            completion_entries: 8_192,
            receive_buffers: RECEIVE_BUFFERS,
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
            sockets_max: SOCKETS_MAX,
        })?;
        let listener = ring.listen(OwnedFd::from(listener))?;
        let mut members = Vec::new();
        members.resize_with(SOCKETS_MAX as usize, || None);
        Ok(Self {
            ring,
            listener,
            members,
            groups: Slab::new(),
            group_of_name: HashMap::new(),
            dirty: Vec::new(),
            spares: Vec::new(),
        })
    }

    fn serve(&mut self) -> Result<(), TcpRelayError> {
        let mut is_accepting = true;
        loop {
            self.flush();
            self.ring.turn(Some(TURN_WAIT))?;
            if !is_accepting {
                is_accepting = true;
                self.ring.resume_accept(self.listener);
            }
            while let Some(event) = self.ring.next_event() {
                match event {
                    Event::Accepted { socket, .. } => self.accepted(socket),
                    Event::AcceptFailed { error, .. } => {
                        eprintln!("accepting pauses: {error}");
                        is_accepting = false;
                    }
                    Event::Received { socket, buffer } => self.received(socket, &buffer),
                    Event::ReceiveEnded { socket, .. } => self.end(socket),
                    Event::Sent {
                        socket,
                        result,
                        buffers,
                    } => self.sent(socket, result.ok(), buffers),
                    Event::Closed { socket } => {
                        if let Some(slot) = self.members.get_mut(socket.index() as usize) {
                            *slot = None;
                        }
                    }
                    Event::ListenerClosed { .. } | Event::Woken => {}
                }
            }
        }
    }

    fn accepted(&mut self, socket: OwnedFd) {
        // Answers are short and are waited for. Where it cannot be set, they come later.
        let _ = SockRef::from(&socket).set_tcp_nodelay(true);
        // More connections than there is room for are closed.
        let Ok(socket) = self.ring.adopt(socket) else {
            return;
        };
        if let Some(slot) = self.members.get_mut(socket.index() as usize) {
            *slot = Some(Member {
                socket,
                role: Role::Greeting(Vec::with_capacity(HELLO_BYTES)),
                queue: SendBuffers::new(),
                tail: Vec::new(),
                list: Some(SendBuffers::new()),
                is_dirty: false,
                sent_bytes: 0,
            });
        }
    }

    fn received(&mut self, socket: SocketId, bytes: &[u8]) {
        let Some(member) = member_of(&mut self.members, socket) else {
            return;
        };
        match &mut member.role {
            Role::Sender { group } => {
                let group = *group;
                self.relay(socket, group, bytes);
            }
            Role::Greeting(hello) => {
                let missing = HELLO_BYTES - hello.len();
                let (head, rest) = bytes.split_at(missing.min(bytes.len()));
                hello.extend_from_slice(head);
                if hello.len() < HELLO_BYTES {
                    return;
                }
                let hello = std::mem::take(hello);
                match self.join(socket, &hello) {
                    // What follows at once has no grant yet, and is refused there.
                    Ok(()) if rest.is_empty() => {}
                    Ok(()) => self.refuse(socket, "it did not wait for the answer"),
                    Err(why) => self.refuse(socket, why),
                }
            }
            Role::Receiver { .. } => self.refuse(socket, "one that hears has nothing to send"),
            Role::Ended => {}
        }
    }

    /// Takes a member into its group and answers it.
    fn join(&mut self, socket: SocketId, hello: &[u8]) -> Result<(), &'static str> {
        let (is_sender, name) = parse_hello(hello).ok_or("its hello is none")?;
        let group = match self.group_of_name.get(name) {
            Some(group) => *group,
            None => {
                let group = self.groups.insert(Group {
                    name: name.to_vec(),
                    sender: None,
                    has_had_sender: false,
                    receivers: Vec::new(),
                    received_bytes: 0,
                    granted_bytes: 0,
                });
                self.group_of_name.insert(name.to_vec(), group);
                group
            }
        };
        let found = &mut self.groups[group];
        let mut granted_bytes = 0;
        let role = if is_sender {
            if found.has_had_sender {
                return Err("the name has, or had, a sender");
            }
            found.has_had_sender = true;
            found.sender = Some(socket);
            found.granted_bytes = WINDOW_BYTES;
            granted_bytes = WINDOW_BYTES;
            Role::Sender { group }
        } else {
            if found.received_bytes > 0 {
                return Err("its sender has begun");
            }
            found.receivers.push(socket);
            Role::Receiver { group }
        };
        if let Some(member) = member_of(&mut self.members, socket) {
            member.role = role;
            member.tail.extend_from_slice(&granted_bytes.to_le_bytes());
            mark(member, &mut self.dirty);
        }
        Ok(())
    }

    fn relay(&mut self, socket: SocketId, group: usize, bytes: &[u8]) {
        let found = &mut self.groups[group];
        found.received_bytes += bytes.len() as u64;
        if found.received_bytes > found.granted_bytes {
            self.refuse(socket, "it sent more than it may");
            return;
        }
        match found.receivers[..] {
            // Dropped, and room for more at once.
            [] => self.grant(group),
            [only] => {
                if let Some(member) = member_of(&mut self.members, only) {
                    member.push(bytes, &mut self.spares);
                    mark(member, &mut self.dirty);
                }
            }
            _ => {
                let shared = Bytes::copy_from_slice(bytes);
                for receiver in &found.receivers {
                    if let Some(member) = member_of(&mut self.members, *receiver) {
                        member.push_shared(&shared);
                        mark(member, &mut self.dirty);
                    }
                }
            }
        }
    }

    fn sent(&mut self, socket: SocketId, sent: Option<usize>, mut buffers: SendBuffers) {
        for mut piece in buffers.take_owned() {
            if self.spares.len() < SPARES_MAX && piece.capacity() >= PIECE_BYTES {
                piece.clear();
                self.spares.push(piece);
            }
        }
        let Some(member) = member_of(&mut self.members, socket) else {
            return;
        };
        member.list = Some(buffers);
        let Some(sent) = sent else {
            self.end(socket);
            return;
        };
        member.sent_bytes += sent as u64;
        mark(member, &mut self.dirty);
        if let Role::Receiver { group } = member.role {
            self.grant(group);
        }
    }

    fn group_of(&self, socket: SocketId) -> Option<usize> {
        match self.members.get(socket.index() as usize)?.as_ref()?.role {
            Role::Sender { group } | Role::Receiver { group } => Some(group),
            Role::Greeting(_) | Role::Ended => None,
        }
    }

    /// Tells a group's sender what it may send now, if that is worth a send.
    fn grant(&mut self, group: usize) {
        let group = &mut self.groups[group];
        // Of what the slowest receiver has; without any, of all that came.
        let members = &self.members;
        let position = |receiver: &SocketId| {
            let member = members.get(receiver.index() as usize)?.as_ref()?;
            Some(member.sent_bytes.saturating_sub(ANSWER_BYTES as u64))
        };
        let slowest = group.receivers.iter().filter_map(position).min();
        let grantable = slowest.unwrap_or(group.received_bytes) + WINDOW_BYTES;
        if grantable < group.granted_bytes + GRANT_BYTES {
            return;
        }
        let Some(member) = group
            .sender
            .and_then(|sender| member_of(&mut self.members, sender))
        else {
            return;
        };
        // One that does not read its answers is owed the newest only.
        member.tail.clear();
        member.tail.extend_from_slice(&grantable.to_le_bytes());
        group.granted_bytes = grantable;
        mark(member, &mut self.dirty);
    }

    fn refuse(&mut self, socket: SocketId, why: &str) {
        eprintln!("a connection was refused: {why}");
        self.end(socket);
    }

    fn end(&mut self, socket: SocketId) {
        let group = self.group_of(socket);
        let Some(member) = member_of(&mut self.members, socket) else {
            return;
        };
        member.role = Role::Ended;
        member.queue.clear();
        member.tail.clear();
        self.ring.close(socket);
        let Some(index) = group else {
            return;
        };
        let group = &mut self.groups[index];
        group.receivers.retain(|receiver| *receiver != socket);
        group.sender = group.sender.filter(|sender| *sender != socket);
        if group.receivers.is_empty() && group.sender.is_none() {
            let group = self.groups.remove(index);
            self.group_of_name.remove(&group.name);
        } else {
            // It may have been the slowest.
            self.grant(index);
        }
    }

    /// One send a member, of all that waits for it. Where one is under way, its end is the time to ask again.
    fn flush(&mut self) {
        for socket in self.dirty.drain(..) {
            let Some(member) = member_of(&mut self.members, socket) else {
                continue;
            };
            member.is_dirty = false;
            if matches!(member.role, Role::Ended) {
                continue;
            }
            let Some(mut list) = member.list.take() else {
                continue;
            };
            member.push_tail();
            std::mem::swap(&mut list, &mut member.queue);
            if list.is_empty() {
                member.list = Some(list);
            } else {
                self.ring.send(socket, list);
            }
        }
    }
}

fn member_of(members: &mut [Option<Member>], socket: SocketId) -> Option<&mut Member> {
    let member = members.get_mut(socket.index() as usize)?.as_mut()?;
    (member.socket == socket).then_some(member)
}

fn mark(member: &mut Member, dirty: &mut Vec<SocketId>) {
    if !member.is_dirty {
        member.is_dirty = true;
        dirty.push(member.socket);
    }
}

/// Whether it sends, and the name. `None`: no hello.
fn parse_hello(hello: &[u8]) -> Option<(bool, &[u8])> {
    let words = hello.strip_prefix(b"tcp-relay 1 ")?.strip_suffix(b"\n")?;
    let (is_sender, name) = match words.strip_prefix(b"sends ") {
        Some(name) => (true, name),
        None => (false, words.strip_prefix(b"hears ")?),
    };
    let name = name.trim_ascii_end();
    (!name.is_empty()).then_some((is_sender, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(HELLO_BYTES - 1, b' ');
        bytes.push(b'\n');
        bytes
    }

    #[test]
    fn a_hello_says_which_side_and_which_name() {
        let sends = hello("tcp-relay 1 sends a/b");
        assert_eq!(parse_hello(&sends), Some((true, &b"a/b"[..])));
        let hears = hello("tcp-relay 1 hears a/b");
        assert_eq!(parse_hello(&hears), Some((false, &b"a/b"[..])));
        for bad in [
            "",
            "tcp-relay 1 sends",
            "tcp-relay 2 sends a",
            "tcp-relay 1 wants a",
        ] {
            assert_eq!(parse_hello(&hello(bad)), None, "{bad}");
        }
    }
}
