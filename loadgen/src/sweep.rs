//! Climbs from rate to rate until latency or delivery breaks, and says where: the knee.

use std::fmt;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::plan::{Plan, PlanError};
use crate::report::Report;
use crate::run::{RunError, run};

/// From one rate to the next.
const STEP: f64 = 1.25;
/// From 1 message per second it takes 62 steps to a million.
const STEPS_MAX: usize = 100;
/// A step holds if this part of its rate arrived while it was measured.
const DELIVERED: f64 = 0.99;

#[derive(Debug, Clone, Serialize)]
pub struct Sweep {
    /// A step with a higher 99th percentile does not hold.
    pub p99_us_max: f64,
    pub steps: Vec<Step>,
    /// The highest rate that held, in messages per second; `None` if not even the first did.
    pub knee_per_s: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub rate_per_s: u64,
    pub delivered_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub server_cores_used: Option<f64>,
    pub held: bool,
    /// Why it did not hold.
    pub why: Option<String>,
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
    let mut rate_per_s = first_per_s;
    for _ in 0..STEPS_MAX {
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
        let step = judge(rate_per_s, &report, p99_us_max);
        on_step(&step);
        let held = step.held;
        let cut_short = report.cut_short.clone();
        steps.push(step);
        if held || best.is_none() {
            best = Some(report);
        }
        if !held {
            if let Some(best) = &mut best {
                best.cut_short = cut_short;
            }
            break;
        }
        rate_per_s = (rate_per_s as f64 * STEP).ceil() as u64;
    }
    best.map(|best| with_steps(best, steps, p99_us_max))
        .ok_or(RunError::Interrupted)
}

fn with_steps(mut report: Report, steps: Vec<Step>, p99_us_max: f64) -> Report {
    let held = steps.iter().filter(|step| step.held);
    report.sweep = Some(Sweep {
        p99_us_max,
        knee_per_s: held.map(|step| step.rate_per_s).max(),
        steps,
    });
    report
}

fn judge(rate_per_s: u64, report: &Report, p99_us_max: f64) -> Step {
    let traffic = report.traffic.as_ref();
    let delivered_per_s = traffic.map_or(0.0, |traffic| traffic.delivered_per_s);
    let p99_us = traffic.map_or(0.0, |traffic| traffic.latency.p99_us);
    let rate = traffic.and_then(|traffic| traffic.rate.as_ref());
    let why = if let Some(why) = &report.cut_short {
        Some(why.clone())
    } else if report.faults.any() {
        Some("messages were lost, duplicated, reordered or damaged".to_owned())
    } else if rate.is_some_and(|rate| rate.unsent == 0 && !rate.is_reached()) {
        Some("the load generator could not make more".to_owned())
    } else if delivered_per_s < DELIVERED * rate_per_s as f64 {
        Some(format!("{delivered_per_s:.0}/s arrived"))
    } else if p99_us > p99_us_max {
        let slip_us = rate.map_or(0.0, |rate| rate.slip.p99_us);
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
        why,
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
            Some(why) => write!(f, "  broke: {why}"),
            None => f.write_str("  held"),
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
                "  knee                 {knee}/s with p99 up to {limit_ms} ms"
            ),
            None => writeln!(
                f,
                "  knee                 below the first rate, with p99 up to {limit_ms} ms"
            ),
        }
    }
}
