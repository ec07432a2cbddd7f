//! A routed message to its receivers: here, and on other shards.
//!
//! A publisher waits (is *held*) for a receiver that is pressed, for a full lane to another shard, or for a directory
//! answer. While held, its further publishes are parked in order and it gets no credit, so what it can make us hold is
//! its receive window; its subscribes are answered all the same. Each hold is matched by exactly one release.

use bytes::Bytes;
use slim_proto::route_header::{self, Parsed, RouteHeader};

use crate::connection::{Connection, Phase};
use crate::egress::{Outgoing, Pushed};
use crate::limits;
use crate::mesh::{Arrived, Control, Parcel};
use crate::parked::Message;
use crate::routes::{ConnectionId, Route, ShardId, Slot};
use crate::shard::Core;

impl Core {
    /// Routes one publish of `connection`. `self.preimage` has been built from `message` and `header`.
    pub fn publish(
        &mut self,
        connection: &mut Connection,
        message: &[u8],
        shared: Option<&Bytes>,
        header: RouteHeader,
    ) {
        let mut delivery = std::mem::take(&mut self.delivery);
        match self.routes.route(
            header.destination,
            header.fanout,
            connection.slot,
            &mut delivery,
        ) {
            Route::Nobody => self.counters.dropped_no_route.add(1),
            Route::Asked => {
                connection.holds += 1;
                self.park(connection, message, shared, header);
            }
            Route::Found
                if header.is_patchable() || header.is_unsigned() && header.is_ttl_patchable() =>
            {
                self.send_to(&delivery.local, connection, message, shared, &header);
                for shard in delivery.shards() {
                    self.send_to_shard(shard, connection, message, shared, &header);
                }
            }
            Route::Found => match rewritten(&header, message) {
                Some((message, header)) => {
                    self.preimage.build(&message, &header);
                    let shared = Some(&message);
                    self.send_to(&delivery.local, connection, &message, shared, &header);
                    for shard in delivery.shards() {
                        self.send_to_shard(shard, connection, &message, shared, &header);
                    }
                }
                None => self.counters.dropped_too_large.add(1),
            },
        }
        self.delivery = delivery;
    }

    fn send_to(
        &mut self,
        receivers: &[Slot],
        publisher: &mut Connection,
        message: &[u8],
        shared: Option<&Bytes>,
        header: &RouteHeader,
    ) {
        let id = ConnectionId {
            shard: self.shard,
            slot: publisher.slot,
        };
        for receiver in receivers {
            if self.deliver(*receiver, id, message, shared, header) {
                publisher.holds += 1;
                self.counters.publishers_held.add(1);
            }
        }
    }

    fn send_to_shard(
        &mut self,
        shard: ShardId,
        publisher: &mut Connection,
        message: &[u8],
        shared: Option<&Bytes>,
        header: &RouteHeader,
    ) {
        self.counters.messages_meshed.add(1);
        let shared = shared.filter(|bytes| bytes.len() >= limits::SHARE_BYTES_MIN);
        if !self
            .mesh
            .consign(shard, header, publisher.slot, message, shared)
        {
            self.mesh.lane_holds[usize::from(shard.0)].push(publisher.slot);
            publisher.holds += 1;
            self.counters.publishers_held.add(1);
        }
    }

    /// Puts a message into one receiver's egress. True if `publisher` must wait for it from now on.
    fn deliver(
        &mut self,
        receiver: Slot,
        publisher: ConnectionId,
        message: &[u8],
        shared: Option<&Bytes>,
        header: &RouteHeader,
    ) -> bool {
        let Some(target) = self.connections.get_mut(receiver) else {
            self.counters.dropped_receiver_left.add(1);
            return false;
        };
        let Phase::Open(link) = &mut target.phase else {
            self.counters.dropped_receiver_left.add(1);
            return false;
        };
        // One message to all receivers of a large group can be more than is left: what nobody has read is worth less
        // than the router.
        if self.egress_bytes > self.egress_bytes_max {
            self.counters.dropped_egress_total.add(1);
            return false;
        }
        let stream = link.stream;
        // Mostly as it came. On a router whose links all sign, or none does, always.
        let is_form = match link.mac {
            Some(_) => header.is_patchable(),
            None => header.is_unsigned(),
        };
        let other_form = if is_form {
            None
        } else {
            let other_form = match link.mac {
                Some(_) => rewritten(header, message),
                None => unsigned(header, message),
            };
            if other_form.is_none() {
                self.counters.dropped_too_large.add(1);
                return false;
            }
            other_form
        };
        let tag = link
            .mac
            .as_mut()
            .map(|mac| mac.tag(&mut self.preimage, header.ttl_forwarded()));
        let outgoing = match &other_form {
            None => Outgoing {
                header,
                message,
                shared,
                tag,
            },
            Some((message, header)) => Outgoing {
                header,
                message,
                shared: Some(message),
                tag,
            },
        };
        target.egress.lend(&mut self.pool);
        let soft_bytes = self.egress_soft_bytes;
        let pushed = target
            .egress
            .push(&mut target.http2, stream, &outgoing, soft_bytes);
        target.egress.account(&mut self.egress_bytes, self.now);
        if !target.dirty {
            target.dirty = true;
            self.dirty.push(receiver);
        }
        match pushed {
            Pushed::Accepted => {
                self.counters.messages_delivered.add(1);
                false
            }
            Pushed::Pressed => {
                self.counters.messages_delivered.add(1);
                if !std::mem::replace(&mut target.egress.listed, true) {
                    self.pressed.push(receiver);
                }
                target.egress.press(publisher, self.now)
            }
            Pushed::Full => {
                self.counters.dropped_egress_full.add(1);
                false
            }
        }
    }

