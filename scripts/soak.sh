#!/bin/sh
# Looks for unsound rules and miscompiled programs for a while: every rule on 100,000 random instances, every elementwise
# function on every f32, every cell on the simulated GPU in every type, then random programs, new ones each round, until
# the time is up, but one round at least. Stops at the first mismatch, which it shows shrunk.
#
# Then fuzzes what reads files, each reader for an hour: with cargo-fuzz where that is installed, otherwise with the
# mutations of tests/fuzz.rs, whose last input lies in target/tmp where one ends the process.
#
# Usage: scripts/soak.sh [MINUTES] [INSTANCES] [FUZZ_MINUTES]
set -eu
cd "$(dirname "$0")/.."
minutes=${1:-60}
instances=${2:-100000}
fuzz_minutes=${3:-60}
cargo=${CARGO:-cargo}
begin=$(date +%s)
end=$((begin + 60 * minutes))

# stage WHAT PACKAGE TARGET [FILTER...]: one step, with what it looks at and how long it took; its output only if it
# fails. The environment says how often.
stage() {
    what=$1 package=$2 target=$3
    shift 3
    start=$(date +%s)
    printf 'soak: %3d of %s min: %s ... ' $(((start - begin) / 60)) "$minutes" "$what"
    # shellcheck disable=SC2086  # A target is an option and its value.
    if ! output=$($cargo test -q --locked -p "$package" $target -- "$@" 2>&1); then
        printf 'FAILED\n%s\n' "$output"
        exit 1
    fi
    printf '%s s\n' $(($(date +%s) - start))
}

# Apart, as they are run: built together the packages would have other features.
echo "soak: building"
$cargo test -q --locked -p fuse-rewrite --no-run
$cargo test -q --locked -p fuse-codegen --release --test math --no-run
$cargo test -q --locked -p fuse --test soak --no-run
$cargo test -q --locked -p fuse --test fuzz --no-run
$cargo test -q --locked -p fuse --test narrow_models --no-run

export FUSE_SOAK="$instances"
stage "$instances operands of every rule of the table" fuse-rewrite --lib rules::
stage "$instances inputs of the cases of every rule in code" fuse-rewrite --lib soundness::cases
stage "$instances inputs of every rule about scans" fuse-rewrite "--test scans --test siblings --test accumulation"
stage "$instances inputs of recurrences" fuse-rewrite "--test recurrences"
stage "every f32 through every elementwise function" fuse-codegen "--release --test math"
stage "every cell on the simulated GPU at odd sizes, in every type" fuse "--test narrow_models" --ignored

round=0
while [ "$round" -eq 0 ] || [ "$(date +%s)" -lt "$end" ]; do
    round=$((round + 1))
    export FUSE_SOAK=1000 PROPTEST_CASES=1000
    stage "round $round: every class of 1000 random e-graphs" fuse-rewrite --lib soundness::random
    stage "round $round: kernels of 1000 random programs, fused and not" fuse-rewrite "--test differential"
    export FUSE_SOAK=500
    stage "round $round: 500 random programs compiled for the CPU, fused and not" fuse "--test soak"
done
echo "soak: no mismatch in $round rounds"

FUSE_FUZZ_SECONDS=$((60 * fuzz_minutes)) FUSE_FUZZ_SEED=$(date +%s)
export FUSE_FUZZ_SECONDS FUSE_FUZZ_SEED
if [ "$fuzz_minutes" -gt 0 ] && $cargo +nightly fuzz --version > /dev/null 2>&1; then
    for target in onnx text npz; do
        echo "soak: cargo-fuzz: $target for $fuzz_minutes min"
        $cargo +nightly fuzz run "$target" -- -max_total_time="$FUSE_FUZZ_SECONDS" -rss_limit_mb=1024 -timeout=10
    done
elif [ "$fuzz_minutes" -gt 0 ]; then
    for target in onnx text npz; do
        stage "mutations of $target files for $fuzz_minutes min, seed $FUSE_FUZZ_SEED" fuse "--test fuzz" "$target"
    done
fi
