#!/usr/bin/env python3
"""Recurrent ONNX models over rows of different lengths, with what they compute, for `tests/interop.rs`.

    python varlen.py            (needs numpy and onnx; writes varlen.npz beside this file)

ONNX's own node tests have one case with sequence lengths, all of them equal. Here are LSTM, GRU and RNN over the
grid of lengths x direction x layout x clip x activations x linear_before_reset (or peepholes). The reference is
NumPy in float64, row by row over each row's own steps only; the inputs hold NaN wherever a row has no step.

`varlen.npz` holds the shared inputs (`x`, `h0`, `c0`, `p` and, for each operator, `w.OP`, `r.OP`, `b.OP`) and the cases
one after the other: `names` (one a line), `models` (bytes of the files) with `model_sizes`, and `expected` (the outputs
y, y_h and, for the LSTM, y_c) with `expected_sizes`.
"""
import itertools
import os

import numpy as np
import onnx
from onnx import TensorProto, helper

T, B, I, H = 5, 4, 3, 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LENGTHS = {"mixed": [5, 2, 0, 3], "full": [5, 5, 5, 5], "short": [1, 0, 0, 2]}
sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
FUNCTIONS = {
    "Sigmoid": sigmoid,
    "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0),
    "HardSigmoid": lambda x: np.clip(0.3 * x + 0.4, 0, 1),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "LeakyRelu": lambda x: np.where(x < 0, 0.1 * x, x),
    "ScaledTanh": lambda x: 1.5 * np.tanh(0.5 * x),
}
PARAMETERS = {"HardSigmoid": (0.3, 0.4), "LeakyRelu": (0.1, None), "ScaledTanh": (1.5, 0.5)}
ACTIVATIONS = {
    "LSTM": [["Sigmoid", "Tanh", "Tanh"], ["HardSigmoid", "ScaledTanh", "Softsign"]],
    "GRU": [["Sigmoid", "Tanh"], ["HardSigmoid", "LeakyRelu"]],
    "RNN": [["Tanh"], ["Relu"]],
}


def lstm_step(c, x, state, w, r, b, p):
    h, cell = state
    f, g, k = c["functions"]
    i, o, fg, ce = np.split(x @ w.T + h @ r.T + b[: 4 * H] + b[4 * H :], 4)
    p_i, p_o, p_f = np.split(p, 3)
    i, fg = f(c["clip"](i + p_i * cell)), f(c["clip"](fg + p_f * cell))
    cell = fg * cell + i * g(c["clip"](ce))
    return f(c["clip"](o + p_o * cell)) * k(c["clip"](cell)), cell


def gru_step(c, x, state, w, r, b, p):
    (h,) = state
    f, g = c["functions"]
    (xz, xr, xh), (rz, rr, rh), (bz, br, bh) = np.split(x @ w.T + b[: 3 * H], 3), np.split(r, 3), np.split(b[3 * H :], 3)
    z, reset = f(c["clip"](xz + h @ rz.T + bz)), f(c["clip"](xr + h @ rr.T + br))
    inner = reset * (h @ rh.T + bh) if c["option"] else (reset * h) @ rh.T + bh
    return ((1 - z) * g(c["clip"](xh + inner)) + z * h,)


def rnn_step(c, x, state, w, r, b, p):
    (h,) = state
    return (c["functions"][0](c["clip"](x @ w.T + h @ r.T + b[:H] + b[H:])),)


STEP = {"LSTM": lstm_step, "GRU": gru_step, "RNN": rnn_step}


def reference(c, x, lengths, w, r, b, p, initial):
    """Y [T, D, B, H] and the last states [D, B, H], row by row over its own steps."""
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[c["direction"]]
    y = np.zeros((T, len(directions), B, H))
    last = [s[: len(directions)].copy() for s in initial]
    for d, reverse in enumerate(directions):
        for row, n in enumerate(lengths):
            state = tuple(s[d, row] for s in initial)
            for t in reversed(range(n)) if reverse else range(n):
                state = STEP[c["op"]](c, x[t, row], state, w[d], r[d], b[d], p[d])
                y[t, d, row] = state[0]
            for part, value in zip(last, state):
                part[d, row] = value
    return y, last


