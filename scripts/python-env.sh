#!/bin/sh
# Makes a Python environment in PYTHON_ENV (.cache/python) with the given packages, where they are missing.
#
# Usage: scripts/python-env.sh PACKAGE...
set -eu
cd "$(dirname "$0")/.."
env=${PYTHON_ENV:-.cache/python}
[ -x "$env/bin/python" ] || "${PYTHON:-python3}" -m venv "$env"
"$env/bin/python" -m pip install -q --disable-pip-version-check "$@"
