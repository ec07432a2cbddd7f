#![forbid(unsafe_code)]
//! `slim-session`: what an agent links. Sessions, MLS groups and RPC over one router connection.
//!
//! Nothing is here yet. What it will own: the protocol core as sans-I/O state machines (bytes and time in, actions out),
//! and tokio as the transport's runtime in one module. It will know `slim-proto` and never the router.
