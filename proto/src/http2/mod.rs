//! The HTTP/2 server subset (RFC 9113, RFC 7541): TCP bytes in, events out, answers appended to a buffer of the caller's.
//!
//! Built for what a SLIM link is: one long-lived gRPC stream per connection. It holds no socket, no clock and no
//! DATA: a DATA frame is reported chunk by chunk, as its bytes arrive, borrowed from the caller's input. Only a header
//! block and the last few bytes of a control frame are ever buffered.
//!
//! | file | owns |
//! |---|---|
//! | `connection` | the state of one connection: [`ServerConnection`] |
//! | `frame` | frame headers, identifiers, error codes: RFC 9113 §4, §6, §7 |
//! | `hpack`, `huffman` | the header decoder: RFC 7541 |
//! | `request` | which header lists are a request, and what of it is kept: RFC 9113 §8 |
//! | `respond` | the few header blocks we send |
//! | `flood` | how much useless work a peer may cause: RFC 9113 §10.5 |
//! | `error` | why a connection is refused |
//!
//! What always holds: no input panics; memory is bounded by [`Settings::max_header_list_bytes`] and a dynamic table of
//! 4096 bytes that goes as soon as the peer has acknowledged our SETTINGS; what is appended to `control` in one tick
//! is bounded by [`CONTROL_BYTES_PER_TICK_MAX`].

mod connection;
mod error;
mod flood;
mod frame;
mod hpack;
mod huffman;
mod request;
mod respond;
#[cfg(test)]
mod tests;

pub use connection::{CONTROL_BYTES_PER_TICK_MAX, Event, ServerConnection, Settings};
pub use error::ConnectionError;
pub use flood::Flood;
pub use frame::{DATA_FRAME_BYTES_MAX, ErrorCode, FRAME_HEADER_BYTES, StreamId, data_frame_header};
pub use hpack::HpackError;
pub use request::{Malformed, RequestHead};
