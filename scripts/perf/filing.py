"""Where results go, and what is said of the machine that they are of."""

import os
import re
import socket
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def folder(options, date, suffix=""):
    """A folder that is not there yet: `--out`, or below perf-results/."""
    name = re.sub(r"[^a-z0-9-]+", "-", (options.name or socket.gethostname().split(".")[0]).lower())
    out = options.out or unused(os.path.join(ROOT, "perf-results", f"{date}-{name}{suffix}"))
    if os.path.exists(out):
        sys.exit(f"{out} exists: give another --out, results are not overwritten")
    return out


def unused(folder):
    """The folder, or with -2, -3 and so on after it: a second result of a day does not overwrite the first."""
    candidate, number = folder, 1
    while os.path.exists(candidate):
        number += 1
        candidate = f"{folder}-{number}"
    return candidate


def machine(where, peers, load_before):
    with open("/proc/cpuinfo") as cpuinfo:
        model = next(line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name"))
    with open("/proc/meminfo") as meminfo:
        memory_gib = int(meminfo.readline().split()[1]) / 1_048_576
    git = lambda *words: subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no")
    return [
        f"machine: {len(os.sched_getaffinity(0))} cores, {model}, {memory_gib:.0f} GiB",
        f"kernel: Linux {os.uname().release.split('-')[0]}",
        f"commit: {git('rev-parse', '--short=12', 'HEAD')}{' with changes' if changed else ''}",
        where,
        f"load average before: {load_before:.2f}",
        *(f"{peer.name}: {peer.version}" for peer in peers),
    ]


def without_curves(run):
    """A run as it is filed: the curves of all runs would be most of the file, and those of the medians are files of
    their own."""
    def stripped(value):
        if isinstance(value, dict):
            return {key: stripped(part) for key, part in value.items() if key not in ("percentiles", "machine")}
        return value
    return {key: stripped(value) for key, value in run.items() if key != "stem"}
