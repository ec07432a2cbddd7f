//! The same bytes, cut and padded in every way.

use slim_proto::name::Name;

use crate::client::Client;
use crate::peer;
use crate::raw::{self, Raw};
use crate::world::World;

fn name() -> Name {
    Name::new("org", "ns", "cut")
}

/// A subscriber on the `h2` crate, and a publisher that frames as it is told to.
struct Pair {
    world: World,
    subscriber: Client,
    publisher: Raw,
    message: Vec<u8>,
}

/// Bytes that make a publish some 300 bytes long, all different from their neighbours.
fn payload() -> Vec<u8> {
    (0..120u8).collect()
}

impl Pair {
    async fn new() -> Pair {
        let world = World::new();
        let mut subscriber = Client::connect(&world).await;
        subscriber.subscribe(&name(), 1).await;
        let (publisher, mac) = Raw::link(&world).await;
        Pair {
            world,
            subscriber,
            publisher,
            message: peer::publish(&mac, &name(), &payload()),
        }
    }

    /// The subscriber gets the message `count` times more.
    async fn arrive(&mut self, count: usize) {
        for _ in 0..count {
            assert_eq!(self.subscriber.payload().await, payload());
        }
    }

    /// The subscriber has got the message `count` times, and nothing has been lost on the way.
    async fn arrived(&mut self, count: usize) {
        self.arrive(count).await;
        assert_eq!(self.world.counters().messages_received, count as u64);
        assert_eq!(self.world.counters().messages_delivered, count as u64);
    }
}

#[tokio::test]
async fn a_message_in_two_frames_arrives_whole_wherever_it_is_cut() {
    let mut pair = Pair::new().await;
    let message = pair.message.clone();
    assert!((250..400).contains(&message.len()), "{}", message.len());
    for at in 0..=message.len() {
        let (first, second) = message.split_at(at);
        let frames: Vec<u8> = [first, second]
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .flat_map(raw::data)
            .collect();
        pair.publisher.write(&frames).await;
    }
    pair.arrived(message.len() + 1).await;
}

#[tokio::test]
async fn a_message_in_frames_of_one_byte_arrives_whole() {
    let mut pair = Pair::new().await;
    let frames: Vec<u8> = pair.message.chunks(1).flat_map(raw::data).collect();
    pair.publisher.write(&frames).await;
    pair.arrived(1).await;
}

#[tokio::test]
async fn many_messages_in_one_frame_arrive_whole_and_so_does_one_that_the_frame_cuts() {
    let mut pair = Pair::new().await;
    let messages = pair.message.repeat(1_000);
    // Above 16,384 bytes, so only because the router announced that it takes larger frames.
    let (first, second) = messages.split_at(messages.len() - 100);
    pair.publisher
        .write(&[raw::data(first), raw::data(second)].concat())
        .await;
    pair.arrived(1_000).await;
}

#[tokio::test]
async fn a_frame_arrives_whole_wherever_the_reads_are_cut() {
    let mut pair = Pair::new().await;
    let frame = raw::data(&pair.message);
    for at in 1..frame.len() {
        let (first, second) = frame.split_at(at);
        // The answer to the PING proves that the first part has been read without the second.
        pair.publisher
            .write(&[&raw::ping(at as u64)[..], first].concat())
            .await;
        pair.publisher.expect(raw::PING, raw::ACK).await;
        pair.publisher.write(second).await;
    }
    pair.arrived(frame.len() - 1).await;
}

