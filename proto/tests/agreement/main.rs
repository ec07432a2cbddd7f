//! `parse` against prost: what one accepts the other accepts, with the same meaning; and what merging,
//! rewriting and patching make of a message is what its receiver is meant to see.

mod reference;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use reference::check;
use slim_proto::message::wire::{self, Wire as _, message::MessageType};
use slim_proto::route_header::{Fault, LastNames, Parsed, parse, parse_next};

// ---- messages as encoders write them

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(u64::MAX), 0..300u64, any::<u64>()]
}

fn number32() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(u32::MAX), 0..300u32, any::<u32>()]
}

fn text() -> BoxedStrategy<String> {
    prop_oneof!["", "[a-z]{1,12}", "\\PC{0,6}", "[a-z]{120,240}"].boxed()
}

fn wire_name() -> BoxedStrategy<wire::Name> {
    let name_id = (number(), number()).prop_map(|(id_0, id_1)| wire::NameId { id_0, id_1 });
    let encoded = (number(), number(), number(), option::of(name_id)).prop_map(
        |(component_0, component_1, component_2, name_id)| wire::EncodedName {
            component_0,
            component_1,
            component_2,
            name_id,
        },
    );
    let strings =
        (text(), text(), text()).prop_map(|(str_component_0, str_component_1, str_component_2)| {
            wire::StringName {
                str_component_0,
                str_component_1,
                str_component_2,
            }
        });
    (
        option::weighted(0.95, encoded),
        option::weighted(0.8, strings),
    )
        .prop_map(|(name, str_name)| wire::Name { name, str_name })
        .boxed()
}

fn tag() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        Just(None),
        vec(any::<u8>(), 0..40).prop_map(Some),
        vec(any::<u8>(), 32).prop_map(Some)
    ]
}

fn header() -> BoxedStrategy<wire::SlimHeader> {
    let names = (
        option::weighted(0.95, wire_name()),
        option::weighted(0.95, wire_name()),
    );
    let scalars = (
        number32(),
        number32(),
        option::weighted(0.1, number()),
        option::weighted(0.1, number()),
    );
    let optional = (
        option::of(number()),
        option::of(any::<bool>()),
        tag(),
        tag(),
    );
    (names, text(), text(), scalars, optional)
        .prop_map(
            |(
                (source, destination),
                identity,
                version,
                (fanout, ttl, recv_from, forward_to),
                optional,
            )| {
                let (incoming_conn, error, header_mac, e2e_header_sig) = optional;
                wire::SlimHeader {
                    source,
                    destination,
                    identity,
                    fanout,
                    version,
                    ttl,
                    recv_from,
                    forward_to,
                    incoming_conn,
                    error,
                    header_mac,
                    e2e_header_sig,
                }
            },
        )
        .boxed()
}

fn participant() -> BoxedStrategy<wire::Participant> {
    (
        option::of(wire_name()),
        option::of(any::<(bool, bool)>()),
        -1..3,
    )
        .prop_map(|(name, settings, status)| {
            let settings = settings.map(|(sends_data, receives_data)| wire::ParticipantSettings {
                sends_data,
                receives_data,
            });
            wire::Participant {
                name,
                settings,
                status,
            }
        })
        .boxed()
}

fn content() -> BoxedStrategy<wire::Content> {
    use wire::command_payload::CommandPayloadType as Command;
    use wire::content::ContentType;

    let app = (text(), vec(any::<u8>(), 0..60)).prop_map(|(payload_type, blob)| {
        ContentType::AppPayload(wire::ApplicationPayload { payload_type, blob })
    });
    let command = prop_oneof![
        Just(Command::DiscoveryRequest(wire::DiscoveryRequestPayload {})),
        (
            option::of(wire_name()),
            option::of(wire_name()),
            option::of(any::<(u32, u32)>())
        )
            .prop_map(|(channel, control, timer)| {
                let timer_settings = timer.map(|(timeout, max_retries)| wire::TimerSettings {
                    timeout,
                    max_retries,
                });
                let mls_settings = Some(wire::MlsSettings {
                    header_integrity_validation_percent: 7,
                });
                Command::JoinRequest(wire::JoinRequestPayload {
                    timer_settings,
                    channel,
                    control,
                    mls_settings,
                })
            }),
        (
            option::of(vec(any::<u8>(), 0..20)),
            option::of(participant())
        )
            .prop_map(|(key_package, participant)| {
                Command::JoinReply(wire::JoinReplyPayload {
                    key_package,
                    participant,
                })
            }),
        (0..4, vec(participant(), 0..3), vec(any::<u8>(), 0..20)).prop_map(
            |(op, participants, mls_content)| {
                Command::GroupUpdate(wire::GroupUpdatePayload {
                    op,
                    participant: participants.first().cloned(),
                    participants,
                    mls: Some(wire::MlsPayload {
                        commit_id: 3,
                        mls_content,
                    }),
                })
            }
        ),
        vec(wire_name(), 0..3)
            .prop_map(|participants| Command::GroupClose(wire::GroupClosePayload { participants })),
        number().prop_map(|epoch| Command::Heartbeat(wire::HeartbeatPayload { epoch })),
        option::of(wire_name()).prop_map(|participant| {
            Command::RejoinRequest(wire::RejoinRequestPayload {
                participant,
                key_package: vec![1, 2],
            })
        }),
    ];
    let command = option::of(command).prop_map(|command_payload_type| {
        ContentType::CommandPayload(wire::CommandPayload {
            command_payload_type,
        })
    });
    option::weighted(0.9, prop_oneof![app, command])
        .prop_map(|content_type| wire::Content { content_type })
        .boxed()
}

