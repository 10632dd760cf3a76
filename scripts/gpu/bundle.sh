#!/bin/sh
# Packs what scripts/gpu/run.sh needs on a machine that has a GPU and neither Rust nor LLVM: the fuse binary, the GPU
# tests, the libraries they were linked with, and the models of a zoo as graphs with random weights.
#
# Usage: scripts/gpu/bundle.sh DEST ZOO [SMALL_ZOO]
# A zoo is a directory with one directory a model, in each of which are model.onnx and, for the sizes to measure,
# meta.json with an `inputs` object of `dims` and `shape` by name.
set -eu
cd "$(dirname "$0")/../.."
dest=$1 zoo=$2 small=${3:-$2}
mkdir -p "$dest/models" "$dest/small"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/lib"

cargo build --locked --release
tests=$(cargo test --locked --release --test gpu --no-run --message-format json |
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "gpu":
        print(message["executable"])')
strip -o "$work/bin/fuse" target/release/fuse
strip -o "$work/bin/gpu-tests" "$tests"
tar cf - -C "$work" bin | xz -6 -T0 > "$dest/bin.tar.xz"
if [ ! -e "$dest/lib.tar.xz" ]; then
    # The C library is the other machine's own.
    ldd target/release/fuse | awk '$3 ~ /^\// && $1 !~ /^lib[cm]\.so/ { print $3 }' | xargs cp -L -t "$work/lib"
    strip --strip-unneeded "$work"/lib/*
    tar cf - -C "$work/lib" . | xz -6 -T0 > "$dest/lib.tar.xz"
fi
for model in "$zoo"/*/model.onnx; do
    target/release/fuse dump --stage graph "$model" > "$dest/models/$(basename "$(dirname "$model")").fuse"
done
for model in "$small"/*/model.onnx; do
    target/release/fuse dump --stage graph "$model" > "$dest/small/$(basename "$(dirname "$model")").fuse"
done
python3 - "$zoo" > "$dest/dims.txt" << 'END'
import json, pathlib, sys

for meta in sorted(pathlib.Path(sys.argv[1]).glob("*/meta.json")):
    dims = {}
    for given in json.loads(meta.read_text())["inputs"].values():
        dims |= {d: n for d, n in zip(given["dims"], given["shape"]) if not isinstance(d, int)}
    print(meta.parent.name, *(f"{d}={n}" for d, n in dims.items()))
END
du -sh "$dest"
