//! Configuration: a text is refused with the place and the reason, or it is a router whose every value is valid.

use std::path::Path;
use std::time::Duration;

use slim_proto::grpc::MESSAGE_BYTES_MAX;
use slim_router::config::{
    AddressError, Config, ConfigError, ConfigFile, ListenAddress, NODE_ID_BYTES_MAX, Remark,
    SHARDS_MAX,
};
use slim_router::logging::LogFilter;

const FILE: &str = "node.yaml";
/// A socket's path in `sockaddr_un`.
const UNIX_PATH_BYTES_MAX: usize = 107;
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Input: the text of a file; if it is short, of an address and of log directives as well.
pub fn config(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if text.len() <= 200 {
        check_address(&text);
        if let Ok(filter) = LogFilter::parse(&text) {
            assert_eq!(filter.to_string(), text);
        }
    }
    // What `${file:PATH}` reads is not ours to choose, and some files never end.
    if text.contains("ile:") || text.contains("\\") && text.contains("${") {
        return;
    }
    let outcome = load(&text);
    match &outcome {
        Ok(config) => {
            check_config(config, &text);
            // Only a name that the file does not give is new at every start.
            let mut again = load(&text).expect("it was accepted before");
            if again.node_id != config.node_id {
                assert!(again.node_id.starts_with("node-") && config.node_id.starts_with("node-"));
                again.node_id.clone_from(&config.node_id);
            }
            assert_eq!(&again, config);
        }
        Err(ConfigError::Refused { problems }) => {
            assert!(!problems.is_empty(), "refused for nothing");
            assert!(problems.is_sorted_by_key(|problem| problem.line));
            problems
                .iter()
                .for_each(|problem| check_remark(problem, &text));
        }
        Err(other) => panic!("{other}"),
    }
}

fn environment(name: &str) -> Option<String> {
    match name {
        "NODE_NAME" => Some("node-7".to_owned()),
        "LINE" => Some("a\nb".to_owned()),
        "PORT" => Some("127.0.0.1:1".to_owned()),
        _ => None,
    }
}

fn load(text: &str) -> Result<Config, ConfigError> {
    ConfigFile::parse(Path::new(FILE), text)?.check(&environment)
}

/// One line, which says where.
fn check_remark(remark: &Remark, text: &str) {
    assert_eq!(remark.file, Path::new(FILE));
    assert!(!remark.text.is_empty());
    // YAML 1.2 ends lines with `\r`, too; the end of the text is on a line of its own.
    let lines = text.split(['\n', '\r']).count() + 1;
    assert!(
        (1..=lines).contains(&remark.line),
        "line {} of {lines}: {remark}",
        remark.line
    );
    let shown = remark.to_string();
    assert!(shown.starts_with(&format!("{FILE}:{}: ", remark.line)));
    assert!(!shown.contains(['\n', '\r', '\u{1b}', '\0']), "{shown:?}");
}

fn check_config(config: &Config, text: &str) {
    assert!(config.shards.get() <= SHARDS_MAX);
    assert!(!config.listeners.is_empty());
    for (at, listener) in config.listeners.iter().enumerate() {
        check_listen_address(&listener.address);
        let earlier = &config.listeners[..at];
        assert!(
            !earlier
                .iter()
                .any(|other| other.address.collides_with(&listener.address))
        );
        for duration in [
            listener.negotiation_timeout,
            listener.keepalive_interval,
            listener.keepalive_timeout,
        ] {
            assert!(duration > Duration::ZERO && duration <= YEAR);
        }
    }
    assert!(config.drain_timeout <= YEAR);
    let limits = &config.limits;
    let may_be_left_out = [
        limits.connections.map(u64::from),
        limits.connections_per_address.map(u64::from),
        limits.ingress_messages_per_second.map(u64::from),
        limits.ingress_bytes_per_second,
        limits.egress_bytes.map(|bytes| bytes as u64),
        limits.memory.map(|bytes| bytes as u64),
    ];
    assert!(!may_be_left_out.contains(&Some(0)), "{limits:?}");
    assert!(limits.subscriptions_per_connection > 0 && limits.names > 0);
    assert!((1..=MESSAGE_BYTES_MAX).contains(&limits.message_bytes));
    assert!(limits.egress_bytes_per_connection > 0);
    assert!(limits.negotiation_timeout > Duration::ZERO && limits.negotiation_timeout <= YEAR);
    let names = [Some(&config.node_id), config.domain_name.as_ref()];
    for name in names.into_iter().flatten() {
        assert!(!name.is_empty() && name.len() <= NODE_ID_BYTES_MAX);
        assert!(!name.contains(char::is_control));
    }
    config
        .notes
        .iter()
        .for_each(|note| check_remark(note, text));
    assert!(LogFilter::parse(&config.tracing.filter.to_string()).is_ok());
    let shown = config.to_string();
    assert!(shown.lines().count() >= config.listeners.len() + 5 + config.notes.len());
}

fn check_address(text: &str) {
    match text.parse::<ListenAddress>() {
        Ok(address) => {
            check_listen_address(&address);
            assert_eq!(address.to_string().parse().as_ref(), Ok(&address));
        }
        Err(why) => {
            let shown = why.to_string();
            if !matches!(
                why,
                AddressError::UnixRelative { .. } | AddressError::UnixNoFile { .. }
            ) {
                assert!(!shown.contains(['\n', '\0']), "{shown:?}");
            }
        }
    }
}

fn check_listen_address(address: &ListenAddress) {
    if let ListenAddress::Unix(path) = address {
        assert!(path.is_absolute() && path.file_name().is_some());
        let bytes = path.as_os_str().as_encoded_bytes();
        assert!(bytes.len() <= UNIX_PATH_BYTES_MAX && !bytes.contains(&0));
    }
}
