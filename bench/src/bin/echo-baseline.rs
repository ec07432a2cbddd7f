#![forbid(unsafe_code)]
//! Measures again why glommio hosts a shard and does not move its bytes.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use slim_bench::echo::{self, EchoError, Figures, Server, Workload};

/// The same echo load against glommio's sockets and against our ring, in turn, round by round.
///
/// Prints a table in Markdown: medians over all rounds, and the least and greatest in brackets. A ratio is taken within
/// each round, to `ring`. The serving thread has the first core of the process's, the load the second.
#[derive(Parser)]
struct Arguments {
    /// Numbers of connections; one question is under way on each.
    #[arg(long, value_delimiter = ',', default_value = "1,64,512")]
    connections: Vec<u32>,
    /// Bytes of a question and of its answer.
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "glommio,ring,ring-thread"
    )]
    servers: Vec<Server>,
    /// Rounds; in each, every server gets every number of connections once.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of one measurement, after half a second of warm-up.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Count the serving thread's system calls, in one more round (`perf stat`, needs root).
    #[arg(long)]
    system_calls: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), EchoError> {
    println!(
        "{} B, {} rounds of {} s\n\n\
         | connections | server | CPU per round trip, us | ratio to ring | round trips/s | system calls per round trip |\n\
         |---|---|---|---|---|---|",
        arguments.bytes, arguments.rounds, arguments.seconds
    );
    for &connections in &arguments.connections {
        let workload = Workload {
            connections,
            bytes: arguments.bytes,
            warm_up: Duration::from_millis(500),
            measured: Duration::from_secs(arguments.seconds),
        };
        print_rows(arguments, workload)?;
    }
    Ok(())
}

fn print_rows(arguments: &Arguments, workload: Workload) -> Result<(), EchoError> {
    let servers = &arguments.servers;
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds {
        let mut figures = vec![None; servers.len()];
        // Each round begins with another server, so that none always comes after the same one.
        for nth in 0..servers.len() {
            let at = (round + nth) % servers.len();
            figures[at] = Some(echo::measure(servers[at], workload, false)?);
        }
        rounds.push(figures);
    }
    let cost = |round: &[Option<Figures>], at: usize| Some(round[at]?.microseconds_per_trip());
    let ring_at = servers.iter().position(|server| *server == Server::Ring);
    for (at, &server) in servers.iter().enumerate() {
        let costs = Spread::of(rounds.iter().filter_map(|round| cost(round, at)));
        let ratios = Spread::of(
            rounds
                .iter()
                .filter_map(|round| Some(cost(round, at)? / cost(round, ring_at?)?)),
        );
        let rates = Spread::of(
            rounds
                .iter()
                .filter_map(|round| Some(round[at]?.trips_per_second())),
        );
        let system_calls = if arguments.system_calls {
            echo::measure(server, workload, true)?.system_calls_per_trip()
        } else {
            None
        };
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            workload.connections,
            server.label(),
            costs.text(2),
            ratios.text(2),
            rates.text(0),
            system_calls.map_or_else(|| "-".to_owned(), |calls| format!("{calls:.3}")),
        );
    }
    Ok(())
}

/// Median, least and greatest of what the rounds gave.
struct Spread {
    sorted: Vec<f64>,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut sorted: Vec<_> = values.collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Spread { sorted }
    }

    fn text(&self, decimals: usize) -> String {
        let (Some(least), Some(median), Some(greatest)) = (
            self.sorted.first(),
            self.sorted.get(self.sorted.len() / 2),
            self.sorted.last(),
        ) else {
            return "-".to_owned();
        };
        format!("{median:.decimals$} ({least:.decimals$}-{greatest:.decimals$})")
    }
}
