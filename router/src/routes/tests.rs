//! The name table alone, on one seed: N shards, lanes that deliver when the seed says so, and the two promises: an ack
//! means that every publisher sees the change, and no message for a stable member is lost.

use std::collections::{HashMap, HashSet, VecDeque};

use ahash::RandomState;
use proptest::prelude::*;
use slim_proto::name::{InstanceId, RouteName};
use slim_proto::route_header::Fanout;

use super::{Class, ConnectionId, Count, Delivery, Members, Notice, Route, Routes, ShardId, Slot};

/// What is said of one shard's messages on their way to another.
struct Letter {
    name: RouteName,
    fanout: Fanout,
    number: u64,
}

/// N tables and the lanes between them.
struct World {
    tables: Vec<Routes>,
    notices: HashMap<(u16, u16), VecDeque<Notice>>,
    letters: HashMap<(u16, u16), VecDeque<Letter>>,
    /// Publishes that wait for an answer, by publisher, in order.
    parked: HashMap<ConnectionId, VecDeque<Letter>>,
    acked: HashSet<(ConnectionId, u64)>,
    /// Who got which message.
    received: HashMap<ConnectionId, Vec<u64>>,
    lost: Vec<u64>,
    next_number: u64,
    seed: u64,
}

impl World {
    fn new(shards: u16, seed: u64) -> World {
        let owners = RandomState::with_seeds(1, 2, 3, 4);
        World {
            tables: (0..shards)
                .map(|i| Routes::new(ShardId(i), shards, owners.clone()))
                .collect(),
            notices: HashMap::new(),
            letters: HashMap::new(),
            parked: HashMap::new(),
            acked: HashSet::new(),
            received: HashMap::new(),
            lost: Vec::new(),
            next_number: 0,
            seed: seed | 1,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    fn shards(&self) -> u16 {
        self.tables.len() as u16
    }

    fn table(&mut self, shard: ShardId) -> &mut Routes {
        &mut self.tables[usize::from(shard.0)]
    }

    fn publish(&mut self, from: ConnectionId, name: RouteName, fanout: Fanout) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let letter = Letter {
            name,
            fanout,
            number,
        };
        match self.parked.get_mut(&from) {
            Some(parked) if !parked.is_empty() => parked.push_back(letter),
            _ => self.send(from, letter),
        }
        self.collect(from.shard);
        number
    }

    fn send(&mut self, from: ConnectionId, letter: Letter) {
        let mut delivery = Delivery::default();
        let route =
            self.table(from.shard)
                .route(letter.name, letter.fanout, from.slot, &mut delivery);
        match route {
            Route::Nobody => self.lost.push(letter.number),
            Route::Asked => self.parked.entry(from).or_default().push_front(letter),
            Route::Found => {
                for slot in &delivery.local {
                    let to = ConnectionId {
                        shard: from.shard,
                        slot: *slot,
                    };
                    assert_ne!(to, from, "a message came back to its sender");
                    self.received.entry(to).or_default().push(letter.number);
                }
                for to in delivery.shards() {
                    let Letter {
                        name,
                        fanout,
                        number,
                    } = letter;
                    self.letters
                        .entry((from.shard.0, to.0))
                        .or_default()
                        .push_back(Letter {
                            name,
                            fanout,
                            number,
                        });
                }
            }
        }
    }

    /// Moves what a table said into the lanes.
    fn collect(&mut self, shard: ShardId) {
        let table = self.table(shard);
        let outgoing = std::mem::take(&mut table.outgoing);
        let settled = std::mem::take(&mut table.settled);
        let answered = std::mem::take(&mut table.answered);
        for (to, notice) in outgoing {
            assert_ne!(to, shard, "a shard does not write to itself");
            self.notices
                .entry((shard.0, to.0))
                .or_default()
                .push_back(notice);
        }
        for settled in settled {
            self.acked.insert((
                ConnectionId {
                    shard,
                    slot: settled.connection,
                },
                settled.subscription_id,
            ));
        }
        for slot in answered {
            let from = ConnectionId { shard, slot };
            while let Some(letter) = self.parked.get_mut(&from).and_then(VecDeque::pop_front) {
                let waiting = self.parked[&from].len();
                self.send(from, letter);
                if self.parked[&from].len() > waiting {
                    break;
                }
            }
            self.collect(shard);
        }
    }

    /// One turn of one shard, as `Mesh` and `Shard` order it: control taken first and acted on last.
    fn turn(&mut self, shard: ShardId) {
        let senders: Vec<u16> = (0..self.shards()).filter(|from| *from != shard.0).collect();
        let mut taken = Vec::new();
        for from in &senders {
            // Perhaps only a part has come.
            let there = self.notices.get(&(*from, shard.0)).map_or(0, VecDeque::len) as u64;
            let count = if there == 0 {
                0
            } else {
                self.random(there + 1)
            };
            for _ in 0..count {
                if let Some(notice) = self
                    .notices
                    .get_mut(&(*from, shard.0))
                    .and_then(VecDeque::pop_front)
                {
                    taken.push((ShardId(*from), notice));
                }
            }
        }
        for from in &senders {
            while let Some(letter) = self
                .letters
                .get_mut(&(*from, shard.0))
                .and_then(VecDeque::pop_front)
            {
                let mut delivery = Delivery::default();
                self.table(shard)
                    .route_arrived(letter.name, letter.fanout, &mut delivery);
                if delivery.local.is_empty() {
                    self.lost.push(letter.number);
                }
                for slot in delivery.local {
                    self.received
                        .entry(ConnectionId { shard, slot })
                        .or_default()
                        .push(letter.number);
                }
            }
        }
        for (from, notice) in taken {
            self.table(shard).on_notice(from, notice);
        }
        self.collect(shard);
    }

    fn run(&mut self, turns: usize) {
        for _ in 0..turns {
            let shard = ShardId(self.random(u64::from(self.shards())) as u16);
            self.turn(shard);
        }
    }

    fn run_until_idle(&mut self) {
        while self.notices.values().any(|lane| !lane.is_empty())
            || self.letters.values().any(|lane| !lane.is_empty())
        {
            self.run(usize::from(self.shards()) * 4);
        }
        assert!(
            self.parked.values().all(VecDeque::is_empty),
            "a publisher waits for ever"
        );
    }

    fn subscribe(&mut self, who: ConnectionId, name: RouteName, id: u64) {
        self.table(who.shard)
            .subscribe(who.slot, Class::Direct, name, id);
        self.collect(who.shard);
    }

    fn unsubscribe(&mut self, who: ConnectionId, name: RouteName, id: u64) {
        self.table(who.shard).unsubscribe(who.slot, name, id);
        self.collect(who.shard);
    }

    fn run_until_acked(&mut self, who: ConnectionId, id: u64) {
        for _ in 0..10_000 {
            if self.acked.contains(&(who, id)) {
                return;
            }
            self.run(1);
        }
        panic!("no ack for {id}");
    }

    fn received(&self, who: ConnectionId) -> &[u64] {
        self.received.get(&who).map_or(&[], Vec::as_slice)
    }
}

fn connection(shard: u16, index: u32) -> ConnectionId {
    ConnectionId {
        shard: ShardId(shard),
        slot: Slot {
            index,
            generation: 0,
        },
    }
}

fn name(service: u64, id: u128) -> RouteName {
    RouteName {
        prefix: [1, 2, service],
        id: InstanceId::new(id),
    }
}

fn union(service: u64) -> RouteName {
    RouteName {
        prefix: [1, 2, service],
        id: InstanceId::NULL,
    }
}

#[test]
fn an_ack_means_that_every_publisher_sees_the_subscription() {
    for seed in 0..400 {
        let mut world = World::new(4, seed * 2_654_435_761);
        let target = name(seed, 7);
        // Every shard has asked before anybody subscribed, so every shard holds a negative copy.
        for shard in 0..4 {
            world.publish(connection(shard, 99), target, Fanout::One);
            world.publish(connection(shard, 99), union(seed), Fanout::One);
        }
        world.run_until_idle();
        let member = connection((seed % 4) as u16, 1);
        world.subscribe(member, target, 1);
        world.run_until_acked(member, 1);
        let mut sent = Vec::new();
        for shard in 0..4 {
            for fanout in [Fanout::One, Fanout::All] {
                sent.push(world.publish(connection(shard, 50), target, fanout));
                sent.push(world.publish(connection(shard, 50), union(seed), fanout));
            }
        }
        world.run_until_idle();
        let mut received = world.received(member).to_vec();
        received.sort_unstable();
        assert_eq!(received, sent, "seed {seed}");
    }
}

#[test]
fn nothing_reaches_a_member_after_its_unsubscribe_is_acknowledged() {
    for seed in 0..400 {
        let mut world = World::new(4, seed * 40_503 + 7);
        let target = name(1, 7);
        let member = connection((seed % 4) as u16, 1);
        world.subscribe(member, target, 1);
        world.run_until_acked(member, 1);
        for shard in 0..4 {
            world.publish(connection(shard, 50), target, Fanout::All);
        }
        world.unsubscribe(member, target, 2);
        world.run_until_acked(member, 2);
        let before = world.received(member).len();
        for shard in 0..4 {
            world.publish(connection(shard, 50), target, Fanout::All);
            world.publish(connection(shard, 50), target, Fanout::One);
        }
        world.run_until_idle();
        // What was on its way when the ack came had been routed before it; the mesh delivers that first.
        assert_eq!(world.received(member).len(), before, "seed {seed}");
        assert!(
            world.tables.iter().all(|table| table.tickets.is_empty()),
            "seed {seed}"
        );
    }
}

#[test]
fn churn_beside_a_stable_member_loses_nothing() {
    for seed in 0..200 {
        let mut world = World::new(3, seed * 7_919 + 1);
        let target = name(3, 5);
        let stable = connection((seed % 3) as u16, 1);
        world.subscribe(stable, target, 1);
        world.run_until_acked(stable, 1);
        let mut fanned = Vec::new();
        let mut anycast = HashSet::new();
        let mut next_id = 10;
        let mut guests: HashMap<ConnectionId, bool> = HashMap::new();
        for _ in 0..300 {
            match world.random(4) {
                0 => {
                    let guest = connection(world.random(3) as u16, 20 + world.random(3) as u32);
                    next_id += 1;
                    if std::mem::replace(guests.entry(guest).or_insert(false), false) {
                        world.unsubscribe(guest, target, next_id);
                    } else {
                        world.subscribe(guest, target, next_id);
                        guests.insert(guest, true);
                    }
                }
                1 => fanned.push(world.publish(
                    connection(world.seed as u16 % 3, 50),
                    target,
                    Fanout::All,
                )),
                2 => {
                    let shard = world.random(3) as u16;
                    anycast.insert(world.publish(connection(shard, 51), target, Fanout::One));
                }
                _ => world.run(2),
            }
        }
        world.run_until_idle();
        let to_stable: HashSet<u64> = world.received(stable).iter().copied().collect();
        assert!(
            fanned.iter().all(|number| to_stable.contains(number)),
            "seed {seed}: fan-out lost"
        );
        let to_anybody: HashSet<u64> = world.received.values().flatten().copied().collect();
        assert!(anycast.is_subset(&to_anybody), "seed {seed}: anycast lost");
        let anycast_copies = world
            .received
            .values()
            .flatten()
            .filter(|number| anycast.contains(number))
            .count();
        assert_eq!(
            anycast_copies,
            anycast.len(),
            "seed {seed}: anycast delivered twice"
        );
        assert!(world.lost.is_empty(), "seed {seed}: {:?}", world.lost);
    }
}

#[test]
fn order_from_one_publisher_to_one_receiver_holds_across_cold_and_warm_names() {
    for seed in 0..200 {
        let mut world = World::new(4, seed * 104_729 + 3);
        let receiver = connection(2, 1);
        for service in 0..6 {
            world.subscribe(receiver, name(service, 1), service + 1);
        }
        world.run_until_idle();
        let publisher = connection((seed % 4) as u16, 50);
        for _ in 0..60 {
            let service = world.random(6);
            world.publish(publisher, name(service, 1), Fanout::One);
            let turns = world.random(3) as usize;
            world.run(turns);
        }
        world.run_until_idle();
        let received = world.received(receiver);
        assert_eq!(received.len(), 60, "seed {seed}");
        assert!(received.is_sorted(), "seed {seed}: {received:?}");
    }
}

#[test]
fn anycast_turns_through_all_members_on_all_shards() {
    let mut world = World::new(2, 5);
    let target = union(8);
    let members = [connection(0, 1), connection(0, 2), connection(1, 1)];
    for (id, member) in (1u64..).zip(members) {
        world.subscribe(member, name(8, u128::from(id)), id);
    }
    world.run_until_idle();
    for _ in 0..300 {
        world.publish(connection(0, 50), target, Fanout::One);
    }
    world.run_until_idle();
    for member in members {
        assert_eq!(world.received(member).len(), 100);
    }
}

#[test]
fn anycast_prefers_clients_that_are_attached_directly_to_those_behind_peers() {
    let mut routes = Routes::new(ShardId(0), 1, RandomState::with_seeds(1, 2, 3, 4));
    let (direct, peer, publisher) = (slot(1), slot(2), slot(3));
    routes.subscribe(peer, Class::Peer, name(1, 1), 1);
    routes.subscribe(direct, Class::Direct, name(1, 1), 2);
    let mut delivery = Delivery::default();
    for _ in 0..10 {
        assert_eq!(
            routes.route(name(1, 1), Fanout::One, publisher, &mut delivery),
            Route::Found
        );
        assert_eq!(delivery.local, [direct]);
    }
    // The sender is never chosen, so the peer is when the only client is the sender.
    assert_eq!(
        routes.route(name(1, 1), Fanout::One, direct, &mut delivery),
        Route::Found
    );
    assert_eq!(delivery.local, [peer]);
}

fn slot(index: u32) -> Slot {
    Slot {
        index,
        generation: 0,
    }
}

#[test]
fn a_disconnected_member_leaves_no_trace() {
    let mut world = World::new(3, 9);
    for shard in 0..3 {
        for index in 0..5 {
            world.subscribe(
                connection(shard, index),
                name(u64::from(index), u128::from(shard)),
                1,
            );
        }
        for service in 0..5 {
            world.publish(connection(shard, 50), union(service), Fanout::All);
        }
    }
    world.run_until_idle();
    for shard in 0..3 {
        for index in 0..5 {
            let names = [name(u64::from(index), u128::from(shard)); 2];
            world
                .table(ShardId(shard))
                .disconnect(slot(index), names.into_iter());
            world.collect(ShardId(shard));
        }
    }
    world.run_until_idle();
    let before: usize = world.received.values().map(Vec::len).sum();
    for service in 0..5 {
        world.publish(connection(0, 50), union(service), Fanout::All);
    }
    world.run_until_idle();
    assert_eq!(world.received.values().map(Vec::len).sum::<usize>(), before);
    for table in &world.tables {
        // What is left are copies that say "nobody", and the owners' note of who holds them.
        assert!(
            table
                .names
                .values()
                .all(|entry| entry.members.is_empty() && entry.unsettled == 0)
        );
    }
}

#[test]
fn the_route_cache_is_bounded_and_forgets_the_unused_first() {
    let mut world = World::new(2, 11);
    for table in &mut world.tables {
        table.copies_max = 8;
    }
    let kept = (0..)
        .map(|i| name(1_000, i))
        .find(|n| world.tables[0].owner_of(n) == ShardId(1))
        .unwrap();
    let member = connection(1, 1);
    world.subscribe(member, kept, 1);
    world.run_until_idle();
    for i in 0..500 {
        world.publish(connection(0, 50), kept, Fanout::One);
        world.publish(connection(0, 50), name(2_000 + i, 1), Fanout::One);
        world.run_until_idle();
    }
    assert_eq!(world.received(member).len(), 500);
    assert!(
        world.tables[0].copies.len() <= 8,
        "{}",
        world.tables[0].copies.len()
    );
    assert!(world.tables[0].names() <= 9);
    // The owner forgot who held the copies that are gone.
    assert!(world.tables[1].names() <= 11, "{}", world.tables[1].names());
}

proptest! {
    #[test]
    fn members_count_what_a_plain_set_counts(operations in prop::collection::vec((0u32..6, 0u8..4), 0..200)) {
        let mut members = Members::default();
        // slot -> (references, unsubscribes that have not settled)
        let mut model: HashMap<u32, (u32, u32)> = HashMap::new();
        for (index, operation) in operations {
            let entry = model.get(&index).copied();
            match operation {
                0 => {
                    let became_live = members.add(slot(index), Class::Direct);
                    let stay = model.entry(index).or_default();
                    stay.0 += 1;
                    prop_assert_eq!(became_live, stay.0 == 1);
                }
                1 => {
                    let left = members.release(slot(index));
                    prop_assert_eq!(left, entry.is_some_and(|(references, _)| references == 1));
                    if let Some(stay) = model.get_mut(&index).filter(|stay| stay.0 > 0) {
                        stay.0 -= 1;
                        stay.1 += u32::from(stay.0 == 0);
                    }
                }
                2 => {
                    if entry.is_some_and(|(_, leaving)| leaving > 0) {
                        members.finish_leaving(slot(index));
                        let stay = model.get_mut(&index).unwrap();
                        stay.1 -= 1;
                        if *stay == (0, 0) {
                            model.remove(&index);
                        }
                    }
                }
                _ => {
                    let was_live = members.remove(slot(index));
                    prop_assert_eq!(was_live, model.remove(&index).is_some_and(|(references, _)| references > 0));
                }
            }
            let live = model.values().filter(|(references, _)| *references > 0).count() as u32;
            prop_assert_eq!(members.count(), Count { direct: live, peer: 0 });
            let mut all = Vec::new();
            members.all(&mut all);
            let all: HashSet<u32> = all.into_iter().map(|slot| slot.index).collect();
            prop_assert_eq!(&all, &model.keys().copied().collect());
            for origin in 0..6 {
                let others = members.live_but(slot(origin), Class::Direct);
                let picked: HashSet<Slot> =
                    (0..others).filter_map(|n| members.nth_but(slot(origin), Class::Direct, n)).collect();
                prop_assert!(!picked.contains(&slot(origin)));
                prop_assert!(picked.iter().all(|slot| model[&slot.index].0 > 0));
                prop_assert_eq!(picked.is_empty(), others == 0);
            }
        }
    }
}
