//! Independent HTTP/2 peers against a whole router: the `h2` crate where a peer behaves, raw frames where it does not.
//!
//! | module | owns |
//! |---|---|
//! | `world` | a router in this process, what it counted, and a pair of clients that must not notice anything |
//! | `peer` | what every SLIM client says, whatever carries it: negotiation, subscribes, publishes |
//! | `process` | a router in a process of its own |
//! | `client` | a client on the `h2` crate |
//! | `raw` | a client that sends the frames it is told to |
//! | the others | the tests |
//!
//! No test sleeps. What must happen is awaited, under [`world::DEADLINE`]; what must not happen is looked for behind a
//! PING whose answer proves that the router has dealt with everything before it.

mod client;
mod peer;
mod process;
mod raw;
mod world;

mod ending;
mod floods;
mod flow_control;
mod framing;
mod memory;
mod requests;
