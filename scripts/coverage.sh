#!/usr/bin/env bash
# Line coverage of ir/ and rewrite/ with rustc's own instrumentation and Debian's LLVM 22 tools, which read what
# rustc 1.95 writes because that rustc is built on LLVM 22 too. Builds into a target directory of its own.
#
#   scripts/coverage.sh [--minimum PERCENT] [PACKAGE...]
#
# PACKAGE: whose tests run; by default those of the two crates and of `fuse`, which holds the file tests.
# Documentation tests are not counted: stable rustdoc keeps no instrumented binary of them.
set -euo pipefail

readonly MEASURED=(ir rewrite)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
llvm_bin=${LLVM_SYS_221_PREFIX:-/usr/lib/llvm-22}/bin
minimum=0

fail() {
    printf 'coverage: %s\n' "$@" >&2
    exit 1
}

if [[ ${1:-} == --minimum ]]; then
    [[ ${2:-} =~ ^[0-9]+$ ]] || fail "--minimum takes a whole percentage"
    minimum=$2
    shift 2
fi
packages=("$@")
((${#packages[@]} > 0)) || packages=(fuse-ir fuse-rewrite fuse)
selection=("${packages[@]/#/--package=}")

for tool in llvm-profdata llvm-cov; do
    [[ -x $llvm_bin/$tool ]] || fail "$llvm_bin/$tool is missing; run scripts/setup-llvm.sh (Debian package llvm-22)"
done
rustc_llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
tool_llvm=$("$llvm_bin/llvm-cov" --version | sed -n 's/.*LLVM version \([0-9]*\).*/\1/p')
((rustc_llvm <= tool_llvm)) ||
    fail "rustc writes profiles of LLVM $rustc_llvm, which $llvm_bin (LLVM $tool_llvm) cannot read"

export CARGO_TARGET_DIR=${COVERAGE_TARGET_DIR:-$root/target/coverage}
export RUSTC_WORKSPACE_WRAPPER=$root/scripts/instrument.sh
profiles=$CARGO_TARGET_DIR/profiles
rm -rf "$profiles"
mkdir -p "$profiles"
# One file a process and binary, so that tests which start the fuse binary are counted and none overwrites another.
export LLVM_PROFILE_FILE=$profiles/%p-%m.profraw

cd "$root"
cargo test --locked "${selection[@]}" --tests --no-run --message-format=json-render-diagnostics >"$profiles/build.json"
cargo test --locked "${selection[@]}" --tests

mapfile -t binaries < <(python3 scripts/coverage_report.py binaries "$profiles/build.json")
((${#binaries[@]} > 0)) || fail "cargo built no test binary"
"$llvm_bin/llvm-profdata" merge --sparse "$profiles"/*.profraw -o "$profiles/all.profdata"
"$llvm_bin/llvm-cov" export --format=lcov --instr-profile="$profiles/all.profdata" \
    "${binaries[@]/#/--object=}" >"$profiles/coverage.lcov"
python3 scripts/coverage_report.py lines "$profiles/coverage.lcov" --minimum "$minimum" "${MEASURED[@]}"
