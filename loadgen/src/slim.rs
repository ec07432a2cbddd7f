//! A SLIM link: HTTP/2, negotiation, subscriptions, then messages, as a default client has it (dataplane 1.3, 5.1).

use slim_proto::grpc::Deframer;
use slim_proto::link::{
    ConnectionType, Dialer, Dialing, LinkMac, LinkReply, LinkRequest, MacPolicy, Preimage,
};
use slim_proto::route_header::{self, Parsed};
use slim_ring::SendBuffers;

use crate::http2::{ClientConnection, Event, FRAME_HEADER_BYTES};
use crate::link::{Arrived, Input, Link, LinkError, Material, Opening, Spares, push_chunk};
use crate::message::{self, Stamp, Template, VERSION, subscribe, with_prefix};

/// Subscriptions of one connection that wait for their ack at a time. A node reads them one by one.
const SUBSCRIBING_MAX: usize = 256;

/// Names the stage in which a node may refuse a link for what it offers.
pub const NEGOTIATING: &str = "the link negotiation";

/// How far the opening has come.
enum Stage {
    /// Until the response headers.
    Opening,
    Negotiating(Negotiating),
    /// Until the last ack.
    Subscribing {
        asked: usize,
        acknowledged: usize,
    },
    Ready,
}

enum Negotiating {
    Keyed(Box<Dialing>),
    /// Without a key: `--mac off`.
    Unkeyed,
}

pub struct SlimLink {
    http2: ClientConnection,
    deframer: Deframer,
    stage: Stage,
    link_id: String,
    opening: Opening,
    material: Material,
    mac: Option<LinkMac>,
    preimage: Preimage,
    /// One for each flow.
    templates: Vec<Template>,
    control: Vec<u8>,
    /// Room for one DATA frame header, then gRPC-framed messages.
    data: Vec<u8>,
    spares: Spares,
}

/// Where the messages begin in `SlimLink::data`.
const DATA_START: usize = FRAME_HEADER_BYTES;

impl SlimLink {
    /// - `authority`: of the request.
    pub fn open(authority: &str, opening: Opening, material: Material) -> Self {
        let mut control = Vec::with_capacity(512);
        let http2 = ClientConnection::open(authority, &mut control);
        Self {
            http2,
            deframer: Deframer::new(),
            stage: Stage::Opening,
            // Written as a UUID, as clients do.
            link_id: opening.link_id.to_string(),
            opening,
            material,
            mac: None,
            preimage: Preimage::new(),
            templates: Vec::new(),
            control,
            data: vec![0; DATA_START],
            spares: Spares::default(),
        }
    }

    fn negotiate(&mut self) -> Result<(), LinkError> {
        let node_id = format!("loadgen-{}", self.link_id);
        let (negotiating, request) = if self.opening.has_mac {
            let dialer = Dialer {
                link_id: self.link_id.clone(),
                node_id,
                version: VERSION.to_owned(),
                deployment_name: String::new(),
                connection_type: ConnectionType::Edge,
                policy: MacPolicy::Strict,
                enforce_pqc: false,
            };
            let (dialing, request) = dialer.dial()?;
            (Negotiating::Keyed(Box::new(dialing)), request)
        } else {
            let request = LinkRequest {
                link_id: self.link_id.clone(),
                version: VERSION.to_owned(),
                public_key: Vec::new(),
                connection_type: ConnectionType::Edge,
                node_id,
                deployment_name: String::new(),
                kem_payload: None,
            };
            (Negotiating::Unkeyed, request.encode())
        };
        self.stage = Stage::Negotiating(negotiating);
        self.data.extend_from_slice(&with_prefix(&request));
        Ok(())
    }

