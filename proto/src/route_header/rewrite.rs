//! Makes a message patchable whose header is not: rare, and so allowed to allocate.

use super::merge::put_span;
use super::reader::{FaultAt, LENGTH_DELIMITED, Reader, VARINT, key};
use super::scan::{HEADER, PUBLISH, SUBSCRIBE, UNSUBSCRIBE};
use super::{DecodeError, Fault, Kind, RouteHeader, TAG_BYTES};

const TTL: u32 = key(6, VARINT);
const RECV_FROM: u32 = key(7, VARINT);
const FORWARD_TO: u32 = key(8, VARINT);
const TAG: u32 = key(11, LENGTH_DELIMITED);

impl RouteHeader {
    /// Rewrites the message for sending: without `recv_from` and `forward_to`, with a ttl field and a
    /// slot of 32 bytes for the tag. Everything else is copied bit for bit, `error` and
    /// `incoming_conn` included where they are present (trap T20). The ttl keeps its value, because
    /// [`Self::patch`] takes the hop off.
    ///
    /// - `message`: the one that this header was parsed from.
    /// - Returns a message that is up to 44 bytes longer. Its own [`super::parse`] gives a header that
    ///   [`Self::is_patchable`].
    /// - Errors: only for another message than the one parsed.
    #[cold]
    pub fn rewrite_for_forwarding(&self, message: &[u8]) -> Result<Vec<u8>, DecodeError> {
        self.rewrite(message, Signature::Slot)
            .map_err(|bad| DecodeError::locate(message, bad))
    }

    /// Rewrites the message for a link without a key: as [`Self::rewrite_for_forwarding`], but without a tag, for such a
    /// link's node drops what has one (dataplane 5.5). [`Self::patch_ttl`] applies to the result.
    #[cold]
    pub fn rewrite_unsigned(&self, message: &[u8]) -> Result<Vec<u8>, DecodeError> {
        self.rewrite(message, Signature::None)
            .map_err(|bad| DecodeError::locate(message, bad))
    }

    fn rewrite(&self, message: &[u8], signature: Signature) -> Result<Vec<u8>, FaultAt> {
        let other_message = FaultAt {
            fault: Fault::Truncated,
            at: message.len(),
        };
        let after_header = message
            .get(self.header.end as usize..self.member.end as usize)
            .ok_or(other_message)?;
        let after_member = message
            .get(self.member.end as usize..)
            .ok_or(other_message)?;

        let mut header = Vec::with_capacity(self.header.len() + 2 + 2 + TAG_BYTES);
        let mut reader = Reader::within(message, self.header)?;
        let mut ttl_written = !self.ttl_value.is_empty();
        let mut tag_written = signature == Signature::None;
        while !reader.is_empty() {
            let start = reader.at();
            let key = reader.key()?;
            reader.skip(key)?;
            let field = message.get(start..reader.at()).ok_or(other_message)?;
            // Fields stay in ascending order where they were.
            if key > TTL && !ttl_written {
                put_ttl_zero(&mut header);
                ttl_written = true;
            }
            if key >= TAG && !tag_written {
                put_span(&mut header, TAG, &[0; TAG_BYTES]);
                tag_written = true;
            }
            match key {
                RECV_FROM | FORWARD_TO | TAG => {}
                _ => header.extend_from_slice(field),
            }
        }
        if !ttl_written {
            put_ttl_zero(&mut header);
        }
        if !tag_written {
            put_span(&mut header, TAG, &[0; TAG_BYTES]);
        }

        let mut member = Vec::with_capacity(header.len() + after_header.len() + 8);
        put_span(&mut member, HEADER, &header);
        member.extend_from_slice(after_header);
        let mut out = Vec::with_capacity(member.len() + after_member.len() + 8);
        let key = match self.kind {
            Kind::Subscribe => SUBSCRIBE,
            Kind::Unsubscribe => UNSUBSCRIBE,
            Kind::Publish => PUBLISH,
        };
        put_span(&mut out, key, &member);
        out.extend_from_slice(after_member);
        Ok(out)
    }
}

/// Whether the rewritten message has a place for a tag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signature {
    Slot,
    None,
}

/// A ttl of 0, written out, so that there is something to patch.
fn put_ttl_zero(header: &mut Vec<u8>) {
    header.extend_from_slice(&[TTL as u8, 0]);
}
