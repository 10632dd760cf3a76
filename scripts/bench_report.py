#!/usr/bin/env python3
"""Writes the results of docs/perf/cpu.md and the chart docs/img/cpu.svg from what bench.py measured.

    bench_report.py [docs/perf/cpu.json] [--page docs/perf/cpu.md] [--chart docs/img/cpu.svg]

Of the page only what stands between its two markers is replaced. Needs nothing but Python.
"""
import argparse
import json
import math
import os
import statistics
from html import escape

BEGIN, END = "<!-- begin results -->", "<!-- end results -->"
NAMES = {"ort": "ONNX Runtime", "openvino": "OpenVINO", "jax": "JAX", "torch": "PyTorch",
         "torch_compile": "torch.compile", "tf": "TensorFlow", "tf_xla": "TensorFlow XLA", "fuse": "fuse"}
COLORS = ["#1c7ed6", "#2f9e44", "#9c36b5", "#c2255c", "#f08c00", "#0c8599", "#74511f"]
WIDTH, LEFT, RIGHT, ROW, BAR = 820, 150, 70, 26, 14


def name_of(peer):
    return NAMES.get(peer, peer)


class Results:
    """Medians over rounds, by model and peer."""

    def __init__(self, data):
        self.data, self.cells = data, {}
        for record in data["records"]:
            self.cells.setdefault((record["model"], record["peer"]), []).append(record)
        self.models = list(dict.fromkeys(model for model, _ in self.cells))
        found = dict.fromkeys(peer for _, peer in self.cells)
        self.peers = [p for p in NAMES if p in found and p != "fuse"] + [p for p in found if p not in NAMES]

    def status(self, model, peer):
        """`right`, `wrong`, `refused`, or nothing where it was not measured."""
        records = self.cells.get((model, peer))
        if not records:
            return ""
        if any("refused" in r for r in records):
            return "refused"
        return "right" if all(r["ok"] for r in records) else "wrong"

    def value(self, model, peer, key="median_ms"):
        """Nothing where the peer has no right result."""
        if self.status(model, peer) != "right":
            return None
        return statistics.median(r[key] for r in self.cells[model, peer])

    def best(self, model, key="median_ms"):
        """(value, peer) of the best other peer, or nothing."""
        found = [(self.value(model, p, key), p) for p in self.peers]
        return min(((v, p) for v, p in found if v is not None), default=None)

    def ratio(self, model, peer, key="median_ms"):
        """How many times fuse's figure the peer's is."""
        theirs, ours = self.value(model, peer, key), self.value(model, "fuse", key)
        return theirs / ours if theirs and ours else None

    def gain(self, model, key="median_ms"):
        """How many times fuse's figure the best other peer's is."""
        best = self.best(model, key)
        return self.ratio(model, best[1], key) if best else None

    def floor_ms(self, model):
        """The least time that the machine's limits allow, or nothing where the model's work is unknown."""
        work = self.data["models"].get(model)
        if not work:
            return None
        peak = max(a["all_threads_gflops"] for a in self.data["machine"]["multiply_add"])
        data = work["weight_bytes"] + work["input_bytes"] + work["output_bytes"]
        moved = min(data, work["traffic_bytes"])
        once = max(work["flops"] / peak, moved / self.speed(data))
        outside, loops = 0.0, 0.0
        for kernel in work["kernels"]:
            flops = kernel["flops"] / peak
            if kernel["in_loop"]:
                loops += max(flops, kernel["launches"] * self.again(kernel["bytes"] / max(1, kernel["launches"])))
            else:
                outside += flops
        return max(once, outside + loops) * 1e-6

    def places(self):
        """What holds data, from the nearest on: (bytes of all threads' instances, 10⁹ bytes a second of all threads)."""
        machine = self.data["machine"]
        speeds = {place["place"]: place["all_threads_gb_per_s"] for place in machine["read"]}
        for cache in machine["caches"]:
            yield cache["bytes"] * math.ceil(machine["threads"] / cache["shared_by"]), speeds[f"L{cache['level']}"]
        yield math.inf, speeds["memory"]

    def speed(self, size):
        """10⁹ bytes a second of all threads from the nearest level that holds so many bytes."""
        return next(speed for held, speed in self.places() if size <= held)

    def again(self, size):
        """Nanoseconds to read so many bytes that were read before, of which each level gives what it can hold."""
        nanoseconds, nearer = 0.0, 0
        for held, speed in self.places():
            nanoseconds += max(0, min(size, held) - nearer) / speed
            nearer = held
        return nanoseconds


def geometric_mean(values):
    """Of those that are there, or nothing."""
    values = [v for v in values if v]
    return math.exp(statistics.fmean(map(math.log, values))) if values else None


