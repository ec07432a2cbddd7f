//! The sharded name table: who gets what, kept so that a publish asks nobody.
//!
//! A name has one *owner* shard, by hash. Three kinds of knowledge, no more:
//!
//! 1. [`Members`]: each shard knows which of its own connections subscribed to a name.
//! 2. [`Directory`]: the owner knows how many members each other shard has, and which shards hold a copy of that.
//! 3. The copy itself ([`View::Known`]): a shard that publishes to a name keeps what the owner told it, absence included.
//!
//! A change reaches every copy *before* its ticket settles, and only a settled ticket is acknowledged: an ack means that
//! every publisher sees the change (dataplane 4.7). An unsubscribed member stays in the local list until then, so that
//! messages which other shards addressed by the old count still find it.
//!
//! Every subscription counts under two keys: its exact name, and its prefix with the NULL id, which stands for the union
//! of all ids under the prefix (dataplane 4.4). The exact name with NULL id *is* that union.
//!
//! This module sends nothing itself: what other shards must hear is collected in [`Routes::outgoing`], tickets that
//! settled in [`Routes::settled`], publishers that may go on in [`Routes::answered`].

#[cfg(test)]
pub mod inspection;
mod members;

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use slab::Slab;
use slim_proto::name::{InstanceId, RouteName};
use slim_proto::route_header::Fanout;

pub use members::{Class, Count, Members};

use crate::limits;

/// One core's share of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

impl ShardId {
    fn bit(self) -> u128 {
        1 << self.0
    }
}

/// A connection of this shard. `generation` tells a later user of the same slot from an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    pub index: u32,
    pub generation: u32,
}

/// A connection of any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    pub shard: ShardId,
    pub slot: Slot,
}

/// How many members each shard has; shards without members are absent.
pub type Counts = Vec<(ShardId, Count)>;

/// What one shard tells another about names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// To the owner: "I have this many members now". With a ticket it must be answered by [`Notice::Counted`].
    Count {
        name: RouteName,
        count: Count,
        ticket: Option<u32>,
    },
    /// From the owner: every copy has the change.
    Counted { name: RouteName, ticket: u32 },
    /// To the owner: "what is under this name? I keep a copy from now on."
    Fetch { name: RouteName },
    /// The owner's answer to Fetch.
    View { name: RouteName, counts: Counts },
    /// To the owner: "I keep no copy any more."
    Forget { name: RouteName },
    /// From the owner to every holder of a copy.
    Update {
        name: RouteName,
        counts: Counts,
        change: u64,
    },
    /// The holder's answer to Update: no message is routed by the old copy any more.
    Updated { change: u64 },
}

/// A subscribe or unsubscribe that is visible everywhere now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub connection: Slot,
    pub subscription_id: u64,
}

/// Where a publish goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// To whom `delivery` says.
    Found,
    /// Nobody but perhaps the sender itself subscribed.
    Nobody,
    /// The owner has been asked; the sender waits for [`Routes::answered`].
    Asked,
}

/// Receivers of one message; reused from message to message.
#[derive(Default)]
pub struct Delivery {
    pub local: Vec<Slot>,
    /// One bit a shard.
    shards: u128,
}

impl Delivery {
    fn clear(&mut self) {
        self.local.clear();
        self.shards = 0;
    }

    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        bits(self.shards)
    }
}

fn bits(mut set: u128) -> impl Iterator<Item = ShardId> {
    std::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let bit = set.trailing_zeros();
        set &= set - 1;
        Some(ShardId(bit as u16))
    })
}

struct Entry {
    members: Members,
    view: View,
    /// Turns through members and shards, so that anycast reaches all of them.
    rotation: u32,
    /// Turns through this shard's members for what other shards routed here. One turn for both would be fair to nobody:
    /// what arrives would decide which turns are left for this shard's own publishers.
    rotation_arrived: u32,
    /// Changes of this name by this shard that are not visible everywhere yet.
    unsettled: u32,
}

impl Default for Entry {
    fn default() -> Self {
        Entry {
            members: Members::default(),
            view: View::Unknown,
            rotation: 0,
            rotation_arrived: 0,
            unsettled: 0,
        }
    }
}

/// What this shard knows of the other shards' members of a name.
enum View {
    Unknown,
    Asked,
    /// A copy. `used` since the clock hand last passed.
    Known {
        counts: Counts,
        used: bool,
    },
    /// This shard owns the name. `None` while no other shard has members or a copy.
    Owned(Option<Box<Directory>>),
}

#[derive(Default)]
struct Directory {
    /// Other shards' members.
    counts: Counts,
    /// One bit for each shard that holds a copy.
    holders: u128,
}

