//! Durations as people write them: `500ms`, `10s`, `1m30s`.

use std::time::Duration;

/// Longest duration that a setting may have. Far beyond any use, and small enough that adding it to a clock reading
/// never overflows.
pub const DURATION_DAYS_MAX: u64 = 365;
const DURATION_MAX: Duration = Duration::from_secs(DURATION_DAYS_MAX * 86_400);

/// Nanoseconds in each unit, largest first: the order in which the parts of a duration are written.
const UNITS: [(&str, u64); 7] = [
    ("w", 604_800_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

/// Why a text is not a duration. The setting is refused; nothing is guessed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DurationError {
    #[error("is not a duration; write whole numbers with units, such as `500ms`, `10s` or `1m30s`")]
    Malformed,
    #[error("has no unit; write it as, for example, `{number}s` or `{number}ms`")]
    NoUnit { number: u64 },
    #[error("has the unit `{unit}`; accepted are w, d, h, m, s, ms and us")]
    UnknownUnit { unit: String },
    #[error("has its parts out of order; write each unit once, the largest first, as in `1m30s`")]
    OutOfOrder,
    #[error("is longer than {DURATION_DAYS_MAX} days")]
    TooLong,
}

/// Reads a duration: one or more of `<whole number><unit>`, each unit at most once and the largest first. Spaces
/// may stand between the parts.
///
/// - Errors: [`DurationError`], worded to follow the text it is about.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Malformed);
    }
    let mut total = Duration::ZERO;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let (digits, after) = split_while(rest, |c| c.is_ascii_digit());
        if digits.is_empty() {
            return Err(DurationError::Malformed);
        }
        let number: u64 = digits.parse().map_err(|_| DurationError::TooLong)?;
        let (unit, after) = split_while(after, char::is_alphabetic);
        if unit.is_empty() {
            return Err(if after.is_empty() {
                DurationError::NoUnit { number }
            } else {
                DurationError::Malformed
            });
        }
        if !UNITS.iter().any(|(name, _)| *name == unit) {
            return Err(DurationError::UnknownUnit {
                unit: unit.to_owned(),
            });
        }
        // `find` moves on, so a unit that was already passed is not found again.
        let (_, nanoseconds) = units
            .find(|(name, _)| *name == unit)
            .ok_or(DurationError::OutOfOrder)?;
        let part = number
            .checked_mul(*nanoseconds)
            .map(Duration::from_nanos)
            .ok_or(DurationError::TooLong)?;
        total = total
            .checked_add(part)
            .filter(|sum| *sum <= DURATION_MAX)
            .ok_or(DurationError::TooLong)?;
        rest = after.trim_start();
    }
    Ok(total)
}

fn split_while(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !wanted(c)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_sums_of_their_parts() {
        let cases = [
            ("500ms", 500_000),
            ("10s", 10_000_000),
            ("1m30s", 90_000_000),
            ("1m 30s", 90_000_000),
            ("0s", 0),
            ("2h", 7_200_000_000),
            ("1d1us", 86_400_000_001),
            ("1w", 604_800_000_000),
            ("365d", 31_536_000_000_000),
        ];
        for (text, microseconds) in cases {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_micros(microseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_duration_that_is_not_one_is_refused_with_its_reason() {
        assert_eq!(parse_duration(""), Err(DurationError::Malformed));
        assert_eq!(parse_duration("soon"), Err(DurationError::Malformed));
        assert_eq!(parse_duration("-1s"), Err(DurationError::Malformed));
        assert_eq!(parse_duration("1.5s"), Err(DurationError::Malformed));
        assert_eq!(
            parse_duration("10"),
            Err(DurationError::NoUnit { number: 10 })
        );
        assert_eq!(
            parse_duration("1m30"),
            Err(DurationError::NoUnit { number: 30 })
        );
        assert_eq!(parse_duration("10 s"), Err(DurationError::Malformed));
        assert_eq!(
            parse_duration("10sec"),
            Err(DurationError::UnknownUnit { unit: "sec".into() })
        );
        assert_eq!(parse_duration("1s1m"), Err(DurationError::OutOfOrder));
        assert_eq!(parse_duration("1s1s"), Err(DurationError::OutOfOrder));
        assert_eq!(parse_duration("365d1us"), Err(DurationError::TooLong));
        assert_eq!(
            parse_duration("99999999999999999999s"),
            Err(DurationError::TooLong)
        );
        assert_eq!(
            parse_duration("18446744073709551615w"),
            Err(DurationError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn whatever_is_written_never_panics(text in "\\PC*") {
            let _outcome = parse_duration(&text);
        }

        #[test]
        fn every_whole_second_is_read_back(minutes in 0u64..1_000, seconds in 0u64..1_000) {
            let read = parse_duration(&format!("{minutes}m{seconds}s"));
            prop_assert_eq!(read, Ok(Duration::from_secs(minutes * 60 + seconds)));
        }
    }
}
