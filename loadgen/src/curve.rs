//! A latency histogram as a record: summary values, and the curve by percentile.
//!
//! Owns the choice of quantiles. Histograms hold nanoseconds; records hold microseconds with three decimals, which
//! loses nothing.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Halvings of the tail above the 90th percentile: the last of them leaves out 6 samples in a million.
const TAIL_HALVINGS: u32 = 14;

/// Points of one curve: ten of the body, two for each halving of the tail, the maximum.
pub const CURVE_POINTS_MAX: usize = 10 + 2 * TAIL_HALVINGS as usize + 1;

/// Latencies of one kind, in microseconds. All zero, without percentiles, if there were no samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyRecord {
    pub samples: u64,
    pub min_us: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub max_us: f64,
    /// `(quantile 0..=1, value in microseconds)`, both ascending, at most [`CURVE_POINTS_MAX`]; the last is `(1, max)`.
    pub percentiles: Vec<(f64, f64)>,
}

impl LatencyRecord {
    /// - `histogram`: of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| us(histogram.value_at_quantile(quantile) as f64);
        Self {
            samples: histogram.len(),
            min_us: at(0.0),
            mean_us: us(histogram.mean()),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: at(1.0),
            percentiles: quantiles(histogram.len())
                .map(|quantile| (quantile, at(quantile)))
                .collect(),
        }
    }
}

fn us(ns: f64) -> f64 {
    ns.round() / 1e3
}

/// The quantiles that so many samples support: beyond each of the tail there is at least one of them.
fn quantiles(samples: u64) -> impl Iterator<Item = f64> {
    let body = (0..10).map(|tenth| f64::from(tenth) / 10.0);
    let tail = (1..=TAIL_HALVINGS)
        .flat_map(|halving| {
            // What the halving leaves, and the point halfway to there.
            let rest = 0.1 / f64::from(1_u32 << halving);
            [rest * 1.5, rest]
        })
        .take_while(move |rest| rest * samples as f64 >= 1.0)
        // Nine decimals tell them all apart and keep records short.
        .map(|rest| ((1.0 - rest) * 1e9).round() / 1e9);
    body.chain(tail).chain([1.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram_of(values_ns: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        for value in values_ns {
            histogram.record(value).unwrap();
        }
        histogram
    }

    #[test]
    fn an_empty_histogram_is_all_zero() {
        let record = LatencyRecord::of(&histogram_of([]));
        assert_eq!(record, LatencyRecord::default());
        assert!(record.percentiles.is_empty());
    }

    #[test]
    fn a_single_sample_is_every_value() {
        let record = LatencyRecord::of(&histogram_of([1_234]));
        assert_eq!(record.samples, 1);
        for value in [record.min_us, record.p50_us, record.p99_9_us, record.max_us] {
            assert_eq!(value, 1.234);
        }
        assert_eq!(record.percentiles.len(), 11);
        assert_eq!(record.percentiles.last(), Some(&(1.0, 1.234)));
    }

    #[test]
    fn values_are_microseconds_within_the_precision_of_the_histogram() {
        let record = LatencyRecord::of(&histogram_of((1..=10_000).map(|us| us * 1_000)));
        let close = |value: f64, expected: f64| (value - expected).abs() <= expected * 0.001 + 1.0;
        assert!(close(record.mean_us, 5_000.5));
        assert!(close(record.p50_us, 5_000.0));
        assert!(close(record.p90_us, 9_000.0));
        assert!(close(record.p99_us, 9_900.0));
        assert!(close(record.p99_9_us, 9_990.0));
        assert!(close(record.max_us, 10_000.0));
        assert!(close(record.min_us, 1.0));
        for (quantile, value) in record.percentiles {
            assert!(close(value, quantile * 10_000.0), "{quantile}: {value}");
        }
    }

    #[test]
    fn the_curve_rises_in_bounded_steps_to_the_maximum() {
        for samples in [1, 2, 10, 19, 20, 1_000, 1_000_000, u64::MAX] {
            let points: Vec<f64> = quantiles(samples).collect();
            assert!(points.len() <= CURVE_POINTS_MAX, "{samples}");
            assert!(points.windows(2).all(|pair| pair[0] < pair[1]), "{samples}");
            assert_eq!(points[0], 0.0);
            assert_eq!(points.last(), Some(&1.0));
        }
        assert_eq!(quantiles(u64::MAX).count(), CURVE_POINTS_MAX);
    }

    #[test]
    fn the_tail_ends_where_no_sample_is_left_beyond_it() {
        let last = |samples| quantiles(samples).filter(|&q| q < 1.0).last().unwrap();
        assert_eq!(last(10), 0.9);
        assert_eq!(last(20), 0.95);
        assert!((1.0 - last(1_000)) * 1_000.0 >= 1.0);
        assert!((1.0 - last(1_000)) * 1_000.0 < 2.0);
    }

    #[test]
    fn a_record_survives_json() {
        let record = LatencyRecord::of(&histogram_of((0..5_000).map(|n| n * n)));
        let json = serde_json::to_string(&record).unwrap();
        assert!(json.contains("\"percentiles\":[[0.0,"));
        assert_eq!(
            serde_json::from_str::<LatencyRecord>(&json).unwrap(),
            record
        );
    }
}
