//! Protobuf's wire form, read in place: keys, varints, length-delimited spans.
//!
//! Accepts no more than prost does: what this reader passes, every receiver decodes.

use super::Fault;

pub(super) const VARINT: u32 = 0;
pub(super) const FIXED64: u32 = 1;
pub(super) const LENGTH_DELIMITED: u32 = 2;
pub(super) const GROUP_START: u32 = 3;
pub(super) const GROUP_END: u32 = 4;
pub(super) const FIXED32: u32 = 5;

/// Depth of unknown groups inside one message. prost stops at 100 counted from the envelope; our
/// deepest message lies 7 below it.
pub(super) const GROUP_NESTING_MAX: u8 = 64;

/// The key of a field: its number and the wire type that its value must have.
pub(super) const fn key(number: u32, wire_type: u32) -> u32 {
    number << 3 | wire_type
}

/// A fault and the byte it is at. Small, because it travels through the hot path's results; the path
/// to the field is worked out afterwards ([`super::DecodeError`]).
#[derive(Clone, Copy, Debug)]
pub(super) struct FaultAt {
    pub fault: Fault,
    pub at: usize,
}

/// Bytes `start..end` of the message that was parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// These bytes of `message`; empty if it is a shorter message than the one parsed.
    pub fn of(self, message: &[u8]) -> &[u8] {
        message.get(self.range()).unwrap_or_default()
    }

    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    pub fn len(self) -> usize {
        self.range().len()
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Reads forward from `at` to the end of `bytes`, the message cut off where the container ends, so
/// that offsets count from the front of the message at every depth.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Offsets are kept in 32 bits, so the message must be shorter than 4 GiB.
    pub fn new(message: &'a [u8]) -> Result<Self, FaultAt> {
        match u32::try_from(message.len()) {
            Ok(_) => Ok(Self {
                bytes: message,
                at: 0,
            }),
            Err(_) => Err(FaultAt {
                fault: Fault::TooLong,
                at: 0,
            }),
        }
    }

    /// A reader of one part of `message`, as found by an earlier reader.
    pub fn within(message: &'a [u8], span: Span) -> Result<Self, FaultAt> {
        let end = span.end as usize;
        match message.get(..end) {
            Some(bytes) => Ok(Self {
                bytes,
                at: (span.start as usize).min(end),
            }),
            None => Err(FaultAt {
                fault: Fault::Truncated,
                at: message.len(),
            }),
        }
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    #[inline(always)]
    pub fn at(&self) -> usize {
        self.at
    }

    /// From the cursor to the end of the container.
    #[inline(always)]
    pub fn rest(&self) -> Span {
        Span {
            start: self.at as u32,
            end: self.bytes.len() as u32,
        }
    }

    /// The next key, number and wire type in one value. The number is not 0; the wire type may be
    /// one that does not exist, which [`Self::skip`] refuses.
    #[inline(always)]
    pub fn key(&mut self) -> Result<u32, FaultAt> {
        let at = self.at;
        let raw = match self.bytes.get(at) {
            Some(&byte) if byte < 0x80 => {
                self.at = at + 1;
                u64::from(byte)
            }
            _ => self.long_varint()?,
        };
        match u32::try_from(raw) {
            Ok(key) if key >> 3 != 0 => Ok(key),
            _ => Err(FaultAt {
                fault: Fault::Key,
                at,
            }),
        }
    }

    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, FaultAt> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    /// Eight bytes at a time: a component of a name is a hash, so its varint has 9 or 10 bytes.
    #[inline]
    fn long_varint(&mut self) -> Result<u64, FaultAt> {
        let Some(ten) = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<10>())
        else {
            return self.varint_near_the_end();
        };
        let [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9] = *ten;
        let eight = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        let stops = !eight & 0x8080_8080_8080_8080;
        if stops != 0 {
            let last_bit = stops.trailing_zeros();
            self.at += last_bit as usize / 8 + 1;
            return Ok(pack_sevens(eight & (u64::MAX >> (63 - last_bit))));
        }
        let low = pack_sevens(eight);
        if b8 < 0x80 {
            self.at += 9;
            return Ok(low | u64::from(b8) << 56);
        }
        // The tenth byte holds the one bit that is left.
        if b9 > 1 {
            return Err(FaultAt {
                fault: Fault::Varint,
                at: self.at,
            });
        }
        self.at += 10;
        Ok(low | u64::from(b8 & 0x7F) << 56 | u64::from(b9) << 63)
    }

    #[cold]
    fn varint_near_the_end(&mut self) -> Result<u64, FaultAt> {
        let mut value = 0u64;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        for (index, &byte) in rest.iter().enumerate().take(10) {
            if index == 9 && byte > 1 {
                return Err(FaultAt {
                    fault: Fault::Varint,
                    at: self.at,
                });
            }
            value |= u64::from(byte & 0x7F) << (7 * index);
            if byte < 0x80 {
                self.at += index + 1;
                return Ok(value);
            }
        }
        // Names the last byte of the container, not the first one after it.
        Err(FaultAt {
            fault: Fault::Truncated,
            at: self.at.min(self.bytes.len().saturating_sub(1)),
        })
    }

    /// A length and as many bytes.
    #[inline(always)]
    pub fn span(&mut self) -> Result<Span, FaultAt> {
        let at = self.at;
        let length = self.varint()?;
        let left = self.bytes.len() - self.at;
        if length > left as u64 {
            return Err(FaultAt {
                fault: Fault::Truncated,
                at,
            });
        }
        let start = self.at;
        self.at += length as usize;
        Ok(Span {
            start: start as u32,
            end: self.at as u32,
        })
    }

    /// A reader of the sub-message that comes next.
    #[inline(always)]
    pub fn nested(&mut self) -> Result<Reader<'a>, FaultAt> {
        let span = self.span()?;
        Reader::within(self.bytes, span)
    }

    /// A length and as many bytes of UTF-8.
    #[inline(always)]
    pub fn text(&mut self) -> Result<Span, FaultAt> {
        let span = self.span()?;
        let bytes = span.of(self.bytes);
        // Nearly all text on this wire is ASCII, and that is the cheaper question.
        if !bytes.is_ascii() && std::str::from_utf8(bytes).is_err() {
            return Err(FaultAt {
                fault: Fault::Utf8,
                at: span.start as usize,
            });
        }
        Ok(span)
    }

    /// Steps over the value of a field that the schema does not know.
    pub fn skip(&mut self, key: u32) -> Result<(), FaultAt> {
        self.skip_nested(key, GROUP_NESTING_MAX)
    }

    fn skip_nested(&mut self, key: u32, groups_left: u8) -> Result<(), FaultAt> {
        let at = self.at.saturating_sub(1);
        match key & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed(8),
            FIXED32 => self.fixed(4),
            LENGTH_DELIMITED => self.span().map(drop),
            GROUP_START => {
                let Some(groups_left) = groups_left.checked_sub(1) else {
                    return Err(FaultAt {
                        fault: Fault::Nesting,
                        at,
                    });
                };
                loop {
                    if self.is_empty() {
                        return Err(FaultAt {
                            fault: Fault::Group,
                            at,
                        });
                    }
                    let inner = self.key()?;
                    if inner & 7 == GROUP_END {
                        return match inner >> 3 == key >> 3 {
                            true => Ok(()),
                            false => Err(FaultAt {
                                fault: Fault::Group,
                                at,
                            }),
                        };
                    }
                    self.skip_nested(inner, groups_left)?;
                }
            }
            GROUP_END => Err(FaultAt {
                fault: Fault::Group,
                at,
            }),
            _ => Err(FaultAt {
                fault: Fault::Key,
                at,
            }),
        }
    }

    fn fixed(&mut self, bytes: usize) -> Result<(), FaultAt> {
        if self.bytes.len() - self.at < bytes {
            return Err(FaultAt {
                fault: Fault::Truncated,
                at: self.at.saturating_sub(1),
            });
        }
        self.at += bytes;
        Ok(())
    }
}

