#![forbid(unsafe_code)]
//! Measures a SLIM node from outside, over the real wire.
//!
//! ```text
//! args -> plan -> run -+-> worker: ring, links (http2, negotiation), messages -> ledgers, histogram -+-> report
//!                      +-> accounting: processor time and memory, ours and the server's -------------+
//! ```
//!
//! | module | what it owns |
//! |---|---|
//! | [`args`], [`plan`] | what was typed, and what it means: clients, roles, durations |
//! | [`run`] | the phases: set-up, warm-up, measure, drain |
//! | [`worker`] | one thread, one ring, its share of the connections |
//! | [`link`], [`http2`] | one connection as a default client has it |
//! | [`message`] | what is sent: templates, tags made ahead, the stamp in every payload |
//! | [`ledger`] | what arrived: lost, duplicated, reordered |
//! | [`accounting`], [`report`] | `/proc`, and the result |

pub mod accounting;
pub mod args;
pub mod http2;
pub mod ledger;
pub mod link;
pub mod message;
pub mod plan;
pub mod report;
pub mod run;
pub mod target;
pub mod worker;
