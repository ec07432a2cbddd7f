//! Messages out of a byte stream that is cut where the network pleases. A message that was cut is copied once.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slim_bench::publishes;
use slim_proto::grpc::{Deframer, prefix};

mod settings;

const MESSAGES: usize = 64;
const MESSAGE_BYTES: usize = 700;

fn grpc_framing(criterion: &mut Criterion) {
    let message = publishes::signed_of(MESSAGE_BYTES);
    let stream = [&prefix(message.len())[..], &message]
        .concat()
        .repeat(MESSAGES);
    let mut group = criterion.benchmark_group("grpc_framing");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for (name, piece_bytes) in [
        ("uncut", stream.len()),
        ("16384", 16_384),
        // One TCP segment on Ethernet.
        ("1448", 1_448),
        ("100", 100),
    ] {
        let mut deframer = Deframer::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for mut piece in stream.chunks(piece_bytes) {
                    while let Some(message) = deframer
                        .next_message(&mut piece)
                        .expect("our own messages are sound")
                    {
                        black_box(message);
                    }
                }
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = settings::short();
    targets = grpc_framing
}
criterion_main!(benches);
