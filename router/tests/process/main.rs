//! A router from outside: what the kernel knows about its process while clients die, crowd, and use up what it has.
//!
//! | file | shows |
//! |---|---|
//! | `killed` | clients that SIGKILL ends in every state leave nothing behind |
//! | `exhausted` | no descriptors, no receive buffers, no processor time: links that are open lose nothing |
//! | `crowds` | many idle connections, and many that come back at once |
//!
//! Each test has a router process of its own and counts on it alone.

#[path = "../common/mod.rs"]
mod common;

mod crowds;
mod exhausted;
mod killed;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::*;

/// Where one test measures what another would take away.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two links that must not notice what a test does to their router.
struct Bystanders {
    publisher: Link,
    subscriber: Link,
    message: Vec<u8>,
}

impl Bystanders {
    fn new(router: &RouterProcess, mac: Mac) -> Bystanders {
        static PAIRS: AtomicU32 = AtomicU32::new(0);
        let pair = PAIRS.fetch_add(1, Ordering::Relaxed);
        let to = name(&format!("bystander-{pair}"));
        let mut subscriber = Link::connect(router.connect(), mac);
        subscriber.subscribe(&to);
        let publisher = Link::connect(router.connect(), mac);
        let message = publisher.prepared_publish(&to, 1, 200);
        Bystanders {
            publisher,
            subscriber,
            message,
        }
    }

    /// A message gets from one to the other.
    fn hear_each_other(&mut self) {
        self.publisher.http2.send_message(&self.message);
        self.subscriber.receive(1);
    }
}
