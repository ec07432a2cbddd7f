//! The two messages that open a link, from either side (dataplane 5.1 to 5.4).

use prost::Message as _;

use super::key::{
    AgreementError, CIPHERTEXT_BYTES, ENCAPSULATION_KEY_BYTES, KemSecret, LinkKey,
    PUBLIC_KEY_BYTES, Secret, encapsulate,
};
use super::mac::MacPolicy;
use crate::message::{envelope, wire};
use crate::route_header::{self, DecodeError, Parsed};

/// Longest negotiation message, in bytes. The largest that existing nodes send is a hybrid request of
/// about 1.4 KiB.
pub const NEGOTIATION_BYTES_MAX: usize = 16_384;

/// Longest link id, in bytes. Existing nodes send UUIDs, or two node ids and a colon.
pub const LINK_ID_BYTES_MAX: usize = 1_024;

/// Why a peer is turned away after the reply, with the text that belongs in `grpc-message`.
pub const REFUSED_SELF: &str = "self-connection rejected: same node_id";
/// As [`REFUSED_SELF`].
pub const REFUSED_DEPLOYMENT: &str = "deployment_name mismatch";

/// What the dialer is to the acceptor (dataplane 5.3). Nothing on the wire proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionType {
    /// A node of another domain; also what an unknown number means.
    Remote,
    /// A replica of the same deployment.
    Peer,
    /// A client.
    Edge,
}

impl ConnectionType {
    fn from_wire(number: i32) -> Self {
        match wire::LinkConnectionType::try_from(number) {
            Ok(wire::LinkConnectionType::Peer) => Self::Peer,
            Ok(wire::LinkConnectionType::Edge) => Self::Edge,
            Ok(wire::LinkConnectionType::Remote) | Err(_) => Self::Remote,
        }
    }

    fn to_wire(self) -> i32 {
        let number = match self {
            Self::Remote => wire::LinkConnectionType::Remote,
            Self::Peer => wire::LinkConnectionType::Peer,
            Self::Edge => wire::LinkConnectionType::Edge,
        };
        number.into()
    }
}

/// Why no link comes about. The acceptor ends the stream with `grpc-status 0` and sends nothing; for
/// the dialer it is a local error (dataplane 7).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NegotiationError {
    #[error(
        "negotiation message of {bytes} bytes exceeds the limit of {NEGOTIATION_BYTES_MAX} bytes"
    )]
    TooLarge { bytes: usize },
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the first message is not a link negotiation")]
    NotNegotiation,
    #[error(
        "post-quantum agreement is required, and the KEM payload has {bytes} bytes, not {expected}"
    )]
    KemRequired { bytes: usize, expected: usize },
    #[error("a reply where a request was expected")]
    UnexpectedReply,
    #[error("a request where a reply was expected")]
    UnexpectedRequest,
    #[error("the peer's version is not a semantic version: {error}")]
    Version { error: String },
    #[error("the peer's public key has {bytes} bytes, not {PUBLIC_KEY_BYTES}")]
    PublicKeyLength { bytes: usize },
    #[error("empty link id")]
    EmptyLinkId,
    #[error("link id of {bytes} bytes exceeds the limit of {LINK_ID_BYTES_MAX} bytes")]
    LongLinkId { bytes: usize },
    #[error("the reply is for another link id")]
    OtherLinkId,
    #[error("no key agreement: {0}")]
    Agreement(#[from] AgreementError),
    #[error("the peer agreed on no key, and one is required")]
    NoKey,
}

/// The dialer's message, as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRequest {
    pub link_id: String,
    pub version: String,
    /// 32 bytes from conforming dialers.
    pub public_key: Vec<u8>,
    pub connection_type: ConnectionType,
    pub node_id: String,
    pub deployment_name: String,
    pub kem_payload: Option<Vec<u8>>,
}

/// The acceptor's message: the same fields, the other way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkReply {
    pub link_id: String,
    pub version: String,
    /// 32 bytes, or none without a key.
    pub public_key: Vec<u8>,
    /// The type asked for. The dialer's own behaviour depends on this echo (dataplane 1.7).
    pub connection_type: ConnectionType,
    pub node_id: String,
    pub deployment_name: String,
    pub kem_payload: Option<Vec<u8>>,
}

