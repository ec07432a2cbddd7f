"""The router on 1, 2, 4 .. shards: what more of them bring; `scripts/perf.sh --scaling` is the way to call it.

The load generator has the cores that the shards leave. Where they leave none, it shares theirs, and throughput is then what the
two of them make together: it says little of the router. So beside it stands the *capacity*: what the shards would deliver if they
were busy all the time at the processor time that a message took, `shards / CPU per message`. Shards that are not busy do less in
each turn, so a message costs them rather more than it would then: a capacity is rather too low than too high. That holds for the
one shard too, so a ratio of capacities is to be read only where that one was busy.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import filing
import summary
from peers import PeerError, Running, router

# Not that of the peers' reports: README.md's table is not made of these.
FORMAT = "slim-scaling 1"

WORKLOADS = {
    "ping-64": ("ping, 64 pairs", ["ping", "--pairs", "64"]),
    "stream-16": ("stream, 16 pairs", ["stream", "--pairs", "16"]),
    "fanout-64": ("fan-out of 4 publishers to 64", ["fanout", "--publishers", "4", "--subscribers", "64"]),
}
# A server is its own limit from this part of its shards' cores on.
SATURATED = 0.95
MEASURED = (0, 3)
HANG_S = 60


def shard_counts(cores):
    """1, 2, 4 .. and all of them."""
    counts = [1]
    while counts[-1] * 2 <= cores:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == cores else [*counts, cores]


def placement(cores, shards):
    """The shards' cores and the load's; the load has what is left, or else all."""
    return cores[:shards], cores[shards:] or cores


def name_of(shards):
    return f"{shards} shard{'s' if shards > 1 else ''}"


def run(options, scratch, workload, shards, cores, round_number):
    server_cores, load_cores = placement(cores, shards)
    found = {
        "workload": workload, "peer": name_of(shards), "shards": shards, "round": round_number,
        "shares_cores": bool(set(server_cores) & set(load_cores)), "record": None, "error": None,
    }
    path = os.path.join(scratch, f"{workload}.{shards}.{round_number}.json")
    listed = lambda some: ",".join(map(str, some))
    words = WORKLOADS[workload][1]
    try:
        with Running(router(options.binaries, shards), listed(server_cores)) as server:
            outcome = subprocess.run(
                [
                    os.path.join(options.binaries, "slim-loadgen"), *words, "--target", server.address, "--server-pid", str(server.pid),
                    "--cores", listed(load_cores), "--json", path, "--duration", f"{options.seconds}s", "--warm-up", options.warm_up,
                ],
                capture_output=True, text=True, timeout=HANG_S + 2 * options.seconds,
            )
    except PeerError as error:
        return {**found, "error": f"the server {error}"}
    except subprocess.TimeoutExpired:
        return {**found, "error": "the run hung"}
    if outcome.returncode not in MEASURED or not os.path.exists(path):
        why = (outcome.stderr.strip().splitlines() or [f"exit status {outcome.returncode}"])[-1]
        found["error"] = why.replace(path, "record").replace(server.address, "ours")
    if os.path.exists(path):
        with open(path) as file:
            found["record"] = json.load(file)
        found["record"]["command"] = " ".join(["slim-loadgen", *words])
        found["record"]["target"] = "ours"
    return found


def delivered_per_s(run):
    return summary.figure(run, "traffic", "delivered_per_s")


def capacity_per_s(run):
    cpu_us = summary.cpu_us(run)
    return run["shards"] * 1e6 / cpu_us if cpu_us else None


def busy(run):
    """Of the shards' cores, the part that the router used."""
    cores = summary.figure(run, "server", "cores_used")
    return cores / run["shards"] if cores is not None else None


def limit_of(runs):
    """In words, of the median of some runs of one kind."""
    found = summary.values(runs, busy)
    if not found:
        return "–"
    if statistics.median(found) >= SATURATED:
        return "the shards"
    if any(run["shares_cores"] for run in runs):
        return "load generator limited: it shares the shards' cores"
    loads = [
        summary.figure(run, "loadgen", "cores_used") / summary.figure(run, "loadgen", "workers") for run in runs
        if summary.figure(run, "loadgen", "workers")
    ]
    if loads and statistics.median(loads) >= SATURATED:
        return "load generator limited"
    return "neither was busy all the time"


def shard_numbers(report):
    return sorted({run["shards"] for run in report["runs"]})


def scaling_table(report, workload):
    runs, rows = report["runs"], []
    for shards in shard_numbers(report):
        found = summary.of(runs, workload, name_of(shards))
        to_one = lambda get: summary.ratios(runs, workload, name_of(shards), name_of(1), get)
        efficiency = [1 / ratio for ratio in to_one(summary.cpu_us)]
        one = summary.values(summary.of(runs, workload, name_of(1)), busy)
        doubt = "" if one and statistics.median(one) >= SATURATED else " ?"
        rows.append([
            str(shards),
            summary.marked(summary.spread(summary.values(found, delivered_per_s), ",.0f"), found), summary.spread(to_one(delivered_per_s)),
            summary.spread(summary.values(found, summary.cpu_us)), summary.spread(efficiency),
            summary.middle(summary.values(found, capacity_per_s), ",.0f"), f"**{summary.spread(to_one(capacity_per_s))}**{doubt}",
            summary.middle([part * 100 for part in summary.values(found, busy)], ".0f"),
            limit_of(found),
        ])
    head = [
        "shards", "delivered/s", "to 1 shard", "server CPU, us a message", "efficiency", "capacity/s", "to 1 shard", "shards busy, %",
        "limit",
    ]
    return summary.table(head, rows)


