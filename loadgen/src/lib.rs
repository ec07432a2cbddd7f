#![forbid(unsafe_code)]
//! Measures a message router from outside, over the real wire.
//!
//! ```text
//! args -> plan -> run -+-> worker: ring, links, schedules -> ledgers, histograms -+-> report -> table, JSON, .hgrm, SVG
//!                      |             |                                            |
//!                      |             +-- link: slim (http2, negotiation, message), nats, tcp
//!                      +-> accounting: processor time and memory, ours and the server's
//! sweep, compare: several runs
//! ```
//!
//! | module | what it owns |
//! |---|---|
//! | [`args`], [`plan`], [`choice`] | what was typed, and what it means: clients, roles, durations; what is drawn |
//! | [`run`], [`sweep`], [`compare`] | the phases of one run: set-up, warm-up, measure, drain; and runs in a row |
//! | [`worker`], [`schedule`] | one thread, one ring, its share of the connections; when an open loop's events are due |
//! | [`target`], [`link`] | where a server is; one connection to it in any protocol: the trait that a new protocol implements |
//! | [`slim`], [`http2`], [`message`] | a link as a default SLIM client has it; templates, tags made ahead, the stamp in every payload |
//! | [`nats`], [`tcp`] | the same in NATS's protocol; and without one, to a relay of plain bytes |
//! | [`slow`] | receivers that read too slowly, beside others |
//! | [`ledger`], [`spread`] | what arrived: lost, duplicated, reordered; first receiver to last |
//! | [`accounting`], [`machine`] | `/proc`: processor time, memory, what machine this is |
//! | [`report`], [`curve`] | the result: one record, for people and as JSON |
//! | [`percentiles`], [`plot`], [`progress`] | the same as HdrHistogram text, as SVG, and while it runs |

pub mod accounting;
pub mod args;
pub mod choice;
pub mod compare;
pub mod curve;
pub mod http2;
pub mod ledger;
pub mod link;
pub mod machine;
pub mod message;
pub mod nats;
pub mod percentiles;
pub mod plan;
pub mod plot;
pub mod progress;
pub mod report;
pub mod run;
pub mod schedule;
pub mod slim;
pub mod slow;
pub mod spread;
pub mod sweep;
pub mod target;
pub mod tcp;
pub mod worker;
