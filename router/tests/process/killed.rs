//! Clients that disappear with SIGKILL. Each is this test's own program, run once more as a client, which goes into the state
//! that it is told and stays there.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Bystanders;
use crate::common::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connected,
    Preface,
    Settings,
    OpenChannel,
    Requested,
    Negotiating,
    Open,
    FrameHeader,
    Frame,
    Subscribing,
    Publishing,
    Receiving,
    Held,
    Parked,
    Ending,
    HalfClosed,
}

const STATES: [State; 16] = [
    State::Connected,
    State::Preface,
    State::Settings,
    State::OpenChannel,
    State::Requested,
    State::Negotiating,
    State::Open,
    State::FrameHeader,
    State::Frame,
    State::Subscribing,
    State::Publishing,
    State::Receiving,
    State::Held,
    State::Parked,
    State::Ending,
    State::HalfClosed,
];

const STATE: &str = "SLIM_TEST_STATE";
const ADDRESS: &str = "SLIM_TEST_ADDRESS";
const READY: &str = "the client is ready";

/// Messages that a client has subscribed to when it is killed, and nobody else.
const NAMES: u128 = 100;

fn own_name(state: State, i: u128) -> slim_proto::name::Name {
    id_name(&format!("killed-{state:?}"), i + 1)
}

/// The client of the tests below; by itself it does nothing.
#[test]
fn client() {
    let (Ok(state), Ok(address)) = (env::var(STATE), env::var(ADDRESS)) else {
        return;
    };
    let state = STATES
        .into_iter()
        .find(|known| format!("{known:?}") == state)
        .expect("one of them");
    let _in_it = go_into(state, address.parse().unwrap());
    println!("{READY}");
    std::io::stdout().flush().unwrap();
    loop {
        thread::park();
    }
}

/// What a client holds on to.
#[allow(dead_code)]
enum Holding {
    Socket(TcpStream),
    Http2(Http2),
    Links(Vec<Link>),
}

fn go_into(state: State, address: SocketAddr) -> Holding {
    let settings = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 32, 0, 0];
    let socket = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(bytes).unwrap();
        Holding::Socket(socket)
    };
    match state {
        State::Connected => return socket(&[]),
        State::Preface => return socket(&PREFACE[..PREFACE.len() / 2]),
        State::Settings => return socket(&[PREFACE, &settings[..12]].concat()),
        _ => {}
    }
    let mut http2 = Http2::connect(address);
    match state {
        State::OpenChannel => {
            http2.send_preface();
            // A HEADERS frame of 100 bytes, of which ten come.
            http2.send_raw(&[0, 0, 100, 1, 4, 0, 0, 0, 1]);
            http2.send_raw(&[0; 10]);
            return Holding::Http2(http2);
        }
        State::Requested => {
            http2.open();
            return Holding::Http2(http2);
        }
        State::Negotiating => {
            http2.open();
            let (_, request) = dialer().dial().unwrap();
            let message = [&slim_proto::grpc::prefix(request.len())[..], &request].concat();
            http2.send_data(&message[..message.len() / 2]);
            return Holding::Http2(http2);
        }
        _ => {}
    }
    http2.returns_credit = false;
    let mut link = Link::connect(http2, Mac::On);
    for i in 0..NAMES {
        link.subscribe(&own_name(state, i));
    }
    let to = own_name(state, 0);
    let mut links = Vec::new();
    match state {
        State::FrameHeader => link.http2.send_raw(&[0, 4, 0, 0]),
        State::Frame => {
            link.http2.send_raw(&[0, 4, 0, 0, 0, 0, 0, 0, 1]);
            link.http2.send_raw(&[0; 3]);
        }
        State::Subscribing => {
            let messages: Vec<_> = (1..=1_000)
                .map(|id| link.prepared(&subscribe(&id_name("killed-subscribing", id.into()), id)))
                .collect();
            link.http2.send_messages(&messages);
        }
        State::Publishing => {
            let message = link.prepared_publish(&to, 1, 4_000_000);
            let framed = [&slim_proto::grpc::prefix(message.len())[..], &message].concat();
            link.http2.send_data(&framed[..3_000_000]);
        }
        State::Receiving | State::Held | State::Parked => {
            let mut publisher = Link::connect(Http2::connect(address), Mac::On);
            let message = publisher.prepared_publish(&to, 1, 16_384);
            // The window, and then what makes the receiver pressed; and what its publisher may still send.
            let messages = match state {
                State::Receiving => 100,
                State::Held => (2_097_152 + 1_048_576) / message.len() + 2,
                _ => (2_097_152 + 1_048_576 + 900_000) / message.len(),
            };
            publisher.http2.send_messages(&vec![message; messages]);
            links.push(publisher);
        }
        State::Ending => link
            .http2
            .send_frame(kind::RST_STREAM, 0, 1, &8u32.to_be_bytes()),
        State::HalfClosed => link.http2.shut_down_writing(),
        _ => {}
    }
    links.push(link);
    Holding::Links(links)
}

