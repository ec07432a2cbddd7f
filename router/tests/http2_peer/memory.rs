//! What hostile peers can make a router hold.

use std::sync::atomic::{AtomicU64, Ordering};

use slim_proto::name::Name;

use crate::peer;
use crate::process::Process;
use crate::raw::{self, Raw};

/// The shard's receive buffers, 8 MiB of which each is touched once, and as much for the allocator's habits; far less than
/// what the attacks ask for.
const SLACK_BYTES: u64 = 16 << 20;

/// Attackers at the same time.
const ATTACKERS: usize = 20;

/// A publish from one link to another gets through.
async fn two_strangers_hear_each_other(process: &Process) {
    // A name of their own: those before them may have gone without the router knowing it yet.
    static PAIRS: AtomicU64 = AtomicU64::new(0);
    let pair = PAIRS.fetch_add(1, Ordering::Relaxed);
    let name = Name::new("org", "ns", &format!("strangers-{pair}"));
    let (mut subscriber, mac) = Raw::link_to(process.address).await;
    subscriber.subscribe(&mac, &name, 1).await;
    let (mut publisher, mac) = Raw::link_to(process.address).await;
    publisher
        .write(&raw::data(&peer::publish(&mac, &name, b"hello")))
        .await;
    assert_eq!(peer::payload(&subscriber.message().await), b"hello");
}

#[tokio::test]
async fn floods_of_every_kind_at_once_take_no_memory() {
    let process = Process::new();
    two_strangers_hear_each_other(&process).await;
    let before = process.peak_memory_bytes();

    let rapid_reset: Vec<u8> = (1..10_000)
        .flat_map(|n| {
            let stream = raw::LINK + 2 * n;
            let request = raw::headers(stream, 0, &raw::open_channel_block());
            [request, raw::reset(stream, raw::CANCEL)].concat()
        })
        .collect();
    let continuation = raw::frame(raw::CONTINUATION, 0, raw::LINK, &[0; 1_000]);
    let floods = [
        rapid_reset,
        raw::ping(0).repeat(100_000),
        raw::settings(&[]).repeat(100_000),
        raw::data(b"").repeat(100_000),
        raw::data(b"\0").repeat(100_000),
        raw::window_update(0, 1).repeat(100_000),
        raw::frame(0xee, 0, 0, &[0; 1_000]).repeat(2_000),
        [
            raw::frame(raw::HEADERS, 0, raw::LINK, b""),
            continuation.repeat(2_000),
        ]
        .concat(),
    ];
    let mut attacks = Vec::new();
    for attacker in 0..ATTACKERS {
        let (raw, _mac) = Raw::link_to(process.address).await;
        attacks.push(tokio::spawn(
            raw.flood(floods[attacker % floods.len()].clone()),
        ));
    }
    two_strangers_hear_each_other(&process).await;
    for attack in attacks {
        assert_eq!(attack.await.unwrap().goaway(), Some(raw::ENHANCE_YOUR_CALM));
    }
    two_strangers_hear_each_other(&process).await;

    let grown = process.peak_memory_bytes() - before;
    assert!(grown < SLACK_BYTES, "{grown} bytes");
}

#[tokio::test]
async fn a_message_takes_memory_as_it_arrives_whatever_length_it_claims() {
    let process = Process::new();
    two_strangers_hear_each_other(&process).await;
    let before = process.peak_memory_bytes();
    let mut claimants = Vec::new();
    for _ in 0..300 {
        let (mut raw, _mac) = Raw::link_to(process.address).await;
        // 4,194,304 bytes, of which 100 come.
        let claim = [&[0, 0x00, 0x40, 0x00, 0x00][..], &[0x1a; 100]].concat();
        raw.write(&raw::data(&claim)).await;
        raw.ping().await;
        claimants.push(raw);
    }
    let grown = process.peak_memory_bytes() - before;
    assert!(grown < SLACK_BYTES, "{grown} bytes for 1.2 GB claimed");
    two_strangers_hear_each_other(&process).await;
}

#[tokio::test]
async fn a_header_block_that_never_ends_holds_what_a_header_list_may_have_and_no_more() {
    let process = Process::new();
    two_strangers_hear_each_other(&process).await;
    let before = process.peak_memory_bytes();
    const HOLDERS: u64 = 300;
    const BLOCK_BYTES: u64 = 16_384;
    let mut holders = Vec::new();
    for _ in 0..HOLDERS {
        let mut raw = Raw::connect_to(process.address).await;
        raw.greet(&[]).await;
        // No PING can prove that it was read: nothing may come between. The last byte is missing.
        let frame = raw::frame(raw::HEADERS, 0, raw::LINK, &[0; BLOCK_BYTES as usize]);
        raw.write(&frame[..frame.len() - 1]).await;
        holders.push(raw);
    }
    two_strangers_hear_each_other(&process).await;
    let grown = process.peak_memory_bytes() - before;
    // A vector may have twice the room of what is in it.
    assert!(
        grown < 2 * HOLDERS * BLOCK_BYTES + SLACK_BYTES,
        "{grown} bytes"
    );
}

#[tokio::test]
async fn connections_that_come_and_go_leave_nothing_behind() {
    let process = Process::new();
    for _ in 0..200 {
        two_strangers_hear_each_other(&process).await;
    }
    let before = process.peak_memory_bytes();
    for _ in 0..1_000 {
        two_strangers_hear_each_other(&process).await;
    }
    let grown = process.peak_memory_bytes() - before;
    assert!(grown < 4 << 20, "{grown} bytes");
}
