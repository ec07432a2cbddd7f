//! Any bytes at all into a connection: what they mean does not depend on where reads cut them.

use slim_proto::http2::{
    CONTROL_BYTES_PER_TICK_MAX, ConnectionError, Event, RequestHead, ServerConnection, Settings,
    StreamId,
};

use crate::draw::{Draw, cut};
use crate::wire::{self, Frame, PREFACE, SETTINGS, WINDOW_UPDATE, frame, read_frames};

const HEADER_LIST_BYTES: u32 = 4_096;
/// Upper bound of what one stream that is not accepted costs.
const STREAM_BYTES: usize = 128;

/// Input: `situation: u8 | cuts: u8 | bytes`. Bits of the situation: 0 the handshake came before · 1 and it is acknowledged ·
/// 2 the caller accepts streams · 3 it releases DATA at once · 4-5 its window · 6-7 its streams.
pub fn frames(input: &[u8]) {
    let mut draw = Draw::new(input);
    let situation = draw.byte();
    let cuts = draw.byte();
    let mut bytes = Vec::new();
    if situation & 1 != 0 {
        bytes.extend_from_slice(PREFACE);
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
    }
    if situation & 3 == 3 {
        bytes.extend(frame(SETTINGS, wire::ACK, 0, &[]));
    }
    bytes.extend_from_slice(draw.rest());

    let whole = converse(situation, &[&bytes]);
    let in_pieces = converse(situation, &cut(&bytes, cuts));
    if depends_on_reads(&whole) || depends_on_reads(&in_pieces) {
        return;
    }
    assert_eq!(in_pieces, whole);
    if bytes.len() < 600 {
        let byte_by_byte = converse(situation, &bytes.chunks(1).collect::<Vec<_>>());
        if !depends_on_reads(&byte_by_byte) {
            assert_eq!(byte_by_byte, whole);
        }
    }
}

/// Windows are returned as DATA arrives, in steps of half a window; so a peer that ignores them may be caught earlier or later.
fn depends_on_reads(outcome: &Outcome) -> bool {
    matches!(
        outcome.error,
        Some(ConnectionError::WindowOverrun { .. } | ConnectionError::TooManyAnswers { .. })
    )
}

/// What a stream of bytes meant. DATA that came in pieces is put together.
#[derive(Debug, PartialEq)]
struct Outcome {
    seen: Vec<Seen>,
    error: Option<ConnectionError>,
    /// Without WINDOW_UPDATE.
    said: Vec<Frame>,
    refused: u32,
    is_established: bool,
    send_window: usize,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Request(Box<RequestHead>),
    Data {
        stream: StreamId,
        bytes: Vec<u8>,
        flow_bytes: u32,
        end_stream: bool,
    },
    Trailers(StreamId),
    Reset(StreamId, u32),
    WindowOpened(usize),
    GoAway(u32, StreamId),
    PingAck([u8; 8]),
}

fn converse(situation: u8, pieces: &[&[u8]]) -> Outcome {
    let accepts = situation & 4 != 0;
    let releases = situation & 8 != 0;
    let window_bytes = [1_048_576, 65_535, 100, 1][usize::from(situation >> 4 & 3)];
    let streams_max = [1, 2, 4, 1_000][usize::from(situation >> 6)];
    let settings = Settings {
        initial_window_bytes: window_bytes,
        max_frame_bytes: 16_384,
        max_header_list_bytes: HEADER_LIST_BYTES,
        max_concurrent_streams: streams_max,
    };
    let mut out = Vec::new();
    let mut server = ServerConnection::new(settings, &mut out);
    let announced_bytes = out.len();
    let mut seen: Vec<Seen> = Vec::new();
    let mut error = None;
    let mut read_bytes = 0;
    for piece in pieces {
        let mut rest = *piece;
        read_bytes += piece.len();
        loop {
            let left = rest.len();
            match server.next_event(&mut rest, &mut out) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let is_empty_data = matches!(event, Event::Data { bytes: [], .. });
                    assert!(
                        rest.len() < left || is_empty_data,
                        "an event out of nothing"
                    );
                    if let Event::Request(head) = &event
                        && accepts
                        && server.accept(head.stream)
                    {
                        server.respond_headers(head.stream, &mut out);
                    }
                    if let Event::Data { flow_bytes, .. } = &event
                        && releases
                    {
                        server.release(*flow_bytes, &mut out);
                    }
                    note(&mut seen, event, server.send_window());
                }
                Err(why) => {
                    wire::check_error(&why);
                    error = Some(why);
                    break;
                }
            }
            check_memory(&server, streams_max, read_bytes);
        }
        if error.is_some() {
            // What comes after is swallowed, unanswered.
            let said_bytes = out.len();
            for mut more in [rest, b"more of it"] {
                assert_eq!(server.next_event(&mut more, &mut out), Ok(None));
                assert!(more.is_empty());
            }
            assert_eq!(out.len(), said_bytes);
            break;
        }
        assert!(
            rest.is_empty(),
            "input is left without an event or an error"
        );
    }
    // To a frame of 10 bytes, two WINDOW_UPDATE of 13 are the most that can be said; to each byte in a window of one.
    let factor = if window_bytes == 1 { 26 } else { 3 };
    let answered_bytes = out.len() - announced_bytes;
    assert!(
        answered_bytes <= factor * read_bytes + 64,
        "{answered_bytes} for {read_bytes} bytes"
    );
    assert!(answered_bytes as u64 <= u64::from(CONTROL_BYTES_PER_TICK_MAX) + 64);
    check_order(&seen);
    let (updates, said): (Vec<_>, Vec<_>) = read_frames(&out)
        .into_iter()
        .partition(|frame| frame.kind == WINDOW_UPDATE);
    check_credit(&updates, window_bytes, read_bytes);
    Outcome {
        seen,
        error,
        said,
        refused: server.take_refused_streams(),
        is_established: server.is_established(),
        send_window: server.send_window(),
    }
}

