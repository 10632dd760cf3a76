#!/usr/bin/env bash
# Says what is missing from the Rust toolchain, before a build fails half way for the same reason.
#
#   scripts/check-rust.sh [COMPONENT...]     COMPONENT: rustfmt, clippy
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    printf 'check-rust: %s\n' "$@" >&2
    exit 1
}

# Succeeds if version $1 is at least version $2.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
command -v cargo >/dev/null || fail "cargo is missing: install Rust $needed or newer (rustup, or your system's packages)"
found=$(rustc --version | awk '{ print $2 }')
at_least "$found" "$needed" || fail "rustc is $found; fuse needs $needed or newer (rustup update)"

missing=()
for component in "$@"; do
    case $component in
    rustfmt) cargo fmt --version >/dev/null 2>&1 || missing+=(rustfmt) ;;
    clippy) cargo clippy --version >/dev/null 2>&1 || missing+=(clippy) ;;
    *) fail "unknown component '$component'" ;;
    esac
done
((${#missing[@]} == 0)) || fail "missing from the Rust toolchain: ${missing[*]} (rustup component add ${missing[*]})"
printf 'check-rust: rustc %s%s\n' "$found" "${*:+, $*}"
