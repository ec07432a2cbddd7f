//! A NATS link: the yardstick that users know. Its client protocol in text, as much of it as publishing and subscribing
//! takes (the NATS documentation, "Client Protocol").
//!
//! `INFO {..}` comes first; `CONNECT`, the `SUB`s and a `PING` answer it, and the `PONG` says that all of them were taken. Then
//! `PUB subject bytes` and a line end, the payload and a line end, there; `MSG subject sid bytes` likewise back.

use slim_proto::grpc::Piece;
use slim_proto::name::Name;
use slim_ring::SendBuffers;

use crate::link::{Arrived, Input, Link, LinkError, Material, Opening, Spares, push_chunk};
use crate::message::{STAMP_BYTES, Stamp};

/// Longest line that is taken, in bytes: an INFO with hundreds of cluster addresses is shorter.
const LINE_BYTES_MAX: usize = 65_536;
/// Largest payload that a `MSG` may announce, in bytes: what nats-server itself takes at most.
const PAYLOAD_BYTES_MAX: usize = 64 * 1_048_576;
const CONNECT: &str = concat!(
    r#"CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"lang":"rust","protocol":1,"echo":false,"#,
    r#""no_responders":false,"headers":false,"name":"slim-loadgen","version":"0.1.0"}"#,
    "\r\n"
);

/// Why the other side is not, or no longer, a NATS server that we can talk to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NatsError {
    #[error("the port does not speak NATS: its first bytes are `{}`", first.escape_ascii())]
    NotNats { first: Vec<u8> },
    #[error("the server said: {text}")]
    Refused { text: String },
    #[error("a line of more than {LINE_BYTES_MAX} bytes")]
    LongLine,
    #[error("a line that no client understands: `{line}`")]
    Line { line: String },
    #[error(
        "the server takes payloads of {limit} bytes at most, not {bytes}; --payload must be smaller"
    )]
    PayloadTooLarge { bytes: usize, limit: usize },
    #[error("the server wants TLS, which is not supported")]
    Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until INFO.
    Greeting,
    /// Until the PONG behind the subscriptions.
    Subscribing,
    Ready,
}

pub struct NatsLink {
    stage: Stage,
    opening: Opening,
    material: Material,
    /// `PUB subject ` of each flow.
    heads: Vec<Vec<u8>>,
    /// A line or a payload that is cut at the end of an input.
    partial: Vec<u8>,
    /// Of the message whose line has been read: its payload and its line end, in bytes.
    awaited: Option<usize>,
    due: Vec<u8>,
    spares: Spares,
}

/// A name as a subject. Components of ours hold neither dots nor blanks.
fn subject(name: &Name) -> String {
    let (organization, namespace, service) =
        (name.organization(), name.namespace(), name.service());
    format!("{organization}.{namespace}.{service}")
}

impl NatsLink {
    pub fn open(opening: Opening, material: Material) -> Self {
        let heads = opening
            .flows
            .iter()
            .map(|flow| format!("PUB {} ", subject(&flow.destination)).into_bytes())
            .collect();
        Self {
            stage: Stage::Greeting,
            opening,
            material,
            heads,
            partial: Vec::new(),
            awaited: None,
            due: Vec::new(),
            spares: Spares::default(),
        }
    }

    /// Reads a line, without its end. `Ok(true)`: the link is ready now.
    fn line(&mut self, line: &[u8]) -> Result<bool, NatsError> {
        if self.stage == Stage::Greeting && !line.starts_with(b"INFO ") {
            let first = line.iter().take(16).copied().collect();
            return Err(NatsError::NotNats { first });
        }
        if line.starts_with(b"MSG ") {
            let bytes = last_number(line).filter(|bytes| *bytes <= PAYLOAD_BYTES_MAX);
            self.awaited = Some(bytes.ok_or_else(|| unknown(line))? + 2);
        } else if line.starts_with(b"INFO ") {
            self.info(line)?;
        } else if line == b"PING" {
            self.due.extend_from_slice(b"PONG\r\n");
        } else if line == b"PONG" {
            let is_ready = self.stage == Stage::Subscribing;
            self.stage = Stage::Ready;
            return Ok(is_ready);
        } else if let Some(text) = line.strip_prefix(b"-ERR ") {
            let text = String::from_utf8_lossy(text).into_owned();
            return Err(NatsError::Refused { text });
        } else if line != b"+OK" {
            return Err(unknown(line));
        }
        Ok(false)
    }

