//! The header MAC (dataplane 5.5).

use subtle::ConstantTimeEq as _;

use super::LinkKey;
use super::hmac::{BLOCK_BYTES, Key, Trail};
use crate::route_header::{self, DecodeError, Kind, NameParts, Parsed, RouteHeader, TAG_BYTES};

/// First part of every preimage.
const DOMAIN: &[u8; 15] = b"SLIM-DP-HDR-v1\0";

/// Computes and checks the tags of one link.
///
/// It remembers the last header of either direction, and the tag of one that is like it costs a part of the time, or none.
/// Less than 400 bytes, and on the heap what the two headers took: 2 KiB each at most (see [`Trail`]).
#[derive(Clone)]
pub struct LinkMac {
    key: Key,
    received: Trail,
    sent: Trail,
}

// One for each connection, in the connection's own memory.
const _: () = assert!(size_of::<LinkMac>() <= 384);

impl LinkMac {
    pub fn new(key: &LinkKey, link_id: &str) -> Self {
        let mut beginning = Vec::with_capacity(DOMAIN.len() + 4 + link_id.len());
        beginning.extend_from_slice(DOMAIN);
        beginning.extend_from_slice(&(link_id.len() as u32).to_le_bytes());
        beginning.extend_from_slice(link_id.as_bytes());
        Self {
            key: Key::new(key.bytes(), &beginning),
            received: Trail::default(),
            sent: Trail::default(),
        }
    }

    /// The tag to send with a message that leaves with this ttl.
    pub fn tag(&mut self, preimage: &mut Preimage, ttl: u32) -> [u8; TAG_BYTES] {
        self.sent.tag(&self.key, preimage.of(&self.key, ttl))
    }

    /// Whether `tag` belongs to a message that arrived with this ttl; in constant time.
    pub fn verify(&mut self, preimage: &mut Preimage, ttl: u32, tag: &[u8]) -> bool {
        let expected = self.received.tag(&self.key, preimage.of(&self.key, ttl));
        is_equal(&expected, tag)
    }

    /// What the tag of a received message is worth.
    ///
    /// - `preimage`: of this message.
    pub fn check(
        &mut self,
        preimage: &mut Preimage,
        message: &[u8],
        header: &RouteHeader,
    ) -> TagState {
        match header.tag(message) {
            None => TagState::Absent,
            Some([]) => TagState::Empty,
            Some(tag) if self.verify(preimage, header.ttl, tag) => TagState::Valid,
            Some(_) => TagState::Wrong,
        }
    }
}

/// In constant time: one comparison of all bits at the end.
fn is_equal(expected: &[u8; TAG_BYTES], tag: &[u8]) -> bool {
    let Ok(tag) = <&[u8; TAG_BYTES]>::try_from(tag) else {
        return false;
    };
    let words = |tag: &[u8; TAG_BYTES]| {
        let (words, _) = tag.as_chunks::<8>();
        [words[0], words[1], words[2], words[3]].map(u64::from_ne_bytes)
    };
    let differing = words(expected)
        .iter()
        .zip(words(tag))
        .fold(0, |bits, (one, other)| bits | (one ^ other));
    differing.ct_eq(&0).into()
}

impl std::fmt::Debug for LinkMac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkMac(..)")
    }
}

/// What a tag is computed over, without the parts that differ between the links of one message: its
/// start (domain, link id) and its end (ttl). Built once for a message, used to verify it and for
/// every receiver of a fan-out. Reused from message to message; its memory grows to the longest header
/// seen.
#[derive(Clone, Debug)]
pub struct Preimage {
    /// Room for a link's start, the body, a link's end.
    bytes: Vec<u8>,
    body_end: usize,
}

/// Where the body begins.
const BODY: usize = BLOCK_BYTES;

impl Default for Preimage {
    fn default() -> Self {
        Self {
            bytes: vec![0; BODY],
            body_end: BODY,
        }
    }
}

impl Preimage {
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the content.
    ///
    /// - `message`: the one that `header` was parsed from. A message that was rewritten for forwarding
    ///   needs a preimage of its own.
    pub fn build(&mut self, message: &[u8], header: &RouteHeader) {
        self.bytes.truncate(BODY);
        self.put_name(message, &header.source);
        self.put_name(message, &header.destination_parts);
        self.put_bytes(header.identity.of(message));
        self.bytes
            .extend_from_slice(&header.fanout_raw.to_le_bytes());
        self.put_optional(header.recv_from.map(u64::to_le_bytes));
        self.put_optional(header.forward_to.map(u64::to_le_bytes));
        self.put_optional(header.error.map(|error| [u8::from(error)]));
        self.body_end = self.bytes.len();
    }

    /// The whole of it for one link, in the blocks that remain to be hashed.
    fn of(&mut self, key: &Key, ttl: u32) -> &[u8] {
        let start = key.start();
        let from = BODY - start.len();
        self.bytes[from..BODY].copy_from_slice(start);
        self.bytes.truncate(self.body_end);
        self.bytes.extend_from_slice(&ttl.to_le_bytes());
        key.pad(&mut self.bytes, from);
        &self.bytes[from..]
    }

