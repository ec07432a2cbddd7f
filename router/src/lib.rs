#![forbid(unsafe_code)]
//! `slim-router`: a thread-per-core, shared-nothing message router for SLIM on io_uring.
//!
//! ```text
//!            shard 0 (core 0)                       shard 1 (core 1)          this thread
//!   accept ─► connection ─► ingress                 the same,                 configuration, signals,
//!      ─► routes ─► forward ─► egress  ◄── mesh ──► shares nothing            counters
//! ```
//!
//! A message goes down that path and no module knows its caller; pressure comes back as a return value. See
//! `ARCHITECTURE.md` for what owns what, what is bounded, and what happens when a bound is reached ([`limits`]).

pub mod args;
pub mod config;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod routes;

mod accept;
mod acknowledge;
mod admission;
mod connection;
mod control;
mod egress;
mod forward;
mod ingress;
mod memory;
mod mesh;
mod network;
mod parked;
mod rate;
mod shard;
#[cfg(test)]
mod simulation;

use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use slim_ring::{Ring, RingConfig, RingError};
use tracing::{debug, info, warn};

pub use accept::ListenError;
use accept::{Bound, SocketFile};
use admission::Admission;
use config::{Config, ListenAddress};
use control::Orders;
use memory::Memory;
use metrics::{Counters, Snapshot};
use network::{Bells, RingNetwork};
use routes::ShardId;
use shard::{Plan, Shard};

/// Why a router did not start, or stopped by itself. The process exits with status 1.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("shard {shard} could not be hosted: {reason}")]
    Host { shard: u16, reason: String },
    #[error("shard {shard} failed: {reason}")]
    Shard { shard: u16, reason: String },
    #[error("no random numbers from the system: {0}")]
    Random(getrandom::Error),
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
}

/// A running router. Dropping it stops it at once; [`Router::drain`] ends it gently.
pub struct Router {
    addresses: Vec<ListenAddress>,
    orders: Arc<Orders>,
    counters: Vec<Arc<Counters>>,
    hosts: Mutex<Vec<ExecutorJoinHandle<()>>>,
    finished: Mutex<mpsc::Receiver<(ShardId, Result<(), RouterError>)>>,
    /// Let go of last, when no shard listens any more.
    _socket_files: Vec<SocketFile>,
}

