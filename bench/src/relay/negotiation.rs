//! Opens a link, with a MAC or without.

use slim_proto::link::{
    Accepted, Acceptor, LinkMac, LinkReply, LinkRequest, MacPolicy, NegotiationError,
};

use super::Mac;

/// A semantic version, or dialers turn away.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const NODE_ID: &str = "relay-baseline";

/// Answers every dialer in the same way.
pub struct Negotiator {
    acceptor: Acceptor,
    mac: Mac,
}

impl Negotiator {
    pub fn new(mac: Mac) -> Negotiator {
        Negotiator {
            acceptor: Acceptor {
                node_id: NODE_ID.to_owned(),
                version: VERSION.to_owned(),
                deployment_name: String::new(),
                policy: match mac {
                    Mac::On => MacPolicy::Strict,
                    Mac::Off => MacPolicy::Lax,
                },
                enforce_pqc: false,
            },
            mac,
        }
    }

    /// What all links make of a message without a tag.
    pub fn policy(&self) -> MacPolicy {
        self.acceptor.policy
    }

    /// Answers the first message of a link: its MAC, and the encoded reply to send first.
    pub fn accept(&self, message: &[u8]) -> Result<(Option<LinkMac>, Vec<u8>), NegotiationError> {
        match self.mac {
            Mac::On => {
                let Accepted {
                    key,
                    link_id,
                    reply,
                    ..
                } = self.acceptor.accept(message)?;
                Ok((key.map(|key| LinkMac::new(&key, &link_id)), reply))
            }
            // An acceptor takes every key that it is offered. Its reply without one is made here.
            Mac::Off => {
                let request = LinkRequest::decode(message)?;
                let reply = LinkReply {
                    link_id: request.link_id,
                    version: VERSION.to_owned(),
                    public_key: Vec::new(),
                    connection_type: request.connection_type,
                    node_id: NODE_ID.to_owned(),
                    deployment_name: String::new(),
                    kem_payload: None,
                };
                Ok((None, reply.encode()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use slim_proto::link::{ConnectionType, Dialer, Established};

    use super::*;

    fn dialled(mac: Mac, policy: MacPolicy) -> Result<(bool, Established), NegotiationError> {
        let dialer = Dialer {
            link_id: "a-link".to_owned(),
            node_id: "a-client".to_owned(),
            version: "3.4.6".to_owned(),
            deployment_name: String::new(),
            connection_type: ConnectionType::Edge,
            policy,
            enforce_pqc: false,
        };
        let (dialing, request) = dialer.dial()?;
        let (mac, reply) = Negotiator::new(mac).accept(&request)?;
        Ok((mac.is_some(), dialing.complete(&reply)?))
    }

    #[test]
    fn with_a_mac_both_sides_have_a_key() {
        let (mac, established) = dialled(Mac::On, MacPolicy::Strict).unwrap();
        assert!(mac);
        assert!(established.key.is_some());
        assert_eq!(established.connection_type, ConnectionType::Edge);
    }

    #[test]
    fn without_a_mac_neither_side_has_a_key_and_strict_dialers_turn_away() {
        let (mac, established) = dialled(Mac::Off, MacPolicy::Lax).unwrap();
        assert!(!mac);
        assert!(established.key.is_none());
        assert_eq!(established.connection_type, ConnectionType::Edge);
        let refused = dialled(Mac::Off, MacPolicy::Strict).unwrap_err();
        assert_eq!(refused, NegotiationError::PublicKeyLength { bytes: 0 });
    }
}
