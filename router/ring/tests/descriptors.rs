//! Running out of file descriptors. A process of its own: the limit holds for all threads.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use slim_ring::{Event, ListenerId, Ring, RingConfig};

fn limit_descriptors(soft: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit for the length of both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = soft;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

/// Takes accepted sockets until accepting fails; returns them.
fn accept_until_failure(ring: &mut Ring, listener: ListenerId) -> Vec<OwnedFd> {
    let mut accepted = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        ring.turn(Some(Duration::from_millis(100))).unwrap();
        while let Some(event) = ring.next_event() {
            match event {
                Event::Accepted { socket, .. } => accepted.push(socket),
                Event::AcceptFailed {
                    listener: failed,
                    error,
                } => {
                    assert_eq!(
                        (failed, error.raw_os_error()),
                        (listener, Some(libc::EMFILE))
                    );
                    return accepted;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(Instant::now() < deadline, "{:?}", ring.counters());
    }
}

#[test]
fn without_descriptors_accepting_pauses_until_it_is_resumed() {
    const CONNECTIONS: usize = 20;
    const ROOM: usize = 3;
    let mut ring = Ring::new(RingConfig {
        submission_entries: 16,
        completion_entries: 64,
        receive_buffers: 4,
        receive_buffer_bytes: 1_024,
        sockets_max: 64,
    })
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peers: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let highest = peers.iter().map(AsRawFd::as_raw_fd).max().unwrap();
    limit_descriptors(highest as u64 + 1 + ROOM as u64);

    let listening = ring.listen(listener.into()).unwrap();
    let mut total = 0;
    let first = accept_until_failure(&mut ring, listening);
    assert_eq!(first.len(), ROOM);
    total += first.len();

    // With descriptors free again but no word from the caller, nothing is accepted.
    drop(first);
    ring.turn(Some(Duration::from_millis(20))).unwrap();
    assert!(ring.next_event().is_none());

    ring.resume_accept(listening);
    ring.resume_accept(listening);
    let second = accept_until_failure(&mut ring, listening);
    assert_eq!(second.len(), ROOM);
    total += second.len();

    // Closing the listener takes what there is room for, says what failed, and ends.
    drop(second);
    ring.unlisten(listening);
    let third = accept_until_failure(&mut ring, listening);
    assert_eq!(third.len(), ROOM);
    total += third.len();
    assert!(
        matches!(ring.next_event(), Some(Event::ListenerClosed { listener }) if listener == listening)
    );
    assert!(total < peers.len());
}
