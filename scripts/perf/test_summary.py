"""The arithmetic of the tables, on records whose answers are known."""

import json
import os
import tempfile
import unittest
import xml.dom.minidom
from unittest import mock

import scaling
import summary


def run(peer, round_number, cpu=None, p99=None, error=None, lost=0, workload="ping-64", rate=None, cores_used=0.5):
    record = {
        "server": {"cpu_us_per_delivered": cpu, "cores_used": cores_used},
        "traffic": {"latency": {"p50_us": 1, "p99_us": p99}, "delivered": 10, "delivered_per_s": 10.0, "rate": rate},
        "limit": f"the limit of {peer}",
        "loadgen": {"cpu_us_per_delivered": 1.0},
        "faults": {"lost": lost, "duplicated": 0},
    }
    return {"workload": workload, "peer": peer, "round": round_number, "record": record, "error": error}


def swept(round_number, knee, is_disturbed=False, is_loadgen_limit=False):
    found = run("ours", round_number, workload="sweep")
    above = int((knee or 10_000) * 1.053) // 100 * 100
    found["record"]["sweep"] = {
        "knee_per_s": knee, "is_disturbed": is_disturbed, "is_loadgen_limit": is_loadgen_limit,
        "steps": [
            {"rate_per_s": above * 2, "held": False, "why": "later"}, {"rate_per_s": above, "held": False, "why": "late"},
            {"rate_per_s": knee or 5_000, "held": bool(knee), "why": None if knee else "at once"},
        ],
    }
    return found


def named(workload, round_number, cpu):
    found = run("ours", round_number, workload=workload)
    found["record"]["set_up"] = {"subscriptions": 1_000}
    found["record"]["server"].update({
        "cpu_us_per_published": cpu, "cpu_us_per_subscription": 3.0, "resident_bytes_before": 1_000, "resident_bytes_ready": 1_025_000,
    })
    return found


def report(runs):
    return {
        "format": summary.FORMAT, "command": "perf", "date": "2026-01-01", "finished_at": "2026-01-01T00:00:00+00:00",
        "quick": True, "rounds": 3, "seconds": 1, "about": ["machine: a"], "runs": runs,
    }


