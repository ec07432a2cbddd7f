//! Anycast turns through all members, on all shards.

use crate::common::*;
use crate::nothing_lost_but;

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
