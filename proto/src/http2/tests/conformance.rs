//! RFC 9113, row by row: what a peer sends after the handshake, and what it gets for it.

use super::*;

enum Gets {
    /// A connection error.
    GoAway(ErrorCode),
    /// A stream error; the connection goes on.
    Reset(ErrorCode),
    /// Nothing: it was allowed.
    Accepted,
}
use Gets::*;

/// On a link whose stream 1 is accepted; requests of the rows use stream 3.
struct Row {
    section: &'static str,
    name: &'static str,
    sends: Vec<u8>,
    gets: Gets,
}

fn row(section: &'static str, name: &'static str, sends: Vec<u8>, gets: Gets) -> Row {
    Row {
        section,
        name,
        sends,
        gets,
    }
}

fn join(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.concat()
}

/// A request on stream 3 with these fields only.
fn only(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(0, 3, fields)
}

fn more(fields: &[(&str, &str)]) -> Vec<u8> {
    request_with(3, fields)
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    const PROTOCOL: ErrorCode = ErrorCode::PROTOCOL_ERROR;
    const SIZE: ErrorCode = ErrorCode::FRAME_SIZE_ERROR;
    const FLOW: ErrorCode = ErrorCode::FLOW_CONTROL_ERROR;
    const CLOSED: ErrorCode = ErrorCode::STREAM_CLOSED;
    const COMPRESSION: ErrorCode = ErrorCode::COMPRESSION_ERROR;
    const CALM: ErrorCode = ErrorCode::ENHANCE_YOUR_CALM;
    let ended = || headers(END_STREAM, 3, REQUEST_FIELDS);
    vec![
        // Frames.
        row("4.1", "unknown frame type", frame(0xfa, 0xff, 0, b"anything"), Accepted),
        row("4.1", "unknown frame type on a stream", frame(0xfa, 0xff, 99, b""), Accepted),
        row("4.1", "undefined flags", frame(PING, 0xfe, 0, &[0; 8]), Accepted),
        row("4.1", "reserved bit", window_update(0x8000_0001, 0x8000_0001), Accepted),
        row("4.2", "largest DATA", data(1, &[0; 32_768]), Accepted),
        row("4.2", "DATA above the limit", data(1, &[0; 32_769]), GoAway(SIZE)),
        row("4.2", "HEADERS above the limit", frame(HEADERS, END_HEADERS, 3, &[0; 32_769]), GoAway(SIZE)),
        row("4.2", "unknown frame above the limit", frame(0xfa, 0, 0, &[0; 32_769]), GoAway(SIZE)),
        row("4.3", "bad index", frame(HEADERS, END_HEADERS, 3, &[0xff, 0x7f]), GoAway(COMPRESSION)),
        row("4.3", "table size above the limit", frame(HEADERS, END_HEADERS, 3, &[0x21]), GoAway(COMPRESSION)),
        row("4.3", "block ends inside a field", frame(HEADERS, END_HEADERS, 3, &[0x00, 0x05, b'a']), GoAway(COMPRESSION)),
        row("4.3", "other frame inside a block", join(&[frame(HEADERS, 0, 3, &[]), frame(PING, 0, 0, &[0; 8])]), GoAway(PROTOCOL)),
        row("4.3", "unknown frame inside a block", join(&[frame(HEADERS, 0, 3, &[]), frame(0xfa, 0, 0, &[])]), GoAway(PROTOCOL)),
        row("4.3", "HEADERS inside a block", join(&[frame(HEADERS, 0, 3, &[]), request(3)]), GoAway(PROTOCOL)),
        row("4.3", "CONTINUATION of another stream", join(&[frame(HEADERS, 0, 3, &[]), frame(CONTINUATION, END_HEADERS, 5, &[])]), GoAway(PROTOCOL)),
        // Stream states.
        row("5.1", "DATA on an idle stream", data(3, b"x"), GoAway(PROTOCOL)),
        row("5.1", "RST_STREAM on an idle stream", reset(3, 0), GoAway(PROTOCOL)),
        row("5.1", "WINDOW_UPDATE on an idle stream", window_update(3, 1), GoAway(PROTOCOL)),
        row("5.1", "PRIORITY on an idle stream", frame(PRIORITY, 0, 3, &[0; 5]), Accepted),
        row("5.1", "DATA after END_STREAM", join(&[ended(), data(3, b"x")]), GoAway(CLOSED)),
        row("5.1", "HEADERS after END_STREAM", join(&[ended(), request(3)]), GoAway(CLOSED)),
        row("5.1", "WINDOW_UPDATE after END_STREAM", join(&[ended(), window_update(3, 1)]), Accepted),
        row("5.1", "RST_STREAM after END_STREAM", join(&[ended(), reset(3, 8)]), Accepted),
        row("5.1", "PRIORITY after END_STREAM", join(&[ended(), frame(PRIORITY, 0, 3, &[0; 5])]), Accepted),
        row("5.1", "DATA after RST_STREAM", join(&[request(3), reset(3, 8), data(3, b"x")]), GoAway(CLOSED)),
        row("5.1", "HEADERS after RST_STREAM", join(&[request(3), reset(3, 8), request(3)]), GoAway(CLOSED)),
        row("5.1", "WINDOW_UPDATE after RST_STREAM", join(&[request(3), reset(3, 8), window_update(3, 1)]), Accepted),
        row("5.1.1", "even stream", request(2), GoAway(PROTOCOL)),
        row("5.1.1", "DATA on an even stream", data(2, b"x"), GoAway(PROTOCOL)),
        row("5.1.1", "decreasing stream", join(&[request(5), request(3)]), GoAway(PROTOCOL)),
        row("5.1.1", "skipped streams", request(0x7fff_ffff), Accepted),
        row("5.1.2", "one stream more than announced", join(&[request(5), request(7), request(9), request(3 + 8)]), Reset(ErrorCode::REFUSED_STREAM)),
        // DATA.
        row("6.1", "DATA on stream 0", data(0, b"x"), GoAway(PROTOCOL)),
        row("6.1", "padding fills the frame", frame(DATA, PADDED, 1, &[3, 0, 0, 0]), Accepted),
        row("6.1", "padding exceeds the frame", frame(DATA, PADDED, 1, &[4, 0, 0, 0]), GoAway(PROTOCOL)),
        row("6.1", "padded without a pad length", frame(DATA, PADDED, 1, &[]), GoAway(SIZE)),
        // HEADERS.
        row("6.2", "HEADERS on stream 0", request(0), GoAway(PROTOCOL)),
        row("6.2", "padded HEADERS", frame(HEADERS, END_HEADERS | PADDED, 3, &[&[2], &block(REQUEST_FIELDS)[..], &[0, 0]].concat()), Accepted),
        row("6.2", "padded HEADERS with priority", frame(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 3, &[&[2, 0, 0, 0, 0, 9], &block(REQUEST_FIELDS)[..], &[0, 0]].concat()), Accepted),
        row("6.2", "HEADERS with priority", frame(HEADERS, END_HEADERS | WITH_PRIORITY, 3, &[&[0x80, 0, 0, 0, 9], &block(REQUEST_FIELDS)[..]].concat()), Accepted),
        row("6.2", "padding into the priority", frame(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 3, &[1, 0, 0, 0, 0, 0]), GoAway(PROTOCOL)),
        row("6.2", "padding exceeds HEADERS", frame(HEADERS, END_HEADERS | PADDED, 3, &[3, 0, 0]), GoAway(PROTOCOL)),
        row("6.2", "no room for the priority", frame(HEADERS, END_HEADERS | WITH_PRIORITY, 3, &[0; 4]), GoAway(SIZE)),
        // PRIORITY, RST_STREAM.
        row("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0; 5]), GoAway(PROTOCOL)),
        row("6.3", "PRIORITY of the wrong length", frame(PRIORITY, 0, 1, &[0; 4]), GoAway(SIZE)),
        row("6.4", "RST_STREAM on stream 0", reset(0, 0), GoAway(PROTOCOL)),
        row("6.4", "RST_STREAM of the wrong length", frame(RST_STREAM, 0, 1, &[0; 3]), GoAway(SIZE)),
        row("6.4", "RST_STREAM with an unknown code", reset(1, 0xdead), Accepted),
        // SETTINGS.
        row("6.5", "acknowledgement with payload", frame(SETTINGS, ACK, 0, &[0; 6]), GoAway(SIZE)),
        row("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), GoAway(PROTOCOL)),
        row("6.5", "SETTINGS of a broken length", frame(SETTINGS, 0, 0, &[0; 5]), GoAway(SIZE)),
        row("6.5", "acknowledgement of nothing", settings_ack(), GoAway(PROTOCOL)),
        row("6.5.2", "unknown setting", settings(&[(0xffff, 0xffff_ffff)]), Accepted),
        row("6.5.2", "ENABLE_PUSH 1", settings(&[(2, 1)]), Accepted),
        row("6.5.2", "ENABLE_PUSH 2", settings(&[(2, 2)]), GoAway(PROTOCOL)),
        row("6.5.2", "largest window", settings(&[(4, 0x7fff_ffff)]), Accepted),
        row("6.5.2", "window above 2^31 - 1", settings(&[(4, 0x8000_0000)]), GoAway(FLOW)),
        row("6.5.2", "frames below 16384", settings(&[(5, 16_383)]), GoAway(PROTOCOL)),
        row("6.5.2", "frames above 2^24 - 1", settings(&[(5, 16_777_216)]), GoAway(PROTOCOL)),
        row("6.5.2", "frames of 2^24 - 1", settings(&[(5, 16_777_215)]), Accepted),
        row("6.5.3", "same setting twice", settings(&[(4, 1), (4, 2)]), Accepted),
        // PUSH_PROMISE, PING, GOAWAY.
        row("6.6", "PUSH_PROMISE from a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), GoAway(PROTOCOL)),
        row("6.7", "PING on a stream", frame(PING, 0, 1, &[0; 8]), GoAway(PROTOCOL)),
        row("6.7", "PING of the wrong length", frame(PING, 0, 0, &[0; 7]), GoAway(SIZE)),
        row("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), GoAway(PROTOCOL)),
        row("6.8", "GOAWAY that is too short", frame(GOAWAY, 0, 0, &[0; 7]), GoAway(SIZE)),
        row("6.8", "GOAWAY with debug data", frame(GOAWAY, 0, 0, &[0; 500]), Accepted),
        // WINDOW_UPDATE.
        row("6.9", "WINDOW_UPDATE of the wrong length", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), GoAway(SIZE)),
        row("6.9", "WINDOW_UPDATE by 0 on the connection", window_update(0, 0), GoAway(PROTOCOL)),
        row("6.9", "WINDOW_UPDATE by 0 on a stream", window_update(1, 0), GoAway(PROTOCOL)),
        row("6.9.1", "connection window at its limit", window_update(0, 0x7fff_ffff - 65_535), Accepted),
        row("6.9.1", "connection window past its limit", window_update(0, 0x7fff_ffff - 65_534), GoAway(FLOW)),
        row("6.9.1", "stream window past its limit", window_update(1, 0x7fff_ffff - 65_534), GoAway(FLOW)),
        row("6.9.2", "setting widens a window past its limit", join(&[window_update(1, 0x7fff_ffff - 65_535), settings(&[(4, 65_536)])]), GoAway(FLOW)),
        // CONTINUATION.
        row("6.10", "block in three frames", join(&[frame(HEADERS, 0, 3, &block(&REQUEST_FIELDS[..2])), frame(CONTINUATION, 0, 3, &block(&REQUEST_FIELDS[2..4])), frame(CONTINUATION, END_HEADERS, 3, &block(&REQUEST_FIELDS[4..]))]), Accepted),
        row("6.10", "CONTINUATION on stream 0", frame(CONTINUATION, END_HEADERS, 0, &[]), GoAway(PROTOCOL)),
        row("6.10", "CONTINUATION without a block", frame(CONTINUATION, END_HEADERS, 1, &[]), GoAway(PROTOCOL)),
        row("6.10", "CONTINUATION after END_HEADERS", join(&[request(3), frame(CONTINUATION, END_HEADERS, 3, &[])]), GoAway(PROTOCOL)),
        // Messages.
        row("8.1", "trailers", join(&[request(3), data(3, b"x"), headers(END_STREAM, 3, &[("x-checksum", "1")])]), Accepted),
        row("8.1", "trailers that end nothing", join(&[request(3), headers(0, 3, &[("x-checksum", "1")])]), GoAway(PROTOCOL)),
        row("8.1", "pseudo-header in trailers", join(&[request(3), headers(END_STREAM, 3, &[(":method", "POST")])]), GoAway(PROTOCOL)),
        row("8.1.1", "content-length that holds", join(&[more(&[("content-length", "3")]), frame(DATA, 0, 3, b"ab"), frame(DATA, END_STREAM, 3, b"c")]), Accepted),
        row("8.1.1", "less than content-length", join(&[more(&[("content-length", "4")]), frame(DATA, END_STREAM, 3, b"abc")]), GoAway(PROTOCOL)),
        row("8.1.1", "more than content-length", join(&[more(&[("content-length", "2")]), data(3, b"abc")]), GoAway(PROTOCOL)),
        row("8.1.1", "less than content-length before trailers", join(&[more(&[("content-length", "2")]), headers(END_STREAM, 3, &[])]), GoAway(PROTOCOL)),
        row("8.1.1", "content-length without a body", headers(END_STREAM, 3, &[REQUEST_FIELDS, &[("content-length", "1")]].concat()), Reset(PROTOCOL)),
        row("8.1.1", "content-length twice", more(&[("content-length", "1"), ("content-length", "1")]), Reset(PROTOCOL)),
        row("8.1.1", "content-length that is no number", more(&[("content-length", "+1")]), Reset(PROTOCOL)),
        row("8.1.1", "empty content-length", more(&[("content-length", "")]), Reset(PROTOCOL)),
        row("8.1.1", "content-length beyond 64 bits", more(&[("content-length", "18446744073709551616")]), Reset(PROTOCOL)),
        // Fields.
        row("8.2", "uppercase name", more(&[("X-Name", "1")]), Reset(PROTOCOL)),
        row("8.2.1", "empty name", more(&[("", "1")]), Reset(PROTOCOL)),
        row("8.2.1", "blank in a name", more(&[("x name", "1")]), Reset(PROTOCOL)),
        row("8.2.1", "colon in a name", more(&[("x:name", "1")]), Reset(PROTOCOL)),
        row("8.2.1", "beyond ASCII in a name", more(&[("x-é", "1")]), Reset(PROTOCOL)),
        row("8.2.1", "NUL in a value", more(&[("x-name", "a\0b")]), Reset(PROTOCOL)),
        row("8.2.1", "line break in a value", more(&[("x-name", "a\nb")]), Reset(PROTOCOL)),
        row("8.2.1", "carriage return in a value", more(&[("x-name", "a\rb")]), Reset(PROTOCOL)),
        row("8.2.1", "value begins with a blank", more(&[("x-name", " a")]), Reset(PROTOCOL)),
        row("8.2.1", "value ends with a tab", more(&[("x-name", "a\t")]), Reset(PROTOCOL)),
        row("8.2.1", "beyond ASCII in a value", more(&[("x-name", "é")]), Accepted),
        row("8.2.1", "beyond ASCII in a value that counts", more(&[("authorization", "é")]), Reset(PROTOCOL)),
        row("8.2.2", "connection", more(&[("connection", "close")]), Reset(PROTOCOL)),
        row("8.2.2", "proxy-connection", more(&[("proxy-connection", "close")]), Reset(PROTOCOL)),
        row("8.2.2", "keep-alive", more(&[("keep-alive", "1")]), Reset(PROTOCOL)),
        row("8.2.2", "transfer-encoding", more(&[("transfer-encoding", "chunked")]), Reset(PROTOCOL)),
        row("8.2.2", "upgrade", more(&[("upgrade", "websocket")]), Reset(PROTOCOL)),
        row("8.2.2", "te other than trailers", only(&[&REQUEST_FIELDS[..4], &[("te", "gzip")]].concat()), Reset(PROTOCOL)),
        row("8.3", "pseudo-header after a field", only(&[(":method", "POST"), ("x-name", "1"), (":scheme", "http"), (":path", "/")]), Reset(PROTOCOL)),
        row("8.3", "unknown pseudo-header", only(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":fancy", "1")]), Reset(PROTOCOL)),
        row("8.3", "pseudo-header of responses", only(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":status", "200")]), Reset(PROTOCOL)),
        row("8.3.1", "no :method", only(&[(":scheme", "http"), (":path", "/")]), Reset(PROTOCOL)),
        row("8.3.1", "no :scheme", only(&[(":method", "POST"), (":path", "/")]), Reset(PROTOCOL)),
        row("8.3.1", "no :path", only(&[(":method", "POST"), (":scheme", "http")]), Reset(PROTOCOL)),
        row("8.3.1", "empty :path", only(&[(":method", "POST"), (":scheme", "http"), (":path", "")]), Reset(PROTOCOL)),
        row("8.3.1", ":method twice", only(&[(":method", "POST"), (":method", "POST"), (":scheme", "http"), (":path", "/")]), Reset(PROTOCOL)),
        row("8.3.1", ":scheme twice", only(&[(":method", "POST"), (":scheme", "http"), (":scheme", "http"), (":path", "/")]), Reset(PROTOCOL)),
        row("8.3.1", ":path twice", only(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":path", "/")]), Reset(PROTOCOL)),
        row("8.3.1", "no fields at all", only(&[]), Reset(PROTOCOL)),
        row("8.3.1", "authorization twice", more(&[("authorization", "a"), ("authorization", "b")]), Reset(PROTOCOL)),
        row("8.5", "CONNECT", only(&[(":method", "CONNECT"), (":authority", "a:1")]), Accepted),
        row("8.5", "CONNECT with a path", only(&[(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")]), Reset(PROTOCOL)),
        // Denial of service.
        row("10.5", "settings without end", settings(&[(0xff, 0); 33]), GoAway(CALM)),
        row("10.5.1", "list of too many fields", frame(HEADERS, END_HEADERS, 3, &[&block(REQUEST_FIELDS)[..], &[0x90; 122]].concat()), GoAway(CALM)),
    ]
}

#[test]
fn every_row_of_rfc_9113_gets_what_it_says() {
    for Row {
        section,
        name,
        sends,
        gets,
    } in rows()
    {
        let mut server = Server::linked();
        let result = server.try_take(&sends);
        let resets: Vec<_> = server
            .said()
            .into_iter()
            .filter(|(kind, ..)| *kind == RST_STREAM)
            .map(|(_, _, _, code)| ErrorCode(u32::from_be_bytes(code.try_into().unwrap())))
            .collect();
        let got = match result {
            Err(error) => format!("GOAWAY {:?}", error.code()),
            Ok(()) if resets.is_empty() => "accepted".to_owned(),
            Ok(()) => format!("RST_STREAM {resets:?}"),
        };
        let expected = match gets {
            GoAway(code) => format!("GOAWAY {code:?}"),
            Reset(code) => format!("RST_STREAM {:?}", [code]),
            Accepted => "accepted".to_owned(),
        };
        assert_eq!(got, expected, "RFC 9113 section {section}: {name}");
        if !matches!(gets, GoAway(_)) {
            server.takes(&frame(PING, 0, 0, b"still ok"));
        }
    }
}

#[test]
fn a_stranger_is_told_from_a_broken_client() {
    let cases: &[(&[u8], ConnectionError)] = &[
        (b"GET / HTTP/1.1\r\n", ConnectionError::Http1),
        (b"POST /x HTTP/1.1\r\n", ConnectionError::Http1),
        (b"PUT /x HTTP/1.1\r\n", ConnectionError::Http1),
        (b"PRIX /x HTTP/1.1\r\n", ConnectionError::Http1),
        (b"\x16\x03\x01\x02\x00\x01", ConnectionError::TlsOnClearText),
        (
            b"\x16\x04",
            ConnectionError::BadPreface { byte: 4, offset: 1 },
        ),
        (b"\x00", ConnectionError::BadPreface { byte: 0, offset: 0 }),
        (
            b"get / HTTP/1.1",
            ConnectionError::BadPreface {
                byte: b'g',
                offset: 0,
            },
        ),
        (
            b"PRI * HTTP/1.1",
            ConnectionError::BadPreface {
                byte: b'1',
                offset: 11,
            },
        ),
        (
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            ConnectionError::BadPreface {
                byte: b'Q',
                offset: 16,
            },
        ),
    ];
    for (bytes, error) in cases {
        assert_eq!(Server::new(ANNOUNCED).refuses(bytes), *error);
        let mut server = Server::new(ANNOUNCED);
        let first = bytes
            .iter()
            .find_map(|byte| server.try_take(&[*byte]).err());
        assert_eq!(first.as_ref(), Some(error));
    }
}

#[test]
fn the_first_frame_is_settings_and_no_acknowledgement() {
    for first in [
        frame(PING, 0, 0, &[0; 8]),
        settings_ack(),
        request(1),
        frame(0xfa, 0, 0, &[]),
    ] {
        let error = Server::new(ANNOUNCED).refuses(&[PREFACE, &first].concat());
        assert!(
            matches!(error, ConnectionError::SettingsMissing { .. }),
            "{error}"
        );
        assert_eq!(error.code(), ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn settings_and_pings_are_acknowledged_in_order() {
    let mut server = Server::linked();
    server.takes(&[frame(PING, 0, 0, b"12345678"), settings(&[(3, 1)])].concat());
    assert_eq!(
        server.said(),
        [
            (PING, ACK, 0, b"12345678".to_vec()),
            (SETTINGS, ACK, 0, vec![])
        ]
    );
}

#[test]
fn the_peers_goaway_leaves_the_link_open() {
    let mut server = Server::linked();
    server.takes(
        &[
            frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\x0bcalm"),
            data(1, &[1; 40]),
        ]
        .concat(),
    );
    let data = Seen::Data {
        stream: 1,
        bytes: vec![1; 40],
        end_stream: false,
    };
    assert_eq!(
        server.seen,
        [Seen::GoAway(ErrorCode::ENHANCE_YOUR_CALM, 0), data]
    );
}

#[test]
fn the_end_of_the_peers_half_is_reported_once() {
    let end = |bytes: &[u8]| Seen::Data {
        stream: 1,
        bytes: bytes.to_vec(),
        end_stream: true,
    };
    for (sends, seen) in [
        (frame(DATA, END_STREAM, 1, b""), end(b"")),
        (frame(DATA, END_STREAM, 1, b"last"), end(b"last")),
        (
            frame(DATA, END_STREAM | PADDED, 1, b"\x02last\0\0"),
            end(b"last"),
        ),
        (frame(DATA, END_STREAM | PADDED, 1, b"\x02\0\0"), end(b"")),
        (headers(END_STREAM, 1, &[("x", "y")]), Seen::Trailers(1)),
    ] {
        let mut server = Server::linked();
        server.takes(&sends);
        assert_eq!(server.seen, [seen]);
        let error = server.refuses(&data(1, b"x"));
        assert_eq!(error.code(), ErrorCode::STREAM_CLOSED);
    }
}

#[test]
fn after_an_error_everything_is_swallowed() {
    let mut server = Server::linked();
    server.refuses(&data(0, b"x"));
    server.connection.goaway(
        ErrorCode::PROTOCOL_ERROR,
        "DATA on stream 0",
        &mut server.out,
    );
    server.out.clear();
    server.takes(&[frame(PING, 0, 0, &[0; 8]), vec![0xff; 1_000]].concat());
    assert!(server.out.is_empty() && server.seen.is_empty());
}

#[test]
fn a_table_filled_before_our_settings_were_read_serves_until_they_are_acknowledged() {
    let mut server = Server::new(ANNOUNCED);
    let indexed = [
        block(REQUEST_FIELDS),
        b"\x40\x0dauthorization\x05Basic".to_vec(),
    ]
    .concat();
    let again = [block(&REQUEST_FIELDS[..4]), vec![0xbe]].concat();
    server.takes(
        &[
            PREFACE,
            &settings(&[]),
            &frame(HEADERS, END_HEADERS, 1, &indexed),
        ]
        .concat(),
    );
    server.takes(&frame(HEADERS, END_HEADERS, 3, &again));
    let Some(Seen::Request(head)) = server.seen.last() else {
        panic!()
    };
    assert_eq!(head.authorization.as_deref(), Some("Basic"));
    server.takes(&settings_ack());
    assert_eq!(
        server
            .refuses(&frame(HEADERS, END_HEADERS, 5, &again))
            .code(),
        ErrorCode::COMPRESSION_ERROR
    );
}
