use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::*;

const CONFIG: RingConfig = RingConfig {
    submission_entries: 8,
    completion_entries: 16,
    receive_buffers: 2,
    receive_buffer_bytes: 1_024,
    sockets_max: 4,
};

fn wait_for(ring: &mut Ring, wanted: impl Fn(&Event) -> bool) -> Event {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        while let Some(event) = ring.next_event() {
            if wanted(&event) {
                return event;
            }
        }
        assert!(Instant::now() < deadline, "{:?}", ring.counters());
        ring.turn(Some(Duration::from_millis(100))).unwrap();
    }
}

#[test]
fn the_ring_works_the_same_with_the_flags_of_any_kernel() {
    for tier in TIERS {
        let mut ring = Ring::with_tiers(CONFIG, &[tier]).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = ring.adopt(ours.into()).unwrap();
        for _ in 0..3 {
            ring.turn(None).unwrap();
            theirs.write_all(b"question").unwrap();
            let Event::Received { buffer, .. } =
                wait_for(&mut ring, |event| matches!(event, Event::Received { .. }))
            else {
                unreachable!()
            };
            let mut buffers = SendBuffers::new();
            buffers.push_owned(buffer.to_vec()).unwrap();
            drop(buffer);
            ring.send(socket, buffers);
            wait_for(&mut ring, |event| {
                matches!(event, Event::Sent { result: Ok(8), .. })
            });
            theirs.read_exact(&mut [0; 8]).unwrap();
        }
        // From another thread, by eventfd and by message, while this ring waits.
        let (waker, address) = (ring.waker(), ring.address());
        let (seen, next) = mpsc::channel();
        let other = thread::spawn(move || {
            waker.wake();
            next.recv().unwrap();
            let mut other = Ring::with_tiers(CONFIG, &[tier]).unwrap();
            other.wake(&address);
            other.turn(None).unwrap();
        });
        wait_for(&mut ring, |event| matches!(event, Event::Woken));
        seen.send(()).unwrap();
        wait_for(&mut ring, |event| matches!(event, Event::Woken));
        other.join().unwrap();
        ring.close(socket);
        wait_for(&mut ring, |event| matches!(event, Event::Closed { .. }));
        // From a listener, while this ring waits.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        ring.listen(listener.into()).unwrap();
        ring.turn(None).unwrap();
        let connecting = thread::spawn(move || TcpStream::connect(target).unwrap());
        wait_for(&mut ring, |event| matches!(event, Event::Accepted { .. }));
        connecting.join().unwrap();
    }
}

#[test]
fn a_poll_of_the_listeners_that_ended_is_armed_again_and_overlooks_nothing() {
    let mut ring = Ring::new(CONFIG).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    ring.listen(listener.into()).unwrap();
    ring.turn(None).unwrap();
    for round in 1..=10 {
        let poll = Tag::single(Operation::ListenerPoll).to_u64();
        let cancel = opcode::AsyncCancel::new(poll)
            .build()
            .user_data(Tag::single(Operation::CancelAll).to_u64());
        ring.start(cancel);
        ring.turn(None).unwrap();
        // Comes while nobody polls.
        let _peer = TcpStream::connect(target).unwrap();
        wait_for(&mut ring, |event| matches!(event, Event::Accepted { .. }));
        assert_eq!(ring.counters().listener_polls_rearmed, round);
    }
}

#[test]
fn where_messages_are_missing_or_fail_the_eventfd_takes_over() {
    let mut target = Ring::new(CONFIG).unwrap();
    let mut without = Ring::new(CONFIG).unwrap();
    without.features.ring_messages = false;
    without.wake(&target.address());
    wait_for(&mut target, |event| matches!(event, Event::Woken));
    assert_eq!(without.counters().wakes_by_eventfd, 1);

    // A failed message is what the kernel answers to a ring it cannot reach.
    let mut ring = Ring::new(CONFIG).unwrap();
    ring.wake(&target.address());
    ring.turn(None).unwrap();
    wait_for(&mut target, |event| matches!(event, Event::Woken));
    assert!(
        ring.message_failed(Tag::new(Operation::MessagePeer, 0, 0))
            .is_none()
    );
    wait_for(&mut target, |event| matches!(event, Event::Woken));
    assert_eq!(ring.counters().wakes_by_eventfd, 1);
}

#[test]
fn dropping_a_ring_leaves_nothing_with_the_kernel() {
    let mut ring = Ring::new(CONFIG).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let socket = ring.adopt(ours.into()).unwrap();
    let mut buffers = SendBuffers::new();
    buffers.push_owned(vec![1; 10_000_000]).unwrap();
    ring.send(socket, buffers);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    ring.listen(listener.into()).unwrap();
    ring.turn(None).unwrap();
    assert_eq!(
        ring.in_flight, 4,
        "a receive, a send, the eventfd and the listeners' poll"
    );
    assert!(ring.let_go());
    assert_eq!(ring.in_flight, 0);
}

/// Segments that `stream` has sent and its peer has not acknowledged.
fn unacknowledged(stream: &TcpStream) -> u32 {
    // SAFETY: all of tcp_info is numbers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`; both outlive the call.
    let answer = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            std::ptr::from_mut(&mut info).cast(),
            &mut length,
        )
    };
    assert_eq!(answer, 0);
    info.tcpi_unacked
}

#[test]
fn what_was_received_is_acknowledged_when_asked_for_by_ring_and_by_call() {
    for socket_commands in [true, false] {
        let mut ring = Ring::new(CONFIG).unwrap();
        ring.features.socket_commands &= socket_commands;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = ring.adopt(listener.accept().unwrap().0.into()).unwrap();
        let mut put_off = 0;
        for _ in 0..50 {
            // Question and answer make the kernel put acknowledgements off, to send them with the next answer.
            for _ in 0..2 {
                theirs.write_all(b"question").unwrap();
                wait_for(&mut ring, |event| matches!(event, Event::Received { .. }));
                let mut buffers = SendBuffers::new();
                buffers.push_owned(b"answer".to_vec()).unwrap();
                ring.send(socket, buffers);
                wait_for(&mut ring, |event| matches!(event, Event::Sent { .. }));
                theirs.read_exact(&mut [0; 6]).unwrap();
            }
            theirs.write_all(b"no answer").unwrap();
            wait_for(&mut ring, |event| matches!(event, Event::Received { .. }));
            put_off += u32::from(unacknowledged(&theirs) > 0);
            ring.acknowledge(socket);
            ring.turn(None).unwrap();
            assert_eq!(unacknowledged(&theirs), 0);
        }
        assert!(
            put_off > 0,
            "the kernel never put one off, so this showed nothing"
        );
        let counters = ring.counters();
        assert_eq!(
            counters.acknowledgements + counters.acknowledgement_calls,
            50
        );
        assert!(socket_commands || counters.acknowledgement_calls == 50);
    }
}
