"""Runs every workload against every peer in turn and files the result; `scripts/perf.sh` is the way to call it."""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import filing
import scaling
import summary
from peers import PeerError, Running, all_peers

# Name of the files -> what the load generator is told.
WORKLOADS = {
    "ping-1": ["ping", "--pairs", "1"],
    "ping-64": ["ping", "--pairs", "64"],
    "ping-512": ["ping", "--pairs", "512"],
    "stream-4": ["stream", "--pairs", "4"],
    "stream-4-no-batch": ["stream", "--pairs", "4", "--batch", "1"],
    "fanout-16": ["fanout", "--subscribers", "16"],
    "fanout-256": ["fanout", "--subscribers", "256"],
    "rate-20000": ["rate", "--rate", "20000", "--pairs", "16"],
    "connect-2000": ["connect", "--connections", "2000"],
    "stream-4-64k": ["stream", "--pairs", "4", "--payload", "65536"],
    "stream-4-1m": ["stream", "--pairs", "4", "--payload", "1048576"],
    "fanout-16-64k": ["fanout", "--subscribers", "16", "--payload", "65536"],
    "fanout-16-1m": ["fanout", "--subscribers", "16", "--payload", "1048576"],
    # Sixteen connections hold a million names: one may hold 65,536.
    "names-16": ["stream", "--pairs", "16", "--names", "16"],
    "names-1k": ["stream", "--pairs", "16", "--names", "1000"],
    "names-100k": ["stream", "--pairs", "16", "--names", "100000"],
    "names-1m": ["stream", "--pairs", "16", "--names", "1000000"],
    "names-100k-ids": ["stream", "--pairs", "16", "--names", "100000", "--one-prefix"],
}
# Rounds of large payloads in a quick run, and of names, whose set-up is most of them: enough for a spread.
LARGE_ROUNDS_QUICK = 2
NAMES_ROUNDS = 3
# Its steps are short, and are tried again.
SWEEP = ["rate", "--rate", "20000", "--pairs", "16", "--sweep"]
SWEEP_STEP = ["--duration", "1s", "--warm-up", "300ms"]
SWEEPS, SWEEPS_QUICK = 3, 1

# Exit statuses with which the load generator has written its record.
MEASURED = (0, 3, 4)
# A run that takes longer than this beyond what it measures has hung; so has a sweep, of many steps and tries.
HANG_S = 120
SWEEP_S = 600


class Session:
    def __init__(self, options, scratch):
        self.options = options
        self.scratch = scratch
        self.loadgen = os.path.join(options.binaries, "slim-loadgen")
        self.server_core, self.load_core, self.where = cores()

    def run(self, workload, words, peer, round_number):
        """One fresh server, one load. Returns what is filed of it; `error` says why there is no record."""
        run = {"workload": workload, "peer": peer.name, "round": round_number, "record": None, "error": None}
        stem = os.path.join(self.scratch, f"{workload}.{peer.name.replace(', ', '-').replace(' ', '-')}.{round_number}")
        seconds = self.options.seconds
        try:
            with Running(peer, self.server_core) as server:
                load = [
                    *words, "--target", server.address, "--server-pid", str(server.pid), "--cores", str(self.load_core),
                    "--json", stem + ".json",
                ]
                if words[0] == "connect":
                    load += ["--hold", f"{seconds}s"]
                elif "--sweep" in words:
                    load += SWEEP_STEP
                else:
                    load += ["--duration", f"{seconds}s", "--warm-up", self.options.warm_up]
                    load += ["--percentiles", stem + ".hgrm"]
                if peer.scheme == "slim":
                    load += ["--mac", peer.mac]
                # Also its warm-up, which is shorter than what it measures.
                measured_s = SWEEP_S if "--sweep" in words else 2 * seconds
                outcome = subprocess.run(
                    [self.loadgen, *load], capture_output=True, text=True, timeout=HANG_S + measured_s
                )
        except PeerError as error:
            run["error"] = f"the server {error}"
            return run
        except OSError as error:
            run["error"] = f"could not be started: {error.strerror}"
            return run
        except subprocess.TimeoutExpired:
            run["error"] = "the run hung"
            return run
        if outcome.returncode not in MEASURED or not os.path.exists(stem + ".json"):
            why = (outcome.stderr.strip().splitlines() or [f"exit status {outcome.returncode}, no reason given"])[-1]
            # What is filed names neither paths nor ports of this machine.
            run["error"] = why.replace(stem, "record").replace(server.address, peer.name)
        if os.path.exists(stem + ".json"):
            with open(stem + ".json") as file:
                run["record"] = json.load(file)
            # The same on every machine: without the paths and ports of this one.
            run["record"]["command"] = " ".join(["slim-loadgen", *words])
            run["record"]["target"] = peer.name
            run["stem"] = stem
        return run


