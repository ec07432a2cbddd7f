//! What nothing but a deadline ends: silence, half-done handshakes, windows that stay shut.

use std::time::{Duration, Instant};

use slim_router::limits::{EGRESS_SOFT_BYTES, HANDSHAKE_TIMEOUT, STALL_TIMEOUT};

use crate::common::{Client, Http2, PATIENCE, dialer, name};
use crate::scene::{Bounds, MEGABYTE, Scene};
use crate::talk::Start;
use crate::wire::*;

#[test]
fn whoever_gets_nowhere_is_gone_after_the_handshake_timeout() {
    const OF_EACH_KIND: usize = 150;
    let scene = Scene::new();
    let sockets = scene.sockets();
    let block = block(REQUEST);
    let openings: [Vec<u8>; 6] = [
        // Nothing at all.
        Vec::new(),
        // Half a preface.
        PREFACE[..12].to_vec(),
        // A preface, and no SETTINGS.
        PREFACE.to_vec(),
        // No request, and no acknowledgement of our SETTINGS.
        join(&[PREFACE, &settings(&[])]),
        // Half a header block.
        join(&[PREFACE, &settings(&[]), &frame(HEADERS, 0, 1, &block[..20])]),
        // Another one, of 16,000 bytes without the last.
        join(&[
            PREFACE,
            &settings(&[]),
            &header(16_000, HEADERS, END_HEADERS, 1),
            &[0; 15_999],
        ]),
    ];
    let began = Instant::now();
    // Half a megabyte of header block for each hundred, doubled as a vector grows, and a few KB for each connection.
    let bounds = Bounds {
        memory_bytes: 12 * MEGABYTE,
        processor_time: Duration::from_secs(2),
    };
    let holders = scene.survives(bounds, || {
        let mut holders = Vec::new();
        for opening in &openings {
            for _ in 0..OF_EACH_KIND {
                let mut holder = Http2::connect(scene.address());
                holder.send_raw(opening);
                holders.push(holder);
            }
        }
        // And some who do something all the time: a byte of a preface, or a request that is refused.
        let mut dribbler = Http2::connect(scene.address());
        let mut asker = scene.connect(Start::Greeted);
        for step in 0usize.. {
            // For eight seconds, which is less than it gets.
            if step < 40 {
                dribbler.send_raw(&PREFACE[step.min(20)..][..usize::from(step < 20)]);
                asker.send_raw(&other(2 * step as u32 + 1));
            }
            // What comes back, be it the end, is not looked at: only the clock and what the router holds count.
            dribbler.poll_event(Duration::from_millis(200));
            if scene.sockets() == sockets {
                break;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{} sockets",
                scene.sockets() - sockets
            );
        }
        holders.extend([dribbler, asker]);
        holders
    });
    assert!(began.elapsed() > HANDSHAKE_TIMEOUT);
    scene.ends_with(&[
        ("ended_timeout", holders.len() as u64),
        ("requests_refused", 40),
    ]);
}

#[test]
fn a_shut_window_is_waited_for_until_the_stall_timeout_and_no_longer() {
    const MESSAGES: u64 = 30;
    const HOLDERS: u64 = 10;
    let scene = Scene::new();
    let mut publisher = scene.link();
    let sockets = scene.sockets();
    let mut holders: Vec<Client> = (0..HOLDERS)
        .map(|_| {
            let mut http2 = Http2::connect(scene.address());
            http2.returns_credit = false;
            let mut holder = Client::negotiate(http2, dialer());
            holder.subscribe(&name("group"));
            // Below zero, for the reply and the acknowledgement have used some.
            holder.http2.send_raw(&settings(&[(4, 0)]));
            crate::talk::frames_to_ping(&mut holder.http2);
            holder
        })
        .collect();
    let began = Instant::now();
    // Less than the soft mark waits for each, so nobody is pressed and nobody is held.
    let bounds = Bounds {
        memory_bytes: HOLDERS * EGRESS_SOFT_BYTES as u64,
        processor_time: Duration::from_secs(1),
    };
    scene.survives(bounds, || {
        for _ in 0..MESSAGES {
            publisher.publish_to_all(&name("group"), &[7; 16_000]);
        }
        // Alive in every other respect: they answer, and open the window of the connection, which is not the shut one.
        while scene.sockets() > sockets {
            assert!(
                began.elapsed() < STALL_TIMEOUT + PATIENCE,
                "it is held for ever"
            );
            for holder in &mut holders {
                holder
                    .http2
                    .send_raw(&join(&[&window_update(0, 1), &ping(b"I'm here")]));
                holder.http2.poll_event(Duration::from_millis(100));
            }
        }
    });
    assert!(began.elapsed() > STALL_TIMEOUT);
    scene.ends_with(&[
        ("cut_slow_receiver", HOLDERS),
        ("dropped_slow_receiver", HOLDERS * MESSAGES),
    ]);
}
