"""Prints what `fuse bench --profile --json` measured on a GPU: one line a model, then one a kernel.

Usage: table.py BENCH.jsonl [--kernels]
"""
import json
import sys


def main():
    for line in open(sys.argv[1]):
        run = json.loads(line)
        kernels = run["profile"] or []
        device_ms = sum(sum(k["running_ms"]) for k in kernels)
        print(
            f"{run['model']:14} {run['dims']:16} rewrite {run['rewrite']:3}"
            f" device {device_ms:9.3f} ms  run {run['median_ms']:9.3f} ms  first {run['first_ms']:8.1f} ms"
            f"  launches {sum(k['launches'] for k in kernels)}",
            flush=True,
        )
        if run["rewrite"] == "on":
            for k in sorted(kernels, key=lambda k: -sum(k["running_ms"]))[:4]:
                print(f"    {k['kernel']:28} {k['launches']:6} x  {sum(k['running_ms']):9.4f} ms")


main()
