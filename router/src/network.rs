//! All that a shard asks of the world outside: sockets, the sleep of the other shards, and the time.
//!
//! Everything else about a shard is a function of what came through here, so a shard whose network is simulated can be
//! run again from a seed (`simulation`). The one network of the real router is [`RingNetwork`].

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use slim_ring::{
    Event, ListenerId, ReceivedBuffer, Ring, RingAddress, RingConfig, RingError, SendBuffers,
    SocketId,
};

use crate::accept;
use crate::connection::Peer;
use crate::routes::ShardId;

/// What each does is said at the method of the same name of [`Ring`].
pub trait Network {
    /// Bytes that arrived. Dropping it gives its memory back.
    type Buffer: Deref<Target = [u8]>;

    fn now(&self) -> Instant;
    fn turn(&mut self, timeout: Option<Duration>) -> Result<(), RingError>;
    fn next_event(&mut self) -> Option<Event<Self::Buffer>>;

    fn listen(&mut self, socket: OwnedFd) -> Result<ListenerId, RingError>;
    fn unlisten(&mut self, listener: ListenerId);
    fn resume_accept(&mut self, listener: ListenerId);

    /// Sets an accepted socket up and finds out whose it is.
    fn prepare(&mut self, socket: &OwnedFd) -> Peer;
    fn adopt(&mut self, socket: OwnedFd) -> Result<SocketId, (RingError, OwnedFd)>;
    fn send(&mut self, socket: SocketId, buffers: SendBuffers);
    fn acknowledge(&mut self, socket: SocketId);
    fn shutdown_write(&mut self, socket: SocketId);
    fn close(&mut self, socket: SocketId);

    /// Wakes another shard, if it waits.
    fn wake(&mut self, shard: ShardId);
    /// What wakes this shard, from any thread.
    fn waker(&self) -> Box<dyn Fn() + Send + Sync>;

    /// System calls of the ring so far.
    fn enters(&self) -> u64;
}

/// Where the shards of one router are woken.
pub struct Bells(Vec<OnceLock<RingAddress>>);

impl Bells {
    pub fn new(shards: u16) -> Arc<Bells> {
        Arc::new(Bells((0..shards).map(|_| OnceLock::new()).collect()))
    }
}

/// The kernel's sockets, on one ring.
pub struct RingNetwork {
    ring: Ring,
    bells: Arc<Bells>,
}

impl RingNetwork {
    /// Opens a ring for the calling thread and announces it as where `shard` is woken.
    pub fn open(
        shard: ShardId,
        bells: Arc<Bells>,
        config: RingConfig,
    ) -> Result<RingNetwork, RingError> {
        let ring = Ring::new(config)?;
        if let Some(address) = bells.0.get(usize::from(shard.0)) {
            let _ = address.set(ring.address());
        }
        Ok(RingNetwork { ring, bells })
    }
}

impl Network for RingNetwork {
    type Buffer = ReceivedBuffer;

    #[inline]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[inline]
    fn turn(&mut self, timeout: Option<Duration>) -> Result<(), RingError> {
        self.ring.turn(timeout)
    }

    #[inline]
    fn next_event(&mut self) -> Option<Event> {
        self.ring.next_event()
    }

    fn listen(&mut self, socket: OwnedFd) -> Result<ListenerId, RingError> {
        self.ring.listen(socket)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.ring.unlisten(listener);
    }

    fn resume_accept(&mut self, listener: ListenerId) {
        self.ring.resume_accept(listener);
    }

    fn prepare(&mut self, socket: &OwnedFd) -> Peer {
        accept::prepare(socket)
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<SocketId, (RingError, OwnedFd)> {
        self.ring.adopt(socket)
    }

    #[inline]
    fn send(&mut self, socket: SocketId, buffers: SendBuffers) {
        self.ring.send(socket, buffers);
    }

    #[inline]
    fn acknowledge(&mut self, socket: SocketId) {
        self.ring.acknowledge(socket);
    }

    fn shutdown_write(&mut self, socket: SocketId) {
        self.ring.shutdown_write(socket);
    }

    fn close(&mut self, socket: SocketId) {
        self.ring.close(socket);
    }

    #[inline]
    fn wake(&mut self, shard: ShardId) {
        let address = self.bells.0.get(usize::from(shard.0));
        if let Some(address) = address.and_then(OnceLock::get) {
            self.ring.wake(address);
        }
    }

    fn waker(&self) -> Box<dyn Fn() + Send + Sync> {
        let waker = self.ring.waker();
        Box::new(move || waker.wake())
    }

    fn enters(&self) -> u64 {
        self.ring.counters().enters
    }
}
