//! Writes the first inputs of every target, by hand and from the published vectors: `cargo run -p slim-fuzz --example seeds`.
//! What the fuzzer made of them stands beside them in `corpus/`.

use std::fs;
use std::path::Path;

use slim_proto::link::{
    Acceptor, ConnectionType, Dialer, LinkKey, LinkMac, LinkRequest, MacPolicy, sign_message,
};
use slim_proto::message::wire::{self, Wire as _, message::MessageType};
use slim_proto::message::{peer_subscribe, subscription_ack};
use slim_proto::name::{InstanceId, Name};

/// dataplane 11.2, 11.4: a Subscribe and a Publish as published clients send them.
const SUBSCRIBE: &str = "
    0ad9010acc010a4a0a3808bbacaab7b780969f870110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e58601221508dfee
    aae580ccf6d8481082a9fca5b3fc939fa701120e0a036f726712026e731a03617070124a0a3808bbacaab7b780969f87
    0110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e58601221508dfeeaae580ccf6d8481082a9fca5b3fc939fa701120e
    0a036f726712026e731a036170701a03746f6b20012a05332e342e36300848015a20d4bb59d8222a777c5c7afccc43a0
    953245399dcbe2451aa91540d5522f2115fb10ef9bafcdf8acd19101";
const PUBLISH: &str = "
    1af8010ad4010a4a0a3808bbacaab7b780969f870110d1a1a6e3a4d3ddfcee0118d5ed97b5f784d5e58601221508dfee
    aae580ccf6d8481082a9fca5b3fc939fa701120e0a036f726712026e731a0361707012520a3608c2d7f58beb85aace16
    10e8acfec9fcf8c0c9211882e3daadfa91afc87b221608ffffffffffffffffff0110ffffffffffffffffff0112180a06
    61676e746379120764656661756c741a05616c6963651a03746f6b20012a05332e342e36300848015a20da2fdce29be3
    7c1def101236270faa1cddbad604a620c8960d5172986ad4e558120808011001180720091a150a130a0a746578742f70
    6c61696e120568656c6c6f22060a016b120176";
/// dataplane 11.3.
const LINK_REQUEST: &str = "
    2a5b0a590a2430303030303030302d303030302d343030302d383030302d3030303030303030303030311205332e342e
    36222007a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c280232066e6f64652d61";
const LINK_REPLY: &str = "
    2a5d0a5b0a2430303030303030302d303030302d343030302d383030302d3030303030303030303030311205332e342e
    361801222064b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466280232066e6f64652d72";

fn main() -> std::io::Result<()> {
    let seeds = [
        ("frames", frames()),
        ("connection", connection()),
        ("header_block", header_blocks()),
        ("grpc", grpc()),
        ("route_header", messages()),
        ("link", links()),
        ("config", configs()),
        ("name", names()),
        ("routes", routes()),
    ];
    for (target, inputs) in seeds {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        fs::create_dir_all(&folder)?;
        for (number, input) in inputs.iter().enumerate() {
            let file = folder.join(format!("seed-{number:02}"));
            // The keys of a hybrid negotiation are random: once written they stay.
            if !file.exists() {
                fs::write(file, input)?;
            }
        }
    }
    Ok(())
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("filtered above") as u8;
    digits
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
    [
        &[l0, l1, l2, kind, flags][..],
        &stream.to_be_bytes(),
        payload,
    ]
    .concat()
}

fn literal(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    fields
        .iter()
        .flat_map(|(name, value)| [vec![0], text(name), text(value)].concat())
        .collect()
}

const REQUEST: [(&str, &str); 7] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/dataplane.proto.v1.DataPlaneService/OpenChannel"),
    (":authority", "127.0.0.1:46357"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "tonic/0.14.2"),
];

/// The request as tonic codes it: static indices, Huffman, entries for the table.
fn coded_request() -> Vec<u8> {
    let mut encoder = fluke_hpack::Encoder::new();
    let fields = REQUEST.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    encoder.encode(fields)
}