#[tokio::test]
async fn a_client_that_writes_byte_by_byte_is_served_from_its_preface_on() {
    let world = World::new();
    let mut raw = Raw::connect(&world).await;
    let opening = [
        raw::PREFACE,
        &raw::settings(&[(raw::INITIAL_WINDOW_SIZE, 2_097_152)]),
        &raw::window_update(0, 5_177_345),
        &raw::frame(raw::SETTINGS, raw::ACK, 0, &[]),
        &raw::headers(raw::LINK, 0, &raw::open_channel_block()),
    ]
    .concat();
    for byte in opening.chunks(1) {
        raw.write(byte).await;
        tokio::task::yield_now().await;
    }
    raw.expect(raw::HEADERS, raw::END_HEADERS).await;
    let (dialing, request) = peer::dial("byte-by-byte");
    for byte in raw::data(&request).chunks(1) {
        raw.write(byte).await;
        tokio::task::yield_now().await;
    }
    let reply = raw.message().await;
    let mac = peer::complete(dialing, &reply).unwrap();
    for byte in raw::data(&peer::subscribe(&mac, &name(), 9)).chunks(1) {
        raw.write(byte).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(peer::acknowledged(&raw.message().await), 9);
}

#[tokio::test]
async fn padding_is_dropped_and_its_credit_comes_back() {
    let mut pair = Pair::new().await;
    let message = pair.message.clone();
    // Far more padding than the window of 1,048,576 bytes has room for: it would be used up if padding kept its credit.
    let rounds = 24;
    for _ in 0..rounds {
        let frames: Vec<u8> = (0..=255)
            .flat_map(|padding| raw::padded_data(&message, padding))
            .collect();
        pair.publisher.write(&frames).await;
        // Read in between: a receiver that lags would hold the publisher, and its credit, rightly.
        pair.arrive(256).await;
    }
    let counters = pair.world.counters();
    assert_eq!(counters.messages_delivered, rounds * 256);
    assert_eq!(counters.publishers_held, 0);
}

#[tokio::test]
async fn a_message_cut_by_padding_in_every_place_arrives_whole() {
    let mut pair = Pair::new().await;
    let message = pair.message.clone();
    for at in 1..message.len() {
        let (first, second) = message.split_at(at);
        let frames = [raw::padded_data(first, 255), raw::padded_data(second, 0)].concat();
        pair.publisher.write(&frames).await;
    }
    pair.arrived(message.len() - 1).await;
}

#[tokio::test]
async fn padding_as_long_as_its_frame_ends_the_connection() {
    let world = World::new();
    let (mut raw, _mac) = Raw::link(&world).await;
    raw.write(&raw::frame(
        raw::DATA,
        raw::PADDED,
        raw::LINK,
        &[4, 0, 0, 0],
    ))
    .await;
    assert_eq!(raw.ending().await.goaway(), Some(raw::PROTOCOL_ERROR));
    assert_eq!(world.counters().ended_http2, 1);
}

#[tokio::test]
async fn a_header_block_opens_its_stream_wherever_continuation_cuts_it() {
    let world = World::new();
    let mut raw = Raw::connect(&world).await;
    raw.greet(&[]).await;
    // Another path: each is answered, and the connection goes on to the next.
    let block = raw::request_block("/other", "application/grpc");
    for at in 0..=block.len() {
        let stream = 1 + 2 * at as u32;
        let (first, second) = block.split_at(at);
        let frames = [
            raw::frame(raw::HEADERS, raw::END_STREAM, stream, first),
            raw::frame(raw::CONTINUATION, raw::END_HEADERS, stream, second),
        ];
        raw.write(&frames.concat()).await;
        let answer = raw
            .expect(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM)
            .await;
        assert_eq!(answer.stream, stream);
        assert!(answer.says("grpc-status", "12"), "cut at {at}");
    }
}

#[tokio::test]
async fn a_channel_opens_with_its_header_block_in_nine_frames_padded_and_with_priority() {
    let world = World::new();
    let mut raw = Raw::connect(&world).await;
    raw.greet(&[]).await;
    let block = raw::open_channel_block();
    let mut pieces = block.chunks(block.len().div_ceil(9));
    let first = pieces.next().unwrap();
    // Pad length, priority (RFC 9113 §6.2), fragment, padding.
    let payload = [&[7][..], &[0, 0, 0, 0, 15], first, &[0; 7]].concat();
    raw.write(&raw::frame(
        raw::HEADERS,
        raw::PADDED | raw::PRIORITY_FLAG,
        raw::LINK,
        &payload,
    ))
    .await;
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        let flags = match pieces.peek() {
            Some(_) => 0,
            None => raw::END_HEADERS,
        };
        raw.write(&raw::frame(raw::CONTINUATION, flags, raw::LINK, piece))
            .await;
    }
    raw.expect(raw::HEADERS, raw::END_HEADERS).await;
    raw.negotiate().await;
}

#[tokio::test]
async fn a_frame_inside_a_header_block_ends_the_connection() {
    let world = World::new();
    let mut raw = Raw::connect(&world).await;
    raw.greet(&[]).await;
    let block = raw::open_channel_block();
    raw.write(&[raw::frame(raw::HEADERS, 0, raw::LINK, &block), raw::ping(1)].concat())
        .await;
    assert_eq!(raw.ending().await.goaway(), Some(raw::PROTOCOL_ERROR));
}
