#!/usr/bin/env bash
# Clients that connect, subscribe and vanish, 1,000 a second, for ten minutes and under load; then files what came of it.
#
#   scripts/soak.sh [SECONDS]
#
# Builds the router and the driver (router/tests/soak) in release, and writes perf-results/<date>-soak: README.md, samples.csv.
# Fails if memory, descriptors, names or messages are not as they should be.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-600}"
# Cargo runs a test in the folder of its package.
out="$PWD/perf-results/$(date -u +%F)-soak"
command="scripts/soak.sh $seconds"

cargo test --locked --release -p slim-router --test soak --no-run
mkdir -p "$out"
commit="$(git rev-parse --short HEAD)"
[ -z "$(git status --porcelain -- . ":(exclude)perf-results")" ] || commit="$commit, with changes"
processor="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
load_before="$(cut -d ' ' -f 1-3 /proc/loadavg)"
# Kept when the run fails, too: then it says why.
status=0
said="$(SOAK_SECONDS="$seconds" SOAK_CSV="$out/samples.csv" cargo test --locked --release -p slim-router --test soak 2>&1 |
    grep -Ev '^ +(Finished|Running|Compiling|Blocking)')" || status=$?

cat >"$out/README.md" <<END
# Soak, $(date -u +%F)

Clients that connect, subscribe and vanish while others are sent messages: \`$command\`. What it does and asks for is in
\`router/tests/soak/main.rs\`; a sample a second is in [samples.csv](samples.csv).

| | |
|---|---|
| commit | $commit |
| machine | $(nproc) cores of $processor, Linux $(uname -r), load average before: $load_before |
| outcome | $([ "$status" = 0 ] && echo "as it should be" || echo "FAILED") |

\`\`\`text
$said
\`\`\`
END
cat "$out/README.md"
exit "$status"
