//! One bounded queue a connection, and what happens when its reader is slow.
//!
//! ```text
//!  push ──► ready: whole DATA frames, send window already paid ──► one send at a time, submitted with the turn
//!    │        ▲
//!    │        │ pump: as windows open and sends complete; acknowledgements first, at the next message boundary
//!    └──► waiting: messages in order, unframed
//! ```
//!
//! HTTP/2 control bytes have a buffer of their own that goes out before anything ready. A message is copied once, from
//! the receive buffer into `ready`, and patched there (ttl and tag); one of [`limits::SHARE_BYTES_MIN`] bytes or more is
//! shared with all its receivers, in slices between our frame headers.
//!
//! Bytes are counted from push until the kernel has them. Above the soft mark ([`limits::EGRESS_SOFT_BYTES`], less when
//! much waits for the receivers of the shard together) the receiver is *pressed*: publishers that reach it are held. It is
//! relieved below half of that, or cut when it has read less than that within [`limits::EGRESS_GRACE`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use indexmap::IndexSet;
use slim_proto::grpc;
use slim_proto::http2::{ServerConnection, StreamId, data_frame_header};
use slim_proto::route_header::RouteHeader;
use slim_ring::{SEND_CHUNKS_MAX, SendBuffers};

use crate::limits;
use crate::routes::ConnectionId;

/// Frame header bytes (RFC 9113 §4.1).
const FRAME_HEADER_BYTES: usize = 9;
const PREFIX_BYTES: usize = 5;

/// Chunks of one send that one more message may follow.
const READY_CHUNKS_MAX: usize = 400;

// The largest message makes two chunks for each frame; control bytes make one more.
const _: () = assert!(
    READY_CHUNKS_MAX + 2 * (limits::MESSAGE_BYTES_MAX / limits::SEND_FRAME_BYTES_MAX + 2)
        < SEND_CHUNKS_MAX
);

#[derive(Default)]
pub struct Egress {
    /// HTTP/2 frames that answer or steer; never DATA.
    pub control: Vec<u8>,
    /// Ready frames, in order; the last ones are in `tail`.
    ready: SendBuffers,
    tail: Vec<u8>,
    frame: Option<OpenFrame>,
    ready_bytes: usize,
    ready_messages: u32,
    sending_bytes: usize,
    sending_messages: u32,
    sending: bool,
    /// Bytes that the kernel has taken since the beginning.
    taken_bytes: u64,
    waiting: Option<Box<Waiting>>,
    pressed: Option<Box<Pressed>>,
    /// The shard looks at it, for it is or was pressed.
    pub listed: bool,
    /// Bytes of `ready`, and of what is being sent, that are shared with other receivers.
    ready_shared_bytes: usize,
    sending_shared_bytes: usize,
    /// [`Egress::held_bytes`] as the shard's sum has it.
    accounted_bytes: usize,
    moved_at: Option<Instant>,
}

/// The DATA frame at the end of `tail` that the next message may still join.
struct OpenFrame {
    header_at: usize,
    payload_bytes: usize,
}

/// Messages that found no window or too much before them. Only a receiver that lags has this.
#[derive(Default)]
struct Waiting {
    /// Sent in part already; nothing may come between.
    current: Option<Queued>,
    acks: VecDeque<Vec<u8>>,
    messages: VecDeque<Queued>,
    bytes: usize,
    /// Of `bytes`, those that are shared with other receivers.
    shared_bytes: usize,
    /// What heads are copied to the end of. A whole chunk lives as long as one of them.
    chunk: BytesMut,
}

/// What is left of a message with its prefix; `head` is patched for this receiver, `rest` may be shared with others. A small
/// message is all head.
struct Queued {
    /// An acknowledgement: not among the messages that are counted.
    is_own: bool,
    head: Bytes,
    rest: Bytes,
}

impl Queued {
    fn left(&self) -> usize {
        self.head.len() + self.rest.len()
    }
}

impl Waiting {
    /// Messages, acknowledgements not counted.
    fn count(&self) -> usize {
        let current = self.current.as_ref().is_some_and(|queued| !queued.is_own);
        self.messages.len() + usize::from(current)
    }

    /// Room at the end of the chunk for `bytes` more.
    fn make_room(&mut self, bytes: usize) {
        if self.chunk.capacity() < bytes {
            self.chunk = BytesMut::with_capacity(bytes.max(limits::WAITING_CHUNK_BYTES));
        }
    }
}

