//! What was typed -> what is done: who connects, who sends what to whom. Checked, with units in the names.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use slim_proto::name::{InstanceId, Name};

use crate::args::{Command, Common, Mac, Traffic};
use crate::choice::{Choice, SizeDraws, Sizes};
use crate::link::Opening;
use crate::message::{Flow, STAMP_BYTES};
use crate::slow::Slowness;
use crate::target::{Protocol, Target};

/// Fan-out of a message for all, as clients write it (dataplane 4.4).
const FANOUT_ALL: u32 = 256;
/// Connections of one run. Each has its own pair of ports, and of those an address has about 28,000 to give.
const CLIENTS_MAX: usize = 1_000_000;
/// Names of one run. Each costs its sender about a kilobyte.
const NAMES_MAX: usize = 1_000_000;
/// Pairs of a flow and a receiver in one run. Each has a ledger.
const LEDGERS_MAX: usize = 10_000_000;
/// Slow receivers of one run. Each has a thread.
const SLOW_MAX: usize = 256;
/// Messages per second beside a slow receiver, if nothing is said: of 4 KiB, so that within two seconds more waits for one that
/// stopped than its own window and the router's mark take.
const SLOW_FANOUT_PER_S: u64 = 500;
const SLOW_UNICAST_PER_S: u64 = 12_000;
/// Messages per second of one run: one a nanosecond.
const RATE_MAX: u64 = 1_000_000_000;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("--{option} 0: at least 1 is needed")]
    Zero { option: &'static str },
    #[error("{clients} connections are more than the {CLIENTS_MAX} that one run may have")]
    Clients { clients: usize },
    #[error("--names {names}: {least} to {NAMES_MAX} are accepted; each pair needs one of its own")]
    Names { names: usize, least: usize },
    #[error(
        "{ledgers} pairs of sender, name and receiver are more than the {LEDGERS_MAX} that are counted"
    )]
    Ledgers { ledgers: usize },
    #[error("--rate {rate}: {RATE_MAX} messages per second are the most that time can tell apart")]
    Rate { rate: u64 },
    #[error("--cores {core}: this machine has no such core for us; there are {available:?}")]
    Core { core: usize, available: Vec<usize> },
    #[error("no random numbers: {0}")]
    Random(String),
    #[error(
        "--stopped {slow} of {receivers} receivers: at most {SLOW_MAX}, and one of the others is needed"
    )]
    Slow { slow: usize, receivers: usize },
    #[error(
        "tcp:// is a relay of bytes: it takes stream, rate, and fanout with 1 publisher, each publisher with one name"
    )]
    PlainBytes,
    #[error("`{command}` is no workload that can be run as one")]
    NoWorkload { command: &'static str },
}

/// What kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Ping {
        pairs: usize,
        in_flight: usize,
    },
    Stream {
        pairs: usize,
        /// Messages in one write; `None`: whole frames.
        batch: Option<usize>,
    },
    Fanout {
        publishers: usize,
        subscribers: usize,
    },
    Rate {
        pairs: usize,
        /// Of all pairs together.
        messages_per_s: u64,
    },
    Connect {
        connections: usize,
        /// Replaced each second.
        churn_per_s: u64,
    },
    Slow {
        receivers: usize,
        /// Of those.
        slow: usize,
        slowness: Slowness,
        is_unicast: bool,
        messages_per_s: u64,
    },
}

/// The parts of a measured time in which receivers are slow: before, during, and after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    pub before: Duration,
    pub during: Duration,
    pub after: Duration,
}

impl Windows {
    /// Which of the three a time since the start is in; what is later is in the last.
    pub fn at(&self, since: Duration) -> usize {
        usize::from(since >= self.before) + usize::from(since >= self.before + self.during)
    }

    pub fn total(&self) -> Duration {
        self.before + self.during + self.after
    }
}

/// What one connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Keeps `in_flight` messages on their way, sends the next for each that comes back.
    Requester {
        in_flight: usize,
    },
    /// Sends back what it gets.
    Echo,
    /// Sends as fast as it may, or as the run's rate says.
    Publisher,
    /// Counts.
    Subscriber,
    /// Counts, and reads too slowly for a while.
    Slow,
    Idle,
}

