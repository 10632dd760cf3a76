#!/usr/bin/env bash
# The main job from end to end, on an LSTM traced from examples/: what the compiler made of it, that it is right,
# and what fusion is worth. `make demo` builds first and then runs this.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
fuse=${CARGO_TARGET_DIR:-target}/release/fuse
work=${CARGO_TARGET_DIR:-target}/demo
ptxas=.cache/ptxas/bin/ptxas
model=$work/lstm.fuse
arch=sm_90
dims=(--dim T=100 --dim B=1)
lines_of_ptx=60

heading() { printf '\n== %s\n\n' "$*"; }

# Shows a command as a reader would type it, then runs it.
show() {
    printf '$ %s\n' "$*"
    "$@"
}

mkdir -p "$work"

heading "Trace an ordinary Rust closure into a graph"
show cargo run --quiet --locked --release --example lstm -- "$model"

heading "The kernels that rewriting and fusion leave"
show "$fuse" dump "$model" --stage kernels

heading "PTX for $arch (the first $lines_of_ptx lines of each kernel)"
show "$fuse" ptx "$model" --arch "$arch" -o "$work/ptx"
for kernel in "$work"/ptx/*.ptx; do
    printf -- '--- %s\n' "$kernel"
    head -n "$lines_of_ptx" "$kernel"
    if [[ -x $ptxas ]]; then
        "$ptxas" -arch="$arch" -o /dev/null "$kernel"
        printf -- '--- ptxas accepts it\n'
    else
        printf -- '--- ptxas: SKIPPED (not installed; scripts/setup-ptxas.sh fetches it)\n'
    fi
done

heading "Every backend that can run here, against the interpreter"
show "$fuse" check "$model" "${dims[@]}" --seed 1

heading "Time and memory on the CPU, fused"
show "$fuse" bench "$model" "${dims[@]}" --seed 1

heading "The same model with one kernel per operation"
show "$fuse" bench "$model" "${dims[@]}" --seed 1 --rewrite off
