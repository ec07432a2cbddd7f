//! Publishers and receivers on chosen shards: what holds inside one shard holds across them.
//!
//! Connections that are made one after the other land on shards 0, 1, .., N-1, 0, .. (`accept.rs`), so every test knows
//! which of its links cross the mesh. Names land on owners by a hash that is random in each run.

mod common;

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use slim_proto::name::Name;
use slim_router::config::{ListenAddress, ListenerConfig};
use slim_router::limits;

/// No message and no connection was lost for any reason, but for these counters.
#[track_caller]
fn nothing_lost_but(router: &TestRouter, expected: &[(&str, u64)]) {
    for (counter, value) in router.counters().entries() {
        let of_loss = ["dropped_", "cut_", "ended_"];
        if of_loss.iter().any(|prefix| counter.starts_with(prefix)) {
            let expected = expected.iter().find(|(name, _)| *name == counter);
            assert_eq!(
                value,
                expected.map_or(0, |(_, value)| *value),
                "{counter}: {}",
                router.counters()
            );
        }
    }
}

/// A payload that says who sent it and as which of its messages: `publisher: u32 | number: u32 | filler`.
fn numbered(publisher: usize, number: usize, bytes: usize) -> Vec<u8> {
    let mut blob = vec![number as u8; bytes.max(8)];
    blob[..4].copy_from_slice(&(publisher as u32).to_be_bytes());
    blob[4..8].copy_from_slice(&(number as u32).to_be_bytes());
    blob
}

fn number_of(blob: &[u8]) -> (usize, usize) {
    let at = |i: usize| u32::from_be_bytes(blob[i..i + 4].try_into().unwrap()) as usize;
    assert!(blob[8..].iter().all(|byte| *byte == at(4) as u8));
    (at(0), at(4))
}

// --- order ---

#[test]
fn order_is_kept_from_link_to_link_for_small_and_large_messages_on_2_shards() {
    order_is_kept_from_link_to_link(2);
}

#[test]
fn order_is_kept_from_link_to_link_for_small_and_large_messages_on_4_shards() {
    order_is_kept_from_link_to_link(4);
}

#[test]
fn order_is_kept_from_link_to_link_for_small_and_large_messages_on_8_shards() {
    order_is_kept_from_link_to_link(8);
}

/// One receiver on shard 0, a publisher on each shard. Every fourth message goes to a name that its publisher's shard has
/// not seen, so that the directory is asked while messages behind it wait.
fn order_is_kept_from_link_to_link(shards: u16) {
    const MESSAGES: usize = 200;
    let router = TestRouter::start(shards);
    let mut receiver = router.connect();
    let mut publishers: Vec<_> = (0..shards).map(|_| router.connect()).collect();
    let names: Vec<_> = (0..MESSAGES / 4)
        .map(|i| match i % 2 {
            0 => name(&format!("app-{i}")),
            _ => id_name("app", i as u128 + 1),
        })
        .collect();
    for name in &names {
        receiver.subscribe(name);
    }
    let bytes = |number: usize| match number {
        _ if number % 100 == 37 => 1_000_000,
        _ if number % 50 == 11 => 300_000,
        _ if number % 20 == 3 => limits::SHARE_BYTES_MIN * 2,
        _ => 8 + number,
    };
    thread::scope(|scope| {
        for (i, publisher) in publishers.iter_mut().enumerate() {
            let names = &names;
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    // Now the newest name, now one that is known.
                    let known = 1 + number / 4;
                    let to = if number % 4 == 0 {
                        number / 4
                    } else {
                        number * 7 % known
                    };
                    let blob = numbered(i, number, bytes(number));
                    if number % 3 == 0 {
                        publisher.publish_to_all(&names[to], &blob);
                    } else {
                        publisher.publish(&names[to], &blob);
                    }
                }
            });
        }
        let mut next = vec![0; usize::from(shards)];
        for _ in 0..MESSAGES * usize::from(shards) {
            let publication = receiver.next_publication();
            let (publisher, number) = number_of(publication.blob());
            assert_eq!(number, next[publisher], "of publisher {publisher}");
            assert_eq!(publication.blob().len(), bytes(number));
            next[publisher] += 1;
        }
    });
    nothing_lost_but(&router, &[]);
}

// --- an ack means visible ---

