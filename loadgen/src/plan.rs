//! What was typed -> what is done: who connects, who sends what to whom. Checked, with units in the names.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use slim_proto::name::{InstanceId, Name};

use crate::args::{Args, Command, Common};
use crate::message::{Flow, STAMP_BYTES};
use crate::target::Target;

/// Fan-out of a message for all, as clients write it (dataplane 4.4).
const FANOUT_ALL: u32 = 256;
/// Largest payload in bytes: with names and token it stays below the largest message (dataplane 1.5).
const PAYLOAD_BYTES_MAX: usize = 4_000_000;
/// Connections of one run. Each has its own pair of ports, and of those an address has about 28,000 to give.
const CLIENTS_MAX: usize = 1_000_000;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error(
        "--payload {bytes}: {STAMP_BYTES} to {PAYLOAD_BYTES_MAX} bytes are accepted; the first {STAMP_BYTES} carry sender, sequence and time"
    )]
    Payload { bytes: usize },
    #[error("--{option} 0: at least 1 is needed")]
    Zero { option: &'static str },
    #[error("{clients} connections are more than the {CLIENTS_MAX} that one run may have")]
    Clients { clients: usize },
    #[error("--cores {core}: this machine has no such core for us; there are {available:?}")]
    Core { core: usize, available: Vec<usize> },
    #[error("no random numbers: {0}")]
    Random(String),
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
    },
    Fanout {
        publishers: usize,
        subscribers: usize,
    },
    Connect {
        connections: usize,
    },
}

/// What one connection does.
#[derive(Clone, Debug)]
pub enum Role {
    /// Keeps `in_flight` messages on their way, sends the next for each that comes back.
    Requester {
        flow: Flow,
        in_flight: usize,
    },
    /// Sends back what it gets.
    Echo {
        flow: Flow,
    },
    /// Sends as fast as it may.
    Publisher {
        flow: Flow,
    },
    /// Counts.
    Subscriber,
    Idle,
}

#[derive(Clone, Debug)]
pub struct Client {
    /// Its number in the run.
    pub id: u32,
    pub name: Name,
    /// Mostly its own name.
    pub subscription: Name,
    /// Whose messages are for it.
    pub hears: Range<u32>,
    /// Of these messages.
    pub payload_bytes: usize,
    /// Of its link; random.
    pub link_id: InstanceId,
    pub role: Role,
}

