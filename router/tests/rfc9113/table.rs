//! The rows.

use crate::common::TestRouter;
use crate::proofs;
use crate::talk::Start;
use crate::wire::*;

pub struct Row {
    /// Of RFC 9113, unless it names another text.
    pub section: &'static str,
    /// What it asks of a server, in short.
    pub requirement: &'static str,
    pub verdict: Verdict,
}

pub enum Verdict {
    Kept(Shown),
    /// It does not bind this server, for this reason.
    NotApplicable(&'static str),
    /// For this reason something else happens, namely what is shown.
    Differs(&'static str, Shown),
}

/// What shows that a row holds.
pub enum Shown {
    Cases(Vec<Case>),
    Proof(fn(&TestRouter)),
}

/// Bytes in, answer out: see [`crate::talk::answer`].
pub struct Case {
    pub what: &'static str,
    pub start: Start,
    pub sends: Vec<u8>,
    pub gets: &'static str,
}

fn kept(section: &'static str, requirement: &'static str, cases: Vec<Case>) -> Row {
    let verdict = Verdict::Kept(Shown::Cases(cases));
    Row {
        section,
        requirement,
        verdict,
    }
}

fn proved(section: &'static str, requirement: &'static str, proof: fn(&TestRouter)) -> Row {
    let verdict = Verdict::Kept(Shown::Proof(proof));
    Row {
        section,
        requirement,
        verdict,
    }
}

fn not_applicable(section: &'static str, requirement: &'static str, reason: &'static str) -> Row {
    let verdict = Verdict::NotApplicable(reason);
    Row {
        section,
        requirement,
        verdict,
    }
}

fn differs(
    section: &'static str,
    requirement: &'static str,
    reason: &'static str,
    cases: Vec<Case>,
) -> Row {
    let verdict = Verdict::Differs(reason, Shown::Cases(cases));
    Row {
        section,
        requirement,
        verdict,
    }
}

fn fresh(what: &'static str, sends: impl AsRef<[u8]>, gets: &'static str) -> Case {
    Case {
        what,
        start: Start::Fresh,
        sends: sends.as_ref().to_vec(),
        gets,
    }
}

fn greeted(what: &'static str, sends: Vec<u8>, gets: &'static str) -> Case {
    Case {
        what,
        start: Start::Greeted,
        sends,
        gets,
    }
}

fn linked(what: &'static str, sends: Vec<u8>, gets: &'static str) -> Case {
    Case {
        what,
        start: Start::Linked,
        sends,
        gets,
    }
}

const PROTOCOL: &str = "GOAWAY PROTOCOL_ERROR";
const SIZE: &str = "GOAWAY FRAME_SIZE_ERROR";
const FLOW: &str = "GOAWAY FLOW_CONTROL_ERROR";
const COMPRESSION: &str = "GOAWAY COMPRESSION_ERROR";
const CALM: &str = "GOAWAY ENHANCE_YOUR_CALM";
const OPENS: &str = "1: 200; alive";
const MALFORMED: &str = "1: RST_STREAM PROTOCOL_ERROR; alive";

/// The preface and an empty SETTINGS frame.
fn preface() -> Vec<u8> {
    join(&[PREFACE, &settings(&[])])
}

pub fn rows() -> Vec<Row> {
    [
        starting(),
        frames(),
        streams(),
        flow_and_errors(),
        data_to_reset(),
        settings_to_goaway(),
        window_and_continuation(),
        messages(),
        fields(),
        security(),
        hpack(),
        grpc(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn starting() -> Vec<Row> {
    vec![
        not_applicable("3.1", "the identifiers h2 and h2c", "h2 is negotiated in TLS, which these listeners do not speak; the upgrade that h2c named is obsolete"),
        not_applicable("3.2", "TLS with ALPN for https", "a listener in clear text"),
        proved("3.3", "a server may send before it has read anything", proofs::the_router_says_settings_first),
        proved("3.4", "the server's preface is a SETTINGS frame, and its first", proofs::the_router_says_settings_first),
        kept("3.4", "an invalid client preface is a connection error PROTOCOL_ERROR", vec![
            fresh("a preface for another version", b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", PROTOCOL),
            fresh("a preface whose last byte is wrong", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r ", PROTOCOL),
            fresh("frames without a preface", settings(&[]), PROTOCOL),
            fresh("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", PROTOCOL),
            fresh("an upgrade to h2c", b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n", PROTOCOL),
            fresh("TLS", [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03], PROTOCOL),
        ]),
        kept("3.4", "SETTINGS follows the client's preface", vec![
            fresh("PING first", join(&[PREFACE, &ping(b"12345678")]), PROTOCOL),
            fresh("a request first", join(&[PREFACE, &request(1)]), PROTOCOL),
            fresh("an acknowledgement first", join(&[PREFACE, &settings_ack()]), PROTOCOL),
            fresh("an unknown frame first", join(&[PREFACE, &frame(UNKNOWN, 0, 0, b"")]), PROTOCOL),
        ]),
        kept("3.4", "the client's SETTINGS is acknowledged, and it may go on without waiting", vec![
            fresh("the preface alone", preface(), "SETTINGS ACK; alive"),
            fresh("a request at once", join(&[&preface(), &request(1)]), "SETTINGS ACK; 1: 200; alive"),
        ]),
    ]
}

fn frames() -> Vec<Row> {
    let prioritized = |length| frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, &vec![0; length]);
    vec![
        kept("4.1", "unknown types, undefined flags and the reserved bit are ignored", vec![
            linked("an unknown frame", frame(UNKNOWN, 0xff, 0, b"anything"), "alive"),
            linked("an unknown frame on an idle stream", frame(UNKNOWN, 0xff, 99, b""), "alive"),
            linked("a PING with every flag but ACK", frame(PING, 0xfe, 0, b"12345678"), "PING ACK 12345678; alive"),
            linked("DATA with undefined flags", frame(DATA, 0xf6, 1, b"x"), "alive"),
            linked("reserved bits", window_update(0x8000_0001, 0x8000_0001), "alive"),
        ]),
        proved("4.1", "frames above 16,384 bytes are not sent unasked", proofs::frames_of_the_router_are_short),
        kept("4.2", "payloads up to the announced SETTINGS_MAX_FRAME_SIZE of 1,048,576 are taken", vec![
            linked("16,384 bytes", data(1, &[0; 16_384]), "alive"),
            linked("1,048,000 bytes", data(1, &[0; 1_048_000]), "alive"),
        ]),
        kept("4.2", "a longer frame is FRAME_SIZE_ERROR, judged by its header", vec![
            linked("DATA", header(1_048_577, DATA, 0, 1), SIZE),
            linked("HEADERS", header(1_048_577, HEADERS, END_HEADERS, 3), SIZE),
            linked("SETTINGS", header(1_048_578, SETTINGS, 0, 0), SIZE),
            linked("an unknown frame", header(1_048_577, UNKNOWN, 0, 0), SIZE),
            linked("the longest", header(0xff_ffff, DATA, 0, 1), SIZE),
        ]),
        kept("4.2", "a frame too short for what it must contain is FRAME_SIZE_ERROR", vec![
            linked("padded DATA without a pad length", frame(DATA, PADDED, 1, b""), SIZE),
            greeted("padded HEADERS without a pad length", frame(HEADERS, END_HEADERS | PADDED, 1, b""), SIZE),
            greeted("HEADERS with half its priority", prioritized(4), SIZE),
        ]),
        kept("4.3", "a block that cannot be decoded is a connection error COMPRESSION_ERROR", vec![
            greeted("an unknown index", block_frame(0, 1, &[0xff, 0x00]), COMPRESSION),
            greeted("half a field", block_frame(0, 1, &[0x00, 0x05, b'a']), COMPRESSION),
            linked("on a stream beside the link", block_frame(0, 3, &[0x80]), COMPRESSION),
            linked("in trailers", block_frame(END_STREAM, 1, &[0x80]), COMPRESSION),
        ]),
        kept("4.3", "nothing may come between the frames of a block", vec![
            greeted("PING", join(&[&frame(HEADERS, 0, 1, b""), &ping(b"12345678")]), PROTOCOL),
            greeted("an unknown frame", join(&[&frame(HEADERS, 0, 1, b""), &frame(UNKNOWN, 0, 0, b"")]), PROTOCOL),
            greeted("HEADERS of the same stream", join(&[&frame(HEADERS, 0, 1, b""), &request(1)]), PROTOCOL),
            greeted("CONTINUATION of another stream", join(&[&frame(HEADERS, 0, 1, b""), &frame(CONTINUATION, END_HEADERS, 3, b"")]), PROTOCOL),
            linked("DATA of the link", join(&[&frame(HEADERS, 0, 3, b""), &data(1, b"x")]), PROTOCOL),
        ]),
        kept("4.3", "blocks of refused and ended streams count for the compression state too", vec![
            // The first, malformed, puts a field into the table; the second refers to it. Nothing is acknowledged yet.
            fresh("a table entry from a refused block", join(&[&preface(), &block_frame(0, 1, b"\x40\x01x\x01y"), &block_frame(0, 3, &[&block(REQUEST)[..], &[0xbe]].concat())]), "SETTINGS ACK; 1: RST_STREAM PROTOCOL_ERROR; 3: 200; alive"),
            linked("a broken block on a stream that we refused", join(&[&request(3), &block_frame(END_STREAM, 3, &[0x80])]), "3: RST_STREAM REFUSED_STREAM; GOAWAY COMPRESSION_ERROR"),
        ]),
        kept("4.3.1", "a table above what was acknowledged is COMPRESSION_ERROR", vec![
            greeted("one byte of table", block_frame(0, 1, &[0x21]), COMPRESSION),
            greeted("a reference to what no table holds", ending_in(&[0xbe]), COMPRESSION),
        ]),
        differs("4.3.1", "a missing size update after a lowered limit is COMPRESSION_ERROR",
            "such a block harms nobody: there is no table, and a reference to one is caught", vec![
            greeted("the first block after the acknowledgement, without update", ending_in(b"\x40\x01x\x01y"), OPENS),
        ]),
        proved("4.3.1", "our next block says that our table shrank", proofs::a_lowered_table_is_said_in_the_next_block),
    ]
}

fn streams() -> Vec<Row> {
    let refused = |more: &[u8]| join(&[&request(3), more]);
    vec![
        kept("5.1", "idle: anything but HEADERS and PRIORITY is a connection error PROTOCOL_ERROR", vec![
            linked("DATA", data(3, b"x"), PROTOCOL),
            linked("RST_STREAM", reset(3, 8), PROTOCOL),
            linked("WINDOW_UPDATE", window_update(3, 1), PROTOCOL),
            linked("CONTINUATION", frame(CONTINUATION, END_HEADERS, 3, b""), PROTOCOL),
            linked("DATA on a stream that would be ours", data(2, b"x"), PROTOCOL),
            linked("WINDOW_UPDATE on a stream that would be ours", window_update(2, 1), PROTOCOL),
            linked("PRIORITY, which is allowed", frame(PRIORITY, 0, 3, &[0; 5]), "alive"),
        ]),
        kept("5.1", "closed by END_STREAM: STREAM_CLOSED for DATA and HEADERS; the rest may have crossed", vec![
            greeted("DATA", join(&[&other(1), &data(1, b"x")]), "1: 200 grpc-status 12; GOAWAY STREAM_CLOSED"),
            greeted("HEADERS", join(&[&other(1), &request(1)]), "1: 200 grpc-status 12; GOAWAY STREAM_CLOSED"),
            greeted("WINDOW_UPDATE", join(&[&other(1), &window_update(1, 1)]), "1: 200 grpc-status 12; alive"),
            greeted("RST_STREAM", join(&[&other(1), &reset(1, 8)]), "1: 200 grpc-status 12; alive"),
            greeted("PRIORITY", join(&[&other(1), &frame(PRIORITY, 0, 1, &[0; 5])]), "1: 200 grpc-status 12; alive"),
        ]),
        kept("5.1", "closed by our RST_STREAM: what was on its way is ignored", vec![
            linked("DATA", refused(&data(3, b"late")), "3: RST_STREAM REFUSED_STREAM; alive"),
            linked("trailers", refused(&headers(END_STREAM, 3, &[("x", "y")])), "3: RST_STREAM REFUSED_STREAM; alive"),
            linked("malformed trailers", refused(&headers(0, 3, &[(":status", "200")])), "3: RST_STREAM REFUSED_STREAM; alive"),
            linked("WINDOW_UPDATE", refused(&window_update(3, 1)), "3: RST_STREAM REFUSED_STREAM; alive"),
            linked("WINDOW_UPDATE by 0", refused(&window_update(3, 0)), "3: RST_STREAM REFUSED_STREAM; alive"),
            linked("WINDOW_UPDATE past the limit", refused(&window_update(3, 0x7fff_ffff)), "3: RST_STREAM REFUSED_STREAM; alive"),
        ]),
        proved("5.1", "DATA that is ignored still counts for the connection's window", proofs::ignored_data_gives_its_window_back),
        kept("5.1", "closed by the peer's RST_STREAM", vec![
            // The connection ends with its one stream, so nothing that follows is looked at.
            linked("DATA after it", join(&[&reset(1, 8), &data(1, b"x")]), "GOAWAY NO_ERROR"),
        ]),
        proved("5.1", "we send nothing on a stream after our END_STREAM but RST_STREAM", proofs::nothing_follows_our_end_of_a_stream),
        kept("5.1.1", "streams of clients are odd and not 0", vec![
            linked("HEADERS on 0", headers(0, 0, REQUEST), PROTOCOL),
            linked("HEADERS on 2", headers(0, 2, REQUEST), PROTOCOL),
        ]),
        kept("5.1.1", "a new stream is numbered above all before it", vec![
            greeted("3 after 5", join(&[&other(5), &other(3)]), "5: 200 grpc-status 12; GOAWAY PROTOCOL_ERROR"),
            greeted("1 twice", join(&[&other(1), &other(1)]), "1: 200 grpc-status 12; GOAWAY STREAM_CLOSED"),
            greeted("numbers left out", join(&[&other(7), &other(0x7fff_ffff)]), "7: 200 grpc-status 12; 2147483647: 200 grpc-status 12; alive"),
        ]),
        differs("5.1.1", "a new stream is numbered above all before it, also above one that we reset",
            "which streams below it were ours to reset is not remembered, so the frame is ignored, and counted against an allowance", vec![
            linked("3 after a refused 5", join(&[&request(5), &request(3)]), "5: RST_STREAM REFUSED_STREAM; alive"),
        ]),
        kept("5.1.2", "a stream above SETTINGS_MAX_CONCURRENT_STREAMS is a stream error REFUSED_STREAM or PROTOCOL_ERROR", vec![
            linked("a second channel", request(3), "3: RST_STREAM REFUSED_STREAM; alive"),
            linked("a third", join(&[&request(3), &request(5)]), "3: RST_STREAM REFUSED_STREAM; 5: RST_STREAM REFUSED_STREAM; alive"),
        ]),
        not_applicable("5.1.2", "the peer's SETTINGS_MAX_CONCURRENT_STREAMS", "we open no streams"),
    ]
}

fn flow_and_errors() -> Vec<Row> {
    vec![
        proved("5.2.1", "we send no more than the peer's windows allow", proofs::the_peers_window_is_kept),
        proved("5.2.2", "WINDOW_UPDATE is read whatever else waits", proofs::the_peers_window_is_kept),
        not_applicable("5.2.3", "windows of the size that a network needs", "advice; ours is 1,048,576 bytes as that of existing nodes"),
        not_applicable("5.3.1", "the priority scheme of RFC 7540", "deprecated, and there is one stream"),
        kept("5.3.2", "priority signals are parsed and have no effect", vec![
            linked("of the link", frame(PRIORITY, 0, 1, &[0x80, 0, 0, 3, 255]), "alive"),
            linked("a stream that depends on itself", frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0]), "alive"),
            greeted("in HEADERS", frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, &[&[0x80, 0, 0, 1, 0][..], &block(REQUEST)].concat()), OPENS),
        ]),
        kept("5.4", "a stream error may be treated as a connection error", vec![
            // Of an error on the link nothing is left to go on with; so no peer can make us reset a stream again and again.
            linked("WINDOW_UPDATE by 0 on the link", window_update(1, 0), PROTOCOL),
            linked("trailers of the link that are malformed", headers(0, 1, &[("x", "y")]), PROTOCOL),
        ]),
        proved("5.4.1", "a connection error says GOAWAY with the last stream, then closes", proofs::goaway_names_the_last_stream),
        kept("5.4.2", "a stream error says RST_STREAM once, and none answers RST_STREAM", vec![
            linked("RST_STREAM answered with RST_STREAM", join(&[&request(3), &reset(3, 1), &reset(3, 1)]), "3: RST_STREAM REFUSED_STREAM; alive"),
        ]),
        proved("5.4.3", "TCP that ends takes the streams along", proofs::the_end_of_tcp_ends_the_stream),
        kept("5.5", "unknown frames and settings are ignored, and use no flow control", vec![
            linked("an unknown frame of 100,000 bytes", frame(UNKNOWN, 0, 1, &[0; 100_000]), "alive"),
            linked("unknown settings", settings(&[(0, 0), (7, 7), (0xffff, u32::MAX)]), "SETTINGS ACK; alive"),
        ]),
        kept("5.5", "an extension frame inside a block is a connection error PROTOCOL_ERROR", vec![
            greeted("an unknown frame on the same stream", join(&[&frame(HEADERS, 0, 1, b""), &frame(UNKNOWN, 0, 1, b"")]), PROTOCOL),
        ]),
    ]
}

fn data_to_reset() -> Vec<Row> {
    let padded_block = |padding: u8| [&[padding][..], &block(REQUEST), &[0; 9]].concat();
    vec![
        kept("6.1", "DATA on stream 0 is a connection error PROTOCOL_ERROR", vec![linked("DATA", data(0, b"x"), PROTOCOL)]),
        kept("6.1", "padding that fits is dropped, whatever its bytes; longer padding is PROTOCOL_ERROR", vec![
            linked("none", frame(DATA, PADDED, 1, &[0, b'x']), "alive"),
            linked("nothing else", frame(DATA, PADDED, 1, &[3, 1, 2, 3]), "alive"),
            linked("one byte too long", frame(DATA, PADDED, 1, &[4, 0, 0, 0]), PROTOCOL),
            linked("of 255 bytes in a frame of one", frame(DATA, PADDED, 1, &[255]), PROTOCOL),
        ]),
        kept("6.1", "DATA on a stream that is not open is STREAM_CLOSED", vec![
            linked("on a stream that we refused, which may have crossed", join(&[&other(3), &data(3, b"x")]), "3: RST_STREAM REFUSED_STREAM; alive"),
            greeted("after END_STREAM", join(&[&other(1), &data(1, b"x")]), "1: 200 grpc-status 12; GOAWAY STREAM_CLOSED"),
        ]),
        proved("6.1", "the whole payload counts for flow control, padding included", proofs::padding_gives_its_window_back),
        kept("6.2", "HEADERS on stream 0 is a connection error PROTOCOL_ERROR", vec![linked("HEADERS", headers(0, 0, REQUEST), PROTOCOL)]),
        kept("6.2", "padding that fits is dropped; longer padding is PROTOCOL_ERROR", vec![
            greeted("nine bytes", frame(HEADERS, END_HEADERS | PADDED, 1, &padded_block(9)), OPENS),
            greeted("too long", frame(HEADERS, END_HEADERS | PADDED, 1, &[4, 0, 0, 0]), PROTOCOL),
            greeted("that leaves no room for the priority", frame(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 1, &[1, 0, 0, 0, 0, 0]), PROTOCOL),
        ]),
        kept("6.2", "END_STREAM ends the stream behind CONTINUATION", vec![
            greeted("a request in two frames that ends at once", join(&[&frame(HEADERS, END_STREAM, 1, &block(REQUEST)), &frame(CONTINUATION, END_HEADERS, 1, b"")]), "1: 200; 1: grpc-status 0; GOAWAY NO_ERROR"),
        ]),
        kept("6.3", "PRIORITY on stream 0 is a connection error PROTOCOL_ERROR", vec![
            linked("PRIORITY", frame(PRIORITY, 0, 0, &[0; 5]), PROTOCOL),
        ]),
        kept("6.3", "PRIORITY of another length than 5 is FRAME_SIZE_ERROR", vec![
            linked("4 bytes", frame(PRIORITY, 0, 1, &[0; 4]), SIZE),
            linked("6 bytes", frame(PRIORITY, 0, 3, &[0; 6]), SIZE),
        ]),
        kept("6.4", "RST_STREAM on stream 0 or an idle stream is a connection error PROTOCOL_ERROR", vec![
            linked("stream 0", reset(0, 8), PROTOCOL),
            linked("an idle stream", reset(9, 8), PROTOCOL),
        ]),
        kept("6.4", "RST_STREAM of another length than 4 is a connection error FRAME_SIZE_ERROR", vec![
            linked("3 bytes", frame(RST_STREAM, 0, 1, &[0; 3]), SIZE),
            linked("5 bytes", frame(RST_STREAM, 0, 1, &[0; 5]), SIZE),
        ]),
        kept("6.4", "RST_STREAM ends the stream without an answer on it", vec![linked("of the link", reset(1, 8), "GOAWAY NO_ERROR")]),
    ]
}

fn settings_to_goaway() -> Vec<Row> {
    vec![
        kept("6.5", "SETTINGS: an acknowledgement with payload, or a broken length, is FRAME_SIZE_ERROR", vec![
            linked("an acknowledgement with payload", frame(SETTINGS, ACK, 0, &[0; 6]), SIZE),
            linked("5 bytes", frame(SETTINGS, 0, 0, &[0; 5]), SIZE),
            linked("7 bytes", frame(SETTINGS, 0, 0, &[0; 7]), SIZE),
        ]),
        kept("6.5", "SETTINGS on a stream is a connection error PROTOCOL_ERROR", vec![
            linked("stream 1", frame(SETTINGS, 0, 1, b""), PROTOCOL),
            linked("an acknowledgement on stream 1", frame(SETTINGS, ACK, 1, b""), PROTOCOL),
        ]),
        differs("6.5", "an acknowledgement of nothing",
            "the text leaves it open; here it is a connection error PROTOCOL_ERROR, for it says that the peer has lost count", vec![
            greeted("a second acknowledgement", settings_ack(), PROTOCOL),
        ]),
        kept("6.5.1", "settings are processed in the order of the frame, the last one of an identifier holds", vec![
            linked("the same identifier twice", settings(&[(4, 0x7fff_ffff), (4, 1)]), "SETTINGS ACK; alive"),
        ]),
        kept("6.5.2", "values outside their range are connection errors with the code of the setting", vec![
            linked("ENABLE_PUSH 2", settings(&[(2, 2)]), PROTOCOL),
            linked("INITIAL_WINDOW_SIZE 2^31", settings(&[(4, 0x8000_0000)]), FLOW),
            linked("MAX_FRAME_SIZE 16,383", settings(&[(5, 16_383)]), PROTOCOL),
            linked("MAX_FRAME_SIZE 2^24", settings(&[(5, 1 << 24)]), PROTOCOL),
            greeted("a good setting before a bad one", settings(&[(3, 1), (2, 9)]), PROTOCOL),
        ]),
        kept("6.5.2", "values inside their range are taken", vec![
            linked("the least of each", settings(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 16_384), (6, 0)]), "SETTINGS ACK; alive"),
            linked("the most of each", settings(&[(1, u32::MAX), (2, 1), (3, u32::MAX), (4, 0x7fff_ffff), (5, 0xff_ffff), (6, u32::MAX)]), "SETTINGS ACK; alive"),
        ]),
        not_applicable("6.5.2", "the peer's MAX_HEADER_LIST_SIZE", "advisory; our longest list is one status with a text of 1,024 bytes"),
        kept("6.5.3", "SETTINGS is acknowledged at once, in order, and each", vec![
            linked("SETTINGS before PING", join(&[&settings(&[(4, 1)]), &ping(b"12345678"), &settings(&[])]), "SETTINGS ACK; PING ACK 12345678; SETTINGS ACK; alive"),
        ]),
        not_applicable("6.5.3", "SETTINGS_TIMEOUT for a peer that does not acknowledge ours", "allowed, not demanded; until then 4,096 bytes of header table are all that it can hold"),
        kept("6.6", "PUSH_PROMISE from a client is a connection error PROTOCOL_ERROR", vec![
            linked("on the link", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL),
            linked("on stream 0", frame(PUSH_PROMISE, END_HEADERS, 0, &[0, 0, 0, 2]), PROTOCOL),
        ]),
        kept("6.7", "PING is answered with its payload; an answer is not", vec![
            linked("PING", ping(b"87654321"), "PING ACK 87654321; alive"),
            linked("an answer to nothing", frame(PING, ACK, 0, b"87654321"), "alive"),
        ]),
        kept("6.7", "PING on a stream is PROTOCOL_ERROR, of another length than 8 FRAME_SIZE_ERROR", vec![
            linked("stream 1", frame(PING, 0, 1, &[0; 8]), PROTOCOL),
            linked("7 bytes", frame(PING, 0, 0, &[0; 7]), SIZE),
            linked("9 bytes", frame(PING, 0, 0, &[0; 9]), SIZE),
        ]),
        kept("6.8", "the peer's GOAWAY leaves the streams below it alone, with any code and debug data", vec![
            linked("NO_ERROR", frame(GOAWAY, 0, 0, &[0; 8]), "alive"),
            linked("twice, with debug data", join(&[&frame(GOAWAY, 0, 0, &[0xff; 8]), &frame(GOAWAY, 0, 0, &[0xee; 500])]), "alive"),
        ]),
        kept("6.8", "GOAWAY on a stream is PROTOCOL_ERROR; one that is too short is FRAME_SIZE_ERROR", vec![
            linked("stream 1", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
            linked("7 bytes", frame(GOAWAY, 0, 0, &[0; 7]), SIZE),
        ]),
        proved("6.8", "we say GOAWAY before we close, and it names the streams that we may have dealt with", proofs::goaway_names_the_last_stream),
    ]
}

fn window_and_continuation() -> Vec<Row> {
    let in_pieces = |pieces: usize| {
        let block = block(REQUEST);
        let mut frames = frame(HEADERS, 0, 1, b"");
        let mut chunks = block.chunks(block.len().div_ceil(pieces)).peekable();
        while let Some(chunk) = chunks.next() {
            let flags = if chunks.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            frames.extend(frame(CONTINUATION, flags, 1, chunk));
        }
        frames
    };
    vec![
        kept("6.9", "WINDOW_UPDATE by 0 is PROTOCOL_ERROR, of another length than 4 FRAME_SIZE_ERROR", vec![
            linked("0 on the connection", window_update(0, 0), PROTOCOL),
            linked("0 on the link", window_update(1, 0), PROTOCOL),
            linked("0 beside the reserved bit", window_update(0, 0x8000_0000), PROTOCOL),
            linked("3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), SIZE),
            linked("5 bytes", frame(WINDOW_UPDATE, 0, 1, &[0; 5]), SIZE),
        ]),
        kept("6.9", "WINDOW_UPDATE on a stream that has closed is no error", vec![
            greeted("after the answer", join(&[&other(1), &window_update(1, 1)]), "1: 200 grpc-status 12; alive"),
        ]),
        kept("6.9.1", "a window above 2^31-1 is FLOW_CONTROL_ERROR", vec![
            linked("the connection's largest", window_update(0, 0x7fff_ffff - 65_535), "alive"),
            linked("the connection's, one more", window_update(0, 0x7fff_ffff - 65_534), FLOW),
            linked("the stream's largest", window_update(1, 0x7fff_ffff - 65_535), "alive"),
            linked("the stream's, one more", window_update(1, 0x7fff_ffff - 65_534), FLOW),
        ]),
        kept("6.9.1", "a peer that sends past our window gets FLOW_CONTROL_ERROR, before its bytes", vec![
            linked("a frame of the whole window, of which 5 bytes are used", header(1_048_576, DATA, 0, 1), FLOW),
            linked("an empty frame, which uses none", data(1, b""), "alive"),
        ]),
        proved("6.9.2", "a changed initial window moves open streams, also below zero", proofs::a_smaller_initial_window_can_go_below_zero),
        kept("6.9.2", "a change that takes a window above 2^31-1 is FLOW_CONTROL_ERROR", vec![
            linked("by one", join(&[&window_update(1, 0x7fff_ffff - 65_535), &settings(&[(4, 65_536)])]), FLOW),
            linked("not the connection's window", join(&[&window_update(0, 0x7fff_ffff - 65_535), &settings(&[(4, 0x7fff_ffff)])]), "SETTINGS ACK; alive"),
        ]),
        not_applicable("6.9.3", "data that is on its way when a receiver lowers its windows", "ours are announced once, at the start, above the default"),
        kept("6.10", "CONTINUATION continues the block before it, and nothing else", vec![
            greeted("in nine frames", in_pieces(8), OPENS),
            greeted("on stream 0", frame(CONTINUATION, END_HEADERS, 0, b""), PROTOCOL),
            greeted("without a block", join(&[&request(1), &frame(CONTINUATION, END_HEADERS, 1, b"")]), "1: 200; GOAWAY PROTOCOL_ERROR"),
            greeted("first of all", frame(CONTINUATION, END_HEADERS, 1, &block(REQUEST)), PROTOCOL),
        ]),
        kept("7", "an unknown error code has no special effect", vec![
            linked("GOAWAY", frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef]), "alive"),
            linked("RST_STREAM", reset(1, 0xdead_beef), "GOAWAY NO_ERROR"),
        ]),
    ]
}

fn messages() -> Vec<Row> {
    vec![
        kept("8.1", "trailers end the stream, without pseudo-headers", vec![
            // The message that has begun is cut short, which is an error of gRPC.
            linked("trailers", headers(END_STREAM, 1, &[("x-checksum", "1")]), "1: grpc-status 13; GOAWAY NO_ERROR"),
            linked("trailers that end nothing", headers(0, 1, &[("x-checksum", "1")]), PROTOCOL),
            linked("a pseudo-header in trailers", headers(END_STREAM, 1, &[(":method", "POST")]), PROTOCOL),
        ]),
        proved("8.1", "an answer before the end of its request asks with RST_STREAM NO_ERROR for no more", proofs::nothing_follows_our_end_of_a_stream),
        not_applicable("8.1", "interim responses (1xx)", "we send none"),
        kept("8.1.1", "a malformed request is a stream error PROTOCOL_ERROR, and the connection goes on", vec![
            greeted("and the next request opens the link", join(&[&headers(0, 1, &[]), &request(3)]), "1: RST_STREAM PROTOCOL_ERROR; 3: 200; alive"),
        ]),
        kept("8.1.1", "content-length that is not the length of the body is malformed", vec![
            greeted("none of the body", headers(END_STREAM, 1, &[REQUEST, &[("content-length", "1")]].concat()), MALFORMED),
            greeted("less", join(&[&with(&[("content-length", "4")]), &frame(DATA, END_STREAM, 1, b"\0\0\0")]), "1: 200; GOAWAY PROTOCOL_ERROR"),
            greeted("more", join(&[&with(&[("content-length", "2")]), &data(1, b"\0\0\0")]), "1: 200; GOAWAY PROTOCOL_ERROR"),
            greeted("less, before trailers", join(&[&with(&[("content-length", "2")]), &headers(END_STREAM, 1, &[])]), "1: 200; GOAWAY PROTOCOL_ERROR"),
            greeted("as it says", join(&[&with(&[("content-length", "2")]), &data(1, b"\0\0")]), OPENS),
            greeted("twice", with(&[("content-length", "9"), ("content-length", "9")]), MALFORMED),
            greeted("no number", with(&[("content-length", "+1")]), MALFORMED),
            greeted("beyond 64 bits", with(&[("content-length", "18446744073709551616")]), MALFORMED),
        ]),
        kept("8.2", "upper case in a name is malformed", vec![greeted("X-Name", with(&[("X-Name", "1")]), MALFORMED)]),
        kept("8.2.1", "names and values have no characters that HTTP does not allow", vec![
            greeted("an empty name", with(&[("", "1")]), MALFORMED),
            greeted("a blank in a name", with(&[("x name", "1")]), MALFORMED),
            greeted("a colon in a name", with(&[("x:name", "1")]), MALFORMED),
            greeted("DEL in a name", with(&[("x\u{7f}", "1")]), MALFORMED),
            greeted("beyond ASCII in a name", with(&[("x-\u{e9}", "1")]), MALFORMED),
            greeted("NUL in a value", with(&[("x-name", "a\0b")]), MALFORMED),
            greeted("a line feed in a value", with(&[("x-name", "a\nb")]), MALFORMED),
            greeted("a carriage return in a value", with(&[("x-name", "a\rb")]), MALFORMED),
            greeted("a blank before a value", with(&[("x-name", " a")]), MALFORMED),
            greeted("a tab after a value", with(&[("x-name", "a\t")]), MALFORMED),
            greeted("beyond ASCII in a value, which is allowed", with(&[("x-name", "\u{e9}")]), OPENS),
        ]),
        kept("8.2.2", "connection-specific fields are malformed", vec![
            greeted("connection", with(&[("connection", "close")]), MALFORMED),
            greeted("proxy-connection", with(&[("proxy-connection", "close")]), MALFORMED),
            greeted("keep-alive", with(&[("keep-alive", "1")]), MALFORMED),
            greeted("transfer-encoding", with(&[("transfer-encoding", "chunked")]), MALFORMED),
            greeted("upgrade", with(&[("upgrade", "websocket")]), MALFORMED),
            greeted("te: gzip", but("te", "gzip"), MALFORMED),
            greeted("te: trailers, which is allowed", request(1), OPENS),
        ]),
        kept("8.2.3", "cookie may come in several fields", vec![
            greeted("two crumbs", with(&[("cookie", "a=1"), ("cookie", "b=2")]), OPENS),
        ]),
    ]
}

fn fields() -> Vec<Row> {
    let only = |fields: &[(&str, &str)]| headers(0, 1, fields);
    let (method, scheme, path) = ((":method", "POST"), (":scheme", "http"), (":path", PATH));
    vec![
        kept("8.3", "pseudo-headers are known ones, before all fields, and not repeated", vec![
            greeted("after a field", only(&[method, ("x", "1"), scheme, path]), MALFORMED),
            greeted("an unknown one", only(&[method, scheme, path, (":fancy", "1")]), MALFORMED),
            greeted("one of responses", only(&[method, scheme, path, (":status", "200")]), MALFORMED),
            greeted(":method twice", only(&[method, method, scheme, path]), MALFORMED),
            greeted(":scheme twice", only(&[method, scheme, scheme, path]), MALFORMED),
            greeted(":path twice", only(&[method, scheme, path, path]), MALFORMED),
            greeted(":authority twice", with(&[(":authority", "again")]), MALFORMED),
        ]),
        kept("8.3.1", ":method, :scheme and :path are there, and :path is not empty", vec![
            greeted("no :method", only(&[scheme, path]), MALFORMED),
            greeted("no :scheme", only(&[method, path]), MALFORMED),
            greeted("no :path", only(&[method, scheme]), MALFORMED),
            greeted("an empty :path", only(&[method, scheme, (":path", "")]), MALFORMED),
            greeted("no fields at all", only(&[]), MALFORMED),
            greeted("no :authority, which is allowed", only(&[method, scheme, path, ("content-type", "application/grpc")]), OPENS),
        ]),
        differs("8.3.1", "a host that is not :authority SHOULD be malformed",
            "neither is looked at: there is one service here, under every name", vec![
            greeted("another host", with(&[("host", "elsewhere")]), OPENS),
        ]),
        proved("8.3.2", "a response has :status, first, and no other pseudo-header", proofs::responses_begin_with_their_status),
        not_applicable("8.4", "server push", "we push nothing"),
        not_applicable("8.4.1", "promised requests", "we push nothing; a client's PUSH_PROMISE is in 6.6"),
        not_applicable("8.4.2", "promised responses", "we push nothing"),
        kept("8.5", "CONNECT has :authority, and neither :scheme nor :path; ours is not a proxy", vec![
            greeted("as it should be", only(&[(":method", "CONNECT"), (":authority", "a:1")]), "1: 405; 1: RST_STREAM NO_ERROR; alive"),
            greeted("with a path", only(&[(":method", "CONNECT"), (":authority", "a:1"), path]), MALFORMED),
            greeted("with a scheme", only(&[(":method", "CONNECT"), (":authority", "a:1"), scheme]), MALFORMED),
            greeted("without authority", only(&[(":method", "CONNECT")]), MALFORMED),
        ]),
        not_applicable("8.6", "101 (Switching Protocols)", "we never send it; an upgrade field is malformed by 8.2.2"),
        kept("8.7", "REFUSED_STREAM only for requests that were not acted on", vec![
            linked("a second channel opens no link", request(3), "3: RST_STREAM REFUSED_STREAM; alive"),
        ]),
        not_applicable("8.8", "examples", "nothing is demanded"),
        proved("9.1", "GOAWAY before an orderly close", proofs::the_end_of_tcp_ends_the_stream),
        not_applicable("9.1.1", "one connection for several authorities", "for clients; 421 is never needed, for every authority is this one"),
        not_applicable("9.2", "TLS", "a listener in clear text"),
    ]
}

fn security() -> Vec<Row> {
    let many = |frame: Vec<u8>| frame.repeat(1_100);
    let crumbs = |name: &str, fields: usize| ending_in(&block(&vec![(name, ""); fields]));
    let requests = |each: fn(u32) -> Vec<u8>| {
        (1..500)
            .flat_map(|nth| each(2 * nth + 1))
            .collect::<Vec<u8>>()
    };
    let resets = || {
        (1..500)
            .flat_map(|nth| join(&[&request(2 * nth + 1), &reset(2 * nth + 1, 8)]))
            .collect::<Vec<u8>>()
    };
    vec![
        not_applicable("10.1", "authority of a server", "for clients"),
        kept("10.2", "other protocols cannot be made to look like a preface", vec![
            fresh("SMTP", b"EHLO example.com\r\n", PROTOCOL),
            fresh("a request that hides a preface in its body", join(&[b"POST / HTTP/1.1\r\nContent-Length: 24\r\n\r\n", PREFACE]), PROTOCOL),
        ]),
        kept("10.3", "values that would mean something else in HTTP/1.1 are malformed", vec![
            greeted("a line break in :path", but(":path", "/a\r\nhost: b"), MALFORMED),
            greeted("a line break in user-agent", with(&[("user-agent", "a\r\nb")]), MALFORMED),
        ]),
        not_applicable("10.4", "caching of pushed responses", "we push nothing"),
        kept("10.5", "useless frames are bounded, each kind by itself", vec![
            linked("PRIORITY", many(frame(PRIORITY, 0, 1, &[0; 5])), CALM),
            linked("empty DATA", many(data(1, b"")), CALM),
            linked("DATA of one byte", many(data(1, b"x")), CALM),
            linked("WINDOW_UPDATE", many(window_update(0, 1)), CALM),
            linked("unknown frames", many(frame(UNKNOWN, 0, 0, b"")), CALM),
            linked("GOAWAY", many(frame(GOAWAY, 0, 0, &[0; 8])), CALM),
            linked("33 settings in a frame", settings(&[(9, 9); 33]), CALM),
        ]),
        proved("10.5", "frames that want answers, and streams, are bounded too", proofs::answers_and_streams_are_bounded),
        kept("10.5", "streams that the peer resets are bounded, the link's own too", vec![
            greeted("rapid reset", join(&[&request(1), &reset(1, 8), &resets()]), "1: 200; GOAWAY NO_ERROR"),
        ]),
        kept("10.5", "what is within an allowance is no error", vec![
            linked("90 streams refused", requests(request)[..90 * request(3).len()].to_vec(), refusals()),
        ]),
        kept("10.5.1", "a list above what we announced is refused, before it is stored", vec![
            greeted("by its bytes on the wire", join(&[&frame(HEADERS, 0, 1, &[0; 16_000]), &header(385, CONTINUATION, 0, 1)]), CALM),
            greeted("by the bytes that it stands for", block_frame(0, 1, &[0x9f; 500]), CALM),
            greeted("by its fields", crumbs("x", 123), CALM),
            greeted("by its frames", join(&[&frame(HEADERS, 0, 1, b""), &frame(CONTINUATION, 0, 1, b"").repeat(9)]), CALM),
            linked("as trailers", block_frame(END_STREAM, 1, &[0x9f; 500]), CALM),
        ]),
        kept("10.5.1", "a list below it is taken", vec![greeted("128 fields", crumbs("x", 122), OPENS)]),
        not_applicable("10.5.2", "CONNECT", "refused with 405"),
        not_applicable("10.6", "secrets in a compressed block", "our blocks are literal, and hold none"),
        not_applicable("10.7", "padding", "we send none"),
        not_applicable("10.8", "what fingerprints a client", "for clients"),
        not_applicable("10.9", "remote timing", "one stream a connection: no second request to race it"),
    ]
}

/// 90 times the refusal of the next stream.
fn refusals() -> &'static str {
    let all: Vec<_> = (1..=90)
        .map(|nth| format!("{}: RST_STREAM REFUSED_STREAM", 2 * nth + 1))
        .collect();
    // Once for each test run.
    Box::leak(format!("{}; alive", all.join("; ")).into_boxed_str())
}

fn hpack() -> Vec<Row> {
    let block = |bytes: &[u8]| block_frame(0, 1, bytes);
    vec![
        kept("RFC 7541 2.3.3", "index 0, or beyond the tables, is a decoding error", vec![
            greeted("0", block(&[0x80]), COMPRESSION),
            greeted("62", block(&[0xbe]), COMPRESSION),
            greeted("62 as the name of a literal", block(&[0x7e, 0x00]), COMPRESSION),
        ]),
        kept("RFC 7541 4.2", "a table size update comes before the first field, and not above the limit", vec![
            greeted("to 0", block_frame(0, 1, &[&[0x20][..], &crate::wire::block(REQUEST)].concat()), OPENS),
            greeted("above", block(&[0x21]), COMPRESSION),
            greeted("late", ending_in(&[0x20]), COMPRESSION),
        ]),
        kept("RFC 7541 4.4", "an entry larger than the table is no error", vec![
            greeted("in a table of no bytes", ending_in(b"\x40\x01x\x01y"), OPENS),
        ]),
        kept("RFC 7541 5.1", "an integer that is too long is a decoding error", vec![
            greeted("an index", block(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), COMPRESSION),
            greeted("zeros without end", block(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), COMPRESSION),
            greeted("the length of a string", block(&[0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f]), COMPRESSION),
        ]),
        kept("RFC 7541 5.2", "Huffman padding is the beginning of EOS, and shorter than 8 bits", vec![
            // `a` is 00011, then three bits of padding.
            greeted("ones, as it should be", ending_in(&[0x00, 0x81, 0x1f, 0x01, b'x']), OPENS),
            greeted("zeros", ending_in(&[0x00, 0x81, 0x18, 0x01, b'x']), COMPRESSION),
            greeted("8 bits too long", ending_in(&[0x00, 0x82, 0x1f, 0xff, 0x01, b'x']), COMPRESSION),
            greeted("EOS itself", ending_in(&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x01, b'x']), COMPRESSION),
        ]),
        kept("RFC 7541 6.2", "literals of every kind", vec![
            greeted("never indexed", ending_in(b"\x10\x01x\x01y"), OPENS),
            greeted("with an indexed name", ending_in(&[0x0f, 0x2b, 0x01, b'y']), OPENS),
            greeted("half a value", ending_in(&[0x00, 0x01, b'x', 0x05, b'y']), COMPRESSION),
        ]),
    ]
}