def number(value):
    if value is None:
        return ""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def times(value):
    return f"{value:.2f}" if value else ""


def markdown(head, rows):
    """The first column and those named in the heading with a colon are text; the others are numbers."""
    rule = ["---" if i == 0 or h.startswith(":") else "---:" for i, h in enumerate(head)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [[h.lstrip(":") for h in head], rule, *rows])


def cell(results, model, peer, key):
    status = results.status(model, peer)
    return number(results.value(model, peer, key)) if status == "right" else status


def table(results, key, floors=False):
    """A row a model; at the bottom how many times fuse's figure each peer's is, in the geometric mean."""
    head = ["model", *map(name_of, results.peers), ":best peer", "fuse", "best / fuse"]
    rows = []
    for model in results.models:
        best = results.best(model, key)
        row = [model, *(cell(results, model, p, key) for p in results.peers), name_of(best[1]) if best else "",
               cell(results, model, "fuse", key), times(results.gain(model, key))]
        rows.append(row)
    mean = lambda values: times(geometric_mean(values))  # noqa: E731
    last = ["geometric mean, × fuse", *(mean(results.ratio(m, p, key) for m in results.models) for p in results.peers),
            "", "", mean(results.gain(m, key) for m in results.models)]
    if floors:
        head += ["floor", "fuse / floor"]
        over = []
        for model, row in zip(results.models, rows):
            floor, ours = results.floor_ms(model), results.value(model, "fuse")
            over.append(ours / floor if floor and ours else None)
            row += [number(floor), times(over[-1])]
        last += ["", mean(over)]
    return markdown(head, [*rows, last])


def machine_table(machine):
    """What `fuse machine` measured."""
    rows = [[f"multiply-adds, {a['bits']} bits ({a['instructions']})", number(a["one_thread_gflops"]),
             number(a["all_threads_gflops"]), "GFLOP/s"] for a in machine["multiply_add"]]
    product = machine["product_in_l1"]
    rows.append([f"products, {product['bits']} bits, factors in L1", number(product["one_thread_gflops"]),
                 number(product["all_threads_gflops"]), "GFLOP/s"])
    transfers = [("read", t) for t in machine["read"]] + [("write", machine["write"]), ("copy", machine["copy"])]
    rows += [[f"{what}, {t['place']}", number(t["one_thread_gb_per_s"]), number(t["all_threads_gb_per_s"]), "GB/s"]
             for what, t in transfers]
    rows.append(["barrier", "", number(machine["barrier_us"]), "µs"])
    return markdown(["best of", "1 thread", f"{machine['threads']} threads", ":"], rows)


def notes(results):
    """Why cells have no number."""
    lines = set()
    for (model, peer), records in results.cells.items():
        for r in records:
            if "refused" in r:
                reason = escape(r["refused"].replace("|", "\\|").replace("`", "'"), quote=False)
                lines.add(f"- {model}, {name_of(peer)}: refused: {reason}")
            elif not r["ok"]:
                lines.add(f"- {model}, {name_of(peer)}: wrong, the largest error is {r['max_abs_err']}")
    return sorted(lines)


def report(data, chart):
    """What stands between the markers."""
    results, machine = Results(data), data["machine"]
    caches = ", ".join(f"L{c['level']} {c['bytes'] >> 10} KiB" for c in machine["caches"])
    versions = ", ".join(f"{name_of(p)} {v}" for p, v in data["versions"].items())
    parts = [
        f"{data['date']}, {machine['processor']}, {data['threads']} threads; {caches}. {versions}. "
        f"Rounds: {data['rounds']}.",
        f"![Time of one run of each peer, as a multiple of fuse's]({chart})",
        "### Time of one run, ms", table(results, "median_ms", floors=True),
        "### Time to the first result, ms", table(results, "first_ms"),
        "### Peak memory of the process, MiB", table(results, "peak_rss_mib"),
        "### The machine", machine_table(machine)]
    why = notes(results)
    return "\n\n".join(parts + (["### Without a number", "\n".join(why)] if why else []))


def svg_text(x, y, content, anchor="start", kind="text"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


class Scale:
    """A logarithmic axis over ratios."""

    TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]

    def __init__(self, values):
        self.low = max((t for t in self.TICKS if t <= min(values) and t < 1), default=self.TICKS[0])
        self.high = min((t for t in self.TICKS if t >= max(values) and t > 1), default=self.TICKS[-1])

    def x(self, ratio):
        ratio = min(max(ratio, self.low), self.high)
        part = math.log(ratio / self.low) / math.log(self.high / self.low)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def ticks(self):
        return [t for t in self.TICKS if self.low <= t <= self.high]


