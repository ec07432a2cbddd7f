//! What a seed makes of a world: how large it is, how its lines behave, what its clients do and when.

use slim_proto::link::ConnectionType;

use super::client::{Action, Client, Leave, Reading};
use super::ears::STAMP_BYTES;
use super::kernel::{Line, MICROSECOND, MILLISECOND, SECOND, Time};
use super::ledger::Target;
use super::random::Random;
use crate::limits;

pub struct Scenario {
    pub shards: u16,
    pub sockets_max: usize,
    pub copies_max: usize,
    pub stage_deliveries: u64,
    pub lane_parcels: usize,
    pub outbox_bytes: usize,
    pub keepalive_interval: Time,
    pub accept_failure_permille: u64,
    /// How often a turn takes a shard longer than it should, and how long at most.
    pub pause_permille: u64,
    pub pause: Time,
    pub clients: Vec<Client>,
    /// When scripts are over at the latest.
    pub span: Time,
    /// When the router is told to drain, clients or not.
    pub drain_at: Option<Time>,
    /// The router ends the links at the end, not the clients.
    pub ends_by_drain: bool,
}

impl Scenario {
    pub fn draw(random: &mut Random) -> Scenario {
        let shards = random.pick(&[1, 2, 2, 3, 3, 4, 5]);
        let heavy = random.percent(25);
        let with_keys = random.percent(2);
        let span = random.magnitude(
            20 * MILLISECOND,
            if heavy { 6 * SECOND } else { 2 * SECOND },
        );
        let style = Style {
            heavy,
            services: random.between(1, 3) as u8,
            ids: random.between(0, 3) as u8,
            to_all_percent: random.pick(&[0, 0, 30, 80]),
            slow_percent: if heavy { 30 } else { random.pick(&[0, 20]) },
            leave_percent: random.pick(&[0, 5, 30]),
            latency: random.magnitude(10 * MICROSECOND, 20 * MILLISECOND),
            span,
        };
        let clients = random.magnitude(
            2,
            if with_keys {
                4
            } else if heavy {
                10
            } else {
                20
            },
        );
        let clients = (0..clients as usize)
            .map(|index| style.client(random, index, with_keys))
            .collect();
        let few = random.percent(10);
        Scenario {
            shards,
            sockets_max: if few {
                random.between(1, 4) as usize
            } else {
                1_000
            },
            copies_max: if random.percent(30) {
                random.between(1, 3) as usize
            } else {
                limits::ROUTE_CACHE_NAMES_MAX
            },
            stage_deliveries: if random.percent(40) {
                random.magnitude(1, 16)
            } else {
                limits::STAGE_DELIVERIES
            },
            lane_parcels: random.pick(&[1, 2, limits::MESH_LANE_PARCELS]),
            outbox_bytes: random.pick(&[2_000, 100_000, limits::MESH_OUTBOX_BYTES]),
            keepalive_interval: random.between(2, 20) * SECOND,
            accept_failure_permille: random.pick(&[0, 0, 0, 200]),
            pause_permille: random.pick(&[0, 5, 50]),
            pause: random.magnitude(MILLISECOND, 3 * SECOND),
            clients,
            span,
            drain_at: random.percent(8).then(|| random.below(span)),
            ends_by_drain: random.percent(40),
        }
    }
}

/// What the clients of one world have in common.
struct Style {
    heavy: bool,
    services: u8,
    ids: u8,
    to_all_percent: u64,
    slow_percent: u64,
    leave_percent: u64,
    latency: Time,
    span: Time,
}

impl Style {
    fn client(&self, random: &mut Random, index: usize, with_keys: bool) -> Client {
        let latency = random.magnitude(5 * MICROSECOND, self.latency.max(6 * MICROSECOND));
        let line = Line {
            latency: (latency / 4, latency),
            segment_bytes: random.pick(&[40, 1_448, 1_448, 65_536]),
            capacity_bytes: random.magnitude(65_536, 524_288) as usize,
        };
        let mut client = Client::new(index, line);
        client.with_key = with_keys && random.percent(60);
        client.listener = u16::from(client.with_key && random.percent(50));
        client.connection_type = random.pick(&[
            ConnectionType::Edge,
            ConnectionType::Edge,
            ConnectionType::Remote,
            ConnectionType::Peer,
        ]);
        client.stream_window = random.magnitude(65_536, 2_097_152) as u32;
        self.write_script(random, &mut client);
        client
    }

