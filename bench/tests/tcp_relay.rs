//! The relay of plain bytes, by the load generator that measures it, and by a hand that does not keep to the rules.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Parser;
use slim_bench::tcp_relay::{ANSWER_BYTES, HELLO_BYTES, TcpRelay, WINDOW_BYTES};
use slim_loadgen::args::Args;
use slim_loadgen::ledger::Faults;
use slim_loadgen::plan::Plan;
use slim_loadgen::run::run;

/// Any free port.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Runs for a moment. How many messages it were while measuring is not asked: on a busy machine a moment may pass without
/// one.
fn all_arrives(relay: &TcpRelay, command: &str) {
    let command = format!("{command} --duration 200ms --warm-up 50ms");
    let target = format!("tcp://{}", relay.address);
    let words = ["slim-loadgen"].into_iter().chain(command.split(' '));
    let args = Args::parse_from(words.chain(["--target", &target]));
    let plan = Plan::new(&args.command, command.clone()).unwrap();
    let report = run(&plan, &AtomicBool::new(false)).unwrap();
    assert_eq!(report.cut_short, None, "{command}");
    assert_eq!(report.faults, Faults::default(), "{command}");
    assert_eq!(report.target_protocol, "tcp");
}

#[test]
fn every_workload_arrives_once_and_in_order() {
    let relay = TcpRelay::start(ANY, None).unwrap();
    all_arrives(&relay, "stream --pairs 3");
    all_arrives(&relay, "stream --pairs 2 --payload 24-70000");
    all_arrives(&relay, "fanout --subscribers 5");
    all_arrives(&relay, "rate --rate 1000 --pairs 2");
}

#[test]
fn messages_larger_than_a_window_arrive() {
    let relay = TcpRelay::start(ANY, None).unwrap();
    all_arrives(&relay, "stream --pairs 2 --payload 65536");
    all_arrives(&relay, "stream --pairs 1 --payload 3000000");
    all_arrives(&relay, "fanout --subscribers 3 --payload 1048576");
}

struct Hand(TcpStream);

impl Hand {
    /// Says hello and reads the answer.
    fn joined(relay: &TcpRelay, words: &str) -> (Self, u64) {
        let mut hand = Self::connected(relay, words);
        let mut answer = [0; ANSWER_BYTES];
        hand.0.read_exact(&mut answer).unwrap();
        (hand, u64::from_le_bytes(answer))
    }

    fn connected(relay: &TcpRelay, words: &str) -> Self {
        let mut stream = TcpStream::connect(relay.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut hello = format!("tcp-relay 1 {words}").into_bytes();
        hello.resize(HELLO_BYTES - 1, b' ');
        hello.push(b'\n');
        stream.write_all(&hello).unwrap();
        Self(stream)
    }

    fn meets_its_end(&mut self) -> bool {
        let mut rest = Vec::new();
        // Closed with bytes unread, it is reset.
        self.0.read_to_end(&mut rest).map_or_else(
            |error| error.kind() == std::io::ErrorKind::ConnectionReset,
            |_| true,
        )
    }
}

#[test]
fn a_sender_whose_receiver_does_not_read_is_told_of_one_window_and_no_more() {
    let relay = TcpRelay::start(ANY, None).unwrap();
    let (mut receiver, _) = Hand::joined(&relay, "hears a");
    let (mut sender, granted) = Hand::joined(&relay, "sends a");
    assert_eq!(granted, WINDOW_BYTES);
    // It may send on only as the kernel's buffers, which are not the relay's, take what it sent.
    let mut told = granted;
    let mut sent = 0;
    sender
        .0
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    loop {
        sender
            .0
            .write_all(&vec![7; (told - sent) as usize])
            .unwrap();
        sent = told;
        let mut answer = [0; ANSWER_BYTES];
        if sender.0.read_exact(&mut answer).is_err() {
            break;
        }
        told = u64::from_le_bytes(answer);
    }
    // Now it reads: all comes, and then the sender may go on.
    let mut rest = vec![0; sent as usize];
    receiver.0.read_exact(&mut rest).unwrap();
    assert!(rest.iter().all(|byte| *byte == 7));
    let mut answer = [0; ANSWER_BYTES];
    sender
        .0
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    sender.0.read_exact(&mut answer).unwrap();
    assert!(u64::from_le_bytes(answer) > sent);
    // And one byte more than it may is one too many.
    while u64::from_le_bytes(answer) < sent + WINDOW_BYTES {
        sender.0.read_exact(&mut answer).unwrap();
    }
    let too_many = vec![7; WINDOW_BYTES as usize + 1];
    let _ = sender.0.write_all(&too_many);
    assert!(sender.meets_its_end());
}

#[test]
fn who_does_not_keep_to_the_rules_is_ended_and_others_are_not() {
    let relay = TcpRelay::start(ANY, None).unwrap();
    assert!(Hand::connected(&relay, "wants a").meets_its_end());
    let (mut sender, _) = Hand::joined(&relay, "sends a");
    assert!(Hand::connected(&relay, "sends a").meets_its_end());
    let (mut receiver, _) = Hand::joined(&relay, "hears a");
    sender.0.write_all(b"first").unwrap();
    let mut bytes = [0; 5];
    receiver.0.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"first");
    assert!(Hand::connected(&relay, "hears a").meets_its_end());
    let (mut talker, _) = Hand::joined(&relay, "hears b");
    talker.0.write_all(b"x").unwrap();
    assert!(talker.meets_its_end());
    sender.0.write_all(b"other").unwrap();
    receiver.0.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"other");
}
