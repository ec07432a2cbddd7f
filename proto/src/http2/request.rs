//! Which header lists are a request, and what of one is kept: RFC 9113 §8.

use super::ConnectionError;
use super::frame::StreamId;
use super::hpack::{Decoder, FIELD_OVERHEAD_BYTES};

/// Fields of one header list. gRPC clients send about ten.
const HEADER_FIELDS_MAX: usize = 128;

/// What the router must know of a request. Every text is visible ASCII and shorter than the announced header list.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RequestHead {
    pub stream: StreamId,
    pub method: String,
    /// Empty for CONNECT.
    pub path: String,
    pub scheme: Option<String>,
    pub authority: Option<String>,
    pub content_type: Option<String>,
    /// As sent: `Basic ..` or `Bearer ..`. Not shown by `Debug`.
    pub authorization: Option<String>,
    pub grpc_encoding: Option<String>,
    pub user_agent: Option<String>,
    /// `te: trailers`, which a gRPC client sends.
    pub te_trailers: bool,
    pub content_length: Option<u64>,
    /// The request has no body.
    pub end_stream: bool,
}

impl std::fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestHead")
            .field("stream", &self.stream)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("scheme", &self.scheme)
            .field("authority", &self.authority)
            .field("content_type", &self.content_type)
            .field(
                "authorization",
                &self.authorization.as_ref().map(|_| "<hidden>"),
            )
            .field("grpc_encoding", &self.grpc_encoding)
            .field("user_agent", &self.user_agent)
            .field("te_trailers", &self.te_trailers)
            .field("content_length", &self.content_length)
            .field("end_stream", &self.end_stream)
            .finish()
    }
}

/// Why a header list is not a request or not its trailers (RFC 9113 §8.1.1).
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum Malformed {
    #[error("a field name is empty or has a character that is not allowed")]
    Name,
    #[error("a field value has a character that is not allowed")]
    Value,
    #[error("a pseudo-header that no request has")]
    UnknownPseudo,
    #[error("a pseudo-header after a field")]
    LatePseudo,
    #[error("a field that may occur once occurs twice")]
    Duplicate,
    #[error(":method, :scheme or :path is missing or empty")]
    Incomplete,
    #[error("a field that belongs to HTTP/1 connections")]
    ConnectionSpecific,
    #[error("te is not \"trailers\"")]
    Te,
    #[error("content-length is not a number, or not that of the body")]
    ContentLength,
    #[error("a second header list does not end its stream")]
    TrailersWithoutEnd,
}

/// Bounds of one header list.
#[derive(Clone, Copy)]
pub(super) struct ListLimit {
    /// Names, values and 32 bytes a field (RFC 9113 §6.5.2).
    pub(super) bytes: u32,
}

/// Reads a header block as a request.
///
/// - Outer error: closes the connection; the list is too long, or the compression state is lost.
/// - Inner error: the block was read to its end, so it concerns its stream alone.
pub(super) fn read_request(
    decoder: &mut Decoder,
    block: &[u8],
    limit: ListLimit,
    stream: StreamId,
    end_stream: bool,
) -> Result<Result<Box<RequestHead>, Malformed>, ConnectionError> {
    let mut head = Box::new(RequestHead {
        stream,
        end_stream,
        ..RequestHead::default()
    });
    let mut parts = Parts::default();
    let mut verdict = Ok(());
    for_each_field(decoder, block, limit, |name, value| {
        if verdict.is_ok() {
            verdict = parts.take(&mut head, name, value);
        }
    })?;
    Ok(verdict.and_then(|()| parts.check(&head)).map(|()| head))
}

/// Reads a header block as trailers, of which nothing is kept. Errors as [`read_request`].
pub(super) fn read_trailers(
    decoder: &mut Decoder,
    block: &[u8],
    limit: ListLimit,
) -> Result<Result<(), Malformed>, ConnectionError> {
    let mut verdict = Ok(());
    for_each_field(decoder, block, limit, |name, value| {
        if verdict.is_ok() {
            verdict = match name.first() {
                Some(b':') => Err(Malformed::UnknownPseudo),
                _ => check_field(name, value),
            };
        }
    })?;
    Ok(verdict)
}