#[derive(Clone, Debug)]
pub struct Client {
    /// Its number in the run.
    pub id: u32,
    pub opening: Opening,
    /// Flows whose messages are for it.
    pub hears: Range<u32>,
    pub role: Role,
    /// Which of its flows the next message belongs to.
    pub names: Choice,
    pub sizes: SizeDraws,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub workload: Workload,
    pub target: Target,
    pub has_mac: bool,
    pub sizes: Sizes,
    pub warm_up: Duration,
    pub duration: Duration,
    pub server_pid: Option<u32>,
    /// One worker a core; empty: one worker, not pinned.
    pub cores: Vec<usize>,
    /// For each worker, its clients.
    pub clients: Vec<Vec<Client>>,
    /// Those that are on no worker, but each on a thread of its own.
    pub slow_clients: Vec<Client>,
    /// Of `slow`, which parts the measured time has.
    pub windows: Windows,
    /// Receivers of each published message.
    pub receivers_per_message: u64,
    /// As typed, for the report.
    pub command_line: String,
    pub output: Output,
}

/// Where the result goes, beside the terminal.
#[derive(Clone, Debug, Default)]
pub struct Output {
    pub json: Option<PathBuf>,
    pub percentiles: Option<PathBuf>,
    pub plot: Option<PathBuf>,
    pub allow_faults: bool,
}

impl Plan {
    /// - `command`: one of the workloads.
    /// - `command_line`: as typed.
    pub fn new(command: &Command, command_line: String) -> Result<Self, PlanError> {
        let (workload, common) = Workload::of(command)?;
        workload.check()?;
        let mut windows = Windows::default();
        let mut no_traffic = Traffic {
            payload: Sizes::Fixed(STAMP_BYTES),
            names: None,
            names_by: crate::choice::Popularity::Uniform,
            one_prefix: false,
            duration: Duration::ZERO,
            warm_up: Duration::ZERO,
        };
        if let Command::Slow(slow) = command {
            no_traffic.payload = slow.payload.clone();
            no_traffic.warm_up = slow.warm_up;
            windows = Windows {
                before: slow.before,
                during: slow.during,
                after: slow.after,
            };
        }
        let (traffic, duration) = match command {
            Command::Ping(ping) => (&ping.traffic, ping.traffic.duration),
            Command::Stream(stream) => (&stream.traffic, stream.traffic.duration),
            Command::Fanout(fanout) => (&fanout.traffic, fanout.traffic.duration),
            Command::Rate(rate) => (&rate.traffic, rate.traffic.duration),
            Command::Connect(connect) => (&no_traffic, connect.hold),
            Command::Slow(_) => (&no_traffic, windows.total()),
            Command::Compare(_) | Command::Plot(_) => (&no_traffic, Duration::ZERO),
        };
        let names = workload.names(traffic.names)?;
        if common.target.protocol() == Protocol::TcpRelay && !workload.fits_plain_bytes(names) {
            return Err(PlanError::PlainBytes);
        }
        let cores = checked_cores(common)?;
        let run = getrandom::u64().map_err(|error| PlanError::Random(error.to_string()))?;
        let cast = Cast {
            run,
            names,
            has_mac: common.mac == Mac::On,
            sizes: traffic.payload.draws(run),
            traffic,
        };
        let mut clients = cast.clients(workload, cores.len().max(1));
        let mut slow_clients = Vec::new();
        for share in &mut clients {
            slow_clients.extend(share.extract_if(.., |client| client.role == Role::Slow));
        }
        Ok(Self {
            workload,
            target: common.target.clone(),
            has_mac: common.mac == Mac::On,
            sizes: traffic.payload.clone(),
            warm_up: traffic.warm_up,
            duration,
            server_pid: common.server_pid,
            clients,
            slow_clients,
            windows,
            cores,
            receivers_per_message: workload.receivers_per_message(),
            command_line,
            output: Output {
                json: common.json.clone(),
                percentiles: common.percentiles.clone(),
                plot: common.plot.clone(),
                allow_faults: common.allow_faults,
            },
        })
    }

    /// Of all clients.
    pub fn subscription_count(&self) -> usize {
        let clients = self.clients.iter().flatten().chain(&self.slow_clients);
        clients
            .map(|client| client.opening.subscriptions.len())
            .sum()
    }

    pub fn client_count(&self) -> usize {
        self.clients.iter().map(Vec::len).sum::<usize>() + self.slow_clients.len()
    }
}

fn checked_cores(common: &Common) -> Result<Vec<usize>, PlanError> {
    let available: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|core| core.id)
        .collect();
    match common.cores.iter().find(|core| !available.contains(core)) {
        Some(&core) => Err(PlanError::Core { core, available }),
        None => Ok(common.cores.clone()),
    }
}

