//! The same workload against several targets in turn, round by round: what one machine is worth right now changes from minute
//! to minute, and what two targets cost relative to each other does not.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::report::{Report, SCHEMA};
use crate::run::RunError;

/// All runs of a comparison, in the order in which they ran.
#[derive(Debug, Serialize)]
pub struct Comparison {
    pub schema: u32,
    pub command: String,
    pub rounds: usize,
    /// Why it ended early. Rounds that were not finished are not compared.
    pub cut_short: Option<String>,
    /// Names, in the order in which they were given. Ratios are to the first.
    pub targets: Vec<String>,
    pub runs: Vec<Run>,
}

#[derive(Debug, Serialize)]
pub struct Run {
    pub target: usize,
    pub round: usize,
    pub record: Report,
}

/// Runs every target once a round. Which of them is first changes from round to round.
///
/// - `measure`: runs target `index` once.
/// - Errors: only if the first run fails; later failures cut the comparison short.
pub fn compare(
    command: String,
    targets: Vec<String>,
    rounds: usize,
    interrupted: &AtomicBool,
    mut measure: impl FnMut(usize) -> Result<Report, RunError>,
) -> Result<Comparison, RunError> {
    let mut comparison = Comparison {
        schema: SCHEMA,
        command,
        rounds,
        cut_short: None,
        targets,
        runs: Vec::new(),
    };
    let count = comparison.targets.len();
    for round in 0..rounds {
        for place in 0..count {
            let target = (round + place) % count;
            let record = match measure(target) {
                Ok(record) => record,
                Err(error) if comparison.runs.is_empty() => return Err(error),
                Err(error) => {
                    let name = &comparison.targets[target];
                    comparison.cut_short = Some(format!("{name}, round {}: {error}", round + 1));
                    return Ok(comparison);
                }
            };
            let why = record.cut_short.clone();
            comparison.runs.push(Run {
                target,
                round,
                record,
            });
            if why.is_some() || interrupted.load(Ordering::Relaxed) {
                comparison.cut_short = why.or_else(|| Some("interrupted".to_owned()));
                return Ok(comparison);
            }
        }
    }
    Ok(comparison)
}

/// Least, median and greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let upper = values.len() / 2;
        let lower = (values.len() - 1) / 2;
        Some(Self {
            least,
            median: (values[lower] + values[upper]) / 2.0,
            most,
        })
    }
}

impl Comparison {
    /// A figure of each target's runs, by round; rounds in which it is missing for any target are left out.
    fn figures(&self, figure: impl Fn(&Report) -> Option<f64>) -> Vec<Vec<f64>> {
        let mut figures = vec![Vec::new(); self.targets.len()];
        for round in 0..self.rounds {
            let of_round: Option<Vec<f64>> = (0..self.targets.len())
                .map(|target| {
                    let run = self
                        .runs
                        .iter()
                        .find(|run| run.round == round && run.target == target);
                    run.and_then(|run| figure(&run.record))
                })
                .collect();
            for (target, value) in of_round.into_iter().flatten().enumerate() {
                figures[target].push(value);
            }
        }
        figures
    }

    fn write_figure(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        digits: usize,
        figure: impl Fn(&Report) -> Option<f64>,
    ) -> fmt::Result {
        let figures = self.figures(figure);
        if figures.iter().all(Vec::is_empty) {
            return Ok(());
        }
        writeln!(f, "  {title}")?;
        for (index, name) in self.targets.iter().enumerate() {
            let Some(spread) = Spread::of(figures[index].clone()) else {
                continue;
            };
            write!(
                f,
                "    {name:<18} {:.digits$} ({:.digits$} to {:.digits$})",
                spread.median, spread.least, spread.most
            )?;
            // Within each round, so that what changes from round to round falls out.
            let ratios = figures[index].iter().zip(&figures[0]);
            let ratios = ratios.filter(|(_, first)| **first > 0.0);
            let ratios = Spread::of(ratios.map(|(value, first)| value / first).collect());
            if let Some(ratio) = ratios.filter(|_| index > 0) {
                let first = &self.targets[0];
                write!(
                    f,
                    ", {:.2} ({:.2} to {:.2}) times that of {first}",
                    ratio.median, ratio.least, ratio.most
                )?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(run) = self.runs.first() {
            writeln!(
                f,
                "{}, {} round(s); median (least to most)",
                run.record.workload, self.rounds
            )?;
        }
        if let Some(why) = &self.cut_short {
            writeln!(f, "  PARTIAL RESULT       {why}")?;
        }
        let server = |report: &Report| report.server.as_ref()?.cpu_us_per_delivered;
        let own = |report: &Report| report.loadgen.cpu_us_per_delivered;
        let memory = |report: &Report| {
            let bytes = report.server.as_ref()?.resident_bytes_per_connection?;
            Some(bytes / 1_024.0)
        };
        self.write_figure(f, "server CPU, us per routed message", 3, server)?;
        self.write_figure(f, "loadgen CPU, us per routed message", 3, own)?;
        self.write_figure(f, "routed messages per second", 0, |report| {
            Some(report.traffic.as_ref()?.delivered_per_s)
        })?;
        self.write_figure(f, "latency p50, us", 0, |report| {
            Some(report.traffic.as_ref()?.latency.p50_us)
        })?;
        self.write_figure(f, "latency p99, us", 0, |report| {
            Some(report.traffic.as_ref()?.latency.p99_us)
        })?;
        self.write_figure(f, "server memory, KiB per connection", 2, memory)?;
        for (index, name) in self.targets.iter().enumerate() {
            let of_target = self.runs.iter().filter(|run| run.target == index);
            let faulty = of_target.filter(|run| run.record.faults.any()).count();
            if faulty > 0 {
                writeln!(
                    f,
                    "  FAULTS               {name}: in {faulty} run(s); --json has them"
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_between_the_two_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        let expected = |least, median, most| {
            Some(Spread {
                least,
                median,
                most,
            })
        };
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0]), expected(3.0, 3.0, 3.0));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), expected(1.0, 2.0, 9.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]), expected(1.0, 3.0, 9.0));
    }
}
