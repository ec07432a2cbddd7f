//! How much work that serves nobody a peer may cause: RFC 9113 §10.5, and the attacks that taught it.
//!
//! Each kind has an allowance that useful traffic and time give back. A legitimate client never meets the end of one;
//! a hostile one meets it after a few kilobytes, with ENHANCE_YOUR_CALM.

use std::fmt;

/// Kinds of useless work, each bounded by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Streams that the peer opened and reset (CVE-2023-44487, "rapid reset").
    ResetsByPeer,
    /// Streams that the peer made us reset (CVE-2025-8671, "made you reset").
    ResetsByUs,
    /// Requests, whatever became of them.
    Requests,
    /// SETTINGS frames, each of which wants an answer (CVE-2019-9515).
    Settings,
    /// PING frames, each of which wants an answer (CVE-2019-9512).
    Pings,
    /// DATA frames without data that end nothing (CVE-2019-9518).
    EmptyData,
    /// DATA frames below [`TINY_DATA_BYTES`] (CVE-2019-9511, RUSTSEC-2026-0258).
    TinyData,
    /// WINDOW_UPDATE frames that no data of ours called for.
    WindowUpdates,
    /// PRIORITY frames (CVE-2019-9513).
    Priorities,
    /// Frames that mean nothing here: unknown types, frames on streams that are over, repeated GOAWAY.
    Ignored,
}

/// DATA frames with fewer bytes than this are tiny. A SLIM message with its prefix is longer; only a client that sends
/// prefix and message apart sends frames below it, and then every second one is not.
pub(super) const TINY_DATA_BYTES: u32 = 32;

/// Bytes we send that count as one useful frame of ours.
const SENT_BYTES_PER_UNIT: usize = 4_096;

/// How often a [`Flood`] may happen in a burst, and what gives it back.
struct Allowance {
    burst: u16,
    /// Given back by each tick, nominally a second.
    per_tick: u16,
    /// Given back by each DATA frame of the peer that is not tiny.
    per_received_frame: u16,
    /// Given back by each DATA frame that we send, and once more for every [`SENT_BYTES_PER_UNIT`] of it.
    per_sent_frame: u16,
}

const fn allowance(
    burst: u16,
    per_tick: u16,
    per_received_frame: u16,
    per_sent_frame: u16,
) -> Allowance {
    Allowance {
        burst,
        per_tick,
        per_received_frame,
        per_sent_frame,
    }
}

const KINDS: usize = 10;

impl Flood {
    const fn allowance(self) -> Allowance {
        match self {
            Flood::ResetsByPeer => allowance(100, 5, 0, 0),
            // More than the streams a client can have in flight before it has read our SETTINGS.
            Flood::ResetsByUs => allowance(200, 5, 0, 0),
            Flood::Requests => allowance(400, 20, 0, 0),
            Flood::Settings => allowance(20, 1, 0, 0),
            // Clients that probe the bandwidth ping with every round trip while data flows, so data give it all back.
            Flood::Pings => allowance(100, 5, 1, 100),
            Flood::EmptyData => allowance(100, 5, 1, 0),
            Flood::TinyData => allowance(1_000, 100, 1, 0),
            // A client may answer each frame on the stream and on the connection, in halves.
            Flood::WindowUpdates => allowance(1_000, 20, 0, 4),
            Flood::Priorities => allowance(100, 5, 0, 0),
            Flood::Ignored => allowance(1_000, 50, 0, 0),
        }
    }

    const ALL: [Flood; KINDS] = [
        Flood::ResetsByPeer,
        Flood::ResetsByUs,
        Flood::Requests,
        Flood::Settings,
        Flood::Pings,
        Flood::EmptyData,
        Flood::TinyData,
        Flood::WindowUpdates,
        Flood::Priorities,
        Flood::Ignored,
    ];

    fn name(self) -> &'static str {
        match self {
            Flood::ResetsByPeer => "too_many_resets",
            Flood::ResetsByUs => "too_many_internal_resets",
            Flood::Requests => "too_many_requests",
            Flood::Settings => "too_many_settings",
            Flood::Pings => "too_many_pings",
            Flood::EmptyData => "too_many_empty_data_frames",
            Flood::TinyData => "too_many_data_frames",
            Flood::WindowUpdates => "too_many_window_updates",
            Flood::Priorities => "too_many_priorities",
            Flood::Ignored => "too_many_useless_frames",
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A flood went past its allowance.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    pub(super) flood: Flood,
    pub(super) burst: u16,
}

/// What has been spent of each allowance.
#[derive(Default)]
pub(super) struct FloodBudget {
    spent: [u16; KINDS],
    /// Whether anything is spent: the data path asks this first.
    is_touched: bool,
}

impl FloodBudget {
    pub(super) fn spend(&mut self, flood: Flood) -> Result<(), Exceeded> {
        let burst = flood.allowance().burst;
        self.is_touched = true;
        if let Some(spent) = self.spent.get_mut(flood as usize) {
            if *spent >= burst {
                return Err(Exceeded { flood, burst });
            }
            *spent += 1;
        }
        Ok(())
    }

    /// A second has passed.
    pub(super) fn tick(&mut self) {
        self.refill(|allowance| allowance.per_tick);
    }

    /// The peer sent a DATA frame that is not tiny.
    pub(super) fn useful_frame_received(&mut self) {
        if self.is_touched {
            self.refill(|allowance| allowance.per_received_frame);
        }
    }

    /// We sent DATA of this many bytes.
    pub(super) fn data_sent(&mut self, bytes: usize) {
        if self.is_touched {
            let units = u16::try_from(1 + bytes / SENT_BYTES_PER_UNIT).unwrap_or(u16::MAX);
            self.refill(|allowance| allowance.per_sent_frame.saturating_mul(units));
        }
    }

    fn refill(&mut self, gain: impl Fn(Allowance) -> u16) {
        let mut is_touched = false;
        for (spent, flood) in self.spent.iter_mut().zip(Flood::ALL) {
            *spent = spent.saturating_sub(gain(flood.allowance()));
            is_touched |= *spent > 0;
        }
        self.is_touched = is_touched;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flood_ends_after_its_burst_and_time_gives_it_back() {
        for flood in Flood::ALL {
            let mut budget = FloodBudget::default();
            let Allowance {
                burst, per_tick, ..
            } = flood.allowance();
            for _ in 0..burst {
                budget.spend(flood).unwrap();
            }
            assert_eq!(budget.spend(flood), Err(Exceeded { flood, burst }));
            budget.tick();
            for _ in 0..per_tick {
                budget.spend(flood).unwrap();
            }
            assert_eq!(budget.spend(flood), Err(Exceeded { flood, burst }));
        }
    }

    #[test]
    fn the_index_of_each_flood_is_its_place_in_the_list() {
        for (index, flood) in Flood::ALL.into_iter().enumerate() {
            assert_eq!(flood as usize, index);
        }
    }

    #[test]
    fn useful_traffic_gives_back_what_it_explains() {
        let mut budget = FloodBudget::default();
        for _ in 0..100_000 {
            budget.spend(Flood::Pings).unwrap();
            budget.spend(Flood::WindowUpdates).unwrap();
            budget.spend(Flood::WindowUpdates).unwrap();
            budget.data_sent(1);
            budget.spend(Flood::TinyData).unwrap();
            budget.useful_frame_received();
        }
    }
}
