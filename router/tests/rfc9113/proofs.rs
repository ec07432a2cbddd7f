//! What takes a conversation to show.

use crate::common::{Client, Frame, TestRouter, dialer, name};
use crate::talk::{Start, begin, frames_to_end, frames_to_ping, next};
use crate::wire::*;

pub fn the_router_says_settings_first(router: &TestRouter) {
    // Before a byte of ours: connecting reads it.
    let http2 = router.connect_raw();
    let (kind, flags, stream, bytes) = http2.seen[0];
    assert_eq!((kind, flags, stream), (SETTINGS, 0, 0));
    assert_eq!(bytes % 6, 0);
}

pub fn frames_of_the_router_are_short(router: &TestRouter) {
    let mut client = Client::negotiate(router.connect_raw(), dialer());
    client.http2.send_raw(&settings(&[(5, 1 << 20)]));
    client.subscribe(&name("short frames"));
    let mut publisher = router.connect();
    publisher.publish(&name("short frames"), &vec![7; 300_000]);
    assert_eq!(client.next_publication().blob().len(), 300_000);
    let longest = client.http2.seen.iter().map(|(.., bytes)| *bytes).max();
    assert_eq!(longest, Some(16_384));
}

pub fn a_lowered_table_is_said_in_the_next_block(router: &TestRouter) {
    let mut http2 = begin(router, Start::Greeted);
    http2.send_raw(&join(&[&settings(&[(1, 0)]), &other(1), &other(3)]));
    let ended = END_HEADERS | END_STREAM;
    assert_eq!(next(&mut http2, HEADERS, ended).payload[0], 0x20);
    assert_eq!(next(&mut http2, HEADERS, ended).payload[0], 0x88);
}

pub fn ignored_data_gives_its_window_back(router: &TestRouter) {
    let mut http2 = begin(router, Start::Linked);
    http2.send_raw(&request(3));
    next(&mut http2, RST_STREAM, 0);
    // Sixteen windows.
    let quarter = data(3, &[0; 1 << 18]);
    for _ in 0..32 {
        http2.send_raw(&quarter.repeat(2));
        returned(&mut http2, 0, 1 << 19);
    }
}

pub fn padding_gives_its_window_back(router: &TestRouter) {
    let mut http2 = begin(router, Start::Linked);
    // 257 bytes each, pad length included, of which none stays.
    let padded = frame(DATA, PADDED, 1, &[&[223][..], &[0; 32], &[0; 223]].concat());
    for _ in 0..4 {
        http2.send_raw(&padded.repeat(2_100));
        returned(&mut http2, 0, 1 << 19);
        returned(&mut http2, 1, 1 << 19);
    }
}

/// WINDOW_UPDATE of at least this much comes.
fn returned(http2: &mut crate::common::Http2, stream: u32, bytes: u32) {
    let mut sum = 0;
    while sum < bytes {
        let update = next(http2, WINDOW_UPDATE, 0);
        if update.stream == stream {
            sum += u32::from_be_bytes(update.payload.try_into().unwrap());
        }
    }
}

pub fn nothing_follows_our_end_of_a_stream(router: &TestRouter) {
    let mut http2 = begin(router, Start::Greeted);
    // Refused while its body is still to come.
    http2.send_raw(&but(":path", "/other"));
    let mut frames = frames_to_ping(&mut http2).into_iter();
    let trailers = frames
        .find(|frame| frame.kind == HEADERS)
        .expect("an answer");
    assert_eq!(trailers.flags, END_HEADERS | END_STREAM);
    let after: Vec<_> = frames.map(|frame| (frame.kind, frame.stream)).collect();
    assert_eq!(after, [(RST_STREAM, 1)]);
    http2.send_raw(&join(&[&data(1, &[0; 100]), &window_update(1, 1)]));
    assert!(frames_to_ping(&mut http2).is_empty());
}

pub fn the_peers_window_is_kept(router: &TestRouter) {
    let mut http2 = router.connect_raw();
    let (_, request_message) = dialer().dial().unwrap();
    let message = [
        &slim_proto::grpc::prefix(request_message.len())[..],
        &request_message,
    ]
    .concat();
    http2.send_raw(&join(&[
        PREFACE,
        &settings(&[(4, 10)]),
        &settings_ack(),
        &request(1),
        &data(1, &message),
    ]));
    let mut allowed = 10;
    let mut reply = Vec::new();
    for widened in [1, 2, 50, 1_000_000] {
        // The answer to the first PING may pass DATA of the same turn.
        for frame in [frames_to_ping(&mut http2), frames_to_ping(&mut http2)].concat() {
            reply.extend(data_of(frame));
        }
        assert!(reply.len() <= allowed, "{} of {allowed}", reply.len());
        assert!(allowed > 100 || reply.len() == allowed);
        http2.send_raw(&window_update(1, widened));
        allowed += widened as usize;
    }
    let length = loop {
        if let Some((prefix, rest)) = reply.split_first_chunk::<5>() {
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
            if rest.len() >= length {
                break length;
            }
        }
        reply.extend(next(&mut http2, DATA, 0).payload);
    };
    assert_eq!(reply.len(), 5 + length, "the reply came whole");
}

