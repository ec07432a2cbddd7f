//! When an open loop's events are due: at times that the rate alone decides, whatever happened to earlier ones.

/// Evenly spaced due times, without end. Pure: time comes in as nanoseconds since the start of the run.
#[derive(Clone, Debug)]
pub struct Schedule {
    start_ns: u64,
    interval_ns: f64,
    taken: u64,
}

impl Schedule {
    /// - `per_second`: above 0.
    pub fn new(per_second: f64, start_ns: u64) -> Self {
        Self {
            start_ns,
            interval_ns: 1e9 / per_second,
            taken: 0,
        }
    }

    /// When the next event is due. From the count, so that no rounding adds up.
    pub fn next_due_ns(&self) -> u64 {
        self.start_ns + (self.taken as f64 * self.interval_ns) as u64
    }

    /// Takes the next event, if it is due: its due time, which may be long past.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.next_due_ns();
        (due_ns <= now_ns).then(|| {
            self.taken += 1;
            due_ns
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_at_the_rate_and_no_earlier() {
        let mut schedule = Schedule::new(3.0, 1_000);
        assert_eq!(schedule.take_due(999), None);
        assert_eq!(schedule.take_due(1_000), Some(1_000));
        assert_eq!(schedule.take_due(333_334_332), None);
        assert_eq!(schedule.take_due(333_334_333), Some(333_334_333));
        assert_eq!(schedule.next_due_ns(), 666_667_666);
    }

    #[test]
    fn a_stall_moves_no_due_time() {
        let mut schedule = Schedule::new(1_000.0, 0);
        let due: Vec<u64> = std::iter::from_fn(|| schedule.take_due(200_000_000)).collect();
        assert_eq!(due.len(), 201);
        assert_eq!(due[0], 0);
        assert_eq!(due[200], 200_000_000);
    }

    #[test]
    fn an_hour_later_the_rate_is_still_exact() {
        let mut schedule = Schedule::new(999_983.0, 0);
        schedule.taken = 999_983 * 3_600;
        assert!(schedule.next_due_ns().abs_diff(3_600_000_000_000) <= 1_000);
    }
}
