//! What a router must know of a message, read and validated in one pass, without decoding it.
//!
//! A router that does not decode still owes its receivers decodable messages: one that does not decode
//! costs a receiver its link. So [`parse`] checks the whole message as strictly as prost does (wire
//! types, lengths, varints, UTF-8, groups; dataplane 6.2 "Validation duty") and keeps what routing and
//! the MAC need. It allocates nothing. After it nothing can fail.
//!
//! Protobuf lets an encoder split or repeat what should occur once; a receiver merges it. Messages of
//! that sort are put straight by [`merge`] first, so that the header a router acts on is the one its
//! receivers see.

mod canonical;
mod merge;
mod reader;
mod rewrite;
mod scan;
mod shape;

use std::fmt;

use crate::name::{InstanceId, RouteName};
pub use merge::merge;
pub use reader::Span;
use reader::{FaultAt, Reader};
use scan::{Outcome, scan};

/// Bytes of `SLIMHeader.header_mac` (dataplane 5.5).
pub const TAG_BYTES: usize = 32;

/// Which of the three routed messages it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Subscribe,
    Unsubscribe,
    Publish,
}

/// How many receivers a publish is for: field `fanout` is 1 for one, and any other number, zero too,
/// for all (dataplane 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fanout {
    One,
    All,
}

/// What a whole, well-formed message is to a router.
// Nearly every message is routed, and a box would be an allocation for each.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    Routed(RouteHeader),
    /// Belongs to the link itself, and is read by [`crate::link`]; the span is that of the `Link`.
    Link(Span),
    SubscriptionAck(SubscriptionAck),
    /// Something occurs twice, or not where every known encoder puts it. Pass the message through
    /// [`merge`] and parse the result, which is never this again.
    NeedsMerge,
    /// A part is missing without which the message means nothing (dataplane 2.1). Drop it, count it;
    /// the stream lives on.
    Incomplete {
        missing: Missing,
    },
    /// No member of the envelope that we know: empty, or of a later protocol. Drop it, count it.
    Unknown,
}

/// The part that an [`Parsed::Incomplete`] message lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Header,
    Source,
    SourceName,
    Destination,
    DestinationName,
    Session,
}

/// Answer to a Subscribe or Unsubscribe of ours (dataplane 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionAck {
    pub subscription_id: u64,
    pub success: bool,
    /// Where the error text is; empty on success.
    pub error: Span,
}

/// Why a message cannot be decoded, by us or by any receiver. Whoever sent it is broken or hostile:
/// close the stream, as existing nodes do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{fault} at byte {offset}, in {path}")]
pub struct DecodeError {
    pub fault: Fault,
    /// From the front of the message.
    pub offset: usize,
    /// The field, as `Message.publish.header.identity`.
    pub path: String,
}

/// What is wrong at the place that a [`DecodeError`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A value runs past the end of what contains it.
    Truncated,
    /// A varint has more than 64 bits.
    Varint,
    /// Field number 0, a key above 32 bits, or a wire type that does not exist.
    Key,
    /// A known field with the wire type of another.
    WireType,
    /// A string is not UTF-8.
    Utf8,
    /// A group that does not end, or ends without a start.
    Group,
    /// Groups nested deeper than 64.
    Nesting,
    /// 4 GiB or longer.
    TooLong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "truncated value",
            Self::Varint => "varint of more than 64 bits",
            Self::Key => "impossible field key",
            Self::WireType => "wrong wire type",
            Self::Utf8 => "invalid UTF-8",
            Self::Group => "unbalanced group",
            Self::Nesting => "groups nested too deeply",
            Self::TooLong => "message too long",
        })
    }
}

impl DecodeError {
    #[cold]
    fn locate(message: &[u8], bad: FaultAt) -> Self {
        Self {
            fault: bad.fault,
            offset: bad.at,
            path: shape::path(message, bad.at),
        }
    }
}

