//! Fan-out: how long after the first receiver the last one has a message. Of a sample, by message, over all workers.

use std::collections::HashMap;

use hdrhistogram::Histogram;

/// Of so many messages of a flow, one is followed. A power of two.
const SAMPLE_MESSAGES: u64 = 64;
/// Messages that one worker follows in a run. After that it follows no more.
pub const FOLLOWED_MAX: usize = 65_536;

/// Arrivals of one message.
#[derive(Clone, Copy, Debug)]
struct Arrivals {
    first_ns: u64,
    last_ns: u64,
    count: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Spread {
    followed: HashMap<(u32, u64), Arrivals>,
}

impl Spread {
    #[inline]
    pub fn note(&mut self, flow: u32, sequence: u64, now_ns: u64) {
        if sequence & (SAMPLE_MESSAGES - 1) == 0 {
            self.follow((flow, sequence), now_ns);
        }
    }

    #[cold]
    fn follow(&mut self, message: (u32, u64), now_ns: u64) {
        if self.followed.len() >= FOLLOWED_MAX && !self.followed.contains_key(&message) {
            return;
        }
        let arrivals = self.followed.entry(message).or_insert(Arrivals {
            first_ns: now_ns,
            last_ns: now_ns,
            count: 0,
        });
        // Times within one worker never go back.
        arrivals.last_ns = now_ns;
        arrivals.count += 1;
    }

    /// Adds what another worker's receivers saw.
    pub fn merge(&mut self, other: Spread) {
        for (message, seen) in other.followed {
            self.followed
                .entry(message)
                .and_modify(|arrivals| {
                    arrivals.first_ns = arrivals.first_ns.min(seen.first_ns);
                    arrivals.last_ns = arrivals.last_ns.max(seen.last_ns);
                    arrivals.count += seen.count;
                })
                .or_insert(seen);
        }
    }

    /// Records the spread of each message that all `receivers` got, in nanoseconds.
    pub fn record(&self, receivers: u64, histogram: &mut Histogram<u64>) {
        for arrivals in self
            .followed
            .values()
            .filter(|seen| seen.count == receivers)
        {
            histogram.saturating_record((arrivals.last_ns - arrivals.first_ns).max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_from_the_first_to_the_last_receiver_on_any_worker() {
        let (mut one, mut other) = (Spread::default(), Spread::default());
        one.note(3, 64, 1_000);
        one.note(3, 64, 1_200);
        other.note(3, 64, 900);
        // Not of the sample; and a message that one receiver has not got.
        one.note(3, 65, 5_000);
        one.note(3, 128, 6_000);
        one.merge(other);
        let mut histogram = Histogram::new(3).unwrap();
        one.record(3, &mut histogram);
        assert_eq!((histogram.len(), histogram.max()), (1, 300));
    }

    #[test]
    fn what_is_followed_is_bounded() {
        let mut spread = Spread::default();
        for message in 0..FOLLOWED_MAX as u64 + 10 {
            spread.note(0, message * SAMPLE_MESSAGES, 1);
        }
        assert_eq!(spread.followed.len(), FOLLOWED_MAX);
    }
}