/// A process that has gone into the state.
fn client_in(state: State, address: SocketAddr) -> Child {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "killed::client", "--nocapture"])
        .env(STATE, format!("{state:?}"))
        .env(ADDRESS, address.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.is_ok_and(|line| line.contains(READY))),
        "it ended before it was in the state {state:?}"
    );
    child
}

fn kill(mut client: Child) {
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn a_client_killed_in_any_state_leaves_no_descriptor_and_costs_others_nothing() {
    let router = RouterProcess::start(2);
    let mut bystanders = Bystanders::new(&router, Mac::On);
    let descriptors = router.descriptors();
    for state in STATES {
        let client = client_in(state, router.address);
        bystanders.hear_each_other();
        // What has ended may have been closed by now.
        let is_open = !matches!(state, State::Ending | State::HalfClosed);
        assert!(!is_open || router.descriptors() > descriptors, "{state:?}");
        kill(client);
        bystanders.hear_each_other();
        router.await_descriptors(descriptors);
    }
    let counters = router.stop();
    for counter in ["cut_slow_receiver", "ended_timeout", "ended_http2"] {
        assert!(
            counters.iter().all(|(name, _)| name != counter),
            "{counters:?}"
        );
    }
}

#[test]
fn clients_killed_in_all_states_again_and_again_leave_no_memory() {
    /// What is kept for reuse, and the allocator's habits.
    const SLACK_BYTES: u64 = 4 << 20;
    const ROUNDS: usize = 5;
    /// Until receive buffers have been written to, pools have what is needed, and tables have grown.
    const WARM_UP_ROUNDS: usize = 5;
    let router = RouterProcess::start(2);
    let mut bystanders = Bystanders::new(&router, Mac::On);
    let descriptors = router.descriptors();
    let mut round = || {
        let clients = STATES.map(|state| client_in(state, router.address));
        bystanders.hear_each_other();
        clients.into_iter().for_each(kill);
        router.await_descriptors(descriptors);
        bystanders.hear_each_other();
        router.memory_bytes()
    };
    let first = (0..WARM_UP_ROUNDS).map(|_| round()).last().unwrap();
    let after: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
    let least = *after.iter().min().unwrap();
    assert!(least < first + SLACK_BYTES, "{first}, then {after:?}");
}

#[test]
fn a_client_killed_in_any_state_leaves_no_name() {
    for shards in [1, 2] {
        let router = TestRouter::start(shards);
        // One on each shard: all have copies of what they publish to.
        let mut probes: Vec<_> = (0..shards).map(|_| router.connect()).collect();
        let open = router.count("connections_open");
        for state in STATES {
            let names: Vec<_> = (0..NAMES).map(|i| own_name(state, i)).collect();
            let client = client_in(state, router.address());
            for probe in &mut probes {
                probe.publish(&names[1], b"are you there?");
            }
            kill(client);
            router.await_fall("connections_open", open);
            for probe in &mut probes {
                for name in &names {
                    await_no_route(&router, probe, name);
                }
            }
        }
    }
}

/// Publishes to nobody until this shard knows that there is nobody.
fn await_no_route(router: &TestRouter, probe: &mut Client, name: &slim_proto::name::Name) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let no_route = router.count("dropped_no_route");
        let too_late = router.count("dropped_receiver_left");
        probe.publish(name, b"are you there?");
        loop {
            if router.count("dropped_no_route") > no_route {
                return;
            }
            if router.count("dropped_receiver_left") > too_late {
                break;
            }
            assert!(Instant::now() < deadline, "{name:?}: {}", router.counters());
            thread::yield_now();
        }
    }
}

/// As a peer whose cable is cut: no FIN, no RST, and no answer. (Its kernel does acknowledge; the router does not rely on that.)
#[test]
fn a_frozen_client_is_found_by_its_silence() {
    let router = TestRouter::start_with(1, |config| {
        for listener in &mut config.listeners {
            listener.keepalive_interval = Duration::from_millis(200);
            listener.keepalive_timeout = Duration::from_millis(800);
        }
    });
    let client = client_in(State::Open, router.address());
    signal(&client, "STOP");
    router.await_count("ended_keepalive", 1);
    router.await_fall("connections_open", 0);
    kill(client);
}
