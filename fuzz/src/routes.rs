//! The name tables of several shards, with subscribes, unsubscribes, disconnects and publishes in any order and lanes between
//! them that deliver when the input says so; against who is subscribed.
//!
//! The world keeps what `shard` and `mesh` promise: of one turn, control is taken first and acted on last, after all messages
//! that were there; a publisher with one message waiting has all later ones wait behind it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use ahash::RandomState;
use slim_proto::name::{InstanceId, RouteName};
use slim_proto::route_header::Fanout;
use slim_router::routes::{Class, ConnectionId, Delivery, Notice, Route, Routes, ShardId, Slot};

use crate::draw::Draw;

const SHARDS: u16 = 3;
const CONNECTIONS: u32 = 4;
const STEPS_MAX: usize = 400;

/// Input: steps, each one byte for what and as many as it needs.
pub fn routes(input: &[u8]) {
    let mut draw = Draw::new(input);
    let mut world = World::new();
    for _ in 0..STEPS_MAX {
        if draw.is_empty() {
            break;
        }
        world.step(&mut draw);
    }
    world.settle();
    world.check();
    // In the end all leave, and nothing is left that anything is sent to.
    for shard in 0..SHARDS {
        for index in 0..CONNECTIONS {
            world.disconnect(shard, index);
        }
    }
    world.settle();
    for shard in 0..SHARDS {
        for name in NAMES {
            let number = world.publish(shard, 0, name_of(name), Fanout::All);
            world.settle();
            assert!(!world.got(number), "{number} reached somebody who has left");
        }
    }
}

/// Service and instance; an id of zero stands for NULL.
const NAMES: [(u64, u128); 6] = [(1, 0), (1, 5), (1, 6), (2, 0), (2, 5), (3, 7)];

fn name_of((service, id): (u64, u128)) -> RouteName {
    RouteName {
        prefix: [1, 2, service],
        id: if id == 0 {
            InstanceId::NULL
        } else {
            InstanceId::new(id)
        },
    }
}

/// What a subscription counts under: its name and the union of its prefix.
fn keys(name: RouteName) -> BTreeSet<RouteName> {
    BTreeSet::from([
        name,
        RouteName {
            id: InstanceId::NULL,
            ..name
        },
    ])
}

/// A connection, ordered for the maps of the model.
type Who = (u16, u32, u32);

fn who(connection: ConnectionId) -> Who {
    (
        connection.shard.0,
        connection.slot.index,
        connection.slot.generation,
    )
}

struct Letter {
    name: RouteName,
    fanout: Fanout,
    number: u64,
}

struct Subscription {
    name: RouteName,
    id: u64,
    is_acked: bool,
}

/// What was true when a message was published.
struct Published {
    by: Who,
    fanout: Fanout,
    /// Subscribed and acknowledged; holds as long as the count of their leavings is this.
    must: Vec<(Who, u64)>,
    /// Neither subscribed nor about to leave; holds as long as the count of their subscribes is this.
    must_not: Vec<(Who, u64)>,
    name: RouteName,
    /// For one, and a member left without a word while it was on its way: it may have been sent to that one's shard, as to
    /// a socket that nobody reads any more.
    may_be_lost: bool,
}

struct World {
    tables: Vec<Routes>,
    notices: BTreeMap<(u16, u16), VecDeque<Notice>>,
    letters: BTreeMap<(u16, u16), VecDeque<Letter>>,
    parked: BTreeMap<Who, VecDeque<Letter>>,
    generations: HashMap<(u16, u32), u32>,
    subscriptions: BTreeMap<Who, Vec<Subscription>>,
    /// Unsubscribes that are not acknowledged: who, id, name.
    leaving: Vec<(Who, u64, RouteName)>,
    subscribes: HashMap<(Who, RouteName), u64>,
    leavings: HashMap<(Who, RouteName), u64>,
    published: Vec<Published>,
    /// What connections subscribed to that left since all was told to all.
    left: BTreeSet<RouteName>,
    received: BTreeMap<Who, Vec<u64>>,
    /// Dropped with their publisher.
    cancelled: HashSet<u64>,
    next_id: u64,
}