struct Pressed {
    /// When it was pressed, or last found to have read on.
    since: Instant,
    /// [`Egress::taken_bytes`] at that time.
    taken_bytes: u64,
    /// First come, first to go on.
    publishers: IndexSet<ConnectionId, ahash::RandomState>,
}

/// What became of a push.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    Accepted,
    /// Accepted, and the receiver has more waiting than it should: its publisher must wait.
    Pressed,
    /// Not accepted: the hard bound.
    Full,
}

/// A routed message and what this receiver must see in it.
pub struct Outgoing<'a> {
    pub header: &'a RouteHeader,
    pub message: &'a [u8],
    /// The same bytes, if they can be shared.
    pub shared: Option<&'a Bytes>,
    /// `None` on links without a MAC.
    pub tag: Option<[u8; 32]>,
}

impl Outgoing<'_> {
    fn patch(&self, head: &mut [u8]) {
        match &self.tag {
            Some(tag) => self.header.patch(head, tag),
            None => self.header.patch_ttl(head),
        }
    }
}

impl Egress {
    /// Bytes from push until the kernel has them.
    pub fn bytes(&self) -> usize {
        self.ready_bytes
            + self.sending_bytes
            + self.waiting.as_ref().map_or(0, |waiting| waiting.bytes)
    }

    /// Memory that is this receiver's alone.
    fn held_bytes(&self) -> usize {
        let framed = self.ready_bytes + self.sending_bytes;
        let shared = self.ready_shared_bytes + self.sending_shared_bytes;
        let waiting = self.waiting.as_ref().map_or(0, |waiting| {
            let queued = waiting.messages.len() * size_of::<Queued>();
            waiting.bytes - waiting.shared_bytes + queued + limits::WAITING_CHUNK_BYTES
        });
        framed - shared + waiting
    }

    /// Brings `sum`, what all receivers of a shard hold, up to date with this one. To be called when it has grown or
    /// shrunk; what lies between two calls does not matter.
    pub fn account(&mut self, sum: &mut usize, now: Instant) {
        let held = self.held_bytes();
        if held < self.accounted_bytes || self.accounted_bytes == 0 {
            self.moved_at = Some(now);
        }
        *sum = *sum - self.accounted_bytes + held;
        self.accounted_bytes = held;
    }

    /// When the kernel last took something, or when something began to wait.
    pub fn moved_at(&self) -> Option<Instant> {
        self.moved_at
    }

    /// Takes this receiver out of `sum`: it goes.
    pub fn close_account(&mut self, sum: &mut usize) {
        *sum -= std::mem::take(&mut self.accounted_bytes);
    }

    /// Messages among them, acknowledgements not counted.
    fn messages(&self) -> u64 {
        let waiting = self.waiting.as_ref().map_or(0, |waiting| waiting.count());
        u64::from(self.ready_messages) + u64::from(self.sending_messages) + waiting as u64
    }

    /// Lets go of what the kernel has not taken. What a send under way has moved of it nobody can tell, so all of it is
    /// among the messages whose number is returned.
    pub fn give_up(&mut self) -> u64 {
        let messages = self.messages();
        self.waiting = None;
        self.ready_messages = 0;
        self.sending_messages = 0;
        messages
    }

    pub fn is_idle(&self) -> bool {
        !self.sending && self.control.is_empty() && self.ready_bytes == 0 && self.waiting.is_none()
    }

    /// Bytes that the kernel has taken since the beginning.
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    /// Whether messages wait for a window or for what is before them.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// - `soft_bytes`: above it, the receiver is pressed.
    pub fn push(
        &mut self,
        http2: &mut ServerConnection,
        stream: StreamId,
        outgoing: &Outgoing<'_>,
        soft_bytes: usize,
    ) -> Pushed {
        let bytes = PREFIX_BYTES + outgoing.message.len();
        if self.bytes() + bytes > limits::EGRESS_HARD_BYTES {
            return Pushed::Full;
        }
        if self.takes_at_once(http2, bytes) {
            http2.consume_send_window(bytes);
            self.ready_messages += 1;
            match outgoing.shared {
                Some(shared) if shared.len() >= limits::SHARE_BYTES_MIN => {
                    self.push_shared(stream, outgoing, shared);
                }
                _ => self.push_copied(stream, outgoing),
            }
        } else {
            self.push_waiting(outgoing);
            // There may be some window, only not for the whole of it.
            self.pump(http2, stream);
        }
        if self.bytes() > soft_bytes {
            Pushed::Pressed
        } else {
            Pushed::Accepted
        }
    }

