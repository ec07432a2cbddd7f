//! A link to the `tcp-relay` of `slim-bench`, which moves bytes and looks at none: what large payloads cost at the least.
//!
//! 128 bytes of hello say which name a connection sends to, or else which it hears; eight bytes answer, and further ones tell
//! a sender how much it may have sent in all (`bench/src/tcp_relay.rs`). What is sent is ours alone:
//! `length: u32 big-endian | payload: length bytes`, again and again.

use slim_proto::grpc::Piece;
use slim_ring::SendBuffers;

use crate::link::{Arrived, Input, Link, LinkError, Material, Opening, Spares, push_chunk};
use crate::message::{STAMP_BYTES, Stamp};

const HELLO_BYTES: usize = 128;
/// Of one number of the relay's.
const ANSWER_BYTES: usize = 8;
/// Of a message's length.
const LENGTH_BYTES: usize = 4;
/// Longest message that is taken, in bytes: the greatest payload that `--payload` takes is shorter.
const MESSAGE_BYTES_MAX: usize = 64 * 1_048_576;

/// Why the other side is no relay of bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TcpError {
    #[error(
        "a message of {bytes} bytes, where {MESSAGE_BYTES_MAX} are the most: no tcp-relay, or bytes were lost"
    )]
    Length { bytes: usize },
    #[error("it takes back what it let us send: {less} bytes after {more}")]
    Grant { less: u64, more: u64 },
}

pub struct TcpLink {
    is_sender: bool,
    is_ready: bool,
    material: Material,
    /// A number, a length or a message that is cut at the end of an input.
    partial: Vec<u8>,
    /// Bytes of the message whose length has been read.
    awaited: Option<usize>,
    /// The hello until it is taken.
    hello: Vec<u8>,
    /// Messages that wait.
    due: Vec<u8>,
    granted_bytes: u64,
    /// Of messages.
    sent_bytes: u64,
    spares: Spares,
}

impl TcpLink {
    /// A sender, if there is a flow to send; otherwise it hears the first of its subscriptions.
    pub fn open(opening: &Opening, material: Material) -> Self {
        let sends_to = opening.flows.first().map(|flow| &flow.destination);
        let (word, name) = match sends_to {
            Some(name) => ("sends", name),
            None => (
                "hears",
                opening.subscriptions.first().unwrap_or(&opening.name),
            ),
        };
        let mut hello = format!("tcp-relay 1 {word} {name}").into_bytes();
        hello.resize(HELLO_BYTES - 1, b' ');
        hello.push(b'\n');
        Self {
            is_sender: sends_to.is_some(),
            is_ready: false,
            material,
            partial: Vec::new(),
            awaited: None,
            hello,
            due: Vec::new(),
            granted_bytes: 0,
            sent_bytes: 0,
            spares: Spares::default(),
        }
    }

    /// Cuts `bytes` bytes off what was kept and the front of `input`, once all of them are there.
    fn next_piece<'a>(&mut self, bytes: usize, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        let missing = bytes.saturating_sub(self.partial.len());
        if input.len() < missing {
            if self.partial.is_empty() {
                self.partial.reserve_exact(bytes);
            }
            self.partial.extend_from_slice(input);
            *input = &[];
            return None;
        }
        let (end, rest) = input.split_at(missing);
        *input = rest;
        if self.partial.is_empty() {
            return Some(Piece::Whole(end));
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(end);
        Some(Piece::Assembled(whole))
    }

    fn granted(&mut self, answer: &[u8]) -> Result<(), TcpError> {
        let more = answer
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if more < self.granted_bytes {
            let (less, more) = (more, self.granted_bytes);
            return Err(TcpError::Grant { less, more });
        }
        self.granted_bytes = more;
        Ok(())
    }
}