const VISIBLE_ROUNDS: usize = 10_000;

#[derive(Clone, Copy)]
enum To {
    /// The exact name, with id.
    Id,
    /// One of all ids.
    Any,
    /// All ids.
    All,
}

#[test]
fn an_acked_subscription_to_an_id_is_seen_by_every_publisher_at_once() {
    acked_means_visible(To::Id);
}

#[test]
fn an_acked_subscription_is_seen_by_every_anycast_publisher_at_once() {
    acked_means_visible(To::Any);
}

#[test]
fn an_acked_subscription_is_seen_by_every_fan_out_publisher_at_once() {
    acked_means_visible(To::All);
}

/// In each round a publisher on another shard, which knows that nobody has the name, publishes the instant the ack is there.
/// Even rounds use a new name each, odd ones a few names again and again.
fn acked_means_visible(to: To) {
    for shards in [2, 4, 8] {
        let rounds = VISIBLE_ROUNDS / 3 + 1;
        let router = TestRouter::start(shards);
        let mut subscriber = router.connect();
        let mut publishers: Vec<_> = (1..shards).map(|_| router.connect()).collect();
        let count = publishers.len();
        let names = |round: usize| {
            let name_number = match round % 2 {
                0 => 1_000 + round,
                _ => round / 2 % 16,
            };
            let (service, id) = (format!("app-{name_number}"), name_number as u128 + 1);
            let with_id = round % 3 == 0;
            match to {
                To::Id => (id_name("app", id), id_name("app", id)),
                _ if with_id => (id_name(&service, id), name(&service)),
                _ => (name(&service), name(&service)),
            }
        };
        for round in 0..rounds {
            let publisher = &mut publishers[round % count];
            let publish = |publisher: &mut Client, name: &Name, blob: &[u8]| match to {
                To::Id | To::Any => publisher.publish(name, blob),
                To::All => publisher.publish_to_all(name, blob),
            };
            // Nobody has the name of this publisher's next but one round. It knows that when this round's message has
            // arrived, for the link keeps their order.
            publish(publisher, &names(round + 2 * count).1, b"to nobody");
            let (subscribed, published) = names(round);
            let id = subscriber.subscribe(&subscribed);
            let blob = format!("round {round}");
            publish(publisher, &published, blob.as_bytes());
            subscriber.expect_blob(blob.as_bytes());
            subscriber.unsubscribe(&subscribed, id);
        }
        assert_eq!(router.count("messages_delivered"), rounds as u64);
        nothing_lost_but(&router, &[("dropped_no_route", rounds as u64)]);
    }
}

// --- anycast ---

/// Members on shards 0, 1 and 3, not as many on each, and a publisher on every shard.
#[test]
fn anycast_turns_through_all_members_on_all_shards() {
    const EACH: u64 = 500;
    let router = TestRouter::start(4);
    let to = name("service");
    let mut members = Vec::new();
    let mut bystanders = Vec::new();
    for i in 0..16 {
        let mut client = router.connect();
        let members_of_shard = [1, 4, 0, 2][i % 4];
        if i / 4 < members_of_shard {
            client.subscribe(&to);
            client.subscribe(&id_name("member", i as u128 + 1));
            members.push((i, client));
        } else {
            bystanders.push(client);
        }
    }
    let mut publishers: Vec<_> = (0..4).map(|_| router.connect()).collect();
    let messages = EACH * members.len() as u64;
    for i in 0..messages {
        publishers[i as usize % 4].publish(&to, b"work");
        // In the first half one at a time, so that publishers alternate exactly; then as fast as they can.
        if i < messages / 2 {
            router.await_count("messages_delivered", i + 1);
        }
    }
    for publisher in &mut publishers {
        for (i, _) in &members {
            publisher.publish(&id_name("member", *i as u128 + 1), b"end");
        }
    }
    let received: Vec<_> = members
        .iter_mut()
        .map(|(_, member)| count_until_end(member, publishers.len()))
        .collect();
    assert_eq!(received.iter().sum::<u64>(), messages);
    for count in &received {
        assert!(
            count.abs_diff(EACH) <= EACH / 100,
            "{EACH} for each were fair: {received:?}"
        );
    }
    nothing_lost_but(&router, &[]);
}

