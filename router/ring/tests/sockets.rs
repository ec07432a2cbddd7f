//! The ring against real loopback sockets, with plain threads on the other side.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slim_ring::{
    Event, ListenerId, ReceiveEnd, ReceivedBuffer, Ring, RingConfig, RingError, SendBuffers,
    SocketId,
};

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> RingConfig {
    RingConfig {
        submission_entries: 64,
        completion_entries: 512,
        receive_buffers: 16,
        receive_buffer_bytes: 4_096,
        sockets_max: 1_024,
    }
}

fn ring() -> Ring {
    Ring::new(config()).unwrap()
}

/// A connected pair: the ring's end and the peer's.
fn pair() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_nodelay(true).unwrap();
    peer.set_nodelay(true).unwrap();
    (socket.into(), peer)
}

fn owned(bytes: &[u8]) -> SendBuffers {
    let mut buffers = SendBuffers::new();
    buffers.push_owned(bytes.to_vec()).unwrap();
    buffers
}

/// Bytes whose every position can be told from its neighbours.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8)
        .collect()
}

/// Turns until `visit` has what it wants.
fn run_until(ring: &mut Ring, mut visit: impl FnMut(&mut Ring, Event) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        while let Some(event) = ring.next_event() {
            if visit(ring, event) {
                return;
            }
        }
        assert!(
            Instant::now() < deadline,
            "nothing came; {:?}",
            ring.counters()
        );
        ring.turn(Some(Duration::from_millis(200))).unwrap();
    }
}

/// All events that come in a few turns without a wait: for showing that there are none.
fn leftovers(ring: &mut Ring) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..5 {
        ring.turn(Some(Duration::from_millis(5))).unwrap();
        events.extend(std::iter::from_fn(|| ring.next_event()));
    }
    events
}

fn close_and_wait(ring: &mut Ring, socket: SocketId) {
    ring.close(socket);
    run_until(
        ring,
        |_, event| matches!(event, Event::Closed { socket: closed } if closed == socket),
    );
}

#[test]
fn this_host_runs_a_ring_and_says_how_well() {
    let features = Ring::probe().unwrap();
    assert_eq!(features, ring().features());
}

#[test]
fn a_configuration_out_of_bounds_is_refused_by_field() {
    let wrong = RingConfig {
        receive_buffers: 3,
        ..config()
    };
    match Ring::new(wrong).err().unwrap() {
        RingError::Configuration { field, value, .. } => {
            assert_eq!((field, value), ("receive_buffers", 3))
        }
        other => panic!("{other}"),
    }
}

/// Echoes whatever arrives until `sockets` peers have finished and their sockets are closed.
fn echo(ring: &mut Ring, listener: ListenerId, sockets: usize) {
    // One send at a time: what arrives meanwhile waits in the second half.
    let mut waiting: HashMap<SocketId, (bool, Vec<u8>, bool)> = HashMap::new();
    let mut closed = 0;
    run_until(ring, |ring, event| {
        match event {
            Event::Accepted {
                listener: from,
                socket,
            } => {
                assert_eq!(from, listener);
                waiting.insert(ring.adopt(socket).unwrap(), (false, Vec::new(), false));
            }
            Event::Received { socket, buffer } => {
                let (sending, queue, _) = waiting.get_mut(&socket).unwrap();
                queue.extend_from_slice(&buffer);
                drop(buffer);
                if !*sending {
                    *sending = true;
                    let mut buffers = SendBuffers::new();
                    buffers.push_owned(std::mem::take(queue)).unwrap();
                    ring.send(socket, buffers);
                }
            }
            Event::Sent {
                socket,
                result,
                buffers,
            } => {
                assert_eq!(result.unwrap(), buffers.len_bytes());
                let (sending, queue, ended) = waiting.get_mut(&socket).unwrap();
                if queue.is_empty() {
                    *sending = false;
                    if *ended {
                        ring.close(socket);
                    }
                } else {
                    let mut buffers = SendBuffers::new();
                    buffers.push_owned(std::mem::take(queue)).unwrap();
                    ring.send(socket, buffers);
                }
            }
            Event::ReceiveEnded { socket, cause } => {
                assert!(matches!(cause, ReceiveEnd::Eof), "{cause:?}");
                let (sending, _, ended) = waiting.get_mut(&socket).unwrap();
                *ended = true;
                if !*sending {
                    ring.close(socket);
                }
            }
            Event::Closed { socket } => {
                waiting.remove(&socket).unwrap();
                closed += 1;
            }
            other => panic!("{other:?}"),
        }
        closed == sockets
    });
}