impl Role {
    /// What it sends, if it sends.
    pub fn flow(&self) -> Option<&Flow> {
        match self {
            Self::Requester { flow, .. } | Self::Echo { flow } | Self::Publisher { flow } => {
                Some(flow)
            }
            Self::Subscriber | Self::Idle => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub workload: Workload,
    pub target: Target,
    pub payload_bytes: usize,
    pub warm_up: Duration,
    pub duration: Duration,
    pub server_pid: Option<u32>,
    pub json: Option<PathBuf>,
    /// One worker a core; empty: one worker, not pinned.
    pub cores: Vec<usize>,
    /// For each worker, its clients.
    pub clients: Vec<Vec<Client>>,
    /// Receivers of each published message.
    pub receivers_per_message: u64,
    /// As typed, for the report.
    pub command_line: String,
}

impl Plan {
    pub fn new(args: &Args, command_line: String) -> Result<Self, PlanError> {
        let run = getrandom::u64().map_err(|error| PlanError::Random(error.to_string()))?;
        let (workload, common, payload_bytes, warm_up, duration) = match &args.command {
            Command::Ping(ping) => (
                Workload::Ping {
                    pairs: ping.pairs,
                    in_flight: ping.in_flight,
                },
                &ping.common,
                ping.traffic.payload,
                ping.traffic.warm_up,
                ping.traffic.duration,
            ),
            Command::Stream(stream) => (
                Workload::Stream {
                    pairs: stream.pairs,
                },
                &stream.common,
                stream.traffic.payload,
                stream.traffic.warm_up,
                stream.traffic.duration,
            ),
            Command::Fanout(fanout) => (
                Workload::Fanout {
                    publishers: fanout.publishers,
                    subscribers: fanout.subscribers,
                },
                &fanout.common,
                fanout.traffic.payload,
                fanout.traffic.warm_up,
                fanout.traffic.duration,
            ),
            Command::Connect(connect) => (
                Workload::Connect {
                    connections: connect.connections,
                },
                &connect.common,
                STAMP_BYTES,
                Duration::ZERO,
                connect.hold,
            ),
        };
        if !(STAMP_BYTES..=PAYLOAD_BYTES_MAX).contains(&payload_bytes) {
            return Err(PlanError::Payload {
                bytes: payload_bytes,
            });
        }
        workload.check()?;
        let cores = checked_cores(common)?;
        let workers = cores.len().max(1);
        Ok(Self {
            workload,
            target: common.target.clone(),
            payload_bytes,
            warm_up,
            duration,
            server_pid: common.server_pid,
            json: common.json.clone(),
            cores,
            clients: workload.clients(run, payload_bytes, workers),
            receivers_per_message: workload.receivers_per_message(),
            command_line,
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
    fn check(self) -> Result<(), PlanError> {
        let (counts, clients): (&[(&'static str, usize)], usize) = match self {
            Self::Ping { pairs, in_flight } => (
                &[("pairs", pairs), ("in-flight", in_flight)],
                pairs.saturating_mul(2),
            ),
            Self::Stream { pairs } => (&[("pairs", pairs)], pairs.saturating_mul(2)),
            Self::Fanout {
                publishers,
                subscribers,
            } => (
                &[("publishers", publishers), ("subscribers", subscribers)],
                publishers.saturating_add(subscribers),
            ),
            Self::Connect { connections } => (&[("connections", connections)], connections),
        };
        if let Some((option, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(PlanError::Zero { option });
        }
        if clients > CLIENTS_MAX {
            return Err(PlanError::Clients { clients });
        }
        Ok(())
    }

    fn receivers_per_message(self) -> u64 {
        match self {
            Self::Fanout { subscribers, .. } => subscribers as u64,
            _ => 1,
        }
    }

    /// Every client has a name of its own: names of one prefix would be a case of its own for some servers (trap T24).
    ///
    /// - `run`: random, so that runs against one node do not meet.
    fn clients(self, run: u64, payload_bytes: usize, workers: usize) -> Vec<Vec<Client>> {
        let namespace = format!("run-{run:016x}");
        let name = |role: &str, number: usize| {
            let id = InstanceId::from_halves(run, number as u64);
            Name::new("loadgen", &namespace, &format!("{role}-{number}")).with_id(id)
        };
        let flow = |sender: usize, source: &Name, destination: &Name, fanout| Flow {
            sender: sender as u32,
            source: source.clone(),
            destination: destination.clone(),
            fanout,
            payload_bytes,
        };
        let client = |id: usize, name: Name, hears: Range<usize>, role| Client {
            id: id as u32,
            subscription: name.clone(),
            name,
            hears: hears.start as u32..hears.end as u32,
            payload_bytes,
            link_id: InstanceId::from_halves(run, id as u64),
            role,
        };
        let mut shares = vec![Vec::new(); workers];
        match self {
            Self::Ping { pairs, in_flight } => {
                for pair in 0..pairs {
                    let (requester, echo) = (name("requester", pair), name("echo", pair));
                    let (id, echo_id) = (2 * pair, 2 * pair + 1);
                    let there = flow(id, &requester, &echo, 1);
                    let back = flow(echo_id, &echo, &requester, 1);
                    let there = Role::Requester {
                        flow: there,
                        in_flight,
                    };
                    let share = &mut shares[pair % workers];
                    share.push(client(id, requester, echo_id..echo_id + 1, there));
                    let back = Role::Echo { flow: back };
                    share.push(client(echo_id, echo, id..id + 1, back));
                }
            }
            Self::Stream { pairs } => {
                for pair in 0..pairs {
                    let (publisher, subscriber) =
                        (name("publisher", pair), name("subscriber", pair));
                    let id = 2 * pair;
                    let flow = flow(id, &publisher, &subscriber, 1);
                    let share = &mut shares[pair % workers];
                    share.push(client(id, publisher, 0..0, Role::Publisher { flow }));
                    share.push(client(id + 1, subscriber, id..id + 1, Role::Subscriber));
                }
            }
            Self::Fanout {
                publishers,
                subscribers,
            } => {
                let channel = name("channel", 0);
                for number in 0..publishers {
                    let publisher = name("publisher", number);
                    let flow = flow(number, &publisher, &channel, FANOUT_ALL);
                    let publisher = client(number, publisher, 0..0, Role::Publisher { flow });
                    shares[number % workers].push(publisher);
                }
                for number in 0..subscribers {
                    let id = publishers + number;
                    let own = name("subscriber", number);
                    let mut subscriber = client(id, own, 0..publishers, Role::Subscriber);
                    subscriber.subscription = channel.clone();
                    shares[id % workers].push(subscriber);
                }
            }
            Self::Connect { connections } => {
                for number in 0..connections {
                    let idle = client(number, name("idle", number), 0..0, Role::Idle);
                    shares[number % workers].push(idle);
                }
            }
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::HashSet;

    fn plan(command: &str) -> Result<Plan, PlanError> {
        let words = ["slim-loadgen"].into_iter().chain(command.split(' '));
        Plan::new(&Args::parse_from(words), command.to_owned())
    }

    #[test]
    fn every_receiver_hears_exactly_those_who_send_to_it() {
        for command in [
            "ping --pairs 3",
            "stream --pairs 3",
            "fanout --publishers 2 --subscribers 3",
        ] {
            let plan = plan(command).unwrap();
            let clients: Vec<&Client> = plan.clients.iter().flatten().collect();
            let (mut expected, mut heard) = (HashSet::new(), HashSet::new());
            for client in &clients {
                heard.extend(client.hears.clone().map(|sender| (sender, client.id)));
                if let Some(flow) = client.role.flow() {
                    assert_eq!(flow.sender, client.id);
                    let receivers = clients
                        .iter()
                        .filter(|other| other.subscription == flow.destination);
                    expected.extend(receivers.map(|receiver| (client.id, receiver.id)));
                }
            }
            assert_eq!(heard, expected, "{command}");
            assert!(!heard.is_empty());
        }
    }

    #[test]
    fn every_client_has_a_name_and_a_link_of_its_own() {
        let plan = plan("connect --connections 100").unwrap();
        let names: HashSet<_> = plan
            .clients
            .iter()
            .flatten()
            .map(|c| c.name.to_string())
            .collect();
        let links: HashSet<_> = plan.clients.iter().flatten().map(|c| c.link_id).collect();
        assert_eq!((names.len(), links.len()), (100, 100));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_number() {
        let refusal = |command| plan(command).unwrap_err();
        assert_eq!(
            refusal("ping --payload 23"),
            PlanError::Payload { bytes: 23 }
        );
        assert_eq!(
            refusal("ping --pairs 0"),
            PlanError::Zero { option: "pairs" }
        );
        assert_eq!(
            refusal("ping --in-flight 0"),
            PlanError::Zero {
                option: "in-flight"
            }
        );
        assert_eq!(
            refusal("stream --pairs 600000"),
            PlanError::Clients { clients: 1_200_000 }
        );
        let core = refusal("ping --cores 100000");
        assert!(matches!(core, PlanError::Core { core: 100_000, .. }));
    }
}
