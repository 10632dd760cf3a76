#!/usr/bin/env bash
# RUSTC_WORKSPACE_WRAPPER of scripts/coverage.sh: cargo puts it before rustc for this workspace's crates alone,
# so that dependencies are neither instrumented nor counted.
exec "$@" -C instrument-coverage