    /// Delivers what another shard routed here.
    pub fn on_parcel(&mut self, from: ShardId, parcel: &Parcel) {
        let mut delivery = std::mem::take(&mut self.delivery);
        for Arrived {
            header,
            publisher,
            message,
            shared,
        } in parcel.messages()
        {
            self.routes
                .route_arrived(header.destination, header.fanout, &mut delivery);
            if delivery.local.is_empty() {
                self.counters.dropped_receiver_left.add(1);
                continue;
            }
            self.preimage.build(message, header);
            let publisher = ConnectionId {
                shard: from,
                slot: publisher,
            };
            for receiver in &delivery.local {
                if self.deliver(*receiver, publisher, message, shared, header) {
                    self.counters.publishers_held.add(1);
                    self.mesh.tell(
                        from,
                        Control::Hold {
                            publisher: publisher.slot,
                        },
                    );
                }
            }
        }
        self.delivery = delivery;
    }

    /// Keeps a publish of a held connection, in order.
    pub fn park(
        &mut self,
        connection: &mut Connection,
        message: &[u8],
        shared: Option<&Bytes>,
        header: RouteHeader,
    ) {
        let bytes = message.len() + Message::OVERHEAD_BYTES;
        if self.parked_bytes + bytes > self.shares.parked_bytes {
            self.counters.dropped_parked_full.add(1);
            return;
        }
        self.parked_bytes += bytes;
        connection.parked.push(message, shared, header);
    }

    /// A hold of this shard's publisher ends.
    pub fn release_publisher(&mut self, publisher: Slot) {
        let Some(connection) = self.publisher(publisher) else {
            return;
        };
        connection.holds = connection.holds.saturating_sub(1);
        let is_open = matches!(connection.phase, Phase::Open(_));
        if connection.holds == 0 && (is_open || !connection.parked.is_empty()) {
            self.resumable.push(publisher);
        }
    }

    /// Ends all holds of a receiver that has read enough.
    pub fn relieve(&mut self, receiver: &mut Connection) {
        if let Some(publishers) = receiver.egress.relieved(self.egress_soft_bytes / 2) {
            self.release_all(publishers);
        }
    }

    pub fn release_all(&mut self, publishers: impl Iterator<Item = ConnectionId>) {
        for ConnectionId { shard, slot } in publishers {
            if shard == self.shard {
                self.released.push(slot);
            } else {
                self.mesh.tell(shard, Control::Release { publisher: slot });
            }
        }
    }

    /// Publishes what was parked, until the connection is held again or has caught up.
    pub fn resume(&mut self, connection: &mut Connection) {
        while connection.holds == 0 {
            if self.has_done_enough() && !connection.parked.is_empty() {
                self.postponed.push(connection.slot);
                return;
            }
            let Some(Message {
                bytes: message,
                header,
            }) = connection.parked.pop()
            else {
                break;
            };
            self.parked_bytes -= message.len() + Message::OVERHEAD_BYTES;
            self.preimage.build(&message, &header);
            let behind = connection.parked.len();
            self.publish(connection, &message, Some(&message), header);
            // If it must wait once more, it goes back to where it was, before those that came after it.
            if connection.parked.len() > behind {
                connection.parked.put_back_newest();
            } else {
                self.charge(connection, message.len());
            }
        }
        // Nobody hears of credit any more who has had our last words.
        if let Phase::Open(_) = connection.phase {
            self.release_credit(connection);
            self.mark_dirty(connection);
        }
    }
}

/// The form for a receiver without a key, which drops what carries a tag (dataplane 5.5).
fn unsigned(header: &RouteHeader, message: &[u8]) -> Option<(Bytes, RouteHeader)> {
    let rewritten = Bytes::from(header.rewrite_unsigned(message).ok()?);
    if rewritten.len() > limits::MESSAGE_BYTES_MAX {
        return None;
    }
    match route_header::parse(&rewritten).ok()? {
        Parsed::Routed(header) if header.is_ttl_patchable() => Some((rewritten, header)),
        _ => None,
    }
}

/// The form in which a message that cannot be patched is forwarded: without `recv_from` and `forward_to` (T3), with room
/// for ttl and tag. `None` if that exceeds what receivers accept (T9).
fn rewritten(header: &RouteHeader, message: &[u8]) -> Option<(Bytes, RouteHeader)> {
    let rewritten = Bytes::from(header.rewrite_for_forwarding(message).ok()?);
    if rewritten.len() > limits::MESSAGE_BYTES_MAX {
        return None;
    }
    match route_header::parse(&rewritten).ok()? {
        Parsed::Routed(header) if header.is_patchable() => Some((rewritten, header)),
        _ => None,
    }
}
