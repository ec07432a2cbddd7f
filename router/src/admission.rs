//! Who may connect: connections in all, and from one address.
//!
//! A client whose connection is closed or refused before its link has been answered never comes back (dataplane 1.7). So
//! one above a limit is not turned away at once: it is accepted and *waits for room*, its link message unanswered. If none
//! comes free within [`limits::WAITING_ROOM_STAY`], its link is answered and then ended with a status that says why, and
//! the client connects anew. Only when the waiting room is full as well is a connection closed without a word.
//!
//! The book is behind a lock. It is taken when a connection comes, goes, or waits and is looked at; never for a message.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};

use crate::connection::Peer;
use crate::limits;
use crate::memory::State;
use crate::routes::ShardId;

/// Why a connection has to wait, or may not come in at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The router has as many as it may.
    Connections { limit: u32 },
    /// Its address has as many as one may.
    Address { limit: u32 },
    /// The router has no memory to spare.
    Memory,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Connections { limit } => {
                write!(
                    f,
                    "the router has {limit} connections, and may have no more"
                )
            }
            Refusal::Address { limit } => {
                write!(
                    f,
                    "{limit} connections are open from this address, and there may be no more"
                )
            }
            Refusal::Memory => f.write_str("the router has no memory to spare"),
        }
    }
}

/// A connection's line in the book. It goes where the connection goes and is given back with [`Admission::leave`].
#[derive(Debug)]
pub struct Entry {
    pub shard: ShardId,
    address: Option<Address>,
    /// Why it waits; `None`: it has been let in.
    pub waits_for: Option<Refusal>,
}

/// Whose connections are counted together: an IPv4 address, or the /64 that is one IPv6 subscriber's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Address {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Address {
    fn of(peer: &Peer) -> Option<Address> {
        let Peer::Tcp(address) = peer else {
            return None;
        };
        Some(match address.ip().to_canonical() {
            IpAddr::V4(address) => Address::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Address::V6([a, b, c, d, e, f, g, h])
            }
        })
    }
}

/// Let in, and waiting.
#[derive(Clone, Copy, Default)]
struct Present {
    inside: u32,
    waiting: u32,
}

struct Book {
    all: Present,
    /// By shard.
    shards: Vec<Present>,
    /// Only if connections of one address are limited; none without a connection.
    addresses: HashMap<Address, Present, ahash::RandomState>,
}

/// The connections of all shards.
pub struct Admission {
    connections_max: u32,
    per_address_max: Option<u32>,
    book: Mutex<Book>,
}

