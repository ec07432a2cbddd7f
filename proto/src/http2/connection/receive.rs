//! The receiving half: one state for each thing that the next byte can be part of.

use super::*;
use crate::http2::Malformed;
use crate::http2::flood::{Flood, TINY_DATA_BYTES};
use crate::http2::frame::{FrameHeader, PADDED, PRIORITY_FLAG};
use crate::http2::request::{ListLimit, read_request, read_trailers};

/// CONTINUATION frames of one header block (VU#421644).
const CONTINUATION_FRAMES_MAX: u8 = 8;
/// Payload of one SETTINGS frame: 32 settings, of which RFC 9113 knows six.
const SETTINGS_FRAME_BYTES_MAX: u32 = 32 * SETTING_BYTES;
/// Letters of an HTTP/1 method before a stranger counts as noise.
const HTTP1_METHOD_BYTES_MAX: u8 = 16;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS_ENABLE_PUSH: u16 = 0x2;

/// What the next byte of input is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Preface,
    /// Not the preface; to be told from noise: an HTTP/1 method, a TLS record.
    Http1Method,
    TlsVersion,
    FrameHeader,
    PadLength,
    PriorityFields,
    Data,
    Fragment,
    /// The padding of any frame; the end of DATA, HEADERS and CONTINUATION frames.
    Padding,
    Settings,
    /// RST_STREAM, PING, WINDOW_UPDATE, and the fixed part of GOAWAY.
    Fixed,
    Skip,
    /// After an error: nothing is looked at any more.
    Failed,
}

enum Progress<'a> {
    /// The state moved on.
    Done,
    /// The input is used up.
    Starved,
    Event(Event<'a>),
}

pub(super) struct PartialHeaderBlock {
    role: BlockRole,
    stream: StreamId,
    end_stream: bool,
    continuations: u8,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum BlockRole {
    Request,
    Trailers,
    /// The stream is over; the block still counts for the compression state.
    Ignored,
}

impl PartialHeaderBlock {
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(self) + self.bytes.capacity()
    }
}

