//! Bytes of one connection → messages → what each asks for.
//!
//! The order of checks is that of dataplane 6.1: decode, header MAC, completeness, ttl, then dispatch. After
//! [`RouteHeader`] exists nothing about the message can fail any more.

use bytes::Bytes;
use slim_proto::grpc::Piece;
use slim_proto::http2::{Event, RequestHead};
use slim_proto::link::{ConnectionType, LinkMac, TagState, Verdict, verdict};
use slim_proto::message::subscription_ack;
use slim_proto::name::{InstanceId, RouteName};
use slim_proto::route_header::{self, Kind, LastNames, Parsed, RouteHeader};
use tracing::{debug, info};

use crate::admission::Refusal;
use crate::connection::{Connection, End, Link, Phase, Record, Recorded, Subscriptions, status};
use crate::limits;
use crate::routes::Class;
use crate::shard::Core;

/// The one method of the data plane (dataplane 1.2).
const OPEN_CHANNEL: &str = "/dataplane.proto.v1.DataPlaneService/OpenChannel";

impl Core {
    /// Takes in what one read gave. On `Err` the connection ends; whatever it asked for before has been done.
    pub fn receive(&mut self, connection: &mut Connection, input: &[u8]) -> Result<(), End> {
        connection.heard_at = self.now;
        connection.pinged_at = None;
        let outcome = self.on_events(connection, input);
        // Those of a flood as well, which ends in an error.
        let refused = connection.http2.take_refused_streams();
        self.counters.requests_refused.add(u64::from(refused));
        outcome?;
        if connection.egress.control.len() > limits::CONTROL_BYTES_MAX {
            return Err(End::ControlUnread);
        }
        if !connection.egress.is_idle() {
            self.mark_dirty(connection);
        }
        Ok(())
    }

    fn on_events(&mut self, connection: &mut Connection, mut input: &[u8]) -> Result<(), End> {
        while let Some(event) = connection
            .http2
            .next_event(&mut input, &mut connection.egress.control)?
        {
            match event {
                Event::Request(head) => self.on_request(connection, &head)?,
                Event::Data {
                    stream,
                    bytes,
                    flow_bytes,
                    end_stream,
                } => {
                    connection.withheld_bytes += flow_bytes;
                    if connection.stream() == Some(stream) {
                        self.on_data(connection, bytes)?;
                        if end_stream {
                            return Err(connection.half_closed());
                        }
                    }
                    self.release_credit(connection);
                }
                Event::Trailers { stream } => {
                    if connection.stream() == Some(stream) {
                        return Err(connection.half_closed());
                    }
                }
                Event::Reset { stream, .. } => {
                    if connection.stream() == Some(stream) {
                        return Err(End::LinkEnded);
                    }
                }
                Event::WindowOpened => {
                    connection.pump();
                    self.relieve(connection);
                    if self.is_drained(connection) {
                        return Err(End::Drained);
                    }
                }
                Event::GoAway { code, .. } => {
                    debug!(peer = %connection.peer, ?code, "the peer is going away")
                }
                Event::PingAck(_) => {}
            }
        }
        Ok(())
    }

    /// Answers at once: the client sends nothing before it has response headers (dataplane 1.3).
    fn on_request(&mut self, connection: &mut Connection, head: &RequestHead) -> Result<(), End> {
        let stream = head.stream;
        let control = &mut connection.egress.control;
        let grpc = head
            .content_type
            .as_deref()
            .is_some_and(|value| value.starts_with("application/grpc"));
        let compressed = head
            .grpc_encoding
            .as_deref()
            .is_some_and(|value| value != "identity");
        let refusal = if head.method != "POST" {
            connection.http2.respond_status(stream, 405, control);
            Some("method is not POST")
        } else if !grpc {
            connection.http2.respond_status(stream, 415, control);
            Some("content type is not application/grpc")
        } else if head.path != OPEN_CHANNEL {
            connection.http2.respond_trailers_only(
                stream,
                status::UNIMPLEMENTED,
                "unknown method",
                control,
            );
            Some("unknown path")
        } else if compressed {
            let text = "compressed requests are not supported";
            connection
                .http2
                .respond_trailers_only(stream, status::UNIMPLEMENTED, text, control);
            Some("compressed request")
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.counters.requests_refused.add(1);
            if self.log_gate.admit(self.now, &self.counters) {
                info!(peer = %connection.peer, path = head.path, reason, "request refused");
            }
            return Ok(());
        }
        // A second stream beside an open one never gets here: HTTP/2 refuses it (STREAMS_PER_CONNECTION_MAX).
        if !connection.http2.accept(stream) {
            return Ok(());
        }
        connection.http2.respond_headers(stream, control);
        let deadline =
            self.now + self.config.listeners[usize::from(connection.listener)].negotiation_timeout;
        connection.phase = Phase::Negotiating { stream, deadline };
        if head.end_stream {
            Err(End::LinkEnded)
        } else {
            Ok(())
        }
    }

