//! Publishes that wait, in order, for what holds their publisher back.
//!
//! A publisher that is faster than its receivers is held most of the time, so most of its messages come through here: no
//! allocation for each, and what was read of a header is kept.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use slim_proto::route_header::RouteHeader;

use crate::limits;

#[derive(Default)]
pub struct Parked {
    messages: VecDeque<Message>,
    /// What small messages are copied to the end of. A whole chunk lives as long as one message in it.
    chunk: BytesMut,
}

pub struct Message {
    pub bytes: Bytes,
    pub header: RouteHeader,
}

impl Message {
    /// What a parked message takes beside its bytes.
    pub const OVERHEAD_BYTES: usize = size_of::<Message>();
}

impl Parked {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// What all messages take.
    pub fn bytes(&self) -> usize {
        self.messages
            .iter()
            .map(|message| message.bytes.len() + Message::OVERHEAD_BYTES)
            .sum()
    }

    /// - `shared`: the same bytes, if they can be shared.
    pub fn push(&mut self, message: &[u8], shared: Option<&Bytes>, header: RouteHeader) {
        let bytes = match shared {
            Some(shared) => shared.clone(),
            None => {
                if self.chunk.capacity() < message.len() {
                    let bytes = message.len().max(limits::PARKED_CHUNK_BYTES);
                    self.chunk = BytesMut::with_capacity(bytes);
                }
                self.chunk.extend_from_slice(message);
                self.chunk.split().freeze()
            }
        };
        self.messages.push_back(Message { bytes, header });
    }

    /// The oldest. The last one takes all memory along: an idle connection keeps none for what it once had waiting.
    pub fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front();
        if self.messages.is_empty() {
            *self = Self::default();
        }
        message
    }

    /// Makes the newest the oldest: it was popped and must wait once more, before those that came after it.
    pub fn put_back_newest(&mut self) {
        self.messages.rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slim_proto::message::wire::{self, Wire as _};
    use slim_proto::name::{InstanceId, Name};
    use slim_proto::route_header::{Parsed, parse};

    fn message(number: u8) -> (Vec<u8>, RouteHeader) {
        let name = Name::new("org", "ns", "app").with_id(InstanceId::new(9));
        let publish = wire::Publish {
            header: Some(wire::SlimHeader {
                source: Some(name.to_wire()),
                destination: Some(name.to_wire()),
                fanout: 1,
                ttl: 8,
                ..Default::default()
            }),
            session: Some(wire::SessionHeader {
                session_id: u32::from(number) + 1,
                ..Default::default()
            }),
            msg: Some(wire::Content {
                content_type: Some(wire::content::ContentType::AppPayload(
                    wire::ApplicationPayload::default(),
                )),
            }),
        };
        let message = wire::Message {
            message_type: Some(wire::message::MessageType::Publish(publish)),
            metadata: Default::default(),
        };
        let bytes = message.encode_to_vec();
        let Ok(Parsed::Routed(header)) = parse(&bytes) else {
            panic!("a routed message")
        };
        (bytes, header)
    }

    #[test]
    fn messages_leave_in_order_whether_copied_or_shared() {
        let mut parked = Parked::default();
        let all: Vec<_> = (0..200).map(message).collect();
        for (number, (bytes, header)) in all.iter().enumerate() {
            let shared = (number % 3 == 0).then(|| Bytes::copy_from_slice(bytes));
            parked.push(bytes, shared.as_ref(), *header);
        }
        assert_eq!(
            parked.bytes(),
            all.iter()
                .map(|(bytes, _)| bytes.len() + Message::OVERHEAD_BYTES)
                .sum::<usize>()
        );
        for (bytes, header) in &all {
            let popped = parked.pop().unwrap();
            assert_eq!((&popped.bytes[..], popped.header), (&bytes[..], *header));
        }
        assert!(parked.pop().is_none());
    }

    #[test]
    fn one_that_must_wait_again_is_the_next() {
        let mut parked = Parked::default();
        for number in 0..3 {
            let (bytes, header) = message(number);
            parked.push(&bytes, None, header);
        }
        let first = parked.pop().unwrap();
        parked.push(&first.bytes, Some(&first.bytes), first.header);
        parked.put_back_newest();
        let order: Vec<Bytes> = std::iter::from_fn(|| parked.pop().map(|m| m.bytes)).collect();
        let expected: Vec<Vec<u8>> = (0..3).map(|number| message(number).0).collect();
        assert_eq!(order, expected);
    }

    #[test]
    fn what_is_empty_keeps_no_memory() {
        let mut parked = Parked::default();
        for number in 0..100 {
            let (bytes, header) = message(number);
            parked.push(&bytes, None, header);
        }
        while parked.pop().is_some() {}
        assert_eq!(
            (parked.messages.capacity(), parked.chunk.capacity()),
            (0, 0)
        );
    }
}