/// Joins the low 7 bits of each of 8 bytes, the first byte lowest.
#[inline(always)]
fn pack_sevens(bytes: u64) -> u64 {
    let x = bytes & 0x7F7F_7F7F_7F7F_7F7F;
    let x = (x & 0x7F00_7F00_7F00_7F00) >> 1 | (x & 0x007F_007F_007F_007F);
    let x = (x & 0x3FFF_0000_3FFF_0000) >> 2 | (x & 0x0000_3FFF_0000_3FFF);
    (x & 0x0FFF_FFFF_0000_0000) >> 4 | (x & 0x0000_0000_0FFF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_reads_as_prost_reads_it() {
        let mut cases: Vec<Vec<u8>> = vec![
            vec![],
            vec![0x80],
            vec![0x80; 9],
            vec![0x80; 10],
            vec![0xFF; 11],
        ];
        for length in 1..=10usize {
            for last in [0u8, 1, 2, 0x7F] {
                let mut bytes: Vec<u8> = (0..length - 1).map(|i| 0x80 | (i * 37) as u8).collect();
                bytes.push(last);
                cases.push(bytes.clone());
                bytes.extend_from_slice(&[0xAA; 12]);
                cases.push(bytes);
            }
        }
        for bytes in cases {
            let mut prost_input = &bytes[..];
            let expected = prost::encoding::decode_varint(&mut prost_input).ok();
            let mut reader = Reader::new(&bytes).unwrap();
            let got = reader.varint().ok();
            assert_eq!(got, expected, "{bytes:02x?}");
            if got.is_some() {
                assert_eq!(reader.at(), bytes.len() - prost_input.len(), "{bytes:02x?}");
            }
        }
    }
}
