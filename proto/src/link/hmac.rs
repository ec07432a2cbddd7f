//! HMAC-SHA256 (RFC 2104) for messages that resemble each other.
//!
//! What the tags of one link are computed over differs little from message to message: the names at its beginning stay,
//! the token after them changes with a client's every batch, or every hour. So the hash is kept where the
//! last message began to differ from the one before it, and the next one is hashed from there. The compression function is that of
//! `sha2`; only the order in which blocks reach it is ours.

use sha2::block_api::compress256;

use crate::route_header::TAG_BYTES;

pub(super) const BLOCK_BYTES: usize = 64;

/// Blocks of the last message that are kept. A longer message is hashed from its beginning.
const KEPT_BLOCKS_MAX: usize = 32;

/// FIPS 180-4, 5.3.3.
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

type State = [u32; 8];

/// A key, and what every message under it begins with.
#[derive(Clone)]
pub(super) struct Key {
    /// After the inner pad and the whole blocks of the beginning.
    inner: State,
    /// After the outer pad.
    outer: State,
    /// Bytes hashed into `inner`.
    inner_bytes: u64,
    /// The rest of the beginning.
    start: [u8; BLOCK_BYTES],
    start_bytes: u8,
}

impl Key {
    pub fn new(key: &[u8; 32], beginning: &[u8]) -> Self {
        let pad = |byte: u8| {
            let mut block = [byte; BLOCK_BYTES];
            for (padded, key) in block.iter_mut().zip(key) {
                *padded ^= key;
            }
            block
        };
        let (mut inner, mut outer) = (INITIAL, INITIAL);
        compress256(&mut inner, &[pad(0x36)]);
        compress256(&mut outer, &[pad(0x5C)]);
        let (blocks, rest) = beginning.as_chunks::<BLOCK_BYTES>();
        compress256(&mut inner, blocks);
        let mut start = [0; BLOCK_BYTES];
        start[..rest.len()].copy_from_slice(rest);
        Self {
            inner,
            outer,
            inner_bytes: (BLOCK_BYTES * (1 + blocks.len())) as u64,
            start,
            start_bytes: rest.len() as u8,
        }
    }

    /// What is left to hash of the beginning; less than a block.
    pub fn start(&self) -> &[u8] {
        &self.start[..usize::from(self.start_bytes)]
    }

    /// Makes whole blocks of the rest of a message, by SHA-256's padding.
    ///
    /// - `message`: from its [`Key::start`] on, beginning at `from`; the padding is appended.
    pub fn pad(&self, message: &mut Vec<u8>, from: usize) {
        let bytes = message.len() - from;
        let bits = (self.inner_bytes + bytes as u64) * 8;
        let zeros = (2 * BLOCK_BYTES - 1 - 8 - bytes % BLOCK_BYTES) % BLOCK_BYTES;
        message.push(0x80);
        message.extend_from_slice(&[0; BLOCK_BYTES][..zeros]);
        message.extend_from_slice(&bits.to_be_bytes());
    }

    fn finish(&self, inner: State) -> [u8; TAG_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[..TAG_BYTES].copy_from_slice(&to_bytes(inner));
        block[TAG_BYTES] = 0x80;
        let bits = (BLOCK_BYTES + TAG_BYTES) as u64 * 8;
        block[BLOCK_BYTES - 8..].copy_from_slice(&bits.to_be_bytes());
        let mut outer = self.outer;
        compress256(&mut outer, &[block]);
        to_bytes(outer)
    }
}

fn to_bytes(state: State) -> [u8; TAG_BYTES] {
    let mut bytes = [0; TAG_BYTES];
    for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    bytes
}

/// The last message under one key, and the hash where the one before it ceased to be like it. Its memory grows to the
/// longest message seen, and is 2 KiB at most.
#[derive(Clone, Default)]
pub(super) struct Trail {
    /// The message, in whole blocks.
    last: Vec<u8>,
    /// After so many blocks of it ...
    known_blocks: usize,
    /// ... this is the hash. Messages that change from one place on are hashed from there, in one go.
    known: Option<State>,
    tag: [u8; TAG_BYTES],
}

impl Trail {
    /// The tag of a message.
    ///
    /// - `key`: the same at every call.
    /// - `message`: whole blocks, at least one; see [`Key::pad`].
    pub fn tag(&mut self, key: &Key, message: &[u8]) -> [u8; TAG_BYTES] {
        let (blocks, rest) = message.as_chunks::<BLOCK_BYTES>();
        debug_assert!(rest.is_empty(), "padded to whole blocks");
        if blocks.len() > KEPT_BLOCKS_MAX {
            let mut state = key.inner;
            compress256(&mut state, blocks);
            return key.finish(state);
        }
        let (last, _) = self.last.as_chunks::<BLOCK_BYTES>();
        let same = last
            .iter()
            .zip(blocks)
            .take_while(|(last, now)| last == now)
            .count();
        if same == blocks.len() && same == last.len() {
            return self.tag;
        }
        let (mut state, from) = match self.known {
            Some(state) if self.known_blocks <= same => (state, self.known_blocks),
            _ => (key.inner, 0),
        };
        compress256(&mut state, &blocks[from..same]);
        (self.known, self.known_blocks) = (Some(state), same);
        compress256(&mut state, &blocks[same..]);
        let kept = same * BLOCK_BYTES;
        self.last.truncate(kept);
        self.last.reserve_exact(message.len() - kept);
        self.last.extend_from_slice(&message[kept..]);
        self.tag = key.finish(state);
        self.tag
    }
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use proptest::prelude::*;
    use sha2::Sha256;

    use super::*;

    fn ours(trail: &mut Trail, key: &Key, rest: &[u8]) -> [u8; TAG_BYTES] {
        let mut message = key.start().to_vec();
        message.extend_from_slice(rest);
        key.pad(&mut message, 0);
        trail.tag(key, &message)
    }

    fn theirs(key: &[u8; 32], beginning: &[u8], rest: &[u8]) -> [u8; TAG_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(beginning);
        mac.update(rest);
        mac.finalize().into_bytes().into()
    }

    #[test]
    fn every_length_around_a_block_gives_the_tag_of_the_hmac_crate() {
        let bytes: Vec<u8> = (0..KEPT_BLOCKS_MAX * BLOCK_BYTES + 300)
            .map(|index| (index * 7 % 251) as u8)
            .collect();
        for beginning in [0, 1, 55, 56, 63, 64, 65, 200] {
            let key = Key::new(&[0x61; 32], &bytes[..beginning]);
            let mut trail = Trail::default();
            for length in (0..200).chain(1_900..bytes.len()) {
                let rest = &bytes[..length];
                let expected = theirs(&[0x61; 32], &bytes[..beginning], rest);
                assert_eq!(ours(&mut trail, &key, rest), expected, "{length}");
                assert_eq!(ours(&mut trail, &key, rest), expected, "{length} again");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_came_before_the_tag_is_that_of_the_hmac_crate(
            secret in any::<[u8; 32]>(),
            beginning in proptest::collection::vec(any::<u8>(), 0..150),
            base in proptest::collection::vec(any::<u8>(), 0..700),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..700), 1..12),
        ) {
            let key = Key::new(&secret, &beginning);
            let mut trail = Trail::default();
            let mut message = base;
            for (place, byte, length) in changes {
                message.resize(length, byte);
                if !message.is_empty() {
                    let place = place.index(message.len());
                    message[place] ^= byte;
                }
                prop_assert_eq!(ours(&mut trail, &key, &message), theirs(&secret, &beginning, &message));
            }
        }
    }
}
