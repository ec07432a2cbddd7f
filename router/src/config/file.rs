//! An existing node's YAML file (`node-config.md` 4-6) -> [`Config`].
//!
//! One function a mapping, one arm a key, so that what a key does here can be looked up where it is read. Every arm
//! is one of: read it; [`Findings::note`] that it has no effect; [`Findings::refuse`] it with the reason.

use super::section::{Findings, Item, shown};
use super::yaml::{self, Node};
use super::{
    Config, ConfigError, Environment, Limits, ListenAddress, ListenerConfig, NODE_ID_BYTES_MAX,
    Remark, SHARDS_MAX,
};
use crate::logging::LogFilter;
use std::io::Read;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of a configuration file.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// HTTP/2 frames have less than 16 MiB (RFC 9113 §4.2).
const FRAME_SIZE_MIB_MAX: u64 = 15;
/// Bytes of a request's header list that are accepted, as by the existing node (dataplane 1.3).
const HEADER_LIST_BYTES_MAX: u64 = 16_384;
const NEGOTIATION_TIMEOUT_SECS_MAX: u64 = 3_600;

const TOP_KEYS: &[&str] = &["tracing", "runtime", "services", "limits"];
pub(super) const LIMITS_KEYS: &[&str] = &[
    "connections",
    "connections_per_address",
    "subscriptions_per_connection",
    "names",
    "message_bytes",
    "negotiation_timeout",
    "egress_bytes_per_connection",
    "egress_bytes",
    "ingress_messages_per_second",
    "ingress_bytes_per_second",
    "memory",
];
const TRACING_KEYS: &[&str] = &[
    "log_level",
    "filters",
    "display_thread_names",
    "display_thread_ids",
    "opentelemetry",
];
const OPENTELEMETRY_KEYS: &[&str] = &[
    "enabled",
    "grpc",
    "service_name",
    "service_version",
    "environment",
    "metrics_interval_secs",
];
const RUNTIME_KEYS: &[&str] = &["n_cores", "thread_name", "drain_timeout"];
const SERVICE_KEYS: &[&str] = &[
    "node_id",
    "domain_name",
    "auth",
    "dataplane",
    "controller",
    "peers",
    "default_gateway",
];
const DATAPLANE_KEYS: &[&str] = &["servers", "clients", "enforce_pqc"];
const CONTROLLER_KEYS: &[&str] = &["servers", "clients", "outbound_clients", "enforce_pqc"];
const SERVER_KEYS: &[&str] = &[
    "endpoint",
    "tls",
    "http2_only",
    "max_frame_size",
    "max_concurrent_streams",
    "max_header_list_size",
    "read_buffer_size",
    "write_buffer_size",
    "keepalive",
    "auth",
    "metadata",
    "require_header_mac",
    "negotiation_timeout_secs",
    "link_hmac_timeout_secs",
    "link_hmac_poll_interval_ms",
];
const KEEPALIVE_KEYS: &[&str] = &[
    "max_connection_idle",
    "max_connection_age",
    "max_connection_age_grace",
    "time",
    "timeout",
];
const TLS_KEYS: &[&str] = &[
    "insecure",
    "source",
    "ca_source",
    "include_system_ca_certs_pool",
    "tls_version",
    "reload_interval",
    "insecure_skip_verify",
    "client_ca",
    "reload_client_ca_file",
];

/// The file as written: a tree with positions. It may say anything; [`ConfigFile::check`] finds out.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    root: Node,
}

