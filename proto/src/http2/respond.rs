//! The header blocks we send: literal, without table and Huffman code, so that they need no state (RFC 7541 §6.2.2).

use std::fmt::Write as _;

/// Bytes of a grpc-message on the wire, percent-encoded.
const GRPC_MESSAGE_BYTES_MAX: usize = 1_024;

/// Dynamic table size update to zero (RFC 7541 §6.3).
const NO_TABLE: u8 = 0x20;
/// `:status: 200`, index 8 of the static table.
const STATUS_200: u8 = 0x88;
/// Literal without indexing, name from the static table: 4 bits of index, the rest in a second byte.
const STATUS_LITERAL: u8 = 0x08;
const CONTENT_TYPE_LITERAL: [u8; 2] = [0x0f, 31 - 15];
const CONTENT_TYPE_GRPC: &str = "application/grpc";

/// A header block under construction.
pub(super) struct HeaderBlock {
    bytes: Vec<u8>,
}

impl HeaderBlock {
    /// - `table_shrunk`: the peer has lowered SETTINGS_HEADER_TABLE_SIZE since our last block. Ours is always empty, but
    ///   RFC 7541 §4.2 wants the change said at the start of the next block.
    pub(super) fn new(table_shrunk: bool) -> Self {
        let bytes = if table_shrunk {
            vec![NO_TABLE]
        } else {
            Vec::new()
        };
        HeaderBlock { bytes }
    }

    /// `:status: 200`, `content-type: application/grpc`.
    pub(super) fn grpc_response(mut self) -> Self {
        self.bytes.push(STATUS_200);
        self.bytes.extend_from_slice(&CONTENT_TYPE_LITERAL);
        self.string(CONTENT_TYPE_GRPC);
        self
    }

    /// A bare `:status`, three digits.
    pub(super) fn status(mut self, http_status: u16) -> Self {
        self.bytes.push(STATUS_LITERAL);
        self.string(&format!("{:03}", http_status.min(999)));
        self
    }

    /// `grpc-status` and, unless empty, `grpc-message`.
    pub(super) fn grpc_status(mut self, grpc_status: u32, message: &str) -> Self {
        self.field("grpc-status", &grpc_status.to_string());
        if !message.is_empty() {
            self.field("grpc-message", &percent_encoded(message));
        }
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn field(&mut self, name: &str, value: &str) {
        self.bytes.push(0);
        self.string(name);
        self.string(value);
    }

    /// RFC 7541 §5.2, plain: a length with a prefix of seven bits, then the bytes.
    fn string(&mut self, text: &str) {
        const PREFIX_MAX: usize = 0x7f;
        match text.len().checked_sub(PREFIX_MAX) {
            None => self.bytes.push(text.len() as u8),
            Some(mut rest) => {
                self.bytes.push(PREFIX_MAX as u8);
                while rest >= 0x80 {
                    self.bytes.push((rest & 0x7f) as u8 | 0x80);
                    rest >>= 7;
                }
                self.bytes.push(rest as u8);
            }
        }
        self.bytes.extend_from_slice(text.as_bytes());
    }
}

/// gRPC over HTTP/2, "Status-Message": bytes outside 0x20..=0x7e and the percent sign as `%XX`. Cut between characters.
fn percent_encoded(message: &str) -> String {
    let mut out = String::new();
    for character in message.chars() {
        let whole_bytes = out.len();
        match character {
            ' '..='$' | '&'..='~' => out.push(character),
            _ => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing into a string cannot fail.
                    let _ = write!(out, "%{byte:02X}");
                }
            }
        }
        if out.len() > GRPC_MESSAGE_BYTES_MAX {
            out.truncate(whole_bytes);
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::hpack::{Decoder, HpackError};
    use super::*;

    fn decoded(block: HeaderBlock) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Decoder::new()
            .decode(block.bytes(), |name, value| {
                fields.push((text(name), text(value)));
                Ok::<(), HpackError>(())
            })
            .unwrap();
        fields
    }

    fn fields(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn responses_read_back_as_written() {
        assert_eq!(
            decoded(HeaderBlock::new(false).grpc_response()),
            fields(&[(":status", "200"), ("content-type", "application/grpc")])
        );
        assert_eq!(
            decoded(
                HeaderBlock::new(true)
                    .grpc_response()
                    .grpc_status(12, "no such method: 100 %\n")
            ),
            fields(&[
                (":status", "200"),
                ("content-type", "application/grpc"),
                ("grpc-status", "12"),
                ("grpc-message", "no such method: 100 %25%0A")
            ])
        );
        assert_eq!(
            decoded(HeaderBlock::new(false).status(401)),
            fields(&[(":status", "401")])
        );
        assert_eq!(
            decoded(HeaderBlock::new(false).grpc_status(0, "")),
            fields(&[("grpc-status", "0")])
        );
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        for length in [126, 127, 128, 254, 255, 256, 1_023, 1_024, 1_025, 5_000] {
            let message = decoded(HeaderBlock::new(false).grpc_status(2, &"x".repeat(length)))
                .pop()
                .unwrap()
                .1;
            assert_eq!(message.len(), length.min(GRPC_MESSAGE_BYTES_MAX));
        }
        let message = percent_encoded(&"é".repeat(1_000));
        assert_eq!(message.len(), GRPC_MESSAGE_BYTES_MAX / 6 * 6);
        assert_eq!(percent_encoded("é"), "%C3%A9");
    }
}