def cores():
    """One for the server, another for the load, and how they lie. Two threads of one core would slow each other down."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        sys.exit("two cores are needed: one for the server, one for the load")
    siblings = threads_beside(first)
    apart = [core for core in others if core not in siblings]
    load = (apart or others)[0]
    return first, load, f"server on CPU {first}, load on CPU {load}" + ("" if apart else ": two threads of one core")


def threads_beside(core):
    """The logical CPUs of a physical core, as the kernel lists them: `0,64` or `0-1`."""
    try:
        with open(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list") as file:
            ranges = [part.split("-") for part in file.read().strip().split(",")]
    except OSError:  # Some sandboxes hide it.
        return set()
    return {cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)}


def is_measured(options, workload, peer, round_number):
    """Whether a workload is for this peer, and in this round. What was asked for by its name is in a quick run too."""
    if workload in summary.LARGE:
        if options.quick and round_number > LARGE_ROUNDS_QUICK:
            return False
        return peer.name in summary.LARGE_PEERS
    if workload in summary.NAMES:
        if options.quick and not options.workloads:
            return False
        return peer.name == summary.OURS and round_number <= NAMES_ROUNDS
    return not peer.is_plain


def sweeps(session, peers):
    """Where each peer's knee is: several sweeps in turn, another peer first each time."""
    quick = session.options.quick
    peers = [peer for peer in peers if not peer.is_plain and (not quick or peer.name in summary.SWEPT_QUICK)]
    runs = []
    for number in range(1, (SWEEPS_QUICK if quick else SWEEPS) + 1):
        turn = (number - 1) % len(peers)
        for peer in peers[turn:] + peers[:turn]:
            runs.append(session.run("sweep", SWEEP, peer, number))
            print(f"sweep {number} of {peer.name}: {runs[-1]['error'] or 'done'}", flush=True)
    return runs


def percentiles_and_plots(session, out, runs, workloads, peers):
    """Files the median run (by p99) of each peer, as percentiles and in one picture a workload; and the sweeps in one.

    Returns what could not be drawn.
    """
    os.makedirs(os.path.join(out, "percentiles"))
    os.makedirs(os.path.join(out, "plots"))
    missing = []
    for workload in workloads:
        median_runs = [summary.median_run(summary.of(runs, workload, peer.name)) for peer in peers]
        median_runs = [run for run in median_runs if run]
        for run in median_runs:
            slug = os.path.basename(run["stem"]).split(".")[1]
            shutil.copy(run["stem"] + ".hgrm", os.path.join(out, "percentiles", f"{workload}.{slug}.hgrm"))
        missing += plot(session, out, workload, f"{workload}: latency of the median runs", median_runs)
    # Of each peer's sweeps the one in the middle.
    swept = [summary.median_sweep(summary.of(runs, "sweep", peer.name)) for peer in peers]
    swept = [run for run in swept if run]
    if swept:
        missing += plot(session, out, "sweep", "rate, 16 pairs: latency by throughput, p50 and p99", swept)
    return missing