impl LinkRequest {
    /// The whole `Message`.
    pub fn encode(&self) -> Vec<u8> {
        encode(wire::LinkNegotiationPayload {
            link_id: self.link_id.clone(),
            slim_version: self.version.clone(),
            is_reply: false,
            link_ecdh_public_key: self.public_key.clone(),
            connection_type: self.connection_type.to_wire(),
            node_id: self.node_id.clone(),
            deployment_name: self.deployment_name.clone(),
            link_kem_payload: self.kem_payload.clone(),
        })
    }

    /// Reads a request and checks what does not depend on the acceptor's policy.
    pub fn decode(message: &[u8]) -> Result<Self, NegotiationError> {
        Self::check(payload(message)?, false)
    }

    fn check(
        payload: wire::LinkNegotiationPayload,
        enforce_pqc: bool,
    ) -> Result<Self, NegotiationError> {
        require_kem(&payload, enforce_pqc, ENCAPSULATION_KEY_BYTES)?;
        if payload.is_reply {
            return Err(NegotiationError::UnexpectedReply);
        }
        require_version(&payload)?;
        Ok(Self {
            link_id: payload.link_id,
            version: payload.slim_version,
            public_key: payload.link_ecdh_public_key,
            connection_type: ConnectionType::from_wire(payload.connection_type),
            node_id: payload.node_id,
            deployment_name: payload.deployment_name,
            kem_payload: payload.link_kem_payload,
        })
    }
}

impl LinkReply {
    /// The whole `Message`.
    pub fn encode(&self) -> Vec<u8> {
        encode(wire::LinkNegotiationPayload {
            link_id: self.link_id.clone(),
            slim_version: self.version.clone(),
            is_reply: true,
            link_ecdh_public_key: self.public_key.clone(),
            connection_type: self.connection_type.to_wire(),
            node_id: self.node_id.clone(),
            deployment_name: self.deployment_name.clone(),
            link_kem_payload: self.kem_payload.clone(),
        })
    }

    /// Reads a reply and checks what does not depend on the dialer.
    pub fn decode(message: &[u8]) -> Result<Self, NegotiationError> {
        Self::check(payload(message)?, false)
    }

    fn check(
        payload: wire::LinkNegotiationPayload,
        enforce_pqc: bool,
    ) -> Result<Self, NegotiationError> {
        require_kem(&payload, enforce_pqc, CIPHERTEXT_BYTES)?;
        if !payload.is_reply {
            return Err(NegotiationError::UnexpectedRequest);
        }
        require_version(&payload)?;
        Ok(Self {
            link_id: payload.link_id,
            version: payload.slim_version,
            public_key: payload.link_ecdh_public_key,
            connection_type: ConnectionType::from_wire(payload.connection_type),
            node_id: payload.node_id,
            deployment_name: payload.deployment_name,
            kem_payload: payload.link_kem_payload,
        })
    }
}

fn encode(payload: wire::LinkNegotiationPayload) -> Vec<u8> {
    let link = wire::Link {
        link_type: Some(wire::link::LinkType::LinkNegotiation(payload)),
    };
    envelope(wire::message::MessageType::Link(link))
}

/// Finds the negotiation in a message. Decodes nothing but the Link, so that its size is the bound.
fn payload(message: &[u8]) -> Result<wire::LinkNegotiationPayload, NegotiationError> {
    if message.len() > NEGOTIATION_BYTES_MAX {
        return Err(NegotiationError::TooLarge {
            bytes: message.len(),
        });
    }
    let link = match route_header::parse(message)? {
        Parsed::Link(span) => wire::Link::decode(span.of(message)),
        Parsed::NeedsMerge => {
            let merged = route_header::merge(message)?;
            let Parsed::Link(span) = route_header::parse(&merged)? else {
                return Err(NegotiationError::NotNegotiation);
            };
            wire::Link::decode(span.of(&merged))
        }
        _ => return Err(NegotiationError::NotNegotiation),
    };
    match link.ok().and_then(|link| link.link_type) {
        Some(wire::link::LinkType::LinkNegotiation(payload)) => Ok(payload),
        None => Err(NegotiationError::NotNegotiation),
    }
}

