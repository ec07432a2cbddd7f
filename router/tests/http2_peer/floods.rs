//! Peers that mean harm (RFC 9113 §10.5 and the CVEs that taught it). Each is stopped after a few kilobytes, with
//! ENHANCE_YOUR_CALM, and nobody else notices.

use slim_proto::name::Name;

use crate::peer;
use crate::raw::{self, Ending, Raw};
use crate::world::{Bystanders, World};

/// Frames that the router may answer before it has had enough: those that allowances and one tick of theirs let pass.
const ANSWERS_MAX: usize = 600;

/// Floods a router from a link, while bystanders talk, and judges what all of them see.
async fn flooded(bytes: Vec<u8>) -> Ending {
    let world = World::new();
    let (raw, _mac) = Raw::link(&world).await;
    flooded_by(&world, raw, bytes).await
}

async fn flooded_by(world: &World, raw: Raw, bytes: Vec<u8>) -> Ending {
    let mut bystanders = Bystanders::new(world).await;
    bystanders.hear_each_other().await;
    let flood = tokio::spawn(raw.flood(bytes));
    while !flood.is_finished() {
        bystanders.hear_each_other().await;
    }
    let ending = flood.await.unwrap();
    bystanders.hear_each_other().await;
    assert!(
        ending.frames.len() <= ANSWERS_MAX,
        "{} frames",
        ending.frames.len()
    );
    let counters = world
        .until("only the bystanders are left", |counters| {
            counters.connections_open == 2
        })
        .await;
    let calmed = ending.goaway() == Some(raw::ENHANCE_YOUR_CALM);
    assert_eq!(
        // Answers that are asked for faster than they are read end it as well.
        (
            counters.ended_flood + counters.ended_control_flood,
            counters.ended_http2
        ),
        (u64::from(calmed), u64::from(!calmed))
    );
    ending
}

