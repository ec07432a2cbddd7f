//! A router in this process and clients that are made by hand, so that a test sees and sends every byte.
//!
//! | file | owns |
//! |---|---|
//! | `router` | [`TestRouter`]: starts one, counts, knows on which shard a connection is |
//! | `http2` | [`Http2`]: one socket, frames out, frames and gRPC messages in, every read with a deadline |
//! | `client` | [`Client`]: a negotiated link on top: signs, subscribes, publishes, verifies what arrives |
//! | `link` | [`Link`]: the same with less work for this side: whole messages made once and sent again and again |
//! | `messages` | builders on the wire types |
//! | `process` | [`RouterProcess`]: a router in a process of its own, and what the kernel says about it |
//!
//! Nothing sleeps. A test that something does *not* arrive sends a marker behind it on the same link, for the router
//! keeps the order from one link to another, and asserts that the marker is next.

// Each test binary compiles this module and uses its part of it.
#![allow(dead_code, unused_imports)]

mod client;
mod http2;
mod link;
mod messages;
mod process;
mod router;

use std::time::Duration;

pub use client::{Client, Inbound, Publication, dialer};
pub use http2::{Event, Frame, Http2, OPEN_CHANNEL, flag, kind};
pub use link::{Link, Mac};
pub use messages::{
    blob, header_mut, id_name, name, publish, sign, subscribe, subscription_id_mut, unsubscribe,
};
pub use process::{RouterProcess, signal};
pub use router::{TestRouter, nothing_lost_but};

/// How long anything may take before a test gives up. Generous: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);