fn message() -> BoxedStrategy<wire::Message> {
    let header = || option::weighted(0.95, header());
    let session =
        any::<(i32, i32, u32, u32)>().prop_map(|(kind, message_kind, session_id, message_id)| {
            wire::SessionHeader {
                session_type: kind,
                session_message_type: message_kind,
                session_id,
                message_id,
            }
        });
    let publish = (
        header(),
        option::weighted(0.95, session),
        option::of(content()),
    )
        .prop_map(|(header, session, msg)| {
            MessageType::Publish(wire::Publish {
                header,
                session,
                msg,
            })
        });
    let link =
        (text(), text(), tag(), -1..4).prop_map(|(link_id, node_id, key, connection_type)| {
            let payload = wire::LinkNegotiationPayload {
                link_id,
                node_id,
                link_ecdh_public_key: key.unwrap_or_default(),
                connection_type,
                ..Default::default()
            };
            MessageType::Link(wire::Link {
                link_type: Some(wire::link::LinkType::LinkNegotiation(payload)),
            })
        });
    let member = prop_oneof![
        2 => (header(), number()).prop_map(|(header, subscription_id)| {
            MessageType::Subscribe(wire::Subscribe { header, subscription_id })
        }),
        1 => (header(), number()).prop_map(|(header, subscription_id)| {
            MessageType::Unsubscribe(wire::Unsubscribe { header, subscription_id })
        }),
        4 => publish,
        1 => link,
        1 => (number(), any::<bool>(), text()).prop_map(|(subscription_id, success, error)| {
            MessageType::SubscriptionAck(wire::SubscriptionAck { subscription_id, success, error })
        }),
    ];
    let metadata = proptest::collection::btree_map(text(), text(), 0..3);
    (option::weighted(0.98, member), metadata)
        .prop_map(|(message_type, metadata)| wire::Message {
            message_type,
            metadata,
        })
        .boxed()
}

// ---- what else may arrive

