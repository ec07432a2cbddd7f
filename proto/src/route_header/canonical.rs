//! The straight way through a Name, as every known encoder writes it: all fields there, in ascending
//! order, short lengths, ASCII. Names are most of what is read of a message, and nothing here loops or
//! chooses. Whatever is not exactly so is left to the general reading, which decides what it means.

use super::NameParts;
use super::reader::{Reader, Span, is_ascii, long_varint};
use crate::name::{InstanceId, RouteName};

impl Reader<'_> {
    /// What is left of this reader as a canonical Name; `None` says nothing about its validity.
    #[inline]
    pub(super) fn canonical_name(&self) -> Option<NameParts> {
        let body = self.rest();
        let mut cursor = Cursor {
            bytes: self.message().get(..body.end as usize)?,
            at: body.start as usize,
        };
        let encoded_end = cursor.enter(0x0A)?;
        let prefix = [cursor.wide(0x08)?, cursor.wide(0x10)?, cursor.wide(0x18)?];
        // Groups and services are named without an id.
        let id_present = cursor.at != encoded_end;
        let (id, id_end) = if id_present {
            let id_end = cursor.enter(0x22)?;
            let id = InstanceId::from_halves(cursor.wide(0x08)?, cursor.wide(0x10)?);
            (id, id_end)
        } else {
            (InstanceId::NULL, encoded_end)
        };
        let id_closed = cursor.at == id_end && id_end == encoded_end;
        let text_end = cursor.enter(0x12)?;
        let text = [
            cursor.ascii(0x0A)?,
            cursor.ascii(0x12)?,
            cursor.ascii(0x1A)?,
        ];
        let closed = id_closed && cursor.at == text_end && text_end == body.end as usize;
        closed.then_some(NameParts {
            route: RouteName { prefix, id },
            id_present,
            text_present: true,
            text,
            body,
        })
    }
}

struct Cursor<'a> {
    /// The message up to the end of the Name.
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// A key and a length of one byte; returns where the sub-message ends.
    #[inline(always)]
    fn enter(&mut self, key: u8) -> Option<usize> {
        let [found, length] = *self.bytes.get(self.at..)?.first_chunk::<2>()?;
        if found != key || length >= 0x80 {
            return None;
        }
        self.at += 2;
        Some(self.at + usize::from(length))
    }

    /// A key and a varint, which as part of a hash or an id is long.
    #[inline(always)]
    fn wide(&mut self, key: u8) -> Option<u64> {
        if *self.bytes.get(self.at)? != key {
            return None;
        }
        let (value, bytes) = long_varint(self.bytes, self.at + 1);
        self.at += 1 + bytes;
        (bytes != 0).then_some(value)
    }

    /// A key, a length of one byte, and as many bytes of ASCII.
    #[inline(always)]
    fn ascii(&mut self, key: u8) -> Option<Span> {
        let end = self.enter(key)?;
        if end > self.bytes.len() {
            return None;
        }
        let span = Span {
            start: self.at as u32,
            end: end as u32,
        };
        self.at = end;
        is_ascii(self.bytes, span).then_some(span)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::name::Name;
    use crate::route_header::scan::any_name;

    #[test]
    fn the_straight_way_reads_what_the_general_one_reads() {
        let part = |length| "x".repeat(length);
        for (name, straight) in [
            (Name::new("agntcy", "default", "alice"), true),
            (
                Name::new("org", "ns", "app")
                    .with_id(InstanceId::new(0x48b1_da60_0caa_b75f_a73e_4fe3_34bf_1482)),
                true,
            ),
            (
                Name::new(&part(8), &part(9), &part(100)).with_id(InstanceId::new(7 << 64 | 1)),
                true,
            ),
            (Name::new(&part(128), "ns", "app"), false),
            (Name::new("org", "ns", "café"), false),
            (
                Name::new("org", "ns", "app").with_id(InstanceId::new(0)),
                false,
            ),
            (Name::new("org", "", "app"), false),
        ] {
            let bytes = name.to_wire().encode_to_vec();
            let reader = Reader::new(&bytes).unwrap();
            let mut general = NameParts::BLANK;
            let mut tangled = false;
            assert!(any_name(reader, &mut general, &mut tangled).unwrap() && !tangled);
            assert_eq!(general.route, name.route_name());
            assert_eq!(
                reader.canonical_name(),
                straight.then_some(general),
                "{name}"
            );
        }
    }
}