#[test]
fn anycast_turns_through_all_members_but_the_sender() {
    const EACH: u64 = 100;
    let router = TestRouter::start(4);
    let to = name("service");
    let mut members: Vec<_> = (0..7)
        .map(|i| {
            let mut member = router.connect();
            member.subscribe(&to);
            member.subscribe(&id_name("member", i + 1));
            member
        })
        .collect();
    for sender in 0..members.len() {
        for _ in 0..EACH * (members.len() as u64 - 1) {
            members[sender].publish(&to, b"work");
        }
        for other in 0..members.len() {
            if other != sender {
                members[sender].publish(&id_name("member", other as u128 + 1), b"end");
            }
        }
        for (other, member) in members.iter_mut().enumerate() {
            if other != sender {
                assert_eq!(count_until_end(member, 1), EACH, "{sender} to {other}");
            }
        }
    }
    // What a sender had got from itself would have been found before what the others sent it.
    nothing_lost_but(&router, &[]);
}

/// How many messages come before as many ends.
fn count_until_end(member: &mut Client, mut ends: usize) -> u64 {
    let mut count = 0;
    while ends > 0 {
        match member.next_publication().blob() {
            b"end" => ends -= 1,
            _ => count += 1,
        }
    }
    count
}

// --- churn ---

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

// --- a connection that disappears ---

#[test]
fn a_connection_that_disappears_takes_its_names_along_and_costs_the_others_nothing() {
    const MESSAGES: usize = 1_000;
    for shards in [2, 4, 8] {
        let router = TestRouter::start(shards);
        let group = name("group");
        let gone = [name("gone"), id_name("gone", 1)];
        let mut victim = router.connect();
        victim.subscribe(&group);
        victim.subscribe(&gone[1]);
        let mut others: Vec<_> = (0..2 * shards).map(|_| router.connect()).collect();
        for other in &mut others {
            other.subscribe(&group);
        }
        let mut publisher = router.connect_on(shards - 1);
        // Every shard knows the names: those copies must go, too.
        let mut probes: Vec<_> = (0..shards).map(|_| router.connect()).collect();
        for probe in &mut probes {
            for name in &gone {
                probe.publish(name, b"are you there?");
                victim.expect_blob(b"are you there?");
            }
        }
        let open = router.count("connections_open");
        thread::scope(|scope| {
            for other in &mut others {
                scope.spawn(|| expect_numbers(other, 0..MESSAGES));
            }
            let (reset, was_reset) = mpsc::channel();
            let (group, publisher) = (&group, &mut publisher);
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    if number == MESSAGES / 2 {
                        was_reset.recv_timeout(PATIENCE).unwrap();
                    }
                    publisher.publish_to_all(group, &numbered(0, number, 200));
                }
            });
            expect_numbers(&mut victim, 0..MESSAGES / 4);
            victim.http2.reset();
            reset.send(()).unwrap();
        });
        router.await_fall("connections_open", open - 1);
        for probe in &mut probes {
            for name in &gone {
                await_no_route(&router, probe, name);
            }
        }
        let on_their_way = router.count("dropped_receiver_left");
        let no_route = router.count("dropped_no_route");
        nothing_lost_but(
            &router,
            &[
                ("dropped_receiver_left", on_their_way),
                ("dropped_no_route", no_route),
            ],
        );
    }
}

#[track_caller]
fn expect_numbers(client: &mut Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let publication = client.next_publication();
        assert_eq!(number_of(publication.blob()).1, number);
    }
}

/// Publishes to nobody until this shard knows that there is nobody: no ack tells when a lost connection is forgotten.
fn await_no_route(router: &TestRouter, probe: &mut Client, name: &Name) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let no_route = router.count("dropped_no_route");
        let too_late = router.count("dropped_receiver_left");
        probe.publish(name, b"are you there?");
        while router.count("dropped_no_route") == no_route {
            assert!(Instant::now() < deadline, "{}", router.counters());
            if router.count("dropped_receiver_left") > too_late {
                break;
            }
            thread::yield_now();
        }
        if router.count("dropped_no_route") > no_route {
            return;
        }
    }
}

// --- back-pressure ---

