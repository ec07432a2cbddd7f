"""Processes and deadlines: the router under test, the clients, and the world that ends them all.

Nothing here waits a fixed time. Every wait is for an event, and ends at the scenario's deadline with a
`Failure` that says what was awaited.
"""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# At least 32 bytes: the library refuses less.
SECRET = "a-shared-secret-of-the-acceptance-suite"


class Failure(Exception):
    """A scenario's expectation that did not hold."""


class Deadline:
    def __init__(self, seconds):
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    def left(self):
        return max(0.0, self.at - time.monotonic())


def expect(condition, text):
    if not condition:
        raise Failure(text)


def free_port():
    """A free port outside the ephemeral range.

    Clients dial while the router is down. With a port from the ephemeral range the kernel may give one
    of them that very port as its source: it then connects to itself, and the router cannot bind.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first_ephemeral = int(file.read().split()[0])
    # Where the ephemeral range begins low there is nothing below it, and the risk has to be taken.
    end = first_ephemeral if first_ephemeral > 11_000 else 65_536
    while True:
        port = random.randrange(10_000, end)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Process:
    """A child of `world` whose output is kept line by line, with waits on it."""

    def __init__(self, world, command, steered=False):
        self.world = world
        self.deadline = world.deadline
        self.changed = world.changed
        self.command = command
        self.log = []
        self.answers = []
        # Its own group, so that a Ctrl-C in the terminal reaches the suite only, which then ends it.
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if steered else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if steered else subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.readers = [self.reader(self.child.stdout, self.take_answer if steered else self.take_log)]
        if steered:
            self.readers.append(self.reader(self.child.stderr, self.take_log))
        self.ended = False
        threading.Thread(target=self.watch_end, daemon=True).start()

    def reader(self, pipe, take):
        def read():
            for line in pipe:
                with self.changed:
                    take(line.rstrip("\n"))
                    self.changed.notify_all()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def watch_end(self):
        self.child.wait()
        for reader in self.readers:
            reader.join()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def take_log(self, line):
        self.log.append(line)

    def take_answer(self, line):
        self.answers.append(json.loads(line))

    def wait(self, what, ready):
        """Waits until `ready()` is neither None nor False, and returns it.

        Fails early when this process has ended, or the router has: nothing will come any more.
        """
        with self.changed:
            while True:
                value = ready()
                if value is not None and value is not False:
                    return value
                for process in (self, self.world.router):
                    if process is not None and process.ended:
                        code = process.child.returncode
                        raise Failure(f"{process}: ended with code {code}; {self} still waited for {what}")
                if self.deadline.left() == 0:
                    raise Failure(f"{self}: no {what} within {self.deadline.seconds} s")
                self.changed.wait(self.deadline.left())

    def wait_ended_or(self, what, ready):
        with self.changed:
            while not self.ended and not ready():
                expect(self.deadline.left() > 0, f"{self}: no {what} within {self.deadline.seconds} s")
                self.changed.wait(self.deadline.left())

    def exit_code(self, within_s):
        """The exit code; negative: the signal that ended it."""
        limit = Deadline(min(within_s, self.deadline.left()))
        with self.changed:
            while not self.ended:
                expect(limit.left() > 0, f"{self}: still running after {within_s} s")
                self.changed.wait(limit.left())
        return self.child.returncode

    def output(self):
        return "\n".join(self.log)

    def end(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        for reader in self.readers:
            reader.join()

    def __str__(self):
        return os.path.basename(self.command[0])


class Router(Process):
    """The router under test (or the reference node, which takes the same arguments)."""

    def wait_until_serving(self, endpoint):
        address = endpoint.removeprefix("unix://")
        serves = re.compile(rf"\bserving\b.*{re.escape(address)}")
        self.wait(f"line that says it serves {address}", lambda: any(map(serves.search, self.log)))

    def __str__(self):
        return "router"


class Pending:
    """The answer to a command, some time."""

    def __init__(self, client, number, verb):
        self.client, self.number, self.verb = client, number, verb

    def settle(self):
        return self.client.wait(
            f"answer to {self.verb}",
            lambda: next((a for a in self.client.answers if a.get("reply") == self.number), None),
        )

    def result(self):
        answer = self.settle()
        expect("error" not in answer, f"{self.client}: {self.verb}: {answer.get('error')}")
        return answer["value"]

    def error(self):
        answer = self.settle()
        expect("error" in answer, f"{self.client}: {self.verb} worked, an error was expected")
        return answer["error"]


class Client(Process):
    """One application in its own process (client.py)."""

    def __init__(self, world, name):
        super().__init__(world, [sys.executable, os.path.join(HERE, "client.py")], steered=True)
        self.name = name
        self.numbers = 0

    def ask(self, verb, **arguments):
        self.numbers += 1
        command = {"number": self.numbers, "verb": verb, "arguments": arguments}
        try:
            self.child.stdin.write(json.dumps(command) + "\n")
            self.child.stdin.flush()
        except OSError as error:
            raise Failure(f"{self}: cannot take {verb}: {error}") from error
        return Pending(self, self.numbers, verb)

    def do(self, verb, **arguments):
        return self.ask(verb, **arguments).result()

    def create(self, kind, destination, mls=False, interval_ms=1000, max_retries=10):
        return self.ask(
            "create",
            kind=kind,
            destination=destination,
            mls=mls,
            interval_ms=interval_ms,
            max_retries=max_retries,
        )

    # ---- events, as a history that is never consumed: a check may look at it again.

    def events(self, kind, session=None):
        with self.changed:
            return [
                event
                for event in self.answers
                if event.get("event") == kind and session in (None, event["session"])
            ]

    def accepted_session(self, nth=1):
        """The key of the nth session that another client opened to this one."""

        def ready():
            sessions = self.events("session")
            return sessions[nth - 1]["session"] if len(sessions) >= nth else None

        return self.wait(f"session number {nth}", ready)

    def texts(self, session, source=None):
        """Texts received in a session so far, in order."""
        return [
            message.get("text")
            for message in self.events("message", session)
            if source in (None, message["source"])
        ]

    def wait_text(self, session, text, source=None):
        origin = f" from {source}" if source else ""
        self.wait(f"message {text!r}{origin}", lambda: text in self.texts(session, source))

    def wait_ended(self, session):
        self.wait(f"end of session {session}", lambda: bool(self.events("ended", session)))

    def __str__(self):
        return f"client {self.name}"


class World:
    """Everything that one scenario starts. Leaving it ends every process, pass or fail."""

    def __init__(self, router_command, shards, deadline_s):
        self.router_command = router_command
        self.shards = shards
        self.deadline = Deadline(deadline_s)
        # One for all processes, so that a wait on one notices the end of another.
        self.changed = threading.Condition()
        self.directory = tempfile.mkdtemp(prefix="slim-acceptance-")
        self.processes = []
        self.router = None
        self.endpoint = None
        self.dial = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def fresh_endpoint(self, over="tcp"):
        """A new address for the world's router, and for all clients that start from now on."""
        if over == "tcp":
            self.endpoint = f"127.0.0.1:{free_port()}"
            self.dial = f"http://{self.endpoint}"
        else:
            self.endpoint = self.dial = f"unix://{self.directory}/router.sock"
        return self.endpoint

    def serve(self, over="tcp"):
        """Starts a router on a fresh address."""
        self.fresh_endpoint(over)
        self.start_router()

    def start_router(self, arguments=None):
        """Starts a router that listens on the world's address, and waits until it serves."""
        listen = ["--listen", self.endpoint, "--shards", str(self.shards)]
        self.router = self.run_router(arguments or listen)
        self.router.wait_until_serving(self.endpoint)

    def run_router(self, arguments, launcher=()):
        """Starts the router's binary with `arguments`, and waits for nothing."""
        router = Router(self, [*launcher, *self.router_command, *arguments])
        self.processes.append(router)
        return router

    def client(self, name, **options):
        """Starts a client and opens its app; `opened` of the returned client is the pending answer."""
        client = Client(self, name)
        self.processes.append(client)
        client.opened = client.ask(
            "open", name=name, endpoint=self.dial, secret=SECRET, **options
        )
        return client

    def clients_of(self, wanted):
        """Starts clients for all `(name, echoes)` at once: starting a process is most of the cost."""
        started = [self.client(name, echo=echoes) for name, echoes in wanted]
        for client in started:
            client.opened.result()
        return started

    def print_logs(self):
        for process in self.processes:
            print(f"---- {process} ({' '.join(process.command)})")
            code = process.child.poll()
            print(f"---- {'running' if code is None else f'exit code {code}'}")
            for line in process.log:
                print(f"  {line}")
            for answer in process.answers:
                print(f"  > {json.dumps(answer)[:400]}")
