//! The header decoder: RFC 7541. There is no encoder: what we send is literal (`respond`).
//!
//! Our SETTINGS forbid the dynamic table, but the peer may fill one before it has read them. So a table of 4096 bytes
//! exists until the peer acknowledges, and never after.

use super::huffman;
use std::collections::VecDeque;

/// What a dynamic table may hold before the peer has acknowledged that we want none (RFC 9113 §6.5.2, in bytes).
const TABLE_BYTES_BEFORE_ACK: u32 = 4_096;
/// What a field counts beyond its name and value, in the table and in a header list (RFC 7541 §4.1, RFC 9113 §6.5.2).
pub(super) const FIELD_OVERHEAD_BYTES: usize = 32;
/// Bytes of an integer after its prefix: 28 bits, above any length or index that can be valid (RFC 7541 §5.1).
const INTEGER_BYTES_MAX: usize = 4;

/// Why a header block cannot be decoded. The shared compression state is lost, so each closes the connection with
/// COMPRESSION_ERROR (RFC 9113 §4.3).
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum HpackError {
    #[error("the header block ends inside a field")]
    Truncated,
    #[error(
        "an integer of the header block has more than {INTEGER_BYTES_MAX} bytes after its prefix"
    )]
    Integer,
    #[error("index {index} is neither in the static table nor among the {entries} dynamic entries")]
    Index { index: u32, entries: usize },
    #[error("a Huffman-coded string has bad padding or an end-of-string symbol")]
    Huffman,
    #[error("dynamic table size update to {bytes} bytes, the limit is {limit}")]
    TableSize { bytes: u32, limit: u32 },
    #[error("dynamic table size update after the first field")]
    LateTableSize,
}

/// The receiving half of RFC 7541's shared state.
pub(super) struct Decoder {
    /// `None` while empty: an idle connection pays for no table.
    table: Option<Box<DynamicTable>>,
    /// What our SETTINGS allow the peer, in bytes.
    limit_bytes: u32,
    /// What the peer chose within the limit.
    capacity_bytes: u32,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Decoder {
            table: None,
            limit_bytes: TABLE_BYTES_BEFORE_ACK,
            capacity_bytes: TABLE_BYTES_BEFORE_ACK,
        }
    }

    /// The peer has acknowledged SETTINGS_HEADER_TABLE_SIZE = 0: the table and its memory go.
    ///
    /// A peer that goes on as if the table were there is caught as soon as it refers to what is gone. One that merely
    /// omits the size update of RFC 9113 §4.3.1 harms nobody and is let through.
    pub(super) fn forbid_table(&mut self) {
        *self = Decoder {
            table: None,
            limit_bytes: 0,
            capacity_bytes: 0,
        };
    }

    /// Hands each field of a complete header block to `field`, in order, as name and value.
    ///
    /// Nothing is collected here: `field` counts, keeps what it wants and ends the work by an error. Decoding holds one
    /// field at a time, at most 8/5 of `block`.
    pub(super) fn decode<E: From<HpackError>>(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = block;
        let mut name_text = Vec::new();
        let mut value_text = Vec::new();
        let mut fields_seen = false;
        while let Some(first) = rest.first().copied() {
            if first & 0xe0 == 0x20 {
                if fields_seen {
                    return Err(HpackError::LateTableSize.into());
                }
                let bytes = integer(&mut rest, 5)?;
                self.resize(bytes)?;
                continue;
            }
            fields_seen = true;
            if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                let (name, value) = self.entry(index)?;
                field(name, value)?;
                continue;
            }
            let (prefix_bits, is_indexed) = if first & 0x40 != 0 {
                (6, true)
            } else {
                (4, false)
            };
            let name_index = integer(&mut rest, prefix_bits)?;
            let literal_name = match name_index {
                0 => Some(string(&mut rest, &mut name_text)?),
                _ => None,
            };
            let value = string(&mut rest, &mut value_text)?;
            let name = match literal_name {
                Some(name) => name,
                None => self.entry(name_index)?.0,
            };
            field(name, value)?;
            if is_indexed {
                let entry = Entry::new(name, value, self.capacity_bytes as usize);
                self.insert(entry);
            }
        }
        Ok(())
    }

    /// Bytes of heap that the table accounts for (RFC 7541 §4.1).
    pub(super) fn table_bytes(&self) -> usize {
        self.table.as_ref().map_or(0, |table| table.bytes)
    }

    fn entry(&self, index: u32) -> Result<(&[u8], &[u8]), HpackError> {
        let entries = self.table.as_ref().map_or(0, |table| table.entries.len());
        let unknown = HpackError::Index { index, entries };
        let nth = (index as usize).checked_sub(1).ok_or(unknown)?;
        if let Some((name, value)) = STATIC_TABLE.get(nth) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let entry = self
            .table
            .as_ref()
            .and_then(|table| table.entries.get(nth - STATIC_TABLE.len()))
            .ok_or(unknown)?;
        entry.text.split_at_checked(entry.name_bytes).ok_or(unknown)
    }

    fn resize(&mut self, bytes: u32) -> Result<(), HpackError> {
        if bytes > self.limit_bytes {
            return Err(HpackError::TableSize {
                bytes,
                limit: self.limit_bytes,
            });
        }
        self.capacity_bytes = bytes;
        self.evict_down_to(bytes as usize);
        Ok(())
    }

    /// RFC 7541 §4.4: `None` is an entry larger than the table, which empties it and is no error.
    fn insert(&mut self, entry: Option<Entry>) {
        let Some(entry) = entry else {
            self.table = None;
            return;
        };
        let Some(room_bytes) = (self.capacity_bytes as usize).checked_sub(entry.cost_bytes())
        else {
            return;
        };
        self.evict_down_to(room_bytes);
        let table = self.table.get_or_insert_default();
        table.bytes += entry.cost_bytes();
        table.entries.push_front(entry);
    }

    fn evict_down_to(&mut self, bytes: usize) {
        let Some(table) = &mut self.table else { return };
        while table.bytes > bytes {
            let Some(oldest) = table.entries.pop_back() else {
                break;
            };
            table.bytes -= oldest.cost_bytes();
        }
        if table.entries.is_empty() {
            self.table = None;
        }
    }
}

