//! Waking a ring from elsewhere: by eventfd from any thread, or by a message from another ring.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Wakes one ring from any thread. Level-like: a wake before the wait makes the next wait return at once.
///
/// Wakes that the ring has not seen yet coalesce into one system call. Push to the queue first, then wake: whoever
/// handles [`crate::Event::Woken`] after that sees the push. Harmless after the ring is gone.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Doorbell>);

impl Waker {
    pub fn wake(&self) {
        self.0.ring();
    }
}

/// Where another ring can be reached by [`crate::Ring::wake`]. Keeps its descriptors open, even past the ring's end.
#[derive(Clone, Debug)]
pub struct RingAddress(Arc<Doorbell>);

impl RingAddress {
    /// Distinguishes rings within this process.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// The ring itself, as a target for messages.
    pub(crate) fn ring_descriptor(&self) -> RawFd {
        self.0.ring.as_raw_fd()
    }

    /// The road that always works.
    pub(crate) fn wake_by_eventfd(&self) {
        self.0.ring();
    }
}

/// What wakers, other rings and the ring itself share.
#[derive(Debug)]
pub(crate) struct Doorbell {
    id: u64,
    ring: OwnedFd,
    eventfd: File,
    /// The eventfd was written and the ring has not seen it: a further write would tell it nothing new.
    rung: AtomicBool,
}

impl Doorbell {
    /// Opens the eventfd of the ring behind `ring`, whose descriptor is duplicated.
    pub(crate) fn new(ring: BorrowedFd<'_>) -> io::Result<Doorbell> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        // Not EFD_NONBLOCK: io_uring would answer a read with EAGAIN instead of waiting. A write blocks only when the
        // counter is at 2^64 - 2, and `rung` keeps it near 1.
        // SAFETY: a plain system call without pointers.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above returned this new descriptor and nothing else owns it.
        let eventfd = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Doorbell {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            ring: ring.try_clone_to_owned()?,
            eventfd: File::from(eventfd),
            rung: AtomicBool::new(false),
        })
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker(Arc::clone(self))
    }

    pub(crate) fn address(self: &Arc<Self>) -> RingAddress {
        RingAddress(Arc::clone(self))
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn eventfd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// The ring has seen the eventfd. Must come before it looks at what it was woken for: the swap takes part in the
    /// modification order of `rung`, so every push whose waker found `rung` set is visible after it.
    pub(crate) fn quiet(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }

    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // An eventfd write of 1 fails only when the counter is full, and then the ring is awake already.
            let _ = (&self.eventfd).write(&1u64.to_ne_bytes());
        }
    }
}
