"""From runs to tables: medians, spreads, ratios within a round; the summary of a result, and the table of README.md.

`summary.py --readme` writes the table of the newest result below perf-results/ into README.md; `--check-readme` fails if it is
not there.
"""

import argparse
import glob
import json
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
README = os.path.join(ROOT, "README.md")
BEGIN = "<!-- numbers: written by scripts/perf/summary.py --readme -->"
END = "<!-- numbers: end -->"

# Of report.json.
FORMAT = "slim-perf 1"

OURS, REFERENCE, OURS_MAC_OFF, NATS, BASELINE = "ours", "reference", "ours, MAC off", "nats", "baseline"
PEERS = [OURS, REFERENCE, OURS_MAC_OFF, NATS, BASELINE]
# Large payloads are measured in bytes, beside a relay of plain bytes on the same ring.
RELAY = "tcp-relay"
LARGE_PEERS = [OURS, REFERENCE, NATS, RELAY]
LARGE = {
    "stream-4-64k": "stream, 4 pairs, 64 KiB",
    "stream-4-1m": "stream, 4 pairs, 1 MiB",
    "fanout-16-64k": "fan-out to 16, 64 KiB",
    "fanout-16-1m": "fan-out to 16, 1 MiB",
}
# Of what the relay moves in the same processor time.
LARGE_GOAL = 0.80
# The same streams among more and more names.
NAMES = {
    "names-16": "16 names, one a connection",
    "names-1k": "1,000 names",
    "names-100k": "100,000 names",
    "names-1m": "1,000,000 names",
    "names-100k-ids": "100,000 ids under one prefix",
}
NAMES_LEAST = "names-16"
# Of the cost with the fewest names.
NAMES_GOAL = 1.20
# Who sweeps in a quick run.
SWEPT_QUICK = [OURS, REFERENCE, NATS]

TITLES = {
    "ping-1": "ping, 1 pair",
    "ping-64": "ping, 64 pairs",
    "ping-512": "ping, 512 pairs",
    "stream-4": "stream, 4 pairs",
    "stream-4-no-batch": "stream, 4 pairs, a write each",
    "fanout-16": "fan-out to 16",
    "fanout-256": "fan-out to 256",
    "rate-20000": "20,000/s over 16 pairs",
    "connect-2000": "2,000 idle connections",
    **LARGE,
    **{workload: f"stream, 16 pairs, {title}" for workload, title in NAMES.items()},
}


def of(runs, workload, peer):
    return [run for run in runs if run["workload"] == workload and run["peer"] == peer]


def figure(run, *path):
    """A figure of a run's record; None if there is none on that path, or the run failed."""
    value = None if run["error"] else run["record"]
    for key in path:
        value = value.get(key) if value else None
    return value


def cpu_us(run):
    return figure(run, "server", "cpu_us_per_delivered")


def mb_per_cpu_s(run):
    """Payload that arrived, in 10^6 bytes, for each second of the server's processor time."""
    mb_per_s, cores = figure(run, "traffic", "delivered_payload_mb_per_s"), figure(run, "server", "cores_used")
    return mb_per_s / cores if mb_per_s and cores else None


def p99_us(run):
    return figure(run, "traffic", "latency", "p99_us")


def what_failed(run):
    """Why a run is not clean, faults and unreached rates included; None if it is."""
    if run["error"]:
        return run["error"]
    faults = ", ".join(f"{count} {name}" for name, count in run["record"]["faults"].items() if count)
    if faults:
        return faults
    if figure(run, "server", "cores_used") is None:
        return "the server was gone at the end"
    if figure(run, "traffic", "delivered") == 0:
        return "nothing was delivered"
    rate = figure(run, "traffic", "rate")
    # A sweep ends where the rate is not kept.
    if rate and run["workload"] != "sweep" and (rate["unsent"] or rate["sent_per_s"] < 0.99 * rate["asked_per_s"]):
        return f"{rate['sent_per_s']:,.0f}/s of {rate['asked_per_s']:,}/s, {rate['unsent']} not sent"
    return None


def marked(cell, runs):
    """A cell of a table; with what failed, if a run did. Faulty runs keep their figures, ended ones have none."""
    reasons = [why.replace("|", "/") for why in map(what_failed, runs) if why]
    if not reasons:
        return cell
    return f"{cell} failed {len(reasons)} of {len(runs)}: {reasons[0]}{'; …' if len(set(reasons)) > 1 else ''}"


