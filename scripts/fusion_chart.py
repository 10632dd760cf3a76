#!/usr/bin/env python3
"""Draws docs/img/fusion.svg: launches and time of one run, fused against one kernel per operation.

    scripts/fusion_chart.py FUSE MODEL.fuse... [--dim T=100 --dim B=1] [-o docs/img/fusion.svg]

Every figure is measured now, with `fuse bench` on one thread, fused and unfused in turn; medians of three rounds.
"""
import argparse
import json
import statistics
import subprocess
import sys
from html import escape

ROUNDS = 3
WIDTH, LEFT, RIGHT, BAR, GAP = 760, 150, 150, 16, 26
FUSED, UNFUSED, TEXT, FAINT = "#d9480f", "#adb5bd", "#212529", "#868e96"


def bench(fuse, model, dims, rewrite):
    command = [fuse, "bench", model, "--rewrite", rewrite, "--threads", "1", "--seconds", "1", "--json", "-"]
    for dim in dims:
        command += ["--dim", dim]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads([line for line in output.splitlines() if line.startswith("{")][-1])


def measure(fuse, model, dims):
    """(fused, unfused), each with the median over rounds in `median_ms`."""
    rounds = [(bench(fuse, model, dims, "on"), bench(fuse, model, dims, "off")) for _ in range(ROUNDS)]
    results = []
    for side in zip(*rounds):
        result = dict(side[0])
        result["median_ms"] = statistics.median(r["median_ms"] for r in side)
        results.append(result)
    return results


def text(x, y, content, size=13, color=TEXT, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" font-weight="{weight}">'
            f"{escape(content)}</text>")


def panel(title, rows, value, label, top):
    """Pairs of bars, one pair a model, on one scale."""
    parts = [text(16, top, title, 15, weight="bold")]
    scale = (WIDTH - LEFT - RIGHT) / max(value(r) for _, *pair in rows for r in pair)
    y = top + 14
    for name, fused, unfused in rows:
        parts.append(text(16, y + BAR + 4, name))
        for result, color in ((fused, FUSED), (unfused, UNFUSED)):
            width = max(1.0, value(result) * scale)
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" rx="2" fill="{color}"/>')
            parts.append(text(LEFT + width + 6, y + BAR - 4, label(result), 12, FAINT))
            y += BAR
        y += GAP - BAR
    return parts, y


def draw(rows, dims):
    parts, y = panel(f"Kernel launches in one run at {dims}", rows, lambda r: r["launches"],
                     lambda r: f"{r['launches']:,}", 28)
    more, y = panel("Time of one run on one CPU thread", rows, lambda r: r["median_ms"],
                    lambda r: f"{r['median_ms']:.2f} ms", y + 30)
    parts += more
    y += 16
    parts.append(f'<rect x="{LEFT}" y="{y - 10}" width="12" height="12" rx="2" fill="{FUSED}"/>')
    parts.append(text(LEFT + 18, y, "fused"))
    parts.append(f'<rect x="{LEFT + 80}" y="{y - 10}" width="12" height="12" rx="2" fill="{UNFUSED}"/>')
    parts.append(text(LEFT + 98, y, "one kernel per operation"))
    height = y + 18
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif">\n'
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fuse")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--dim", action="append", default=[])
    parser.add_argument("-o", "--output", default="docs/img/fusion.svg")
    args = parser.parse_args()
    rows = []
    for model in args.models:
        fused, unfused = measure(args.fuse, model, args.dim)
        rows.append((fused["model"], fused, unfused))
        print(f"{fused['model']}: {fused['median_ms']:.3f} ms fused, {unfused['median_ms']:.3f} ms unfused; "
              f"launches {fused['launches']} and {unfused['launches']}", file=sys.stderr)
    with open(args.output, "w", encoding="utf-8") as f:
        f.write(draw(rows, " ".join(args.dim)))


if __name__ == "__main__":
    main()