#[derive(Clone, Debug)]
enum Mutation {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
    Cut(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        1 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        1 => index().prop_map(Mutation::Remove),
        1 => (index(), index()).prop_map(|(a, b)| Mutation::Repeat(a, b)),
        1 => index().prop_map(Mutation::Cut),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    match mutation {
        Mutation::Set(at, byte) => *at.get_mut(bytes) = *byte,
        Mutation::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
        Mutation::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
        Mutation::Repeat(a, b) => {
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            let part = bytes[a.min(b)..a.max(b)].to_vec();
            bytes.splice(b..b, part);
        }
        Mutation::Cut(at) => bytes.truncate(at.index(bytes.len())),
    }
}

/// A varint in `extra` bytes more than it needs.
fn padded(value: u64, extra: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(value, &mut bytes);
    for _ in 0..extra.min(10 - bytes.len()) {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push(0);
    }
    bytes
}

/// Well-formed protobuf of no particular schema: fields repeated, out of order, unknown, mistyped,
/// varints padded, groups, and nesting like that of our messages.
fn soup() -> BoxedStrategy<Vec<u8>> {
    let leaf = prop_oneof![
        3 => (number(), prop_oneof![4 => Just(0usize), 1 => 0..10usize]).prop_map(|(v, extra)| (0u64, padded(v, extra))),
        3 => prop_oneof![vec(any::<u8>(), 0..4), "[a-z]{0,3}".prop_map(String::into_bytes), vec(any::<u8>(), 32)]
            .prop_map(length_delimited),
        1 => any::<[u8; 8]>().prop_map(|v| (1, v.to_vec())),
        1 => any::<[u8; 4]>().prop_map(|v| (5, v.to_vec())),
    ];
    let fields = leaf
        .prop_map(|leaf| vec![leaf])
        .prop_recursive(5, 60, 6, |inner| {
            let numbered = vec(
                (
                    prop_oneof![5 => 1..7u64, 1 => 1..14u64, 1 => 0..400u64],
                    inner,
                ),
                0..6,
            );
            numbered.prop_flat_map(|fields| {
                let fields: Vec<_> = fields
                    .into_iter()
                    .flat_map(|(n, values)| values.into_iter().map(move |value| (n, value)))
                    .collect();
                let bytes = assemble(&fields);
                prop_oneof![
                    12 => Just(vec![length_delimited(bytes.clone())]),
                    1 => Just(vec![(3, bytes)]),
                ]
            })
        });
    vec((prop_oneof![5 => 1..7u64, 1 => 0..20u64], fields), 0..5)
        .prop_map(|fields| {
            let fields: Vec<_> = fields
                .into_iter()
                .flat_map(|(n, values)| values.into_iter().map(move |value| (n, value)))
                .collect();
            assemble(&fields)
        })
        .boxed()
}

fn length_delimited(bytes: Vec<u8>) -> (u64, Vec<u8>) {
    (2, [padded(bytes.len() as u64, 0), bytes].concat())
}

fn assemble(fields: &[(u64, (u64, Vec<u8>))]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, (wire_type, value)) in fields {
        out.extend(padded(number << 3 | wire_type, 0));
        out.extend(value);
        if *wire_type == 3 {
            out.extend(padded(number << 3 | 4, 0));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn an_encoded_message_means_to_us_what_it_means_to_prost(message in message()) {
        let bytes = message.encode_to_vec();
        prop_assert!(!matches!(parse(&bytes), Ok(Parsed::NeedsMerge) | Err(_)), "{:?}", parse(&bytes));
        check(&bytes);
    }

    #[test]
    fn a_damaged_message_is_refused_or_means_the_same(message in message(), damage in vec(mutation(), 1..4)) {
        let mut bytes = message.encode_to_vec();
        for mutation in &damage {
            mutate(&mut bytes, mutation);
        }
        check(&bytes);
    }

    #[test]
    fn what_came_before_changes_nothing(messages in vec(message(), 1..3), damage in vec(vec(mutation(), 0..3), 1..6)) {
        let mut last = LastNames::default();
        for damage in &damage {
            for message in &messages {
                let mut bytes = message.encode_to_vec();
                for mutation in damage {
                    mutate(&mut bytes, mutation);
                }
                for _ in 0..2 {
                    prop_assert_eq!(parse_next(&bytes, &mut last), parse(&bytes));
                }
            }
        }
    }

    #[test]
    fn messages_run_together_mean_what_prost_merges(messages in vec(message(), 2..4)) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.encode_to_vec()).collect();
        check(&bytes);
    }

    #[test]
    fn a_member_in_parts_means_what_prost_merges(headers in vec(header(), 1..3), kind in 1..4u64, tail in soup()) {
        let mut member = Vec::new();
        for header in headers {
            member.extend(assemble(&[(1, length_delimited(header.encode_to_vec()))]));
        }
        member.extend(tail);
        check(&assemble(&[(kind, length_delimited(member))]));
    }

    #[test]
    fn a_header_with_anything_in_it_means_the_same(header in header(), before in soup(), after in soup(), kind in 1..4u64) {
        let header = [before, header.encode_to_vec(), after].concat();
        let member = assemble(&[(1, length_delimited(header)), (2, length_delimited(vec![]))]);
        check(&assemble(&[(kind, length_delimited(member))]));
        let member = assemble(&[(2, (0, vec![5]))]);
        check(&assemble(&[(kind, length_delimited(member))]));
    }

