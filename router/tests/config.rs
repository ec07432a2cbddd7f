//! What an existing node's file, the command line and the environment make of the router; and what they cannot.

use proptest::prelude::*;
use slim_router::args::Args;
use slim_router::config::{
    CONFIG_FILE_BYTES_MAX, Config, ConfigError, ConfigFile, LISTEN_DEFAULT, Limits, ListenAddress,
    SHARDS_MAX,
};
use slim_router::logging::{self, LogFilter, LogFormat, LogLevel};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// A plain server of an existing node. Every key of it is used, or noted and harmless.
const PLAIN_NODE: &str = r#"
tracing:
  log_level: debug
  display_thread_names: true
  display_thread_ids: false
  opentelemetry:
    enabled: false
runtime:
  n_cores: 3
  thread_name: slim-data-plane
  drain_timeout: 1m30s
services:
  slim/0:
    node_id: ${env:NODE_NAME}
    domain_name: plant-a
    default_gateway: auto
    dataplane:
      enforce_pqc: false
      servers:
        - endpoint: "0.0.0.0:46357"
          tls:
            insecure: true
            tls_version: tls1.3
          auth:
            type: none
          http2_only: true
          max_frame_size: 4
          max_concurrent_streams: 100
          max_header_list_size: 8192
          read_buffer_size: 1048576
          write_buffer_size: 1048576
          link_hmac_poll_interval_ms: 5
          require_header_mac: false
          negotiation_timeout_secs: 7
          keepalive:
            max_connection_idle: 3600s
            max_connection_age: 2h
            max_connection_age_grace: 300s
            time: 60s
            timeout: 15s
          metadata:
            external_endpoint: "node-a.example.net:46357"
            anything: [goes, {here: 1}]
        - endpoint: "unix:///run/node/dp.sock"
          tls: {insecure: true}
      clients: []
    controller:
      servers: []
      clients: []
"#;

/// The shortest file that starts; `KEYS` of the server are to be put in.
const ONE_SERVER: &str = "services: {slim/0: {dataplane: {servers: [{endpoint: '127.0.0.1:0', tls: {insecure: true}KEYS}]}}}";

fn environment(name: &str) -> Option<String> {
    (name == "NODE_NAME").then(|| "node-7".to_owned())
}

fn check(text: &str) -> Result<Config, ConfigError> {
    ConfigFile::parse(Path::new("node.yaml"), text)?.check(&environment)
}

/// Everything wrong with `text`, one a line; panics if nothing is.
fn problems(text: &str) -> String {
    match check(text) {
        Ok(config) => panic!("accepted: {text}\n{config}"),
        Err(error) => error.to_string(),
    }
}

fn server_with(keys: &str) -> String {
    ONE_SERVER.replace("KEYS", &format!(", {keys}"))
}

/// A file of this test's own.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("slim-router-{}-{name}", std::process::id()));
        std::fs::write(&path, content).expect("a writable directory for temporary files");
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("a Unicode path")
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        // A file that stays behind in the temporary directory fails no test.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_file_of_an_existing_plain_node_starts_this_router() {
    let config = check(PLAIN_NODE).expect("an accepted file");
    assert_eq!(config.shards.get(), 3);
    assert_eq!(config.drain_timeout, Duration::from_secs(90));
    assert_eq!(config.node_id, "node-7");
    assert_eq!(config.domain_name.as_deref(), Some("plant-a"));
    assert_eq!(config.tracing.filter, LogFilter::level(LogLevel::Debug));
    assert!(config.tracing.thread_names && !config.tracing.thread_ids);

    let [tcp, unix] = config.listeners.as_slice() else {
        panic!("{config}")
    };
    assert_eq!(
        tcp.address,
        ListenAddress::Tcp("0.0.0.0:46357".parse().expect("an address"))
    );
    assert!(!tcp.require_header_mac);
    assert_eq!(tcp.negotiation_timeout, Duration::from_secs(7));
    assert_eq!(tcp.keepalive_interval, Duration::from_secs(60));
    assert_eq!(tcp.keepalive_timeout, Duration::from_secs(15));
    assert_eq!(
        unix.address,
        ListenAddress::Unix("/run/node/dp.sock".into())
    );
    assert!(unix.require_header_mac);
    assert_eq!(unix.negotiation_timeout, Duration::from_secs(5));
    assert_eq!(unix.keepalive_interval, Duration::from_secs(120));
    assert_eq!(unix.keepalive_timeout, Duration::from_secs(20));
}

