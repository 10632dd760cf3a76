#!/bin/sh
# Looks for unsound rules and miscompiled programs for a while: every rule on 100,000 random operands, then random
# programs, new ones each round, until the time is up. Stops at the first mismatch, which it shows shrunk.
#
# Usage: scripts/soak.sh [MINUTES]
set -eu
cd "$(dirname "$0")/.."
minutes=${1:-60}
cargo=${CARGO:-cargo}
end=$(($(date +%s) + 60 * minutes))
left() { echo $((end - $(date +%s))); }

echo "soak: every rule, 100000 times"
FUSE_SOAK=100000 $cargo test -q --locked -p fuse-rewrite --lib -- rules:: soundness::cases
round=0
while [ "$(left)" -gt 0 ]; do
    round=$((round + 1))
    echo "soak: round $round, $(($(left) / 60)) minutes left"
    FUSE_SOAK=1000 $cargo test -q --locked -p fuse-rewrite --lib -- soundness::random
    PROPTEST_CASES=1000 $cargo test -q --locked -p fuse-rewrite --test differential
    FUSE_SOAK=500 $cargo test -q --locked -p fuse --test soak
done
echo "soak: no mismatch in $round rounds"