impl World {
    fn new() -> World {
        let owners = RandomState::with_seeds(1, 2, 3, 4);
        let table = |shard| Routes::new(ShardId(shard), SHARDS, owners.clone());
        World {
            tables: (0..SHARDS).map(table).collect(),
            notices: BTreeMap::new(),
            letters: BTreeMap::new(),
            parked: BTreeMap::new(),
            generations: HashMap::new(),
            subscriptions: BTreeMap::new(),
            leaving: Vec::new(),
            subscribes: HashMap::new(),
            leavings: HashMap::new(),
            published: Vec::new(),
            left: BTreeSet::new(),
            received: BTreeMap::new(),
            cancelled: HashSet::new(),
            next_id: 0,
        }
    }

    fn step(&mut self, draw: &mut Draw) {
        let shard = u16::from(draw.byte()) % SHARDS;
        let what = draw.byte();
        let index = u32::from(what >> 4) % CONNECTIONS;
        let name = name_of(draw.one_of(&NAMES));
        match what % 10 {
            0 | 1 => self.subscribe(shard, index, name),
            2 => self.unsubscribe(shard, index, draw.byte()),
            3 => self.disconnect(shard, index),
            4 => drop(self.publish(shard, index, name, Fanout::One)),
            5 => drop(self.publish(shard, index, name, Fanout::All)),
            6 => {
                self.settle();
                self.check();
            }
            _ => self.turn(shard, draw.byte()),
        }
    }

    fn connection(&self, shard: u16, index: u32) -> ConnectionId {
        let generation = self.generations.get(&(shard, index)).copied().unwrap_or(0);
        ConnectionId {
            shard: ShardId(shard),
            slot: Slot { index, generation },
        }
    }

    fn alive(&self) -> Vec<Who> {
        let all = (0..SHARDS).flat_map(|shard| (0..CONNECTIONS).map(move |index| (shard, index)));
        all.map(|(shard, index)| who(self.connection(shard, index)))
            .collect()
    }

    fn subscribe(&mut self, shard: u16, index: u32, name: RouteName) {
        let connection = self.connection(shard, index);
        // One class for a connection, as it is one kind of link.
        let class = if index == 3 {
            Class::Peer
        } else {
            Class::Direct
        };
        self.next_id += 1;
        let id = self.next_id;
        let subscription = Subscription {
            name,
            id,
            is_acked: false,
        };
        self.subscriptions
            .entry(who(connection))
            .or_default()
            .push(subscription);
        for key in keys(name) {
            *self.subscribes.entry((who(connection), key)).or_default() += 1;
        }
        self.tables[usize::from(shard)].subscribe(connection.slot, class, name, id);
        self.collect(shard);
    }

    fn unsubscribe(&mut self, shard: u16, index: u32, nth: u8) {
        let connection = self.connection(shard, index);
        let held = self.subscriptions.entry(who(connection)).or_default();
        if held.is_empty() {
            return;
        }
        let Subscription { name, .. } = held.remove(usize::from(nth) % held.len());
        self.next_id += 1;
        let id = self.next_id;
        self.leaving.push((who(connection), id, name));
        for key in keys(name) {
            if !self.holds(who(connection), key) {
                *self.leavings.entry((who(connection), key)).or_default() += 1;
            }
        }
        self.tables[usize::from(shard)].unsubscribe(connection.slot, name, id);
        self.collect(shard);
    }

    fn disconnect(&mut self, shard: u16, index: u32) {
        let connection = self.connection(shard, index);
        let gone = who(connection);
        let held = self.subscriptions.remove(&gone).unwrap_or_default();
        let left = self
            .leaving
            .iter()
            .filter(|(who, ..)| *who == gone)
            .map(|(.., name)| *name);
        let names: Vec<_> = held
            .iter()
            .map(|subscription| subscription.name)
            .chain(left)
            .collect();
        self.leaving.retain(|(who, ..)| *who != gone);
        for key in NAMES.map(name_of) {
            *self.leavings.entry((gone, key)).or_default() += 1;
        }
        self.left.extend(names.iter().flat_map(|name| keys(*name)));
        for message in &mut self.published {
            message.may_be_lost |= self.left.contains(&message.name);
        }
        self.cancelled.extend(
            self.parked
                .remove(&gone)
                .unwrap_or_default()
                .iter()
                .map(|letter| letter.number),
        );
        *self.generations.entry((shard, index)).or_default() += 1;
        self.tables[usize::from(shard)].disconnect(connection.slot, names.into_iter());
        self.collect(shard);
    }

    fn holds(&self, who: Who, key: RouteName) -> bool {
        self.subscriptions
            .get(&who)
            .is_some_and(|held| held.iter().any(|one| keys(one.name).contains(&key)))
    }

