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
mod shape;

use std::fmt;

use crate::name::{InstanceId, RouteName};
pub use merge::merge;
pub use reader::Span;
use reader::{FaultAt, LENGTH_DELIMITED, Reader, VARINT, key};

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
    // Filled in place, because it is too large to hand up from call to call.
    let mut header = RouteHeader::BLANK;
    match scan(message, &mut header) {
        Ok(Outcome::Routed) => Ok(Parsed::Routed(header)),
        Ok(Outcome::Link(span)) => Ok(Parsed::Link(span)),
        Ok(Outcome::SubscriptionAck(ack)) => Ok(Parsed::SubscriptionAck(ack)),
        Ok(Outcome::NeedsMerge) => Ok(Parsed::NeedsMerge),
        Ok(Outcome::Incomplete(missing)) => Ok(Parsed::Incomplete { missing }),
        Ok(Outcome::Unknown) => Ok(Parsed::Unknown),
        Err(bad) => Err(DecodeError::locate(message, bad)),
    }
}

/// As [`Parsed`], with the header left where it was written.
enum Outcome {
    Routed,
    Link(Span),
    SubscriptionAck(SubscriptionAck),
    NeedsMerge,
    Incomplete(Missing),
    Unknown,
}

const SUBSCRIBE: u32 = key(1, LENGTH_DELIMITED);
const UNSUBSCRIBE: u32 = key(2, LENGTH_DELIMITED);
const PUBLISH: u32 = key(3, LENGTH_DELIMITED);
const LINK: u32 = key(5, LENGTH_DELIMITED);
const SUBSCRIPTION_ACK: u32 = key(6, LENGTH_DELIMITED);

const HEADER: u32 = key(1, LENGTH_DELIMITED);

fn scan(message: &[u8], header: &mut RouteHeader) -> Result<Outcome, FaultAt> {
    let mut reader = Reader::new(message)?;
    let mut outcome = Outcome::Unknown;
    let mut members = 0u32;
    while !reader.is_empty() {
        let first = reader.at() == 0;
        let key = reader.key()?;
        let member = match key {
            SUBSCRIBE => routed(Kind::Subscribe, &mut reader, first, header)?,
            UNSUBSCRIBE => routed(Kind::Unsubscribe, &mut reader, first, header)?,
            PUBLISH => routed(Kind::Publish, &mut reader, first, header)?,
            LINK => {
                let nested = reader.nested()?;
                shape::walk(nested, &shape::LINK)?;
                Outcome::Link(nested.rest())
            }
            SUBSCRIPTION_ACK => subscription_ack(reader.nested()?)?,
            other => {
                shape::field(&mut reader, other, &shape::MESSAGE)?;
                continue;
            }
        };
        members += 1;
        outcome = member;
    }
    Ok(if members > 1 {
        Outcome::NeedsMerge
    } else {
        outcome
    })
}

fn subscription_ack(mut reader: Reader<'_>) -> Result<Outcome, FaultAt> {
    const SUBSCRIPTION_ID: u32 = key(1, VARINT);
    const SUCCESS: u32 = key(2, VARINT);
    const ERROR: u32 = key(3, LENGTH_DELIMITED);
    let mut ack = SubscriptionAck {
        subscription_id: 0,
        success: false,
        error: Span::default(),
    };
    while !reader.is_empty() {
        // The last value of a repeated scalar wins, here as in prost.
        match reader.key()? {
            SUBSCRIPTION_ID => ack.subscription_id = reader.varint()?,
            SUCCESS => ack.success = reader.varint()? != 0,
            ERROR => ack.error = reader.text()?,
            other => shape::field(&mut reader, other, &shape::SUBSCRIPTION_ACK)?,
        }
    }
    Ok(Outcome::SubscriptionAck(ack))
}

/// What a member or header turned out to have, beside its values.
#[derive(Default)]
struct Found {
    header: bool,
    source: bool,
    source_name: bool,
    destination: bool,
    destination_name: bool,
    session: bool,
    /// Something occurred twice or out of place.
    tangled: bool,
}