    fn info(&mut self, line: &[u8]) -> Result<(), NatsError> {
        let info: Info = serde_json::from_slice(&line[5..]).map_err(|_| unknown(line))?;
        if info.tls_required {
            return Err(NatsError::Tls);
        }
        let bytes = self.material.filler.len();
        if let Some(limit) = info.max_payload.filter(|limit| *limit < bytes) {
            return Err(NatsError::PayloadTooLarge { bytes, limit });
        }
        if self.stage == Stage::Greeting {
            self.stage = Stage::Subscribing;
            self.due.extend_from_slice(CONNECT.as_bytes());
            for (number, name) in self.opening.subscriptions.iter().enumerate() {
                let line = format!("SUB {} {}\r\n", subject(name), number + 1);
                self.due.extend_from_slice(line.as_bytes());
            }
            self.due.extend_from_slice(b"PING\r\n");
        }
        Ok(())
    }

    /// The next whole line, without its end; what is cut is kept.
    fn next_line<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, NatsError> {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
            if self.partial.len() + input.len() > LINE_BYTES_MAX {
                return Err(NatsError::LongLine);
            }
            self.partial.extend_from_slice(input);
            *input = &[];
            return Ok(None);
        };
        let (line, rest) = input.split_at(end + 1);
        *input = rest;
        let Some(piece) = self.completed(line) else {
            return Ok(Some(Piece::Whole(trimmed(line))));
        };
        let line = trimmed(&piece).to_vec();
        Ok(Some(Piece::Assembled(line)))
    }

    /// What was kept, with its end. `None` if nothing was.
    fn completed(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        if self.partial.is_empty() {
            return None;
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(end);
        Some(whole)
    }

    /// The payload that is awaited, once it is whole.
    fn next_payload<'a>(&mut self, awaited: usize, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        let missing = awaited - self.partial.len();
        if input.len() < missing {
            self.partial.extend_from_slice(input);
            *input = &[];
            return None;
        }
        self.awaited = None;
        let (end, rest) = input.split_at(missing);
        *input = rest;
        Some(match self.completed(end) {
            None => Piece::Whole(&end[..awaited - 2]),
            Some(mut whole) => {
                whole.truncate(awaited - 2);
                Piece::Assembled(whole)
            }
        })
    }
}

#[derive(serde::Deserialize)]
struct Info {
    max_payload: Option<usize>,
    #[serde(default)]
    tls_required: bool,
}

fn unknown(line: &[u8]) -> NatsError {
    let line = line.iter().take(64).copied().collect::<Vec<u8>>();
    NatsError::Line {
        line: line.escape_ascii().to_string(),
    }
}

fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The last word of a line as a number.
fn last_number(line: &[u8]) -> Option<usize> {
    let word = line.rsplit(|byte| *byte == b' ').next()?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

impl Link for NatsLink {
    fn next_arrival<'a>(
        &mut self,
        input: &mut Input<'a>,
    ) -> Result<Option<Arrived<'a>>, LinkError> {
        while !input.bytes.is_empty() {
            if let Some(awaited) = self.awaited {
                match self.next_payload(awaited, &mut input.bytes) {
                    // A message before all is subscribed: others have begun.
                    Some(_) if self.stage != Stage::Ready => continue,
                    Some(payload) => return Ok(Some(Arrived::Message(payload))),
                    None => return Ok(None),
                }
            }
            let Some(line) = self.next_line(&mut input.bytes)? else {
                return Ok(None);
            };
            if self.line(line.as_ref())? {
                return Ok(Some(Arrived::Ready));
            }
        }
        Ok(None)
    }

    fn publish(&mut self, flow: usize, stamp: Stamp) {
        let payload_bytes = stamp.payload_bytes as usize;
        let Some(head) = self.heads.get(flow) else {
            return;
        };
        let out = &mut self.due;
        out.extend_from_slice(head);
        put_decimal(out, payload_bytes);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.material.filler[..payload_bytes - STAMP_BYTES]);
        out.extend_from_slice(&stamp.to_bytes());
        out.extend_from_slice(b"\r\n");
    }

    fn waiting_bytes(&self) -> usize {
        self.due.len()
    }

    fn take_due(&mut self, list: &mut SendBuffers) {
        if !self.due.is_empty() {
            let next = self.spares.take();
            push_chunk(list, std::mem::replace(&mut self.due, next));
        }
    }

    fn reuse(&mut self, buffer: Vec<u8>) {
        self.spares.put(buffer);
    }

    fn is_sound(&mut self, message: &[u8]) -> bool {
        // Nothing in a payload but the stamp is known, and every message's stamp is read.
        message.len() >= STAMP_BYTES
    }

    fn during(&self) -> &'static str {
        match self.stage {
            Stage::Greeting => "the greeting",
            Stage::Subscribing => "the subscription",
            Stage::Ready => "the run",
        }
    }
}

