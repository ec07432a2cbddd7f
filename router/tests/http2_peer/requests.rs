//! The handshake, and what becomes of requests.

use http::{Method, Request, StatusCode};
use slim_proto::name::Name;

use crate::client::{Client, Http2, open_channel, usual};
use crate::raw::{self, Raw};
use crate::world::{Bystanders, World};

#[tokio::test]
async fn the_router_greets_first_and_acknowledges_settings() {
    let world = World::new();
    let mut raw = Raw::connect(&world).await;
    let settings = raw.frame().await.expect("a frame before we say a word");
    assert_eq!(
        (settings.kind, settings.flags, settings.stream),
        (raw::SETTINGS, 0, 0)
    );
    let announced: Vec<(u16, u32)> = settings
        .payload
        .chunks_exact(6)
        .map(|setting| {
            let (id, value) = setting.split_at(2);
            (
                u16::from_be_bytes(id.try_into().unwrap()),
                u32::from_be_bytes(value.try_into().unwrap()),
            )
        })
        .collect();
    assert_eq!(
        announced,
        [
            (raw::HEADER_TABLE_SIZE, 0),
            (raw::MAX_CONCURRENT_STREAMS, 1),
            (raw::INITIAL_WINDOW_SIZE, 1_048_576),
            (raw::MAX_FRAME_SIZE, 1_048_576),
            (raw::MAX_HEADER_LIST_SIZE, 16_384),
        ]
    );
    let update = raw.frame().await.expect("the window of the connection");
    assert_eq!((update.kind, update.stream), (raw::WINDOW_UPDATE, 0));
    assert_eq!(65_535 + update.number(0), 1_048_576);

    raw.write(
        &[
            raw::PREFACE,
            &raw::settings(&[(0xabcd, 7), (raw::INITIAL_WINDOW_SIZE, 1)]),
        ]
        .concat(),
    )
    .await;
    let ack = raw.expect(raw::SETTINGS, raw::ACK).await;
    assert!(ack.payload.is_empty());
}

