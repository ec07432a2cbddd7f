"""A router in surroundings that do not suit it: what it says, and how it ends, or is ended.

Each function takes a `World` whose router command is the binary under test.
"""

import concurrent.futures
import os
import re
import signal
import socket
import sys

from harness import HERE, expect
from scenarios import DRAIN_S, LARGE_PAYLOAD_BYTES, P2P

# Exit codes, as `--help` has them: cannot start here; the arguments or the file are wrong.
CANNOT_START, WRONG_CONFIG = 1, 2
# A start that fails has nothing to wait for.
REFUSAL_S = 10
# "At once", for a process that another one watches.
AT_ONCE_S = 2

KILLS = 10
KILLED_CONNECTIONS = 16
# The connection preface and an empty SETTINGS frame (RFC 9113 3.4).
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

# A file for a plain server, as it stands beside many an existing node.
PLAIN_SERVER = """\
tracing:
  log_level: info
runtime:
  n_cores: 1
  drain_timeout: 10s
services:
  slim/0:
    dataplane:
      servers:
        - endpoint: "{endpoint}"
          tls:
            insecure: true
"""


def expect_refusal(router, exit_code, *texts):
    """The router ends by itself with `exit_code`, and says all of `texts` (regular expressions)."""
    code = router.exit_code(REFUSAL_S)
    expect(code == exit_code, f"exit code {code} instead of {exit_code}")
    for text in texts:
        expect(re.search(text, router.output()), f"the error does not say {text!r}")
    expect("panicked" not in router.output(), "the router panicked")


def io_uring_forbidden(world):
    launcher = [sys.executable, os.path.join(HERE, "no_io_uring.py")]
    router = world.run_router(["--listen", "127.0.0.1:0"], launcher=launcher)
    expect_refusal(router, CANNOT_START, "io_uring", "seccomp")


def port_in_use_by_another_router(world):
    world.serve()
    second = world.run_router(["--listen", world.endpoint])
    expect_refusal(second, CANNOT_START, re.escape(world.endpoint))


def port_in_use_by_a_stranger(world):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        address = f"127.0.0.1:{stranger.getsockname()[1]}"
        router = world.run_router(["--listen", address])
        expect_refusal(router, CANNOT_START, re.escape(address))


def write_config(world, text):
    path = os.path.join(world.directory, "node.yaml")
    with open(path, "w") as file:
        file.write(text)
    return path


def expect_config_refusal(world, path, *texts):
    """Neither a check nor a start accepts the file."""
    for arguments in (["--config", path, "--check"], ["--config", path]):
        expect_refusal(world.run_router(arguments), WRONG_CONFIG, re.escape(path), *texts)


def line(number):
    return rf"(:{number}\b|\bline {number}\b)"


def config_missing(world):
    expect_config_refusal(world, os.path.join(world.directory, "missing.yaml"))


def config_malformed(world):
    good = PLAIN_SERVER.format(endpoint=world.fresh_endpoint()).splitlines()
    bad = [*good[:3], '  n_cores: "1', *good[4:]]
    # Where a quote that never ends is noticed is the parser's affair; that a line is named is ours.
    expect_config_refusal(world, write_config(world, "\n".join(bad)), r"(:\d+\b|\bline \d+\b)")


def config_unknown_key(world):
    good = PLAIN_SERVER.format(endpoint=world.fresh_endpoint()).splitlines()
    bad = [*good[:4], "  dran_timeout: 10s", *good[5:]]
    expect_config_refusal(world, write_config(world, "\n".join(bad)), "dran_timeout", line(5))


def config_plain_server(world):
    endpoint = world.fresh_endpoint()
    path = write_config(world, PLAIN_SERVER.format(endpoint=endpoint))
    check = world.run_router(["--config", path, "--check"])
    expect(check.exit_code(REFUSAL_S) == 0, "--check refused a good file")
    world.start_router(["--config", path])
    server, client = world.clients_of([("org/ns/server", True), ("org/ns/client", False)])
    session = client.create(P2P, "org/ns/server").result()
    client.do("publish", session=session, text="hello")
    client.wait_text(session, "hello", source="org/ns/server")