fn require_kem(
    payload: &wire::LinkNegotiationPayload,
    enforce_pqc: bool,
    expected: usize,
) -> Result<(), NegotiationError> {
    let bytes = payload.link_kem_payload.as_ref().map_or(0, Vec::len);
    if enforce_pqc && bytes != expected {
        return Err(NegotiationError::KemRequired { bytes, expected });
    }
    Ok(())
}

fn require_version(payload: &wire::LinkNegotiationPayload) -> Result<(), NegotiationError> {
    match semver::Version::parse(&payload.slim_version) {
        Ok(_) => Ok(()),
        Err(error) => Err(NegotiationError::Version {
            error: error.to_string(),
        }),
    }
}

/// The side that was dialled. One serves all links of a node.
#[derive(Clone, Debug)]
pub struct Acceptor {
    pub node_id: String,
    /// Must be a semantic version, or dialers turn away.
    pub version: String,
    /// May be empty: then peers of any deployment are taken.
    pub deployment_name: String,
    pub policy: MacPolicy,
    /// Refuse dialers that bring no ML-KEM key.
    pub enforce_pqc: bool,
}

/// A link as the acceptor sees it, once `reply` is on its way.
#[derive(Debug)]
pub struct Accepted {
    pub link_id: String,
    /// As asked for: authorise [`ConnectionType::Peer`] before acting on it (trap T4).
    pub connection_type: ConnectionType,
    pub peer_version: String,
    /// Empty if the dialer did not say.
    pub peer_node_id: String,
    pub peer_deployment: String,
    /// Always there under [`MacPolicy::Strict`].
    pub key: Option<LinkKey>,
    /// The encoded `Message` to send first.
    pub reply: Vec<u8>,
    /// Send the reply, then end the stream with PERMISSION_DENIED and this text.
    pub refusal_after_reply: Option<&'static str>,
}

impl Acceptor {
    /// Answers the first message of a stream; the checks in the order of dataplane 5.2.
    pub fn accept(&self, message: &[u8]) -> Result<Accepted, NegotiationError> {
        self.accept_with(Secret::random()?, message)
    }

    fn accept_with(&self, secret: Secret, message: &[u8]) -> Result<Accepted, NegotiationError> {
        let request = LinkRequest::check(payload(message)?, self.enforce_pqc)?;
        let bytes = request.public_key.len();
        if self.policy == MacPolicy::Strict && bytes != PUBLIC_KEY_BYTES {
            return Err(NegotiationError::PublicKeyLength { bytes });
        }
        if request.link_id.is_empty() {
            return Err(NegotiationError::EmptyLinkId);
        }
        if request.link_id.len() > LINK_ID_BYTES_MAX {
            return Err(NegotiationError::LongLinkId {
                bytes: request.link_id.len(),
            });
        }
        let (key, public_key, kem_payload) = match agree(&secret, &request) {
            Ok((key, ciphertext)) => (Some(key), secret.public_key().to_vec(), ciphertext),
            Err(error) if self.policy == MacPolicy::Strict => return Err(error.into()),
            Err(_) => (None, Vec::new(), None),
        };
        let refusal_after_reply = self.refusal(&request);
        let reply = LinkReply {
            link_id: request.link_id.clone(),
            version: self.version.clone(),
            public_key,
            connection_type: request.connection_type,
            node_id: self.node_id.clone(),
            deployment_name: self.deployment_name.clone(),
            kem_payload,
        };
        Ok(Accepted {
            link_id: request.link_id,
            connection_type: request.connection_type,
            peer_version: request.version,
            peer_node_id: request.node_id,
            peer_deployment: request.deployment_name,
            key,
            reply: reply.encode(),
            refusal_after_reply,
        })
    }

    fn refusal(&self, request: &LinkRequest) -> Option<&'static str> {
        if request.connection_type != ConnectionType::Peer {
            return None;
        }
        if request.node_id == self.node_id {
            return Some(REFUSED_SELF);
        }
        let other =
            !self.deployment_name.is_empty() && request.deployment_name != self.deployment_name;
        other.then_some(REFUSED_DEPLOYMENT)
    }
}

