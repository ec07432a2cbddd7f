//! A router in a process of its own: for what the kernel knows about it, and for signals.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use crate::world::DEADLINE;

pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// Starts `slim-router` with one shard and waits until it serves.
    pub fn new() -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_slim-router"))
            .args(["--listen", "127.0.0.1:0", "--shards", "1"])
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo has built it");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let address = lines
            .by_ref()
            .map(|line| line.expect("text"))
            .find_map(|line| {
                let (_, rest) = line.split_once("serving ")?;
                rest.split_once(' ')?.0.parse().ok()
            })
            .expect("it says where it serves");
        // A pipe that nobody reads would hold it up.
        thread::spawn(move || lines.for_each(drop));
        Process { child, address }
    }

    /// The most memory that it has ever had resident, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .expect("Linux says it");
        kilobytes.parse::<u64>().expect("a number") * 1_024
    }

    /// As `kill` does it.
    pub fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.expect("there is a shell").success());
    }

    pub async fn exit(mut self) -> ExitStatus {
        let waiting = tokio::task::spawn_blocking(move || self.child.wait());
        tokio::time::timeout(DEADLINE, waiting)
            .await
            .expect("it exits in time")
            .expect("nothing panics here")
            .expect("it is our child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
