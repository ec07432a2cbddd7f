//! The table of listening sockets.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::event::ListenerId;
use crate::operation::Tag;

/// Listening sockets that one ring holds.
pub(crate) const LISTENERS_MAX: u32 = 1_024;

pub(crate) struct Listener {
    descriptor: OwnedFd,
    /// The kernel has an accept of this listener.
    pub(crate) armed: bool,
    pub(crate) cancelling: bool,
    pub(crate) closing: bool,
}

impl Listener {
    pub(crate) fn raw(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.armed || self.cancelling
    }

    /// Takes one connection that already waits, never waiting for one. `WouldBlock`: the backlog is empty.
    fn accept_waiting(&self) -> io::Result<OwnedFd> {
        // SAFETY: a listening socket that we own; null addresses say that the peer's address is not wanted.
        let descriptor = unsafe {
            libc::accept4(
                self.raw(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above returned this new descriptor and nothing else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// Takes what sits in the backlog and closes the listener. A connection left there would be reset by the close.
    pub(crate) fn drain(self, mut deliver: impl FnMut(io::Result<OwnedFd>)) {
        if let Err(error) = set_nonblocking(self.raw(), true) {
            return deliver(Err(error));
        }
        loop {
            match self.accept_waiting() {
                Ok(socket) => deliver(Ok(socket)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    deliver(Err(error));
                    break;
                }
            }
        }
        // Another process may share the open socket and count on it as it was; if that fails, it is ours alone to close.
        let _ = set_nonblocking(self.raw(), false);
    }
}

/// Errors of accept that concern the connection it would have returned, not the listener: accept(2), "Error handling".
/// ECANCELED is a kernel that had no room for the completion. EOPNOTSUPP and EPERM, listed there too, can also be for good, and trying again at once would then never end.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECANCELED
                | libc::EINTR
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
        )
    )
}

/// Sets or clears O_NONBLOCK.
pub(crate) fn set_nonblocking(descriptor: RawFd, nonblocking: bool) -> io::Result<()> {
    // SAFETY: fcntl with these commands takes and returns integers only.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = if nonblocking {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFL, wanted) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[derive(Default)]
pub(crate) struct Listeners {
    slots: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    listener: Option<Listener>,
}

impl Listeners {
    /// Errors: all slots are taken.
    pub(crate) fn insert(&mut self, descriptor: OwnedFd) -> Option<ListenerId> {
        let vacant = self.slots.iter().position(|slot| slot.listener.is_none());
        let index = vacant.unwrap_or(self.slots.len());
        if index >= LISTENERS_MAX as usize {
            return None;
        }
        if vacant.is_none() {
            self.slots.push(Slot::default());
        }
        let slot = &mut self.slots[index];
        slot.listener = Some(Listener {
            descriptor,
            armed: false,
            cancelling: false,
            closing: false,
        });
        Some(ListenerId {
            index: index as u32,
            generation: slot.generation,
        })
    }

    pub(crate) fn get_mut(&mut self, id: ListenerId) -> Option<&mut Listener> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation {
            slot.listener.as_mut()
        } else {
            None
        }
    }

    pub(crate) fn of_tag(&mut self, tag: Tag) -> Option<(ListenerId, &mut Listener)> {
        let slot = self.slots.get_mut(tag.index as usize)?;
        let id = ListenerId {
            index: tag.index,
            generation: slot.generation,
        };
        if tag.is_of(slot.generation) {
            slot.listener.as_mut().map(|listener| (id, listener))
        } else {
            None
        }
    }

    /// Takes the listener out; its slot is free for another one.
    pub(crate) fn remove(&mut self, id: ListenerId) -> Option<Listener> {
        let slot = self
            .slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?;
        let listener = slot.listener.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        Some(listener)
    }
}
