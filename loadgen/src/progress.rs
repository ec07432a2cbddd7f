//! One live line on a terminal while a run lasts; nothing anywhere else.

use std::io::{IsTerminal, Stderr, Write};
use std::time::{Duration, Instant};

/// Between two paintings. Faster would not be read.
const PAINT_EVERY: Duration = Duration::from_millis(500);

/// Back to the first column, and clear the line.
const WIPE: &[u8] = b"\r\x1b[2K";

/// The line on standard error, if that is a terminal. It is wiped when this is dropped.
pub struct Progress {
    terminal: Option<Stderr>,
    painted: Option<Instant>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    pub fn new() -> Self {
        let stderr = std::io::stderr();
        Self {
            terminal: stderr.is_terminal().then_some(stderr),
            painted: None,
        }
    }

    /// Whether there is a terminal to paint on.
    pub fn is_shown(&self) -> bool {
        self.terminal.is_some()
    }

    /// Paints the line if half a second has passed since it was painted last.
    ///
    /// - Rates are in messages a second, latencies in microseconds, `None` while there are none.
    pub fn update(
        &mut self,
        elapsed: Duration,
        of: Duration,
        published_per_s: f64,
        delivered_per_s: f64,
        p50_us: Option<f64>,
        p99_us: Option<f64>,
    ) {
        let Some(terminal) = &mut self.terminal else {
            return;
        };
        let now = Instant::now();
        if !is_due(self.painted, now) {
            return;
        }
        self.painted = Some(now);
        let line = line(
            elapsed,
            of,
            published_per_s,
            delivered_per_s,
            p50_us,
            p99_us,
        );
        // A terminal that has gone away ends no measurement.
        let _ = terminal
            .write_all(WIPE)
            .and_then(|()| terminal.write_all(line.as_bytes()))
            .and_then(|()| terminal.flush());
    }

    /// Wipes the line, so that what is printed next starts on a clean one. [`Progress::update`] may bring it back.
    pub fn finish(&mut self) {
        if let (Some(terminal), Some(_)) = (&mut self.terminal, self.painted.take()) {
            // As above.
            let _ = terminal.write_all(WIPE).and_then(|()| terminal.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn is_due(painted: Option<Instant>, now: Instant) -> bool {
    painted.is_none_or(|painted| now.saturating_duration_since(painted) >= PAINT_EVERY)
}

fn line(
    elapsed: Duration,
    of: Duration,
    published_per_s: f64,
    delivered_per_s: f64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
) -> String {
    let latency = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), latency_text);
    format!(
        "{} of {} s  published {}  delivered {}  p50 {}  p99 {}",
        elapsed.as_secs(),
        of.as_secs(),
        rate_text(published_per_s),
        rate_text(delivered_per_s),
        latency(p50_us),
        latency(p99_us)
    )
}

/// Three digits that count, and the unit: `999 /s`, `1.23 M/s`.
pub(crate) fn rate_text(per_s: f64) -> String {
    let (value, unit) = scaled(per_s, &["/s", "k/s", "M/s", "G/s"]);
    format!("{value} {unit}")
}

/// Three digits that count, and the unit: `45 us`, `1.2 ms`, `2 s`. From microseconds.
pub(crate) fn latency_text(us: f64) -> String {
    let (value, unit) = if us < 1.0 {
        scaled(us * 1e3, &["ns"])
    } else {
        scaled(us, &["us", "ms", "s"])
    };
    format!("{value} {unit}")
}

/// With the first unit that leaves fewer than four digits before the point; trailing zeroes are dropped.
fn scaled<'a>(mut value: f64, units: &[&'a str]) -> (String, &'a str) {
    let mut units = units.iter().peekable();
    let mut unit = units.next().copied().unwrap_or_default();
    // From here on it would be written as 1000.
    while value >= 999.5 && units.peek().is_some() {
        value /= 1e3;
        unit = units.next().copied().unwrap_or_default();
    }
    let decimals = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    (text.to_owned(), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_human_units() {
        for (per_s, text) in [
            (0.0, "0 /s"),
            (7.0, "7 /s"),
            (999.4, "999 /s"),
            (999.5, "1 k/s"),
            (12_340.0, "12.3 k/s"),
            (1_234_567.0, "1.23 M/s"),
            (999_600_000.0, "1 G/s"),
            (5e12, "5000 G/s"),
        ] {
            assert_eq!(rate_text(per_s), text);
        }
    }

    #[test]
    fn latencies_have_human_units() {
        for (us, text) in [
            (0.0, "0 ns"),
            (0.25, "250 ns"),
            (45.0, "45 us"),
            (45.67, "45.7 us"),
            (1_200.0, "1.2 ms"),
            (99_960.0, "100 ms"),
            (2_000_000.0, "2 s"),
            (1e10, "10000 s"),
        ] {
            assert_eq!(latency_text(us), text);
        }
    }

    #[test]
    fn the_line_says_where_the_run_is() {
        let seconds = Duration::from_secs;
        assert_eq!(
            line(
                seconds(12),
                seconds(60),
                1_234_567.0,
                1_230_000.0,
                Some(45.0),
                Some(1_200.0)
            ),
            "12 of 60 s  published 1.23 M/s  delivered 1.23 M/s  p50 45 us  p99 1.2 ms"
        );
        assert!(line(seconds(0), seconds(1), 0.0, 0.0, None, None).ends_with("p50 -  p99 -"));
    }

    #[test]
    fn the_line_fits_in_100_columns() {
        let day = Duration::from_secs(86_400);
        let longest = line(day, day, 12.34e6, 12.34e6, Some(123_456.7), Some(123_456.7));
        assert!(longest.len() <= 100, "{longest}");
        let usual = line(
            day / 24,
            day / 24,
            12.34e6,
            12.34e6,
            Some(12.34),
            Some(12.34e3),
        );
        assert!(usual.len() <= 80, "{usual}");
    }

    #[test]
    fn the_line_is_painted_at_most_twice_a_second() {
        let now = Instant::now();
        assert!(is_due(None, now));
        assert!(!is_due(
            Some(now),
            now + PAINT_EVERY - Duration::from_nanos(1)
        ));
        assert!(is_due(Some(now), now + PAINT_EVERY));
    }
}
