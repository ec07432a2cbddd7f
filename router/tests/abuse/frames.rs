//! Attacks on HTTP/2 (RFC 9113 §10.5), by the names they were published under.

use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use crate::scene::{Bounds, MEGABYTE, Scene};
use crate::talk::{Start, frames_to_end};
use crate::wire::*;

const PROTOCOL_ERROR: u32 = 0x1;
const FLOW_CONTROL_ERROR: u32 = 0x3;
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// Connections that attack at once.
const ATTACKERS: usize = 8;

/// Of all attackers together. A flood ends after a few hundred frames, whatever its length, and what is still on its way
/// is read and thrown away: the bound on time, some ten times what it takes, is an eighth of a microsecond for each frame of the
/// longest floods here, where an unoptimised router spends several on one that it looks at.
const FLOOD: Bounds = Bounds {
    memory_bytes: MEGABYTE,
    processor_time: Duration::from_millis(100),
};

/// Frames that a router may answer to one attacker before it has had enough.
const ANSWERS_MAX: usize = 450;

/// All attackers send these bytes at once; each is told this code and closed, and the router counts each so.
#[track_caller]
fn flood(start: Start, bytes: &[u8], code: u32) -> Scene {
    let scene = Scene::new();
    let attackers: Vec<_> = (0..ATTACKERS).map(|_| scene.connect(start)).collect();
    let sockets = scene.sockets();
    scene.survives(FLOOD, || {
        thread::scope(|scope| {
            let ends: Vec<_> = attackers
                .into_iter()
                .map(|mut attacker| {
                    scope.spawn(move || {
                        attacker.send_raw(bytes);
                        frames_to_end(&mut attacker)
                    })
                })
                .collect();
            for end in ends {
                let frames = end.join().expect("it reads to the end");
                let goaway = frames.last().filter(|frame| frame.kind == GOAWAY);
                let goaway = goaway.expect("a GOAWAY comes last");
                assert_eq!(goaway.payload[4..8], code.to_be_bytes());
                assert!(frames.len() <= ANSWERS_MAX, "{} frames", frames.len());
            }
        });
        scene.await_sockets(sockets - ATTACKERS);
    });
    scene
}

/// As [`flood`], for floods that end with ENHANCE_YOUR_CALM.
#[track_caller]
fn is_calmed(start: Start, bytes: &[u8]) {
    flood(start, bytes, ENHANCE_YOUR_CALM).ends_with(&[("ended_flood", ATTACKERS as u64)]);
}

/// As [`is_calmed`], with about this many requests of each attacker refused before: each second allows a few more.
#[track_caller]
fn is_calmed_after(start: Start, bytes: &[u8], refused: RangeInclusive<u64>) {
    let attackers = ATTACKERS as u64;
    let refused = refused.start() * attackers..=refused.end() * attackers;
    flood(start, bytes, ENHANCE_YOUR_CALM).ends_with_about(
        &[("ended_flood", attackers)],
        &[("requests_refused", refused)],
    );
}

/// What `frames` gives for each of the streams 3, 5, 7, and so on.
fn on_each_stream(streams: u32, frames: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (1..=streams).flat_map(|nth| frames(2 * nth + 1)).collect()
}

#[test]
fn rapid_reset_beside_a_link_is_calmed() {
    // CVE-2023-44487, CVE-2019-9514. Each stream is refused before its reset is read.
    let flood = on_each_stream(10_000, |stream| {
        join(&[&request(stream), &reset(stream, 8)])
    });
    is_calmed_after(Start::Linked, &flood, 200..=250);
}

#[test]
fn rapid_reset_of_the_link_ends_with_the_first_reset() {
    let resets = on_each_stream(10_000, |stream| {
        join(&[&request(stream), &reset(stream, 8)])
    });
    flood(Start::Greeted, &resets, 0).ends_with(&[]);
}

#[test]
fn making_the_router_reset_streams_is_calmed() {
    // CVE-2025-8671, "made you reset", in each form that leaves the connection open: malformed requests, and requests
    // beside the link followed by frames that would have us reset them again.
    is_calmed_after(
        Start::Greeted,
        &on_each_stream(10_000, |stream| headers(0, stream, &[])),
        200..=250,
    );
    let provocations: [fn(u32) -> Vec<u8>; 5] = [
        |stream| window_update(stream, 0),
        |stream| window_update(stream, 0x7fff_ffff),
        |stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 1, 0]),
        |stream| data(stream, &[0; 40]),
        |stream| headers(END_STREAM, stream, &[("x", "y")]),
    ];
    for provocation in provocations {
        let flood = on_each_stream(10_000, |stream| {
            join(&[&request(stream), &provocation(stream)])
        });
        // PRIORITY ends it after half as many.
        is_calmed_after(Start::Linked, &flood, 100..=250);
    }
}

#[test]
fn making_the_router_reset_the_link_ends_the_connection() {
    for (provocation, code) in [
        (window_update(1, 0), PROTOCOL_ERROR),
        (window_update(1, 0x7fff_ffff), FLOW_CONTROL_ERROR),
        (headers(0, 1, &[("x", "y")]), PROTOCOL_ERROR),
    ] {
        flood(Start::Linked, &provocation, code).ends_with(&[("ended_http2", ATTACKERS as u64)]);
    }
}