impl Workload {
    fn of(command: &Command) -> Result<(Self, &Common), PlanError> {
        Ok(match command {
            Command::Ping(ping) => (
                Self::Ping {
                    pairs: ping.pairs,
                    in_flight: ping.in_flight,
                },
                &ping.common,
            ),
            Command::Stream(stream) => (
                Self::Stream {
                    pairs: stream.pairs,
                    batch: stream.batch,
                },
                &stream.common,
            ),
            Command::Fanout(fanout) => (
                Self::Fanout {
                    publishers: fanout.publishers,
                    subscribers: fanout.subscribers,
                },
                &fanout.common,
            ),
            Command::Rate(rate) => (
                Self::Rate {
                    pairs: rate.pairs,
                    messages_per_s: rate.rate,
                },
                &rate.common,
            ),
            Command::Connect(connect) => (
                Self::Connect {
                    connections: connect.connections,
                    churn_per_s: connect.churn,
                },
                &connect.common,
            ),
            Command::Slow(slow) => (
                Self::Slow {
                    receivers: slow.receivers,
                    slow: slow.stopped,
                    slowness: if slow.half_speed {
                        Slowness::HalfSpeed
                    } else {
                        Slowness::Stopped
                    },
                    is_unicast: slow.unicast,
                    messages_per_s: slow.rate.unwrap_or(if slow.unicast {
                        SLOW_UNICAST_PER_S
                    } else {
                        SLOW_FANOUT_PER_S
                    }),
                },
                &slow.common,
            ),
            Command::Compare(_) => return Err(PlanError::NoWorkload { command: "compare" }),
            Command::Plot(_) => return Err(PlanError::NoWorkload { command: "plot" }),
        })
    }

