"""What real clients do with a router. Each function takes a `World`, and returns if all of it held."""

import hashlib
import os
import re
import signal
import sys

from client_payload import payload_of
from harness import HERE, Process, expect

P2P, GROUP = "POINT_TO_POINT", "GROUP"
MODERATOR = "org/ns/moderator"
MEMBERS = ["org/ns/member-1", "org/ns/member-2", "org/ns/member-3", "org/ns/member-4"]
# Messages that each member of a group publishes in one round.
ROUND_MESSAGES = 20
# The largest delivery the client's own acceptance names; the wire allows 4,194,304 bytes.
LARGE_PAYLOAD_BYTES = 3_000_000
NEW_SESSIONS = 30
# A router that drains may take this long until it ends.
DRAIN_S = 15
# Traffic around a restart: one message each.
STREAM_EVERY_MS = 20
# Messages that must have arrived before the router is taken away, and again after it is back.
STREAM_MESSAGES = 20
# The client dials again every 2 s; retries must outlive that and the router's start.
OUTAGE = {"interval_ms": 500, "max_retries": 60}


# ---- point to point


def request_and_reply(world, mls):
    server, client = world.clients_of([("org/ns/server", True), ("org/ns/client", False)])
    session = client.create(P2P, "org/ns/server", mls).result()
    for number in range(ROUND_MESSAGES):
        client.do("publish", session=session, text=f"request {number}")
        client.wait_text(session, f"request {number}", source="org/ns/server")
    requests = [f"request {number}" for number in range(ROUND_MESSAGES)]
    # A server's word of what it heard can be read after the client's of the reply.
    server.wait_text(server.accepted_session(), requests[-1])
    expect(server.texts(server.accepted_session()) == requests, "the server heard requests out of order")
    expect(client.texts(session) == requests, "the client heard replies out of order")
    client.do("close", session=session)
    server.wait_ended(server.accepted_session())


def p2p_plain(world):
    world.serve()
    request_and_reply(world, mls=False)


def p2p_mls(world):
    world.serve()
    request_and_reply(world, mls=True)


def unix_socket(world):
    world.serve(over="unix")
    request_and_reply(world, mls=False)


def large_payload(world):
    world.serve()
    server, client = world.clients_of([("org/ns/server", True), ("org/ns/client", False)])
    session = client.create(P2P, "org/ns/server", interval_ms=5000).result()
    client.do("publish_large", session=session, size_bytes=LARGE_PAYLOAD_BYTES, seed=7)
    digest = hashlib.sha256(payload_of(LARGE_PAYLOAD_BYTES, 7)).hexdigest()
    for receiver in (server, client):
        received = receiver.wait("large message", lambda: (receiver.events("message") or [None])[0])
        expect(
            (received.get("size_bytes"), received.get("sha256")) == (LARGE_PAYLOAD_BYTES, digest),
            f"{receiver}: the large payload changed on its way",
        )


def nobody_there(world):
    world.serve()
    server, client = world.clients_of([("org/ns/server", True), ("org/ns/client", False)])
    error = client.create(P2P, "org/ns/nobody", interval_ms=250, max_retries=3).error()
    expect("retries exhausted" in error, f"an unexpected error for a name with nobody behind it: {error}")
    session = client.create(P2P, "org/ns/server").result()
    client.do("publish", session=session, text="still here")
    client.wait_text(session, "still here", source="org/ns/server")
    server.accepted_session()


def anycast_spread(world):
    world.serve()
    pool = world.clients_of([("org/ns/pool", True)] * 3)
    (client,) = world.clients_of([("org/ns/client", False)])
    for number in range(NEW_SESSIONS):
        session = client.create(P2P, "org/ns/pool").result()
        client.do("publish", session=session, text=f"job {number}")
        client.wait_text(session, f"job {number}", source="org/ns/pool")

    def shares_of_all():
        counts = [len(member.events("session")) for member in pool]
        return counts if sum(counts) >= NEW_SESSIONS else None

    # A member's word that it has a session can be read after the client's that it had the answer.
    shares = client.wait(f"{NEW_SESSIONS} sessions in the pool", shares_of_all)
    expect(sum(shares) == NEW_SESSIONS, f"{NEW_SESSIONS} sessions reached the pool as {shares}")
    expect(min(shares) > 0, f"an instance got no session at all: {shares}")


