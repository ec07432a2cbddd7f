//! Header blocks, against another HPACK decoder and the rules for requests written down once more; and the blocks that we
//! send, read by that decoder.

use slim_proto::http2::{
    ConnectionError, ErrorCode, Event, HpackError, RequestHead, ServerConnection, Settings,
    StreamId,
};

use crate::draw::Draw;
use crate::hpack::{Decoder, Fields};
use crate::wire::{
    self, ACK, END_HEADERS, END_STREAM, HEADERS, PADDED, PREFACE, RESET, SETTINGS, frame,
    read_frames,
};

const LIST_BYTES_MAX: usize = 4_096;
const FIELDS_MAX: usize = 128;
/// Before the client has acknowledged that we want none (RFC 9113 §6.5.2).
const TABLE_BYTES: usize = 4_096;
const CONTINUATION: u8 = 0x9;
const WITH_PRIORITY: u8 = 0x20;

/// Input: `situation: u8 | blocks`. Bits of the situation: 0 our SETTINGS are acknowledged · 1 the stream ends · 2 padding ·
/// 3 priority · 4 in two frames · 5-6 how many blocks, in equal parts · 7 the rest is the text of an answer instead.
pub fn header_block(input: &[u8]) {
    let mut draw = Draw::new(input);
    let situation = draw.byte();
    if situation & 0x80 != 0 {
        return check_answers(situation, &mut draw);
    }
    let bytes = draw.rest();
    let blocks = 1 + usize::from(situation >> 5 & 3);
    let mut out = Vec::new();
    let mut server = ServerConnection::new(
        Settings {
            initial_window_bytes: 65_535,
            max_frame_bytes: 16_384,
            max_header_list_bytes: LIST_BYTES_MAX as u32,
            max_concurrent_streams: 4,
        },
        &mut out,
    );
    let is_acked = situation & 1 != 0;
    let ack = if is_acked {
        frame(SETTINGS, ACK, 0, &[])
    } else {
        Vec::new()
    };
    let handshake = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &ack].concat();
    assert_eq!(server.next_event(&mut &handshake[..], &mut out), Ok(None));
    let mut reference = Decoder::new(if is_acked { 0 } else { TABLE_BYTES });

    let mut streams = 1u32..;
    for block in bytes.chunks((bytes.len() / blocks).max(1)).take(blocks) {
        let id = 2 * streams.next().unwrap_or(1) - 1;
        let ends = situation & 2 != 0;
        let sent = headers(situation, id, block);
        let mut answer = Vec::new();
        let mut rest = &sent[..];
        let outcome = server.next_event(&mut rest, &mut answer);
        let refused = !read_frames(&answer).is_empty();
        let expected = reference.decode(block);
        let is_over = match outcome {
            Ok(Some(Event::Request(head))) => {
                let fields = expected.expect("we read what the reference cannot");
                assert_eq!(judged(&fields, id, ends), Judgement::Request(head));
                false
            }
            Ok(None) => {
                let fields = expected.expect("we read what the reference cannot");
                assert!(refused);
                assert_eq!(judged(&fields, id, ends), Judgement::Malformed);
                let resets = read_frames(&answer);
                assert!(
                    matches!(&resets[..], [reset] if reset.kind == RESET && reset.stream == id
                    && wire::u32_of(&reset.payload) == ErrorCode::PROTOCOL_ERROR.0)
                );
                false
            }
            Ok(Some(other)) => panic!("{other:?}"),
            Err(why) => {
                wire::check_error(&why);
                check_refusal(&why, block, expected.ok());
                true
            }
        };
        assert!(server.heap_bytes() <= TABLE_BYTES + 4 * 128);
        if is_over {
            return;
        }
        assert!(rest.is_empty());
        if let Ok(None) = server.next_event(&mut &frame(RESET, 0, id, &[0; 4])[..], &mut out) {
            assert!(refused);
        }
    }
}

