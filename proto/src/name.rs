//! Names: `organization/namespace/service` and an instance id.
//!
//! Routing looks at three hashes and the id, never at the strings; people and end-to-end signatures
//! look at the strings. [`Name`] has both, [`RouteName`] what a router matches on.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh64::xxh64;

use crate::message::wire;

/// Hash of one part of a name: XXH64, seed 0, over its UTF-8 and one byte 0xFF (dataplane 3.1).
///
/// Case-sensitive, nothing is normalised, the empty string is allowed.
pub fn component_hash(part: &str) -> u64 {
    // One stack buffer serves the names that occur; the rest is hashed from the heap.
    let mut short = [0u8; 128];
    match short.get_mut(..part.len() + 1) {
        Some(input) => {
            input[..part.len()].copy_from_slice(part.as_bytes());
            input[part.len()] = 0xFF;
            xxh64(input, 0)
        }
        None => xxh64(&[part.as_bytes(), &[0xFF]].concat(), 0),
    }
}

/// A 128-bit instance or channel id, in two halves so that it aligns to 8 bytes in tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    high: u64,
    low: u64,
}

impl InstanceId {
    /// "No particular instance": 2^128 - 1.
    pub const NULL: Self = Self::new(u128::MAX);
    /// First of the 51 reserved ids, of which only [`InstanceId::NULL`] has a meaning (dataplane 3.2).
    pub const RESERVED_MIN: Self = Self::new(u128::MAX - 50);

    pub const fn new(value: u128) -> Self {
        Self {
            high: (value >> 64) as u64,
            low: value as u64,
        }
    }

    /// From the two fields of the wire's `NameId`: `high` is id_0, `low` is id_1.
    pub const fn from_halves(high: u64, low: u64) -> Self {
        Self { high, low }
    }

    pub const fn halves(self) -> (u64, u64) {
        (self.high, self.low)
    }

    pub const fn value(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    pub fn is_null(self) -> bool {
        self == Self::NULL
    }

    /// True in the top 51 values, NULL among them.
    pub fn is_reserved(self) -> bool {
        self >= Self::RESERVED_MIN
    }
}

/// `NULL_COMPONENT`, or a lower-case hyphenated UUID of the big-endian value (dataplane 3.3).
impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() {
            return f.write_str(NULL_WORD);
        }
        let v = self.value();
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            v >> 96,
            (v >> 80) & 0xFFFF,
            (v >> 64) & 0xFFFF,
            (v >> 48) & 0xFFFF,
            v & 0xFFFF_FFFF_FFFF
        )
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for InstanceId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == NULL_WORD {
            return Ok(Self::NULL);
        }
        let bad = || NameError::Id {
            text: text.chars().take(QUOTED_CHARS_MAX).collect(),
        };
        let bytes = text.as_bytes();
        let hyphenated = bytes.len() == 36
            && bytes.iter().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        if !hyphenated {
            return Err(bad());
        }
        u128::from_str_radix(&text.replace('-', ""), 16)
            .map(Self::new)
            .map_err(|_| bad())
    }
}

/// What a router matches on: the three hashes and the id. Two names with equal hashes are one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteName {
    pub prefix: [u64; 3],
    pub id: InstanceId,
}

/// A name as people write it. `id` NULL addresses any instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    organization: String,
    namespace: String,
    service: String,
    id: InstanceId,
}

/// Why a text is not a name. The text came from a person or a configuration: show it and ask again.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("{parts} parts where organization/namespace/service[/id] was expected")]
    Parts { parts: usize },
    #[error("part {index} is empty")]
    EmptyPart { index: usize },
    #[error("`{text}` is neither a hyphenated UUID nor {NULL_WORD}")]
    Id { text: String },
}

impl Name {
    /// Takes the parts as they are; an empty part is allowed here, as it is on the wire.
    pub fn new(organization: &str, namespace: &str, service: &str) -> Self {
        Self {
            organization: organization.to_owned(),
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            id: InstanceId::NULL,
        }
    }

    /// The same three parts, another instance.
    pub fn with_id(mut self, id: InstanceId) -> Self {
        self.id = id;
        self
    }

