#![forbid(unsafe_code)]
//! The SLIM wire: bytes to types and back. No socket, no clock, no runtime.
//!
//! | module | what it turns into what |
//! |---|---|
//! | [`http2`] | TCP bytes into HTTP/2 events (RFC 9113), the server subset |
//! | [`grpc`] | DATA bytes into whole gRPC messages |
//! | [`route_header`] | one message into what a router must know, validated, nothing decoded |
//! | [`link`] | the negotiation that opens a link, and the header MAC that guards it |
//! | [`message`] | checked forms of the messages a node builds or reads itself |
//! | [`name`] | `organization/namespace/service` + instance id: parse, print, hash |

pub mod grpc;
pub mod http2;
pub mod link;
pub mod message;
pub mod name;
pub mod route_header;