fn note(seen: &mut Vec<Seen>, event: Event, send_window: usize) {
    if let Event::Data {
        stream,
        bytes,
        flow_bytes,
        end_stream,
    } = event
    {
        assert!(flow_bytes == 0 || flow_bytes as usize == bytes.len());
        if let Some(Seen::Data {
            stream: earlier,
            bytes: gathered,
            flow_bytes: flow_sum,
            end_stream: ended,
        }) = seen.last_mut()
            && *earlier == stream
        {
            assert!(!*ended, "DATA after the end of its stream");
            gathered.extend_from_slice(bytes);
            *flow_sum += flow_bytes;
            *ended = end_stream;
            return;
        }
        return seen.push(Seen::Data {
            stream,
            bytes: bytes.to_vec(),
            flow_bytes,
            end_stream,
        });
    }
    seen.push(match event {
        Event::Request(head) => Seen::Request(head),
        Event::Data { .. } => unreachable!("handled above"),
        Event::Trailers { stream } => Seen::Trailers(stream),
        Event::Reset { stream, code } => Seen::Reset(stream, code.0),
        Event::WindowOpened => Seen::WindowOpened(send_window),
        Event::GoAway { code, last_stream } => Seen::GoAway(code.0, last_stream),
        Event::PingAck(opaque) => Seen::PingAck(opaque),
    });
}

/// One header block being gathered, the dynamic table, the streams that wait: nothing else, whatever comes.
fn check_memory(server: &ServerConnection, streams_max: u32, read_bytes: usize) {
    let streams = (streams_max as usize)
        .min(read_bytes / 9 + 1)
        .next_power_of_two()
        .max(4);
    let bound = 2 * HEADER_LIST_BYTES as usize + 4_096 + 64 + streams * STREAM_BYTES;
    assert!(
        server.heap_bytes() <= bound,
        "{} bytes of heap",
        server.heap_bytes()
    );
}

/// Streams open in order, and live no longer than they are said to.
fn check_order(seen: &[Seen]) {
    let mut open: Vec<(StreamId, bool)> = Vec::new();
    let mut last = 0;
    for event in seen {
        match event {
            Seen::Request(head) => {
                let id = head.stream.get();
                assert!(id % 2 == 1 && id > last);
                last = id;
                assert!(!head.method.is_empty());
                let texts = [
                    &head.scheme,
                    &head.authority,
                    &head.content_type,
                    &head.authorization,
                ];
                let texts = texts
                    .into_iter()
                    .chain([&head.grpc_encoding, &head.user_agent]);
                let kept = texts.flatten().chain([&head.method, &head.path]);
                let mut bytes = 0;
                for text in kept {
                    bytes += text.len();
                    assert!(text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')));
                }
                assert!(bytes <= HEADER_LIST_BYTES as usize);
                open.push((head.stream, head.end_stream));
            }
            Seen::Data {
                stream, end_stream, ..
            } => {
                let (_, ended) = open.iter_mut().find(|(id, _)| id == stream).expect("open");
                assert!(!std::mem::replace(ended, *end_stream));
            }
            Seen::Trailers(stream) => {
                let (_, ended) = open.iter_mut().find(|(id, _)| id == stream).expect("open");
                assert!(!std::mem::replace(ended, true));
            }
            Seen::Reset(stream, _) => {
                let at = open.iter().position(|(id, _)| id == stream).expect("open");
                open.swap_remove(at);
            }
            Seen::PingAck(_) => panic!("an answer to no PING of ours"),
            Seen::WindowOpened(_) | Seen::GoAway(..) => {}
        }
    }
}

/// Credit is given for what came, once.
fn check_credit(updates: &[Frame], window_bytes: u32, read_bytes: usize) {
    let mut sums = std::collections::HashMap::new();
    for update in updates {
        *sums.entry(update.stream).or_insert(0) += u64::from(wire::u32_of(&update.payload));
    }
    for (stream, sum) in sums {
        let at_first = if stream == 0 {
            u64::from(window_bytes).saturating_sub(65_535)
        } else {
            0
        };
        assert!(
            sum <= at_first + read_bytes as u64,
            "{sum} bytes of credit on stream {stream}"
        );
    }
}
