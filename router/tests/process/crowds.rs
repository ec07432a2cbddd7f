//! Many connections.

use std::thread;
use std::time::{Duration, Instant};

use rlimit::Resource;

use crate::common::*;
use crate::{Bystanders, alone};

/// As many as this process may have descriptors for, 10,000 at most.
#[test]
fn ten_thousand_idle_links_take_a_few_kilobytes_each_and_no_time() {
    const LINKS_MAX: u64 = 10_000;
    const THREADS: usize = 4;
    /// Of resident memory, in a debug build. A link of its own, with its connection, its HTTP/2 state and its name.
    const LINK_BYTES_MAX: u64 = 8_192;
    const WATCHED: Duration = Duration::from_secs(1);
    let _alone = alone();
    let (_, hard) = Resource::NOFILE.get().unwrap();
    Resource::NOFILE.set(hard, hard).unwrap();
    // Other tests have some, too.
    let links = LINKS_MAX.min(hard - 1_000);
    println!("{links} links: the hard limit on descriptors is {hard}");
    let router = RouterProcess::start_with(2, Mac::Off, None);
    let mut bystanders = Bystanders::new(&router, Mac::Off);
    bystanders.hear_each_other();
    let before = router.memory_bytes();
    let began = Instant::now();
    let idle: Vec<Link> = thread::scope(|scope| {
        let router = &router;
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    (0..links as usize / THREADS)
                        .map(|i| {
                            let mut link = Link::connect(router.connect(), Mac::Off);
                            link.subscribe(&id_name("idle", (i * THREADS + thread + 1) as u128));
                            link
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let links = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap());
        links.collect()
    });
    println!("connected and subscribed in {:?}", began.elapsed());
    let each = (router.memory_bytes() - before) / links;
    assert!(each < LINK_BYTES_MAX, "{each} bytes a link");
    let processor_time = router.processor_time();
    let began = Instant::now();
    while began.elapsed() < WATCHED {
        bystanders.hear_each_other();
        thread::sleep(Duration::from_millis(10));
    }
    let used = router.processor_time() - processor_time;
    println!("{each} bytes a link, {used:?} of processor time in {WATCHED:?}");
    assert!(used < WATCHED / 4, "{used:?}");
    drop(idle);
}

#[test]
fn a_crowd_that_comes_back_at_once_is_served_again_and_again() {
    const CLIENTS: usize = 400;
    const THREADS: usize = 8;
    const STORMS: usize = 3;
    let _alone = alone();
    let router = RouterProcess::start_with(2, Mac::Off, None);
    let mut bystanders = Bystanders::new(&router, Mac::Off);
    let descriptors = router.descriptors();
    let mut crowd: Vec<Link> = Vec::new();
    for _ in 0..STORMS {
        // All are cut with RST, and are back before the router has heard of it.
        for link in crowd.drain(..) {
            link.http2.reset();
        }
        crowd = thread::scope(|scope| {
            let router = &router;
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    scope.spawn(move || {
                        (0..CLIENTS / THREADS)
                            .map(|i| {
                                let mut link = Link::connect(router.connect(), Mac::Off);
                                link.subscribe(&id_name(
                                    "back",
                                    (thread * CLIENTS + i + 1) as u128,
                                ));
                                link
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            for _ in 0..10 {
                bystanders.hear_each_other();
            }
            let links = threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap());
            links.collect()
        });
        router.await_descriptors(descriptors + CLIENTS);
        let publisher = &mut bystanders.publisher;
        for (i, link) in crowd.iter_mut().enumerate() {
            let (thread, i) = (i / (CLIENTS / THREADS), i % (CLIENTS / THREADS));
            let to = id_name("back", (thread * CLIENTS + i + 1) as u128);
            let message = publisher.prepared_publish(&to, 1, 100);
            publisher.http2.send_message(&message);
            link.receive(1);
        }
    }
    drop(crowd);
    router.await_descriptors(descriptors);
}
