//! Attacks, each by the name it was published under. "Bounded" means: refused after a named number of frames, with
//! ENHANCE_YOUR_CALM; and the tests beside it show who must not be refused.

use super::*;

fn flood_of(error: &ConnectionError) -> Option<Flood> {
    assert_eq!(error.code(), ErrorCode::ENHANCE_YOUR_CALM, "{error}");
    match error {
        ConnectionError::Flood { flood, .. } => Some(*flood),
        _ => None,
    }
}

#[track_caller]
fn assert_bounded(server: &mut Server, input: &[u8], flood: Flood, times_max: usize) {
    let (_, error) = server.refuses_flood_of(input, times_max);
    assert_eq!(flood_of(&error), Some(flood));
}

#[test]
fn useless_frames_are_bounded_each_by_its_kind() {
    for (input, flood) in [
        (frame(PING, 0, 0, &[0; 8]), Flood::Pings),
        (frame(PING, ACK, 0, &[0; 8]), Flood::Ignored),
        (settings(&[]), Flood::Settings),
        (data(1, b""), Flood::EmptyData),
        (frame(DATA, PADDED, 1, &[1, 0]), Flood::EmptyData),
        (data(1, b"x"), Flood::TinyData),
        (window_update(1, 1), Flood::WindowUpdates),
        (window_update(0, 1), Flood::WindowUpdates),
        (frame(PRIORITY, 0, 1, &[0; 5]), Flood::Priorities),
        (frame(0xfa, 0, 0, b""), Flood::Ignored),
        (frame(GOAWAY, 0, 0, &[0; 8]), Flood::Ignored),
    ] {
        assert_bounded(&mut Server::linked(), &input, flood, 1_001);
    }
}

#[test]
fn rapid_reset_is_bounded() {
    let mut server = Server::linked();
    let pairs = (0..1_000).map(|nth| [request(3 + 2 * nth), reset(3 + 2 * nth, 8)].concat());
    let errors: Vec<_> = pairs
        .map_while(|pair| {
            server
                .try_take(&pair)
                .err()
                .map_or(Some(None), |error| Some(Some(error)))
        })
        .collect();
    let first = errors.iter().position(Option::is_some).expect("bounded");
    assert_eq!(first, 100);
    assert_eq!(
        flood_of(errors[first].as_ref().unwrap()),
        Some(Flood::ResetsByPeer)
    );
    assert_eq!(server.connection.heap_bytes(), 0);
}

#[test]
fn a_peer_cannot_make_us_reset_without_end() {
    // "Made you reset": each variant either ends the connection at once or is counted.
    let mut server = Server::linked();
    for nth in 0..1_000 {
        if let Err(error) = server.try_take(&request_with(3 + 2 * nth, &[("UPPER", "")])) {
            assert_eq!((nth, flood_of(&error)), (200, Some(Flood::ResetsByUs)));
            return;
        }
    }
    panic!("not bounded");
}

#[test]
fn streams_beyond_the_announced_number_are_refused_and_counted() {
    let mut server = Server::linked();
    let streams: Vec<u8> = (0..103).flat_map(|nth| request(3 + 2 * nth)).collect();
    server.takes(&streams);
    assert_eq!(server.connection.take_refused_streams(), 100);
    assert_eq!(server.connection.take_refused_streams(), 0);
    assert!(
        server
            .said()
            .iter()
            .all(|(kind, _, _, code)| *kind == RST_STREAM && code[3] == 7)
    );
}

#[test]
fn requests_answered_as_fast_as_they_come_are_bounded_too() {
    let mut server = Server::linked();
    for nth in 0..1_000 {
        let stream = 3 + 2 * nth;
        if let Err(error) = server.try_take(&headers(END_STREAM, stream, REQUEST_FIELDS)) {
            assert_eq!(flood_of(&error), Some(Flood::Requests));
            return;
        }
        server
            .connection
            .respond_trailers_only(id(stream), 12, "", &mut server.out);
    }
    panic!("not bounded");
}

#[test]
fn continuation_frames_are_bounded_in_number_and_bytes() {
    let mut server = Server::linked();
    server.takes(&frame(HEADERS, 0, 3, &[]));
    let (times, error) = server.refuses_flood_of(&frame(CONTINUATION, 0, 3, b""), 100);
    assert_eq!((times, flood_of(&error)), (8, None));

    let mut server = Server::linked();
    server.takes(&frame(HEADERS, 0, 3, &[0; 10_000]));
    // The frame header alone decides.
    let error = server.refuses(&frame(CONTINUATION, 0, 3, &[0; 6_385])[..9]);
    assert_eq!(
        error,
        ConnectionError::HeaderBlockTooLarge { limit: 16_384 }
    );
    assert_eq!(error.code(), ErrorCode::ENHANCE_YOUR_CALM);
    assert_eq!(server.connection.heap_bytes(), 0);
}

#[test]
fn a_header_block_that_trickles_in_holds_what_it_brought() {
    let mut server = Server::linked();
    server.takes(&frame(HEADERS, 0, 3, &[0; 16_000])[..20]);
    assert!(
        server.connection.heap_bytes() < 200,
        "{}",
        server.connection.heap_bytes()
    );
}

