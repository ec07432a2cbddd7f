//! The table of listening sockets, and which of them are to be accepted from.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::epoll::Epoll;
use crate::event::ListenerId;

/// Listening sockets that one ring holds.
pub(crate) const LISTENERS_MAX: u32 = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// It failed, and the caller has not resumed it.
    Paused,
    /// Watched: the kernel says when there is a connection.
    Watched,
    /// Watched, and in line to be accepted from.
    Due,
}

pub(crate) struct Listener {
    descriptor: OwnedFd,
    accepting: Accepting,
}

impl Listener {
    /// Takes one connection that already waits. `WouldBlock`: none does.
    pub(crate) fn accept(&self) -> io::Result<OwnedFd> {
        // SAFETY: a descriptor that we own; null addresses say that the peer's address is not wanted.
        let descriptor = unsafe {
            libc::accept4(
                self.descriptor.as_raw_fd(),
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
}

/// Errors of accept that concern the connection it would have returned, not the listener: accept(2), "Error handling".
/// EOPNOTSUPP and EPERM, listed there too, can also be for good, and trying again at once would then never end.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
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

pub(crate) fn set_nonblocking(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: fcntl with these commands takes and returns integers only.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub(crate) struct Listeners {
    slots: Vec<Slot>,
    epoll: Epoll,
    /// The kernel said that a listener is ready, and nobody has looked yet which.
    ready: bool,
    /// Listeners to accept from without asking first, longest waiting first. Each at most once, unless it is gone.
    due: VecDeque<ListenerId>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    listener: Option<Listener>,
}

impl Listeners {
    pub(crate) fn new() -> io::Result<Listeners> {
        Ok(Listeners {
            slots: Vec::new(),
            epoll: Epoll::new()?,
            ready: false,
            due: VecDeque::new(),
        })
    }

    /// What to poll for all listeners at once.
    pub(crate) fn raw_epoll(&self) -> RawFd {
        self.epoll.raw()
    }

    /// Takes a non-blocking listener, paused. `None`: all slots are taken.
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
            accepting: Accepting::Paused,
        });
        Some(ListenerId {
            index: index as u32,
            generation: slot.generation,
        })
    }

    pub(crate) fn get(&self, id: ListenerId) -> Option<&Listener> {
        let slot = self.slots.get(id.index as usize)?;
        slot.listener
            .as_ref()
            .filter(|_| slot.generation == id.generation)
    }

    fn get_mut(&mut self, id: ListenerId) -> Option<&mut Listener> {
        let slot = self.slots.get_mut(id.index as usize)?;
        slot.listener
            .as_mut()
            .filter(|_| slot.generation == id.generation)
    }

    /// Watches a paused listener. It is due at once: what cannot be accepted from may never become ready to say so.
    pub(crate) fn watch(&mut self, id: ListenerId) -> io::Result<()> {
        let Some(listener) = self
            .get(id)
            .filter(|listener| listener.accepting == Accepting::Paused)
        else {
            return Ok(());
        };
        self.epoll
            .watch(listener.descriptor.as_raw_fd(), id.to_u64())?;
        self.make_due(id);
        Ok(())
    }

    /// Lets a listener be, however many connections wait there.
    pub(crate) fn pause(&mut self, id: ListenerId) {
        let Some(listener) = self.get_mut(id) else {
            return;
        };
        listener.accepting = Accepting::Paused;
        let descriptor = listener.descriptor.as_raw_fd();
        self.epoll.forget(descriptor);
    }

    /// Takes the listener out; its slot is free for another one.
    pub(crate) fn remove(&mut self, id: ListenerId) -> Option<Listener> {
        self.pause(id);
        let slot = self
            .slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?;
        let listener = slot.listener.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        Some(listener)
    }

    /// Some listener is ready: the next [`Listeners::find_ready`] finds out which.
    pub(crate) fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Whether there is nothing to do before the kernel says that a listener is ready.
    pub(crate) fn is_idle(&self) -> bool {
        !self.ready && self.due.is_empty()
    }

    /// Makes those listeners due that have a connection waiting. Returns whether it took a system call.
    pub(crate) fn find_ready(&mut self) -> bool {
        if !self.ready {
            return false;
        }
        let Listeners {
            slots, epoll, due, ..
        } = self;
        let answer = epoll.ready(|name| {
            let id = ListenerId::from_u64(name);
            if let Some(Slot {
                generation,
                listener: Some(listener),
            }) = slots.get_mut(id.index as usize)
                && *generation == id.generation
                && listener.accepting == Accepting::Watched
            {
                listener.accepting = Accepting::Due;
                due.push_back(id);
            }
        });
        // Interrupted: nothing is known, so look again.
        self.ready = answer.unwrap_or(true);
        true
    }

    pub(crate) fn make_due(&mut self, id: ListenerId) {
        if let Some(listener) = self.get_mut(id) {
            listener.accepting = Accepting::Due;
            self.due.push_back(id);
        }
    }

    pub(crate) fn due_count(&self) -> usize {
        self.due.len()
    }

    /// The listener that was due longest. It is merely watched from here on.
    pub(crate) fn next_due(&mut self) -> Option<ListenerId> {
        let id = self.due.pop_front()?;
        if let Some(listener) = self.get_mut(id) {
            listener.accepting = Accepting::Watched;
        }
        Some(id)
    }
}