    fn publish(&mut self, shard: u16, index: u32, name: RouteName, fanout: Fanout) -> u64 {
        let from = self.connection(shard, index);
        let number = self.published.len() as u64;
        let mut published = Published {
            by: who(from),
            fanout,
            must: Vec::new(),
            must_not: Vec::new(),
            name,
            may_be_lost: self.left.contains(&name),
        };
        for other in self.alive() {
            let is_member = self.subscriptions.get(&other).is_some_and(|held| {
                held.iter()
                    .any(|one| one.is_acked && keys(one.name).contains(&name))
            });
            let is_leaving = self
                .leaving
                .iter()
                .any(|(who, _, left)| *who == other && keys(*left).contains(&name));
            if other == who(from) {
                published.must_not.push((other, u64::MAX));
            } else if is_member {
                published.must.push((
                    other,
                    self.leavings.get(&(other, name)).copied().unwrap_or(0),
                ));
            } else if !self.holds(other, name) && !is_leaving {
                published.must_not.push((
                    other,
                    self.subscribes.get(&(other, name)).copied().unwrap_or(0),
                ));
            }
        }
        self.published.push(published);
        let letter = Letter {
            name,
            fanout,
            number,
        };
        match self.parked.get_mut(&who(from)) {
            Some(parked) if !parked.is_empty() => parked.push_back(letter),
            _ => self.send(from, letter),
        }
        self.collect(shard);
        number
    }

    fn send(&mut self, from: ConnectionId, letter: Letter) {
        let mut delivery = Delivery::default();
        let table = &mut self.tables[usize::from(from.shard.0)];
        match table.route(letter.name, letter.fanout, from.slot, &mut delivery) {
            Route::Nobody => {}
            Route::Asked => self.parked.entry(who(from)).or_default().push_front(letter),
            Route::Found => {
                let to: Vec<_> = delivery.shards().collect();
                if letter.fanout == Fanout::One {
                    assert_eq!(to.len() + delivery.local.len(), 1);
                }
                self.hand_over(from.shard, &delivery.local, letter.number);
                for to in to {
                    assert_ne!(to, from.shard, "a shard does not write to itself");
                    self.letters
                        .entry((from.shard.0, to.0))
                        .or_default()
                        .push_back(Letter { ..letter });
                }
            }
        }
    }

    fn hand_over(&mut self, shard: ShardId, slots: &[Slot], number: u64) {
        for slot in slots {
            let to = ConnectionId { shard, slot: *slot };
            assert_eq!(
                to,
                self.connection(shard.0, slot.index),
                "a message for somebody who has left"
            );
            self.received.entry(who(to)).or_default().push(number);
        }
    }

    /// Moves what a table said into the lanes, and lets publishers go on that were answered.
    fn collect(&mut self, shard: u16) {
        let table = &mut self.tables[usize::from(shard)];
        let outgoing = std::mem::take(&mut table.outgoing);
        let settled = std::mem::take(&mut table.settled);
        let answered = std::mem::take(&mut table.answered);
        for (to, notice) in outgoing {
            assert_ne!(to.0, shard, "a shard does not write to itself");
            self.notices
                .entry((shard, to.0))
                .or_default()
                .push_back(notice);
        }
        for settled in settled {
            let connection = who(ConnectionId {
                shard: ShardId(shard),
                slot: settled.connection,
            });
            let id = settled.subscription_id;
            self.leaving
                .retain(|(who, leaving, _)| (*who, *leaving) != (connection, id));
            for one in self
                .subscriptions
                .get_mut(&connection)
                .into_iter()
                .flatten()
            {
                one.is_acked |= one.id == id;
            }
        }
        for slot in answered {
            let from = ConnectionId {
                shard: ShardId(shard),
                slot,
            };
            while let Some(letter) = self
                .parked
                .get_mut(&who(from))
                .and_then(VecDeque::pop_front)
            {
                let waiting = self.parked.get(&who(from)).map_or(0, VecDeque::len);
                self.send(from, letter);
                if self.parked.get(&who(from)).map_or(0, VecDeque::len) > waiting {
                    break;
                }
            }
            self.collect(shard);
        }
    }