impl Router {
    /// Starts every shard, and listens when all of them can serve. Returns when clients can connect.
    pub fn start(config: Config) -> Result<Router, RouterError> {
        Ring::probe()?;
        let shards = config.shards.get();
        let config = Arc::new(config);
        let bound = config
            .listeners
            .iter()
            .map(|listener| Bound::new(&listener.address, shards))
            .collect::<Result<Vec<_>, _>>()?;
        let addresses = bound.iter().map(|bound| bound.address.clone()).collect();
        let orders = Arc::new(Orders::new(shards));
        let counters: Vec<_> = (0..shards).map(|_| Arc::new(Counters::default())).collect();
        let web = mesh::Web::new(shards);
        let admission = Arc::new(Admission::new(
            shards,
            connections_max(&config),
            config.limits.connections_per_address,
        ));
        let memory = Arc::new(Memory::new(
            shards,
            config.limits.memory,
            config.limits.egress_bytes,
        ));
        debug!(
            bytes = memory.ceiling_bytes(),
            "memory that this process may have resident"
        );
        let bells = Bells::new(shards);
        let owners = owner_hash()?;
        let (finished_sender, finished) = mpsc::channel();
        let (ready_sender, ready) = mpsc::channel();
        let mut hosts = Vec::new();
        let mut starts = Vec::new();
        for (i, placement) in (0..shards).zip(placements(shards)) {
            let (start, started) = mpsc::channel();
            starts.push(start);
            let plan = Plan {
                shard: ShardId(i),
                shards,
                config: config.clone(),
                web: web.clone(),
                admission: admission.clone(),
                memory: memory.clone(),
                counters: counters[usize::from(i)].clone(),
                orders: orders.clone(),
                owners: owners.clone(),
            };
            let (ready, finished) = (ready_sender.clone(), finished_sender.clone());
            let bells = bells.clone();
            let host = LocalExecutorBuilder::new(placement)
                .name(&format!("shard-{i}"))
                // The executor only hosts: it moves no bytes, so it needs next to no ring and buffers.
                .ring_depth(16)
                .io_memory(64 * 1024)
                .spawn(move || async move {
                    let mut last_word = LastWord {
                        shard: ShardId(i),
                        finished,
                        result: None,
                    };
                    last_word.result = Some(host(plan, bells, &ready, &started));
                })
                .map_err(|error| RouterError::Host {
                    shard: i,
                    reason: error.to_string(),
                })?;
            hosts.push(host);
        }
        for _ in 0..shards {
            match ready.recv_timeout(START_TIMEOUT) {
                Ok(result) => result?,
                Err(_) => {
                    return Err(RouterError::Host {
                        shard: 0,
                        reason: "it did not start in time".into(),
                    });
                }
            }
        }
        memory.settle_base();
        for bound in &bound {
            bound.listen()?;
        }
        let mut sockets: Vec<_> = (0..shards).map(|_| Vec::new()).collect();
        let mut socket_files = Vec::new();
        for (listener, bound) in (0u16..).zip(bound) {
            socket_files.extend(bound.file);
            for (shard, socket) in bound.sockets.into_iter().enumerate() {
                sockets[shard].push((socket.into(), listener));
            }
        }
        for (start, sockets) in starts.iter().zip(sockets) {
            let _ = start.send(sockets);
        }
        Ok(Router {
            addresses,
            orders,
            counters,
            hosts: Mutex::new(hosts),
            finished: Mutex::new(finished),
            _socket_files: socket_files,
        })
    }

    /// Where it listens; ports are the real ones if the configuration asked for port 0.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// What all shards have counted up to now.
    pub fn counters(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for counters in &self.counters {
            sum.add(counters);
        }
        sum
    }

    /// Begins the end: listeners close first, then links end with `grpc-status 0`.
    pub fn drain(&self) {
        self.orders.drain();
    }

    /// Does what [`Router::drain`] does, from wherever a signal is heard; it does not keep the router alive.
    pub fn drainer(&self) -> impl Fn() + Send + 'static {
        let orders = self.orders.clone();
        move || orders.drain()
    }

    /// Waits until the router has drained or a shard has failed.
    ///
    /// - `drain_timeout`: from [`Router::drain`] to giving up on links that have not ended; that is no error.
    pub fn wait_drained(&self, drain_timeout: Duration) -> Result<(), RouterError> {
        let finished = self
            .finished
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut left = self.counters.len();
        let mut give_up_at = None;
        while left > 0 {
            if self.orders.drain_ordered() && give_up_at.is_none() {
                give_up_at = Some(Instant::now() + drain_timeout);
            }
            let patience = match give_up_at {
                Some(at) => at.saturating_duration_since(Instant::now()),
                None => ORDER_POLL,
            };
            match finished.recv_timeout(patience) {
                Ok((shard, result)) => {
                    result?;
                    if !self.orders.drain_ordered() {
                        return Err(RouterError::Shard {
                            shard: shard.0,
                            reason: "it returned unasked".into(),
                        });
                    }
                    left -= 1;
                }
                Err(mpsc::RecvTimeoutError::Timeout) if give_up_at.is_some() => {
                    warn!(
                        shards = left,
                        "the drain timeout is over; what is left ends now"
                    );
                    return Ok(());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(RouterError::Shard {
                        shard: 0,
                        reason: "it ended without a word".into(),
                    });
                }
            }
        }
        Ok(())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.orders.stop();
        let hosts = std::mem::take(
            self.hosts
                .get_mut()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        );
        for host in hosts {
            if let Err(error) = host.join() {
                warn!(%error, "a shard did not end as it should");
            }
        }
        let counters = self.counters();
        info!(%counters, "stopped");
    }
}

