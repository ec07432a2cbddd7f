"""Server CPU per delivered message, ours beside the reference node, in turn: `compare.py --rounds 5 --out DIR`.

Needs `cargo build --release --workspace --bins` and the virtual environment that `scripts/test.sh` makes. Every run starts
its own server on core 0 and the load on core 1, so nothing carries over. Writes `report.json` (every run's record, as
`slim-loadgen --json` gives it), `machine.txt` and `summary.md` into DIR.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
REFERENCE = os.path.join(HERE, "acceptance", "reference_node.py")

WORKLOADS = [
    ["ping", "--pairs", "64"],
    ["ping", "--pairs", "512"],
    ["stream", "--pairs", "4"],
    ["fanout", "--subscribers", "16"],
    ["fanout", "--subscribers", "256"],
]

START_DEADLINE_S = 20


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_it_listens(port, process):
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode} before it listened")
        # Its listening socket shows there; to connect would leave the node a connection that says nothing.
        with open("/proc/net/tcp") as table:
            if any(f":{port:04X} 00000000:0000 0A" in line for line in table):
                return
        time.sleep(0.05)
    sys.exit(f"the server did not listen within {START_DEADLINE_S} s")


def run_one(command, workload, binaries, seconds):
    """One server, one load; the load's record."""
    port = free_port()
    server = subprocess.Popen(
        ["taskset", "-c", "0", *command, "--listen", f"127.0.0.1:{port}", "--shards", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_it_listens(port, server)
        with tempfile.NamedTemporaryFile(suffix=".json") as record:
            load = [
                os.path.join(binaries, "slim-loadgen"), *workload,
                "--target", f"127.0.0.1:{port}", "--payload", "256",
                "--duration", f"{seconds}s", "--warm-up", "1s",
                "--server-pid", str(server.pid), "--cores", "1", "--json", record.name,
            ]
            outcome = subprocess.run(load, capture_output=True, text=True)
            if outcome.returncode != 0:
                sys.exit(f"{' '.join(load)}\n{outcome.stdout}{outcome.stderr}")
            result = json.load(record)
            # The same on every machine: without the paths of this one.
            result["command"] = " ".join(["slim-loadgen", *load[1:-2]])
            return result
    finally:
        server.terminate()
        server.wait()


def spread(values, form):
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({least:{form}}-{most:{form}})"


def summary(runs, machine, command):
    cpu = lambda run: run["server"]["cpu_us_per_delivered"]
    rate = lambda run: run["traffic"]["delivered_per_s"]
    lines = [
        "Server CPU per delivered message, 256-byte payloads, link MAC on, one server core: median (least-most).",
        "",
        f"Command: `{command}`",
        "",
        *(f"- {line}" for line in machine),
        "",
        "| workload | ours, us | reference, us | ratio | delivered/s, ours and reference |",
        "|---|---|---|---|---|",
    ]
    for name, pairs in runs.items():
        ours, reference = zip(*pairs)
        ratios = [cpu(a) / cpu(b) for a, b in pairs]
        lines.append(
            f"| {name} | {spread([cpu(a) for a in ours], '.2f')} | {spread([cpu(b) for b in reference], '.2f')} "
            f"| {spread(ratios, '.2f')} | {statistics.median(map(rate, ours)):,.0f} "
            f"and {statistics.median(map(rate, reference)):,.0f} |"
        )
    return "\n".join(lines) + "\n"


def machine():
    with open("/proc/cpuinfo") as cpuinfo:
        model = next(line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name"))
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    return [
        f"machine: {os.cpu_count()} cores, {model}, {platform.system()} {platform.release().split('-')[0]}",
        f"commit: {commit}",
        "reference: slim-bindings 3.3.8, `scripts/acceptance/reference_node.py`",
        f"load average at the end: {os.getloadavg()[0]:.1f}",
    ]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=3, help="measured, in each run")
    arguments.add_argument("--binaries", default=os.path.join(target, "release"), metavar="DIR")
    arguments.add_argument("--python", default=os.path.join(target, "acceptance-venv", "bin", "python"))
    arguments.add_argument("--out", required=True, metavar="DIR")
    options = arguments.parse_args()
    servers = [[os.path.join(options.binaries, "slim-router")], [options.python, REFERENCE]]
    runs = {" ".join(workload): [] for workload in WORKLOADS}
    for round_number in range(1, options.rounds + 1):
        for workload in WORKLOADS:
            runs[" ".join(workload)].append(
                [run_one(server, workload, options.binaries, options.seconds) for server in servers]
            )
        print(f"round {round_number} of {options.rounds} done", flush=True)
    os.makedirs(options.out, exist_ok=True)
    command = f"scripts/compare.py --rounds {options.rounds} --seconds {options.seconds}"
    text = summary(runs, machine(), command)
    for file_name, content in [
        ("report.json", json.dumps(runs, indent=1)),
        ("machine.txt", "\n".join(machine()) + "\n"),
        ("summary.md", text),
    ]:
        with open(os.path.join(options.out, file_name), "w") as file:
            file.write(content)
    print(text)


if __name__ == "__main__":
    main()