/// Counts before anything is looked at, so that a small block cannot stand for a large list.
fn for_each_field(
    decoder: &mut Decoder,
    block: &[u8],
    limit: ListLimit,
    mut field: impl FnMut(&[u8], &[u8]),
) -> Result<(), ConnectionError> {
    let (mut fields, mut bytes) = (0, 0);
    decoder.decode(block, |name, value| {
        fields += 1;
        bytes += name.len() + value.len() + FIELD_OVERHEAD_BYTES;
        if bytes > limit.bytes as usize {
            return Err(ConnectionError::HeaderListTooLarge { limit: limit.bytes });
        }
        if fields > HEADER_FIELDS_MAX {
            return Err(ConnectionError::TooManyFields {
                limit: HEADER_FIELDS_MAX,
            });
        }
        field(name, value);
        Ok(())
    })
}

/// What the fields read so far say about those to come.
#[derive(Default)]
struct Parts {
    has_method: bool,
    has_path: bool,
    has_fields: bool,
}

impl Parts {
    fn take(&mut self, head: &mut RequestHead, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if name.first() == Some(&b':') {
            if self.has_fields {
                return Err(Malformed::LatePseudo);
            }
            return self.take_pseudo(head, name, value);
        }
        self.has_fields = true;
        check_field(name, value)?;
        match name {
            b"content-type" => keep_once(&mut head.content_type, value),
            b"authorization" => keep_once(&mut head.authorization, value),
            b"grpc-encoding" => keep_once(&mut head.grpc_encoding, value),
            b"user-agent" => keep_once(&mut head.user_agent, value),
            b"te" if value.eq_ignore_ascii_case(b"trailers") => {
                head.te_trailers = true;
                Ok(())
            }
            b"te" => Err(Malformed::Te),
            b"content-length" if head.content_length.is_some() => Err(Malformed::Duplicate),
            b"content-length" => {
                head.content_length = Some(decimal(value).ok_or(Malformed::ContentLength)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_pseudo(
        &mut self,
        head: &mut RequestHead,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), Malformed> {
        check_value(value)?;
        match name {
            b":method" => keep_flagged(&mut self.has_method, &mut head.method, value),
            b":path" => keep_flagged(&mut self.has_path, &mut head.path, value),
            b":scheme" => keep_once(&mut head.scheme, value),
            b":authority" => keep_once(&mut head.authority, value),
            _ => Err(Malformed::UnknownPseudo),
        }
    }

    /// RFC 9113 §8.3.1; §8.5 for CONNECT.
    fn check(&self, head: &RequestHead) -> Result<(), Malformed> {
        let is_complete = match head.method.as_str() {
            "" => false,
            "CONNECT" => head.authority.is_some() && head.scheme.is_none() && !self.has_path,
            _ => {
                !head.path.is_empty()
                    && head
                        .scheme
                        .as_ref()
                        .is_some_and(|scheme| !scheme.is_empty())
            }
        };
        if !is_complete {
            return Err(Malformed::Incomplete);
        }
        if head.end_stream && head.content_length.is_some_and(|bytes| bytes != 0) {
            return Err(Malformed::ContentLength);
        }
        Ok(())
    }
}

/// A field that is no pseudo-header: RFC 9113 §8.2.1 and §8.2.2. Stricter in names, where only tokens of RFC 9110 pass.
fn check_field(name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    let is_token =
        |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(is_token) {
        return Err(Malformed::Name);
    }
    if matches!(
        name,
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade"
    ) {
        return Err(Malformed::ConnectionSpecific);
    }
    check_value(value)
}

fn check_value(value: &[u8]) -> Result<(), Malformed> {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_forbidden = value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
    if is_forbidden || is_blank(value.first()) || is_blank(value.last()) {
        Err(Malformed::Value)
    } else {
        Ok(())
    }
}

fn keep_once(slot: &mut Option<String>, value: &[u8]) -> Result<(), Malformed> {
    if slot.is_some() {
        return Err(Malformed::Duplicate);
    }
    *slot = Some(text(value)?);
    Ok(())
}

fn keep_flagged(is_kept: &mut bool, slot: &mut String, value: &[u8]) -> Result<(), Malformed> {
    if std::mem::replace(is_kept, true) {
        return Err(Malformed::Duplicate);
    }
    *slot = text(value)?;
    Ok(())
}

/// What we keep is compared with, or decoded as, plain ASCII; anything else in these fields has no meaning to us.
fn text(value: &[u8]) -> Result<String, Malformed> {
    let is_visible = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let text = is_visible
        .then(|| std::str::from_utf8(value).ok())
        .flatten()
        .ok_or(Malformed::Value)?;
    Ok(text.to_owned())
}

/// Digits only: `u64::from_str` would also take a sign.
fn decimal(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
}
