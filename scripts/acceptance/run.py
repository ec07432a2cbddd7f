"""Runs the acceptance suite: `run.py --router target/release/slim-router`.

One line a scenario, the whole logs of one that failed, and a closing `N passed, N failed`.
"""

import argparse
import os
import sys
import time
import traceback

import bad_environment
import scenarios
from harness import HERE, Failure, World

REFERENCE = [sys.executable, os.path.join(HERE, "reference_node.py"), "--kill-safe"]


def run_one(title, scenario, router, shards, deadline_s):
    started = time.monotonic()
    with World(router, shards, deadline_s) as world:
        try:
            scenario(world)
        except Exception as error:  # A bug in the suite must not hide the scenarios after it.
            print(f"FAILED  {title}  {time.monotonic() - started:.1f} s: {error}")
            if not isinstance(error, Failure):
                traceback.print_exc(file=sys.stdout)
            world.print_logs()
            sys.stdout.flush()
            return False
    print(f"ok      {title}  {time.monotonic() - started:.1f} s", flush=True)
    return True


def planned(options):
    """Every run as `(title, scenario, shards, deadline_s)`."""
    for round_number in range(1, options.repeat + 1):
        suffix = f", round {round_number}" if options.repeat > 1 else ""
        for shards in options.shards:
            for name, scenario, deadline_s in scenarios.ALL:
                yield name, f"{name}, {shards} shards{suffix}", scenario, shards, deadline_s
        # The reference node has another command line, and no io_uring.
        if not options.reference:
            for name, scenario, deadline_s in bad_environment.ALL:
                yield name, f"{name}{suffix}", scenario, 1, deadline_s


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--router", metavar="PATH", help="the slim-router binary")
    arguments.add_argument(
        "--shards", type=lambda text: [int(one) for one in text.split(",")], default=[1, 2, 4]
    )
    arguments.add_argument("--repeat", type=int, default=1, metavar="N")
    arguments.add_argument("--only", metavar="NAME", action="append", help="repeatable")
    arguments.add_argument("--reference", action="store_true", help="run against the published node instead")
    options = arguments.parse_args()
    if options.reference == bool(options.router):
        arguments.error("give either --router PATH or --reference")
    router = REFERENCE if options.reference else [os.path.abspath(options.router)]
    names = [name for name, *_ in scenarios.ALL + bad_environment.ALL]
    for name in options.only or []:
        if name not in names:
            arguments.error(f"no scenario {name!r}; there are: {', '.join(names)}")

    outcomes = [
        run_one(title, scenario, router, shards, deadline_s)
        for name, title, scenario, shards, deadline_s in planned(options)
        if not options.only or name in options.only
    ]
    failed = outcomes.count(False)
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not outcomes else 0)


if __name__ == "__main__":
    main()
