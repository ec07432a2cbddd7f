//! Climbs from rate to rate until latency or delivery breaks, then closes in on where: the knee.
//!
//! A rate breaks only if it breaks in several tries that nothing else disturbed. Something else that runs on the machine for 50 ms
//! makes 5 % of a second's messages late, and near the knee a backlog of 50 ms takes many times as long to go: single tries gave
//! one server knees from 76,000 to 455,000 per second, and on a machine with a load of four from 20,000 on, with its core 15 %
//! busy. Disturbance can break a rate that a server holds, and cannot do the opposite.

use std::fmt;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::plan::{Plan, PlanError};
use crate::report::Report;
use crate::run::{RunError, run};

/// From one rate to the next, as long as none broke.
const CLIMB: u64 = 2;
/// How far the least rate that broke may be above the highest that held, at the end.
const RESOLUTION: f64 = 1.06;
/// From 1 message per second it takes 30 climbs to a billion, and 5 steps to close in.
const STEPS_MAX: usize = 100;
/// Undisturbed runs that a rate has to hold in.
const TRIES: u32 = 3;
/// Runs in all.
const TRIES_MAX: u32 = 8;
/// A run is disturbed when other work took this part of a core or more.
const DISTURBED_CORES: f64 = 0.15;
/// A step holds if this part of its rate arrived while it was measured.
const DELIVERED: f64 = 0.99;

#[derive(Debug, Clone, Serialize)]
pub struct Sweep {
    /// A step with a higher 99th percentile does not hold.
    pub p99_us_max: f64,
    pub steps: Vec<Step>,
    /// The highest rate that held, in messages per second; `None` if not even the first did.
    pub knee_per_s: Option<u64>,
    /// The load generator broke first: the server's own knee is there or higher.
    pub is_loadgen_limit: bool,
    /// Other work disturbed every try above the knee: the server's own is there or higher.
    pub is_disturbed: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub rate_per_s: u64,
    pub delivered_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub server_cores_used: Option<f64>,
    pub held: bool,
    /// Why it did not hold, in the last of its tries.
    pub why: Option<String>,
    /// Runs that it took. The figures are of the last.
    pub tries: u32,
    /// It did not hold because the load generator itself was late, or could not make more.
    pub is_loadgen_limit: bool,
    pub others_cores_used: Option<f64>,
    /// It did not hold, and other work disturbed every try.
    pub is_disturbed: bool,
}

/// Which rates have been shown to hold and to break.
struct Search {
    first_per_s: u64,
    held_per_s: Option<u64>,
    broken_per_s: Option<u64>,
}

impl Search {
    /// The next rate to try; `None` when the knee is found.
    fn next(&self) -> Option<u64> {
        match (self.held_per_s, self.broken_per_s) {
            (None, None) => Some(self.first_per_s),
            (None, Some(_)) => None,
            (Some(held), None) => held.checked_mul(CLIMB),
            (Some(held), Some(broken)) => {
                let is_close = broken as f64 <= held as f64 * RESOLUTION;
                let between = (held as f64 * broken as f64).sqrt().round() as u64;
                (!is_close && held < between && between < broken).then_some(between)
            }
        }
    }

    fn note(&mut self, step: &Step) {
        if step.held {
            self.held_per_s = Some(step.rate_per_s);
        } else {
            self.broken_per_s = Some(step.rate_per_s);
        }
    }
}

/// Runs `plan_of` one rate after the other, from `first_per_s` on.
///
/// - Returns the record of the highest step that held, or else of the first, with all steps in it. Marked as cut short
///   when the last step was.
pub fn sweep(
    first_per_s: u64,
    p99_us_max: f64,
    plan_of: impl Fn(u64) -> Result<Plan, PlanError>,
    interrupted: &AtomicBool,
    mut on_step: impl FnMut(&Step),
) -> Result<Report, RunError> {
    let mut steps = Vec::new();
    let mut best: Option<Report> = None;
    let mut search = Search {
        first_per_s,
        held_per_s: None,
        broken_per_s: None,
    };
    while let Some(rate_per_s) = search.next().filter(|_| steps.len() < STEPS_MAX) {
        let (mut tries, mut undisturbed) = (0, 0);
        let (step, report) = loop {
            tries += 1;
            let report = match plan_of(rate_per_s)
                .map_err(RunError::from)
                .and_then(|plan| run(&plan, interrupted))
            {
                Ok(report) => report,
                // Later steps may end what earlier ones have shown, but not undo it.
                Err(error) => match best {
                    Some(mut best) => {
                        best.cut_short = Some(error.to_string());
                        return Ok(with_steps(best, steps, p99_us_max));
                    }
                    None => return Err(error),
                },
            };
            let mut step = judge(rate_per_s, &report, p99_us_max, tries);
            undisturbed += u32::from(!step.is_disturbed);
            let is_over = undisturbed == TRIES || tries == TRIES_MAX;
            if step.held || is_over || report.cut_short.is_some() {
                step.is_disturbed = !step.held && undisturbed == 0;
                break (step, report);
            }
        };
        on_step(&step);
        search.note(&step);
        let cut_short = report.cut_short.clone();
        if step.held || best.is_none() {
            best = Some(report);
        }
        steps.push(step);
        if let (Some(why), Some(best)) = (cut_short, &mut best) {
            best.cut_short = Some(why);
            break;
        }
    }
    best.map(|best| with_steps(best, steps, p99_us_max))
        .ok_or(RunError::Interrupted)
}

