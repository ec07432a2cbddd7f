//! Link negotiation from both sides, and the header MAC.

use slim_proto::link::{
    Accepted, Acceptor, ConnectionType, Dialer, LINK_ID_BYTES_MAX, LinkKey, LinkMac, LinkReply,
    LinkRequest, MacPolicy, NEGOTIATION_BYTES_MAX, Preimage, REFUSED_DEPLOYMENT, REFUSED_SELF,
    SignError, TagState, Verdict, sign_message, verdict,
};
use slim_proto::message::wire::{self, Wire as _, message::MessageType};
use slim_proto::route_header::{Kind, Parsed, RouteHeader, TAG_BYTES, merge, parse};

use crate::draw::Draw;

/// Input: `what: u8 | ..`: anything as a request and as a reply; a negotiation of drawn parts with a reply that may be damaged
/// on its way; a message to sign.
pub fn link(input: &[u8]) {
    let mut draw = Draw::new(input);
    match draw.byte() % 3 {
        0 => anything(&mut draw),
        1 => negotiation(&mut draw),
        _ => signature(&mut draw),
    }
}

fn acceptor(situation: u8) -> Acceptor {
    Acceptor {
        node_id: "node-r".to_owned(),
        version: "3.4.6".to_owned(),
        deployment_name: if situation & 1 != 0 {
            "plant-a".to_owned()
        } else {
            String::new()
        },
        policy: if situation & 2 != 0 {
            MacPolicy::Lax
        } else {
            MacPolicy::Strict
        },
        enforce_pqc: situation & 4 != 0,
    }
}

/// A message that may be a negotiation, on both sides.
fn anything(draw: &mut Draw) {
    let acceptor = acceptor(draw.byte());
    let message = draw.rest();
    match LinkRequest::decode(message) {
        Ok(request) => assert_eq!(
            LinkRequest::decode(&request.encode()).as_ref(),
            Ok(&request)
        ),
        Err(why) => {
            assert!(!why.to_string().is_empty());
            assert!(acceptor.accept(message).is_err(), "accepted: {why}");
        }
    }
    if let Ok(reply) = LinkReply::decode(message) {
        assert!(
            LinkRequest::decode(message).is_err(),
            "both a request and a reply"
        );
        assert_eq!(LinkReply::decode(&reply.encode()).as_ref(), Ok(&reply));
    }
    let accepted = acceptor.accept(message);
    assert_eq!(
        accepted.is_ok(),
        accepts(&acceptor, message),
        "{accepted:?}"
    );
    if let Ok(accepted) = accepted {
        check_accepted(&acceptor, message, &accepted);
    }
    let dialer = dialer(
        "l".to_owned(),
        ConnectionType::Edge,
        acceptor.policy,
        acceptor.enforce_pqc,
    );
    let (dialing, _) = dialer.dial().expect("random numbers");
    if let Ok(established) = dialing.complete(message) {
        assert_eq!(established.link_id, "l");
        assert!(established.key.is_some() || dialer.policy == MacPolicy::Lax);
    }
}

fn dialer(
    link_id: String,
    connection_type: ConnectionType,
    policy: MacPolicy,
    enforce_pqc: bool,
) -> Dialer {
    Dialer {
        link_id,
        node_id: "node-a".to_owned(),
        version: "3.4.6".to_owned(),
        deployment_name: "plant-b".to_owned(),
        connection_type,
        policy,
        enforce_pqc,
    }
}

/// dataplane 5.2 once more, from what prost decodes. Only whether a key is good is left to the other side.
fn accepts(acceptor: &Acceptor, message: &[u8]) -> bool {
    let Ok(decoded) = wire::Message::decode(message) else {
        return false;
    };
    let Some(MessageType::Link(link)) = decoded.message_type else {
        return false;
    };
    let Some(wire::link::LinkType::LinkNegotiation(payload)) = link.link_type else {
        return false;
    };
    let has_good_key = {
        let probe = Acceptor {
            policy: MacPolicy::Lax,
            enforce_pqc: false,
            ..acceptor.clone()
        };
        probe
            .accept(message)
            .is_ok_and(|accepted| accepted.key.is_some())
    };
    // We refuse a few messages that prost takes, and no conforming encoder makes.
    parse(message).is_ok()
        && message.len() <= NEGOTIATION_BYTES_MAX
        && !payload.is_reply
        && is_version(&payload.slim_version)
        && !payload.link_id.is_empty()
        && payload.link_id.len() <= LINK_ID_BYTES_MAX
        && (!acceptor.enforce_pqc
            || payload
                .link_kem_payload
                .as_ref()
                .is_some_and(|kem| kem.len() == 1_184))
        && (acceptor.policy == MacPolicy::Lax || has_good_key)
}