#[test]
fn requests_for_what_does_not_exist_are_calmed() {
    let flood = on_each_stream(10_000, other);
    let scene = Scene::new();
    let mut attacker = scene.connect(Start::Greeted);
    let last = scene.survives(FLOOD, || {
        // Read as they come: then it is the number of requests that ends it, and not that their answers wait.
        for request in flood.chunks(other(3).len()) {
            attacker.send_raw(request);
            let answer = attacker.next_frame().expect("an answer");
            if answer.kind != HEADERS {
                return answer;
            }
        }
        panic!("it is never enough");
    });
    assert_eq!(
        (last.kind, last.payload[7]),
        (GOAWAY, ENHANCE_YOUR_CALM as u8)
    );
    scene.ends_with_about(&[("ended_flood", 1)], &[("requests_refused", 400..=600)]);
}

#[test]
fn streams_beside_the_link_are_refused_and_calmed() {
    is_calmed_after(Start::Linked, &on_each_stream(10_000, request), 200..=250);
}

#[test]
fn a_continuation_flood_is_calmed() {
    // CVE-2024-27316, VU#421644.
    for fragment in [&b""[..], &[0; 100]] {
        for stream in [1, 3] {
            let start = frame(HEADERS, 0, stream, b"");
            let more = frame(CONTINUATION, 0, stream, fragment);
            is_calmed(Start::Linked, &join(&[&start, &more.repeat(20_000)]));
        }
    }
}

#[test]
fn header_lists_that_grow_out_of_few_bytes_are_calmed() {
    let bombs = [
        // CVE-2016-6581: indexed fields, a byte each. One of 4 kB from a table, while there is one; then of the static table.
        [
            &b"\x40\x01x\x7f\xd1\x1e"[..],
            &[b'y'; 4_048],
            &[0xbe; 12_000],
        ]
        .concat(),
        vec![0x82; 16_000],
        // CVE-2026-49975: fields without a value, crumbs of cookies.
        vec![0xa0; 16_000],
    ];
    for bomb in bombs {
        let bomb = join(&[PREFACE, &settings(&[]), &block_frame(0, 1, &bomb)]);
        is_calmed(Start::Fresh, &bomb);
    }
    is_calmed(Start::Linked, &block_frame(END_STREAM, 1, &[0x82; 16_000]));
}

#[test]
fn header_lists_over_the_limit_are_calmed_before_they_are_stored() {
    for bytes in [16_385, 1_000_000] {
        is_calmed(Start::Greeted, &block_frame(0, 1, &vec![0; bytes]));
    }
}

#[test]
fn a_ping_flood_is_calmed() {
    // CVE-2019-9512.
    is_calmed(Start::Linked, &ping(b"12345678").repeat(100_000));
}

#[test]
fn a_settings_flood_is_calmed() {
    // CVE-2019-9515; windows that shrink and grow with each.
    let flood = join(&[&settings(&[(4, 1)]), &settings(&[(4, 0x7fff_ffff)])]).repeat(50_000);
    is_calmed(Start::Linked, &flood);
    is_calmed(Start::Linked, &settings(&[(4, 1); 10_000]));
}

#[test]
fn a_priority_flood_is_calmed() {
    // CVE-2019-9513, over thousands of idle streams.
    let flood = on_each_stream(100_000, |stream| {
        frame(PRIORITY, 0, stream, &[0, 0, 0, 1, 9])
    });
    is_calmed(Start::Linked, &flood);
}

#[test]
fn a_flood_of_empty_or_tiny_data_is_calmed() {
    // CVE-2019-9518, CVE-2019-9511, RUSTSEC-2026-0258.
    is_calmed(Start::Linked, &data(1, b"").repeat(100_000));
    is_calmed(Start::Linked, &data(1, b"x").repeat(100_000));
    is_calmed(
        Start::Linked,
        &frame(DATA, PADDED, 1, &[&[255][..], &[0; 255]].concat()).repeat(3_000),
    );
}

#[test]
fn window_updates_without_end_are_calmed() {
    is_calmed(Start::Linked, &window_update(0, 1).repeat(100_000));
    is_calmed(Start::Linked, &window_update(1, 1).repeat(100_000));
}

#[test]
fn frames_that_mean_nothing_are_calmed() {
    is_calmed(
        Start::Linked,
        &frame(UNKNOWN, 0, 0, &[0; 10]).repeat(100_000),
    );
    is_calmed(Start::Linked, &frame(PING, ACK, 0, &[0; 8]).repeat(100_000));
    is_calmed(Start::Linked, &frame(GOAWAY, 0, 0, &[0; 8]).repeat(100_000));
}

#[test]
fn strangers_are_shown_out_however_much_they_say() {
    let noise = vec![0xff; 2_000_000];
    let http1 = join(&[b"GET / HTTP/1.1\r\n", &b"x: y\r\n".repeat(300_000)]);
    let tls = join(&[
        &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc],
        &noise,
    ]);
    for stranger in [noise, http1, tls] {
        flood(Start::Fresh, &stranger, PROTOCOL_ERROR)
            .ends_with(&[("ended_http2", ATTACKERS as u64)]);
    }
}