/// What may be between a publisher and a receiver that does not read, in bytes: the receiver's window, its egress, and for
/// each publisher its receive window, an outbox and a full lane.
fn under_way_bytes_max(publishers: usize, message_bytes: usize) -> usize {
    let lane = limits::MESH_LANE_PARCELS * (limits::MESH_PARCEL_BYTES + message_bytes);
    let publisher = limits::RECEIVE_WINDOW_BYTES as usize + limits::MESH_OUTBOX_BYTES + lane;
    CLIENT_WINDOW_BYTES + limits::EGRESS_SOFT_BYTES + publishers * publisher
}

/// So many messages use up the window of a receiver that gives no credit, and the last of them leaves more waiting than
/// should: from then on it is pressed. Before, it may be for moments, until the kernel has taken what it gets.
const PRESSING_MESSAGES: usize =
    (CLIENT_WINDOW_BYTES + limits::EGRESS_SOFT_BYTES) / PRESSING_BYTES + 1;
const PRESSING_BYTES: usize = 100_000;
// What comes to the payload, up to 1 % of it, makes no difference to the number.
const _: () = assert!(
    (PRESSING_MESSAGES - 1) * PRESSING_BYTES / 100 * 101
        < CLIENT_WINDOW_BYTES + limits::EGRESS_SOFT_BYTES
);

/// SETTINGS_INITIAL_WINDOW_SIZE of existing clients (dataplane 1.3).
const CLIENT_WINDOW_BYTES: usize = 2_097_152;

#[test]
fn a_slow_receiver_on_another_shard_holds_its_publishers_and_loses_nothing() {
    const PUBLISHERS: usize = 2;
    const BYTES: usize = 16_000;
    let bound = under_way_bytes_max(PUBLISHERS, BYTES);
    // Twice as much as may be under way: the publishers cannot have sent all before the receiver has read half.
    let messages = 2 * bound / BYTES / PUBLISHERS;
    let router = TestRouter::start(4);
    let to = name("slow");
    let mut receiver = router.connect();
    receiver.subscribe(&to);
    // It reads little by little: the router gets credit for one message at a time once the first window is used up.
    receiver.http2.returns_credit = false;
    let mut publishers: Vec<_> = (0..PUBLISHERS).map(|_| router.connect()).collect();
    let sent = AtomicU64::new(0);
    thread::scope(|scope| {
        for (i, publisher) in publishers.iter_mut().enumerate() {
            let (to, sent) = (&to, &sent);
            scope.spawn(move || {
                for number in 0..messages {
                    publisher.publish(to, &numbered(i, number, BYTES));
                    sent.fetch_add(BYTES as u64, Ordering::SeqCst);
                }
            });
        }
        await_at_least(&router, "publishers_held", 1);
        let mut next = [0; PUBLISHERS];
        let mut received = 0;
        for _ in 0..PUBLISHERS * messages {
            let publication = receiver.next_publication();
            let (publisher, number) = number_of(publication.blob());
            assert_eq!(number, next[publisher], "of publisher {publisher}");
            next[publisher] += 1;
            let under_way = sent.load(Ordering::SeqCst) as i64 - received;
            assert!(under_way <= bound as i64, "{under_way} bytes under way");
            received += BYTES as i64;
            receiver.http2.return_credit();
        }
    });
    nothing_lost_but(&router, &[]);
}

/// They are released together, and what they have parked is more than goes into the outbox to the receiver's shard at
/// once: some are held again at once, and must be released again.
#[test]
fn many_publishers_that_wait_for_one_receiver_all_go_on_when_it_reads() {
    const PUBLISHERS: usize = 16;
    const MESSAGES: usize = 200;
    const BYTES: usize = 16_000;
    let router = TestRouter::start(2);
    let to = name("slow");
    let mut receiver = router.connect_on(0);
    receiver.subscribe(&to);
    receiver.http2.returns_credit = false;
    let mut publishers: Vec<_> = (0..PUBLISHERS).map(|_| router.connect_on(1)).collect();
    for number in 0..PRESSING_MESSAGES {
        publishers[0].publish(&to, &numbered(0, number, PRESSING_BYTES));
    }
    router.await_count("messages_delivered", PRESSING_MESSAGES as u64);
    let held = router.count("publishers_held");
    for (i, publisher) in publishers.iter_mut().enumerate().skip(1) {
        publisher.publish(&to, &numbered(i, 0, BYTES));
        await_at_least(&router, "publishers_held", held + i as u64);
    }
    thread::scope(|scope| {
        for (i, publisher) in publishers.iter_mut().enumerate() {
            let to = &to;
            scope.spawn(move || {
                let first = if i == 0 { PRESSING_MESSAGES } else { 1 };
                for number in first..MESSAGES {
                    publisher.publish(to, &numbered(i, number, BYTES));
                }
            });
        }
        // Everybody's first window is used up. The receiver has next to nothing of that; the rest is parked.
        let windows = (PUBLISHERS - 1) * (limits::RECEIVE_WINDOW_BYTES as usize / (BYTES + 384));
        await_at_least(&router, "messages_received", windows as u64);
        let mut next = [0; PUBLISHERS];
        for _ in 0..PUBLISHERS * MESSAGES {
            let publication = receiver.next_publication();
            let (publisher, number) = number_of(publication.blob());
            assert_eq!(number, next[publisher], "of publisher {publisher}");
            next[publisher] += 1;
            receiver.http2.return_credit();
        }
    });
    nothing_lost_but(&router, &[]);
}