fn grpc() -> Vec<Row> {
    let after_request = |bytes: &[u8]| join(&[&request(1), &data(1, bytes)]);
    vec![
        kept("gRPC requests", "what is not a call is refused as HTTP refuses", vec![
            greeted("GET", but(":method", "GET"), "1: 405; 1: RST_STREAM NO_ERROR; alive"),
            greeted("HEAD", but(":method", "HEAD"), "1: 405; 1: RST_STREAM NO_ERROR; alive"),
            greeted("another content type", but("content-type", "application/json"), "1: 415; 1: RST_STREAM NO_ERROR; alive"),
            greeted("no content type", headers(0, 1, &REQUEST[..5]), "1: 415; 1: RST_STREAM NO_ERROR; alive"),
            greeted("a subtype, which is allowed", but("content-type", "application/grpc+proto"), OPENS),
        ]),
        kept("gRPC requests", "an unknown method, and compression, is UNIMPLEMENTED", vec![
            greeted("an unknown method", other(1), "1: 200 grpc-status 12; alive"),
            greeted("gzip", with(&[("grpc-encoding", "gzip")]), "1: 200 grpc-status 12; 1: RST_STREAM NO_ERROR; alive"),
            greeted("identity, which is allowed", with(&[("grpc-encoding", "identity")]), OPENS),
        ]),
        kept("gRPC messages", "the prefix alone decides", vec![
            greeted("compressed", after_request(&[1, 0, 0, 0, 1, 0]), "1: 200; 1: grpc-status 12; 1: RST_STREAM NO_ERROR; GOAWAY NO_ERROR"),
            greeted("too long by one", after_request(&[0, 0x00, 0x40, 0x00, 0x01]), "1: 200; 1: grpc-status 8; 1: RST_STREAM NO_ERROR; GOAWAY NO_ERROR"),
            greeted("the longest, which is awaited", after_request(&[0, 0x00, 0x40, 0x00, 0x00]), OPENS),
        ]),
        kept("gRPC messages", "a stream that ends in a message is INTERNAL", vec![
            greeted("in its prefix", join(&[&request(1), &frame(DATA, END_STREAM, 1, &[0, 0])]), "1: 200; 1: grpc-status 13; GOAWAY NO_ERROR"),
            greeted("in its bytes", join(&[&request(1), &frame(DATA, END_STREAM, 1, &[0, 0, 0, 0, 9, 1])]), "1: 200; 1: grpc-status 13; GOAWAY NO_ERROR"),
            greeted("between messages, which is allowed", join(&[&request(1), &frame(DATA, END_STREAM, 1, b"")]), "1: 200; 1: grpc-status 0; GOAWAY NO_ERROR"),
        ]),
    ]
}
