//! The connections of one shard by slot, and how much is logged about them.

use std::time::{Duration, Instant};

use slim_ring::SocketId;

use crate::connection::Connection;
use crate::limits;
use crate::metrics::Counters;
use crate::routes::Slot;

/// Connections by slot.
#[derive(Default)]
pub struct Connections {
    pub(super) slots: Vec<Option<Box<Connection>>>,
}

impl Connections {
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(slot.index as usize)?.as_deref_mut()?;
        (connection.slot == slot).then_some(connection)
    }

    /// Takes a connection out, so that it and the others can be changed together. Put it back with [`Connections::put`].
    pub(super) fn take(&mut self, slot: Slot) -> Option<Box<Connection>> {
        self.slots
            .get_mut(slot.index as usize)?
            .take_if(|connection| connection.slot == slot)
    }

    pub(super) fn put(&mut self, connection: Box<Connection>) {
        let index = connection.slot.index as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(connection);
    }

    pub(super) fn slots_of_part(&self, part: u32) -> impl Iterator<Item = usize> + use<> {
        (part as usize..self.slots.len()).step_by(limits::SWEEP_PARTS as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

impl From<SocketId> for Slot {
    fn from(socket: SocketId) -> Slot {
        Slot {
            index: socket.index(),
            generation: socket.generation(),
        }
    }
}

/// Bounds the log lines about connections: a flood of bad ones must not become a flood of lines.
pub struct LogGate {
    second: Instant,
    lines: u32,
}

impl LogGate {
    pub(super) fn new(now: Instant) -> LogGate {
        LogGate {
            second: now,
            lines: 0,
        }
    }

    pub fn admit(&mut self, now: Instant, counters: &Counters) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            *self = LogGate::new(now);
        }
        self.lines += 1;
        let admitted = self.lines <= limits::LOG_LINES_PER_SECOND;
        if !admitted {
            counters.log_lines_suppressed.add(1);
        }
        admitted
    }
}