/// Newest entry first, as the indices count (RFC 7541 §2.3.2).
#[derive(Default)]
struct DynamicTable {
    entries: VecDeque<Entry>,
    bytes: usize,
}

struct Entry {
    name_bytes: usize,
    text: Box<[u8]>,
}

impl Entry {
    /// `None`, and no allocation, if it cannot fit.
    fn new(name: &[u8], value: &[u8], capacity_bytes: usize) -> Option<Self> {
        if name.len() + value.len() + FIELD_OVERHEAD_BYTES > capacity_bytes {
            return None;
        }
        Some(Entry {
            name_bytes: name.len(),
            text: [name, value].concat().into_boxed_slice(),
        })
    }

    fn cost_bytes(&self) -> usize {
        self.text.len() + FIELD_OVERHEAD_BYTES
    }
}

/// RFC 7541 §5.1: the low `prefix_bits` of the first byte, then seven bits a byte, lowest first.
fn integer(rest: &mut &[u8], prefix_bits: u32) -> Result<u32, HpackError> {
    let prefix_max = (1_u32 << prefix_bits) - 1;
    let mut value = u32::from(byte(rest)?) & prefix_max;
    if value < prefix_max {
        return Ok(value);
    }
    for nth in 0..INTEGER_BYTES_MAX {
        let next = byte(rest)?;
        // At most 28 bits on top of a prefix of seven: no overflow.
        value += u32::from(next & 0x7f) << (7 * nth);
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(HpackError::Integer)
}

/// RFC 7541 §5.2. `text` is room for the decoded form, used only if the string is Huffman-coded.
fn string<'text, 'block: 'text>(
    rest: &mut &'block [u8],
    text: &'text mut Vec<u8>,
) -> Result<&'text [u8], HpackError> {
    let is_coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)? as usize;
    let (raw, after) = rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *rest = after;
    if !is_coded {
        return Ok(raw);
    }
    text.clear();
    huffman::decode(raw, text)?;
    Ok(text)
}

fn byte(rest: &mut &[u8]) -> Result<u8, HpackError> {
    let (first, after) = rest.split_first().ok_or(HpackError::Truncated)?;
    *rest = after;
    Ok(*first)
}