class Arithmetic(unittest.TestCase):
    def test_a_ratio_is_taken_within_a_round(self):
        runs = [run("ours", 1, 2.0), run("reference", 1, 4.0), run("ours", 2, 9.0), run("reference", 2, 10.0)]
        found = summary.ratios(runs, "ping-64", "ours", "reference", summary.cpu_us)
        self.assertEqual(found, [0.5, 0.9])
        self.assertEqual(summary.spread(found), "0.70 (0.50–0.90)")

    def test_a_failed_run_has_no_figure_and_its_round_no_ratio(self):
        runs = [run("ours", 1, 2.0), run("reference", 1, 4.0, error="gone"), run("ours", 2, 1.0), run("reference", 2, 4.0)]
        self.assertEqual(summary.ratios(runs, "ping-64", "ours", "reference", summary.cpu_us), [0.25])
        self.assertEqual(summary.values(runs, summary.cpu_us), [2.0, 1.0, 4.0])

    def test_the_median_run_is_one_that_ran(self):
        runs = [run("ours", number, p99=p99) for number, p99 in enumerate([9, 1, 5, 7])]
        self.assertEqual(summary.p99_us(summary.median_run(runs)), 5)
        self.assertIsNone(summary.median_run([run("ours", 1)]))

    def test_what_is_missing_is_shown_as_missing(self):
        self.assertEqual(summary.spread([]), "–")
        self.assertEqual(summary.middle([]), "–")
        self.assertEqual(summary.spread([3.0]), "3.00")

    def test_losses_and_failures_are_in_the_summary_and_ours_fail_the_command(self):
        runs = [run("ours", 1, 2.0), run("nats", 1, 1.0, lost=7), run("reference", 1, error="it fell over")]
        text = summary.summary(report(runs))
        self.assertIn("ping-64, nats, round 1: failed: 7 lost", text)
        self.assertIn("ping-64, reference, round 1: failed: it fell over", text)
        self.assertEqual(summary.our_failures(report(runs)), [])
        self.assertEqual(len(summary.our_failures(report([run("ours", 1, lost=1)]))), 1)

    def test_a_failed_run_is_marked_in_its_cell(self):
        runs = [run("nats", 1, 1.0, lost=7), run("nats", 2, 3.0), run("reference", 1, error="it | fell over")]
        text = summary.summary(report(runs))
        self.assertIn("| 2.00 (1.00–3.00) failed 1 of 2: 7 lost |", text)
        self.assertIn("| – failed 1 of 1: it / fell over |", text)

    def test_a_rate_that_was_not_reached_is_a_failure_except_in_a_sweep(self):
        missed = {"asked_per_s": 20000, "sent_per_s": 15000.0, "unsent": 3}
        self.assertEqual(summary.what_failed(run("ours", 1, rate=missed)), "15,000/s of 20,000/s, 3 not sent")
        self.assertIsNone(summary.what_failed(run("ours", 1, rate=missed, workload="sweep")))

    def test_a_server_that_was_gone_is_a_failure(self):
        self.assertEqual(summary.what_failed(run("ours", 1, cores_used=None)), "the server was gone at the end")

    def test_only_the_reference_and_nats_may_fail(self):
        failed = [run(peer, 1, lost=1) for peer in summary.PEERS]
        self.assertEqual([run["peer"] for run in summary.our_failures(report(failed))], ["ours", "ours, MAC off", "baseline"])

    def test_who_was_the_limit_is_said(self):
        text = summary.summary(report([run("nats", 1, 1.0, 5), run("nats", 2, 1.0, 7)]))
        self.assertEqual(text.count("- ping, 64 pairs; nats: the limit of nats"), 1)

    def test_a_loadgen_that_is_heavier_than_the_reference_is_said_to_be(self):
        heavy = summary.summary(report([run("reference", 1, 0.5)]))
        light = summary.summary(report([run("reference", 1, 5.0)]))
        self.assertIn("| **no** |", heavy)
        self.assertIn("| yes |", light)

    def test_large_payloads_are_measured_in_bytes_beside_the_relay(self):
        def large(peer, round_number, mb_per_s, cores):
            found = run(peer, round_number, workload="fanout-16-1m", cores_used=cores)
            found["record"]["traffic"]["delivered_payload_mb_per_s"] = mb_per_s
            return found
        runs = [large("ours", 1, 800.0, 0.5), large("tcp-relay", 1, 2000.0, 1.0), large("ours", 2, 900.0, 0.5), large("tcp-relay", 2, 2000.0, 1.0)]
        self.assertEqual(summary.ratios(runs, "fanout-16-1m", "ours", "tcp-relay", summary.mb_per_cpu_s), [0.8, 0.9])
        text = summary.summary(report(runs))
        self.assertIn("| fan-out to 16, 1 MiB | 1,700 (1,600–1,800) | – | – | 2,000 (2,000–2,000) | **0.85 (0.80–0.90)** | – | – |", text)
        # By the message they are not measured.
        self.assertNotIn("fan-out to 16, 1 MiB", "\n".join(summary.cost_table(report(runs))))

    def test_a_result_of_before_there_were_large_payloads_has_none(self):
        self.assertNotIn("Large payloads", summary.summary(report([run("ours", 1, 2.0)])))

    def test_a_knee_is_the_median_of_the_sweeps_that_were_not_disturbed(self):
        runs = [swept(1, 190_000), swept(2, 20_000, is_disturbed=True), swept(3, 200_000), swept(4, 210_000, is_loadgen_limit=True)]
        text = summary.summary(report(runs))
        self.assertIn("| ours | 200,000 (190,000–210,000) /s | 3 of 4 | 1 | at 210,600/s: late |", text)
        self.assertIn("4 sweeps each", text)
        self.assertEqual(summary.median_sweep(runs)["round"], 3)

    def test_a_knee_of_disturbed_sweeps_alone_is_no_figure(self):
        text = summary.summary(report([swept(1, 20_000, is_disturbed=True), swept(2, None)]))
        self.assertIn("| ours | none that repeats: other work, or already the first rate; held: 20,000 /s | 0 of 2 | 0 |", text)

    def test_a_sweep_of_before_disturbance_was_known_still_has_a_table(self):
        old = swept(1, 20_000)
        for key in ("is_disturbed", "is_loadgen_limit"):
            del old["record"]["sweep"][key]
        self.assertIn("| ours | 20,000 /s | 1 of 1 |", summary.summary(report([old])))

    def test_a_publish_among_many_names_is_compared_to_one_among_few(self):
        runs = [named("names-16", 1, 1.0), named("names-1m", 1, 1.1), named("names-16", 2, 2.0), named("names-1m", 2, 2.0)]
        text = summary.summary(report(runs))
        self.assertIn("| 1,000,000 names | 1.55 (1.10–2.00) | **1.05 (1.00–1.10)** | 3.00 (3.00–3.00) | 1.00 (1.00–1.00) |", text)
        self.assertNotIn("## Names", summary.summary(report([run("ours", 1, 2.0)])))

    def test_other_work_on_the_machine_is_said(self):
        busy, quiet = run("ours", 1, 2.0), run("ours", 2, 2.0)
        busy["record"]["others_cores_used"], quiet["record"]["others_cores_used"] = 0.5, 0.1
        self.assertIn("while a run measured: 30 (10–50) % of a core", summary.summary(report([busy, quiet])))

    def test_every_workload_has_a_title(self):
        import run as runner
        self.assertEqual(list(runner.WORKLOADS), list(summary.TITLES))

    def test_a_report_is_read_back(self):
        filed = report([run("ours", 1, 2.0), run("nats", 1, 1.0)])
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "report.json")
            summary.write_report(filed, path)
            with open(path) as file:
                self.assertEqual(json.load(file), filed)