    /// A message of the router's own (a SubscriptionAck, a Link reply). It passes messages that wait, not those that are
    /// ready. False if too many wait: the peer does not read its answers.
    pub fn push_own(
        &mut self,
        http2: &mut ServerConnection,
        stream: StreamId,
        message: &[u8],
    ) -> bool {
        let bytes = PREFIX_BYTES + message.len();
        if self.takes_at_once(http2, bytes) {
            http2.consume_send_window(bytes);
            self.frame_copied(stream, &[&grpc::prefix(message.len()), message]);
            return true;
        }
        let waiting = self.waiting.get_or_insert_default();
        let mut framed = Vec::with_capacity(bytes);
        framed.extend_from_slice(&grpc::prefix(message.len()));
        framed.extend_from_slice(message);
        waiting.bytes += framed.len();
        waiting.acks.push_back(framed);
        let taken = waiting.acks.len() <= limits::ACKS_WAITING_MAX;
        self.pump(http2, stream);
        taken
    }

    /// The end of the link: raw frames that go out after everything that is ready. What waits is given up: the number of
    /// messages is returned.
    pub fn finish(&mut self, frames: &[u8]) -> u64 {
        let given_up = self.waiting.take().map_or(0, |waiting| waiting.count());
        self.frame = None;
        self.tail.extend_from_slice(frames);
        self.ready_bytes += frames.len();
        given_up as u64
    }

    fn takes_at_once(&self, http2: &ServerConnection, bytes: usize) -> bool {
        self.waiting.is_none()
            && self.ready_bytes + bytes <= limits::EGRESS_READY_BYTES
            && self.ready.chunks().len() < READY_CHUNKS_MAX
            && bytes <= http2.send_window()
    }

    fn push_copied(&mut self, stream: StreamId, outgoing: &Outgoing<'_>) {
        let message = outgoing.message;
        let bytes = PREFIX_BYTES + message.len();
        if bytes <= limits::SEND_FRAME_BYTES_MAX {
            self.make_room(stream, bytes);
            self.tail.extend_from_slice(&grpc::prefix(message.len()));
            let at = self.tail.len();
            self.tail.extend_from_slice(message);
            outgoing.patch(&mut self.tail[at..]);
            self.grow_frame(bytes);
            self.ready_bytes += bytes;
        } else {
            let head = self.patched_head(outgoing);
            self.frame_copied(stream, &[&head, &message[head.len() - PREFIX_BYTES..]]);
        }
    }

    fn push_shared(&mut self, stream: StreamId, outgoing: &Outgoing<'_>, shared: &Bytes) {
        let head = self.patched_head(outgoing);
        self.frame_copied(stream, &[&head]);
        self.frame_shared(stream, shared.slice(head.len() - PREFIX_BYTES..));
    }

    /// Prefix and message up to the end of its header, patched. All that is allocated for a large message.
    fn patched_head(&self, outgoing: &Outgoing<'_>) -> Vec<u8> {
        let head_bytes = outgoing.header.head_len();
        let mut head = Vec::with_capacity(PREFIX_BYTES + head_bytes);
        head.extend_from_slice(&grpc::prefix(outgoing.message.len()));
        head.extend_from_slice(&outgoing.message[..head_bytes]);
        outgoing.patch(&mut head[PREFIX_BYTES..]);
        head
    }

    fn push_waiting(&mut self, outgoing: &Outgoing<'_>) {
        let message = outgoing.message;
        let shared = outgoing
            .shared
            .filter(|shared| shared.len() >= limits::SHARE_BYTES_MIN);
        let head_bytes = match shared {
            Some(_) => outgoing.header.head_len(),
            None => message.len(),
        };
        let waiting = self.waiting.get_or_insert_default();
        waiting.make_room(PREFIX_BYTES + head_bytes);
        let chunk = &mut waiting.chunk;
        chunk.extend_from_slice(&grpc::prefix(message.len()));
        chunk.extend_from_slice(&message[..head_bytes]);
        outgoing.patch(&mut chunk[PREFIX_BYTES..]);
        let head = chunk.split().freeze();
        let rest = shared.map_or_else(Bytes::new, |shared| shared.slice(head_bytes..));
        waiting.bytes += head.len() + rest.len();
        waiting.shared_bytes += rest.len();
        waiting.messages.push_back(Queued {
            is_own: false,
            head,
            rest,
        });
    }

