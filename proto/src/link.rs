//! One link between two nodes: the negotiation that opens it, and the MAC that guards its headers.
//!
//! Pure: messages in, messages out; the caller owns the socket, the 5 s that both sides allow, and the
//! rule that nothing else is sent before the reply (dataplane 5.1). The MAC is a checksum between
//! neighbours, not authentication: replays and reflections verify, payloads are outside (trap T5).

mod hmac;
mod key;
mod mac;
mod negotiation;

pub use key::{AgreementError, LinkKey};
pub use mac::{LinkMac, MacPolicy, Preimage, SignError, TagState, Verdict, sign_message, verdict};
pub use negotiation::{
    Accepted, Acceptor, ConnectionType, Dialer, Dialing, Established, LINK_ID_BYTES_MAX, LinkReply,
    LinkRequest, NEGOTIATION_BYTES_MAX, NegotiationError, REFUSED_DEPLOYMENT, REFUSED_SELF,
};