impl ConfigFile {
    /// Reads the YAML document at `path`.
    ///
    /// - Errors: [`ConfigError::Unreadable`]; [`ConfigError::Refused`] for what is not YAML, with its line.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(CONFIG_FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        if bytes.len() as u64 > CONFIG_FILE_BYTES_MAX {
            let reason = format!("more than {CONFIG_FILE_BYTES_MAX} bytes");
            return Err(unreadable(std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                reason,
            )));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = error
                .as_bytes()
                .iter()
                .take(error.utf8_error().valid_up_to());
            let line = good.filter(|byte| **byte == b'\n').count() + 1;
            refused(path, line, "not UTF-8 text".to_owned())
        })?;
        Self::parse(path, &text)
    }

    /// Reads `text` as if it stood in a file at `path`.
    ///
    /// - Errors: as [`ConfigFile::read`], but for what only a file can do.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let root = yaml::parse(text).map_err(|error| refused(path, error.line, error.reason))?;
        Ok(Self {
            path: path.to_owned(),
            root,
        })
    }

    /// Decides what the file means, with its `${env:NAME}` and `${file:PATH}` substituted.
    ///
    /// - Errors: [`ConfigError::Refused`] with everything that is wrong.
    pub fn check(&self, environment: Environment) -> Result<Config, ConfigError> {
        let mut found = Findings::new(&self.path, environment);
        let config = top(&Item::root(&self.root), &mut found);
        found.problems.sort_by_key(|problem| problem.line);
        match config {
            Some(config) if found.problems.is_empty() => Ok(Config {
                notes: found.notes,
                ..config
            }),
            _ => Err(ConfigError::Refused {
                problems: found.problems,
            }),
        }
    }
}

fn refused(path: &Path, line: usize, text: String) -> ConfigError {
    let problem = Remark {
        file: path.to_owned(),
        line,
        key: String::new(),
        text,
    };
    ConfigError::Refused {
        problems: vec![problem],
    }
}

/// Returns `None` only with a problem on the list. So do all functions below that return an `Option`.
fn top(item: &Item, found: &mut Findings) -> Option<Config> {
    let mut tracing = Tracing::default();
    let mut runtime = Runtime::default();
    // Outside: whether the key is there. Inside: what it gave, which is nothing if it has a problem.
    let mut config: Option<Option<Config>> = None;
    let entries = found.entries(item)?;
    // Before the rest, wherever it stands: listeners take over what they do not say themselves.
    let limits = match entries.iter().find(|(name, _)| *name == "limits") {
        Some((_, item)) => Limits::read(item, found),
        None => Limits::default(),
    };
    for (name, item) in entries {
        match name {
            "limits" => {}
            "tracing" => tracing = read_tracing(&item, found),
            "runtime" => runtime = read_runtime(&item, found),
            "services" => config = Some(services(&item, &limits, found)),
            _ => found.unknown(&item, name, TOP_KEYS),
        }
    }
    let Some(config) = config else {
        return found.refuse_value(
            item,
            "`services` is missing; one service, such as `slim/0`, is needed",
        );
    };
    let mut config = config?;
    config.tracing.filter = tracing.filter;
    config.tracing.thread_names = tracing.thread_names;
    config.tracing.thread_ids = tracing.thread_ids;
    config.shards = runtime.shards.unwrap_or(config.shards);
    config.limits = limits;
    config.drain_timeout = runtime.drain_timeout.unwrap_or(config.drain_timeout);
    Some(config)
}

#[derive(Default)]
struct Tracing {
    filter: LogFilter,
    thread_names: bool,
    thread_ids: bool,
}

fn read_tracing(item: &Item, found: &mut Findings) -> Tracing {
    let mut tracing = Tracing::default();
    for (name, item) in found.entries(item).unwrap_or_default() {
        match name {
            "log_level" => match found.text(&item).map(|text| text.parse()) {
                None => {}
                Some(Ok(level)) => tracing.filter = LogFilter::level(level),
                // In the existing node, an unknown level is info: a slip that nobody notices.
                Some(Err(_)) => {
                    found.refuse_other(&item, "trace, debug, info, warn or error is accepted")
                }
            },
            "filters" => {
                for entry in found.items(&item).unwrap_or_default() {
                    found.text(&entry);
                }
                found.note(
                    &item,
                    "no effect: it names modules of the existing node; log_level holds for all of this router, \
                     and RUST_LOG sets single modules",
                );
            }
            "display_thread_names" => tracing.thread_names = found.flag(&item).unwrap_or_default(),
            "display_thread_ids" => tracing.thread_ids = found.flag(&item).unwrap_or_default(),
            "opentelemetry" => opentelemetry(&item, found),
            _ => found.unknown(&item, name, TRACING_KEYS),
        }
    }
    tracing
}

