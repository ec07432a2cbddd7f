# Sourced by test.sh and perf.sh: a virtual environment below the target directory, with pinned packages.

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
    echo "or a Python that has the modules ensurepip and venv, and run $0 again." >&2
    exit 1
}

# ensure_venv DIRECTORY REQUIREMENTS: made anew when it is missing, when the pinned versions changed, or when its
# interpreter no longer runs.
ensure_venv() {
    local venv="$1" requirements="$2"
    if cmp -s "$requirements" "$venv/requirements.txt" && "$venv/bin/python" -c 'import slim_bindings' 2>/dev/null; then
        return
    fi
    ensure_venv_module
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
    # Last, so that an interrupted installation is not taken for a whole one.
    cp "$requirements" "$venv/requirements.txt"
}
