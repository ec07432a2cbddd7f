//! Both sides of a link's negotiation against each other, and against peers that break its rules.

use slim_proto::link::{
    Acceptor, ConnectionType, Dialer, LINK_ID_BYTES_MAX, LinkMac, LinkReply, MacPolicy,
    NEGOTIATION_BYTES_MAX, NegotiationError, Preimage, REFUSED_DEPLOYMENT, REFUSED_SELF,
    sign_message,
};
use slim_proto::message::wire::{self, LinkNegotiationPayload, Wire as _};
use slim_proto::message::{peer_subscribe, subscription_ack};
use slim_proto::name::Name;
use slim_proto::route_header::{Parsed, parse};

fn acceptor() -> Acceptor {
    Acceptor {
        node_id: "router".to_owned(),
        version: "3.4.6".to_owned(),
        deployment_name: String::new(),
        policy: MacPolicy::Strict,
        enforce_pqc: false,
    }
}

fn dialer() -> Dialer {
    Dialer {
        link_id: "a link".to_owned(),
        node_id: "client".to_owned(),
        version: "0.0.1".to_owned(),
        deployment_name: "domain".to_owned(),
        connection_type: ConnectionType::Edge,
        policy: MacPolicy::Strict,
        enforce_pqc: false,
    }
}

/// The dialer's request, for the test to spoil.
fn request() -> LinkNegotiationPayload {
    let (_, bytes) = dialer().dial().unwrap();
    payload(&bytes)
}

fn payload(message: &[u8]) -> LinkNegotiationPayload {
    let message = wire::Message::decode(message).unwrap();
    let Some(wire::message::MessageType::Link(link)) = message.message_type else {
        panic!("not a link message")
    };
    let Some(wire::link::LinkType::LinkNegotiation(payload)) = link.link_type else {
        panic!("no link type")
    };
    payload
}

fn message(payload: LinkNegotiationPayload) -> Vec<u8> {
    let link = wire::Link {
        link_type: Some(wire::link::LinkType::LinkNegotiation(payload)),
    };
    let message_type = Some(wire::message::MessageType::Link(link));
    wire::Message {
        message_type,
        metadata: Default::default(),
    }
    .encode_to_vec()
}

#[test]
fn dialer_and_acceptor_agree_on_one_key() {
    for enforce_pqc in [false, true] {
        for connection_type in [
            ConnectionType::Edge,
            ConnectionType::Peer,
            ConnectionType::Remote,
        ] {
            let (dialing, request) = Dialer {
                connection_type,
                enforce_pqc,
                ..dialer()
            }
            .dial()
            .unwrap();
            let accepted = acceptor().accept(&request).unwrap();
            assert_eq!(accepted.connection_type, connection_type);
            assert_eq!(accepted.link_id, "a link");
            assert_eq!(
                (&*accepted.peer_node_id, &*accepted.peer_deployment),
                ("client", "domain")
            );
            assert_eq!(accepted.refusal_after_reply, None);
            let kem_bytes = payload(&accepted.reply)
                .link_kem_payload
                .map(|kem| kem.len());
            assert_eq!(kem_bytes, enforce_pqc.then_some(1088));

            let established = dialing.complete(&accepted.reply).unwrap();
            assert_eq!(established.connection_type, connection_type);
            assert_eq!(
                (&*established.peer_node_id, &*established.peer_version),
                ("router", "3.4.6")
            );
            assert!(established.key.is_some());
            assert_eq!(established.key, accepted.key);
        }
    }
}

#[test]
fn what_the_dialer_signs_the_acceptor_verifies() {
    let (dialing, request) = dialer().dial().unwrap();
    let accepted = acceptor().accept(&request).unwrap();
    let established = dialing.complete(&accepted.reply).unwrap();
    let mut dialer_mac = LinkMac::new(&established.key.unwrap(), &established.link_id);
    let mut acceptor_mac = LinkMac::new(&accepted.key.unwrap(), &accepted.link_id);

    let unsigned = peer_subscribe(Name::new("org", "ns", "app").to_wire(), 7, 8);
    let signed = sign_message(&mut dialer_mac, &unsigned).unwrap();
    let Ok(Parsed::Routed(header)) = parse(&signed) else {
        panic!("not routed")
    };
    let mut preimage = Preimage::new();
    preimage.build(&signed, &header);
    assert!(acceptor_mac.verify(&mut preimage, 8, header.tag(&signed).unwrap()));
}

