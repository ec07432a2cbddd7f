//! Where, with which build and when something was measured.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

const SECONDS_PER_DAY: u64 = 86_400;

/// What cannot be read is "unknown", or 0: a run is worth its record without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Logical processors that are online.
    pub cores: usize,
    /// The model of the first.
    pub cpu: String,
    pub memory_bytes: u64,
    pub kernel: String,
}

impl Machine {
    pub fn of_this_host() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::of(
            &read("/proc/cpuinfo"),
            &read("/proc/meminfo"),
            &read("/proc/sys/kernel/osrelease"),
        )
    }

    fn of(cpuinfo: &str, meminfo: &str, osrelease: &str) -> Self {
        let fields = |text, key| field_values(text, key);
        let memory_kib: Option<u64> = fields(meminfo, "MemTotal")
            .next()
            .and_then(|value| value.strip_suffix("kB")?.trim().parse().ok());
        Self {
            cores: fields(cpuinfo, "processor").count(),
            cpu: known(fields(cpuinfo, "model name").next().unwrap_or_default()),
            memory_bytes: memory_kib.unwrap_or(0).saturating_mul(1_024),
            kernel: known(osrelease.trim()),
        }
    }
}

fn known(text: &str) -> String {
    if text.is_empty() { "unknown" } else { text }.to_owned()
}

/// Of lines `key : value`.
fn field_values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then(|| value.trim())
    })
}

/// Of the build: twelve hex digits, with "-dirty" if tracked files differed from it; "unknown" without git.
pub fn commit() -> &'static str {
    env!("SLIM_LOADGEN_COMMIT")
}

/// RFC 3339, whole seconds, UTC: `2026-03-01T12:34:56Z`.
pub fn utc_now() -> String {
    // A clock before 1970 is not set at all; then it shows as its start.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    utc_text(since.unwrap_or_default().as_secs())
}

fn utc_text(unix_s: u64) -> String {
    let (year, month, day) = civil_date(unix_s / SECONDS_PER_DAY);
    let second = unix_s % SECONDS_PER_DAY;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Years are taken to begin in March: then the leap day is the last, and the lengths of months repeat every five.
fn civil_date(unix_day: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    // From 0000-03-01, the first day of a 400-year era.
    let day = unix_day + 719_468;
    let (era, day) = (day / DAYS_PER_ERA, day % DAYS_PER_ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_read_from_the_text_of_proc() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A CPU @ 2.0 GHz\nflags\t: a b\n\n\
                       processor\t: 1\nmodel name\t: A CPU @ 2.0 GHz\n";
        let machine = Machine::of(cpuinfo, "MemTotal:       16 kB\nMemFree: 1 kB\n", "6.1.0\n");
        assert_eq!(machine.cores, 2);
        assert_eq!(machine.cpu, "A CPU @ 2.0 GHz");
        assert_eq!(machine.memory_bytes, 16_384);
        assert_eq!(machine.kernel, "6.1.0");
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let machine = Machine::of("", "MemTotal: many kB\n", "");
        assert_eq!((machine.cores, machine.memory_bytes), (0, 0));
        assert_eq!((&*machine.cpu, &*machine.kernel), ("unknown", "unknown"));
    }

    #[test]
    fn this_host_has_a_kernel_and_memory() {
        let machine = Machine::of_this_host();
        assert!(machine.cores >= 1);
        assert!(machine.memory_bytes > 1 << 20);
        assert_ne!(machine.kernel, "unknown");
    }

    #[test]
    fn instants_are_written_as_rfc_3339() {
        for (unix_s, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (86_399, "1970-01-01T23:59:59Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_234_567_890, "2009-02-13T23:31:30Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_735_689_600, "2025-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc_text(unix_s), text);
        }
    }

    #[test]
    fn every_day_of_800_years_follows_the_one_before() {
        let is_leap = |year| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let mut date = (1970, 1, 1);
        for unix_day in 0..292_194 {
            assert_eq!(civil_date(unix_day), date);
            let (year, month, day) = date;
            let days = match month {
                2 if is_leap(year) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            date = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, day) if day == days => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }

    #[test]
    fn the_commit_is_short_hex_or_unknown() {
        let hex = commit().strip_suffix("-dirty").unwrap_or(commit());
        assert!(
            hex == "unknown"
                || (hex.len() >= 12 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
        );
    }
}
