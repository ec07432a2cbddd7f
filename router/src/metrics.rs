//! Plain counters, one set a shard. Only the shard writes them, so a write is a load and a store; one exporter reads.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::admission::Refusal;

/// A count with one writer.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning shard may call this: there is no read-modify-write, hence no locked instruction.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one shard counted.
        #[derive(Default)]
        // Two cache lines of distance: a neighbour's counters must not share a line with ours.
        #[repr(align(128))]
        pub struct Counters { $($(#[$doc])* pub $name: Counter,)* }

        /// The sum over all shards at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64,)* }

        impl Snapshot {
            pub fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.get();)*
            }

            #[cfg(test)]
            pub fn add_all(&mut self, other: &Snapshot) {
                $(self.$name += other.$name;)*
            }

            /// Every count with its name, in the order of declaration.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Connections accepted, whichever shard they went to.
    connections_accepted,
    /// Connections open on this shard now.
    connections_open,
    /// Connections refused because the shard's socket table was full.
    connections_refused,
    /// Connections turned away: the router had as many as it may.
    refused_connections,
    /// Connections turned away: their address had as many as one may.
    refused_address,
    /// Connections turned away: no memory to spare.
    refused_memory,
    /// Of those turned away, connections closed without a word, for too many waited already: their clients do not come
    /// back by themselves (dataplane 1.7).
    refused_unheard,
    /// Links that completed their negotiation.
    links_opened,
    /// Publishes received on links.
    messages_received,
    /// Publishes put into a receiver's egress; a fan-out counts every receiver.
    messages_delivered,
    /// Publishes that went to another shard; a fan-out counts every shard.
    messages_meshed,
    /// Subscribes and unsubscribes answered with success.
    subscriptions_acknowledged,
    /// Subscribes and unsubscribes answered with an error.
    subscriptions_refused,
    /// Of those, because the connection had as many subscriptions as it may.
    refused_subscriptions,
    /// Of those, because the shard had as many names as it may.
    refused_names,
    /// Of those, because there was no memory to spare.
    refused_subscriptions_memory,
    /// Dropped: nobody subscribed to the destination (dataplane 4.4).
    dropped_no_route,
    /// Dropped: the ttl was used up (dataplane 4.5).
    dropped_ttl,
    /// Dropped: header MAC absent where it is required (dataplane 5.5).
    dropped_mac_missing,
    /// Dropped: header MAC wrong (dataplane 5.5).
    dropped_mac_wrong,
    /// Dropped: header, names or session missing (dataplane 2.1).
    dropped_incomplete,
    /// Dropped: empty message, or a type that we do not know (T7).
    dropped_unknown_type,
    /// Dropped: a Link message on a link that is open (dataplane 5.1).
    dropped_second_link,
    /// Ignored: SubscriptionAck for which we asked nobody (dataplane 4.7).
    dropped_stray_ack,
    /// Dropped: what forwarding would add makes it exceed the message limit (T9).
    dropped_too_large,
    /// Dropped: its header alone is longer than any client's.
    dropped_long_header,
    /// Dropped: the receiver's egress was at its hard bound.
    dropped_egress_full,
    /// Dropped: more waited for all receivers of the shard than may.
    dropped_egress_total,
    /// Dropped: it waited for a receiver that was cut for being slow.
    dropped_slow_receiver,
    /// Dropped: it waited for a receiver whose connection ended.
    dropped_receiver_left,
    /// Dropped: it waited to be routed when we ended its sender's connection, or when the router drained.
    dropped_sender_left,
    /// Dropped: the shard held as much for waiting publishers as it may.
    dropped_parked_full,
    /// Connections cut because they read too slowly.
    cut_slow_receiver,
    /// Connections cut because most waited for them when too much waited for all receivers of the shard.
    cut_crowding,
    /// Connections ended: not HTTP/2, or a violation of RFC 9113.
    ended_http2,
    /// Connections ended: more useless frames, or a longer header list, than a client may send (RFC 9113 §10.5).
    ended_flood,
    /// Connections ended: gRPC framing (length over the limit, compressed flag, a message cut short).
    ended_framing,
    /// Connections ended: too much of unfinished messages on the shard.
    ended_unfinished,
    /// Connections ended: undecodable protobuf.
    ended_undecodable,
    /// Connections ended: negotiation refused or failed (dataplane 5.2).
    ended_negotiation,
    /// Connections ended: no request or no link message in time.
    ended_timeout,
    /// Connections ended: keepalive unanswered.
    ended_keepalive,
    /// Connections ended: control answers asked for and not read.
    ended_control_flood,
    /// Requests refused: path, method, content type or compression; malformed, or one stream too many.
    requests_refused,
    /// Publishers that had to wait (each time).
    publishers_held,
    /// Publishers that had to wait for their rate to allow more (each time).
    publishers_throttled,
    /// Connections that got no credit because memory was tight (each time).
    publishers_starved,
    /// Log lines not written because of their rate.
    log_lines_suppressed,
    /// io_uring_enter calls of the ring.
    ring_enters,
}

impl Counters {
    /// The counter of connections turned away for this reason.
    pub(crate) fn refused(&self, refusal: Refusal) -> &Counter {
        match refusal {
            Refusal::Connections { .. } => &self.refused_connections,
            Refusal::Address { .. } => &self.refused_address,
            Refusal::Memory => &self.refused_memory,
        }
    }

    pub fn set_ring_enters(&self, n: u64) {
        self.ring_enters.set(n);
    }

    pub fn connection_closed(&self) {
        self.connections_open
            .set(self.connections_open.get().saturating_sub(1));
    }
}

/// `name=value` for every count that is not zero.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (name, value) in self.entries().into_iter().filter(|(_, value)| *value != 0) {
            if !first {
                f.write_str(" ")?;
            }
            write!(f, "{name}={value}")?;
            first = false;
        }
        Ok(())
    }
}
