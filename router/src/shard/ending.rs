//! How connections end: one by one, with their last words, and all together in a drain.

use slim_proto::grpc::Deframer;
use slim_proto::http2::ErrorCode;
use tracing::{debug, info};

use super::Core;
use crate::connection::{Connection, End, Farewell, Phase};
use crate::limits;
use crate::routes::Slot;

impl Core {
    /// The peer sends no more. If its link has ended, its last words are still on their way to it.
    pub(super) fn peer_closed(&mut self, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        match &mut connection.phase {
            Phase::Ending {
                half_closed: false,
                peer_closed,
                ..
            } => *peer_closed = true,
            _ => self.end_slot(slot, &End::Closed),
        }
    }

    pub fn end_slot(&mut self, slot: Slot, end: &End) {
        if let Some(mut connection) = self.connections.take(slot) {
            self.end(&mut connection, end);
            self.connections.put(connection);
        }
    }

    /// Ends a connection: its subscriptions go at once, its last words are sent, its socket closes when the peer has read
    /// them or [`limits::LINGER`] is over.
    pub fn end(&mut self, connection: &mut Connection, end: &End) {
        if let Phase::Ending { .. } = connection.phase {
            // The peer has closed too, or it never will.
            self.close(connection);
            return;
        }
        self.count_and_log(connection, end);
        let stream = connection.stream();
        connection.waiting_link = None;
        self.unfinished_bytes -= connection.deframer.buffered_bytes();
        connection.deframer = Deframer::default();
        if let Phase::Open(link) = &connection.phase {
            self.subscriptions -= link.subscriptions.len();
            self.routes
                .disconnect(connection.slot, link.subscriptions.names());
        }
        if let Some(publishers) = connection.egress.release() {
            self.release_all(publishers);
        }
        // Who publishes and leaves has published: what is parked still goes, and nothing more can come.
        let leaves = matches!(
            end,
            End::Closed | End::Failed(_) | End::LinkEnded | End::Truncated { .. }
        );
        if !leaves || self.draining {
            self.give_up_parked(connection);
        }
        let mut last_words = Vec::new();
        match end.farewell() {
            Farewell::None => {
                if let End::Slow { .. } | End::Stalled { .. } | End::Crowding { .. } = end {
                    let lost = connection.egress.give_up();
                    self.counters.dropped_slow_receiver.add(lost);
                }
                connection.phase = Phase::Ending {
                    deadline: self.now,
                    half_closed: true,
                    peer_closed: false,
                };
                connection.egress.close_account(&mut self.egress_bytes);
                self.close(connection);
                return;
            }
            Farewell::GoAway(code) => {
                connection
                    .http2
                    .goaway(code, &end.to_string(), &mut last_words)
            }
            Farewell::Trailers(status) => {
                if let Some(stream) = stream {
                    let text = if status == 0 {
                        String::new()
                    } else {
                        end.to_string()
                    };
                    connection
                        .http2
                        .trailers(stream, status, &text, &mut last_words);
                    connection
                        .http2
                        .reset(stream, ErrorCode::NO_ERROR, &mut last_words);
                }
                connection
                    .http2
                    .goaway(ErrorCode::NO_ERROR, "", &mut last_words);
            }
        }
        connection.egress.lend(&mut self.pool);
        let lost = connection.egress.finish(&last_words);
        self.counters.dropped_receiver_left.add(lost);
        connection.egress.account(&mut self.egress_bytes, self.now);
        connection.phase = Phase::Ending {
            deadline: self.now + limits::LINGER,
            half_closed: false,
            peer_closed: false,
        };
        self.mark_dirty(connection);
    }

    pub(super) fn give_up_parked(&mut self, connection: &mut Connection) {
        let parked = std::mem::take(&mut connection.parked);
        self.parked_bytes -= parked.bytes();
        self.counters.dropped_sender_left.add(parked.len() as u64);
        connection.holds = 0;
    }

    pub(super) fn close(&mut self, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.closing, true) {
            self.closing.push(connection.socket);
        }
    }

    pub(super) fn count_and_log(&mut self, connection: &Connection, end: &End) {
        let counters = &self.counters;
        let (counter, is_news) = match end {
            End::Closed | End::Failed(_) | End::LinkEnded | End::Drained => (None, false),
            End::Http2(error) if error.code() == ErrorCode::ENHANCE_YOUR_CALM => {
                (Some(&counters.ended_flood), true)
            }
            End::Http2(_) => (Some(&counters.ended_http2), true),
            End::Framing(_) | End::Truncated { .. } => (Some(&counters.ended_framing), true),
            End::Unfinished { .. } => (Some(&counters.ended_unfinished), true),
            End::Undecodable(_) => (Some(&counters.ended_undecodable), true),
            End::Negotiation(_) | End::Refused(_) => (Some(&counters.ended_negotiation), true),
            End::NoRequest | End::NoLink { .. } => (Some(&counters.ended_timeout), true),
            End::Silent { .. } => (Some(&counters.ended_keepalive), true),
            End::ControlUnread | End::AcksUnread => (Some(&counters.ended_control_flood), true),
            End::Slow { .. } | End::Stalled { .. } => (Some(&counters.cut_slow_receiver), true),
            End::Crowding { .. } => (Some(&counters.cut_crowding), true),
            End::TurnedAway(refusal) => (Some(counters.refused(*refusal)), true),
        };
        if !is_news {
            debug!(peer = %connection.peer, reason = %end, "connection ends");
        } else if self.log_gate.admit(self.now, &self.counters) {
            info!(peer = %connection.peer, reason = %end, "connection ends");
        }
        // After the line is written, so that who sees the count finds it.
        if let Some(counter) = counter {
            counter.add(1);
        }
    }

    /// Ends every link; one that still negotiates is ended when it has, so that its client comes back (T2), and one with
    /// messages waiting when they are sent.
    pub(super) fn drain_links(&mut self) {
        self.draining = true;
        for (_, mut connection) in std::mem::take(&mut self.left) {
            self.give_up_parked(&mut connection);
        }
        for index in 0..self.connections.slots.len() {
            let Some(mut connection) = self.connections.slots[index].take() else {
                continue;
            };
            if self.is_drained(&connection) {
                self.end(&mut connection, &End::Drained);
            } else if connection.waiting_link.is_some() {
                self.answer_waiting(&mut connection);
            } else if let Phase::Handshaking { deadline } = &mut connection.phase {
                *deadline = (*deadline).min(self.now + limits::DRAIN_HANDSHAKE);
            } else if let Phase::Ending { .. } = connection.phase {
                self.give_up_parked(&mut connection);
            }
            self.connections.put(connection);
        }
    }

    /// Whether the router drains and this link has nothing left to wait for.
    pub fn is_drained(&self, connection: &Connection) -> bool {
        self.draining
            && matches!(connection.phase, Phase::Open(_))
            && !connection.egress.is_waiting()
    }
}
