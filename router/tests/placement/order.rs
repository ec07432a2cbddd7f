//! Order from one link to another, whatever shards they are on.

use std::thread;

use slim_router::limits;

use crate::common::*;
use crate::{nothing_lost_but, number_of, numbered};

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