    pub fn organization(&self) -> &str {
        &self.organization
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn service(&self) -> &str {
        &self.service
    }

    pub fn id(&self) -> InstanceId {
        self.id
    }

    pub fn route_name(&self) -> RouteName {
        let prefix =
            [&self.organization, &self.namespace, &self.service].map(|part| component_hash(part));
        RouteName {
            prefix,
            id: self.id,
        }
    }

    /// Reads the readable form back; an absent id is NULL. `None` if there are no strings, which only the
    /// sender can put right: hashes do not lead back to them.
    pub fn from_wire(name: &wire::Name) -> Option<Self> {
        let strings = name.str_name.as_ref()?;
        let id = name
            .name
            .as_ref()
            .and_then(|encoded| encoded.name_id.as_ref());
        Some(Self {
            organization: strings.str_component_0.clone(),
            namespace: strings.str_component_1.clone(),
            service: strings.str_component_2.clone(),
            id: id.map_or(InstanceId::NULL, |id| {
                InstanceId::from_halves(id.id_0, id.id_1)
            }),
        })
    }

    /// The wire form that existing nodes write: both forms of the name, and the id also when it is NULL.
    pub fn to_wire(&self) -> wire::Name {
        let RouteName {
            prefix: [component_0, component_1, component_2],
            id,
        } = self.route_name();
        let (id_0, id_1) = id.halves();
        wire::Name {
            name: Some(wire::EncodedName {
                component_0,
                component_1,
                component_2,
                name_id: Some(wire::NameId { id_0, id_1 }),
            }),
            str_name: Some(wire::StringName {
                str_component_0: self.organization.clone(),
                str_component_1: self.namespace.clone(),
                str_component_2: self.service.clone(),
            }),
        }
    }
}

/// Parses `c0/c1/c2` or `c0/c1/c2/<UUID or NULL_COMPONENT>`; white space around a part is dropped, an
/// empty part refused (dataplane 3.3).
impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.trim().split('/').map(str::trim).collect();
        if let Some(index) = parts.iter().position(|part| part.is_empty()) {
            return Err(NameError::EmptyPart { index });
        }
        match parts[..] {
            [organization, namespace, service] => Ok(Self::new(organization, namespace, service)),
            [organization, namespace, service, id] => {
                Ok(Self::new(organization, namespace, service).with_id(id.parse()?))
            }
            _ => Err(NameError::Parts { parts: parts.len() }),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}",
            self.organization, self.namespace, self.service, self.id
        )
    }
}

const NULL_WORD: &str = "NULL_COMPONENT";

/// Characters of a bad id that an error repeats.
const QUOTED_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_prints_as_it_parses() {
        let id = "48b1da60-0caa-b75f-a73e-4fe334bf1482";
        let name: Name = format!(" org / ns/app/{id} ").parse().unwrap();
        assert_eq!(
            name,
            Name::new("org", "ns", "app")
                .with_id(InstanceId::new(0x48b1da600caab75fa73e4fe334bf1482))
        );
        assert_eq!(name.to_string(), format!("org/ns/app/{id}"));
        assert_eq!(name.to_string().parse(), Ok(name));
        let any: Name = "org/ns/app".parse().unwrap();
        assert_eq!(any.to_string(), "org/ns/app/NULL_COMPONENT");
        assert_eq!(any.to_string().parse(), Ok(any));
    }

    #[test]
    fn a_name_survives_the_wire_unless_its_strings_are_left_out() {
        let name = Name::new("org", "ns", "app").with_id(InstanceId::new(42));
        let mut encoded = name.to_wire();
        assert_eq!(Name::from_wire(&encoded), Some(name.clone()));
        encoded.name.as_mut().unwrap().name_id = None;
        assert_eq!(
            Name::from_wire(&encoded),
            Some(name.with_id(InstanceId::NULL))
        );
        encoded.str_name = None;
        assert_eq!(Name::from_wire(&encoded), None);
    }

    #[test]
    fn a_text_with_a_wrong_shape_is_no_name() {
        assert_eq!("org/ns".parse::<Name>(), Err(NameError::Parts { parts: 2 }));
        assert_eq!(
            "a/b/c/NULL_COMPONENT/e".parse::<Name>(),
            Err(NameError::Parts { parts: 5 })
        );
        assert_eq!(
            "org//app".parse::<Name>(),
            Err(NameError::EmptyPart { index: 1 })
        );
        assert_eq!("".parse::<Name>(), Err(NameError::EmptyPart { index: 0 }));
        for id in [
            "48b1da600caab75fa73e4fe334bf1482",
            "+8b1da60-0caa-b75f-a73e-4fe334bf1482",
            "é",
        ] {
            assert_eq!(
                format!("a/b/c/{id}").parse::<Name>(),
                Err(NameError::Id {
                    text: id.to_owned()
                })
            );
        }
    }

    #[test]
    fn the_top_51_ids_are_reserved() {
        assert!(InstanceId::new(u128::MAX - 50).is_reserved());
        assert!(!InstanceId::new(u128::MAX - 51).is_reserved());
        assert!(InstanceId::NULL.is_reserved() && InstanceId::NULL.is_null());
        assert!(!InstanceId::new(u128::MAX - 1).is_null());
    }

    #[test]
    fn a_part_longer_than_the_stack_buffer_hashes_alike() {
        for length in [126, 127, 128, 129, 4096] {
            let part = "x".repeat(length);
            assert_eq!(
                component_hash(&part),
                xxh64(&[part.as_bytes(), &[0xFF]].concat(), 0),
                "{length}"
            );
        }
    }
}
