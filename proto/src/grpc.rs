//! Messages out of DATA bytes: gRPC over HTTP/2, "Length-Prefixed-Message".
//!
//! A message that lies whole in what was read is lent, not copied; one that was cut is gathered. Memory follows the bytes
//! that have arrived, never the length that a prefix claims.

/// The largest message that either side takes (dataplane 1.5).
pub const MESSAGE_BYTES_MAX: usize = 4_194_304;

/// `flag: u8 = 0 | length: u32 big-endian`.
pub const PREFIX_BYTES: usize = 5;

/// Why a byte stream was refused. Framing cannot resynchronise, so every variant ends the stream.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum FrameError {
    /// gRPC status RESOURCE_EXHAUSTED.
    #[error("message of {declared} bytes exceeds the limit of {limit} bytes")]
    TooLarge { declared: usize, limit: usize },
    /// gRPC status INTERNAL: no compression was agreed on.
    #[error("compression flag {flag:#04x}: compressed messages are not supported")]
    Compressed { flag: u8 },
}

/// One whole message, without its prefix.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// It lay in the input in one piece.
    Whole(&'a [u8]),
    /// It was cut across inputs. The memory may be put to use again: [`Deframer::lend`].
    Assembled(Vec<u8>),
}

impl AsRef<[u8]> for Piece<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Piece::Whole(bytes) => bytes,
            Piece::Assembled(bytes) => bytes,
        }
    }
}

/// Cuts messages out of a byte stream that arrives in pieces. Between messages it owns no heap but what was lent.
#[derive(Debug)]
pub struct Deframer {
    message_bytes_max: usize,
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: u8,
    /// The cut message: `gathered` grows towards `message_bytes`.
    message_bytes: usize,
    gathered: Vec<u8>,
}

impl Default for Deframer {
    fn default() -> Self {
        Deframer::with_limit(MESSAGE_BYTES_MAX)
    }
}

impl Deframer {
    pub fn new() -> Self {
        Deframer::default()
    }

    /// - `message_bytes_max`: the largest message that is accepted, at most [`MESSAGE_BYTES_MAX`].
    pub fn with_limit(message_bytes_max: usize) -> Self {
        Deframer {
            message_bytes_max: message_bytes_max.min(MESSAGE_BYTES_MAX),
            prefix: [0; PREFIX_BYTES],
            prefix_bytes: 0,
            message_bytes: 0,
            gathered: Vec::new(),
        }
    }

