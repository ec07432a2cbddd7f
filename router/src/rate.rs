//! How fast one connection may send: a bucket of one second's worth for messages, and one for bytes.
//!
//! A message is never refused. One that takes more than the bucket has leaves a debt, and its sender waits until that is
//! paid: what it sent meanwhile is parked, and it gets no credit.

use std::time::{Duration, Instant};

/// What may be sent a second. Made once; a connection without limits has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    pub messages: Option<u32>,
    pub bytes: Option<u64>,
}

/// One connection's buckets.
#[derive(Debug)]
pub struct Ingress {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    /// It waits until then.
    held_until: Option<Instant>,
}

#[derive(Debug)]
struct Bucket {
    per_second: f64,
    /// Below zero: debt.
    level: f64,
    filled_at: Instant,
}

impl Rates {
    pub fn is_limited(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }

    pub fn bucket(&self, now: Instant) -> Ingress {
        let bucket = |per_second: f64| Bucket {
            per_second,
            level: per_second,
            filled_at: now,
        };
        Ingress {
            messages: self.messages.map(|n| bucket(f64::from(n))),
            bytes: self.bytes.map(|n| bucket(n as f64)),
            held_until: None,
        }
    }
}

impl Ingress {
    /// Takes one message of so many bytes out. When its sender may go on, if that is not at once.
    pub fn take(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        let messages = self
            .messages
            .as_mut()
            .and_then(|bucket| bucket.take(1.0, now));
        let bytes = self
            .bytes
            .as_mut()
            .and_then(|bucket| bucket.take(bytes as f64, now));
        messages.max(bytes)
    }

    /// Has its sender wait until `until`. True if it did not wait already: there is one hold, however far it is moved.
    pub fn hold_until(&mut self, until: Instant) -> bool {
        self.held_until.replace(until).is_none()
    }

    pub fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// The wait is over.
    pub fn release(&mut self) {
        self.held_until = None;
    }
}

impl Bucket {
    fn take(&mut self, amount: f64, now: Instant) -> Option<Instant> {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        // Never more than a second's worth: who was quiet for an hour has no claim to an hour's messages.
        self.level = (self.level + elapsed * self.per_second).min(self.per_second) - amount;
        self.filled_at = now;
        if self.level >= 0.0 {
            return None;
        }
        Some(now + Duration::from_secs_f64(-self.level / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_goes_through_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now();
        let rates = Rates {
            messages: Some(100),
            bytes: None,
        };
        let mut ingress = rates.bucket(start);
        let mut now = start;
        for _ in 0..1_100 {
            if let Some(at) = ingress.take(1_000_000, now) {
                now = at;
            }
        }
        let seconds = (now - start).as_secs_f64();
        assert!((9.99..10.01).contains(&seconds), "{seconds}");
    }

    #[test]
    fn the_stricter_of_both_rates_holds() {
        let start = Instant::now();
        let rates = Rates {
            messages: Some(1_000_000),
            bytes: Some(1_000),
        };
        let mut ingress = rates.bucket(start);
        assert_eq!(ingress.take(1_000, start), None);
        let at = ingress.take(500, start).unwrap();
        assert_eq!((at - start).as_millis(), 500);
    }

    #[test]
    fn a_message_above_a_second_s_worth_is_paid_off() {
        let start = Instant::now();
        let rates = Rates {
            messages: None,
            bytes: Some(1_024),
        };
        let at = rates.bucket(start).take(4_194_304, start).unwrap();
        assert_eq!((at - start).as_secs(), 4_095);
    }
}
