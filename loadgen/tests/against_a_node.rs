//! Whole runs: against our own router, in this process, and against what is not a node.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use slim_loadgen::args::Args;
use slim_loadgen::compare::compare;
use slim_loadgen::http2::Http2Error;
use slim_loadgen::ledger::Faults;
use slim_loadgen::link::LinkError;
use slim_loadgen::plan::Plan;
use slim_loadgen::report::Report;
use slim_loadgen::run::{RunError, run};
use slim_loadgen::sweep::sweep;
use slim_loadgen::worker::WorkerError;
use slim_router::Router;
use slim_router::config::Config;

/// A router of two shards, so that both halves of a pair may be on different ones.
struct Node {
    router: Router,
    target: String,
}

impl Node {
    fn listening_on(address: &str) -> Self {
        let args = slim_router::args::Args {
            listen: vec![address.parse().unwrap()],
            shards: "2".parse().ok(),
            ..Default::default()
        };
        let router = Router::start(Config::load(&args, &|_| None).unwrap()).unwrap();
        let target = router.addresses().first().unwrap().to_string();
        Self { router, target }
    }

    fn start() -> Self {
        Self::listening_on("127.0.0.1:0")
    }

    /// Of a YAML file with this text.
    fn with_config(text: &str) -> Self {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let file = format!("slim-loadgen-{}-{number}.yaml", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, text).unwrap();
        let args = slim_router::args::Args {
            config: Some(path.clone()),
            ..Default::default()
        };
        let config = Config::load(&args, &|_| None);
        std::fs::remove_file(&path).unwrap();
        let router = Router::start(config.unwrap()).unwrap();
        let target = router.addresses().first().unwrap().to_string();
        Self { router, target }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.router.drain();
        let _ = self.router.wait_drained(Duration::from_secs(5));
    }
}

/// A node that takes links without a MAC.
const LAX: &str = "
tracing:
  log_level: error
runtime:
  n_cores: 2
services:
  slim/0:
    dataplane:
      servers:
        - endpoint: 127.0.0.1:0
          require_header_mac: false
          tls:
            insecure: true
";

fn plan(target: &str, command: &str) -> Plan {
    let words = ["slim-loadgen"].into_iter().chain(command.split(' '));
    let args = Args::parse_from(words.chain(["--target", target]));
    Plan::new(&args.command, command.to_owned()).unwrap()
}

fn measure(target: &str, command: &str) -> Result<Report, RunError> {
    run(&plan(target, command), &AtomicBool::new(false))
}

/// Runs for a moment: messages went through the node, and all of them arrived once and in order. How many it were while
/// measuring is not asked: on a busy machine a moment may pass without one.
fn all_arrives(node: &Node, command: &str) {
    let before = node.router.counters().messages_received;
    let command = format!("{command} --duration 200ms --warm-up 50ms");
    let report = measure(&node.target, &command).unwrap();
    assert_eq!(report.cut_short, None, "{command}");
    assert_eq!(report.faults, Faults::default(), "{command}");
    assert!(
        node.router.counters().messages_received > before,
        "{command}"
    );
}

#[test]
fn a_receiver_that_stops_costs_the_others_no_message_and_is_cut() {
    let node = Node::start();
    for command in [
        "slow --receivers 4 --rate 500 --payload 16384 --before 500ms --during 4s --after 500ms --warm-up 100ms",
        "slow --unicast --receivers 3 --rate 1500 --payload 16384 --before 500ms --during 4s --after 500ms --warm-up 100ms",
    ] {
        let report = measure(&node.target, command).unwrap();
        assert_eq!(report.cut_short, None, "{command}");
        assert_eq!(report.faults, Faults::default(), "{command}");
        let slow = report.slow.unwrap();
        assert_eq!(slow.slow_cut, 1, "{command}");
        assert!(slow.slow_received > 0 && slow.slow_lost > 0, "{command}");
        let windows = [&slow.before, &slow.during, &slow.after];
        assert!(slow.before.delivered > 0);
        let sum: u64 = windows.iter().map(|window| window.delivered).sum();
        assert_eq!(sum, report.traffic.unwrap().latency.samples, "{command}");
    }
}

#[test]
fn a_receiver_that_reads_at_half_the_speed_loses_nothing() {
    let node = Node::start();
    let command = "slow --half-speed --receivers 4 --rate 2000 --before 500ms --during 2s --after 500ms --warm-up 100ms";
    let report = measure(&node.target, command).unwrap();
    assert_eq!(report.cut_short, None);
    assert_eq!(report.faults, Faults::default());
    let slow = report.slow.unwrap();
    assert_eq!((slow.slow_lost, slow.slow_cut), (0, 0));
}

#[test]
fn every_workload_arrives_once_and_in_order() {
    let node = Node::start();
    all_arrives(&node, "ping --pairs 5");
    all_arrives(&node, "ping --pairs 2 --in-flight 7 --payload 24");
    all_arrives(&node, "stream --pairs 3");
    all_arrives(&node, "fanout --publishers 3 --subscribers 5");
}

