//! What clients may take: the section `limits:` of the file. It is this router's own; an existing node has none.
//!
//! What each limit answers when it is reached is in `ARCHITECTURE.md`, "Limits".

use super::file::LIMITS_KEYS;
use super::section::{Findings, Item};
use crate::limits;
use std::fmt;
use std::time::Duration;

/// Every value is within its hard bounds, which are in [`crate::limits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all shards. `None`: as many as the process may have file descriptors for.
    pub connections: Option<u32>,
    /// Connections from one IPv4 address or one IPv6 /64. Unix sockets have no address and are exempt.
    pub connections_per_address: Option<u32>,
    pub subscriptions_per_connection: usize,
    /// Names and prefixes subscribed to, each counted on every shard with a subscriber. A shard has its share.
    pub names: usize,
    /// Largest message of a client.
    pub message_bytes: usize,
    /// Of listeners that do not say otherwise themselves.
    pub negotiation_timeout: Duration,
    /// What may wait for one receiver before its publishers wait.
    pub egress_bytes_per_connection: usize,
    /// What may wait for all receivers. `None`: a part of `memory`.
    pub egress_bytes: Option<usize>,
    /// From one connection. `None`: no limit.
    pub ingress_messages_per_second: Option<u32>,
    pub ingress_bytes_per_second: Option<u64>,
    /// Resident bytes of the process. `None`: [`limits::MEMORY_PERCENT`] of what the machine or the control group has.
    pub memory: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_address: None,
            subscriptions_per_connection: limits::SUBSCRIPTIONS_PER_CONNECTION,
            names: limits::NAMES,
            message_bytes: limits::MESSAGE_BYTES_MAX,
            negotiation_timeout: limits::NEGOTIATION_TIMEOUT,
            egress_bytes_per_connection: limits::EGRESS_SOFT_BYTES,
            egress_bytes: None,
            ingress_messages_per_second: None,
            ingress_bytes_per_second: None,
            memory: None,
        }
    }
}

impl Limits {
    /// What the section says, the defaults for what it does not. A value with a problem is on the list of `found`.
    pub(super) fn read(item: &Item, found: &mut Findings) -> Self {
        let mut read = Self::default();
        for (name, item) in found.entries(item).unwrap_or_default() {
            match name {
                "connections" => {
                    let most = limits::SOCKETS_PER_SHARD_MAX * u32::from(limits::SHARDS_MAX);
                    read.connections = found.count(&item, 1, most);
                }
                "connections_per_address" => {
                    read.connections_per_address = found.count(&item, 1, u32::MAX);
                }
                "subscriptions_per_connection" => {
                    let most = limits::SUBSCRIPTIONS_PER_CONNECTION_MAX;
                    found.set(&mut read.subscriptions_per_connection, |found| {
                        found.count(&item, 1, most)
                    });
                }
                "names" => found.set(&mut read.names, |found| {
                    found.count(&item, 1, limits::NAMES_MAX)
                }),
                "message_bytes" => found.set(&mut read.message_bytes, |found| {
                    let least = limits::MESSAGE_BYTES_LEAST;
                    found.bytes(&item, least, limits::MESSAGE_BYTES_MAX)
                }),
                "negotiation_timeout" => found.set(&mut read.negotiation_timeout, |found| {
                    found.positive_duration(&item)
                }),
                "egress_bytes_per_connection" => {
                    let least = limits::EGRESS_SOFT_BYTES_LEAST;
                    found.set(&mut read.egress_bytes_per_connection, |found| {
                        found.bytes(&item, least, limits::EGRESS_SOFT_BYTES_MAX)
                    });
                }
                "egress_bytes" => {
                    read.egress_bytes = found.bytes(&item, limits::EGRESS_TOTAL_LEAST, usize::MAX);
                }
                "ingress_messages_per_second" => {
                    read.ingress_messages_per_second = found.count(&item, 1, u32::MAX);
                }
                "ingress_bytes_per_second" => {
                    let least = limits::INGRESS_BYTES_PER_SECOND_LEAST;
                    let most = limits::INGRESS_BYTES_PER_SECOND_MAX;
                    read.ingress_bytes_per_second = found.bytes(&item, least, most);
                }
                "memory" => read.memory = found.bytes(&item, limits::MEMORY_LEAST, usize::MAX),
                _ => found.unknown(&item, name, LIMITS_KEYS),
            }
        }
        read
    }
}

/// One line, for `--check`; what is not limited is left out.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.connections {
            Some(connections) => write!(f, "{connections} connections")?,
            None => f.write_str("connections as descriptors allow")?,
        }
        if let Some(connections) = self.connections_per_address {
            write!(f, " ({connections} an address)")?;
        }
        write!(
            f,
            ", {} subscriptions a connection, {} names, messages of {} bytes, {} bytes waiting for a receiver",
            self.subscriptions_per_connection,
            self.names,
            self.message_bytes,
            self.egress_bytes_per_connection,
        )?;
        if let Some(bytes) = self.egress_bytes {
            write!(f, " and {bytes} for all")?;
        }
        if let Some(messages) = self.ingress_messages_per_second {
            write!(f, ", {messages} messages/s from a connection")?;
        }
        if let Some(bytes) = self.ingress_bytes_per_second {
            write!(f, ", {bytes} bytes/s from a connection")?;
        }
        match self.memory {
            Some(bytes) => write!(f, ", {bytes} bytes of memory"),
            None => write!(f, ", {} % of the memory", limits::MEMORY_PERCENT),
        }
    }
}
