#![forbid(unsafe_code)]
//! Reads what to do, then does it: arguments → [`Config`] → log → [`Router`] → signal → drain.

use std::process::ExitCode;
use std::thread;

use clap::Parser;
use rlimit::Resource;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use slim_router::args::Args;
use slim_router::config::Config;
use slim_router::{Router, RouterError, logging};
use tracing::{debug, error, info, warn};

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
        warn!("{note}");
    }
    let code = match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    };
    if log.dropped_lines() > 0 {
        warn!(
            lines = log.dropped_lines(),
            "log lines were dropped: standard error was too slow"
        );
    }
    code
}

/// Serves until a signal, then drains. A second signal ends the process at once.
fn serve(config: Config) -> Result<(), RouterError> {
    let drain_timeout = config.drain_timeout;
    let shards = config.shards;
    // Before anything starts: a signal during the start is then kept, not fatal.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(RouterError::Signals)?;
    raise_descriptor_limit();
    let router = Router::start(config)?;
    let addresses: Vec<String> = router.addresses().iter().map(ToString::to_string).collect();
    let plural = if shards.get() == 1 { "" } else { "s" };
    info!(
        "serving {} in clear text on {shards} shard{plural}",
        addresses.join(", ")
    );
    let drain = router.drainer();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for (count, signal) in signals.forever().enumerate() {
                if count > 0 {
                    // The log has what came before; there is nothing left to wait for.
                    std::process::exit(EXIT_SECOND_SIGNAL + signal);
                }
                info!(signal, timeout = ?drain_timeout, "draining; a second signal exits at once");
                drain();
            }
        })
        .map_err(RouterError::Signals)?;
    router.wait_drained(drain_timeout)
}

/// A connection is a descriptor, and what a shell allows by default (often 1,024) is far below what is permitted.
fn raise_descriptor_limit() {
    let raised = Resource::NOFILE.get().and_then(|(_, most)| {
        Resource::NOFILE.set(most, most)?;
        Ok(most)
    });
    match raised {
        Ok(limit) => debug!(limit, "file descriptors, one a connection"),
        Err(error) => warn!(%error, "the limit on file descriptors stays as it is"),
    }
}

/// As a shell reports a process that a signal ended.
const EXIT_SECOND_SIGNAL: i32 = 128;
