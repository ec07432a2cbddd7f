#!/usr/bin/env bash
# Everything that must hold before a change goes in; all that CI runs.
#
# Needs Linux on two cores or more, Rust with clippy and rustfmt, gcc, make, python3, and the registries of crates.io and PyPI. Sets up
# the rest itself, below the target directory: a virtual environment with the published Python client.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
venv="$target/acceptance-venv"
requirements=scripts/acceptance/requirements.txt

step() {
    printf '\n==== %s (%d s so far)\n' "$*" "$SECONDS"
}

# Debian ships python3 without what `python3 -m venv` needs.
ensure_venv_module() {
    if python3 -c 'import ensurepip, venv' 2>/dev/null; then
        return
    fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3-venv
        return
    fi
    echo "python3 cannot make virtual environments here: install Debian's package python3-venv (as root)," >&2
    echo "or a Python that has the modules ensurepip and venv, and run scripts/test.sh again." >&2
    exit 1
}

# Made anew when it is missing, when the pinned versions changed, or when its interpreter no longer runs.
ensure_client() {
    if cmp -s "$requirements" "$venv/requirements.txt" && "$venv/bin/python" -c 'import slim_bindings' 2>/dev/null; then
        return
    fi
    ensure_venv_module
    rm -rf "$venv"
    mkdir -p "$target"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
    # Last, so that an interrupted installation is not taken for a whole one.
    cp "$requirements" "$venv/requirements.txt"
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

step "cargo build --release"
cargo build --locked --release --workspace --bins

step "the published Python client through the router, on 1, 2 and 4 shards"
ensure_client
"$venv/bin/python" scripts/acceptance/run.py --router "$target/release/slim-router" --shards 1,2,4
