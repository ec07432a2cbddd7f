//! The relay that the router was not built as: a SLIM node on glommio's own sockets and the `h2` crate.
//!
//! One thread, one task a connection, no crate of ours under it but `slim-proto`. It speaks what the load generator needs:
//! OpenChannel, link negotiation, Subscribe, Unsubscribe and Publish, routed by exact name and id. What a router owes its
//! users beyond that (deadlines, keepalive, limits on hostile clients, drain, counters) it does not do, so it costs less
//! than a router of that make would.
//!
//! It loses nothing: a publisher whose receiver is slow is not read ([`outbox`]).

mod connection;
mod negotiation;
mod outbox;
mod socket;
mod table;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;

use glommio::net::TcpListener;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use slim_proto::link::Preimage;

use negotiation::Negotiator;
use table::Table;

/// Whether links have a header MAC (dataplane 5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mac {
    /// Every tag is checked and replaced, as the router does it.
    On,
    /// Dialers are offered no key, so those that insist on one turn away. The floor.
    Off,
}

/// Why there is no relay, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("no executor: {0}")]
    Executor(String),
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: String },
    #[error("cannot accept: {0}")]
    Accept(String),
}

/// A relay that serves until the process ends.
pub struct Relay {
    pub address: SocketAddr,
    executor: ExecutorJoinHandle<Result<(), RelayError>>,
}

impl Relay {
    /// Serves on a thread of its own.
    ///
    /// - `core`: where it runs; `None` leaves it to the affinity of the calling thread.
    pub fn start(listen: SocketAddr, mac: Mac, core: Option<usize>) -> Result<Relay, RelayError> {
        let (started_sender, started) = mpsc::channel();
        let placement = core.map_or(Placement::Unbound, Placement::Fixed);
        let executor = LocalExecutorBuilder::new(placement)
            .name("relay")
            .spawn(move || serve(listen, mac, started_sender))
            .map_err(executor_failed)?;
        match started.recv() {
            Ok(address) => Ok(Relay { address, executor }),
            // It has gone without an address, so it has a reason.
            Err(_) => match executor.join().map_err(executor_failed)? {
                Err(error) => Err(error),
                Ok(()) => Err(RelayError::Executor("it ended at once".to_owned())),
            },
        }
    }

    /// Waits for what ends it.
    pub fn wait(self) -> Result<(), RelayError> {
        self.executor.join().map_err(executor_failed)?
    }
}

fn executor_failed(error: glommio::GlommioError<()>) -> RelayError {
    RelayError::Executor(error.to_string())
}

/// What the connections share.
struct Shared {
    negotiator: Negotiator,
    table: RefCell<Table>,
    preimage: RefCell<Preimage>,
}

async fn serve(
    listen: SocketAddr,
    mac: Mac,
    started: mpsc::Sender<SocketAddr>,
) -> Result<(), RelayError> {
    let not_listening = |error: glommio::GlommioError<()>| RelayError::Listen {
        address: listen,
        reason: error.to_string(),
    };
    let listener = TcpListener::bind(listen).map_err(not_listening)?;
    let address = listener.local_addr().map_err(not_listening)?;
    // The caller waits for it.
    let _ = started.send(address);
    drop(started);
    let shared = Rc::new(Shared {
        negotiator: Negotiator::new(mac),
        table: RefCell::default(),
        preimage: RefCell::default(),
    });
    loop {
        let stream = listener
            .accept()
            .await
            .map_err(|error| RelayError::Accept(error.to_string()))?;
        let shared = shared.clone();
        glommio::spawn_local(async move {
            if let Err(error) = connection::serve(stream, shared).await {
                eprintln!("a connection ended: {error}");
            }
        })
        .detach();
    }
}
