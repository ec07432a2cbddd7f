//! Puts a message straight whose parts are split, repeated or out of place. Rare, and so allowed to
//! allocate; bounded by the size of the message, because only the header is decoded.

use prost::Message as _;

use super::reader::{FaultAt, LENGTH_DELIMITED, Reader, key};
use super::scan::{HEADER, LINK, PUBLISH, SUBSCRIBE, SUBSCRIPTION_ACK, UNSUBSCRIBE};
use super::{DecodeError, Fault, parse};
use crate::message::wire;

const METADATA: u32 = key(4, LENGTH_DELIMITED);

/// Rewrites `message` as the decoder of any receiver understands it: the last member of the envelope
/// stands, its split parts are joined, of repeated scalars the last one wins (dataplane 2, "decoder
/// habits"). The header comes first and is canonical; what is opaque to a router is copied.
///
/// `recv_from` and `forward_to` stay: the sender's MAC covers them.
///
/// - Errors: exactly those of [`parse`]. The result parses to something other than
///   [`super::Parsed::NeedsMerge`].
pub fn merge(message: &[u8]) -> Result<Vec<u8>, DecodeError> {
    parse(message)?;
    put_straight(message).map_err(|bad| DecodeError::locate(message, bad))
}

fn put_straight(message: &[u8]) -> Result<Vec<u8>, FaultAt> {
    let mut member_key = None;
    let mut member = Vec::new();
    let mut metadata = Vec::new();
    let mut reader = Reader::new(message)?;
    while !reader.is_empty() {
        let start = reader.at();
        match reader.key()? {
            key @ (SUBSCRIBE | UNSUBSCRIBE | PUBLISH | LINK | SUBSCRIPTION_ACK) => {
                if member_key.replace(key) != Some(key) {
                    member.clear();
                }
                // To concatenate the encodings of a message is to merge them.
                member.extend_from_slice(reader.span()?.of(message));
            }
            METADATA => {
                reader.span()?;
                metadata.extend_from_slice(message.get(start..reader.at()).unwrap_or_default());
            }
            other => reader.skip(other)?,
        }
    }
    let mut out = Vec::with_capacity(message.len() + 16);
    if let Some(key) = member_key {
        if matches!(key, SUBSCRIBE | UNSUBSCRIBE | PUBLISH) {
            member = header_first(&member)?;
        }
        put_span(&mut out, key, &member);
    }
    out.extend_from_slice(&metadata);
    Ok(out)
}

/// Joins the headers of a routed message and puts the result in front of its other fields.
fn header_first(member: &[u8]) -> Result<Vec<u8>, FaultAt> {
    let mut header: Option<Vec<u8>> = None;
    let mut others = Vec::with_capacity(member.len());
    let mut reader = Reader::new(member)?;
    while !reader.is_empty() {
        let start = reader.at();
        match reader.key()? {
            HEADER => header
                .get_or_insert_default()
                .extend_from_slice(reader.span()?.of(member)),
            other => {
                reader.skip(other)?;
                others.extend_from_slice(member.get(start..reader.at()).unwrap_or_default());
            }
        }
    }
    let mut out = Vec::with_capacity(member.len() + 16);
    if let Some(header) = header {
        // `parse` has passed every part of it; should prost still disagree, the message is refused.
        let decoded = wire::SlimHeader::decode(&header[..]).map_err(|_| FaultAt {
            fault: Fault::Truncated,
            at: 0,
        })?;
        put_span(&mut out, HEADER, &decoded.encode_to_vec());
    }
    out.extend_from_slice(&others);
    Ok(out)
}

/// Appends a length-delimited field.
pub(super) fn put_span(out: &mut Vec<u8>, key: u32, value: &[u8]) {
    prost::encoding::encode_varint(u64::from(key), out);
    prost::encoding::encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}
