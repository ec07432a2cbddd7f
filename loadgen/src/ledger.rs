//! What one receiver got from one sender, checked message by message: lost, duplicated, reordered.

use std::collections::BTreeMap;

/// Gaps that one ledger keeps open. Above: the oldest is written off as lost, and what of it still comes is a duplicate.
pub const GAPS_MAX: usize = 4_096;

/// What went wrong on the way, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Faults {
    /// Sent and never seen.
    pub lost: u64,
    /// Seen more often than once.
    pub duplicated: u64,
    /// Seen after one that was sent later.
    pub reordered: u64,
    /// Not decodable, not ours, or with a wrong tag. If its number cannot be told any more, that is lost as well.
    pub damaged: u64,
}

impl Faults {
    pub fn add(&mut self, other: Faults) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
    }

    pub fn any(&self) -> bool {
        *self != Faults::default()
    }
}

/// Counts sequence numbers, which a sender gives from 0 without a gap.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// One above the highest number seen.
    next: u64,
    /// Numbers below `next` that were not seen: first -> end, exclusive.
    gaps: BTreeMap<u64, u64>,
    written_off: u64,
    duplicated: u64,
    reordered: u64,
}

impl Ledger {
    /// Returns whether it is seen for the first time.
    #[inline]
    pub fn note(&mut self, sequence: u64) -> bool {
        if sequence == self.next {
            self.next += 1;
            true
        } else {
            self.note_out_of_order(sequence)
        }
    }

    #[cold]
    fn note_out_of_order(&mut self, sequence: u64) -> bool {
        if sequence > self.next {
            self.open_gap(self.next, sequence);
            self.next = sequence.saturating_add(1);
            return true;
        }
        match self.gaps.range(..=sequence).next_back() {
            Some((&first, &end)) if sequence < end => {
                self.reordered += 1;
                self.gaps.remove(&first);
                if first < sequence {
                    self.gaps.insert(first, sequence);
                }
                if sequence + 1 < end {
                    self.gaps.insert(sequence + 1, end);
                }
                true
            }
            _ => {
                self.duplicated += 1;
                false
            }
        }
    }

    fn open_gap(&mut self, first: u64, end: u64) {
        self.gaps.insert(first, end);
        if self.gaps.len() > GAPS_MAX
            && let Some((first, end)) = self.gaps.pop_first()
        {
            self.written_off += end - first;
        }
    }

    /// The account, once nothing more will come.
    ///
    /// - `sent`: how many messages the sender sent.
    pub fn close(&self, sent: u64) -> Faults {
        let open: u64 = self.gaps.iter().map(|(first, end)| end - first).sum();
        Faults {
            lost: open + self.written_off + sent.saturating_sub(self.next),
            duplicated: self.duplicated,
            reordered: self.reordered,
            // A number that was never sent.
            damaged: self.next.saturating_sub(sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(seen: impl IntoIterator<Item = u64>, sent: u64) -> Faults {
        let mut ledger = Ledger::default();
        for sequence in seen {
            ledger.note(sequence);
        }
        ledger.close(sent)
    }

    #[test]
    fn all_in_order_is_no_fault() {
        assert_eq!(faults(0..1_000, 1_000), Faults::default());
        assert_eq!(faults([], 0), Faults::default());
    }

    #[test]
    fn what_never_came_is_lost_wherever_it_was() {
        let lost = |lost| Faults {
            lost,
            ..Faults::default()
        };
        assert_eq!(faults([1, 2], 3), lost(1));
        assert_eq!(faults([0, 1, 4, 5, 7], 8), lost(3));
        assert_eq!(faults([0, 1], 10), lost(8));
        assert_eq!(faults([], 10), lost(10));
    }

    #[test]
    fn what_comes_late_is_reordered_and_not_lost() {
        let reordered = |reordered| Faults {
            reordered,
            ..Faults::default()
        };
        assert_eq!(faults([1, 0], 2), reordered(1));
        assert_eq!(faults([0, 5, 3, 1, 2, 4], 6), reordered(4));
    }

    #[test]
    fn what_comes_again_is_duplicated() {
        let duplicated = |duplicated| Faults {
            duplicated,
            ..Faults::default()
        };
        assert_eq!(faults([0, 0, 1], 2), duplicated(1));
        assert_eq!(faults([0, 1, 0, 1], 2), duplicated(2));
        let both = Faults {
            duplicated: 1,
            reordered: 1,
            ..Faults::default()
        };
        assert_eq!(faults([1, 0, 0], 2), both);
    }

    #[test]
    fn a_number_that_was_never_sent_is_damage() {
        assert_eq!(
            faults([0, 1, 2], 2),
            Faults {
                damaged: 1,
                ..Faults::default()
            }
        );
    }

    #[test]
    fn more_gaps_than_are_kept_still_count_as_lost() {
        let gaps = GAPS_MAX as u64 + 10;
        let account = faults((0..gaps).map(|index| 2 * index + 1), 2 * gaps);
        assert_eq!(account.lost, gaps);
    }
}