#[test]
fn messages_larger_than_a_frame_and_than_a_window_arrive() {
    let node = Node::start();
    all_arrives(&node, "ping --pairs 2 --payload 40000");
    all_arrives(&node, "ping --pairs 1 --payload 3000000");
    all_arrives(&node, "stream --pairs 2 --payload 100000");
}

#[test]
fn names_and_sizes_may_be_drawn_and_writes_be_single() {
    let node = Node::start();
    let mixed = "--payload 24:5,1024:2,100000:0.1 --names-by zipf:1.1";
    all_arrives(&node, &format!("ping --pairs 2 --names 40 {mixed}"));
    all_arrives(
        &node,
        &format!("rate --rate 2000 --pairs 2 --names 700 {mixed}"),
    );
    all_arrives(&node, "stream --pairs 2 --batch 1 --payload 100-2000");
    all_arrives(&node, "fanout --subscribers 3 --names 5 --payload 24-30");
}

#[test]
fn a_fixed_rate_is_kept_and_its_lateness_told() {
    let node = Node::start();
    let command = "rate --rate 1000 --pairs 4 --duration 500ms --warm-up 100ms";
    let report = measure(&node.target, command).unwrap();
    let traffic = report.traffic.unwrap();
    let rate = traffic.rate.unwrap();
    assert_eq!((rate.asked_per_s, rate.unsent), (1_000, 0));
    assert_eq!(rate.slip.samples, traffic.published);
    // What was due while measuring has a latency, no matter when it arrived.
    assert_eq!(traffic.latency.samples, traffic.published);
}

#[test]
fn a_sweep_ends_just_below_the_least_rate_that_breaks() {
    let node = Node::start();
    let swept = |first_per_s, p99_us_max| {
        let plan_of = |rate_per_s| {
            let command =
                format!("rate --rate {rate_per_s} --pairs 2 --duration 100ms --warm-up 0s");
            Ok(plan(&node.target, &command))
        };
        let (never, mut seen) = (AtomicBool::new(false), 0);
        let report = sweep(first_per_s, p99_us_max, plan_of, &never, |_| seen += 1).unwrap();
        let sweep = report.sweep.unwrap();
        assert_eq!(sweep.steps.len(), seen);
        sweep
    };
    let none = swept(100, 0.0);
    assert_eq!((none.knee_per_s, none.steps.len()), (None, 1));
    assert!(!none.steps[0].held);
    // More than any machine makes: it climbs until one breaks, and ends just below the least that broke.
    let climbed = swept(1_000, f64::INFINITY);
    let broken = climbed.steps.iter().filter(|step| !step.held);
    let least = broken.min_by_key(|step| step.rate_per_s).unwrap();
    assert!(least.why.is_some() && least.tries == 3);
    let mut held = climbed.steps.iter().filter(|step| step.held);
    match climbed.knee_per_s {
        Some(knee) => {
            assert!(held.all(|step| step.rate_per_s <= knee && step.why.is_none()));
            assert!(knee < least.rate_per_s && least.rate_per_s as f64 <= knee as f64 * 1.06);
        }
        // On a machine that is busy enough.
        None => assert_eq!(held.count(), 0),
    }
}

#[test]
fn replaced_connections_subscribe_anew() {
    let node = Node::start();
    let command = "connect --connections 10 --hold 500ms --churn 100";
    let report = measure(&node.target, command).unwrap();
    assert_eq!(report.cut_short, None);
    let churn = report.churn.unwrap();
    assert_eq!(churn.latency.samples, churn.done);
    assert!(churn.done > 0);
    let counters = node.router.counters();
    assert!(counters.connections_accepted >= 10 + churn.done);
}

#[test]
fn without_a_mac_only_where_the_node_was_told() {
    let command = "ping --pairs 2 --mac off";
    let strict = Node::start();
    let refused = measure(&strict.target, command).unwrap_err().to_string();
    assert!(refused.contains("require_header_mac"), "{refused}");
    let lax = Node::with_config(LAX);
    all_arrives(&lax, command);
    all_arrives(&lax, "fanout --mac off");
    // A node that was told takes both.
    all_arrives(&lax, "ping --pairs 2");
}

#[test]
fn targets_are_compared_in_turn_and_an_early_end_is_told() {
    let nodes = [Node::start(), Node::start()];
    let names = vec!["one".to_owned(), "other".to_owned()];
    let never = AtomicBool::new(false);
    let command = "ping --pairs 2 --duration 50ms --warm-up 0s";
    let mut order = Vec::new();
    let compared = compare(command.to_owned(), names.clone(), 2, &never, |target| {
        order.push(target);
        measure(&nodes[target].target, command)
    })
    .unwrap();
    assert_eq!(order, [0, 1, 1, 0]);
    assert_eq!((compared.runs.len(), compared.cut_short), (4, None));

    let mut left = 3;
    let cut = compare(command.to_owned(), names, 2, &never, |target| {
        left -= 1;
        if left == 0 {
            return Err(RunError::Interrupted);
        }
        measure(&nodes[target].target, command)
    })
    .unwrap();
    assert_eq!(cut.runs.len(), 2);
    assert!(cut.cut_short.unwrap().starts_with("other, round 2"));
}