def drains_on(world, signal_number):
    world.serve()
    world.clients_of([("org/ns/server", True), ("org/ns/client", False)])
    world.router.child.send_signal(signal_number)
    code = world.router.exit_code(DRAIN_S)
    expect(code == 0, f"exit code {code} after {signal_number.name}")


def sigterm_drains(world):
    drains_on(world, signal.SIGTERM)


def sigint_drains(world):
    drains_on(world, signal.SIGINT)


def second_signal(world):
    world.serve()
    server, client, fence = world.clients_of(
        [("org/ns/server", False), ("org/ns/client", False), ("org/ns/fence", True)]
    )
    stuck = client.create(P2P, "org/ns/server").result()
    other = client.create(P2P, "org/ns/fence").result()
    # A client that stopped reading gives the drain something to wait for. What is published later over
    # the same connection and came back proves that the router has what was published before.
    server.child.send_signal(signal.SIGSTOP)
    for seed in range(3):
        client.ask("publish_large", session=stuck, size_bytes=LARGE_PAYLOAD_BYTES, seed=seed)
    client.do("publish", session=other, text="fence")
    client.wait_text(other, "fence", source="org/ns/fence")

    lines = len(world.router.log)
    world.router.child.send_signal(signal.SIGTERM)
    world.router.wait_ended_or("reaction to SIGTERM", lambda: len(world.router.log) > lines)
    # Two different signals: two equal ones may become one.
    world.router.child.send_signal(signal.SIGINT)
    world.router.exit_code(AT_ONCE_S)


def killed_refuses_at_once(world):
    """A client whose connection was cut by SIGKILL dials at once, and must then be refused.

    Refused, it tries again. Accepted by a dead router's listener and then reset, it never does
    (dataplane 1.7), so no listener may outlive a connection, not even by microseconds.
    """
    for _ in range(KILLS):
        world.serve()
        host, port = world.endpoint.split(":")
        address = (host, int(port))
        connections = [socket.create_connection(address) for _ in range(KILLED_CONNECTIONS)]
        for connection in connections:
            connection.settimeout(world.deadline.left())
            connection.sendall(HTTP2_PREFACE)
            expect(connection.recv(1) != b"", "the router answered an HTTP/2 preface with an end")
        with concurrent.futures.ThreadPoolExecutor(KILLED_CONNECTIONS) as dialers:
            dialed = [dialers.submit(redial, connection, address) for connection in connections]
            world.router.child.kill()
            outcomes = [one.result() for one in dialed]
        accepted = outcomes.count("accepted")
        expect(accepted == 0, f"{accepted} of {len(outcomes)} were accepted by a killed router: {outcomes}")
        world.router.exit_code(AT_ONCE_S)
        world.start_router()
        world.router.child.kill()
        world.router.exit_code(AT_ONCE_S)


def redial(connection, address):
    """Dials `address` as soon as `connection` has ended."""
    with connection:
        try:
            while connection.recv(4096):
                pass
        except ConnectionError:
            pass
    try:
        with socket.create_connection(address):
            return "accepted"
    except ConnectionError as error:
        return type(error).__name__


# (name, scenario, deadline in seconds)
ALL = [
    ("io-uring-forbidden", io_uring_forbidden, 30),
    ("port-in-use", port_in_use_by_another_router, 30),
    ("port-in-use-by-a-stranger", port_in_use_by_a_stranger, 30),
    ("config-missing", config_missing, 30),
    ("config-malformed", config_malformed, 30),
    ("config-unknown-key", config_unknown_key, 30),
    ("config-plain-server", config_plain_server, 30),
    ("sigterm-drains", sigterm_drains, 60),
    ("sigint-drains", sigint_drains, 60),
    ("second-signal", second_signal, 60),
    ("killed-refuses-at-once", killed_refuses_at_once, 60),
]