def median_run(runs):
    """The run in the middle by its 99th percentile; the lower one of two."""
    with_latency = sorted((run for run in runs if p99_us(run) is not None), key=p99_us)
    return with_latency[(len(with_latency) - 1) // 2] if with_latency else None


def ratios_between(runs, workload, other, get):
    """Ours in one workload to ours in another, within each round."""
    by_round = {run["round"]: get(run) for run in of(runs, other, OURS)}
    pairs = [(get(run), by_round.get(run["round"])) for run in of(runs, workload, OURS)]
    return [mine / theirs for mine, theirs in pairs if mine is not None and theirs]


def is_shown(run):
    """Whether a sweep shows the server's knee: other work did not disturb every try above it."""
    return bool(figure(run, "sweep", "knee_per_s")) and not figure(run, "sweep", "is_disturbed")


def median_sweep(runs):
    """The sweep in the middle by its knee, of those that show one if there are any; the lower one of two."""
    swept = [run for run in runs if figure(run, "sweep")]
    shown = sorted(filter(is_shown, swept) if any(map(is_shown, swept)) else swept, key=lambda run: figure(run, "sweep", "knee_per_s") or 0)
    return shown[(len(shown) - 1) // 2] if shown else None


def values(runs, get):
    return [value for value in map(get, runs) if value is not None]


def ratios(runs, workload, ours, other, get):
    """Ours to the other's, within each round in which both have the figure."""
    by_round = {run["round"]: get(run) for run in of(runs, workload, other)}
    pairs = [(get(run), by_round.get(run["round"])) for run in of(runs, workload, ours)]
    return [mine / theirs for mine, theirs in pairs if mine is not None and theirs]


def spread(found, form=".2f"):
    if not found:
        return "–"
    if len(found) == 1:
        return f"{found[0]:{form}}"
    return f"{statistics.median(found):{form}} ({min(found):{form}}–{max(found):{form}})"


def middle(found, form=".2f"):
    return f"{statistics.median(found):{form}}" if found else "–"


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]


def workloads_of(report):
    return [name for name in TITLES if any(run["workload"] == name for run in report["runs"])]


def messages_of(report):
    """The workloads that are measured by the message."""
    return [
        name for name in workloads_of(report) if name not in LARGE and name not in NAMES and not name.startswith("connect")
    ]


def cost_table(report):
    runs, rows = report["runs"], []
    for workload in messages_of(report):
        cost = {}
        for peer in PEERS:
            found = of(runs, workload, peer)
            cost[peer] = marked(spread(values(found, cpu_us)), found)
        rows.append([
            TITLES[workload],
            cost[OURS], cost[REFERENCE], f"**{spread(ratios(runs, workload, OURS, REFERENCE, cpu_us))}**",
            cost[OURS_MAC_OFF], cost[NATS], f"**{spread(ratios(runs, workload, OURS_MAC_OFF, NATS, cpu_us))}**",
            cost[BASELINE], spread(ratios(runs, workload, OURS, BASELINE, cpu_us)),
        ])
    head = ["workload", "ours", "reference", "ratio", "ours, MAC off", "NATS", "ratio", "baseline", "ours to baseline"]
    return table(head, rows)


def large_table(report):
    runs, rows = report["runs"], []
    for workload in (name for name in workloads_of(report) if name in LARGE):
        cells = [marked(spread(values(of(runs, workload, peer), mb_per_cpu_s), ",.0f"), of(runs, workload, peer)) for peer in LARGE_PEERS]
        beside_relay = [spread(ratios(runs, workload, peer, RELAY, mb_per_cpu_s)) for peer in (OURS, REFERENCE, NATS)]
        rows.append([LARGE[workload], *cells, f"**{beside_relay[0]}**", *beside_relay[1:]])
    head = ["workload", *LARGE_PEERS, "ours to relay", "reference to relay", "NATS to relay"]
    return table(head, rows)


def large_latency_table(report):
    runs, rows = report["runs"], []
    rate = lambda run: figure(run, "traffic", "delivered_payload_mb_per_s")
    for workload in (name for name in workloads_of(report) if name in LARGE):
        cells = []
        for peer in LARGE_PEERS:
            found = of(runs, workload, peer)
            cells.append(f"{middle(values(found, rate), ',.0f')}; {middle(values(found, p99_us), ',.0f')}")
        rows.append([LARGE[workload], *cells])
    return table(["workload", *(f"{peer}: MB/s; p99, us" for peer in LARGE_PEERS)], rows)


def latency_table(report):
    runs, rows = report["runs"], []
    rate = lambda run: figure(run, "traffic", "delivered_per_s")
    p50 = lambda run: figure(run, "traffic", "latency", "p50_us")
    for workload in messages_of(report):
        cells = []
        for peer in PEERS:
            found = of(runs, workload, peer)
            cells.append(f"{middle(values(found, p50), ',.0f')} / {middle(values(found, p99_us), ',.0f')}")
            cells.append(middle(values(found, rate), ",.0f"))
        rows.append([TITLES[workload], *cells])
    head = ["workload"]
    for peer in PEERS:
        head += [f"{peer}: p50 / p99, us", "delivered/s"]
    return table(head, rows)


def stick_table(report):
    """The load generator's own cost, and that of the reference node: a stick must be lighter than what it measures."""
    runs, rows = report["runs"], []
    own = lambda run: figure(run, "loadgen", "cpu_us_per_delivered")
    for workload in messages_of(report):
        # Open loops spin while they wait: their processor time says nothing.
        if workload.startswith("rate"):
            continue
        cost = {peer: values(of(runs, workload, peer), own) for peer in PEERS}
        theirs = values(of(runs, workload, REFERENCE), cpu_us)
        verdict = "–"
        if cost[REFERENCE] and theirs:
            verdict = "yes" if statistics.median(cost[REFERENCE]) < statistics.median(theirs) else "**no**"
        rows.append([TITLES[workload], *(spread(cost[peer]) for peer in PEERS), spread(theirs), verdict])
    head = ["workload", *(f"loadgen, {peer}" for peer in PEERS), "reference node", "lighter"]
    return table(head, rows)


def limits(report):
    """Who was the limit in the median run of each; peers with the same answer share a line."""
    lines = []
    for workload in workloads_of(report):
        peers_by_limit = {}
        for peer in [*PEERS, RELAY]:
            run = median_run(of(report["runs"], workload, peer))
            if run and run["record"].get("limit"):
                peers_by_limit.setdefault(run["record"]["limit"], []).append(peer)
        lines += [f"- {TITLES[workload]}; {'; '.join(peers)}: {limit}" for limit, peers in peers_by_limit.items()]
    return lines


def idle_table(report):
    runs, rows = report["runs"], []
    workload = "connect-2000"
    kib = lambda run: (lambda bytes_: bytes_ / 1024 if bytes_ is not None else None)(
        figure(run, "server", "resident_bytes_per_connection")
    )
    percent = lambda run: (lambda cores: cores * 100 if cores is not None else None)(figure(run, "server", "cores_used"))
    opened = lambda run: figure(run, "set_up", "connections_per_s")
    for peer in PEERS:
        found = of(runs, workload, peer)
        if found:
            rows.append([
                peer, marked(spread(values(found, kib)), found), spread(values(found, percent)), spread(values(found, opened), ",.0f")
            ])
    return table(["server", "memory each, KiB", "CPU of all, % of a core", "connections/s at set-up"], rows)


def sweep_table(report):
    rows = []
    for peer in PEERS:
        swept = [run for run in of(report["runs"], "sweep", peer) if figure(run, "sweep")]
        if not swept:
            continue
        shown = list(filter(is_shown, swept))
        middle_one = median_sweep(swept)
        sweep = middle_one["record"]["sweep"]
        knee = lambda run: figure(run, "sweep", "knee_per_s")
        by_loadgen = sum(bool(figure(run, "sweep", "is_loadgen_limit")) for run in shown)
        cell = f"{spread(values(shown, knee), ',.0f')} /s" if shown else "none that repeats: other work, or already the first rate"
        held = "" if shown else f"; held: {spread(values(swept, knee), ',.0f')} /s"
        broken = [step for step in sweep["steps"] if not step["held"]]
        then = min(broken, key=lambda step: step["rate_per_s"]) if broken else None
        rows.append([
            peer, cell + held, f"{len(shown)} of {len(swept)}", str(by_loadgen),
            f"at {then['rate_per_s']:,}/s: {then['why']}" if then else "–",
        ])
    head = ["server", "knee (p99 up to 20 ms)", "sweeps that show it", "where the load generator broke first", "above it, in the median sweep"]
    return table(head, rows)


def sweep_lines(report):
    swept = [run for run in report["runs"] if run["workload"] == "sweep"]
    if not swept:
        return []
    most = max(run["round"] for run in swept)
    return [
        "## Knee",
        "",
        f"{most} sweep{'s' if most > 1 else ''} each, 16 pairs: the rate doubles until it breaks, then closes in to 6 %. A rate breaks "
        "with its third try that other work did not disturb; a sweep whose every try above the knee was disturbed shows none, and is "
        "not counted. Where the load generator broke first the server's own knee is higher.",
        "",
        *sweep_table(report),
    ]


def names_table(report):
    runs, rows = report["runs"], []
    published = lambda run: figure(run, "server", "cpu_us_per_published")
    subscribed = lambda run: figure(run, "server", "cpu_us_per_subscription")
    for workload in (name for name in workloads_of(report) if name in NAMES):
        found = of(runs, workload, OURS)
        beside = ratios_between(runs, workload, NAMES_LEAST, published)
        kib = [value / 1024 for value in values(found, bytes_a_subscription)]
        rows.append([
            NAMES[workload], marked(spread(values(found, published)), found), f"**{spread(beside)}**",
            spread(values(found, subscribed)), spread(kib),
        ])
    head = ["subscribed", "CPU us a publish", "to 16 names", "CPU us a subscribe, connecting included", "memory each, KiB, connections included"]
    return table(head, rows)


def bytes_a_subscription(run):
    before, ready = figure(run, "server", "resident_bytes_before"), figure(run, "server", "resident_bytes_ready")
    count = figure(run, "set_up", "subscriptions")
    return (ready - before) / count if before is not None and ready is not None and count else None


def names_lines(report):
    if not any(name in NAMES for name in workloads_of(report)):
        return []
    return [
        "## Names",
        "",
        "Ours: 16 publishers, each drawing every message's name from all that its receiver subscribed to. A publish among any number "
        f"of names is to cost up to {NAMES_GOAL:.2f} of one among 16.",
        "",
        *names_table(report),
    ]


def others_line(report):
    """What everything else on the machine took while runs were measured."""
    found = values(report["runs"], lambda run: figure(run, "others_cores_used"))
    return [f"- all else on the machine took, while a run measured: {spread([cores * 100 for cores in found], '.0f')} % of a core"] if found else []


def notes(report):
    """Everything that went wrong."""
    failed = [(run, what_failed(run)) for run in report["runs"]]
    lines = [f"- {run['workload']}, {run['peer']}, round {run['round']}: failed: {why}" for run, why in failed if why]
    return lines or ["- no run failed; nothing was lost, duplicated, reordered or damaged"]


def our_failures(report):
    """Runs that make the command fail. A loss of the reference or of NATS is a result."""
    return [run for run in report["runs"] if run["peer"] not in (REFERENCE, NATS) and what_failed(run)]


def large_lines(report):
    if not any(name in LARGE for name in workloads_of(report)):
        return []
    return [
        "## Large payloads: MB for each second of the server's CPU",
        "",
        "10^6 bytes of payload that arrived, for each second of processor time of the server's threads; more is better. The "
        "relay moves plain bytes on the router's own ring, one copy in user space: no message, no flow control but its own, no name. "
        f"Ours is to reach {LARGE_GOAL:.2f} of it.",
        "",
        *large_table(report),
        "Medians of what arrived, and of the time from publisher to subscriber.",
        "",
        *large_latency_table(report),
    ]


def summary(report):
    lines = [
        f"# Measured {report['date']}",
        "",
        f"`{report['command']}`: {report['rounds']} rounds of {report['seconds']} s, every run with a fresh server on one core and the "
        "load on another; payloads of 256 bytes where nothing else is said. Median (least–most). Ratios are within a round: below 1, ours is cheaper.",
        "",
        *(["A quick run: few short rounds, for a first look. Without `--quick` there are more, longer ones, several sweeps, and runs among up to a million names.", ""]
          if report.get("quick") else []),
        *(f"- {line}" for line in report["about"]),
        *others_line(report),
        "",
        "## Server CPU per delivered message, us",
        "",
        "By the scheduler's account, all threads. The reference and the baseline with the link MAC on; NATS has none, so beside it "
        "ours without.",
        "",
        *cost_table(report),
        "## Latency and throughput",
        "",
        "Medians. Times of round trips (ping), from publisher to subscriber (stream, fan-out), or since a message was due (fixed "
        "rate). One machine holds server and load: read them beside each other, not alone.",
        "",
        *latency_table(report),
        *large_lines(report),
        *names_lines(report),
        "## Idle connections",
        "",
        *idle_table(report),
        "## Is the stick lighter than what it measures?",
        "",
        "The load generator's own CPU per delivered message against each server, us; last, the reference node's from the same runs.",
        "",
        *stick_table(report),
        "## Who was the limit",
        "",
        *limits(report),
        "",
    ]
    lines += sweep_lines(report)
    lines += [
        "## What went wrong",
        "",
        *notes(report),
        "",
        "`percentiles/`: the median run of each by p99, as HdrHistogram text. `plots/`: the same runs. `report.json`: all runs.",
    ]
    return "\n".join(lines) + "\n"


def write_report(report, path):
    """One run a line."""
    head = {key: value for key, value in report.items() if key != "runs"}
    with open(path, "w") as file:
        file.write(json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n')
        file.write(",\n".join("  " + json.dumps(run, separators=(",", ":")) for run in report["runs"]))
        file.write("\n ]\n}\n")


def newest_result():
    """The report that was finished last, and its folder; results of other formats are history."""
    found = []
    for path in glob.glob(os.path.join(ROOT, "perf-results", "*", "report.json")):
        with open(path) as file:
            report = json.load(file)
        if report.get("format") == FORMAT:
            found.append((report["finished_at"], os.path.basename(os.path.dirname(path)), report))
    if not found:
        sys.exit("there is no result below perf-results/: run scripts/perf.sh")
    _, folder, report = max(found, key=lambda result: result[:2])
    return folder, report


def readme_table():
    folder, report = newest_result()
    runs, rows = report["runs"], []
    for workload in messages_of(report):
        cost = lambda peer: marked(middle(values(of(runs, workload, peer), cpu_us)), of(runs, workload, peer))
        rows.append([
            TITLES[workload],
            cost(OURS), cost(REFERENCE), spread(ratios(runs, workload, OURS, REFERENCE, cpu_us)),
            cost(OURS_MAC_OFF), cost(NATS), spread(ratios(runs, workload, OURS_MAC_OFF, NATS, cpu_us)),
        ])
    late = lambda peer: middle(values(of(runs, "rate-20000", peer), p99_us), ",.0f")
    kib = lambda peer: middle([
        value / 1024
        for value in values(of(runs, "connect-2000", peer), lambda run: figure(run, "server", "resident_bytes_per_connection"))
    ], ".1f")
    head = ["server CPU, us a message", "ours", "reference", "ratio", "ours, MAC off", "NATS", "ratio"]
    beside_relay = {
        title: ratios(runs, workload, OURS, RELAY, mb_per_cpu_s) for workload, title in LARGE.items() if of(runs, workload, RELAY)
    }
    large = [
        "Large payloads, bytes for each second of server CPU beside a plain TCP relay on the same ring (`tcp-relay`; 1 is as much): "
        + "; ".join(f"{title} {spread(found)}" for title, found in beside_relay.items()) + ".",
        "",
    ] if beside_relay else []
    beside_few = {
        NAMES[name]: ratios_between(runs, name, NAMES_LEAST, lambda run: figure(run, "server", "cpu_us_per_published"))
        for name in workloads_of(report) if name in NAMES and name != NAMES_LEAST
    }
    names = [
        "Server CPU of a publish among many names, to that among 16: "
        + "; ".join(f"{title} {spread(found)}" for title, found in beside_few.items()) + ".",
        "",
    ] if beside_few else []
    return "\n".join([
        BEGIN,
        "",
        f"Server CPU per delivered message; 256-byte payloads, one server core, fresh servers in turn, {report['rounds']} rounds of "
        f"{report['seconds']} s (`{report['command']}`); medians, ratios within a round with their spread (below 1: ours is cheaper).",
        "; ".join(line for line in report["about"] if line.startswith(("machine", "kernel", "commit"))) + ".",
        "",
        *table(head, rows)[:-1],
        "",
        *large,
        *names,
        f"At 20,000/s, p99 since a message was due: ours {late(OURS)} us, reference {late(REFERENCE)} us, NATS {late(NATS)} us. Memory of "
        f"an idle connection: ours {kib(OURS)} KiB, reference {kib(REFERENCE)} KiB, NATS {kib(NATS)} KiB. All of it, with plots:",
        f"[`perf-results/{folder}`](perf-results/{folder}/summary.md).",
        "",
        END,
    ])


def with_table(text):
    if BEGIN not in text or END not in text:
        sys.exit(f"README.md lacks the lines {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    return before + readme_table() + rest.split(END, 1)[1]


def rewrite_readme():
    with open(README) as file:
        text = file.read()
    with open(README, "w") as file:
        file.write(with_table(text))


def check_readme():
    with open(README) as file:
        text = file.read()
    if with_table(text) != text:
        sys.exit("README.md's numbers are not those of the newest result: run scripts/perf/summary.py --readme")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = arguments.add_mutually_exclusive_group(required=True)
    what.add_argument("--readme", action="store_true")
    what.add_argument("--check-readme", action="store_true")
    options = arguments.parse_args()
    if options.readme:
        rewrite_readme()
    else:
        check_readme()


if __name__ == "__main__":
    main()
