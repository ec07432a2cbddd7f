//! What was typed -> what is done: who connects, who sends what to whom. Checked, with units in the names.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use slim_proto::name::{InstanceId, Name};

use crate::args::{Command, Common, Mac, Traffic};
use crate::choice::{Choice, SizeDraws, Sizes};
use crate::link::Opening;
use crate::message::{Flow, STAMP_BYTES};
use crate::target::{Protocol, Target};

/// Fan-out of a message for all, as clients write it (dataplane 4.4).
const FANOUT_ALL: u32 = 256;
/// Connections of one run. Each has its own pair of ports, and of those an address has about 28,000 to give.
const CLIENTS_MAX: usize = 1_000_000;
/// Names of one run. Each costs its sender about a kilobyte.
const NAMES_MAX: usize = 1_000_000;
/// Pairs of a flow and a receiver in one run. Each has a ledger.
const LEDGERS_MAX: usize = 10_000_000;
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
        let no_traffic = Traffic {
            payload: Sizes::Fixed(STAMP_BYTES),
            names: None,
            names_by: crate::choice::Popularity::Uniform,
            duration: Duration::ZERO,
            warm_up: Duration::ZERO,
        };
        let (traffic, duration) = match command {
            Command::Ping(ping) => (&ping.traffic, ping.traffic.duration),
            Command::Stream(stream) => (&stream.traffic, stream.traffic.duration),
            Command::Fanout(fanout) => (&fanout.traffic, fanout.traffic.duration),
            Command::Rate(rate) => (&rate.traffic, rate.traffic.duration),
            Command::Connect(connect) => (&no_traffic, connect.hold),
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
        Ok(Self {
            workload,
            target: common.target.clone(),
            has_mac: common.mac == Mac::On,
            sizes: traffic.payload.clone(),
            warm_up: traffic.warm_up,
            duration,
            server_pid: common.server_pid,
            clients: cast.clients(workload, cores.len().max(1)),
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

    pub fn client_count(&self) -> usize {
        self.clients.iter().map(Vec::len).sum()
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
        }
    }

    fn receivers_per_message(self) -> u64 {
        match self {
            Self::Fanout { subscribers, .. } => subscribers as u64,
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
    /// Every name has a prefix of its own: ids under one prefix would be a case of its own for some servers (trap T24).
    fn name(&self, role: &str, number: usize) -> Name {
        let id = InstanceId::from_halves(self.run, number as u64);
        let namespace = format!("run-{:016x}", self.run);
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
