//! The hot path allocates nothing: received bytes are read in place, a send reuses what earlier sends gave back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use slim_ring::{Event, Ring, RingConfig, SendBuffers, SocketId};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes on to the system's allocator, unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One question of the peer and its answer, in two chunks. Returns the list that came back.
fn round_trip(
    ring: &mut Ring,
    socket: SocketId,
    peer: &mut UnixStream,
    buffers: SendBuffers,
) -> SendBuffers {
    let mut buffers = Some(buffers);
    peer.write_all(b"question").unwrap();
    loop {
        ring.turn(Some(Duration::from_secs(20))).unwrap();
        while let Some(event) = ring.next_event() {
            match event {
                Event::Received { buffer, .. } => {
                    let mut answer = buffers.take().unwrap();
                    let mut copy = answer.take_owned().next().unwrap_or_default();
                    copy.clear();
                    copy.extend_from_slice(&buffer);
                    drop(buffer);
                    answer.push_owned(copy).unwrap();
                    answer
                        .push_shared(bytes::Bytes::from_static(b", answered"))
                        .unwrap();
                    ring.send(socket, answer);
                }
                Event::Sent {
                    result, buffers, ..
                } => {
                    assert_eq!(result.unwrap(), 18);
                    peer.read_exact(&mut [0; 18]).unwrap();
                    return buffers;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_round_trip_allocates_nothing_once_the_first_is_done() {
    let mut ring = Ring::new(RingConfig {
        submission_entries: 16,
        completion_entries: 64,
        receive_buffers: 4,
        receive_buffer_bytes: 1_024,
        sockets_max: 4,
    })
    .unwrap();
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let socket = ring.adopt(ours.into()).unwrap();
    let mut buffers = round_trip(&mut ring, socket, &mut peer, SendBuffers::new());
    let before = ALLOCATIONS.get();
    for _ in 0..1_000 {
        buffers = round_trip(&mut ring, socket, &mut peer, buffers);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