fn with_steps(mut report: Report, steps: Vec<Step>, p99_us_max: f64) -> Report {
    let held = steps.iter().filter(|step| step.held);
    let broken = steps.iter().filter(|step| !step.held);
    let least_broken = broken.min_by_key(|step| step.rate_per_s);
    report.sweep = Some(Sweep {
        p99_us_max,
        knee_per_s: held.map(|step| step.rate_per_s).max(),
        is_loadgen_limit: least_broken.is_some_and(|step| step.is_loadgen_limit),
        is_disturbed: least_broken.is_some_and(|step| step.is_disturbed),
        steps,
    });
    report
}

fn judge(rate_per_s: u64, report: &Report, p99_us_max: f64, tries: u32) -> Step {
    let traffic = report.traffic.as_ref();
    let delivered_per_s = traffic.map_or(0.0, |traffic| traffic.delivered_per_s);
    let p99_us = traffic.map_or(0.0, |traffic| traffic.latency.p99_us);
    let rate = traffic.and_then(|traffic| traffic.rate.as_ref());
    let slip_us = rate.map_or(0.0, |rate| rate.slip.p99_us);
    // Late by itself, or with nothing left of what a step may take.
    let is_loadgen_limit =
        slip_us > p99_us_max || rate.is_some_and(|rate| rate.unsent == 0 && !rate.is_reached());
    let why = if let Some(why) = &report.cut_short {
        Some(why.clone())
    } else if report.faults.any() {
        Some("messages were lost, duplicated, reordered or damaged".to_owned())
    } else if rate.is_some_and(|rate| rate.unsent == 0 && !rate.is_reached()) {
        Some("the load generator could not make more".to_owned())
    } else if delivered_per_s < DELIVERED * rate_per_s as f64 {
        Some(format!("{delivered_per_s:.0}/s arrived"))
    } else if p99_us > p99_us_max {
        Some(if slip_us > p99_us_max {
            format!(
                "p99 was {p99_us:.0} us, but the load generator itself was {slip_us:.0} us late"
            )
        } else {
            format!("p99 was {p99_us:.0} us")
        })
    } else {
        None
    };
    Step {
        rate_per_s,
        delivered_per_s,
        p50_us: traffic.map_or(0.0, |traffic| traffic.latency.p50_us),
        p99_us,
        server_cores_used: report.server.as_ref().and_then(|server| server.cores_used),
        held: why.is_none(),
        is_loadgen_limit: why.is_some() && is_loadgen_limit,
        why,
        tries,
        others_cores_used: report.others_cores_used,
        is_disturbed: report
            .others_cores_used
            .is_some_and(|cores| cores >= DISTURBED_CORES),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "  {:>9}/s  {:>9.0}/s arrived  p50 {:>8.0} us  p99 {:>8.0} us",
            self.rate_per_s, self.delivered_per_s, self.p50_us, self.p99_us
        )?;
        if let Some(cores) = self.server_cores_used {
            write!(f, "  server {:>4.0} %", cores * 100.0)?;
        }
        match &self.why {
            Some(why) => write!(f, "  broke: {why}")?,
            None => f.write_str("  held")?,
        }
        match (self.tries, self.others_cores_used) {
            (1, _) => Ok(()),
            (tries, Some(cores)) => {
                write!(f, "  (try {tries}, all else {:.0} %)", cores * 100.0)
            }
            (tries, None) => write!(f, "  (try {tries})"),
        }
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        let limit_ms = self.p99_us_max / 1e3;
        match self.knee_per_s {
            Some(knee) => writeln!(
                f,
                "  knee                 {knee}/s with p99 up to {limit_ms} ms{}",
                if self.is_disturbed {
                    ", or more: other work disturbed every try above it"
                } else if self.is_loadgen_limit {
                    ", or more: the load generator broke first"
                } else {
                    ""
                }
            ),
            None => writeln!(
                f,
                "  knee                 below the first rate, with p99 up to {limit_ms} ms"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is tried where rates up to `holds_per_s` hold.
    fn tried(first_per_s: u64, holds_per_s: u64) -> (Vec<u64>, Option<u64>) {
        let mut search = Search {
            first_per_s,
            held_per_s: None,
            broken_per_s: None,
        };
        let mut tried = Vec::new();
        while let Some(rate_per_s) = search.next() {
            tried.push(rate_per_s);
            search.note(&Step {
                rate_per_s,
                delivered_per_s: 0.0,
                p50_us: 0.0,
                p99_us: 0.0,
                server_cores_used: None,
                held: rate_per_s <= holds_per_s,
                why: None,
                tries: 1,
                is_loadgen_limit: false,
                others_cores_used: None,
                is_disturbed: false,
            });
        }
        (tried, search.held_per_s)
    }

    #[test]
    fn a_search_doubles_until_it_breaks_and_then_closes_in() {
        let (rates, knee) = tried(20_000, 200_000);
        assert_eq!(rates[..5], [20_000, 40_000, 80_000, 160_000, 320_000]);
        assert!(rates.len() <= 9, "{rates:?}");
        let knee = knee.unwrap();
        assert!(knee <= 200_000 && knee as f64 * RESOLUTION >= 200_000.0);
    }

    #[test]
    fn a_search_ends_wherever_the_knee_is() {
        assert_eq!(tried(20_000, 10), (vec![20_000], None));
        for holds_per_s in [1, 2, 3, 7, 1_000, 999_983, 800_000_000] {
            let (rates, knee) = tried(1, holds_per_s);
            assert!(rates.len() < 40);
            assert!(knee.unwrap() as f64 * RESOLUTION >= holds_per_s.min(9) as f64);
        }
    }
}
