//! What every message costs before it is routed, and every copy of it before it is sent.
//!
//! `parse` checks the whole message. `preimage` lays the MAC's input out, once; `verify` and `tag` hash it with a link's
//! key. `copy` is a receiver's copy of the message, `patch` writes ttl and tag into it. `hop` is all of them, once.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use slim_bench::publishes;
use slim_proto::link::{Preimage, TagState};
use slim_proto::route_header::{Parsed, RouteHeader, parse};

mod settings;

const PAYLOAD_BYTES: [usize; 3] = [256, 4_096, 65_536];

fn routed(message: &[u8]) -> RouteHeader {
    match parse(message) {
        Ok(Parsed::Routed(header)) => header,
        other => panic!("{other:?}"),
    }
}

fn route_header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route_header");
    for payload_bytes in PAYLOAD_BYTES {
        whole_message(&mut group, payload_bytes);
    }
    header_only(&mut group);
}

/// What may depend on the payload.
fn whole_message(group: &mut BenchmarkGroup<'_, WallTime>, payload_bytes: usize) {
    let message = publishes::signed(payload_bytes);
    group.bench_function(format!("parse/{payload_bytes}"), |bencher| {
        bencher.iter(|| black_box(parse(black_box(&message))));
    });
    let mut frame = Vec::with_capacity(message.len());
    group.bench_function(format!("copy/{payload_bytes}"), |bencher| {
        bencher.iter(|| {
            frame.clear();
            frame.extend_from_slice(black_box(&message));
            black_box(&mut frame);
        });
    });
    let (mut arrived, mut left) = (publishes::link_mac(0), publishes::link_mac(1));
    let mut preimage = Preimage::new();
    let messages = publishes::signed_pair(payload_bytes);
    let mut turn = 0;
    group.bench_function(format!("hop/{payload_bytes}"), |bencher| {
        bencher.iter(|| {
            turn ^= 1;
            let message = black_box(&messages[turn]);
            let header = routed(message);
            preimage.build(message, &header);
            assert_eq!(
                arrived.check(&mut preimage, message, &header),
                TagState::Valid
            );
            frame.clear();
            frame.extend_from_slice(message);
            header.patch(&mut frame, &left.tag(&mut preimage, header.ttl_forwarded()));
            black_box(&mut frame);
        });
    });
}

/// What sees the header alone.
fn header_only(group: &mut BenchmarkGroup<'_, WallTime>) {
    let messages = publishes::signed_pair(PAYLOAD_BYTES[0]);
    let message = &messages[0];
    // Valid for both, for they differ only in what their tokens say.
    let header = routed(message);
    let mut mac = publishes::link_mac(0);
    let mut preimage = Preimage::new();
    group.bench_function("preimage", |bencher| {
        bencher.iter(|| preimage.build(black_box(message), &header));
    });
    let mut preimages = messages.each_ref().map(|message| {
        let mut preimage = Preimage::new();
        preimage.build(message, &header);
        preimage
    });
    let mut turn = 0;
    group.bench_function("verify", |bencher| {
        bencher.iter(|| {
            turn ^= 1;
            assert_eq!(
                mac.check(black_box(&mut preimages[turn]), &messages[turn], &header),
                TagState::Valid
            );
        });
    });
    group.bench_function("tag", |bencher| {
        bencher.iter(|| {
            turn ^= 1;
            mac.tag(black_box(&mut preimages[turn]), header.ttl_forwarded())
        });
    });
    let tag = mac.tag(&mut preimage, header.ttl_forwarded());
    let mut head = message[..header.head_len()].to_vec();
    group.bench_function("patch", |bencher| {
        bencher.iter(|| header.patch(black_box(&mut head), &tag));
    });
}

criterion_group! {
    name = benches;
    config = settings::short();
    targets = route_header
}
criterion_main!(benches);
