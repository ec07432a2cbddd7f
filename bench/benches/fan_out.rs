//! One message to many receivers on one shard, per receiver.
//!
//! `route` finds them. `copies` also does what each receiver's copy needs: 700 bytes into its frame, ttl, and a tag with
//! the key of its link.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slim_bench::publishes;
use slim_proto::link::Preimage;
use slim_proto::route_header::{Fanout, Parsed, parse};
use slim_router::routes::{Class, Delivery, Route, Routes, ShardId, Slot};

mod settings;

const RECEIVERS: [u16; 4] = [1, 16, 256, 4_096];
const MESSAGE_BYTES: usize = 700;

const PUBLISHER: Slot = Slot {
    index: u32::MAX,
    generation: 0,
};

fn fan_out(criterion: &mut Criterion) {
    let messages = publishes::signed_pair_of(MESSAGE_BYTES);
    // Valid for both, for they differ only in what their tokens say.
    let Ok(Parsed::Routed(header)) = parse(&messages[0]) else {
        panic!("not routed");
    };
    let mut group = criterion.benchmark_group("fan_out");
    for receivers in RECEIVERS {
        let hash = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut routes = Routes::new(ShardId(0), 1, hash);
        for receiver in 0..receivers {
            let slot = Slot {
                index: receiver.into(),
                generation: 0,
            };
            routes.subscribe(slot, Class::Direct, header.destination, 1);
        }
        let mut delivery = Delivery::default();
        let mut route = move |delivery: &mut Delivery| {
            let route = routes.route(header.destination, Fanout::All, PUBLISHER, delivery);
            assert_eq!(route, Route::Found);
        };
        group.throughput(Throughput::Elements(receivers.into()));
        group.bench_function(format!("route/{receivers}"), |bencher| {
            bencher.iter(|| {
                route(&mut delivery);
                black_box(&delivery.local);
            });
        });

        let mut links: Vec<_> = (0..receivers).map(publishes::link_mac).collect();
        let mut frames = vec![Vec::new(); receivers.into()];
        let mut preimage = Preimage::new();
        let mut turn = 0;
        group.bench_function(format!("copies/{receivers}"), |bencher| {
            bencher.iter(|| {
                turn ^= 1;
                let message = &messages[turn];
                route(&mut delivery);
                preimage.build(message, &header);
                for receiver in &delivery.local {
                    let index = receiver.index as usize;
                    let tag = links[index].tag(&mut preimage, header.ttl_forwarded());
                    let frame = &mut frames[index];
                    frame.clear();
                    frame.extend_from_slice(message);
                    header.patch(frame, &tag);
                }
                black_box(&mut frames);
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = settings::short();
    targets = fan_out
}
criterion_main!(benches);