fn put_decimal(out: &mut Vec<u8>, mut number: usize) {
    let start = out.len();
    loop {
        out.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out[start..].reverse();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Flow, filler};
    use slim_proto::name::InstanceId;

    fn link() -> NatsLink {
        let name = |service: &str| Name::new("org", "ns", service).with_id(InstanceId::new(9));
        let opening = Opening {
            link_id: InstanceId::new(1),
            name: name("me"),
            subscriptions: vec![name("me"), name("me-too")],
            flows: vec![Flow {
                id: 0,
                destination: name("you"),
                fanout: 1,
            }],
            has_mac: true,
        };
        let material = Material {
            tokens: Vec::new().into(),
            filler: filler(2_000).into(),
        };
        NatsLink::open(opening, material)
    }

    fn feed(link: &mut NatsLink, bytes: &[u8]) -> Result<(bool, Vec<Vec<u8>>), LinkError> {
        let (mut is_ready, mut messages) = (false, Vec::new());
        let mut input = Input::new(bytes);
        while let Some(arrived) = link.next_arrival(&mut input)? {
            match arrived {
                Arrived::Ready => is_ready = true,
                Arrived::Message(message) => messages.push(message.as_ref().to_vec()),
                Arrived::Subscribed => {}
            }
        }
        Ok((is_ready, messages))
    }

    fn ready() -> NatsLink {
        let mut link = link();
        let (is_ready, _) = feed(&mut link, b"INFO {\"max_payload\":1048576}\r\nPONG\r\n").unwrap();
        assert!(is_ready);
        link.due.clear();
        link
    }

    #[test]
    fn an_opening_connects_subscribes_and_waits_for_the_pong() {
        let mut link = link();
        let (is_ready, _) = feed(&mut link, b"INFO {\"max_payload\":1048576}\r\n").unwrap();
        assert!(!is_ready);
        let due = String::from_utf8(link.due.clone()).unwrap();
        assert!(due.starts_with("CONNECT {"));
        assert!(due.ends_with("SUB org.ns.me 1\r\nSUB org.ns.me-too 2\r\nPING\r\n"));
        assert!(feed(&mut link, b"PONG\r\n").unwrap().0);
    }

    #[test]
    fn messages_cut_anywhere_arrive_whole() {
        let stream = b"MSG org.ns.me 1 5\r\nhello\r\nPING\r\nMSG org.ns.me 1 2\r\n\r\n\r\n+OK\r\nMSG a 1 1\r\n!\r\n";
        for piece_bytes in 1..=stream.len() {
            let mut link = ready();
            let mut messages = Vec::new();
            for piece in stream.chunks(piece_bytes) {
                messages.extend(feed(&mut link, piece).unwrap().1);
            }
            assert_eq!(messages, [&b"hello"[..], b"\r\n", b"!"], "{piece_bytes}");
            assert_eq!(link.due, b"PONG\r\n");
        }
    }

    #[test]
    fn a_publish_is_subject_length_and_payload() {
        let mut link = ready();
        let stamp = Stamp {
            flow: 0,
            sequence: 7,
            time_ns: 8,
            payload_bytes: 1_024,
        };
        link.publish(0, stamp);
        let head = b"PUB org.ns.you 1024\r\n";
        assert!(link.due.starts_with(head));
        assert_eq!(link.due.len(), head.len() + 1_024 + 2);
        let payload = &link.due[head.len()..head.len() + 1_024];
        assert_eq!(Stamp::of_message(payload), Some(stamp));
    }

    #[test]
    fn what_a_server_refuses_is_said_in_its_words() {
        let text = |bytes: &[u8]| feed(&mut link(), bytes).unwrap_err().to_string();
        assert!(text(b"HTTP/1.1 400 Bad Request\r\n").contains("HTTP/1.1 400"));
        assert!(text(b"INFO {\"max_payload\":100}\r\n").contains("100 bytes at most, not 2000"));
        assert!(text(b"INFO {\"tls_required\":true}\r\n").contains("TLS"));
        let refused = feed(&mut ready(), b"-ERR 'Slow Consumer'\r\n").unwrap_err();
        assert!(refused.to_string().contains("Slow Consumer"));
        for bad in [
            &b"MSG a 1 x\r\n"[..],
            b"MSG a 1 99999999999\r\n",
            b"WHAT\r\n",
        ] {
            assert!(feed(&mut ready(), bad).is_err());
        }
        assert!(feed(&mut ready(), &[b'x'; LINE_BYTES_MAX + 1]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            cut_bytes in 1_usize..64,
        ) {
            let mut link = ready();
            for piece in bytes.chunks(cut_bytes) {
                if feed(&mut link, piece).is_err() {
                    break;
                }
            }
        }
    }
}
