//! Connections above a limit: they wait for room with their link message unanswered (see [`crate::admission`]).

use tracing::info;

use super::Core;
use crate::admission::Refusal;
use crate::connection::{Connection, End, Peer, Phase};
use crate::limits;

/// Bytes of a link message that is kept. A post-quantum dialer's has about 1,500.
const LINK_MESSAGE_BYTES_MAX: usize = 4_096;

impl Core {
    /// A connection that cannot even wait: it is closed at once.
    pub(super) fn refuse_unheard(&mut self, peer: &Peer, refusal: Refusal) {
        self.counters.refused(refusal).add(1);
        self.counters.refused_unheard.add(1);
        if self.log_gate.admit(self.now, &self.counters) {
            info!(%peer, reason = %refusal, "connection closed, and too many wait already");
        }
    }

    /// Takes the link message of a connection for which there may be no room.
    pub fn wait_for_room(
        &mut self,
        connection: &mut Connection,
        message: &[u8],
    ) -> Result<(), End> {
        if connection.waiting_link.is_some() {
            self.counters.dropped_second_link.add(1);
            return Ok(());
        }
        let is_let_in = self.admission.let_in(&mut connection.entry, self.tight);
        if is_let_in || message.len() > LINK_MESSAGE_BYTES_MAX {
            return self.answer(connection, message);
        }
        if let Phase::Negotiating { deadline, .. } = &mut connection.phase {
            *deadline = self.now + limits::WAITING_ROOM_STAY;
        }
        connection.waiting_link = Some(message.to_vec());
        Ok(())
    }

    /// Lets a waiting connection in if there is room now, and turns it away if it has waited long enough.
    pub(super) fn look_for_room(&mut self, connection: &mut Connection) {
        let is_let_in = self.admission.let_in(&mut connection.entry, self.tight);
        let has_waited = match connection.phase {
            Phase::Negotiating { deadline, .. } => deadline <= self.now,
            _ => true,
        };
        if is_let_in || has_waited {
            self.answer_waiting(connection);
        }
    }

    /// Answers the link of a waiting connection, whatever the answer is.
    pub(super) fn answer_waiting(&mut self, connection: &mut Connection) {
        let Some(link) = connection.waiting_link.take() else {
            return;
        };
        if let Err(end) = self.answer(connection, &link) {
            self.end(connection, &end);
        }
    }

    fn answer(&mut self, connection: &mut Connection, link: &[u8]) -> Result<(), End> {
        self.negotiate(connection, link)?;
        match connection.entry.waits_for {
            None => Ok(()),
            Some(refusal) => Err(End::TurnedAway(refusal)),
        }
    }
}
