//! Joining and leaving on all shards, under traffic.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use slim_proto::name::Name;

use crate::common::*;
use crate::{nothing_lost_but, number_of, numbered};

#[test]
fn churn_costs_a_stable_member_nothing_and_leaves_nothing_behind_on_2_shards() {
    churn(2, Fan::Out);
}

#[test]
fn churn_costs_a_stable_member_nothing_and_leaves_nothing_behind_on_4_shards() {
    churn(4, Fan::Out);
}

#[test]
fn churn_costs_a_stable_member_nothing_and_leaves_nothing_behind_on_8_shards() {
    churn(8, Fan::Out);
}

#[test]
fn anycast_under_churn_reaches_exactly_one_on_2_shards() {
    churn(2, Fan::One);
}

#[test]
fn anycast_under_churn_reaches_exactly_one_on_4_shards() {
    churn(4, Fan::One);
}

#[test]
fn anycast_under_churn_reaches_exactly_one_on_8_shards() {
    churn(8, Fan::One);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fan {
    Out,
    One,
}

/// What the threads of a churn share.
struct Churn {
    fan: Fan,
    group: Name,
    publishers: usize,
    /// By publisher: messages it has sent.
    published: Vec<AtomicU64>,
    /// By publisher, then by member: the number up to which it has received. `u64::MAX`: is no member now.
    progress: Vec<Vec<AtomicU64>>,
    /// Anycast, by publisher: messages received by anybody.
    received: Vec<AtomicU64>,
    /// Anycast: who got what. Fan-out does without.
    deliveries: Mutex<Vec<(usize, usize)>>,
    churners_left: AtomicU64,
}

impl Churn {
    /// A publisher is never so far ahead that a member's egress would keep messages back: an acknowledgement may pass
    /// those (design: acks are never behind data), and then "after the ack" would say nothing.
    const LEAD: u64 = 64;

    fn may_send(&self, publisher: usize, number: u64) -> bool {
        let behind = match self.fan {
            Fan::One => self.received[publisher].load(Ordering::SeqCst),
            Fan::Out => self.progress[publisher]
                .iter()
                .map(|number| number.load(Ordering::SeqCst))
                .min()
                .unwrap_or(u64::MAX),
        };
        number < behind.saturating_add(Churn::LEAD)
    }

    /// Publishes to the group until no churner is left; in between, a marker to whoever asks for one.
    fn publish(&self, client: &mut Client, publisher: usize, markers: &mpsc::Receiver<Name>) {
        let mut number = 0;
        while self.churners_left.load(Ordering::SeqCst) > 0 {
            let open = self.may_send(publisher, number);
            let wait = Duration::from_millis(u64::from(!open));
            if let Ok(name) = markers.recv_timeout(wait) {
                client.publish(&name, b"marker");
            } else if open {
                let blob = numbered(publisher, number as usize, 8 + number as usize % 90);
                match self.fan {
                    Fan::Out => client.publish_to_all(&self.group, &blob),
                    Fan::One => client.publish(&self.group, &blob),
                }
                number += 1;
                self.published[publisher].store(number, Ordering::SeqCst);
            }
        }
    }

    /// - `member`: its place in `progress`.
    fn take(&self, stay: &mut Stay, member: usize, publication: &Publication) {
        let (publisher, number) = number_of(publication.blob());
        let next = &mut stay.next[publisher];
        match (self.fan, *next) {
            (Fan::Out, Some(next)) => assert_eq!(number, next, "of publisher {publisher}"),
            (Fan::Out, None) => assert!(number <= stay.due[publisher], "of publisher {publisher}"),
            (Fan::One, next) => assert!(number >= next.unwrap_or(0), "of publisher {publisher}"),
        }
        *next = Some(number + 1);
        stay.taken += 1;
        match self.fan {
            Fan::Out => {
                let progress = &self.progress[publisher][member];
                // Not yet a member that publishers wait for: its subscription is not acknowledged.
                if progress.load(Ordering::SeqCst) != u64::MAX {
                    progress.store(number as u64 + 1, Ordering::SeqCst);
                }
            }
            Fan::One => {
                self.deliveries.lock().unwrap().push((publisher, number));
                self.received[publisher].fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Reads what the group gets until the answer to `id`.
    fn take_until_ack(&self, client: &mut Client, stay: &mut Stay, member: usize, id: u64) {
        loop {
            match client.next() {
                Inbound::Publication(publication) => self.take(stay, member, &publication),
                Inbound::Ack(ack) => {
                    assert_eq!((ack.subscription_id, ack.success), (id, true));
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Joins and leaves, again and again.
    fn join_and_leave(
        &self,
        client: &mut Client,
        member: usize,
        own: &Name,
        markers: &[mpsc::Sender<Name>],
    ) {
        const STAYS: usize = 60;
        // Ids of subscriptions to the group, apart from those that the client gives by itself.
        for (round, id) in (0..STAYS).zip(1_000_000..) {
            let mut stay = Stay::new(self.publishers);
            client.send(&subscribe(&self.group, id));
            self.take_until_ack(client, &mut stay, member, id);
            for (publisher, published) in self.published.iter().enumerate() {
                let published = published.load(Ordering::SeqCst);
                self.progress[publisher][member].store(published, Ordering::SeqCst);
                // The publisher may be sending number `published` right now; what comes after that is ours.
                stay.due[publisher] = published as usize + 1;
            }
            let enough = stay.taken + (round * 7 + member) % 12;
            while stay.taken < enough {
                let publication = client.next_publication();
                self.take(&mut stay, member, &publication);
            }
            client.send(&unsubscribe(&self.group, id));
            self.take_until_ack(client, &mut stay, member, id);
            for progress in &self.progress {
                progress[member].store(u64::MAX, Ordering::SeqCst);
            }
            for publisher in markers {
                publisher.send(own.clone()).unwrap();
            }
            for _ in markers {
                client.expect_blob(b"marker");
            }
        }
    }
}

/// What a member has received since it joined.
struct Stay {
    /// By publisher: the number after the last one.
    next: Vec<Option<usize>>,
    /// By publisher: the first number that it must have received if it has received any.
    due: Vec<usize>,
    taken: usize,
}

impl Stay {
    fn new(publishers: usize) -> Stay {
        Stay {
            next: vec![None; publishers],
            due: vec![usize::MAX; publishers],
            taken: 0,
        }
    }
}

/// Counts a churner down, also when it fails: the publishers must not go on for ever.
struct Leaves<'a>(&'a AtomicU64);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A churner on each shard, stable members on the first and the last one, publishers next to both of them.
fn churn(shards: u16, fan: Fan) {
    const PUBLISHERS: usize = 3;
    const STABLE: usize = 2;
    let router = TestRouter::start(shards);
    let churners = usize::from(shards);
    let own_name = |member: usize| id_name("member", member as u128 + 1);
    let members = churners + STABLE;
    // Members 0.. are the churners, the last ones are stable.
    let mut clients: Vec<_> = (0..shards).map(|_| router.connect()).collect();
    clients.extend([0, shards - 1].map(|shard| router.connect_on(shard)));
    let mut publishers: Vec<_> = (0..PUBLISHERS as u16)
        .map(|i| router.connect_on((shards / 2 + i) % shards))
        .collect();
    let churn = Churn {
        fan,
        group: name("group"),
        publishers: PUBLISHERS,
        published: (0..PUBLISHERS).map(|_| AtomicU64::new(0)).collect(),
        progress: (0..PUBLISHERS)
            .map(|_| {
                let of_member = |member| u64::from(member >= churners).wrapping_sub(1);
                (0..members)
                    .map(|member| AtomicU64::new(of_member(member)))
                    .collect()
            })
            .collect(),
        received: (0..PUBLISHERS).map(|_| AtomicU64::new(0)).collect(),
        deliveries: Mutex::default(),
        churners_left: AtomicU64::new(churners as u64),
    };
    for (member, client) in clients.iter_mut().enumerate() {
        client.subscribe(&own_name(member));
        if member >= churners {
            client.subscribe(&churn.group);
        }
    }
    let churn = &churn;
    thread::scope(|scope| {
        let mut markers = Vec::new();
        for (i, client) in publishers.iter_mut().enumerate() {
            let (ask, asked) = mpsc::channel();
            markers.push(ask);
            scope.spawn(move || {
                churn.publish(client, i, &asked);
                for member in churners..members {
                    client.publish(&own_name(member), b"end");
                }
            });
        }
        for (member, client) in clients.iter_mut().enumerate() {
            let markers = markers.clone();
            scope.spawn(move || {
                if member < churners {
                    let _leaves = Leaves(&churn.churners_left);
                    churn.join_and_leave(client, member, &own_name(member), &markers);
                    return;
                }
                let mut stay = Stay::new(PUBLISHERS);
                stay.due = vec![0; PUBLISHERS];
                let mut ends = 0;
                while ends < PUBLISHERS {
                    let publication = client.next_publication();
                    match publication.blob() {
                        b"end" => ends += 1,
                        _ => churn.take(&mut stay, member, &publication),
                    }
                }
                if fan == Fan::Out {
                    for (next, published) in stay.next.iter().zip(&churn.published) {
                        let published = published.load(Ordering::SeqCst) as usize;
                        assert_eq!(next.unwrap_or(0), published, "a stable member gets all");
                    }
                }
            });
        }
    });
    let mut deliveries = churn.deliveries.lock().unwrap();
    deliveries.sort_unstable();
    if fan == Fan::One {
        let published = churn
            .published
            .iter()
            .enumerate()
            .flat_map(|(i, published)| {
                (0..published.load(Ordering::SeqCst) as usize).map(move |number| (i, number))
            });
        assert!(
            published.eq(deliveries.iter().copied()),
            "each exactly once"
        );
    }
    nothing_lost_but(&router, &[]);
}
