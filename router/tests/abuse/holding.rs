//! What holds on to something of the router's: windows opened byte by byte, deaf and vanished receivers, broken connections.

use std::time::Duration;

use slim_router::limits::EGRESS_SOFT_BYTES;

use crate::common::{Client, Http2, dialer, name};
use crate::scene::{Bounds, MEGABYTE, Scene};
use crate::wire::*;

#[test]
fn a_window_opened_byte_by_byte_costs_a_frame_each_time() {
    // CVE-2019-9511, data dribble.
    const UPDATES: usize = 20_000;
    let scene = Scene::new();
    let mut publisher = scene.link();
    let mut http2 = Http2::connect(scene.address());
    http2.returns_credit = false;
    let mut dribbler = Client::negotiate(http2, dialer());
    dribbler.subscribe(&name("group"));
    dribbler.http2.send_raw(&settings(&[(4, 0)]));
    let used: usize = data_bytes(&dribbler.http2);
    dribbler.http2.send_raw(&window_update(1, used as u32));
    let bounds = Bounds {
        memory_bytes: 2 * MEGABYTE,
        processor_time: Duration::from_micros(50) * UPDATES as u32,
    };
    scene.survives(bounds, || {
        publisher.publish(&name("group"), &[7; UPDATES]);
        publisher.subscribe(&name("behind it"));
        for _ in 0..UPDATES / 500 {
            dribbler.http2.send_raw(&window_update(1, 1).repeat(500));
            let goal = data_bytes(&dribbler.http2) + 500;
            while data_bytes(&dribbler.http2) < goal {
                dribbler.http2.next_frame().expect("a frame for each");
            }
        }
    });
    drop(dribbler);
    // The message has a head, so its last bytes are still waiting.
    scene.ends_with_about(&[], &[("dropped_receiver_left", 0..=1)]);
}

/// Payload of the DATA frames so far.
fn data_bytes(http2: &Http2) -> usize {
    let bytes = http2.seen.iter().map(|seen| match seen {
        (DATA, .., bytes) => *bytes,
        _ => 0,
    });
    bytes.sum()
}

#[test]
fn receivers_that_never_read_hold_what_the_soft_mark_says() {
    const RECEIVERS: u64 = 20;
    const MESSAGE_BYTES: u64 = 16_000;
    const MESSAGES: u64 = 100;
    let scene = Scene::new();
    let mut publisher = scene.link();
    let deaf: Vec<Client> = (0..RECEIVERS)
        .map(|_| {
            let mut http2 = Http2::connect(scene.address());
            http2.returns_credit = false;
            http2.stream_window_bytes = 4_096;
            let mut client = Client::negotiate(http2, dialer());
            client.subscribe(&name("group"));
            client
        })
        .collect();
    let sockets = scene.sockets();
    // For each its soft mark and one message; what the publisher may send meanwhile; and again as much for the allocator.
    let held_bytes = RECEIVERS * (EGRESS_SOFT_BYTES as u64 + MESSAGE_BYTES) + MEGABYTE;
    let bounds = Bounds {
        memory_bytes: 2 * held_bytes,
        processor_time: Duration::from_secs(4),
    };
    scene.survives(bounds, || {
        for _ in 0..MESSAGES {
            publisher.publish_to_all(&name("group"), &[7; MESSAGE_BYTES as usize]);
        }
        publisher.subscribe(&name("behind it"));
        scene.await_sockets(sockets - RECEIVERS as usize);
    });
    drop(deaf);
    // The first were put into egresses, up to the mark; the others found nobody left.
    let waited = EGRESS_SOFT_BYTES as u64 / (MESSAGE_BYTES + 1_000)
        ..=EGRESS_SOFT_BYTES as u64 / MESSAGE_BYTES + 2;
    let waited = waited.start() * RECEIVERS..=waited.end() * RECEIVERS;
    scene.ends_with_about(
        &[("cut_slow_receiver", RECEIVERS)],
        &[
            ("dropped_slow_receiver", waited),
            ("dropped_no_route", 1..=MESSAGES),
        ],
    );
}

#[test]
fn connections_that_break_anywhere_in_a_frame_leave_nothing_behind() {
    const ROUNDS: usize = 10;
    let scene = Scene::new();
    let sockets = scene.sockets();
    // The preface, SETTINGS, a request with its block in two frames, and the beginning of a message.
    let block = block(REQUEST);
    let (first, second) = block.split_at(50);
    let opening = join(&[
        PREFACE,
        &settings(&[(4, 100_000)]),
        &settings_ack(),
        &frame(HEADERS, 0, 1, first),
        &frame(CONTINUATION, END_HEADERS, 1, second),
        &data(1, &[0, 0, 0x20, 0, 0, 1, 2, 3]),
    ]);
    let cuts: Vec<usize> = (0..=opening.len()).step_by(7).collect();
    let bounds = Bounds {
        memory_bytes: 2 * MEGABYTE,
        processor_time: Duration::from_millis(2) * (2 * ROUNDS * cuts.len()) as u32,
    };
    scene.survives(bounds, || {
        for _ in 0..ROUNDS {
            for cut in &cuts {
                let [mut reset, mut closed] = [(); 2].map(|()| Http2::connect(scene.address()));
                reset.send_raw(&opening[..*cut]);
                reset.reset();
                closed.send_raw(&opening[..*cut]);
                drop(closed);
            }
        }
        scene.await_sockets(sockets);
    });
    scene.ends_with(&[]);
}

#[test]
fn receivers_that_vanish_while_they_are_sent_to_cost_nobody_anything() {
    const ROUNDS: usize = 5;
    const RECEIVERS: usize = 10;
    let scene = Scene::new();
    let mut publisher = scene.link();
    let sockets = scene.sockets();
    // Negotiations included, which cost an unoptimised router some milliseconds each.
    let bounds = Bounds {
        memory_bytes: 32 * MEGABYTE,
        processor_time: Duration::from_millis(100) * (ROUNDS * RECEIVERS) as u32,
    };
    scene.survives(bounds, || {
        for _ in 0..ROUNDS {
            let mut receivers: Vec<Client> = (0..RECEIVERS).map(|_| scene.link()).collect();
            for receiver in &mut receivers {
                receiver.subscribe(&name("group"));
            }
            // More than a socket takes at once, so that a send is under way when its receiver goes.
            for _ in 0..20 {
                publisher.publish_to_all(&name("group"), &[7; 100_000]);
                if let Some(mut receiver) = receivers.pop() {
                    receiver.next_publication();
                    match receivers.len() % 2 {
                        0 => receiver.http2.reset(),
                        _ => drop(receiver),
                    }
                }
            }
            publisher.subscribe(&name("behind it"));
            scene.await_sockets(sockets);
        }
    });
    scene.ends_with_about(
        &[],
        &[
            ("dropped_receiver_left", 0..=u64::MAX),
            ("dropped_no_route", 0..=u64::MAX),
        ],
    );
}
