"""What other libraries need on the GPU for the models of the zoo, forward passes, medians of CUDA events.

cuDNN through PyTorch's LSTM and GRU, a PyTorch loop over cells captured as a CUDA graph, torch.compile of the pointwise
model and of short loops, and JAX's scan. Usage: peers.py [--json FILE]
"""
import argparse
import json
import statistics
import time

import torch

RESULTS = []


def median_ms(run, seconds=0.3):
    """The median time on the device of one call."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times, end = [], time.time() + seconds
    while time.time() < end or len(times) < 5:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def note(model, peer, make):
    """Measures one peer; a line of why where it does not work."""
    begin = time.time()
    try:
        ms = median_ms(make())
    except Exception as error:  # noqa: BLE001  A peer that fails must not end the others.
        print(f"{model:12} {peer:28} failed: {str(error).splitlines()[0][:120]}", flush=True)
        return
    RESULTS.append({"model": model, "peer": peer, "ms": ms, "ready_s": time.time() - begin})
    print(f"{model:12} {peer:28} {ms:9.3f} ms (with warm-up {time.time() - begin:.1f} s)", flush=True)


def cudnn(kind, t, b, i, h, dtype=torch.float32, tf32=False, layers=1, bidirectional=False):
    """A layer of cuDNN's."""

    def make():
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        layer = getattr(torch.nn, kind)(i, h, num_layers=layers, bidirectional=bidirectional)
        layer = layer.to("cuda", dtype).eval()
        x = torch.randn(t, b, i, device="cuda", dtype=dtype)

        @torch.inference_mode()
        def run():
            torch.backends.cudnn.allow_tf32 = tf32
            layer(x)

        return run

    return make


def lstm_step(x, h, c, r):
    i, f, g, o = (x + h @ r).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def loop(t, b, h, mode):
    """An LSTM as a loop of PyTorch's, as one CUDA graph or compiled."""

    def make():
        torch.backends.cuda.matmul.allow_tf32 = False
        x = torch.randn(t, b, h, device="cuda")
        w, r = (torch.randn(h, 4 * h, device="cuda") / 20 for _ in range(2))

        def forward(x):
            state = (torch.zeros(b, h, device="cuda"), torch.zeros(b, h, device="cuda"))
            out = []
            for projected in (x.reshape(t * b, h) @ w).reshape(t, b, 4 * h).unbind(0):
                state = lstm_step(projected, *state, r)
                out.append(state[0])
            return torch.stack(out)

        if mode == "graph":
            with torch.inference_mode():
                for _ in range(2):
                    forward(x)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    forward(x)
            return graph.replay
        compiled = torch.compile(forward, mode=mode)

        @torch.inference_mode()
        def run():
            compiled(x)

        return run

    return make


def scan(t, b, h):
    """An LSTM as JAX's scan."""

    def make():
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_default_matmul_precision", "highest")
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (t, b, h))
        w, r = (jax.random.normal(k, (h, 4 * h)) / 20 for k in keys[1:])

        @jax.jit
        def forward(x):
            def step(state, projected):
                h, c = state
                i, f, g, o = jnp.split(projected + h @ r, 4, axis=1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            zero = jnp.zeros((b, h))
            return jax.lax.scan(step, (zero, zero), x @ w)[1]

        def run():
            begin = time.perf_counter()
            forward(x).block_until_ready()
            run.ms.append((time.perf_counter() - begin) * 1e3)

        run.ms = []
        for _ in range(12):
            run()
        wall = statistics.median(run.ms[2:])
        print(f"{'':12} {'JAX scan, wall clock':28} {wall:9.3f} ms", flush=True)
        RESULTS.append({"model": f"lstm T{t} B{b} H{h}", "peer": "JAX scan, wall clock", "ms": wall})
        return run

    return make


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    args = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__, "cuDNN", torch.backends.cudnn.version(), flush=True)
    a = torch.randn(1 << 28, device="cuda")
    ms = median_ms(lambda: a.clone())
    print(f"copy {2 * a.nbytes / ms / 1e9:.2f} TB/s", flush=True)
    del a
    m = torch.randn(8192, 8192, device="cuda")
    print(f"f32 product {2 * 8192**3 / median_ms(lambda: m @ m) / 1e9:.1f} TFLOP/s (no TF32)", flush=True)
    shapes = {
        "lstm_b64": ("LSTM", 100, 64, 512, 512),
        "lstm_b16": ("LSTM", 100, 16, 512, 512),
        "lstm_b1": ("LSTM", 100, 1, 256, 256),
        "lstm_b8": ("LSTM", 100, 8, 256, 256),
        "lstm_large": ("LSTM", 50, 64, 1024, 1024),
        "gru_b32": ("GRU", 100, 32, 512, 512),
        "gru_b16": ("GRU", 100, 16, 512, 512),
    }
    for name, shape in shapes.items():
        note(name, "cuDNN f32", cudnn(*shape))
        note(name, "cuDNN TF32", cudnn(*shape, tf32=True))
        note(name, "cuDNN f16", cudnn(*shape, dtype=torch.float16))
    note("bilstm", "cuDNN f32", cudnn("LSTM", 64, 16, 256, 256, bidirectional=True))
    note("lstm_2layer", "cuDNN f32", cudnn("LSTM", 35, 20, 650, 650, layers=2))
    note("lstm_b16", "PyTorch loop, CUDA graph", loop(100, 16, 512, "graph"))
    note("lstm_b64", "PyTorch loop, CUDA graph", loop(100, 64, 512, "graph"))
    note("lstm_b16", "JAX scan", scan(100, 16, 512))
    if args.json:
        json.dump(RESULTS, open(args.json, "w"))
    note("lstm_b16", "torch.compile reduce-overhead", loop(100, 16, 512, "reduce-overhead"))
    if args.json:
        json.dump(RESULTS, open(args.json, "w"))


main()
