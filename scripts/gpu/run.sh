#!/bin/sh
# Checks and measures fuse on a machine with an NVIDIA GPU that has neither Rust nor LLVM, from what
# scripts/gpu/bundle.sh made.
#
# Usage: scripts/gpu/run.sh BUNDLE OUT PART...
# Parts: check (every model against the interpreter), tests (tests/gpu.rs), bench (times on the device, by kernel),
# micro (what the card can do at best in the small; needs nvcc), peers (cuDNN and others).
set -u
bundle=$1 out=$2
shift 2
mkdir -p "$out" /tmp/fuse/lib
tar xJf "$bundle/bin.tar.xz" -C /tmp/fuse
tar xJf "$bundle/lib.tar.xz" -C /tmp/fuse/lib
export LD_LIBRARY_PATH="/tmp/fuse/lib:${LD_LIBRARY_PATH:-}"
fuse=/tmp/fuse/bin/fuse
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,memory.total --format=csv,noheader

# check FILE DIMS...: one line.
cat > /tmp/fuse/check << 'END'
file=$1
shift
args=$(for dim in "$@"; do sed '/->/q' "$file" | grep -qw "${dim%%=*}" && printf ' --dim %s' "$dim"; done)
result=$(timeout 60 /tmp/fuse/bin/fuse check "$file" $args --device cuda:0 --atol 2e-5 --rtol 2e-4 2>&1)
echo "$(basename "$file" .fuse) $*: $? $(echo "$result" | grep -E 'cuda|error' | tr -s ' \n' ' ' | cut -c1-400)"
END
checks() {
    for file in "$bundle"/small/*.fuse; do
        echo "$file" T=6 B=5 S=7
        echo "$file" T=1 B=1 S=1
    done
    for file in "$bundle"/models/*.fuse; do echo "$file" T=4 B=3 S=5; done
}

for part in "$@"; do
    echo "== $part"
    case $part in
    check)
        checks | xargs -P 8 -L 1 sh /tmp/fuse/check | tee "$out/check.txt" |
            awk '{ if ($0 ~ /: 0 .*agrees/) good++; else print } END { print good + 0 " agree" }'
        ;;
    bench)
        while read -r name dims; do
            args=$(for dim in $dims; do printf ' --dim %s' "$dim"; done)
            for rewrite in ${REWRITE:-on}; do
                # shellcheck disable=SC2086
                timeout 60 "$fuse" bench "$bundle/models/$name.fuse" $args --device cuda:0 --rewrite $rewrite \
                    --seconds 0.4 --profile --json - 2> "/tmp/fuse/error" || head -c 300 "/tmp/fuse/error" >&2
            done
        done < "$bundle/dims.txt" > "$out/bench.jsonl"
        python3 "$(dirname "$0")/table.py" "$out/bench.jsonl"
        ;;
    tests) timeout "${TEST_SECONDS:-300}" /tmp/fuse/bin/gpu-tests > "$out/tests.txt" 2>&1 || echo "status $?"
        tail -3 "$out/tests.txt" ;;
    micro)
        nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -o /tmp/fuse/micro "$(dirname "$0")/micro.cu" &&
            timeout 60 /tmp/fuse/micro | tee "$out/micro.txt"
        ;;
    peers) timeout "${PEER_SECONDS:-150}" python3 -u "$(dirname "$0")/peers.py" --json "$out/peers.json" ;;
    *) echo "no part $part" ;;
    esac
done
