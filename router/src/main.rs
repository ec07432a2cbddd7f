#![forbid(unsafe_code)]
//! Reads what to do, then does it: arguments -> [`Config`] -> log -> [`Router`].

use clap::Parser;
use slim_router::Router;
use slim_router::args::Args;
use slim_router::config::Config;
use slim_router::logging;
use std::process::ExitCode;

/// Also what clap exits with when the arguments are wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Config::load(&args, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if args.check {
        println!("{config}");
        return ExitCode::SUCCESS;
    }
    let log = match logging::start(&config.tracing) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("slim-router: {error}");
            return ExitCode::FAILURE;
        }
    };
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    let outcome = match Router::start(config) {
        Ok(_router) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    };
    if log.dropped_lines() > 0 {
        tracing::warn!(
            lines = log.dropped_lines(),
            "log lines were dropped: standard error was too slow"
        );
    }
    outcome
}