fn await_at_least(router: &TestRouter, counter: &str, value: u64) {
    let deadline = Instant::now() + PATIENCE;
    while router.count(counter) < value {
        assert!(Instant::now() < deadline, "{}", router.counters());
        thread::yield_now();
    }
}

#[test]
fn a_stopped_receiver_on_another_shard_is_cut_and_costs_the_others_nothing() {
    const MESSAGES: usize = 3 * PRESSING_MESSAGES;
    let router = TestRouter::start(4);
    let group = name("group");
    let mut stopped = router.connect();
    stopped.subscribe(&group);
    stopped.http2.returns_credit = false;
    let mut others: Vec<_> = (0..3).map(|_| router.connect()).collect();
    // One more on the shard of the stopped one.
    others.push(router.connect());
    for other in &mut others {
        other.subscribe(&group);
    }
    let mut publisher = router.connect_on(3);
    thread::scope(|scope| {
        for other in &mut others {
            scope.spawn(|| expect_numbers(other, 0..MESSAGES));
        }
        for number in 0..PRESSING_MESSAGES {
            publisher.publish_to_all(&group, &numbered(0, number, PRESSING_BYTES));
        }
        router.await_count("messages_delivered", 5 * PRESSING_MESSAGES as u64);
        assert!(router.count("publishers_held") > 0);
        // Its data waits, its answers do not.
        publisher.subscribe(&name("other"));
        assert_eq!(router.count("cut_slow_receiver"), 0, "the ack came late");
        for number in PRESSING_MESSAGES..MESSAGES {
            publisher.publish_to_all(&group, &numbered(0, number, PRESSING_BYTES));
        }
    });
    assert_eq!(router.count("cut_slow_receiver"), 1);
    let mut received = 0;
    loop {
        match stopped.next() {
            Inbound::Publication(publication) => {
                assert_eq!(number_of(publication.blob()).1, received);
                received += 1;
            }
            Inbound::Other(Event::Closed) => break,
            other => panic!("{other:?}"),
        }
    }
    let waited = router.count("dropped_slow_receiver");
    assert!(waited > 0 && received + waited as usize <= MESSAGES);
    // On its way between the shards when the receiver was cut.
    let left = router.count("dropped_receiver_left");
    nothing_lost_but(
        &router,
        &[
            ("cut_slow_receiver", 1),
            ("dropped_slow_receiver", waited),
            ("dropped_receiver_left", left),
        ],
    );
}

#[test]
fn an_ack_passes_the_data_that_waits_for_the_same_client() {
    let router = TestRouter::start(2);
    let to = name("slow");
    let mut receiver = router.connect();
    receiver.subscribe(&to);
    receiver.http2.returns_credit = false;
    let mut publisher = router.connect();
    for number in 0..PRESSING_MESSAGES {
        publisher.publish(&to, &numbered(0, number, PRESSING_BYTES));
    }
    router.await_count("messages_delivered", PRESSING_MESSAGES as u64);
    receiver.send(&subscribe(&name("other"), 77));
    router.await_count("subscriptions_acknowledged", 2);
    let mut received = 0;
    loop {
        match receiver.next() {
            Inbound::Publication(publication) => {
                assert_eq!(number_of(publication.blob()).1, received);
                received += 1;
            }
            Inbound::Ack(ack) => break assert_eq!((ack.subscription_id, ack.success), (77, true)),
            other => panic!("{other:?}"),
        }
        receiver.http2.return_credit();
    }
    // The first window's messages had gone already, and one was half sent.
    assert!(
        received <= CLIENT_WINDOW_BYTES / PRESSING_BYTES + 1,
        "{received}"
    );
    for number in received..PRESSING_MESSAGES {
        let publication = receiver.next_publication();
        assert_eq!(number_of(publication.blob()).1, number);
        receiver.http2.return_credit();
    }
    nothing_lost_but(&router, &[]);
}