/// Every name in the record is one that SCHEMA.md explains.
#[test]
fn the_record_is_documented() {
    fn names(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    found.push(name.clone());
                    names(value, found);
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            _ => {}
        }
    }
    let schema =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/SCHEMA.md")).unwrap();
    let node = Node::start();
    let pid = std::process::id();
    for command in [
        "rate --rate 500 --duration 50ms --warm-up 0s",
        "fanout --duration 50ms --warm-up 0s",
        "connect --connections 2 --hold 50ms --churn 20",
    ] {
        let report = measure(&node.target, &format!("{command} --server-pid {pid}")).unwrap();
        let mut found = Vec::new();
        names(&serde_json::to_value(&report).unwrap(), &mut found);
        assert!(found.len() > 30);
        for name in found {
            assert!(schema.contains(&format!("`{name}`")), "{name}");
        }
    }
}

#[test]
fn two_workers_share_one_run() {
    let node = Node::start();
    let core = core_affinity::get_core_ids().unwrap().first().unwrap().id;
    all_arrives(&node, &format!("ping --pairs 5 --cores {core},{core}"));
    let fanout = "fanout --publishers 2 --subscribers 3";
    all_arrives(&node, &format!("{fanout} --cores {core},{core}"));
}

#[test]
fn a_unix_socket_is_a_target() {
    let path = std::env::temp_dir().join(format!("slim-loadgen-{}.sock", std::process::id()));
    let node = Node::listening_on(&format!("unix://{}", path.display()));
    all_arrives(&node, "ping --pairs 2");
}

#[test]
fn idle_connections_are_counted_and_the_servers_memory_read() {
    let node = Node::start();
    let pid = std::process::id();
    let command = format!("connect --connections 50 --hold 100ms --server-pid {pid}");
    let report = measure(&node.target, &command).unwrap();
    assert_eq!(report.set_up.connections, 50);
    assert!(report.traffic.is_none());
    let server = report.server.unwrap();
    assert!(server.resident_bytes_ready.unwrap() > 0);
    assert!(server.cores_used.is_some());
}

#[test]
fn a_node_that_ends_in_mid_run_leaves_a_partial_report() {
    let node = Node::start();
    let plan = plan(&node.target, "ping --pairs 4 --duration 60s --warm-up 0s");
    let report = thread::scope(|scope| {
        let report = scope.spawn(|| run(&plan, &AtomicBool::new(false)));
        while node.router.counters().messages_received < 1_000 {
            thread::yield_now();
        }
        node.router.drain();
        report.join().unwrap()
    })
    .unwrap();
    assert!(
        report
            .cut_short
            .unwrap()
            .contains("the server ended the stream")
    );
    assert!(report.traffic.unwrap().delivered > 0);
}

#[test]
fn an_interrupted_run_reports_what_it_has() {
    let node = Node::start();
    let plan = plan(&node.target, "stream --pairs 1 --duration 60s --warm-up 0s");
    let interrupted = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        let report = scope.spawn(|| run(&plan, &interrupted));
        while node.router.counters().messages_received < 1_000 {
            thread::yield_now();
        }
        interrupted.store(true, Ordering::Relaxed);
        report.join().unwrap()
    })
    .unwrap();
    assert_eq!(report.cut_short.as_deref(), Some("interrupted"));
    assert_eq!(report.faults, Faults::default());
}

/// What a run says of a port that answers every connection with `answer` and closes it.
fn against(answer: &'static [u8]) -> RunError {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    // Ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(answer);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            // Read to the end: closing with unread bytes would reset, and the answer might never arrive.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    measure(&target, "ping --pairs 1").unwrap_err()
}

fn link_error(error: RunError) -> LinkError {
    match error {
        RunError::Worker(WorkerError::Link { error, .. }) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn a_port_that_is_no_node_is_told_from_a_node() {
    let http1 = link_error(against(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    assert!(
        matches!(http1, LinkError::Http2(Http2Error::Http1)),
        "{http1}"
    );
    let other = link_error(against(b"INFO {\"server_id\":\"x\"}\r\n"));
    assert!(
        matches!(other, LinkError::Http2(Http2Error::NotHttp2 { .. })),
        "{other}"
    );
    let closed = against(b"").to_string();
    let during = "during the HTTP/2 handshake: the server closed the connection";
    assert!(closed.ends_with(during), "{closed}");
}

#[test]
fn a_port_where_nobody_listens_is_named() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = measure(&free.to_string(), "ping --pairs 1").unwrap_err();
    assert!(
        matches!(error, RunError::Worker(WorkerError::Connect { .. })),
        "{error}"
    );
    assert!(error.to_string().contains(&free.to_string()));
    let path = PathBuf::from("/nonexistent/slim.sock");
    let error = measure(&format!("unix://{}", path.display()), "ping --pairs 1").unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/slim.sock"),
        "{error}"
    );
}