    /// One turn of one shard, with as much of each lane's control as `share` says.
    fn turn(&mut self, shard: u16, share: u8) {
        let mut taken = Vec::new();
        for from in (0..SHARDS).filter(|from| *from != shard) {
            let lane = self.notices.entry((from, shard)).or_default();
            let bits = (share >> (2 * from)) & 3;
            let count = if bits == 3 {
                lane.len()
            } else {
                usize::from(bits).min(lane.len())
            };
            taken.extend(lane.drain(..count).map(|notice| (ShardId(from), notice)));
        }
        for from in (0..SHARDS).filter(|from| *from != shard) {
            for letter in std::mem::take(self.letters.entry((from, shard)).or_default()) {
                let mut delivery = Delivery::default();
                self.tables[usize::from(shard)].route_arrived(
                    letter.name,
                    letter.fanout,
                    &mut delivery,
                );
                self.hand_over(ShardId(shard), &delivery.local, letter.number);
            }
        }
        for (from, notice) in taken {
            self.tables[usize::from(shard)].on_notice(from, notice);
        }
        self.collect(shard);
    }

    /// Lets everything arrive. Nobody waits for ever: a question is answered in a bounded number of turns.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let is_idle = self.notices.values().all(VecDeque::is_empty)
                && self.letters.values().all(VecDeque::is_empty);
            if is_idle {
                assert!(
                    self.parked.values().all(VecDeque::is_empty),
                    "a publisher waits for ever"
                );
                assert!(
                    self.leaving.is_empty(),
                    "an unsubscribe is never acknowledged"
                );
                let mut held = self.subscriptions.values().flatten();
                assert!(
                    held.all(|one| one.is_acked),
                    "a subscribe is never acknowledged"
                );
                self.left.clear();
                self.check_counts();
                return;
            }
            for shard in 0..SHARDS {
                self.turn(shard, 0xff);
            }
        }
        panic!("the tables talk for ever");
    }

    /// Each table counts the names, prefixes among them, that its connections have subscribed to.
    fn check_counts(&self) {
        for (shard, table) in (0..SHARDS).zip(&self.tables) {
            let here = self.subscriptions.iter().filter(|(who, _)| who.0 == shard);
            let names: BTreeSet<_> = here
                .flat_map(|(_, held)| held)
                .flat_map(|one| keys(one.name))
                .collect();
            assert_eq!(table.subscribed(), names.len());
        }
    }

    fn got(&self, number: u64) -> bool {
        self.received.values().flatten().any(|got| *got == number)
    }

    /// Everybody got what was for them, once and in order, and nothing else.
    fn check(&mut self) {
        let mut receivers: HashMap<u64, Vec<Who>> = HashMap::new();
        for (to, numbers) in &self.received {
            let mut last: HashMap<Who, u64> = HashMap::new();
            for number in numbers {
                receivers.entry(*number).or_default().push(*to);
                let by = self.published[*number as usize].by;
                if let Some(earlier) = last.insert(by, *number) {
                    assert!(
                        earlier < *number,
                        "{earlier} before {number}, from {by:?} to {to:?}"
                    );
                }
            }
        }
        for (number, message) in (0u64..).zip(&self.published) {
            let got = receivers.get(&number).map_or(&[][..], Vec::as_slice);
            for (other, subscribes) in &message.must_not {
                let now = self
                    .subscribes
                    .get(&(*other, message.name))
                    .copied()
                    .unwrap_or(0);
                if *subscribes == now || *subscribes == u64::MAX {
                    assert!(
                        !got.contains(other),
                        "{number} reached {other:?}, who was not subscribed"
                    );
                }
            }
            let stayed = message.must.iter().filter(|(other, leavings)| {
                self.leavings
                    .get(&(*other, message.name))
                    .copied()
                    .unwrap_or(0)
                    == *leavings
            });
            let stayed: Vec<_> = stayed.map(|(other, _)| *other).collect();
            if self.cancelled.contains(&number) {
                continue;
            }
            match message.fanout {
                Fanout::All => {
                    for other in stayed {
                        assert!(got.contains(&other), "{number} did not reach {other:?}");
                    }
                }
                Fanout::One => {
                    assert!(got.len() <= 1, "{number} for one reached {got:?}");
                    assert!(
                        got.len() == 1 || stayed.is_empty() || message.may_be_lost,
                        "{number} reached none of {stayed:?}"
                    );
                }
            }
        }
        // What is checked is checked; later steps change who is what.
        self.published.iter_mut().for_each(|message| {
            message.must.clear();
        });
    }
}