/// RFC 7541 Appendix A.
const STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    type Fields = Vec<(String, String)>;
    /// A block in hex, its fields, the table's bytes after it.
    type Example<'a> = (&'a str, &'a [(&'a str, &'a str)], usize);

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, HpackError> {
        let mut fields = Vec::new();
        decoder.decode(block, |name, value| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            fields.push((text(name), text(value)));
            Ok::<(), HpackError>(())
        })?;
        Ok(fields)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// One decoder over the blocks of an Appendix C example: block, fields, table bytes after it.
    fn check_example(table_bytes: u32, blocks: &[Example]) {
        let mut decoder = Decoder::new();
        decoder.resize(table_bytes).unwrap();
        for (block, fields, bytes) in blocks {
            let expected: Fields = fields
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect();
            assert_eq!(decode(&mut decoder, &hex(block)).unwrap(), expected);
            assert_eq!(decoder.table_bytes(), *bytes);
        }
    }

    #[test]
    fn integers_of_appendix_c1() {
        for (bytes, prefix_bits, value) in [
            (&[0x0a_u8][..], 5, 10),
            (&[0x1f, 0x9a, 0x0a], 5, 1337),
            (&[0x2a], 8, 42),
        ] {
            let mut rest = bytes;
            assert_eq!(integer(&mut rest, prefix_bits), Ok(value));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn single_fields_of_appendix_c2() {
        check_example(
            4_096,
            &[(
                "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
                &[("custom-key", "custom-header")],
                55,
            )],
        );
        check_example(
            4_096,
            &[(
                "040c 2f73 616d 706c 652f 7061 7468",
                &[(":path", "/sample/path")],
                0,
            )],
        );
        check_example(
            4_096,
            &[(
                "1008 7061 7373 776f 7264 0673 6563 7265 74",
                &[("password", "secret")],
                0,
            )],
        );
        check_example(4_096, &[("82", &[(":method", "GET")], 0)]);
    }

    const FIRST_REQUEST: &[(&str, &str)] = &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ];
    const SECOND_REQUEST: &[(&str, &str)] = &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ];
    const THIRD_REQUEST: &[(&str, &str)] = &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];

    #[test]
    fn requests_of_appendix_c3_and_c4() {
        check_example(
            4_096,
            &[
                (
                    "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                    FIRST_REQUEST,
                    57,
                ),
                ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND_REQUEST, 110),
                (
                    "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                    THIRD_REQUEST,
                    164,
                ),
            ],
        );
        check_example(
            4_096,
            &[
                (
                    "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                    FIRST_REQUEST,
                    57,
                ),
                ("8286 84be 5886 a8eb 1064 9cbf", SECOND_REQUEST, 110),
                (
                    "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                    THIRD_REQUEST,
                    164,
                ),
            ],
        );
    }

    #[test]
    fn responses_with_eviction_of_appendix_c5_and_c6() {
        let first: &[(&str, &str)] = &[
            (":status", "302"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ];
        let second: &[(&str, &str)] = &[(":status", "307"), first[1], first[2], first[3]];
        let third: &[(&str, &str)] = &[
            (":status", "200"),
            first[1],
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            first[3],
            ("content-encoding", "gzip"),
            (
                "set-cookie",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
        ];
        check_example(
            256,
            &[
                (
                    "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e \
                     1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                    first,
                    222,
                ),
                ("4803 3330 37c1 c0bf", second, 222),
                (
                    "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d \
                     4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 \
                     7369 6f6e 3d31",
                    third,
                    215,
                ),
            ],
        );
        check_example(
            256,
            &[
                (
                    "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b \
                     97c8 e9ae 82ae 43d3",
                    first,
                    222,
                ),
                ("4883 640e ffc1 c0bf", second, 222),
                (
                    "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf \
                     cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                    third,
                    215,
                ),
            ],
        );
    }

    #[test]
    fn bad_blocks_are_named() {
        let cases: &[(&str, HpackError)] = &[
            (
                "80",
                HpackError::Index {
                    index: 0,
                    entries: 0,
                },
            ),
            (
                "be",
                HpackError::Index {
                    index: 62,
                    entries: 0,
                },
            ),
            (
                "7e 00",
                HpackError::Index {
                    index: 62,
                    entries: 0,
                },
            ),
            (
                "3fe21f",
                HpackError::TableSize {
                    bytes: 4_097,
                    limit: 4_096,
                },
            ),
            ("82 20", HpackError::LateTableSize),
            ("ffffffffff7f", HpackError::Integer),
            ("ff8080808000", HpackError::Integer),
            ("ff80", HpackError::Truncated),
            ("40", HpackError::Truncated),
            ("4003 6162", HpackError::Truncated),
            ("4001 61", HpackError::Truncated),
            ("0001 61ff ffff ff7f", HpackError::Truncated),
            ("0001 6181 00", HpackError::Huffman),
        ];
        for (block, error) in cases {
            assert_eq!(
                decode(&mut Decoder::new(), &hex(block)),
                Err(*error),
                "{block}"
            );
        }
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut decoder = Decoder::new();
        decode(&mut decoder, &hex("4001 6101 62")).unwrap();
        assert_eq!(decoder.table_bytes(), 34);
        let mut block = hex("4001 61 7f e91e");
        block.extend_from_slice(&[b'x'; 0x7f + 0x69 + (0x1e << 7)]);
        decode(&mut decoder, &block).unwrap();
        assert_eq!(decoder.table_bytes(), 0);
    }

    #[test]
    fn without_a_table_nothing_is_kept_and_growth_is_refused() {
        let mut decoder = Decoder::new();
        decode(&mut decoder, &hex("4001 6101 62")).unwrap();
        decoder.forbid_table();
        assert_eq!(
            decode(&mut decoder, &hex("be")),
            Err(HpackError::Index {
                index: 62,
                entries: 0
            })
        );
        assert_eq!(
            decode(&mut decoder, &hex("20 4001 6101 62")).unwrap().len(),
            1
        );
        assert_eq!(decoder.table_bytes(), 0);
        assert_eq!(
            decode(&mut decoder, &hex("21")),
            Err(HpackError::TableSize { bytes: 1, limit: 0 })
        );
    }
}