impl Found {
    #[inline]
    fn missing(&self, kind: Kind) -> Option<Missing> {
        let needs = [
            (self.header, Missing::Header),
            (self.source, Missing::Source),
            (self.source_name, Missing::SourceName),
            (self.destination, Missing::Destination),
            (self.destination_name, Missing::DestinationName),
            (self.session || kind != Kind::Publish, Missing::Session),
        ];
        needs
            .into_iter()
            .find(|(found, _)| !found)
            .map(|(_, missing)| missing)
    }
}

/// Reads a Subscribe, Unsubscribe or Publish into `header`, which is blank unless a member came before.
/// `first`: it is the first field of the message.
#[inline]
fn routed(
    kind: Kind,
    outer: &mut Reader<'_>,
    first: bool,
    header: &mut RouteHeader,
) -> Result<Outcome, FaultAt> {
    const SUBSCRIPTION_ID: u32 = key(2, VARINT);
    const SESSION: u32 = key(2, LENGTH_DELIMITED);

    let mut reader = outer.nested()?;
    let mut found = Found {
        tangled: !first,
        ..Found::default()
    };
    header.kind = kind;
    header.member = reader.rest();
    let shape = match kind {
        Kind::Subscribe => &shape::SUBSCRIBE,
        Kind::Unsubscribe => &shape::UNSUBSCRIBE,
        Kind::Publish => &shape::PUBLISH,
    };
    while !reader.is_empty() {
        let leads = reader.at() == header.member.start as usize;
        match (reader.key()?, kind) {
            (HEADER, _) => {
                found.tangled |= found.header || !leads;
                found.header = true;
                let nested = reader.nested()?;
                header.header = nested.rest();
                header_fields(nested, header, &mut found)?;
            }
            (SUBSCRIPTION_ID, Kind::Subscribe | Kind::Unsubscribe) => {
                header.subscription_id = reader.varint()?
            }
            (SESSION, Kind::Publish) => {
                found.session = true;
                shape::walk(reader.nested()?, &shape::SESSION_HEADER)?;
            }
            (other, _) => shape::field(&mut reader, other, shape)?,
        }
    }
    header.destination = header.destination_parts.route;
    header.destination_id_present = header.destination_parts.id_present;
    if header.fanout_raw == 1 {
        header.fanout = Fanout::One;
    }
    Ok(match found.missing(kind) {
        _ if found.tangled => Outcome::NeedsMerge,
        Some(missing) => Outcome::Incomplete(missing),
        None => Outcome::Routed,
    })
}

fn header_fields(
    mut reader: Reader<'_>,
    header: &mut RouteHeader,
    found: &mut Found,
) -> Result<(), FaultAt> {
    const SOURCE: u32 = key(1, LENGTH_DELIMITED);
    const DESTINATION: u32 = key(2, LENGTH_DELIMITED);
    const IDENTITY: u32 = key(3, LENGTH_DELIMITED);
    const FANOUT: u32 = key(4, VARINT);
    const VERSION: u32 = key(5, LENGTH_DELIMITED);
    const TTL: u32 = key(6, VARINT);
    const RECV_FROM: u32 = key(7, VARINT);
    const FORWARD_TO: u32 = key(8, VARINT);
    const INCOMING_CONN: u32 = key(9, VARINT);
    const ERROR: u32 = key(10, VARINT);
    const TAG: u32 = key(11, LENGTH_DELIMITED);

    let mut seen = 0u32;
    while !reader.is_empty() {
        let key = reader.key()?;
        match key {
            SOURCE => {
                found.source_name |= name(reader.nested()?, &mut header.source, &mut found.tangled)?
            }
            DESTINATION => {
                found.destination_name |= name(
                    reader.nested()?,
                    &mut header.destination_parts,
                    &mut found.tangled,
                )?;
            }
            IDENTITY => header.identity = reader.text()?,
            // A uint32 is the low half of its varint.
            FANOUT => header.fanout_raw = reader.varint()? as u32,
            TTL => {
                let start = reader.at() as u32;
                header.ttl = reader.varint()? as u32;
                header.ttl_value = Span {
                    start,
                    end: reader.at() as u32,
                };
            }
            RECV_FROM => header.recv_from = Some(reader.varint()?),
            FORWARD_TO => header.forward_to = Some(reader.varint()?),
            VERSION => drop(reader.text()?),
            INCOMING_CONN => drop(reader.varint()?),
            ERROR => header.error = Some(reader.varint()? != 0),
            TAG => header.tag = Some(reader.span()?),
            // e2e_header_sig and what we do not know: neither routed on nor in the MAC.
            other => {
                shape::field(&mut reader, other, &shape::SLIMHEADER)?;
                continue;
            }
        }
        let bit = 1 << (key >> 3);
        found.tangled |= seen & bit != 0;
        seen |= bit;
    }
    found.source |= seen & 1 << 1 != 0;
    found.destination |= seen & 1 << 2 != 0;
    Ok(())
}

