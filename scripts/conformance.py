#!/usr/bin/env python3
"""Runs ONNX's backend node tests with `fuse run` and writes the table of docs/onnx.md.

    conformance.py FUSE [--table docs/onnx.md] [--json RESULTS] [--only REGEX] [-v]

Every case whose inputs and outputs are tensors is run, those with functions expanded to primitive operators too. A
case is `pass`, `wrong` (outputs that differ from the expected ones in type, shape or value, by more than the tolerance
that the case states and than two units in the last place of half-precision types), `refused` (an error with exit code
1) or `crashed` (anything else). Exits with 1 if any is wrong or crashed. The environment needs onnx and numpy;
`make conformance` makes one.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

STATUSES = ("pass", "wrong", "refused", "crashed")
TIME_LIMIT_S = 120
BEGIN, END = "<!-- conformance: begin -->", "<!-- conformance: end -->"
# What NumPy files hold; fuse refuses the other types itself.
PLAIN = {getattr(onnx.TensorProto, t) for t in "FLOAT DOUBLE FLOAT16 BFLOAT16 INT32 INT64 UINT8 BOOL".split()}


def families(fuse):
    """The family of each operator, as fuse lists them."""
    rows = json.loads(subprocess.run([fuse, "onnx-ops", "--json"], check=True, capture_output=True).stdout)
    return {row["name"]: row["family"] for row in rows}


def family_of(name, cases, family):
    """A case belongs with the operator that it tests: of the case that it is the expansion of, if it is one."""
    base = re.sub(r"_expanded.*$", "", name)
    graph = cases.get(base, cases[name]).model.graph
    operators = {node.op_type for node in graph.node}
    operators = operators - {"Constant", "Identity"} or operators
    found = {family.get(op, "not imported") for op in operators}
    for strong in ("recurrent", "control", "not imported"):
        if strong in found:
            return strong
    return found.pop() if len(found) == 1 else "several"


def array(value):
    value = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    return value.view(np.uint16) if value.dtype.name == "bfloat16" else value


# Two units in the last place, relative. Cases over half precision state tolerances below one, with expected values of
# another order of summation.
HALF = {onnx.TensorProto.FLOAT16: 2 * 2**-10, onnx.TensorProto.BFLOAT16: 2 * 2**-7}


def differs(case, value, got, expected):
    """What is wrong with an output, in words."""
    if got.dtype != expected.dtype or got.shape != expected.shape:
        return f"{value.name} is {got.dtype}{list(got.shape)}, not {expected.dtype}{list(expected.shape)}"
    if value.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16:
        got, expected = ((a.astype(np.uint32) << 16).view(np.float32) for a in (got, expected))
    relative = max(case.rtol, HALF.get(value.type.tensor_type.elem_type, 0))
    close = np.isclose(got.astype(np.float64), expected.astype(np.float64), relative, case.atol, equal_nan=True)
    return None if close.all() else f"{value.name} differs in {int((~close).sum())} of {close.size}"


def run(fuse, case):
    """(status, what fuse or the comparison said)"""
    graph = case.model.graph
    given, wanted = case.data_sets[0]
    with tempfile.TemporaryDirectory() as work:
        path = lambda name: os.path.join(work, name)  # noqa: E731
        onnx.save(case.model, path("model.onnx"))
        np.savez(path("inputs.npz"), **{v.name: array(a) for v, a in zip(graph.input, given)})
        command = [fuse, "run", path("model.onnx"), "--inputs", path("inputs.npz"), "--outputs", path("out.npz")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            return "crashed", f"took over {TIME_LIMIT_S} s"
        if done.returncode == 1 and "panicked" not in done.stderr:
            return "refused", " ".join(done.stderr.split())
        if done.returncode != 0:
            return "crashed", f"exit code {done.returncode}: {' '.join(done.stderr.split())}"
        got = np.load(path("out.npz"))
        for value, expected in zip(graph.output, wanted):
            problem = differs(case, value, got[value.name], array(expected))
            if problem:
                return "wrong", problem
    return "pass", ""


def plain(case):
    values = [*case.model.graph.input, *case.model.graph.output]
    return all(v.type.HasField("tensor_type") for v in values)


def has_other_types(case):
    values = [*case.model.graph.input, *case.model.graph.output]
    return any(v.type.tensor_type.elem_type not in PLAIN for v in values)


def table(counts):
    lines = ["| family | cases | " + " | ".join(STATUSES) + " |", "| --- |" + " ---: |" * (1 + len(STATUSES))]
    total = sum(counts.values(), collections.Counter())
    for name, row in [*sorted(counts.items()), ("total", total)]:
        lines.append(f"| {name} | {row.total()} | " + " | ".join(str(row[s]) for s in STATUSES) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("fuse", help="the binary")
    parser.add_argument("--table", help="the page whose table is written")
    parser.add_argument("--json", help="where the result of every case is written")
    parser.add_argument("--only", default="", help="run the cases whose names match")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every case that does not pass")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")

    cases = {case.name: case for case in collect_testcases() if plain(case)}
    family = families(args.fuse)
    names = [n for n in sorted(cases) if re.search(args.only, n) and not has_other_types(cases[n])]
    left_out = sum(has_other_types(case) for case in cases.values())
    counts, results = collections.defaultdict(collections.Counter), {}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for name, (status, detail) in zip(names, pool.map(lambda n: run(args.fuse, cases[n]), names)):
            row = family_of(name, cases, family)
            counts[row][status] += 1
            results[name] = {"family": row, "status": status, "detail": detail}
            if args.verbose and status != "pass":
                print(f"{status:8} {name}: {detail[:300]}")
    text = table(counts)
    print(text)
    if args.json:
        with open(args.json, "w") as out:
            json.dump(results, out, indent=1)
    if args.table:
        with open(args.table) as page:
            before, _, rest = page.read().partition(BEGIN)
        note = f"Of the node tests of onnx {onnx.__version__}; {left_out} more are over types that fuse has not."
        with open(args.table, "w") as page:
            page.write(f"{before}{BEGIN}\n{note}\n\n{text}\n{END}{rest.partition(END)[2]}")
    bad = sum(row["wrong"] + row["crashed"] for row in counts.values())
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
