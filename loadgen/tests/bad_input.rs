//! What goes wrong outside, and what the program then says: its words, its exit status, and what is left of the result.

mod stub;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use stub::{Act, Orders, Stub};

/// The program with its arguments, separated by blanks.
fn program(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slim-loadgen"));
    command
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn start(arguments: &str) -> Child {
    program(arguments).spawn().unwrap()
}

/// Exit status, standard output, standard error.
fn ended(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code(), out, err)
}

fn run(arguments: &str) -> (Option<i32>, String, String) {
    ended(start(arguments).wait_with_output().unwrap())
}

#[track_caller]
fn fails(arguments: &str, status: i32, says: &[&str]) {
    let (code, out, err) = run(arguments);
    assert_eq!(code, Some(status), "{arguments}: {out}{err}");
    for words in says {
        assert!(
            err.contains(words),
            "{arguments}: `{words}` is not in: {err}"
        );
    }
}

/// A file of this test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("slim-loadgen-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Takes one connection, answers with `answer`, and reads until the other side has had enough.
fn answers_with(answer: &'static [u8]) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Both fail when the other side has gone already.
        let _ = stream.write_all(answer);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    (target, thread)
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    drop(listener);
    let command = format!("ping --pairs 1 --target {target}");
    fails(&command, 1, &["cannot connect to", &target]);
}

#[test]
fn another_protocol_is_told_by_its_first_bytes() {
    for (answer, says) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "HTTP/1"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0-"),
        (b"INFO {\"server_id\":\"x\"}\r\n", "INFO"),
    ] {
        let (target, thread) = answers_with(answer);
        let command = format!("connect --connections 1 --target {target}");
        fails(&command, 1, &[says, "during the HTTP/2 handshake"]);
        thread.join().unwrap();
    }
    let (target, thread) = answers_with(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let command = format!("connect --connections 1 --target nats://{target}");
    fails(&command, 1, &["does not speak NATS", "HTTP/1.1 400"]);
    thread.join().unwrap();
}

#[test]
fn a_server_that_dies_leaves_a_result_that_is_marked_as_partial() {
    let stub = Stub::start(Orders::default());
    let json = Scratch::new("died.json");
    let child = start(&format!(
        "ping --pairs 2 --duration 60s --warm-up 0s --target {} --json {}",
        stub.target(),
        json.0.display()
    ));
    stub.wait_until("traffic", |node| node.received() >= 1_000);
    stub.die();
    let (code, out, err) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("PARTIAL RESULT"), "{out}");
    assert!(out.contains("round trips"), "{out}");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&json.0).unwrap()).unwrap();
    let why = record["cut_short"].as_str().unwrap();
    assert!(why.contains("connection"), "{why}");
    assert!(record["traffic"]["delivered"].as_u64().unwrap() > 0);
}

#[test]
fn a_server_that_dies_in_the_warm_up_is_an_error() {
    let stub = Stub::start(Orders::default());
    let command = "ping --pairs 2 --duration 1s --warm-up 60s";
    let child = start(&format!("{command} --target {}", stub.target()));
    stub.wait_until("traffic", |node| node.received() >= 100);
    stub.die();
    let (code, out, err) = ended(child.wait_with_output().unwrap());
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("during the run"), "{err}");
}

#[test]
fn an_interrupted_run_prints_what_it_has() {
    for signal in ["-INT", "-TERM"] {
        let stub = Stub::start(Orders::default());
        let command = "rate --rate 1000 --pairs 2 --duration 60s --warm-up 0s";
        let child = start(&format!("{command} --target {}", stub.target()));
        stub.wait_until("traffic", |node| node.received() >= 100);
        let pid = child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
        let (code, out, err) = ended(child.wait_with_output().unwrap());
        assert_eq!(code, Some(1), "{out}{err}");
        assert!(out.contains("PARTIAL RESULT       interrupted"), "{out}");
        assert!(out.contains("0 lost, 0 duplicated, 0 reordered"), "{out}");
        let books = stub.finish();
        assert_eq!(books.received, books.forwarded);
    }
}

#[test]
fn an_interrupted_set_up_ends_without_a_result() {
    // Takes connections, and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let child = start(&format!("connect --connections 1 --target {target}"));
    let (silent, _) = listener.accept().unwrap();
    let mut silent = silent;
    // Its preface: signals are watched for since long before.
    silent.read_exact(&mut [0; 24]).unwrap();
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.unwrap().success());
    let (code, out, err) = ended(child.wait_with_output().unwrap());
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("interrupted before"), "{err}");
}

#[test]
fn a_rate_beyond_the_machine_ends_and_says_who_was_the_limit() {
    let stub = Stub::start(Orders::default());
    let command = "rate --rate 1000000000 --pairs 1 --duration 200ms --warm-up 0s";
    let (code, out, err) = run(&format!("{command} --target {}", stub.target()));
    assert_eq!(code, Some(4), "{out}{err}");
    let limit = out.lines().find(|line| line.starts_with("  limit "));
    let limit = limit.expect("a line that names the limit");
    assert!(
        limit.contains("the server: ") || limit.contains("the load generator: "),
        "{limit}"
    );
}

