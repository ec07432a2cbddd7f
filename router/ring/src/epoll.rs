//! Which listeners have a connection waiting: one epoll instance, which unlike an io_uring operation keeps nothing open.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Descriptors that one look tells of. If more are ready, a further look tells of the others.
const READY_MAX: usize = 64;

/// Level-triggered: a descriptor is told of until nothing waits there.
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: a plain system call without pointers.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above returned this new descriptor and nothing else owns it.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Readable while a watched descriptor is.
    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Watches `descriptor` for something to read; it is told of by `name`.
    ///
    /// Errors: what is no socket or is watched already; ENOMEM; ENOSPC, `fs.epoll.max_user_watches` is reached.
    pub(crate) fn watch(&self, descriptor: RawFd, name: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: name,
        };
        // SAFETY: `event` is valid for the length of the call, which copies it.
        let answer =
            unsafe { libc::epoll_ctl(self.raw(), libc::EPOLL_CTL_ADD, descriptor, &mut event) };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Watches `descriptor` no more. Closing it is not enough: another process may hold the same socket open.
    pub(crate) fn forget(&self, descriptor: RawFd) {
        // The only failure is that it was not watched.
        // SAFETY: this command ignores the pointer; null is allowed.
        let _ = unsafe {
            libc::epoll_ctl(
                self.raw(),
                libc::EPOLL_CTL_DEL,
                descriptor,
                std::ptr::null_mut(),
            )
        };
    }

    /// Tells the names of what is ready, without waiting. Returns whether there may be more.
    pub(crate) fn ready(&self, mut tell: impl FnMut(u64)) -> io::Result<bool> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; READY_MAX];
        // SAFETY: `events` is valid and writable for the length of the call, and READY_MAX is its length.
        let count = unsafe {
            libc::epoll_wait(self.raw(), events.as_mut_ptr(), READY_MAX as libc::c_int, 0)
        };
        let Ok(count) = usize::try_from(count) else {
            return Err(io::Error::last_os_error());
        };
        for event in events.iter().take(count) {
            tell(event.u64);
        }
        Ok(count == READY_MAX)
    }
}