/// Through the public road: a request with this version and nothing else that could be wrong.
fn is_version(version: &str) -> bool {
    let request = LinkRequest {
        link_id: "l".to_owned(),
        version: version.to_owned(),
        public_key: vec![9; 32],
        connection_type: ConnectionType::Edge,
        node_id: String::new(),
        deployment_name: String::new(),
        kem_payload: None,
    };
    // Semantic Versioning 2.0.0, item 2: three numbers without leading zeroes, then what items 9 and 10 add.
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<_> = core.split('.').collect();
    let has_numbers = numbers.len() == 3
        && numbers.iter().all(|number| {
            number.bytes().all(|byte| byte.is_ascii_digit())
                && (*number == "0" || !number.starts_with('0'))
                && !number.is_empty()
        });
    let is_version = LinkRequest::decode(&request.encode()).is_ok();
    assert!(
        has_numbers || !is_version,
        "{version} is no semantic version"
    );
    is_version
}

fn check_accepted(acceptor: &Acceptor, message: &[u8], accepted: &Accepted) {
    let request = LinkRequest::decode(message).expect("it was accepted");
    assert_eq!(accepted.link_id, request.link_id);
    assert!(!accepted.link_id.is_empty() && accepted.link_id.len() <= LINK_ID_BYTES_MAX);
    assert_eq!(accepted.connection_type, request.connection_type);
    assert_eq!(accepted.peer_version, request.version);
    assert_eq!(accepted.peer_node_id, request.node_id);
    assert_eq!(accepted.peer_deployment, request.deployment_name);
    assert!(accepted.key.is_some() || acceptor.policy == MacPolicy::Lax);

    let is_hybrid =
        accepted.key.is_some() && request.kem_payload.is_some_and(|kem| kem.len() == 1_184);
    let reply = LinkReply::decode(&accepted.reply).expect("our own reply");
    assert_eq!(reply.link_id, request.link_id);
    assert_eq!(reply.connection_type, request.connection_type);
    assert_eq!(
        (&reply.node_id, &reply.version),
        (&acceptor.node_id, &acceptor.version)
    );
    assert_eq!(reply.deployment_name, acceptor.deployment_name);
    assert_eq!(
        reply.public_key.len(),
        if accepted.key.is_some() { 32 } else { 0 }
    );
    assert_eq!(
        reply.kem_payload.map(|kem| kem.len()),
        is_hybrid.then_some(1_088)
    );

    let is_peer = request.connection_type == ConnectionType::Peer;
    let refusal = if is_peer && request.node_id == acceptor.node_id {
        Some(REFUSED_SELF)
    } else if is_peer
        && !acceptor.deployment_name.is_empty()
        && request.deployment_name != acceptor.deployment_name
    {
        Some(REFUSED_DEPLOYMENT)
    } else {
        None
    };
    assert_eq!(accepted.refusal_after_reply, refusal);
}

/// Both sides from drawn parts. Unharmed, they have one key; harmed, they have not, or there is no link.
fn negotiation(draw: &mut Draw) {
    let situation = draw.byte();
    let acceptor = acceptor(situation);
    let kind = draw.one_of(&[
        ConnectionType::Edge,
        ConnectionType::Peer,
        ConnectionType::Remote,
    ]);
    let policy = if situation & 8 != 0 {
        MacPolicy::Lax
    } else {
        MacPolicy::Strict
    };
    let dialer = dialer(
        draw.text(),
        kind,
        policy,
        acceptor.enforce_pqc || situation & 16 != 0,
    );
    let (dialing, request) = dialer.dial().expect("random numbers");
    let accepted = match acceptor.accept(&request) {
        Ok(accepted) => accepted,
        Err(_) => {
            assert!(dialer.link_id.is_empty());
            return;
        }
    };
    check_accepted(&acceptor, &request, &accepted);
    let mut reply = accepted.reply.clone();
    for _ in 0..draw.byte() % 4 {
        let at = usize::from(draw.u16()) % reply.len();
        match draw.byte() % 4 {
            0 => reply.truncate(at.max(1)),
            1 => reply.insert(at, draw.byte()),
            _ => reply[at] ^= draw.byte(),
        }
    }
    let outcome = dialing.complete(&reply);
    if reply == accepted.reply {
        let established = outcome.expect("an unharmed reply");
        assert_eq!(established.key, accepted.key);
        assert_eq!(established.connection_type, kind);
    } else if let Ok(established) = outcome {
        let harmed = LinkReply::decode(&reply).expect("it was taken");
        let meant = LinkReply::decode(&accepted.reply).expect("our own reply");
        assert_eq!(harmed.link_id, meant.link_id);
        let is_same = (harmed.kem_payload == meant.kem_payload || !dialer.enforce_pqc)
            && same_point(&harmed.public_key, &meant.public_key);
        assert_eq!(established.key == accepted.key, is_same);
    }
}

