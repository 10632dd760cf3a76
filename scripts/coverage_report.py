"""The two readings that scripts/coverage.sh needs: which binaries cargo built, and how many lines were run.

    coverage_report.py binaries BUILD_JSON                     one path a line
    coverage_report.py lines LCOV [--minimum PERCENT] CRATE_DIR...

The second counts the lines of each crate's `src/`, without `#[cfg(test)]` modules, which would flatter the
figure, and exits with 1 if a crate is below the minimum or has no measured line at all.
"""

import argparse
import json
import pathlib
import re
import sys
from collections import defaultdict

WORST_FILES_SHOWN = 10


def binaries(build_json):
    """Paths of the executables in cargo's JSON messages, each once, in cargo's order."""
    paths = {}
    for line in build_json.read_text().splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            paths[message["executable"]] = None
    return list(paths)


def test_lines(source):
    """Numbers of the lines inside `#[cfg(test)] mod name { … }` at any indentation.

    Relies on rustfmt, which `make test` enforces: the closing brace stands alone in the column of `mod`.
    """
    inside = set()
    closing = None
    pending = False
    for number, line in enumerate(source.splitlines(), start=1):
        if closing is not None:
            inside.add(number)
            if line == closing:
                closing = None
        elif pending and (opening := re.match(r"(\s*)(pub(\(.*\))? )?mod \w+ \{$", line)):
            inside.add(number)
            closing = opening.group(1) + "}"
            pending = False
        elif re.match(r"\s*#\[cfg\(test\)\]$", line):
            pending = True
        elif line.strip() and not line.lstrip().startswith("#["):
            pending = False
    return inside


def line_hits(lcov):
    """{source file: {line number: times run}}"""
    hits = defaultdict(lambda: defaultdict(int))
    current = None
    for record in lcov.read_text().splitlines():
        if record.startswith("SF:"):
            current = hits[pathlib.Path(record[3:])]
        elif record.startswith("DA:"):
            number, count = record[3:].split(",")[:2]
            current[int(number)] += int(count)
    return hits


def is_measured(path, crate):
    """Whether a file is the crate's own code: under its `src/`, and not a file of tests alone."""
    source = pathlib.Path(crate, "src").resolve()
    return path.is_relative_to(source) and path.name != "tests.rs" and "tests" not in path.relative_to(source).parts


def report(lcov, crates, minimum):
    """Prints the table; True if every crate reaches the minimum."""
    hits = line_hits(lcov)
    reached = True
    for crate in crates:
        rows = []
        for path, lines in hits.items():
            if not is_measured(path, crate):
                continue
            excluded = test_lines(path.read_text())
            counts = [count for number, count in lines.items() if number not in excluded]
            if counts:
                rows.append((sum(count > 0 for count in counts), len(counts), path))
        run, total = sum(row[0] for row in rows), sum(row[1] for row in rows)
        if total == 0:
            print(f"{crate}: no line of it was measured", file=sys.stderr)
            reached = False
            continue
        percent = 100 * run / total
        print(f"{crate}: {percent:.1f} % of lines ({run} of {total})")
        for file_run, file_total, path in sorted(rows, key=lambda row: row[0] - row[1])[:WORST_FILES_SHOWN]:
            if file_run < file_total:
                name = path.relative_to(pathlib.Path(crate).resolve())
                print(f"  {100 * file_run / file_total:5.1f} %  {file_total - file_run:4d} not run  {name}")
        if percent < minimum:
            print(f"{crate}: below the minimum of {minimum} %", file=sys.stderr)
            reached = False
    return reached


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("binaries")
    command.add_argument("build_json", type=pathlib.Path)
    command = commands.add_parser("lines")
    command.add_argument("lcov", type=pathlib.Path)
    command.add_argument("--minimum", type=float, default=0)
    command.add_argument("crates", nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "binaries":
        print("\n".join(binaries(arguments.build_json)))
    elif not report(arguments.lcov, arguments.crates, arguments.minimum):
        sys.exit(1)


if __name__ == "__main__":
    main()