    /// Cuts the next whole message off the front of `input`.
    ///
    /// - `input`: bytes in arrival order, cut anywhere. What was read is removed from it.
    /// - Returns `None` when `input` is used up.
    /// - Errors: [`FrameError`]; `input` is then of no further use.
    pub fn next_message<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Piece<'a>>, FrameError> {
        if self.prefix_bytes == 0
            && let Some((prefix, rest)) = input.split_first_chunk::<PREFIX_BYTES>()
        {
            let message_bytes = declared_bytes(prefix, self.message_bytes_max)?;
            if let Some((message, rest)) = rest.split_at_checked(message_bytes) {
                *input = rest;
                return Ok(Some(Piece::Whole(message)));
            }
        }
        self.assemble(input)
    }

    /// Bytes of an unfinished message, its prefix included.
    pub fn buffered_bytes(&self) -> usize {
        usize::from(self.prefix_bytes) + self.gathered.len()
    }

    /// Memory to gather the next cut message in, so that it need not be allocated. Let go of if one is being gathered.
    pub fn lend(&mut self, memory: Vec<u8>) {
        if self.gathered.is_empty() {
            self.gathered = memory;
            self.gathered.clear();
        }
    }

    /// The memory that was lent, unless a message is being gathered in it.
    pub fn take_back(&mut self) -> Option<Vec<u8>> {
        (self.gathered.is_empty() && self.gathered.capacity() > 0)
            .then(|| std::mem::take(&mut self.gathered))
    }

    /// Whether bytes of an unfinished message are kept: then memory that is lent would be of no use.
    pub fn is_gathering(&self) -> bool {
        !self.gathered.is_empty()
    }

    /// A stream that ends now ends inside a message.
    pub fn is_mid_message(&self) -> bool {
        self.prefix_bytes > 0
    }

    fn assemble<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, FrameError> {
        while usize::from(self.prefix_bytes) < PREFIX_BYTES {
            let Some((&byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            *input = rest;
            if let Some(slot) = self.prefix.get_mut(usize::from(self.prefix_bytes)) {
                *slot = byte;
            }
            self.prefix_bytes += 1;
            if usize::from(self.prefix_bytes) == PREFIX_BYTES {
                self.message_bytes = declared_bytes(&self.prefix, self.message_bytes_max)?;
            } else if self.prefix_bytes == 1 && byte != 0 {
                return Err(FrameError::Compressed { flag: byte });
            }
        }
        let missing_bytes = self.message_bytes.saturating_sub(self.gathered.len());
        // The prefix alone may have been cut: then the message needs no copy after all.
        if self.gathered.is_empty()
            && let Some((message, rest)) = input.split_at_checked(missing_bytes)
        {
            *input = rest;
            self.prefix_bytes = 0;
            return Ok(Some(Piece::Whole(message)));
        }
        let (part, rest) = input.split_at(missing_bytes.min(input.len()));
        *input = rest;
        self.reserve(part.len());
        self.gathered.extend_from_slice(part);
        if self.gathered.len() < self.message_bytes {
            return Ok(None);
        }
        self.prefix_bytes = 0;
        Ok(Some(Piece::Assembled(std::mem::take(&mut self.gathered))))
    }

    /// Room for `more_bytes` of the message: doubles as bytes arrive, and ends exactly at the declared length, so that a
    /// finished message moves into `Bytes` without a copy.
    fn reserve(&mut self, more_bytes: usize) {
        let needed_bytes = self.gathered.len() + more_bytes;
        if needed_bytes <= self.gathered.capacity() {
            return;
        }
        let target_bytes = needed_bytes
            .saturating_mul(2)
            .max(SMALL_MESSAGE_BYTES)
            .min(self.message_bytes);
        self.gathered
            .reserve_exact(target_bytes.max(needed_bytes) - self.gathered.len());
    }
}

/// A cut message up to this size is allocated once, whatever has arrived of it.
const SMALL_MESSAGE_BYTES: usize = 2_048;

/// The prefix of a message of `message_bytes`.
pub fn prefix(message_bytes: usize) -> [u8; PREFIX_BYTES] {
    debug_assert!(
        u32::try_from(message_bytes).is_ok(),
        "a message of {message_bytes} bytes"
    );
    let [l0, l1, l2, l3] = (message_bytes as u32).to_be_bytes();
    [0, l0, l1, l2, l3]
}

fn declared_bytes(prefix: &[u8; PREFIX_BYTES], limit: usize) -> Result<usize, FrameError> {
    let [flag, l0, l1, l2, l3] = *prefix;
    if flag != 0 {
        return Err(FrameError::Compressed { flag });
    }
    let declared = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if declared > limit {
        return Err(FrameError::TooLarge { declared, limit });
    }
    Ok(declared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        messages
            .iter()
            .flat_map(|message| [&prefix(message.len())[..], message].concat())
            .collect()
    }

    /// All messages of `pieces`, and whether nothing was left over.
    fn deframe<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(Vec<Vec<u8>>, bool), FrameError> {
        let mut deframer = Deframer::new();
        let mut messages = Vec::new();
        for mut piece in pieces {
            while let Some(message) = deframer.next_message(&mut piece)? {
                messages.push(message.as_ref().to_vec());
            }
            assert!(piece.is_empty());
        }
        Ok((messages, !deframer.is_mid_message()))
    }

    #[test]
    fn whole_messages_are_lent_from_the_input() {
        let stream = framed(&[b"one".to_vec(), vec![], b"three".to_vec()]);
        let mut input = &stream[..];
        let mut deframer = Deframer::new();
        for expected in [&b"one"[..], b"", b"three"] {
            assert_eq!(
                deframer.next_message(&mut input),
                Ok(Some(Piece::Whole(expected)))
            );
        }
        assert_eq!(deframer.next_message(&mut input), Ok(None));
        assert!(!deframer.is_mid_message());
    }

    #[test]
    fn a_message_cut_after_its_prefix_is_still_lent() {
        let stream = framed(&[b"whole".to_vec()]);
        for cut in 1..=PREFIX_BYTES {
            let (mut head, mut tail) = stream.split_at(cut);
            let mut deframer = Deframer::new();
            assert_eq!(deframer.next_message(&mut head), Ok(None));
            assert!(deframer.is_mid_message());
            assert_eq!(deframer.buffered_bytes(), cut);
            assert_eq!(
                deframer.next_message(&mut tail),
                Ok(Some(Piece::Whole(b"whole")))
            );
            assert_eq!(deframer.buffered_bytes(), 0);
        }
    }

    #[test]
    fn an_empty_message_cut_inside_its_prefix_arrives() {
        let stream = framed(&[vec![], vec![]]);
        assert_eq!(deframe(stream.chunks(1)), Ok((vec![vec![], vec![]], true)));
    }

    #[test]
    fn the_limit_is_a_message_of_four_mebibytes() {
        let mut input = &prefix(MESSAGE_BYTES_MAX)[..];
        assert_eq!(Deframer::new().next_message(&mut input), Ok(None));
        let declared = MESSAGE_BYTES_MAX + 1;
        let error = FrameError::TooLarge {
            declared,
            limit: MESSAGE_BYTES_MAX,
        };
        assert_eq!(
            Deframer::new().next_message(&mut &prefix(declared)[..]),
            Err(error)
        );
        assert_eq!(deframe(prefix(declared).chunks(1)), Err(error));
    }

    #[test]
    fn a_compressed_message_is_refused_at_its_first_byte() {
        assert_eq!(
            Deframer::new().next_message(&mut &[1][..]),
            Err(FrameError::Compressed { flag: 1 })
        );
        assert_eq!(
            Deframer::new().next_message(&mut &[2, 0, 0, 0, 0][..]),
            Err(FrameError::Compressed { flag: 2 })
        );
    }

    #[test]
    fn memory_follows_the_bytes_that_arrived_not_the_declared_length() {
        let mut deframer = Deframer::new();
        assert_eq!(
            deframer.next_message(&mut &prefix(MESSAGE_BYTES_MAX)[..]),
            Ok(None)
        );
        assert_eq!(deframer.gathered.capacity(), 0);
        assert_eq!(deframer.next_message(&mut &[7; 10][..]), Ok(None));
        assert!(deframer.gathered.capacity() <= SMALL_MESSAGE_BYTES);
        assert_eq!(deframer.next_message(&mut &[7; 100_000][..]), Ok(None));
        assert!(deframer.gathered.capacity() <= 2 * 100_010);
        let rest = vec![7; MESSAGE_BYTES_MAX - 100_010];
        let Ok(Some(Piece::Assembled(message))) = deframer.next_message(&mut &rest[..]) else {
            panic!()
        };
        assert_eq!(message.len(), MESSAGE_BYTES_MAX);
        // What becomes a shared message must not be copied for it.
        assert_eq!(message.capacity(), MESSAGE_BYTES_MAX);
        assert_eq!(deframer.gathered.capacity(), 0);
    }

    #[test]
    fn a_cut_message_is_gathered_in_what_was_lent_and_nothing_else() {
        let stream = framed(&[vec![7; 1_000]]);
        for cut in 1..stream.len() {
            let (mut head, mut tail) = stream.split_at(cut);
            let mut deframer = Deframer::new();
            let memory = Vec::with_capacity(1_000);
            let lent_at = memory.as_ptr();
            deframer.lend(memory);
            assert_eq!(deframer.next_message(&mut head), Ok(None));
            let kept = deframer.take_back();
            if cut <= PREFIX_BYTES {
                deframer.lend(kept.expect("none of the message has come"));
            } else {
                assert_eq!(kept, None);
                // There is one already.
                deframer.lend(Vec::new());
            }
            match deframer.next_message(&mut tail) {
                Ok(Some(Piece::Assembled(message))) => assert_eq!(message.as_ptr(), lent_at),
                Ok(Some(Piece::Whole(message))) => {
                    assert_eq!((message.len(), cut <= 5), (1_000, true))
                }
                other => panic!("{other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_cut_of_a_stream_gives_the_same_messages(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            piece_bytes in 1_usize..64,
        ) {
            let stream = framed(&messages);
            prop_assert_eq!(deframe(stream.chunks(piece_bytes)), Ok((messages, true)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(stream in prop::collection::vec(any::<u8>(), 0..200), piece_bytes in 1_usize..20) {
            let _ = deframe(stream.chunks(piece_bytes));
        }
    }
}
