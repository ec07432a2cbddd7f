//! Publishers and receivers on chosen shards: what holds inside one shard holds across them.
//!
//! Connections that are made one after the other land on shards 0, 1, .., N-1, 0, .. (`accept.rs`), so every test knows
//! which of its links cross the mesh. Names land on owners by a hash that is random in each run.
//!
//! | file | shows |
//! |---|---|
//! | `order` | from link to link, also while the directory is asked |
//! | `acks` | an ack means that every publisher sees the change |
//! | `anycast` | fair over all members on all shards |
//! | `churn` | joining and leaving under traffic |
//! | `pressure` | slow and stopped receivers on other shards |
//! | `lifecycle` | where connections go, how they and routers end |

#[path = "../common/mod.rs"]
mod common;

mod acks;
mod anycast;
mod churn;
mod lifecycle;
mod order;
mod pressure;

use std::thread;
use std::time::Instant;

use common::*;

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

#[track_caller]
fn expect_numbers(client: &mut Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let publication = client.next_publication();
        assert_eq!(number_of(publication.blob()).1, number);
    }
}

fn await_at_least(router: &TestRouter, counter: &str, value: u64) {
    let deadline = Instant::now() + PATIENCE;
    while router.count(counter) < value {
        assert!(Instant::now() < deadline, "{}", router.counters());
        thread::yield_now();
    }
}