def plot(session, out, name, title, runs):
    if not runs:
        return [f"{name}: no run to draw"]
    records = []
    for run in runs:
        records.append(run["stem"] + ".labelled.json")
        with open(records[-1], "w") as file:
            json.dump({**run["record"], "label": run["peer"]}, file)
    picture = os.path.join(out, "plots", f"{name}.svg")
    drawn = subprocess.run([session.loadgen, "plot", "--title", title, "--out", picture, *records])
    return [f"{name}: plot ended with {drawn.returncode}"] if drawn.returncode else []


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binaries", required=True, metavar="DIR", help="of the release build")
    arguments.add_argument("--quick", action="store_true", help="3 rounds of 1 s, one sweep, no name scale")
    arguments.add_argument("--rounds", type=int)
    arguments.add_argument("--seconds", type=int, help="measured, in each run")
    arguments.add_argument("--name", help="of the machine, in the folder's name")
    arguments.add_argument("--out", metavar="DIR", help="instead of perf-results/<date>-<name>")
    arguments.add_argument("--sweep", action="store_true", help="sweeps too, with --workloads")
    arguments.add_argument("--scaling", action="store_true", help="instead: the router alone, on 1, 2, 4 .. shards")
    arguments.add_argument("--workloads", help="only these, separated by commas; needs --out")
    options = arguments.parse_args()
    if options.scaling:
        return scaling.main(options)
    if options.workloads and not options.out:
        arguments.error("--workloads measures a part, which is no result for README.md: say with --out where it goes")
    typed = ["scripts/perf.sh"]
    typed += ["--quick"] if options.quick else []
    typed += [f"--rounds {options.rounds}"] if options.rounds else []
    typed += [f"--seconds {options.seconds}"] if options.seconds else []
    typed += [f"--workloads {options.workloads}"] if options.workloads else []
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 3)
    options.warm_up = "300ms" if options.quick else "1s"
    chosen = options.workloads.split(",") if options.workloads else list(WORKLOADS)
    unknown = [name for name in chosen if name not in WORKLOADS]
    if unknown:
        arguments.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    date = datetime.date.today().isoformat()
    out = filing.folder(options, date)

    peers = all_peers(options.binaries)
    load_before = os.getloadavg()[0]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(options, scratch)
        runs = []
        for round_number in range(1, options.rounds + 1):
            # Another peer is first each round.
            turn = (round_number - 1) % len(peers)
            for workload in chosen:
                for peer in peers[turn:] + peers[:turn]:
                    if not is_measured(options, workload, peer, round_number):
                        continue
                    run = session.run(workload, WORKLOADS[workload], peer, round_number)
                    runs.append(run)
                    if run["error"]:
                        print(f"{workload}, {peer.name}, round {round_number}: {run['error']}", flush=True)
            print(f"round {round_number} of {options.rounds} done, {time.monotonic() - started:.0f} s", flush=True)
        if not options.workloads or options.sweep:
            runs += sweeps(session, peers)
        about = filing.machine(session.where, peers, load_before)
        about.append(
            f"measured for {(time.monotonic() - started) / 60:.0f} min, load average at the end {os.getloadavg()[0]:.2f}"
        )
        report = {
            "format": summary.FORMAT,
            "command": " ".join(typed),
            "date": date,
            "finished_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "quick": options.quick,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "about": about,
            "runs": [filing.without_curves(run) for run in runs],
        }
        # The records first: whatever fails after them, they are filed.
        os.makedirs(out)
        summary.write_report(report, os.path.join(out, "report.json"))
        with open(os.path.join(out, "machine.txt"), "w") as file:
            file.write("\n".join(about) + "\n")
        text = summary.summary(report)
        with open(os.path.join(out, "summary.md"), "w") as file:
            file.write(text)
        with_latency = [workload for workload in chosen if not workload.startswith("connect")]
        missing = percentiles_and_plots(session, out, runs, with_latency, peers)
    print(text)
    print(f"filed in {os.path.relpath(out)}")
    if not options.out:
        summary.rewrite_readme()
    # A peer's failures are results; ours are defects.
    failures = summary.our_failures(report)
    for run in failures:
        print(f"FAILED: {run['workload']}, {run['peer']}, round {run['round']}: {summary.what_failed(run)}")
    for what in missing:
        print(f"FAILED: {what}")
    return 1 if failures or missing else 0


if __name__ == "__main__":
    sys.exit(main())