    fn check(self) -> Result<(), PlanError> {
        let (counts, clients): (&[(&'static str, usize)], usize) = match self {
            Self::Ping { pairs, in_flight } => (
                &[("pairs", pairs), ("in-flight", in_flight)],
                pairs.saturating_mul(2),
            ),
            Self::Stream { pairs, batch } => (
                &[("pairs", pairs), ("batch", batch.unwrap_or(1))],
                pairs.saturating_mul(2),
            ),
            Self::Rate {
                pairs,
                messages_per_s,
            } => {
                if messages_per_s > RATE_MAX {
                    return Err(PlanError::Rate {
                        rate: messages_per_s,
                    });
                }
                let rate = messages_per_s as usize;
                (&[("pairs", pairs), ("rate", rate)], pairs.saturating_mul(2))
            }
            Self::Fanout {
                publishers,
                subscribers,
            } => (
                &[("publishers", publishers), ("subscribers", subscribers)],
                publishers.saturating_add(subscribers),
            ),
            Self::Connect {
                connections,
                churn_per_s,
            } => {
                if churn_per_s > RATE_MAX {
                    return Err(PlanError::Rate { rate: churn_per_s });
                }
                (&[("connections", connections)], connections)
            }
            Self::Slow {
                receivers,
                slow,
                messages_per_s,
                ..
            } => {
                if messages_per_s > RATE_MAX {
                    return Err(PlanError::Rate {
                        rate: messages_per_s,
                    });
                }
                if slow >= receivers || slow > SLOW_MAX {
                    return Err(PlanError::Slow { slow, receivers });
                }
                let rate = messages_per_s as usize;
                (
                    &[("stopped", slow), ("rate", rate)],
                    receivers.saturating_add(1),
                )
            }
        };
        if let Some((option, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(PlanError::Zero { option });
        }
        if clients > CLIENTS_MAX {
            return Err(PlanError::Clients { clients });
        }
        Ok(())
    }

    /// Names in all, checked.
    fn names(self, asked: Option<usize>) -> Result<usize, PlanError> {
        let (least, ledgers_per_name) = match self {
            Self::Ping { pairs, .. } | Self::Stream { pairs, .. } | Self::Rate { pairs, .. } => {
                (pairs, 1)
            }
            Self::Fanout {
                publishers,
                subscribers,
            } => (1, publishers.saturating_mul(subscribers)),
            Self::Connect { .. } => (1, 0),
            Self::Slow { receivers, .. } => (1, receivers),
        };
        let names = asked.unwrap_or(least);
        if names < least || names > NAMES_MAX.max(least) {
            return Err(PlanError::Names { names, least });
        }
        let ledgers = names.saturating_mul(ledgers_per_name);
        if ledgers > LEDGERS_MAX {
            return Err(PlanError::Ledgers { ledgers });
        }
        Ok(names)
    }

    /// Whether each connection only sends, to one name that nobody else sends to, or only receives from one.
    fn fits_plain_bytes(self, names: usize) -> bool {
        match self {
            Self::Stream { pairs, .. } | Self::Rate { pairs, .. } => names == pairs,
            Self::Fanout { publishers, .. } => publishers == 1 && names == 1,
            Self::Ping { .. } | Self::Connect { .. } => false,
            Self::Slow { is_unicast, .. } => names == 1 && !is_unicast,
        }
    }

    fn receivers_per_message(self) -> u64 {
        match self {
            Self::Fanout { subscribers, .. } => subscribers as u64,
            Self::Slow {
                receivers,
                is_unicast: false,
                ..
            } => receivers as u64,
            _ => 1,
        }
    }
}

/// Makes the clients of a run.
struct Cast<'a> {
    /// Random, so that runs against one server do not meet.
    run: u64,
    names: usize,
    has_mac: bool,
    sizes: SizeDraws,
    traffic: &'a Traffic,
}

impl Cast<'_> {
    /// Every name has a prefix of its own: ids under one prefix would be a case of its own for some servers (trap T24), and are
    /// one only if that is asked for.
    fn name(&self, role: &str, number: usize) -> Name {
        let id = InstanceId::from_halves(self.run, number as u64);
        let namespace = format!("run-{:016x}", self.run);
        if self.traffic.one_prefix {
            return Name::new("loadgen", &namespace, role).with_id(id);
        }
        Name::new("loadgen", &namespace, &format!("{role}-{number}")).with_id(id)
    }

    fn client(
        &self,
        id: usize,
        role: Role,
        name: Name,
        subscriptions: Vec<Name>,
        flows: Vec<Flow>,
        hears: Range<u32>,
    ) -> Client {
        let seed = self.run ^ id as u64;
        Client {
            id: id as u32,
            names: self.traffic.names_by.choice(flows.len(), seed),
            sizes: self.sizes.reseeded(seed),
            opening: Opening {
                link_id: InstanceId::from_halves(self.run, id as u64),
                name,
                subscriptions,
                flows,
                has_mac: self.has_mac,
            },
            hears,
            role,
        }
    }

    /// For each worker, its clients. Both sides of a pair are on one worker.
    fn clients(&self, workload: Workload, workers: usize) -> Vec<Vec<Client>> {
        let mut shares = vec![Vec::new(); workers];
        match workload {
            Workload::Ping { pairs, in_flight } => {
                self.pairs(
                    pairs,
                    Role::Requester { in_flight },
                    Role::Echo,
                    &mut shares,
                );
            }
            Workload::Stream { pairs, .. } | Workload::Rate { pairs, .. } => {
                self.pairs(pairs, Role::Publisher, Role::Subscriber, &mut shares);
            }
            Workload::Fanout {
                publishers,
                subscribers,
            } => self.fan_out(publishers, subscribers, &mut shares),
            Workload::Slow {
                receivers,
                slow,
                is_unicast,
                ..
            } => self.beside_slow(receivers, slow, is_unicast, &mut shares),
            Workload::Connect { connections, .. } => {
                for id in 0..connections {
                    let name = self.name("idle", id);
                    let own = vec![name.clone()];
                    let idle = self.client(id, Role::Idle, name, own, Vec::new(), 0..0);
                    shares[id % workers].push(idle);
                }
            }
        }
        shares
    }

    /// One side sends to the names of the other; an echo answers to its requester's one name.
    fn pairs(&self, pairs: usize, sending: Role, receiving: Role, shares: &mut [Vec<Client>]) {
        let workers = shares.len();
        let mut next_flow = 0_u32;
        for pair in 0..pairs {
            // As even as whole names can be.
            let numbers = pair * self.names / pairs..(pair + 1) * self.names / pairs;
            let names: Vec<Name> = numbers
                .map(|number| self.name("receiver", number))
                .collect();
            let mut flows = |names: &[Name]| -> Vec<Flow> {
                let flow = |name: &Name| {
                    let id = next_flow;
                    next_flow += 1;
                    Flow {
                        id,
                        destination: name.clone(),
                        fanout: 1,
                    }
                };
                names.iter().map(flow).collect()
            };
            let there = flows(&names);
            let own = self.name("sender", pair);
            let back = match receiving {
                Role::Echo => flows(std::slice::from_ref(&own)),
                _ => Vec::new(),
            };
            let (hears_there, hears_back) = (range_of(&there), range_of(&back));
            let receiver_name = names.first().cloned().unwrap_or_else(|| own.clone());
            let share = &mut shares[pair % workers];
            let (id, subscriptions) = (2 * pair, vec![own.clone()]);
            share.push(self.client(id, sending, own, subscriptions, there, hears_back));
            share.push(self.client(id + 1, receiving, receiver_name, names, back, hears_there));
        }
    }

    fn fan_out(&self, publishers: usize, subscribers: usize, shares: &mut [Vec<Client>]) {
        let workers = shares.len();
        let channels: Vec<Name> = (0..self.names)
            .map(|number| self.name("channel", number))
            .collect();
        let hears = 0..(publishers * channels.len()) as u32;
        for id in 0..publishers {
            let flow = |(number, channel): (usize, &Name)| Flow {
                id: (id * channels.len() + number) as u32,
                destination: channel.clone(),
                fanout: FANOUT_ALL,
            };
            let flows = channels.iter().enumerate().map(flow).collect();
            let name = self.name("publisher", id);
            let own = vec![name.clone()];
            shares[id % workers].push(self.client(id, Role::Publisher, name, own, flows, 0..0));
        }
        for number in 0..subscribers {
            let id = publishers + number;
            let name = self.name("subscriber", number);
            let subscriber = self.client(
                id,
                Role::Subscriber,
                name,
                channels.clone(),
                Vec::new(),
                hears.clone(),
            );
            shares[id % workers].push(subscriber);
        }
    }
}

impl Cast<'_> {
    /// One publisher; the first `slow` of the receivers are slow.
    fn beside_slow(
        &self,
        receivers: usize,
        slow: usize,
        is_unicast: bool,
        shares: &mut [Vec<Client>],
    ) {
        let workers = shares.len();
        let names: Vec<Name> = match is_unicast {
            true => (0..receivers)
                .map(|number| self.name("receiver", number))
                .collect(),
            false => vec![self.name("channel", 0)],
        };
        let flow = |(number, name): (usize, &Name)| Flow {
            id: number as u32,
            destination: name.clone(),
            fanout: if is_unicast { 1 } else { FANOUT_ALL },
        };
        let flows = names.iter().enumerate().map(flow).collect();
        let own = self.name("publisher", 0);
        let publisher = self.client(0, Role::Publisher, own.clone(), vec![own], flows, 0..0);
        shares[0].push(publisher);
        for number in 0..receivers {
            let role = if number < slow {
                Role::Slow
            } else {
                Role::Subscriber
            };
            let flow = if is_unicast { number } else { 0 };
            let subscriptions = vec![names[flow].clone()];
            let name = self.name("subscriber", number);
            let hears = flow as u32..flow as u32 + 1;
            let client = self.client(1 + number, role, name, subscriptions, Vec::new(), hears);
            shares[number % workers].push(client);
        }
    }
}