fn data_of(frame: Frame) -> Vec<u8> {
    match frame.kind {
        DATA => frame.payload,
        _ => Vec::new(),
    }
}

pub fn a_smaller_initial_window_can_go_below_zero(router: &TestRouter) {
    let mut http2 = router.connect_raw();
    http2.stream_window_bytes = 1_000;
    http2.returns_credit = false;
    let mut client = Client::negotiate(http2, dialer());
    client.subscribe(&name("below zero"));
    let used: usize = client
        .http2
        .seen
        .iter()
        .map(|seen| match seen {
            (DATA, .., bytes) => *bytes,
            _ => 0,
        })
        .sum();
    assert!((100..1_000).contains(&used), "{used}");
    // The window is now what was used, less 1,000, less than nothing; and after the update it is one byte.
    client.http2.send_raw(&settings(&[(4, 0)]));
    let mut publisher = router.connect();
    publisher.publish(&name("below zero"), &[7; 100]);
    publisher.subscribe(&name("behind it"));
    let data_bytes = |frames: Vec<Frame>| frames.into_iter().flat_map(data_of).count();
    let http2 = &mut client.http2;
    assert_eq!(
        data_bytes(frames_to_ping(http2)) + data_bytes(frames_to_ping(http2)),
        0
    );
    http2.send_raw(&window_update(1, used as u32));
    assert_eq!(
        data_bytes(frames_to_ping(http2)) + data_bytes(frames_to_ping(http2)),
        0
    );
    http2.send_raw(&window_update(1, 1));
    assert_eq!(
        data_bytes(frames_to_ping(http2)) + data_bytes(frames_to_ping(http2)),
        1
    );
}

pub fn goaway_names_the_last_stream(router: &TestRouter) {
    let mut http2 = begin(router, Start::Linked);
    http2.send_raw(&join(&[&request(7), &data(0, b"x")]));
    let frames = frames_to_end(&mut http2);
    let goaway = frames.last().expect("a farewell");
    assert_eq!((goaway.kind, goaway.stream), (GOAWAY, 0));
    assert_eq!(goaway.payload[..8], [0, 0, 0, 7, 0, 0, 0, 1]);
    let text = String::from_utf8_lossy(&goaway.payload[8..]);
    assert!(text.contains("DATA frame on stream 0"), "{text}");
}

pub fn the_end_of_tcp_ends_the_stream(router: &TestRouter) {
    let before = router.count("connections_open");
    let mut http2 = begin(router, Start::Linked);
    http2.shut_down_writing();
    assert!(
        frames_to_end(&mut http2).is_empty(),
        "who left is told nothing"
    );
    router.await_fall("connections_open", before);

    // An orderly end, the peer's END_STREAM, is answered in order.
    let mut http2 = begin(router, Start::Greeted);
    http2.send_raw(&headers(END_STREAM, 1, REQUEST));
    let kinds: Vec<_> = frames_to_end(&mut http2)
        .iter()
        .map(|frame| frame.kind)
        .collect();
    assert_eq!(kinds, [HEADERS, HEADERS, GOAWAY]);
}

pub fn responses_begin_with_their_status(router: &TestRouter) {
    for (sends, first) in [
        (request(1), &[0x88][..]),
        (other(1), &[0x88]),
        (but(":method", "GET"), b"\x08\x03405"),
        (but("content-type", "x/y"), b"\x08\x03415"),
    ] {
        let mut http2 = begin(router, Start::Greeted);
        http2.send_raw(&sends);
        let frames = frames_to_ping(&mut http2);
        let head = frames.iter().find(|frame| frame.kind == HEADERS).unwrap();
        let rest = head.payload.strip_prefix(first).expect("its status");
        assert!(!rest.contains(&b':'), "no other pseudo-header");
    }
}

pub fn answers_and_streams_are_bounded(router: &TestRouter) {
    let each =
        |frames: fn(u32) -> Vec<u8>| (1..2_000).flat_map(|nth| frames(2 * nth + 1)).collect();
    let floods: [(&str, Vec<u8>, usize); 6] = [
        ("PING", ping(b"12345678").repeat(2_000), 130),
        ("SETTINGS", settings(&[]).repeat(2_000), 25),
        (
            "malformed requests",
            each(|stream| headers(0, stream, &[])),
            230,
        ),
        ("requests refused", each(request), 230),
        (
            "requests refused and reset",
            each(|stream| join(&[&request(stream), &reset(stream, 8)])),
            230,
        ),
        (
            "trailers for what was refused",
            [request(3), headers(END_STREAM, 3, &[]).repeat(2_000)].concat(),
            2,
        ),
    ];
    for (what, flood, answers_max) in floods {
        let mut http2 = begin(router, Start::Linked);
        http2.send_raw(&flood);
        let frames = frames_to_end(&mut http2);
        let goaway = frames.last().expect("a farewell");
        assert_eq!((goaway.kind, goaway.payload[7]), (GOAWAY, 0xb), "{what}");
        assert!(
            frames.len() <= answers_max,
            "{what}: {} answers",
            frames.len()
        );
    }
}