// --- where connections go ---

/// A fan-out counts every other shard that it goes to: so a group whose members are all on the sender's own shard shows.
#[test]
fn connections_are_spread_evenly_over_the_shards() {
    const SHARDS: usize = 8;
    let router = TestRouter::start(SHARDS as u16);
    let mut clients: Vec<_> = (0..64).map(|_| router.connect()).collect();
    let group = |i: usize| name(&format!("group-{}", i % SHARDS));
    for (i, client) in clients.iter_mut().enumerate() {
        client.subscribe(&group(i));
    }
    for sender in 0..SHARDS {
        for to in 0..SHARDS {
            let before = router.count("messages_meshed");
            clients[sender].publish_to_all(&group(to), b"where are you?");
            for (i, client) in clients.iter_mut().enumerate() {
                if i % SHARDS == to && i != sender {
                    client.expect_blob(b"where are you?");
                }
            }
            let meshed = router.count("messages_meshed") - before;
            assert_eq!(meshed, u64::from(sender != to), "{sender} to {to}");
        }
    }
    nothing_lost_but(&router, &[]);
}

// --- restart and drain ---

/// Sets a flag when a test is through, also when it fails: threads that wait for it must not go on for ever.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_router_starts_again_at_once_on_the_port_where_another_has_just_stopped_in_the_middle_of_traffic()
 {
    let mut address = ([127, 0, 0, 1], 0).into();
    for shards in [4, 2, 8, 4] {
        let router = TestRouter::start_with(shards, |config| {
            config.listeners = vec![ListenerConfig::new(ListenAddress::Tcp(address))];
        });
        address = router.address();
        let mut receiver = router.connect();
        receiver.subscribe(&name("app"));
        let mut publisher = router.connect();
        let stopped = AtomicBool::new(false);
        thread::scope(|scope| {
            let stopped = &stopped;
            let _stops = Sets(stopped);
            scope.spawn(move || {
                let mut number = 0;
                while !stopped.load(Ordering::SeqCst) {
                    publisher.publish(&name("app"), &numbered(0, number, 100));
                    number += 1;
                }
            });
            expect_numbers(&mut receiver, 0..100);
            drop(router);
        });
    }
}

#[test]
fn a_drain_under_traffic_closes_listeners_first_and_ends_every_link_with_status_0() {
    for shards in [2, 4, 8] {
        let router = TestRouter::start(shards);
        let address = router.address();
        let group = name("group");
        let mut receivers: Vec<_> = (0..2 * shards).map(|_| router.connect()).collect();
        for receiver in &mut receivers {
            receiver.subscribe(&group);
        }
        let publishers: Vec<_> = (0..2).map(|_| router.connect()).collect();
        let drained = AtomicBool::new(false);
        thread::scope(|scope| {
            let (group, drained) = (&group, &drained);
            let _drained = Sets(drained);
            for mut publisher in publishers {
                scope.spawn(move || {
                    let mut number = 0;
                    while !drained.load(Ordering::SeqCst) {
                        publisher.publish_to_all(group, &numbered(0, number, 100));
                        number += 1;
                    }
                    publisher.expect_status(0);
                });
            }
            let readers: Vec<_> = receivers
                .into_iter()
                .map(|mut receiver| {
                    scope.spawn(move || {
                        receiver.expect_status(0);
                        let error = TcpStream::connect(address).expect_err("listeners go first");
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                    })
                })
                .collect();
            await_at_least(&router, "messages_delivered", 1_000);
            router.router().drain();
            for reader in readers {
                reader.join().unwrap();
            }
        });
        router.router().wait_drained(PATIENCE).unwrap();
    }
}
