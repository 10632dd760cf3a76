#!/bin/sh
# Mutation testing of the rules: changes one guard, operator or result at a time and looks whether a test fails.
# Prints what no test noticed. docs/mutation.md says what was found; all of it takes hours, a shard a part of that.
#
# Usage: scripts/mutants.sh [SHARD], for example scripts/mutants.sh 0/16
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
if ! $cargo mutants --version >/dev/null 2>&1; then
    echo "cargo-mutants is missing: $cargo install cargo-mutants --locked" >&2
    exit 1
fi
out=${MUTANTS_OUT:-target/mutants}
mkdir -p "$out"
# 2: some mutants were missed, which is what the report is for; 3: some ran into the timeout.
status=0
$cargo mutants -p fuse-rewrite --output "$out" ${1:+--shard "$1"} || status=$?
case $status in 0 | 2 | 3) ;; *) exit "$status" ;; esac

count() { grep -c "^$1" "$2" || true; }
echo "file                               caught missed timeout"
cat "$out"/mutants.out/caught.txt "$out"/mutants.out/missed.txt "$out"/mutants.out/timeout.txt | cut -d: -f1 | sort -u |
    while read -r file; do
        printf '%-34s %6s %6s %7s\n' "$file" "$(count "$file:" "$out/mutants.out/caught.txt")" \
            "$(count "$file:" "$out/mutants.out/missed.txt")" "$(count "$file:" "$out/mutants.out/timeout.txt")"
    done
caught=$(cat "$out"/mutants.out/caught.txt "$out"/mutants.out/timeout.txt | wc -l)
missed=$(wc -l <"$out/mutants.out/missed.txt")
echo "caught: $caught of $((caught + missed))"
[ "$((10 * caught))" -ge "$((9 * (caught + missed)))" ] || { echo "fewer than 90 %" >&2; exit 1; }
