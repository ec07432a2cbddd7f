//! What a completion belongs to, packed into the 64 bits that the kernel carries from submission to completion.

/// Which operation completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    /// Multishot receive of a socket.
    Receive = 1,
    /// The one send in flight of a socket.
    Send,
    /// Cancels a socket's receive and send.
    CancelSocket,
    /// Multishot poll of the epoll that watches all listeners.
    ListenerPoll,
    /// The read of the ring's own eventfd.
    EventfdRead,
    /// A message from another ring; no submission of ours belongs to it.
    Message,
    /// Our message to another ring (`index`: the peer). Completes only when it failed.
    MessagePeer,
    /// Cancels everything, when the ring is dropped.
    CancelAll,
    /// Sets TCP_QUICKACK of a socket. Completes only when it failed.
    Acknowledge,
}

impl Operation {
    /// Whether exactly one last completion comes, which the ring waits for before it lets go of anything.
    pub(crate) fn always_completes(self) -> bool {
        !matches!(
            self,
            Operation::Message | Operation::MessagePeer | Operation::Acknowledge
        )
    }
}

/// `operation: 8 bits | generation: 24 bits | index: 32 bits`, most significant first.
///
/// 24 bits of the generation are plenty: a slot is not reused while an operation of its former user is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) operation: Operation,
    generation: u32,
    pub(crate) index: u32,
}

const GENERATION_MASK: u32 = 0x00FF_FFFF;

impl Tag {
    pub(crate) const fn new(operation: Operation, index: u32, generation: u32) -> Tag {
        Tag {
            operation,
            generation: generation & GENERATION_MASK,
            index,
        }
    }

    /// A tag of something that the ring has only one of.
    pub(crate) const fn single(operation: Operation) -> Tag {
        Tag::new(operation, 0, 0)
    }

    pub(crate) const fn is_of(self, generation: u32) -> bool {
        self.generation == generation & GENERATION_MASK
    }

    pub(crate) const fn to_u64(self) -> u64 {
        (self.operation as u64) << 56 | (self.generation as u64) << 32 | self.index as u64
    }

    pub(crate) const fn from_u64(packed: u64) -> Option<Tag> {
        let operation = match (packed >> 56) as u8 {
            1 => Operation::Receive,
            2 => Operation::Send,
            3 => Operation::CancelSocket,
            4 => Operation::ListenerPoll,
            5 => Operation::EventfdRead,
            6 => Operation::Message,
            7 => Operation::MessagePeer,
            8 => Operation::CancelAll,
            9 => Operation::Acknowledge,
            _ => return None,
        };
        Some(Tag {
            operation,
            generation: (packed >> 32) as u32 & GENERATION_MASK,
            index: packed as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_survives_packing() {
        use Operation::*;
        for operation in [
            Receive,
            Send,
            CancelSocket,
            ListenerPoll,
            EventfdRead,
            Message,
            MessagePeer,
            CancelAll,
            Acknowledge,
        ] {
            for (index, generation) in [(0, 0), (u32::MAX, 0), (3, GENERATION_MASK), (9, u32::MAX)]
            {
                let tag = Tag::from_u64(Tag::new(operation, index, generation).to_u64()).unwrap();
                assert_eq!((tag.operation, tag.index), (operation, index));
                assert!(tag.is_of(generation));
                assert!(!tag.is_of(generation.wrapping_add(1)));
            }
        }
        assert_eq!(Tag::from_u64(0), None);
        assert_eq!(Tag::from_u64(u64::MAX), None);
    }
}