#[tokio::test]
async fn rapid_reset_is_stopped() {
    // CVE-2023-44487: a request and its reset, as fast as they can be written.
    let flood: Vec<u8> = (1..10_000)
        .flat_map(|n| {
            let stream = raw::LINK + 2 * n;
            let request = raw::headers(stream, 0, &raw::open_channel_block());
            [request, raw::reset(stream, raw::CANCEL)].concat()
        })
        .collect();
    let ending = flooded(flood).await;
    assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn rapid_reset_of_the_link_itself_ends_the_connection() {
    let world = World::new();
    let mut raw = Raw::connect(&world).await;
    raw.greet(&[]).await;
    let flood: Vec<u8> = (0..10_000)
        .flat_map(|n| {
            let stream = 1 + 2 * n;
            let request = raw::headers(stream, 0, &raw::open_channel_block());
            [request, raw::reset(stream, raw::CANCEL)].concat()
        })
        .collect();
    let ending = raw.flood(flood).await;
    assert!(ending.goaway().is_some());
    assert!(
        ending.count(raw::HEADERS, raw::END_HEADERS) <= 1,
        "one channel was opened"
    );
    Bystanders::new(&world).await.hear_each_other().await;
}

#[tokio::test]
async fn requests_that_are_all_refused_are_stopped() {
    let world = World::new();
    let mut raw = Raw::connect(&world).await;
    raw.greet(&[]).await;
    let block = raw::request_block("/nothing/here", "application/grpc");
    let flood: Vec<u8> = (0..10_000)
        .flat_map(|n| raw::headers(1 + 2 * n, raw::END_STREAM, &block))
        .collect();
    let ending = flooded_by(&world, raw, flood).await;
    assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn making_the_router_reset_streams_is_stopped() {
    // CVE-2025-8671 in the forms that a stream of ours allows: requests that are malformed, or one too many.
    let flood: Vec<u8> = (1..10_000)
        .flat_map(|n| raw::headers(raw::LINK + 2 * n, raw::END_STREAM, b"\x00\x01a\x01b"))
        .collect();
    let ending = flooded(flood).await;
    assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
    assert!(ending.count(raw::RST_STREAM, 0) <= 210);
}

#[tokio::test]
async fn window_updates_that_break_the_rules_end_the_connection() {
    for (stream, increment, code) in [
        (raw::LINK, 0, raw::PROTOCOL_ERROR),
        (0, 0, raw::PROTOCOL_ERROR),
        (raw::LINK, 0x7fff_ffff, raw::FLOW_CONTROL_ERROR),
        (0, 0x7fff_ffff, raw::FLOW_CONTROL_ERROR),
        (9, 1, raw::PROTOCOL_ERROR),
    ] {
        let ending = flooded(raw::window_update(stream, increment)).await;
        assert_eq!(ending.goaway(), Some(code), "{stream} {increment}");
    }
}

#[tokio::test]
async fn a_ping_flood_is_stopped() {
    let ending = flooded(raw::ping(1).repeat(100_000)).await;
    assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
    assert!(ending.count(raw::PING, raw::ACK) <= 110);
}

#[tokio::test]
async fn a_settings_flood_is_stopped() {
    let ending = flooded(raw::settings(&[]).repeat(100_000)).await;
    assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
    assert!(ending.count(raw::SETTINGS, raw::ACK) <= 25);

    // And one frame of many settings.
    let ending = flooded(raw::settings(&[(raw::INITIAL_WINDOW_SIZE, 1); 2_000])).await;
    assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn a_continuation_flood_is_stopped() {
    // VU#421644. Trailers here; the same holds for the head of a request.
    for kind_of_block in [raw::LINK, raw::LINK + 2] {
        for fragment in [&b""[..], &[0; 100]] {
            let start = raw::frame(raw::HEADERS, 0, kind_of_block, b"");
            let more = raw::frame(raw::CONTINUATION, 0, kind_of_block, fragment);
            let ending = flooded([start, more.repeat(100_000)].concat()).await;
            assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
        }
    }
}

#[tokio::test]
async fn a_header_list_that_grows_out_of_few_bytes_is_refused() {
    // CVE-2016-6581: one byte for each `:method: GET` of the static table, 42 bytes of list each.
    let block = vec![0x82; 16_000];
    let ending = flooded(raw::headers(raw::LINK + 2, raw::END_STREAM, &block)).await;
    assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn a_flood_of_empty_data_is_stopped() {
    let ending = flooded(raw::data(b"").repeat(100_000)).await;
    assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
    // Padding does not make it less empty.
    let ending = flooded(raw::padded_data(b"", 255).repeat(3_000)).await;
    assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn a_message_dribbled_in_frames_of_one_byte_is_stopped() {
    let prefix = [0, 0, 0x10, 0, 0];
    let dribble = raw::data(&[0]).repeat(100_000);
    let ending = flooded([raw::data(&prefix), dribble].concat()).await;
    assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn floods_of_frames_that_mean_nothing_are_stopped() {
    for frame in [
        raw::frame(raw::PRIORITY, 0, raw::LINK, &[0, 0, 0, 0, 1]),
        raw::window_update(0, 1),
        raw::window_update(raw::LINK, 1),
        raw::frame(0xee, 0, 0, b"unknown"),
        raw::frame(raw::PING, raw::ACK, 0, &[0; 8]),
        raw::goaway(raw::NO_ERROR),
    ] {
        let ending = flooded(frame.repeat(100_000)).await;
        assert_eq!(ending.goaway(), Some(raw::ENHANCE_YOUR_CALM), "{frame:?}");
    }
}

#[tokio::test]
async fn a_client_that_asks_for_answers_and_reads_none_is_stopped() {
    // NFLX-2019-002. Data between the pings give their allowance back, so it is what waits unread that must end this. Over
    // the Unix socket, for its buffers are small.
    let world = World::with_unix_socket("unread");
    let mut bystanders = Bystanders::new(&world).await;
    let (mut raw, mac) = Raw::connect_unix(&world).await.linked(&[]).await;
    let nobody = Name::new("org", "ns", "nobody");
    let message = peer::publish(&mac, &nobody, &vec![0; 4_000_000]);
    let mut asked = 0u64;
    'asking: loop {
        for chunk in message.chunks(32 * 1_024) {
            let mut frames = Vec::new();
            for piece in chunk.chunks(32) {
                frames.extend(raw::data(piece));
                frames.extend(raw::ping(asked));
                asked += 1;
            }
            // The router closes in the end, though it cannot say so.
            if raw.try_write(&frames).await.is_err() {
                break 'asking;
            }
            bystanders.hear_each_other().await;
        }
    }
    let counters = world
        .until("it is gone", |counters| counters.connections_open == 2)
        .await;
    assert_eq!(counters.ended_control_flood + counters.ended_flood, 1);
    bystanders.hear_each_other().await;
}

#[tokio::test]
async fn a_client_that_reads_may_ping_with_every_frame_of_data() {
    // The same traffic is nobody's harm if the answers are read.
    let world = World::new();
    let (mut raw, mac) = Raw::link(&world).await;
    let nobody = Name::new("org", "ns", "nobody");
    let message = raw::data(&peer::publish(&mac, &nobody, &[0; 100]));
    for number in 0..2_000 {
        raw.write(&[&message[..], &raw::ping(number)].concat())
            .await;
        raw.expect(raw::PING, raw::ACK).await;
    }
    assert_eq!(world.counters().dropped_no_route, 2_000);
}

#[tokio::test]
async fn strangers_are_shown_out_and_concern_nobody() {
    let world = World::new();
    let mut bystanders = Bystanders::new(&world).await;
    let strangers: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nhost: router\r\n\r\n",
        // A TLS ClientHello's first bytes.
        &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03],
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r ",
        // A preface, and no SETTINGS after it.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x08\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    ];
    for stranger in strangers {
        let mut raw = Raw::connect(&world).await;
        raw.write(stranger).await;
        raw.ending().await;
        bystanders.hear_each_other().await;
    }
    assert_eq!(world.counters().ended_http2, strangers.len() as u64);
}
