#![forbid(unsafe_code)]
//! Serves as the router would on glommio's sockets and the `h2` crate, so that the choice against both can be measured
//! again.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use rlimit::Resource;
use slim_bench::relay::{Mac, Relay, RelayError};

/// A SLIM relay on glommio's sockets and the `h2` crate, for `slim-loadgen --target`.
///
/// Routes by exact name and id. No limits on hostile clients: for a machine of one's own. A signal ends it.
#[derive(Parser)]
struct Arguments {
    /// IP:port; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:46357")]
    listen: SocketAddr,
    /// 1, so that all servers start alike: the relay has no more.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1))]
    shards: u16,
    /// The core to run on [default: one that the process may run on]
    #[arg(long)]
    core: Option<usize>,
    /// Whether links have a header MAC. `off` serves only dialers that accept none.
    #[arg(long, value_enum, default_value_t = Mac::On)]
    mac: Mac,
}

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay-baseline: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), RelayError> {
    if let Ok((_, hard)) = Resource::NOFILE.get() {
        // With fewer it serves fewer connections.
        let _ = Resource::NOFILE.set(hard, hard);
    }
    let relay = Relay::start(arguments.listen, arguments.mac, arguments.core)?;
    println!("serving {}", relay.address);
    relay.wait()
}
