#!/usr/bin/env python3
"""A model as jax2onnx writes it, with what JAX computes, for `tests/interop.rs`.

    python from_jax.py            (needs jax, jax2onnx and onnx; writes jax/ beside this file)
"""
import os

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax2onnx import to_onnx

I, H = 6, 8


def main():
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jax")
    os.makedirs(out, exist_ok=True)
    rng = np.random.default_rng(16)
    draw = lambda *shape: rng.normal(scale=0.4, size=shape).astype(np.float32)  # noqa: E731
    w, u, b = draw(I, 2 * H), draw(H, 2 * H), draw(2 * H)

    def run(x):
        """A minimal gated unit over [T, B, I], as a scan."""

        def step(h, x):
            gate, value = jnp.split(x @ w + h @ u + b, 2, axis=-1)
            gate = jax.nn.sigmoid(gate)
            h = gate * h + (1 - gate) * jnp.tanh(value)
            return h, h

        h, y = jax.lax.scan(step, jnp.zeros((x.shape[1], H), jnp.float32), x)
        return y, h

    model = to_onnx(run, [("T", "B", I)])
    del model.metadata_props[:]
    onnx.save(model, os.path.join(out, "scan.onnx"))
    x = draw(5, 3, I)
    expected = {f"expected.{k}": np.asarray(v) for k, v in enumerate(run(x))}
    np.savez_compressed(os.path.join(out, "scan.npz"), in_0=x, **expected)


if __name__ == "__main__":
    main()
