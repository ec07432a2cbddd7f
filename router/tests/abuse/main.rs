//! Attacks on a router in a process of its own, each with a bound on the memory and the processor time that it costs, on
//! what it is told, and on what anybody else notices of it.
//!
//! A pair of bystanders sends messages to and fro on the same shard all the time. They lose nothing, and nothing takes them
//! longer than [`scene::LATENCY_MAX`]. What an attack may cost is said beside it, several times what it costs on a quiet
//! machine without optimisation, and far below what it would cost if the router let it go on.
//!
//! | module | owns |
//! |---|---|
//! | `process` | the router: its address, memory, processor time, sockets, and what it counted |
//! | `scene` | router and bystanders; how an attack is judged |
//! | `frames` | attacks on HTTP/2: floods, bombs, resets, by the names they were published under |
//! | `messages` | attacks on SLIM: nonsense, forgery, loops, churn |
//! | `holding` | what holds on to something: windows opened byte by byte, deaf and vanished receivers, broken connections |
//! | `deadlines` | what nothing but a deadline ends: silence, half-done handshakes, windows that stay shut |
//!
//! Which attack is tested where, here (a) and in its neighbours, `http2_peer` (h), `bad_input` (b), `rfc9113` (r), and in
//! `slim-proto`'s `http2::tests` (p):
//!
//! | attack | tests |
//! |---|---|
//! | no preface, TLS, HTTP/1.1 | r 3.4, 10.2; b `what_is_not_http2_..`; a `strangers_..` |
//! | silence, slow preface, no SETTINGS ack, half a header block, many refused requests | a `whoever_gets_nowhere_..` |
//! | slow negotiation, a client that is gone without a word | b `a_client_that_never_negotiates_..`, `.._answers_no_keepalive_ping_..` |
//! | frames over the limit, wrong lengths, padding, SETTINGS values | r 4.2, 6.1 to 6.9 |
//! | stream ids: even, decreasing, idle, closed | r 5.1, 5.1.1; p `conformance` |
//! | windows: overflow, zero increments, overrun | r 6.9, 6.9.1; h `flow_control`; a `window_updates_..` |
//! | windows: one byte, zero, held for ever | h `flow_control`; a `a_shut_window_..`, `a_window_opened_..`, `receivers_that_never_read_..` |
//! | rapid reset CVE-2023-44487, CVE-2019-9514 | a `rapid_reset_..`; h `floods`; r 10.5 |
//! | made you reset CVE-2025-8671 | a `making_the_router_reset_..`; r 5.4; p `hostile` |
//! | CONTINUATION flood CVE-2024-27316 | a `a_continuation_flood_..`; h `floods` |
//! | HPACK bombs CVE-2016-6581, CVE-2026-49975; lists over the limit | a `header_lists_..`; r 10.5.1; p `hostile` |
//! | HPACK errors, zero-length names CVE-2019-9516, malformed fields | r RFC 7541, 8.2, 8.3; p `hpack` |
//! | PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty and tiny DATA (CVE-2019-9511 to 9518) | a `a_.._flood_..`; h `floods` |
//! | answers asked for and not read NFLX-2019-002 | h `floods`; b `a_client_that_asks_for_answers_..` |
//! | more streams than announced | a `streams_beside_the_link_..`; h `requests` |
//! | gRPC: content type, method, length, compression, truncation, prefix cut anywhere | r gRPC; b; h `framing` |
//! | SLIM: undecodable, unknown, incomplete, unsigned, without a hop left | a `messages_that_go_nowhere_..`; b |
//! | SLIM: nesting, many entries, long names | a `messages_of_hostile_shape_..` |
//! | SLIM: forged source and connection, own subscriptions, loops, absurd fan-out | a `forged_..`, `a_loop_..`; traps; forwarding |
//! | SLIM: subscriptions without end, churn, unknown ones | a `subscriptions_..`, `churn_..`; b; placement |
//! | RST and FIN in a frame, writes of one byte, death while flushing | a `connections_that_break_..`, `receivers_that_vanish_..`; b |

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../rfc9113/talk.rs"]
mod talk;
#[allow(dead_code)]
#[path = "../rfc9113/wire.rs"]
mod wire;

mod process;
mod scene;

mod deadlines;
mod frames;
mod holding;
mod messages;