    /// A message before the link is ready. Returns what it came to, if to anything.
    fn opening_message(&mut self, message: &[u8]) -> Result<Option<Arrived<'static>>, LinkError> {
        match std::mem::replace(&mut self.stage, Stage::Opening) {
            Stage::Negotiating(negotiating) => {
                match negotiating {
                    Negotiating::Keyed(dialing) => {
                        let established = dialing.complete(message)?;
                        self.mac = established
                            .key
                            .map(|key| LinkMac::new(&key, &established.link_id));
                    }
                    Negotiating::Unkeyed => {
                        if !LinkReply::decode(message)?.public_key.is_empty() {
                            return Err(LinkError::UnwantedKey);
                        }
                    }
                }
                Ok(self.subscribe_more(0, 0))
            }
            Stage::Subscribing {
                asked,
                acknowledged,
            } => {
                let Parsed::SubscriptionAck(ack) = route_header::parse(message)? else {
                    // Others may already send to a name that is being subscribed: a fan-out that has begun.
                    self.stage = Stage::Subscribing {
                        asked,
                        acknowledged,
                    };
                    return Ok(None);
                };
                if !ack.success {
                    let text = String::from_utf8_lossy(ack.error.of(message)).into_owned();
                    return Err(LinkError::SubscriptionRefused { text });
                }
                Ok(self.subscribe_more(asked, acknowledged + 1))
            }
            stage => {
                self.stage = stage;
                Ok(None)
            }
        }
    }

    /// Asks for what may be asked for now. Ids count from 1: subscriptions without one are not acknowledged (dataplane 4.7).
    fn subscribe_more(
        &mut self,
        mut asked: usize,
        acknowledged: usize,
    ) -> Option<Arrived<'static>> {
        let token = self.material.tokens.first().map_or("", String::as_str);
        let names = &self.opening.subscriptions;
        while asked < names.len() && asked - acknowledged < SUBSCRIBING_MAX {
            let id = asked as u64 + 1;
            let name = &names[asked];
            let request = subscribe(&self.opening.name, name, id, token, self.mac.as_mut());
            self.data.extend_from_slice(&request);
            asked += 1;
        }
        if acknowledged < names.len() {
            self.stage = Stage::Subscribing {
                asked,
                acknowledged,
            };
            return Some(Arrived::Subscribed);
        }
        let flows = &self.opening.flows;
        self.templates = flows
            .iter()
            .map(|flow| {
                let (name, tokens) = (&self.opening.name, &self.material.tokens);
                Template::new(name, flow, self.mac.as_mut(), tokens, flows.len())
            })
            .collect();
        self.stage = Stage::Ready;
        Some(Arrived::Ready)
    }
}

impl Link for SlimLink {
    fn next_arrival<'a>(
        &mut self,
        input: &mut Input<'a>,
    ) -> Result<Option<Arrived<'a>>, LinkError> {
        loop {
            while let Some(message) = self.deframer.next_message(&mut input.content)? {
                if matches!(self.stage, Stage::Ready) {
                    return Ok(Some(Arrived::Message(message)));
                }
                if let Some(arrived) = self.opening_message(message.as_ref())? {
                    return Ok(Some(arrived));
                }
            }
            match self.http2.next_event(&mut input.bytes, &mut self.control)? {
                Some(Event::Data(content)) => input.content = content,
                Some(Event::Opened) => self.negotiate()?,
                None => return Ok(None),
            }
        }
    }

    fn publish(&mut self, flow: usize, stamp: Stamp) {
        if let Some(template) = self.templates.get_mut(flow) {
            let material = &self.material;
            template.write(&material.tokens, stamp, &material.filler, &mut self.data);
        }
    }

    fn waiting_bytes(&self) -> usize {
        self.data.len() - DATA_START
    }

    fn take_due(&mut self, list: &mut SendBuffers) {
        if !self.control.is_empty() {
            let next = self.spares.take();
            push_chunk(list, std::mem::replace(&mut self.control, next));
        }
        let waiting = self.data.len() - DATA_START;
        let sendable = self.http2.sendable_bytes().min(waiting);
        if sendable == waiting && waiting > 0 && waiting <= self.http2.frame_bytes_max() {
            // The usual case: all that waits is one frame, and goes as it lies.
            let header = self.http2.begin_data(waiting);
            if let Some(slot) = self.data.first_chunk_mut() {
                *slot = header;
            }
            let mut next = self.spares.take();
            next.resize(DATA_START, 0);
            push_chunk(list, std::mem::replace(&mut self.data, next));
        } else if sendable > 0 {
            let mut frames = self.spares.take();
            let content = self.data.get(DATA_START..DATA_START + sendable);
            let frame_bytes = self.http2.frame_bytes_max();
            for part in content.unwrap_or_default().chunks(frame_bytes) {
                frames.extend_from_slice(&self.http2.begin_data(part.len()));
                frames.extend_from_slice(part);
            }
            self.data.drain(DATA_START..DATA_START + sendable);
            push_chunk(list, frames);
        }
    }

    fn reuse(&mut self, buffer: Vec<u8>) {
        self.spares.put(buffer);
    }

    fn is_sound(&mut self, message: &[u8]) -> bool {
        message::is_sound(message, self.mac.as_mut(), &mut self.preimage)
    }

    fn during(&self) -> &'static str {
        match self.stage {
            Stage::Opening if !self.http2.is_http2() => "the HTTP/2 handshake",
            Stage::Opening => "the opening of the stream",
            Stage::Negotiating(_) => NEGOTIATING,
            Stage::Subscribing { .. } => "the subscription",
            Stage::Ready => "the run",
        }
    }
}