impl Link for TcpLink {
    fn next_arrival<'a>(
        &mut self,
        input: &mut Input<'a>,
    ) -> Result<Option<Arrived<'a>>, LinkError> {
        while !input.bytes.is_empty() {
            if !self.is_ready || self.is_sender {
                let Some(answer) = self.next_piece(ANSWER_BYTES, &mut input.bytes) else {
                    return Ok(None);
                };
                self.granted(answer.as_ref())?;
                if !self.is_ready {
                    self.is_ready = true;
                    return Ok(Some(Arrived::Ready));
                }
                continue;
            }
            let Some(awaited) = self.awaited else {
                let Some(length) = self.next_piece(LENGTH_BYTES, &mut input.bytes) else {
                    return Ok(None);
                };
                let length = length.as_ref().first_chunk();
                let bytes = length.map_or(0, |bytes| u32::from_be_bytes(*bytes)) as usize;
                if bytes > MESSAGE_BYTES_MAX {
                    return Err(TcpError::Length { bytes }.into());
                }
                self.awaited = Some(bytes);
                continue;
            };
            let Some(message) = self.next_piece(awaited, &mut input.bytes) else {
                return Ok(None);
            };
            self.awaited = None;
            return Ok(Some(Arrived::Message(message)));
        }
        Ok(None)
    }

    fn publish(&mut self, _: usize, stamp: Stamp) {
        let payload_bytes = stamp.payload_bytes as usize;
        let out = &mut self.due;
        out.extend_from_slice(&stamp.payload_bytes.to_be_bytes());
        out.extend_from_slice(&self.material.filler[..payload_bytes - STAMP_BYTES]);
        out.extend_from_slice(&stamp.to_bytes());
    }

    fn waiting_bytes(&self) -> usize {
        self.due.len()
    }

    fn take_due(&mut self, list: &mut SendBuffers) {
        if !self.hello.is_empty() {
            push_chunk(list, std::mem::take(&mut self.hello));
        }
        let sendable = (self.granted_bytes - self.sent_bytes).min(self.due.len() as u64);
        if sendable == 0 {
            return;
        }
        self.sent_bytes += sendable;
        // What may not go yet begins the next buffer.
        let mut next = self.spares.take();
        next.extend_from_slice(&self.due[sendable as usize..]);
        let mut now = std::mem::replace(&mut self.due, next);
        now.truncate(sendable as usize);
        push_chunk(list, now);
    }

    fn reuse(&mut self, buffer: Vec<u8>) {
        self.spares.put(buffer);
    }

    fn is_sound(&mut self, message: &[u8]) -> bool {
        // Nothing in a payload but the stamp is known, and every message's stamp is read.
        message.len() >= STAMP_BYTES
    }

    fn during(&self) -> &'static str {
        if self.is_ready {
            "the run"
        } else {
            "the hello"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Flow, filler};
    use slim_proto::name::{InstanceId, Name};

    fn link(is_sender: bool) -> TcpLink {
        let name = |service: &str| Name::new("org", "ns", service).with_id(InstanceId::new(9));
        let flow = Flow {
            id: 0,
            destination: name("you"),
            fanout: 1,
        };
        let opening = Opening {
            link_id: InstanceId::new(1),
            name: name("me"),
            subscriptions: vec![name("me")],
            flows: if is_sender { vec![flow] } else { Vec::new() },
            has_mac: true,
        };
        let material = Material {
            tokens: Vec::new().into(),
            filler: filler(2_000).into(),
        };
        TcpLink::open(&opening, material)
    }

    fn feed(link: &mut TcpLink, bytes: &[u8]) -> Result<(bool, Vec<Vec<u8>>), LinkError> {
        let (mut is_ready, mut messages) = (false, Vec::new());
        let mut input = Input::new(bytes);
        while let Some(arrived) = link.next_arrival(&mut input)? {
            match arrived {
                Arrived::Ready => is_ready = true,
                Arrived::Message(message) => messages.push(message.as_ref().to_vec()),
                Arrived::Subscribed => {}
            }
        }
        Ok((is_ready, messages))
    }

    fn due(link: &mut TcpLink) -> Vec<u8> {
        let mut list = SendBuffers::new();
        link.take_due(&mut list);
        let chunks = list.chunks().iter();
        chunks.flat_map(|chunk| chunk.as_slice().to_vec()).collect()
    }

    fn stamp(payload_bytes: u32) -> Stamp {
        Stamp {
            flow: 0,
            sequence: 7,
            time_ns: 8,
            payload_bytes,
        }
    }

    #[test]
    fn a_hello_has_its_length_and_is_answered() {
        for (is_sender, word) in [
            (true, "tcp-relay 1 sends org/ns/you/"),
            (false, "tcp-relay 1 hears org/ns/me/"),
        ] {
            let mut link = link(is_sender);
            let hello = due(&mut link);
            assert_eq!((hello.len(), hello.last()), (HELLO_BYTES, Some(&b'\n')));
            assert!(hello.starts_with(word.as_bytes()));
            assert!(!feed(&mut link, &[0; 7]).unwrap().0);
            assert!(feed(&mut link, &[0]).unwrap().0);
        }
    }

    #[test]
    fn a_sender_sends_what_it_was_told_it_may() {
        let mut link = link(true);
        due(&mut link);
        link.publish(0, stamp(100));
        assert!(due(&mut link).is_empty());
        feed(&mut link, &50_u64.to_le_bytes()).unwrap();
        let mut sent = due(&mut link);
        assert_eq!((sent.len(), link.waiting_bytes()), (50, 54));
        feed(&mut link, &104_u64.to_le_bytes()).unwrap();
        sent.extend(due(&mut link));
        assert_eq!(sent[..LENGTH_BYTES], 100_u32.to_be_bytes());
        assert_eq!(Stamp::of_message(&sent[LENGTH_BYTES..]), Some(stamp(100)));
        assert!(feed(&mut link, &103_u64.to_le_bytes()).is_err());
    }

    #[test]
    fn messages_cut_anywhere_arrive_whole() {
        let mut stream = 0_u64.to_le_bytes().to_vec();
        for text in ["hello", "", "a longer one"] {
            stream.extend_from_slice(&(text.len() as u32).to_be_bytes());
            stream.extend_from_slice(text.as_bytes());
        }
        stream.extend_from_slice(&1_u32.to_be_bytes());
        stream.push(b'!');
        for piece_bytes in 1..=stream.len() {
            let mut link = link(false);
            let mut messages = Vec::new();
            for piece in stream.chunks(piece_bytes) {
                messages.extend(feed(&mut link, piece).unwrap().1);
            }
            let expected = [&b"hello"[..], b"", b"a longer one", b"!"];
            assert_eq!(messages, expected, "{piece_bytes}");
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        let mut link = link(false);
        feed(&mut link, &[0; 8]).unwrap();
        assert!(feed(&mut link, &[0xff; 4]).is_err());
    }
}