    fn on_data(&mut self, connection: &mut Connection, bytes: &[u8]) -> Result<(), End> {
        let unfinished_before = connection.deframer.buffered_bytes();
        let outcome = self.deframe(connection, bytes);
        let unfinished = connection.deframer.buffered_bytes();
        self.unfinished_bytes = self.unfinished_bytes - unfinished_before + unfinished;
        outcome?;
        if unfinished > unfinished_before && self.unfinished_bytes > self.shares.unfinished_bytes {
            return Err(End::Unfinished {
                bytes: self.unfinished_bytes,
                limit: self.shares.unfinished_bytes,
            });
        }
        Ok(())
    }

    fn deframe(&mut self, connection: &mut Connection, mut bytes: &[u8]) -> Result<(), End> {
        loop {
            match connection.deframer.next_message(&mut bytes)? {
                None => return Ok(()),
                Some(Piece::Whole(message)) => self.on_message(connection, message, None)?,
                Some(Piece::Assembled(message)) if message.len() >= limits::SHARE_BYTES_MIN => {
                    let message = self.memory.watched(Bytes::from(message));
                    self.on_message(connection, &message, Some(&message))?;
                }
                Some(Piece::Assembled(message)) => {
                    self.on_message(connection, &message, None)?;
                    connection.deframer.lend(message);
                }
            }
        }
    }

    fn on_message(
        &mut self,
        connection: &mut Connection,
        message: &[u8],
        shared: Option<&Bytes>,
    ) -> Result<(), End> {
        if let Phase::Negotiating { .. } = connection.phase {
            return match connection.entry.waits_for {
                None => self.negotiate(connection, message),
                Some(_) => self.wait_for_room(connection, message),
            };
        }
        let parsed = match &mut connection.phase {
            Phase::Open(link) => route_header::parse_next(message, &mut link.last_names)?,
            _ => route_header::parse(message)?,
        };
        match parsed {
            Parsed::Routed(header) => self.on_routed(connection, message, shared, header),
            Parsed::NeedsMerge => {
                let merged = Bytes::from(route_header::merge(message)?);
                match route_header::parse(&merged)? {
                    Parsed::Routed(header) => {
                        self.on_routed(connection, &merged, Some(&merged), header)
                    }
                    other => self.on_other(&other),
                }
            }
            other => self.on_other(&other),
        }
    }

    fn on_other(&mut self, parsed: &Parsed) -> Result<(), End> {
        let counter = match parsed {
            Parsed::Link(_) => &self.counters.dropped_second_link,
            Parsed::SubscriptionAck(_) => &self.counters.dropped_stray_ack,
            Parsed::Incomplete { .. } => &self.counters.dropped_incomplete,
            Parsed::Unknown | Parsed::NeedsMerge | Parsed::Routed(_) => {
                &self.counters.dropped_unknown_type
            }
        };
        counter.add(1);
        Ok(())
    }

    pub fn negotiate(&mut self, connection: &mut Connection, message: &[u8]) -> Result<(), End> {
        let Phase::Negotiating { stream, .. } = connection.phase else {
            return Ok(());
        };
        let accepted = self.acceptors[usize::from(connection.listener)].accept(message)?;
        connection.egress.lend(&mut self.pool);
        connection
            .egress
            .push_own(&mut connection.http2, stream, &accepted.reply);
        self.mark_dirty(connection);
        if let Some(reason) = accepted.refusal_after_reply {
            return Err(End::Refused(reason));
        }
        debug!(
            peer = %connection.peer,
            link = accepted.link_id,
            node = accepted.peer_node_id,
            kind = ?accepted.connection_type,
            "link open"
        );
        // Nothing authenticates the requested type, so it grants nothing (T4): a peer is only ranked behind clients.
        let class = match accepted.connection_type {
            ConnectionType::Peer => Class::Peer,
            ConnectionType::Edge | ConnectionType::Remote => Class::Direct,
        };
        self.counters.links_opened.add(1);
        let subscriptions_max = self.config.limits.subscriptions_per_connection;
        let subscriptions = Subscriptions::with_limit(subscriptions_max);
        let mac = accepted
            .key
            .map(|key| LinkMac::new(&key, &accepted.link_id));
        connection.phase = Phase::Open(Box::new(Link {
            stream,
            mac,
            class,
            subscriptions,
            last_names: LastNames::default(),
        }));
        if self.draining {
            Err(End::Drained)
        } else {
            Ok(())
        }
    }

