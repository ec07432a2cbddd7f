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
    #[arg(long, default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// Percent of the machine's processor time that other processes may have. Above, a measurement is taken again, up to
    /// twenty times.
    #[arg(long, default_value_t = 100.0)]
    others_max: f64,
    /// Count the serving thread's system calls, in one more round (`perf stat`, needs root).
    #[arg(long)]
    system_calls: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
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
        "{} B, {} rounds of {:?}\n\n\
         | connections | server | CPU per round trip, us | ratio to ring | round trips/s | other processes, % of the machine | system calls per round trip |\n\
         |---|---|---|---|---|---|---|",
        arguments.bytes, arguments.rounds, arguments.seconds
    );
    for &connections in &arguments.connections {
        let workload = Workload {
            connections,
            bytes: arguments.bytes,
            warm_up: Duration::from_millis(500),
            measured: arguments.seconds,
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
            figures[at] = Some(undisturbed(arguments, servers[at], workload)?);
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
        let others = Spread::of(
            rounds
                .iter()
                .filter_map(|round| Some(round[at]?.others_share * 100.0)),
        );
        let system_calls = if arguments.system_calls {
            echo::measure(server, workload, true)?.system_calls_per_trip()
        } else {
            None
        };
        println!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            workload.connections,
            server.label(),
            costs.text(2),
            ratios.text(2),
            rates.text(0),
            others.text(0),
            system_calls.map_or_else(|| "-".to_owned(), |calls| format!("{calls:.3}")),
        );
    }
    Ok(())
}

/// The first measurement that other processes left alone, or the least disturbed one.
fn undisturbed(
    arguments: &Arguments,
    server: Server,
    workload: Workload,
) -> Result<Figures, EchoError> {
    let mut best = echo::measure(server, workload, false)?;
    for _ in 0..RETRIES_MAX {
        if best.others_share * 100.0 <= arguments.others_max {
            break;
        }
        let again = echo::measure(server, workload, false)?;
        if again.others_share < best.others_share {
            best = again;
        }
    }
    Ok(best)
}

const RETRIES_MAX: usize = 20;

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
