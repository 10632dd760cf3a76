#!/usr/bin/env python3
"""Models as PyTorch's exporters write them, with what PyTorch computes, for `tests/interop.rs`.

    python pytorch.py            (needs torch, onnx and onnxscript; writes pytorch/ beside this file)

Each model is exported by the exporter that traces TorchScript (NAME-script) and by the one that traces with
torch.export (NAME-export), with dynamic batch and time where the exporter allows it, and run at lengths that differ
from those of the export: a custom cell in a Python loop is unrolled by torch.export, so there the time is fixed.
"""
import os
import sys
import warnings

import numpy as np
import onnx
import torch
from torch import nn

I, H = 6, 8


class Lstm(nn.Module):
    """Two layers, both directions."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(I, H, num_layers=2, bidirectional=True)
        self.head = nn.Linear(2 * H, 3)

    def forward(self, x):
        y, (h, c) = self.rnn(x)
        return self.head(y), h, c


class Gru(nn.Module):
    """Batch first, from a given state."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(I, H, batch_first=True)

    def forward(self, x, h):
        y, h = self.rnn(x, h)
        return torch.log_softmax(y, dim=-1), h


class Cell(nn.Module):
    """A cell that no library has: a gated sum with layer norm, written as a loop."""

    def __init__(self):
        super().__init__()
        self.input = nn.Linear(I, 3 * H)
        self.state = nn.Linear(H, 3 * H, bias=False)
        self.norm = nn.LayerNorm(H)

    def forward(self, x):
        h = x.new_zeros(x.size(1), self.state.in_features)
        outputs = []
        for t in range(x.size(0)):
            u, r, g = (self.input(x[t]) + self.state(h)).chunk(3, dim=-1)
            h = self.norm(torch.sigmoid(u) * h + torch.nn.functional.softplus(r) * torch.tanh(g))
            outputs.append(h)
        return torch.stack(outputs), h


class Attention(nn.Module):
    """An encoder and a decoder, one step of which attends to the encoder's outputs."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, I)
        self.encoder = nn.GRU(I, H, batch_first=True)
        self.decoder = nn.LSTM(I, H, batch_first=True)
        self.query = nn.Linear(H, H)
        self.out = nn.Linear(2 * H, 11)

    def forward(self, source, target):
        memory, last = self.encoder(self.embed(source))
        y, _ = self.decoder(self.embed(target), (last, torch.zeros_like(last)))
        scores = torch.matmul(self.query(y), memory.transpose(1, 2)) / H**0.5
        context = torch.matmul(torch.softmax(scores, dim=-1), memory)
        return self.out(torch.cat([y, context], dim=-1))


def models():
    """Name, module, inputs of the export, inputs of the run, dynamic axes."""
    x = lambda t, b: torch.randn(t, b, I)  # noqa: E731
    tokens = lambda *shape: torch.randint(0, 11, shape)  # noqa: E731
    yield "lstm", Lstm(), (x(4, 2),), (x(7, 3),), {"x": {0: "time", 1: "batch"}}
    first = {"x": {0: "batch", 1: "time"}, "h": {1: "batch"}}
    yield "gru", Gru(), (x(2, 5), torch.randn(1, 2, H)), (x(3, 4), torch.randn(1, 3, H)), first
    yield "cell", Cell(), (x(5, 2),), (x(5, 4),), {"x": {0: "time", 1: "batch"}}
    ends = {"source": {0: "batch", 1: "source_time"}, "target": {0: "batch", 1: "target_time"}}
    yield "attention", Attention(), (tokens(2, 6), tokens(2, 4)), (tokens(3, 5), tokens(3, 7)), ends


def export(name, module, inputs, axes, path, dynamo):
    arguments = dict(input_names=list(axes), output_names=None, opset_version=20, dynamo=dynamo)
    if not dynamo:
        if name == "cell":
            module = torch.jit.script(module)
        torch.onnx.export(module, inputs, path, dynamic_axes=axes, **arguments)
        return
    if name == "cell":
        axes = {"x": {1: "batch"}}
    shapes = tuple({axis: torch.export.Dim(n) for axis, n in of.items()} for of in axes.values())
    torch.onnx.export(module, inputs, path, dynamic_shapes=shapes, external_data=False, **arguments)


def without_metadata(path):
    """Drops what exporters note about the program that they traced: stack traces with the paths of its files."""
    model = onnx.load(path)
    del model.metadata_props[:]

    def clear(graph):
        for entry in [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
            del entry.metadata_props[:]
            entry.ClearField("doc_string")
        del graph.value_info[:]
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    clear(attribute.g)

    clear(model.graph)
    onnx.save(model, path)


def main():
    warnings.filterwarnings("ignore")
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pytorch")
    os.makedirs(out, exist_ok=True)
    torch.manual_seed(16)
    for name, module, example, inputs, axes in models():
        module.eval()
        with torch.no_grad():
            expected = module(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        arrays = {k: v.numpy() for k, v in zip(axes, inputs)}
        arrays |= {f"expected.{k}": v.numpy() for k, v in enumerate(expected)}
        np.savez_compressed(os.path.join(out, f"{name}.npz"), **arrays)
        for kind, dynamo in [("script", False), ("export", True)]:
            path = os.path.join(out, f"{name}-{kind}.onnx")
            with torch.no_grad():
                export(name, module, example, axes, path, dynamo)
            without_metadata(path)
            print(f"{path}: {os.path.getsize(path)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