def scaling_summary(report):
    lines = [
        f"# Shards, measured {report['date']}",
        "",
        f"`{report['command']}`: {report['rounds']} rounds of {report['seconds']} s, fresh servers in turn; payloads of 256 bytes. Median "
        "(least–most); ratios within a round.",
        "",
        *(f"- {line}" for line in report["about"]),
        *summary.others_line(report),
        "",
        "The load generator has the cores that the shards leave; where they leave none it shares theirs, and *delivered/s* is then what "
        "both make together. *Efficiency* is the CPU of a message on one shard by that on so many. *Capacity* is what the shards "
        "would deliver if they were busy all the time at that cost: shards / CPU per message. Shards that are not busy do less "
        "in each turn, so a message costs them rather more than it would then: it is rather too low than too high. That holds for one shard too: read a "
        "ratio of capacities only where that shard was busy; where it was not, it is marked with ?.",
        "",
    ]
    for workload, (title, _) in WORKLOADS.items():
        lines += [f"## {title}", "", *scaling_table(report, workload)]
    lines += ["## What went wrong", "", *summary.notes(report), "", "`scaling.svg`: capacity and throughput by shards. `report.json`: all runs."]
    return "\n".join(lines) + "\n"


WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 420, 60, 50, 50, 250
COLOURS = ["#1f77b4", "#d62728", "#2ca02c"]


def drawing(report):
    """SVG: to one shard, by shards. Whole lines: capacity; dashed ones: delivered; grey: as many times as shards."""
    shards = shard_numbers(report)
    most = shards[-1]
    x = lambda value: LEFT + (value - 1) / max(most - 1, 1) * (WIDTH - LEFT - RIGHT)
    y = lambda value: HEIGHT - BOTTOM - value / (most * 1.1) * (HEIGHT - BOTTOM - TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="25" font-size="15">Messages a second by shards, to one shard</text>',
        f'<polyline points="{x(1):.1f},{y(1):.1f} {x(most):.1f},{y(most):.1f}" stroke="#bbb" fill="none"/>',
        f'<polyline points="{LEFT},{TOP} {LEFT},{HEIGHT - BOTTOM} {WIDTH - RIGHT},{HEIGHT - BOTTOM}" stroke="black" fill="none"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">shards</text>',
    ]
    for count in shards:
        parts.append(f'<text x="{x(count):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{count}</text>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(count) + 4:.1f}" text-anchor="end">{count}</text>')
    line = 0
    for colour, (workload, (title, _)) in zip(COLOURS, WORKLOADS.items()):
        for get, what, dashes in [(capacity_per_s, "capacity", ""), (delivered_per_s, "delivered", ' stroke-dasharray="5 4"')]:
            points = []
            for count in shards:
                ratios = summary.ratios(report["runs"], workload, name_of(count), name_of(1), get)
                if ratios:
                    points.append(f"{x(count):.1f},{y(statistics.median(ratios)):.1f}")
            if not points:
                continue
            level = TOP + 10 + 20 * line
            line += 1
            parts.append(f'<polyline points="{" ".join(points)}" stroke="{colour}" fill="none" stroke-width="2"{dashes}/>')
            parts.append(f'<polyline points="{WIDTH - RIGHT + 20},{level} {WIDTH - RIGHT + 50},{level}" stroke="{colour}" stroke-width="2"{dashes}/>')
            parts.append(f'<text x="{WIDTH - RIGHT + 56}" y="{level + 4}">{title}: {what}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main(options):
    typed = ["scripts/perf.sh --scaling"]
    typed += ["--quick"] if options.quick else []
    typed += [f"--rounds {options.rounds}"] if options.rounds else []
    typed += [f"--seconds {options.seconds}"] if options.seconds else []
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 3)
    options.warm_up = "300ms" if options.quick else "1s"
    date = datetime.date.today().isoformat()
    out = filing.folder(options, date, "-scaling")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed: with one there is nothing to compare")
    counts = shard_counts(len(cores))
    load_before, started = os.getloadavg()[0], time.monotonic()
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for round_number in range(1, options.rounds + 1):
            turn = (round_number - 1) % len(counts)
            for workload in WORKLOADS:
                for shards in counts[turn:] + counts[:turn]:
                    runs.append(run(options, scratch, workload, shards, cores, round_number))
                    if runs[-1]["error"]:
                        print(f"{workload}, {name_of(shards)}, round {round_number}: {runs[-1]['error']}", flush=True)
            print(f"round {round_number} of {options.rounds} done, {time.monotonic() - started:.0f} s", flush=True)
    where = f"shards on the first of the CPUs {', '.join(map(str, cores))}, the load on the others, or on all where there is none left"
    report = {
        "format": FORMAT, "command": " ".join(typed), "date": date,
        "finished_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "quick": options.quick, "rounds": options.rounds, "seconds": options.seconds,
        "about": filing.machine(where, [router(options.binaries, 1)], load_before), "runs": [filing.without_curves(found) for found in runs],
    }
    os.makedirs(out)
    summary.write_report(report, os.path.join(out, "report.json"))
    text = scaling_summary(report)
    for name, content in [("summary.md", text), ("scaling.svg", drawing(report)), ("machine.txt", "\n".join(report["about"]) + "\n")]:
        with open(os.path.join(out, name), "w") as file:
            file.write(content)
    print(text)
    print(f"filed in {os.path.relpath(out)}")
    failed = [found for found in runs if summary.what_failed(found)]
    for found in failed:
        print(f"FAILED: {found['workload']}, {found['peer']}, round {found['round']}: {summary.what_failed(found)}")
    return 1 if failed else 0
