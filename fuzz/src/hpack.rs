//! RFC 7541 read straight from its text, for comparison: nothing is bounded or avoided. The static table and the Huffman code
//! are those of another implementation.

use std::collections::VecDeque;

use fluke_hpack::huffman::HuffmanDecoder;

pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What the specification calls a decoding error.
#[derive(Debug)]
pub struct Broken;

pub struct Decoder {
    /// Newest first.
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    limit_bytes: usize,
    size_bytes: usize,
}

impl Decoder {
    /// - `limit_bytes`: SETTINGS_HEADER_TABLE_SIZE.
    pub fn new(limit_bytes: usize) -> Self {
        Decoder {
            table: VecDeque::new(),
            limit_bytes,
            size_bytes: limit_bytes,
        }
    }

    /// §3.2, §6. A change of the table's size counts wherever it stands.
    pub fn decode(&mut self, mut block: &[u8]) -> Result<Fields, Broken> {
        let rest = &mut block;
        let mut fields = Fields::new();
        while let Some(first) = rest.first() {
            match first {
                0x80.. => {
                    let index = integer(rest, 7)?;
                    fields.push(self.entry(index)?);
                }
                0x40..0x80 => {
                    let field = self.literal(rest, 6)?;
                    fields.push(field.clone());
                    self.table.push_front(field);
                    self.evict();
                }
                0x20..0x40 => {
                    self.size_bytes = integer(rest, 5)?;
                    if self.size_bytes > self.limit_bytes {
                        return Err(Broken);
                    }
                    self.evict();
                }
                ..0x20 => fields.push(self.literal(rest, 4)?),
            }
        }
        Ok(fields)
    }

    fn literal(&self, rest: &mut &[u8], prefix_bits: u32) -> Result<(Vec<u8>, Vec<u8>), Broken> {
        let name = match integer(rest, prefix_bits)? {
            0 => string(rest)?,
            index => self.entry(index)?.0,
        };
        Ok((name, string(rest)?))
    }

    /// §2.3.3.
    fn entry(&self, index: usize) -> Result<(Vec<u8>, Vec<u8>), Broken> {
        match index {
            0 => Err(Broken),
            1..=61 => {
                let field = fluke_hpack::Decoder::new().decode(&[0x80 | index as u8]);
                field.ok().and_then(|mut fields| fields.pop()).ok_or(Broken)
            }
            _ => self.table.get(index - 62).cloned().ok_or(Broken),
        }
    }

    /// §4.3, §4.4.
    fn evict(&mut self) {
        while self
            .table
            .iter()
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum::<usize>()
            > self.size_bytes
        {
            self.table.pop_back();
        }
    }
}

/// §5.1, as far as 64 bits hold it.
fn integer(rest: &mut &[u8], prefix_bits: u32) -> Result<usize, Broken> {
    let mut next = || {
        let (first, after) = rest.split_first().ok_or(Broken)?;
        *rest = after;
        Ok(*first as usize)
    };
    let mask = (1 << prefix_bits) - 1;
    let mut value = next()? & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in (0..56).step_by(7) {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Broken)
}

/// §5.2.
fn string(rest: &mut &[u8]) -> Result<Vec<u8>, Broken> {
    let is_coded = rest.first().is_some_and(|first| *first >= 0x80);
    let length = integer(rest, 7)?;
    let (text, after) = rest.split_at_checked(length).ok_or(Broken)?;
    *rest = after;
    if is_coded {
        HuffmanDecoder::new().decode(text).map_err(|_| Broken)
    } else {
        Ok(text.to_vec())
    }
}