struct Ticket {
    settled: Settled,
    /// Keys under which the connection is leaving.
    leaving: [Option<RouteName>; 2],
    /// Answers still missing, plus one while the operation itself runs.
    awaited: u32,
}

/// A change that holders have not all confirmed.
struct Change {
    name: RouteName,
    origin: ShardId,
    ticket: Option<u32>,
    missing: u128,
}

pub struct Routes {
    shard: ShardId,
    shards: u16,
    /// The same on every shard: it decides who owns a name.
    owners: RandomState,
    names: HashMap<RouteName, Entry, RandomState>,
    /// Names with a copy, in the order in which the clock hand visits them.
    copies: VecDeque<RouteName>,
    copies_max: usize,
    /// Names with members on this shard, prefixes among them, and how many there may be.
    subscribed: usize,
    subscribed_max: usize,
    tickets: Slab<Ticket>,
    changes: HashMap<u64, Change, RandomState>,
    next_change: u64,
    waiting: HashMap<RouteName, Vec<Slot>, RandomState>,
    pub outgoing: Vec<(ShardId, Notice)>,
    pub settled: Vec<Settled>,
    /// Publishers whose question has been answered.
    pub answered: Vec<Slot>,
}

impl Routes {
    /// - `owners`: must be the same on every shard of the router, and not known outside of it: names are chosen by clients.
    pub fn new(shard: ShardId, shards: u16, owners: RandomState) -> Routes {
        debug_assert!(shards <= limits::SHARDS_MAX);
        Routes {
            shard,
            shards,
            names: HashMap::with_hasher(owners.clone()),
            changes: HashMap::with_hasher(owners.clone()),
            waiting: HashMap::with_hasher(owners.clone()),
            owners,
            copies: VecDeque::new(),
            copies_max: limits::ROUTE_CACHE_NAMES_MAX,
            subscribed: 0,
            subscribed_max: limits::NAMES,
            tickets: Slab::new(),
            next_change: 0,
            outgoing: Vec::new(),
            settled: Vec::new(),
            answered: Vec::new(),
        }
    }

    /// Sets this shard's share of the names that may be subscribed to.
    pub fn limit_names(&mut self, subscribed_max: usize) {
        self.subscribed_max = subscribed_max;
    }

    /// Names with members on this shard; a prefix is one.
    pub fn subscribed(&self) -> usize {
        self.subscribed
    }

    /// Whether a subscription to `name` would make more names than there may be.
    pub fn is_full_for(&self, name: RouteName) -> bool {
        // Far from it, no look-up is needed.
        if self.subscribed + 2 <= self.subscribed_max {
            return false;
        }
        let is_new = |key: &RouteName| self.names.get(key).is_none_or(|e| e.members.is_empty());
        self.subscribed + keys(name).filter(is_new).count() > self.subscribed_max
    }

    fn owner_of(&self, name: &RouteName) -> ShardId {
        if self.shards == 1 {
            return self.shard;
        }
        // The high bits: hash tables use the low ones, and the two must not be correlated.
        ShardId(((self.owners.hash_one(name) >> 48) % u64::from(self.shards)) as u16)
    }

    fn entry(&mut self, name: RouteName) -> &mut Entry {
        let owned = self.owner_of(&name) == self.shard;
        self.names.entry(name).or_insert_with(|| Entry {
            view: if owned {
                View::Owned(None)
            } else {
                View::Unknown
            },
            ..Entry::default()
        })
    }

    /// Finds the receivers of a message from `origin`, a connection of this shard; `origin` is never among them.
    ///
    /// One look-up. Anycast turns through all members on all shards, directly attached clients before peers.
    pub fn route(
        &mut self,
        name: RouteName,
        fanout: Fanout,
        origin: Slot,
        delivery: &mut Delivery,
    ) -> Route {
        delivery.clear();
        let Some(entry) = self.names.get_mut(&name) else {
            if self.owner_of(&name) == self.shard {
                return Route::Nobody;
            }
            return self.ask(name, origin);
        };
        let elsewhere: &[(ShardId, Count)] = match &mut entry.view {
            View::Known { counts, used } => {
                *used = true;
                counts
            }
            View::Owned(Some(directory)) => &directory.counts,
            View::Owned(None) => &[],
            View::Unknown | View::Asked => return self.ask(name, origin),
        };
        match fanout {
            Fanout::All => {
                entry.members.all_but(origin, &mut delivery.local);
                for (shard, _) in elsewhere {
                    delivery.shards |= shard.bit();
                }
            }
            Fanout::One => {
                entry.rotation = entry.rotation.wrapping_add(1);
                pick(&entry.members, elsewhere, origin, entry.rotation, delivery);
            }
        }
        if delivery.local.is_empty() && delivery.shards == 0 {
            Route::Nobody
        } else {
            Route::Found
        }
    }