#[test]
fn hpack_bombs_are_refused_by_the_size_of_the_list_not_of_the_block() {
    // CVE-2016-6581: one entry of 4 KiB, then a byte for each repetition. Sent before our SETTINGS are acknowledged.
    let mut server = Server::new(ANNOUNCED);
    let mut bomb = block(REQUEST_FIELDS);
    bomb.extend_from_slice(b"\x40\x01x\x7f\xd1\x1e");
    bomb.extend_from_slice(&[b'y'; 0x7f + 0x51 + (0x1e << 7)]);
    bomb.extend_from_slice(&[0xbe; 1_000]);
    let error = server.refuses(
        &[
            PREFACE,
            &settings(&[]),
            &frame(HEADERS, END_HEADERS, 1, &bomb),
        ]
        .concat(),
    );
    assert_eq!(error, ConnectionError::HeaderListTooLarge { limit: 16_384 });

    // CVE-2026-49975: empty fields, in trailers as well.
    let crumbs = [0xa0_u8; 129];
    let error = Server::linked().refuses(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &crumbs));
    assert_eq!(error, ConnectionError::TooManyFields { limit: 128 });
    let small = Settings {
        max_header_list_bytes: 4_000,
        ..ANNOUNCED
    };
    let error = Server::greeted_with(small).refuses(&frame(HEADERS, END_HEADERS, 1, &crumbs));
    assert_eq!(error, ConnectionError::HeaderListTooLarge { limit: 4_000 });
}

#[test]
fn a_bomb_on_a_stream_that_is_over_is_a_bomb() {
    let mut server = Server::linked();
    server
        .connection
        .reset(id(1), ErrorCode::CANCEL, &mut server.out);
    let error = server.refuses(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xa0; 129]));
    assert_eq!(error.code(), ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn answers_are_bounded_even_for_one_who_earns_them() {
    // Each ping rides with a useful frame, so the ping allowance never ends; what we say in one tick does.
    let mut server = Server::linked();
    let input = [data(1, &[0; 40]), frame(PING, 0, 0, &[0; 8])].concat();
    let mut said_bytes = 0;
    for _ in 0..100_000 {
        let result = server.try_take(&input);
        server.connection.release(40, &mut server.out);
        said_bytes += server.out.len();
        server.out.clear();
        if let Err(error) = result {
            assert_eq!(
                error,
                ConnectionError::TooManyAnswers {
                    limit: CONTROL_BYTES_PER_TICK_MAX
                }
            );
            assert!(said_bytes < 2 * CONTROL_BYTES_PER_TICK_MAX as usize);
            return;
        }
    }
    panic!("not bounded");
}

#[test]
fn data_in_flight_on_streams_that_we_ended_is_not_held_against_the_peer() {
    // Calls of an unknown method, each with a body that crosses our answer.
    let mut server = Server::linked();
    for nth in 0..100 {
        let stream = 3 + 2 * nth;
        server.takes(&request(stream));
        server
            .connection
            .respond_trailers_only(id(stream), 12, "", &mut server.out);
        server.takes(
            &[
                data(stream, &[1; 200]),
                frame(DATA, END_STREAM, stream, b""),
            ]
            .concat(),
        );
    }
}

#[test]
fn a_client_that_lives_for_a_day_and_pings_every_second_is_never_cut() {
    let mut server = Server::linked();
    for _ in 0..86_400 {
        server.takes(&[frame(PING, 0, 0, &[0; 8]), window_update(0, 1)].concat());
        server.out.clear();
        server.connection.tick();
    }
}

#[test]
fn a_client_that_probes_the_bandwidth_with_every_message_is_never_cut() {
    let mut server = Server::linked();
    for nth in 0..1_000_000_u32 {
        server.takes(&[data(1, &[0; 200]), frame(PING, 0, 0, &[0; 8])].concat());
        server.connection.release(200, &mut server.out);
        server.out.clear();
        server.seen.clear();
        if nth % 20_000 == 0 {
            server.connection.tick();
        }
    }
}

#[test]
fn a_client_that_subscribes_sixteen_thousand_times_at_once_is_never_cut() {
    let mut server = Server::linked();
    for _ in 0..16_000 {
        server.takes(&data(1, &[0; 60]));
        server.connection.release(60, &mut server.out);
    }
}

#[test]
fn a_client_that_sends_prefix_and_message_apart_is_never_cut() {
    let mut server = Server::linked();
    for _ in 0..100_000 {
        server.takes(&[data(1, &[0; 5]), data(1, &[0; 32])].concat());
        server.connection.release(37, &mut server.out);
        server.seen.clear();
    }
}

#[test]
fn a_message_cut_into_frames_of_one_byte_arrives() {
    let mut server = Server::linked();
    let message: Vec<u8> = (0..=255).collect();
    server.takes(
        &message
            .iter()
            .flat_map(|byte| data(1, &[*byte]))
            .collect::<Vec<u8>>(),
    );
    assert_eq!(
        server.seen,
        [Seen::Data {
            stream: 1,
            bytes: message,
            end_stream: false
        }]
    );
}