def chart_row(results, scale, label, ratios, gain, y):
    """A bar from 1 to the best peer, and a dot for each peer."""
    parts = [svg_text(LEFT - 8, y + BAR - 3, label, "end")]
    if gain:
        x0, x1 = sorted((scale.x(1), scale.x(gain)))
        kind = "win" if gain >= 1 else "loss"
        parts.append(f'<rect x="{x0:.1f}" y="{y}" width="{max(1.0, x1 - x0):.1f}" height="{BAR}" class="{kind}"/>')
        parts.append(svg_text(WIDTH - 8, y + BAR - 3, f"{gain:.2f} ×", "end"))
    for peer, ratio in ratios.items():
        if ratio:
            color = COLORS[results.peers.index(peer) % len(COLORS)]
            title = escape(f"{name_of(peer)}: {ratio:.2f} × fuse's time")
            parts.append(f'<circle cx="{scale.x(ratio):.1f}" cy="{y + BAR / 2}" r="4" fill="{color}">'
                         f"<title>{title}</title></circle>")
    return parts


def legend(results, y):
    parts, x = [], LEFT
    for index, peer in enumerate(results.peers):
        parts.append(f'<circle cx="{x:.1f}" cy="{y - 4}" r="4" fill="{COLORS[index % len(COLORS)]}"/>')
        parts.append(svg_text(x + 8, y, name_of(peer), kind="faint"))
        x += 24 + 7 * len(name_of(peer))
    return parts


STYLE = """<style>
text { font: 13px system-ui, sans-serif } .text { fill: #212529 } .faint { fill: #868e96; font-size: 12px }
.title { fill: #212529; font-weight: bold; font-size: 15px } .grid { stroke: #868e96; stroke-opacity: 0.35 }
.one { stroke: #868e96; stroke-width: 2 } .win { fill: #d9480f; fill-opacity: 0.55 }
.loss { fill: #868e96; fill-opacity: 0.55 } .ground { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  .text, .title { fill: #e9ecef } .faint { fill: #adb5bd } .ground { fill: #0d1117 }
}
</style>"""


def draw(data):
    """The chart, or nothing where no model has both fuse's time and another's."""
    results = Results(data)
    rows = [(m, {p: results.ratio(m, p) for p in results.peers}, results.gain(m)) for m in results.models]
    rows = [row for row in rows if row[2]]
    if not rows:
        return None
    rows.sort(key=lambda row: -row[2])
    means = {p: geometric_mean(row[1][p] for row in rows) for p in results.peers}
    rows.append(("geometric mean", means, geometric_mean(row[2] for row in rows)))
    scale = Scale([ratio for _, ratios, _ in rows for ratio in ratios.values() if ratio])
    top = 70
    bottom = top + ROW * len(rows)
    parts = [svg_text(16, 26, "Time of one run of each peer, as a multiple of fuse's; the bar ends at the best peer",
                      kind="title")]
    parts += legend(results, 48)
    for tick in scale.ticks():
        x, kind = scale.x(tick), "one" if tick == 1 else "grid"
        parts.append(f'<line x1="{x:.1f}" y1="{top - 6}" x2="{x:.1f}" y2="{bottom}" class="{kind}"/>')
        parts.append(svg_text(x, bottom + 16, f"{tick:g} ×", "middle", "faint"))
    for index, (label, ratios, gain) in enumerate(rows):
        parts += chart_row(results, scale, label, ratios, gain, top + ROW * index)
    height = bottom + 30
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}">\n{STYLE}\n<rect width="{WIDTH}" height="{height}" class="ground"/>\n'
            + "\n".join(parts) + "\n</svg>\n")


def write(data, page, chart):
    """Replaces the results of the page and draws the chart."""
    with open(page, encoding="utf-8") as f:
        text = f.read()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines `{BEGIN}` and `{END}`")
    results = report(data, os.path.relpath(chart, os.path.dirname(page) or "."))
    picture = draw(data)
    if picture:
        with open(chart, "w", encoding="utf-8") as f:
            f.write(picture)
    with open(page, "w", encoding="utf-8") as f:
        f.write(f"{before}{BEGIN}\n\n{results}\n\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", nargs="?", default="docs/perf/cpu.json")
    parser.add_argument("--page", default="docs/perf/cpu.md")
    parser.add_argument("--chart", default="docs/img/cpu.svg")
    args = parser.parse_args()
    with open(args.json, encoding="utf-8") as f:
        write(json.load(f), args.page, args.chart)


if __name__ == "__main__":
    main()
