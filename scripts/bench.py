#!/usr/bin/env python3
"""Times the models of a directory with fuse and other runtimes, and writes docs/perf/cpu.md.

    bench.py --zoo DIR [--fuse target/release/fuse] [--peers ort,openvino,fuse] [--models a,b] [--merge FILE...]

DIR has a directory for each model, with model.onnx, inputs.npz and expected.npz. Every measurement runs in a process of
its own; the peers of a model take turns, round by round, so that what else the machine does meets all of them. What
counts is the median over rounds of the median over runs. `--merge` adds the records of peers that this script cannot
run: {"threads": N, "records": [{"model", "peer", "round", "first_ms", "median_ms", "min_ms", "runs", "max_abs_err",
"ok", "peak_rss_mib"} or {"model", "peer", "round", "refused": TEXT}]}, measured on the same machine. The environment
needs Linux, numpy and the peers' packages; `make bench` makes one. Leave the machine alone meanwhile.
"""
import argparse
import datetime
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import zipfile

import bench_report

# An output is right where it differs from the expected one by less.
ATOL, RTOL = 1e-4, 1e-3
WARM_UP_S, FEWEST_RUNS = 0.3, 5
TIME_LIMIT_S = 300


def load_ort(proto, inputs, dims, threads):
    import onnxruntime
    onnxruntime.set_default_logger_severity(4)

    def start():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        for name, size in dims.items():
            options.add_free_dimension_override_by_name(name, size)
        session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def run():
            return session.run(None, inputs)
        return run, lambda out: dict(zip(names, out))
    return onnxruntime.__version__, start


def load_openvino(proto, inputs, dims, threads):
    import openvino
    core = openvino.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}

    def start():
        model = core.read_model(io.BytesIO(proto))
        model.reshape({name: list(value.shape) for name, value in inputs.items()})
        request = core.compile_model(model, "CPU", config).create_infer_request()

        def run():
            return request.infer(inputs, share_inputs=True, share_outputs=True)
        return run, lambda out: {key.any_name: value for key, value in out.items()}
    return openvino.__version__, start


# A peer is load(model's bytes, inputs, values of dimensions, threads) -> (version, start). `start()` compiles
# and returns (run, results by name); with the first run it is the time to the first result.
LOADERS = {"ort": load_ort, "openvino": load_openvino}
PEERS = [*LOADERS, "fuse"]


def compare(expected, got):
    """(the largest absolute error, whether all outputs agree)"""
    import numpy as np
    worst, ok = 0.0, True
    for name, wanted in expected.items():
        value = np.asarray(got[name], np.float64)
        if value.shape != wanted.shape or not np.isfinite(value).all():
            return None, False
        error = np.abs(value - wanted)
        worst = max(worst, float(error.max(initial=0)))
        ok = ok and bool((error <= ATOL + RTOL * np.abs(wanted)).all())
    return worst, ok


def peak_rss_mib():
    """Of this process alone; what `getrusage` says may be of the process that started it."""
    with open("/proc/self/status", encoding="ascii") as f:
        return round(int(next(line for line in f if line.startswith("VmHWM")).split()[1]) / 1024, 1)


def measure_here(directory, peer, dims, threads, seconds):
    """The record of a peer that is a Python package."""
    import numpy as np
    with open(os.path.join(directory, "model.onnx"), "rb") as f:
        proto = f.read()
    inputs = dict(np.load(os.path.join(directory, "inputs.npz")))
    version, start = LOADERS[peer](proto, inputs, dims, threads)
    begin = time.perf_counter()
    run, results = start()
    out = run()
    first = time.perf_counter() - begin
    times, begin = [], time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begin < WARM_UP_S:
        start_of_run = time.perf_counter()
        out = run()
        times.append(time.perf_counter() - start_of_run)
    runs, times = max(FEWEST_RUNS, round(seconds / min(times))), []
    for _ in range(runs):
        start_of_run = time.perf_counter()
        out = run()
        times.append(time.perf_counter() - start_of_run)
    rss = peak_rss_mib()
    error, ok = compare(np.load(os.path.join(directory, "expected.npz")), results(out))
    return {"first_ms": first * 1e3, "median_ms": statistics.median(times) * 1e3, "min_ms": min(times) * 1e3,
            "runs": runs, "max_abs_err": error, "ok": ok, "peak_rss_mib": rss, "version": version}


