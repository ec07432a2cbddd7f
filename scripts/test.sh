#!/usr/bin/env bash
# Everything that must hold before a change goes in; all that CI runs.
#
# Needs Linux on two cores or more, Rust with clippy and rustfmt, gcc, make, python3, and the registries of crates.io and PyPI. Sets up
# the rest itself, below the target directory: a virtual environment with the published Python client.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh

target="${CARGO_TARGET_DIR:-target}"
venv="$target/acceptance-venv"
requirements=scripts/acceptance/requirements.txt

step() {
    printf '\n==== %s (%d s so far)\n' "$*" "$SECONDS"
}

for component in fmt clippy; do
    if ! cargo "$component" --version >/dev/null 2>&1; then
        echo "cargo $component is missing: it comes with rustup's default profile, or by rustup component add" >&2
        exit 1
    fi
done

step "cargo fmt"
cargo fmt --all --check

step "cargo clippy"
cargo clippy --locked --workspace --all-targets -- -D warnings

step "cargo test"
cargo test --locked --workspace --no-fail-fast

step "the tables of scripts/perf.sh"
(cd scripts/perf && python3 -B -m unittest -q test_summary)
python3 -B scripts/perf/summary.py --check-readme

step "cargo build --release"
cargo build --locked --release --workspace --bins

step "the published Python client through the router, on 1, 2 and 4 shards"
ensure_venv "$venv" "$requirements"
"$venv/bin/python" scripts/acceptance/run.py --router "$target/release/slim-router" --shards 1,2,4