#[tokio::test]
async fn response_headers_come_before_any_request_message() {
    let world = World::new();
    let mut http2 = Http2::connect(&world, &usual()).await;
    let (response, _sender) = http2.request(open_channel()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(world.counters().links_opened, 0);
}

#[tokio::test]
async fn a_client_that_waits_for_nothing_is_served_all_the_same() {
    let world = World::new();
    let mut raw = Raw::connect(&world).await;
    let (dialing, request) = crate::peer::dial("hasty");
    let everything = [
        raw::PREFACE,
        &raw::settings(&[]),
        &raw::headers(raw::LINK, 0, &raw::open_channel_block()),
        &raw::data(&request),
    ];
    raw.write(&everything.concat()).await;
    let reply = raw.message().await;
    crate::peer::complete(dialing, &reply).unwrap();
    let head = raw.expect(raw::HEADERS, raw::END_HEADERS).await;
    assert_eq!(head.payload.first(), Some(&0x88), ":status 200");
}

#[tokio::test]
async fn a_ping_is_answered_with_its_bytes_before_and_during_a_link() {
    let world = World::new();
    let mut http2 = Http2::connect(&world, &usual()).await;
    http2.ping().await;
    let mut client = http2.open("a-link").await;
    client.http2.ping().await;

    let (mut raw, _mac) = Raw::link(&world).await;
    raw.write(&raw::ping(0x0123_4567_89ab_cdef)).await;
    let answer = raw.expect(raw::PING, raw::ACK).await;
    assert_eq!(answer.payload, 0x0123_4567_89ab_cdef_u64.to_be_bytes());
}

#[tokio::test]
async fn requests_that_are_not_ours_are_refused_and_the_connection_still_opens_a_link() {
    let world = World::new();
    let mut http2 = Http2::connect(&world, &usual()).await;
    let with = |name: &'static str, value: &'static str| {
        let mut request = open_channel();
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let at = |path: &str| {
        let mut request = open_channel();
        *request.uri_mut() = format!("http://router{path}").parse().unwrap();
        request
    };
    let get = Request::get("http://router/").body(()).unwrap();
    let head = {
        let mut request = open_channel();
        *request.method_mut() = Method::HEAD;
        request
    };
    let refusals = [
        (
            with("content-type", "application/json"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            None,
        ),
        (get, StatusCode::METHOD_NOT_ALLOWED, None),
        (head, StatusCode::METHOD_NOT_ALLOWED, None),
        (at("/"), StatusCode::OK, Some("12")),
        (
            at("/dataplane.proto.v1.DataPlaneService/Other"),
            StatusCode::OK,
            Some("12"),
        ),
        (with("grpc-encoding", "gzip"), StatusCode::OK, Some("12")),
    ];
    let count = refusals.len() as u64;
    for (request, status, grpc_status) in refusals {
        let shown = format!("{request:?}");
        let (response, _sender) = http2.request(request).await.expect(&shown);
        assert_eq!(response.status(), status, "{shown}");
        let answered = response
            .headers()
            .get("grpc-status")
            .map(|value| value.to_str().unwrap());
        assert_eq!(answered, grpc_status, "{shown}");
        assert!(response.body().is_end_stream(), "{shown}");
    }
    assert_eq!(world.counters().requests_refused, count);

    let mut client = http2.open("after-refusals").await;
    client.subscribe(&Name::new("org", "ns", "late"), 1).await;
}

#[tokio::test]
async fn grpc_content_types_and_identity_encoding_open_a_link() {
    let world = World::new();
    for (name, value) in [
        ("content-type", "application/grpc+proto"),
        ("grpc-encoding", "identity"),
        ("grpc-accept-encoding", "gzip,identity"),
        ("grpc-timeout", "5S"),
    ] {
        let mut http2 = Http2::connect(&world, &usual()).await;
        let mut request = open_channel();
        request.headers_mut().insert(name, value.parse().unwrap());
        let (response, _sender) = http2.request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{name}: {value}");
        assert!(
            !response.headers().contains_key("grpc-status"),
            "{name}: {value}"
        );
    }
}

#[tokio::test]
async fn a_second_channel_is_refused_and_the_first_lives_on() {
    let world = World::new();
    let mut bystanders = Bystanders::new(&world).await;
    let name = Name::new("org", "ns", "first");
    let (mut raw, mac) = Raw::link(&world).await;
    raw.subscribe(&mac, &name, 1).await;
    let mut publisher = Client::connect(&world).await;

    for stream in [3, 5, 7] {
        raw.write(&raw::headers(stream, 0, &raw::open_channel_block()))
            .await;
        let refused = raw.expect(raw::RST_STREAM, 0).await;
        assert_eq!(
            (refused.stream, refused.number(0)),
            (stream, raw::REFUSED_STREAM)
        );
        // DATA that crossed our refusal is no error.
        raw.write(&raw::frame(raw::DATA, 0, stream, b"too late"))
            .await;

        publisher.publish(&name, b"still here").await;
        assert_eq!(crate::peer::payload(&raw.message().await), b"still here");
        bystanders.hear_each_other().await;
    }
    assert_eq!(world.counters().requests_refused, 3);
}

#[tokio::test]
async fn a_malformed_request_is_reset_and_the_next_one_opens_a_link() {
    let world = World::new();
    let mut raw = Raw::connect(&world).await;
    raw.greet(&[]).await;
    // No pseudo-header at all, then an upper-case name: malformed, RFC 9113 §8.1.1.
    raw.write(&raw::headers(1, 0, b"\x00\x01a\x01b")).await;
    let reset = raw.expect(raw::RST_STREAM, 0).await;
    assert_eq!((reset.stream, reset.number(0)), (1, raw::PROTOCOL_ERROR));
    let block = [&raw::open_channel_block()[..], b"\x00\x01A\x01b"].concat();
    raw.write(&raw::headers(3, 0, &block)).await;
    let reset = raw.expect(raw::RST_STREAM, 0).await;
    assert_eq!((reset.stream, reset.number(0)), (3, raw::PROTOCOL_ERROR));

    raw.write(&raw::headers(5, 0, &raw::open_channel_block()))
        .await;
    assert_eq!(raw.expect(raw::HEADERS, raw::END_HEADERS).await.stream, 5);
}
