#!/usr/bin/env python3
"""Writes the files of tests/hostile/: models and arrays that a reader must refuse with one line and little memory.

    hostile-corpus.py [DIRECTORY]

tests/hostile.rs runs each; larger files, and links beside them, it makes itself. Files are small and the same each
time. Needs onnx and numpy.
"""
import io
import pathlib
import struct
import sys
import warnings
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper

warnings.simplefilter("ignore")
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "tests/hostile")
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def write(name, data):
    if not isinstance(data, bytes):
        data = data.SerializeToString(deterministic=True)
    assert len(data) <= 4096, (name, len(data))
    (OUT / name).write_bytes(data)


# Models.

def value(name, shape=(4,), dtype=FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def model(nodes, inputs=("x",), outputs=("y",), initializers=(), opset=17, functions=(), domains=()):
    ports = lambda names: [n if isinstance(n, onnx.ValueInfoProto) else value(n) for n in names]
    graph = helper.make_graph(list(nodes), "g", ports(inputs), ports(outputs), list(initializers))
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(d, 1) for d in domains]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


NEG = node("Neg", ["x"], ["y"])


def with_tensor(**fields):
    """A model that adds a tensor which is set field by field."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4])
    for key, content in fields.items():
        if isinstance(content, list):
            del getattr(tensor, key)[:]
            getattr(tensor, key).extend(content)
        else:
            setattr(tensor, key, content)
    return model([node("Add", ["x", "w"], ["y"])], initializers=[tensor])


def external(**entries):
    m = with_tensor(data_location=TensorProto.EXTERNAL)
    for key, content in entries.items():
        m.graph.initializer[0].external_data.add(key=key, value=content)
    return m


def int64s(name, values):
    return helper.make_tensor(name, INT64, [len(values)], values)


def graphs():
    write("cycle.onnx", model([node("Neg", ["b"], ["a"]), node("Neg", ["a"], ["b"]), node("Add", ["a", "x"], ["y"])]))
    write("cycle_of_one.onnx", model([node("Add", ["x", "y"], ["y"])]))
    write("out_of_order.onnx", model([node("Neg", ["a"], ["y"]), node("Neg", ["x"], ["a"])]))
    write("dangling_input.onnx", model([node("Add", ["x", "nowhere"], ["y"])]))
    write("dangling_output.onnx", model([NEG], outputs=["z"]))
    write("no_outputs.onnx", model([NEG], outputs=[]))
    write("name_defined_twice.onnx", model([NEG, node("Exp", ["x"], ["y"])]))
    write("input_defined_twice.onnx", model([NEG], inputs=["x", "x"]))
    write("output_defined_twice.onnx", model([NEG], outputs=["y", "y"]))
    w = int64s("w", [1, 2])
    write("initializer_defined_twice.onnx", model([NEG], initializers=[w, w]))
    write("node_defines_an_input.onnx", model([node("Neg", ["x"], ["x"])], outputs=["x"]))
    write("no_graph.onnx", onnx.ModelProto(ir_version=8))
    write("no_inputs_to_an_operator.onnx", model([node("Add", [], ["y"])]))
    write("too_many_outputs.onnx", model([node("Neg", ["x"], ["y", "z"])]))
    write("sequence_input.onnx", model([NEG], inputs=[helper.make_tensor_sequence_value_info("x", FLOAT, [4])]))
    write("string_input.onnx", model([NEG], inputs=[value("x", dtype=TensorProto.STRING)]))
    write("negative_input_dimension.onnx", model([NEG], inputs=[value("x", (-4,))]))
    write("huge_input_dimension.onnx", model([NEG], inputs=[value("x", (2**62, 2**62))]))
    write("input_of_many_axes.onnx", model([NEG], inputs=[value("x", (1,) * 500)]))
    write("input_too_large_to_make_up.onnx", model([NEG], inputs=[value("x", (2**40,))]))
    write("graph_name_of_control_characters.onnx", model([node("Neg", ["\x1b[2J\n"], ["y"])]))


def versions():
    write("opset_too_new.onnx", model([NEG], opset=9999))
    write("opset_too_old.onnx", model([NEG], opset=1))
    write("opset_negative.onnx", model([NEG], opset=-(2**63)))
    write("unknown_domain.onnx", model([node("Neg", ["x"], ["y"], domain="com.example")], domains=["com.example"]))
    write("unknown_operator.onnx", model([node("Frobnicate", ["x"], ["y"])]))
    write("unknown_attribute.onnx", model([node("Neg", ["x"], ["y"], speed=11)]))
    write("attribute_of_another_type.onnx", model([node("Reshape", ["x", "s"], ["y"], allowzero=[1.5])],
                                                  initializers=[int64s("s", [4])]))
    write("many_attributes.onnx", model([node("Neg", ["x"], ["y"], **{f"a{i}": i for i in range(200)})]))


def tensors():
    write("dimensions_overflow.onnx", with_tensor(dims=[2**40, 2**40], raw_data=bytes(16)))
    write("dimensions_overflow_beside_zero.onnx", with_tensor(dims=[2**62, 2**62, 0], raw_data=b""))
    write("dimension_negative.onnx", with_tensor(dims=[-4], raw_data=bytes(16)))
    write("dimensions_negative_twice.onnx", with_tensor(dims=[-2, -2], raw_data=bytes(16)))
    write("dimension_beyond_the_limit.onnx", with_tensor(dims=[2**60, 0], raw_data=b""))
    write("tensor_of_many_axes.onnx", with_tensor(dims=[1] * 1000, raw_data=bytes(4)))
    write("raw_data_too_short.onnx", with_tensor(raw_data=bytes(15)))
    write("raw_data_too_long.onnx", with_tensor(raw_data=bytes(17)))
    write("raw_data_absent.onnx", with_tensor())
    write("typed_data_too_short.onnx", with_tensor(float_data=[1.0, 2.0]))
    write("typed_data_of_another_type.onnx", with_tensor(int64_data=[1, 2, 3, 4]))
    write("string_tensor.onnx", with_tensor(data_type=TensorProto.STRING, string_data=[b"a", b"b", b"c", b"d"]))
    write("element_type_unknown.onnx", with_tensor(data_type=999, raw_data=bytes(16)))
    write("element_type_of_half_bytes.onnx", with_tensor(data_type=TensorProto.INT4, raw_data=bytes(2)))
    m = model([node("Add", ["x", "s"], ["y"])])
    sparse = m.graph.sparse_initializer.add(dims=[2**60])
    sparse.values.CopyFrom(helper.make_tensor("s", FLOAT, [1], [1.0]))
    sparse.indices.CopyFrom(int64s("", [2**60]))
    write("sparse_initializer.onnx", m)


def sizes():
    """Results far larger than what they are made of."""
    big = int64s("n", [2**40])
    write("reshape_to_another_size.onnx", model([node("Reshape", ["x", "n"], ["y"])], initializers=[big]))
    write("reshape_to_an_overflow.onnx", model([node("Reshape", ["x", "n"], ["y"])],
                                               initializers=[int64s("n", [2**40, 2**40, -1])]))
    write("reshape_to_many_axes.onnx", model([node("Reshape", ["x", "n"], ["y"])],
                                             initializers=[int64s("n", [1] * 400)]))
    write("constant_of_shape_huge.onnx", model([node("ConstantOfShape", ["n"], ["y"])], inputs=[], initializers=[big]))
    write("constant_of_shape_overflow.onnx", model([node("ConstantOfShape", ["n"], ["y"])], inputs=[],
                                                   initializers=[int64s("n", [2**40] * 4)]))
    write("constant_of_shape_negative.onnx", model([node("ConstantOfShape", ["n"], ["y"])], inputs=[],
                                                   initializers=[int64s("n", [-1])]))
    wide = int64s("n", [2**38, 4])
    write("expand_huge.onnx", model([node("Expand", ["x", "n"], ["e"]), node("Exp", ["e"], ["y"])],
                                    initializers=[wide]))
    write("tile_huge.onnx", model([node("Tile", ["x", "n"], ["e"]), node("Exp", ["e"], ["y"])], initializers=[big]))
    ends = [helper.make_tensor(n, INT64, [], [v]) for n, v in [("a", 0), ("b", 2**62), ("c", 1)]]
    write("range_huge.onnx", model([node("Range", ["a", "b", "c"], ["y"])], inputs=[], initializers=ends))
    zero = [helper.make_tensor(n, INT64, [], [v]) for n, v in [("a", 0), ("b", 9), ("c", 0)]]
    write("range_without_a_step.onnx", model([node("Range", ["a", "b", "c"], ["y"])], inputs=[], initializers=zero))
    write("pad_huge.onnx", model([node("Pad", ["x", "n"], ["y"])], initializers=[int64s("n", [2**62, 2**62])]))
    columns = int64s("n", [4, 1])
    squares = [node("Reshape", ["x", "n"], ["c"]), node("Add", ["c", "x"], ["s0"])]
    names = "s0"
    for i in range(1, 13):
        squares.append(node("Concat", [names, names], [f"s{i}"], axis=0))
        names = f"s{i}"
    squares += [node("Reshape", [names, "p"], ["f"]), node("Reshape", [names, "q"], ["g"]),
                node("Reshape", [names, "r"], ["h"]), node("Add", ["f", "g"], ["fg"]), node("Add", ["fg", "h"], ["y"])]
    n = 16 * 2**12
    shapes = [int64s("p", [n, 1, 1]), int64s("q", [1, n, 1]), int64s("r", [1, 1, n])]
    write("doubled_again_and_again.onnx", model(squares, initializers=[columns, *shapes]))


def loops():
    body = helper.make_graph([node("Neg", ["s"], ["t"]), node("Identity", ["c"], ["d"])], "body",
                             [value("i", (), INT64), value("c", (), TensorProto.BOOL), value("s")],
                             [value("d", (), TensorProto.BOOL), value("t"), value("t")])
    trip = helper.make_tensor("m", INT64, [], [2**62])
    true = helper.make_tensor("k", TensorProto.BOOL, [], [True])
    write("loop_without_end.onnx", model([node("Loop", ["m", "k", "x"], ["z", "y"], body=body)],
                                         initializers=[trip, true]))
    call = node("f", ["x"], ["y"], domain="d")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    itself = helper.make_function("d", "f", ["x"], ["y"], [node("f", ["x"], ["y"], domain="d")], opsets)
    write("function_calls_itself.onnx", model([call], functions=[itself], domains=["d"]))
    f = helper.make_function("d", "f", ["x"], ["y"], [node("h", ["x"], ["y"], domain="d")], opsets)
    h = helper.make_function("d", "h", ["x"], ["y"], [node("f", ["x"], ["y"], domain="d")], opsets)
    write("functions_call_each_other.onnx", model([call], functions=[f, h], domains=["d"]))
    chain = []
    for i in range(20):
        inner = [node(f"f{i + 1}", ["x"], ["a"], domain="d"), node(f"f{i + 1}", ["a"], ["y"], domain="d")]
        chain.append(helper.make_function("d", f"f{i}", ["x"], ["y"], inner, opsets[1:]))
    chain.append(helper.make_function("d", "f20", ["x"], ["y"], [NEG], opsets[:1]))
    write("functions_double_at_each_level.onnx", model([node("f0", ["x"], ["y"], domain="d")], functions=chain,
                                                       domains=["d"]))
    write("function_with_too_many_inputs.onnx", model([node("f", ["x", "x"], ["y"], domain="d")], domains=["d"],
          functions=[helper.make_function("d", "f", ["x"], ["y"], [node("Neg", ["z"], ["y"])], opsets)]))


def outside():
    """Data outside of the file; tests/hostile.rs puts data, links and pipes beside the models."""
    write("external_parent.onnx", external(location="../data.bin", offset="0", length="16"))
    write("external_parent_within.onnx", external(location="sub/../data.bin", offset="0", length="16"))
    write("external_absolute.onnx", external(location="/etc/passwd", offset="0", length="16"))
    write("external_proc.onnx", external(location="/proc/self/mem", length="16"))
    write("external_empty_location.onnx", external(location=""))
    write("external_without_location.onnx", external(offset="0", length="16"))
    write("external_absent.onnx", external(location="none.bin", length="16"))
    write("external_symlink.onnx", external(location="symlink.bin", length="16"))
    write("external_behind_a_symlink.onnx", external(location="linked/data.bin", length="16"))
    write("external_hard_link.onnx", external(location="hardlink.bin", length="16"))
    write("external_directory.onnx", external(location="sub", length="16"))
    write("external_pipe.onnx", external(location="pipe", length="16"))
    write("external_offset_past_the_end.onnx", external(location="data.bin", offset="17", length="16"))
    write("external_length_past_the_end.onnx", external(location="data.bin", offset="8", length="16"))
    write("external_offset_overflow.onnx", external(location="data.bin", offset=str(2**64 - 8), length="16"))
    write("external_offset_no_number.onnx", external(location="data.bin", offset="-1", length="16"))
    write("external_length_disagrees.onnx", external(location="data.bin", offset="0", length="8"))
    m = external(location="data.bin", offset="0", length=str(2**42))
    m.graph.initializer[0].dims[:] = [2**40]
    write("external_huge.onnx", m)
    m = external(location="data.bin")
    m.graph.initializer[0].external_data.add(key="location", value="../data.bin")
    write("external_two_locations.onnx", m)


# The wire format.

def varint(n):
    out = b""
    while n >= 0x80:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def wire():
    whole = with_tensor(raw_data=bytes(16)).SerializeToString(deterministic=True)
    write("empty.onnx", b"")
    write("zeros.onnx", bytes(64))
    write("text.onnx", b"graph g(x: f32[4]) -> (y: f32[4]) {}\n")
    write("truncated.onnx", whole[:-20])
    write("truncated_in_a_length.onnx", whole + b"\x3a\xff")
    write("length_past_the_end.onnx", field(8, b"") + varint(7 << 3 | 2) + varint(2**40))
    write("length_overflow.onnx", varint(7 << 3 | 2) + b"\xff" * 9 + b"\x01")
    write("varint_without_end.onnx", b"\x08" + b"\xff" * 200)
    write("group.onnx", whole + varint(99 << 3 | 3) * 1000)
    write("field_of_another_type.onnx", whole + varint(7 << 3) + b"\x01")
    write("field_number_zero.onnx", b"\x02\x00" * 10)
    nested = b""
    for _ in range(300):
        nested = field(1, field(5, field(6, nested)))
    write("graphs_nest_deep.onnx", field(7, nested))
    nested = b""
    for _ in range(400):
        nested = field(1, field(4, nested))
    write("types_nest_deep.onnx", field(7, field(11, field(2, nested))))
    bad = model([node("Neg", ["x"], ["BAD"])], outputs=["BAD"]).SerializeToString(deterministic=True)
    write("names_are_no_utf8.onnx", bad.replace(b"BAD", b"\xff\xfe\xfd"))
    write("random_bytes.onnx", np.random.default_rng(0).bytes(1000))


# Arrays.

def npy(descr="'<f4'", shape="(4,)", data=bytes(16), fortran="False", version=1, length=None):
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + data


def archive(entries, compression=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as z:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            z.writestr(info, data)
    return out.getvalue()


def arrays():
    headers = {
        "shape_overflow": npy(shape=f"({2**40}, {2**40})"),
        "shape_overflow_beside_zero": npy(shape=f"({2**63}, {2**63}, 0)", data=b""),
        "shape_huge": npy(shape=f"({2**38},)"),
        "shape_negative": npy(shape="(-4,)"),
        "shape_no_numbers": npy(shape="(x,)"),
        "shape_absent": b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}\n" + bytes(16),
        "shape_of_many_axes": npy(shape="(" + "1, " * 500 + ")", data=bytes(4)),
        "brackets_nest_deep": npy(shape="(" * 2000 + ")" * 2000),
        "too_short": npy(data=bytes(12)),
        "too_long": npy(data=bytes(20)),
        "header_length_huge": npy(version=2, length=2**32 - 1),
        "header_length_past_the_end": npy(length=60000),
        "header_empty": b"\x93NUMPY\x01\x00\x00\x00",
        "header_of_zeros": b"\x93NUMPY\x01\x00\x40\x00" + bytes(64),
        "version_unknown": npy(version=9),
        "type_unknown": npy(descr="'<c8'"),
        "type_of_objects": npy(descr="'|O'"),
        "type_structured": npy(descr="[('a', '<f4'), ('b', '<f4')]"),
        "type_no_string": npy(descr="((1, 2), 3)"),
        "type_of_width_zero": npy(descr="'<f0'"),
        "magic_wrong": b"\x93NUMPX" + npy()[6:],
        "empty": b"",
    }
    for name, data in headers.items():
        write(f"npy_{name}.npy", data)
    good = npy()
    write("npz_claims_more_than_it_has.npz", archive([("x.npy", npy(shape=f"({2**38},)"))]))
    write("npz_same_name_twice.npz", archive([("x", good), ("x.npy", good)]))
    write("npz_not_an_array.npz", archive([("x.npy", b"hello")]))
    write("npz_truncated.npz", archive([("x.npy", good)])[:-30])
    write("npz_without_directory.npz", archive([("x.npy", good)])[:60])
    write("npz_bad_checksum.npz", archive([("x.npy", good)], zipfile.ZIP_STORED).replace(bytes(16), b"\1" * 16, 1))
    write("npz_of_zeros.npz", archive([("x.npy", npy(shape=f"({2**19},)", data=bytes(2**21)))]))
    write("npz_absolute_name.npz", archive([("/etc/passwd", good)]))
    many = bytearray(archive([("x.npy", good)]))
    end = many.rfind(b"PK\x05\x06")
    many[end + 8:end + 12] = b"\xff\xff\xff\xff"
    write("npz_claims_many_entries.npz", bytes(many))


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    for family in (graphs, versions, tensors, sizes, loops, outside, wire, arrays):
        family()
    print(f"{len(list(OUT.iterdir()))} files in {OUT}")