#[test]
fn two_links_never_share_a_key() {
    let (_, request) = dialer().dial().unwrap();
    let keys = [(); 2].map(|()| acceptor().accept(&request).unwrap().key);
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn the_acceptor_checks_in_the_order_of_the_specification() {
    // Everything is wrong at once; each step puts right what was complained about.
    let acceptor = Acceptor {
        enforce_pqc: true,
        ..acceptor()
    };
    let mut wrong = LinkNegotiationPayload {
        is_reply: true,
        ..Default::default()
    };
    let mut refused = |repair: &dyn Fn(&mut LinkNegotiationPayload)| {
        let error = acceptor.accept(&message(wrong.clone())).err();
        repair(&mut wrong);
        error
    };
    assert_eq!(
        refused(&|p| p.link_kem_payload = Some(vec![0xFF; 1184])),
        Some(NegotiationError::KemRequired {
            bytes: 0,
            expected: 1184
        })
    );
    assert_eq!(
        refused(&|p| p.is_reply = false),
        Some(NegotiationError::UnexpectedReply)
    );
    assert!(matches!(
        refused(&|p| p.slim_version = "0.0.1".to_owned()),
        Some(NegotiationError::Version { .. })
    ));
    assert_eq!(
        refused(&|p| p.link_ecdh_public_key = vec![0; 32]),
        Some(NegotiationError::PublicKeyLength { bytes: 0 })
    );
    assert_eq!(
        refused(&|p| p.link_id = "x".repeat(LINK_ID_BYTES_MAX + 1)),
        Some(NegotiationError::EmptyLinkId)
    );
    assert_eq!(
        refused(&|p| p.link_id = "x".repeat(LINK_ID_BYTES_MAX)),
        Some(NegotiationError::LongLinkId {
            bytes: LINK_ID_BYTES_MAX + 1
        })
    );
    // Low order; then the KEM key, which is not canonical.
    let public_key = request().link_ecdh_public_key;
    let agreement = refused(&|p| p.link_ecdh_public_key = public_key.clone());
    assert!(
        matches!(agreement, Some(NegotiationError::Agreement(_))),
        "{agreement:?}"
    );
    let agreement = refused(&|p| {
        let (_, hybrid) = Dialer {
            enforce_pqc: true,
            ..dialer()
        }
        .dial()
        .unwrap();
        p.link_kem_payload = payload(&hybrid).link_kem_payload;
    });
    assert!(
        matches!(agreement, Some(NegotiationError::Agreement(_))),
        "{agreement:?}"
    );
    assert_eq!(refused(&|_| ()), None);
}

#[test]
fn the_dialer_checks_in_the_order_of_the_specification() {
    let dialer = Dialer {
        enforce_pqc: true,
        ..dialer()
    };
    let mut wrong = LinkNegotiationPayload::default();
    let good = |request: &[u8]| payload(&acceptor().accept(request).unwrap().reply);
    type Repair = fn(&mut LinkNegotiationPayload, LinkNegotiationPayload);
    let mut refused = |repair: Repair| {
        let (dialing, request) = dialer.dial().unwrap();
        let error = dialing.complete(&message(wrong.clone())).err();
        repair(&mut wrong, good(&request));
        error
    };
    assert_eq!(
        refused(|p, good| p.link_kem_payload = good.link_kem_payload),
        Some(NegotiationError::KemRequired {
            bytes: 0,
            expected: 1088
        })
    );
    assert_eq!(
        refused(|p, _| p.is_reply = true),
        Some(NegotiationError::UnexpectedRequest)
    );
    assert!(matches!(
        refused(|p, good| p.slim_version = good.slim_version),
        Some(NegotiationError::Version { .. })
    ));
    assert_eq!(
        refused(|p, _| p.link_ecdh_public_key = vec![0; 32]),
        Some(NegotiationError::PublicKeyLength { bytes: 0 })
    );
    assert_eq!(
        refused(|p, good| p.link_id = good.link_id),
        Some(NegotiationError::OtherLinkId)
    );
    assert!(matches!(
        refused(|_, _| ()),
        Some(NegotiationError::Agreement(_))
    ));
}

#[test]
fn a_first_message_of_another_kind_opens_no_link() {
    let nothing_in_it = wire::Message {
        message_type: Some(wire::message::MessageType::Link(wire::Link {
            link_type: None,
        })),
        metadata: Default::default(),
    };
    let name = Name::new("org", "ns", "app").to_wire();
    for first in [
        vec![],
        nothing_in_it.encode_to_vec(),
        subscription_ack(1, Ok(())),
        peer_subscribe(name, 1, 8),
    ] {
        assert_eq!(
            acceptor().accept(&first).err(),
            Some(NegotiationError::NotNegotiation)
        );
        let (dialing, _) = dialer().dial().unwrap();
        assert_eq!(
            dialing.complete(&first).err(),
            Some(NegotiationError::NotNegotiation)
        );
    }
    assert!(matches!(
        acceptor().accept(&[0x2a, 0xff]),
        Err(NegotiationError::Decode(_))
    ));
}

#[test]
fn an_oversized_negotiation_is_refused_unread() {
    let bytes = NEGOTIATION_BYTES_MAX + 1;
    assert_eq!(
        acceptor().accept(&vec![0; bytes]).err(),
        Some(NegotiationError::TooLarge { bytes })
    );
}

#[test]
fn an_unknown_connection_type_is_remote_and_answered_as_remote() {
    let accepted = acceptor()
        .accept(&message(LinkNegotiationPayload {
            connection_type: 9,
            ..request()
        }))
        .unwrap();
    assert_eq!(accepted.connection_type, ConnectionType::Remote);
    assert_eq!(payload(&accepted.reply).connection_type, 0);
}

#[test]
fn a_kem_payload_of_another_length_is_ignored_when_none_is_required() {
    for bytes in [0, 1, 1088, 1183, 1185] {
        let odd = LinkNegotiationPayload {
            link_kem_payload: Some(vec![1; bytes]),
            ..request()
        };
        let accepted = acceptor().accept(&message(odd)).unwrap();
        assert_eq!(
            LinkReply::decode(&accepted.reply).unwrap().kem_payload,
            None
        );
    }
}

#[test]
fn a_lax_acceptor_answers_a_bad_key_with_none() {
    let lax = Acceptor {
        policy: MacPolicy::Lax,
        ..acceptor()
    };
    for public_key in [vec![], vec![1; 31], vec![0; 32]] {
        let bad = LinkNegotiationPayload {
            link_ecdh_public_key: public_key,
            ..request()
        };
        let accepted = lax.accept(&message(bad)).unwrap();
        assert_eq!(accepted.key, None);
        assert!(payload(&accepted.reply).link_ecdh_public_key.is_empty());

        let (dialing, _) = Dialer {
            policy: MacPolicy::Lax,
            ..dialer()
        }
        .dial()
        .unwrap();
        assert_eq!(dialing.complete(&accepted.reply).unwrap().key, None);
        let (dialing, _) = dialer().dial().unwrap();
        assert_eq!(
            dialing.complete(&accepted.reply).err(),
            Some(NegotiationError::PublicKeyLength { bytes: 0 })
        );
    }
}

#[test]
fn only_a_peer_is_refused_for_its_node_or_its_deployment() {
    let ask = |own: &str, connection_type, node_id: &str, deployment_name: &str| {
        let asking = Dialer {
            connection_type,
            node_id: node_id.to_owned(),
            deployment_name: deployment_name.to_owned(),
            ..dialer()
        };
        let acceptor = Acceptor {
            deployment_name: own.to_owned(),
            ..acceptor()
        };
        let accepted = acceptor.accept(&asking.dial().unwrap().1).unwrap();
        // The reply is a normal one all the same.
        assert_eq!(
            LinkReply::decode(&accepted.reply).unwrap().public_key.len(),
            32
        );
        accepted.refusal_after_reply
    };
    assert_eq!(
        ask("", ConnectionType::Peer, "router", ""),
        Some(REFUSED_SELF)
    );
    assert_eq!(
        ask("ours", ConnectionType::Peer, "router", "theirs"),
        Some(REFUSED_SELF)
    );
    assert_eq!(
        ask("ours", ConnectionType::Peer, "other", "theirs"),
        Some(REFUSED_DEPLOYMENT)
    );
    assert_eq!(
        ask("ours", ConnectionType::Peer, "other", ""),
        Some(REFUSED_DEPLOYMENT)
    );
    assert_eq!(ask("ours", ConnectionType::Peer, "other", "ours"), None);
    assert_eq!(ask("", ConnectionType::Peer, "other", "theirs"), None);
    assert_eq!(ask("ours", ConnectionType::Edge, "router", "theirs"), None);
    assert_eq!(
        ask("ours", ConnectionType::Remote, "router", "theirs"),
        None
    );
}

#[test]
fn a_request_in_two_parts_is_the_request_joined() {
    let whole = request();
    let first = LinkNegotiationPayload {
        link_id: whole.link_id.clone(),
        ..Default::default()
    };
    let second = LinkNegotiationPayload {
        link_id: String::new(),
        ..whole.clone()
    };
    let split = [message(first), message(second)].concat();
    assert_eq!(acceptor().accept(&split).unwrap().link_id, whole.link_id);
}