fn opentelemetry(item: &Item, found: &mut Findings) {
    for (name, item) in found.entries(item).unwrap_or_default() {
        match name {
            "enabled" => {
                if found.flag(&item) == Some(true) {
                    found.refuse(
                        &item,
                        "OpenTelemetry export is not supported; false is accepted",
                    );
                }
            }
            "grpc"
            | "service_name"
            | "service_version"
            | "environment"
            | "metrics_interval_secs" => {
                found.note(&item, "no effect: OpenTelemetry export is off");
            }
            _ => found.unknown(&item, name, OPENTELEMETRY_KEYS),
        }
    }
}

#[derive(Default)]
struct Runtime {
    /// `None`: one for each core, which a file writes as 0 or not at all.
    shards: Option<NonZeroU16>,
    drain_timeout: Option<Duration>,
}

fn read_runtime(item: &Item, found: &mut Findings) -> Runtime {
    let mut runtime = Runtime::default();
    for (name, item) in found.entries(item).unwrap_or_default() {
        match name {
            "n_cores" => {
                let cores = found.number(&item, 0, u64::from(SHARDS_MAX));
                runtime.shards = cores
                    .and_then(|cores| u16::try_from(cores).ok())
                    .and_then(NonZeroU16::new);
            }
            "thread_name" => {
                if found.text(&item).is_some() {
                    found.note(&item, "no effect: threads are named for what they do");
                }
            }
            "drain_timeout" => runtime.drain_timeout = found.duration(&item),
            _ => found.unknown(&item, name, RUNTIME_KEYS),
        }
    }
    runtime
}

fn services(item: &Item, limits: &Limits, found: &mut Findings) -> Option<Config> {
    let entries = found.entries(item)?;
    if entries.is_empty() {
        return found.refuse_value(item, "is empty; one service, such as `slim/0`, is needed");
    }
    let mut config = None;
    for (position, (name, item)) in entries.into_iter().enumerate() {
        match name.split_once('/') {
            Some(("slim", id)) if is_service_id(id) && position == 0 => {
                config = service(&item, limits, found)
            }
            Some(("slim", id)) if is_service_id(id) => {
                found.refuse(
                    &item,
                    "a second service; one process serves one. Start another process for it",
                );
            }
            Some(("slim", _)) => {
                found.refuse(
                    &item,
                    "the name behind `slim/` must be of the characters a-z, 0-9 and `-`",
                );
            }
            _ => found.refuse(&item, "is no kind of service; `slim/NAME` is accepted"),
        }
    }
    config
}

