//! A router in a process of its own: for what the kernel knows about it, and for signals.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::{Http2, Mac, PATIENCE};

/// Dropping it kills it.
pub struct RouterProcess {
    child: Child,
    pub address: SocketAddr,
    lines: Mutex<mpsc::Receiver<String>>,
}

impl RouterProcess {
    /// Starts `slim-router` and waits until it serves.
    pub fn start(shards: u16) -> RouterProcess {
        RouterProcess::start_with(shards, Mac::On, None)
    }

    /// - `mac`: whether clients must sign.
    /// - `descriptors_max`: RLIMIT_NOFILE, soft and hard.
    pub fn start_with(shards: u16, mac: Mac, descriptors_max: Option<u32>) -> RouterProcess {
        static ROUTERS: AtomicU32 = AtomicU32::new(0);
        let number = ROUTERS.fetch_add(1, Ordering::Relaxed);
        let config = std::env::temp_dir().join(format!("slim-{}-{number}.yaml", process::id()));
        let text = format!(
            "services:\n  slim/0:\n    dataplane:\n      servers:\n        - endpoint: 127.0.0.1:0\n          \
             require_header_mac: {}\n          tls: {{ insecure: true }}\n",
            mac == Mac::On
        );
        fs::write(&config, text).expect("a place for temporary files");
        let limit = descriptors_max.map_or_else(String::new, |max| format!("ulimit -n {max} && "));
        let mut child = Command::new("sh")
            .args(["-c", &format!("{limit}exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_slim-router"))
            .args(["--shards", &shards.to_string(), "--config"])
            .arg(&config)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // A pipe that nobody reads would hold it up; whoever asked may have gone.
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut process = RouterProcess {
            child,
            address: ([127, 0, 0, 1], 0).into(),
            lines: Mutex::new(lines),
        };
        let serving = process.line_with("serving ");
        let (_, rest) = serving.split_once("serving ").expect("it is in there");
        let address = rest.split(' ').next().and_then(|text| text.parse().ok());
        process.address = address.expect("it says where it serves");
        // It has been read. What is not there is no harm.
        let _ = fs::remove_file(config);
        process
    }

    pub fn connect(&self) -> Http2 {
        Http2::connect(self.address)
    }

    /// Resident memory now.
    pub fn memory_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most memory that it has ever had resident.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, key: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("it runs");
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .expect("Linux says it");
        kilobytes.parse::<u64>().expect("a number") * 1_024
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).expect("it runs").count()
    }

    /// Waits until it has no more than `most` descriptors open.
    pub fn await_descriptors(&self, most: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.descriptors() > most {
            let open = self.descriptors();
            assert!(Instant::now() < deadline, "{open} descriptors of {most}");
            thread::yield_now();
        }
    }

    /// Processor time of all its threads.
    pub fn processor_time(&self) -> Duration {
        let nanoseconds = fs::read_dir(self.proc("task"))
            .expect("it runs")
            .map(|task| {
                let path = task.expect("it runs").path().join("schedstat");
                // A thread may end meanwhile.
                let text = fs::read_to_string(path).unwrap_or_default();
                let first = text.split(' ').next().and_then(|text| text.parse().ok());
                first.unwrap_or(0)
            })
            .sum();
        Duration::from_nanos(nanoseconds)
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Ends it gently and returns what it counted.
    pub fn stop(self) -> Vec<(String, u64)> {
        self.signal("TERM");
        let line = self.line_with("stopped");
        let (_, counters) = line
            .split_once("counters=")
            .expect("it says what it counted");
        counters
            .split_whitespace()
            .filter_map(|word| {
                let (name, value) = word.split_once('=')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect()
    }

    /// Waits for a log line with this text.
    pub fn line_with(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.lock().unwrap().recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(error) => panic!("it did not say {text:?}: {error}"),
            }
        }
    }
}

impl Drop for RouterProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// - `signal`: its name without SIG.
pub fn signal(child: &Child, signal: &str) {
    let kill = format!("kill -{signal} {}", child.id());
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.expect("there is a shell").success());
}
