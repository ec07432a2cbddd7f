//! Echo round trips over loopback: the same load against each way to move a shard's bytes.
//!
//! One thread serves, another asks, each on a core of its own where there are two. One question is under way on each
//! connection. What is measured is the serving thread: its processor time by the scheduler's account, and its system
//! calls by the kernel's tracepoint. Loopback delivers a packet within the sender's system call, so that each side's
//! account has the kernel's work for what it sends, whichever server it is.

mod load;
mod on_glommio;
mod on_ring;

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use slim_ring::{Ring, RingConfig, RingError};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Server {
    /// glommio's `TcpStream`s on a pinned executor, a task for each connection.
    Glommio,
    /// Our ring, its loop hosted by a pinned glommio executor: what a shard of the router is.
    Ring,
    /// Our ring on a pinned thread without any executor.
    RingThread,
}

impl Server {
    /// As it is written on the command line.
    pub fn label(self) -> &'static str {
        match self {
            Server::Glommio => "glommio",
            Server::Ring => "ring",
            Server::RingThread => "ring-thread",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub connections: u32,
    /// Of each question, and of its answer.
    pub bytes: usize,
    pub warm_up: Duration,
    pub measured: Duration,
}

/// What happened while it was measured.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub round_trips: u64,
    pub wall: Duration,
    /// Processor time of the serving thread, the kernel's work for it included.
    pub on_processor: Duration,
    /// Of the serving thread, if they were to be counted.
    pub system_calls: Option<u64>,
    /// The part of the machine's processor time that other processes had. They make every system call and every wake-up
    /// dearer, and not alike for all servers: a figure from a busy machine is no figure.
    pub others_share: f64,
}

impl Figures {
    pub fn microseconds_per_trip(&self) -> f64 {
        self.on_processor.as_secs_f64() * 1e6 / self.round_trips as f64
    }

    pub fn trips_per_second(&self) -> f64 {
        self.round_trips as f64 / self.wall.as_secs_f64()
    }

    pub fn system_calls_per_trip(&self) -> Option<f64> {
        Some(self.system_calls? as f64 / self.round_trips as f64)
    }
}

/// Why nothing was measured: the machine lacks something. Nothing to retry.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("glommio's executor did not start: {0}")]
    Executor(String),
    #[error(
        "system calls are counted by `perf stat` with the tracepoint raw_syscalls:sys_enter, which takes root: {0}"
    )]
    Perf(String),
}

/// Serves and asks, and measures between the end of the warm-up and the end of the load.
///
/// - `is_counting`: count system calls too. The tracepoint makes each of them dearer: count and time in separate runs.
pub fn measure(
    server: Server,
    workload: Workload,
    is_counting: bool,
) -> Result<Figures, EchoError> {
    Ring::probe()?;
    let serving = Serving::start(server, workload.connections)?;
    let load = Load::start(serving.address, workload);
    thread::sleep(workload.warm_up);

    let counter = is_counting
        .then(|| SystemCallCounter::start(&serving.thread))
        .transpose()?;
    let before = Moment::now(&serving, &load);
    thread::sleep(workload.measured);
    let after = Moment::now(&serving, &load);
    let system_calls = counter.map(SystemCallCounter::finish).transpose()?;

    load.stop();
    serving.join();
    Ok(Figures {
        round_trips: after.round_trips - before.round_trips,
        wall: after.at - before.at,
        on_processor: after.on_processor - before.on_processor,
        system_calls,
        others_share: after.machine.others_share_since(&before.machine),
    })
}

struct Moment {
    at: Instant,
    round_trips: u64,
    on_processor: Duration,
    machine: Ticks,
}

impl Moment {
    fn now(serving: &Serving, load: &Load) -> Moment {
        Moment {
            at: Instant::now(),
            round_trips: load.round_trips.load(Ordering::Relaxed),
            on_processor: serving.thread.on_processor(),
            machine: Ticks::now(),
        }
    }
}

/// A server that ends by itself when all its clients have come and gone.
struct Serving {
    address: SocketAddr,
    thread: KernelThread,
    host: Host,
}

enum Host {
    Executor(ExecutorJoinHandle<()>),
    Thread(thread::JoinHandle<()>),
}

impl Serving {
    fn start(server: Server, connections: u32) -> Result<Serving, EchoError> {
        let (started_sender, started) = mpsc::channel();
        let [core, _] = cores();
        let placement = core.map_or(Placement::Unbound, |core| Placement::Fixed(core.id));
        let executor_failed =
            |error: glommio::GlommioError<()>| EchoError::Executor(error.to_string());
        let host = match server {
            Server::Glommio => Host::Executor(
                LocalExecutorBuilder::new(placement)
                    .spawn(move || on_glommio::serve(connections, started_sender))
                    .map_err(executor_failed)?,
            ),
            Server::Ring => Host::Executor(
                LocalExecutorBuilder::new(placement)
                    // As the router's: the executor only hosts.
                    .ring_depth(16)
                    .io_memory(64 * 1024)
                    .spawn(move || async move { on_ring::serve(connections, &started_sender) })
                    .map_err(executor_failed)?,
            ),
            Server::RingThread => Host::Thread(thread::spawn(move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                on_ring::serve(connections, &started_sender);
            })),
        };
        let (address, thread) = started.recv().expect("the server started or panicked");
        Ok(Serving {
            address,
            thread,
            host,
        })
    }

    fn join(self) {
        match self.host {
            Host::Executor(executor) => executor.join().expect("the server ran to its end"),
            Host::Thread(thread) => thread.join().expect("the server ran to its end"),
        }
    }
}