    fn put_name(&mut self, message: &[u8], name: &NameParts) {
        // Flags: the Name is present, its encoded form is. Without them there is no RouteHeader.
        let mut fixed = [1u8; 2 + 24 + 1 + 16 + 1];
        let [c0, c1, c2] = name.route.prefix.map(u64::to_le_bytes);
        fixed[2..10].copy_from_slice(&c0);
        fixed[10..18].copy_from_slice(&c1);
        fixed[18..26].copy_from_slice(&c2);
        fixed[26] = u8::from(name.id_present);
        let mut end = 27;
        if name.id_present {
            let (high, low) = name.route.id.halves();
            fixed[27..35].copy_from_slice(&high.to_le_bytes());
            fixed[35..43].copy_from_slice(&low.to_le_bytes());
            end = 43;
        }
        fixed[end] = u8::from(name.text_present);
        self.bytes.extend_from_slice(&fixed[..=end]);
        if name.text_present {
            for part in name.text {
                self.put_bytes(part.of(message));
            }
        }
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.bytes
            .extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    fn put_optional<const N: usize>(&mut self, value: Option<[u8; N]>) {
        match value {
            Some(bytes) => {
                self.bytes.push(1);
                self.bytes.extend_from_slice(&bytes);
            }
            None => self.bytes.push(0),
        }
    }
}

/// The tag of a received message. On a link without a key nothing verifies, so any tag that is not
/// empty is `Wrong` there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagState {
    Valid,
    /// Another tag, or not 32 bytes.
    Wrong,
    Absent,
    /// Present with no bytes.
    Empty,
}

impl TagState {
    /// On a link without a key.
    pub fn unkeyed(message: &[u8], header: &RouteHeader) -> Self {
        match header.tag(message) {
            None => Self::Absent,
            Some([]) => Self::Empty,
            Some(_) => Self::Wrong,
        }
    }
}

/// What a node makes of unsigned messages: `require_header_mac` in the configuration of existing nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacPolicy {
    Strict,
    Lax,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// Drop the message and count it. The stream lives on, and there is no ack.
    Drop,
}

/// Whether a message received on a Remote or Edge link is taken (the table of dataplane 5.5). Peer
/// links are not asked.
pub fn verdict(kind: Kind, has_key: bool, tag: TagState, policy: MacPolicy) -> Verdict {
    use TagState::{Absent, Empty, Valid, Wrong};

    let lax_subscription = policy == MacPolicy::Lax && kind != Kind::Publish;
    let accept = match (has_key, tag) {
        (true, Valid) => true,
        (true, Wrong) => false,
        (true, Absent | Empty) => lax_subscription,
        // A strict link without a key is never opened; were there one, nothing on it could be checked.
        (false, Absent | Empty) => policy == MacPolicy::Lax,
        (false, Valid | Wrong) => lax_subscription,
    };
    if accept {
        Verdict::Accept
    } else {
        Verdict::Drop
    }
}

/// Why a message cannot be signed: it is our own, so this is a defect of whoever built it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("neither a complete Subscribe, Unsubscribe nor Publish")]
    NotRouted,
}

/// Signs a message as its originator: the tag is set, or added where there is none, and the ttl stays.
/// For dialers; a router patches instead.
pub fn sign_message(mac: &mut LinkMac, message: &[u8]) -> Result<Vec<u8>, SignError> {
    let (mut message, mut header) = match route_header::parse(message)? {
        Parsed::Routed(header) => (message.to_vec(), header),
        Parsed::NeedsMerge => {
            let merged = route_header::merge(message)?;
            let header = routed(&merged)?;
            (merged, header)
        }
        _ => return Err(SignError::NotRouted),
    };
    if !header.is_patchable() {
        message = header.rewrite_for_forwarding(&message)?;
        header = routed(&message)?;
    }
    let mut preimage = Preimage::new();
    preimage.build(&message, &header);
    header.patch_tag(&mut message, &mac.tag(&mut preimage, header.ttl));
    Ok(message)
}

fn routed(message: &[u8]) -> Result<RouteHeader, SignError> {
    match route_header::parse(message)? {
        Parsed::Routed(header) => Ok(header),
        _ => Err(SignError::NotRouted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdicts_are_those_of_the_table() {
        use Kind::{Publish, Subscribe, Unsubscribe};
        use MacPolicy::{Lax, Strict};
        use TagState::{Absent, Empty, Valid, Wrong};
        use Verdict::{Accept, Drop};

        // key, tag, policy, publish, subscribe and unsubscribe
        let rows = [
            (true, Valid, Strict, Accept, Accept),
            (true, Valid, Lax, Accept, Accept),
            (true, Wrong, Strict, Drop, Drop),
            (true, Wrong, Lax, Drop, Drop),
            (true, Absent, Strict, Drop, Drop),
            (true, Empty, Strict, Drop, Drop),
            (true, Absent, Lax, Drop, Accept),
            (true, Empty, Lax, Drop, Accept),
            (false, Absent, Lax, Accept, Accept),
            (false, Empty, Lax, Accept, Accept),
            (false, Wrong, Lax, Drop, Accept),
            (false, Absent, Strict, Drop, Drop),
            (false, Empty, Strict, Drop, Drop),
            (false, Wrong, Strict, Drop, Drop),
        ];
        for (has_key, tag, policy, publish, subscription) in rows {
            assert_eq!(
                verdict(Publish, has_key, tag, policy),
                publish,
                "{has_key} {tag:?} {policy:?}"
            );
            for kind in [Subscribe, Unsubscribe] {
                assert_eq!(
                    verdict(kind, has_key, tag, policy),
                    subscription,
                    "{has_key} {tag:?} {policy:?}"
                );
            }
        }
    }
}