    /// Moves waiting messages into frames as far as window and room allow. Call when either has grown.
    pub fn pump(&mut self, http2: &mut ServerConnection, stream: StreamId) {
        let Some(mut waiting) = self.waiting.take() else {
            return;
        };
        while self.ready_bytes < limits::EGRESS_READY_BYTES
            && self.ready.chunks().len() < READY_CHUNKS_MAX
        {
            let window = http2.send_window();
            if window == 0 {
                break;
            }
            if waiting.current.is_none() {
                waiting.current = match waiting.acks.pop_front() {
                    Some(ack) => Some(Queued {
                        is_own: true,
                        head: ack.into(),
                        rest: Bytes::new(),
                    }),
                    None => waiting.messages.pop_front(),
                };
            }
            let Some(current) = &mut waiting.current else {
                return;
            };
            // One send is never much longer than this, so that what a slow reader takes shows while it takes it.
            let room = limits::EGRESS_READY_BYTES - self.ready_bytes;
            let bytes = window.min(current.left()).min(room);
            http2.consume_send_window(bytes);
            waiting.bytes -= bytes;
            let head_bytes = bytes.min(current.head.len());
            let rest_bytes = bytes - head_bytes;
            waiting.shared_bytes -= rest_bytes;
            if head_bytes > 0 {
                self.frame_copied(stream, &[&current.head[..head_bytes]]);
                current.head.advance(head_bytes);
            }
            if rest_bytes >= limits::SHARE_BYTES_MIN {
                let rest = current.rest.split_to(rest_bytes);
                self.frame_shared(stream, rest);
            } else if rest_bytes > 0 {
                let rest = current.rest.split_to(rest_bytes);
                self.frame_copied(stream, &[&rest]);
            }
            if current.left() == 0 {
                self.ready_messages += u32::from(!current.is_own);
                waiting.current = None;
            }
        }
        if waiting.current.is_some() || !waiting.acks.is_empty() || !waiting.messages.is_empty() {
            self.waiting = Some(waiting);
        }
    }

    /// Begins a new frame unless `bytes` still fit into the open one. One frame then carries all that a turn has for this
    /// receiver: peers count small frames against a budget (dataplane 1.4).
    fn make_room(&mut self, stream: StreamId, bytes: usize) {
        let fits = self
            .frame
            .as_ref()
            .is_some_and(|frame| frame.payload_bytes + bytes <= limits::SEND_FRAME_BYTES_MAX);
        if !fits {
            self.frame = Some(OpenFrame {
                header_at: self.tail.len(),
                payload_bytes: 0,
            });
            self.tail
                .extend_from_slice(&data_frame_header(0, stream, false));
            self.ready_bytes += FRAME_HEADER_BYTES;
        }
    }

    /// Counts `bytes` that were added to the open frame.
    fn grow_frame(&mut self, bytes: usize) {
        let Some(frame) = &mut self.frame else { return };
        frame.payload_bytes += bytes;
        let length = (frame.payload_bytes as u32).to_be_bytes();
        self.tail[frame.header_at..frame.header_at + 3].copy_from_slice(&length[1..]);
    }

    fn frame_copied(&mut self, stream: StreamId, parts: &[&[u8]]) {
        for part in parts {
            let mut left = *part;
            while !left.is_empty() {
                self.make_room(stream, 1);
                let used = self.frame.as_ref().map_or(0, |frame| frame.payload_bytes);
                let (now, later) =
                    left.split_at(left.len().min(limits::SEND_FRAME_BYTES_MAX - used));
                self.tail.extend_from_slice(now);
                self.grow_frame(now.len());
                self.ready_bytes += now.len();
                left = later;
            }
        }
    }

