//! Windows, both ways: RFC 9113 §5.2 and §6.9.

use super::*;

fn with_window(initial_window_bytes: u32) -> Settings {
    Settings {
        initial_window_bytes,
        ..ANNOUNCED
    }
}

#[test]
fn nothing_is_returned_before_half_a_window_is_released_then_both_windows_at_once() {
    let mut server = Server::linked_with(with_window(100_000));
    server.takes(&[data(1, &[0; 30_000]), data(1, &[0; 30_000])].concat());
    assert_eq!(server.flow_bytes, 60_000);
    server.connection.release(49_999, &mut server.out);
    assert!(server.out.is_empty());
    server.connection.release(1, &mut server.out);
    assert_eq!(
        server.out,
        [window_update(0, 50_000), window_update(1, 50_000)].concat()
    );
}

#[test]
fn a_peer_that_is_held_back_cannot_send_past_its_window() {
    let mut server = Server::linked_with(with_window(70_000));
    server.takes(
        &[
            data(1, &[0; 30_000]),
            data(1, &[0; 30_000]),
            data(1, &[0; 10_000]),
        ]
        .concat(),
    );
    let error = server.refuses(&data(1, &[0]));
    assert_eq!(
        error,
        ConnectionError::WindowOverrun {
            stream: id(0),
            bytes: 1,
            window: 0
        }
    );
    assert_eq!(error.code(), ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn a_peer_is_refused_by_the_frame_header_before_its_bytes() {
    let mut server = Server::linked_with(with_window(70_000));
    server.takes(&[data(1, &[0; 30_000]), data(1, &[0; 30_000])].concat());
    assert!(matches!(
        server.refuses(&data(1, &[0; 10_001])[..9]),
        ConnectionError::WindowOverrun { bytes: 10_001, .. }
    ));
}

#[test]
fn empty_frames_pass_a_closed_window() {
    let mut server = Server::linked_with(with_window(70_000));
    server.takes(
        &[
            data(1, &[0; 30_000]),
            data(1, &[0; 30_000]),
            data(1, &[0; 10_000]),
        ]
        .concat(),
    );
    server.takes(&[data(1, b""), frame(DATA, END_STREAM, 1, b"")].concat());
}

#[test]
fn a_window_of_one_byte_moves_byte_by_byte() {
    let mut server = Server::linked_with(with_window(1));
    let mut sent = 0;
    for byte in 0..100 {
        server.takes(&data(1, &[byte]));
        sent += 1;
        // The connection started with the default window, so only the stream is due.
        server.connection.release(1, &mut server.out);
        assert_eq!(server.said(), [(WINDOW_UPDATE, 0, 1, vec![0, 0, 0, 1])]);
    }
    assert_eq!(server.flow_bytes, sent);
    assert_eq!(
        server.refuses(&data(1, &[1, 2])),
        ConnectionError::WindowOverrun {
            stream: id(1),
            bytes: 2,
            window: 1
        }
    );
}

#[test]
fn until_the_peer_has_read_a_small_window_it_may_use_the_default_one() {
    let announced = with_window(10_000);
    let mut server = Server::new(announced);
    let hello = [PREFACE, &settings(&[]), &request(1)].concat();
    server.takes(&hello);
    server.takes(&[data(1, &[0; 30_000]), data(1, &[0; 30_000])].concat());
    server.takes(&data(1, &[0; 5_535]));
    assert!(server.refuses(&data(1, &[0])).code() == ErrorCode::FLOW_CONTROL_ERROR);

    let mut server = Server::new(announced);
    server.takes(
        &[
            &hello[..],
            &data(1, &[0; 20_000]),
            &settings_ack(),
            &data(1, b""),
        ]
        .concat(),
    );
    // The window is 10,000 below zero now.
    server.connection.release(20_000, &mut server.out);
    server.out.clear();
    server.takes(&data(1, &[0; 10_000]));
    server.refuses(&data(1, &[0]));
}

#[test]
fn padding_is_paid_for_and_given_back_unasked() {
    let mut server = Server::linked_with(with_window(1_000));
    let padded = frame(DATA, PADDED, 1, &[&[200][..], &[7; 49], &[0; 200]].concat());
    for _ in 0..4 {
        server.takes(&padded);
    }
    assert_eq!(server.flow_bytes, 4 * 49);
    let stream_increments: u32 = server
        .said()
        .into_iter()
        .filter(|(kind, _, stream, _)| *kind == WINDOW_UPDATE && *stream == 1)
        .map(|(_, _, _, payload)| u32::from_be_bytes(payload.try_into().unwrap()))
        .sum();
    assert!(stream_increments >= 500, "{stream_increments}");
    // 1000 - 4 * 250 + what came back.
    let left = vec![0; stream_increments as usize];
    server.takes(&data(1, &left));
    server.refuses(&data(1, &[0]));
}

#[test]
fn data_on_a_stream_we_reset_is_swallowed_and_its_connection_window_given_back() {
    let mut server = Server::linked_with(with_window(100_000));
    server.takes(&[data(1, &[0; 100]), request(3)].concat());
    server
        .connection
        .reset(id(1), ErrorCode::CANCEL, &mut server.out);
    assert_eq!(server.said(), [(RST_STREAM, 0, 1, vec![0, 0, 0, 8])]);
    server.seen.clear();
    for _ in 0..1_000 {
        server.takes(&data(1, &[0; 10_000]));
    }
    assert!(server.seen.is_empty());
    assert!(
        server
            .said()
            .iter()
            .all(|(kind, _, stream, _)| *kind == WINDOW_UPDATE && *stream == 0)
    );
    // Frames of the stream that crossed our reset are no error, whatever they are.
    server.takes(
        &[
            window_update(1, 9),
            headers(END_STREAM, 1, &[("x", "y")]),
            reset(1, 8),
        ]
        .concat(),
    );
    assert!(server.seen.is_empty() && server.out.is_empty());
}

#[test]
fn a_reset_in_the_middle_of_a_frame_swallows_the_rest_of_it() {
    let mut server = Server::linked_with(with_window(10_000));
    let bytes = data(1, &[7; 10_000]);
    server.takes(&bytes[..5_000]);
    server
        .connection
        .reset(id(1), ErrorCode::CANCEL, &mut server.out);
    server.takes(&bytes[5_000..]);
    assert_eq!(
        server.seen,
        [Seen::Data {
            stream: 1,
            bytes: vec![7; 4_991],
            end_stream: false
        }]
    );
    server.takes(&frame(PING, 0, 0, &[0; 8]));
}

#[test]
fn a_stream_that_waits_to_be_accepted_gets_one_window_and_the_rest_after() {
    let mut server = Server::linked_with(with_window(1_000));
    server
        .connection
        .reset(id(1), ErrorCode::CANCEL, &mut server.out);
    server.takes(&[request(3), data(3, &[1; 900])].concat());
    assert_eq!(server.flow_bytes, 0);
    server.out.clear();
    assert!(server.connection.accept(id(3)));
    server.connection.respond_headers(id(3), &mut server.out);
    assert!(
        server
            .said()
            .contains(&(WINDOW_UPDATE, 0, 3, 900_u32.to_be_bytes().to_vec()))
    );
    server.takes(&data(3, &[1; 1_000]));
    assert_eq!(server.flow_bytes, 1_000);
    server.refuses(&data(3, &[1]));
}

#[test]
fn the_send_window_is_the_smaller_of_two() {
    let mut server = Server::linked();
    assert_eq!(server.connection.send_window(), 65_535);
    server.connection.consume_send_window(65_535);
    assert_eq!(server.connection.send_window(), 0);
    server.takes(&window_update(1, 500));
    assert_eq!((server.connection.send_window(), server.seen.len()), (0, 0));
    server.takes(&window_update(0, 300));
    assert_eq!(server.connection.send_window(), 300);
    assert_eq!(server.seen, [Seen::WindowOpened]);
    server.takes(&window_update(0, 300));
    assert_eq!(server.connection.send_window(), 500);
}

#[test]
fn a_smaller_initial_window_can_leave_less_than_nothing() {
    let mut server = Server::linked();
    server.connection.consume_send_window(60_000);
    server.takes(&settings(&[(4, 10_000)]));
    assert_eq!(server.connection.send_window(), 0);
    server.takes(&window_update(1, 50_000));
    assert_eq!((server.connection.send_window(), server.seen.len()), (0, 0));
    server.takes(&window_update(1, 1));
    assert_eq!(server.connection.send_window(), 1);
    server.takes(&settings(&[(4, 10_100)]));
    assert_eq!(server.connection.send_window(), 101);
    assert_eq!(server.seen, [Seen::WindowOpened, Seen::WindowOpened]);
}

#[test]
fn a_new_stream_starts_with_the_window_that_the_peer_announced_last() {
    let mut server = Server::greeted();
    server.takes(&[settings(&[(4, 77)]), request(1)].concat());
    assert_eq!(server.connection.send_window(), 77);
    server.connection.trailers(id(1), 0, "", &mut server.out);
    assert_eq!(server.connection.send_window(), 0);
}

#[test]
fn a_window_of_one_byte_to_send_into_is_honoured_for_ever() {
    let mut server = Server::greeted();
    server.takes(&[settings(&[(4, 1)]), request(1)].concat());
    for _ in 0..10_000 {
        assert_eq!(server.connection.send_window(), 1);
        server.connection.consume_send_window(1);
        server.takes(&[window_update(0, 1), window_update(1, 1)].concat());
    }
}