/// The frames that carry a block.
fn headers(situation: u8, id: u32, block: &[u8]) -> Vec<u8> {
    let mut flags = if situation & 2 != 0 { END_STREAM } else { 0 };
    let is_split = situation & 0x10 != 0;
    let (first, second) = block.split_at(if is_split {
        block.len() / 2
    } else {
        block.len()
    });
    let mut payload = Vec::new();
    if situation & 4 != 0 {
        flags |= PADDED;
        payload.push(3);
    }
    if situation & 8 != 0 {
        flags |= WITH_PRIORITY;
        payload.extend_from_slice(&[0, 0, 0, 0, 16]);
    }
    payload.extend_from_slice(first);
    if situation & 4 != 0 {
        payload.extend_from_slice(&[0; 3]);
    }
    if !is_split {
        return frame(HEADERS, flags | END_HEADERS, id, &payload);
    }
    [
        frame(HEADERS, flags, id, &payload),
        frame(CONTINUATION, END_HEADERS, id, second),
    ]
    .concat()
}

/// The block was refused: for a reason that holds.
fn check_refusal(why: &ConnectionError, block: &[u8], fields: Option<Fields>) {
    match (why, fields) {
        (
            ConnectionError::FrameTooLarge { .. } | ConnectionError::HeaderBlockTooLarge { .. },
            _,
        ) => {
            assert!(block.len() > LIST_BYTES_MAX);
        }
        (ConnectionError::HeaderListTooLarge { .. }, Some(fields)) => {
            assert!(list_bytes(&fields) > LIST_BYTES_MAX);
        }
        (ConnectionError::TooManyFields { .. }, Some(fields)) => assert!(fields.len() > FIELDS_MAX),
        // What is broken may be broken behind what is too long.
        (
            ConnectionError::HeaderListTooLarge { .. } | ConnectionError::TooManyFields { .. },
            None,
        ) => {}
        (ConnectionError::Hpack(_), None) => {}
        // We are stricter than the reference here, and say so in `hpack`.
        (ConnectionError::Hpack(HpackError::Integer | HpackError::LateTableSize), Some(_)) => {}
        (why, fields) => panic!("{why}: {fields:?}"),
    }
}

fn list_bytes(fields: &Fields) -> usize {
    fields
        .iter()
        .map(|(name, value)| name.len() + value.len() + 32)
        .sum()
}

#[derive(Debug, PartialEq)]
enum Judgement {
    Request(Box<RequestHead>),
    Malformed,
    TooLarge,
}

/// RFC 9113 §8.1 to §8.3 and what we add to it, on the whole list.
fn judged(fields: &Fields, id: u32, ends: bool) -> Judgement {
    if list_bytes(fields) > LIST_BYTES_MAX || fields.len() > FIELDS_MAX {
        return Judgement::TooLarge;
    }
    request(fields, id, ends).map_or(Judgement::Malformed, Judgement::Request)
}

fn request(fields: &Fields, id: u32, ends: bool) -> Option<Box<RequestHead>> {
    let pseudo_fields = fields
        .iter()
        .take_while(|(name, _)| name.starts_with(b":"))
        .count();
    let (pseudo, regular) = fields.split_at(pseudo_fields);
    let known: [&[u8]; 4] = [b":method", b":path", b":scheme", b":authority"];
    let are_known = pseudo.iter().all(|(name, _)| known.contains(&&name[..]));
    let forbidden: [&[u8]; 5] = [
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"transfer-encoding",
        b"upgrade",
    ];
    let are_allowed = regular.iter().all(|(name, value)| {
        !name.is_empty()
            && name.iter().all(|byte| {
                byte.is_ascii_graphic()
                    && !byte.is_ascii_uppercase()
                    && !b"\"(),/:;<=>?@[\\]{}".contains(byte)
            })
            && !forbidden.contains(&&name[..])
            && (name != b"te" || value.eq_ignore_ascii_case(b"trailers"))
    });
    let are_clean = fields.iter().all(|(_, value)| {
        let ends_blank = [value.first(), value.last()]
            .into_iter()
            .flatten()
            .any(|byte| b" \t".contains(byte));
        !ends_blank && !value.iter().any(|byte| b"\0\r\n".contains(byte))
    });
    if !are_known || !are_allowed || !are_clean {
        return None;
    }
    let method = only(fields, b":method")?;
    let path = only(fields, b":path")?;
    let scheme = only(fields, b":scheme")?;
    let authority = only(fields, b":authority")?;
    let is_complete = match method.as_deref()? {
        "" => false,
        "CONNECT" => authority.is_some() && scheme.is_none() && path.is_none(),
        _ => {
            path.as_ref().is_some_and(|path| !path.is_empty())
                && scheme.as_ref().is_some_and(|scheme| !scheme.is_empty())
        }
    };
    let length = only(fields, b"content-length")?;
    let content_length = match &length {
        None => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse::<u64>().ok()?)
        }
        Some(_) => return None,
    };
    if !is_complete || ends && content_length.is_some_and(|bytes| bytes > 0) {
        return None;
    }
    Some(Box::new(RequestHead {
        stream: StreamId::new(id),
        method: method?,
        path: path.unwrap_or_default(),
        scheme,
        authority,
        content_type: only(fields, b"content-type")?,
        authorization: only(fields, b"authorization")?,
        grpc_encoding: only(fields, b"grpc-encoding")?,
        user_agent: only(fields, b"user-agent")?,
        te_trailers: fields.iter().any(|(name, _)| name == b"te"),
        content_length,
        end_stream: ends,
    }))
}