/// The numbers of flows that follow each other.
fn range_of(flows: &[Flow]) -> Range<u32> {
    let first = flows.first().map_or(0, |flow| flow.id);
    first..first + flows.len() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::Parser;
    use std::collections::HashSet;

    fn plan(command: &str) -> Result<Plan, PlanError> {
        let words = ["slim-loadgen"].into_iter().chain(command.split(' '));
        Plan::new(&Args::parse_from(words).command, command.to_owned())
    }

    #[test]
    fn every_receiver_hears_exactly_those_who_send_to_it() {
        for command in [
            "ping --pairs 3",
            "ping --pairs 3 --names 10",
            "stream --pairs 3",
            "rate --pairs 3 --names 7",
            "fanout --publishers 2 --subscribers 3",
            "fanout --publishers 2 --subscribers 3 --names 4",
        ] {
            let plan = plan(command).unwrap();
            let clients: Vec<&Client> = plan.clients.iter().flatten().collect();
            let (mut expected, mut heard) = (HashSet::new(), HashSet::new());
            let mut ids = HashSet::new();
            for client in &clients {
                heard.extend(client.hears.clone().map(|flow| (flow, client.id)));
                for flow in &client.opening.flows {
                    assert!(ids.insert(flow.id), "{command}");
                    let receivers = clients
                        .iter()
                        .filter(|other| other.opening.subscriptions.contains(&flow.destination));
                    expected.extend(receivers.map(|receiver| (flow.id, receiver.id)));
                }
            }
            assert_eq!(heard, expected, "{command}");
            assert!(!heard.is_empty());
        }
    }

    #[test]
    fn names_are_shared_evenly_and_all_subscribed() {
        let plan = plan("stream --pairs 3 --names 1000").unwrap();
        let receivers = plan.clients.iter().flatten();
        let receivers = receivers.filter(|client| client.role == Role::Subscriber);
        let counts: Vec<usize> = receivers.map(|c| c.opening.subscriptions.len()).collect();
        assert_eq!(counts, [333, 333, 334]);
    }

    #[test]
    fn names_under_one_prefix_differ_in_their_ids_alone() {
        let plan = plan("stream --pairs 3 --names 100 --one-prefix").unwrap();
        let receivers = plan.clients.iter().flatten();
        let receivers = receivers.filter(|client| client.role == Role::Subscriber);
        let names: Vec<&Name> = receivers.flat_map(|c| &c.opening.subscriptions).collect();
        let ids: HashSet<_> = names.iter().map(|name| name.id()).collect();
        let services: HashSet<_> = names.iter().map(|name| name.service()).collect();
        assert_eq!((names.len(), ids.len(), services.len()), (100, 100, 1));
        // The publishers' own are subscribed too.
        assert_eq!(plan.subscription_count(), 103);
    }

    #[test]
    fn slow_receivers_are_on_no_worker_and_hear_as_the_others_do() {
        for (command, flows) in [("slow", 1), ("slow --unicast", 64)] {
            let plan = plan(&format!("{command} --stopped 3")).unwrap();
            assert_eq!((plan.slow_clients.len(), plan.client_count()), (3, 65));
            let others: Vec<&Client> = plan.clients.iter().flatten().collect();
            let publisher = others.iter().find(|c| c.role == Role::Publisher).unwrap();
            assert_eq!(publisher.opening.flows.len(), flows);
            for client in others.iter().copied().chain(&plan.slow_clients) {
                for flow in client.hears.clone() {
                    let sent_to = &publisher.opening.flows[flow as usize].destination;
                    assert_eq!(&client.opening.subscriptions[0], sent_to, "{command}");
                }
            }
        }
    }

    #[test]
    fn a_time_is_in_one_of_three_windows() {
        let second = Duration::from_secs(1);
        let windows = Windows {
            before: second,
            during: 2 * second,
            after: second,
        };
        let at =
            [0, 999, 1_000, 2_999, 3_000, 9_000].map(|ms| windows.at(Duration::from_millis(ms)));
        assert_eq!((at, windows.total()), ([0, 0, 1, 1, 2, 2], 4 * second));
    }

    #[test]
    fn every_client_has_a_name_and_a_link_of_its_own() {
        let plan = plan("connect --connections 100").unwrap();
        let clients: Vec<&Client> = plan.clients.iter().flatten().collect();
        let names: HashSet<_> = clients.iter().map(|c| c.opening.name.to_string()).collect();
        let links: HashSet<_> = clients.iter().map(|c| c.opening.link_id).collect();
        assert_eq!((names.len(), links.len()), (100, 100));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_number() {
        let refusal = |command| plan(command).unwrap_err();
        for (command, option) in [
            ("ping --pairs 0", "pairs"),
            ("ping --in-flight 0", "in-flight"),
            ("stream --batch 0", "batch"),
            ("rate --rate 0", "rate"),
            ("slow --stopped 0", "stopped"),
            ("slow --rate 0", "rate"),
        ] {
            assert_eq!(refusal(command), PlanError::Zero { option });
        }
        assert_eq!(
            refusal("stream --pairs 600000"),
            PlanError::Clients { clients: 1_200_000 }
        );
        assert_eq!(
            refusal("stream --pairs 4 --names 3"),
            PlanError::Names { names: 3, least: 4 }
        );
        assert_eq!(
            refusal("fanout --subscribers 1000 --names 100000"),
            PlanError::Ledgers {
                ledgers: 100_000_000
            }
        );
        assert_eq!(
            refusal("rate --rate 2000000000"),
            PlanError::Rate {
                rate: 2_000_000_000
            }
        );
        assert_eq!(
            refusal("slow --receivers 4 --stopped 4"),
            PlanError::Slow {
                slow: 4,
                receivers: 4
            }
        );
        for command in [
            "ping --target tcp://a:1",
            "connect --target tcp://a:1",
            "stream --names 9 --target tcp://a:1",
            "fanout --publishers 2 --target tcp://a:1",
        ] {
            assert_eq!(refusal(command), PlanError::PlainBytes, "{command}");
        }
        let core = refusal("ping --cores 100000");
        assert!(matches!(core, PlanError::Core { core: 100_000, .. }));
    }
}
