//! Who gets a message: one look-up, whatever the size of the table.
//!
//! `hit` asks for every name in turn, in an order that no prefetcher guesses; `hot` for 64 of them; `miss` for names
//! that nobody subscribed to. `service` and `instance` have all ids under one prefix, and ask for any of them or for one.
//! One shard, so a miss is known to be one; among several, a shard that owns neither name nor copy asks the owner once.

use criterion::{Criterion, criterion_group, criterion_main};
use slim_proto::name::{InstanceId, RouteName};
use slim_proto::route_header::Fanout;
use slim_router::routes::{Class, Delivery, Route, Routes, ShardId, Slot};

mod settings;

const NAMES: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
const IDS: [u64; 2] = [10, 100_000];
const HOT_NAMES: usize = 64;
/// Asked for in turn; above the first-level cache, so that the questions themselves cost alike at every size.
const QUESTIONS: usize = 1 << 16;

/// A connection that publishes and subscribes to nothing.
const PUBLISHER: Slot = slot(u32::MAX);

const fn slot(index: u32) -> Slot {
    Slot {
        index,
        generation: 0,
    }
}

/// Spreads consecutive numbers over all of `u64`, as hashes of names are (SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The `nth` service of one namespace.
fn service(nth: u64) -> RouteName {
    RouteName {
        prefix: [1, 2, mixed(nth)],
        id: InstanceId::NULL,
    }
}

/// The `nth` instance of one service.
fn instance(nth: u64) -> RouteName {
    RouteName {
        prefix: [1, 2, 3],
        id: InstanceId::from_halves(mixed(nth), mixed(!nth)),
    }
}

/// One shard, each of `names` subscribed to by a connection of its own.
fn table(names: impl Iterator<Item = RouteName>) -> Routes {
    let hash = ahash::RandomState::with_seeds(1, 2, 3, 4);
    let mut routes = Routes::new(ShardId(0), 1, hash);
    for (index, name) in (0u32..).zip(names) {
        routes.subscribe(slot(index), Class::Direct, name, 1);
    }
    routes.settled = Vec::new();
    routes
}

/// `names` in an order that looks random and is the same every time.
fn questions(below: u64, name: impl Fn(u64) -> RouteName) -> Vec<RouteName> {
    (0..QUESTIONS as u64)
        .map(|nth| name(mixed(nth ^ 0xA5A5) % below))
        .collect()
}

fn name_lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("name_lookup");
    let mut delivery = Delivery::default();
    for names in NAMES {
        let mut routes = table((0..names).map(service));
        let hits = questions(names, service);
        let misses = questions(names, |nth| service(names + nth));
        for (what, asked, expected) in [
            ("hit", &hits[..], Route::Found),
            ("hot", &hits[..HOT_NAMES], Route::Found),
            ("miss", &misses[..], Route::Nobody),
        ] {
            let mut asked = asked.iter().cycle();
            group.bench_function(format!("{what}/{names}"), |bencher| {
                bencher.iter(|| {
                    let name = *asked.next().expect("a cycle");
                    let route = routes.route(name, Fanout::One, PUBLISHER, &mut delivery);
                    assert_eq!(route, expected);
                });
            });
        }
    }
    for ids in IDS {
        let mut routes = table((0..ids).map(instance));
        let instances = questions(ids, instance);
        let any = RouteName {
            id: InstanceId::NULL,
            ..instance(0)
        };
        for (what, asked) in [("instance", &instances[..]), ("service", &[any][..])] {
            let mut asked = asked.iter().cycle();
            group.bench_function(format!("{what}/{ids}"), |bencher| {
                bencher.iter(|| {
                    let name = *asked.next().expect("a cycle");
                    let route = routes.route(name, Fanout::One, PUBLISHER, &mut delivery);
                    assert_eq!(route, Route::Found);
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = settings::short();
    targets = name_lookup
}
criterion_main!(benches);
