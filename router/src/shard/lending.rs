//! Memory that a connection needs while it is dealt with, and seldom longer: steady traffic allocates nothing, and an idle
//! connection holds nothing.

use super::Core;
use crate::connection::Connection;
use crate::limits;

/// What is lent to one connection after the other.
#[derive(Default)]
pub struct Spares {
    /// For HTTP/2 control bytes: credit, mostly.
    control: Vec<u8>,
    /// For messages that are cut, each below [`limits::SHARE_BYTES_MIN`].
    gathering: Vec<Vec<u8>>,
}

impl Core {
    /// Lends what reading or resuming may need. [`Core::take_back`] follows.
    pub(super) fn lend(&mut self, connection: &mut Connection) {
        if connection.egress.control.capacity() == 0 {
            if self.spares.control.capacity() == 0 {
                // The last one was sent, and comes back to the pool.
                self.spares.control = self.pool.buffer();
            }
            std::mem::swap(&mut connection.egress.control, &mut self.spares.control);
        }
        if !connection.deframer.is_gathering()
            && let Some(buffer) = self.spares.gathering.pop()
        {
            connection.deframer.lend(buffer);
        }
    }

    /// Takes back what is not in use.
    pub(super) fn take_back(&mut self, connection: &mut Connection) {
        if connection.egress.control.is_empty() && self.spares.control.capacity() == 0 {
            std::mem::swap(&mut connection.egress.control, &mut self.spares.control);
        }
        if let Some(buffer) = connection.deframer.take_back()
            && buffer.capacity() < limits::SHARE_BYTES_MIN
            && self.spares.gathering.len() < limits::GATHERING_BUFFERS
        {
            self.spares.gathering.push(buffer);
        }
    }
}

/// Gives a list that was taken and drained its memory back, unless it has been added to meanwhile.
pub fn keep<T>(list: &mut Vec<T>, drained: Vec<T>) {
    if list.is_empty() {
        *list = drained;
    }
}
