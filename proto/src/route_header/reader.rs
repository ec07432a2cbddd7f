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
    pub(super) const BLANK: Self = Self { start: 0, end: 0 };

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

/// Reads forward from `at` to `end`, where the container ends. Offsets count from the front of the
/// message at every depth.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    message: &'a [u8],
    at: usize,
    /// At most the message's length.
    end: usize,
}

impl<'a> Reader<'a> {
    /// Offsets are kept in 32 bits, so the message must be shorter than 4 GiB.
    pub fn new(message: &'a [u8]) -> Result<Self, FaultAt> {
        match u32::try_from(message.len()) {
            Ok(_) => Ok(Self {
                message,
                at: 0,
                end: message.len(),
            }),
            Err(_) => Err(FaultAt {
                fault: Fault::TooLong,
                at: 0,
            }),
        }
    }

    /// A reader of one part of `message`, as found by an earlier reader.
    pub fn within(message: &'a [u8], span: Span) -> Result<Self, FaultAt> {
        let Span { start, end } = span;
        if end as usize > message.len() || start > end {
            return Err(FaultAt {
                fault: Fault::Truncated,
                at: message.len(),
            });
        }
        Ok(Self {
            message,
            at: start as usize,
            end: end as usize,
        })
    }

    pub fn message(&self) -> &'a [u8] {
        self.message
    }

    /// Leaves out `bytes`, which are there.
    #[inline(always)]
    pub fn step(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.end - self.at);
        self.at += bytes;
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.at >= self.end
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
            end: self.end as u32,
        }
    }

    /// The next key, number and wire type in one value. The number is not 0; the wire type may be
    /// one that does not exist, which [`Self::skip`] refuses.
    #[inline(always)]
    pub fn key(&mut self) -> Result<u32, FaultAt> {
        // One byte, as all keys of our schema but one, and not of field 0.
        match self.message.get(self.at) {
            Some(&byte) if (8..0x80).contains(&byte) && self.at < self.end => {
                self.at += 1;
                Ok(u32::from(byte))
            }
            _ => self.long_key(),
        }
    }

    #[cold]
    fn long_key(&mut self) -> Result<u32, FaultAt> {
        let at = self.at;
        let raw = self.varint()?;
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
        match self.message.get(self.at) {
            Some(&byte) if byte < 0x80 && self.at < self.end => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => {
                let (value, bytes) = outlined_varint(self.message, self.at);
                if bytes == 0 || self.at + bytes > self.end {
                    return Err(self.no_varint());
                }
                self.at += bytes;
                Ok(value)
            }
        }
    }

    #[cold]
    fn no_varint(&self) -> FaultAt {
        let rest = self.message.get(self.at..self.end).unwrap_or_default();
        // Ten bytes, and either no end to them or more bits than 64.
        let fault = if rest.len() >= 10 && rest.iter().take(9).all(|byte| *byte >= 0x80) {
            Fault::Varint
        } else {
            Fault::Truncated
        };
        // Names the last byte of the container rather than the first one after it.
        FaultAt {
            fault,
            at: self.at.min(self.end.saturating_sub(1)),
        }
    }

    /// A length and as many bytes.
    #[inline(always)]
    pub fn span(&mut self) -> Result<Span, FaultAt> {
        let at = self.at;
        let length = match self
            .message
            .get(at..)
            .and_then(|rest| rest.first_chunk::<2>())
        {
            // Two bytes: what lengths up to 16 KiB have that do not fit one.
            Some(&[low, high]) if low >= 0x80 && high < 0x80 && at + 2 <= self.end => {
                self.at += 2;
                u64::from(low & 0x7F) | u64::from(high) << 7
            }
            _ => self.varint()?,
        };
        if length > (self.end - self.at) as u64 {
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
        Ok(Reader {
            message: self.message,
            at: span.start as usize,
            end: span.end as usize,
        })
    }

    /// A length and as many bytes of UTF-8.
    #[inline(always)]
    pub fn text(&mut self) -> Result<Span, FaultAt> {
        let span = self.span()?;
        // Nearly all text on this wire is ASCII, and that is the cheaper question.
        if is_ascii(self.message, span) || std::str::from_utf8(span.of(self.message)).is_ok() {
            return Ok(span);
        }
        Err(FaultAt {
            fault: Fault::Utf8,
            at: span.start as usize,
        })
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
        if self.end - self.at < bytes {
            return Err(FaultAt {
                fault: Fault::Truncated,
                at: self.at.saturating_sub(1),
            });
        }
        self.at += bytes;
        Ok(())
    }
}

/// Reads a varint at `at`, of any length. A component of a name is a hash, so its varint has 9 or 10
/// bytes, and eight are taken at a time. Looks past the end of a container, which the caller checks.
///
/// Returns the value and its length in bytes, which is 0 if there is none.
#[inline(always)]
pub(super) fn long_varint(message: &[u8], at: usize) -> (u64, usize) {
    let Some(ten) = message.get(at..).and_then(|rest| rest.first_chunk::<10>()) else {
        return varint_near_the_end(message, at);
    };
    let [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9] = *ten;
    let eight = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
    let stops = !eight & 0x8080_8080_8080_8080;
    if stops != 0 {
        let last_bit = stops.trailing_zeros();
        return (
            pack_sevens(eight & (u64::MAX >> (63 - last_bit))),
            last_bit as usize / 8 + 1,
        );
    }
    let low = pack_sevens(eight) | u64::from(b8 & 0x7F) << 56;
    if b8 < 0x80 {
        return (low, 9);
    }
    // The tenth byte holds the one bit that is left.
    (low | u64::from(b9) << 63, if b9 > 1 { 0 } else { 10 })
}

#[inline(never)]
fn outlined_varint(message: &[u8], at: usize) -> (u64, usize) {
    long_varint(message, at)
}

#[cold]
fn varint_near_the_end(message: &[u8], at: usize) -> (u64, usize) {
    let mut value = 0u64;
    for (index, &byte) in message
        .get(at..)
        .unwrap_or_default()
        .iter()
        .enumerate()
        .take(9)
    {
        value |= u64::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            return (value, index + 1);
        }
    }
    (0, 0)
}

/// Whether a span that lies in `message` is all ASCII. Most are parts of names: up to eight bytes are
/// looked at as one word, of which what follows the span is masked away.
#[inline(always)]
pub(super) fn is_ascii(message: &[u8], span: Span) -> bool {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    let length = span.len();
    if length == 0 {
        return true;
    }
    if length <= 8
        && let Some(word) = message
            .get(span.start as usize..)
            .and_then(|rest| rest.first_chunk::<8>())
    {
        return u64::from_le_bytes(*word) & (HIGH_BITS >> (64 - 8 * length as u32)) == 0;
    }
    span.of(message).is_ascii()
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