def worker(args):
    try:
        directory, dims = os.path.join(args.zoo, args.models), json.loads(args.dims)
        record = measure_here(directory, args.worker, dims, args.threads, args.seconds)
    except Exception as e:
        # One line, without the positions in their sources that runtimes put first.
        reason = re.sub(r"(Exception from|Check '\S* \S* \S*' failed at|failed at) \S+:\d+:", "", f"{e}")
        record = {"refused": " ".join(f"{type(e).__name__}: {reason}".split())[:300]}
    print("@" + json.dumps(record), flush=True)
    os._exit(0)  # Some runtimes hang or abort in their destructors.


def spawn(command, threads):
    """Runs a command on as many processors as threads, in a process group of its own.

    Returns (exit code or None where it took too long, stdout, stderr).
    """
    processors = sorted(os.sched_getaffinity(0))[:threads]
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads),
               CUDA_VISIBLE_DEVICES="", PYTHONDONTWRITEBYTECODE="1")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
                               errors="replace", start_new_session=True,
                               preexec_fn=lambda: os.sched_setaffinity(0, processors))
    try:
        out, err = process.communicate(timeout=TIME_LIMIT_S)
        code = process.returncode
    except subprocess.TimeoutExpired:
        code, out, err = None, "", ""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    return code, out, err


def tolerance(directory):
    """The largest absolute error that is right, where only that of all outputs is known."""
    import numpy as np
    values = np.load(os.path.join(directory, "expected.npz")).values()
    return ATOL + RTOL * max(float(np.abs(value).max(initial=0)) for value in values)


def measure(args, model, dims, peer):
    """The record of one measurement, without its names."""
    directory = os.path.join(args.zoo, model)
    if peer == "fuse":
        command = [args.fuse, "bench", os.path.join(directory, "model.onnx"), "--threads", str(args.threads),
                   "--seconds", str(args.seconds), "--json", "-"]
        for option in ("inputs", "expected"):
            command += [f"--{option}", os.path.join(directory, f"{option}.npz")]
    else:
        command = [sys.executable, os.path.abspath(__file__), "--worker", peer, "--zoo", args.zoo, "--models", model,
                   "--dims", json.dumps(dims), "--threads", str(args.threads), "--seconds", str(args.seconds)]
    code, out, err = spawn(command, args.threads)
    if code is None:
        return {"refused": f"took over {TIME_LIMIT_S} s"}
    lines = [line.lstrip("@") for line in out.splitlines() if line.startswith(("@", "{"))]
    if code != 0 or not lines:
        return {"refused": (err.strip().splitlines() or [f"exit code {code}"])[-1][:300]}
    record = json.loads(lines[-1])
    if peer == "fuse":
        error = record["max_abs_err"]
        record["ok"] = error is not None and error <= tolerance(directory)
    return record


def array_bytes(path):
    """The bytes of the arrays of an .npz file, without their headers."""
    total = 0
    with zipfile.ZipFile(path) as arrays:
        for info in arrays.infolist():
            with arrays.open(info) as f:
                start = f.read(12)
            # The length of the header has two bytes in version 1 of the format and four later.
            width = 2 if start[6] == 1 else 4
            total += info.file_size - 8 - width - int.from_bytes(start[8:8 + width], "little")
    return total


def ask(args, command, model, dims):
    """What a command of fuse says of a model; nothing where it cannot read it."""
    command = [args.fuse, command, os.path.join(args.zoo, model, "model.onnx"), "--json"]
    for name, size in dims.items():
        command += ["--dim", f"{name}={size}"]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def dimensions(args, model):
    """The values of the symbolic dimensions, from the inputs."""
    import numpy as np
    facts, dims = ask(args, "inspect", model, {}), {}
    arrays = np.load(os.path.join(args.zoo, model, "inputs.npz"))
    for port in facts["inputs"] if facts else []:
        names = re.fullmatch(r"\w+\[(.*)\]", port["type"])
        if names and port["name"] in arrays:
            dims.update(zip(names[1].split(", "), arrays[port["name"]].shape))
    return {name: size for name, size in dims.items() if name.isidentifier()}