fn is_service_id(id: &str) -> bool {
    !id.is_empty()
        && id
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn service(item: &Item, limits: &Limits, found: &mut Findings) -> Option<Config> {
    let mut node_id = None;
    let mut domain_name = None;
    let mut listeners = None;
    for (name, item) in found.entries(item)? {
        match name {
            "node_id" => {
                node_id = identity(&item, found);
                if node_id.as_deref() == Some("") {
                    found.refuse(
                        &item,
                        "is empty; leave it out to get `node-<uuid>`, new at every start",
                    );
                }
            }
            // In the existing node, an empty name is no name (dataplane 5.3).
            "domain_name" => domain_name = identity(&item, found).filter(|name| !name.is_empty()),
            "dataplane" => listeners = Some(dataplane(&item, limits, found)),
            "controller" => controller(&item, found),
            "auth" if item.is_absent() => {}
            "auth" => found.refuse(
                &item,
                "registration at a control plane is not supported; remove it",
            ),
            "peers" if item.is_absent() => {}
            "peers" => found.refuse(&item, "links to other routers are not supported; remove it"),
            "default_gateway" => {
                match found.text(&item).as_deref() {
                    None => {}
                    Some("auto" | "off") => {
                        found.note(&item, "no effect: it concerns applications inside of the existing node's process");
                    }
                    Some(_) => found.refuse_other(&item, "auto or off is accepted"),
                }
            }
            // The existing node's own samples still have it.
            "group_name" => found.refuse(&item, "unknown key; `domain_name` has taken its place"),
            _ => found.unknown(&item, name, SERVICE_KEYS),
        }
    }
    let Some(listeners) = listeners else {
        return found.refuse_value(
            item,
            "`dataplane` is missing; `dataplane.servers` says where to listen",
        );
    };
    let mut config = Config::with_listeners(listeners?);
    config.node_id = node_id.unwrap_or(config.node_id);
    config.domain_name = domain_name;
    Some(config)
}

/// A name that this router tells others.
fn identity(item: &Item, found: &mut Findings) -> Option<String> {
    let text = found.text(item)?;
    if text.len() > NODE_ID_BYTES_MAX {
        return found.refuse_value(
            item,
            format!("has {} bytes; {NODE_ID_BYTES_MAX} are accepted", text.len()),
        );
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        let control = control.escape_default();
        let reason = format!(
            "has the control character `{control}`; `${{file:PATH}}` takes a file as it is, with the end of its line"
        );
        return found.refuse_value(item, reason);
    }
    Some(text)
}

fn enforce_pqc(item: &Item, found: &mut Findings) {
    if found.flag(item) == Some(true) {
        found.refuse(
            item,
            "cannot be enforced on clear-text listeners; false is accepted",
        );
    }
}

fn controller(item: &Item, found: &mut Findings) {
    for (name, item) in found.entries(item).unwrap_or_default() {
        match name {
            "servers" | "clients" | "outbound_clients" if item.is_empty() => {}
            "servers" | "clients" | "outbound_clients" => {
                found.refuse(
                    &item,
                    "control planes are not supported; an empty list is accepted",
                );
            }
            "enforce_pqc" => enforce_pqc(&item, found),
            _ => found.unknown(&item, name, CONTROLLER_KEYS),
        }
    }
}

fn dataplane(item: &Item, limits: &Limits, found: &mut Findings) -> Option<Vec<ListenerConfig>> {
    let mut listeners: Vec<ListenerConfig> = Vec::new();
    let mut has_servers = false;
    for (name, item) in found.entries(item)? {
        match name {
            "servers" => {
                has_servers = !item.is_empty();
                for item in found.items(&item).unwrap_or_default() {
                    let Some(listener) = server(&item, limits, found) else {
                        continue;
                    };
                    compare(&item, &listener, &listeners, found);
                    listeners.push(listener);
                }
            }
            "clients" if item.is_empty() => {}
            "clients" => {
                found.refuse(
                    &item,
                    "links that this router dials are not supported; an empty list is accepted",
                );
            }
            "enforce_pqc" => enforce_pqc(&item, found),
            _ => found.unknown(&item, name, DATAPLANE_KEYS),
        }
    }
    if !has_servers {
        return found.refuse_value(
            item,
            "`servers` is missing or empty; at least one is needed",
        );
    }
    Some(listeners)
}

/// What is to be said of one listener beside those before it.
fn compare(
    item: &Item,
    listener: &ListenerConfig,
    earlier: &[ListenerConfig],
    found: &mut Findings,
) {
    if earlier
        .iter()
        .any(|earlier| earlier.address.collides_with(&listener.address))
    {
        found.refuse(
            item,
            format!("listens on {}, and so does one before it", listener.address),
        );
    }
    let options =
        |listener: &ListenerConfig| (listener.require_header_mac, listener.negotiation_timeout);
    if earlier
        .first()
        .is_some_and(|first| options(first) != options(listener))
    {
        found.note(
            item,
            "its require_header_mac and negotiation_timeout_secs are used; an existing node would use those of its \
             first server here too",
        );
    }
}

fn server(item: &Item, limits: &Limits, found: &mut Findings) -> Option<ListenerConfig> {
    let mut address = None;
    let mut has_endpoint = false;
    let mut has_tls = false;
    let mut require_header_mac = None;
    let mut negotiation_timeout: Option<Duration> = None;
    let mut keepalive = Keepalive::default();
    for (name, item) in found.entries(item)? {
        match name {
            "endpoint" => {
                has_endpoint = !item.is_absent();
                address = endpoint(&item, found);
            }
            "tls" => {
                has_tls = true;
                tls(&item, found);
            }
            "keepalive" => keepalive = read_keepalive(&item, found),
            "auth" => auth(&item, found),
            "require_header_mac" => require_header_mac = found.flag(&item),
            "negotiation_timeout_secs" | "link_hmac_timeout_secs" => {
                let seconds = found.number(&item, 1, NEGOTIATION_TIMEOUT_SECS_MAX);
                if negotiation_timeout.is_some() && seconds.is_some() {
                    found.refuse(&item, "negotiation_timeout_secs and link_hmac_timeout_secs are one key; write one");
                }
                negotiation_timeout = seconds.map(Duration::from_secs).or(negotiation_timeout);
            }
            "http2_only" => {
                if found.flag(&item).is_some() {
                    found.note(
                        &item,
                        "no effect: HTTP/2 is always spoken, and nothing else",
                    );
                }
            }
            "max_frame_size" => {
                if found.number(&item, 1, FRAME_SIZE_MIB_MAX).is_some() {
                    found.note(
                        &item,
                        "no effect: it says how messages are cut into frames, and limits none",
                    );
                }
            }
            "max_concurrent_streams" => {
                if found.number(&item, 1, u64::from(u32::MAX)).is_some() {
                    found.note(&item, "no effect on gRPC, in the existing node too");
                }
            }
            "max_header_list_size" => {
                // A larger one would promise to admit requests that are turned away.
                if found.number(&item, 1, HEADER_LIST_BYTES_MAX).is_some() {
                    found.note(
                        &item,
                        format!("no effect: {HEADER_LIST_BYTES_MAX} bytes are accepted"),
                    );
                }
            }
            "read_buffer_size" | "write_buffer_size" | "link_hmac_poll_interval_ms" => {
                if found.number(&item, 0, u64::from(u32::MAX)).is_some() {
                    found.note(&item, "no effect here");
                }
            }
            "metadata" => {
                if found
                    .entries(&item)
                    .is_some_and(|entries| !entries.is_empty())
                {
                    found.note(&item, "no effect: only a control plane reads it");
                }
            }
            _ => found.unknown(&item, name, SERVER_KEYS),
        }
    }
    if !has_tls {
        found.refuse(
            item,
            "`tls` is missing; write `tls: {insecure: true}` to say that clear text is meant (TLS is not supported)",
        );
    }
    if !has_endpoint {
        found.refuse(
            item,
            "`endpoint` is missing; `IP:port` or `unix:///path` is needed",
        );
    }
    let mut listener = ListenerConfig::new(address?);
    listener.require_header_mac = require_header_mac.unwrap_or(listener.require_header_mac);
    listener.negotiation_timeout = negotiation_timeout.unwrap_or(limits.negotiation_timeout);
    listener.keepalive_interval = keepalive.interval.unwrap_or(listener.keepalive_interval);
    listener.keepalive_timeout = keepalive.timeout.unwrap_or(listener.keepalive_timeout);
    Some(listener)
}

fn endpoint(item: &Item, found: &mut Findings) -> Option<ListenAddress> {
    let text = found.text(item)?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(error) => found.refuse_value(item, error.to_string()),
    }
}

