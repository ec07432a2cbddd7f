//! What a shard does so that clients together never make it hold more than it may: publishers get no credit, receivers are
//! pressed earlier, and those that hold most are cut. Everything here happens once a turn at most.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::Core;
use crate::connection::{Connection, End};
use crate::limits;
use crate::memory::State;
use crate::routes::Slot;

/// A publisher above its rate, and when it may go on. Ordered by that, for a heap that gives the earliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Throttled {
    until: Instant,
    publisher: Slot,
}

impl Ord for Throttled {
    fn cmp(&self, other: &Throttled) -> std::cmp::Ordering {
        let key = |throttled: &Throttled| {
            let Slot { index, generation } = throttled.publisher;
            Reverse((throttled.until, index, generation))
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Throttled {
    fn partial_cmp(&self, other: &Throttled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Core {
    /// Gives credit back for what was read, unless there is no memory for what it would bring.
    pub fn release_credit(&mut self, connection: &mut Connection) {
        if !self.starving {
            connection.release_credit();
        } else if !std::mem::replace(&mut connection.starved, true) {
            self.counters.publishers_starved.add(1);
            self.starved.push(connection.slot);
        }
    }

    /// Counts a message against its sender's rate. Above it, the sender is held: what it sends is parked.
    #[inline]
    pub fn charge(&mut self, connection: &mut Connection, bytes: usize) {
        let Some(ingress) = &mut connection.ingress else {
            return;
        };
        if let Some(until) = ingress.take(bytes, self.now)
            && ingress.hold_until(until)
        {
            connection.holds += 1;
            self.counters.publishers_throttled.add(1);
            let publisher = connection.slot;
            self.throttled.push(Throttled { until, publisher });
        }
    }

    /// When the first throttled publisher may go on.
    pub(super) fn throttled_until(&self) -> Option<Instant> {
        self.throttled.peek().map(|throttled| throttled.until)
    }

    /// Lets publishers go on whose rate allows it again.
    pub(super) fn release_throttled(&mut self) {
        while let Some(Throttled { until, publisher }) = self.throttled.peek().copied()
            && until <= self.now
        {
            self.throttled.pop();
            let now = self.now;
            let Some(ingress) = self
                .publisher(publisher)
                .and_then(|connection| connection.ingress.as_mut())
            else {
                continue;
            };
            // Its subscribes went on meanwhile and are paid for as well.
            match ingress.held_until() {
                Some(until) if until > now => self.throttled.push(Throttled { until, publisher }),
                _ => {
                    ingress.release();
                    self.released.push(publisher);
                }
            }
        }
    }

    /// Looks at what the turn has made this shard hold, and at memory if that is much more than before.
    pub(super) fn keep_within_limits(&mut self) {
        let account = self.account_bytes();
        if account > self.account_looked_at + self.shares.step_bytes {
            self.look_at_memory();
        }
        let large = self.memory.large_bytes_share();
        let egress = self.egress_bytes + large;
        let share = self.shares.egress_bytes;
        if egress > share {
            let grace = match egress > share / 8 * 9 {
                true => Duration::ZERO,
                false => limits::EGRESS_CROWDED_GRACE,
            };
            self.shed(egress - share / 8 * 7, grace);
        }
        let most = self.config.limits.egress_bytes_per_connection;
        self.egress_soft_bytes = soft_bytes(most, share, egress);
        // The next turn takes in no more than a step, for marks are set between turns; and one message to a large group no
        // more than is left.
        let step = self.shares.step_bytes.min(share / 16);
        self.egress_pause_bytes = self.egress_bytes + step;
        let left = self.left_bytes() / 4 * 3;
        self.egress_bytes_max = (share / 4 * 5).min(self.egress_bytes.saturating_add(left));
        // What drains by itself, or is cut if it does not: who waits for credit does not wait for ever.
        let draining = egress + self.parked_bytes + self.mesh.bytes();
        self.starving = self.tight && draining > self.shares.egress_bytes / 2;
        if !self.starving && !self.starved.is_empty() {
            for slot in std::mem::take(&mut self.starved) {
                if let Some(mut connection) = self.connections.take(slot) {
                    connection.starved = false;
                    connection.release_credit();
                    self.mark_dirty(&mut connection);
                    self.connections.put(connection);
                }
            }
        }
    }

    /// What clients make this shard hold.
    pub(super) fn account_bytes(&self) -> usize {
        let connections = self.counters.connections_open.get() as usize;
        let held = self.egress_bytes + self.parked_bytes + self.unfinished_bytes;
        held + self.memory.large_bytes_share()
            + self.mesh.bytes()
            + self.pool.bytes()
            + connections * limits::CONNECTION_BYTES
            + (self.subscriptions + self.routes.names()) * limits::SUBSCRIPTION_BYTES
    }

    /// By how much this shard may grow at once.
    pub fn left_bytes(&self) -> usize {
        let grown = self.account_bytes().saturating_sub(self.account_looked_at);
        self.shares.left_bytes.saturating_sub(grown)
    }

    pub(super) fn look_at_memory(&mut self) {
        self.account_looked_at = self.account_bytes();
        self.memory.look(
            self.shard,
            self.account_looked_at,
            self.routes.growth_bytes(),
        );
        self.tight = self.memory.state() >= State::Tight;
        self.shares = self.memory.shares();
        if self.tight {
            // Buffers for reuse are the first thing to do without.
            self.pool = Default::default();
        }
    }

    /// Cuts receivers until `excess_bytes` are freed: first those that have taken nothing for longest, of several those
    /// for which most waits.
    ///
    /// - `grace`: who took something within that time is not cut.
    fn shed(&mut self, excess_bytes: usize, grace: Duration) {
        let mut holders: Vec<_> = self
            .connections
            .slots
            .iter()
            .flatten()
            .filter(|connection| connection.egress.bytes() > 0 && connection.is_open())
            .filter(|connection| {
                let moved_at = connection.egress.moved_at();
                moved_at.is_none_or(|at| self.now.duration_since(at) >= grace)
            })
            .map(|connection| {
                let egress = &connection.egress;
                (egress.moved_at(), Reverse(egress.bytes()), connection.slot)
            })
            .collect();
        holders.sort_unstable_by_key(|(moved_at, bytes, _)| (*moved_at, *bytes));
        let mut left = excess_bytes;
        for (_, Reverse(bytes), slot) in holders {
            if left == 0 {
                return;
            }
            left = left.saturating_sub(bytes);
            self.end_slot(slot, &End::Crowding { bytes });
        }
    }
}

/// What may wait for one receiver: all that is configured while the shard holds less than half of its share for all, then
/// less and less, and the least from three quarters on. So receivers that are served fall back before any is cut.
fn soft_bytes(most: usize, share: usize, egress: usize) -> usize {
    let quarter = (share / 4).max(1);
    let left = (share / 4 * 3).saturating_sub(egress).min(quarter);
    let soft = most as u128 * left as u128 / quarter as u128;
    (soft as usize).max(limits::EGRESS_SOFT_BYTES_LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_mark_falls_from_half_of_the_share_on_and_never_below_its_least() {
        const MOST: usize = 1 << 20;
        let soft = |egress: usize| soft_bytes(MOST, 100 << 20, egress << 20);
        assert_eq!(soft(0), MOST);
        assert_eq!(soft(50), MOST);
        assert_eq!(soft(60), MOST / 5 * 3);
        for full in [75, 100, 101, 1_000] {
            assert_eq!(soft(full), limits::EGRESS_SOFT_BYTES_LEAST);
        }
        assert_eq!(soft_bytes(MOST, 0, 0), limits::EGRESS_SOFT_BYTES_LEAST);
    }

    #[test]
    fn the_publisher_that_may_go_on_first_comes_first() {
        let now = Instant::now();
        let slot = |index| Slot {
            index,
            generation: 0,
        };
        let throttled = |seconds, index| Throttled {
            until: now + Duration::from_secs(seconds),
            publisher: slot(index),
        };
        let mut heap: std::collections::BinaryHeap<_> =
            [throttled(3, 0), throttled(1, 1), throttled(2, 2)].into();
        let order: Vec<u32> =
            std::iter::from_fn(|| heap.pop().map(|t| t.publisher.index)).collect();
        assert_eq!(order, [1, 2, 0]);
    }
}
