//! HTTP/2 and gRPC framing of messages of 700 bytes, one DATA frame a read: our own beside the `h2` crate.
//!
//! `decode`: bytes of a read to messages. `echo`: the same, and every message goes back in the turn's one write.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slim_bench::h2_server::H2Server;
use slim_bench::own_server::OwnServer;
use slim_bench::{publishes, wire};
use slim_proto::http2::FRAME_HEADER_BYTES;

mod settings;

const MESSAGE_BYTES: usize = 700;
const MESSAGES_A_FRAME: [usize; 2] = [1, 32];

/// The reads of a connection, without end: `frame`, and window updates whenever half a window has come back.
struct Reads {
    frame: Vec<u8>,
    frame_and_updates: Vec<u8>,
    reads_an_update: u32,
    reads: u32,
}

impl Reads {
    fn of(messages: usize) -> Reads {
        let message = publishes::signed_of(MESSAGE_BYTES);
        let frame = wire::data_frame(std::iter::repeat_n(&message[..], messages));
        let payload_bytes = u32::try_from(frame.len() - FRAME_HEADER_BYTES).expect("a frame");
        let reads_an_update = wire::WINDOW_BYTES / 2 / payload_bytes;
        let updates = wire::window_updates(reads_an_update * payload_bytes);
        Reads {
            frame_and_updates: [&frame[..], &updates].concat(),
            frame,
            reads_an_update,
            reads: 0,
        }
    }

    fn next(&mut self, is_answered: bool) -> &[u8] {
        self.reads += 1;
        if is_answered && self.reads.is_multiple_of(self.reads_an_update) {
            &self.frame_and_updates
        } else {
            &self.frame
        }
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame_decode/decode");
    for messages in MESSAGES_A_FRAME {
        group.throughput(Throughput::Elements(messages as u64));
        let mut reads = Reads::of(messages);
        let mut own = OwnServer::open();
        group.bench_function(format!("own/{messages}"), |bencher| {
            bencher.iter(|| {
                own.receive(reads.next(false), |message| {
                    black_box(message);
                });
            });
        });
        let mut h2 = H2Server::open();
        group.bench_function(format!("h2/{messages}"), |bencher| {
            bencher.iter(|| {
                h2.receive(reads.next(false), |message| {
                    black_box(message);
                });
            });
        });
    }
}

fn echo(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame_decode/echo");
    for messages in MESSAGES_A_FRAME {
        group.throughput(Throughput::Elements(messages as u64));
        let mut reads = Reads::of(messages);
        let mut own = OwnServer::open();
        group.bench_function(format!("own/{messages}"), |bencher| {
            bencher.iter(|| own.echo(reads.next(true)));
        });
        let mut reads = Reads::of(messages);
        let mut h2 = H2Server::open();
        group.bench_function(format!("h2/{messages}"), |bencher| {
            bencher.iter(|| h2.echo(reads.next(true)));
        });
    }
}

criterion_group! {
    name = benches;
    config = settings::short();
    targets = decode, echo
}
criterion_main!(benches);