fn grpc_message(message: &[u8]) -> Vec<u8> {
    [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

fn frames() -> Vec<Vec<u8>> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = frame(
        4,
        0,
        0,
        &hex("000200000000 000400200000 000500004000 000600004000"),
    );
    let request = frame(1, 4, 1, &coded_request());
    let plain = literal(&REQUEST);
    let data = frame(0, 0, 1, &grpc_message(&hex(LINK_REQUEST)));
    let padded = [&[3, 0, 0, 0, 0, 16], &plain[..40], &[0; 3]].concat();
    let rest_of_block = frame(9, 4, 1, &plain[40..]);
    let update = frame(8, 0, 0, &5_177_345u32.to_be_bytes());
    let ack = frame(4, 1, 0, &[]);
    let conversation = [
        ack.clone(),
        update.clone(),
        request.clone(),
        data.clone(),
        frame(0, 8, 1, b"\x04a padded one\0\0\0\0"),
        frame(6, 0, 0, b"pingpong"),
        frame(0, 0, 1, &[]),
        frame(0xfa, 0x55, 1, b"unknown"),
        frame(2, 0, 7, &[0; 5]),
        frame(1, 5, 3, &plain),
        frame(8, 0, 3, &1u32.to_be_bytes()),
        frame(3, 0, 3, &8u32.to_be_bytes()),
        frame(7, 0, 0, b"\0\0\0\0\0\0\0\0bye"),
        frame(1, 5, 1, &literal(&[("grpc-status", "0")])),
    ];
    vec![
        [&[0x0c, 7], &preface[..], &settings, &conversation.concat()].concat(),
        [&[0x0d, 9], &conversation.concat()[..]].concat(),
        [&[0x0f, 1], &update[..], &request, &data, &data].concat(),
        [&[0x2f, 1], &request[..], &data, &data].concat(),
        [&[0x3d, 1], &request[..], &data].concat(),
        [
            &[0xc1, 3],
            &frame(1, 0x28, 1, &padded)[..],
            &rest_of_block,
            &data,
        ]
        .concat(),
        [
            &[0x81, 3],
            &request[..],
            &frame(1, 4, 3, &plain),
            &frame(1, 4, 5, &plain),
        ]
        .concat(),
        [
            &[0x0d, 3],
            &settings[..],
            &settings,
            &request,
            &frame(4, 0, 0, &hex("00047fffffff")),
        ]
        .concat(),
        b"\0\0GET / HTTP/1.1\r\n\r\n".to_vec(),
        [&[0, 0], &hex("16030100f8010000f40303")[..]].concat(),
        [&[0, 1], &preface[..], &frame(6, 0, 0, &[0; 8])].concat(),
    ]
}

fn connection() -> Vec<Vec<u8>> {
    // 2 request, 12 accept, 13 answer, 6 acknowledge, 0 data, 14 release, 4 window, 5 settings, 15 send, 17 end, 18 reset.
    let open = [2, 0, 1, 99, 3, 12, 0, 13, 0];
    let data = |brim: u8| [0, 0, 1, 99, brim, 1, 0, 2];
    let padded = |bytes: u8| [0, 0, 1, 0, bytes, 1];
    let release = [14, 0xff, 0xff];
    vec![
        [
            &[0, 0][..],
            &open,
            &data(40),
            &release,
            &[6, 0],
            &data(200),
            &release,
        ]
        .concat(),
        [
            &[4, 0][..],
            &open,
            &[6, 0],
            &data(70),
            &release,
            &data(70),
            &release,
            &data(100),
        ]
        .concat(),
        [&[6, 1][..], &open, &data(1), &release, &data(1), &release].concat(),
        [
            &[5, 2][..],
            &open,
            &[
                4, 1, 50, 0, 5, 1, 9, 9, 0, 15, 1, 0, 4, 0, 0, 250, 1, 1, 1, 1, 0,
            ],
        ]
        .concat(),
        [
            &[1, 3][..],
            &open,
            &[
                2, 0, 1, 99, 0, 3, 0, 0, 17, 0, 0, 0, 0, 0, 5, 2, 65, 66, 18, 0, 1,
            ],
        ]
        .concat(),
        [
            &[2, 0][..],
            &open,
            &[
                19, 1, 7, 10, 0, 19, 0, 1, 65, 2, 0, 1, 99, 0, 8, 0, 0, 16, 9, 2, 65, 66, 0,
            ],
        ]
        .concat(),
        [
            &[3, 0][..],
            &[2, 0, 0, 12, 1, 0, 5, 0],
            &[12, 0, 13, 0],
            &data(5),
            &data(6),
        ]
        .concat(),
        [
            &[7, 0][..],
            &open,
            &data(200),
            &[7, 3, 0, 11, 3, 1, 1, 2, 65, 66, 0],
        ]
        .concat(),
        // Padded to the brim of a small window, again and again; and with one byte more than what is left of half of it.
        [
            &[4, 0][..],
            &open,
            &[6, 0],
            &padded(49),
            &release,
            &padded(47),
            &release,
            &padded(46),
            &release,
        ]
        .concat(),
        // A window of exactly 2^31 - 1, and of one more.
        [
            &[1, 0][..],
            &open,
            &[4, 1, 220, 0x7f, 0xff, 0, 0, 0],
            &[4, 1, 1, 0],
        ]
        .concat(),
        [&[1, 0][..], &open, &[4, 1, 220, 0x7f, 0xff, 0, 1, 0]].concat(),
    ]
}

fn header_blocks() -> Vec<Vec<u8>> {
    let coded = coded_request();
    let plain = literal(&REQUEST);
    let with = |situation: u8, block: &[u8]| [&[situation], block].concat();
    vec![
        with(0, &coded),
        with(1, &plain),
        with(0x20, &[&coded[..], &coded].concat()),
        with(0x1c, &plain),
        with(
            2,
            &[literal(&REQUEST), literal(&[("content-length", "0")])].concat(),
        ),
        // RFC 7541 C.4.1 to C.4.3 at once, C.6.1, and an update of the table's size.
        with(
            0x40,
            &hex(
                "828684418cf1e3c2e5f23a6ba0ab90f4ff828684be5886a8eb10649cbf828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ),
        ),
        with(
            0,
            &hex(
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            ),
        ),
        with(0, &[&[0x3f, 0xe1, 0x1f, 0x20], &plain[..]].concat()),
        with(
            0,
            &literal(&[(":method", "CONNECT"), (":authority", "a:1")]),
        ),
        with(
            0,
            &literal(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/"),
                ("connection", "close"),
            ]),
        ),
        with(0x81, b"\0\0\0\x0cno such method: 100 %\n"),
        with(0x83, b"\0\0\0\0"),
        with(0x82, "\0\0\0\x07größer \u{1f600}".as_bytes()),
        with(0x80, b"\0\0\x01\x91"),
        // A table of 68 bytes, which two fields fill; both are asked for.
        with(
            0,
            &[&hex("3f25 4001610162 4001630163 bebf"), &plain[..]].concat(),
        ),
        // The end-of-string code begins where a string of one symbol ends: padding of a byte and more.
        with(0, &[&plain[..], &hex("000161 81ff")].concat()),
        with(0, &[&plain[..], &hex("000161 821fff")].concat()),
        with(
            0,
            &[literal(&REQUEST), literal(&[("x", "blank ")])].concat(),
        ),
        with(
            0,
            &[literal(&REQUEST), literal(&[("x", "\tblank")])].concat(),
        ),
        with(
            0,
            &[
                literal(&REQUEST),
                literal(&[("content-length", "18446744073709551616")]),
            ]
            .concat(),
        ),
    ]
}

fn grpc() -> Vec<Vec<u8>> {
    let request = grpc_message(&hex(LINK_REQUEST));
    vec![
        [
            &[3, 0],
            &request[..],
            &grpc_message(&[]),
            &grpc_message(b"three"),
        ]
        .concat(),
        [&[1, 0], &request[..request.len() - 1]].concat(),
        b"\x01\x01\x00\x03\x00\x00\x10\x00\x00\x05".to_vec(),
        b"\x01\x01\xff\xff\x08\x01".to_vec(),
        b"\x01\x00\x01\0\0\0\0".to_vec(),
        b"\x01\x00\x00\0\x40\0\x01".to_vec(),
        b"\x01\x00\x00\0\x40\0\0ab".to_vec(),
    ]
}

fn header(source: &Name, destination: &Name) -> wire::SlimHeader {
    wire::SlimHeader {
        source: Some(source.to_wire()),
        destination: Some(destination.to_wire()),
        identity: "tok".to_owned(),
        fanout: 1,
        version: "3.4.6".to_owned(),
        ttl: 8,
        incoming_conn: Some(1),
        ..Default::default()
    }
}

fn encoded(message_type: MessageType) -> Vec<u8> {
    let metadata = [("k".to_owned(), "v".to_owned())].into();
    wire::Message {
        message_type: Some(message_type),
        metadata,
    }
    .encode_to_vec()
}

fn messages() -> Vec<Vec<u8>> {
    let name = Name::new("org", "ns", "app");
    let one = name.clone().with_id(InstanceId::new(42));
    let publish = wire::Publish {
        header: Some(wire::SlimHeader {
            recv_from: Some(7),
            forward_to: Some(9),
            error: Some(true),
            ttl: 300,
            ..header(&one, &name)
        }),
        session: Some(wire::SessionHeader {
            session_type: wire::SessionType::PointToPoint.into(),
            session_message_type: wire::SessionMessageType::Msg.into(),
            session_id: 7,
            message_id: 9,
        }),
        msg: Some(wire::Content {
            content_type: Some(wire::content::ContentType::AppPayload(
                wire::ApplicationPayload {
                    payload_type: "text/plain".to_owned(),
                    blob: b"hello".to_vec(),
                },
            )),
        }),
    };
    let published = encoded(MessageType::Publish(publish.clone()));
    let bare = wire::Publish {
        header: None,
        ..publish
    };
    let unsubscribe = wire::Unsubscribe {
        header: Some(header(&one, &one)),
        subscription_id: 5,
    };
    let unsubscribe = encoded(MessageType::Unsubscribe(unsubscribe));
    vec![
        hex(SUBSCRIBE),
        hex(PUBLISH),
        hex(LINK_REQUEST),
        subscription_ack(3, Ok(())),
        subscription_ack(99, Err("subscription id not found: 99")),
        peer_subscribe(name.to_wire(), 4, 8),
        [published.clone(), published.clone()].concat(),
        published,
        [hex(SUBSCRIBE), unsubscribe.clone()].concat(),
        unsubscribe,
        encoded(MessageType::Publish(bare)),
        a_destination_in_parts(),
        // A group, and one that does not end.
        hex("0b0c"),
        hex("0b"),
    ]
}

/// A Subscribe whose destination comes in two parts, of which a receiver makes one.
fn a_destination_in_parts() -> Vec<u8> {
    let name = Name::new("org", "ns", "app").to_wire();
    let only_text = wire::Name {
        name: None,
        ..name.clone()
    };
    let only_hashes = wire::Name {
        str_name: None,
        ..name.clone()
    };
    let part = |key: u8, value: Vec<u8>| [&[key, value.len() as u8], &value[..]].concat();
    let header = [
        part(0x0a, name.encode_to_vec()),
        part(0x12, only_text.encode_to_vec()),
        part(0x12, only_hashes.encode_to_vec()),
        hex("3008 3007 5a00 5a0101"),
    ]
    .concat();
    let header = [
        &[
            0x0a,
            header.len() as u8 & 0x7f | 0x80,
            (header.len() >> 7) as u8,
        ],
        &header[..],
    ]
    .concat();
    [
        &[
            0x0a,
            header.len() as u8 & 0x7f | 0x80,
            (header.len() >> 7) as u8,
        ],
        &header[..],
    ]
    .concat()
}

fn links() -> Vec<Vec<u8>> {
    let mut mac = LinkMac::new(&LinkKey::from_bytes([7; 32]), "l");
    let signed = sign_message(&mut mac, &hex(SUBSCRIBE)).expect("a whole message");
    let dialer = Dialer {
        link_id: "l".to_owned(),
        node_id: "node-a".to_owned(),
        version: "3.4.6".to_owned(),
        deployment_name: String::new(),
        connection_type: ConnectionType::Peer,
        policy: MacPolicy::Strict,
        enforce_pqc: true,
    };
    let (_, hybrid) = dialer.dial().expect("random numbers");
    let acceptor = Acceptor {
        node_id: "node-r".to_owned(),
        version: "3.4.6".to_owned(),
        deployment_name: String::new(),
        policy: MacPolicy::Strict,
        enforce_pqc: true,
    };
    let hybrid_reply = acceptor.accept(&hybrid).expect("a request of ours").reply;
    let anything = |situation: u8, message: &[u8]| [&[0, situation], message].concat();
    let sign = |message: &[u8]| [&[2, 7, 1, b'l', 0, 40, 1], message].concat();
    vec![
        anything(0, &hex(LINK_REQUEST)),
        anything(2, &hex(LINK_REQUEST)),
        anything(0, &hex(LINK_REPLY)),
        anything(4, &hybrid),
        anything(7, &hybrid),
        anything(4, &hybrid_reply),
        b"\x01\0\0\x04link".to_vec(),
        b"\x01\x04\x01\x04link\x01\0\x30\x02\x01".to_vec(),
        b"\x01\x0a\x02\x04link\x02\0\x30\x02\x80\0\x02\0".to_vec(),
        sign(&hex(SUBSCRIBE)),
        sign(&hex(PUBLISH)),
        sign(&signed),
        sign(&[hex(SUBSCRIBE), hex(SUBSCRIBE)].concat()),
        sign(&subscription_ack(1, Ok(()))),
        anything(
            2,
            &request(&"l".repeat(1_024), ConnectionType::Remote, "node-a"),
        ),
        anything(
            2,
            &request(&"l".repeat(1_025), ConnectionType::Remote, "node-a"),
        ),
        anything(0, &request("l", ConnectionType::Peer, "node-r")),
        anything(1, &request("l", ConnectionType::Peer, "node-a")),
    ]
}

fn request(link_id: &str, connection_type: ConnectionType, node_id: &str) -> Vec<u8> {
    LinkRequest {
        link_id: link_id.to_owned(),
        version: "3.4.6".to_owned(),
        public_key: vec![9; 32],
        connection_type,
        node_id: node_id.to_owned(),
        deployment_name: String::new(),
        kem_payload: None,
    }
    .encode()
}

fn configs() -> Vec<Vec<u8>> {
    let one = "services: {slim/0: {dataplane: {servers: [{endpoint: '127.0.0.1:0', tls: {insecure: true}}]}}}";
    [
        include_str!("node.yaml"),
        one,
        "services:\n  slim/0:\n    dataplane:\n      servers:\n        - &a {endpoint: ${env:PORT}, tls: {insecure: true}}\n        - *a\n",
        "services: {slim/0: {group_name: x, peers: [1], auth: {a: b}, dataplane: {servers: []}}}",
        "tracing: {opentelemetry: {enabled: true, grpc: {}}, log_level: loud}\nruntime: {n_cores: 0x10, drain_timeout: 1w 2d 3h}",
        "services: {slim/0: {node_id: '${env:LINE}', dataplane: {servers: [{endpoint: '127.0.0.1:0', tls: {insecure: true}}]}}}",
        "services: {slim/0: {dataplane: {servers: [{endpoint: '127.0.0.1:0', tls: {insecure: true}, keepalive: {time: 0s, timeout: 0s}}]}}}",
        "services: {slim/0: {dataplane: {servers: [{endpoint: '127.0.0.1:0', tls: {insecure: true}, negotiation_timeout_secs: 0}]}}}",
        "limits: {connections: 10, connections_per_address: 5, subscriptions_per_connection: 7, names: 100, message_bytes: 64 KiB, negotiation_timeout: 3s, egress_bytes_per_connection: 2 MB, egress_bytes: 64 MiB, ingress_messages_per_second: 1000, ingress_bytes_per_second: 1 GB, memory: 2 GiB}\nservices: {slim/0: {dataplane: {servers: [{endpoint: '127.0.0.1:0', tls: {insecure: true}}]}}}",
        "a: 1\n---\nb: 2\n",
        "a: &x [*x]\n? [x]\n: !!str 2\n",
        "- |\n  text\n- >-\n  folded\n- \"\\u00e9\\x41\"\n- 'it''s'\n- [~, null, true, -1, 0o17, 1e5, .inf]\n",
        "unix:///run/node/dp.sock",
        "[::1]:46357",
        "ws://h:1",
        "info,slim_router=debug,a::b=trace",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into_iter()
    // The longest path of a Unix socket, and one byte more.
    .chain([106, 107].map(|bytes| format!("unix:///{}", "x".repeat(bytes)).into_bytes()))
    .collect()
}

fn names() -> Vec<Vec<u8>> {
    let id = "48b1da60-0caa-b75f-a73e-4fe334bf1482";
    let texts = [
        "org/ns/app".to_owned(),
        format!(" org / ns/app/{id} "),
        "a/b/c/NULL_COMPONENT".to_owned(),
        id.to_owned(),
        // A digit where a hyphen belongs, of a value that still has 128 bits.
        "00b1da60-0caa-b75f-a73e04fe334bf1482".to_owned(),
        "00b1da6000caa-b75f-a73e-4fe334bf1482".to_owned(),
        "org//app".to_owned(),
        "ä/ö/ü/x".to_owned(),
    ];
    let mut inputs: Vec<_> = texts.map(String::into_bytes).to_vec();
    inputs.push(Name::new("org", "ns", "app").to_wire().encode_to_vec());
    inputs.push(
        Name::new("", "", "")
            .with_id(InstanceId::new(1))
            .to_wire()
            .encode_to_vec(),
    );
    inputs
}

/// Steps of shard, what and whose, name, and more where it needs it.
fn routes() -> Vec<Vec<u8>> {
    // Whose is in the high four bits, what in the last decimal digit.
    let by = |index: u8, what: u8| 16 * index + (10 + what - 16 * index % 10) % 10;
    let (subscribe, unsubscribe, leave, one, all, settle, turn) = (0, 2, 3, 4, 5, 6, 7);
    vec![
        [
            [0, subscribe, 1],
            [1, by(1, subscribe), 1],
            [2, settle, 0],
            [1, one, 1],
            [2, all, 0],
            [0, settle, 0],
        ]
        .concat(),
        [
            &[
                1, all, 1, 0, subscribe, 1, 2, turn, 0, 0xff, 0, turn, 0, 0xff, 1, turn, 0, 0xff,
                1, all, 1,
            ][..],
            &[0, unsubscribe, 1, 0, 1, all, 1, 0, leave, 0, 2, all, 0],
        ]
        .concat(),
        // For one, while the member that it is sent to leaves.
        vec![
            0xcc, 0x8c, 0xcc, 0xc8, 0, 0x24, 0x24, 0x24, 0xcc, 0xe7, 0x8f, 0, 0x2c, 0x2c,
        ],
        [
            [0, by(1, subscribe), 4],
            [1, by(2, subscribe), 4],
            [2, by(3, one), 4],
            [2, one, 3],
            [0, settle, 0],
        ]
        .concat(),
        // All shards have asked before anybody subscribes; then two do, and one of them leaves.
        [
            [0, all, 1],
            [1, all, 1],
            [2, all, 1],
            [0, settle, 0],
            [0, by(1, subscribe), 1],
            [1, settle, 0],
            [0, all, 1],
            [1, all, 1],
            [2, all, 1],
            [0, settle, 0],
            [2, by(2, subscribe), 1],
            [0, settle, 0],
            [0, by(1, leave), 0],
            [0, settle, 0],
            [0, one, 1],
            [0, one, 1],
            [1, one, 1],
            [1, one, 1],
            [2, one, 1],
            [2, one, 1],
            [0, settle, 0],
        ]
        .concat(),
        [
            [0, all, 0],
            [1, all, 0],
            [2, all, 0],
            [0, settle, 0],
            [0, by(1, subscribe), 1],
            [1, settle, 0],
            [0, all, 0],
            [1, all, 0],
            [2, all, 0],
            [0, settle, 0],
            [2, by(2, subscribe), 2],
            [0, settle, 0],
            [0, by(1, leave), 0],
            [0, settle, 0],
            [0, one, 0],
            [0, one, 0],
            [1, one, 0],
            [1, one, 0],
            [2, one, 0],
            [2, one, 0],
            [0, settle, 0],
        ]
        .concat(),
    ]
}