/// The routing header of one message, and where in the message its parts are.
///
/// Valid for the message it was parsed from and for copies of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteHeader {
    pub kind: Kind,
    /// An absent id reads as NULL here.
    pub destination: RouteName,
    /// Absent and NULL route alike but are different subscription keys (trap T19).
    pub destination_id_present: bool,
    pub fanout: Fanout,
    /// As received. 0 and 1 have no hop left.
    pub ttl: u32,
    /// 0 on a Publish, and where no acknowledgement is asked for.
    pub subscription_id: u64,

    pub(crate) source: NameParts,
    pub(crate) destination_parts: NameParts,
    pub(crate) identity: Span,
    pub(crate) fanout_raw: u32,
    pub(crate) recv_from: Option<u64>,
    pub(crate) forward_to: Option<u64>,
    pub(crate) error: Option<bool>,
    tag: Option<Span>,
    /// The varint, without its key; empty if the field is absent.
    ttl_value: Span,
    /// Subscribe, Unsubscribe or Publish, without key and length. It starts with the header.
    member: Span,
    /// The SLIMHeader, without key and length.
    header: Span,
}

/// One Name as the MAC sees it. The strings are empty spans if absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameParts {
    pub route: RouteName,
    pub id_present: bool,
    pub text_present: bool,
    pub text: [Span; 3],
    /// The whole Name, without key and length.
    pub body: Span,
}

impl Default for NameParts {
    fn default() -> Self {
        Self::BLANK
    }
}

impl NameParts {
    const BLANK: Self = Self {
        route: RouteName {
            prefix: [0; 3],
            id: InstanceId::NULL,
        },
        id_present: false,
        text_present: false,
        text: [Span::BLANK; 3],
        body: Span::BLANK,
    };
}

/// Validates the whole message and reads its header.
///
/// - `message`: one protobuf `Message`, without any framing.
/// - Errors: [`DecodeError`], in every case in which a receiver's decoder fails (and in one where
///   prost is lax: a metadata entry that claims another wire type).
pub fn parse(message: &[u8]) -> Result<Parsed, DecodeError> {
    parse_like(message, None)
}

/// As [`parse`], for a message of a sender whose last one is known: most have the same names.
///
/// - `last`: of this sender. It is replaced if the names are others.
pub fn parse_next(message: &[u8], last: &mut LastNames) -> Result<Parsed, DecodeError> {
    let parsed = parse_like(message, Some(last))?;
    if let Parsed::Routed(header) = &parsed {
        last.remember(message, header);
    }
    Ok(parsed)
}

fn parse_like(message: &[u8], last: Option<&LastNames>) -> Result<Parsed, DecodeError> {
    // Filled in place, because it is too large to hand up from call to call.
    let mut header = RouteHeader::BLANK;
    match scan(message, last, &mut header) {
        Ok(Outcome::Routed) => Ok(Parsed::Routed(header)),
        Ok(Outcome::Link(span)) => Ok(Parsed::Link(span)),
        Ok(Outcome::SubscriptionAck(ack)) => Ok(Parsed::SubscriptionAck(ack)),
        Ok(Outcome::NeedsMerge) => Ok(Parsed::NeedsMerge),
        Ok(Outcome::Incomplete(missing)) => Ok(Parsed::Incomplete { missing }),
        Ok(Outcome::Unknown) => Ok(Parsed::Unknown),
        Err(bad) => Err(DecodeError::locate(message, bad)),
    }
}

/// Longest pair of names that [`LastNames`] keeps, in bytes.
const LAST_NAMES_BYTES_MAX: usize = 512;

/// The two names of a sender's last message, as its header began with them, and what they were read to mean.
#[derive(Debug, Default)]
pub struct LastNames {
    /// Source and destination with their keys; empty if nothing is known.
    bytes: Vec<u8>,
    /// Where the header began, for the meanings hold offsets.
    at: usize,
    source: NameParts,
    destination: NameParts,
}

impl LastNames {
    /// Whether a header begins with just these names.
    #[inline]
    fn lead(&self, header: &Reader<'_>) -> bool {
        let front = header.rest().of(header.message());
        header.at() == self.at && !self.bytes.is_empty() && front.starts_with(&self.bytes)
    }

    #[inline]
    fn remember(&mut self, message: &[u8], header: &RouteHeader) {
        let at = header.header.start as usize;
        let Some(pair) = message.get(at..header.destination_parts.body.end as usize) else {
            return;
        };
        if at == self.at && pair == self.bytes {
            return;
        }
        // Nothing but the two names, the source first: a key and a length of one or two bytes each.
        let source = header.source.body;
        let between = header.destination_parts.body.start.wrapping_sub(source.end);
        let is_pair = pair.first() == Some(&0x0A)
            && matches!(source.start.wrapping_sub(at as u32), 2 | 3)
            && message.get(source.end as usize) == Some(&0x12)
            && matches!(between, 2 | 3)
            && pair.len() <= LAST_NAMES_BYTES_MAX;
        self.bytes.clear();
        if is_pair {
            self.bytes.extend_from_slice(pair);
            self.at = at;
            self.source = header.source;
            self.destination = header.destination_parts;
        }
    }
}