#[derive(Default)]
struct Keepalive {
    interval: Option<Duration>,
    timeout: Option<Duration>,
}

fn read_keepalive(item: &Item, found: &mut Findings) -> Keepalive {
    let mut keepalive = Keepalive::default();
    for (name, item) in found.entries(item).unwrap_or_default() {
        match name {
            "time" => keepalive.interval = found.positive_duration(&item),
            "timeout" => keepalive.timeout = found.positive_duration(&item),
            "max_connection_idle" | "max_connection_age" | "max_connection_age_grace" => {
                if found.duration(&item).is_some() {
                    found.note(
                        &item,
                        "no effect: it ends no link, in the existing node either",
                    );
                }
            }
            _ => found.unknown(&item, name, KEEPALIVE_KEYS),
        }
    }
    keepalive
}

fn auth(item: &Item, found: &mut Findings) {
    let entries = found.entries(item).unwrap_or_default();
    let kind = entries.iter().find(|(name, _)| *name == "type");
    let kind = match kind {
        Some((_, item)) if !item.is_absent() => found.text(item),
        _ if entries.is_empty() => return,
        _ => found.refuse_value(item, "`type` is missing; `type: none` is accepted"),
    };
    match kind.as_deref() {
        None => {}
        Some("none") => {
            for (name, item) in entries.iter().filter(|(name, _)| *name != "type") {
                found.unknown(item, name, &["type"]);
            }
        }
        // The keys of the other kinds are not looked at: they go with the kind.
        Some(kind) => {
            let kind = shown(kind);
            found.refuse(
                item,
                format!("`type: {kind}`: clients are not authenticated; only none is accepted"),
            );
        }
    }
}