#[test]
fn many_sockets_get_back_exactly_what_they_sent() {
    const PEERS: usize = 100;
    const BYTES: usize = 200_000;
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peers: Vec<_> = (0..4)
        .map(|worker| {
            thread::spawn(move || {
                for peer in 0..PEERS / 4 {
                    let mut stream = TcpStream::connect(address).unwrap();
                    let sent: Vec<u8> = pattern(BYTES)
                        .iter()
                        .map(|byte| byte.wrapping_add(worker + peer as u8))
                        .collect();
                    let mut writer = stream.try_clone().unwrap();
                    let copy = sent.clone();
                    let writing = thread::spawn(move || {
                        writer.write_all(&copy).unwrap();
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).unwrap();
                    writing.join().unwrap();
                    assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
                }
            })
        })
        .collect();
    let listening = ring.listen(listener.into()).unwrap();
    echo(&mut ring, listening, PEERS);
    for peer in peers {
        peer.join().unwrap();
    }
}

#[test]
fn unix_sockets_work_the_same() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let socket = ring.adopt(ours.into()).unwrap();
    theirs.write_all(b"over unix").unwrap();
    run_until(&mut ring, |ring, event| match event {
        Event::Received { buffer, .. } => {
            assert_eq!(&buffer[..], b"over unix");
            ring.send(socket, owned(b"and back"));
            false
        }
        Event::Sent { result, .. } => result.unwrap() == 8,
        other => panic!("{other:?}"),
    });
    let mut answer = [0; 8];
    theirs.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"and back");
}

#[test]
fn a_vectored_send_of_shared_megabytes_reaches_a_slow_reader_whole() {
    let mut ring = ring();
    let (ours, mut theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    let payload = Bytes::from(pattern(10_000_000));
    let mut buffers = SendBuffers::new();
    buffers.push_owned(b"head".to_vec()).unwrap();
    buffers.push_shared(payload.clone()).unwrap();
    buffers.push_owned(Vec::new()).unwrap();
    buffers.push_owned(b"between".to_vec()).unwrap();
    buffers.push_shared(payload.slice(5..)).unwrap();
    let expected = [b"head", &payload[..], b"between", &payload[5..]].concat();
    let length = buffers.len_bytes();
    assert_eq!(length, expected.len());

    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        let mut piece = vec![0; 33_333];
        loop {
            match theirs.read(&mut piece).unwrap() {
                0 => return received,
                read => received.extend_from_slice(&piece[..read]),
            }
            thread::yield_now();
        }
    });
    ring.send(socket, buffers);
    // Half-closing at once must wait for the send that is in flight.
    ring.shutdown_write(socket);
    let mut returned = None;
    run_until(&mut ring, |_, event| match event {
        Event::Sent {
            result, buffers, ..
        } => {
            assert_eq!(result.unwrap(), length);
            returned = Some(buffers);
            true
        }
        other => panic!("{other:?}"),
    });
    assert!(reader.join().unwrap() == expected);
    assert_eq!(returned.unwrap().take_owned().count(), 3);
    close_and_wait(&mut ring, socket);
    assert!(
        Bytes::try_into_mut(payload).is_ok(),
        "the ring let go of every shared chunk"
    );
}

