#![forbid(unsafe_code)]
//! Arguments -> plan -> run -> report, and the exit status that a script needs.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use slim_loadgen::args::{Args, Command, Common, Compare};
use slim_loadgen::compare::compare;
use slim_loadgen::percentiles::write_hgrm;
use slim_loadgen::plan::{Output, Plan};
use slim_loadgen::plot::plot_records;
use slim_loadgen::report::Report;
use slim_loadgen::run::run;
use slim_loadgen::sweep::sweep;

/// Also what clap exits with when the arguments are wrong.
const EXIT_USAGE: u8 = 2;
const EXIT_FAULTS: u8 = 3;
const EXIT_RATE: u8 = 4;
/// As a shell reports a process that SIGINT ended.
const EXIT_SECOND_SIGNAL: i32 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    let command_line = std::env::args().collect::<Vec<_>>().join(" ");
    let outcome = match &args.command {
        Command::Plot(plot) => plot_records(plot.title.as_deref(), &plot.records, &plot.out)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| error.to_string()),
        Command::Compare(comparison) => run_comparison(comparison, command_line),
        workload => run_workload(workload, command_line),
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("slim-loadgen: {why}");
        ExitCode::FAILURE
    })
}

fn run_workload(command: &Command, command_line: String) -> Result<ExitCode, String> {
    let plan = match Plan::new(command, command_line.clone()) {
        Ok(plan) => plan,
        Err(error) => return Ok(usage(&error.to_string())),
    };
    let interrupted = watch_signals()?;
    let output = plan.output.clone();
    let report = measure(command, plan, &command_line, &interrupted)?;
    // Neither keeps the other from being there.
    let (printed, written) = (print(&report), write_files(&report, &output));
    printed.and(written)?;
    Ok(if report.cut_short.is_some() {
        ExitCode::FAILURE
    } else if report.faults.any() && !output.allow_faults {
        ExitCode::from(EXIT_FAULTS)
    } else if !report.is_rate_reached() {
        ExitCode::from(EXIT_RATE)
    } else {
        ExitCode::SUCCESS
    })
}

/// One run, or the runs of a sweep.
fn measure(
    command: &Command,
    plan: Plan,
    command_line: &str,
    interrupted: &AtomicBool,
) -> Result<Report, String> {
    let report = match command {
        Command::Rate(rate) if rate.sweep => {
            let plan_of = |messages_per_s| {
                let mut rate = rate.clone();
                rate.rate = messages_per_s;
                Plan::new(&Command::Rate(rate), command_line.to_owned())
            };
            let p99_us_max = rate.sweep_p99.as_secs_f64() * 1e6;
            sweep(rate.rate, p99_us_max, plan_of, interrupted, |step| {
                eprintln!("{step}");
            })
        }
        _ => run(&plan, interrupted),
    };
    report.map_err(|error| error.to_string())
}

fn run_comparison(comparison: &Compare, command_line: String) -> Result<ExitCode, String> {
    let words = ["slim-loadgen".to_owned()].into_iter();
    let workload = match Args::try_parse_from(words.chain(comparison.workload.clone())) {
        Ok(args) => args.command,
        Err(error) => return Ok(usage(&format!("after `--`: {error}"))),
    };
    if comparison.rounds == 0 {
        return Ok(usage("--rounds 0: at least 1 is needed"));
    }
    let mut plans = Vec::new();
    for against in &comparison.against {
        let mut workload = workload.clone();
        let Some(common) = workload.common_mut() else {
            return Ok(usage(
                "after `--` a workload is expected, as in -- ping --pairs 64",
            ));
        };
        *common = Common {
            target: against.target.clone(),
            mac: against.mac,
            server_pid: against.server_pid,
            ..common.clone()
        };
        match Plan::new(&workload, command_line.clone()) {
            Ok(_) => plans.push(workload),
            Err(error) => return Ok(usage(&error.to_string())),
        }
    }
    let interrupted = watch_signals()?;
    let names = comparison
        .against
        .iter()
        .map(|against| against.name.clone());
    let result = compare(
        command_line.clone(),
        names.collect(),
        comparison.rounds,
        &interrupted,
        |target| {
            // Planned anew, so that no two runs share their names.
            let plan = Plan::new(&plans[target], command_line.clone())?;
            let report = run(&plan, &interrupted)?;
            eprintln!("{}: {report}", comparison.against[target].name);
            Ok(report)
        },
    )
    .map_err(|error| error.to_string())?;
    let printed = print(&result);
    let json = comparison.json.as_deref();
    let written = json.map_or(Ok(()), |path| write_json(&result, path));
    printed.and(written)?;
    Ok(if result.cut_short.is_some() {
        ExitCode::FAILURE
    } else if result.runs.iter().any(|run| run.record.faults.any()) {
        ExitCode::from(EXIT_FAULTS)
    } else {
        ExitCode::SUCCESS
    })
}

/// A flag that the first SIGINT or SIGTERM sets. The second ends the process.
fn watch_signals() -> Result<Arc<AtomicBool>, String> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let watch = |signal| {
        // In this order: the first signal finds the flag not yet set.
        let flag = Arc::clone(&interrupted);
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_SECOND_SIGNAL, flag)?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
    };
    for signal in [SIGINT, SIGTERM] {
        watch(signal).map_err(|error: io::Error| format!("cannot watch for signals: {error}"))?;
    }
    Ok(interrupted)
}

/// On standard output, which may be a pipe that nobody reads any more.
fn print(result: &impl std::fmt::Display) -> Result<(), String> {
    let mut out = io::stdout().lock();
    write!(out, "{result}")
        .and_then(|()| out.flush())
        .map_err(|error| format!("cannot write to standard output: {error}"))
}

fn write_files(report: &Report, output: &Output) -> Result<(), String> {
    let json = output.json.as_deref();
    let json = json.map_or(Ok(()), |path| write_json(report, path));
    let percentiles = output.percentiles.as_deref();
    let percentiles = percentiles.map_or(Ok(()), |path| {
        write_file(path, |out| write_hgrm(&report.histogram, out))
    });
    let plot = output.plot.as_deref();
    let plot = plot.map_or(Ok(()), |path| {
        report.plot(path).map_err(|error| error.to_string())
    });
    // Each is tried; the first failure is told.
    json.and(percentiles).and(plot)
}

fn write_json(result: &impl Serialize, path: &Path) -> Result<(), String> {
    write_file(path, |out| {
        serde_json::to_writer_pretty(&mut *out, result)?;
        out.write_all(b"\n")
    })
}

fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<fs::File>) -> io::Result<()>,
) -> Result<(), String> {
    let whole = |path: &Path| {
        let mut out = BufWriter::new(fs::File::create(path)?);
        write(&mut out)?;
        out.flush()
    };
    whole(path).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn usage(why: &str) -> ExitCode {
    eprintln!("slim-loadgen: {why}");
    ExitCode::from(EXIT_USAGE)
}