    /// Finds the receivers on this shard of a message that another shard routed here.
    pub fn route_arrived(&mut self, name: RouteName, fanout: Fanout, delivery: &mut Delivery) {
        delivery.clear();
        let Some(entry) = self.names.get_mut(&name) else {
            return;
        };
        match fanout {
            Fanout::All => entry.members.all(&mut delivery.local),
            Fanout::One => {
                entry.rotation_arrived = entry.rotation_arrived.wrapping_add(1);
                if let Some(slot) = entry.members.any(entry.rotation_arrived) {
                    delivery.local.push(slot);
                }
            }
        }
    }

    fn ask(&mut self, name: RouteName, origin: Slot) -> Route {
        let entry = self.entry(name);
        if !matches!(entry.view, View::Asked) {
            entry.view = View::Asked;
            let owner = self.owner_of(&name);
            self.outgoing.push((owner, Notice::Fetch { name }));
        }
        self.waiting.entry(name).or_default().push(origin);
        Route::Asked
    }

    /// Adds one reference of `connection` to `name`. Settles when every publisher sees it.
    pub fn subscribe(
        &mut self,
        connection: Slot,
        class: Class,
        name: RouteName,
        subscription_id: u64,
    ) {
        let ticket = self.open_ticket(connection, subscription_id);
        for key in keys(name) {
            let members = &mut self.entry(key).members;
            let is_new = members.is_empty();
            let changed = members.add(connection, class);
            self.subscribed += usize::from(is_new);
            self.announce(key, changed, Some(ticket));
        }
        self.close_ticket(ticket);
    }

    /// Settles when what `connection` did to `name` before is visible; changes nothing. For repeated requests.
    pub fn confirm(&mut self, connection: Slot, name: RouteName, subscription_id: u64) {
        let ticket = self.open_ticket(connection, subscription_id);
        for key in keys(name) {
            self.announce(key, false, Some(ticket));
        }
        self.close_ticket(ticket);
    }

    /// Takes one reference back; the caller knows that there is one. The member leaves when this settles.
    pub fn unsubscribe(&mut self, connection: Slot, name: RouteName, subscription_id: u64) {
        let ticket = self.open_ticket(connection, subscription_id);
        for (i, key) in keys(name).enumerate() {
            let leaves = self.entry(key).members.release(connection);
            if leaves {
                self.tickets[ticket as usize].leaving[i] = Some(key);
            }
            self.announce(key, leaves, Some(ticket));
        }
        self.close_ticket(ticket);
    }

    /// Removes `connection`, at once, from all that it subscribed to; `names` may repeat.
    pub fn disconnect(&mut self, connection: Slot, names: impl Iterator<Item = RouteName>) {
        for name in names {
            for key in keys(name) {
                let Some(entry) = self.names.get_mut(&key) else {
                    continue;
                };
                let was_empty = entry.members.is_empty();
                let left = entry.members.remove(connection);
                self.subscribed -= usize::from(!was_empty && entry.members.is_empty());
                if left {
                    self.announce(key, true, None);
                }
                self.tidy(key);
            }
        }
    }

    /// Whether `connection` has a subscription under exactly this key.
    pub fn is_member(&self, connection: Slot, key: &RouteName) -> bool {
        self.names
            .get(key)
            .is_some_and(|entry| entry.members.contains(connection))
    }