#[test]
fn a_send_of_as_many_chunks_as_the_type_allows_arrives() {
    let mut ring = ring();
    let (ours, mut theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    let mut buffers = SendBuffers::new();
    let mut expected = Vec::new();
    while !buffers.is_full() {
        let chunk = pattern(1 + expected.len() % 700);
        expected.extend_from_slice(&chunk);
        buffers.push_shared(chunk.into()).unwrap();
    }
    let length = expected.len();
    let reader = thread::spawn(move || {
        let mut received = vec![0; length];
        theirs.read_exact(&mut received).unwrap();
        received
    });
    ring.send(socket, buffers);
    run_until(
        &mut ring,
        |_, event| matches!(event, Event::Sent { result: Ok(sent), .. } if sent == length),
    );
    assert!(reader.join().unwrap() == expected);
}

#[test]
fn a_send_of_nothing_is_answered_at_once() {
    let mut ring = ring();
    let (ours, _theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    ring.send(socket, SendBuffers::new());
    assert!(matches!(
        ring.next_event(),
        Some(Event::Sent { result: Ok(0), .. })
    ));
}

#[test]
fn receiving_goes_on_after_every_buffer_was_taken() {
    let mut ring = ring();
    let mut peers = Vec::new();
    let mut received: HashMap<SocketId, Vec<u8>> = HashMap::new();
    for _ in 0..8 {
        let (ours, theirs) = pair();
        received.insert(ring.adopt(ours).unwrap(), Vec::new());
        peers.push(theirs);
    }
    let sent = pattern(300_000);
    let writers: Vec<_> = peers
        .into_iter()
        .map(|mut peer| {
            let sent = sent.clone();
            thread::spawn(move || {
                peer.write_all(&sent).unwrap();
                peer
            })
        })
        .collect();
    // All 16 buffers are held until no more can come, then all are given back, again and again.
    let mut held: Vec<(SocketId, ReceivedBuffer)> = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while received.values().map(Vec::len).sum::<usize>() < 8 * sent.len() {
        assert!(Instant::now() < deadline, "{:?}", ring.counters());
        ring.turn(Some(Duration::from_millis(if held.len() == 16 {
            1
        } else {
            50
        })))
        .unwrap();
        let before = held.len();
        while let Some(event) = ring.next_event() {
            match event {
                Event::Received { socket, buffer } => held.push((socket, buffer)),
                other => panic!("{other:?}"),
            }
        }
        if held.len() == before {
            for (socket, buffer) in held.drain(..) {
                received
                    .get_mut(&socket)
                    .unwrap()
                    .extend_from_slice(&buffer);
            }
        }
    }
    assert!(ring.counters().buffers_exhausted > 0);
    assert!(received.values().all(|bytes| *bytes == sent));
    drop(
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect::<Vec<_>>(),
    );
}

#[test]
fn idle_sockets_that_starved_do_not_keep_others_from_receiving() {
    let mut ring = Ring::new(RingConfig {
        receive_buffers: 1,
        ..config()
    })
    .unwrap();
    let (first_ours, mut first) = pair();
    let first_id = ring.adopt(first_ours).unwrap();
    first.write_all(b"takes the only buffer").unwrap();
    let mut held = None;
    run_until(&mut ring, |_, event| {
        if let Event::Received { buffer, .. } = event {
            held = Some(buffer);
        }
        held.is_some()
    });
    // These find no buffer as they are armed, though nothing was sent to them.
    let idle: Vec<TcpStream> = (0..20)
        .map(|_| {
            let (ours, theirs) = pair();
            ring.adopt(ours).unwrap();
            theirs
        })
        .collect();
    let (last_ours, mut last) = pair();
    let last_id = ring.adopt(last_ours).unwrap();
    last.write_all(b"last in line").unwrap();
    while ring.counters().buffers_exhausted < 21 {
        ring.turn(Some(Duration::from_millis(10))).unwrap();
        assert!(ring.next_event().is_none());
    }
    drop(held);
    run_until(&mut ring, |_, event| match event {
        Event::Received { socket, buffer } => {
            assert_ne!(socket, first_id);
            assert_eq!(&buffer[..], b"last in line");
            socket == last_id
        }
        other => panic!("{other:?}"),
    });
    drop(idle);
}

#[test]
fn a_received_buffer_outlives_its_ring() {
    let mut ring = ring();
    let (ours, mut theirs) = pair();
    ring.adopt(ours).unwrap();
    theirs.write_all(b"still here").unwrap();
    let mut held = None;
    run_until(&mut ring, |_, event| {
        if let Event::Received { buffer, .. } = event {
            held = Some(buffer);
        }
        held.is_some()
    });
    drop(ring);
    assert_eq!(&held.unwrap()[..], b"still here");
}

#[test]
fn closing_gives_back_the_send_in_flight_and_then_says_closed() {
    let mut ring = ring();
    let (ours, mut theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    let payload = Bytes::from(pattern(50_000_000));
    let mut buffers = SendBuffers::new();
    buffers.push_shared(payload.clone()).unwrap();
    buffers.push_owned(b"tail".to_vec()).unwrap();
    ring.send(socket, buffers);
    ring.turn(Some(Duration::from_millis(20))).unwrap();
    assert!(
        ring.next_event().is_none(),
        "the peer reads nothing, so the send waits"
    );
    ring.close(socket);
    ring.close(socket);
    let mut sent = false;
    run_until(&mut ring, |_, event| match event {
        Event::Sent {
            result, buffers, ..
        } => {
            assert!(!sent);
            sent = true;
            assert_eq!(buffers.len_bytes(), 50_000_004);
            if let Ok(taken) = result {
                assert!(taken < 50_000_004);
            }
            false
        }
        Event::Closed { socket: closed } => {
            assert_eq!(closed, socket);
            true
        }
        other => panic!("{other:?}"),
    });
    assert!(sent);
    assert!(Bytes::try_into_mut(payload).is_ok());
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    // The peer sees the end: after what was sent, or as a reset.
    let mut rest = Vec::new();
    let _ = theirs
        .read_to_end(&mut rest)
        .map_err(|error| assert_ne!(error.kind(), io::ErrorKind::WouldBlock));
    assert!(leftovers(&mut ring).is_empty());
}

#[test]
fn nothing_is_received_from_a_socket_after_its_close() {
    let mut ring = ring();
    let (ours, mut theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    theirs.write_all(&pattern(30_000)).unwrap();
    ring.turn(Some(PATIENCE)).unwrap();
    ring.close(socket);
    run_until(&mut ring, |_, event| match event {
        Event::Closed { .. } => true,
        other => panic!("{other:?}"),
    });
    assert!(leftovers(&mut ring).is_empty());
}

#[test]
fn a_peer_that_resets_is_reported_and_closes_cleanly() {
    let mut ring = ring();
    let (ours, theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    let mut buffers = SendBuffers::new();
    buffers.push_owned(pattern(20_000_000)).unwrap();
    ring.send(socket, buffers);
    ring.turn(Some(Duration::from_millis(5))).unwrap();
    // Closing with a linger of zero is a reset.
    socket2::SockRef::from(&theirs)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(theirs);
    let (mut receive_failed, mut send_failed) = (false, false);
    run_until(&mut ring, |_, event| {
        match event {
            Event::ReceiveEnded {
                cause: ReceiveEnd::Failed(_) | ReceiveEnd::Eof,
                ..
            } => receive_failed = true,
            // What was taken before the reset counts as sent; the error comes with the next send.
            Event::Sent { result, .. } => {
                send_failed = result.map_or(true, |sent| sent < 20_000_000)
            }
            other => panic!("{other:?}"),
        }
        receive_failed && send_failed
    });
    ring.send(socket, owned(b"into the void"));
    run_until(&mut ring, |_, event| {
        matches!(event, Event::Sent { result: Err(_), .. })
    });
    close_and_wait(&mut ring, socket);
    assert!(leftovers(&mut ring).is_empty());
}

#[test]
fn a_full_backlog_is_delivered_before_the_listener_closes() {
    const CONNECTIONS: usize = 100;
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listening = ring.listen(listener.into()).unwrap();
    ring.turn(None).unwrap();
    // Some are accepted by the ring before it knows of the unlisten, the others sit in the backlog: no turn in between.
    let mut peers: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    ring.unlisten(listening);
    ring.unlisten(listening);
    let mut accepted = Vec::new();
    run_until(&mut ring, |_, event| match event {
        Event::Accepted { socket, .. } => {
            accepted.push(socket);
            false
        }
        Event::ListenerClosed { listener } => {
            assert_eq!(listener, listening);
            true
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(accepted.len(), CONNECTIONS);
    for socket in accepted {
        TcpStream::from(socket).write_all(b"y").unwrap();
    }
    for peer in &mut peers {
        let mut answer = [0];
        peer.read_exact(&mut answer).unwrap();
    }
    assert!(TcpStream::connect(address).is_err());
    assert!(leftovers(&mut ring).is_empty());
}

#[test]
fn a_nonblocking_listener_is_accepted_from_like_any_other() {
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    ring.listen(listener.into()).unwrap();
    assert!(leftovers(&mut ring).is_empty());
    let _peer = TcpStream::connect(address).unwrap();
    run_until(&mut ring, |_, event| {
        matches!(event, Event::Accepted { .. })
    });
}

#[test]
fn a_descriptor_that_does_not_listen_fails_and_can_be_let_go() {
    let mut ring = ring();
    let (ours, _theirs) = pair();
    let listening = ring.listen(ours).unwrap();
    run_until(
        &mut ring,
        |_, event| matches!(event, Event::AcceptFailed { listener, .. } if listener == listening),
    );
    assert!(
        leftovers(&mut ring).is_empty(),
        "it is not tried again by itself"
    );
    ring.unlisten(listening);
    run_until(&mut ring, |_, event| {
        matches!(event, Event::ListenerClosed { .. })
    });
}

#[test]
fn a_wake_before_the_wait_makes_the_wait_return_at_once() {
    let mut ring = ring();
    let waker = ring.waker();
    ring.turn(None).unwrap();
    waker.wake();
    waker.wake();
    let started = Instant::now();
    run_until(&mut ring, |_, event| matches!(event, Event::Woken));
    assert!(started.elapsed() < PATIENCE / 4);
    assert!(
        leftovers(&mut ring).is_empty(),
        "two wakes that were not seen are one"
    );
    waker.wake();
    run_until(&mut ring, |_, event| matches!(event, Event::Woken));
}

#[test]
fn no_wake_from_another_thread_is_ever_lost() {
    const ROUNDS: u64 = 20_000;
    let mut ring = ring();
    let waker = ring.waker();
    let (asked, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let theirs = (Arc::clone(&asked), Arc::clone(&done));
    let thread = thread::spawn(move || {
        for round in 1..=ROUNDS {
            theirs.0.store(round, Ordering::Release);
            waker.wake();
            let deadline = Instant::now() + PATIENCE;
            while theirs.1.load(Ordering::Acquire) < round {
                assert!(Instant::now() < deadline, "round {round} was not seen");
                thread::yield_now();
            }
        }
    });
    // The long wait shows a lost wake: the other thread would give up first.
    while done.load(Ordering::Relaxed) < ROUNDS {
        ring.turn(Some(2 * PATIENCE)).unwrap();
        while let Some(event) = ring.next_event() {
            assert!(matches!(event, Event::Woken));
            done.store(asked.load(Ordering::Acquire), Ordering::Release);
        }
    }
    thread.join().unwrap();
}

#[test]
fn rings_wake_each_other_by_message() {
    const ROUNDS: u64 = 10_000;
    let counter = Arc::new(AtomicU64::new(0));
    let (give, take) = mpsc::channel();
    let (give_back, take_back) = mpsc::channel();
    let theirs = Arc::clone(&counter);
    let run = move |mine: u64,
                    counter: Arc<AtomicU64>,
                    address: &dyn Fn(&Ring) -> slim_ring::RingAddress| {
        let mut ring = ring();
        let other = address(&ring);
        let deadline = Instant::now() + PATIENCE;
        // The counter's parity says whose turn it is.
        loop {
            let now = counter.load(Ordering::Acquire);
            if now % 2 == mine {
                counter.store(now + 1, Ordering::Release);
                ring.wake(&other);
                ring.wake(&other);
            }
            if now + 1 >= ROUNDS {
                // The last message goes out before the ring ends.
                ring.turn(None).unwrap();
                return ring.counters();
            }
            assert!(
                Instant::now() < deadline,
                "stuck at {now}: {:?}",
                ring.counters()
            );
            ring.turn(Some(PATIENCE)).unwrap();
            while let Some(event) = ring.next_event() {
                assert!(matches!(event, Event::Woken));
            }
        }
    };
    let other = thread::spawn(move || {
        run(1, theirs, &|ring| {
            give.send(ring.address()).unwrap();
            take_back.recv().unwrap()
        })
    });
    let counters = run(0, counter, &|ring| {
        give_back.send(ring.address()).unwrap();
        take.recv().unwrap()
    });
    other.join().unwrap();
    assert!(counters.wakes_by_message >= ROUNDS / 2 - 1, "{counters:?}");
    assert_eq!(counters.wakes_by_eventfd, 0);
}

#[test]
fn waking_a_ring_whose_thread_is_gone_harms_nobody() {
    let address = thread::spawn(|| ring().address()).join().unwrap();
    let waker = thread::spawn(|| ring().waker()).join().unwrap();
    let mut ring = ring();
    waker.wake();
    ring.wake(&address);
    assert!(leftovers(&mut ring).is_empty());
}

#[test]
fn a_ring_that_wakes_itself_does_not_wait() {
    let mut ring = ring();
    let address = ring.address();
    ring.wake(&address);
    ring.turn(Some(PATIENCE)).unwrap();
    assert!(matches!(ring.next_event(), Some(Event::Woken)));
}

#[test]
fn the_socket_beyond_the_bound_comes_back_to_the_caller() {
    let mut ring = Ring::new(RingConfig {
        sockets_max: 1,
        ..config()
    })
    .unwrap();
    let (first, _first_peer) = pair();
    let (second, mut second_peer) = pair();
    let first = ring.adopt(first).unwrap();
    let (error, second) = ring.adopt(second).unwrap_err();
    assert!(matches!(error, RingError::SocketsExhausted { limit: 1 }));
    TcpStream::from(second).write_all(b"alive").unwrap();
    second_peer.read_exact(&mut [0; 5]).unwrap();
    close_and_wait(&mut ring, first);
    let (third, _third_peer) = pair();
    let third = ring.adopt(third).unwrap();
    assert_eq!(third.index(), first.index());
    assert_ne!(third.generation(), first.generation());
}

#[test]
fn a_stale_id_does_nothing_to_the_socket_that_has_its_slot_now() {
    let mut ring = ring();
    let (ours, _theirs) = pair();
    let stale = ring.adopt(ours).unwrap();
    close_and_wait(&mut ring, stale);
    let (ours, mut theirs) = pair();
    let fresh = ring.adopt(ours).unwrap();
    assert_eq!(fresh.index(), stale.index());
    ring.send(stale, owned(b"to the dead"));
    ring.shutdown_write(stale);
    ring.close(stale);
    assert!(leftovers(&mut ring).is_empty());
    assert_eq!(ring.counters().sends_discarded, 1);
    ring.send(fresh, owned(b"to the living"));
    run_until(
        &mut ring,
        |_, event| matches!(event, Event::Sent { socket, result: Ok(13), .. } if socket == fresh),
    );
    let mut arrived = [0; 13];
    theirs.read_exact(&mut arrived).unwrap();
    assert_eq!(&arrived, b"to the living");
}

#[test]
fn more_operations_than_the_queues_hold_all_complete() {
    const SOCKETS: usize = 200;
    let small = RingConfig {
        submission_entries: 4,
        completion_entries: 8,
        ..config()
    };
    let mut ring = Ring::new(small).unwrap();
    let mut peers = HashMap::new();
    for _ in 0..SOCKETS {
        let (ours, theirs) = pair();
        peers.insert(ring.adopt(ours).unwrap(), theirs);
    }
    for round in 0..3u8 {
        for (&socket, peer) in &mut peers {
            peer.write_all(&[round; 100]).unwrap();
            ring.send(socket, owned(&[round; 50]));
        }
        let (mut received, mut sent) = (0, 0);
        run_until(&mut ring, |_, event| {
            match event {
                Event::Received { buffer, .. } => {
                    assert!(buffer.iter().all(|byte| *byte == round));
                    received += buffer.len();
                }
                Event::Sent { result, .. } => sent += result.unwrap(),
                other => panic!("{other:?}"),
            }
            received == SOCKETS * 100 && sent == SOCKETS * 50
        });
        for peer in peers.values_mut() {
            peer.read_exact(&mut [0; 50]).unwrap();
        }
    }
    assert!(ring.counters().submission_queue_full > 0);
    assert!(ring.counters().completion_queue_full > 0);
    for &socket in peers.keys() {
        ring.close(socket);
    }
    let mut closed = 0;
    run_until(&mut ring, |_, event| {
        assert!(matches!(event, Event::Closed { .. }), "{event:?}");
        closed += 1;
        closed == SOCKETS
    });
}

#[test]
fn a_turn_without_work_makes_no_system_call() {
    let mut ring = ring();
    let (ours, mut theirs) = pair();
    ring.adopt(ours).unwrap();
    ring.turn(None).unwrap();
    let enters = ring.counters().enters;
    for _ in 0..10 {
        ring.turn(None).unwrap();
    }
    assert_eq!(ring.counters().enters, enters);
    theirs.write_all(b"work").unwrap();
    run_until(&mut ring, |_, event| {
        matches!(event, Event::Received { .. })
    });
}

#[test]
fn a_ring_can_be_dropped_with_everything_in_flight() {
    let payload = Bytes::from(pattern(30_000_000));
    let mut peers = Vec::new();
    let start = Arc::new(Barrier::new(2));
    let address;
    {
        let mut ring = ring();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        address = listener.local_addr().unwrap();
        ring.listen(listener.into()).unwrap();
        for _ in 0..50 {
            let (ours, theirs) = pair();
            let socket = ring.adopt(ours).unwrap();
            let mut buffers = SendBuffers::new();
            buffers.push_shared(payload.clone()).unwrap();
            buffers.push_shared(payload.clone()).unwrap();
            ring.send(socket, buffers);
            peers.push(theirs);
        }
        ring.turn(Some(Duration::from_millis(10))).unwrap();
        // A connection that the ring accepted and nobody was told of, and data on its way in.
        peers.push(TcpStream::connect(address).unwrap());
        for peer in &mut peers[..50] {
            peer.write_all(&pattern(10_000)).unwrap();
        }
        let waker = ring.waker();
        let other = Arc::clone(&start);
        thread::spawn(move || {
            other.wait();
            waker.wake();
        });
        start.wait();
    }
    assert!(
        Bytes::try_into_mut(payload).is_ok(),
        "every chunk was let go"
    );
    assert!(
        TcpStream::connect(address).is_err(),
        "the listener is closed"
    );
    for mut peer in peers {
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut piece = vec![0; 1 << 20];
        loop {
            match peer.read(&mut piece) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    assert_ne!(
                        error.kind(),
                        io::ErrorKind::WouldBlock,
                        "the socket is closed"
                    );
                    break;
                }
            }
        }
    }
}

#[test]
fn nothing_stays_open_after_many_connections() {
    let mut ring = ring();
    for _ in 0..500 {
        let (ours, mut theirs) = pair();
        let socket = ring.adopt(ours).unwrap();
        assert_eq!(socket.index(), 0, "the slot is free again");
        theirs.write_all(b"hello").unwrap();
        run_until(&mut ring, |_, event| {
            matches!(event, Event::Received { .. })
        });
        close_and_wait(&mut ring, socket);
        // The end of the stream shows that the descriptor is closed, not only forgotten.
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_socket_closed_before_its_first_turn_is_closed_all_the_same() {
    let mut ring = ring();
    let (ours, mut theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    ring.send(socket, owned(b"on the way"));
    ring.close(socket);
    let mut returned = false;
    run_until(&mut ring, |_, event| match event {
        Event::Sent { buffers, .. } => {
            returned = buffers.len_bytes() == 10;
            false
        }
        Event::Closed { .. } => true,
        other => panic!("{other:?}"),
    });
    assert!(returned);
    let mut rest = Vec::new();
    theirs.read_to_end(&mut rest).unwrap();
}

#[test]
#[cfg_attr(debug_assertions, should_panic(expected = "one send at a time"))]
fn a_second_send_at_a_time_is_refused_and_the_first_goes_on() {
    let mut ring = ring();
    let (ours, _theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    ring.send(socket, owned(b"first"));
    ring.send(socket, owned(b"second!"));
    let mut results = Vec::new();
    run_until(&mut ring, |_, event| {
        if let Event::Sent {
            result, buffers, ..
        } = event
        {
            results.push((
                result.map_err(|error| error.raw_os_error()),
                buffers.len_bytes(),
            ));
        }
        results.len() == 2
    });
    assert_eq!(results, [(Err(Some(libc::EBUSY)), 7), (Ok(5), 5)]);
}

#[test]
fn a_send_on_a_closing_socket_comes_back_as_an_error() {
    let mut ring = ring();
    let (ours, _theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    ring.turn(None).unwrap();
    ring.close(socket);
    ring.send(socket, owned(b"late"));
    let first = ring.next_event();
    assert!(
        matches!(&first, Some(Event::Sent { result: Err(error), .. }) if error.raw_os_error() == Some(libc::ENOTCONN)),
        "{first:?}"
    );
    run_until(&mut ring, |_, event| matches!(event, Event::Closed { .. }));
}

#[test]
fn a_send_between_closing_and_the_word_of_it_is_let_go_silently() {
    let mut ring = ring();
    let (ours, theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    drop(theirs);
    run_until(&mut ring, |_, event| {
        matches!(
            event,
            Event::ReceiveEnded {
                cause: ReceiveEnd::Eof,
                ..
            }
        )
    });
    // Nothing is in flight, so this closes at once; the event waits to be taken.
    ring.close(socket);
    ring.send(socket, owned(b"late"));
    assert!(matches!(ring.next_event(), Some(Event::Closed { .. })));
    assert!(ring.next_event().is_none());
    assert_eq!(ring.counters().sends_discarded, 1);
}

#[test]
fn the_longest_timeout_there_is_waits_like_any_other() {
    let mut ring = ring();
    let waker = ring.waker();
    let thread = thread::spawn(move || waker.wake());
    ring.turn(Some(Duration::MAX)).unwrap();
    thread.join().unwrap();
    run_until(&mut ring, |_, event| matches!(event, Event::Woken));
}

#[test]
fn a_peer_that_finished_sending_can_still_be_sent_to() {
    let mut ring = ring();
    let (ours, mut theirs) = pair();
    let socket = ring.adopt(ours).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    run_until(&mut ring, |_, event| {
        matches!(
            event,
            Event::ReceiveEnded {
                cause: ReceiveEnd::Eof,
                ..
            }
        )
    });
    ring.send(socket, owned(b"the last word"));
    run_until(&mut ring, |_, event| {
        matches!(event, Event::Sent { result: Ok(13), .. })
    });
    ring.shutdown_write(socket);
    let mut heard = Vec::new();
    theirs.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"the last word");
}