# ---- groups


def open_group(world, members, mls, **timing):
    """A moderator with all `members` invited. Returns `{name: (client, session)}`."""
    moderator, *invited = world.clients_of([(name, False) for name in [MODERATOR, *members]])
    session = moderator.create(GROUP, "org/ns/channel", mls, **timing).result()
    group = {MODERATOR: (moderator, session)}
    for name, client in zip(members, invited):
        moderator.do("invite", session=session, name=name)
        group[name] = (client, client.accepted_session())
    return group


def talk(group, label):
    """Every member publishes a numbered round, all at the same time, and hears all others' in order."""
    for client, session in group.values():
        client.round = [
            client.ask("publish", session=session, text=f"{label} {number}")
            for number in range(ROUND_MESSAGES)
        ]
    for client, _ in group.values():
        for published in client.round:
            published.result()
    said = [f"{label} {number}" for number in range(ROUND_MESSAGES)]
    for name, (client, session) in group.items():
        for other in group:
            if other == name:
                continue
            client.wait_text(session, said[-1], source=other)
            heard = [text for text in client.texts(session, other) if text.startswith(label + " ")]
            expect(heard == said, f"{client} heard {heard} from {other}")


def expect_participants(group):
    names = sorted([name, "ONLINE"] for name in group)
    for client, session in group.values():
        listed = client.do("participants", session=session)
        expect(listed == names, f"{client} lists {listed} instead of {names}")


def group_talk(world, mls):
    group = open_group(world, MEMBERS, mls)
    expect_participants(group)
    talk(group, "all five")

    removed_name = MEMBERS[1]
    moderator, session = group[MODERATOR]
    moderator.do("remove", session=session, name=removed_name)
    removed, removed_session = group.pop(removed_name)
    removed.wait_ended(removed_session)
    expect_participants(group)
    talk(group, "without one")
    # Everybody else has the whole round. A session opened only now reaches the removed member over the
    # same connection, so whatever of the round was on its way to it has arrived before.
    fresh = moderator.create(P2P, removed_name).result()
    moderator.do("publish", session=fresh, text="are you there")
    removed.wait_text(removed.accepted_session(2), "are you there")
    leaked = [text for text in removed.texts(None) if text.startswith("without one")]
    expect(leaked == [], f"the removed member heard {leaked}")


def group_plain(world):
    world.serve()
    group_talk(world, mls=False)


def group_mls(world):
    world.serve()
    group_talk(world, mls=True)


# ---- the router goes away


class Traffic:
    """A point-to-point session and a group in which everybody streams numbered messages."""

    def __init__(self, world, mls):
        self.server, self.client = world.clients_of([("org/ns/server", True), ("org/ns/client", False)])
        self.session = self.client.create(P2P, "org/ns/server", mls, **OUTAGE).result()
        self.group = open_group(world, MEMBERS[:2], mls, **OUTAGE)
        self.senders = [(self.client, self.session, "request"), *self.group_senders()]
        # (who hears, in which session, from whom, label)
        server_session = self.server.accepted_session()
        self.flows = [
            (self.server, server_session, "org/ns/client", self.senders[0]),
            (self.client, self.session, "org/ns/server", self.senders[0]),
        ]
        for sender in self.senders[1:]:
            for name, (client, session) in self.group.items():
                if client is not sender[0]:
                    self.flows.append((client, session, sender[0].name, sender))
        for client, session, label in self.senders:
            client.do("stream", session=session, label=label, every_ms=STREAM_EVERY_MS)

    def group_senders(self):
        return [(client, session, "word") for client, session in self.group.values()]

    def wait_for_more(self):
        """Waits until every receiver has what every sender sends from now on."""
        marks = {
            id(sender): sender[0].do("stream_sent", session=sender[1]) + STREAM_MESSAGES
            for sender in self.senders
        }
        for receiver, session, source, sender in self.flows:
            receiver.wait_text(session, f"{sender[2]} {marks[id(sender)]}", source=source)

    def finish(self):
        """Ends the streams; every flow must then be whole: in order, nothing lost, nothing twice."""
        sent = {id(sender): sender[0].do("stop_stream", session=sender[1]) for sender in self.senders}
        for receiver, session, source, sender in self.flows:
            said = [f"{sender[2]} {number}" for number in range(1, sent[id(sender)] + 1)]
            receiver.wait_text(session, said[-1], source=source)
            heard = receiver.texts(session, source)
            expect(heard == said, difference(receiver, source, said, heard))


