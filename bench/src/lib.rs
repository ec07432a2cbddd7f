#![forbid(unsafe_code)]
//! Micro-benchmarks and baselines: what the router's parts cost, and what the roads not taken would cost.
//!
//! | what | answers | how |
//! |---|---|---|
//! | [`echo`] | why glommio hosts a shard and does not move its bytes | `cargo run --release -p slim-bench --bin echo-baseline` |
//! | [`relay`] | what a SLIM node on glommio's sockets and the `h2` crate costs, beside the router, by the same `slim-loadgen` | `cargo run --release -p slim-bench --bin relay-baseline` |
//! | [`tcp_relay`] | what large payloads cost at the least: plain bytes on the router's ring, by the same `slim-loadgen` | `cargo run --release -p slim-bench --bin tcp-relay` |
//! | `benches/frame_decode` | why HTTP/2 is read by our own framing: [`own_server`] beside [`h2_server`] | `cargo bench -p slim-bench --bench frame_decode` |
//! | `benches/grpc_framing` | what cut buffers cost | `cargo bench -p slim-bench --bench grpc_framing` |
//! | `benches/route_header` | reading and validating a message, its MAC, patching a copy | `cargo bench -p slim-bench --bench route_header` |
//! | `benches/name_lookup` | finding receivers among 10³ to 10⁶ names: found, not found, a hot few | `cargo bench -p slim-bench --bench name_lookup` |
//! | `benches/fan_out` | one message to 1 … 4,096 receivers | `cargo bench -p slim-bench --bench fan_out` |
//!
//! Nothing here is part of the router. Absolute times belong to a machine; only ratios of runs that took turns travel.

pub mod echo;
pub mod h2_server;
pub mod own_server;
pub mod publishes;
pub mod relay;
pub mod tcp_relay;
pub mod wire;