impl ServerConnection {
    pub(super) fn advance<'a>(
        &mut self,
        input: &mut &'a [u8],
        control: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        loop {
            let progress = match self.reading {
                Reading::Preface | Reading::Http1Method | Reading::TlsVersion => {
                    self.read_preface(input)?
                }
                Reading::FrameHeader => match self.take::<FRAME_HEADER_BYTES>(input) {
                    None => Progress::Starved,
                    Some(bytes) => {
                        self.begin_frame(FrameHeader::from_wire(&bytes))?;
                        Progress::Done
                    }
                },
                Reading::PadLength => self.read_pad_length(input, control)?,
                Reading::PriorityFields => match self.take::<5>(input) {
                    None => Progress::Starved,
                    Some(_) => {
                        self.left_bytes = self.left_bytes.saturating_sub(5);
                        self.begin_fragment()?;
                        Progress::Done
                    }
                },
                Reading::Data => self.read_data(input, control)?,
                Reading::Fragment => self.read_fragment(input),
                Reading::Padding => self.read_padding(input, control)?,
                Reading::Settings => self.read_settings(input, control)?,
                Reading::Fixed => self.read_fixed(input, control)?,
                Reading::Skip => self.skip(input),
                Reading::Failed => {
                    *input = &[];
                    Progress::Starved
                }
            };
            match progress {
                Progress::Done => {}
                Progress::Starved => return Ok(None),
                Progress::Event(event) => return Ok(Some(event)),
            }
        }
    }

    /// The next `N` bytes, gathered over calls. `N` is at most [`FRAME_HEADER_BYTES`].
    fn take<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        if self.scratch_bytes == 0
            && let Some((whole, rest)) = input.split_first_chunk::<N>()
        {
            *input = rest;
            return Some(*whole);
        }
        let gathered = usize::from(self.scratch_bytes);
        let missing = N.saturating_sub(gathered).min(input.len());
        let (bytes, rest) = input.split_at(missing);
        for (slot, byte) in self.scratch.iter_mut().skip(gathered).zip(bytes) {
            *slot = *byte;
        }
        *input = rest;
        self.scratch_bytes += missing as u8;
        if usize::from(self.scratch_bytes) < N {
            return None;
        }
        self.scratch_bytes = 0;
        self.scratch.first_chunk::<N>().copied()
    }

    /// RFC 9113 §3.4. `scratch_bytes` counts what was seen.
    fn read_preface<'a>(&mut self, input: &mut &[u8]) -> Result<Progress<'a>, ConnectionError> {
        let Some((&byte, rest)) = input.split_first() else {
            return Ok(Progress::Starved);
        };
        *input = rest;
        let seen = self.scratch_bytes;
        let offset = usize::from(seen);
        let bad = ConnectionError::BadPreface { byte, offset };
        self.scratch_bytes += 1;
        match self.reading {
            Reading::TlsVersion if byte == 0x03 => return Err(ConnectionError::TlsOnClearText),
            Reading::Http1Method if byte == b' ' => return Err(ConnectionError::Http1),
            Reading::Http1Method if byte.is_ascii_uppercase() && seen < HTTP1_METHOD_BYTES_MAX => {}
            Reading::Preface if PREFACE.get(offset) == Some(&byte) => {
                if offset + 1 == PREFACE.len() {
                    self.scratch_bytes = 0;
                    self.reading = Reading::FrameHeader;
                }
            }
            // A TLS record of type handshake, then its version (RFC 8446 §5.1).
            Reading::Preface if offset == 0 && byte == 0x16 => self.reading = Reading::TlsVersion,
            // Three letters of the preface could begin another method; its space could not.
            Reading::Preface if offset <= 3 && byte.is_ascii_uppercase() => {
                self.reading = Reading::Http1Method
            }
            _ => return Err(bad),
        }
        Ok(Progress::Done)
    }

    /// Everything about a frame that its header alone can get wrong.
    fn begin_frame(&mut self, frame: FrameHeader) -> Result<(), ConnectionError> {
        let FrameHeader {
            length: bytes,
            stream,
            ..
        } = frame;
        let kind = frame.kind.name();
        if bytes > self.settings.max_frame_bytes {
            return Err(ConnectionError::FrameTooLarge {
                kind,
                bytes,
                limit: self.settings.max_frame_bytes,
            });
        }
        if !self.has_peer_settings && (frame.kind != FrameKind::Settings || frame.has(ACK)) {
            return Err(ConnectionError::SettingsMissing { kind });
        }
        if let Some(open) = self.header_block.as_ref().map(|block| block.stream)
            && (frame.kind != FrameKind::Continuation || stream != open)
        {
            return Err(ConnectionError::HeaderBlockInterrupted { kind, stream, open });
        }
        self.frame = frame;
        self.left_bytes = bytes;
        self.padding_bytes = 0;

        let on_connection = stream == StreamId::CONNECTION;
        let wrong_stream = ConnectionError::WrongStream { kind, stream };
        let wrong_length = ConnectionError::FrameLength { kind, bytes };
        self.reading = match frame.kind {
            FrameKind::Data | FrameKind::Headers | FrameKind::Priority | FrameKind::ResetStream
                if on_connection =>
            {
                return Err(wrong_stream);
            }
            FrameKind::Settings | FrameKind::Ping | FrameKind::GoAway if !on_connection => {
                return Err(wrong_stream);
            }

            FrameKind::Data => return self.begin_data(),
            FrameKind::Headers => return self.begin_headers(),
            FrameKind::Continuation if self.header_block.is_none() => {
                return Err(ConnectionError::ContinuationWithoutHeaders { stream });
            }
            FrameKind::Continuation => return self.begin_fragment(),
            FrameKind::PushPromise => return Err(ConnectionError::Push),

            FrameKind::Priority if bytes != 5 => return Err(wrong_length),
            FrameKind::Priority => {
                self.floods.spend(Flood::Priorities)?;
                Reading::Skip
            }
            FrameKind::Settings if frame.has(ACK) && bytes != 0 => return Err(wrong_length),
            FrameKind::Settings if bytes % SETTING_BYTES != 0 => return Err(wrong_length),
            FrameKind::Settings if bytes > SETTINGS_FRAME_BYTES_MAX => {
                return Err(ConnectionError::TooManySettings {
                    bytes,
                    limit: SETTINGS_FRAME_BYTES_MAX,
                });
            }
            FrameKind::Settings => Reading::Settings,
            FrameKind::ResetStream | FrameKind::WindowUpdate if bytes != 4 => {
                return Err(wrong_length);
            }
            FrameKind::ResetStream | FrameKind::WindowUpdate if self.is_idle(stream) => {
                return Err(ConnectionError::IdleStream { kind, stream });
            }
            FrameKind::Ping if bytes != 8 => return Err(wrong_length),
            FrameKind::GoAway if bytes < 8 => return Err(wrong_length),
            FrameKind::ResetStream
            | FrameKind::WindowUpdate
            | FrameKind::Ping
            | FrameKind::GoAway => Reading::Fixed,
            FrameKind::Unknown(_) => {
                self.floods.spend(Flood::Ignored)?;
                Reading::Skip
            }
        };
        Ok(())
    }

    /// Charges a DATA frame to the windows, whole and before any of it is here (RFC 9113 §6.9.1).
    fn begin_data(&mut self) -> Result<(), ConnectionError> {
        let FrameHeader {
            length: bytes,
            stream,
            ..
        } = self.frame;
        let kind = self.frame.kind.name();
        if self.is_idle(stream) {
            return Err(ConnectionError::IdleStream { kind, stream });
        }
        if i64::from(bytes) > self.credit_bytes {
            return Err(ConnectionError::WindowOverrun {
                stream: StreamId::CONNECTION,
                bytes,
                window: self.credit_bytes,
            });
        }
        // Until the peer has read our SETTINGS it counts from the default, which may be more than we announced.
        let overdraft_bytes = match self.is_settings_acked {
            true => 0,
            false => (DEFAULT_WINDOW_BYTES - i64::from(self.settings.initial_window_bytes)).max(0),
        };
        let is_ours = stream <= self.closed_by_us;
        match self.open_stream(stream) {
            Some(open) if open.is_remote_ended => {
                return Err(ConnectionError::StreamClosed { kind, stream });
            }
            Some(open) => {
                let window = open.credit_bytes + overdraft_bytes;
                if bytes > 0 && i64::from(bytes) > window {
                    return Err(ConnectionError::WindowOverrun {
                        stream,
                        bytes,
                        window,
                    });
                }
                open.credit_bytes -= i64::from(bytes);
            }
            None if is_ours => {}
            None => return Err(ConnectionError::StreamClosed { kind, stream }),
        }
        self.credit_bytes -= i64::from(bytes);
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        if self.frame.has(PADDED) {
            self.expect_padding()
        } else {
            self.begin_payload()
        }
    }

    fn begin_headers(&mut self) -> Result<(), ConnectionError> {
        let FrameHeader {
            length: bytes,
            stream,
            ..
        } = self.frame;
        let kind = self.frame.kind.name();
        if !is_clients(stream) {
            return Err(ConnectionError::WrongStream { kind, stream });
        }
        let last = self.last_stream;
        let is_ours = stream <= self.closed_by_us;
        let role = match self.open_stream(stream) {
            Some(open) if open.is_remote_ended => {
                return Err(ConnectionError::StreamClosed { kind, stream });
            }
            Some(_) => BlockRole::Trailers,
            None if stream > last => {
                self.floods.spend(Flood::Requests)?;
                self.last_stream = stream;
                BlockRole::Request
            }
            None if is_ours => {
                self.floods.spend(Flood::Ignored)?;
                BlockRole::Ignored
            }
            None if stream == last => return Err(ConnectionError::StreamClosed { kind, stream }),
            None => return Err(ConnectionError::StreamOrder { stream, last }),
        };
        self.header_block = Some(Box::new(PartialHeaderBlock {
            role,
            stream,
            end_stream: self.frame.has(END_STREAM),
            continuations: 0,
            bytes: Vec::new(),
        }));
        if self.frame.has(PADDED) {
            self.expect_padding()
        } else if self.frame.has(PRIORITY_FLAG) {
            if bytes < 5 {
                return Err(ConnectionError::FrameLength { kind, bytes });
            }
            self.reading = Reading::PriorityFields;
            Ok(())
        } else {
            self.begin_fragment()
        }
    }

    fn expect_padding(&mut self) -> Result<(), ConnectionError> {
        if self.frame.length == 0 {
            return Err(ConnectionError::FrameLength {
                kind: self.frame.kind.name(),
                bytes: 0,
            });
        }
        self.reading = Reading::PadLength;
        Ok(())
    }

    fn read_pad_length<'a>(
        &mut self,
        input: &mut &[u8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        let Some([padding]) = self.take::<1>(input) else {
            return Ok(Progress::Starved);
        };
        let is_data = self.frame.kind == FrameKind::Data;
        let priority_bytes = if !is_data && self.frame.has(PRIORITY_FLAG) {
            5
        } else {
            0
        };
        let bytes = self.frame.length;
        // RFC 9113 §6.1, §6.2: padding that does not fit what is left of the frame.
        self.left_bytes = (bytes - 1)
            .checked_sub(u32::from(padding))
            .filter(|left_bytes| *left_bytes >= priority_bytes)
            .ok_or(ConnectionError::Padding {
                kind: self.frame.kind.name(),
                padding,
                bytes,
            })?;
        self.padding_bytes = padding;
        if is_data {
            self.discard(1, control);
            self.begin_payload()?;
        } else if priority_bytes > 0 {
            self.reading = Reading::PriorityFields;
        } else {
            self.begin_fragment()?;
        }
        Ok(Progress::Done)
    }

    /// `left_bytes` of DATA are to come. Judges what a frame of this size is good for.
    fn begin_payload(&mut self) -> Result<(), ConnectionError> {
        self.reading = Reading::Data;
        match self.left_bytes {
            _ if self.frame.has(END_STREAM) => {}
            0 => self.floods.spend(Flood::EmptyData)?,
            1..TINY_DATA_BYTES => self.floods.spend(Flood::TinyData)?,
            _ if self.is_accepted(self.frame.stream) => self.floods.useful_frame_received(),
            _ => {}
        }
        Ok(())
    }

    fn read_data<'a>(
        &mut self,
        input: &mut &'a [u8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        let stream = self.frame.stream;
        let left_before = self.left_bytes;
        if left_before > 0 && input.is_empty() {
            return Ok(Progress::Starved);
        }
        let chunk_bytes = (left_before as usize).min(input.len());
        let (bytes, rest) = input.split_at(chunk_bytes);
        *input = rest;
        let flow_bytes = chunk_bytes as u32;
        self.left_bytes = left_before - flow_bytes;
        let is_last = self.left_bytes == 0;
        if is_last {
            self.reading = Reading::Padding;
        }
        let end_stream = is_last && self.frame.has(END_STREAM);
        let is_accepted = self.is_accepted(stream);
        let Some(open) = self.open_stream(stream) else {
            self.discard(flow_bytes, control);
            return Ok(Progress::Done);
        };
        if let Some(content_left_bytes) = &mut open.content_left_bytes {
            *content_left_bytes = content_left_bytes
                .checked_sub(chunk_bytes as u64)
                .ok_or(ConnectionError::ContentLength { stream })?;
            if end_stream && *content_left_bytes > 0 {
                return Err(ConnectionError::ContentLength { stream });
            }
        }
        open.is_remote_ended |= end_stream;
        if bytes.is_empty() && !end_stream {
            return Ok(Progress::Done);
        }
        if is_accepted {
            return Ok(Progress::Event(Event::Data {
                stream,
                bytes,
                flow_bytes,
                end_stream,
            }));
        }
        self.discard(flow_bytes, control);
        Ok(Progress::Event(Event::Data {
            stream,
            bytes,
            flow_bytes: 0,
            end_stream,
        }))
    }

    /// A piece of a header block of `left_bytes` is to come. Refused here, before it is stored.
    fn begin_fragment(&mut self) -> Result<(), ConnectionError> {
        let limit = self.settings.max_header_list_bytes;
        let Some(block) = &mut self.header_block else {
            return Err(ConnectionError::ContinuationWithoutHeaders {
                stream: self.frame.stream,
            });
        };
        if self.frame.kind == FrameKind::Continuation {
            block.continuations += 1;
            if block.continuations > CONTINUATION_FRAMES_MAX {
                return Err(ConnectionError::TooManyContinuations {
                    limit: CONTINUATION_FRAMES_MAX,
                });
            }
        }
        // A field takes fewer bytes on the wire than it counts in the list, so a longer block is a longer list.
        if block.bytes.len() as u64 + u64::from(self.left_bytes) > u64::from(limit) {
            return Err(ConnectionError::HeaderBlockTooLarge { limit });
        }
        self.reading = Reading::Fragment;
        Ok(())
    }

    fn read_fragment<'a>(&mut self, input: &mut &[u8]) -> Progress<'a> {
        let (fragment, rest) = input.split_at((self.left_bytes as usize).min(input.len()));
        *input = rest;
        self.left_bytes -= fragment.len() as u32;
        if let Some(block) = &mut self.header_block {
            block.bytes.extend_from_slice(fragment);
        }
        if self.left_bytes > 0 {
            return Progress::Starved;
        }
        self.reading = Reading::Padding;
        Progress::Done
    }

    fn read_padding<'a>(
        &mut self,
        input: &mut &[u8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        if self.padding_bytes > 0 {
            let skipped = usize::from(self.padding_bytes).min(input.len());
            *input = input.split_at(skipped).1;
            self.padding_bytes -= skipped as u8;
            if self.frame.kind == FrameKind::Data {
                self.discard(skipped as u32, control);
            }
            if self.padding_bytes > 0 {
                return Ok(Progress::Starved);
            }
        }
        self.reading = Reading::FrameHeader;
        if self.frame.kind != FrameKind::Data
            && self.frame.has(END_HEADERS)
            && let Some(block) = self.header_block.take()
        {
            return self.finish_header_block(&block, control);
        }
        Ok(Progress::Done)
    }

    fn finish_header_block<'a>(
        &mut self,
        block: &PartialHeaderBlock,
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        let PartialHeaderBlock {
            stream, end_stream, ..
        } = *block;
        let limit = ListLimit {
            bytes: self.settings.max_header_list_bytes,
        };
        match block.role {
            BlockRole::Ignored => {
                // Its fields concern nobody, well-formed or not.
                let _ = read_trailers(&mut self.decoder, &block.bytes, limit)?;
                Ok(Progress::Done)
            }
            BlockRole::Trailers => {
                read_trailers(&mut self.decoder, &block.bytes, limit)?
                    .map_err(|malformed| ConnectionError::Malformed { stream, malformed })?;
                if !end_stream {
                    let malformed = Malformed::TrailersWithoutEnd;
                    return Err(ConnectionError::Malformed { stream, malformed });
                }
                // The stream can be gone only by a call between two pieces of the block.
                let Some(open) = self.open_stream(stream) else {
                    return Ok(Progress::Done);
                };
                if open.content_left_bytes.is_some_and(|bytes| bytes > 0) {
                    return Err(ConnectionError::ContentLength { stream });
                }
                open.is_remote_ended = true;
                Ok(Progress::Event(Event::Trailers { stream }))
            }
            BlockRole::Request => {
                let head =
                    read_request(&mut self.decoder, &block.bytes, limit, stream, end_stream)?;
                let refusal = match &head {
                    Err(_) => Some(ErrorCode::PROTOCOL_ERROR),
                    Ok(_)
                        if self.is_going_away
                            || self.open_streams()
                                >= self.settings.max_concurrent_streams as usize =>
                    {
                        Some(ErrorCode::REFUSED_STREAM)
                    }
                    Ok(_) => None,
                };
                match (refusal, head) {
                    (None, Ok(head)) => {
                        self.pending.push(Stream {
                            id: stream,
                            send_bytes: self.peer_initial_window_bytes,
                            credit_bytes: i64::from(self.settings.initial_window_bytes),
                            content_left_bytes: head.content_length,
                            is_remote_ended: end_stream,
                            is_answered: false,
                        });
                        Ok(Progress::Event(Event::Request(head)))
                    }
                    (refusal, _) => {
                        self.floods.spend(Flood::ResetsByUs)?;
                        self.refused_streams = self.refused_streams.saturating_add(1);
                        self.closed_by_us = self.closed_by_us.max(stream);
                        append_reset(
                            control,
                            stream,
                            refusal.unwrap_or(ErrorCode::REFUSED_STREAM),
                        );
                        Ok(Progress::Done)
                    }
                }
            }
        }
    }

    fn read_settings<'a>(
        &mut self,
        input: &mut &[u8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        if self.frame.has(ACK) {
            if std::mem::replace(&mut self.is_settings_acked, true) {
                return Err(ConnectionError::UnexpectedSettingsAck);
            }
            self.decoder.forbid_table();
            self.reading = Reading::FrameHeader;
            return Ok(Progress::Done);
        }
        while self.left_bytes > 0 {
            let Some([i0, i1, v0, v1, v2, v3]) = self.take::<{ SETTING_BYTES as usize }>(input)
            else {
                return Ok(Progress::Starved);
            };
            self.left_bytes = self.left_bytes.saturating_sub(SETTING_BYTES);
            self.apply_setting(
                u16::from_be_bytes([i0, i1]),
                u32::from_be_bytes([v0, v1, v2, v3]),
            )?;
        }
        self.floods.spend(Flood::Settings)?;
        append(control, FrameKind::Settings, ACK, StreamId::CONNECTION, &[]);
        self.has_peer_settings = true;
        self.reading = Reading::FrameHeader;
        Ok(match std::mem::take(&mut self.has_window_opened) {
            true => Progress::Event(Event::WindowOpened),
            false => Progress::Done,
        })
    }

    /// RFC 9113 §6.5.2. Unknown settings, and those that concern only what we never do, are ignored.
    fn apply_setting(&mut self, id: u16, value: u32) -> Result<(), ConnectionError> {
        match id {
            SETTINGS_HEADER_TABLE_SIZE => self.has_table_shrunk = true,
            SETTINGS_ENABLE_PUSH if value > 1 => {
                return Err(ConnectionError::SettingValue { id, value });
            }
            SETTINGS_MAX_FRAME_SIZE if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&value) => {
                return Err(ConnectionError::SettingValue { id, value });
            }
            SETTINGS_INITIAL_WINDOW_SIZE => {
                let window_bytes = i64::from(value);
                if window_bytes > WINDOW_BYTES_MAX {
                    return Err(ConnectionError::SettingValue { id, value });
                }
                let before = self.send_window();
                let change = window_bytes - self.peer_initial_window_bytes;
                self.peer_initial_window_bytes = window_bytes;
                for open in self.accepted.iter_mut().chain(&mut self.pending) {
                    open.send_bytes = widened(open.id, open.send_bytes, change)?;
                }
                self.has_window_opened |= self.send_window() > before;
            }
            _ => {}
        }
        Ok(())
    }

    fn read_fixed<'a>(
        &mut self,
        input: &mut &[u8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        match self.frame.kind {
            FrameKind::Ping | FrameKind::GoAway => {
                let Some(bytes) = self.take::<8>(input) else {
                    return Ok(Progress::Starved);
                };
                self.left_bytes = self.left_bytes.saturating_sub(8);
                self.reading = Reading::Skip;
                if self.frame.kind == FrameKind::Ping {
                    self.ping_received(bytes, control)
                } else {
                    self.goaway_received(bytes)
                }
            }
            kind => {
                let Some(bytes) = self.take::<4>(input) else {
                    return Ok(Progress::Starved);
                };
                let value = u32::from_be_bytes(bytes);
                self.reading = Reading::FrameHeader;
                if kind == FrameKind::ResetStream {
                    self.reset_received(ErrorCode(value))
                } else {
                    self.window_update_received(value)
                }
            }
        }
    }

    fn ping_received<'a>(
        &mut self,
        opaque: [u8; 8],
        control: &mut Vec<u8>,
    ) -> Result<Progress<'a>, ConnectionError> {
        if !self.frame.has(ACK) {
            self.floods.spend(Flood::Pings)?;
            append(control, FrameKind::Ping, ACK, StreamId::CONNECTION, &opaque);
            return Ok(Progress::Done);
        }
        let Some(unanswered) = self.pings_unanswered.checked_sub(1) else {
            self.floods.spend(Flood::Ignored)?;
            return Ok(Progress::Done);
        };
        self.pings_unanswered = unanswered;
        Ok(Progress::Event(Event::PingAck(opaque)))
    }

    fn goaway_received<'a>(&mut self, bytes: [u8; 8]) -> Result<Progress<'a>, ConnectionError> {
        self.floods.spend(Flood::Ignored)?;
        let [s0, s1, s2, s3, c0, c1, c2, c3] = bytes;
        let last_stream = StreamId::new(u32::from_be_bytes([s0, s1, s2, s3]));
        Ok(Progress::Event(Event::GoAway {
            code: ErrorCode(u32::from_be_bytes([c0, c1, c2, c3])),
            last_stream,
        }))
    }

    fn reset_received<'a>(&mut self, code: ErrorCode) -> Result<Progress<'a>, ConnectionError> {
        let stream = self.frame.stream;
        if self.close(stream).is_none() {
            self.floods.spend(Flood::Ignored)?;
            return Ok(Progress::Done);
        }
        self.floods.spend(Flood::ResetsByPeer)?;
        Ok(Progress::Event(Event::Reset { stream, code }))
    }

    fn window_update_received<'a>(&mut self, value: u32) -> Result<Progress<'a>, ConnectionError> {
        let stream = self.frame.stream;
        let increment = i64::from(value & 0x7fff_ffff);
        self.floods.spend(Flood::WindowUpdates)?;
        let before = self.send_window();
        if stream == StreamId::CONNECTION {
            self.send_bytes = widened(stream, self.send_bytes, positive(stream, increment)?)?;
        } else if let Some(open) = self.open_stream(stream) {
            open.send_bytes = widened(stream, open.send_bytes, positive(stream, increment)?)?;
        }
        Ok(if self.send_window() > before {
            Progress::Event(Event::WindowOpened)
        } else {
            Progress::Done
        })
    }

    fn skip<'a>(&mut self, input: &mut &[u8]) -> Progress<'a> {
        let skipped = (self.left_bytes as usize).min(input.len());
        *input = input.split_at(skipped).1;
        self.left_bytes -= skipped as u32;
        if self.left_bytes > 0 {
            return Progress::Starved;
        }
        self.reading = Reading::FrameHeader;
        Progress::Done
    }
}

/// RFC 9113 §6.9: an increment of zero is an error.
fn positive(stream: StreamId, increment: i64) -> Result<i64, ConnectionError> {
    if increment == 0 {
        Err(ConnectionError::ZeroIncrement { stream })
    } else {
        Ok(increment)
    }
}

/// RFC 9113 §6.9.1: a window never exceeds 2^31 - 1. It may well be below zero (§6.9.2).
fn widened(stream: StreamId, window_bytes: i64, change: i64) -> Result<i64, ConnectionError> {
    let bytes = window_bytes.saturating_add(change);
    if bytes > WINDOW_BYTES_MAX {
        Err(ConnectionError::WindowOverflow { stream, bytes })
    } else {
        Ok(bytes)
    }
}