def difference(receiver, source, said, heard):
    lost = [text for text in said if text not in heard]
    again = sorted({text for text in heard if heard.count(text) > 1})
    order = "the rest in order" if not lost and not again else "see the log"
    return f"{receiver} heard {len(heard)} of {len(said)} from {source}; lost {lost}, twice {again}, {order}"


def restart(world, mls, take_away):
    world.serve()
    traffic = Traffic(world, mls)
    traffic.wait_for_more()
    take_away(world.router)
    world.start_router()
    traffic.wait_for_more()
    traffic.finish()
    # Existing sessions go on; new ones must be possible as well, to old clients and from new ones.
    session = traffic.client.create(P2P, "org/ns/server", mls).result()
    traffic.client.do("publish", session=session, text="after")
    traffic.client.wait_text(session, "after", source="org/ns/server")
    (late,) = world.clients_of([("org/ns/late", False)])
    moderator, channel = traffic.group[MODERATOR]
    moderator.do("invite", session=channel, name="org/ns/late")
    traffic.group["org/ns/late"] = (late, late.accepted_session())
    expect_participants(traffic.group)
    talk(traffic.group, "after")


def killed(router):
    router.child.send_signal(signal.SIGKILL)
    router.exit_code(DRAIN_S)


def terminated(router):
    router.child.send_signal(signal.SIGTERM)
    code = router.exit_code(DRAIN_S)
    expect(code == 0, f"the router ended with code {code} after SIGTERM")


def killed_plain(world):
    restart(world, mls=False, take_away=killed)


def killed_mls(world):
    restart(world, mls=True, take_away=killed)


def terminated_plain(world):
    restart(world, mls=False, take_away=terminated)


def terminated_mls(world):
    restart(world, mls=True, take_away=terminated)


# ---- what the README promises


def readme(world):
    """The README's own lines, but for the port, show a message arriving."""
    world.serve()
    with open(os.path.join(HERE, "..", "..", "README.md")) as file:
        [lines] = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    expect("127.0.0.1:46357" in lines, "the README connects to another address")
    reader = Process(world, [sys.executable, "-c", lines.replace("127.0.0.1:46357", world.endpoint)])
    world.processes.append(reader)
    reader.wait("line b'hello'", lambda: "b'hello'" in reader.log)


# (name, scenario, deadline in seconds)
ALL = [
    ("readme", readme, 60),
    ("p2p", p2p_plain, 60),
    ("p2p-mls", p2p_mls, 60),
    ("unix-socket", unix_socket, 60),
    ("group", group_plain, 90),
    ("group-mls", group_mls, 90),
    ("anycast-spread", anycast_spread, 90),
    ("large-payload", large_payload, 60),
    ("nobody-there", nobody_there, 60),
    ("killed", killed_plain, 120),
    ("killed-mls", killed_mls, 120),
    ("terminated", terminated_plain, 120),
    ("terminated-mls", terminated_mls, 120),
]
