#!/usr/bin/env bash
# What ptxas makes of the kernels of every model of a zoo: registers, bytes of spills, bytes of stack.
#
#   scripts/spills.sh ZOO [OPTION…]
#
# ZOO has a directory for each model, with model.onnx. Further options go to `fuse ptx` (--precision bf16). ARCHS lists
# the architectures, FUSE names the binary, FUSE_PTXAS the assembler. One line a kernel, then one an architecture; fails
# where a kernel spills.
set -euo pipefail
cd "$(dirname "$0")/.."
zoo=${1:?the directory of the models}
shift
fuse=${FUSE:-target/release/fuse}
ptxas=${FUSE_PTXAS:-.cache/ptxas/bin/ptxas}
archs=${ARCHS:-sm_75 sm_80 sm_90 sm_120}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for model in "$zoo"/*/model.onnx; do
  name=$(basename "$(dirname "$model")")
  for arch in $archs; do
    if ! "$fuse" ptx "$model" --arch "$arch" "$@" >"$work/module.ptx" 2>"$work/errors"; then
      echo "$name $arch refused $(tail -n 1 "$work/errors")"
      continue
    fi
    "$ptxas" -v "-arch=$arch" -o /dev/null "$work/module.ptx" 2>&1 | awk -v model="$name" -v arch="$arch" '
      /Compiling entry function/ { split($0, quoted, "\047"); kernel = quoted[2] }
      /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
      /Used [0-9]+ registers/ {
        for (i = 1; i < NF; i++) if ($i == "Used") registers = $(i + 1)
        print model, arch, kernel, registers, stores, loads, stack
      }'
  done
done | tee "$work/table"
awk '
  { spilled = $5 + $6; total[$2] += spilled; kernels[$2]++ }
  spilled > most[$2] { most[$2] = spilled }
  spilled > 0 { count[$2]++; failed = 1 }
  END {
    for (arch in kernels)
      printf "%s: %d kernels, %d spill, %d bytes at most, %d in all\n", arch, kernels[arch], count[arch], most[arch], total[arch]
    exit failed
  }' "$work/table"