def model(c, names, directions):
    tensor = lambda n, shape, t=TensorProto.FLOAT: helper.make_tensor_value_info(n, t, shape)  # noqa: E731
    g = GATES[c["op"]]
    batch_first = c["layout"] == 1
    inputs = {
        "x": tensor("x", ["B", "T", I] if batch_first else ["T", "B", I]),
        "w": tensor("w", [directions, g * H, I]),
        "r": tensor("r", [directions, g * H, H]),
        "b": tensor("b", [directions, 2 * g * H]),
        "lengths": tensor("lengths", ["B"], TensorProto.INT32),
        "h0": tensor("h0", ["B", directions, H] if batch_first else [directions, "B", H]),
        "c0": tensor("c0", ["B", directions, H] if batch_first else [directions, "B", H]),
        "p": tensor("p", [directions, 3 * H]),
    }
    outputs = ["y", "y_h", "y_c"][: 3 if c["op"] == "LSTM" else 2]
    attributes = {"direction": c["direction"], "hidden_size": H}
    if batch_first:
        attributes["layout"] = 1
    if c["limit"]:
        attributes["clip"] = c["limit"]
    if c["activations"] != ACTIVATIONS[c["op"]][0]:
        each = c["activations"] * directions
        attributes["activations"] = each
        for k, name in enumerate(["activation_alpha", "activation_beta"]):
            values = [PARAMETERS[a][k] for a in each if a in PARAMETERS and PARAMETERS[a][k] is not None]
            if values:
                attributes[name] = values
    if c["op"] == "GRU" and c["option"]:
        attributes["linear_before_reset"] = 1
    node = helper.make_node(c["op"], names, outputs, **attributes)
    graph = helper.make_graph([node], c["op"].lower(), [inputs[n] for n in names if n], [tensor(o, None) for o in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], producer_name="varlen")


def main():
    rng = np.random.default_rng(16)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    data = {"x": draw(T, B, I), "h0": draw(2, B, H), "c0": draw(2, B, H), "p": draw(2, 3 * H)}
    for op, g in GATES.items():
        data |= {f"w.{op}": draw(2, g * H, I), f"r.{op}": draw(2, g * H, H), f"b.{op}": draw(2, 2 * g * H)}
    cases = []
    grid = itertools.product(GATES, LENGTHS, ["forward", "reverse", "bidirectional"], [0, 1], [None, 0.7], [0, 1], [0, 1])
    for op, lengths, direction, layout, limit, activations, option in grid:
        if op == "RNN" and option:  # linear_before_reset of the GRU, peepholes of the LSTM
            continue
        names = ACTIVATIONS[op][activations]
        clip = (lambda v: np.clip(v, -limit, limit)) if limit else (lambda v: v)
        c = {"op": op, "direction": direction, "layout": layout, "limit": limit, "clip": clip, "option": option,
             "activations": names, "functions": [FUNCTIONS[a] for a in names]}
        case = f"{op}-{lengths}-{direction}-layout{layout}-clip{limit}-{names[0]}-{option}"
        directions = 2 if direction == "bidirectional" else 1
        wide = {k: v.astype(np.float64)[:directions] for k, v in data.items() if k[:2] in (f"w.", "r.", "b.") and k.endswith(op)}
        p = data["p"].astype(np.float64) * (op == "LSTM" and option)
        initial = [data[k].astype(np.float64)[:directions] for k in (["h0", "c0"] if op == "LSTM" else ["h0"])]
        y, last = reference(c, data["x"].astype(np.float64), LENGTHS[lengths], wide[f"w.{op}"], wide[f"r.{op}"],
                            wide[f"b.{op}"], p, initial)
        if layout:
            y, last = y.transpose(2, 0, 1, 3), [s.transpose(1, 0, 2) for s in last]
        inputs = ["x", "w", "r", "b", "lengths", "h0"] + (["c0"] if op == "LSTM" else [])
        proto = model(c, inputs + (["p"] if op == "LSTM" and option else []), directions)
        cases.append((case, proto.SerializeToString(), np.concatenate([v.ravel() for v in (y, *last)])))
    names, models, expected = zip(*cases)
    data |= {
        "names": np.frombuffer("\n".join(names).encode(), np.uint8),
        "models": np.frombuffer(b"".join(models), np.uint8),
        "model_sizes": np.array([len(m) for m in models]),
        "expected": np.concatenate(expected).astype(np.float32),
        "expected_sizes": np.array([e.size for e in expected]),
    }
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "varlen.npz")
    np.savez_compressed(out, **data)
    print(f"{len(cases)} cases, {os.path.getsize(out)} bytes")


if __name__ == "__main__":
    main()
