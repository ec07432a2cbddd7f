//! A router in a process of its own, with little memory, and clients that want all of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use slim_proto::name::Name;

use crate::RESOURCE_EXHAUSTED;
use crate::common::*;

const CEILING_BYTES: u64 = 64 << 20;
const NO_MEMORY: &str = "the router has no memory to spare";

/// A window of a client that does not return credit.
const RELUCTANT_WINDOW_BYTES: u32 = 65_535;

/// A connection that took so long had to wait for room.
const MADE_TO_WAIT: Duration = Duration::from_secs(1);

/// The tests run in turn: each of them keeps a machine busy.
static ALONE: Mutex<()> = Mutex::new(());

struct Process {
    child: Child,
    address: SocketAddr,
    config: PathBuf,
    pair: [Client; 2],
    said: u64,
}

impl Process {
    fn start(test: &str, shards: u16) -> Process {
        let file = format!("slim-limits-{}-{test}-{shards}.yaml", std::process::id());
        let config = std::env::temp_dir().join(file);
        let text = format!(
            "runtime: {{n_cores: {shards}}}\n\
             limits: {{memory: {CEILING_BYTES}}}\n\
             services: {{slim/0: {{dataplane: {{servers: [{{endpoint: '127.0.0.1:0', tls: {{insecure: true}}}}]}}}}}}\n"
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_slim-router"))
            .arg("--config")
            .arg(&config)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo has built it");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map(|line| line.unwrap())
            .find_map(|line| {
                let (_, rest) = line.split_once("serving ")?;
                rest.split_once(' ')?.0.parse().ok()
            })
            .expect("it says where it serves");
        // A pipe that nobody reads would hold it up.
        thread::spawn(move || lines.for_each(drop));
        let connect = || Client::negotiate(Http2::connect(address), dialer());
        let mut pair = [connect(), connect()];
        pair[0].subscribe(&name("bystander"));
        let mut process = Process {
            child,
            address,
            config,
            pair,
            said: 0,
        };
        process.bystanders_talk();
        process
    }

    /// `None` if it was closed at once, or had to wait: memory is little, and an attack can do no more.
    fn attack(&self) -> Option<Client> {
        let before = Instant::now();
        let client = Client::negotiate(Http2::try_connect(self.address)?, dialer());
        (before.elapsed() < MADE_TO_WAIT).then_some(client)
    }

    /// The same, of a client that reads one window and then nothing.
    fn attack_reluctantly(&self) -> Option<Client> {
        let before = Instant::now();
        let mut http2 = Http2::try_connect(self.address)?;
        http2.stream_window_bytes = RELUCTANT_WINDOW_BYTES;
        http2.returns_credit = false;
        let client = Client::negotiate(http2, dialer());
        (before.elapsed() < MADE_TO_WAIT).then_some(client)
    }

    /// They came before, want little, and must not notice.
    fn bystanders_talk(&mut self) {
        for _ in 0..10 {
            self.said += 1;
            let [hearer, speaker] = &mut self.pair;
            speaker.publish(&name("bystander"), &self.said.to_be_bytes());
            assert_eq!(hearer.next_publication().blob(), self.said.to_be_bytes());
        }
    }

    #[track_caller]
    fn expect_below_ceiling(&self) {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("it runs");
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .map(|kilobytes| kilobytes.trim().parse::<u64>().unwrap() * 1_024)
            .expect("Linux says it");
        assert!(peak <= CEILING_BYTES, "{peak} bytes resident");
    }

    /// Everybody has left: who comes now is served, after a while.
    fn expect_recovery(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let to = name("latecomer");
        let mut latecomer = loop {
            assert!(Instant::now() < deadline, "nobody is let in any more");
            let Some(http2) = Http2::try_connect(self.address) else {
                continue;
            };
            let mut latecomer = Client::negotiate(http2, dialer());
            latecomer.send(&subscribe(&to, 1));
            if let Inbound::Ack(ack) = latecomer.next()
                && ack.success
            {
                break latecomer;
            }
        };
        let [_, speaker] = &mut self.pair;
        speaker.publish(&to, &[7; 100_000]);
        assert_eq!(latecomer.next_publication().blob(), [7; 100_000]);
        self.bystanders_talk();
        self.expect_below_ceiling();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

/// Subscribes to new names, each client until it is refused for want of memory, until no more clients are let in. They keep
/// what they have.
fn hoard_names(process: &Process) -> Vec<Client> {
    let mut hoarders = Vec::new();
    while let Some(mut client) = process.attack() {
        fill_with_names(&mut client, hoarders.len());
        hoarders.push(client);
    }
    hoarders
}

fn fill_with_names(client: &mut Client, hoarder: usize) {
    for batch in 0..30 {
        for i in 0..1_000u64 {
            let to = id_name(&format!("hoard-{hoarder}-{batch}-{i}"), 1);
            client.send(&subscribe(&to, batch * 1_000 + i + 1));
        }
        for _ in 0..1_000 {
            let ack = client.next_ack();
            if !ack.success {
                assert_eq!(ack.error, NO_MEMORY);
                return;
            }
        }
    }
}

/// Begins messages and finishes none.
fn begin_messages(process: &Process, clients: usize) -> Vec<Client> {
    let begin = |_| {
        let mut client = process.attack()?;
        let mut unfinished = slim_proto::grpc::prefix(4_000_000).to_vec();
        unfinished.resize(client.http2.send_window(), 7);
        client.http2.send_data(&unfinished);
        Some(client)
    };
    (0..clients).map_while(begin).collect()
}

fn silent(i: usize) -> Name {
    name(&format!("silent-{i}"))
}

/// Receivers that read nothing and have as much sent to them as goes, each by a publisher of its own.
fn let_wait(process: &Process, receivers: usize, message_bytes: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for i in 0..receivers {
        let Some(mut receiver) = process.attack_reluctantly() else {
            break;
        };
        // It may be refused: by then there is enough of them.
        receiver.send(&subscribe(&silent(i), 1));
        let Some(mut publisher) = process.attack() else {
            break;
        };
        while publisher.http2.send_window() > message_bytes + 1_000 {
            publisher.publish(&silent(i), &vec![7; message_bytes]);
        }
        clients.extend([receiver, publisher]);
    }
    clients
}

/// Publishers that all send to one receiver that does not read, as much as their windows allow.
fn park(process: &Process, publishers: usize) -> Vec<Client> {
    let to = name("parking");
    let Some(mut receiver) = process.attack_reluctantly() else {
        return Vec::new();
    };
    receiver.send(&subscribe(&to, 1));
    let mut clients = vec![receiver];
    for _ in 0..publishers {
        let Some(mut publisher) = process.attack() else {
            break;
        };
        while publisher.http2.send_window() > 2_000 {
            publisher.publish(&to, &[7; 300]);
        }
        clients.push(publisher);
    }
    clients
}

fn idle(process: &Process, connections: usize) -> Vec<std::net::TcpStream> {
    let connect = |_| std::net::TcpStream::connect(process.address).unwrap();
    (0..connections).map(connect).collect()
}

#[test]
fn with_no_memory_to_spare_subscriptions_are_refused_and_newcomers_wait_and_all_is_well_afterwards()
{
    let _alone = ALONE.lock().unwrap_or_else(|p| p.into_inner());
    for shards in [1, 2] {
        let mut process = Process::start("names", shards);
        let hoarders = hoard_names(&process);
        process.bystanders_talk();
        // None: it was closed at accept, which is for when even more is in use.
        if let Some(http2) = Http2::try_connect(process.address) {
            let mut newcomer = Client::negotiate(http2, dialer());
            let text = newcomer.expect_status(RESOURCE_EXHAUSTED);
            assert!(text.contains("no memory to spare"), "{text}");
        }
        process.expect_below_ceiling();
        drop(hoarders);
        process.expect_recovery();
    }
}

#[test]
fn who_begins_messages_and_finishes_none_is_ended_before_that_takes_the_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|p| p.into_inner());
    let mut process = Process::start("unfinished", 1);
    let mut clients = begin_messages(&process, 100);
    process.bystanders_talk();
    process.expect_below_ceiling();
    // The last one made it too much, as most before it did.
    let last = clients.last_mut().unwrap();
    let text = last.expect_status(RESOURCE_EXHAUSTED);
    assert!(text.contains("unfinished message"), "{text}");
    drop(clients);
    process.expect_recovery();
}

#[test]
fn what_waits_for_receivers_that_do_not_read_does_not_take_the_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|p| p.into_inner());
    for (shards, bytes) in [(1, 20_000), (2, 20_000), (2, 200_000)] {
        let mut process = Process::start("receivers", shards);
        let clients = let_wait(&process, 150, bytes);
        process.bystanders_talk();
        process.expect_below_ceiling();
        drop(clients);
        process.expect_recovery();
    }
}

#[test]
fn what_is_parked_for_publishers_that_wait_does_not_take_the_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|p| p.into_inner());
    for shards in [1, 2] {
        let mut process = Process::start("parked", shards);
        let clients = park(&process, 60);
        process.bystanders_talk();
        process.expect_below_ceiling();
        drop(clients);
        process.expect_recovery();
    }
}

#[test]
fn everything_at_once_does_not_take_the_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|p| p.into_inner());
    let mut process = Process::start("all", 2);
    let hoard = {
        let process = &process;
        thread::scope(|scope| {
            let all = [
                scope.spawn(|| begin_messages(process, 40)),
                scope.spawn(|| let_wait(process, 40, 20_000)),
                scope.spawn(|| let_wait(process, 40, 100_000)),
                scope.spawn(|| park(process, 30)),
            ];
            let idle = idle(process, 2_000);
            let clients: Vec<_> = all
                .into_iter()
                .flat_map(|attack| attack.join().unwrap())
                .collect();
            (clients, idle)
        })
    };
    process.bystanders_talk();
    process.expect_below_ceiling();
    let names = hoard_names(&process);
    process.bystanders_talk();
    process.expect_below_ceiling();
    drop((hoard, names));
    process.expect_recovery();
}
