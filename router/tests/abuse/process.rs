//! A router in a process of its own: what the kernel knows about it, and what it counted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use slim_router::limits::LOG_LINES_PER_SECOND;

use crate::common::PATIENCE;

pub struct Process {
    child: Child,
    pub address: SocketAddr,
    log: JoinHandle<Vec<String>>,
    started: Instant,
}

impl Process {
    /// Starts `slim-router` with one shard and waits until it serves.
    pub fn start() -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_slim-router"))
            .args(["--listen", "127.0.0.1:0", "--shards", "1"])
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo has built it");
        let stderr = child.stderr.take().expect("it is piped");
        let (serving, served) = mpsc::channel();
        // Read to its end: a pipe that nobody reads would hold it up.
        let log = thread::spawn(move || {
            let lines = BufReader::new(stderr).lines().map_while(Result::ok);
            lines
                .inspect(|line| {
                    if let Some((_, rest)) = line.split_once("serving ") {
                        // Who waited for it may be gone.
                        let _ = serving.send(rest.split(' ').next().unwrap_or_default().to_owned());
                    }
                })
                .collect()
        });
        let address = served
            .recv_timeout(PATIENCE)
            .expect("it says where it serves");
        Process {
            child,
            address: address.parse().expect("an address"),
            log,
            started: Instant::now(),
        }
    }

    /// Processor time of all its threads.
    pub fn processor_time(&self) -> Duration {
        let tasks = fs::read_dir(self.proc("task")).expect("it runs");
        let nanoseconds = tasks.filter_map(|task| {
            // A thread may have ended meanwhile.
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Resident now.
    pub fn memory_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// Forgets the peak so far.
    pub fn reset_peak_memory(&self) {
        fs::write(self.proc("clear_refs"), "5").expect("it is ours");
    }

    /// The most that was resident since.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("it runs");
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .expect("Linux says it");
        kilobytes.parse::<u64>().expect("a number") * 1_024
    }

    /// Open sockets, listening ones and both ends of pairs included.
    pub fn sockets(&self) -> usize {
        let descriptors = fs::read_dir(self.proc("fd")).expect("it runs");
        descriptors
            .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    fn proc(&self, file: &str) -> std::path::PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join(file)
    }

    /// Ends it as `kill` does. What it counted, but for what is zero.
    pub fn stop(mut self) -> BTreeMap<String, u64> {
        let kill = format!("kill -TERM {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.expect("there is a shell").success());
        // It drains, and ends by itself: its log ends with it.
        let log = self.log.join().expect("nothing panics there");
        assert!(self.child.wait().expect("it is our child").success());
        // Nobody makes it fill a disk: what it says of connections in a second is bounded, and the rest is a few lines.
        let lines_max = u64::from(LOG_LINES_PER_SECOND) * (self.started.elapsed().as_secs() + 2);
        assert!(log.len() as u64 <= lines_max + 20, "{} lines", log.len());
        let line = log.iter().rev().find(|line| line.contains("stopped"));
        let (_, counts) = line
            .and_then(|line| line.split_once("counters="))
            .expect("it says what it counted");
        counts
            .split_whitespace()
            .map(|count| {
                let (name, value) = count.split_once('=').expect("name=value");
                (name.to_owned(), value.parse().expect("a number"))
            })
            .collect()
    }

    /// Ends it at once: a test has failed.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