#[test]
fn every_key_without_effect_is_noted_where_it_stands() {
    let config = check(PLAIN_NODE).expect("an accepted file");
    let noted: Vec<String> = config
        .notes
        .iter()
        .map(|note| format!("{}:{}", note.line, note.key))
        .collect();
    let server = "services.slim/0.dataplane.servers[0]";
    let expected = [
        "10:runtime.thread_name".to_owned(),
        "16:services.slim/0.default_gateway".to_owned(),
        format!("23:{server}.tls.tls_version"),
        format!("26:{server}.http2_only"),
        format!("27:{server}.max_frame_size"),
        format!("28:{server}.max_concurrent_streams"),
        format!("29:{server}.max_header_list_size"),
        format!("30:{server}.read_buffer_size"),
        format!("31:{server}.write_buffer_size"),
        format!("32:{server}.link_hmac_poll_interval_ms"),
        format!("36:{server}.keepalive.max_connection_idle"),
        format!("37:{server}.keepalive.max_connection_age"),
        format!("38:{server}.keepalive.max_connection_age_grace"),
        format!("41:{server}.metadata"),
        // N14: the first server's options would hold for it in the existing node.
        "44:services.slim/0.dataplane.servers[1]".to_owned(),
    ];
    assert_eq!(noted, expected);
}

#[test]
fn the_shortest_file_has_the_defaults_of_no_file() {
    let config = check(&ONE_SERVER.replace("KEYS", "")).expect("an accepted file");
    let args = Args {
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        ..Args::default()
    };
    let without = Config::load(&args, &|_| None).expect("valid arguments");
    assert_ne!(
        config.node_id, without.node_id,
        "a node id is new at every start"
    );
    assert_eq!(
        Config {
            node_id: without.node_id.clone(),
            ..config
        },
        without
    );
}

#[test]
fn no_arguments_serve_this_machine_with_a_shard_for_each_core() {
    let config = Config::load(&Args::default(), &|_| None).expect("valid arguments");
    let cores = std::thread::available_parallelism()
        .expect("a system that tells its cores")
        .get();
    assert_eq!(
        usize::from(config.shards.get()),
        cores.min(usize::from(SHARDS_MAX))
    );
    let [listener] = config.listeners.as_slice() else {
        panic!("{config}")
    };
    assert_eq!(listener.address, ListenAddress::Tcp(LISTEN_DEFAULT));
    assert!(listener.require_header_mac);
    assert!(config.node_id.starts_with("node-"));
    assert!(config.notes.is_empty());
}

#[test]
fn zero_cores_are_all_cores() {
    let all = Config::load(&Args::default(), &|_| None)
        .expect("valid arguments")
        .shards;
    let text = format!(
        "runtime: {{n_cores: 0}}\n{}",
        ONE_SERVER.replace("KEYS", "")
    );
    assert_eq!(check(&text).expect("an accepted file").shards, all);
}

#[test]
fn the_old_name_of_the_negotiation_timeout_is_read() {
    let config = check(&server_with("link_hmac_timeout_secs: 9")).expect("an accepted file");
    assert_eq!(
        config.listeners[0].negotiation_timeout,
        Duration::from_secs(9)
    );
}

#[test]
fn nulls_are_as_good_as_nothing() {
    let keys = "auth: , keepalive: , metadata: , require_header_mac: ";
    let text = format!("tracing:\nruntime:\n{}", server_with(keys));
    assert!(check(&text).is_ok(), "{}", problems(&text));
}

