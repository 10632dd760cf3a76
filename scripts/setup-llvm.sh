#!/usr/bin/env bash
# Makes LLVM 22 and a C++ linker available to `cargo build`. Does nothing where both are there already.
#
#   scripts/setup-llvm.sh           install what is missing (apt; asks sudo when not root)
#   scripts/setup-llvm.sh --check   only say whether it is there (exit 1 if not)
#
# LLVM is looked for in $LLVM_SYS_221_PREFIX, by default /usr/lib/llvm-22 as set in .cargo/config.toml.
set -euo pipefail

readonly DEBIAN_PREFIX=/usr/lib/llvm-22
# llvm-config, the headers for llvm-sys's C wrapper, libLLVM-22.so and, as its dependency, libffi's; all that
# dynamic linking needs. llvm-profdata and llvm-cov, for `make coverage`, come along in its dependency llvm-22.
readonly LLVM_PACKAGES=(llvm-22-dev)
# gcc for the linker and the C wrapper, the link-time libstdc++ (which llvm-22-dev does not depend on), make.
readonly TOOLCHAIN_PACKAGES=(build-essential)

prefix=${LLVM_SYS_221_PREFIX:-$DEBIAN_PREFIX}

say() { printf 'setup-llvm: %s\n' "$*"; }
fail() {
    printf 'setup-llvm: %s\n' "$@" >&2
    exit 1
}

# Prints the llvm-config that llvm-sys would choose under a prefix, or nothing.
llvm_config_in() {
    local name
    for name in llvm-config-22 llvm-config22 llvm-config; do
        if [[ -x $1/bin/$name ]]; then
            printf '%s\n' "$1/bin/$name"
            return
        fi
    done
}

# Succeeds if a complete LLVM 22 for development is under the prefix; else sets `reason`.
llvm_is_usable() {
    local config version
    config=$(llvm_config_in "$prefix")
    if [[ -z $config ]]; then
        reason="no llvm-config under $prefix"
        return 1
    fi
    version=$("$config" --version) || version="unknown"
    if [[ $version != 22.* ]]; then
        reason="$config is LLVM $version; fuse needs 22"
        return 1
    fi
    if [[ ! -f $("$config" --includedir)/llvm-c/Core.h ]]; then
        reason="the headers of LLVM $version are missing (package llvm-22-dev)"
        return 1
    fi
    if ! "$config" --link-shared --libs >/dev/null 2>&1 && ! "$config" --link-static --libs >/dev/null 2>&1; then
        reason="the libraries of LLVM $version are missing"
        return 1
    fi
    if [[ " $("$config" --targets-built) " != *" NVPTX "* ]]; then
        reason="LLVM $version at $prefix was built without the NVPTX target"
        return 1
    fi
    found_version=$version
}

# Succeeds if the C compiler can link a program against the C++ standard library, as rustc will ask it to.
linker_is_usable() {
    local scratch status=0
    scratch=$(mktemp -d)
    printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' >"$scratch/probe.c"
    cc "$scratch/probe.c" -lstdc++ -o "$scratch/probe" >/dev/null 2>&1 || status=1
    rm -rf "$scratch"
    return "$status"
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo "$@"
    fi
}

# Prints the line that adds Debian's security suite, on the mirror this machine already uses.
security_source_line() {
    local codename=$1 mirror
    mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' "Release: $codename" 2>/dev/null |
        sed -n 's#/debian/*$#/debian-security#p' | head -n 1)
    printf 'deb %s %s-security main\n' "${mirror:-<your Debian mirror>/debian-security}" "$codename"
}

has_candidate() {
    local candidate
    candidate=$(LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p')
    [[ -n $candidate && $candidate != "(none)" ]]
}

explain_missing_candidate() {
    local id codename
    id=$(. /etc/os-release 2>/dev/null && printf '%s' "${ID:-}")
    codename=$(. /etc/os-release 2>/dev/null && printf '%s' "${VERSION_CODENAME:-}")
    if [[ $id == debian && $codename == bookworm ]]; then
        # As configured, not as downloaded: with the mirror out of reach the source is still there.
        if apt-get indextargets --no-release-info --format '$(RELEASE)' 2>/dev/null | grep -q -- '-security$'; then
            fail "the apt sources have bookworm-security, but no package llvm-22-dev came with it." \
                "Look at what 'apt-get update' printed above: the mirror may be unreachable or out of date."
        fi
        fail "apt knows no package llvm-22-dev: on Debian 12 it lives in the suite bookworm-security," \
            "which is not among this machine's apt sources. Add it and run this again:" \
            "  echo '$(security_source_line bookworm)' | sudo tee /etc/apt/sources.list.d/bookworm-security.list"
    fi
    fail "apt knows no package llvm-22-dev on this system (${id:-unknown} ${codename:-})." \
        "Install LLVM 22 with its headers from elsewhere, set LLVM_SYS_221_PREFIX to its prefix, and run this again."
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        fail "missing: $*; and this system has no apt-get to install it with." \
            "Install a C++ compiler and LLVM 22 with its headers by your system's means, then" \
            "  export LLVM_SYS_221_PREFIX=<prefix that holds bin/llvm-config>" \
            "Or build for the CPU only, without LLVM: cargo build --no-default-features"
    fi
    if ((EUID != 0)) && ! command -v sudo >/dev/null; then
        fail "missing: $*; installing needs root, and there is no sudo. As root, run:" \
            "  apt-get update && apt-get install $*"
    fi
    say "installing $* with apt"
    # A broken third-party source must not stop us; whether the packages are there is asked afterwards.
    as_root apt-get update -q </dev/null || say "apt-get update reported errors; going on with the lists there are"
    local package
    for package in "$@"; do
        if ! has_candidate "$package"; then
            [[ $package == llvm-22-dev ]] && explain_missing_candidate
            fail "apt knows no package $package; check the apt sources of this system"
        fi
    done
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@" </dev/null ||
        fail "apt-get could not install: $*" "Its messages are above."
}

main() {
    local check_only=false
    case ${1:-} in
    '') ;;
    --check) check_only=true ;;
    *) fail "unknown argument '$1' (only --check is known)" ;;
    esac

    local reason='' found_version='' missing=()
    linker_is_usable || missing+=("${TOOLCHAIN_PACKAGES[@]}")
    if ! llvm_is_usable; then
        if [[ $prefix != "$DEBIAN_PREFIX" ]]; then
            fail "$reason" "LLVM_SYS_221_PREFIX is set to $prefix; correct it, or unset it to use Debian's LLVM 22."
        fi
        local elsewhere
        elsewhere=$(command -v llvm-config-22 || true)
        if [[ -n $elsewhere && $("$elsewhere" --prefix) != "$DEBIAN_PREFIX" ]]; then
            fail "LLVM 22 is installed outside $DEBIAN_PREFIX. Use it with:" \
                "  export LLVM_SYS_221_PREFIX=$("$elsewhere" --prefix)"
        fi
        missing+=("${LLVM_PACKAGES[@]}")
    fi

    if ((${#missing[@]} > 0)); then
        $check_only && fail "missing: ${missing[*]}${reason:+ ($reason)}"
        install_packages "${missing[@]}"
        linker_is_usable || fail "cc still cannot link against libstdc++ after installing ${TOOLCHAIN_PACKAGES[*]}"
        llvm_is_usable || fail "LLVM is still not usable after installing ${LLVM_PACKAGES[*]}: $reason"
    fi
    say "LLVM $found_version at $prefix"
}

main "$@"