fn tls(item: &Item, found: &mut Findings) {
    const NO_TLS: &str =
        "TLS is not supported; remove it, and write `insecure: true` if clear text is meant";
    let Some(entries) = found.entries(item) else {
        return;
    };
    let mut is_insecure = false;
    for (name, item) in entries {
        match name {
            "insecure" => is_insecure = found.flag(&item) == Some(true),
            "source" | "client_ca" if item.is_absent() => {}
            // Beside `insecure: true` the existing node ignores them and serves clear text. Whoever writes them
            // wants something else.
            "source" | "client_ca" => found.refuse(&item, NO_TLS),
            // node-config.md N1: dropped without a word by the existing node, and with it what they protect.
            "cert_file" | "key_file" | "cert_pem" | "key_pem" | "ca_file" | "ca_pem"
            | "client_ca_file" | "client_ca_pem" => {
                found
                    .refuse(&item, "a key of old versions, ignored by existing nodes; TLS is not supported; remove it");
            }
            "ca_source" | "insecure_skip_verify" => {
                found.note(&item, "no effect: it is for the side that dials");
            }
            "include_system_ca_certs_pool"
            | "tls_version"
            | "reload_interval"
            | "reload_client_ca_file" => {
                found.note(&item, "no effect on clear text");
            }
            _ => found.unknown(&item, name, TLS_KEYS),
        }
    }
    if !is_insecure {
        found.refuse(
            item,
            "TLS is not supported; `insecure: true` is accepted, and serves clear text",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lists of known keys serve the messages, the arms serve the keys: this holds them together.
    #[test]
    fn every_key_that_a_message_calls_known_is_known() {
        let places = [
            ("{KEY: }", TOP_KEYS),
            ("{tracing: {KEY: }}", TRACING_KEYS),
            ("{tracing: {opentelemetry: {KEY: }}}", OPENTELEMETRY_KEYS),
            ("{runtime: {KEY: }}", RUNTIME_KEYS),
            ("{services: {slim/0: {KEY: }}}", SERVICE_KEYS),
            (
                "{services: {slim/0: {controller: {KEY: }}}}",
                CONTROLLER_KEYS,
            ),
            ("{services: {slim/0: {dataplane: {KEY: }}}}", DATAPLANE_KEYS),
            (
                "{services: {slim/0: {dataplane: {servers: [{KEY: }]}}}}",
                SERVER_KEYS,
            ),
            (
                "{services: {slim/0: {dataplane: {servers: [{keepalive: {KEY: }}]}}}}",
                KEEPALIVE_KEYS,
            ),
            (
                "{services: {slim/0: {dataplane: {servers: [{tls: {KEY: }}]}}}}",
                TLS_KEYS,
            ),
        ];
        for (place, keys) in places {
            for key in keys {
                let text = place.replace("KEY", key);
                let file = ConfigFile::parse(Path::new("node.yaml"), &text).expect("YAML");
                let outcome = file.check(&|_| None);
                let said =
                    outcome.map_or_else(|error| error.to_string(), |config| config.to_string());
                assert!(!said.contains("unknown key"), "{text}: {said}");
            }
            let text = place.replace("KEY", "nonsense");
            let file = ConfigFile::parse(Path::new("node.yaml"), &text).expect("YAML");
            let said = file.check(&|_| None).expect_err(&text).to_string();
            assert!(
                said.contains("nonsense: unknown key; known here: "),
                "{text}: {said}"
            );
        }
    }
}
