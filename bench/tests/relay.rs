//! The relay, by the load generator that measures it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;

use clap::Parser;
use slim_bench::relay::{Mac, Relay, RelayError};
use slim_loadgen::args::Args;
use slim_loadgen::ledger::Faults;
use slim_loadgen::plan::Plan;
use slim_loadgen::report::Report;
use slim_loadgen::run::run;

/// Any free port.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn measure(relay: &Relay, command: &str) -> Report {
    let target = relay.address.to_string();
    let words = ["slim-loadgen"].into_iter().chain(command.split(' '));
    let args = Args::parse_from(words.chain(["--target", &target]));
    let plan = Plan::new(&args.command, command.to_owned()).unwrap();
    run(&plan, &AtomicBool::new(false)).unwrap()
}

/// Runs for a moment. How many messages it were while measuring is not asked: on a busy machine a moment may pass without
/// one.
fn all_arrives(relay: &Relay, command: &str) {
    let report = measure(relay, &format!("{command} --duration 200ms --warm-up 50ms"));
    assert_eq!(report.cut_short, None, "{command}");
    assert_eq!(report.faults, Faults::default(), "{command}");
    assert!(report.traffic.is_some(), "{command}");
}

#[test]
fn every_workload_arrives_once_and_in_order() {
    let relay = Relay::start(ANY, Mac::On, None).unwrap();
    all_arrives(&relay, "ping --pairs 5");
    all_arrives(&relay, "ping --pairs 2 --in-flight 7 --payload 24");
    all_arrives(&relay, "stream --pairs 3");
    all_arrives(&relay, "fanout --publishers 3 --subscribers 5");
}

#[test]
fn messages_larger_than_a_frame_and_than_a_window_arrive() {
    let relay = Relay::start(ANY, Mac::On, None).unwrap();
    all_arrives(&relay, "ping --pairs 2 --payload 40000");
    all_arrives(&relay, "ping --pairs 1 --payload 3000000");
    all_arrives(&relay, "stream --pairs 2 --payload 100000");
}

#[test]
fn idle_connections_stay() {
    let relay = Relay::start(ANY, Mac::On, None).unwrap();
    let report = measure(&relay, "connect --connections 50 --hold 100ms");
    assert_eq!(report.cut_short, None);
    assert_eq!(report.set_up.connections, 50);
}

#[test]
fn an_address_of_another_machine_is_named() {
    // Of the range for documentation (RFC 5737).
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
    let error = Relay::start(elsewhere, Mac::On, None).err().unwrap();
    assert!(
        matches!(error, RelayError::Listen { address, .. } if address == elsewhere),
        "{error}"
    );
}
