//! What a simulated shard can be asked between two turns.

use super::{Core, Shard};
use crate::connection::{Connection, Phase};
use crate::limits;
use crate::network::Network;

impl<N: Network> Shard<N> {
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Whether the last turn had no time for some of what its network brought.
    pub fn has_postponed(&self) -> bool {
        !self.postponed_events.is_empty() || !self.core.postponed.is_empty()
    }

    /// Smaller bounds than [`limits`] has, so that small worlds reach them.
    pub fn limit(&mut self, stage_deliveries: u64, copies_max: usize, outbox_bytes: usize) {
        self.core.mesh.limit_outboxes(outbox_bytes);
        self.core.stage_deliveries = stage_deliveries;
        self.core.routes.limit_copies(copies_max);
    }
}

impl Core {
    pub fn every_connection(&self) -> impl Iterator<Item = &Connection> {
        self.connections.slots.iter().flatten().map(Box::as_ref)
    }

    /// Connections that have closed and have publishes parked, in no order.
    pub fn every_left(&self) -> impl Iterator<Item = &Connection> {
        self.left.values().map(Box::as_ref)
    }

    /// What a turn must not leave behind.
    pub fn fault_between_turns(&self) -> Option<String> {
        let scratch = [
            ("dirty", self.dirty.len()),
            ("released", self.released.len()),
            ("resumable", self.resumable.len()),
            ("outgoing", self.routes.outgoing.len()),
            ("settled", self.routes.settled.len()),
            ("answered", self.routes.answered.len()),
            ("half_closing", self.half_closing.len()),
            ("closing", self.closing.len()),
        ];
        if let Some((name, _)) = scratch.iter().find(|(_, left)| *left > 0) {
            return Some(format!("a turn left `{name}` behind"));
        }
        let connections = || self.every_connection().chain(self.every_left());
        let parked: usize = connections()
            .map(|connection| connection.parked.bytes())
            .sum();
        if parked != self.parked_bytes {
            return Some(format!(
                "{parked} bytes are parked and {} counted",
                self.parked_bytes
            ));
        }
        let unfinished: usize = self
            .every_connection()
            .map(|connection| connection.deframer.buffered_bytes())
            .sum();
        if unfinished != self.unfinished_bytes {
            return Some(format!(
                "{unfinished} bytes are unfinished and {} counted",
                self.unfinished_bytes
            ));
        }
        connections().find_map(|connection| self.fault_of(connection))
    }

    fn fault_of(&self, connection: &Connection) -> Option<String> {
        let slot = connection.slot;
        let egress = &connection.egress;
        if egress.bytes() > limits::EGRESS_HARD_BYTES {
            return Some(format!("{} bytes wait for {slot:?}", egress.bytes()));
        }
        // Its window, and a message whose credit was given back while it came.
        let parked_max = limits::RECEIVE_WINDOW_BYTES as usize + limits::MESSAGE_BYTES_MAX;
        if connection.parked.bytes() > parked_max {
            return Some(format!(
                "{} bytes of {slot:?} are parked, more than it may have under way",
                connection.parked.bytes()
            ));
        }
        if connection.holds == 0 && !connection.parked.is_empty() && !self.postponed.contains(&slot)
        {
            return Some(format!(
                "publishes of {slot:?} are parked and nothing holds them"
            ));
        }
        // The low mark relieves, so nobody waits below it.
        if egress.is_pressed() && egress.bytes() < limits::EGRESS_LOW_BYTES {
            return Some(format!("{slot:?} is pressed by {} bytes", egress.bytes()));
        }
        None
    }

    /// Why this shard has work left, if it has.
    pub fn unrest(&self) -> Option<String> {
        if let Some(unrest) = self.mesh.unrest() {
            return Some(unrest.to_owned());
        }
        if self.mesh.has_mail() {
            return Some("mail waits".to_owned());
        }
        if !self.left.is_empty() {
            return Some("connections that closed still have publishes parked".to_owned());
        }
        self.every_connection().find_map(|connection| {
            let slot = connection.slot;
            if let Phase::Ending { .. } | Phase::Handshaking { .. } | Phase::Negotiating { .. } =
                connection.phase
            {
                Some(format!("{slot:?} begins or ends"))
            } else if connection.is_held() {
                Some(format!(
                    "{slot:?} is held {} times, {} messages parked",
                    connection.holds,
                    connection.parked.len()
                ))
            } else if connection.unsettled > 0 {
                Some(format!(
                    "{slot:?} has {} unsettled requests",
                    connection.unsettled
                ))
            } else if !connection.egress.is_idle() {
                Some(format!(
                    "{} bytes wait for {slot:?}",
                    connection.egress.bytes()
                ))
            } else {
                None
            }
        })
    }
}
