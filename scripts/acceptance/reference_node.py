"""A published SLIM node in a process of its own, with the router's command line.

The wheel carries the whole reference implementation, servers included. This file serves it where the
suite (or a measurement) wants a reference peer: `reference_node.py --listen 127.0.0.1:PORT`.

- `--listen ADDR`: `IP:port` or `unix:///path`; repeatable.
- `--shards N`: accepted so that both can be started alike; the reference has a thread pool instead.
- `--kill-safe`: see `keep_listeners_last`. The acceptance suite needs it; a measurement does not.
- Prints `serving ADDR` once every listener is bound. SIGTERM and SIGINT shut it down; exit code 0.
"""

import argparse
import asyncio
import os
import resource
import signal
import socket
import sys

import slim_bindings as slim

# Copies of listeners go below this and the process's limit, above all that connections will get.
LISTENER_DESCRIPTOR_END = 60_000


def keep_listeners_last():
    """Makes a killed node refuse at once, by giving each listener a second, high descriptor.

    The kernel gives the files of a killed process back from the highest descriptor down. A listener opened
    before the connections thus outlives them for some microseconds: clients whose connection just ended
    dial at once, reach a listener nobody will ever serve, are reset, and never dial again (dataplane 1.7).
    Two clients of five were lost this way. With the copy the listener goes first.

    Returns the copies, as sockets.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    next_copy = min(hard_limit, LISTENER_DESCRIPTOR_END) - 1
    copies = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(descriptor)) as candidate:
                listening = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:  # Not a socket, or the directory that is being listed.
            continue
        if listening:
            copies.append(socket.socket(fileno=os.dup2(descriptor, next_copy - len(copies))))
    return copies


async def serve(endpoints, log_level, kill_safe):
    tracing = slim.new_tracing_config()
    tracing.log_level = log_level
    slim.initialize_with_configs(
        tracing_config=tracing,
        runtime_config=slim.new_runtime_config(),
        service_config=[slim.new_service_config()],
    )
    service = slim.get_global_service()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    for endpoint in endpoints:
        await service.run_server_async(slim.new_insecure_server_config(endpoint))
    copies = keep_listeners_last() if kill_safe else []
    print(f"serving {', '.join(endpoints)}", flush=True)
    await stop.wait()
    for copy in copies:
        # The reference ends its streams first and closes its listener after, with the same loss of clients
        # as above (1 restart of 40). This ends the listening itself, whoever else holds the socket.
        copy.shutdown(socket.SHUT_RDWR)
        copy.close()
    await service.shutdown_async()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--listen", action="append", metavar="ADDR")
    arguments.add_argument("--shards", type=int, default=1, help="ignored")
    arguments.add_argument("--kill-safe", action="store_true")
    arguments.add_argument("--log-level", default="info")
    options = arguments.parse_args()
    asyncio.run(serve(options.listen or ["127.0.0.1:46357"], options.log_level, options.kill_safe))
    sys.exit(0)


if __name__ == "__main__":
    main()
