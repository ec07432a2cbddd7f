#![forbid(unsafe_code)]
//! Arguments -> plan -> run -> report, and the exit status that a script needs.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use slim_loadgen::args::Args;
use slim_loadgen::plan::Plan;
use slim_loadgen::report::Report;
use slim_loadgen::run::run;

/// Also what clap exits with when the arguments are wrong.
const EXIT_USAGE: u8 = 2;
const EXIT_FAULTS: u8 = 3;
/// As a shell reports a process that SIGINT ended.
const EXIT_SECOND_SIGNAL: i32 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    let command_line = std::env::args().collect::<Vec<_>>().join(" ");
    let plan = match Plan::new(&args, command_line) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("slim-loadgen: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let interrupted = match watch_signals() {
        Ok(interrupted) => interrupted,
        Err(error) => return fail(&format!("cannot watch for signals: {error}")),
    };
    let report = match run(&plan, &interrupted) {
        Ok(report) => report,
        Err(error) => return fail(&error.to_string()),
    };
    print!("{report}");
    if let Some(path) = &plan.json
        && let Err(error) = write_json(&report, path)
    {
        return fail(&format!("cannot write {}: {error}", path.display()));
    }
    if report.cut_short.is_some() {
        ExitCode::FAILURE
    } else if report.faults.any() {
        ExitCode::from(EXIT_FAULTS)
    } else {
        ExitCode::SUCCESS
    }
}

/// A flag that the first SIGINT or SIGTERM sets. The second ends the process.
fn watch_signals() -> std::io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag not yet set.
        let flag = Arc::clone(&interrupted);
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_SECOND_SIGNAL, flag)?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

fn write_json(report: &Report, path: &std::path::Path) -> std::io::Result<()> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    fs::write(path, json)
}

fn fail(why: &str) -> ExitCode {
    eprintln!("slim-loadgen: {why}");
    ExitCode::FAILURE
}