impl Admission {
    pub fn new(shards: u16, connections_max: u32, per_address_max: Option<u32>) -> Admission {
        Admission {
            connections_max,
            per_address_max,
            book: Mutex::new(Book {
                all: Present::default(),
                shards: vec![Present::default(); usize::from(shards)],
                addresses: HashMap::default(),
            }),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change is made whole before the lock is let go of, also by a thread that then panicked.
        self.book
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Enters a connection that was accepted, on the shard with the fewest, the first of several.
    ///
    /// - `memory`: from [`State::Tight`] on it must wait, and when critical it cannot even do that.
    /// - Errors: it is to be closed at once.
    pub fn enter(&self, peer: &Peer, memory: State) -> Result<Entry, Refusal> {
        if memory == State::Critical {
            return Err(Refusal::Memory);
        }
        let tight = memory == State::Tight;
        let mut book = self.book();
        let load = |present: &Present| present.inside + present.waiting;
        let shard = (0u16..)
            .zip(&book.shards)
            .min_by_key(|(_, present)| load(present))
            .map_or(ShardId(0), |(shard, _)| ShardId(shard));
        let mut entry = Entry {
            shard,
            address: self.per_address_max.and_then(|_| Address::of(peer)),
            waits_for: None,
        };
        if let Some(refusal) = self.refusal(&book, &entry, tight) {
            if self.is_waiting_room_full(&book, &entry) {
                return Err(refusal);
            }
            entry.waits_for = Some(refusal);
        }
        book.change(&entry, |present| *present.count_of(&entry) += 1);
        Ok(entry)
    }

    /// Lets a connection in that has waited, if there is room for it now.
    pub fn let_in(&self, entry: &mut Entry, tight: bool) -> bool {
        if entry.waits_for.is_none() {
            return true;
        }
        let mut book = self.book();
        entry.waits_for = self.refusal(&book, entry, tight);
        if entry.waits_for.is_some() {
            return false;
        }
        book.change(entry, |present| {
            present.waiting -= 1;
            present.inside += 1;
        });
        true
    }

    pub fn leave(&self, entry: &Entry) {
        let mut book = self.book();
        book.change(entry, |present| *present.count_of(entry) -= 1);
        if let Some(address) = entry.address
            && let Some(Present {
                inside: 0,
                waiting: 0,
            }) = book.addresses.get(&address)
        {
            book.addresses.remove(&address);
        }
    }

    /// Connections of all shards, as they are placed by.
    #[cfg(test)]
    pub fn present(&self) -> u32 {
        let all = self.book().all;
        all.inside + all.waiting
    }

    fn refusal(&self, book: &Book, entry: &Entry, tight: bool) -> Option<Refusal> {
        if tight {
            return Some(Refusal::Memory);
        }
        if book.all.inside >= self.connections_max {
            return Some(Refusal::Connections {
                limit: self.connections_max,
            });
        }
        let limit = self.per_address_max?;
        let present = book.addresses.get(&entry.address?)?;
        (present.inside >= limit).then_some(Refusal::Address { limit })
    }

    fn is_waiting_room_full(&self, book: &Book, entry: &Entry) -> bool {
        let of_shard = book.shards.get(usize::from(entry.shard.0));
        let of_address = entry
            .address
            .and_then(|address| book.addresses.get(&address));
        let per_address = self.per_address_max.map_or(u32::MAX, |max| {
            max.max(limits::WAITING_ROOM_PER_ADDRESS_LEAST)
        });
        of_shard.is_none_or(|present| present.waiting >= limits::WAITING_ROOM_PER_SHARD)
            || of_address.is_some_and(|present| present.waiting >= per_address)
    }
}

impl Book {
    fn change(&mut self, entry: &Entry, change: impl Fn(&mut Present)) {
        change(&mut self.all);
        if let Some(present) = self.shards.get_mut(usize::from(entry.shard.0)) {
            change(present);
        }
        if let Some(address) = entry.address {
            change(self.addresses.entry(address).or_default());
        }
    }
}

impl Present {
    fn count_of(&mut self, entry: &Entry) -> &mut u32 {
        match entry.waits_for {
            None => &mut self.inside,
            Some(_) => &mut self.waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Peer {
        Peer::Tcp(address.parse().unwrap())
    }

    fn shards(admission: &Admission, connections: usize) -> Vec<u16> {
        let enter = |_| admission.enter(&Peer::Unix, State::Roomy).unwrap().shard.0;
        (0..connections).map(enter).collect()
    }

    #[test]
    fn connections_go_round_and_fill_the_gaps_that_others_leave() {
        let admission = Admission::new(3, 100, None);
        assert_eq!(shards(&admission, 6), [0, 1, 2, 0, 1, 2]);
        admission.leave(&Entry {
            shard: ShardId(1),
            address: None,
            waits_for: None,
        });
        assert_eq!(shards(&admission, 2), [1, 0]);
    }

    #[test]
    fn accepts_at_the_same_time_land_evenly_and_never_exceed_the_limit() {
        const EACH: usize = 1_000;
        let admission = Admission::new(4, 2 * EACH as u32, None);
        let inside: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..EACH)
                            .filter_map(|_| admission.enter(&Peer::Unix, State::Roomy).ok())
                            .filter(|entry| entry.waits_for.is_none())
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(inside, 2 * EACH);
        let book = admission.book();
        for present in &book.shards {
            assert_eq!(present.inside + present.waiting, EACH as u32);
        }
    }

    #[test]
    fn who_waits_is_let_in_when_another_leaves() {
        let admission = Admission::new(1, 1, None);
        let first = admission.enter(&Peer::Unix, State::Roomy).unwrap();
        let mut second = admission.enter(&Peer::Unix, State::Roomy).unwrap();
        assert_eq!(second.waits_for, Some(Refusal::Connections { limit: 1 }));
        assert!(!admission.let_in(&mut second, false));
        admission.leave(&first);
        assert!(!admission.let_in(&mut second, true));
        assert_eq!(second.waits_for, Some(Refusal::Memory));
        assert!(admission.let_in(&mut second, false));
        admission.leave(&second);
        assert!(
            admission
                .enter(&Peer::Unix, State::Roomy)
                .unwrap()
                .waits_for
                .is_none()
        );
    }

    #[test]
    fn with_little_memory_a_connection_waits_and_with_less_it_is_closed() {
        let admission = Admission::new(1, 100, None);
        let entry = admission.enter(&Peer::Unix, State::Tight).unwrap();
        assert_eq!(entry.waits_for, Some(Refusal::Memory));
        let refused = admission.enter(&Peer::Unix, State::Critical);
        assert_eq!(refused.unwrap_err(), Refusal::Memory);
    }

    #[test]
    fn one_ipv4_address_or_one_ipv6_network_has_its_own_limit() {
        let admission = Admission::new(1, 100, Some(1));
        let waits = |peer: &Peer| admission.enter(peer, State::Roomy).unwrap().waits_for;
        let limited = Some(Refusal::Address { limit: 1 });
        assert_eq!(waits(&from("10.0.0.1:1")), None);
        assert_eq!(waits(&from("10.0.0.1:2")), limited);
        assert_eq!(waits(&from("[::ffff:10.0.0.1]:3")), limited);
        assert_eq!(waits(&from("10.0.0.2:1")), None);
        assert_eq!(waits(&from("[2001:db8::1]:1")), None);
        assert_eq!(waits(&from("[2001:db8::ffff:1]:1")), limited);
        assert_eq!(waits(&from("[2001:db8:0:1::1]:1")), None);
        assert_eq!((waits(&Peer::Unix), waits(&Peer::Unix)), (None, None));
    }

    #[test]
    fn the_waiting_room_of_an_address_is_bounded_and_an_address_without_connections_is_forgotten() {
        let admission = Admission::new(1, 100, Some(1));
        let peer = from("10.0.0.1:1");
        let entries: Vec<_> = (0..=limits::WAITING_ROOM_PER_ADDRESS_LEAST)
            .map(|_| admission.enter(&peer, State::Roomy).unwrap())
            .collect();
        assert_eq!(
            admission.enter(&peer, State::Roomy).unwrap_err(),
            Refusal::Address { limit: 1 }
        );
        for entry in &entries {
            admission.leave(entry);
        }
        assert!(admission.book().addresses.is_empty());
    }
}