    #[test]
    fn protobuf_of_any_shape_is_judged_as_prost_judges_it(bytes in soup()) {
        check(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        check(&bytes);
    }
}

/// The publish of dataplane 11.4, with a command payload's worth of nesting.
fn specimen() -> Vec<u8> {
    let name = |service: &str| Some(slim_proto::name::Name::new("org", "ns", service).to_wire());
    let header = wire::SlimHeader {
        source: name("app"),
        destination: name("alicé"),
        identity: "tok".to_owned(),
        fanout: 1,
        version: "3.4.6".to_owned(),
        ttl: 8,
        incoming_conn: Some(1),
        header_mac: Some(vec![7; 32]),
        ..Default::default()
    };
    let participants = vec![wire::Participant {
        name: name("bob"),
        settings: None,
        status: 1,
    }];
    let update = wire::GroupUpdatePayload {
        op: 1,
        participant: None,
        participants,
        mls: None,
    };
    let command_payload_type = Some(wire::command_payload::CommandPayloadType::GroupUpdate(
        update,
    ));
    let command = wire::content::ContentType::CommandPayload(wire::CommandPayload {
        command_payload_type,
    });
    let publish = wire::Publish {
        header: Some(header),
        session: Some(wire::SessionHeader {
            session_id: 7,
            ..Default::default()
        }),
        msg: Some(wire::Content {
            content_type: Some(command),
        }),
    };
    let message_type = Some(MessageType::Publish(publish));
    wire::Message {
        message_type,
        metadata: [("k".to_owned(), "v".to_owned())].into(),
    }
    .encode_to_vec()
}

#[test]
fn every_cut_and_every_changed_byte_is_judged_as_prost_judges_it() {
    let whole = specimen();
    for length in 0..whole.len() {
        check(&whole[..length]);
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        for byte in 0..=255 {
            changed[at] = byte;
            check(&changed);
            let mut last = LastNames::default();
            if byte % 15 == 0 {
                for message in [&whole, &changed, &whole] {
                    assert_eq!(parse_next(message, &mut last), parse(message));
                }
            }
        }
    }
}

#[test]
fn an_error_names_the_field() {
    let mut bytes = specimen();
    let at = bytes
        .windows(3)
        .position(|window| window == b"bob")
        .unwrap();
    bytes[at] = 0xFF;
    let error = parse(&bytes).unwrap_err();
    assert_eq!((error.fault, error.offset), (Fault::Utf8, at));
    assert_eq!(
        error.path,
        "Message.publish.msg.command_payload.group_update.participants.name.str_name.str_component_2"
    );
    let error = parse(&[0x1a, 0x03, 0x0a, 0x01, 0x1a]).unwrap_err();
    assert_eq!(
        (error.fault, &*error.path),
        (Fault::Truncated, "Message.publish.header.identity")
    );
}

#[test]
fn groups_may_nest_to_the_limit_and_no_deeper() {
    let nested = |depth: usize| [vec![0x7B; depth], vec![0x7C; depth]].concat();
    assert_eq!(parse(&nested(64)), Ok(Parsed::Unknown));
    assert_eq!(parse(&nested(65)).unwrap_err().fault, Fault::Nesting);
    check(&nested(64));
    check(&nested(10_000));
}

#[test]
fn a_ttl_keeps_its_length_when_a_hop_is_taken_off() {
    for (ttl, before, after) in [
        (8u64, vec![8], vec![7]),
        (1, vec![1], vec![0]),
        (128, vec![0x80, 1], vec![0xFF, 0]),
        (300, vec![0xAC, 2], vec![0xAB, 2]),
        (
            1 << 32 | 8,
            vec![0x88, 0x80, 0x80, 0x80, 0x10],
            vec![0x87, 0x80, 0x80, 0x80, 0],
        ),
    ] {
        let header = slim_proto::message::wire::SlimHeader {
            source: Some(slim_proto::name::Name::new("a", "b", "c").to_wire()),
            destination: Some(slim_proto::name::Name::new("a", "b", "c").to_wire()),
            ..Default::default()
        };
        let header = [
            header.encode_to_vec(),
            assemble(&[
                (6, (0, before.clone())),
                (11, length_delimited(vec![0; 32])),
            ]),
        ];
        let member = assemble(&[(1, length_delimited(header.concat()))]);
        let message = assemble(&[(1, length_delimited(member))]);
        let Ok(Parsed::Routed(parsed)) = parse(&message) else {
            panic!("{ttl}")
        };
        assert!(parsed.is_patchable());
        assert_eq!(parsed.ttl, ttl as u32);
        let mut patched = message.clone();
        parsed.patch_ttl(&mut patched);
        let at = message.len() - 34 - before.len();
        assert_eq!(patched[at..at + after.len()], after, "{ttl}");
        check(&message);
    }
}