struct Load {
    round_trips: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Load {
    fn start(address: SocketAddr, workload: Workload) -> Load {
        let round_trips = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (round_trips, stop) = (round_trips.clone(), stop.clone());
            move || {
                if let [_, Some(core)] = cores() {
                    core_affinity::set_for_current(core);
                }
                load::ask(address, workload, &round_trips, &stop);
            }
        });
        Load {
            round_trips,
            stop,
            thread,
        }
    }

    /// Closes all its connections.
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load ran to its end");
    }
}

/// One for the server, one for the load; none if they would have to share.
fn cores() -> [Option<core_affinity::CoreId>; 2] {
    match core_affinity::get_core_ids().unwrap_or_default()[..] {
        [server, load, ..] => [Some(server), Some(load)],
        _ => [None, None],
    }
}

/// The ring of either side.
fn open_ring(connections: u32) -> Ring {
    Ring::new(RingConfig {
        submission_entries: 1_024,
        completion_entries: 8_192,
        receive_buffers: 1_024,
        receive_buffer_bytes: 16_384,
        sockets_max: connections,
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

/// A thread of this process, watched from another.
struct KernelThread {
    id: String,
    schedstat: PathBuf,
}

impl KernelThread {
    /// The calling thread.
    fn this() -> KernelThread {
        // `pid/task/tid`
        let link = fs::read_link("/proc/thread-self").expect("procfs is mounted");
        KernelThread {
            id: link
                .file_name()
                .expect("it ends in the thread's id")
                .to_string_lossy()
                .into_owned(),
            schedstat: ["/proc".as_ref(), link.as_path(), "schedstat".as_ref()]
                .iter()
                .collect(),
        }
    }

    /// Behind by one scheduler tick at most.
    fn on_processor(&self) -> Duration {
        let account = fs::read_to_string(&self.schedstat).expect("the kernel keeps schedstat");
        let nanoseconds = account
            .split(' ')
            .next()
            .and_then(|field| field.parse().ok());
        Duration::from_nanos(nanoseconds.expect("the first field is a number"))
    }
}

/// Processor time since boot, in clock ticks, over all cores.
struct Ticks {
    total: u64,
    busy: u64,
    /// This process's part of `busy`.
    own: u64,
}

impl Ticks {
    fn now() -> Ticks {
        let sum = |text: &str, skipped: usize, summed: usize| -> u64 {
            let fields = text.split_whitespace().skip(skipped).take(summed);
            fields.filter_map(|field| field.parse::<u64>().ok()).sum()
        };
        let machine = fs::read_to_string("/proc/stat").expect("procfs is mounted");
        // `cpu`, user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user.
        let total = sum(&machine, 1, 8);
        let process = fs::read_to_string("/proc/self/stat").expect("procfs is mounted");
        // The name, in parentheses, may hold spaces. Behind it, utime and stime are the 12th and 13th field.
        let behind_name = process.rsplit(')').next().unwrap_or_default();
        Ticks {
            total,
            busy: total - sum(&machine, 4, 2),
            own: sum(behind_name, 11, 2),
        }
    }

    fn others_share_since(&self, before: &Ticks) -> f64 {
        let busy = self.busy.saturating_sub(before.busy);
        let others = busy.saturating_sub(self.own.saturating_sub(before.own));
        others as f64 / self.total.saturating_sub(before.total).max(1) as f64
    }
}

/// `perf stat` on one thread. It counts for as long as the command that it runs, which is one that waits for a line.
struct SystemCallCounter(std::process::Child);

impl SystemCallCounter {
    fn start(thread: &KernelThread) -> Result<SystemCallCounter, EchoError> {
        let failed = |error: std::io::Error| EchoError::Perf(error.to_string());
        let mut perf = Command::new("perf")
            .args(["stat", "--field-separator", ",", "--event"])
            .args(["raw_syscalls:sys_enter", "--tid", &thread.id])
            .args(["--", "sh", "-c", "echo begun; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut begun = [0; 6];
        let has_begun = perf
            .stdout
            .as_mut()
            .is_some_and(|output| output.read_exact(&mut begun).is_ok());
        if has_begun {
            return Ok(SystemCallCounter(perf));
        }
        let output = perf.wait_with_output().map_err(failed)?;
        let text = String::from_utf8_lossy(&output.stderr);
        Err(EchoError::Perf(text.into_owned()))
    }

    fn finish(mut self) -> Result<u64, EchoError> {
        let failed = |error: std::io::Error| EchoError::Perf(error.to_string());
        if let Some(input) = self.0.stdin.as_mut() {
            input.write_all(b"\n").map_err(failed)?;
        }
        let output = self.0.wait_with_output().map_err(failed)?;
        let text = String::from_utf8_lossy(&output.stderr);
        text.lines()
            .find(|line| line.contains("sys_enter"))
            .and_then(|line| line.split(',').next()?.parse().ok())
            .ok_or_else(|| EchoError::Perf(text.clone().into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_answers_every_connection() {
        for server in [Server::Glommio, Server::Ring, Server::RingThread] {
            let workload = Workload {
                connections: 8,
                bytes: 256,
                warm_up: Duration::from_millis(20),
                measured: Duration::from_millis(50),
            };
            let figures = measure(server, workload, false).unwrap();
            assert!(figures.round_trips > 0, "{server:?}: {figures:?}");
        }
    }
}