    /// Handles what another shard said.
    pub fn on_notice(&mut self, from: ShardId, notice: Notice) {
        match notice {
            Notice::Count {
                name,
                count,
                ticket,
            } => {
                let directory = self.directory(name);
                directory.counts.retain(|(shard, _)| *shard != from);
                if count != Count::default() {
                    directory.counts.push((from, count));
                    // In shard order: what publishers turn through must not depend on who came first.
                    directory.counts.sort_unstable_by_key(|(shard, _)| *shard);
                }
                self.spread_change(name, from, ticket);
                self.tidy(name);
            }
            Notice::Counted { name, ticket } => self.confirmed(name, ticket),
            Notice::Fetch { name } => {
                self.directory(name).holders |= from.bit();
                let counts = self.counts_for(&name, from);
                self.outgoing.push((from, Notice::View { name, counts }));
            }
            Notice::View { name, counts } => {
                self.keep(name, counts);
                self.answered
                    .extend(self.waiting.remove(&name).unwrap_or_default());
            }
            Notice::Forget { name } => {
                if let Some(Entry {
                    view: View::Owned(Some(directory)),
                    ..
                }) = self.names.get_mut(&name)
                {
                    directory.holders &= !from.bit();
                }
                self.tidy(name);
            }
            Notice::Update {
                name,
                counts,
                change,
            } => {
                // While asked, the answer is on its way and newer or equal: only a copy needs the change.
                if let Some(Entry {
                    view: View::Known { counts: known, .. },
                    ..
                }) = self.names.get_mut(&name)
                {
                    *known = counts;
                }
                self.outgoing.push((from, Notice::Updated { change }));
            }
            Notice::Updated { change } => {
                let Some(state) = self.changes.get_mut(&change) else {
                    return;
                };
                state.missing &= !from.bit();
                if state.missing == 0 {
                    let Change {
                        name,
                        origin,
                        ticket,
                        ..
                    } = self.changes.remove(&change).expect("it was just there");
                    self.everybody_knows(name, origin, ticket);
                }
            }
        }
    }

    /// Names in the table, this shard's members and copies alike.
    pub fn names(&self) -> usize {
        self.names.len()
    }

    /// Bytes that the table takes when it grows next, if that is near: a table grows all at once.
    pub fn growth_bytes(&self) -> usize {
        growth_bytes(
            self.names.len(),
            self.names.capacity(),
            size_of::<(RouteName, Entry)>(),
        )
    }

    fn open_ticket(&mut self, connection: Slot, subscription_id: u64) -> u32 {
        let settled = Settled {
            connection,
            subscription_id,
        };
        self.tickets.insert(Ticket {
            settled,
            leaving: [None; 2],
            awaited: 1,
        }) as u32
    }

    fn close_ticket(&mut self, ticket: u32) {
        let Some(open) = self.tickets.get_mut(ticket as usize) else {
            return;
        };
        open.awaited -= 1;
        if open.awaited > 0 {
            return;
        }
        let Ticket {
            settled, leaving, ..
        } = self.tickets.remove(ticket as usize);
        for key in leaving.into_iter().flatten() {
            if let Some(entry) = self.names.get_mut(&key) {
                let was_empty = entry.members.is_empty();
                entry.members.finish_leaving(settled.connection);
                self.subscribed -= usize::from(!was_empty && entry.members.is_empty());
            }
            self.tidy(key);
        }
        self.settled.push(settled);
    }

    /// Tells the owner of `key` how many members this shard has now, if that changed or an earlier change is on its way.
    fn announce(&mut self, key: RouteName, changed: bool, ticket: Option<u32>) {
        if self.shards == 1 {
            return;
        }
        let (count, unsettled) = match self.names.get(&key) {
            Some(entry) => (entry.members.count(), entry.unsettled),
            None => (Count::default(), 0),
        };
        if !changed && unsettled == 0 {
            return;
        }
        let owner = self.owner_of(&key);
        if let Some(ticket) = ticket {
            self.tickets[ticket as usize].awaited += 1;
            self.entry(key).unsettled += 1;
        }
        if owner == self.shard {
            self.spread_change(key, self.shard, ticket);
        } else {
            self.outgoing.push((
                owner,
                Notice::Count {
                    name: key,
                    count,
                    ticket,
                },
            ));
        }
    }

    /// Owner: sends the new counts to every holder but `origin`, which knows its own members.
    fn spread_change(&mut self, name: RouteName, origin: ShardId, ticket: Option<u32>) {
        let holders = match self.names.get(&name) {
            Some(Entry {
                view: View::Owned(Some(directory)),
                ..
            }) => directory.holders & !origin.bit(),
            _ => 0,
        };
        if holders == 0 {
            return self.everybody_knows(name, origin, ticket);
        }
        let change = self.next_change;
        self.next_change += 1;
        for holder in bits(holders) {
            let counts = self.counts_for(&name, holder);
            self.outgoing.push((
                holder,
                Notice::Update {
                    name,
                    counts,
                    change,
                },
            ));
        }
        self.changes.insert(
            change,
            Change {
                name,
                origin,
                ticket,
                missing: holders,
            },
        );
    }

    fn everybody_knows(&mut self, name: RouteName, origin: ShardId, ticket: Option<u32>) {
        let Some(ticket) = ticket else { return };
        if origin == self.shard {
            self.confirmed(name, ticket);
        } else {
            self.outgoing
                .push((origin, Notice::Counted { name, ticket }));
        }
    }

