#![forbid(unsafe_code)]
//! What must hold for any input. One function a fuzz target; it panics where the module that it tests breaks a promise.
//!
//! libFuzzer drives them through the binaries in `fuzz_targets/`; `tests/replay.rs` runs the kept inputs through them with a
//! plain `cargo test`. An input is bytes, of which the first few choose a situation ([`draw`]).
//!
//! | target | what is held against what |
//! |---|---|
//! | [`frames`] | any HTTP/2 bytes, whole against cut: same events, same answers |
//! | [`connection`] | whole HTTP/2 frames and calls in any order, against a model of windows and streams |
//! | [`header_block`] | header blocks, against another HPACK decoder and the rules of RFC 9113 §8 once more |
//! | [`grpc`] | messages out of DATA, whole against cut, against the framing read naively |
//! | [`route_header`] | what we read of a message, patch and rewrite, against prost |
//! | [`link`] | negotiation from both sides, and the header MAC |
//! | [`config`] | configuration files and addresses |
//! | [`name`] | names, as text and on the wire |
//! | [`routes`] | the name tables of several shards, against who is subscribed |

mod config;
mod connection;
mod draw;
mod frames;
mod grpc;
mod header_block;
mod hpack;
mod link;
mod name;
#[path = "../../proto/tests/agreement/reference.rs"]
mod reference;
mod route_header;
mod routes;
mod wire;

pub use config::config;
pub use connection::connection;
pub use frames::frames;
pub use grpc::grpc;
pub use header_block::header_block;
pub use link::link;
pub use name::name;
pub use route_header::route_header;
pub use routes::routes;

/// A fuzz target: panics if the input breaks a promise.
pub type Target = fn(&[u8]);

/// All of them by name, which is that of the binary, of the corpus and of the dictionary.
pub const TARGETS: [(&str, Target); 9] = [
    ("frames", frames),
    ("connection", connection),
    ("header_block", header_block),
    ("grpc", grpc),
    ("route_header", route_header),
    ("link", link),
    ("config", config),
    ("name", name),
    ("routes", routes),
];