    fn target(&self, random: &mut Random) -> Target {
        Target {
            service: random.below(u64::from(self.services)) as u8,
            id: match random.below(u64::from(self.ids) + 1) {
                0 => None,
                id => Some(id as u8),
            },
        }
    }

    fn write_script(&self, random: &mut Random, client: &mut Client) {
        let mut times: Vec<Time> = (0..random.magnitude(3, 24))
            .map(|_| random.below(self.span))
            .collect();
        times.sort_unstable();
        let begins = times[0] / 2;
        client.script.push_back((begins, Action::Connect));
        let publishes_percent = random.pick(&[0, 50, 90]);
        let subscribes = random.below(4);
        for _ in 0..subscribes {
            let to = self.target(random);
            client.script.push_back((begins, Action::Subscribe(to)));
        }
        if random.percent(self.slow_percent) {
            let reading = slow(random);
            let from = random.pick(&times);
            client.is_hopeless = reading == Reading::Not && random.percent(50);
            times.push(from);
            times.sort_unstable();
            let at = times.partition_point(|time| *time < from);
            self.fill(random, client, &times[..at], publishes_percent);
            client.script.push_back((from, Action::Read(reading)));
            if !client.is_hopeless && random.percent(50) {
                // It comes back to its senses, sooner or later than the router loses patience.
                let until = from + random.magnitude(MILLISECOND, 4 * SECOND);
                let until_at = times.partition_point(|time| *time < until).max(at);
                self.fill(random, client, &times[at..until_at], publishes_percent);
                client
                    .script
                    .push_back((until, Action::Read(Reading::Fast)));
                self.fill(random, client, &times[until_at..], publishes_percent);
            } else {
                self.fill(random, client, &times[at..], publishes_percent);
            }
        } else {
            self.fill(random, client, &times, publishes_percent);
        }
        if random.percent(self.leave_percent) {
            let leave = leave(random);
            let at = client.script.back().map_or(0, |(at, _)| *at);
            client.script.push_back((at, Action::Leave(leave)));
            if random.percent(40) {
                let again = at + random.magnitude(MICROSECOND, 100 * MILLISECOND);
                client.script.push_back((again, Action::Connect));
                for _ in 0..random.below(3) {
                    let to = self.target(random);
                    client.script.push_back((again, Action::Subscribe(to)));
                }
                let times: Vec<Time> = (0..random.below(6)).map(|_| again).collect();
                self.fill(random, client, &times, publishes_percent);
            }
        }
    }

    fn fill(
        &self,
        random: &mut Random,
        client: &mut Client,
        times: &[Time],
        publishes_percent: u64,
    ) {
        for at in times {
            if random.percent(publishes_percent) {
                self.burst(random, client, *at);
                continue;
            }
            let action = match random.below(10) {
                0..5 => Action::Subscribe(self.target(random)),
                5..9 => Action::Unsubscribe(random.below(8) as usize),
                _ => Action::UnsubscribeWrongly(self.target(random)),
            };
            client.script.push_back((*at, action));
        }
    }

    fn burst(&self, random: &mut Random, client: &mut Client, at: Time) {
        let to = self.target(random);
        let to_all = random.percent(self.to_all_percent);
        let large = self.heavy && random.percent(40);
        let count = if large {
            random.magnitude(1, 4)
        } else {
            random.magnitude(1, 12)
        };
        for _ in 0..count {
            let bytes = if large {
                random.magnitude(16_384, 700_000)
            } else {
                random.magnitude(STAMP_BYTES as u64, 2_000)
            };
            let publish = Action::Publish {
                to,
                to_all,
                bytes: bytes as usize,
                doomed: random.percent(1),
            };
            client.script.push_back((at, publish));
        }
    }
}

fn slow(random: &mut Random) -> Reading {
    if random.percent(50) {
        return Reading::Not;
    }
    let every = random.magnitude(4 * MILLISECOND, 50 * MILLISECOND);
    // 100 KB to 4 MB a second: the grace asks for 256 KB.
    let bytes_a_second = random.magnitude(100_000, 4_000_000);
    Reading::Slow {
        bytes: (bytes_a_second * every / SECOND).max(1) as usize,
        every,
    }
}

pub fn leave(random: &mut Random) -> Leave {
    random.pick(&[
        Leave::Politely,
        Leave::Finish,
        Leave::Reset,
        Leave::Cut,
        Leave::ResetStream,
        Leave::Garbage,
        Leave::Nonsense,
    ])
}
