//! Messages out of DATA: whole, cut, and byte by byte alike; and as the framing reads naively.

use slim_proto::grpc::{Deframer, FrameError, MESSAGE_BYTES_MAX, PREFIX_BYTES, Piece, prefix};

use crate::draw::{Draw, cut};

/// Input: `cuts: u8 | kind: u8 | bytes`. Of an odd kind the bytes are the lengths of messages, two bytes each; else they are
/// the stream. The next two bits of the kind choose the largest message.
pub fn grpc(input: &[u8]) {
    let mut draw = Draw::new(input);
    let cuts = draw.byte();
    let kind = draw.byte();
    let limit = [MESSAGE_BYTES_MAX, 1, 100, 5_000][usize::from(kind >> 1 & 3)];
    let stream = if kind & 1 == 1 {
        framed(&mut draw)
    } else {
        draw.rest().to_vec()
    };
    let expected = naive(&stream, limit);
    assert_eq!(deframe(&[&stream], limit), expected);
    assert_eq!(deframe(&cut(&stream, cuts), limit), expected);
    if stream.len() < 600 {
        assert_eq!(
            deframe(&stream.chunks(1).collect::<Vec<_>>(), limit),
            expected
        );
    }
}

fn framed(draw: &mut Draw) -> Vec<u8> {
    let mut stream = Vec::new();
    while !draw.is_empty() && stream.len() < 70_000 {
        let bytes = usize::from(draw.u16());
        stream.extend_from_slice(&prefix(bytes));
        stream.extend((0..bytes).map(|at| (at / 7) as u8));
    }
    stream
}

/// The messages, what is left over of one that is not finished, or why it ends.
type Outcome = (Vec<Vec<u8>>, Result<usize, FrameError>);

/// gRPC over HTTP/2, "Length-Prefixed-Message", on the whole stream at once.
fn naive(mut rest: &[u8], limit: usize) -> Outcome {
    let mut messages = Vec::new();
    loop {
        match *rest {
            [flag, ..] if flag != 0 => return (messages, Err(FrameError::Compressed { flag })),
            [_, l0, l1, l2, l3, ref after @ ..] => {
                let declared = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                if declared > limit {
                    return (messages, Err(FrameError::TooLarge { declared, limit }));
                }
                let Some((message, after)) = after.split_at_checked(declared) else {
                    return (messages, Ok(rest.len()));
                };
                messages.push(message.to_vec());
                rest = after;
            }
            _ => return (messages, Ok(rest.len())),
        }
    }
}

fn deframe(pieces: &[&[u8]], limit: usize) -> Outcome {
    let mut deframer = Deframer::with_limit(limit);
    let mut messages = Vec::new();
    let mut fed_bytes = 0;
    for piece in pieces {
        let mut rest = *piece;
        fed_bytes += piece.len();
        loop {
            match deframer.next_message(&mut rest) {
                Ok(None) => break,
                Ok(Some(message)) => {
                    if let Piece::Whole(lent) = message {
                        // Lent from the input, not copied.
                        assert!(lent.is_empty() || piece.as_ptr_range().contains(&lent.as_ptr()));
                    }
                    messages.push(message.as_ref().to_vec());
                    assert_eq!(deframer.buffered_bytes(), 0);
                    assert!(!deframer.is_mid_message());
                }
                Err(why) => {
                    assert!(!why.to_string().is_empty());
                    return (messages, Err(why));
                }
            }
        }
        assert!(rest.is_empty(), "input is left");
        assert!(deframer.buffered_bytes() <= fed_bytes);
        assert_eq!(deframer.is_mid_message(), deframer.buffered_bytes() > 0);
        assert!(deframer.buffered_bytes() < PREFIX_BYTES + limit.max(1));
    }
    (messages, Ok(deframer.buffered_bytes()))
}
