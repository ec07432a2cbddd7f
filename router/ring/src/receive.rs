//! Receive buffers: one region that the kernel fills, one ring of entries that says which parts are free.
//!
//! A buffer is in exactly one place: with the kernel (free), with the caller (a [`ReceivedBuffer`]), or on its way
//! back (`returned`). Only in the second place may Rust read it; nobody but the kernel ever writes it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The one buffer group of a ring.
pub(crate) const BUFFER_GROUP: u16 = 0;
/// More entries than this the kernel does not take in one buffer ring.
pub(crate) const RECEIVE_BUFFERS_MAX: u16 = 32_768;

/// Bytes that arrived on a socket, in memory of the ring. Reads as `[u8]`.
///
/// Dropping it is giving it back: the kernel has it again with the next turn.
/// While the caller holds all buffers nothing is received, so hold them shortly.
pub struct ReceivedBuffer {
    pool: Rc<ReceivePool>,
    id: u16,
    length_bytes: u32,
}

impl Deref for ReceivedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pool.bytes(self)
    }
}

impl Drop for ReceivedBuffer {
    fn drop(&mut self) {
        self.pool.returned.borrow_mut().push(self.id);
    }
}

impl fmt::Debug for ReceivedBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "ReceivedBuffer {{ id: {}, length_bytes: {} }}",
            self.id, self.length_bytes
        )
    }
}

/// The memory, alive as long as the ring or any received buffer is.
struct ReceivePool {
    memory: Mapping,
    buffer_bytes: u32,
    /// Buffers given back since the last publish. Its capacity is the number of buffers, so a push never allocates.
    returned: RefCell<Vec<u16>>,
}

impl ReceivePool {
    fn address(&self, id: u16) -> *mut u8 {
        let offset = id as usize * self.buffer_bytes as usize;
        assert!(
            offset + self.buffer_bytes as usize <= self.memory.length_bytes,
            "buffer ids are below the count"
        );
        // SAFETY: the assertion keeps the whole buffer inside the mapping.
        unsafe { self.memory.start.as_ptr().add(offset) }
    }

    fn bytes(&self, buffer: &ReceivedBuffer) -> &[u8] {
        // JUSTIFICATION: the bytes are read where the kernel put them; the safe way is to copy each receive out first.
        // SAFETY: `length_bytes` was cut to `buffer_bytes`, so the slice lies inside the mapping, which `pool` keeps
        // alive. The kernel took this buffer out of its ring when it filled it, and gets it back only after the
        // `ReceivedBuffer` is dropped, so nobody writes while the slice lives. The mapping starts zeroed.
        unsafe { std::slice::from_raw_parts(self.address(buffer.id), buffer.length_bytes as usize) }
    }
}

/// The ring's side: says to the kernel which buffers are free.
pub(crate) struct BufferRing {
    entries: Mapping,
    pool: Rc<ReceivePool>,
    count: u16,
    tail: u16,
    /// Buffers with the caller or on their way back.
    taken: u16,
}

impl BufferRing {
    /// Maps the memory and registers it, all buffers free. `count` must be a power of two, checked by the caller.
    pub(crate) fn register(
        submitter: &Submitter<'_>,
        count: u16,
        buffer_bytes: u32,
    ) -> io::Result<BufferRing> {
        let pool = ReceivePool {
            memory: Mapping::new(count as usize * buffer_bytes as usize)?,
            buffer_bytes,
            returned: RefCell::new((0..count).collect()),
        };
        let entries = Mapping::new(count as usize * size_of::<BufRingEntry>())?;
        let mut ring = BufferRing {
            entries,
            pool: Rc::new(pool),
            count,
            tail: 0,
            taken: count,
        };
        ring.publish();
        // SAFETY: the entries are page-aligned and `count` of them are mapped. `Ring::drop` unregisters the group (or
        // leaks the mapping) before it lets go of it; without a `Ring` no receive was ever started that could use it.
        unsafe {
            submitter.register_buf_ring_with_flags(
                ring.entries.start.as_ptr() as u64,
                count,
                BUFFER_GROUP,
                0,
            )?;
        }
        Ok(ring)
    }

    /// Takes over buffer `id`, which the kernel says it filled with `length_bytes` bytes.
    pub(crate) fn take(&mut self, id: u16, length_bytes: u32) -> ReceivedBuffer {
        self.taken += 1;
        ReceivedBuffer {
            pool: Rc::clone(&self.pool),
            id,
            length_bytes: length_bytes.min(self.pool.buffer_bytes),
        }
    }

    /// Gives all returned buffers to the kernel, with one store of the tail.
    pub(crate) fn publish(&mut self) {
        let mut returned = self.pool.returned.borrow_mut();
        if returned.is_empty() {
            return;
        }
        let entries = self.entries.start.as_ptr().cast::<BufRingEntry>();
        for id in returned.drain(..) {
            let address = self.pool.address(id) as u64;
            // SAFETY: the index is masked by a power of two to below `count`. Entries from the published tail on are
            // not read by the kernel, and there are never more free buffers than entries. The setters leave alone the
            // reserved field, which in entry 0 holds the tail.
            let entry = unsafe { &mut *entries.add((self.tail & (self.count - 1)) as usize) };
            entry.set_addr(address);
            entry.set_len(self.pool.buffer_bytes);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            self.taken -= 1;
        }
        // SAFETY: `entries` points at entry 0 of the mapped ring; its tail field is two aligned bytes that only this
        // thread writes, and the kernel reads with acquire ordering.
        unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) }
            .store(self.tail, Ordering::Release);
    }

    /// Buffers the kernel can still fill, as far as the completions seen so far tell.
    pub(crate) fn free(&self) -> usize {
        (self.count - self.taken) as usize
    }

    /// Never unmaps: for the case that the kernel may still write. A bounded leak instead of a corrupted heap.
    pub(crate) fn leak(&self) {
        std::mem::forget(Rc::clone(&self.pool));
        self.entries.leaked.set(true);
    }
}

/// Anonymous memory, zeroed by the kernel, page-aligned, not resident until it is touched.
struct Mapping {
    start: NonNull<u8>,
    length_bytes: usize,
    leaked: std::cell::Cell<bool>,
}

impl Mapping {
    fn new(length_bytes: usize) -> io::Result<Mapping> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast())
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Mapping {
            start,
            length_bytes,
            leaked: std::cell::Cell::new(false),
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.leaked.get() {
            // SAFETY: exactly the mapping made in `new`; whoever lets go of it holds no reference into it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.length_bytes) };
        }
    }
}