def work_of(args, model, dims):
    """What the model takes at least, for its floor: operations, bytes of weights, inputs and outputs, and its kernels."""
    facts, program = ask(args, "inspect", model, dims), ask(args, "explain", model, dims)
    if not facts or not facts["run"] or not program:
        return None
    sizes = {name: array_bytes(os.path.join(args.zoo, model, f"{name}.npz")) for name in ("inputs", "expected")}
    kernels = [{key: kernel[key] for key in ("name", "in_loop", "launches", "bytes", "flops")}
               for kernel in program["kernels"] if not kernel["binds"]]
    return {"dims": dims, "flops": facts["run"]["after"]["flops"], "traffic_bytes": facts["run"]["after"]["bytes"],
            "weight_bytes": facts["parameters"]["bytes"], "input_bytes": sizes["inputs"],
            "output_bytes": sizes["expected"], "kernels": kernels}


def measure_model(args, result, model, peers):
    """All rounds of a model; a peer that refuses is not asked again."""
    refused, dims = set(), dimensions(args, model)
    result["models"][model] = work_of(args, model, dims)
    for number in range(args.rounds if peers else 0):
        turn = number % len(peers)
        for peer in peers[turn:] + peers[:turn]:
            if peer in refused:
                continue
            record = measure(args, model, dims, peer)
            if "version" in record:
                result["versions"][peer] = record.pop("version")
            if "refused" in record:
                refused.add(peer)
                print(f"{model} {peer} refused: {record['refused']}", file=sys.stderr, flush=True)
            else:
                known = "first_ms ready_ms median_ms min_ms runs max_abs_err ok peak_rss_mib".split()
                record = {key: record[key] for key in known if key in record}
                print(f"{model} {peer} median {record['median_ms']:.3f} ms, first {record['first_ms']:.0f} ms, error "
                      f"{record['max_abs_err']}{'' if record['ok'] else ' WRONG'}", file=sys.stderr, flush=True)
            result["records"].append({"model": model, "peer": peer, "round": number, **record})


def merge(result, path, models, peers):
    """Adds the records of other peers on the same models."""
    with open(path, encoding="utf-8") as f:
        other = json.load(f)
    if other["threads"] != result["threads"]:
        sys.exit(f"{path} was measured with {other['threads']} threads, not {result['threads']}")
    result["versions"].update(other.get("versions", {}))
    result["records"] += [r for r in other["records"] if r["model"] in models and r["peer"] not in peers]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", required=True, metavar="DIR", help="the models")
    parser.add_argument("--fuse", default="target/release/fuse", help="the binary")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; by default all; none if empty")
    parser.add_argument("--models", help="comma-separated; by default all in DIR")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="for one measurement")
    parser.add_argument("--threads", type=int, help="by default all that this process may use")
    parser.add_argument("--merge", action="append", default=[], metavar="FILE", help="records of other peers")
    parser.add_argument("--json", default="docs/perf/cpu.json", help="where the records go")
    parser.add_argument("--page", default="docs/perf/cpu.md", help="the page whose results are replaced")
    parser.add_argument("--chart", default="docs/img/cpu.svg", help="where the chart goes")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--dims", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.peers = [peer for peer in args.peers.split(",") if peer]
    unknown = set(args.peers) - set(PEERS)
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    processors = len(os.sched_getaffinity(0))
    args.threads = args.threads or processors
    if not 0 < args.threads <= processors:
        parser.error(f"--threads {args.threads}: this process may use 1 to {processors} processors")
    return args


def main():
    args = arguments()
    if args.worker:
        worker(args)
    found = sorted(d for d in os.listdir(args.zoo) if os.path.exists(os.path.join(args.zoo, d, "model.onnx")))
    models, peers = args.models.split(",") if args.models else found, args.peers
    if not set(models) <= set(found):
        sys.exit(f"not in {args.zoo}: {', '.join(sorted(set(models) - set(found)))}")
    code, machine, err = spawn([args.fuse, "machine", "--threads", str(args.threads), "--json", "-"], args.threads)
    if code != 0:
        sys.exit(f"{args.fuse} machine: {err.strip()}")
    version = subprocess.run([args.fuse, "--version"], check=True, capture_output=True, text=True).stdout
    result = {"date": datetime.date.today().isoformat(), "threads": args.threads, "rounds": args.rounds,
              "machine": json.loads(machine), "versions": {"fuse": version.split()[-1]}, "models": {}, "records": []}
    for model in models:
        measure_model(args, result, model, peers)
    for path in args.merge:
        merge(result, path, models, peers)
    with open(args.json, "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    bench_report.write(result, args.page, args.chart)


if __name__ == "__main__":
    main()
