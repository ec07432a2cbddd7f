//! When TCP acknowledges what a client sent (dataplane 1.5).
//!
//! A kernel puts acknowledgements off by 40 ms and more, hoping that data of ours will carry them. Existing clients leave
//! Nagle's algorithm on: such a client sends its next small message only when the last one is acknowledged, so the router
//! asks for acknowledgements early, after [`limits::TCP_ACK_DELAY`]. To a client that waits for an answer, or that has Nagle
//! off, an early one is a packet and an interrupt for nothing, as expensive as a message. Which sort a client is shows in
//! what follows an early acknowledgement: data of its own, or nothing until it has our answer.

use std::time::{Duration, Instant};

use crate::limits;

/// Early acknowledgements in a row that moved nothing, after which a client is taken to wait for answers.
const IN_VAIN_MAX: u8 = 4;

/// Answers given to such a client before it is tried again: clients change their ways.
const ANSWERS_BEFORE_TRIAL: u8 = 32;

/// What one connection owes its client, and how long that may wait.
#[derive(Debug, Default)]
pub struct Acknowledgement {
    /// When something came that no send has acknowledged since.
    owed_since: Option<Instant>,
    manner: Manner,
    /// The last thing that happened was an early acknowledgement.
    asked: bool,
}

/// How a client takes acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It may be waiting for them.
    Unknown { in_vain: u8 },
    /// It waits for answers.
    Patient { answers: u8 },
}

impl Default for Manner {
    fn default() -> Self {
        Manner::Unknown { in_vain: 0 }
    }
}

/// How long an acknowledgement is put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    Short,
    Long,
}

impl Delay {
    pub const ALL: [Delay; 2] = [Delay::Short, Delay::Long];

    pub const fn duration(self) -> Duration {
        match self {
            Delay::Short => limits::TCP_ACK_DELAY,
            Delay::Long => limits::TCP_ACK_DELAY_LONG,
        }
    }
}

impl Acknowledgement {
    /// Something came. Returns how long its acknowledgement may wait, unless an earlier one is owed already.
    pub fn received(&mut self, now: Instant) -> Option<Delay> {
        if std::mem::take(&mut self.asked) {
            // It may have waited for just that.
            self.manner = Manner::default();
        }
        if self.owed_since.is_some() {
            return None;
        }
        self.owed_since = Some(now);
        Some(match self.manner {
            Manner::Unknown { .. } => Delay::Short,
            Manner::Patient { .. } => Delay::Long,
        })
    }

    /// Something is sent, and acknowledges what came.
    pub fn sent(&mut self) {
        let answers_something = self.owed_since.take().is_some();
        let in_vain_now = std::mem::take(&mut self.asked);
        self.manner = match self.manner {
            Manner::Unknown { in_vain } if in_vain_now && in_vain + 1 >= IN_VAIN_MAX => {
                Manner::Patient { answers: 0 }
            }
            Manner::Unknown { in_vain } if in_vain_now => Manner::Unknown {
                in_vain: in_vain + 1,
            },
            Manner::Patient { answers } if answers >= ANSWERS_BEFORE_TRIAL => Manner::Unknown {
                in_vain: IN_VAIN_MAX - 1,
            },
            Manner::Patient { answers } if answers_something => Manner::Patient {
                answers: answers + 1,
            },
            manner => manner,
        };
    }

    /// Whether what came at `since` is still not acknowledged.
    pub fn is_owed_since(&self, since: Instant) -> bool {
        self.owed_since == Some(since)
    }

    /// It is acknowledged without data now, for its delay is over.
    pub fn expired(&mut self) {
        self.owed_since = None;
        self.asked = true;
        if let Manner::Patient { .. } = self.manner {
            // No answer came in time.
            self.manner = Manner::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One message that is answered after its delay is over; returns the delay.
    fn answered_late(acknowledgement: &mut Acknowledgement, now: Instant) -> Option<Delay> {
        let delay = acknowledgement.received(now);
        if delay == Some(Delay::Short) {
            acknowledgement.expired();
        }
        acknowledgement.sent();
        delay
    }

    #[test]
    fn a_client_that_waits_for_answers_is_soon_left_to_them_and_tried_again_now_and_then() {
        let now = Instant::now();
        let mut acknowledgement = Acknowledgement::default();
        let delays: Vec<_> = (0..80)
            .map(|_| answered_late(&mut acknowledgement, now))
            .collect();
        let early = |range: std::ops::Range<usize>| {
            let early = |delay: &&Option<Delay>| **delay == Some(Delay::Short);
            delays[range].iter().filter(early).count()
        };
        assert_eq!(early(0..4), 4);
        assert_eq!(early(4..37), 0);
        assert_eq!(early(4..80), 2);
    }

    #[test]
    fn a_client_that_goes_on_when_acknowledged_is_always_acknowledged_early() {
        let now = Instant::now();
        let mut acknowledgement = Acknowledgement::default();
        for _ in 0..100 {
            assert_eq!(acknowledgement.received(now), Some(Delay::Short));
            assert!(acknowledgement.is_owed_since(now));
            acknowledgement.expired();
            assert!(!acknowledgement.is_owed_since(now));
        }
    }

    #[test]
    fn a_client_that_waits_for_an_answer_in_vain_is_acknowledged_early_again() {
        let now = Instant::now();
        let mut acknowledgement = Acknowledgement::default();
        while answered_late(&mut acknowledgement, now) == Some(Delay::Short) {}
        assert_eq!(acknowledgement.received(now), Some(Delay::Long));
        acknowledgement.expired();
        assert_eq!(acknowledgement.received(now), Some(Delay::Short));
    }

    #[test]
    fn what_is_answered_at_once_is_never_acknowledged_alone() {
        let now = Instant::now();
        let mut acknowledgement = Acknowledgement::default();
        for _ in 0..100 {
            assert_eq!(acknowledgement.received(now), Some(Delay::Short));
            assert_eq!(acknowledgement.received(now), None, "owed already");
            acknowledgement.sent();
            assert!(!acknowledgement.is_owed_since(now));
        }
    }
}