/// The whole life of a shard, on its own thread. What it could not start with goes to `ready`.
fn host(
    plan: Plan,
    bells: Arc<Bells>,
    ready: &mpsc::Sender<Result<(), RingError>>,
    started: &mpsc::Receiver<Vec<(OwnedFd, u16)>>,
) -> Result<(), RouterError> {
    let ShardId(shard_number) = plan.shard;
    let config = RingConfig {
        submission_entries: limits::RING_SUBMISSION_ENTRIES,
        completion_entries: limits::RING_COMPLETION_ENTRIES,
        receive_buffers: limits::RECEIVE_BUFFERS,
        receive_buffer_bytes: limits::RECEIVE_BUFFER_BYTES,
        sockets_max: limits::SOCKETS_PER_SHARD_MAX,
    };
    let network = match RingNetwork::open(plan.shard, bells, config) {
        Ok(network) => network,
        Err(error) => {
            let _ = ready.send(Err(error));
            return Ok(());
        }
    };
    let mut shard = Shard::new(plan, network);
    let _ = ready.send(Ok(()));
    let Ok(listeners) = started.recv() else {
        // Another shard could not start; the router gives up.
        return Ok(());
    };
    shard
        .listen(listeners)
        .and_then(|()| shard.run())
        .map_err(|error| RouterError::Shard {
            shard: shard_number,
            reason: error.to_string(),
        })
}

/// Tells the router how a shard ended, also when it panicked: the process must not live on without one of its cores.
struct LastWord {
    shard: ShardId,
    finished: mpsc::Sender<(ShardId, Result<(), RouterError>)>,
    result: Option<Result<(), RouterError>>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let ShardId(shard) = self.shard;
        let result = self.result.take().unwrap_or_else(|| {
            Err(RouterError::Shard {
                shard,
                reason: "it panicked".into(),
            })
        });
        // Nobody listens when the router itself has gone.
        let _ = self.finished.send((self.shard, result));
    }
}

/// How long the waiting thread takes to notice that a drain was ordered, at worst.
const ORDER_POLL: Duration = Duration::from_millis(100);

/// From the first executor to the last ring. Setting one up takes milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How many connections the router takes: what it is told, or what there are descriptors for.
fn connections_max(config: &Config) -> u32 {
    config.limits.connections.unwrap_or_else(|| {
        let shards = u32::from(config.shards.get());
        let reserved =
            limits::DESCRIPTORS_RESERVED + shards * limits::DESCRIPTORS_RESERVED_PER_SHARD;
        let descriptors = rlimit::Resource::NOFILE.get();
        let descriptors = descriptors.map_or(u64::MAX, |(soft, _)| soft);
        let descriptors = u32::try_from(descriptors).unwrap_or(u32::MAX);
        let most = shards.saturating_mul(limits::SOCKETS_PER_SHARD_MAX);
        descriptors.saturating_sub(reserved).clamp(1, most)
    })
}

/// One core for each shard, as far as there are cores that this process may use; shards beyond that float.
fn placements(shards: u16) -> Vec<Placement> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    (0..usize::from(shards))
        .map(|shard| match cores.get(shard) {
            Some(core) if usize::from(shards) <= cores.len() => Placement::Fixed(core.id),
            _ => Placement::Unbound,
        })
        .collect()
}

/// Decides who owns a name. Random, for the names are chosen by clients, who could otherwise load one shard or one bucket.
fn owner_hash() -> Result<ahash::RandomState, RouterError> {
    let mut seeds = [[0u8; 8]; 4];
    for seed in &mut seeds {
        getrandom::fill(seed).map_err(RouterError::Random)?;
    }
    let [a, b, c, d] = seeds.map(u64::from_ne_bytes);
    Ok(ahash::RandomState::with_seeds(a, b, c, d))
}
