#![forbid(unsafe_code)]
//! What large payloads cost at the least: a relay of plain bytes on the router's ring.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use rlimit::Resource;
use slim_bench::tcp_relay::{TcpRelay, TcpRelayError};

/// A relay of plain bytes on the router's ring, for `slim-loadgen --target tcp://`.
///
/// One sender a name, to all who hear that name. No limits on hostile clients: for a machine of one's own. A signal ends it.
#[derive(Parser)]
struct Arguments {
    /// IP:port; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:46358")]
    listen: SocketAddr,
    /// 1, so that all servers start alike: the relay has no more.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1))]
    shards: u16,
    /// The core to run on [default: one that the process may run on]
    #[arg(long)]
    core: Option<usize>,
}

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tcp-relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), TcpRelayError> {
    if let Ok((_, hard)) = Resource::NOFILE.get() {
        // With fewer it serves fewer connections.
        let _ = Resource::NOFILE.set(hard, hard);
    }
    let relay = TcpRelay::start(arguments.listen, arguments.core)?;
    println!("serving {}", relay.address);
    relay.wait()
}
