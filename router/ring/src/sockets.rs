//! The table of adopted sockets: dense slots, a generation each, what is in flight on each.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::event::SocketId;
use crate::operation::Tag;
use crate::send::SendInFlight;

/// A socket's life: `Vacant -> Open -> Closing -> Closed -> Vacant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketState {
    Vacant,
    Open,
    /// `close` was called; operations are still in flight.
    Closing,
    /// The descriptor is closed; the event that says so waits for the caller.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// Not started, or ended by the peer or an error.
    Off,
    /// The kernel has a receive of this socket.
    Armed,
    /// There was no buffer; armed again when there is.
    Starved,
}

/// One slot. An idle socket costs this and nothing else here.
pub(crate) struct Socket {
    descriptor: Option<OwnedFd>,
    /// `Some` exactly while a send is in flight.
    pub(crate) sending: Option<Box<SendInFlight>>,
    generation: u32,
    pub(crate) state: SocketState,
    pub(crate) receiving: Receiving,
    /// A cancellation of this socket's operations is in flight.
    pub(crate) cancelling: bool,
    /// Half-close as soon as the send in flight is over.
    pub(crate) shutdown_after_send: bool,
}

const _: () = assert!(size_of::<Socket>() <= 32);

impl Socket {
    /// The descriptor's number; -1 once it is closed.
    pub(crate) fn raw(&self) -> RawFd {
        self.descriptor
            .as_ref()
            .map_or(-1, |descriptor| descriptor.as_raw_fd())
    }

    /// Whether the kernel still has an operation that refers to this slot.
    pub(crate) fn is_busy(&self) -> bool {
        self.receiving == Receiving::Armed || self.sending.is_some() || self.cancelling
    }

    /// Closes the descriptor. Only when nothing is in flight any more, or for good.
    pub(crate) fn close_descriptor(&mut self) {
        self.state = SocketState::Closed;
        self.descriptor = None;
    }
}

pub(crate) struct Sockets {
    slots: Vec<Socket>,
    vacant: Vec<u32>,
    limit: u32,
}

impl Sockets {
    pub(crate) fn new(limit: u32) -> Sockets {
        Sockets {
            slots: Vec::new(),
            vacant: Vec::new(),
            limit,
        }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Gives the socket a slot. Errors: all slots are taken; the descriptor comes back.
    pub(crate) fn insert(&mut self, descriptor: OwnedFd) -> Result<SocketId, OwnedFd> {
        if let Some(index) = self.vacant.pop() {
            let slot = &mut self.slots[index as usize];
            slot.descriptor = Some(descriptor);
            slot.state = SocketState::Open;
            return Ok(SocketId::new(index, slot.generation));
        }
        let index = self.slots.len() as u32;
        if index >= self.limit {
            return Err(descriptor);
        }
        self.slots.push(Socket {
            descriptor: Some(descriptor),
            sending: None,
            generation: 0,
            state: SocketState::Open,
            receiving: Receiving::Off,
            cancelling: false,
            shutdown_after_send: false,
        });
        Ok(SocketId::new(index, 0))
    }

    /// The slot of `id`, unless that socket is gone.
    pub(crate) fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        let slot = self.slots.get_mut(id.index() as usize)?;
        (slot.generation == id.generation() && slot.state != SocketState::Vacant).then_some(slot)
    }

    /// The slot that a completion belongs to.
    pub(crate) fn of_tag(&mut self, tag: Tag) -> Option<(SocketId, &mut Socket)> {
        let slot = self.slots.get_mut(tag.index as usize)?;
        (tag.is_of(slot.generation) && slot.state != SocketState::Vacant)
            .then(|| (SocketId::new(tag.index, slot.generation), slot))
    }

    pub(crate) fn contains(&self, id: SocketId) -> bool {
        self.slots.get(id.index() as usize).is_some_and(|slot| {
            slot.generation == id.generation() && slot.state != SocketState::Vacant
        })
    }

    /// The caller knows that the socket is closed: the slot is free for another one.
    pub(crate) fn release(&mut self, id: SocketId) {
        let Some(slot) = self.get_mut(id) else { return };
        debug_assert!(slot.state == SocketState::Closed && !slot.is_busy());
        slot.state = SocketState::Vacant;
        slot.generation = slot.generation.wrapping_add(1);
        slot.receiving = Receiving::Off;
        slot.shutdown_after_send = false;
        self.vacant.push(id.index());
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Socket> {
        self.slots.iter_mut()
    }
}