/// The value of a field that may occur once; `None` if it occurs twice or is not printable.
fn only(fields: &Fields, name: &[u8]) -> Option<Option<String>> {
    let mut values = fields
        .iter()
        .filter(|(other, _)| other == name)
        .map(|(_, value)| value);
    let Some(value) = values.next() else {
        return Some(None);
    };
    let is_printable = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    (values.next().is_none() && is_printable).then(|| String::from_utf8(value.clone()).ok())
}

/// What we answer reads back as what was meant.
fn check_answers(situation: u8, draw: &mut Draw) {
    let status = draw.u32();
    let message = String::from_utf8_lossy(draw.rest()).into_owned();
    let mut out = Vec::new();
    let mut server = ServerConnection::new(
        Settings {
            initial_window_bytes: 65_535,
            max_frame_bytes: 16_384,
            max_header_list_bytes: LIST_BYTES_MAX as u32,
            max_concurrent_streams: 1,
        },
        &mut out,
    );
    let mut client = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])].concat();
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b")];
    client.extend(frame(HEADERS, END_HEADERS, 1, &wire::block(&fields)));
    let event = server.next_event(&mut &client[..], &mut out);
    assert!(matches!(event, Ok(Some(Event::Request(_)))));
    let stream = StreamId::new(1);
    out.clear();
    let mut expected = Vec::new();
    let head = [(":status", "200"), ("content-type", "application/grpc")];
    let grpc_status = status.to_string();
    match situation & 3 {
        0 => server.respond_status(stream, status as u16, &mut out),
        1 => server.respond_trailers_only(stream, status, &message, &mut out),
        2 => server.trailers(stream, status, &message, &mut out),
        _ => {
            server.respond_headers(stream, &mut out);
            server.trailers(stream, status, &message, &mut out);
        }
    }
    let http_status = format!("{:03}", (status as u16).min(999));
    if situation & 3 == 0 {
        expected.push((":status", http_status.as_str()));
    } else {
        expected.extend(head);
        expected.push(("grpc-status", &grpc_status));
    }
    let mut reference = Decoder::new(0);
    let mut fields = Vec::new();
    for said in read_frames(&out) {
        if said.kind == HEADERS {
            fields.extend(
                reference
                    .decode(&said.payload)
                    .expect("our own header block"),
            );
        }
    }
    let mut expected: Fields = expected
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    if fields.len() > expected.len() {
        let (name, encoded) = fields.last().expect("it has more").clone();
        assert_eq!(name, b"grpc-message");
        assert!(encoded.len() <= 1_024);
        assert!(encoded.iter().all(|byte| matches!(byte, b' '..=b'~')));
        let text = percent_decoded(&encoded);
        assert!(message.starts_with(&text) && (text == message || text.len() > 300));
        expected.push((name, encoded));
    } else if situation & 3 != 0 {
        assert!(message.is_empty());
    }
    assert_eq!(fields, expected);
}

fn percent_decoded(encoded: &[u8]) -> String {
    let mut bytes = Vec::new();
    let mut rest = encoded;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at(2);
        let digits = std::str::from_utf8(digits).expect("two digits");
        bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
        rest = after;
    }
    String::from_utf8(bytes).expect("cut between characters")
}