#[test]
fn a_server_that_takes_no_more_is_named_as_the_limit() {
    // It takes a handful of messages, and the next ones only when the measured time is over.
    let stub = Stub::start(Orders {
        stall: Box::new(|copy| (copy.number == 0).then_some(Duration::from_millis(1_500))),
        credit: stub::Credit::WhenForwarded,
        ..Orders::default()
    });
    let command = "rate --rate 4000 --pairs 1 --payload 16000 --duration 1s --warm-up 0s";
    let (code, out, err) = run(&format!("{command} --target {}", stub.target()));
    assert_eq!(code, Some(4), "{out}{err}");
    assert!(out.contains("limit                the server: "), "{out}");
}

#[test]
fn arguments_that_cannot_be_meant_are_refused_before_anything_is_done() {
    // Nobody listens there, which is not even tried.
    for (command, says) in [
        ("rate --rate 0", "--rate 0: at least 1 is needed"),
        ("ping --pairs 0", "--pairs 0"),
        ("ping --payload 10", "24"),
        ("ping --payload x", "x"),
        ("ping --duration 5", "`ms`, `s` or `m`"),
        ("ping --target ftp://127.0.0.1:1", "ftp"),
        ("ping --cores 100000", "no such core"),
        ("rate --rate 99999999999", "99999999999"),
        ("ping --mac maybe", "maybe"),
        ("nonsense", "nonsense"),
        (
            "compare --against a=127.0.0.1:1 --rounds 0 -- ping",
            "--rounds 0",
        ),
        (
            "compare --against a=127.0.0.1:1 -- plot x --out y",
            "a workload is expected",
        ),
    ] {
        fails(command, 2, &[says]);
    }
}

#[test]
fn a_server_process_that_is_gone_is_named() {
    let mut gone = Command::new("true").spawn().unwrap();
    let pid = gone.id();
    gone.wait().unwrap();
    let stub = Stub::start(Orders::default());
    let target = stub.target();
    let command = format!("ping --server-pid {pid} --target {target}");
    fails(
        &command,
        1,
        &["--server-pid", &format!("process {pid} is gone")],
    );
}

#[test]
fn a_full_disk_is_named_and_the_table_printed_all_the_same() {
    let stub = Stub::start(Orders::default());
    for option in ["json", "percentiles", "plot"] {
        let (code, out, err) = run(&format!(
            "ping --pairs 1 --duration 50ms --warm-up 0s --target {} --{option} /dev/full",
            stub.target()
        ));
        assert_eq!(code, Some(1), "{option}: {out}{err}");
        assert!(err.contains("/dev/full"), "{option}: {err}");
        assert!(out.contains("round-trip time"), "{option}: {out}");
    }
}

#[test]
fn a_standard_output_that_nobody_reads_is_no_panic_and_loses_no_file() {
    let stub = Stub::start(Orders::default());
    let json = Scratch::new("unread.json");
    let mut child = start(&format!(
        "ping --pairs 1 --duration 50ms --warm-up 0s --target {} --json {}",
        stub.target(),
        json.0.display()
    ));
    drop(child.stdout.take());
    let (code, _, err) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("standard output"), "{err}");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&json.0).unwrap()).unwrap();
    assert!(record["traffic"].is_object());
}

#[test]
fn faults_are_an_exit_status_unless_they_are_allowed() {
    let lossy = || {
        Stub::start(Orders {
            act: Box::new(|copy| match copy.number % 10 {
                5 => Act::Duplicate,
                _ => Act::Forward,
            }),
            ..Orders::default()
        })
    };
    let command = "rate --rate 500 --pairs 1 --duration 200ms --warm-up 0s";
    for (option, status) in [("", 3), ("--allow-faults", 0)] {
        let stub = lossy();
        let (code, out, err) = run(&format!("{command} {option} --target {}", stub.target()));
        let duplicated = stub.finish().duplicated;
        assert!(
            out.contains(&format!("0 lost, {duplicated} duplicated")),
            "{out}"
        );
        assert_eq!(code, Some(status), "{out}{err}");
    }
}

/// A NATS server that takes payloads up to `limit` bytes, as far as that matters.
fn nats_with_limit(limit: usize) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let serve = move |mut stream: TcpStream| {
        let info = format!("INFO {{\"server_id\":\"x\",\"max_payload\":{limit}}}\r\n");
        let _ = stream.write_all(info.as_bytes());
        let reader = BufReader::new(stream.try_clone().unwrap());
        for line in reader.lines().map_while(Result::ok) {
            if line == "PING" {
                let _ = stream.write_all(b"PONG\r\n");
            }
        }
    };
    let thread = thread::spawn(move || serve(listener.accept().unwrap().0));
    (target, thread)
}

#[test]
fn a_payload_that_nats_does_not_take_is_refused_with_both_sizes() {
    let (target, thread) = nats_with_limit(1_000);
    let command = format!("ping --pairs 1 --payload 2000 --target nats://{target}");
    fails(&command, 1, &["1000", "2000", "--payload"]);
    thread.join().unwrap();
}
