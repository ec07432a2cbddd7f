//! The Huffman code of header strings: RFC 7541 §5.2 and Appendix B.
//!
//! The code is canonical: within one length, codes ascend with their symbols. So the lengths alone are the table.

use super::hpack::HpackError;

/// Bits of each byte's code (RFC 7541 Appendix B).
#[rustfmt::skip]
const CODE_BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// The longest code, and that of EOS: thirty ones.
const CODE_BITS_MAX: usize = 30;
/// Padding is shorter than a byte and all ones (RFC 7541 §5.2).
const PADDING_BITS_MAX: u32 = 7;

/// For one code length: its first code, how many there are, and where their symbols begin in [`Code::symbols`].
#[derive(Clone, Copy)]
struct Rank {
    first: u32,
    count: u32,
    symbols_at: usize,
}

struct Code {
    ranks: [Rank; CODE_BITS_MAX + 1],
    symbols: [u8; 256],
}

const CODE: Code = canonical_code();

const fn canonical_code() -> Code {
    let mut code = Code {
        ranks: [Rank {
            first: 0,
            count: 0,
            symbols_at: 0,
        }; CODE_BITS_MAX + 1],
        symbols: [0; 256],
    };
    let mut next_code = 0_u32;
    let mut filled = 0;
    let mut bits = 1;
    while bits <= CODE_BITS_MAX {
        next_code <<= 1;
        code.ranks[bits].first = next_code;
        code.ranks[bits].symbols_at = filled;
        let mut symbol = 0;
        while symbol < CODE_BITS.len() {
            if CODE_BITS[symbol] as usize == bits {
                code.symbols[filled] = symbol as u8;
                filled += 1;
                next_code += 1;
                code.ranks[bits].count += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    code
}

/// Appends the decoded form of `coded` to `out`.
///
/// `out` grows by at most 8/5 of `coded`, since no code is shorter than five bits. Bit by bit is fast enough: a
/// connection carries one header block in its life.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let mut code = 0_u32;
    let mut bits = 0_usize;
    for byte in coded {
        for shift in (0..8).rev() {
            code = (code << 1) | u32::from((byte >> shift) & 1);
            bits += 1;
            let Some(rank) = CODE.ranks.get(bits) else {
                return Err(HpackError::Huffman);
            };
            let nth = code.wrapping_sub(rank.first);
            if nth < rank.count {
                let symbol = CODE
                    .symbols
                    .get(rank.symbols_at + nth as usize)
                    .ok_or(HpackError::Huffman)?;
                out.push(*symbol);
                code = 0;
                bits = 0;
            }
        }
    }
    // EOS in full never gets here with fewer than 30 bits, so it falls under "too much padding".
    let bits = bits as u32;
    if bits > PADDING_BITS_MAX || code != (1 << bits) - 1 {
        Err(HpackError::Huffman)
    } else {
        Ok(())
    }
}

#[cfg(test)]
pub(super) fn encode(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut pending, mut bits) = (0_u64, 0_u32);
    for byte in plain {
        let length = CODE_BITS[*byte as usize] as usize;
        let rank = CODE.ranks[length];
        let symbols = &CODE.symbols[rank.symbols_at..rank.symbols_at + rank.count as usize];
        let nth = symbols.iter().position(|symbol| symbol == byte).unwrap() as u32;
        pending = (pending << length) | u64::from(rank.first + nth);
        bits += length as u32;
        while bits >= 8 {
            bits -= 8;
            out.push((pending >> bits) as u8);
        }
    }
    if bits > 0 {
        out.push((pending << (8 - bits)) as u8 | (0xff >> bits));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_code_is_the_one_of_appendix_b() {
        // Its last code is one below EOS: 256 bytes and EOS fill the code space exactly.
        let last = CODE.ranks[CODE_BITS_MAX];
        assert_eq!(last.first + last.count, (1 << CODE_BITS_MAX) - 1);
        assert_eq!(
            decoded(&[
                0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff
            ])
            .unwrap(),
            b"www.example.com"
        );
    }

    #[test]
    fn every_byte_survives_the_code() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encode(&all)).unwrap(), all);
        for byte in 0..=255 {
            assert_eq!(decoded(&encode(&[byte])).unwrap(), [byte]);
        }
    }

    #[test]
    fn padding_is_short_and_all_ones() {
        assert_eq!(decoded(&[0b0000_0111]).unwrap(), b"0");
        assert_eq!(decoded(&[0b0000_0110]), Err(HpackError::Huffman));
        assert_eq!(decoded(&[0b0000_0111, 0xff]), Err(HpackError::Huffman));
        assert_eq!(decoded(&[0xff]), Err(HpackError::Huffman));
    }

    #[test]
    fn the_end_of_string_symbol_is_an_error() {
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(HpackError::Huffman));
        assert_eq!(
            decoded(&[0xff, 0xff, 0xff, 0xfc, 0x07]),
            Err(HpackError::Huffman)
        );
    }
}
