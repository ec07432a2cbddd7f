//! The percentile text of HdrHistogram, as its plotter and the users of wrk2 read it.

use std::io;

use hdrhistogram::Histogram;

/// Rows between a percentile and the one halfway from there to 100 %: what every HdrHistogram tool writes.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

const NS_PER_MS: f64 = 1e6;

/// Writes the distribution in milliseconds.
///
/// Text form: a heading, an empty line, then rows `value percentile(0..1) total-count 1/(1-percentile)` apart by spaces,
/// then three lines in `#[...]`. Values have six decimals where the original has three: at microseconds, three would
/// leave one or two digits of them. The last row's inverse is `inf`, which plotters skip.
///
/// - `histogram`: of nanoseconds.
/// - `out`: gets many small writes, so it should be buffered.
pub fn write_hgrm(histogram: &Histogram<u64>, out: &mut impl io::Write) -> io::Result<()> {
    let ms = |ns: f64| ns / NS_PER_MS;
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut total_count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total_count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        writeln!(
            out,
            "{:>12.6} {:>2.12} {:>10} {:>14.2}",
            ms(step.value_iterated_to() as f64),
            quantile,
            total_count,
            1.0 / (1.0 - quantile)
        )?;
    }
    writeln!(
        out,
        "#[Mean    = {:>12.6}, StdDeviation   = {:>12.6}]",
        ms(histogram.mean()),
        ms(histogram.stdev())
    )?;
    writeln!(
        out,
        "#[Max     = {:>12.6}, Total count    = {:>12}]",
        ms(histogram.max() as f64),
        histogram.len()
    )?;
    // A bucket counts to twice the precision asked for, in a power of two.
    let sub_buckets = (2 * 10_u64.pow(u32::from(histogram.sigfig()))).next_power_of_two();
    writeln!(
        out,
        "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        histogram.buckets(),
        sub_buckets
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(values_ns: impl IntoIterator<Item = u64>) -> String {
        let mut histogram = Histogram::new(3).unwrap();
        for value in values_ns {
            histogram.record(value).unwrap();
        }
        let mut text = Vec::new();
        write_hgrm(&histogram, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// As the published plotter reads it: four fields, no leading `#`, a number first and last.
    fn plotted(text: &str) -> Vec<[f64; 4]> {
        text.lines()
            .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields.len() == 4 && !fields[0].starts_with('#'))
            .filter_map(|fields| {
                let mut row = [0.0; 4];
                for (number, field) in row.iter_mut().zip(fields) {
                    *number = field.parse().ok()?;
                }
                Some(row)
            })
            .collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let rows = plotted(&text_of((1..=10_000).map(|us| us * 1_000)));
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        assert_eq!(first[1], 0.0);
        assert_eq!(first[3], 1.0);
        assert!((last[0] - 10.0).abs() < 0.01);
        assert_eq!(last[1..], [1.0, 10_000.0, f64::INFINITY]);
        for pair in rows.windows(2) {
            assert!((0..3).all(|column| pair[0][column] <= pair[1][column]));
        }
        for [value, quantile, total_count, inverse] in &rows[..rows.len() - 1] {
            assert!((value - quantile * 10.0).abs() < 0.02, "{value} {quantile}");
            assert!(*total_count >= quantile * 10_000.0);
            assert!((inverse * (1.0 - quantile) - 1.0).abs() < 0.01);
        }
        // Five a halving, and the last bucket holds less than 1/512 of the samples.
        assert!(rows.len() > 5 * 9);
    }

    #[test]
    fn the_heading_and_the_footer_are_those_of_the_original() {
        let text = text_of([2_000_000, 4_000_000]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "       Value     Percentile TotalCount 1/(1-Percentile)"
        );
        assert_eq!(lines[1], "");
        let footer = &lines[lines.len() - 3..];
        assert!(footer[0].starts_with("#[Mean    =     3.00"));
        assert!(footer[0].contains(", StdDeviation   =     1.0"));
        assert!(footer[1].starts_with("#[Max     =     4.00"));
        assert!(footer[1].ends_with(", Total count    =            2]"));
        assert!(footer[2].starts_with("#[Buckets = "));
        assert!(footer[2].ends_with(", SubBuckets     =         2048]"));
    }

    #[test]
    fn an_empty_histogram_has_no_rows() {
        let text = text_of([]);
        assert!(plotted(&text).is_empty());
        assert_eq!(text.lines().count(), 5);
    }

    #[test]
    fn an_output_that_is_full_is_an_error() {
        let histogram = Histogram::new(3).unwrap();
        let mut room = [0_u8; 16];
        assert!(write_hgrm(&histogram, &mut room.as_mut_slice()).is_err());
    }
}
