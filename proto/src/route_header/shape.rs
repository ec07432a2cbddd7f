//! The shapes of all messages, as the build reads them from `schema/`, and the walk that holds bytes
//! against a shape. This is what the parts of a message get that a router does not look into.

use super::Fault;
use super::reader::{FaultAt, LENGTH_DELIMITED, Reader, VARINT};

/// The fields of one message by their number.
pub(crate) struct Shape {
    pub fields: &'static [Field],
}

pub(crate) struct Field {
    pub name: &'static str,
    pub kind: FieldKind,
}

/// What a field's value must look like.
pub(crate) enum FieldKind {
    /// Not in the schema: skipped, as every receiver does.
    Unknown,
    Varint,
    Bytes,
    Text,
    Nested(&'static Shape),
}

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

impl Shape {
    #[inline(always)]
    pub fn kind(&self, number: u32) -> &'static FieldKind {
        self.fields
            .get(number as usize)
            .map_or(&FieldKind::Unknown, |field| &field.kind)
    }
}

/// Checks all that is left of `reader`.
pub(super) fn walk(mut reader: Reader<'_>, shape: &'static Shape) -> Result<(), FaultAt> {
    while !reader.is_empty() {
        let key = reader.key()?;
        field(&mut reader, key, shape)?;
    }
    Ok(())
}

/// Checks the value that follows `key` and steps over it.
#[inline(always)]
pub(super) fn field(
    reader: &mut Reader<'_>,
    key: u32,
    shape: &'static Shape,
) -> Result<(), FaultAt> {
    match (shape.kind(key >> 3), key & 7) {
        (FieldKind::Varint, VARINT) => reader.varint().map(drop),
        (FieldKind::Bytes, LENGTH_DELIMITED) => reader.span().map(drop),
        (FieldKind::Text, LENGTH_DELIMITED) => reader.text().map(drop),
        (FieldKind::Nested(inner), LENGTH_DELIMITED) => walk(reader.nested()?, inner),
        (FieldKind::Unknown, _) => reader.skip(key),
        _ => Err(FaultAt {
            fault: Fault::WireType,
            at: reader.at().saturating_sub(1),
        }),
    }
}

/// Names the field that byte `at` of `message` belongs to, like `Message.publish.header.identity`.
#[cold]
pub(super) fn path(message: &[u8], at: usize) -> String {
    let mut path = String::from("Message");
    let mut shape = &MESSAGE;
    let Ok(mut reader) = Reader::new(message) else {
        return path;
    };
    while !reader.is_empty() {
        let Ok(key) = reader.key() else { break };
        let number = key >> 3;
        let found = shape
            .fields
            .get(number as usize)
            .filter(|field| !field.name.is_empty());
        let name = found.map_or_else(|| format!("{number}"), |field| field.name.to_owned());
        let before = reader;
        let skipped = reader.skip(key);
        if skipped.is_ok() && reader.at() <= at {
            continue;
        }
        path.push('.');
        path.push_str(&name);
        match (found.map(|field| &field.kind), key & 7) {
            (Some(FieldKind::Nested(inner)), LENGTH_DELIMITED) if skipped.is_ok() => {
                reader = before;
                match reader.nested() {
                    Ok(nested) if at >= nested.at() => (reader, shape) = (nested, inner),
                    _ => break,
                }
            }
            _ => break,
        }
    }
    path
}
