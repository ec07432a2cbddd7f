//! What steers the shards from outside: the order to drain, and the order to stop.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use crate::routes::ShardId;

/// Wakes one shard, from any thread.
type Waker = Box<dyn Fn() + Send + Sync>;

/// Orders to all shards. Giving one wakes them; a shard looks once a turn.
pub struct Orders {
    drain: AtomicBool,
    stop: AtomicBool,
    /// Shards whose listeners still listen.
    listening: AtomicU16,
    wakers: Vec<OnceLock<Waker>>,
}

impl Orders {
    pub fn new(shards: u16) -> Orders {
        Orders {
            drain: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            listening: AtomicU16::new(shards),
            wakers: (0..shards).map(|_| OnceLock::new()).collect(),
        }
    }

    pub fn join(&self, shard: ShardId, waker: Waker) {
        let _ = self.wakers[usize::from(shard.0)].set(waker);
    }

    /// Listeners close first, on every shard; then links end; then shards return.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Shards return at once.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake_all();
    }

    pub fn drain_ordered(&self) -> bool {
        self.drain.load(Ordering::Acquire)
    }

    pub fn stop_ordered(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Called once by each shard, when what it accepted for others is in their lanes. The last one wakes the others, which
    /// wait for it.
    pub fn listeners_closed(&self) {
        if self.listening.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_all();
        }
    }

    pub fn all_listeners_closed(&self) -> bool {
        self.listening.load(Ordering::Acquire) == 0
    }

    fn wake_all(&self) {
        for waker in self.wakers.iter().filter_map(OnceLock::get) {
            waker();
        }
    }
}