    /// A change of this shard's own is visible everywhere.
    fn confirmed(&mut self, name: RouteName, ticket: u32) {
        if let Some(entry) = self.names.get_mut(&name) {
            entry.unsettled = entry.unsettled.saturating_sub(1);
        }
        self.close_ticket(ticket);
        self.tidy(name);
    }

    fn directory(&mut self, name: RouteName) -> &mut Directory {
        let entry = self.entry(name);
        if !matches!(entry.view, View::Owned(_)) {
            // Only owners are asked or told; a table that disagrees about owners cannot arise, for all share one hash.
            debug_assert!(false, "this shard does not own {name:?}");
            entry.view = View::Owned(None);
        }
        match &mut entry.view {
            View::Owned(directory) => directory.get_or_insert_with(Box::default),
            _ => unreachable!("set above"),
        }
    }

    /// Everybody's members but `reader`'s own.
    fn counts_for(&self, name: &RouteName, reader: ShardId) -> Counts {
        let Some(entry) = self.names.get(name) else {
            return Counts::new();
        };
        let mut counts = match &entry.view {
            View::Owned(Some(directory)) => directory.counts.clone(),
            _ => Counts::new(),
        };
        counts.retain(|(shard, _)| *shard != reader);
        let own = entry.members.count();
        if own != Count::default() && reader != self.shard {
            counts.push((self.shard, own));
            counts.sort_unstable_by_key(|(shard, _)| *shard);
        }
        counts
    }

    /// Keeps a copy, and forgets the least used one when there are too many.
    fn keep(&mut self, name: RouteName, counts: Counts) {
        let entry = self.entry(name);
        if matches!(entry.view, View::Owned(_)) {
            return;
        }
        entry.view = View::Known { counts, used: true };
        self.copies.push_back(name);
        // Second chance: one round clears every mark, so this ends.
        while self.copies.len() > self.copies_max {
            let Some(oldest) = self.copies.pop_front() else {
                return;
            };
            match self.names.get_mut(&oldest) {
                Some(Entry {
                    view: View::Known { used, .. },
                    ..
                }) if *used && oldest != name => {
                    *used = false;
                    self.copies.push_back(oldest);
                }
                Some(entry) if matches!(entry.view, View::Known { .. }) => {
                    entry.view = View::Unknown;
                    let owner = self.owner_of(&oldest);
                    self.outgoing.push((owner, Notice::Forget { name: oldest }));
                    self.tidy(oldest);
                }
                _ => {}
            }
        }
    }

    /// Drops an entry that says nothing.
    fn tidy(&mut self, name: RouteName) {
        let Some(entry) = self.names.get_mut(&name) else {
            return;
        };
        if let View::Owned(directory @ Some(_)) = &mut entry.view
            && directory
                .as_ref()
                .is_some_and(|d| d.counts.is_empty() && d.holders == 0)
        {
            *directory = None;
        }
        let says_nothing = entry.members.is_empty()
            && entry.unsettled == 0
            && matches!(entry.view, View::Unknown | View::Owned(None));
        if says_nothing {
            self.names.remove(&name);
        }
    }
}

/// The keys under which a subscription counts: the exact name and the union of its prefix.
fn keys(name: RouteName) -> impl Iterator<Item = RouteName> {
    let union = RouteName {
        id: InstanceId::NULL,
        ..name
    };
    std::iter::once(union).chain((name.id != InstanceId::NULL).then_some(name))
}

/// What a hash table of `capacity` takes when it doubles, if three quarters of it are used.
pub fn growth_bytes(entries: usize, capacity: usize, entry_bytes: usize) -> usize {
    if entries < capacity / 4 * 3 {
        0
    } else {
        // Seven of eight places are used at most, and each has a byte beside it.
        2 * capacity / 7 * 8 * (entry_bytes + 1)
    }
}

fn pick(
    members: &Members,
    elsewhere: &[(ShardId, Count)],
    origin: Slot,
    turn: u32,
    delivery: &mut Delivery,
) {
    for class in [Class::Direct, Class::Peer] {
        let here = members.live_but(origin, class);
        let total = elsewhere
            .iter()
            .map(|(_, count)| count.of(class))
            .fold(here, u32::saturating_add);
        if total == 0 {
            continue;
        }
        let mut turn_left = turn % total;
        if turn_left < here {
            delivery
                .local
                .extend(members.nth_but(origin, class, turn_left));
            return;
        }
        turn_left -= here;
        for (shard, count) in elsewhere {
            if turn_left < count.of(class) {
                delivery.shards = shard.bit();
                return;
            }
            turn_left -= count.of(class);
        }
        return;
    }
}

#[cfg(test)]
mod tests;
