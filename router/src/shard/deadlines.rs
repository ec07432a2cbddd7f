//! What is due when: acknowledgements after milliseconds, everything else in sweeps.

use std::time::{Duration, Instant};

use super::Core;
use crate::acknowledge::Delay;
use crate::connection::{Connection, End, Peer, Phase};
use crate::limits;
use crate::network::Network;

impl Core {
    /// Notes that TCP owes this client an acknowledgement.
    pub(super) fn owe_acknowledgement(&mut self, connection: &mut Connection) {
        if matches!(connection.peer, Peer::Tcp(_))
            && let Some(delay) = connection.acknowledgement.received(self.now)
        {
            self.unacknowledged[delay as usize].push_back((self.now, connection.slot));
        }
    }

    /// When the next acknowledgement is due.
    pub(super) fn acknowledge_at(&self) -> Option<Instant> {
        Delay::ALL
            .iter()
            .filter_map(|delay| {
                let (since, _) = self.unacknowledged[*delay as usize].front()?;
                Some(*since + delay.duration())
            })
            .min()
    }

    /// Has the kernel acknowledge what was received and not answered in time; see [`crate::acknowledge`].
    pub(super) fn acknowledge_received(&mut self, network: &mut impl Network) {
        for delay in Delay::ALL {
            let queue = &mut self.unacknowledged[delay as usize];
            while let Some((since, slot)) = queue.front() {
                let owing = self
                    .connections
                    .get_mut(*slot)
                    .filter(|connection| connection.acknowledgement.is_owed_since(*since));
                if let Some(connection) = owing {
                    if *since + delay.duration() > self.now {
                        break;
                    }
                    connection.acknowledgement.expired();
                    network.acknowledge(connection.socket);
                }
                // Done, or sent to meanwhile.
                queue.pop_front();
            }
        }
    }

    /// Cuts receivers above the mark that have stopped reading.
    ///
    /// - `late`: by how much this sweep missed its time, because a turn took long: nobody was sent anything meanwhile.
    pub(super) fn sweep_pressed(&mut self, late: Duration) {
        let mut pressed = std::mem::take(&mut self.pressed);
        pressed.retain(|slot| {
            let Some(connection) = self.connections.get_mut(*slot) else {
                return false;
            };
            if !connection.egress.is_pressed() {
                connection.egress.listed = false;
                return false;
            }
            // However much may wait for it: reading slowly is no reason to cut it.
            let low_bytes = (self.egress_soft_bytes / 2).min(limits::EGRESS_LOW_BYTES);
            if !connection.egress.has_stopped(self.now, late, low_bytes) {
                return true;
            }
            let end = End::Slow {
                bytes: connection.egress.bytes(),
            };
            self.end_slot(*slot, &end);
            false
        });
        pressed.append(&mut self.pressed);
        self.pressed = pressed;
    }

    pub(super) fn sweep_connections(&mut self, part: u32) {
        for index in self.connections.slots_of_part(part) {
            let Some(mut connection) = self.connections.slots[index].take() else {
                continue;
            };
            self.look_at(&mut connection);
            self.connections.put(connection);
        }
    }

    /// One look at one connection's deadlines.
    pub(super) fn look_at(&mut self, connection: &mut Connection) {
        connection.http2.tick();
        let listener = &self.config.listeners[usize::from(connection.listener)];
        let (interval, timeout) = (listener.keepalive_interval, listener.keepalive_timeout);
        let stalled_for = connection.stalled_for(self.now);
        // Memory that nobody reads is wanted by others.
        let stall_timeout = match self.tight {
            true => limits::EGRESS_GRACE,
            false => limits::STALL_TIMEOUT,
        };
        if connection.waiting_link.is_some() {
            return self.look_for_room(connection);
        }
        let end = match &connection.phase {
            Phase::Handshaking { deadline } if *deadline <= self.now => End::NoRequest,
            Phase::Negotiating { deadline, .. } if *deadline <= self.now => End::NoLink {
                seconds: listener.negotiation_timeout.as_secs(),
            },
            Phase::Ending { deadline, .. } if *deadline <= self.now => End::Closed,
            Phase::Open(_) if stalled_for > stall_timeout => End::Stalled {
                bytes: connection.egress.bytes(),
            },
            // It had its chance to read what waited.
            Phase::Open(_) if self.draining && stalled_for > limits::LINGER => End::Drained,
            Phase::Open(_) => match connection.pinged_at {
                Some(at) if self.now.duration_since(at) > timeout => End::Silent {
                    seconds: timeout.as_secs(),
                },
                None if self.now.duration_since(connection.heard_at) > interval => {
                    connection.pinged_at = Some(self.now);
                    connection
                        .http2
                        .ping(*b"slimping", &mut connection.egress.control);
                    self.mark_dirty(connection);
                    return;
                }
                _ => return,
            },
            _ => return,
        };
        self.end(connection, &end);
    }
}