/// Reads a Name; returns whether it has its encoded form.
fn name(reader: Reader<'_>, parts: &mut NameParts, tangled: &mut bool) -> Result<bool, FaultAt> {
    match reader.canonical_name() {
        // A second Name is tangled whatever it says, so that overwriting the first loses nothing.
        Some(canonical) => {
            *parts = canonical;
            Ok(true)
        }
        None => any_name(reader, parts, tangled),
    }
}

/// Reads a Name with its fields in any order, absent, repeated or unknown.
#[inline(never)]
fn any_name(
    mut reader: Reader<'_>,
    parts: &mut NameParts,
    tangled: &mut bool,
) -> Result<bool, FaultAt> {
    const ENCODED: u32 = key(1, LENGTH_DELIMITED);
    const TEXT: u32 = key(2, LENGTH_DELIMITED);

    parts.body = reader.rest();
    let mut encoded_present = false;
    while !reader.is_empty() {
        match reader.key()? {
            ENCODED => {
                *tangled |= encoded_present;
                encoded_present = true;
                encoded_name(reader.nested()?, parts, tangled)?;
            }
            TEXT => {
                *tangled |= parts.text_present;
                parts.text_present = true;
                string_name(reader.nested()?, &mut parts.text)?;
            }
            other => shape::field(&mut reader, other, &shape::NAME)?,
        }
    }
    Ok(encoded_present)
}

#[inline]
fn encoded_name(
    mut reader: Reader<'_>,
    parts: &mut NameParts,
    tangled: &mut bool,
) -> Result<(), FaultAt> {
    const COMPONENT_0: u32 = key(1, VARINT);
    const COMPONENT_1: u32 = key(2, VARINT);
    const COMPONENT_2: u32 = key(3, VARINT);
    const NAME_ID: u32 = key(4, LENGTH_DELIMITED);

    while !reader.is_empty() {
        // Repeated scalars: the last one wins, here as in prost. Sub-messages would merge.
        match reader.key()? {
            COMPONENT_0 => parts.route.prefix[0] = reader.varint()?,
            COMPONENT_1 => parts.route.prefix[1] = reader.varint()?,
            COMPONENT_2 => parts.route.prefix[2] = reader.varint()?,
            NAME_ID => {
                *tangled |= parts.id_present;
                parts.id_present = true;
                parts.route.id = name_id(reader.nested()?)?;
            }
            other => shape::field(&mut reader, other, &shape::ENCODED_NAME)?,
        }
    }
    Ok(())
}

#[inline]
fn name_id(mut reader: Reader<'_>) -> Result<InstanceId, FaultAt> {
    const ID_0: u32 = key(1, VARINT);
    const ID_1: u32 = key(2, VARINT);

    let (mut high, mut low) = (0, 0);
    while !reader.is_empty() {
        match reader.key()? {
            ID_0 => high = reader.varint()?,
            ID_1 => low = reader.varint()?,
            other => shape::field(&mut reader, other, &shape::NAME_ID)?,
        }
    }
    Ok(InstanceId::from_halves(high, low))
}

#[inline]
fn string_name(mut reader: Reader<'_>, text: &mut [Span; 3]) -> Result<(), FaultAt> {
    const PART_0: u32 = key(1, LENGTH_DELIMITED);
    const PART_1: u32 = key(2, LENGTH_DELIMITED);
    const PART_2: u32 = key(3, LENGTH_DELIMITED);

    while !reader.is_empty() {
        match reader.key()? {
            PART_0 => text[0] = reader.text()?,
            PART_1 => text[1] = reader.text()?,
            PART_2 => text[2] = reader.text()?,
            other => shape::field(&mut reader, other, &shape::STRING_NAME)?,
        }
    }
    Ok(())
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