/// The key, and the ciphertext that a hybrid agreement sends back. A KEM payload of another length
/// than an encapsulation key's is ignored: where one is required, its length was checked before.
fn agree(
    secret: &Secret,
    request: &LinkRequest,
) -> Result<(LinkKey, Option<Vec<u8>>), AgreementError> {
    let shared = secret.agree(&request.public_key)?;
    match &request.kem_payload {
        Some(key) if key.len() == ENCAPSULATION_KEY_BYTES => {
            let (ciphertext, kem) = encapsulate(key)?;
            Ok((
                LinkKey::derive(&request.link_id, &shared, Some(&kem)),
                Some(ciphertext),
            ))
        }
        _ => Ok((LinkKey::derive(&request.link_id, &shared, None), None)),
    }
}

/// The side that dials.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// The same again after a reconnect.
    pub link_id: String,
    pub node_id: String,
    /// Must be a semantic version.
    pub version: String,
    pub deployment_name: String,
    pub connection_type: ConnectionType,
    pub policy: MacPolicy,
    /// Bring an ML-KEM key, and insist on the answer to it.
    pub enforce_pqc: bool,
}

/// A dialer whose request is out.
pub struct Dialing {
    link_id: String,
    policy: MacPolicy,
    secret: Secret,
    kem: Option<KemSecret>,
}

/// A link as the dialer sees it.
#[derive(Debug)]
pub struct Established {
    pub link_id: String,
    /// The acceptor's echo: an Edge dialer that reads Remote here is talking to a broken router.
    pub connection_type: ConnectionType,
    pub peer_version: String,
    pub peer_node_id: String,
    pub peer_deployment: String,
    /// Always there under [`MacPolicy::Strict`].
    pub key: Option<LinkKey>,
}

impl Dialer {
    /// Starts a negotiation: the state to keep, and the encoded `Message` to send first.
    pub fn dial(&self) -> Result<(Dialing, Vec<u8>), NegotiationError> {
        let secret = Secret::random()?;
        let (kem, kem_payload) = if self.enforce_pqc {
            Some(KemSecret::random()).unzip()
        } else {
            (None, None)
        };
        Ok(self.dial_with(secret, kem, kem_payload))
    }

    fn dial_with(
        &self,
        secret: Secret,
        kem: Option<KemSecret>,
        kem_payload: Option<Vec<u8>>,
    ) -> (Dialing, Vec<u8>) {
        let request = LinkRequest {
            link_id: self.link_id.clone(),
            version: self.version.clone(),
            public_key: secret.public_key().to_vec(),
            connection_type: self.connection_type,
            node_id: self.node_id.clone(),
            deployment_name: self.deployment_name.clone(),
            kem_payload,
        };
        (
            Dialing {
                link_id: self.link_id.clone(),
                policy: self.policy,
                secret,
                kem,
            },
            request.encode(),
        )
    }
}

impl Dialing {
    /// Takes the acceptor's first message; the checks in the order of dataplane 5.2.
    pub fn complete(self, message: &[u8]) -> Result<Established, NegotiationError> {
        let reply = LinkReply::check(payload(message)?, self.kem.is_some())?;
        let bytes = reply.public_key.len();
        if self.policy == MacPolicy::Strict && bytes != PUBLIC_KEY_BYTES {
            return Err(NegotiationError::PublicKeyLength { bytes });
        }
        if reply.link_id != self.link_id {
            return Err(NegotiationError::OtherLinkId);
        }
        let key = if reply.public_key.is_empty() {
            None
        } else {
            Some(self.agree(&reply)?)
        };
        if key.is_none() && self.policy == MacPolicy::Strict {
            return Err(NegotiationError::NoKey);
        }
        Ok(Established {
            link_id: reply.link_id,
            connection_type: reply.connection_type,
            peer_version: reply.version,
            peer_node_id: reply.node_id,
            peer_deployment: reply.deployment_name,
            key,
        })
    }

    fn agree(&self, reply: &LinkReply) -> Result<LinkKey, AgreementError> {
        let shared = self.secret.agree(&reply.public_key)?;
        let kem = match &self.kem {
            Some(secret) => {
                Some(secret.decapsulate(reply.kem_payload.as_deref().unwrap_or_default())?)
            }
            None => None,
        };
        Ok(LinkKey::derive(&self.link_id, &shared, kem.as_ref()))
    }
}
