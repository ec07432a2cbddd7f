//! The one pass over a message: every byte is validated, and the header's parts are noted.

use super::reader::{FaultAt, LENGTH_DELIMITED, Reader, Span, VARINT, key};
use super::{Fanout, Kind, LastNames, Missing, NameParts, RouteHeader, SubscriptionAck, shape};
use crate::name::InstanceId;

/// As [`Parsed`], with the header left where it was written.
pub(super) enum Outcome {
    Routed,
    Link(Span),
    SubscriptionAck(SubscriptionAck),
    NeedsMerge,
    Incomplete(Missing),
    Unknown,
}

pub(super) const SUBSCRIBE: u32 = key(1, LENGTH_DELIMITED);
pub(super) const UNSUBSCRIBE: u32 = key(2, LENGTH_DELIMITED);
pub(super) const PUBLISH: u32 = key(3, LENGTH_DELIMITED);
pub(super) const LINK: u32 = key(5, LENGTH_DELIMITED);
pub(super) const SUBSCRIPTION_ACK: u32 = key(6, LENGTH_DELIMITED);

pub(super) const HEADER: u32 = key(1, LENGTH_DELIMITED);

/// - `last`: of an earlier message, if there was one that this one may be like.
pub(super) fn scan(
    message: &[u8],
    last: Option<&LastNames>,
    header: &mut RouteHeader,
) -> Result<Outcome, FaultAt> {
    let mut reader = Reader::new(message)?;
    let mut outcome = Outcome::Unknown;
    let mut members = 0u32;
    while !reader.is_empty() {
        let first = reader.at() == 0;
        let key = reader.key()?;
        let member = match key {
            SUBSCRIBE => routed(Kind::Subscribe, &mut reader, first, last, header)?,
            UNSUBSCRIBE => routed(Kind::Unsubscribe, &mut reader, first, last, header)?,
            PUBLISH => routed(Kind::Publish, &mut reader, first, last, header)?,
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
    last: Option<&LastNames>,
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
                header_fields(nested, last, header, &mut found)?;
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
    last: Option<&LastNames>,
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
    if let Some(last) = last
        && last.lead(&reader)
    {
        reader.step(last.bytes.len());
        header.source = last.source;
        header.destination_parts = last.destination;
        found.source_name = true;
        found.destination_name = true;
        seen = 1 << 1 | 1 << 2;
    }
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
pub(super) fn any_name(
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