class Scaling(unittest.TestCase):
    def scaled(self, shards, round_number, cpu, per_s, cores_used, shares_cores=False):
        found = run(scaling.name_of(shards), round_number, cpu, cores_used=cores_used)
        found["record"]["traffic"]["delivered_per_s"] = per_s
        found["record"]["loadgen"].update({"cores_used": 0.97, "workers": 1})
        return {**found, "shards": shards, "shares_cores": shares_cores}

    def test_shards_double_up_to_all_cores(self):
        self.assertEqual(scaling.shard_counts(2), [1, 2])
        self.assertEqual(scaling.shard_counts(6), [1, 2, 4, 6])
        self.assertEqual(scaling.shard_counts(8), [1, 2, 4, 8])

    def test_the_load_has_the_cores_that_the_shards_leave(self):
        self.assertEqual(scaling.placement([0, 1, 2], 1), ([0], [1, 2]))
        self.assertEqual(scaling.placement([0, 1], 2), ([0, 1], [0, 1]))

    def test_capacity_is_what_busy_shards_would_deliver_at_that_cost(self):
        runs = [self.scaled(1, 1, 5.0, 190_000.0, 0.99), self.scaled(2, 1, 5.5, 200_000.0, 1.1, shares_cores=True)]
        self.assertEqual(scaling.capacity_per_s(runs[1]), 2e6 / 5.5)
        text = scaling.scaling_summary({**report(runs), "format": scaling.FORMAT})
        self.assertIn("| 1 | 190,000 | 1.00 | 5.00 | 1.00 | 200,000 | **1.00** | 99 | the shards |", text)
        self.assertIn("| 2 | 200,000 | 1.05 | 5.50 | 0.91 | 363,636 | **1.82** | 55 | load generator limited: it shares the shards' cores |", text)

    def test_a_ratio_to_a_shard_that_was_not_busy_is_doubted(self):
        runs = [self.scaled(1, 1, 5.0, 90_000.0, 0.3), self.scaled(2, 1, 5.0, 100_000.0, 0.6, shares_cores=True)]
        self.assertIn("| **2.00** ? |", scaling.scaling_summary({**report(runs), "format": scaling.FORMAT}))

    def test_who_was_the_limit_is_told_from_cores(self):
        self.assertEqual(scaling.limit_of([self.scaled(2, 1, 5.0, 1.0, 1.2)]), "load generator limited")
        idle = self.scaled(2, 1, 5.0, 1.0, 1.2)
        idle["record"]["loadgen"]["cores_used"] = 0.5
        self.assertEqual(scaling.limit_of([idle]), "neither was busy all the time")

    def test_a_drawing_has_a_line_for_each_workload_that_ran(self):
        runs = [self.scaled(1, 1, 5.0, 100.0, 1.0), self.scaled(2, 1, 5.0, 150.0, 1.0)]
        drawn = scaling.drawing({**report(runs), "format": scaling.FORMAT})
        self.assertEqual((drawn.count("ping, 64 pairs: capacity"), drawn.count("stream, 16 pairs")), (1, 0))
        xml.dom.minidom.parseString(drawn)


class Readme(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        for name, value in [("ROOT", self.root), ("README", os.path.join(self.root, "README.md"))]:
            patched = mock.patch.object(summary, name, value)
            patched.start()
            self.addCleanup(patched.stop)
        with open(summary.README, "w") as file:
            file.write(f"before\n{summary.BEGIN}\n{summary.END}\nafter\n")

    def file(self, folder, finished_at, cpu):
        os.makedirs(os.path.join(self.root, "perf-results", folder))
        filed = {**report([run("ours", 1, cpu)]), "finished_at": finished_at}
        summary.write_report(filed, os.path.join(self.root, "perf-results", folder, "report.json"))

    def test_the_table_is_that_of_the_result_that_was_finished_last(self):
        self.file("2026-01-02-a", "2026-01-02T09:00:00+00:00", 2.0)
        self.file("2026-01-02-a-2", "2026-01-02T08:00:00+00:00", 7.0)
        summary.rewrite_readme()
        with open(summary.README) as file:
            text = file.read()
        self.assertIn("| ping, 64 pairs | 2.00 |", text)
        self.assertNotIn("Large payloads", text)
        self.assertTrue(text.startswith("before\n") and text.endswith("\nafter\n"))

    def test_large_payloads_are_named_where_they_were_measured(self):
        os.makedirs(os.path.join(self.root, "perf-results", "2026-01-02-a"))
        runs = [run(peer, 1, workload="stream-4-1m") for peer in ("ours", "tcp-relay")]
        for found in runs:
            found["record"]["traffic"]["delivered_payload_mb_per_s"] = 100.0
        summary.write_report(report(runs), os.path.join(self.root, "perf-results", "2026-01-02-a", "report.json"))
        self.assertIn("stream, 4 pairs, 1 MiB 1.00.", summary.readme_table())

    def test_a_table_that_is_not_of_the_newest_result_is_refused(self):
        self.file("2026-01-02-a", "2026-01-02T09:00:00+00:00", 2.0)
        summary.rewrite_readme()
        summary.check_readme()
        self.file("2026-01-03-a", "2026-01-03T09:00:00+00:00", 3.0)
        with self.assertRaises(SystemExit):
            summary.check_readme()


if __name__ == "__main__":
    unittest.main()