impl RouteHeader {
    const BLANK: Self = Self {
        kind: Kind::Publish,
        destination: NameParts::BLANK.route,
        destination_id_present: false,
        fanout: Fanout::All,
        ttl: 0,
        subscription_id: 0,
        source: NameParts::BLANK,
        destination_parts: NameParts::BLANK,
        identity: Span::BLANK,
        fanout_raw: 0,
        recv_from: None,
        forward_to: None,
        error: None,
        tag: None,
        ttl_value: Span::BLANK,
        member: Span::BLANK,
        header: Span::BLANK,
    };

    /// The sender's name; an absent id reads as NULL.
    pub fn source(&self) -> RouteName {
        self.source.route
    }

    /// The destination as an encoded `Name` message: what a router keeps of a subscription, to build
    /// messages about it later, strings and all.
    pub fn destination_name<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        self.destination_parts.body.of(message)
    }

    /// The source as an encoded `Name` message.
    pub fn source_name<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        self.source.body.of(message)
    }

    /// The originator's end-to-end token, UTF-8.
    pub fn identity<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        self.identity.of(message)
    }

    /// The tag as received: `None` if the field is absent, else of any length.
    pub fn tag<'m>(&self, message: &'m [u8]) -> Option<&'m [u8]> {
        self.tag.map(|span| span.of(message))
    }

    /// The ttl that a forwarded copy carries (dataplane 4.5).
    pub fn ttl_forwarded(&self) -> u32 {
        self.ttl.saturating_sub(1)
    }

    /// Whether [`Self::patch`] turns a copy of the message into the one to send: the ttl and a 32-byte
    /// tag are there, and nothing is there that must not be sent. If not, forward the result of
    /// [`Self::rewrite_for_forwarding`] instead.
    pub fn is_patchable(&self) -> bool {
        self.is_ttl_patchable() && self.tag.is_some_and(|tag| tag.len() == TAG_BYTES)
    }

    /// Whether [`Self::patch_ttl`] does, which is all that a link without a MAC needs.
    pub fn is_ttl_patchable(&self) -> bool {
        !self.ttl_value.is_empty() && self.recv_from.is_none() && self.forward_to.is_none()
    }

    /// Whether the message carries no tag, as on links without a MAC.
    pub fn is_unsigned(&self) -> bool {
        self.tag.is_none()
    }

    /// Bytes from the front of the message to the end of the header. All that patching touches is in
    /// them; what follows may be shared between receivers.
    pub fn head_len(&self) -> usize {
        self.header.end as usize
    }

    /// Makes a copy the message to send on one link: one hop less, and that link's tag.
    ///
    /// - `head`: a copy of the first [`Self::head_len`] bytes of the message, or more of it.
    /// - `tag`: over [`Self::ttl_forwarded`]; see [`crate::link::LinkMac::tag`].
    pub fn patch(&self, head: &mut [u8], tag: &[u8; TAG_BYTES]) {
        self.patch_ttl(head);
        self.patch_tag(head, tag);
    }

    /// Writes the tag only, as the originator of a message does.
    pub(crate) fn patch_tag(&self, head: &mut [u8], tag: &[u8; TAG_BYTES]) {
        if let Some(slot) = self.tag.and_then(|span| head.get_mut(span.range()))
            && slot.len() == TAG_BYTES
        {
            slot.copy_from_slice(tag);
        }
    }

    /// As [`Self::patch`], for a link without a MAC.
    pub fn patch_ttl(&self, head: &mut [u8]) {
        let Some(slot) = head.get_mut(self.ttl_value.range()) else {
            return;
        };
        // The same number of bytes as before, so that no length changes: 128 as `80 01` becomes 127 as
        // `ff 00`, which every protobuf decoder reads.
        let mut left = self.ttl_forwarded();
        let last = slot.len().saturating_sub(1);
        for (index, byte) in slot.iter_mut().enumerate() {
            let more = if index < last { 0x80 } else { 0 };
            *byte = (left & 0x7F) as u8 | more;
            left >>= 7;
        }
    }
}