    fn on_routed(
        &mut self,
        connection: &mut Connection,
        message: &[u8],
        shared: Option<&Bytes>,
        header: RouteHeader,
    ) -> Result<(), End> {
        let Phase::Open(link) = &mut connection.phase else {
            return Ok(());
        };
        self.preimage.build(message, &header);
        let state = match &mut link.mac {
            Some(mac) => mac.check(&mut self.preimage, message, &header),
            None => TagState::unkeyed(message, &header),
        };
        let policy = self.acceptors[usize::from(connection.listener)].policy;
        if verdict(header.kind, link.mac.is_some(), state, policy) == Verdict::Drop {
            let missing = matches!(state, TagState::Absent | TagState::Empty);
            let counter = if missing {
                &self.counters.dropped_mac_missing
            } else {
                &self.counters.dropped_mac_wrong
            };
            counter.add(1);
            return Ok(());
        }
        match header.kind {
            Kind::Publish => {
                self.counters.messages_received.add(1);
                if header.ttl <= 1 {
                    self.counters.dropped_ttl.add(1);
                } else if header.head_len() > limits::HEAD_BYTES_MAX {
                    self.counters.dropped_long_header.add(1);
                } else if connection.is_held() {
                    self.park(connection, message, shared, header);
                } else {
                    self.publish(connection, message, shared, header);
                    // What has to be parked is charged for when it goes on.
                    if connection.parked.is_empty() {
                        self.charge(connection, message.len());
                    }
                }
                Ok(())
            }
            Kind::Subscribe | Kind::Unsubscribe => {
                self.charge(connection, message.len());
                self.on_subscription(connection, &header)
            }
        }
    }

    fn on_subscription(
        &mut self,
        connection: &mut Connection,
        header: &RouteHeader,
    ) -> Result<(), End> {
        let slot = connection.slot;
        let Phase::Open(link) = &mut connection.phase else {
            return Ok(());
        };
        let name = header.destination;
        let subscription_id = header.subscription_id;
        let record = Record {
            name,
            id_present: header.destination_id_present,
            subscription_id,
        };
        // An error ack rather than none at all (T21): the sender would wait for nothing, three times.
        if header.ttl <= 1 {
            self.counters.dropped_ttl.add(1);
            return self.refuse_subscription(connection, subscription_id, "ttl expired");
        }
        let is_out_of_memory = self.tight || link.subscriptions.growth_bytes() > self.left_bytes();
        match header.kind {
            Kind::Subscribe => match link.subscriptions.add(record) {
                Recorded::New if is_out_of_memory || self.routes.is_full_for(name) => {
                    link.subscriptions.remove(record);
                    let (counter, text) = if is_out_of_memory {
                        let counter = &self.counters.refused_subscriptions_memory;
                        (counter, Refusal::Memory.to_string())
                    } else {
                        let limit = self.config.limits.names;
                        let text =
                            format!("the router may have {limit} names, and has its share of them");
                        (&self.counters.refused_names, text)
                    };
                    counter.add(1);
                    return self.refuse_subscription(connection, subscription_id, &text);
                }
                Recorded::New => {
                    self.subscriptions += 1;
                    connection.unsettled += 1;
                    self.routes
                        .subscribe(slot, link.class, name, subscription_id);
                }
                Recorded::Repeated => {
                    connection.unsettled += 1;
                    self.routes.confirm(slot, name, subscription_id);
                }
                Recorded::Full => {
                    self.counters.refused_subscriptions.add(1);
                    let limit = self.config.limits.subscriptions_per_connection;
                    if self.log_gate.admit(self.now, &self.counters) {
                        info!(peer = %connection.peer, limit,
                            "subscription refused: the connection has as many as it may");
                    }
                    let text = format!("a connection may have {limit} subscriptions");
                    return self.refuse_subscription(connection, subscription_id, &text);
                }
            },
            Kind::Unsubscribe => {
                if !link.subscriptions.remove(record) {
                    let text = self.why_unknown(connection, &record);
                    return self.refuse_subscription(connection, subscription_id, &text);
                }
                self.subscriptions -= 1;
                connection.unsettled += 1;
                self.routes.unsubscribe(slot, name, subscription_id);
            }
            Kind::Publish => {}
        }
        Ok(())
    }

    /// The error texts of dataplane 4.3, as seen from this connection: what others subscribed to is not its business.
    fn why_unknown(&self, connection: &Connection, record: &Record) -> String {
        let union = RouteName {
            id: InstanceId::NULL,
            ..record.name
        };
        if !self.routes.is_member(connection.slot, &union) {
            "subscription not found".to_owned()
        } else if !self.routes.is_member(connection.slot, &record.name) {
            format!("id not found: {}", record.name.id)
        } else {
            format!("subscription id not found: {}", record.subscription_id)
        }
    }

    fn refuse_subscription(
        &mut self,
        connection: &mut Connection,
        id: u64,
        text: &str,
    ) -> Result<(), End> {
        self.counters.subscriptions_refused.add(1);
        if id == 0 {
            return Ok(());
        }
        self.acknowledge(connection, id, Err(text))
    }

    /// Exactly one for each Subscribe or Unsubscribe with an id (dataplane 4.7).
    pub fn acknowledge(
        &mut self,
        connection: &mut Connection,
        subscription_id: u64,
        outcome: Result<(), &str>,
    ) -> Result<(), End> {
        let Some(stream) = connection.stream() else {
            return Ok(());
        };
        connection.egress.lend(&mut self.pool);
        let ack = subscription_ack(subscription_id, outcome);
        let taken = connection
            .egress
            .push_own(&mut connection.http2, stream, &ack);
        connection.egress.account(&mut self.egress_bytes, self.now);
        self.mark_dirty(connection);
        if taken { Ok(()) } else { Err(End::AcksUnread) }
    }
}