#[test]
fn what_is_not_supported_is_refused_with_file_line_key_and_reason() {
    let server = "services.slim/0.dataplane.servers[0]";
    let cases = [
        (
            server_with("auth: {type: basic, username: a, password: b}"),
            format!("{server}.auth: `type: basic`: "),
        ),
        (
            server_with("auth: {type: spire}"),
            format!("{server}.auth: `type: spire`: "),
        ),
        (
            server_with("auth: {username: a}"),
            format!("{server}.auth: `type` is missing"),
        ),
        (
            server_with("max_frame_size: 16"),
            format!("{server}.max_frame_size: is `16`; 1 to 15 "),
        ),
        (
            server_with("max_header_list_size: 16385"),
            format!("{server}.max_header_list_size: is `16385`; 1 to 16384 "),
        ),
        (
            server_with("keepalive: {time: 0s}"),
            format!("{server}.keepalive.time: is `0s`; "),
        ),
        (
            server_with("keepalive: {timeout: 20}"),
            format!("{server}.keepalive.timeout: is `20`; a duration with its unit"),
        ),
        (
            server_with("negotiation_timeout_secs: 0"),
            format!("{server}.negotiation_timeout_secs: is `0`; 1 to "),
        ),
        (
            server_with("negotiation_timeout_secs: 5, link_hmac_timeout_secs: 5"),
            format!("{server}.link_hmac_timeout_secs: "),
        ),
        (
            server_with("require_header_mac: 'true'"),
            format!("{server}.require_header_mac: is `true`; true or false"),
        ),
        (
            server_with("http2_only: [x]"),
            format!("{server}.http2_only: is a list; true or false"),
        ),
        (
            server_with("endpoint: x"),
            format!("{server}.endpoint: stands twice"),
        ),
    ];
    for (text, expected) in cases {
        let said = problems(&text);
        assert!(
            said.starts_with(&format!("node.yaml:1: {expected}")),
            "{text}\n{said}\n{expected}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn tls_settings_are_refused_beside_insecure_too() {
    let text = |tls: &str| {
        format!(
            "services:\n  slim/0:\n    dataplane:\n      servers:\n      - endpoint: 127.0.0.1:0\n        tls:\n{tls}"
        )
    };
    let tls = "services.slim/0.dataplane.servers[0].tls";
    for key in [
        "source",
        "client_ca",
        "cert_file",
        "key_file",
        "client_ca_file",
    ] {
        let said = problems(&text(&format!(
            "          insecure: true\n          {key}: {{type: file}}\n"
        )));
        assert!(
            said.starts_with(&format!("node.yaml:8: {tls}.{key}: ")),
            "{said}"
        );
        assert!(said.contains("TLS is not supported"), "{said}");
    }
    for plain in [
        "          insecure: false\n",
        "          tls_version: tls1.3\n",
        "",
    ] {
        let said = problems(&text(plain));
        assert!(
            said.starts_with(&format!(
                "node.yaml:6: {tls}: TLS is not supported; `insecure: true`"
            )),
            "{said}"
        );
    }
}

#[test]
fn endpoints_that_cannot_be_served_are_refused() {
    for endpoint in [
        "ws://127.0.0.1:1",
        "http://127.0.0.1:1",
        "localhost:1",
        "unix://run/dp.sock",
        "127.0.0.1",
        "",
    ] {
        let text = ONE_SERVER
            .replace("127.0.0.1:0", endpoint)
            .replace("KEYS", "");
        let said = problems(&text);
        assert!(
            said.starts_with("node.yaml:1: services.slim/0.dataplane.servers[0].endpoint: "),
            "{said}"
        );
    }
}

#[test]
fn other_parts_of_a_node_are_refused() {
    let service = |keys: &str| {
        format!(
            "services:\n  slim/0:\n    {keys}\n    dataplane: {{servers: [{{endpoint: '127.0.0.1:0', tls: {{insecure: true}}}}]}}\n"
        )
    };
    let cases = [
        (
            service("auth: {type: shared_secret, secret: x}"),
            "3: services.slim/0.auth: ",
        ),
        (
            service("peers: {topology: full_mesh}"),
            "3: services.slim/0.peers: ",
        ),
        (
            service("controller: {servers: [{endpoint: '1.2.3.4:5'}]}"),
            "3: services.slim/0.controller.servers: ",
        ),
        (
            service("controller: {clients: [{endpoint: x}]}"),
            "3: services.slim/0.controller.clients: ",
        ),
        (
            service("controller: {outbound_clients: [{}]}"),
            "3: services.slim/0.controller.outbound_clients: ",
        ),
        (
            service("controller: {enforce_pqc: true}"),
            "3: services.slim/0.controller.enforce_pqc: ",
        ),
        (
            service("default_gateway: on"),
            "3: services.slim/0.default_gateway: is `on`; auto or off",
        ),
        (
            service("node_id: ''"),
            "3: services.slim/0.node_id: is empty; ",
        ),
        (
            service("node_id: 7"),
            "3: services.slim/0.node_id: is `7`; text is expected; put it in quotes",
        ),
        (
            service("group_name: x"),
            "3: services.slim/0.group_name: unknown key; `domain_name`",
        ),
        (
            service("") + "  slim/1: {}\n",
            "5: services.slim/1: a second service",
        ),
        (
            service("").replace("slim/0", "slim/A"),
            "2: services.slim/A: the name behind",
        ),
        (
            service("").replace("slim/0", "agent/0"),
            "2: services.agent/0: is no kind of service",
        ),
        (
            service("").replace(
                "servers: [",
                "clients: [{endpoint: 'http://x:1'}], servers: [",
            ),
            "4: services.slim/0.dataplane.clients: ",
        ),
        (
            service("").replace("servers: [", "enforce_pqc: true, servers: ["),
            "4: services.slim/0.dataplane.enforce_pqc: ",
        ),
        (
            service("") + "tracing: {opentelemetry: {enabled: true}}\n",
            "5: tracing.opentelemetry.enabled: ",
        ),
        (
            service("") + "tracing: {log_level: loud}\n",
            "5: tracing.log_level: is `loud`; trace, debug, ",
        ),
        (
            service("") + "runtime: {n_cores: 129}\n",
            "5: runtime.n_cores: is `129`; 0 to 128 is accepted",
        ),
        (
            service("") + "runtime: {n_cores: -1}\n",
            "5: runtime.n_cores: is `-1`; 0 to 128 is accepted",
        ),
        (
            service("") + "runtime: {drain_timeout: 10}\n",
            "5: runtime.drain_timeout: is `10`; a duration with its unit",
        ),
        (
            service("") + "runtime: {drain_timeout: 366d}\n",
            "5: runtime.drain_timeout: `366d` is longer than 365 days",
        ),
    ];
    for (text, expected) in cases {
        let said = problems(&text);
        assert!(
            said.starts_with(&format!("node.yaml:{expected}")),
            "{text}\n{said}\n{expected}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn an_unknown_key_is_refused_at_every_level() {
    let levels = [
        ("tracing:", "", "loglevel"),
        ("log_level: debug", "tracing.", "log_levle"),
        ("enabled: false", "tracing.opentelemetry.", "enable"),
        ("n_cores: 3", "runtime.", "n_core"),
        ("node_id: ${env:NODE_NAME}", "services.slim/0.", "node_ids"),
        ("enforce_pqc: false", "services.slim/0.dataplane.", "server"),
        (
            "http2_only: true",
            "services.slim/0.dataplane.servers[0].",
            "http2only",
        ),
        (
            "insecure: true\n",
            "services.slim/0.dataplane.servers[0].tls.",
            "insecur",
        ),
        (
            "type: none",
            "services.slim/0.dataplane.servers[0].auth.",
            "typ",
        ),
        (
            "time: 60s",
            "services.slim/0.dataplane.servers[0].keepalive.",
            "tiem",
        ),
        (
            "clients: []\n",
            "services.slim/0.dataplane.",
            "outbound_clients",
        ),
    ];
    for (neighbour, path, slip) in levels {
        let start = PLAIN_NODE.find(neighbour).expect("a key of the file");
        let indent = start - PLAIN_NODE[..start].rfind('\n').expect("a line before") - 1;
        let line = PLAIN_NODE[..start].lines().count();
        let mut text = PLAIN_NODE.to_owned();
        text.insert_str(start, &format!("{slip}: 1\n{}", " ".repeat(indent)));
        let said = problems(&text);
        // The slip takes the line of its neighbour; at the top, the count has no started line to count.
        let line = if indent == 0 { line + 1 } else { line };
        assert!(
            said.starts_with(&format!("node.yaml:{line}: {path}{slip}: unknown key; ")),
            "{said}"
        );
    }
}

#[test]
fn a_slip_is_told_what_was_probably_meant() {
    let said = problems(&server_with("requier_header_mac: false"));
    assert!(
        said.ends_with("unknown key; did you mean `require_header_mac`?"),
        "{said}"
    );
}

#[test]
fn all_problems_are_told_at_once_in_the_files_order() {
    let said = problems(
        "services:\n  slim/0:\n    dataplane:\n      servers:\n        - x: 1\n          y: 2\n        - 5\ntracing: 3\n",
    );
    let places: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split(": ").next())
        .collect();
    let expected = [
        "node.yaml:5", // the unknown key x
        "node.yaml:5", // no tls
        "node.yaml:5", // no endpoint
        "node.yaml:6",
        "node.yaml:7",
        "node.yaml:8",
    ];
    assert_eq!(places, expected, "{said}");
}

#[test]
fn what_is_missing_is_named() {
    for (text, expected) in [
        ("", "node.yaml:1: `services` is missing"),
        ("runtime: {}\n", "node.yaml:1: `services` is missing"),
        ("services:\n", "node.yaml:1: services: is empty"),
        (
            "services: {slim/0: }\n",
            "node.yaml:1: services.slim/0: `dataplane` is missing",
        ),
        (
            "services: {slim/0: {dataplane: }}\n",
            "node.yaml:1: services.slim/0.dataplane: `servers` is missing or empty",
        ),
        (
            "services: {slim/0: {dataplane: {servers: []}}}\n",
            "node.yaml:1: services.slim/0.dataplane: `servers` is missing or empty",
        ),
        ("just text", "node.yaml:1: is `just text`; a mapping"),
        (
            "services: [x]",
            "node.yaml:1: services: is a list; a mapping",
        ),
    ] {
        let said = problems(text);
        assert!(said.starts_with(expected), "{text}\n{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn one_address_is_not_served_twice() {
    let servers = "services: {slim/0: {dataplane: {servers: [A, A]}}}"
        .replace('A', "{endpoint: '127.0.0.1:7', tls: {insecure: true}}");
    assert!(
        problems(&servers)
            .contains("servers[1]: listens on 127.0.0.1:7, and so does one before it")
    );

    let address: ListenAddress = "127.0.0.1:7".parse().expect("an address");
    let args = Args {
        listen: vec![address.clone(), address],
        ..Args::default()
    };
    assert_eq!(
        Config::load(&args, &|_| None).unwrap_err().to_string(),
        "--listen 127.0.0.1:7 is given twice"
    );
}

#[test]
fn malformed_yaml_names_file_and_line() {
    let said = problems("tracing:\n  log_level: info\n runtime: x\n");
    assert!(said.starts_with("node.yaml:3: not YAML: "), "{said}");
    let said = problems("a: 1\nb: \"never closed\n");
    assert!(said.starts_with("node.yaml:"), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_its_name() {
    let missing = ConfigFile::read(Path::new("/nowhere/node.yaml")).unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("/nowhere/node.yaml: cannot be read: No such file"),
        "{missing}"
    );
    let directory = ConfigFile::read(Path::new("/")).unwrap_err();
    assert!(
        matches!(directory, ConfigError::Unreadable { .. }),
        "{directory}"
    );
    let binary = TestFile::new("binary.yaml", b"a: 1\nb: \xff\n");
    let said = ConfigFile::read(&binary.0).unwrap_err().to_string();
    assert_eq!(said, format!("{}:2: not UTF-8 text", binary.text()));
    let size = usize::try_from(CONFIG_FILE_BYTES_MAX).expect("a small bound");
    let large = TestFile::new("large.yaml", &vec![b'#'; size + 1]);
    let said = ConfigFile::read(&large.0).unwrap_err().to_string();
    assert!(
        said.ends_with("cannot be read: more than 1048576 bytes"),
        "{said}"
    );
}

fn node_id(written: &str) -> Result<String, String> {
    let text = ONE_SERVER
        .replace("KEYS", "")
        .replace("{dataplane", &format!("{{node_id: {written}, dataplane"));
    check(&text)
        .map(|config| config.node_id)
        .map_err(|error| error.to_string())
}

#[test]
fn a_whole_value_is_substituted_and_a_part_of_one_is_not() {
    assert_eq!(node_id("'${env:NODE_NAME}'").as_deref(), Ok("node-7"));
    assert_eq!(
        node_id("'x-${env:NODE_NAME}'").as_deref(),
        Ok("x-${env:NODE_NAME}")
    );
    let file = TestFile::new("name", b"node-from-file");
    assert_eq!(
        node_id(&format!("'${{file:{}}}'", file.text())).as_deref(),
        Ok("node-from-file")
    );
}

#[test]
fn a_substituted_file_is_verbatim_so_the_end_of_its_line_is_refused_in_a_name() {
    let file = TestFile::new("name-with-newline", b"node-from-file\n");
    let said = node_id(&format!("'${{file:{}}}'", file.text())).unwrap_err();
    assert!(
        said.contains(r"services.slim/0.node_id: has the control character `\n`"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_substituted_is_refused() {
    assert!(
        node_id("'${env:NOT_SET}'")
            .unwrap_err()
            .contains("`${env:NOT_SET}`: the environment has no variable")
    );
    assert!(
        node_id("'${file:/nowhere/x}'")
            .unwrap_err()
            .contains("`${file:/nowhere/x}`: the file cannot be read: ")
    );
    assert!(
        node_id("'${vault:x}'")
            .unwrap_err()
            .contains("only `${env:NAME}` and `${file:PATH}`")
    );
    let said = problems(&server_with("require_header_mac: '${env:NODE_NAME}'"));
    assert!(
        said.contains("what is substituted is always text"),
        "{said}"
    );
}

#[test]
fn the_command_line_wins_over_the_file_and_rust_log_over_both() {
    let file = TestFile::new("node.yaml", PLAIN_NODE.as_bytes());
    let args = Args {
        config: Some(file.0.clone()),
        shards: std::num::NonZeroU16::new(2),
        log_level: Some(LogLevel::Warn),
        log_format: LogFormat::Json,
        ..Args::default()
    };
    let config = Config::load(&args, &environment).expect("a valid file");
    assert_eq!(config.shards.get(), 2);
    assert_eq!(config.tracing.filter.to_string(), "warn");
    assert_eq!(config.tracing.format, LogFormat::Json);

    let with_rust_log = |value: &'static str| {
        move |name: &str| {
            if name == "RUST_LOG" {
                Some(value.to_owned())
            } else {
                environment(name)
            }
        }
    };
    let config =
        Config::load(&args, &with_rust_log("slim_router=trace")).expect("valid directives");
    assert_eq!(config.tracing.filter.to_string(), "slim_router=trace");
    let config = Config::load(&args, &with_rust_log("")).expect("an empty RUST_LOG is none");
    assert_eq!(config.tracing.filter.to_string(), "warn");
    let error = Config::load(&args, &with_rust_log("slim_router=loud")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("RUST_LOG=`slim_router=loud`: "),
        "{error}"
    );
}

#[test]
fn listeners_come_from_the_command_line_or_the_file_but_not_both() {
    let args = Args {
        config: Some("node.yaml".into()),
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        ..Args::default()
    };
    let error = Config::load(&args, &environment).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("--listen and --config exclude each other"),
        "{error}"
    );
}

fn router(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slim-router"))
        .args(args)
        .env_remove("RUST_LOG")
        .env("NODE_NAME", "node-7")
        .output()
        .expect("the program runs")
}

#[test]
fn check_prints_what_would_be_served_and_exits_with_0() {
    let file = TestFile::new("check.yaml", PLAIN_NODE.as_bytes());
    let output = router(&["--config", file.text(), "--check"]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        printed.contains("0.0.0.0:46357 (clear text, header MAC accepted, 7s to negotiate"),
        "{printed}"
    );
    assert!(printed.contains("unix:///run/node/dp.sock"), "{printed}");
    assert!(printed.contains(&format!(
        "note: {}:26: services.slim/0.dataplane.servers[0].http2_only: ",
        file.text()
    )));
}

#[test]
fn wrong_arguments_and_wrong_files_exit_with_2_and_say_why() {
    let bad_file = TestFile::new("bad.yaml", b"services: {slim/0: {datapane: {}}}\n");
    let cases: [(&[&str], &str); 9] = [
        (
            &["--config", bad_file.text()],
            "services.slim/0.datapane: unknown key; did you mean `dataplane`?",
        ),
        (
            &["--config", bad_file.text(), "--check"],
            "did you mean `dataplane`?",
        ),
        (
            &["--config", "/nowhere/node.yaml"],
            "/nowhere/node.yaml: cannot be read",
        ),
        (
            &["--config", "x", "--listen", "127.0.0.1:0"],
            "exclude each other",
        ),
        (&["--shards", "0"], "1 to 128 is accepted"),
        (&["--shards", "129"], "1 to 128 is accepted"),
        (&["--listen", "localhost:1"], "is a host name"),
        (&["--log-level", "loud"], "invalid value 'loud'"),
        (&["--bogus"], "unexpected argument"),
    ];
    for (args, expected) in cases {
        let output = router(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(said.contains(expected), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

#[test]
fn help_tells_of_shards_signals_and_exit_status() {
    let output = router(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for expected in [
        "A shard is",
        "SIGTERM",
        "Exit status",
        "Examples",
        "127.0.0.1:46357",
        "RUST_LOG",
    ] {
        assert!(help.contains(expected), "{expected}");
    }
    assert_eq!(router(&["--version"]).status.code(), Some(0));
}

/// Runs itself once more, because a process has one logger.
#[test]
fn a_json_log_is_one_object_a_line_and_is_complete_when_the_guard_is_dropped() {
    const LINES: usize = 1_000;
    const NAME: &str = "a_json_log_is_one_object_a_line_and_is_complete_when_the_guard_is_dropped";
    if std::env::var_os("SLIM_TEST_LOGS").is_some() {
        let args = Args {
            log_format: LogFormat::Json,
            log_level: Some(LogLevel::Warn),
            ..Args::default()
        };
        let config = Config::load(&args, &|_| None).expect("valid arguments");
        let guard = logging::start(&config.tracing).expect("the first start");
        assert!(
            logging::start(&config.tracing).is_err(),
            "a second start is refused"
        );
        for line in 0..LINES {
            tracing::info!(line, "not logged");
            tracing::warn!(line, "a\nline");
        }
        assert_eq!(guard.dropped_lines(), 0);
        return;
    }
    let this_program = std::env::current_exe().expect("the path of this program");
    let output = Command::new(this_program)
        .args(["--exact", NAME, "--nocapture"])
        .env("SLIM_TEST_LOGS", "1")
        .output()
        .expect("this program runs");
    assert!(output.status.success(), "{output:?}");
    let log = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(log.lines().count(), LINES);
    for (number, line) in log.lines().enumerate() {
        let event: serde_json::Value = serde_json::from_str(line).expect(line);
        assert_eq!(event["level"], "WARN");
        assert_eq!(event["message"], "a\nline");
        assert_eq!(event["line"], number);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn arbitrary_text_is_accepted_or_refused_but_never_panics(text in any::<String>()) {
        let _outcome = check(&text);
    }

    /// A file that is nearly right reaches every reader of a key.
    #[test]
    fn a_damaged_file_is_accepted_or_refused_but_never_panics(
        from in 0..PLAIN_NODE.len(),
        length in 0usize..60,
        put in prop_oneof![
            Just(String::new()),
            "[\\[\\]{}:,&*!|>'\"#%@`?~ \n-]{0,6}",
            "[a-z0-9_]{1,8}",
            any::<String>(),
        ],
    ) {
        let mut text = PLAIN_NODE.to_owned();
        text.replace_range(from..(from + length).min(PLAIN_NODE.len()), &put);
        match check(&text) {
            Ok(config) => prop_assert!(!config.listeners.is_empty() && !config.node_id.is_empty()),
            Err(ConfigError::Refused { problems }) => prop_assert!(!problems.is_empty() && problems.iter().all(|p| p.line > 0)),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn limits_are_read_and_listeners_take_over_the_negotiation_timeout_that_they_do_not_say() {
    let text = "\
limits:
  connections: 1000
  connections_per_address: 10
  subscriptions_per_connection: 20
  names: 500
  message_bytes: 64 KiB
  negotiation_timeout: 1s500ms
  egress_bytes_per_connection: 2MB
  egress_bytes: 1 GiB
  ingress_messages_per_second: 100
  ingress_bytes_per_second: 1000000
  memory: 2 GB
services:
  slim/0:
    dataplane:
      servers:
        - {endpoint: '127.0.0.1:1', tls: {insecure: true}}
        - {endpoint: '127.0.0.1:2', tls: {insecure: true}, negotiation_timeout_secs: 7}
";
    // Wherever the section stands.
    let (section, rest) = text.split_at(text.find("services:").unwrap());
    for text in [text.to_owned(), format!("{rest}{section}")] {
        let config = check(&text).unwrap();
        let expected = Limits {
            connections: Some(1_000),
            connections_per_address: Some(10),
            subscriptions_per_connection: 20,
            names: 500,
            message_bytes: 65_536,
            negotiation_timeout: Duration::from_millis(1_500),
            egress_bytes_per_connection: 2_000_000,
            egress_bytes: Some(1 << 30),
            ingress_messages_per_second: Some(100),
            ingress_bytes_per_second: Some(1_000_000),
            memory: Some(2_000_000_000),
        };
        assert_eq!(config.limits, expected);
        let timeouts: Vec<_> = config
            .listeners
            .iter()
            .map(|l| l.negotiation_timeout)
            .collect();
        assert_eq!(
            timeouts,
            [Duration::from_millis(1_500), Duration::from_secs(7)]
        );
        let shown = config.to_string();
        assert!(
            shown.contains("1000 connections (10 an address), 20 subscriptions"),
            "{shown}"
        );
    }
    let config = check(&server_with("http2_only: true")).unwrap();
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn a_limit_that_makes_no_sense_is_refused_with_its_line_and_what_is_accepted() {
    for (limit, reason) in [
        (
            "connections: 0",
            "limits.connections: is `0`; 1 to 33554432 is accepted",
        ),
        (
            "connections: many",
            "limits.connections: is `many`; a whole number is expected",
        ),
        (
            "conections: 1",
            "limits.conections: unknown key; did you mean `connections`?",
        ),
        (
            "message_bytes: 100",
            "limits.message_bytes: is `100`; 16384 to 4194304 is accepted",
        ),
        (
            "message_bytes: 5 MiB",
            "limits.message_bytes: is `5 MiB`; 16384 to 4194304 bytes are accepted",
        ),
        (
            "memory: 1.5 GiB",
            "limits.memory: is `1.5 GiB`; bytes are expected: a whole number, alone or with kB",
        ),
        ("memory: 1 MiB", "limits.memory: is `1 MiB`; 33554432 to "),
        (
            "negotiation_timeout: 5",
            "limits.negotiation_timeout: is `5`; a duration with its unit",
        ),
        (
            "negotiation_timeout: 0s",
            "limits.negotiation_timeout: is `0s`; it must be longer",
        ),
        ("ingress_messages_per_second: 0", "is `0`; 1 to "),
        (
            "egress_bytes_per_connection: 1GiB",
            "is `1GiB`; 65536 to 33554432 bytes are accepted",
        ),
    ] {
        let text = format!("{}\nlimits:\n  {limit}\n", server_with("http2_only: true"));
        let problems = problems(&text);
        assert!(problems.starts_with("node.yaml:3: "), "{problems}");
        assert!(problems.contains(reason), "{problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}
