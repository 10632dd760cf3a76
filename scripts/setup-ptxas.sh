#!/usr/bin/env bash
# Puts NVIDIA's PTX assembler at .cache/ptxas/bin/ptxas, where the tests look for it. It comes from the Python
# package nvidia-cuda-nvcc, so no CUDA toolkit and no GPU is needed. Does nothing when the right version is there.
#
#   scripts/setup-ptxas.sh             fetch it; if that fails, warn and succeed (the tests then say SKIPPED)
#   scripts/setup-ptxas.sh --require   fetch it; fail if that fails
set -euo pipefail

readonly VERSION=13.5.37
# sha256 of the wheels for x86_64 and aarch64.
readonly HASHES=(
    f5c4f7ead5d964fb4af42bbf1e6d3ec3c1e6e9d83b53749f691d387e7fcaa3a7
    588eda18eb5076ae859fe272844b526459228af22df0b117f54eec3aa82bc9c8
)
readonly MEMBER=nvidia/cu13/bin/ptxas

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
destination=$root/.cache/ptxas
ptxas=$destination/bin/ptxas
stamp=$destination/version
required=false

say() { printf 'setup-ptxas: %s\n' "$*"; }

give_up() {
    if $required; then
        printf 'setup-ptxas: %s\n' "$1" >&2
        exit 1
    fi
    printf 'setup-ptxas: warning: %s; the tests that assemble PTX will say SKIPPED\n' "$1" >&2
    exit 0
}

# Makes `python3 -m pip` work, through apt where Debian split pip off python3.
ensure_pip() {
    python3 -m pip --version >/dev/null 2>&1 && return
    command -v apt-get >/dev/null || return 1
    local as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || return 1
        as_root=(sudo)
    fi
    say "installing python3-pip with apt"
    local install=(apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 python3-pip)
    # The package lists may be absent or too old for the mirror: refresh them and try again.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" </dev/null >"$scratch/apt.log" 2>&1 || {
        "${as_root[@]}" apt-get update -q </dev/null >"$scratch/apt.log" 2>&1 || true
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" </dev/null >"$scratch/apt.log" 2>&1
    } || return 1
    python3 -m pip --version >/dev/null 2>&1
}

download_wheel() {
    local hash requirement="nvidia-cuda-nvcc==$VERSION"
    for hash in "${HASHES[@]}"; do
        requirement+=" --hash=sha256:$hash"
    done
    printf '%s\n' "$requirement" >"$scratch/requirements.txt"
    python3 -m pip download --quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all: \
        --no-cache-dir --require-hashes --requirement "$scratch/requirements.txt" --dest "$scratch" \
        </dev/null >"$scratch/pip.log" 2>&1
}

# Unpacks the one program, beside its destination, and moves it there whole: an interrupted run leaves no torso.
extract_ptxas() {
    mkdir -p "$destination/bin"
    python3 - "$scratch" "$MEMBER" "$ptxas.partial" <<'PYTHON'
import pathlib
import shutil
import sys
import zipfile

folder, member, destination = sys.argv[1:]
(wheel,) = pathlib.Path(folder).glob("nvidia_cuda_nvcc-*.whl")
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(destination, "wb") as target:
    shutil.copyfileobj(source, target)
PYTHON
    chmod +x "$ptxas.partial"
    mv "$ptxas.partial" "$ptxas"
}

main() {
    case ${1:-} in
    '') ;;
    --require) required=true ;;
    *)
        printf "setup-ptxas: unknown argument '%s' (only --require is known)\n" "$1" >&2
        exit 2
        ;;
    esac

    if [[ -x $ptxas && -f $stamp && $(<"$stamp") == "$VERSION" ]]; then
        say "ptxas $VERSION at .cache/ptxas/bin/ptxas"
        return
    fi

    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    command -v python3 >/dev/null || give_up "python3 is missing, so ptxas cannot be fetched"
    ensure_pip || give_up "pip is missing (apt-get install python3-pip), so ptxas cannot be fetched"
    say "fetching ptxas $VERSION (about 47 MB)"
    download_wheel ||
        give_up "pip could not fetch nvidia-cuda-nvcc $VERSION: $(grep -m1 '^ *ERROR' "$scratch/pip.log" || tail -n 1 "$scratch/pip.log")"
    extract_ptxas || give_up "the package nvidia-cuda-nvcc $VERSION could not be unpacked"
    "$ptxas" --version >/dev/null 2>&1 || give_up "the fetched ptxas does not run on this machine"
    printf '%s\n' "$VERSION" >"$stamp"
    say "ptxas $VERSION at .cache/ptxas/bin/ptxas"
}

main "$@"
