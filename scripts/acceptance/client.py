"""One application with the published Python client, steered over a pipe.

Every client of the suite is a process of its own, as in a real deployment: the client library is itself
a node, and two applications in one process would talk past the router.

Reads one JSON command a line from stdin, writes one JSON object a line to stdout:
- `{"reply": N, "value": ..}` or `{"reply": N, "error": text}` ends command N;
- `{"event": "session" | "message" | "ended", ..}` tells what happened by itself.
Ends when stdin ends. The library's own log goes to stderr.
"""

import asyncio
import datetime
import hashlib
import json
import os
import sys

import slim_bindings as slim
from client_payload import payload_of

# A payload longer than this is reported by length and digest, not by content.
REPORTED_PAYLOAD_BYTES_MAX = 4096


def text_of(name):
    return "/".join(name.components())


class Client:
    def __init__(self, out):
        self.out = out
        self.app = None
        self.connection = None
        self.echo = False
        self.sessions = {}
        self.streams = {}
        self.tasks = set()

    # ---- the pipe

    def emit(self, **fields):
        self.out.write(json.dumps(fields) + "\n")
        self.out.flush()

    def spawn(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def answer(self, number, verb, arguments):
        try:
            value = await getattr(self, "do_" + verb)(**arguments)
        except Exception as error:  # Everything that a command can meet is the answer to it.
            self.emit(reply=number, error=f"{type(error).__name__}: {error}")
        else:
            self.emit(reply=number, value=value)

    # ---- commands

    async def do_open(self, name, endpoint, secret, echo=False):
        """Connects, creates the app and subscribes it to its name."""
        self.echo = echo
        service = slim.get_global_service()
        self.connection = await service.connect_async(slim.new_insecure_client_config(endpoint))
        own_name = slim.Name.from_string(name)
        # The asynchronous form of this call panics in 3.3.8 (no reactor on the calling thread).
        self.app = service.create_app_with_secret(own_name, secret)
        await self.app.subscribe_async(own_name, self.connection)
        self.spawn(self.accept_sessions())
        return self.app.id()

    async def do_create(self, kind, destination, mls, interval_ms, max_retries):
        """Creates a session and waits until the library calls it established."""
        name = slim.Name.from_string(destination)
        await self.app.set_route_async(name, self.connection)
        config = slim.SessionConfig(
            session_type=getattr(slim.SessionType, kind),
            max_retries=max_retries,
            interval=datetime.timedelta(milliseconds=interval_ms),
            metadata={},
            mls_settings=slim.MlsSettings(
                header_integrity_validation_percent=100, max_seen_control_message_ids_size=None
            )
            if mls
            else None,
        )
        created = await self.app.create_session_async(config, name)
        await created.completion.wait_async()
        return self.keep(created.session, echo=False)

    async def do_invite(self, session, name):
        invited = slim.Name.from_string(name)
        await self.app.set_route_async(invited, self.connection)
        await self.sessions[session].invite_and_wait_async(invited)

    async def do_remove(self, session, name):
        await self.sessions[session].remove_and_wait_async(slim.Name.from_string(name))

    async def do_participants(self, session):
        listed = await self.sessions[session].participants_list_async()
        return sorted([text_of(one.name), one.status.name] for one in listed)

    async def do_publish(self, session, text):
        """Publishes and waits for the acknowledgements of all receivers."""
        await self.sessions[session].publish_and_wait_async(text.encode(), None, None)

    async def do_publish_large(self, session, size_bytes, seed):
        payload = payload_of(size_bytes, seed)
        await self.sessions[session].publish_and_wait_async(payload, None, None)

    async def do_stream(self, session, label, every_ms):
        """Publishes `label 1`, `label 2`, .. at a steady pace until `stop_stream`."""
        self.streams[session] = {"sent": 0, "stop": asyncio.Event()}
        self.streams[session]["task"] = self.spawn(self.stream(session, label, every_ms / 1000))

    async def do_stream_sent(self, session):
        return self.streams[session]["sent"]

    async def do_stop_stream(self, session):
        """Ends a stream; returns how many messages it has sent."""
        stream = self.streams.pop(session)
        stream["stop"].set()
        await stream["task"]
        return stream["sent"]

    async def do_close(self, session):
        await self.sessions.pop(session).close_and_wait_async()

    # ---- what runs by itself

    async def stream(self, session, label, every_s):
        stream = self.streams[session]
        while not stream["stop"].is_set():
            stream["sent"] += 1
            text = f"{label} {stream['sent']}"
            handle = await self.sessions[session].publish_async(text.encode(), None, None)
            self.spawn(self.settle(session, text, handle))
            try:
                await asyncio.wait_for(stream["stop"].wait(), every_s)
            except asyncio.TimeoutError:
                pass

    async def settle(self, session, text, handle):
        try:
            await handle.wait_async()
        except slim.SlimError as error:
            self.emit(event="unsettled", session=session, text=text, error=str(error))

    def keep(self, session, echo):
        key = f"s{len(self.sessions) + 1}"
        self.sessions[key] = session
        self.spawn(self.receive(key, session, echo))
        return key

    async def accept_sessions(self):
        while True:
            session = await self.app.listen_for_session_async(None)
            key = self.keep(session, self.echo)
            self.emit(event="session", session=key, peer=text_of(session.destination()))

    async def receive(self, key, session, echo):
        while True:
            try:
                received = await session.get_message_async(None)
            except slim.SlimError as error:
                text = str(error)
                self.emit(event="ended" if "closed" in text.lower() else "trouble", session=key, error=text)
                if "closed" in text.lower():
                    return
                continue
            payload = received.payload
            source = text_of(received.context.source_name)
            if len(payload) > REPORTED_PAYLOAD_BYTES_MAX:
                digest = hashlib.sha256(payload).hexdigest()
                self.emit(event="message", session=key, source=source, size_bytes=len(payload), sha256=digest)
            else:
                self.emit(event="message", session=key, source=source, text=payload.decode())
            if echo:
                handle = await session.publish_to_async(received.context, payload, None, None)
                self.spawn(self.settle(key, "echo", handle))


async def run(out):
    client = Client(out)
    commands = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while line := await commands.readline():
        command = json.loads(line)
        client.spawn(client.answer(command["number"], command["verb"], command["arguments"]))


def main():
    # The library logs to file descriptor 1; answers keep the pipe for themselves.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    tracing = slim.new_tracing_config()
    tracing.log_level = os.environ.get("CLIENT_LOG", "info")
    slim.initialize_with_configs(
        tracing_config=tracing,
        runtime_config=slim.new_runtime_config(),
        service_config=[slim.new_service_config()],
    )
    try:
        asyncio.run(run(out))
    finally:
        # The library's threads may hold the interpreter for as long as their timers run.
        out.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