    fn frame_shared(&mut self, stream: StreamId, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let now = bytes.split_to(bytes.len().min(limits::SEND_FRAME_BYTES_MAX));
            self.tail
                .extend_from_slice(&data_frame_header(now.len(), stream, false));
            self.ready_bytes += FRAME_HEADER_BYTES + now.len();
            self.ready_shared_bytes += now.len();
            self.close_tail();
            let pushed = self.ready.push_shared(now);
            debug_assert!(
                pushed.is_ok(),
                "READY_CHUNKS_MAX leaves room for the largest message"
            );
        }
        self.frame = None;
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let pushed = self.ready.push_owned(std::mem::take(&mut self.tail));
            debug_assert!(
                pushed.is_ok(),
                "READY_CHUNKS_MAX leaves room for the largest message"
            );
        }
        self.frame = None;
    }

    /// Everything that can be sent now, as one send; `None` if there is nothing or a send is under way.
    ///
    /// - `pool`: where buffers come from; the caller gives them back there when the send is done.
    pub fn take(&mut self, pool: &mut Pool) -> Option<SendBuffers> {
        if self.sending || (self.control.is_empty() && self.ready_bytes == 0) {
            return None;
        }
        let mut buffers = pool.send_buffers();
        if !self.control.is_empty() {
            let pushed = buffers.push_owned(std::mem::take(&mut self.control));
            debug_assert!(pushed.is_ok(), "the list is empty");
        }
        self.close_tail();
        buffers.append(&mut self.ready);
        self.sending = true;
        self.sending_bytes = self.ready_bytes;
        self.sending_messages = self.ready_messages;
        self.sending_shared_bytes = std::mem::take(&mut self.ready_shared_bytes);
        self.ready_bytes = 0;
        self.ready_messages = 0;
        Some(buffers)
    }

    /// The send that [`Egress::take`] began is done.
    pub fn sent(&mut self) {
        self.sending = false;
        self.taken_bytes += self.sending_bytes as u64;
        self.sending_bytes = 0;
        self.sending_shared_bytes = 0;
        self.sending_messages = 0;
    }

    /// A buffer to build frames in, so that steady traffic allocates nothing.
    pub fn lend(&mut self, pool: &mut Pool) {
        if self.tail.capacity() == 0 {
            self.tail = pool.buffer();
        }
    }

    /// Remembers that `publisher` must wait for this receiver. True if it was not waiting for it already.
    pub fn press(&mut self, publisher: ConnectionId, now: Instant) -> bool {
        let taken_bytes = self.taken_bytes;
        let pressed = self.pressed.get_or_insert_with(|| {
            Box::new(Pressed {
                since: now,
                taken_bytes,
                publishers: IndexSet::default(),
            })
        });
        pressed.publishers.insert(publisher)
    }

    pub fn is_pressed(&self) -> bool {
        self.pressed.is_some()
    }

    #[cfg(test)]
    pub fn pressing_publishers(&self) -> usize {
        let pressed = self.pressed.as_ref();
        pressed.map_or(0, |pressed| pressed.publishers.len())
    }

    /// Whether a pressed receiver has used up its grace. One that took `low_bytes` meanwhile reads,
    /// only slowly: it gets another, for its publishers wait and lose nothing. The largest message alone may take it
    /// longer than one.
    ///
    /// - `late`: how much of the time since this was last asked is the router's own, and is not held against the receiver.
    pub fn has_stopped(&mut self, now: Instant, late: Duration, low_bytes: usize) -> bool {
        let Some(pressed) = &mut self.pressed else {
            return false;
        };
        pressed.since += late;
        if now.duration_since(pressed.since) < limits::EGRESS_GRACE {
            return false;
        }
        if self.taken_bytes - pressed.taken_bytes < low_bytes as u64 {
            return true;
        }
        pressed.since = now;
        pressed.taken_bytes = self.taken_bytes;
        false
    }

    /// The publishers that may go on, if this receiver has read enough.
    pub fn relieved(
        &mut self,
        low_bytes: usize,
    ) -> Option<impl Iterator<Item = ConnectionId> + use<>> {
        if self.pressed.is_some() && self.bytes() < low_bytes {
            self.release()
        } else {
            None
        }
    }

    /// The publishers that wait, whatever this receiver has read: for the end of its connection.
    pub fn release(&mut self) -> Option<impl Iterator<Item = ConnectionId> + use<>> {
        self.pressed
            .take()
            .map(|pressed| pressed.publishers.into_iter())
    }
}

/// Send buffers for reuse: an idle connection holds none.
#[derive(Default)]
pub struct Pool {
    buffers: Vec<Vec<u8>>,
    lists: Vec<SendBuffers>,
    buffer_bytes: usize,
}

impl Pool {
    pub fn buffer(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.buffer_bytes -= buffer.capacity();
        buffer
    }

    pub fn bytes(&self) -> usize {
        self.buffer_bytes
    }

    fn send_buffers(&mut self) -> SendBuffers {
        self.lists.pop().unwrap_or_default()
    }

    /// Takes back what a send has used.
    pub fn reclaim(&mut self, mut list: SendBuffers) {
        for mut buffer in list.take_owned() {
            if self.buffers.len() < limits::POOL_BUFFERS
                && buffer.capacity() <= limits::POOL_BUFFER_BYTES_MAX
            {
                buffer.clear();
                self.buffer_bytes += buffer.capacity();
                self.buffers.push(buffer);
            }
        }
        if self.lists.len() < limits::POOL_BUFFERS {
            list.clear();
            self.lists.push(list);
        }
    }
}
