//! What a client sees when it reaches a limit of the section `limits:`, and which counter says so.
//!
//! | file | limits |
//! |---|---|
//! | `connections` | connections in all and from one address |
//! | `links` | subscriptions, names, message size, negotiation time |
//! | `egress` | what waits for one receiver, and for all |
//! | `rate` | messages and bytes a second from one connection |
//! | `memory` | resident memory of the process, under every attack at once |

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod egress;
mod links;
mod memory;
mod rate;

use common::*;

/// gRPC status codes ("Status codes").
const OK: u32 = 0;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;

/// Waits until the count is `value` or more.
#[track_caller]
fn await_at_least(router: &TestRouter, counter: &str, value: u64) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while router.count(counter) < value {
        assert!(
            std::time::Instant::now() < deadline,
            "{counter}: {}",
            router.counters()
        );
        std::thread::yield_now();
    }
}

/// A message gets from one to the other; the name is subscribed to already.
#[track_caller]
fn expect_delivery(from: &mut Client, to: &mut Client, name: &slim_proto::name::Name, blob: &[u8]) {
    from.publish(name, blob);
    to.expect_blob(blob);
}
