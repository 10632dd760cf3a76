#!/usr/bin/env python3
"""Writes fuzz/corpus/onnx: for each operator of ONNX, the smallest of the models that test it; and an archive.

    fuzz-corpus.py [DIRECTORY]

Needs onnx and numpy. The corpora of texts are the cases of tests/.
"""
import io
import pathlib
import sys
import warnings

import numpy as np

warnings.simplefilter("ignore")
from onnx.backend.test.case.node import collect_testcases  # noqa: E402

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "fuzz/corpus")
LARGEST = 700


def main():
    smallest = {}
    for case in collect_testcases(None):
        for domain in {node.domain for node in case.model.graph.node} - {""}:
            break
        else:
            data = case.model.SerializeToString(deterministic=True)
            key = tuple(sorted({node.op_type for node in case.model.graph.node}))
            if len(key) == 1 and len(data) <= LARGEST and len(data) < len(smallest.get(key, b"x" * LARGEST)):
                smallest[key] = data
    for target in ("onnx", "npz", "text"):
        (OUT / target).mkdir(parents=True, exist_ok=True)
    for (name,), data in smallest.items():
        (OUT / "onnx" / f"{name.lower()}.onnx").write_bytes(data)
    for name, save in [("stored", np.savez), ("deflated", np.savez_compressed)]:
        archive = io.BytesIO()
        save(archive, x=np.arange(6, dtype=">i4").reshape(2, 3), h=np.asfortranarray(np.ones((3, 2), "f2")), k=np.bool_(1))
        (OUT / "npz" / f"{name}.npz").write_bytes(archive.getvalue())
    print(f"{len(smallest)} models in {OUT}")


if __name__ == "__main__":
    main()