/// The highest bit of an X25519 key does not count (RFC 7748 §5).
fn same_point(one: &[u8], other: &[u8]) -> bool {
    let masked = |key: &[u8]| {
        let mut key = key.to_vec();
        if let Some(last) = key.get_mut(31) {
            *last &= 0x7f;
        }
        key
    };
    masked(one) == masked(other)
}

/// Signs a message as its originator, and then damages it.
fn signature(draw: &mut Draw) {
    let mut mac = LinkMac::new(&LinkKey::from_bytes([draw.byte(); 32]), &draw.text());
    let harm = (draw.u16(), draw.byte());
    let message = draw.rest();
    let signed = match sign_message(&mut mac, message) {
        Ok(signed) => signed,
        Err(SignError::Decode(why)) => {
            assert_eq!(parse(message), Err(why));
            return;
        }
        Err(SignError::NotRouted) => {
            let parsed = match parse(message) {
                Ok(Parsed::NeedsMerge) => parse(&merge(message).expect("it parses")),
                parsed => parsed,
            };
            assert!(!matches!(parsed, Ok(Parsed::Routed(_)) | Err(_)));
            return;
        }
    };
    let Ok(Parsed::Routed(header)) = parse(&signed) else {
        panic!("a signed message is routed");
    };
    assert!(header.is_patchable());
    assert_eq!(check(&mut mac, &signed, &header), TagState::Valid);
    assert_eq!(sign_message(&mut mac, &signed).as_ref(), Ok(&signed));

    // One hop further, on another link.
    let mut next = LinkMac::new(&LinkKey::from_bytes([0xa5; 32]), "next");
    let mut preimage = Preimage::new();
    preimage.build(&signed, &header);
    let mut forwarded = signed.clone();
    let tag = next.tag(&mut preimage, header.ttl_forwarded());
    header.patch(&mut forwarded, &tag);
    let Ok(Parsed::Routed(forwarded_header)) = parse(&forwarded) else {
        panic!("a forwarded message is routed");
    };
    assert_eq!(
        check(&mut next, &forwarded, &forwarded_header),
        TagState::Valid
    );
    assert_eq!(
        check(&mut mac, &forwarded, &forwarded_header),
        TagState::Wrong
    );

    // Any bit of the tag counts.
    let (bit, _) = harm;
    let mut wrong = tag;
    wrong[usize::from(bit) / 8 % TAG_BYTES] ^= 1 << (bit % 8);
    assert!(!next.verify(&mut preimage, header.ttl_forwarded(), &wrong));
    assert!(!next.verify(&mut preimage, header.ttl_forwarded().wrapping_add(1), &tag));
    assert!(!next.verify(&mut preimage, header.ttl_forwarded(), &tag[1..]));

    // A harmed message that still parses is taken only if what the tag covers is the same.
    let mut harmed = signed.clone();
    let at = usize::from(harm.0) % harmed.len();
    harmed[at] ^= harm.1;
    if let Ok(Parsed::Routed(harmed_header)) = parse(&harmed) {
        let state = check(&mut mac, &harmed, &harmed_header);
        let mut covered = Preimage::new();
        covered.build(&harmed, &harmed_header);
        let is_same =
            mac.tag(&mut covered, harmed_header.ttl) == mac.tag(&mut preimage, header.ttl);
        match harmed_header.tag(&harmed) {
            None => assert_eq!(state, TagState::Absent),
            Some([]) => assert_eq!(state, TagState::Empty),
            Some(tag) if Some(tag) == header.tag(&signed) && is_same => {
                assert_eq!(state, TagState::Valid)
            }
            Some(tag) if tag != mac.tag(&mut covered, harmed_header.ttl) => {
                assert_eq!(state, TagState::Wrong)
            }
            Some(_) => assert_eq!(state, TagState::Valid),
        }
        check_verdict(harmed_header.kind, state);
    }
}

fn check(mac: &mut LinkMac, message: &[u8], header: &RouteHeader) -> TagState {
    let mut preimage = Preimage::new();
    preimage.build(message, header);
    mac.check(&mut preimage, message, header)
}

/// The table of dataplane 5.5: with a key, a publish needs its tag and a wrong tag is never taken.
fn check_verdict(kind: Kind, state: TagState) {
    for policy in [MacPolicy::Strict, MacPolicy::Lax] {
        let verdict = verdict(kind, true, state, policy);
        match state {
            TagState::Valid => assert_eq!(verdict, Verdict::Accept),
            TagState::Wrong => assert_eq!(verdict, Verdict::Drop),
            TagState::Absent | TagState::Empty => {
                let is_lax = policy == MacPolicy::Lax && kind != Kind::Publish;
                assert_eq!(verdict == Verdict::Accept, is_lax);
            }
        }
    }
}
