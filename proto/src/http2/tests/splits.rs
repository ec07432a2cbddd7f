//! What a stream of bytes means does not depend on where reads cut it; and no stream of bytes panics.

use super::*;
use proptest::prelude::*;

/// Events, error, and what was said except WINDOW_UPDATE: how the window is returned may follow the reads.
fn outcome(bytes: &[u8], cuts: &[usize]) -> (Vec<Seen>, Option<ConnectionError>, Vec<u8>) {
    let mut server = Server::new(ANNOUNCED);
    let mut rest = bytes;
    let mut error = None;
    for cut in cuts.iter().cycle() {
        let (piece, after) = rest.split_at((*cut).min(rest.len()));
        rest = after;
        error = server.try_take(piece).err();
        if error.is_some() || rest.is_empty() {
            break;
        }
    }
    let said = frames(&server.out)
        .into_iter()
        .filter(|(kind, ..)| *kind != WINDOW_UPDATE);
    let said = said
        .flat_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
        .collect();
    (server.seen, error, said)
}

fn conversation() -> Vec<u8> {
    let fields = block(REQUEST_FIELDS);
    [
        PREFACE.to_vec(),
        settings(&[(2, 0), (4, 2_097_152), (5, 16_384), (6, 16_384)]),
        window_update(0, 5_177_345),
        frame(
            HEADERS,
            PADDED | WITH_PRIORITY,
            1,
            &[&[3, 0, 0, 0, 0, 1], &fields[..20], &[0; 3]].concat(),
        ),
        frame(CONTINUATION, 0, 1, &fields[20..21]),
        frame(CONTINUATION, END_HEADERS, 1, &fields[21..]),
        settings_ack(),
        data(1, b"the first message"),
        frame(DATA, PADDED, 1, b"\x04a padded one\0\0\0\0"),
        frame(PING, 0, 0, b"pingpong"),
        data(1, b""),
        frame(0xfa, 0x55, 1, b"unknown"),
        frame(PRIORITY, 0, 7, &[0; 5]),
        headers(END_STREAM, 3, REQUEST_FIELDS),
        window_update(3, 1),
        settings(&[(4, 4_194_304)]),
        data(1, &[9; 5_000]),
        reset(3, 8),
        frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0bye"),
        frame(DATA, END_STREAM | PADDED, 1, b"\x02last\0\0"),
    ]
    .concat()
}

#[test]
fn a_conversation_reads_the_same_byte_by_byte_and_at_once() {
    let bytes = conversation();
    let whole = outcome(&bytes, &[bytes.len()]);
    assert_eq!(whole.1, None);
    assert_eq!(whole.0.len(), 8);
    assert_eq!(outcome(&bytes, &[1]), whole);
    for cut in 1..bytes.len() {
        assert_eq!(outcome(&bytes, &[cut, bytes.len()]), whole, "cut at {cut}");
    }
}

/// A frame that may or may not be valid, mostly of known kinds on low streams.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..24),
        Just(vec![0, 0, 0, 1]),
        Just(vec![0; 8]),
        Just(block(REQUEST_FIELDS)),
        Just(vec![1; 40]),
    ];
    let raw = (0_u8..11, any::<u8>(), 0_u32..8, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload));
    prop_oneof![
        3 => raw,
        1 => (0_u32..6).prop_map(|nth| request(2 * nth + 1)),
        2 => (0_u32..4, 0_u8..2).prop_map(|(nth, flags)| frame(DATA, flags, 2 * nth + 1, &[5; 50])),
        1 => (0_u32..4, 1_u32..100).prop_map(|(stream, increment)| window_update(stream, increment)),
        1 => Just(frame(PING, 0, 0, &[3; 8])),
        1 => Just(settings(&[(4, 100), (1, 0)])),
        1 => Just(settings_ack()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_cuts_of_any_frames_give_the_same_events(
        sent in prop::collection::vec(any_frame(), 0..12),
        cuts in prop::collection::vec(1_usize..40, 1..10),
    ) {
        let bytes = [PREFACE, &settings(&[]), &sent.concat()].concat();
        prop_assert_eq!(outcome(&bytes, &cuts), outcome(&bytes, &[bytes.len()]));
    }

    #[test]
    fn arbitrary_bytes_never_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = outcome(&noise, &[7]);
        let _ = outcome(&[PREFACE, &settings(&[]), &noise].concat(), &[3, 50]);
    }

    #[test]
    fn arbitrary_header_blocks_never_panic(block in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = [PREFACE, &settings(&[]), &frame(HEADERS, END_HEADERS, 1, &block)].concat();
        let _ = outcome(&bytes, &[bytes.len()]);
    }

    #[test]
    fn windows_never_leak_whatever_the_frames(
        sizes in prop::collection::vec((0_usize..400, 0_u8..4), 1..60),
        window_bytes in 1_u32..3_000,
    ) {
        // An honest sender, which counts as RFC 9113 says, is never stopped and never refused.
        let mut server = Server::linked_with(Settings { initial_window_bytes: window_bytes, ..ANNOUNCED });
        let (mut stream_window, mut connection_window) = (i64::from(window_bytes), 65_535_i64);
        for (size, padding) in sizes {
            let overhead = if padding > 0 { 1 + i64::from(padding) } else { 0 };
            let room = (stream_window.min(connection_window) - overhead).max(0) as usize;
            let size = size.min(room);
            if size == 0 {
                continue;
            }
            let payload = vec![1; size];
            let sent = match padding {
                0 => data(1, &payload),
                _ => frame(DATA, PADDED, 1, &[&[padding], &payload[..], &vec![0; usize::from(padding)]].concat()),
            };
            stream_window -= size as i64 + overhead;
            connection_window -= size as i64 + overhead;
            server.takes(&sent);
            server.connection.tick();
            let released = std::mem::take(&mut server.flow_bytes);
            server.connection.release(released, &mut server.out);
            for (_, _, stream, payload) in server.said() {
                let increment = i64::from(u32::from_be_bytes(payload.try_into().unwrap()));
                if stream == 0 { connection_window += increment } else { stream_window += increment }
            }
            prop_assert!(stream_window > 0 && connection_window > 0);
        }
    }
}
